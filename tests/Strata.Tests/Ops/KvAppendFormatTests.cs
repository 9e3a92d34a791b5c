// SPDX-License-Identifier: Apache-2.0
// kv_append into quantised caches: what a cache may not remember, what codes promise, and which numbers are hard.

using Strata.Reference;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvAppendFormatTests
{
    private const int Heads = 2, Width = 64;
    private static readonly KvCacheShape s_plain = new(DType.F16, 1, Heads, Width, PageSize: 32) { Norms = DType.F32, LogitBias = true };

    // Each format of keys and values, and each layout.
    private static IEnumerable<KvCacheShape> Shapes()
    {
        foreach (KvFormat format in Enum.GetValues<KvFormat>())
        {
            if (!format.IsBlockScaled()) yield return s_plain with { KeyFormat = format, ValueFormat = format };
            yield return s_plain with { KeyFormat = format, ValueFormat = format, Layout = KvLayout.Tiled };
        }
        yield return s_plain with { Layout = KvLayout.Swizzled };
        yield return s_plain with { KeyFormat = KvFormat.I4Block, ValueFormat = KvFormat.I8, Layout = KvLayout.Tiled, Rotation = 32, Type = DType.BF16 };
    }

    public static IEnumerable<TestCaseData> Runs() =>
        from device in TestDevices.All
        from shape in Shapes()
        select new TestCaseData(device, shape).SetArgDisplayNames(device.ToString(), $"{shape.KeyFormat}-{shape.ValueFormat}-{shape.Layout}-{shape.Rotation}");

    // One sequence whose heads hold `before` and `before + 1` slots already, of zeros; the new rows come from functions of (token, head, channel).
    private sealed class Scene : IDisposable
    {
        private readonly List<IDisposable> _owned = [];
        private readonly int _before, _tokens;

        public Scene(Device device, KvCacheShape shape, int before, int tokens, Func<int, int, int, double> key, Func<int, int, int, double> value)
        {
            (Device, Shape, _before, _tokens) = (device, shape, before, tokens);
            long[] rows = [tokens, Heads, Width];
            KeyRows = new HostTensor(DType.F32, rows).Fill(i => key((int)(i / Width / Heads), (int)(i / Width % Heads), (int)(i % Width)));
            ValueRows = new HostTensor(DType.F32, rows).Fill(i => value((int)(i / Width / Heads), (int)(i / Width % Heads), (int)(i % Width)));
            Start = Host();
            Cache = Own(Start.Upload(device));
            Keys = Own(KeyRows.Upload(device));
            Values = Own(ValueRows.Upload(device));
            Positions = Own(new HostTensor(DType.I32, [tokens]).Fill(t => 1000 + t).Upload(device));
        }

        public Device Device { get; }

        public KvCacheShape Shape { get; }

        public HostTensor KeyRows { get; }

        public HostTensor ValueRows { get; }

        public HostKvCache Start { get; }

        public DeviceKvCache Cache { get; }

        public DeviceArray Keys { get; }

        public DeviceArray Values { get; }

        public DeviceArray Positions { get; }

        /// <summary>A call that appends `count` rows from row `first` on.</summary>
        public void Append(int first, int count, RopeParameters rope = default)
        {
            using DeviceTensor<int> lengths = Device.Upload<int>([_before + first + count, _before + 1 + first + count], 1, Heads);
            var op = new KvAppend
            {
                Cache = Cache.View with { Lengths = lengths },
                Keys = Keys.View.Slice(first, count),
                Values = Values.View.Slice(first, count),
                Positions = Positions.View.Slice(first, count),
                Rope = rope,
            };
            long bytes = op.WorkspaceBytes(Device);
            using DeviceBuffer? workspace = bytes == 0 ? null : Device.Allocate(bytes);
            op.Run(Device, workspace);
            Device.Synchronize();
        }

        public HostKvCache Download()
        {
            HostKvCache got = Host();
            foreach ((HostTensor host, DeviceArray array) in KvAppendReference.Written(got, Cache)) host.Download(array);
            return got;
        }

        /// <summary>The oracle's cache after all rows.</summary>
        public HostKvCache Wanted()
        {
            HostKvCache want = Host();
            for (int h = 0; h < Heads; h++)
            {
                float[] zeros = new float[(_before + h) * Width];
                want.StoreKeys(0, h, [.. zeros, .. Rows(KeyRows, h)]);
                want.StoreValues(0, h, [.. zeros, .. Rows(ValueRows, h)]);
            }
            foreach (KvAppendReference.Row row in KvAppendReference.Rows(want, [0, _tokens]))
            {
                (long page, long head, long at) = want.Locate(want.PageTable, row.Sequence, row.Head, row.Slot);
                want.Positions[page, head, at] = 1000 + row.Token;
            }
            return want;
        }

        public void Dispose()
        {
            foreach (IDisposable owned in _owned) owned.Dispose();
        }

        private static IEnumerable<float> Rows(HostTensor rows, int head)
        {
            for (int t = 0; t < rows.Shape[0]; t++)
            {
                for (int c = 0; c < Width; c++) yield return (float)rows[t, head, c];
            }
        }

        private HostKvCache Host()
        {
            var cache = new HostKvCache(Shape, [_before + _tokens, _before + 1 + _tokens], new InputRandom(5));
            for (int h = 0; h < Heads; h++)
            {
                cache.StoreKeys(0, h, new float[(_before + h) * Width]);
                cache.StoreValues(0, h, new float[(_before + h) * Width]);
            }
            return cache;
        }

        private T Own<T>(T owned) where T : IDisposable
        {
            _owned.Add(owned);
            return owned;
        }
    }

    // A cache does not remember how it was filled: at once, in two pieces, or token by token.
    [TestCaseSource(nameof(Runs))]
    public void Run_AtOnceInTwoOrTokenByToken_BitwiseEqual(TestDevice device, KvCacheShape shape)
    {
        const int tokens = 75, first = 38;
        Device open = TestDevices.Open(device);
        var rope = new RopeParameters { Mode = RopeMode.Half };
        HostKvCache whole = Filled((0, tokens)), halves = Filled((0, first), (first, tokens - first)), single = Filled([.. Enumerable.Range(0, tokens).Select(t => (t, 1))]);
        Assert.Multiple(() =>
        {
            AssertSame(halves, whole, "two pieces");
            AssertSame(single, whole, "token by token");
        });

        HostKvCache Filled(params (int First, int Count)[] pieces)
        {
            var random = new InputRandom(4);
            using var scene = new Scene(open, shape, before: 3, tokens, (_, _, _) => random.Gaussian(), (_, _, _) => random.Gaussian());
            foreach ((int from, int count) in pieces) scene.Append(from, count, rope);
            return scene.Download();
        }

        void AssertSame(HostKvCache a, HostKvCache b, string how)
        {
            foreach ((string name, HostTensor? x, HostTensor? y) in new[]
            {
                ("keys", a.Keys, b.Keys), ("values", a.Values, b.Values), ("key scales", a.KeyScales, b.KeyScales), ("value scales", a.ValueScales, b.ValueScales),
                ("tail", a.KeyTail, b.KeyTail), ("key norms", a.KeyNorms, b.KeyNorms), ("value norms", a.ValueNorms, b.ValueNorms), ("positions", a.Positions, b.Positions),
            })
            {
                if (x is not null) Assert.That(x.Bytes.SequenceEqual(y!.Bytes), Is.True, $"{name}, {how}");
            }
        }
    }

    // Constant, zero, denormal, huge, one outlier, NaN, infinity, negative zero: in the channels of a slot, and in the slots of a channel.
    private static double Hard(int which, int i, InputRandom random) => (which % 8) switch
    {
        0 => 5,
        1 => i % 2 == 0 ? 0.0 : -0.0,
        2 => 1e-41 * (i - 7),
        3 => 1e30 * (i - 20),
        4 => i == 13 ? 1e4 : 0.01 * random.Gaussian(),
        5 => i == 33 ? double.NaN : random.Gaussian(),
        6 => i == 21 ? double.NegativeInfinity : random.Gaussian(),
        _ => 3e-5 * random.Gaussian(), // scales among the denormals of f16
    };

    [TestCaseSource(nameof(Runs))]
    public void Run_HardNumbers_AsTheOracleBitByBit(TestDevice device, KvCacheShape shape)
    {
        foreach (bool across in new[] { true, false })
        {
            var random = new InputRandom(9);
            double Number(int token, int head, int channel) => across ? Hard(token + head, channel, random) : Hard(channel + head, token, random);
            using var scene = new Scene(TestDevices.Open(device), shape with { Rotation = 0, Type = DType.F32, Layout = shape.Layout == KvLayout.Swizzled ? KvLayout.Rows : shape.Layout }, before: 31, tokens: 64, Number, Number);
            scene.Append(0, 64);
            Comparison comparison = KvAppendReference.Compare(scene.Download(), scene.Wanted(), scene.Start, [0, 64], exact: true);
            Assert.That(comparison.Passes, Is.True, $"{(across ? "rows" : "channels")}: {comparison.Where}, error {comparison.Error}");
        }
    }

    // What was stored is stored again as the same codes and scales.
    [TestCaseSource(nameof(Runs))]
    public void Run_OfWhatWasRead_SameCodes(TestDevice device, KvCacheShape shape)
    {
        Device open = TestDevices.Open(device);
        KvCacheShape exact = shape with { Rotation = 0, Norms = DType.None };
        if (exact.KeyFormat.IsBlockScaled()) exact = exact with { Type = DType.F32 }; // the tail must hold what was read
        var random = new InputRandom(11);
        using var first = new Scene(open, exact, before: 0, tokens: 63, (_, _, _) => random.Gaussian(), (_, _, _) => random.Gaussian());
        first.Append(0, 63);
        HostKvCache once = first.Download();
        using var second = new Scene(open, exact, before: 0, tokens: 63, (t, h, c) => once.Key(0, h, t + h, c), (t, h, c) => once.Value(0, h, t + h, c));
        second.Append(0, 63);
        HostKvCache twice = second.Download();
        for (int h = 0; h < Heads; h++)
        {
            for (int slot = h; slot < h + 63; slot++)
            {
                (long, long, long) place = once.Locate(once.PageTable, 0, h, slot);
                for (int c = 0; c < Width; c++)
                {
                    if (slot < once.PagedKeys(h + 63)) Assert.That(twice.KeyPool[place, c], Is.EqualTo(once.KeyPool[place, c]), $"key {h}, {slot}, {c}");
                    Assert.That(twice.Value(0, h, slot, c), Is.EqualTo(once.Value(0, h, slot, c)), $"value {h}, {slot}, {c}");
                    Assert.That(twice.Key(0, h, slot, c), Is.EqualTo(once.Key(0, h, slot, c)), $"key {h}, {slot}, {c}");
                }
            }
        }
    }

    // By their definition: no number is further from what was given than half a step, and a rotation gives it back.
    [TestCaseSource(nameof(Runs))]
    public void Run_GaussianRows_ReadWithinHalfAStep(TestDevice device, KvCacheShape shape)
    {
        var random = new InputRandom(13);
        KvCacheShape plainTail = shape.KeyFormat == KvFormat.Plain ? shape : shape with { Type = DType.F32 };
        using var scene = new Scene(TestDevices.Open(device), plainTail, before: 0, tokens: 64, (_, _, _) => random.Gaussian(), (_, _, _) => random.Gaussian());
        scene.Append(0, 64);
        HostKvCache got = scene.Download();
        for (int h = 0; h < Heads; h++)
        {
            for (int slot = 0; slot < 64; slot++)
            {
                AssertNear([.. Enumerable.Range(0, Width).Select(c => got.Key(0, h, slot + h, c))], scene.KeyRows, shape.KeyFormat, "key");
                AssertNear([.. Enumerable.Range(0, Width).Select(c => got.Value(0, h, slot + h, c))], scene.ValueRows, shape.ValueFormat, "value");

                void AssertNear(double[] read, HostTensor given, KvFormat format, string what)
                {
                    KvQuantizer.Rotate(read, shape.Rotation);
                    // Gaussian numbers lie within 4.5: a step of a range of 9, or of the largest; a rotation spreads the errors of 32 channels.
                    double half = format switch { KvFormat.Plain => 4.5 / 1024, KvFormat.F8 => 4.5 / 16, KvFormat.I8 => 4.5 / 127 / 2, _ => 9.0 / format.Levels() / 2 };
                    for (int c = 0; c < Width; c++) Assert.That(read[c], Is.EqualTo(given[slot, h, c]).Within(half * (shape.Rotation == 0 ? 1.01 : 4)), $"{what} {h}, {slot}, {c}");
                }
            }
        }
    }

    [Test]
    public void Run_TailsSharedOrOutOfRange_RefusedOnTheCpu()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using var scene = new Scene(open, s_plain with { KeyFormat = KvFormat.I4Block, Layout = KvLayout.Tiled }, before: 0, tokens: 1, (_, _, _) => 1, (_, _, _) => 1);
        using DeviceBuffer workspace = open.Allocate(1 << 12);
        byte[] before = scene.Download().KeyTail!.Bytes.ToArray();
        foreach ((int[] tails, string sentence) in new[]
        {
            (new[] { 1, 1 }, "kv_append: cache.tail_table[0,1] is 1, which another sequence or head has too, must be its own; give every sequence and head a row of key_tail"),
            ([0, 5], "kv_append: cache.tail_table[0,1] is 5, must be 0 to 4; give every sequence and head a row of key_tail"),
            ([-1, 0], "kv_append: cache.tail_table[0,0] is -1, must be 0 to 4; give every sequence and head a row of key_tail"),
        })
        {
            using DeviceTensor<int> table = open.Upload<int>(tails, 1, Heads);
            var op = new KvAppend { Cache = scene.Cache.View with { TailTable = table }, Keys = scene.Keys.View, Values = scene.Values.View, Positions = scene.Positions.View };
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open, workspace))!;
            Assert.That((e.Status, e.Message), Is.EqualTo((StrataStatus.Index, sentence)));
        }
        Assert.That(scene.Download().KeyTail!.Bytes.ToArray(), Is.EqualTo(before));
    }

    [Test]
    public void Run_BadTailInDeviceMemory_NothingWrittenAndReported([Values("simt", "cuda:0")] string id)
    {
        var device = new TestDevice(id, null);
        if (!TestDevices.All.Contains(device)) Assert.Ignore($"{id} is not available here");
        Device open = TestDevices.Open(device);
        using var scene = new Scene(open, s_plain with { KeyFormat = KvFormat.I8Block, Layout = KvLayout.Tiled }, before: 0, tokens: 1, (_, _, _) => 1, (_, _, _) => 1);
        byte[] before = scene.Download().KeyTail!.Bytes.ToArray();
        foreach (int tail in new[] { -1, 5, int.MinValue, int.MaxValue })
        {
            using DeviceTensor<int> table = open.Upload<int>([tail, tail], 1, Heads);
            new KvAppend { Cache = scene.Cache.View with { TailTable = table }, Keys = scene.Keys.View, Values = scene.Values.View, Positions = scene.Positions.View }.Run(open);
            Assert.Throws<DeviceFaultException>(open.Synchronize);
            Assert.That(scene.Download().KeyTail!.Bytes.ToArray(), Is.EqualTo(before));
        }
    }

    // Every part of a cache is written, so none may lie in what is read.
    [Test]
    public void Run_OutputsInInputs_Refused()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using var scene = new Scene(open, s_plain with { KeyFormat = KvFormat.I8Block, ValueFormat = KvFormat.I8, Layout = KvLayout.Tiled }, before: 0, tokens: 40, (_, _, _) => 1, (_, _, _) => 1);
        using DeviceBuffer workspace = open.Allocate(1 << 12);
        KvCache cache = scene.Cache.View;
        TensorView Inside(TensorView like, DeviceArray input) => TensorView.Borrow(input.Buffer.Pointer, like.DType, [.. Enumerable.Range(0, like.Rank).Select(like.Shape)], input.Buffer);
        foreach ((string name, KvCache changed) in new[]
        {
            ("cache.keys", cache with { Keys = Inside(cache.Keys, scene.Values) }),
            ("cache.values", cache with { Values = Inside(cache.Values, scene.Values) }),
            ("cache.positions", cache with { Positions = Inside(cache.Positions, scene.Values) }),
            ("cache.logit_bias", cache with { LogitBias = Inside(cache.LogitBias, scene.Values) }),
            ("cache.key_norms", cache with { KeyNorms = Inside(cache.KeyNorms, scene.Values) }),
            ("cache.value_norms", cache with { ValueNorms = Inside(cache.ValueNorms, scene.Values) }),
            ("cache.key_scales", cache with { KeyScales = Inside(cache.KeyScales, scene.Values) }),
            ("cache.value_scales", cache with { ValueScales = Inside(cache.ValueScales, scene.Values) }),
            ("cache.key_tail", cache with { KeyTail = Inside(cache.KeyTail, scene.Values) }),
        })
        {
            var op = new KvAppend { Cache = changed, Keys = scene.Keys.View, Values = scene.Values.View, Positions = scene.Positions.View };
            StrataException e = Assert.Throws<StrataException>(() => op.Run(open, workspace), name)!;
            Assert.That(e.Message, Is.EqualTo($"kv_append: {name} overlaps values, must be separate memory; give the output memory of its own"));
        }
        var tail = new KvAppend { Cache = cache with { TailTable = Inside(cache.TailTable, scene.Cache.KeyTail!) }, Keys = scene.Keys.View, Values = scene.Values.View, Positions = scene.Positions.View };
        Assert.That(Assert.Throws<StrataException>(() => tail.Run(open, workspace))!.Message, Does.StartWith("kv_append: cache.key_tail overlaps cache.tail_table"));
    }
}
