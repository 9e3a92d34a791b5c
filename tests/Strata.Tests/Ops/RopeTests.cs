// SPDX-License-Identifier: Apache-2.0
// rope: a worked example, what must hold exactly, and what the API refuses.

using Strata.Reference;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class RopeTests
{
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_QuarterTurns_SwapChannels(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using DeviceTensor<float> x = open.Upload<float>([1, 2, 3, 4], 1, 1, 4);
        using DeviceTensor<int> positions = open.Upload<int>([1], 1);
        using DeviceTensor<float> y = open.Allocate<float>(1, 1, 4);
        // Base 1 gives every pair the frequency `scale`: a quarter turn at position 1.
        var quarter = new RopeParameters { Base = 1, FrequencyScale = (float)(Math.PI / 2) };

        new Rope { X = x, Positions = positions, Y = y, Parameters = quarter with { Mode = RopeMode.Interleaved } }.Run(open);
        open.Synchronize();
        Assert.That(y.ToArray(), Is.EqualTo(new float[] { -2, 1, -4, 3 }).Within(1e-6));

        new Rope { X = x, Positions = positions, Y = y, Parameters = quarter with { Mode = RopeMode.Half } }.Run(open);
        open.Synchronize();
        Assert.That(y.ToArray(), Is.EqualTo(new float[] { -3, -4, 1, 2 }).Within(1e-6));
        Assert.That(Device.LastImplementation, Does.StartWith("rope/"));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_PositionZeroAndChannelsPastDims_AreCopiedBitwise(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        var random = new InputRandom(3);
        Half[] values = [.. Enumerable.Range(0, 2 * 3 * 20).Select(_ => (Half)random.Gaussian())];
        using DeviceTensor<Half> x = open.Upload<Half>(values, 2, 3, 20);
        using DeviceTensor<int> positions = open.Upload<int>([0, 77], 2);
        using DeviceTensor<Half> y = open.Allocate<Half>(2, 3, 20);
        new Rope { X = x, Positions = positions, Y = y, Parameters = new RopeParameters { Mode = RopeMode.Half, Dims = 12 } }.Run(open);
        open.Synchronize();
        Half[] got = y.ToArray();
        Assert.That(got[..60], Is.EqualTo(values[..60]), "position 0 turns nothing");
        for (int head = 3; head < 6; head++)
        {
            Assert.That(got[((head * 20) + 12)..((head + 1) * 20)], Is.EqualTo(values[((head * 20) + 12)..((head + 1) * 20)]));
        }
    }

    // The angle is the hard part: at position 32767 an fp32 product is off by 2e-3.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_FarPositions_AnglesStayRight(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        int[] at = [1, 4095, 32767, 32768, 131071, 1_000_000, -5];
        using DeviceTensor<int> positions = open.Upload<int>(at, at.Length);
        float[] ones = [.. Enumerable.Range(0, at.Length * 128).Select(c => c % 2 == 0 ? 1f : 0f)];
        using DeviceTensor<float> x = open.Upload<float>(ones, at.Length, 1, 128);
        var parameters = new RopeParameters { Mode = RopeMode.Interleaved };
        new Rope { X = x, Positions = positions, Y = x, Parameters = parameters }.Run(open);
        open.Synchronize();
        float[] got = x.ToArray();
        for (int t = 0; t < at.Length; t++)
        {
            var row = new double[128];
            for (int c = 0; c < 128; c += 2) row[c] = 1;
            RopeReference.Turn(row, at[t], parameters);
            for (int c = 0; c < 128; c++) Assert.That(got[(t * 128) + c], Is.EqualTo(row[c]).Within(5e-7), $"position {at[t]}, channel {c}");
        }
    }

    // Worked by hand for 128 channels, base 10000, context 4096, factor 4: the pair that turns 32 times is number 20.94, the one that turns once 45.03, so
    // pairs up to 20 keep their frequency 10000^(-i/64), pairs from 46 on have a quarter of it, and pair 33, in the middle, has 5/8.
    [TestCase(0, 1.0)]
    [TestCase(20, 0.0562341325)]
    [TestCase(33, 0.625 * 0.00865964323)]
    [TestCase(46, 0.25 * 0.00133352143)]
    [TestCase(63, 0.25 * 0.000115478198)]
    public void Run_Yarn_KnownAngles(int pair, double angle)
    {
        foreach (TestDevice device in TestDevices.All)
        {
            Device open = TestDevices.Open(device);
            var row = new float[128];
            row[pair] = 1;
            using DeviceTensor<float> x = open.Upload<float>(row, 1, 1, 128);
            using DeviceTensor<int> positions = open.Upload<int>([3], 1);
            var yarn = new RopeParameters { Mode = RopeMode.Half, YarnContext = 4096, FrequencyScale = 0.25f };
            new Rope { X = x, Positions = positions, Y = x, Parameters = yarn }.Run(open);
            open.Synchronize();
            const double magnitude = 1.13862944; // 1 + 0.1 ln 4
            float[] got = x.ToArray();
            Assert.That(got[pair], Is.EqualTo(magnitude * Math.Cos(3 * angle)).Within(1e-6), $"{device}");
            Assert.That(got[pair + 64], Is.EqualTo(magnitude * Math.Sin(3 * angle)).Within(1e-6), $"{device}");
            Assert.That(got.Where((_, c) => c % 64 != pair), Is.All.Zero);
        }
    }

    // A factor of 2 at position 2 is a factor of 1 at position 1; a given magnitude takes the place of YaRN's.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_FactorsAndMagnitude_DivideAnglesAndMultiplyPairs(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using DeviceTensor<float> x = open.Upload<float>([1, 2, 3, 4, 5, 1, 2, 3, 4, 5], 2, 1, 5), y = open.Allocate<float>(2, 1, 5), twos = open.Upload<float>([2, 2], 2);
        using DeviceTensor<int> at = open.Upload<int>([2, 200], 2), half = open.Upload<int>([1, 100], 2);
        var plain = new RopeParameters { Mode = RopeMode.Interleaved, Dims = 4 };
        new Rope { X = x, Positions = half, Y = y, Parameters = plain }.Run(open);
        open.Synchronize();
        float[] want = y.ToArray();
        new Rope { X = x, Positions = at, Y = y, Parameters = plain, FrequencyFactors = twos }.Run(open);
        open.Synchronize();
        Assert.That(y.ToArray(), Is.EqualTo(want).Within(1e-6));

        new Rope { X = x, Positions = half, Y = y, Parameters = plain with { Magnitude = 0.5f } }.Run(open);
        open.Synchronize();
        Assert.That(y.ToArray(), Is.EqualTo(want.Select((v, c) => c % 5 < 4 ? v / 2 : v)), "channels past dims keep their size");
    }

    [Test]
    public void Run_WrongShapesAndOptions_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using DeviceTensor<float> x = open.Upload<float>([1, 2, 3, 4, 5, 6], 1, 2, 3);
        using DeviceTensor<float> y = open.Upload<float>([9, 9, 9, 9, 9, 9], 1, 2, 3);
        using DeviceTensor<Half> halves = open.Allocate<Half>(1, 2, 3);
        using DeviceTensor<int> positions = open.Upload<int>([1], 1);
        using DeviceTensor<int> two = open.Upload<int>([1, 2], 2);
        using DeviceTensor<float> factors = open.Upload<float>([1, 1], 2);
        var mode = new RopeParameters { Mode = RopeMode.Half, Dims = 2 };

        AssertFails(new Rope { X = x, Positions = positions, Y = y }, StrataStatus.Argument, "rope: rope.mode is 0, must be 1 to 2; choose how the model pairs its channels");
        AssertFails(new Rope { X = x, Positions = positions, Y = y, Parameters = mode with { Dims = 0 } }, StrataStatus.Argument, "rope: rope.dims is 3, must be even and 0 to head_dim = 3; rotate whole pairs");
        AssertFails(new Rope { X = x, Positions = positions, Y = y, Parameters = mode with { Base = float.NaN } }, StrataStatus.Argument, "rope: rope.base is NaN, must be finite and above 0; take it from the model's metadata");
        AssertFails(new Rope { X = x, Positions = positions, Y = y, Parameters = mode with { Magnitude = -1 } }, StrataStatus.Argument, "rope: rope.magnitude is -1, must be finite and above 0; take it from the model's metadata");
        AssertFails(new Rope { X = x, Positions = positions, Y = y, Parameters = mode with { YarnBetaSlow = float.PositiveInfinity } }, StrataStatus.Argument, "rope: rope.yarn_beta_slow is infinity, must be finite and above 0; take it from the model's metadata");
        AssertFails(new Rope { X = x, Positions = positions, Y = y, Parameters = mode with { YarnContext = -1 } }, StrataStatus.Argument, "rope: rope.yarn_context is -1, must be 0 to 2147483647; pass the context that the model was first trained with, or 0");
        AssertFails(new Rope { X = x, Positions = positions, Y = y, Parameters = mode, FrequencyFactors = factors }, StrataStatus.Shape, "rope: frequency_factors.shape[0] is 2, must equal rope.dims / 2 = 1; pass one factor per pair that turns");
        AssertFails(new Rope { X = x, Positions = two, Y = y, Parameters = mode }, StrataStatus.Shape, "rope: positions.shape[0] is 2, must equal x.shape[0] = 1; pass one position per token");
        AssertFails(new Rope { X = x, Positions = positions, Y = halves, Parameters = mode }, StrataStatus.DType, "rope: y.dtype is f16 (2), must be f32; convert it first");
        AssertFails(new Rope { X = x, Y = y, Parameters = mode }, StrataStatus.Shape, "rope: positions.ndim is 0, must be 1; describe the tensor with all its dimensions");
        Assert.That(y.ToArray(), Is.All.EqualTo(9f));

        void AssertFails(Rope op, StrataStatus status, string sentence)
        {
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open))!;
            Assert.That((e.Status, e.Message), Is.EqualTo((status, sentence)));
            Assert.That(op.IsSupported(open, out string reason), Is.False);
            Assert.That(reason, Is.EqualTo(sentence));
        }
    }
}
