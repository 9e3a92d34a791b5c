// SPDX-License-Identifier: Apache-2.0
// embed: a worked example and ids out of range. That every value is the weight's is tested with qgemm's unit vectors.

using Strata.Reference;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class EmbedTests
{
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_WorkedExample_GivesTheRows(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        float[] rows = [1, 2, 3, 4, 5, 6];
        using PackedWeight w = PackedWeight.Pack(open, WeightFormat.F32, 3, 2, System.Runtime.InteropServices.MemoryMarshal.AsBytes(rows.AsSpan()));
        using DeviceTensor<int> ids = open.Upload<int>([2, 0], 2);
        using DeviceTensor<float> y = open.Allocate<float>(2, 2);
        new Embed { Ids = ids, Y = y, W = w }.Run(open);
        open.Synchronize();
        Assert.That(y.ToArray(), Is.EqualTo(new float[] { 5, 6, 1, 2 }));
        Assert.That(Device.LastImplementation, Does.StartWith("embed/"));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_IdOutOfRange_IsReported(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using PackedWeight w = HostWeight.Create(WeightFormat.Q8_0, 20, 64, 0, exact: false, seed: 1).Pack(open);
        foreach (int bad in new[] { -1, 20, int.MaxValue, int.MinValue })
        {
            using DeviceTensor<int> ids = open.Upload<int>([3, bad], 2);
            using DeviceTensor<float> y = open.Upload<float>([.. Enumerable.Repeat(9f, 128)], 2, 64);
            var op = new Embed { Ids = ids, Y = y, W = w };
            if (open.Id == "cpu")
            {
                StrataException e = Assert.Throws<StrataException>(() => op.Run(open))!;
                Assert.That((e.Status, e.Message), Is.EqualTo((StrataStatus.Index, $"embed: ids[1] is {bad}, must be 0 to 19; pass ids of this model's vocabulary")));
                Assert.That(y.ToArray(), Is.All.EqualTo(9f));
            }
            else
            {
                op.Run(open);
                Assert.Throws<DeviceFaultException>(open.Synchronize);
                Assert.That(y.ToArray()[64..], Is.All.Zero);
            }
        }
    }
}
