// SPDX-License-Identifier: Apache-2.0
// The oracle's own storage of quantised caches, by numbers worked out by hand: every other test of them stands on it.

using Strata.Reference;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class KvCacheStorageTests
{
    [TestCase(0x00, 0f)]
    [TestCase(0x80, -0f)]
    [TestCase(0x01, 0.001953125f)]
    [TestCase(0x07, 0.013671875f)]
    [TestCase(0x08, 0.015625f)]
    [TestCase(0x38, 1f)]
    [TestCase(0x3b, 1.375f)]
    [TestCase(0xc0, -2f)]
    [TestCase(0x7e, 448f)]
    [TestCase(0x7f, float.NaN)]
    public void Float8_KnownBits_KnownValue(int bits, float value) =>
        Assert.That(BitConverter.SingleToInt32Bits((float)new Float8E4M3((byte)bits)), Is.EqualTo(float.IsNaN(value) ? BitConverter.SingleToInt32Bits((float)new Float8E4M3(0x7f)) : BitConverter.SingleToInt32Bits(value)));

    [Test]
    public void Float8_EveryNumber_RoundTripsAndNeighboursAreNearest()
    {
        for (int bits = 0; bits < 256; bits++)
        {
            var value = new Float8E4M3((byte)bits);
            Assert.That((Float8E4M3)(float)value, Is.EqualTo(value), $"0x{bits:x2}");
        }
        for (int bits = 0; bits < 0x7e; bits++)
        {
            float low = (float)new Float8E4M3((byte)bits), high = (float)new Float8E4M3((byte)(bits + 1)), middle = (low + high) / 2;
            Assert.That(((Float8E4M3)middle).Bits, Is.EqualTo(bits + (bits & 1)), "a tie goes to the even one");
            Assert.That(((Float8E4M3)MathF.BitDecrement(middle)).Bits, Is.EqualTo(bits));
            Assert.That(((Float8E4M3)(-MathF.BitIncrement(middle))).Bits, Is.EqualTo((bits + 1) | 0x80));
        }
        Assert.That(((Float8E4M3)1e30f).Bits, Is.EqualTo(0x7e));
        Assert.That(((Float8E4M3)float.NegativeInfinity).Bits, Is.EqualTo(0xfe));
        Assert.That(((Float8E4M3)1e-30f).Bits, Is.Zero);
    }

    [Test]
    public void QuantizeToken_WorkedRows_CodesAndScale()
    {
        var codes = new float[4];
        Assert.That(KvQuantizer.QuantizeToken([127, -63.5f, 0.5f, 1.5f], KvFormat.I8, codes), Is.EqualTo((Half)1));
        Assert.That(codes, Is.EqualTo(new float[] { 127, -64, 0, 2 }), "halves go to the even code");
        Assert.That(KvQuantizer.QuantizeToken([0, 0, 0, 0], KvFormat.I8, codes), Is.EqualTo((Half)0));
        Assert.That(codes, Is.All.Zero);
        Assert.That(KvQuantizer.QuantizeToken([1, float.NaN, 2, 3], KvFormat.I8, codes), Is.EqualTo(Half.NaN));
        Assert.That(codes, Is.All.Zero);
        Assert.That(KvQuantizer.QuantizeToken([896, -2, 2.125f, 1], KvFormat.F8, codes), Is.EqualTo((Half)2));
        Assert.That(codes, Is.EqualTo(new float[] { 448, -1, 1, 0.5f }));
        Assert.That(KvQuantizer.QuantizeToken([float.MaxValue, 0, 0, 0], KvFormat.I8, codes), Is.EqualTo((Half)65504), "a scale is finite");
        Assert.That(codes, Is.EqualTo(new float[] { 127, 0, 0, 0 }));
    }

    [Test]
    public void QuantizeBlock_WorkedBlocks_CodesScaleAndZero()
    {
        var codes = new float[4];
        Assert.That(KvQuantizer.QuantizeBlock([-1, 6.5f, 0, 2.75f], KvFormat.I4Block, codes), Is.EqualTo(((Half)0.5, (Half)(-1))));
        Assert.That(codes, Is.EqualTo(new float[] { 0, 15, 2, 8 }), "7.5 goes to the even code");
        Assert.That(KvQuantizer.QuantizeBlock([-3, 252, 0, 124.5f], KvFormat.I8Block, codes), Is.EqualTo(((Half)1, (Half)(-3))));
        Assert.That(codes, Is.EqualTo(new float[] { 0, 255, 3, 128 }));
        Assert.That(KvQuantizer.QuantizeBlock([5, 5, 5, 5], KvFormat.I4Block, codes), Is.EqualTo(((Half)0, (Half)5)));
        Assert.That(codes, Is.All.Zero);
        Assert.That(KvQuantizer.QuantizeBlock([5, float.NegativeInfinity, 5, 5], KvFormat.I4Block, codes).Scale, Is.EqualTo(Half.NaN));
        Assert.That(codes, Is.All.Zero);
    }

    [Test]
    public void Rotate_Twice_IsTheIdentityAndMatchesItsDefinition([Values(16, 32, 64, 128, 256)] int points)
    {
        var random = new InputRandom(points);
        float[] row = [.. Enumerable.Range(0, 256).Select(_ => (float)random.Gaussian())], turned = [.. row];
        double[] exact = [.. row.Select(v => (double)v)];
        KvQuantizer.Rotate(turned, points);
        KvQuantizer.Rotate(exact, points);
        Assert.That(turned, Is.EqualTo(exact).Within(2e-6));
        KvQuantizer.Rotate(turned, points);
        Assert.That(turned, Is.EqualTo(row).Within(2e-6));
        float[] one = new float[points];
        one[3] = MathF.Sqrt(points);
        KvQuantizer.Rotate(one, points);
        Assert.That(one[..8], Is.EqualTo(new float[] { 1, -1, -1, 1, 1, -1, -1, 1 }).Within(1e-6));
    }

    // Bytes worked out by hand from strata_kv_layout; page of 32 slots, 64 channels, slot 17, channel 13.
    [TestCase(KvFormat.Plain, DType.F32, KvLayout.Tiled, 4 * ((((1 * 64) + 13) * 16) + 1), 0, 4 * ((17 * 64) + 13), 0)]
    [TestCase(KvFormat.Plain, DType.F16, KvLayout.Tiled, (4 * ((((1 * 32) + 6) * 16) + 1)) + 2, 0, (4 * ((8 * 64) + 13)) + 2, 0)]
    [TestCase(KvFormat.I8, DType.F32, KvLayout.Tiled, (4 * ((((1 * 16) + 3) * 16) + 1)) + 1, 0, (4 * ((4 * 64) + 13)) + 1, 0)]
    [TestCase(KvFormat.I4Block, DType.F32, KvLayout.Tiled, (4 * ((((1 * 8) + 1) * 16) + 1)) + 1, 4, (4 * ((2 * 64) + 13)) + 1, 0)]
    [TestCase(KvFormat.Plain, DType.BF16, KvLayout.Swizzled, 2 * ((17 * 64) + (0 * 8) + 5), 0, 2 * ((17 * 64) + (0 * 8) + 5), 0)]
    [TestCase(KvFormat.F8, DType.F32, KvLayout.Rows, (17 * 64) + 13, 0, (17 * 64) + 13, 0)]
    public void Pool_SlotAndChannel_KnownByte(KvFormat format, DType type, KvLayout layout, int keyByte, int keyBit, int valueByte, int valueBit)
    {
        var shape = new KvCacheShape(type, 1, 1, 64, PageSize: 32) { KeyFormat = format, ValueFormat = format, Layout = layout };
        Assert.That(new KvPagePool(shape, keys: true, pages: 2).Locate((0, 0, 17), 13), Is.EqualTo((keyByte, keyBit)));
        Assert.That(new KvPagePool(shape, keys: false, pages: 2).Locate((0, 0, 17), 13), Is.EqualTo((valueByte, valueBit)));
    }

    public static IEnumerable<KvCacheShape> Shapes()
    {
        var plain = new KvCacheShape(DType.F16, 2, 3, 80, PageSize: 32);
        foreach (KvLayout layout in new[] { KvLayout.Rows, KvLayout.Tiled })
        {
            foreach (KvFormat format in Enum.GetValues<KvFormat>())
            {
                if (layout == KvLayout.Rows && format.IsBlockScaled()) continue;
                yield return plain with { Layout = layout, KeyFormat = format, ValueFormat = format, SharedPages = format == KvFormat.I8, Padding = 8, LogitBias = true, Norms = DType.F32 };
            }
        }
        yield return plain with { HeadDim = 128, Layout = KvLayout.Swizzled, Padding = 1 };
        yield return plain with { Layout = KvLayout.Tiled, KeyFormat = KvFormat.I4Block, ValueFormat = KvFormat.I8, Rotation = 16, TailTable = false };
    }

    // No two numbers share bits, poison touches none that is live, and what is read is what was stored, to half a step.
    [TestCaseSource(nameof(Shapes))]
    public void Store_ThenPoison_ReadsBackWithinHalfAStep(KvCacheShape shape)
    {
        int[] lengths = [0, 31, 32, 33, 64, 100];
        var random = new InputRandom(7);
        var keys = new Dictionary<(int, int, int), double[]>();
        var cache = new HostKvCache(shape, lengths, random);
        double Logical(int b, int h, int slot, int c)
        {
            if (!keys.TryGetValue((b, h, slot), out double[]? row)) keys[(b, h, slot)] = row = [.. Enumerable.Range(0, shape.HeadDim).Select(_ => (double)(float)random.Gaussian())];
            return row[c];
        }
        cache.FillKeys(Logical).FillValues(Logical);
        cache.PoisonRest(Poison.Random);
        cache.PoisonRest(Poison.Nan);
        double step = 8 * (shape.IsPlain ? 1.0 / (1 << 11) : shape.KeyFormat == KvFormat.F8 ? 1.0 / 16 : 1.0 / Math.Min(shape.KeyFormat.Levels(), shape.ValueFormat.Levels()));
        cache.ForEachSlot((b, h, slot) =>
        {
            double[] key = [.. Enumerable.Range(0, shape.HeadDim).Select(c => cache.Key(b, h, slot, c))], value = [.. Enumerable.Range(0, shape.HeadDim).Select(c => cache.Value(b, h, slot, c))];
            KvQuantizer.Rotate(key, shape.Rotation);
            KvQuantizer.Rotate(value, shape.Rotation);
            Assert.That(key, Is.EqualTo(keys[(b, h, slot)]).Within(step), $"key {b}, {h}, {slot}");
            Assert.That(value, Is.EqualTo(keys[(b, h, slot)]).Within(step), $"value {b}, {h}, {slot}");
            if (cache.KeyNorms is null) return;
            (long page, long head, long at) = cache.Locate(cache.PageTable, b, h, slot);
            Assert.That(cache.KeyNorms[page, head, at], Is.EqualTo(Math.Sqrt(keys[(b, h, slot)].Sum(v => v * v))).Within(1e-5));
        });
    }
}
