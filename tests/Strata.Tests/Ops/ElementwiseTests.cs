// SPDX-License-Identifier: Apache-2.0
// elementwise: worked examples, the ends of the exponential, and what the API refuses.

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class ElementwiseTests
{
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_WorkedExamples_MatchFormula(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using DeviceTensor<float> a = open.Upload<float>([1, -1, 0], 1, 3);
        using DeviceTensor<float> b = open.Upload<float>([2, 3, 5], 1, 3);
        using DeviceTensor<float> y = open.Allocate<float>(1, 3);
        new Elementwise { A = a, B = b, Y = y, Function = ElementwiseFunction.Add }.Run(open);
        open.Synchronize();
        Assert.That(y.ToArray(), Is.EqualTo(new float[] { 3, 2, 5 }));

        new Elementwise { A = a, B = b, Y = y, Function = ElementwiseFunction.SiluMul }.Run(open);
        open.Synchronize();
        Assert.That(y.ToArray(), Is.EqualTo(new[] { 1.4621172f, -0.8068243f, 0f }).Within(1e-6));
        Assert.That(Device.LastImplementation, Does.StartWith("elementwise/"));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_SiluOfExtremes_NeitherOverflowsNorInventsNumbers(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        float[] at = [-1e30f, -200, -89, 89, 200, 1e30f, float.PositiveInfinity, float.NaN];
        using DeviceTensor<float> a = open.Upload<float>(at, 1, at.Length);
        using DeviceTensor<float> ones = open.Upload<float>([1, 1, 1, 1, 1, 1, 1, 1], 1, at.Length);
        new Elementwise { A = a, B = ones, Y = a, Function = ElementwiseFunction.SiluMul }.Run(open);
        open.Synchronize();
        float[] got = a.ToArray();
        Assert.That(got[..3], Is.All.EqualTo(0f).Within(1e-30));
        Assert.That(got[3..7], Is.EqualTo(at[3..7]), "large gates pass their value");
        Assert.That(got[7], Is.NaN);
    }

    [Test]
    public void Run_WrongShapesAndTypes_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using DeviceTensor<float> a = open.Upload<float>([1, 2, 3, 4, 5, 6], 2, 3);
        using DeviceTensor<float> b = open.Upload<float>([1, 2, 3, 4], 2, 2);
        using DeviceTensor<Half> halves = open.Allocate<Half>(2, 3);
        using DeviceTensor<float> y = open.Upload<float>([9, 9, 9, 9, 9, 9], 2, 3);

        AssertFails(new Elementwise { A = a, B = b, Y = y }, StrataStatus.Shape, "elementwise: b.shape[1] is 2, must equal a.shape[1] = 3; give b the width of a");
        AssertFails(new Elementwise { A = a, B = halves, Y = y }, StrataStatus.DType, "elementwise: b.dtype is f16 (2), must be f32; convert it first");
        AssertFails(new Elementwise { A = a, B = a, Y = y, Function = (ElementwiseFunction)7 }, StrataStatus.Argument, "elementwise: function is 7, must be 0 to 1; choose a strata_elementwise_function");
        AssertFails(new Elementwise { A = a, B = y }, StrataStatus.Shape, "elementwise: y.ndim is 0, must be 2; describe the tensor with all its dimensions");
        AssertFails(new Elementwise { A = a.View.Slice(0, 1), B = y.View.Slice(0, 1), Y = TensorView.Borrow<float>(a.View.Pointer + 4, [1, 3], a) }, StrataStatus.Argument, "elementwise: y overlaps a, must be the same view or separate memory; give the output memory of its own");
        Assert.That(y.ToArray(), Is.All.EqualTo(9f));

        void AssertFails(Elementwise op, StrataStatus status, string sentence)
        {
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open))!;
            Assert.That((e.Status, e.Message), Is.EqualTo((status, sentence)));
            Assert.That(op.IsSupported(open, out string reason) && reason.Length == 0, Is.EqualTo(sentence.Contains("overlaps", StringComparison.Ordinal)), "supported() looks at shapes only");
        }
    }
}
