// SPDX-License-Identifier: Apache-2.0
// The corpus of malformed GGUF files: one named defect each in an otherwise sound file.
using System.Text;
using Strata.Engine.Gguf;
using static Strata.Tests.Engine.GgufBuilder;

namespace Strata.Tests.Engine;

/// <summary>Files with one defect each.</summary>
internal static class MalformedGguf
{
    private const ulong Huge = 1UL << 63;

    private static readonly ulong[] HostileCounts = [65_537, 1_000_000, int.MaxValue, 1UL << 31, 1UL << 32, long.MaxValue, Huge, ulong.MaxValue];

    /// <summary>All defects: a name and the bytes of the file.</summary>
    public static IEnumerable<(string Name, byte[] File)> All() =>
        [.. Headers(), .. Counts(), .. Values(), .. Arrays(), .. Strings(), .. TensorTable(), .. Extents(), .. Offsets(), .. Alignments(), .. Data(), .. Duplicates(), .. Resources()];

    private static (string Name, byte[] File) Case(string name, Action<GgufBuilder> defect)
    {
        GgufBuilder builder = Sound();
        defect(builder);
        return (name, builder.Build());
    }

    private static IEnumerable<(string Name, byte[] File)> Headers()
    {
        yield return ("empty", []);
        yield return ("one byte", [0x47]);
        yield return ("magic alone", "GGUF"u8.ToArray());
        yield return Case("magic of another format", b => b.Magic = "GGML"u8.ToArray());
        yield return Case("magic reversed", b => b.Magic = "FUGG"u8.ToArray());
        yield return Case("magic in lower case", b => b.Magic = "gguf"u8.ToArray());
        foreach (uint version in new uint[] { 0, 1, 4, 0x03000000, 0x02000000, uint.MaxValue })
        {
            yield return Case($"version {version:x}", b => b.Version = version);
        }
    }

    private static IEnumerable<(string Name, byte[] File)> Counts()
    {
        foreach (ulong count in HostileCounts)
        {
            yield return Case($"{count} tensors", b => b.TensorCount = count);
            yield return Case($"{count} pairs", b => b.PairCount = count);
        }

        yield return Case("one tensor more than there are", b => b.TensorCount = 3);
        yield return Case("one pair more than there are", b => b.PairCount = 4);
        yield return Case("one pair fewer than there are", b => b.PairCount = 2);
        yield return Case("tensors that fit only without the metadata", b =>
        {
            b.Tensors.Clear();
            b.DataBytes = 0;
            b.TensorCount = 3;
        });
    }

    private static IEnumerable<(string Name, byte[] File)> Values()
    {
        foreach (uint type in new uint[] { 13, 14, 255, 0x80000000, uint.MaxValue })
        {
            yield return Case($"value type {type}", b => b.Pairs.Add([.. Text("x"), .. U32(type), .. U64(0)]));
        }

        yield return Case("bool 2", b => b.Pairs.Add(Pair("x", GgufValueType.Bool, [2])));
        yield return Case("bool 255", b => b.Pairs.Add(Pair("x", GgufValueType.Bool, [255])));
        yield return Case("empty key", b => b.Pairs.Add(Pair(string.Empty, GgufValueType.U8, [1])));
        yield return Case("key of 65536 bytes", b => b.Pairs.Add(Pair(new string('k', 65_536), GgufValueType.U8, [1])));
        foreach (GgufValueType type in Enum.GetValues<GgufValueType>())
        {
            yield return Case($"file ends where a value of type {type} begins", b =>
            {
                b.Tensors.Clear();
                b.DataBytes = 0;
                b.PadBeforeData = false;
                b.Pairs.Add(Pair("x", type, []));
            });
        }
    }

    private static IEnumerable<(string Name, byte[] File)> Arrays()
    {
        foreach (ulong count in HostileCounts.Append((1UL << 24) + 1).Append(1UL << 61).Append(1UL << 62))
        {
            yield return Case($"array of {count} bytes", b => b.Pairs.Add(Array(GgufValueType.U8, count)));
            yield return Case($"array of {count} doubles", b => b.Pairs.Add(Array(GgufValueType.F64, count)));
            yield return Case($"array of {count} texts", b => b.Pairs.Add(Array(GgufValueType.Text, count)));
        }

        yield return Case("array of arrays", b => b.Pairs.Add(Array(GgufValueType.Array, 0)));
        yield return Case("array of arrays of arrays", b => b.Pairs.Add([.. Array(GgufValueType.Array, 1), .. U32(9), .. U64(1), .. U32(9), .. U64(0)]));
        yield return Case("array of an unknown type", b => b.Pairs.Add(Array((GgufValueType)13, 1)));
        yield return Case("array of bools with a 3", b => b.Pairs.Add([.. Array(GgufValueType.Bool, 3), 0, 1, 3]));
        yield return Case("array of texts with a length past the end", b => b.Pairs.Add([.. Array(GgufValueType.Text, 2), .. Text("a"), .. U64(1 << 20)]));
        yield return Case("array of texts with a negative length", b => b.Pairs.Add([.. Array(GgufValueType.Text, 1), .. U64(ulong.MaxValue)]));
        yield return Case("array of texts with bad UTF-8", b => b.Pairs.Add([.. Array(GgufValueType.Text, 1), .. Text([0xFF])]));
        yield return Case("array nested deep", b => b.Pairs.Add([.. Text("x"), .. Enumerable.Repeat(U32(9), 10_000).SelectMany(type => type)]));
    }

