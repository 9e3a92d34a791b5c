// SPDX-License-Identifier: Apache-2.0
// kv_attention over quantised caches: worked examples whose codes and scales are set by hand, and caches that keep their numbers exactly.

using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvAttentionFormatTests
{
    private const int Width = 16;

    public static IEnumerable<TestCaseData> TokenScaled() =>
        from device in TestDevices.All
        from format in new[] { KvFormat.I8, KvFormat.F8 }
        from layout in new[] { KvLayout.Rows, KvLayout.Tiled }
        select new TestCaseData(device, format, layout).SetArgDisplayNames(device.ToString(), format.ToString(), layout.ToString());

    public static IEnumerable<TestCaseData> BlockScaled() =>
        from device in TestDevices.All
        from format in new[] { KvFormat.I8Block, KvFormat.I4Block }
        select new TestCaseData(device, format).SetArgDisplayNames(device.ToString(), format.ToString());

    public static IEnumerable<TestCaseData> Tiled() =>
        from device in TestDevices.All
        from format in new[] { KvFormat.I8, KvFormat.I8Block, KvFormat.I4Block }
        select new TestCaseData(device, format).SetArgDisplayNames(device.ToString(), format.ToString());

    [TestCaseSource(nameof(TokenScaled))]
    public void Run_OneScaleASlot_WorkedExample(TestDevice device, KvFormat format, KvLayout layout)
    {
        Device open = TestDevices.Open(device);
        HostKvCache cache = Cache(format, layout, length: 2);
        // Keys 4 · 0.25 = 1 and 0; values 2 · 2 = 4 in channel 1, and -16 · -0.5 = 8 in channel 9.
        SetKey(cache, 0, 0, code: 4);
        SetScale(cache.KeyScales!, cache, 0, 0.25);
        SetScale(cache.KeyScales!, cache, 1, 1);
        SetValue(cache, 0, 1, code: 2);
        SetValue(cache, 1, 9, code: -16);
        SetScale(cache.ValueScales!, cache, 0, 2);
        SetScale(cache.ValueScales!, cache, 1, -0.5);
        AssertThreeQuarters(open, cache, query: MathF.Log(3));
    }

    // 33 slots: a full block in the page, the last key in the tail.
    [TestCaseSource(nameof(BlockScaled))]
    public void Run_ScaleAndZeroABlock_WorkedExample(TestDevice device, KvFormat format)
    {
        Device open = TestDevices.Open(device);
        HostKvCache cache = Cache(format, KvLayout.Tiled, length: 33);
        (long page, long head, _) = cache.Locate(cache.PageTable, 0, 0, 0);
        // Channel 3 of the block: 2 · code - 5: slots have code 2, -1, but slot 7 code 3, 1. In the tail: -1. The difference is 2.
        cache.KeyScales![page, head, 0, 3] = 2;
        cache.KeyScales[page, head, 0, Width + 3] = -5;
        for (int slot = 0; slot < 32; slot++) SetKey(cache, slot, 3, slot == 7 ? 3 : 2);
        cache.KeyTail![cache.Tail(0, 0), 0, 3] = -1;
        // Values: 0.5 · code - 2: slot 7 has code 12, 4, in channel 1 and 4, 0, elsewhere; the other 32 slots have 8 in channel 9.
        for (int slot = 0; slot < 33; slot++)
        {
            (page, head, long at) = cache.Locate(cache.PageTable, 0, 0, slot);
            cache.ValueScales![page, head, 0, at] = slot == 7 ? 0.5 : 2;
            cache.ValueScales[page, head, 1, at] = slot == 7 ? -2 : -4;
            for (int c = 0; c < Width; c++) SetValue(cache, slot, c, slot == 7 ? (c == 1 ? 12 : 4) : c == 9 ? 6 : 2);
        }
        // exp(q) = 96 of slot 7 against 32 ones; q is in channel 3 and counts twice.
        AssertThreeQuarters(open, cache, query: MathF.Log(96) / 2, channel: 3, lse: MathF.Log(128) - (MathF.Log(96) / 2));
    }

    // A scale that is NaN makes its row NaN as a whole, and only for those who see it.
    [TestCaseSource(nameof(TokenScaled))]
    public void Run_NanScale_ReachesWhoSeesIt(TestDevice device, KvFormat format, KvLayout layout)
    {
        Device open = TestDevices.Open(device);
        HostKvCache cache = Cache(format, layout, length: 2);
        for (int slot = 0; slot < 2; slot++)
        {
            SetScale(cache.KeyScales!, cache, slot, 1);
            SetScale(cache.ValueScales!, cache, slot, slot == 0 ? 1 : double.NaN);
            SetValue(cache, slot, 0, 4);
        }
        Attended got = Attending.Run(open, cache, new float[2 * Width], heads: 1, [2]);
        // A matrix unit multiplies the slots of a tile that any of its rows sees; only the CPU keeps rows apart.
        if (device.Id == "cpu") Assert.That(got.Output[..Width], Is.EqualTo(new float[] { 4 }.Concat(new float[Width - 1])), "the first query does not see slot 1");
        Assert.That(got.Output[Width..], Is.All.NaN);
    }

    // Tiles of 64 slots that a query sees whole, where scales are folded into its numbers: what is not finite is not lost there.
    [TestCaseSource(nameof(Tiled))]
    public void Run_NotFiniteInWholeTile_ReachesItsChannels(TestDevice device, KvFormat format)
    {
        Device open = TestDevices.Open(device);
        const int width = 64, length = 128, slot = 70;
        var shape = new KvCacheShape(DType.F32, 1, 1, width, PageSize: 64) { KeyFormat = format, ValueFormat = format, Layout = KvLayout.Tiled };
        HostKvCache Fresh() => new HostKvCache(shape, [length], new InputRandom(7)).FillKeys((_, _, s, c) => ((s + c) % 9) - 4).FillValues((_, _, s, c) => ((s * c) % 7) - 3);
        float[] query = Attending.Queries([new Sequence(0, length, 1)], 1, width);
        Attended clean = Attending.Run(open, Fresh(), query, heads: 1, [1]);
        Assert.That(clean.Output, Is.All.Matches<float>(float.IsFinite));

        foreach (double bad in new[] { double.NaN, double.PositiveInfinity })
        {
            HostKvCache cache = Fresh();
            (long page, long head, long at) = cache.Locate(cache.PageTable, 0, 0, slot);
            if (format == KvFormat.I8) cache.ValueScales![page, head, at] = bad;
            else cache.ValueScales![page, head, 2, at] = bad; // channels 32 ... 63
            float[] got = Attending.Run(open, cache, query, heads: 1, [1]).Output;
            int from = format == KvFormat.I8 ? 0 : 32;
            Assert.That(got[from..], Is.All.Matches<float>(x => !float.IsFinite(x)), $"value scale {bad}");
            if (device.Id == "cpu") Assert.That(got[..from], Is.EqualTo(clean.Output[..from]), "the other group");
        }

        HostKvCache keys = Fresh();
        (long keyPage, long keyHead, long keyAt) = keys.Locate(keys.PageTable, 0, 0, slot);
        if (format == KvFormat.I8) keys.KeyScales![keyPage, keyHead, keyAt] = double.NaN;
        else keys.KeyScales![keyPage, keyHead, keyAt / KvCache.BlockSlots, 5] = double.NaN;
        Assert.That(Attending.Run(open, keys, query, heads: 1, [1]).Output, Is.All.NaN, "key scale");

        foreach (float bad in new[] { float.NaN, float.NegativeInfinity })
        {
            float[] badQuery = [.. query];
            badQuery[3] = bad;
            Assert.That(Attending.Run(open, Fresh(), badQuery, heads: 1, [1]).Output, Is.All.NaN, $"query {bad}");
        }
    }

    // A query times a scale beyond fp32, with zero points that give nothing to show for it: the score is no number, of either sign.
    [TestCaseSource(nameof(BlockScaled))]
    public void Run_QueryTimesScaleOverflows_IsNan(TestDevice device, KvFormat format)
    {
        Device open = TestDevices.Open(device);
        const int width = 64, length = 128, channel = 5;
        var shape = new KvCacheShape(DType.F32, 1, 1, width, PageSize: 64) { KeyFormat = format, ValueFormat = format, Layout = KvLayout.Tiled };
        HostKvCache cache = new HostKvCache(shape, [length], new InputRandom(7)).FillKeys((_, _, s, c) => ((s + c) % 9) - 4).FillValues((_, _, s, c) => ((s * c) % 7) - 3);
        int codes = format == KvFormat.I4Block ? 15 : 255;
        (long page, long head, long at) = cache.Locate(cache.PageTable, 0, 0, 64);
        cache.KeyScales![page, head, at / KvCache.BlockSlots, channel] = 16;
        cache.KeyScales[page, head, at / KvCache.BlockSlots, width + channel] = -8 * codes; // the middle code is 0
        for (int slot = 64; slot < 64 + KvCache.BlockSlots; slot++) SetKey(cache, slot, channel, codes);
        var query = new float[width];
        query[channel] = 3e37f;
        Assert.That(Attending.Run(open, cache, query, heads: 1, [1], op => op with { Scale = 1 }).Output, Is.All.NaN);
    }

    // The same numbers in every format that can hold them and in every layout give the same attention.
    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_SameNumbersInOtherStorage_SameResult(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        const int width = 64, length = 97;
        // Whole numbers that span all codes of 4 bits with steps of 1, in every block and row; keys and values alike.
        double Number(int what, int h, int slot, int c) => (((slot * 7) + (c * 5) + (h * 3) + what) % 16) - 8;
        Attended? want = null;
        foreach ((KvFormat keys, KvFormat values, KvLayout layout, DType type) in new[]
        {
            (KvFormat.Plain, KvFormat.Plain, KvLayout.Rows, DType.F32), (KvFormat.Plain, KvFormat.Plain, KvLayout.Tiled, DType.F32),
            (KvFormat.Plain, KvFormat.Plain, KvLayout.Tiled, DType.BF16), (KvFormat.Plain, KvFormat.Plain, KvLayout.Swizzled, DType.F16),
            (KvFormat.Plain, KvFormat.I4Block, KvLayout.Tiled, DType.F16), (KvFormat.I4Block, KvFormat.Plain, KvLayout.Tiled, DType.F32),
            (KvFormat.I4Block, KvFormat.I4Block, KvLayout.Tiled, DType.BF16),
        })
        {
            var shape = new KvCacheShape(type, 1, 2, width, PageSize: 32) { KeyFormat = keys, ValueFormat = values, Layout = layout };
            HostKvCache cache = new HostKvCache(shape, [length, length], new InputRandom(3)).FillKeys((_, h, slot, c) => Number(0, h, slot, c)).FillValues((_, h, slot, c) => Number(1, h, slot, c));
            cache.ForEachSlot((b, h, slot) => Assert.That(cache.Key(b, h, slot, 3) == Number(0, h, slot, 3) && cache.Value(b, h, slot, 5) == Number(1, h, slot, 5), "stored exactly"));
            Attended got = Attending.Run(open, cache, Attending.Queries([new Sequence(1, length, 2)], 4, width), 4, [2], op => op with { Scale = 0.02f });
            want ??= got;
            Attending.AssertClose(got, want, width, device.Id == "cpu" && device.Isa is not ("avx512vnni" or "amx") ? 5e-4 : 9e-3);
        }
    }

    /// <summary>A cache of one head whose codes are all 0, to be set by hand.</summary>
    private static HostKvCache Cache(KvFormat format, KvLayout layout, int length) =>
        new(new KvCacheShape(DType.F32, 1, 1, Width, PageSize: 32) { KeyFormat = format, ValueFormat = format, Layout = layout }, [length], new InputRandom(5));

    private static void SetKey(HostKvCache cache, int slot, int channel, double code) => cache.KeyPool[cache.Locate(cache.PageTable, 0, 0, slot), channel] = code;

    private static void SetValue(HostKvCache cache, int slot, int channel, double code) => cache.ValuePool[cache.Locate(cache.PageTable, 0, 0, slot), channel] = code;

    private static void SetScale(HostTensor scales, HostKvCache cache, int slot, double scale)
    {
        (long page, long head, long at) = cache.Locate(cache.PageTable, 0, 0, slot);
        scales[page, head, at] = scale;
    }

    /// <summary>Weights 3/4 of a value 4 in channel 1, and 1/4 of a value 8 in channel 9.</summary>
    private static void AssertThreeQuarters(Device open, HostKvCache cache, float query, int channel = 0, float lse = 1.3862944f)
    {
        float[] q = new float[Width], want = new float[Width];
        q[channel] = query;
        (want[1], want[9]) = (3, 2);
        Attended got = Attending.Run(open, cache, q, heads: 1, [1], op => op with { Scale = 1 });
        Assert.That(got.Output, Is.EqualTo(want).Within(4e-3));
        Assert.That(got.LogSumExp[0], Is.EqualTo(lse).Within(2e-4));
    }
}
