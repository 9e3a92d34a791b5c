// SPDX-License-Identifier: Apache-2.0
// kv_attention: a worked example, what must hold exactly, layouts of others, what the API refuses, and captured attention of a real model.

using System.Text.Json;
using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvAttentionTests
{
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_TwoSlots_WeighsValues(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using var cache = new SmallCache<float>(open, length: 2, headDim: 2, keys: [1, 0, 0, 0], values: [4, 0, 0, 8]);
        using DeviceTensor<float> q = open.Upload<float>([MathF.Log(3), 7], 1, 1, 2);
        using DeviceTensor<float> output = open.Allocate<float>(1, 1, 2);
        using DeviceTensor<float> lse = open.Allocate<float>(1, 1);
        Run(open, new KvAttention { Cache = cache.View, Q = q, Output = output, LogSumExp = lse, Scale = 1 });
        // Scores ln 3 and 0: weights 3/4 and 1/4.
        Assert.That(output.ToArray(), Is.EqualTo(new float[] { 3, 2 }).Within(1e-6));
        Assert.That(lse.ToArray()[0], Is.EqualTo(MathF.Log(4)).Within(1e-6));
        Assert.That(Device.LastImplementation, Does.StartWith("kv_attention/"));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_QueriesThatSeeNothing_AreZeroAndMinusInfinity(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using var cache = new SmallCache<float>(open, length: 1, headDim: 2, keys: [1, 2], values: [5, 6]);
        using DeviceTensor<float> q = open.Upload<float>([1, 1, 1, 1, 1, 1], 3, 1, 2);
        using DeviceTensor<float> output = open.Upload<float>([9, 9, 9, 9, 9, 9], 3, 1, 2);
        using DeviceTensor<float> lse = open.Upload<float>([9, 9, 9], 3, 1);
        Run(open, new KvAttention { Cache = cache.View, Q = q, Output = output, LogSumExp = lse, Causal = true, Scale = 1 });
        Assert.That(output.ToArray(), Is.EqualTo(new float[] { 0, 0, 0, 0, 5, 6 }));
        Assert.That(lse.ToArray(), Is.EqualTo(new[] { float.NegativeInfinity, float.NegativeInfinity, 3 }));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.Cpu))]
    public void Run_NanInASlotThatARowDoesNotSee_StaysOut(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int tokens = 21, width = 32;
        var random = new InputRandom(5);
        float[] keys = Values(random, tokens * width), values = Values(random, tokens * width), queries = Values(random, tokens * 3 * width);
        float[] clean = Prefill(open, keys, values, queries, tokens, width);
        for (int slot = 1; slot < tokens; slot += 9)
        {
            float[] badKeys = [.. keys], badValues = [.. values];
            badKeys.AsSpan(slot * width, width).Fill(float.NaN);
            badValues.AsSpan(slot * width, width).Fill(float.PositiveInfinity);
            float[] got = Prefill(open, badKeys, badValues, queries, tokens, width);
            int before = slot * 3 * width;
            Assert.That(got[..before], Is.EqualTo(clean[..before]), $"slot {slot} reached a row before it");
            Assert.That(got[before..].All(float.IsNaN), Is.True, $"slot {slot} did not reach every row from it on");
        }
    }

    // A window begins anywhere in a tile, and in a pair of slots, and at another slot for each query.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.Cpu))]
    public void Run_NanInASlotThatAWindowHasLeft_StaysOut(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int tokens = 150, heads = 3, width = 32, window = 41;
        Sequence[] sequences = [new(0, tokens, tokens)];
        float[] queries = Attending.Queries(sequences, heads, width);
        foreach ((DType type, KvLayout layout) in new[] { (DType.F32, KvLayout.Rows), (DType.BF16, KvLayout.Tiled), (DType.F16, KvLayout.Tiled) })
        {
            var shape = new KvCacheShape(type, 1, 1, width, PageSize: 32) { Layout = layout };
            Attended Run(int bad) => Attending.Run(
                open,
                Attending.Cache(shape, sequences).FillValues((_, _, slot, c) => slot == bad ? double.NaN : Attending.Noise(2, 0, 0, slot, c)),
                queries,
                heads,
                [tokens],
                op => op with { Window = window });
            Attended clean = Run(-1);
            foreach (int bad in new[] { 0, 63, 70, 101 })
            {
                Attended got = Run(bad);
                int first = bad * heads * width, end = Math.Min(tokens, bad + window) * heads * width;
                Assert.That(got.Output[..first], Is.EqualTo(clean.Output[..first]), $"{type}: slot {bad} reached a row before it");
                Assert.That(got.Output[first..end], Is.All.NaN, $"{type}: slot {bad} did not reach the rows that see it");
                Assert.That(got.Output[end..], Is.EqualTo(clean.Output[end..]), $"{type}: slot {bad} reached a row whose window had left it");
            }
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_OtherPageSizesAndLayouts_BitwiseEqual(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int heads = 2, length = 77, width = 64;
        var random = new InputRandom(6);
        Half[] keys = [.. Values(random, heads * length * width).Select(v => (Half)v)], values = [.. Values(random, heads * length * width).Select(v => (Half)v)];
        using DeviceTensor<float> q = open.Upload<float>(Values(random, 3 * 4 * width), 3, 4, width);
        float[]? first = null;
        foreach ((int pageSize, PoolLayout layout) in new[] { (64, PoolLayout.HeadMajor), (1, PoolLayout.HeadMajor), (16, PoolLayout.SlotsThenHeads), (100, PoolLayout.HeadsThenSlots), (256, PoolLayout.KeysAndValuesTogether) })
        {
            using var pool = new StridedPool(open, heads, length, width, pageSize, layout, keys, values);
            using DeviceTensor<float> output = open.Allocate<float>(3, 4, width);
            Run(open, new KvAttention { Cache = pool.View, Q = q, Output = output, Causal = true });
            float[] got = output.ToArray();
            first ??= got;
            Assert.That(got, Is.EqualTo(first), $"pages of {pageSize}, {layout}");
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.Cpu))]
    public void Run_LongContext_KeepsTheDigitsOfFp32(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        KvAttentionHarness harness = new();
        var opCase = new OpCase("kv_attention", "long", new HashSet<string>(StringComparer.Ordinal), new Dictionary<string, string>(StringComparer.Ordinal) { ["q_heads"] = "2", ["head_dim"] = "16", ["length"] = "40000" });
        using OpRun run = harness.Create(opCase, DataFamily.Wide, 1).Bind(open, Poison.Nan);
        run.Run();
        Comparison comparison = run.Compare();
        Assert.That(comparison.Passes, Is.True, $"error {comparison.Error:g3} above {comparison.Gate:g3}");
    }

    [TestCase("cpu")]
    [TestCase("simt")]
    public void WorkspaceBytes_LargerExtents_NeverLess(string id)
    {
        TestDevice device = new(id, null);
        if (TestDevices.Skipped.Any(s => s.Device == device)) Assert.Ignore(TestDevices.Skipped.First(s => s.Device == device).Reason);
        Device open = TestDevices.Open(device);
        foreach (int maxPages in new[] { 0, 1, 4, 64, 2048 })
        {
            foreach (int kvHeads in new[] { 1, 3, 8 })
            {
                long last = 0;
                foreach (int tokens in new[] { 0, 1, 2, 15, 16, 17, 48, 49, 64, 100, 500, 1000, 100_000 })
                {
                    long bytes = Shapes(tokens, 3 * kvHeads, kvHeads, maxPages).WorkspaceBytes(open);
                    Assert.That(bytes, Is.GreaterThanOrEqualTo(last), $"{tokens} tokens, {kvHeads} KV heads, {maxPages} pages");
                    Assert.That(bytes, Is.LessThanOrEqualTo(Shapes(tokens, 3 * kvHeads, kvHeads, maxPages + 1).WorkspaceBytes(open)));
                    Assert.That(bytes, Is.LessThan(64 << 20), "a workspace must not grow with the context");
                    last = bytes;
                }
            }
        }
    }

    [Test]
    public void Run_WrongShapesAndOptions_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using var cache = new SmallCache<float>(open, length: 2, headDim: 2, keys: [1, 0, 0, 0], values: [4, 0, 0, 8]);
        using DeviceTensor<float> q = open.Upload<float>([1, 1], 1, 1, 2), wide = open.Upload<float>([1, 1, 1], 1, 1, 3), lse = open.Upload<float>([9, 9], 2, 1);
        using DeviceTensor<float> output = open.Upload<float>([9, 9], 1, 1, 2);
        using DeviceTensor<int> integers = open.Upload<int>([0, 1], 1, 1, 2), offsets = open.Upload<int>([0, 2], 2), falling = open.Upload<int>([1, 0], 2);
        KvCache view = cache.View;
        var good = new KvAttention { Cache = view, Q = q, Output = output };

        AssertFails(good with { Q = wide }, StrataStatus.Shape, "kv_attention: q.shape[2] is 3, must equal cache head_dim = 2; pass queries of the cache's width");
        AssertFails(good with { Q = integers }, StrataStatus.DType, "kv_attention: q.dtype is i32 (4), must be f32 or f16 or bf16; convert it first");
        AssertFails(good with { Output = default }, StrataStatus.Shape, "kv_attention: out.ndim is 0, must be 3; describe the tensor with all its dimensions");
        AssertFails(good with { LogSumExp = lse }, StrataStatus.Shape, "kv_attention: lse.shape[0] is 2, must be 1; give it one number per query head of each token");
        AssertFails(good with { Scale = float.NaN }, StrataStatus.Argument, "kv_attention: scale is NaN, must be finite; pass 0 for 1 / sqrt(head_dim)");
        AssertFails(good with { MaxLength = 999 }, StrataStatus.Argument, "kv_attention: max_length is 999, must be 0 to 4; no length exceeds the page table");
        AssertFails(good with { Cache = view with { Values = q.View.Reshape(1, 1, 1, 2) } }, StrataStatus.Shape, "kv_attention: cache.values.shape[2] is 1, must be 4 to match cache.keys; keep keys and values in pools of one shape");
        AssertFails(good with { Q = q.View.Reshape(1, 1, 2), Output = q.View.Reshape(1, 1, 2) }, StrataStatus.Argument, "kv_attention: out overlaps q, must be separate memory; give the output memory of its own", shapesOnly: false);
        AssertFails(good with { RowOffsets = offsets }, StrataStatus.Index, "kv_attention: row_offsets[1] is 2, must rise from 0 to the row count 1; rebuild the offsets", shapesOnly: false);
        AssertFails(good with { RowOffsets = falling }, StrataStatus.Index, "kv_attention: row_offsets[0] is 1, must rise from 0 to the row count 1; rebuild the offsets", shapesOnly: false);
        AssertFails(good with { MaxLength = 1 }, StrataStatus.Index, "kv_attention: cache.lengths[0,0] is 2, must be at most max_length = 1; raise max_length or leave it 0", shapesOnly: false);
        foreach (int page in new[] { -1, 1, int.MinValue, int.MaxValue })
        {
            cache.PageTable.CopyFrom([page]);
            AssertFails(good, StrataStatus.Index, $"kv_attention: cache.page_table[0,0,0] is {page}, must be 0 to 0; give every used slot a page of the pool", shapesOnly: false);
        }
        cache.PageTable.CopyFrom([0]);
        foreach (int length in new[] { -1, 5, int.MinValue, int.MaxValue })
        {
            cache.Lengths.CopyFrom([length]);
            AssertFails(good, StrataStatus.Index, $"kv_attention: cache.lengths[0,0] is {length}, must be 0 to 4 (max_pages * page_size); widen the page table or shorten the sequence", shapesOnly: false);
        }
        Assert.That(output.ToArray(), Is.All.EqualTo(9f));

        void AssertFails(KvAttention op, StrataStatus status, string sentence, bool shapesOnly = true)
        {
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open))!;
            Assert.That((e.Status, e.Message), Is.EqualTo((status, sentence)));
            Assert.That(op.IsSupported(open, out string reason), Is.EqualTo(!shapesOnly));
            Assert.That(reason, Is.EqualTo(shapesOnly ? sentence : ""));
        }
    }

    // What only the device can see reads as zeros and is reported by the next synchronisation.
    [Test]
    public void Run_BadIndicesInDeviceMemory_ReadAsZerosAndReported([Values("simt", "cuda:0")] string id, [Values(DType.F32, DType.F16)] DType type)
    {
        TestDevice device = new(id, null);
        if (TestDevices.Skipped.Any(s => s.Device == device)) Assert.Ignore(TestDevices.Skipped.First(s => s.Device == device).Reason);
        Device open = TestDevices.Open(device);
        const int width = 8;
        var random = new InputRandom(8);
        float[] rows = Values(random, 4 * width), q = Values(random, width);
        float[] zeros = new float[4 * width];

        float[] Attend(float[] keysAndValues, int page, int length, int[]? offsets = null)
        {
            using IDisposable cache = type == DType.F32
                ? new SmallCache<float>(open, length, width, keysAndValues, keysAndValues, page)
                : new SmallCache<Half>(open, length, width, [.. keysAndValues.Select(v => (Half)v)], [.. keysAndValues.Select(v => (Half)v)], page);
            using DeviceTensor<float> queries = open.Upload<float>(q, 1, 1, width);
            using DeviceTensor<float> output = open.Upload<float>(new float[width], 1, 1, width);
            using DeviceTensor<int>? rowOffsets = offsets is null ? null : open.Upload<int>(offsets, 2);
            new KvAttention { Cache = ((ISmallCache)cache).View, Q = queries, Output = output, RowOffsets = rowOffsets }.Run(open, Workspace(open, 1));
            open.Synchronize();
            return output.ToArray();
        }

        Assert.That(Attend(rows, 0, 4), Is.Not.EqualTo(Attend(zeros, 0, 4)));
        foreach (int page in new[] { -1, 1, int.MinValue, int.MaxValue })
        {
            DeviceFaultException e = Assert.Throws<DeviceFaultException>(() => Attend(rows, page, 4))!;
            Assert.That(e.Message, Does.Contain("a page index outside the pool"));
        }
        foreach (int length in new[] { -1, 5, int.MinValue, int.MaxValue })
        {
            DeviceFaultException e = Assert.Throws<DeviceFaultException>(() => Attend(rows, 0, length))!;
            Assert.That(e.Message, Does.Contain("a length outside its table"));
        }
        foreach (int[] offsets in new int[][] { [0, 2], [0, -1], [1, 0], [0, int.MaxValue], [int.MinValue, 1] })
        {
            DeviceFaultException e = Assert.Throws<DeviceFaultException>(() => Attend(rows, 0, 4, offsets))!;
            Assert.That(e.Message, Does.Contain("row offset out of range"));
        }
        Assert.That(Attend(rows, 0, 4), Has.Some.Not.Zero, "a reported fault is over");
    }

    // Layer 14 of SmolLM2-135M on real text, in fp16 as captured: the last four of 1024 queries, over all slots and over the slots that SnapKV kept.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_CapturedLayer_AgreesWithGolden(TestDevice device)
    {
        SafeTensors capture = SafeTensors.Open(SharedData.Require("golden/kv/capture.safetensors"));
        SafeTensors golden = SafeTensors.Open(SharedData.Require("golden/kv/attention_after_eviction.safetensors"));
        using JsonDocument kept = JsonDocument.Parse(File.ReadAllText(SharedData.Require("golden/kv/kept.json")));
        Device open = TestDevices.Open(device);
        int[][] slots = [.. kept.RootElement.GetProperty("snapkv_w32_avg5").GetProperty("L14").GetProperty("128").GetProperty("rows").EnumerateArray()
            .Select(row => row.GetProperty("kept").EnumerateArray().Select(s => s.GetInt32()).ToArray())];
        int[] all = [.. Enumerable.Range(0, 1024)];
        double gate = device.Id == "cpu" ? 1e-5 : 6e-4;

        Check(Attend(open, capture, [all, all, all], 4), "out_full", "lse_full");
        Check(Attend(open, capture, slots, 4), "out_kept", "lse_kept");
        if (device.Id == "cpu") Check(Attend(open, capture, [all, all, all], 1024), "out_full", "lse_full");

        void Check((double[] Output, double[] Lse) got, string output, string lse)
        {
            Comparison comparison = Comparison.Rows(got.Output, Array.ConvertAll(golden[output].Floats(), v => (double)v), 64, gate, output);
            Assert.That(comparison.Passes, Is.True, $"{output}: error {comparison.Error:g3} above {comparison.Gate:g3} at {comparison.Where}");
            Assert.That(got.Lse, Is.EqualTo(golden[lse].Floats()).Within(2e-5), lse);
        }
    }

    /// <summary>The last four queries of the capture, as the last of `tokens` rows: [head][query][channel].</summary>
    private static (double[] Output, double[] Lse) Attend(Device open, SafeTensors capture, int[][] slots, int tokens)
    {
        const int heads = 9, width = 64, page = 64, length = 1024;
        Half[] queries = capture["L14.q"].Halves(), keys = capture["L14.k"].Halves(), values = capture["L14.v"].Halves();
        int pages = (slots[0].Length + page - 1) / page;
        var q = new Half[tokens * heads * width];
        var k = new Half[3 * pages * page * width];
        var v = new Half[k.Length];
        for (int t = 0; t < tokens; t++)
        {
            for (int h = 0; h < heads; h++) queries.AsSpan(((h * length) + length - tokens + t) * width, width).CopyTo(q.AsSpan(((t * heads) + h) * width));
        }
        for (int h = 0; h < 3; h++)
        {
            for (int i = 0; i < slots[h].Length; i++)
            {
                int from = ((h * length) + slots[h][i]) * width, to = ((h * pages * page) + i) * width;
                keys.AsSpan(from, width).CopyTo(k.AsSpan(to));
                values.AsSpan(from, width).CopyTo(v.AsSpan(to));
            }
        }
        using DeviceTensor<Half> keyPool = open.Upload<Half>(k, 3 * pages, 1, page, width), valuePool = open.Upload<Half>(v, 3 * pages, 1, page, width), query = open.Upload<Half>(q, tokens, heads, width);
        using DeviceTensor<int> table = open.Upload<int>([.. Enumerable.Range(0, 3 * pages)], 1, 3, pages), lengths = open.Upload<int>([.. slots.Select(s => s.Length)], 1, 3);
        using DeviceTensor<float> output = open.Allocate<float>(tokens, heads, width), lse = open.Allocate<float>(tokens, heads);
        Run(open, new KvAttention { Cache = new KvCache { Keys = keyPool, Values = valuePool, PageTable = table, Lengths = lengths }, Q = query, Output = output, LogSumExp = lse, Causal = true });
        float[] rows = output.ToArray(), sums = lse.ToArray();
        var result = (Output: new double[heads * 4 * width], Lse: new double[heads * 4]);
        for (int h = 0; h < heads; h++)
        {
            for (int i = 0; i < 4; i++)
            {
                int row = ((tokens - 4 + i) * heads) + h;
                result.Lse[(h * 4) + i] = sums[row];
                for (int d = 0; d < width; d++) result.Output[(((h * 4) + i) * width) + d] = rows[(row * width) + d];
            }
        }
        return result;
    }

    private static float[] Prefill(Device open, float[] keys, float[] values, float[] queries, int tokens, int width)
    {
        using var cache = new SmallCache<float>(open, tokens, width, keys, values, page: 0, pageSize: tokens);
        using DeviceTensor<float> q = open.Upload<float>(queries, tokens, 3, width), output = open.Allocate<float>(tokens, 3, width);
        Run(open, new KvAttention { Cache = cache.View, Q = q, Output = output, Causal = true });
        return output.ToArray();
    }

    private static float[] Values(InputRandom random, int count) => [.. Enumerable.Range(0, count).Select(_ => (float)random.Gaussian())];

    private static KvAttention Shapes(int tokens, int heads, int kvHeads, int maxPages)
    {
        TensorView Floats(params long[] shape) => TensorView.Borrow(0, DType.F16, shape, null);
        TensorView Integers(params long[] shape) => TensorView.Borrow(0, DType.I32, shape, null);
        return new KvAttention
        {
            Cache = new KvCache { Keys = Floats(10, 1, 64, 64), Values = Floats(10, 1, 64, 64), PageTable = Integers(1, kvHeads, maxPages), Lengths = Integers(1, kvHeads) },
            Q = Floats(tokens, heads, 64),
            Output = Floats(tokens, heads, 64),
        };
    }

    private static void Run(Device open, KvAttention op)
    {
        using DeviceBuffer workspace = Workspace(open, op.WorkspaceBytes(open));
        op.Run(open, workspace);
        open.Synchronize();
    }

    private static DeviceBuffer Workspace(Device open, long bytes) => open.Allocate(Math.Max(1 << 16, bytes));
}
