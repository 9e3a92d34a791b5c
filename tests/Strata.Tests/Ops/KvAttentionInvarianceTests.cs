// SPDX-License-Identifier: Apache-2.0
// kv_attention: what must not change the result: pages, places in the batch, neighbours, threads, splits, the order of slots, prefill or decode.

using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvAttentionInvarianceTests
{
    private const int Heads = 6;

    private static readonly KvCacheShape s_plain = new(DType.F32, 1, 2, 64);

    private static IEnumerable<KvCacheShape> Shapes =>
    [
        s_plain,
        s_plain with { Type = DType.F16, PageSize = 16 },
        s_plain with { Type = DType.BF16, Layout = KvLayout.Tiled, PageSize = 32 },
        s_plain with { Type = DType.BF16, Layout = KvLayout.Swizzled },
        s_plain with { KeyFormat = KvFormat.I8, ValueFormat = KvFormat.I8, Layout = KvLayout.Tiled, Rotation = 64 },
        s_plain with { KeyFormat = KvFormat.F8, ValueFormat = KvFormat.F8 },
        s_plain with { KeyFormat = KvFormat.I4Block, ValueFormat = KvFormat.I8Block, Layout = KvLayout.Tiled, PageSize = 32 },
    ];

    public static IEnumerable<TestCaseData> Runs() => TestDevices.All.SelectMany(device => Shapes.Select(shape => new TestCaseData(device, shape).SetArgDisplayNames(device.ToString(), Name(shape))));

    public static IEnumerable<TestCaseData> CpuRuns() => Runs().Where(r => ((TestDevice)r.Arguments[0]!).Id == "cpu");

    public static IEnumerable<TestCaseData> PlainRuns() => Runs().Where(r => ((KvCacheShape)r.Arguments[1]!).IsPlain);

    [TestCaseSource(nameof(Runs))]
    public void Run_OtherPagesAndOtherPlaces_BitwiseEqual(TestDevice device, KvCacheShape shape)
    {
        Device open = TestDevices.Open(device);
        Sequence[] batch = [new(1, 100), new(2, 33, Tokens: 33), new(3, 0), new(4, 700, Tokens: 2), new(5, 65, Tokens: 4)];
        Attended want = Attending.Run(open, shape, batch, Heads);
        Attending.AssertSame(Attending.Run(open, shape, batch, Heads, seed: 2), want, "pages in another order");
        Attending.AssertSame(Attending.Run(open, shape with { SharedPages = true }, batch, Heads, seed: 3), want, "pages that hold all heads");
        Sequence[] reversed = [.. batch.Reverse()];
        Attended backwards = Attending.Run(open, shape, reversed, Heads);
        foreach (Sequence sequence in batch) Attending.AssertSame(Of(backwards, reversed, sequence), Of(want, batch, sequence), $"sequence {sequence.Number} at the other end of the batch");
    }

    [TestCaseSource(nameof(Runs))]
    public void Run_BatchInvariant_SameInEveryCompany(TestDevice device, KvCacheShape shape)
    {
        Device open = TestDevices.Open(device);
        Sequence one = new(1, 2500), few = new(2, 2100, Tokens: 2), many = new(3, 150, Tokens: 40);
        Sequence[][] compositions =
        [
            [one], [few], [many], [one, few, many], [many, few, one], [new(9, 0), one, new(8, 3000)], [.. Enumerable.Range(10, 12).Select(n => new Sequence(n, 7 * n)), few],
            [new(7, 64, Tokens: 64), many, new(6, 1), one],
        ];
        var seen = new Dictionary<Sequence, Attended>();
        for (int i = 0; i < compositions.Length; i++)
        {
            Attended got = Attending.Run(open, shape, compositions[i], Heads, seed: i, op => op with { BatchInvariant = true });
            foreach (Sequence sequence in compositions[i].Where(s => s == one || s == few || s == many))
            {
                Attended part = Of(got, compositions[i], sequence);
                if (seen.TryGetValue(sequence, out Attended? want)) Attending.AssertSame(part, want, $"sequence {sequence.Number} in composition {i}");
                else seen[sequence] = part;
            }
        }
        Attending.AssertClose(seen[one], Attending.Run(open, shape, [one], Heads), shape.HeadDim, shape.IsPlain && shape.Type == DType.F32 ? 2e-5 : device.Id == "cpu" ? 2e-3 : 9e-3);
    }

    [TestCaseSource(nameof(CpuRuns))]
    public void Run_OtherThreadCounts_BitwiseEqual(TestDevice device, KvCacheShape shape)
    {
        Sequence[] batch = [new(1, 1500), new(2, 70, Tokens: 70), new(3, 300, Tokens: 5)];
        Attended want = Attending.Run(TestDevices.Open(device, threads: 1), shape, batch, Heads);
        foreach (int threads in new[] { 2, 3, 7 }) Attending.AssertSame(Attending.Run(TestDevices.Open(device, threads), shape, batch, Heads), want, $"{threads} threads");
    }

    [TestCaseSource(nameof(PlainRuns))]
    public void Run_GroupedHeads_EqualRepeatedHeads(TestDevice device, KvCacheShape shape)
    {
        Device open = TestDevices.Open(device);
        foreach (Sequence sequence in new[] { new Sequence(1, 200), new Sequence(2, 90, Tokens: 50) })
        {
            Attended grouped = Attending.Run(open, shape, [sequence], Heads);
            KvCacheShape repeated = shape with { KvHeads = Heads };
            HostKvCache cache = new HostKvCache(repeated, [.. Enumerable.Repeat(sequence.Length, Heads)], new InputRandom(3))
                .FillKeys((_, h, slot, c) => Attending.Noise(1, sequence.Number, h / (Heads / shape.KvHeads), slot, c)).FillValues((_, h, slot, c) => Attending.Noise(2, sequence.Number, h / (Heads / shape.KvHeads), slot, c));
            Attended one = Attending.Run(open, cache, Attending.Queries([sequence], Heads, shape.HeadDim), Heads, [sequence.Tokens]);
            // Where the CPU multiplies in bf16, whether a tile does so depends on all of its rows.
            bool mixed = shape.Type == DType.BF16 && device.Isa is ("avx512vnni" or "amx");
            if (device.Id == "cpu" && !mixed) Attending.AssertSame(one, grouped, "a head's result does not depend on the others of its group");
            else Attending.AssertClose(one, grouped, shape.HeadDim, shape.Type == DType.F32 ? 2e-5 : 9e-3);
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_SlotsInAnotherOrder_SameWithoutMask(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int length = 333;
        int[] order = new InputRandom(4).Permutation(length);
        float[] queries = Attending.Queries([new Sequence(1, length, Tokens: 3)], Heads, s_plain.HeadDim);
        Attended Attend(Func<int, int> slotOf) => Attending.Run(open, new HostKvCache(s_plain, [length, length], new InputRandom(1))
            .FillKeys((_, h, slot, c) => Attending.Noise(1, 1, h, slotOf(slot), c)).FillValues((_, h, slot, c) => Attending.Noise(2, 1, h, slotOf(slot), c)), queries, Heads, [3], op => op with { Causal = false });
        Attending.AssertClose(Attend(slot => order[slot]), Attend(slot => slot), s_plain.HeadDim);
    }

    // Alone a long sequence is cut into many parts, in a crowd into few or none.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_CutOrWhole_SameToRounding(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        Sequence sequence = new(1, 2000);
        Sequence[] crowd = [sequence, .. Enumerable.Range(2, 80).Select(n => new Sequence(n, 2000))];
        KvCacheShape small = s_plain with { HeadDim = 16 };
        Attended alone = Attending.Run(open, small, [sequence], 2);
        Attending.AssertClose(Of(Attending.Run(open, small, crowd, 2), crowd, sequence, 2, 16), alone, 16);
    }

    [TestCaseSource(nameof(Runs))]
    public void Run_Prefill_IsItsDecodeSteps(TestDevice device, KvCacheShape shape)
    {
        Device open = TestDevices.Open(device);
        const int length = 96, tokens = 40;
        Sequence whole = new(1, length, tokens);
        // Of the block formats a step reads blocks that a longer cache has quantised otherwise: the same slots, so the cache is the whole one, seen step by step.
        Attended prefill = Attending.Run(open, shape, [whole], Heads);
        if (shape.KeyFormat.IsBlockScaled()) shape = shape with { KeyFormat = KvFormat.I8, ValueFormat = KvFormat.I8 };
        if (!shape.IsPlain) prefill = Attending.Run(open, shape, [whole], Heads);
        double gate = shape.IsPlain && shape.Type == DType.F32 ? 2e-5 : device.Id == "cpu" && device.Isa is not ("avx512vnni" or "amx") ? 2e-4 : 9e-3;
        for (int step = 0; step < tokens; step += 13)
        {
            Attended decode = Attending.Run(open, shape, [new Sequence(1, length - tokens + step + 1)], Heads);
            Attending.AssertClose(decode, prefill.Tokens(step, 1, Heads, shape.HeadDim), shape.HeadDim, gate);
        }
    }

    [TestCaseSource(nameof(Runs))]
    public void Run_NothingToSee_ZeroAndMinusInfinity(TestDevice device, KvCacheShape shape)
    {
        Device open = TestDevices.Open(device);
        Attended none = Attending.Run(open, shape, [new(1, 0), new(2, 0, Tokens: 3)], Heads);
        Assert.That(none.Output, Is.All.Zero);
        Assert.That(none.LogSumExp, Is.All.EqualTo(float.NegativeInfinity));
        // More queries than slots: the first see nothing.
        Attended masked = Attending.Run(open, shape, [new(3, 2, Tokens: 5)], Heads);
        Assert.That(masked.Tokens(0, 3, Heads, shape.HeadDim).Output, Is.All.Zero);
        Assert.That(masked.Tokens(0, 3, Heads, shape.HeadDim).LogSumExp, Is.All.EqualTo(float.NegativeInfinity));
        Assert.That(masked.Tokens(3, 2, Heads, shape.HeadDim).LogSumExp, Has.All.GreaterThan(-100f));
    }

    private static Attended Of(Attended all, Sequence[] batch, Sequence sequence, int heads = Heads, int width = 64) =>
        all.Tokens(batch.TakeWhile(s => s != sequence).Sum(s => s.Tokens), sequence.Tokens, heads, width);

    private static string Name(KvCacheShape shape) =>
        $"{(shape.IsPlain ? shape.Type.Name() : $"{shape.KeyFormat}-{shape.ValueFormat}")}-{shape.Layout}{(shape.Rotation > 0 ? "-rotated" : "")}";
}
