// SPDX-License-Identifier: Apache-2.0
// Sound GGUF files: what the reader hands out.
using Strata.Engine;
using Strata.Engine.Gguf;

namespace Strata.Tests.Engine;

/// <summary>Reading of sound files.</summary>
[TestFixture]
internal sealed class GgufReaderTests
{
    [TestCase(2u)]
    [TestCase(3u)]
    public void HeaderIsReadBack(uint version)
    {
        GgufBuilder builder = GgufBuilder.Sound();
        builder.Version = version;
        using var reader = GgufReader.Open((ReadOnlySpan<byte>)builder.Build());

        Assert.That(reader.Version, Is.EqualTo((int)version));
        Assert.That(reader.Alignment, Is.EqualTo(32));
        Assert.That(reader.GetString("general.architecture"), Is.EqualTo("llama"));
        Assert.That(reader.GetInteger("llama.block_count", 1, 1000), Is.EqualTo(2));
        Assert.That(reader.FindStrings("list"), Is.EqualTo(new[] { "a", "bc" }));
        Assert.That(reader.FindString("absent"), Is.Null);
        Assert.That(reader.FindInteger("absent", 0, 1), Is.Null);
        Assert.That(reader.FindFloat("absent"), Is.Null);
        Assert.That(reader.FindBool("absent"), Is.Null);
        Assert.That(reader.FindStrings("absent"), Is.Null);
        Assert.That(reader.FindInt32s("absent"), Is.Null);
        Assert.That(reader.FindFloats("absent"), Is.Null);
    }

    [Test]
    public void TensorsAreWhereTheTableSays()
    {
        byte[] file = GgufBuilder.Sound().Build();
        using var reader = GgufReader.Open(file.AsMemory());
        Assert.That(reader.Tensors.Select(tensor => tensor.Name), Is.EqualTo(new[] { "a", "b" }));

        GgufTensorInfo b = reader.FindTensor("b")!;
        Assert.That((b.Rank, b.Columns, b.Rows, b.RowBytes, b.Bytes), Is.EqualTo((2, 32L, 1L, 18L, 18L)));
        Assert.That(reader.Rows(b, 0, 1).ToArray(), Is.EqualTo(Enumerable.Range(32, 18).Select(value => (byte)value)));
        Assert.That(reader.Rows(b, 1, 0).Length, Is.Zero);
        Assert.That(() => reader.Rows(b, 0, 2).Length, Throws.TypeOf<ArgumentOutOfRangeException>());
        Assert.That(() => reader.Rows(b, -1, 1).Length, Throws.TypeOf<ArgumentOutOfRangeException>());
        Assert.That(() => reader.Rows(b, long.MaxValue, long.MaxValue).Length, Throws.TypeOf<ArgumentOutOfRangeException>());
        Assert.That(reader.FindTensor("c"), Is.Null);
    }

    [TestCase(GgufValueType.U8, new byte[] { 200 }, 200)]
    [TestCase(GgufValueType.I8, new byte[] { 0xFF }, -1)]
    [TestCase(GgufValueType.U16, new byte[] { 0x00, 0x80 }, 32768)]
    [TestCase(GgufValueType.I16, new byte[] { 0x00, 0x80 }, -32768)]
    [TestCase(GgufValueType.U32, new byte[] { 1, 2, 0, 0 }, 513)]
    [TestCase(GgufValueType.I32, new byte[] { 0xFE, 0xFF, 0xFF, 0xFF }, -2)]
    [TestCase(GgufValueType.U64, new byte[] { 7, 0, 0, 0, 0, 0, 0, 0 }, 7)]
    [TestCase(GgufValueType.I64, new byte[] { 0xFD, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF }, -3)]
    public void IntegersOfEveryWidthAreTaken(GgufValueType type, byte[] value, int expected)
    {
        using GgufReader reader = With("x", type, value);
        Assert.That(reader.GetInteger("x", int.MinValue, int.MaxValue), Is.EqualTo(expected));
    }

    [Test]
    public void NoIntegerLeavesItsRange()
    {
        using GgufReader reader = With("x", GgufValueType.U64, GgufBuilder.U64(ulong.MaxValue));
        Assert.That(() => reader.GetInteger("x", 0, int.MaxValue), Throws.TypeOf<StrataFormatException>().With.Message.Contains("18446744073709551615"));
    }

    [Test]
    public void FloatsAndBoolsAreTaken()
    {
        using GgufReader single = With("x", GgufValueType.F32, BitConverter.GetBytes(1.5f));
        using GgufReader wide = With("x", GgufValueType.F64, BitConverter.GetBytes(-2.5));
        using GgufReader truth = With("x", GgufValueType.Bool, [1]);
        using GgufReader notFinite = With("x", GgufValueType.F32, BitConverter.GetBytes(float.NaN));
        Assert.That(single.FindFloat("x"), Is.EqualTo(1.5f));
        Assert.That(wide.FindFloat("x"), Is.EqualTo(-2.5f));
        Assert.That(truth.FindBool("x"), Is.True);
        Assert.That(() => notFinite.FindFloat("x"), Throws.TypeOf<StrataFormatException>());
    }

