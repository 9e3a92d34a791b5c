// SPDX-License-Identifier: Apache-2.0
// kv_compact: identities, cascades, and the hostile indices that it must refuse before it moves a byte.

using Strata.Reference;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvCompactTests
{
    private const int Heads = 2, HeadDim = 4, PageSize = 4, Length = 10;

    // Two heads of ten tokens over pages of four slots; page i of head h is page 3 h + i, pages 6 to 8 are free.
    private sealed class Scene : IDisposable
    {
        private readonly List<IDisposable> _owned = [];

        public Scene(Device device)
        {
            Device = device;
            float[] rows = [.. Enumerable.Range(0, 9 * PageSize * HeadDim).Select(i => (float)i)];
            Keys = Own(device.Upload<float>(rows, 9, 1, PageSize, HeadDim));
            Values = Own(device.Upload<float>([.. rows.Select(v => -v)], 9, 1, PageSize, HeadDim));
            Table = Own(device.Upload<int>([0, 1, 2, 3, 4, 5], 1, Heads, 3));
            Lengths = Own(device.Upload<int>([Length, Length], 1, Heads));
            Kept = Own(device.Upload<int>([1, 4, 9, 0, 5, 6], 1, Heads, 3));
            Counts = Own(device.Upload<int>([3, 3], 1, Heads));
            Workspace = Own(device.Allocate(1 << 12));
        }

        public Device Device { get; }
        public DeviceTensor<float> Keys { get; }
        public DeviceTensor<float> Values { get; }
        public DeviceTensor<int> Table { get; }
        public DeviceTensor<int> Lengths { get; }
        public DeviceTensor<int> Kept { get; }
        public DeviceTensor<int> Counts { get; }
        public DeviceBuffer Workspace { get; }

        public KvCompact Op => new() { Cache = new KvCache { Keys = Keys, Values = Values, PageTable = Table, Lengths = Lengths }, Kept = Kept, KeptCounts = Counts };

        // First channel of a slot, which names the row it came from.
        public int Row(int head, int slot) => (int)Keys.ToArray()[((((head * 3) + (slot / PageSize)) * PageSize) + (slot % PageSize)) * HeadDim] / HeadDim;

        public DeviceTensor<int> Integers(int[] values, params long[] shape) => Own(Device.Upload<int>(values, shape));

        public void Run(KvCompact op)
        {
            op.Run(Device, Workspace);
            Device.Synchronize();
        }

        public void Dispose()
        {
            foreach (IDisposable owned in _owned) owned.Dispose();
        }

        private T Own<T>(T owned) where T : IDisposable
        {
            _owned.Add(owned);
            return owned;
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_InPlace_MovesRowsAndWritesLengthsOverLengths(TestDevice device)
    {
        using var scene = new Scene(TestDevices.Open(device));
        scene.Run(scene.Op with { NewLengths = scene.Lengths });
        Assert.That(Enumerable.Range(0, 3).Select(slot => scene.Row(0, slot)), Is.EqualTo(new[] { 1, 4, 9 }));
        Assert.That(Enumerable.Range(0, 3).Select(slot => scene.Row(1, slot) - 12), Is.EqualTo(new[] { 0, 5, 6 }));
        Assert.That(scene.Values.ToArray().Take(3 * HeadDim), Is.EqualTo(scene.Keys.ToArray().Take(3 * HeadDim).Select(v => -v)));
        Assert.That(scene.Lengths.ToArray(), Is.All.EqualTo(3));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_IntoFreshPages_LeavesTheSourceAlone(TestDevice device)
    {
        using var scene = new Scene(TestDevices.Open(device));
        float[] before = scene.Keys.ToArray();
        scene.Run(scene.Op with { ToPageTable = scene.Integers([8, 6], 1, Heads, 1), NewLengths = scene.Counts });
        float[] after = scene.Keys.ToArray();
        Assert.That(after[..(6 * PageSize * HeadDim)], Is.EqualTo(before[..(6 * PageSize * HeadDim)]));
        Assert.That(after[8 * PageSize * HeadDim], Is.EqualTo(1 * HeadDim));
        Assert.That(after[6 * PageSize * HeadDim], Is.EqualTo(12 * HeadDim));
    }

    // Each array beside the pages moves with its slots, whichever of them the cache has.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_SideArrays_TravelWithTheirSlots(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        foreach (bool fresh in new[] { false, true })
        {
            using var scene = new Scene(open);
            float[] numbers = [.. Enumerable.Range(0, 9 * PageSize).Select(i => (float)i)];
            using DeviceTensor<float> bias = open.Upload<float>(numbers, 9, 1, PageSize), valueNorms = open.Upload<float>([.. numbers.Select(v => v + 100)], 9, 1, PageSize);
            using DeviceTensor<Half> keyNorms = open.Upload<Half>([.. numbers.Select(v => (Half)(v + 50))], 9, 1, PageSize);
            KvCompact op = scene.Op with { Cache = scene.Op.Cache with { LogitBias = bias, KeyNorms = keyNorms, ValueNorms = valueNorms } };
            scene.Run(fresh ? op with { ToPageTable = scene.Integers([8, 6], 1, Heads, 1) } : op);
            (int head0, int head1) = fresh ? (8 * PageSize, 6 * PageSize) : (0, 3 * PageSize);
            float[] want = [1, 4, 9], other = [12, 17, 18]; // head 1 begins on page 3: slot s is number 12 + s
            Assert.That(bias.ToArray()[head0..(head0 + 3)].Concat(bias.ToArray()[head1..(head1 + 3)]), Is.EqualTo(want.Concat(other)));
            Assert.That(keyNorms.ToArray()[head0..(head0 + 3)].Select(v => (float)v), Is.EqualTo(want.Select(v => v + 50)));
            Assert.That(valueNorms.ToArray()[head1..(head1 + 3)], Is.EqualTo(other.Select(v => v + 100)));
        }
    }

    // Compacting twice is compacting once with the composed choice; keeping everything changes nothing.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_CascadeAndIdentity_Compose(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using var twice = new Scene(open);
        using var once = new Scene(open);
        int[] first = [0, 2, 3, 5, 8, 9], second = [1, 2, 5];
        int[] composed = [.. second.Select(slot => first[slot])];
        twice.Run(twice.Op with { Kept = twice.Integers([.. first, .. first], 1, Heads, 6), KeptCounts = twice.Integers([6, 6], 1, Heads), NewLengths = twice.Lengths });
        twice.Run(twice.Op with { Kept = twice.Integers([.. second, .. second], 1, Heads, 3), NewLengths = twice.Lengths });
        once.Run(once.Op with { Kept = once.Integers([.. composed, .. composed], 1, Heads, 3) });
        for (int head = 0; head < Heads; head++)
        {
            for (int slot = 0; slot < 3; slot++) Assert.That(twice.Row(head, slot), Is.EqualTo(once.Row(head, slot)));
        }

        float[] before = once.Keys.ToArray();
        once.Run(once.Op with { Kept = once.Integers([.. Enumerable.Range(0, Length), .. Enumerable.Range(0, Length)], 1, Heads, Length), KeptCounts = once.Lengths });
        Assert.That(once.Keys.ToArray(), Is.EqualTo(before));
    }

    [Test]
    public void Run_HostileIndices_SentenceAndNoChange()
    {
        using var scene = new Scene(TestDevices.Open(new TestDevice("cpu", null)));
        float[] before = scene.Keys.ToArray();
        DeviceTensor<int> Kept(params int[] head0) => scene.Integers([.. head0, 0, 5, 6], 1, Heads, 3);

        AssertFails(scene.Op with { Kept = Kept(1, 1, 2) }, "kept[0,0,1] is 1, must be above 1 and below the length 10");
        AssertFails(scene.Op with { Kept = Kept(4, 3, 5) }, "kept[0,0,1] is 3, must be above 4");
        AssertFails(scene.Op with { Kept = Kept(1, 2, 10) }, "kept[0,0,2] is 10, must be above 2 and below the length 10");
        AssertFails(scene.Op with { Kept = Kept(-1, 2, 3) }, "kept[0,0,0] is -1, must be above -1");
        AssertFails(scene.Op with { Kept = Kept(int.MinValue, 2, 3) }, "kept[0,0,0] is -2147483648");
        AssertFails(scene.Op with { KeptCounts = scene.Integers([3, 4], 1, Heads) }, "kept_counts[0,1] is 4, must be 0 to 3");
        AssertFails(scene.Op with { KeptCounts = scene.Integers([-1, 3], 1, Heads) }, "kept_counts[0,0] is -1, must be 0 to 3");
        AssertFails(WithCache(scene, lengths: [Length, 13]), "cache.lengths[0,1] is 13, must be 0 to 12");
        AssertFails(WithCache(scene, table: [0, 1, 2, 3, 9, 5]), "cache.page_table[0,1,1] is 9, must be 0 to 8");
        AssertFails(WithCache(scene, table: [0, 1, 2, 3, -1, 5]), "cache.page_table[0,1,1] is -1, must be 0 to 8");
        AssertFails(WithCache(scene, table: [0, 1, 2, 0, 4, 5]), "cache.page_table[0,0,0] is page 0, must be used by this head alone to be compacted in place");
        AssertFails(WithCache(scene, table: [0, 0, 2, 3, 4, 5]), "cache.page_table[0,0,0] is page 0, must be used by this head alone");
        AssertFails(scene.Op with { ToPageTable = scene.Integers([6, 9], 1, Heads, 1) }, "to_page_table[0,1,0] is 9, must be 0 to 8");
        AssertFails(scene.Op with { ToPageTable = scene.Integers([6, 6], 1, Heads, 1) }, "to_page_table[0,1,0] is page 6, which is named twice, must be a fresh page");
        AssertFails(scene.Op with { ToPageTable = scene.Integers([6, 5], 1, Heads, 1) }, "to_page_table[0,1,0] is page 5, which is a source page, must be a fresh page");
        AssertFails(scene.Op with { Kept = scene.Integers([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], 1, Heads, 5), KeptCounts = scene.Integers([5, 5], 1, Heads), ToPageTable = scene.Integers([6, 7], 1, Heads, 1) }, "to_page_table.shape[2] is 1, must be at least 2");
        Assert.That(scene.Keys.ToArray(), Is.EqualTo(before));

        // A page in front of the first moved slot may be shared: a common system prompt that stays as it is.
        KvCompact shared = WithCache(scene, table: [0, 1, 2, 0, 4, 5]) with { Kept = scene.Integers([0, 1, 2, 3, 6, 0, 1, 2, 3, 7], 1, Heads, 5), KeptCounts = scene.Integers([5, 5], 1, Heads) };
        Assert.DoesNotThrow(() => scene.Run(shared));

        void AssertFails(KvCompact op, string part)
        {
            StrataException e = Assert.Throws<StrataException>(() => scene.Run(op), part)!;
            Assert.That(e.Message, Does.StartWith("kv_compact: ").And.Contain(part));
            Assert.That(e.Status, Is.EqualTo(StrataStatus.Index));
        }
    }

    [Test]
    public void Run_WrongShapes_Sentence()
    {
        using var scene = new Scene(TestDevices.Open(new TestDevice("cpu", null)));
        AssertFails(scene.Op with { Kept = scene.Lengths }, StrataStatus.Shape, "kept.ndim is 2, must be 3");
        AssertFails(scene.Op with { KeptCounts = scene.Integers([3], 1, 1) }, StrataStatus.Shape, "kept_counts.shape is 1, must equal kv_heads = 2");
        AssertFails(scene.Op with { NewLengths = scene.Keys.View.Reshape(9, PageSize * HeadDim) }, StrataStatus.DType, "new_lengths.dtype is f32 (1), must be i32");
        AssertFails(scene.Op with { NewLengths = TensorView.Borrow<int>(scene.Kept.View.Pointer, [1, 2], scene.Kept) }, StrataStatus.Argument, "new_lengths overlaps kept, must be separate memory");
        AssertFails(scene.Op with { Cache = new KvCache { Keys = scene.Keys, Values = scene.Keys.View.Slice(0, 3), PageTable = scene.Table, Lengths = scene.Lengths } }, StrataStatus.Shape, "cache.values.shape[0] is 3, must be 9 to match cache.keys");

        using DeviceTensor<Half> wide = scene.Device.Allocate<Half>(9, 1, 16, 64);
        KvCache cache = scene.Op.Cache;
        AssertFails(scene.Op with { Cache = cache with { Keys = wide, Values = wide, Layout = KvLayout.Swizzled } }, StrataStatus.Unsupported, "cache has key_format 0, value_format 0, layout 2 and rotation 0, must have 0 in all four; keep the caches that this op reads as plain rows");
        AssertFails(scene.Op with { Cache = cache with { Keys = wide, Values = wide, Rotation = 64 } }, StrataStatus.Unsupported, "layout 0 and rotation 64, must have 0 in all four");
        TensorView inside = TensorView.Borrow<float>(scene.Table.View.Pointer, [9, 1, PageSize], scene.Table);
        foreach ((string name, KvCache changed) in new[] { ("logit_bias", cache with { LogitBias = inside }), ("key_norms", cache with { KeyNorms = inside }), ("value_norms", cache with { ValueNorms = inside }) })
        {
            AssertFails(scene.Op with { Cache = changed }, StrataStatus.Argument, $"cache.{name} overlaps cache.page_table, must be separate memory");
        }

        void AssertFails(KvCompact op, StrataStatus status, string part)
        {
            StrataException e = Assert.Throws<StrataException>(() => scene.Run(op), part)!;
            Assert.That(e.Message, Does.StartWith("kv_compact: ").And.Contain(part));
            Assert.That(e.Status, Is.EqualTo(status));
        }
    }

    // What only the device sees is skipped, and the next synchronisation says so.
    [Test]
    public void Run_HostileIndicesInDeviceMemory_AreReported([Values("simt", "cuda:0")] string id)
    {
        var device = new TestDevice(id, null);
        if (!TestDevices.All.Contains(device)) Assert.Ignore($"{id} is not available here");
        int[][] choices = [[1, int.MaxValue, 9], [5, 4, 9], [-7, 4, 9]];
        foreach (int[] choice in choices)
        {
            using var scene = new Scene(TestDevices.Open(device));
            KvCompact op = scene.Op with { Kept = scene.Integers([.. choice, 0, 5, 6], 1, Heads, 3) };
            Assert.Throws<DeviceFaultException>(() => scene.Run(op));
            Assert.That(Enumerable.Range(0, 3).Select(slot => scene.Row(1, slot) - 12), Is.EqualTo(new[] { 0, 5, 6 }), "the other head is not touched by it");
        }
        using var bad = new Scene(TestDevices.Open(device));
        Assert.Throws<DeviceFaultException>(() => bad.Run(WithCache(bad, table: [0, 1, 77, 3, 4, 5])));
        Assert.Throws<DeviceFaultException>(() => bad.Run(bad.Op with { KeptCounts = bad.Integers([3, int.MaxValue], 1, Heads) }));
    }

    private static KvCompact WithCache(Scene scene, int[]? table = null, int[]? lengths = null) => scene.Op with
    {
        Cache = new KvCache
        {
            Keys = scene.Keys,
            Values = scene.Values,
            PageTable = table is null ? scene.Table : scene.Integers(table, 1, Heads, 3),
            Lengths = lengths is null ? scene.Lengths : scene.Integers(lengths, 1, Heads),
        },
    };
}
