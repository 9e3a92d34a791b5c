// SPDX-License-Identifier: Apache-2.0
// qgemm: a worked example, every weight by unit vectors, isolation of rows, independence of the batch, what the API refuses.

using Strata.Reference;

namespace Strata.Tests.Ops;

[TestFixture]
public sealed class QgemmTests
{
    private static readonly (WeightFormat Format, int Group)[] s_formats =
    [
        (WeightFormat.F32, 0), (WeightFormat.F16, 0), (WeightFormat.BF16, 0), (WeightFormat.Q4_0, 0), (WeightFormat.Q4_1, 0), (WeightFormat.Q8_0, 0),
        (WeightFormat.Q4_K, 0), (WeightFormat.Q6_K, 0), (WeightFormat.I4, 32), (WeightFormat.I4, 64), (WeightFormat.I4, 128),
    ];

    public static IEnumerable<TestCaseData> FormatsOnDevices() =>
        from device in TestDevices.All
        from format in s_formats
        select new TestCaseData(device, format.Format, format.Group).SetArgDisplayNames(device.ToString(), format.Format.ToString() + (format.Group == 0 ? "" : format.Group));

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_WorkedExample_MatchesFormula(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        // The Q4_0 block of x[i] = (i - 16) / 4: d = 0.5, codes 0, 1, 1, 2, 2 ... below and 8, 9, 9, 10, 10 ... above, w = d (q - 8).
        byte[] block = Convert.FromHexString("0038" + "809191a2a2b3b3c4c4d5d5e6e6f7f7f8");
        using PackedWeight w = PackedWeight.Pack(open, WeightFormat.Q4_0, 1, 32, block);
        var ones = new float[32];
        Array.Fill(ones, 1f);
        using DeviceTensor<float> x = open.Upload<float>(ones, 1, 32);
        using DeviceTensor<float> y = open.Allocate<float>(1, 1);
        Run(open, new Qgemm { X = x, Y = y, W = w });
        // Low nibbles 0 1 1 2 2 3 3 4 4 5 5 6 6 7 7 8 sum to 64, high nibbles 8 9 9 ... 15 15 to 191: 0.5 (64 + 191 - 32 8).
        Assert.That(y.ToArray(), Is.EqualTo(new[] { -0.5f }));
        Assert.That(Device.LastImplementation, Does.StartWith("qgemm/"));
    }

