// SPDX-License-Identifier: Apache-2.0
// Scores, kept sets and attention after eviction on a real model's keys, against golden data computed from formulas and compared with the methods'
// published code.
using Strata.Reference;

namespace Strata.Tests.Golden;

[TestFixture]
public sealed class KvEvictionGoldenTests
{
    // Seen: at most 5e-6 on every device. A kept set may differ only where the golden score lies this near to the threshold.
    private const double ScoreGate = 2e-5;

    public static IEnumerable<TestCaseData> Runs() =>
        from device in TestDevices.All
        from method in KvGolden.Methods
        select new TestCaseData(device, method).SetArgDisplayNames(device.ToString(), method.ToString());

    [TestCaseSource(nameof(Runs))]
    public void Score_CapturedLayers_MatchGoldenScoresAndSets(TestDevice device, GoldenMethod method)
    {
        KvGolden.Require();
        Device open = TestDevices.Open(device);
        bool everyRowOnFibers = device.Id == "simt" && method.Settings.Window == 0; // seconds a layer
        foreach (int layer in everyRowOnFibers ? [14] : KvGolden.Layers)
        {
            using DeviceKvCache cache = KvGolden.Cache(layer).Upload(open);
            int window = method.Settings.Window == 0 ? KvGolden.Tokens : method.Settings.Window;
            using DeviceTensor<Half> queries = KvGolden.Queries(open, layer, window);
            using DeviceTensor<float> scores = open.Allocate<float>(1, KvGolden.KvHeads, KvGolden.Tokens);
            var score = new KvScore { Cache = cache.View, Q = queries, Scores = scores, Settings = method.Settings, MaxLength = KvGolden.Tokens };
            using DeviceBuffer workspace = open.Allocate(score.WorkspaceBytes(open));
            score.Run(open, workspace);
            open.Synchronize();

            float[] got = scores.ToArray();
            float[][] want = KvGolden.Scores(layer, method.Name);
            double worst = 0;
            for (int h = 0; h < KvGolden.KvHeads; h++)
            {
                for (int j = 0; j < want[h].Length; j++) worst = Math.Max(worst, Math.Abs(got[(h * KvGolden.Tokens) + j] - want[h][j]) / (double)want[h][j]);
            }
            Assert.That(worst, Is.LessThan(ScoreGate), $"layer {layer}");
            if (method.HasKept) AssertSets(open, scores, cache.Lengths.View, layer, method, want);
        }
    }

