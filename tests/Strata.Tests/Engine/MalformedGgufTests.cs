// SPDX-License-Identifier: Apache-2.0
// Malformed, cut and mutated GGUF files: always the one exception, in bounded time and memory.
using System.Diagnostics;
using System.Text.RegularExpressions;
using Strata.Engine;
using Strata.Engine.Gguf;

namespace Strata.Tests.Engine;

/// <summary>What the reader does with files that are not sound.</summary>
[TestFixture]
internal sealed partial class MalformedGgufTests
{
    private const int LongestMilliseconds = 50;

    private static IEnumerable<TestCaseData> Corpus() =>
        MalformedGguf.All().Select(entry => new TestCaseData(entry.File).SetName($"Malformed({entry.Name})"));

    [Test]
    public void TheCorpusIsAsLargeAsItShouldBe() => Assert.That(MalformedGguf.All().Count(), Is.GreaterThanOrEqualTo(108));

    [TestCaseSource(nameof(Corpus))]
    public void IsRefusedWithASentence(byte[] file)
    {
        var refusal = Assert.Throws<StrataFormatException>(() => GgufReader.Open((ReadOnlySpan<byte>)file).Dispose())!;
        Assert.That(refusal.Message, Does.Match(FourParts()));
        Assert.That(refusal.Message, Does.Not.Match(Unprintable()));
        Assert.That(refusal.ByteOffset, Is.InRange(0, file.Length));
    }

    [Test]
    public void IsRefusedInBoundedTimeAndMemory()
    {
        foreach ((string name, byte[] file) in MalformedGguf.All())
        {
            // The best of a few: the first run compiles, and another process may take the core away.
            double milliseconds = double.MaxValue;
            for (int attempt = 0; attempt < 5 && milliseconds > LongestMilliseconds; attempt++)
            {
                TryOpen(file, out Cost cost);
                Assert.That(cost.Bytes, Is.LessThanOrEqualTo((1L << 20) + (16L * file.Length)), name);
                milliseconds = Math.Min(milliseconds, cost.Milliseconds);
            }

            Assert.That(milliseconds, Is.LessThanOrEqualTo(LongestMilliseconds + (file.Length >> 14)), name);
        }
    }

    [Test]
    public void ACutAtEveryByteIsRefused()
    {
        GgufBuilder builder = GgufBuilder.Sound();
        byte[] file = builder.Build();

        // The last tensor ends 14 bytes before the file does.
        int needed = file.Length - builder.DataBytes + 50;
        for (int length = 0; length < file.Length; length++)
        {
            bool opened = TryOpen(file[..length], out _);
            Assert.That(opened, Is.EqualTo(length >= needed), $"cut to {length} bytes");
        }
    }

    [Test]
    public void EveryByteMayHaveEveryExtremeValue()
    {
        byte[] file = GgufBuilder.Sound().Build();
        for (int i = 0; i < file.Length; i++)
        {
            byte kept = file[i];
            foreach (byte value in new byte[] { 0, 1, 0x7F, 0x80, 0xFF, (byte)(kept + 1), (byte)(kept - 1) })
            {
                file[i] = value;
                OpenAndReadAll(file);
            }

            file[i] = kept;
        }
    }

    // Fields of a sound file are changed and it is written again, so that the damage lies deep and not in the first length.
    [Test]
    public void MutationsNeverGiveAnythingElse()
    {
        const int seconds = 3;
        int seed = TestContext.CurrentContext.Random.Next();
        TestContext.Out.WriteLine($"seed {seed}");
        var random = new Random(seed);
        long files = 0;
        long opened = 0;
        for (var clock = Stopwatch.StartNew(); clock.Elapsed.TotalSeconds < seconds; files++)
        {
            byte[] file = Mutate(random);
            opened += OpenAndReadAll(file) ? 1 : 0;
        }

        TestContext.Out.WriteLine($"{files} files, {opened} of them sound");
        Assert.That(files, Is.GreaterThan(1000));
    }

    private static byte[] Mutate(Random random)
    {
        GgufBuilder builder = GgufBuilder.Sound();
        for (int change = random.Next(1, 4); change > 0; change--)
        {
            MutateField(builder, random);
        }

        byte[] file = builder.Build();
        if (random.Next(4) == 0)
        {
            file[random.Next(file.Length)] = (byte)random.Next(256);
        }

        return random.Next(8) == 0 ? file[..random.Next(file.Length)] : file;
    }

