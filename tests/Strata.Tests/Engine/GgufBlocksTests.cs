// SPDX-License-Identifier: Apache-2.0
// The block decoder against vectors worked out by hand and against files that another program quantised.
using System.Buffers.Binary;
using Strata.Engine.Gguf;
using Strata.Reference;

namespace Strata.Tests.Engine;

/// <summary>Values of GGUF blocks.</summary>
[TestFixture]
internal sealed class GgufBlocksTests
{
    private const string Ramp = "8091 91a2 a2b3 b3c4 c4d5 d5e6 e6f7 f7f8";

    [Test]
    public void Q4_0_OfARamp()
    {
        float[] values = Decode(GgufBlockType.Q4_0, "0038" + Ramp);
        Assert.That(values[0], Is.EqualTo(-4f));
        Assert.That(values[31], Is.EqualTo(3.5f));
        Assert.That(values, Is.EqualTo(Enumerable.Range(0, 32).Select(i => 0.5f * (Math.Min(15, (i + 1) / 2) - 8))));
    }

    [Test]
    public void Q4_1_OfARamp()
    {
        float[] values = Decode(GgufBlockType.Q4_1, "2238 00c4" + "8080 9191 a2a2 b3b3 c4c4 d5d5 e6e6 f7f7");
        float scale = (float)BitConverter.UInt16BitsToHalf(0x3822);
        Assert.That(values, Is.EqualTo(Enumerable.Range(0, 32).Select(i => (scale * (i / 2)) - 4)));
    }

    [Test]
    public void Q8_0_OfARamp()
    {
        byte[] block = new byte[34];
        BinaryPrimitives.WriteUInt16LittleEndian(block, 0x2808);
        sbyte[] codes = [.. Enumerable.Range(0, 32).Select(i => (sbyte)(-127 + (8 * i)))];
        codes.AsSpan().CopyTo(System.Runtime.InteropServices.MemoryMarshal.Cast<byte, sbyte>(block.AsSpan(2)));
        float scale = (float)BitConverter.UInt16BitsToHalf(0x2808);
        Assert.That(Decode(GgufBlockType.Q8_0, block), Is.EqualTo(codes.Select(code => scale * code)));
    }

    [Test]
    public void Q5_HasItsFifthBitApart()
    {
        // d = 1, m = 2; the high bits of elements 0, 16 and 31 are set; nibbles are the element's low four bits.
        string codes = string.Concat(Enumerable.Range(0, 16).Select(j => (j | (j << 4)).ToString("x2", System.Globalization.CultureInfo.InvariantCulture)));
        int[] stored = [.. Enumerable.Range(0, 32).Select(i => (i % 16) | (i is 0 or 16 or 31 ? 16 : 0))];
        Assert.That(Decode(GgufBlockType.Q5_0, "003c 01000180" + codes), Is.EqualTo(stored.Select(code => code - 16f)));
        Assert.That(Decode(GgufBlockType.Q5_1, "003c 0040 01000180" + codes), Is.EqualTo(stored.Select(code => code + 2f)));
    }

    [Test]
    public void Q4_K_UnpacksItsScales()
    {
        int[] scales = [1, 2, 3, 4, 33, 34, 35, 63];
        int[] minima = [5, 6, 7, 8, 17, 18, 50, 61];
        float[] values = Decode(GgufBlockType.Q4_K, "003c 003c 818283c44546c7c8112223df" + string.Concat(Enumerable.Repeat("21", 128)));
        for (int i = 0; i < 256; i++)
        {
            int code = i / 32 % 2 == 0 ? 1 : 2;
            Assert.That(values[i], Is.EqualTo((scales[i / 32] * code) - minima[i / 32]), $"element {i}");
        }
    }

    [Test]
    public void PlainNumbersKeepTheirBits()
    {
        Assert.That(Decode(GgufBlockType.F32, "0000c03f"), Is.EqualTo(new[] { 1.5f }));
        Assert.That(Decode(GgufBlockType.F16, "003e"), Is.EqualTo(new[] { 1.5f }));
        Assert.That(Decode(GgufBlockType.BF16, "c03f"), Is.EqualTo(new[] { 1.5f }));
    }

    [Test]
    public void HalfABlockIsRefused()
    {
        Assert.That(() => GgufBlocksReference.Decode(GgufBlockType.Q4_0, new byte[17], new float[32]), Throws.ArgumentException);
        Assert.That(() => GgufBlocksReference.Decode(GgufBlockType.Q4_0, new byte[18], new float[31]), Throws.ArgumentException);
        Assert.That(() => GgufBlocksReference.Block((GgufBlockType)99), Throws.InstanceOf<ArgumentOutOfRangeException>());
    }

    // A wrong bit position anywhere makes the error of that format several times as large.
    [TestCase("models/tiny-shakespeare.Q8_0.gguf", 0.006)]
    [TestCase("models/tiny-shakespeare.Q4_0.gguf", 0.10)]
    [TestCase("golden/formats/tiny-shakespeare.BF16.gguf", 0.003)]
    [TestCase("golden/formats/tiny-shakespeare.Q4_1.gguf", 0.10)]
    [TestCase("golden/formats/tiny-shakespeare.Q5_0.gguf", 0.06)]
    [TestCase("golden/formats/tiny-shakespeare.Q5_K.gguf", 0.05)]
    [TestCase("golden/formats/tiny-shakespeare.Q4_K.gguf", 0.10)]
    [TestCase("golden/formats/tiny-shakespeare.Q6_K.gguf", 0.03)]
    [TestCase("golden/formats/tiny-shakespeare.Q2_K.gguf", 0.40)]
    [TestCase("golden/formats/tiny-shakespeare.TQ2_0.gguf", 0.85)]
    public void QuantisedFilesAreNearTheirOriginal(string file, double relativeError)
    {
        using var original = GgufReader.Open(SharedData.Require("models/tiny-shakespeare.F16.gguf"));
        using var quantised = GgufReader.Open(SharedData.Require(file));
        foreach (GgufTensorInfo tensor in quantised.Tensors.Where(tensor => tensor.Type != GgufType.F32))
        {
            float[] expected = Tensor(original, original.FindTensor(tensor.Name)!);
            float[] actual = Tensor(quantised, tensor);
            double error = 0;
            double norm = 0;
            for (int i = 0; i < expected.Length; i++)
            {
                error += Math.Pow((double)actual[i] - expected[i], 2);
                norm += Math.Pow(expected[i], 2);
            }

            Assert.That(Math.Sqrt(error / norm), Is.LessThan(relativeError), tensor.Name);
        }
    }

    private static float[] Tensor(GgufReader reader, GgufTensorInfo tensor)
    {
        float[] values = new float[tensor.Rows * tensor.Columns];
        GgufBlocksReference.Decode((GgufBlockType)tensor.Type, reader.Rows(tensor, 0, tensor.Rows), values);
        return values;
    }

    private static float[] Decode(GgufBlockType type, string hex) => Decode(type, Convert.FromHexString(hex.Replace(" ", string.Empty, StringComparison.Ordinal)));

    private static float[] Decode(GgufBlockType type, byte[] blocks)
    {
        (int elements, int bytes) = GgufBlocksReference.Block(type);
        float[] values = new float[blocks.Length / bytes * elements];
        GgufBlocksReference.Decode(type, blocks, values);
        return values;
    }
}
