// SPDX-License-Identifier: Apache-2.0
// kv_attention in double.

namespace Strata.Reference;

/// <summary>The options of <see cref="KvAttention"/> that change its result.</summary>
public sealed record KvAttentionSettings
{
    /// <summary>Query r of n sees slots 0 to length - n + r; otherwise all.</summary>
    public bool Causal { get; init; }

    /// <summary>Factor of q k; 0 = 1 / √head_dim.</summary>
    public float Scale { get; init; }

    /// <summary>Bound of the scores; 0 = none.</summary>
    public float SoftCap { get; init; }

    /// <summary>Last slots that a query sees; 0 = all.</summary>
    public int Window { get; init; }

    /// <summary>First slots that it sees besides.</summary>
    public int WindowSinks { get; init; }

    /// <summary>[q_heads], or null.</summary>
    public HostTensor? AlibiSlopes { get; init; }

    /// <summary>[q_heads], or null.</summary>
    public HostTensor? SinkLogits { get; init; }

    /// <summary>Slots that query row <paramref name="row"/> of <paramref name="rows"/> sees without the window: 0 to this - 1.</summary>
    /// <param name="length">Slots held.</param>
    /// <param name="rows">Query rows of the sequence.</param>
    /// <param name="row">Which one.</param>
    public int Visible(int length, int rows, int row) => Causal ? Math.Clamp(length - rows + row + 1, 0, length) : length;

    /// <summary>Whether a query that sees <paramref name="visible"/> slots without the window sees this one with it.</summary>
    /// <param name="slot">The slot.</param>
    /// <param name="visible">What <see cref="Visible"/> says.</param>
    public bool Sees(int slot, int visible) => slot < visible && (Window == 0 || slot >= visible - (long)Window || slot < WindowSinks);
}

/// <summary>What <see cref="KvAttentionReference"/> computes.</summary>
/// <param name="Output">[tokens, q_heads, head_dim].</param>
/// <param name="LogSumExp">[tokens, q_heads]; -∞ for a query that sees nothing.</param>
/// <param name="PastLogSumExp">[tokens, q_heads]: over the slots before the sequence's own rows, sink logit not counted.</param>
/// <param name="KeyProbability">Of each (sequence, KV head): what each slot received.</param>
/// <param name="LargestScore">[tokens, q_heads]: the largest scale · Σ|q k| + |bias| of a row's slots, which scales the error of its scores.</param>
public sealed record KvAttentionResult(double[] Output, double[] LogSumExp, double[] PastLogSumExp, double[][] KeyProbability, double[] LargestScore);

/// <summary>The oracle of <see cref="KvAttention"/>.</summary>
public static class KvAttentionReference
{
    /// <summary><c>softmax(s) V</c> over the slots that each query sees, from the stored values.</summary>
    /// <param name="q">[tokens, q_heads, head_dim].</param>
    /// <param name="cache">The cache.</param>
    /// <param name="rowOffsets">First query row of each sequence, and the total.</param>
    /// <param name="settings">The op's options.</param>
    /// <param name="only">Rows to compute (token · q_heads + head), the others stay 0; null = all.</param>
    public static KvAttentionResult Run(HostTensor q, HostKvCache cache, IReadOnlyList<int> rowOffsets, KvAttentionSettings settings, IReadOnlySet<long>? only = null)
    {
        ArgumentNullException.ThrowIfNull(q);
        ArgumentNullException.ThrowIfNull(cache);
        ArgumentNullException.ThrowIfNull(rowOffsets);
        ArgumentNullException.ThrowIfNull(settings);
        long tokens = q.Shape[0], heads = q.Shape[1], width = q.Shape[2], group = heads / cache.Shape.KvHeads;
        var result = new KvAttentionResult(new double[tokens * heads * width], new double[tokens * heads], new double[tokens * heads],
            new double[cache.Shape.Batch * cache.Shape.KvHeads][], new double[tokens * heads]);
        for (int b = 0; b < cache.Shape.Batch; b++)
        {
            int rows = rowOffsets[b + 1] - rowOffsets[b];
            for (int h = 0; h < cache.Shape.KvHeads; h++)
            {
                Slots? slots = null;
                double[] received = new double[cache.Length(b, h)];
                result.KeyProbability[(b * cache.Shape.KvHeads) + h] = received;
                for (long head = h * group; head < (h + 1) * group; head++)
                {
                    for (int r = 0; r < rows; r++)
                    {
                        if (only?.Contains(((rowOffsets[b] + r) * heads) + head) == false) continue;
                        slots ??= Slots.Of(cache, b, h);
                        double[] weights = Attend(q, rowOffsets[b] + r, head, slots, cache.Shape.Rotation, rows, r, settings, result);
                        for (int s = 0; s < weights.Length; s++) received[s] += weights[s] / group;
                    }
                }
            }
        }
        return result;
    }