    [Test]
    public void NumberArraysAreTaken()
    {
        using GgufReader integers = With("x", GgufValueType.Array, [.. GgufBuilder.U32(5), .. GgufBuilder.U64(2), .. GgufBuilder.U32(3), .. GgufBuilder.U32(4)]);
        using GgufReader floats = With("x", GgufValueType.Array, [.. GgufBuilder.U32(6), .. GgufBuilder.U64(1), .. BitConverter.GetBytes(0.25f)]);
        Assert.That(integers.FindInt32s("x"), Is.EqualTo(new[] { 3, 4 }));
        Assert.That(floats.FindFloats("x"), Is.EqualTo(new[] { 0.25f }));
    }

    [Test]
    public void NoAccessorReadsAnotherType()
    {
        using GgufReader reader = With("x", GgufValueType.Array, [.. GgufBuilder.U32((uint)GgufValueType.I8), .. GgufBuilder.U64(4), 1, 2, 3, 4]);
        Action[] reads =
        [
            () => reader.GetString("x"), () => reader.FindInteger("x", 0, 9), () => reader.FindFloat("x"), () => reader.FindBool("x"),
            () => reader.FindStrings("x"), () => reader.FindInt32s("x"), () => reader.FindFloats("x"),
        ];
        Assert.Multiple(() =>
        {
            foreach (Action read in reads)
            {
                Assert.That(() => read(), Throws.TypeOf<StrataFormatException>().With.Message.Contains("of type array of I8"));
            }
        });
    }

    [Test]
    public void AMissingValueIsNamed()
    {
        using var reader = GgufReader.Open((ReadOnlySpan<byte>)GgufBuilder.Sound().Build());
        Assert.That(() => reader.GetString("nope"), Throws.TypeOf<StrataFormatException>().With.Message.Contains("'nope' is missing"));
    }

    [Test]
    public void AFileOnDiskReadsLikeOneInMemory()
    {
        string path = Path.Combine(TestContext.CurrentContext.WorkDirectory, Path.GetRandomFileName());
        File.WriteAllBytes(path, GgufBuilder.Sound().Build());
        try
        {
            GgufReader reader = GgufReader.Open(path);
            using (reader)
            {
                Assert.That(reader.Rows(reader.FindTensor("a")!, 0, 1).ToArray(), Is.EqualTo(Enumerable.Range(0, 16).Select(value => (byte)value)));
            }

            Assert.That(() => reader.Rows(reader.FindTensor("a")!, 0, 1).Length, Throws.TypeOf<ObjectDisposedException>());
            reader.Dispose();
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Test]
    public void AnEmptyFileOnDiskIsRefused()
    {
        string path = Path.Combine(TestContext.CurrentContext.WorkDirectory, Path.GetRandomFileName());
        File.WriteAllBytes(path, []);
        try
        {
            Assert.That(() => GgufReader.Open(path), Throws.TypeOf<StrataFormatException>());
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Test]
    public void EveryTypeOfTheFormatHasASize()
    {
        foreach (GgufType type in Enum.GetValues<GgufType>())
        {
            Assert.That(GgufTypeLayout.TryGet(type, out GgufTypeLayout layout), Is.True, type.ToString());
            Assert.That(layout.BlockBytes, Is.GreaterThan(0), type.ToString());
        }

        foreach (int withdrawn in new[] { -1, 4, 5, 31, 32, 33, 36, 37, 38, 43, int.MaxValue })
        {
            Assert.That(GgufTypeLayout.TryGet((GgufType)withdrawn, out _), Is.False, withdrawn.ToString(System.Globalization.CultureInfo.InvariantCulture));
        }
    }

    [TestCase("models/SmolLM2-135M-Instruct.Q4_1.gguf", 272)]
    [TestCase("models/tiny-shakespeare.F16.gguf", 38)]
    [TestCase("golden/formats/tiny-shakespeare.Q6_K.gguf", 38)]
    [TestCase("golden/formats/tiny-shakespeare.TQ2_0.gguf", 38)]
    public void RealFilesOpen(string file, int tensors)
    {
        using var reader = GgufReader.Open(SharedData.Require(file));
        Assert.That(reader.Tensors, Has.Count.EqualTo(tensors));
        Assert.That(reader.Tensors[^1].Offset + reader.Tensors[^1].Bytes, Is.LessThanOrEqualTo(reader.Length));
    }

    private static GgufReader With(string key, GgufValueType type, byte[] value)
    {
        var builder = new GgufBuilder();
        builder.Pairs.Add(GgufBuilder.Pair(key, type, value));
        return GgufReader.Open((ReadOnlySpan<byte>)builder.Build());
    }
}