    private static byte[] Array(GgufValueType elementType, ulong count) => Pair("x", GgufValueType.Array, [.. U32((uint)elementType), .. U64(count)]);

    private static IEnumerable<(string Name, byte[] File)> Strings()
    {
        foreach (ulong length in HostileCounts)
        {
            yield return Case($"text of {length} bytes", b => b.Pairs.Add(Pair("x", GgufValueType.Text, U64(length))));
            yield return Case($"key of {length} bytes", b => b.Pairs.Add(U64(length)));
        }

        byte[][] notUtf8 = [[0x80], [0xC0, 0xAF], [0xC3], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xFE, 0xFF]];
        foreach (byte[] bytes in notUtf8)
        {
            string hex = Convert.ToHexString(bytes);
            yield return Case($"text {hex}", b => b.Pairs.Add(Pair("x", GgufValueType.Text, Text(bytes))));
            yield return Case($"key {hex}", b => b.Pairs.Add([.. Text(bytes), .. U32(0), 1]));
            yield return Case($"tensor name {hex}", b => b.Tensors[0] = b.Tensors[0] with { Name = bytes });
        }
    }

    private static IEnumerable<(string Name, byte[] File)> TensorTable()
    {
        foreach (uint rank in new uint[] { 0, 5, 6, 255, 1u << 31, uint.MaxValue })
        {
            yield return Case($"rank {rank}", b => b.Tensors[0] = b.Tensors[0] with { Rank = rank });
        }

        foreach (int type in new[] { -1, 4, 5, 31, 32, 33, 36, 37, 38, 43, 44, 255, int.MinValue, int.MaxValue })
        {
            yield return Case($"tensor type {type}", b => b.Tensors[0] = b.Tensors[0] with { Type = (uint)type });
        }

        yield return Case("empty tensor name", b => b.Tensors[0] = b.Tensors[0] with { Name = [] });
        yield return Case("tensor name of 256 bytes", b => b.Tensors[0] = b.Tensors[0] with { Name = Encoding.ASCII.GetBytes(new string('n', 256)) });
        yield return Case("rank below the extents that follow", b => b.Tensors[1] = b.Tensors[1] with { Rank = 1 });
        yield return Case("rank above the extents that follow", b => b.Tensors[0] = b.Tensors[0] with { Rank = 2 });
    }

    private static IEnumerable<(string Name, byte[] File)> Extents()
    {
        for (int zero = 0; zero < 4; zero++)
        {
            ulong[] extents = [32, 1, 1, 1];
            extents[zero] = 0;
            yield return Case($"extent {zero} of 4 is 0", b => b.Tensors[1] = b.Tensors[1] with { Extents = extents });
        }

        yield return Case("zero after a product that wraps to zero", b => b.Tensors[1] = b.Tensors[1] with { Extents = [1UL << 32, 1UL << 32, 0] });
        yield return Case("product wraps to zero", b => b.Tensors[1] = b.Tensors[1] with { Extents = [1UL << 32, 1UL << 32] });
        yield return Case("product wraps to a small number", b => b.Tensors[0] = b.Tensors[0] with { Extents = [(1UL << 62) + 1, 4] });
        yield return Case("product fits and bytes wrap", b => b.Tensors[0] = b.Tensors[0] with { Extents = [(1UL << 62) + 1] });
        yield return Case("bytes wrap to zero", b => b.Tensors[0] = b.Tensors[0] with { Extents = [1UL << 62] });
        yield return Case("block bytes wrap", b => b.Tensors[1] = b.Tensors[1] with { Extents = [1UL << 62, 1] });
        yield return Case("product of four wraps", b => b.Tensors[1] = b.Tensors[1] with { Extents = [1UL << 16, 1UL << 16, 1UL << 16, 1UL << 16] });
        foreach (ulong extent in new[] { Huge, Huge + 32, ulong.MaxValue, ulong.MaxValue - 31 })
        {
            yield return Case($"extent {extent}", b => b.Tensors[1] = b.Tensors[1] with { Extents = [extent, 1] });
        }

        foreach (ulong rest in new ulong[] { 1, 31, 33, 63 })
        {
            yield return Case($"row of {rest} in blocks of 32", b => b.Tensors[1] = b.Tensors[1] with { Extents = [rest, 32] });
        }

        yield return Case("row of 128 in blocks of 256", b => b.Tensors[1] = b.Tensors[1] with { Type = (uint)GgufType.Q6_K, Extents = [128, 2] });
    }

    private static IEnumerable<(string Name, byte[] File)> Offsets()
    {
        foreach (ulong offset in new ulong[] { 64, 96, 1 << 20, 1UL << 32, long.MaxValue - 31, Huge, ulong.MaxValue - 31, ulong.MaxValue })
        {
            yield return Case($"offset {offset}", b => b.Tensors[1] = b.Tensors[1] with { Offset = offset });
        }

        foreach (ulong offset in new ulong[] { 1, 16, 31, 33 })
        {
            yield return Case($"offset {offset} is not aligned", b => b.Tensors[1] = b.Tensors[1] with { Offset = offset });
        }

        yield return Case("tensors overlap", b => b.Tensors[1] = b.Tensors[1] with { Offset = 0 });
        yield return Case("tensors out of order", b => (b.Tensors[0], b.Tensors[1]) = (b.Tensors[1], b.Tensors[0]));
        yield return Case("first tensor reaches into the second", b => b.Tensors[0] = b.Tensors[0] with { Extents = [9] });
        yield return Case("offset plus size wraps", b => b.Tensors[1] = b.Tensors[1] with { Extents = [1UL << 62, 1], Offset = long.MaxValue - 31 });
    }

    private static IEnumerable<(string Name, byte[] File)> Alignments()
    {
        foreach (uint alignment in new uint[] { 0, 3, 31, 48, 65_535, 131_072, 1u << 31, uint.MaxValue })
        {
            yield return Case($"alignment {alignment}", b => b.Pairs.Add(Pair("general.alignment", GgufValueType.U32, U32(alignment))));
        }

        yield return Case("alignment as uint64", b => b.Pairs.Add(Pair("general.alignment", GgufValueType.U64, U64(32))));
        yield return Case("alignment as int32", b => b.Pairs.Add(Pair("general.alignment", GgufValueType.I32, U32(32))));
        yield return Case("alignment as text", b => b.Pairs.Add(Pair("general.alignment", GgufValueType.Text, Text("32"))));
        yield return Case("alignment as array", b => b.Pairs.Add(Pair("general.alignment", GgufValueType.Array, [.. U32(4), .. U64(1), .. U32(32)])));
        yield return Case("alignment that the offsets do not keep", b => b.Pairs.Add(Pair("general.alignment", GgufValueType.U32, U32(64))));
        yield return Case("alignment that moves the data past the end", b => b.Pairs.Add(Pair("general.alignment", GgufValueType.U32, U32(65_536))));
    }

    private static IEnumerable<(string Name, byte[] File)> Data()
    {
        foreach (int bytes in new[] { 0, 1, 15, 16, 31, 32, 33, 48, 49 })
        {
            yield return Case($"{bytes} bytes of data for 50", b => b.DataBytes = bytes);
        }

        yield return Case("file ends after the table", b =>
        {
            b.DataBytes = 0;
            b.PadBeforeData = false;
        });
    }

    private static IEnumerable<(string Name, byte[] File)> Duplicates()
    {
        yield return Case("key twice with one value", b => b.Pairs.Add(b.Pairs[0]));
        yield return Case("key twice with another type", b => b.Pairs.Add(Pair("llama.block_count", GgufValueType.Text, Text("2"))));
        yield return Case("alignment twice", b =>
        {
            b.Pairs.Add(Pair("general.alignment", GgufValueType.U32, U32(32)));
            b.Pairs.Add(Pair("general.alignment", GgufValueType.U32, U32(64)));
        });
        yield return Case("tensor name twice", b => b.Tensors[1] = b.Tensors[1] with { Name = "a"u8.ToArray() });
    }

    private static IEnumerable<(string Name, byte[] File)> Resources()
    {
        yield return Case("a million claimed pairs in a kilobyte", b =>
        {
            b.PairCount = 1_000_000;
            b.DataBytes = 1024;
        });
        yield return Case("a million claimed tensors in a kilobyte", b =>
        {
            b.TensorCount = 1_000_000;
            b.DataBytes = 1024;
        });
        yield return Case("65536 names of one byte", b => Names(b, 65_536, _ => "n"));
        yield return Case("60000 distinct names and one twice", b =>
        {
            Names(b, 60_000, i => $"n{i}");
            b.Tensors.Add(b.Tensors[0]);
        });
        yield return Case("60000 distinct keys and one twice", b =>
        {
            for (int i = 0; i < 60_000; i++)
            {
                b.Pairs.Add(Pair($"k{i}", GgufValueType.U8, [1]));
            }

            b.Pairs.Add(b.Pairs[^1]);
        });
        yield return Case("a text of a megabyte that is not UTF-8 at its end", b =>
        {
            byte[] text = new byte[1 << 20];
            text[^1] = 0xFF;
            b.Pairs.Add(Pair("x", GgufValueType.Text, Text(text)));
        });
        yield return Case("a hundred thousand texts and one cut", b =>
            b.Pairs.Add([.. Array(GgufValueType.Text, 100_001), .. Enumerable.Repeat(Text("a"), 100_000).SelectMany(text => text)]));
    }

    private static void Names(GgufBuilder builder, int count, Func<int, string> name)
    {
        builder.Tensors.Clear();
        builder.DataBytes = 32 * count;
        for (int i = 0; i < count; i++)
        {
            builder.Tensors.Add(new(name(i), [1], GgufType.F32, 32UL * (ulong)i));
        }
    }
}