    private static void MutateField(GgufBuilder builder, Random random)
    {
        int t = random.Next(builder.Tensors.Count);
        GgufBuilder.Tensor tensor = builder.Tensors[t];
        int p = random.Next(builder.Pairs.Count);
        switch (random.Next(10))
        {
            case 0:
                builder.TensorCount = Extreme(random);
                break;
            case 1:
                builder.PairCount = Extreme(random);
                break;
            case 2:
                builder.Tensors[t] = tensor with { Extents = [.. Enumerable.Range(0, random.Next(1, 5)).Select(_ => Extreme(random))] };
                break;
            case 3:
                builder.Tensors[t] = tensor with { Offset = Extreme(random) };
                break;
            case 4:
                builder.Tensors[t] = tensor with { Type = (uint)random.Next(-1, 44) };
                break;
            case 5:
                builder.Tensors[t] = tensor with { Rank = (uint)random.Next(-1, 6) };
                break;
            case 6:
                builder.Tensors.Add(tensor with { Name = [(byte)random.Next(256)], Offset = Extreme(random) });
                break;
            case 7:
                byte[] pair = [.. builder.Pairs[p]];
                pair[random.Next(pair.Length)] = (byte)random.Next(256);
                builder.Pairs[p] = pair;
                break;
            case 8:
                builder.Pairs.Add(GgufBuilder.Pair("general.alignment", (GgufValueType)random.Next(3, 6), GgufBuilder.U32((uint)Extreme(random))));
                break;
            default:
                builder.Pairs.Add(GgufBuilder.Pair(
                    "y", GgufValueType.Array, [.. GgufBuilder.U32((uint)random.Next(13)), .. GgufBuilder.U64(Extreme(random)), .. new byte[random.Next(64)]]));
                break;
        }
    }

    private static ulong Extreme(Random random)
    {
        ulong near = 1UL << random.Next(64);
        return random.Next(4) switch
        {
            0 => near,
            1 => near - 1,
            2 => unchecked(0UL - near),
            _ => (ulong)random.Next(100),
        };
    }

    private static bool OpenAndReadAll(byte[] file)
    {
        try
        {
            using var reader = GgufReader.Open(file.AsMemory());
            foreach (GgufTensorInfo tensor in reader.Tensors)
            {
                if (reader.Rows(tensor, 0, tensor.Rows).Length != tensor.Bytes)
                {
                    Assert.Fail($"{tensor.Name} has other bytes than the table says");
                }
            }

            foreach ((string key, GgufValue value) in reader.Metadata)
            {
                ReadValue(reader, key, value);
            }

            return true;
        }
        catch (StrataFormatException)
        {
            return false;
        }
    }

    private static void ReadValue(GgufReader reader, string key, GgufValue value)
    {
        switch (value.Type)
        {
            case GgufValueType.Text:
                reader.FindString(key);
                break;
            case GgufValueType.Bool:
                reader.FindBool(key);
                break;
            case GgufValueType.Array when value.ElementType == GgufValueType.Text:
                Assert.That(reader.FindStrings(key), Has.Length.EqualTo(value.Count));
                break;
            case GgufValueType.Array when value.ElementType == GgufValueType.I32:
                Assert.That(reader.FindInt32s(key), Has.Length.EqualTo(value.Count));
                break;
            case GgufValueType.Array:
                break;
            case GgufValueType.F32 or GgufValueType.F64:
                reader.FindFloat(key);
                break;
            default:
                reader.FindInteger(key, int.MinValue, int.MaxValue);
                break;
        }
    }

    private static bool TryOpen(byte[] file, out Cost cost)
    {
        long before = GC.GetAllocatedBytesForCurrentThread();
        var clock = Stopwatch.StartNew();
        bool opened;
        try
        {
            GgufReader.Open(file.AsMemory()).Dispose();
            opened = true;
        }
        catch (StrataFormatException)
        {
            opened = false;
        }

        cost = new(GC.GetAllocatedBytesForCurrentThread() - before, clock.Elapsed.TotalMilliseconds);
        return opened;
    }

    [GeneratedRegex("^gguf: .+ is .+, must be .+; .+$", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex FourParts();

    [GeneratedRegex(@"[\p{Cc}\p{Cs}]", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Unprintable();

    private readonly record struct Cost(long Bytes, double Milliseconds);
}
