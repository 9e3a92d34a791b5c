// SPDX-License-Identifier: Apache-2.0
// Reads and checks the header of a GGUF file: counts, metadata, tensor table.
using System.Buffers.Binary;
using System.Globalization;
using System.Numerics;
using System.Text;

namespace Strata.Engine.Gguf;

internal sealed class GgufParser
{
    public const int MaxHeaderBytes = 256 << 20;
    public const int DefaultAlignment = 32;
    private const int MaxEntries = 65_536;
    private const int MaxKeyBytes = 65_535;
    private const int MaxTensorNameBytes = 255;
    private const int MaxArrayItems = 1 << 24;
    private const int MaxRank = 4;
    private const int MaxAlignment = 65_536;
    private const int SmallestPairBytes = 8 + 1 + 4 + 1;
    private const int SmallestTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

    private GgufParser()
    {
    }

    public int Version { get; private set; }

    public int Alignment { get; private set; } = DefaultAlignment;

    public Dictionary<string, GgufValue> Values { get; } = new(StringComparer.Ordinal);

    public List<GgufTensorInfo> Tensors { get; } = [];

    public Dictionary<string, GgufTensorInfo> TensorsByName { get; } = new(StringComparer.Ordinal);

    public static GgufParser Parse(GgufSource source)
    {
        var parser = new GgufParser();
        var cursor = new GgufCursor(source.Slice(0, (int)Math.Min(source.Length, MaxHeaderBytes)), source.Length);
        parser.ReadHeader(ref cursor, source.Length);
        return parser;
    }

    private void ReadHeader(ref GgufCursor cursor, long fileLength)
    {
        ReadOnlySpan<byte> magic = cursor.Take(4, "magic number");
        if (!magic.SequenceEqual("GGUF"u8))
        {
            throw GgufCursor.Error(0, "magic number", null, Convert.ToHexString(magic), "47475546, the letters GGUF", "pass a GGUF model file");
        }

        uint version = cursor.TakeUInt32("version");
        if (version is not (2 or 3))
        {
            string got = BinaryPrimitives.ReverseEndianness(version) is 2 or 3 ? "stored big-endian" : version.ToString(CultureInfo.InvariantCulture);
            throw GgufCursor.Error(4, "version", null, got, "2 or 3, little-endian", "convert the model again with a current converter");
        }

        Version = (int)version;
        int countAt = cursor.Position;
        int tensorCount = cursor.TakeCount("tensor count", null, MaxEntries, SmallestTensorBytes);
        int pairCount = cursor.TakeCount("metadata count", null, MaxEntries, SmallestPairBytes);
        for (int i = 0; i < pairCount; i++)
        {
            ReadPair(ref cursor);
        }

        // Checked again: the metadata lies in front of the tensor table and has taken its share of the bytes.
        int possible = cursor.Remaining / SmallestTensorBytes;
        if (tensorCount > possible)
        {
            throw GgufCursor.Error(countAt, "tensor count", null, (ulong)tensorCount, $"at most {possible}, what the {cursor.Remaining} bytes after the metadata can describe");
        }

        ReadTensors(ref cursor, tensorCount, fileLength);
    }

    private void ReadPair(ref GgufCursor cursor)
    {
        int at = cursor.Position;
        string key = Encoding.UTF8.GetString(cursor.TakeString("metadata key", null, MaxKeyBytes));
        if (key.Length == 0)
        {
            throw GgufCursor.Error(at, "metadata key", null, "empty", "1 to 65535 bytes long");
        }

        if (Values.ContainsKey(key))
        {
            throw GgufCursor.Error(at, "metadata key", key, "there twice", "unique in the file", "convert the model again");
        }

        GgufValue value = ReadValue(ref cursor, key);
        Values.Add(key, value);
        if (key is "general.alignment")
        {
            ReadAlignment(ref cursor, value);
        }
    }

    private static GgufValue ReadValue(ref GgufCursor cursor, string key)
    {
        GgufValueType type = TakeType(ref cursor, "type of", key);
        switch (type)
        {
            case GgufValueType.Text:
                int length = cursor.TakeString("text of", key, MaxHeaderBytes).Length;
                return new(type, type, 1, cursor.Position - length, length);
            case GgufValueType.Array:
                return ReadArray(ref cursor, key);
            default:
                int size = GgufValue.SizeOf(type);
                int start = cursor.Position;
                CheckBools(cursor.Take(size, "value of", key), type, start, key);
                return new(type, type, 1, start, size);
        }
    }

    private static GgufValue ReadArray(ref GgufCursor cursor, string key)
    {
        int at = cursor.Position;
        GgufValueType type = TakeType(ref cursor, "element type of", key);
        if (type == GgufValueType.Array)
        {
            throw GgufCursor.Error(at, "element type of", key, "array", "a number, bool or string, because arrays do not nest", "convert the model again without nested metadata");
        }

        int size = GgufValue.SizeOf(type);
        int count = cursor.TakeCount("element count of", key, MaxArrayItems, size == 0 ? 8 : size);
        int start = cursor.Position;
        if (type == GgufValueType.Text)
        {
            for (int i = 0; i < count; i++)
            {
                cursor.TakeString("element of", key, MaxHeaderBytes);
            }
        }
        else
        {
            CheckBools(cursor.Take(count * size, "elements of", key), type, start, key);
        }

        return new(GgufValueType.Array, type, count, start, cursor.Position - start);
    }

    private static GgufValueType TakeType(ref GgufCursor cursor, string what, string key)
    {
        int at = cursor.Position;
        uint type = cursor.TakeUInt32(what, key);
        return type <= (uint)GgufValueType.F64 ? (GgufValueType)type : throw GgufCursor.Error(at, what, key, type, "0 to 12");
    }

