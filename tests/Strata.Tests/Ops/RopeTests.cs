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

    [Test]
    public void Run_WrongShapesAndOptions_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using DeviceTensor<float> x = open.Upload<float>([1, 2, 3, 4, 5, 6], 1, 2, 3);
        using DeviceTensor<float> y = open.Upload<float>([9, 9, 9, 9, 9, 9], 1, 2, 3);
        using DeviceTensor<Half> halves = open.Allocate<Half>(1, 2, 3);
        using DeviceTensor<int> positions = open.Upload<int>([1], 1);
        using DeviceTensor<int> two = open.Upload<int>([1, 2], 2);
        var mode = new RopeParameters { Mode = RopeMode.Half, Dims = 2 };

        AssertFails(new Rope { X = x, Positions = positions, Y = y }, StrataStatus.Argument, "rope: rope.mode is 0, must be 1 to 2; choose how the model pairs its channels");
        AssertFails(new Rope { X = x, Positions = positions, Y = y, Parameters = mode with { Dims = 0 } }, StrataStatus.Argument, "rope: rope.dims is 3, must be even and 0 to head_dim = 3; rotate whole pairs");
        AssertFails(new Rope { X = x, Positions = positions, Y = y, Parameters = mode with { Base = float.NaN } }, StrataStatus.Argument, "rope: rope.base is NaN and rope.frequency_scale is 1, must both be finite and above 0; take them from the model's metadata");
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
