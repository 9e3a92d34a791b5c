// SPDX-License-Identifier: Apache-2.0
// The golden data of cache eviction: keys and queries captured from a real model, and the scores and kept sets that follow from them.
using System.Text.Json;
using Strata.Reference;
using Strata.Tests.Support;

namespace Strata.Tests.Golden;

/// <summary>A method of the golden data as settings of the ops.</summary>
/// <param name="Name">In the files.</param>
/// <param name="Settings">Of kv_score.</param>
/// <param name="Recent">Protected slots at the end for a budget.</param>
/// <param name="HasKept">Whether kept.json holds sets that kv_select alone decides.</param>
public sealed record GoldenMethod(string Name, KvScoreSettings Settings, Func<int, int> Recent, bool HasKept = true)
{
    public override string ToString() => Name;
}

/// <summary>The capture: 1,024 tokens, 9 query heads over 3 KV heads of 64 channels, layers 2, 14 and 27.</summary>
internal static class KvGolden
{
    public const int Tokens = 1024, QHeads = 9, KvHeads = 3, HeadDim = 64;
    public static readonly int[] Layers = [2, 14, 27];

    private static readonly Lazy<SafeTensors> s_capture = new(() => SafeTensors.Open(SharedData.Require("golden/kv/capture.safetensors")));
    private static readonly Lazy<SafeTensors> s_scores = new(() => SafeTensors.Open(SharedData.Require("golden/kv/scores.safetensors")));
    private static readonly Lazy<SafeTensors> s_attention = new(() => SafeTensors.Open(SharedData.Require("golden/kv/attention_after_eviction.safetensors")));
    private static readonly Lazy<JsonElement> s_kept = new(() => JsonDocument.Parse(File.ReadAllBytes(SharedData.Require("golden/kv/kept.json"))).RootElement);

    public static IReadOnlyList<GoldenMethod> Methods { get; } =
    [
        new("snapkv_w32_avg5", KvScoreSettings.SnapKv(), _ => 32),
        new("snapkv_w64_avg5", KvScoreSettings.SnapKv(window: 64), _ => 64),
        new("snapkv_w32_max5_reduce_pool", KvScoreSettings.SnapKv(kind: ScorePool.Max, reduceFirst: true), _ => 32),
        new("snapkv_w8_max7_reduce_pool", KvScoreSettings.SnapKv(window: 8, pool: 7, kind: ScorePool.Max, reduceFirst: true), _ => 8),
        new("snapkv_w32_max5_pool_reduce", KvScoreSettings.SnapKv(kind: ScorePool.Max), _ => 32),
        new("h2o", KvScoreSettings.H2O(), budget => budget / 2),
        new("tova", KvScoreSettings.Tova(), _ => 0),
        new("cake_w32", KvScoreSettings.Cake(), _ => 32),
        new("adakv_w32", KvScoreSettings.AdaKv(), _ => 32, HasKept: false), // its heads share one budget
    ];

    /// <summary>Skips the test where the data is not there.</summary>
    public static void Require() => (_, _, _, _) = (s_capture.Value, s_scores.Value, s_attention.Value, s_kept.Value);

    /// <summary>The layer's cache in shuffled pages.</summary>
    public static HostKvCache Cache(int layer, int pageSize = 64)
    {
        float[] keys = s_capture.Value[$"L{layer}.k"].Floats(), values = s_capture.Value[$"L{layer}.v"].Floats();
        return new HostKvCache(new KvCacheShape(DType.F16, 1, KvHeads, HeadDim, pageSize), [Tokens, Tokens, Tokens], new InputRandom(layer))
            .FillKeys((_, h, slot, c) => keys[(((h * Tokens) + slot) * HeadDim) + c])
            .FillValues((_, h, slot, c) => values[(((h * Tokens) + slot) * HeadDim) + c]);
    }

    /// <summary>The last queries, [1, window, 9, 64].</summary>
    public static DeviceTensor<Half> Queries(Device device, int layer, int window)
    {
        Half[] all = s_capture.Value[$"L{layer}.q"].Halves();
        var last = new Half[window * QHeads * HeadDim];
        for (int r = 0; r < window; r++)
        {
            for (int h = 0; h < QHeads; h++)
            {
                all.AsSpan(((h * Tokens) + Tokens - window + r) * HeadDim, HeadDim).CopyTo(last.AsSpan(((r * QHeads) + h) * HeadDim));
            }
        }
        return device.Upload<Half>(last, 1, window, QHeads, HeadDim);
    }

    /// <summary>Golden scores, one row per KV head (a layer's single row is repeated).</summary>
    public static float[][] Scores(int layer, string method)
    {
        SafeTensor tensor = s_scores.Value[$"L{layer}.{method}"];
        float[] all = tensor.Floats();
        int columns = tensor.Shape[1];
        return [.. Enumerable.Range(0, KvHeads).Select(h => all.AsSpan((tensor.Shape[0] == 1 ? 0 : h) * columns, columns).ToArray())];
    }

    /// <summary>Every budget of a method with what it keeps: (budget, per head the slots and the lowest kept score that was not protected).</summary>
    public static IEnumerable<(int Budget, (int[] Kept, double Threshold)[] Heads)> Kept(int layer, string method)
    {
        foreach (JsonProperty budget in s_kept.Value.GetProperty(method).GetProperty($"L{layer}").EnumerateObject())
        {
            (int[], double)[] rows = [.. budget.Value.GetProperty("rows").EnumerateArray().Select(row => (
                row.GetProperty("kept").EnumerateArray().Select(slot => slot.GetInt32()).ToArray(),
                row.TryGetProperty("threshold", out JsonElement threshold) && threshold.ValueKind == JsonValueKind.Number ? threshold.GetDouble() : 0))];
            yield return (int.Parse(budget.Name, System.Globalization.CultureInfo.InvariantCulture), [.. Enumerable.Range(0, KvHeads).Select(h => rows[rows.Length == 1 ? 0 : h])]);
        }
    }

    /// <summary>A tensor of attention_after_eviction.safetensors.</summary>
    public static float[] Attention(string name) => s_attention.Value[name].Floats();
}
