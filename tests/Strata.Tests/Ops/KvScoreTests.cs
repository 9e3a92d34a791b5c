// SPDX-License-Identifier: Apache-2.0
// kv_score: values by hand, exact symmetries, and what the API refuses.

using Strata.Reference;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvScoreTests
{
    // The published example of pooling: ln of the probabilities as logits of one query.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_SnapKvWorkedExample_Pools(TestDevice device)
    {
        double[] p = [.30, .02, .01, .20, .01, 1e-6, .05, .01, .4];
        float[] average = [.066f, .106f, .108f, .048f, .054f, .054f, .014f, .012f];
        float[] maximum = [.3f, .3f, .3f, .2f, .2f, .2f, .05f, .05f];
        Assert.That(Score(device, p, KvScoreSettings.SnapKv(window: 1)), Is.EqualTo(average).Within(1e-5));
        float[] pooled = Score(device, p, KvScoreSettings.SnapKv(window: 1, kind: ScorePool.Max));
        Assert.That(pooled, Is.EqualTo(maximum).Within(1e-6));
        Assert.That((pooled[0], pooled[3], pooled[6]), Is.EqualTo((pooled[2], pooled[5], pooled[7])), "a plateau is bitwise flat");
    }

    // Equal logits share evenly: 1 / (slots seen), summed over the rows that see the slot.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_ZeroQueries_CountSlots(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int length = 37, window = 5;
        HostKvCache cache = Cache(length, seed: 3);
        using DeviceKvCache onDevice = cache.Upload(open);
        using DeviceTensor<float> q = open.Upload<float>(new float[window * 4 * 16], 1, window, 4, 16);
        foreach (ScoreHeads heads in Enum.GetValues<ScoreHeads>())
        {
            float[] got = Run(open, onDevice.View, q, new KvScoreSettings { Heads = heads }, length);
            for (int h = 0; h < 2; h++)
            {
                for (int j = 0; j < length; j++)
                {
                    double want = Enumerable.Range(0, window).Where(r => j <= length - window + r).Sum(r => 1.0 / (length - window + r + 1));
                    Assert.That(got[(h * length) + j], Is.EqualTo(want).Within(1e-6 * want));
                }
            }
        }
    }

    // Keys that are equal get scores that are bitwise equal, wherever they lie; pages in another order give the same bits.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_EqualKeysAndMovedPages_AreBitwiseEqual(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int length = 150, window = 6;
        var random = new InputRandom(4);
        double[] key = [.. Enumerable.Range(0, 16).Select(_ => random.Gaussian())];
        using DeviceTensor<float> q = open.Upload<float>([.. Enumerable.Range(0, window * 4 * 16).Select(_ => (float)random.Gaussian())], 1, window, 4, 16);
        var bits = new List<float[]>();
        foreach (int seed in new[] { 3, 5 }) // of the pages' order
        {
            var keys = new InputRandom(9);
            HostKvCache cache = Cache(length, seed).FillKeys((_, _, slot, c) => slot % 7 == 3 ? key[c] : keys.Gaussian());
            using DeviceKvCache onDevice = cache.Upload(open);
            bits.Add(Run(open, onDevice.View, q, KvScoreSettings.Cake(window: window) with { Pool = ScorePool.None, PoolWidth = 0 }, length));
        }
        Assert.That(bits[1], Is.EqualTo(bits[0]));
        float[] equal = [.. Enumerable.Range(0, length - window).Where(slot => slot % 7 == 3).Select(slot => bits[0][slot])];
        Assert.That(equal, Is.All.EqualTo(equal[0]));
    }

    [Test]
    public void Run_WrongArguments_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        const int length = 20, window = 3;
        using DeviceKvCache cache = Cache(length, seed: 1).Upload(open);
        using DeviceTensor<float> q = open.Allocate<float>(1, window, 4, 16);
        using DeviceTensor<float> scores = open.Upload<float>([.. Enumerable.Repeat(7f, 2 * 32)], 1, 2, 32);
        using DeviceTensor<int> tooLong = open.Upload<int>([length, 49], 1, 2);
        using DeviceBuffer workspace = open.Allocate(1 << 20);
        var good = new KvScore { Cache = cache.View, Q = q, Scores = scores, Settings = KvScoreSettings.SnapKv(window), MaxLength = length };
        Assert.That(good.IsSupported(open, out string why), Is.True, why);

        AssertFails(good with { PoolWidth = 4 }, StrataStatus.Argument, "pool_width is 4, must be odd and 1 to 127");
        AssertFails(good with { PoolWidth = 129 }, StrataStatus.Argument, "pool_width is 129, must be odd and 1 to 127");
        AssertFails(good with { Pool = ScorePool.None }, StrataStatus.Argument, "pool_width is 5, must be 0 to 0");
        AssertFails(good with { Statistic = (ScoreStatistic)9 }, StrataStatus.Argument, "statistic is 9, must be 0 to 3");
        AssertFails(good with { Heads = (ScoreHeads)(-1) }, StrataStatus.Argument, "heads is -1, must be 0 to 2");
        AssertFails(good with { Pool = (ScorePool)3 }, StrataStatus.Argument, "pool is 3, must be 0 to 2");
        AssertFails(good with { Gamma = float.NaN }, StrataStatus.Argument, "gamma is NaN");
        AssertFails(good with { Scale = float.PositiveInfinity }, StrataStatus.Argument, "scale is inf");
        AssertFails(good with { ExcludeLast = -1 }, StrataStatus.Argument, "exclude_last is -1");
        AssertFails(good with { MaxLength = -1 }, StrataStatus.Argument, "max_length is -1");
        AssertFails(good with { MaxLength = length - 1 }, StrataStatus.Index, "cache.lengths[0,0] is 20, must be at most max_length = 19");
        AssertFails(good with { MaxLength = 0 }, StrataStatus.Shape, "scores.shape[2] is 32, must be at least max_length - exclude_last = 45");
        AssertFails(good with { Q = q.View.Reshape(1, window, 2, 32) }, StrataStatus.Shape, "q.shape[3] is 32, must equal head_dim = 16");
        AssertFails(good with { Q = q.View.Reshape(window, 1, 4, 16) }, StrataStatus.Shape, "q.shape[0] is 3, must equal batch = 1");
        AssertFails(good with { Q = q.View.Reshape(1, 4, window, 16) }, StrataStatus.Shape, "q.shape[2] (q_heads) is 3, must be a multiple of kv_heads = 2");
        AssertFails(good with { Q = default }, StrataStatus.Shape, "q.ndim is 0, must be 4");
        AssertFails(good with { LogSumExp = scores }, StrataStatus.Shape, "lse.shape[1] is 2, must equal the same extent of q = 3");
        AssertFails(good with { Scores = q }, StrataStatus.Shape, "scores.ndim is 4, must be 3");
        AssertFails(good with { Cache = WithLengths(cache, tooLong) }, StrataStatus.Index, "cache.lengths[0,1] is 49, must be 0 to 48");
        AssertFails(good with { Scores = TensorView.Borrow<float>(cache.Keys.View.Pointer, [1, 2, 32], cache.Keys.Buffer) }, StrataStatus.Argument, "scores overlaps cache.keys, must be separate memory");
        AssertFails(good with { Cache = cache.View with { Rotation = 16 } }, StrataStatus.Unsupported, "cache has key_format 0, value_format 0, layout 0 and rotation 16, must have 0 in all four; keep the caches that this op reads as plain rows");
        AssertFails(good with { Cache = cache.View with { Layout = KvLayout.Tiled } }, StrataStatus.Unsupported, "layout 1 and rotation 0, must have 0 in all four");
        Assert.That(scores.ToArray(), Is.All.EqualTo(7f));

        void AssertFails(KvScore op, StrataStatus status, string part)
        {
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open, workspace), part)!;
            Assert.That(e.Message, Does.StartWith("kv_score: ").And.Contain(part));
            Assert.That(e.Status, Is.EqualTo(status));
        }
    }

    // The workspace grows with the keys and with the rows, never with their product.
    [Test]
    public void WorkspaceBytes_LongCacheAndWindow_StayLinear([Values("cpu", "simt")] string id)
    {
        var device = new TestDevice(id, null);
        if (id != "cpu" && !TestDevices.All.Contains(device)) Assert.Ignore($"{id} is not available here");
        Device open = TestDevices.Open(device);
        long Bytes(int length, int window) => new KvScore
        {
            Cache = new KvCache
            {
                Keys = TensorView.Borrow<Half>(0, [1, 1, 64, 128], owner: null),
                Values = TensorView.Borrow<Half>(0, [1, 1, 64, 128], owner: null),
                PageTable = TensorView.Borrow<int>(0, [1, 8, length / 64], owner: null),
                Lengths = TensorView.Borrow<int>(0, [1, 8], owner: null),
            },
            Q = TensorView.Borrow<Half>(0, [1, window, 32, 128], owner: null),
            Scores = TensorView.Borrow<float>(0, [1, 8, length], owner: null),
            Settings = KvScoreSettings.SnapKv(window, kind: ScorePool.Max),
        }.WorkspaceBytes(open);

        long corner = Bytes(4096, 4096), longer = Bytes(65536, 4096), wider = Bytes(4096, 65536), both = Bytes(65536, 65536);
        Assert.That(both, Is.LessThanOrEqualTo(longer + wider), "no term grows with both");
        Assert.That(longer, Is.GreaterThanOrEqualTo(corner));
        Assert.That(wider, Is.GreaterThanOrEqualTo(corner));
    }

    [Test]
    public void Run_BadPageInDeviceMemory_IsReported([Values("simt", "cuda:0")] string id)
    {
        var device = new TestDevice(id, null);
        if (!TestDevices.All.Contains(device)) Assert.Ignore($"{id} is not available here");
        Device open = TestDevices.Open(device);
        const int length = 20, window = 2;
        foreach (DType type in new[] { DType.F16, DType.F32 })
        {
            HostKvCache host = Cache(length, seed: 1, type).FillKeys((_, _, _, _) => 1);
            host.PageTable[0, 1, 1] = 1000;
            using DeviceKvCache cache = host.Upload(open);
            using DeviceTensor<float> q = open.Upload<float>(new float[window * 4 * 16], 1, window, 4, 16);
            Assert.Throws<DeviceFaultException>(() => Run(open, cache.View, q, new KvScoreSettings(), length));
            open.Synchronize();
        }
    }

    private static KvCache WithLengths(DeviceKvCache cache, TensorView lengths) =>
        new() { Keys = cache.Keys.View, Values = cache.Values.View, PageTable = cache.PageTable.View, Lengths = lengths };

    private static HostKvCache Cache(int length, int seed, DType type = DType.F32) =>
        new(new KvCacheShape(type, 1, 2, 16, PageSize: 16), [length, length], new InputRandom(seed));

    private static float[] Run(Device open, KvCache cache, TensorView q, KvScoreSettings settings, int length)
    {
        long heads = cache.Lengths.Shape(1);
        using DeviceTensor<float> scores = open.Upload<float>(new float[heads * length], 1, heads, length); // columns past the scored ones stay 0
        var op = new KvScore { Cache = cache, Q = q, Scores = scores, Settings = settings, MaxLength = length };
        using DeviceBuffer workspace = open.Allocate(op.WorkspaceBytes(open));
        op.Run(open, workspace);
        open.Synchronize();
        return scores.ToArray();
    }

    // One head, one query, whose probabilities over the slots are given.
    private static float[] Score(TestDevice device, double[] probabilities, KvScoreSettings settings)
    {
        Device open = TestDevices.Open(device);
        HostKvCache cache = new HostKvCache(new KvCacheShape(DType.F32, 1, 1, 1, PageSize: 4), [probabilities.Length], new InputRandom(1))
            .FillKeys((_, _, slot, _) => Math.Log(probabilities[slot]));
        using DeviceKvCache onDevice = cache.Upload(open);
        using DeviceTensor<float> q = open.Upload<float>([1], 1, 1, 1, 1);
        return Run(open, onDevice.View, q, settings, probabilities.Length)[..(probabilities.Length - settings.ExcludeLast)];
    }
}
