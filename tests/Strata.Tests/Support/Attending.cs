// SPDX-License-Identifier: Apache-2.0
// kv_attention over caches whose numbers follow from their place, so that the same sequence can be laid out in many ways.

using Strata.Reference;

namespace Strata.Tests.Support;

/// <summary>What a call wrote.</summary>
internal sealed record Attended(float[] Output, float[] LogSumExp)
{
    /// <summary>The rows of some tokens: [tokens, q_heads, head_dim] and [tokens, q_heads].</summary>
    public Attended Tokens(int first, int count, int heads, int width) =>
        new(Output[(first * heads * width)..((first + count) * heads * width)], LogSumExp[(first * heads)..((first + count) * heads)]);
}

/// <summary>One sequence: its number decides all of its keys, values and queries.</summary>
internal readonly record struct Sequence(int Number, int Length, int Tokens = 1);

internal static class Attending
{
    /// <summary>A number between -1.7 and 1.7 (variance 1) that follows from where it stands.</summary>
    public static double Noise(int what, int sequence, int head, int row, int channel)
    {
        ulong x = 0x9e3779b97f4a7c15;
        foreach (int part in new[] { what, sequence, head, row, channel })
        {
            x = (x ^ (uint)part) * 0xbf58476d1ce4e5b9;
            x ^= x >> 29;
        }
        x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
        return (((x ^ (x >> 31)) >> 11) * Math.ScaleB(2 * Math.Sqrt(3), -53)) - Math.Sqrt(3);
    }

    /// <summary>A cache of sequences; the seed orders its pages.</summary>
    public static HostKvCache Cache(KvCacheShape shape, Sequence[] sequences, int seed = 1) =>
        new HostKvCache(shape with { Batch = sequences.Length }, [.. sequences.SelectMany(s => Enumerable.Repeat(s.Length, shape.KvHeads))], new InputRandom(seed))
            .FillKeys((b, h, slot, c) => Noise(1, sequences[b].Number, h, slot, c)).FillValues((b, h, slot, c) => Noise(2, sequences[b].Number, h, slot, c));

    /// <summary>Queries [tokens, heads, head_dim] of sequences: token t is that of the slot at which it stands.</summary>
    public static float[] Queries(Sequence[] sequences, int heads, int width) =>
        [.. sequences.SelectMany(s => Enumerable.Range(0, s.Tokens * heads * width).Select(i => (float)Noise(3, s.Number, i / width % heads, s.Length - s.Tokens + (i / (heads * width)), i % width)))];

    /// <summary>Causal attention of sequences.</summary>
    public static Attended Run(Device device, KvCacheShape shape, Sequence[] sequences, int heads, int seed = 1, Func<KvAttention, KvAttention>? with = null) =>
        Run(device, Cache(shape, sequences, seed), Queries(sequences, heads, shape.HeadDim), heads, [.. sequences.Select(s => s.Tokens)], with);

    /// <summary>Causal attention over a cache, everything past the lengths poisoned.</summary>
    public static Attended Run(Device device, HostKvCache cache, float[] queries, int heads, int[] tokens, Func<KvAttention, KvAttention>? with = null)
    {
        cache.PoisonRest(Poison.Nan);
        int rows = tokens.Sum(), width = cache.Shape.HeadDim;
        using DeviceKvCache uploaded = cache.Upload(device);
        using DeviceTensor<float> q = device.Upload<float>(queries, rows, heads, width), output = device.Allocate<float>(rows, heads, width), lse = device.Allocate<float>(rows, heads);
        using DeviceTensor<int> offsets = device.Upload<int>([0, .. tokens.Select((_, b) => tokens[..(b + 1)].Sum())], tokens.Length + 1);
        var op = new KvAttention { Cache = uploaded.View, Q = q, Output = output, LogSumExp = lse, RowOffsets = offsets, Causal = true };
        Run(device, with is null ? op : with(op));
        return new Attended(output.ToArray(), lse.ToArray());
    }

    /// <summary>Runs an op with a workspace of its own, and waits.</summary>
    public static void Run<TOp>(Device device, TOp op) where TOp : struct, IOp
    {
        using DeviceBuffer workspace = device.Allocate(Math.Max(64, op.WorkspaceBytes(device)));
        op.Run(device, workspace);
        device.Synchronize();
    }

    /// <summary>Gate of the largest normwise difference of rows, of results that differ by rounding only.</summary>
    public static void AssertClose(Attended got, Attended want, int width, double gate = 2e-5)
    {
        Comparison worst = Comparison.Rows([.. got.Output.Select(v => (double)v)], [.. want.Output.Select(v => (double)v)], width, gate, "out");
        Assert.That(worst.Passes, Is.True, $"error {worst.Error:g3} above {worst.Gate:g3} at {worst.Where}");
        Assert.That(got.LogSumExp, Is.EqualTo(want.LogSumExp).Within(gate), "lse");
    }

    /// <summary>Bit for bit the same.</summary>
    public static void AssertSame(Attended got, Attended want, string why)
    {
        Assert.That(got.Output.Select(BitConverter.SingleToInt32Bits), Is.EqualTo(want.Output.Select(BitConverter.SingleToInt32Bits)), why);
        Assert.That(got.LogSumExp.Select(BitConverter.SingleToInt32Bits), Is.EqualTo(want.LogSumExp.Select(BitConverter.SingleToInt32Bits)), why);
    }
}