    [TestCaseSource(nameof(Runs))]
    public void Select_GoldenScores_KeepsGoldenSets(TestDevice device, GoldenMethod method)
    {
        KvGolden.Require();
        if (!method.HasKept) Assert.Ignore($"{method} divides one budget among its heads; kv_select takes budgets per head");
        Device open = TestDevices.Open(device);
        using DeviceTensor<int> lengths = open.Upload<int>([KvGolden.Tokens, KvGolden.Tokens, KvGolden.Tokens], 1, KvGolden.KvHeads);
        foreach (int layer in KvGolden.Layers)
        {
            float[][] golden = KvGolden.Scores(layer, method.Name);
            using DeviceTensor<float> scores = open.Upload<float>([.. golden.SelectMany(row => row)], 1, KvGolden.KvHeads, golden[0].Length);
            foreach ((int budget, (int[] Kept, double Threshold)[] heads) in KvGolden.Kept(layer, method.Name))
            {
                int[][] got = Select(open, scores, lengths, budget, 0, method.Recent(budget));
                for (int h = 0; h < KvGolden.KvHeads; h++) Assert.That(got[h], Is.EqualTo(heads[h].Kept), $"layer {layer} budget {budget} head {h}");
            }
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Select_Streaming_KeepsGoldenSets(TestDevice device)
    {
        KvGolden.Require();
        Device open = TestDevices.Open(device);
        using DeviceTensor<int> lengths = open.Upload<int>([KvGolden.Tokens, KvGolden.Tokens, KvGolden.Tokens], 1, KvGolden.KvHeads);
        foreach ((int budget, (int[] Kept, double Threshold)[] heads) in KvGolden.Kept(14, "streaming_llm"))
        {
            int[][] got = Select(open, default, lengths, budget, 4, budget - 4);
            Assert.That(got, Is.All.EqualTo(heads[0].Kept), $"budget {budget}");
        }
    }

    [TestCaseSource(typeof(TestDevices), nameof(TestDevices.All))]
    public void Attention_AfterCompaction_MatchesGolden(TestDevice device)
    {
        const int rows = 4, budget = 128;
        KvGolden.Require();
        Device open = TestDevices.Open(device);
        using DeviceKvCache cache = KvGolden.Cache(14).Upload(open);
        int[] kept = [.. KvGolden.Kept(14, "snapkv_w32_avg5").Single(k => k.Budget == budget).Heads.SelectMany(head => head.Kept)];
        using DeviceTensor<int> slots = open.Upload<int>(kept, 1, KvGolden.KvHeads, budget);
        using DeviceTensor<int> counts = open.Upload<int>([budget, budget, budget], 1, KvGolden.KvHeads);
        var compact = new KvCompact { Cache = cache.View, Kept = slots, KeptCounts = counts, NewLengths = cache.Lengths.View };
        using DeviceBuffer compactWorkspace = open.Allocate(Math.Max(1, compact.WorkspaceBytes(open)));
        compact.Run(open, compactWorkspace);

        using DeviceTensor<Half> queries = KvGolden.Queries(open, 14, rows);
        using DeviceTensor<float> output = open.Allocate<float>(rows, KvGolden.QHeads, KvGolden.HeadDim);
        using DeviceTensor<float> lse = open.Allocate<float>(rows, KvGolden.QHeads);
        var attention = new KvAttention
        {
            Cache = cache.View,
            Q = queries.View.Reshape(rows, KvGolden.QHeads, KvGolden.HeadDim),
            Output = output,
            LogSumExp = lse,
            Causal = true,
        };
        if (!attention.IsSupported(open, out string reason)) Assert.Ignore(reason);
        using DeviceBuffer workspace = open.Allocate(Math.Max(1, attention.WorkspaceBytes(open)));
        attention.Run(open, workspace);
        open.Synchronize();

        // On a GPU the probabilities are rounded to fp16 for the tensor cores.
        double gate = device.Id == "cpu" ? 1e-5 : 6e-4;
        double[] want = [.. Transposed(KvGolden.Attention("out_kept"), rows, KvGolden.HeadDim)];
        Comparison outputs = Comparison.Rows([.. output.ToArray().Select(v => (double)v)], want, KvGolden.HeadDim, gate, "out");
        Assert.That(outputs.Passes, Is.True, $"{outputs.Where}: {outputs.Error:g3}");
        Assert.That(lse.ToArray(), Is.EqualTo(Transposed(KvGolden.Attention("lse_kept"), rows, 1)).Within(1e-4));
    }

    // [heads, rows, width] as [rows, heads, width].
    private static double[] Transposed(float[] values, int rows, int width) =>
        [.. from row in Enumerable.Range(0, rows) from head in Enumerable.Range(0, KvGolden.QHeads) from c in Enumerable.Range(0, width) select (double)values[(((head * rows) + row) * width) + c]];

    private static void AssertSets(Device open, TensorView scores, TensorView lengths, int layer, GoldenMethod method, float[][] golden)
    {
        foreach ((int budget, (int[] Kept, double Threshold)[] heads) in KvGolden.Kept(layer, method.Name))
        {
            int[][] got = Select(open, scores, lengths, budget, 0, method.Recent(budget));
            for (int h = 0; h < KvGolden.KvHeads; h++)
            {
                (int[] kept, double threshold) = heads[h];
                IEnumerable<int> different = got[h].Except(kept).Concat(kept.Except(got[h]));
                Assert.That(got[h], Has.Length.EqualTo(kept.Length));
                Assert.That(different.Where(slot => Math.Abs(golden[h][slot] - threshold) > 2 * ScoreGate * threshold), Is.Empty, $"layer {layer} budget {budget} head {h}: slots that are not near the threshold {threshold}");
            }
        }
    }

    private static int[][] Select(Device open, TensorView scores, TensorView lengths, int budget, int first, int last)
    {
        using DeviceTensor<int> kept = open.Allocate<int>(1, KvGolden.KvHeads, budget);
        using DeviceTensor<int> counts = open.Allocate<int>(1, KvGolden.KvHeads);
        var select = new KvSelect
        {
            Scores = scores,
            Lengths = lengths,
            Kept = kept,
            KeptCounts = counts,
            Budget = budget,
            ProtectFirst = first,
            ProtectLast = last,
            MaxLength = KvGolden.Tokens,
        };
        using DeviceBuffer workspace = open.Allocate(Math.Max(1, select.WorkspaceBytes(open)));
        select.Run(open, workspace);
        open.Synchronize();
        Assert.That(counts.ToArray(), Is.All.EqualTo(budget));
        return [.. kept.ToArray().Chunk(budget)];
    }
}
