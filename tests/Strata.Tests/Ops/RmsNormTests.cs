// SPDX-License-Identifier: Apache-2.0
// rms_norm: what the API refuses, and a worked example.

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class RmsNormTests
{
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_WorkedExample_MatchesFormula(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using DeviceTensor<float> x = open.Upload<float>([3, 4], 1, 2);
        using DeviceTensor<float> weight = open.Upload<float>([1, 2], 2);
        using DeviceTensor<float> y = open.Allocate<float>(1, 2);
        new RmsNorm { X = x, Weight = weight, Y = y }.Run(open);
        open.Synchronize();
        // mean square 12.5
        Assert.That(y.ToArray(), Is.EqualTo(new[] { 0.8485281f, 2.2627418f }).Within(1e-6));
        Assert.That(Device.LastImplementation, Does.StartWith("rms_norm/"));
    }

    [Test]
    public void Run_WrongShapesAndTypes_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using DeviceTensor<float> x = open.Upload<float>([1, 2, 3, 4, 5, 6], 2, 3);
        using DeviceTensor<float> weight = open.Upload<float>([1, 1, 1], 3);
        using DeviceTensor<float> narrow = open.Upload<float>([7, 7], 2);
        using DeviceTensor<float> y = open.Upload<float>([9, 9, 9, 9, 9, 9], 2, 3);
        using DeviceTensor<int> integers = open.Allocate<int>(2, 3);

        AssertFails(new RmsNorm { X = x, Weight = narrow, Y = y }, StrataStatus.Shape, "rms_norm: weight.shape[0] is 2, must equal x.shape[1] = 3; pass the gain of this layer");
        AssertFails(new RmsNorm { X = integers, Weight = weight, Y = y }, StrataStatus.DType, "rms_norm: x.dtype is i32 (4), must be f32 or f16 or bf16; convert it first");
        AssertFails(new RmsNorm { X = x, Weight = weight, Y = y, Epsilon = float.NaN }, StrataStatus.Argument, "rms_norm: epsilon is NaN, must be finite and not negative; take it from the model's metadata");
        AssertFails(new RmsNorm { X = x, Weight = weight }, StrataStatus.Shape, "rms_norm: y.ndim is 0, must be 2; describe the tensor with all its dimensions");
        AssertFails(new RmsNorm { X = x.View.Slice(0, 1), Weight = weight, Y = TensorView.Borrow<float>(x.View.Pointer + 4, [1, 3], x) }, StrataStatus.Argument, "rms_norm: y overlaps x, must be the same view or separate memory; give the output memory of its own");
        Assert.That(y.ToArray(), Is.All.EqualTo(9f));

        void AssertFails(RmsNorm op, StrataStatus status, string sentence)
        {
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open))!;
            Assert.That((e.Status, e.Message), Is.EqualTo((status, sentence)));
            Assert.That(op.IsSupported(open, out string reason) && reason.Length == 0, Is.EqualTo(sentence.Contains("overlaps", StringComparison.Ordinal)), "supported() looks at shapes only");
        }
    }
}
