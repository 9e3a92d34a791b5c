// SPDX-License-Identifier: Apache-2.0
// kv_append: a worked example, what must hold exactly, and what the API refuses.

using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvAppendTests
{
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_TwoTokens_LastSlotsOfTheSequence(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using var cache = new SmallCache<float>(open, length: 3, headDim: 2, keys: [1, 2], values: [3, 4]);
        using DeviceTensor<int> stored = open.Upload<int>([10, 9, 9, 9], 1, 1, 4), positions = open.Upload<int>([11, 12], 2);
        using DeviceTensor<float> keys = open.Upload<float>([5, 6, 7, 8], 2, 1, 2), values = open.Upload<float>([-5, -6, -7, -8], 2, 1, 2);
        new KvAppend { Cache = cache.View with { Positions = stored }, Keys = keys, Values = values, Positions = positions }.Run(open);
        open.Synchronize();
        Assert.That(cache.Keys.ToArray(), Is.EqualTo(new float[] { 1, 2, 5, 6, 7, 8, 0, 0 }));
        Assert.That(cache.Values.ToArray(), Is.EqualTo(new float[] { 3, 4, -5, -6, -7, -8, 0, 0 }));
        Assert.That(stored.ToArray(), Is.EqualTo(new[] { 10, 11, 12, 9 }));
        Assert.That(Device.LastImplementation, Does.StartWith("kv_append/"));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_Rope_TurnsKeysOnly(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using DeviceTensor<float> keys = open.Upload<float>([1, 2, 3, 4, 5], 1, 1, 5), values = open.Upload<float>([1, 2, 3, 4, 5], 1, 1, 5);
        using DeviceTensor<int> positions = open.Upload<int>([1], 1);
        // Base 1 gives every pair the frequency `scale`: a quarter turn at position 1. Channel 4 is past dims.
        var quarter = new RopeParameters { Base = 1, FrequencyScale = (float)(Math.PI / 2), Dims = 4 };
        foreach ((RopeMode mode, float[] want) in new[] { (RopeMode.Interleaved, new float[] { -2, 1, -4, 3, 5 }), (RopeMode.Half, [-3, -4, 1, 2, 5]), (RopeMode.None, [1, 2, 3, 4, 5]) })
        {
            using var cache = new SmallCache<float>(open, length: 1, headDim: 5, keys: [], values: []);
            new KvAppend { Cache = cache.View, Keys = keys, Values = values, Positions = positions, Rope = quarter with { Mode = mode } }.Run(open);
            open.Synchronize();
            Assert.That(cache.Keys.ToArray()[..5], Is.EqualTo(want).Within(1e-6), $"{mode}");
            Assert.That(cache.Values.ToArray()[..5], Is.EqualTo(new float[] { 1, 2, 3, 4, 5 }));
        }
    }

    // The same key, appended at once or token by token, is the same bits: a cache does not remember how it was filled.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_AtOnceOrTokenByToken_BitwiseEqual(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int tokens = 40, width = 64;
        var random = new InputRandom(4);
        float[] rows = [.. Enumerable.Range(0, tokens * width).Select(_ => (float)random.Gaussian())];
        using DeviceTensor<float> keys = open.Upload<float>(rows, tokens, 1, width);
        using DeviceTensor<int> positions = open.Upload<int>([.. Enumerable.Range(100, tokens)], tokens);
        var rope = new RopeParameters { Mode = RopeMode.Half };
        using var whole = new SmallCache<BFloat16>(open, tokens, width, [], [], page: 0, pageSize: tokens);
        new KvAppend { Cache = whole.View, Keys = keys, Values = keys, Positions = positions, Rope = rope }.Run(open);
        using var single = new SmallCache<BFloat16>(open, 0, width, [], [], page: 0, pageSize: tokens);
        for (int t = 0; t < tokens; t++)
        {
            single.Lengths.CopyFrom([t + 1]);
            TensorView row = keys.View.Slice(t, 1);
            new KvAppend { Cache = single.View, Keys = row, Values = row, Positions = positions.View.Slice(t, 1), Rope = rope }.Run(open);
        }
        open.Synchronize();
        Assert.That(single.Keys.ToArray(), Is.EqualTo(whole.Keys.ToArray()));
        Assert.That(single.Values.ToArray(), Is.EqualTo(whole.Values.ToArray()));
    }

    [Test]
    public void Run_WrongShapesAndOptions_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using var cache = new SmallCache<float>(open, length: 1, headDim: 2, keys: [9, 9], values: [9, 9]);
        using DeviceTensor<float> one = open.Upload<float>([1, 2], 1, 1, 2), two = open.Upload<float>([1, 2, 3, 4], 2, 1, 2), heads = open.Upload<float>([1, 2, 3, 4], 1, 2, 2);
        using DeviceTensor<Half> halves = open.Upload<Half>([(Half)1, (Half)2], 1, 1, 2);
        using DeviceTensor<int> positions = open.Upload<int>([0, 1], 2), stored = open.Upload<int>([9, 9, 9, 9], 1, 1, 4), offsets = open.Upload<int>([0, 2], 2);
        var good = new KvAppend { Cache = cache.View, Keys = one, Values = one };

        AssertFails(good with { Keys = heads, Values = heads }, StrataStatus.Shape, "kv_append: keys.shape[1] is 2, must equal cache kv_heads = 1; pass one row per KV head");
        AssertFails(good with { Values = two }, StrataStatus.Shape, "kv_append: values.shape[0] is 2, must equal keys.shape[0] = 1; pass as many values as keys");
        AssertFails(good with { Values = halves }, StrataStatus.DType, "kv_append: values.dtype is f16 (2), must be f32; convert it first");
        AssertFails(good with { Rope = new RopeParameters { Mode = RopeMode.Half } }, StrataStatus.Argument, "kv_append: positions is absent, must be there for rope; pass one logical position per token");
        AssertFails(good with { Cache = cache.View with { Positions = stored } }, StrataStatus.Argument, "kv_append: positions is absent, must be there for cache.positions; pass one logical position per token");
        AssertFails(good with { Positions = positions }, StrataStatus.Shape, "kv_append: positions.shape[0] is 2, must equal keys.shape[0] = 1; pass one logical position per token");
        AssertFails(good with { FrequencyFactors = one.View.Reshape(2) }, StrataStatus.Shape, "kv_append: frequency_factors.shape[0] is 2, must equal rope.dims / 2 = 1; pass one factor per pair that turns");
        AssertFails(good with { FrequencyFactors = halves.View.Reshape(2).Slice(0, 1) }, StrataStatus.DType, "kv_append: frequency_factors.dtype is f16 (2), must be f32; convert it first");
        AssertFails(good with { Rope = new RopeParameters { Mode = (RopeMode)7 } }, StrataStatus.Argument, "kv_append: rope.mode is 7, must be 0 to 2; choose a strata_rope_mode");
        AssertFails(good with { Keys = two, Values = two }, StrataStatus.Index, "kv_append: cache.lengths[0,0] is 1, must be at least the 2 rows of sequence 0; lengths count the new tokens already", shapesOnly: false);
        AssertFails(good with { RowOffsets = offsets }, StrataStatus.Index, "kv_append: row_offsets[1] is 2, must rise from 0 to the row count 1; rebuild the offsets", shapesOnly: false);
        AssertFails(good with { Keys = cache.Keys.View.Slice(0, 1).Reshape(4, 1, 2).Slice(0, 1) }, StrataStatus.Argument, "kv_append: cache.keys overlaps keys, must be separate memory; give the output memory of its own", shapesOnly: false);
        cache.PageTable.CopyFrom([-1]);
        AssertFails(good, StrataStatus.Index, "kv_append: cache.page_table[0,0,0] is -1, must be 0 to 0; give every used slot a page of the pool", shapesOnly: false);
        Assert.That(cache.Keys.ToArray(), Is.EqualTo(new float[] { 9, 9, 0, 0, 0, 0, 0, 0 }));
        Assert.That(cache.Values.ToArray(), Is.EqualTo(new float[] { 9, 9, 0, 0, 0, 0, 0, 0 }));
        Assert.That(stored.ToArray(), Is.All.EqualTo(9));

        void AssertFails(KvAppend op, StrataStatus status, string sentence, bool shapesOnly = true)
        {
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open))!;
            Assert.That((e.Status, e.Message), Is.EqualTo((status, sentence)));
            Assert.That(op.IsSupported(open, out string reason), Is.EqualTo(!shapesOnly));
            Assert.That(reason, Is.EqualTo(shapesOnly ? sentence : ""));
        }
    }

    // What only the device can see: the row is not written, the next synchronisation reports it.
    [Test]
    public void Run_BadIndicesInDeviceMemory_NothingWrittenAndReported([Values("simt", "cuda:0")] string id)
    {
        TestDevice device = new(id, null);
        if (TestDevices.Skipped.Any(s => s.Device == device)) Assert.Ignore(TestDevices.Skipped.First(s => s.Device == device).Reason);
        Device open = TestDevices.Open(device);
        using DeviceTensor<float> rows = open.Upload<float>([1, 2], 1, 1, 2);
        foreach ((int page, int length, int[] offsets, string what) in new[]
        {
            (-1, 1, new[] { 0, 1 }, "a page index outside the pool"), (1, 1, [0, 1], "a page index outside the pool"), (int.MinValue, 1, [0, 1], "a page index outside the pool"),
            (0, 0, [0, 1], "a length outside its table or a count outside its row"), (0, 5, [0, 1], "a length outside its table"), (0, int.MinValue, [0, 1], "a length outside its table"),
            (0, 1, [0, 2], "row offset out of range"), (0, 1, [1, 0], "row offset out of range"), (0, 1, [0, int.MinValue], "row offset out of range"),
        })
        {
            using var cache = new SmallCache<float>(open, length, headDim: 2, keys: [], values: [], page);
            using DeviceTensor<int> rowOffsets = open.Upload<int>(offsets, 2);
            new KvAppend { Cache = cache.View, Keys = rows, Values = rows, RowOffsets = rowOffsets }.Run(open);
            DeviceFaultException e = Assert.Throws<DeviceFaultException>(open.Synchronize)!;
            Assert.That(e.Message, Does.Contain(what), $"page {page}, length {length}");
            if (length != 5) Assert.That(cache.Keys.ToArray(), Is.All.Zero);
        }
    }
}