    [TestCaseSource(nameof(FormatsOnDevices))]
    public void Run_UnitVectors_GiveBackEveryWeight(TestDevice device, WeightFormat format, int group)
    {
        Device open = TestDevices.Open(device);
        int k = Math.Max(group, format is WeightFormat.Q4_K or WeightFormat.Q6_K ? 256 : 32) * 3;
        const int N = 18;
        HostWeight host = HostWeight.Create(format, N, k, group, exact: false, seed: 3);
        using PackedWeight w = host.Pack(open);
        const int Rows = 48; // a batch of unit vectors
        using DeviceTensor<float> y = open.Allocate<float>(Rows, N);
        using DeviceTensor<int> ids = open.Upload<int>([.. Enumerable.Range(0, N)], N);
        using DeviceTensor<float> table = open.Allocate<float>(N, k);
        new Embed { Ids = ids, Y = table, W = w }.Run(open);
        open.Synchronize();
        float[] looked = table.ToArray();
        for (int first = 0; first < k; first += Rows)
        {
            int rows = Math.Min(Rows, k - first);
            var units = new float[Rows * k];
            for (int r = 0; r < rows; r++) units[(r * k) + first + r] = 1;
            using DeviceTensor<float> x = open.Upload<float>(units, Rows, k);
            Run(open, new Qgemm { X = x, Y = y, W = w });
            float[] got = y.ToArray();
            for (int r = 0; r < rows; r++)
            {
                for (int n = 0; n < N; n++)
                {
                    float want = (float)host[n, first + r];
                    if (got[(r * N) + n] != want || looked[(n * k) + first + r] != want)
                    {
                        Assert.Fail($"{format} w[{n},{first + r}] is {want:r}, qgemm gives {got[(r * N) + n]:r}, embed {looked[(n * k) + first + r]:r}");
                    }
                }
            }
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_RowWithNaN_SpoilsThatRowOnly(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        foreach ((WeightFormat format, bool int8) in new[] { (WeightFormat.F16, false), (WeightFormat.Q4_1, false), (WeightFormat.Q4_1, true), (WeightFormat.Q6_K, false), (WeightFormat.Q6_K, true) })
        {
            const int M = 5, N = 20, K = 256;
            using PackedWeight w = HostWeight.Create(format, N, K, 0, exact: false, seed: 5).Pack(open);
            var random = new InputRandom(6);
            float[] values = [.. Enumerable.Range(0, M * K).Select(_ => (float)random.Gaussian())];
            float[] clean = Multiply(open, w, values, M, int8);
            foreach (float bad in new[] { float.NaN, float.PositiveInfinity, float.NegativeInfinity })
            {
                float[] spoiled = [.. values];
                spoiled[(2 * K) + 77] = bad;
                float[] got = Multiply(open, w, spoiled, M, int8);
                for (int r = 0; r < M; r++)
                {
                    float[] row = got[(r * N)..((r + 1) * N)];
                    if (r == 2) Assert.That(row, Has.All.Matches<float>(v => !float.IsFinite(v)), $"{format} int8={int8} {bad}");
                    else Assert.That(row, Is.EqualTo(clean[(r * N)..((r + 1) * N)]), $"{format} int8={int8} {bad}: row {r}");
                }
            }
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.Cpu))]
    public void Run_OnCpu_ResultDoesNotDependOnTheBatch(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        foreach (bool int8 in new[] { false, true })
        {
            const int M = 23, N = 33, K = 576;
            using PackedWeight w = HostWeight.Create(WeightFormat.Q4_1, N, K, 0, exact: false, seed: 8).Pack(open);
            var random = new InputRandom(9);
            float[] values = [.. Enumerable.Range(0, M * K).Select(_ => (float)random.Gaussian())];
            float[] whole = Multiply(open, w, values, M, int8);
            for (int r = 0; r < M; r++)
            {
                Assert.That(Multiply(open, w, values[(r * K)..((r + 1) * K)], 1, int8), Is.EqualTo(whole[(r * N)..((r + 1) * N)]), $"row {r}, int8={int8}");
            }
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Run_TinyAndZeroGroups_AreZeroInt8(TestDevice device)
    {
        Device open = TestDevices.Open(device);
        using PackedWeight w = HostWeight.Create(WeightFormat.Q4_0, 16, 64, 0, exact: false, seed: 11).Pack(open);
        float[] values = [.. Enumerable.Repeat(0f, 32), .. Enumerable.Repeat(1e-38f, 32)];
        Assert.That(Multiply(open, w, values, 1, int8: true), Is.All.Zero);
    }

    [Test]
    public void Run_WrongArguments_SentenceAndNoChange()
    {
        Device open = TestDevices.Open(new TestDevice("cpu", null));
        using PackedWeight w = HostWeight.Create(WeightFormat.Q4_0, 16, 64, 0, exact: false, seed: 1).Pack(open);
        using PackedWeight floats = HostWeight.Create(WeightFormat.F16, 16, 64, 0, exact: false, seed: 1).Pack(open);
        using DeviceTensor<float> x = open.Upload<float>(new float[2 * 64], 2, 64);
        using DeviceTensor<float> narrow = open.Upload<float>(new float[2 * 63], 2, 63);
        using DeviceTensor<float> y = open.Upload<float>([.. Enumerable.Repeat(9f, 32)], 2, 16);
        using DeviceTensor<int> integers = open.Allocate<int>(2, 16);

        AssertFails(new Qgemm { X = narrow, Y = y, W = w }, StrataStatus.Shape, "qgemm: x.shape[1] is 63, must equal w.k = 64; pass activations of the weight's width");
        AssertFails(new Qgemm { X = x, Y = y.View.Slice(0, 1), W = w }, StrataStatus.Shape, "qgemm: y.shape[0] is 1, must equal x.shape[0] = 2; give y the rows of x");
        AssertFails(new Qgemm { X = x, Y = integers, W = w }, StrataStatus.DType, "qgemm: y.dtype is i32 (4), must be f32 or f16 or bf16; convert it first");
        AssertFails(new Qgemm { X = x, Y = y }, StrataStatus.Format, "qgemm: w.format is 0, must be a strata_format (1 to 9); pass what strata_weight_pack filled in");
        AssertFails(new Qgemm { X = x, Y = y, W = floats, Int8Activations = true }, StrataStatus.Argument,
            "qgemm: flags asks for int8 activations with F16 weights, must be with weights of 4 to 8 bits; clear STRATA_QGEMM_INT8_ACTIVATIONS");
        StrataException e = Assert.Throws<StrataException>(() => new Qgemm { X = x, Y = y, W = w }.Run(open))!;
        Assert.That((e.Status, e.Message), Is.EqualTo((StrataStatus.Workspace, "qgemm: workspace has 0 bytes, must have 512; ask strata_qgemm_workspace")));
        Assert.That(y.ToArray(), Is.All.EqualTo(9f));

        void AssertFails(Qgemm op, StrataStatus status, string sentence)
        {
            using DeviceBuffer workspace = open.Allocate(1 << 16);
            StrataException failure = Assert.Throws<StrataException>(() => op.Run(open, workspace))!;
            Assert.That((failure.Status, failure.Message), Is.EqualTo((status, sentence)));
            Assert.That(op.IsSupported(open, out _), Is.False);
        }
    }

    private static float[] Multiply(Device device, PackedWeight w, float[] values, int m, bool int8)
    {
        using DeviceTensor<float> x = device.Upload<float>(values, m, w.K);
        using DeviceTensor<float> y = device.Allocate<float>(m, w.N);
        Run(device, new Qgemm { X = x, Y = y, W = w, Int8Activations = int8 });
        return y.ToArray();
    }

    private static void Run(Device device, Qgemm op)
    {
        using DeviceBuffer workspace = device.Allocate(Math.Max(1, op.WorkspaceBytes(device)));
        op.Run(device, workspace);
        device.Synchronize();
    }
}