    /// <summary>What one (sequence, KV head) holds, in the basis in which it is stored.</summary>
    private sealed record Slots(double[] Keys, double[] Values, double[] Bias)
    {
        public static Slots Of(HostKvCache cache, int b, int h)
        {
            int length = cache.Length(b, h), width = cache.Shape.HeadDim;
            var slots = new Slots(new double[length * width], new double[length * width], new double[length]);
            for (int s = 0; s < length; s++)
            {
                cache.ReadKey(b, h, s, slots.Keys.AsSpan(s * width, width));
                cache.ReadValue(b, h, s, slots.Values.AsSpan(s * width, width));
                slots.Bias[s] = cache.Bias(b, h, s);
            }
            return slots;
        }
    }

    /// <summary>One row; returns its probability of every slot.</summary>
    private static double[] Attend(HostTensor q, long token, long head, Slots slots, int rotation, int rows, int r, KvAttentionSettings settings, KvAttentionResult result)
    {
        int width = (int)q.Shape[2], length = slots.Bias.Length, visible = settings.Visible(length, rows, r);
        long row = (token * q.Shape[1]) + head;
        double scale = settings.Scale == 0 ? 1 / Math.Sqrt(width) : settings.Scale;
        var query = new double[width];
        for (int d = 0; d < width; d++) query[d] = q[token, head, d];
        KvQuantizer.Rotate(query, rotation);
        var scores = new double[length];
        double sink = settings.SinkLogits is null ? double.NegativeInfinity : settings.SinkLogits[head];
        double highest = sink, largest = 0;
        for (int s = 0; s < length; s++)
        {
            scores[s] = double.NegativeInfinity;
            if (!settings.Sees(s, visible)) continue;
            double dot = 0, magnitude = 0;
            for (int d = 0; d < width; d++)
            {
                double product = query[d] * slots.Keys[(s * width) + d];
                dot += product;
                magnitude += Math.Abs(product);
            }
            double score = scale * dot;
            if (settings.SoftCap != 0) score = settings.SoftCap * Math.Tanh(score / settings.SoftCap);
            double distance = settings.AlibiSlopes is null ? 0 : settings.AlibiSlopes[head] * (s - (length - rows + r));
            scores[s] = score + distance + slots.Bias[s];
            highest = Math.Max(highest, scores[s]);
            largest = Math.Max(largest, (Math.Abs(scale) * magnitude) + Math.Abs(distance) + Math.Abs(slots.Bias[s]));
        }
        double lse = LogSum(scores, sink, highest);
        var weights = new double[length];
        for (int s = 0; s < length; s++)
        {
            if (!settings.Sees(s, visible)) continue; // its value may be anything
            weights[s] = double.IsNegativeInfinity(highest) ? 0 : Math.Exp(scores[s] - highest);
            for (int d = 0; d < width; d++) result.Output[(row * width) + d] += weights[s] * slots.Values[(s * width) + d];
        }
        // Divided last: equal scores weigh exactly 1 each, and the mean of whole numbers is rounded once.
        double sum = Math.Max(double.Epsilon, weights.Sum() + (double.IsNegativeInfinity(sink) ? 0 : Math.Exp(sink - highest)));
        for (int d = 0; d < width; d++) result.Output[(row * width) + d] /= sum;
        for (int s = 0; s < length; s++) weights[s] /= sum;
        KvQuantizer.Rotate(result.Output.AsSpan((int)(row * width), width), rotation);
        ReadOnlySpan<double> past = scores.AsSpan(0, Math.Clamp(length - rows, 0, length));
        double highestPast = double.NegativeInfinity;
        foreach (double score in past) highestPast = Math.Max(highestPast, score);
        result.LogSumExp[row] = lse;
        result.PastLogSumExp[row] = LogSum(past, double.NegativeInfinity, highestPast);
        result.LargestScore[row] = largest;
        return weights;
    }

    /// <summary><c>ln(Σ exp(scores) + exp(sink))</c>; -∞ of nothing.</summary>
    private static double LogSum(ReadOnlySpan<double> scores, double sink, double highest)
    {
        if (double.IsNegativeInfinity(highest)) return highest;
        double sum = Math.Exp(sink - highest);
        foreach (double score in scores) sum += Math.Exp(score - highest);
        return highest + Math.Log(sum);
    }
}
