// SPDX-License-Identifier: Apache-2.0
// kv_attention: what each option does, by numbers worked out by hand.

using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvAttentionFeatureTests
{
    private static readonly float s_ln2 = MathF.Log(2), s_ln3 = MathF.Log(3), s_ln4 = MathF.Log(4);

    // Two slots of scores that are equal unless an option says otherwise: key 0, values (4, 0) and (0, 8).
    private static SmallCache<float> Equal(Device open) => new(open, length: 2, headDim: 2, keys: [0, 0, 0, 0], values: [4, 0, 0, 8]);

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void SoftCap_BendsScores(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        // 2 tanh(x / 2) = ln 3.
        using var cache = new SmallCache<float>(open, length: 2, headDim: 2, keys: [1, 0, 0, 0], values: [4, 0, 0, 8]);
        (float[] output, float[] lse) = Attend(open, cache.View, [2 * MathF.Atanh(s_ln3 / 2), 7], op => op with { SoftCap = 2 });
        Assert.That(output, Is.EqualTo(new float[] { 3, 2 }).Within(1e-5));
        Assert.That(lse[0], Is.EqualTo(s_ln4).Within(1e-6));
        (output, lse) = Attend(open, cache.View, [1e6f, 0], op => op with { SoftCap = s_ln3 });
        Assert.That(output, Is.EqualTo(new float[] { 3, 2 }).Within(1e-5), "a large score is the cap");
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void AlibiSlopes_OfTwoHeads_BiasByDistance(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using SmallCache<float> cache = Equal(open);
        using DeviceTensor<float> slopes = open.Upload<float>([s_ln3, 0], 2);
        // The query stands at slot 1: biases -ln 3 and 0.
        (float[] output, float[] lse) = Attend(open, cache.View, [0, 0, 0, 0], op => op with { AlibiSlopes = slopes }, heads: 2);
        Assert.That(output, Is.EqualTo(new float[] { 1, 6, 2, 4 }).Within(1e-6));
        Assert.That(lse, Is.EqualTo(new[] { MathF.Log(4f / 3), s_ln2 }).Within(1e-6));
        // Two queries, no mask: the first stands at slot 0, so slot 1 lies ahead of it: 0 and ln 3.
        using DeviceTensor<float> slope = open.Upload<float>([s_ln3], 1);
        (output, lse) = Attend(open, cache.View, [0, 0, 0, 0], op => op with { AlibiSlopes = slope, Causal = false }, tokens: 2);
        Assert.That(output, Is.EqualTo(new float[] { 1, 6, 1, 6 }).Within(1e-6));
        Assert.That(lse, Is.EqualTo(new[] { s_ln4, MathF.Log(4f / 3) }).Within(1e-6));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void LogitBias_AddsToItsSlot(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using SmallCache<float> cache = Equal(open);
        using DeviceTensor<float> bias = open.Upload<float>([s_ln3, 0, float.NaN, float.NaN], 1, 1, 4);
        (float[] output, float[] lse) = Attend(open, cache.View with { LogitBias = bias }, [5, 5]);
        Assert.That(output, Is.EqualTo(new float[] { 3, 2 }).Within(1e-6));
        Assert.That(lse[0], Is.EqualTo(s_ln4).Within(1e-6));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void SinkLogits_TakeTheirShareAndGiveNothing(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using SmallCache<float> cache = Equal(open);
        using DeviceTensor<float> sinks = open.Upload<float>([s_ln2, float.NegativeInfinity], 2);
        // 1 + 1 + 2 = 4; a sink of -inf is none.
        (float[] output, float[] lse) = Attend(open, cache.View, [5, 5, 5, 5], op => op with { SinkLogits = sinks }, heads: 2);
        Assert.That(output, Is.EqualTo(new float[] { 1, 2, 2, 4 }).Within(1e-6));
        Assert.That(lse, Is.EqualTo(new[] { s_ln4, s_ln2 }).Within(1e-6));
        cache.Lengths.CopyFrom([0]);
        (output, lse) = Attend(open, cache.View, [5, 5, 5, 5], op => op with { SinkLogits = sinks }, heads: 2);
        Assert.That(output, Is.All.Zero);
        Assert.That(lse, Is.EqualTo(new[] { s_ln2, float.NegativeInfinity }).Within(1e-6), "no slot: the sink's own logit");
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Window_AndItsSinks_SeeWhatTheySay(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using var cache = new SmallCache<float>(open, length: 3, headDim: 2, keys: [0, 0, 0, 0, 0, 0], values: [4, 0, 0, 8, 6, 6]);
        Assert.That(Attend(open, cache.View, [1, 1], op => op with { Window = 2 }).Output, Is.EqualTo(new float[] { 3, 7 }).Within(1e-6));
        Assert.That(Attend(open, cache.View, [1, 1], op => op with { Window = 1, WindowSinks = 1 }).Output, Is.EqualTo(new float[] { 5, 3 }).Within(1e-6));
        Assert.That(Attend(open, cache.View, [1, 1], op => op with { WindowSinks = 1 }).Output, Is.EqualTo(new[] { 10f / 3, 14f / 3 }).Within(1e-6), "sinks without a window are nothing");
        // Two queries: each the window before itself.
        Assert.That(Attend(open, cache.View, [1, 1, 1, 1], op => op with { Window = 1 }, tokens: 2).Output, Is.EqualTo(new float[] { 0, 8, 6, 6 }).Within(1e-6));
        Assert.That(Attend(open, cache.View, [1, 1, 1, 1], op => op with { Window = 1, Causal = false }, tokens: 2).Output, Is.EqualTo(new float[] { 6, 6, 6, 6 }).Within(1e-6));
        Assert.That(Attend(open, cache.View, [1, 1], op => op with { Window = int.MaxValue, WindowSinks = int.MaxValue }).Output, Is.EqualTo(new[] { 10f / 3, 14f / 3 }).Within(1e-6));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void PastLogSumExp_CountsWhatWasThereBefore(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using var cache = new SmallCache<float>(open, length: 3, headDim: 2, keys: [1, 0, 0, 0, 5, 0], values: [4, 0, 0, 8, 6, 6]);
        using DeviceTensor<float> one = open.Upload<float>([9], 1, 1), two = open.Upload<float>([9, 9], 2, 1), three = open.Upload<float>([9, 9, 9], 3, 1), sink = open.Upload<float>([2], 1);
        Attend(open, cache.View, [s_ln3, 0], op => op with { PastLogSumExp = one, SinkLogits = sink });
        Assert.That(one.ToArray()[0], Is.EqualTo(s_ln4).Within(1e-6), "slots 0 and 1, no sink");
        Attend(open, cache.View, [s_ln3, 0, s_ln2, 0], op => op with { PastLogSumExp = two }, tokens: 2);
        Assert.That(two.ToArray(), Is.EqualTo(new[] { s_ln3, s_ln2 }).Within(1e-6), "slot 0 alone");
        Attend(open, cache.View, [s_ln3, 0], op => op with { PastLogSumExp = one, Window = 2 });
        Assert.That(one.ToArray()[0], Is.Zero.Within(1e-6), "of the window only slot 1 was there");
        Attend(open, cache.View, [1, 1, 1, 1, 1, 1], op => op with { PastLogSumExp = three }, tokens: 3);
        Assert.That(three.ToArray(), Is.All.EqualTo(float.NegativeInfinity));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void KeyProbability_SumsRowsAndAveragesTheGroup(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using var cache = new SmallCache<float>(open, length: 2, headDim: 2, keys: [1, 0, 0, 0], values: [4, 0, 0, 8]);
        using DeviceTensor<float> received = open.Upload<float>([10, 20, 30, 40], 1, 1, 4);
        // Row 0 sees slot 0 only: 1. Row 1: head 0 has 1/2 and 1/2, head 1 has 3/4 and 1/4.
        float[] q = [1, 0, 1, 0, 0, 0, s_ln3, 0];
        Attend(open, cache.View, q, op => op with { KeyProbability = received }, tokens: 2, heads: 2);
        Assert.That(received.ToArray(), Is.EqualTo(new float[] { 11.625f, 20.375f, 30, 40 }).Within(1e-5));
        Attend(open, cache.View, q, op => op with { KeyProbability = received, StoreProbability = true }, tokens: 2, heads: 2);
        Assert.That(received.ToArray(), Is.EqualTo(new float[] { 1.625f, 0.375f, 30, 40 }).Within(1e-6));
        using DeviceTensor<float> sinks = open.Upload<float>([s_ln2, s_ln2], 2);
        Attend(open, cache.View, [0, 0, 0, 0], op => op with { KeyProbability = received, StoreProbability = true, SinkLogits = sinks }, heads: 2);
        Assert.That(received.ToArray(), Is.EqualTo(new float[] { 0.25f, 0.25f, 30, 40 }).Within(1e-6), "the sink takes its half");
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Rotation_StoredTurned_ReadsAsIfItWereNot(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        // Key 4 e0 and value 8 e1 after the 16-point transform; the second slot is 0.
        float[] keys = [.. Enumerable.Repeat(1f, 16)], values = [.. Enumerable.Range(0, 16).Select(c => c % 2 == 0 ? 2f : -2f)];
        using var cache = new SmallCache<float>(open, length: 2, headDim: 16, keys, values);
        float[] q = new float[16], want = new float[16];
        (q[0], q[5], want[1]) = (s_ln3 / 4, 3, 6);
        (float[] output, float[] lse) = Attend(open, cache.View with { Rotation = 16 }, q);
        Assert.That(output, Is.EqualTo(want).Within(1e-5));
        Assert.That(lse[0], Is.EqualTo(s_ln4).Within(1e-6));
    }

    // The oracle itself, with all of its options at once, against the same numbers.
    [Test]
    public void Oracle_EveryOption_WorkedExample()
    {
        HostKvCache cache = new HostKvCache(new KvCacheShape(DType.F32, 1, 1, 2, PageSize: 4) { LogitBias = true }, [4], new InputRandom(1))
            .FillKeys((_, _, slot, c) => slot == 1 && c == 0 ? 1 : 0).FillValues((_, _, slot, c) => c == 0 ? slot : 10).FillBias((_, _, slot) => slot == 3 ? Math.Log(2) : 0);
        HostTensor q = new HostTensor(DType.F32, [1, 1, 2]).Fill(i => i == 0 ? 2 * Math.Atanh(Math.Log(3) / 2) : 0);
        var settings = new KvAttentionSettings
        {
            Causal = true,
            Scale = 1,
            SoftCap = 2,
            Window = 3,
            AlibiSlopes = new HostTensor(DType.F32, [1]).Fill(_ => Math.Log(2)),
            SinkLogits = new HostTensor(DType.F32, [1]),
        };
        // Slots 1, 2, 3: ln 3 - 2 ln 2, -ln 2, ln 2, and the sink 0: weights 3/4, 1/2, 2 and 1, of 17/4.
        KvAttentionResult got = KvAttentionReference.Run(q, cache, [0, 1], settings);
        Assert.That(got.Output, Is.EqualTo(new[] { ((0.75 * 1) + (0.5 * 2) + (2 * 3)) / 4.25, 10 * 3.25 / 4.25 }).Within(1e-6));
        Assert.That(got.LogSumExp[0], Is.EqualTo(Math.Log(4.25)).Within(1e-6));
        Assert.That(got.PastLogSumExp[0], Is.EqualTo(Math.Log(1.25)).Within(1e-6));
        Assert.That(got.KeyProbability[0], Is.EqualTo(new[] { 0, 0.75 / 4.25, 0.5 / 4.25, 2 / 4.25 }).Within(1e-6));
    }

    private static (float[] Output, float[] LogSumExp) Attend(Device open, KvCache cache, float[] queries, Func<KvAttention, KvAttention>? with = null, int tokens = 1, int heads = 1)
    {
        int width = queries.Length / (tokens * heads);
        using DeviceTensor<float> q = open.Upload<float>(queries, tokens, heads, width), output = open.Allocate<float>(tokens, heads, width), lse = open.Allocate<float>(tokens, heads);
        var op = new KvAttention { Cache = cache, Q = q, Output = output, LogSumExp = lse, Causal = true, Scale = 1 };
        Attending.Run(open, with is null ? op : with(op));
        return (output.ToArray(), lse.ToArray());
    }
}
