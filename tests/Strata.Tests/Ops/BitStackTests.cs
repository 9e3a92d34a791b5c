// SPDX-License-Identifier: Apache-2.0
// bitstack: a worked example, levels that come and go, packed bytes that are damaged, what the API refuses, and the authors' own levels.

using System.Runtime.InteropServices;
using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class BitStackTests
{
    // W = sign ∘ (a bᵀ) with a = 1 2 3 4, b = 1 2 1 2 ..., as fp16 factors of one singular value.
    private static readonly byte[] s_signs = [0xB2, 0x1F, 0xF5, 0x54];
    private static readonly Half[] s_u = [(Half)0.90380859375, (Half)1.8076171875, (Half)2.7109375, (Half)3.615234375];
    private static readonly Half[] s_vt = [.. Enumerable.Range(0, 8).Select(j => (Half)(j % 2 == 0 ? 1.1064453125 : 2.212890625))];

    private static BitStackLevel Example(Device device) => BitStackLevel.Pack(device, 4, 8, 1, s_signs, s_u, s_vt);

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_WorkedExample_MatchesFormula(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using BitStackLevel level = Example(open);
        using DeviceTensor<float> x = open.Upload<float>([1, 0, -1, 2, 0.5f, 1, -2, 1], 1, 8);
        using DeviceTensor<float> y = open.Allocate<float>(1, 4);
        Run(open, new BitStack { Levels = new[] { level }, X = x, Y = y });
        Assert.That(y.ToArray(), Is.EqualTo(new[] { -2.500037f, 13.000192f, 28.495289f, 22.000325f }).Within(2e-4));
        Assert.That(Device.LastImplementation, Does.StartWith("bitstack/"));

        using DeviceTensor<float> w = open.Allocate<float>(4, 8);
        Run(open, new BitStack { Levels = new[] { level }, Y = w });
        float[] signs = [1, -2, 1, 2, -1, -2, 1, -2];
        Assert.That(w.ToArray()[..8], Is.EqualTo(signs).Within(1e-3));
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_LevelsDroppedAndLoadedAgain_RestoreTheOutputBitwise(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        var random = new InputRandom(5);
        BitStackHostLevel[] host = [.. Enumerable.Range(0, 3).Select(_ => BitStackHostLevel.Create(50, 100, 7, random, random.Gaussian))];
        BitStackLevel[] levels = [.. host.Select(h => h.Upload(open))];
        using DeviceTensor<float> x = open.Upload<float>([.. Enumerable.Range(0, 500).Select(_ => (float)random.Gaussian())], 5, 100);
        using DeviceTensor<float> y = open.Allocate<float>(5, 50);

        float[] Multiply(int count)
        {
            Run(open, new BitStack { Levels = levels.AsMemory(0, count), X = x, Y = y });
            return y.ToArray();
        }

        float[] all = Multiply(3), two = Multiply(2);
        Assert.That(two, Is.Not.EqualTo(all));
        var packed = new byte[levels[2].Bytes];
        levels[2].CopyTo(packed);
        levels[2].Dispose();
        Assert.That(Multiply(2), Is.EqualTo(two));
        Assert.Throws<ObjectDisposedException>(() => Multiply(3));
        levels[2] = BitStackLevel.Load(open, packed);
        Assert.That(Multiply(3), Is.EqualTo(all));
        foreach (BitStackLevel level in levels) level.Dispose();
    }

    [Test]
    public void Load_DamagedBytes_AreRefused()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using BitStackLevel level = Example(open);
        var packed = new byte[level.Bytes];
        level.CopyTo(packed);
        using (BitStackLevel again = BitStackLevel.Load(open, packed))
        {
            Assert.That((again.N, again.K, again.Rank, again.Bytes), Is.EqualTo((4L, 8L, 1, level.Bytes)));
            Assert.That(level.Bytes, Is.EqualTo(BitStackLevel.PackedBytes(4, 8, 1)));
        }
        for (int i = 0; i < packed.Length; i++)
        {
            byte[] damaged = [.. packed];
            damaged[i] ^= 0x10;
            Assert.That(Status(() => BitStackLevel.Load(open, damaged)), Is.EqualTo(StrataStatus.Format), $"byte {i}");
        }
        for (int length = 0; length < packed.Length; length += 13)
        {
            StrataStatus status = Status(() => BitStackLevel.Load(open, packed.AsSpan(0, length)));
            Assert.That(status, Is.EqualTo(length == 0 ? StrataStatus.Argument : StrataStatus.Format), $"length {length}");
        }

        static StrataStatus Status(Action call) => Assert.Throws<StrataException>(call)!.Status;
    }

    [TestCase(0, 8, 1, "bitstack_packed_bytes: source.n is 0, must be 1 to 2147483647; pass the level's real extents")]
    [TestCase(8, -1, 1, "bitstack_packed_bytes: source.k is -1, must be 1 to 2147483647; pass the level's real extents")]
    [TestCase(8, long.MaxValue, 1, "bitstack_packed_bytes: source.k is 9223372036854775807, must be 1 to 2147483647; pass the level's real extents")]
    [TestCase(8, 8, 33, "bitstack_packed_bytes: source.rank is 33, must be 1 to 32; pass the level's real extents")]
    [TestCase(3, 3, 1, "bitstack_packed_bytes: source.n * source.k is 9, must be a multiple of 8; the signs are stored in whole bytes")]
    public void PackedBytes_BadExtents_Sentence(long n, long k, int rank, string sentence) =>
        Assert.That(Assert.Throws<StrataException>(() => BitStackLevel.PackedBytes(n, k, rank))!.Message, Is.EqualTo(sentence));

    [Test]
    public void Pack_WrongLengths_Sentence()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        StrataException e = Assert.Throws<StrataException>(() => BitStackLevel.Pack(open, 4, 8, 1, s_signs.AsSpan(1), s_u, s_vt))!;
        Assert.That(e.Message, Is.EqualTo("bitstack_pack: source.signs_bytes is 3, must be 4 for this n, k and rank; pass the whole matrix"));
        e = Assert.Throws<StrataException>(() => BitStackLevel.Pack(open, 4, 8, 1, s_signs, s_u, []))!;
        Assert.That(e.Message, Is.EqualTo("bitstack_pack: source.vt_bytes is 0, must be 16 for this n, k and rank; pass the whole matrix"));
    }

    [Test]
    public void Run_WrongShapesAndLevels_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using BitStackLevel level = Example(open);
        using BitStackLevel other = BitStackLevel.Pack(open, 8, 4, 1, s_signs, new Half[8], new Half[4]);
        using DeviceTensor<float> x = open.Upload<float>(new float[8], 1, 8);
        using DeviceTensor<float> narrow = open.Upload<float>(new float[7], 1, 7);
        using DeviceTensor<float> y = open.Upload<float>([9, 9, 9, 9], 1, 4);
        BitStackLevel[] one = [level];

        AssertFails(new BitStack { X = x, Y = y }, StrataStatus.Argument, "bitstack: level_count is 0, must be 1 to 16; pass the levels that are loaded");
        AssertFails(new BitStack { Levels = Enumerable.Repeat(level, 17).ToArray(), X = x, Y = y }, StrataStatus.Argument, "bitstack: level_count is 17, must be 1 to 16; pass the levels that are loaded");
        AssertFails(new BitStack { Levels = new[] { level, other }, X = x, Y = y }, StrataStatus.Shape, "bitstack: levels[1] is [8, 4], must be of the shape of levels[0], [4, 8]; pass levels of one matrix");
        AssertFails(new BitStack { Levels = one, X = narrow, Y = y }, StrataStatus.Shape, "bitstack: x.shape[1] is 7, must equal k = 8; pass activations of the weight's width");
        AssertFails(new BitStack { Levels = one, X = x, Y = narrow }, StrataStatus.Shape, "bitstack: y.shape[1] is 7, must equal n = 4; give y the weight's rows as columns");
        AssertFails(new BitStack { Levels = one, Y = y }, StrataStatus.Shape, "bitstack: y.shape[0] is 1, must equal n = 4; a decode (x absent) writes W [n, k]");
        Assert.That(y.ToArray(), Is.All.EqualTo(9f));

        void AssertFails(BitStack op, StrataStatus status, string sentence)
        {
            StrataException e = Assert.Throws<StrataException>(() => Run(open, op))!;
            Assert.That((e.Status, e.Message), Is.EqualTo((status, sentence)));
            Assert.That(op.IsSupported(open, out string reason), Is.False);
            Assert.That(reason, Is.EqualTo(sentence));
        }
    }

    // The header in device memory is compared with the view where it can be read.
    [Test]
    public void Run_LevelOverwritten_IsRefusedOnTheHost()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using BitStackLevel level = Example(open);
        using DeviceTensor<float> x = open.Upload<float>(new float[8], 1, 8);
        using DeviceTensor<float> y = open.Upload<float>([9, 9, 9, 9], 1, 4);
        level.Buffer.Fill(0);
        var op = new BitStack { Levels = new[] { level }, X = x, Y = y };
        StrataException e = Assert.Throws<StrataException>(() => Run(open, op))!;
        Assert.That((e.Status, e.Message), Is.EqualTo((StrataStatus.Format, "bitstack: levels[0].data does not begin with the header of this level, must be what strata_bitstack_pack wrote; open the level again")));
        Assert.That(y.ToArray(), Is.All.EqualTo(9f));
    }

    public static IEnumerable<TestCaseData> Goldens() =>
        from matrix in new[] { ("blk.0.attn_q", "model.layers.0.self_attn.q_proj"), ("blk.29.attn_k", "model.layers.29.self_attn.k_proj") }
        from scaling in new[] { "identity", "activation" }
        from device in TestDevices.All
        select new TestCaseData(matrix.Item1, matrix.Item2, scaling, device).SetArgDisplayNames(matrix.Item1, scaling, device.ToString());

    // The authors' levels of a real model, and what they multiply to in double.
    [TestCaseSource(nameof(Goldens))]
    public void Run_AuthorsLevels_MatchProbes(string matrix, string module, string scaling, TestDevice device)
    {
        Device open = TestDevices.Open(device);
        SafeTensors blocks = SafeTensors.Open(SharedData.Require($"golden/bitstack/{matrix}.{scaling}.r16.blocks.safetensors"));
        SafeTensors probe = SafeTensors.Open(SharedData.Require($"golden/bitstack/{matrix}.{scaling}.r16.probe.safetensors"));
        float[] x = probe["x"].Floats();
        int k = probe["x"].Shape[1], n = blocks[$"{module}.u_0"].Shape[0];
        BitStackLevel[] levels = [.. Enumerable.Range(0, 8).Select(i => BitStackLevel.Pack(open, n, k, 16,
            blocks[$"{module}.qweight_{i}"].Bytes.Span, blocks[$"{module}.u_{i}"].Halves(), blocks[$"{module}.vt_{i}"].Halves()))];
        double gate = device.Id == "cpu" ? 1e-5 : 3e-5;
        using DeviceTensor<float> all = open.Upload<float>(x, 4, k);
        using DeviceTensor<float> y = open.Allocate<float>(4, n);
        foreach (int count in new[] { 1, 2, 4, 8 })
        {
            double[] want = MemoryMarshal.Cast<byte, double>(probe[$"y_levels_{count}"].Bytes.Span).ToArray();
            var op = new BitStack { Levels = levels.AsMemory(0, count), X = all, Y = y };
            Run(open, op);
            AssertClose(y.ToArray(), $"{count} levels, 4 rows at once");
            y.Buffer.Fill(0xff);
            for (int row = 0; row < 4; row++) Run(open, op with { X = all.View.Slice(row, 1), Y = y.View.Slice(row, 1) });
            AssertClose(y.ToArray(), $"{count} levels, row by row");

            void AssertClose(float[] got, string what)
            {
                Comparison worst = Comparison.Rows(Array.ConvertAll(got, v => (double)v), want, n, gate, "y");
                Assert.That(worst.Passes, Is.True, $"{what}: error {worst.Error:g3} above {worst.Gate:g3} at {worst.Where}");
            }
        }
        foreach (BitStackLevel level in levels) level.Dispose();
    }

    private static void Run(Device device, BitStack op)
    {
        long bytes = op.WorkspaceBytes(device);
        using DeviceBuffer? scratch = bytes == 0 ? null : device.Allocate(bytes);
        op.Run(device, scratch);
        device.Synchronize();
    }
}
