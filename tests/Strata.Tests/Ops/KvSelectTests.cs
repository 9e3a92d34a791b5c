// SPDX-License-Identifier: Apache-2.0
// kv_select: ties and special values by hand, properties, and what the API refuses.

using Strata.Reference;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvSelectTests
{
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_TiesZerosAndNaN_FollowTheRules(TestDevice device)
    {
        float[] scores = [float.NaN, 0f, -0f, float.NegativeInfinity, 5f, 5f, 0f, float.PositiveInfinity];
        Assert.That(Select(device, scores, budget: 1), Is.EqualTo(new[] { 7 }));
        Assert.That(Select(device, scores, budget: 2), Is.EqualTo(new[] { 4, 7 }), "equal scores go to the lower slot");
        Assert.That(Select(device, scores, budget: 5), Is.EqualTo(new[] { 1, 2, 4, 5, 7 }), "-0 and +0 are equal");
        Assert.That(Select(device, scores, budget: 7), Is.EqualTo(new[] { 1, 2, 3, 4, 5, 6, 7 }), "NaN is below -infinity");
        Assert.That(Select(device, scores, budget: 3, first: 1, last: 1), Is.EqualTo(new[] { 0, 4, 7 }), "a protected slot's NaN does not matter");
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_AnyBudget_MatchesStableSort(TestDevice device)
    {
        var random = new InputRandom(11);
        for (int round = 0; round < 20; round++)
        {
            int length = random.Integer(1, 400);
            float[] scores = [.. Enumerable.Range(0, length).Select(_ => (float)random.Integer(-3, 3))];
            int budget = random.Integer(0, length + 3), first = random.Integer(0, 9), last = random.Integer(0, 9);
            Assert.That(Select(device, scores, budget, first, last), Is.EqualTo(KvSelectReference.Run(slot => scores[slot], length, budget, first, last)), $"length {length} budget {budget} first {first} last {last}");
        }
    }

    // A permutation of distinct scores permutes the kept slots and nothing else; a smaller budget keeps a subset.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_PermutedScoresAndSmallerBudget_KeepTheSameKeys(TestDevice device)
    {
        var random = new InputRandom(12);
        int[] order = random.Permutation(3000);
        float[] scores = [.. order.Select(i => i * 0.5f)];
        int[] kept = Select(device, scores, budget: 700);
        Assert.That(kept.Select(slot => order[slot]), Is.EquivalentTo(Enumerable.Range(2300, 700)));
        Assert.That(Select(device, scores, budget: 100), Is.SubsetOf(kept));
    }

    [Test]
    public void Run_WrongArguments_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using DeviceTensor<float> scores = open.Upload<float>([1, 2, 3, 4, 5, 6], 1, 2, 3);
        using DeviceTensor<int> lengths = open.Upload<int>([3, 3], 1, 2);
        using DeviceTensor<int> tooLong = open.Upload<int>([3, 4], 1, 2);
        using DeviceTensor<int> negative = open.Upload<int>([-1, 3], 1, 2);
        using DeviceTensor<int> kept = open.Upload<int>([9, 9, 9, 9], 1, 2, 2);
        using DeviceTensor<int> counts = open.Upload<int>([9, 9], 1, 2);
        using DeviceBuffer workspace = open.Allocate(1 << 16);
        var good = new KvSelect { Scores = scores, Lengths = lengths, Kept = kept, KeptCounts = counts, Budget = 2 };

        AssertFails(good with { Budget = 3 }, StrataStatus.Shape, "kept.shape[2] is 2, must be at least the smaller of budget and max_length = 3");
        AssertFails(good with { Budget = -1 }, StrataStatus.Argument, "budget is -1, must be 0 to 2147483647");
        AssertFails(good with { ProtectFirst = -1 }, StrataStatus.Argument, "protect_first is -1");
        AssertFails(good with { ProtectLast = int.MinValue }, StrataStatus.Argument, "protect_last is -2147483648");
        AssertFails(good with { MaxLength = 4 }, StrataStatus.Shape, "scores.shape[2] is 3, must be at least max_length - protect_last = 4");
        AssertFails(good with { Scores = default }, StrataStatus.Argument, "max_length is 0 and scores are absent, must be an upper bound of the lengths");
        AssertFails(good with { Lengths = default }, StrataStatus.Shape, "lengths.ndim is 0, must be 2");
        AssertFails(good with { Lengths = kept }, StrataStatus.Shape, "lengths.ndim is 3, must be 2");
        AssertFails(good with { Scores = scores.View.Reshape(2, 1, 3) }, StrataStatus.Shape, "scores.shape is 2, must equal lengths.shape[0] (batch) = 1");
        AssertFails(good with { Kept = scores }, StrataStatus.DType, "kept.dtype is f32 (1), must be i32");
        AssertFails(good with { Lengths = tooLong }, StrataStatus.Index, "lengths[0,1] is 4, must be 0 to max_length = 3");
        AssertFails(good with { Lengths = negative }, StrataStatus.Index, "lengths[0,0] is -1, must be 0 to max_length = 3");
        AssertFails(good with { Budgets = negative }, StrataStatus.Index, "the budget of [0,0] is -1 of 3 slots, must be 0 to 2");
        AssertFails(good with { Budgets = lengths }, StrataStatus.Index, "the budget of [0,0] is 3 of 3 slots, must be 0 to 2");
        AssertFails(good with { KeptCounts = lengths }, StrataStatus.Argument, "kept_counts overlaps lengths, must be separate memory");
        StrataException missing = Assert.Throws<StrataException>(() => good.Run(open))!;
        Assert.That((missing.Status, missing.Message), Is.EqualTo((StrataStatus.Workspace, $"kv_select: workspace has 0 bytes, must have {good.WorkspaceBytes(open)}; ask strata_kv_select_workspace")));
        Assert.That(kept.ToArray(), Is.All.EqualTo(9));
        Assert.That(counts.ToArray(), Is.All.EqualTo(9));

        void AssertFails(KvSelect op, StrataStatus status, string part)
        {
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open, workspace), part)!;
            Assert.That(e.Message, Does.StartWith("kv_select: ").And.Contain(part));
            Assert.That(e.Status, Is.EqualTo(status), e.Message);
        }
    }

    // What only the device sees is made safe, and the next synchronisation says so.
    [Test]
    public void Run_BadLengthInDeviceMemory_IsReported([Values("simt", "cuda:0")] string id)
    {
        var device = new TestDevice(id, null);
        if (!TestDevices.All.Contains(device)) Assert.Ignore($"{id} is not available here");
        Device open = TestDevices.Open(device);
        using DeviceTensor<float> scores = open.Upload<float>([1, 2, 3, 4, 5, 6], 1, 2, 3);
        using DeviceTensor<int> lengths = open.Upload<int>([int.MaxValue, -5], 1, 2);
        using DeviceTensor<int> kept = open.Upload<int>([9, 9, 9, 9], 1, 2, 2);
        using DeviceTensor<int> counts = open.Upload<int>([9, 9], 1, 2);
        new KvSelect { Scores = scores, Lengths = lengths, Kept = kept, KeptCounts = counts, Budget = 2 }.Run(open);
        Assert.Throws<DeviceFaultException>(open.Synchronize);
        Assert.That(counts.ToArray(), Is.EqualTo(new[] { 2, 0 }));
        Assert.That(kept.ToArray(), Is.EqualTo(new[] { 1, 2, 9, 9 }), "the length counts as 3, then as 0");
        open.Synchronize();
    }

    private static int[] Select(TestDevice device, float[] scores, int budget, int first = 0, int last = 0)
    {
        Device open = TestDevices.Open(device);
        using DeviceTensor<float> onDevice = open.Upload<float>(scores, 1, 1, scores.Length);
        using DeviceTensor<int> lengths = open.Upload<int>([scores.Length], 1, 1);
        using DeviceTensor<int> kept = open.Allocate<int>(1, 1, scores.Length);
        using DeviceTensor<int> counts = open.Allocate<int>(1, 1);
        var op = new KvSelect { Scores = onDevice, Lengths = lengths, Kept = kept, KeptCounts = counts, Budget = budget, ProtectFirst = first, ProtectLast = last };
        using DeviceBuffer workspace = open.Allocate(Math.Max(1, op.WorkspaceBytes(open)));
        op.Run(open, workspace);
        open.Synchronize();
        return kept.ToArray()[..counts.ToArray()[0]];
    }
}
