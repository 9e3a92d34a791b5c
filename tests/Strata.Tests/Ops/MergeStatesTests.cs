// SPDX-License-Identifier: Apache-2.0
// merge_states: worked examples, empty parts, attention in parts, cascades, and what the API refuses.

using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class MergeStatesTests
{
    private static readonly KvCacheShape s_shape = new(DType.F32, 1, 2, 64);

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_TwoParts_WeighsThem(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        // Sums 3 and 1: weights 3/4 and 1/4.
        (float[] output, float[] lse) = Merge(open, [4, 0, 0, 8], [MathF.Log(3), 0], parts: 2, width: 2);
        Assert.That(output, Is.EqualTo(new float[] { 3, 2 }).Within(1e-6));
        Assert.That(lse[0], Is.EqualTo(MathF.Log(4)).Within(1e-6));
        Assert.That(Device.LastImplementation, Does.StartWith("merge_states/"));
        (output, lse) = Merge(open, [4, 0, 0, 8], [1000 + MathF.Log(3), 1000], parts: 2, width: 2);
        Assert.That(output, Is.EqualTo(new float[] { 3, 2 }).Within(1e-3), "large sums do not overflow");
        Assert.That(lse[0], Is.EqualTo(1000 + MathF.Log(4)).Within(1e-3));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_EmptyParts_AreNeutralBitForBit(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        float[] part = [0.1f, -3.7f, 1e-30f, 5e20f];
        foreach (float[] parts in new float[][] { [.. part, float.NaN, float.NaN, float.PositiveInfinity, 0], [float.NaN, float.NaN, float.NaN, float.NaN, .. part] })
        {
            bool first = parts[0] == part[0];
            (float[] output, float[] lse) = Merge(open, parts, first ? [-1.3f, float.NegativeInfinity] : [float.NegativeInfinity, -1.3f], parts: 2, width: 4);
            Assert.That(output, Is.EqualTo(part));
            Assert.That(lse, Is.EqualTo(new[] { -1.3f }));
        }
        (float[] nothing, float[] none) = Merge(open, [float.NaN, 1, 2, 3, 4, 5, 6, 7], [float.NegativeInfinity, float.NegativeInfinity], parts: 2, width: 4);
        Assert.That(nothing, Is.All.Zero);
        Assert.That(none[0], Is.EqualTo(float.NegativeInfinity));
    }

    // Attention over slots 0 ... split - 1 and over the rest, as two caches of their own, is attention over all of them.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_AttentionInParts_IsAttentionOverAll(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int heads = 6, length = 150;
        foreach (int split in new[] { 0, 1, 64, 149 })
        {
            var sequence = new Sequence(1, length, Tokens: 3);
            float[] queries = Attending.Queries([sequence], heads, s_shape.HeadDim);
            Attended whole = Part(0, length), low = Part(0, split), high = Part(split, length);
            (float[] output, float[] lse) = Merge(open, [.. low.Output, .. high.Output], [.. low.LogSumExp, .. high.LogSumExp], 2, s_shape.HeadDim, tokens: 3, heads);
            Attending.AssertClose(new Attended(output, lse), whole, s_shape.HeadDim);
            if (split == 0) Attending.AssertSame(new Attended(output, lse), whole, "an empty part is neutral");

            Attended Part(int first, int end)
            {
                HostKvCache cache = new HostKvCache(s_shape, [end - first, end - first], new InputRandom(split))
                    .FillKeys((_, h, slot, c) => Attending.Noise(1, 1, h, first + slot, c)).FillValues((_, h, slot, c) => Attending.Noise(2, 1, h, first + slot, c));
                return Attending.Run(open, cache, queries, heads, [3], op => op with { Causal = false });
            }
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Cascade_SharedPrefix_IsFlatAttention(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int heads = 6, prefix = 70;
        int width = s_shape.HeadDim;
        int[] suffixes = [5, 40, 1, 9], tokens = [1, 4, 1, 9];
        Sequence[] flat = [.. suffixes.Select((s, b) => new Sequence(b, prefix + s, tokens[b]))];
        double Number(int what, int b, int h, int slot, int c) => Attending.Noise(what, slot < prefix ? 99 : b, h, slot, c);
        HostKvCache Filled(int[] lengths, int from) => new HostKvCache(s_shape with { Batch = lengths.Length }, [.. lengths.SelectMany(l => new[] { l, l })], new InputRandom(from))
            .FillKeys((b, h, slot, c) => Number(1, b, h, from + slot, c)).FillValues((b, h, slot, c) => Number(2, b, h, from + slot, c));
        float[] queries = Attending.Queries(flat, heads, width);
        using DeviceTensor<float> sinks = open.Upload<float>([0.5f, -1, 2, 0, 1, -3], heads);
        Attended want = Attending.Run(open, Filled([.. flat.Select(s => s.Length)], 0), queries, heads, tokens, op => op with { SinkLogits = sinks, SoftCap = 9 });

        HostKvCache shared = Filled([prefix], 0), own = Filled(suffixes, prefix);
        shared.PoisonRest(Poison.Nan);
        own.PoisonRest(Poison.Nan);
        using DeviceKvCache sharedOnDevice = shared.Upload(open), ownOnDevice = own.Upload(open);
        int rows = tokens.Sum();
        using DeviceTensor<float> q = open.Upload<float>(queries, rows, heads, width), output = open.Allocate<float>(rows, heads, width), lse = open.Allocate<float>(rows, heads);
        using DeviceTensor<int> offsets = open.Upload<int>([0, 1, 5, 6, 15], 5);
        var cascade = new CascadeAttention { Prefix = sharedOnDevice.View, Suffix = ownOnDevice.View, Q = q, Output = output, LogSumExp = lse, RowOffsets = offsets, Causal = true, SinkLogits = sinks, SoftCap = 9 };
        Assert.That(cascade.IsSupported(open, out string reason), Is.True, reason);
        using DeviceBuffer workspace = open.Allocate(cascade.WorkspaceBytes(open));
        workspace.Fill(0xff);
        cascade.Run(open, workspace);
        open.Synchronize();
        Attending.AssertClose(new Attended(output.ToArray(), lse.ToArray()), want, width);

        using DeviceBuffer small = open.Allocate(workspace.Bytes - 1);
        Assert.That(() => cascade.Run(open, small), Throws.ArgumentException.With.Message.StartsWith($"cascade: workspace has {small.Bytes} bytes, must have {workspace.Bytes}; ask WorkspaceBytes"));
    }

    [Test]
    public void Run_WrongShapesAndTypes_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using DeviceTensor<float> parts = open.Upload<float>(new float[12], 2, 1, 3, 2), many = open.Allocate<float>(65, 1, 3, 2), sums = open.Upload<float>(new float[6], 2, 1, 3), manySums = open.Allocate<float>(65, 1, 3);
        using DeviceTensor<float> output = open.Upload<float>([9, 9, 9, 9, 9, 9], 1, 3, 2), narrow = open.Allocate<float>(1, 3, 1), lse = open.Upload<float>([9, 9, 9], 1, 3), wide = open.Allocate<float>(2, 3);
        using DeviceTensor<Half> halves = open.Allocate<Half>(2, 1, 3);
        using DeviceTensor<int> integers = open.Allocate<int>(1, 3, 2);
        var good = new MergeStates { Parts = parts, PartLogSumExp = sums, Output = output, LogSumExp = lse };
        AssertFails(good with { Parts = default }, StrataStatus.Shape, "merge_states: parts.ndim is 0, must be 4; describe the tensor with all its dimensions");
        AssertFails(good with { Parts = many, PartLogSumExp = manySums }, StrataStatus.Argument, "merge_states: parts.shape[0] is 65, must be 1 to 64; merge more parts in several calls");
        AssertFails(good with { PartLogSumExp = sums.View.Slice(0, 1) }, StrataStatus.Shape, "merge_states: part_lse.shape[0] is 1, must equal parts.shape[0] = 2; give every part and the result the same tokens, heads and width");
        AssertFails(good with { PartLogSumExp = halves }, StrataStatus.DType, "merge_states: part_lse.dtype is f16 (2), must be f32; convert it first");
        AssertFails(good with { Output = narrow }, StrataStatus.Shape, "merge_states: out.shape[2] is 1, must equal parts.shape[3] = 2; give every part and the result the same tokens, heads and width");
        AssertFails(good with { Output = integers }, StrataStatus.DType, "merge_states: out.dtype is i32 (4), must be f32 or f16 or bf16; convert it first");
        AssertFails(good with { LogSumExp = wide }, StrataStatus.Shape, "merge_states: lse.shape[0] is 2, must equal parts.shape[1] = 1; give every part and the result the same tokens, heads and width");
        AssertFails(good with { Output = parts.View.Slice(0, 1).Reshape(1, 3, 2) }, StrataStatus.Argument, "merge_states: out overlaps parts, must be separate memory; give the output memory of its own", shapesOnly: false);
        AssertFails(good with { LogSumExp = sums.View.Slice(1, 1).Reshape(1, 3) }, StrataStatus.Argument, "merge_states: lse overlaps part_lse, must be separate memory; give the output memory of its own", shapesOnly: false);
        Assert.That(output.ToArray(), Is.All.EqualTo(9f));
        Assert.That(lse.ToArray(), Is.All.EqualTo(9f));

        void AssertFails(MergeStates op, StrataStatus status, string sentence, bool shapesOnly = true)
        {
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open))!;
            Assert.That((e.Status, e.Message), Is.EqualTo((status, sentence)));
            Assert.That(op.IsSupported(open, out string reason), Is.EqualTo(!shapesOnly));
            Assert.That(reason, Is.EqualTo(shapesOnly ? sentence : ""));
        }
    }

    private static (float[] Output, float[] LogSumExp) Merge(Device open, float[] states, float[] sums, int parts, int width, int tokens = 1, int heads = 1)
    {
        using DeviceTensor<float> partStates = open.Upload<float>(states, parts, tokens, heads, width), partSums = open.Upload<float>(sums, parts, tokens, heads);
        using DeviceTensor<float> output = open.Allocate<float>(tokens, heads, width), lse = open.Allocate<float>(tokens, heads);
        Attending.Run(open, new MergeStates { Parts = partStates, PartLogSumExp = partSums, Output = output, LogSumExp = lse });
        return (output.ToArray(), lse.ToArray());
    }
}
