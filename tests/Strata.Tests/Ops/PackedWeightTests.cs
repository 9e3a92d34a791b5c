// SPDX-License-Identifier: Apache-2.0
// Packed weights: sizes, round trip through bytes, damage, hostile sources.

using Strata.Reference;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class PackedWeightTests
{
    private static Device Cpu => TestDevices.Open(new TestDevice("cpu", null));

    [TestCase(WeightFormat.F32, 17, 3, 0, 64 + (2 * 192))]
    [TestCase(WeightFormat.F16, 16, 3, 0, 64 + 128)]
    [TestCase(WeightFormat.Q4_0, 16, 64, 0, 64 + 576)]
    [TestCase(WeightFormat.Q4_0, 17, 96, 0, 64 + (2 * (576 + 320)))]
    [TestCase(WeightFormat.Q4_1, 16, 96, 0, 64 + (3 * 320))]
    [TestCase(WeightFormat.Q8_0, 16, 64, 0, 64 + 1088)]
    [TestCase(WeightFormat.Q4_K, 16, 256, 0, 64 + 2368)]
    [TestCase(WeightFormat.Q6_K, 16, 256, 0, 64 + 3392)]
    [TestCase(WeightFormat.I4, 16, 256, 128, 64 + 2112)]
    [TestCase(WeightFormat.I4, 16, 192, 64, 64 + 1088 + 576)]
    public void PackedBytes_Layout_IsAsDrawn(WeightFormat format, long n, long k, int group, long bytes) =>
        Assert.That(PackedWeight.PackedBytes(format, n, k, group), Is.EqualTo(bytes));

    [TestCase(WeightFormat.Q4_0, 1, 31, 0, "weight_packed_bytes: source.k is 31, must be a multiple of 32 for Q4_0; pad the columns with zero weights")]
    [TestCase(WeightFormat.Q4_K, 1, 128, 0, "weight_packed_bytes: source.k is 128, must be a multiple of 256 for Q4_K; pad the columns with zero weights")]
    [TestCase(WeightFormat.I4, 1, 64, 128, "weight_packed_bytes: source.k is 64, must be a multiple of 128 for I4; pad the columns with zero weights")]
    [TestCase(WeightFormat.I4, 1, 64, 48, "weight_packed_bytes: source.group is 48, must be 32, 64 or 128 for I4; quantise with such a group")]
    [TestCase(WeightFormat.Q8_0, 1, 64, 32, "weight_packed_bytes: source.group is 32, must be 0 for Q8_0, whose blocks fix it; leave it zero")]
    [TestCase((WeightFormat)77, 1, 64, 0, "weight_packed_bytes: source.format is 77, must be a strata_format (1 to 9); set the format of the blocks")]
    [TestCase(WeightFormat.F32, 0, 64, 0, "weight_packed_bytes: source is 0 x 64, must be 1 to 2^40 each way; pass the real extents")]
    [TestCase(WeightFormat.F32, 1, -5, 0, "weight_packed_bytes: source is 1 x -5, must be 1 to 2^40 each way; pass the real extents")]
    [TestCase(WeightFormat.F32, long.MaxValue, long.MaxValue, 0, "weight_packed_bytes: source is 9223372036854775807 x 9223372036854775807, must be 1 to 2^40 each way; pass the real extents")]
    [TestCase(WeightFormat.F32, 1L << 40, 1L << 40, 0, "weight_packed_bytes: source is 1099511627776 x 1099511627776, must pack into at most 2^60 bytes; pass the real extents")]
    public void PackedBytes_Hostile_Sentence(WeightFormat format, long n, long k, int group, string sentence) =>
        Assert.That(Assert.Throws<StrataException>(() => PackedWeight.PackedBytes(format, n, k, group))!.Message, Is.EqualTo(sentence));

    [Test]
    public void Pack_WrongByteCount_Sentence()
    {
        StrataException e = Assert.Throws<StrataException>(() => PackedWeight.Pack(Cpu, WeightFormat.Q4_0, 2, 32, new byte[35]))!;
        Assert.That(e.Message, Is.EqualTo("weight_pack: source.data_bytes is 35, must be 36 for 2 x 32 Q4_0; pass exactly the matrix"));
        e = Assert.Throws<StrataException>(() => PackedWeight.PackInt4(Cpu, 2, 64, new byte[64], new Half[3], 32))!;
        Assert.That(e.Message, Is.EqualTo("weight_pack: source.scales_bytes is 6, must be 8 for 2 x 64 I4; pass one fp16 scale per group of I4, none for other formats"));
    }

    [Test]
    public void Open_PackedBytes_SameWeight()
    {
        foreach (WeightFormat format in new[] { WeightFormat.F32, WeightFormat.Q4_1, WeightFormat.Q6_K, WeightFormat.I4 })
        {
            using PackedWeight packed = HostWeight.Create(format, 19, 256, format == WeightFormat.I4 ? 64 : 0, exact: false, seed: 2).Pack(Cpu);
            byte[] bytes = packed.Buffer.Span.ToArray();
            using PackedWeight opened = PackedWeight.Open(Cpu, bytes);
            Assert.That((opened.N, opened.K, opened.Format, opened.View.Group, opened.Bytes), Is.EqualTo((19L, 256L, format, packed.View.Group, packed.Bytes)));
            Assert.That(opened.Buffer.Span.ToArray(), Is.EqualTo(bytes));
        }
    }

    [Test]
    public void Open_AnyDamagedByte_IsRefused()
    {
        using PackedWeight packed = HostWeight.Create(WeightFormat.Q4_0, 3, 64, 0, exact: false, seed: 2).Pack(Cpu);
        byte[] bytes = packed.Buffer.Span.ToArray();
        for (int i = 0; i < bytes.Length; i++)
        {
            byte[] damaged = [.. bytes];
            damaged[i] ^= 0x10;
            StrataException e = Assert.Throws<StrataException>(() => PackedWeight.Open(Cpu, damaged))!;
            Assert.That(e.Status, Is.EqualTo(StrataStatus.Format).Or.EqualTo(StrataStatus.Shape), $"byte {i}: {e.Message}");
        }
        foreach (int length in new[] { 0, 1, 63, 64, bytes.Length - 1 })
        {
            Assert.That(Assert.Throws<StrataException>(() => PackedWeight.Open(Cpu, bytes.AsSpan(0, length)))!.Status, Is.EqualTo(StrataStatus.Format), $"{length} bytes");
        }
    }

    [Test]
    public void Pack_ScalesOfSixBits_DecodeAsDocumented()
    {
        // The Q4_K block with sc = 1 2 3 4 33 34 35 63 and m = 5 6 7 8 17 18 50 61, d = dmin = 1, all codes 1: w = sc - m.
        byte[] block = [0x00, 0x3c, 0x00, 0x3c, .. Convert.FromHexString("818283c44546c7c8112223df"), .. Enumerable.Repeat((byte)0x11, 128)];
        using PackedWeight w = PackedWeight.Pack(Cpu, WeightFormat.Q4_K, 1, 256, block);
        using DeviceTensor<int> ids = Cpu.Upload<int>([0], 1);
        using DeviceTensor<float> y = Cpu.Allocate<float>(1, 256);
        new Embed { Ids = ids, Y = y, W = w }.Run(Cpu);
        float[] got = y.ToArray();
        int[] sc = [1, 2, 3, 4, 33, 34, 35, 63], m = [5, 6, 7, 8, 17, 18, 50, 61];
        for (int i = 0; i < 256; i++) Assert.That(got[i], Is.EqualTo((float)(sc[i / 32] - m[i / 32])), $"element {i}");
    }
}