    private static void CheckBools(ReadOnlySpan<byte> bytes, GgufValueType type, long offset, string key)
    {
        int bad = type == GgufValueType.Bool ? bytes.IndexOfAnyExcept((byte)0, (byte)1) : -1;
        if (bad >= 0)
        {
            throw GgufCursor.Error(offset + bad, "bool of", key, bytes[bad], "0 or 1");
        }
    }

    private void ReadAlignment(ref GgufCursor cursor, GgufValue value)
    {
        const string what = "value of 'general.alignment'";
        const string wanted = "a power of two from 1 to 65536, stored as uint32";
        const string cure = "convert the model again";
        if (value.Type != GgufValueType.U32)
        {
            throw GgufCursor.Error(value.Offset, what, null, $"of type {value.Type}", wanted, cure);
        }

        uint alignment = BinaryPrimitives.ReadUInt32LittleEndian(cursor.Again(value.Offset, 4));
        if (alignment > MaxAlignment || !BitOperations.IsPow2(alignment))
        {
            throw GgufCursor.Error(value.Offset, what, null, alignment, wanted, cure);
        }

        Alignment = (int)alignment;
    }

    private void ReadTensors(ref GgufCursor cursor, int count, long fileLength)
    {
        var table = new TensorEntry[count];
        for (int i = 0; i < count; i++)
        {
            table[i] = ReadTensor(ref cursor);
        }

        if (count == 0)
        {
            return;
        }

        if (!SizeMath.TryAlignUp(cursor.Position, Alignment, out long dataStart) || dataStart > fileLength)
        {
            throw GgufCursor.Error(cursor.Position, "start of the tensor data", null, "past the end of the file", $"inside the {fileLength} bytes of the file");
        }

        long free = 0;
        foreach (TensorEntry entry in table)
        {
            Place(entry, dataStart, fileLength - dataStart, ref free);
        }
    }

    private static TensorEntry ReadTensor(ref GgufCursor cursor)
    {
        int at = cursor.Position;
        string name = Encoding.UTF8.GetString(cursor.TakeString("tensor name", null, MaxTensorNameBytes));
        if (name.Length == 0)
        {
            throw GgufCursor.Error(at, "tensor name", null, "empty", "1 to 255 bytes long");
        }

        uint rank = cursor.TakeUInt32("rank of tensor", name);
        if (rank is 0 or > MaxRank)
        {
            throw GgufCursor.Error(at, "rank of tensor", name, rank, "1 to 4");
        }

        long[] extents = new long[rank];
        for (int i = 0; i < extents.Length; i++)
        {
            ulong extent = cursor.TakeUInt64("extent of tensor", name);
            if (extent == 0 || !SizeMath.TryToSize(extent, out extents[i]))
            {
                throw GgufCursor.Error(at, "extent of tensor", name, extent, "1 to 2^63-1");
            }
        }

        uint typeId = cursor.TakeUInt32("type of tensor", name);
        var type = (GgufType)typeId;
        if (!GgufTypeLayout.TryGet(type, out GgufTypeLayout layout))
        {
            throw GgufCursor.Error(at, "type of tensor", name, typeId, "one that GGUF defines", "convert the model again to a current format");
        }

        if (extents[0] % layout.BlockElements != 0)
        {
            throw GgufCursor.Error(at, "row length of tensor", name, (ulong)extents[0], $"a multiple of the {layout.BlockElements} elements of a {type} block");
        }

        if (!SizeMath.TryTensorBytes(extents, layout, out long bytes) || !SizeMath.TryTensorBytes(extents.AsSpan(0, 1), layout, out long rowBytes))
        {
            throw GgufCursor.Error(at, "size of tensor", name, "2^63 bytes or more", "smaller than the file");
        }

        ulong offset = cursor.TakeUInt64("offset of tensor", name);
        return SizeMath.TryToSize(offset, out long start)
            ? new(at, start, new GgufTensorInfo(name, type, extents, bytes, rowBytes))
            : throw GgufCursor.Error(at, "offset of tensor", name, offset, "inside the file");
    }

    // Writers lay tensors out in the order of the table; holding files to it makes overlap impossible without a sort.
    private void Place(TensorEntry entry, long dataStart, long dataBytes, ref long free)
    {
        const string what = "offset of tensor";
        string name = entry.Tensor.Name;
        if (entry.Offset % Alignment != 0)
        {
            throw GgufCursor.Error(entry.At, what, name, (ulong)entry.Offset, $"a multiple of the alignment {Alignment}");
        }

        if (entry.Offset < free)
        {
            throw GgufCursor.Error(entry.At, what, name, (ulong)entry.Offset, $"at least {free}, where the tensor before it ends");
        }

        if (!SizeMath.TryAdd(entry.Offset, entry.Tensor.Bytes, out free) || free > dataBytes || !SizeMath.TryAdd(dataStart, entry.Offset, out long start))
        {
            throw GgufCursor.Error(entry.At, what, name, $"{entry.Offset} for {entry.Tensor.Bytes} bytes of data", $"such that the tensor ends within the {dataBytes} bytes of data in the file");
        }

        if (!TensorsByName.TryAdd(name, entry.Tensor))
        {
            throw GgufCursor.Error(entry.At, "tensor", name, "there twice", "unique in the file", "convert the model again");
        }

        entry.Tensor.Offset = start;
        Tensors.Add(entry.Tensor);
    }

    private readonly record struct TensorEntry(int At, long Offset, GgufTensorInfo Tensor);
}
