// SPDX-License-Identifier: Apache-2.0
// kv_score, and the published methods as settings of it.

using Strata.Bindings;

namespace Strata;

/// <summary>Reduction over the window's rows, per query head and key.</summary>
public enum ScoreStatistic
{
    /// <summary>Sum of the probabilities.</summary>
    Sum = 0,
    /// <summary>Sum divided by the window.</summary>
    Mean = 1,
    /// <summary>Largest probability.</summary>
    Max = 2,
    /// <summary>Mean + gamma · unbiased variance; the variance of one row is 0.</summary>
    MeanVariance = 3,
}

/// <summary>Pooling along the keys, stride 1.</summary>
public enum ScorePool
{
    /// <summary>None.</summary>
    None = 0,
    /// <summary>Average; zeros past the ends count in the divisor.</summary>
    Average = 1,
    /// <summary>Maximum; what lies past the ends is ignored.</summary>
    Max = 2,
}

/// <summary>Reduction over query heads.</summary>
public enum ScoreHeads
{
    /// <summary>Mean over the query heads of a KV head.</summary>
    GroupMean = 0,
    /// <summary>Maximum over the query heads of a KV head.</summary>
    GroupMax = 1,
    /// <summary>Mean over all query heads, written to every KV head; a head that is too short to have a slot counts as 0 there.</summary>
    LayerMean = 2,
}

/// <summary>How <see cref="KvScore"/> turns attention into scores. The factory methods are the published methods at their authors' defaults.</summary>
public readonly record struct KvScoreSettings
{
    /// <summary>How many of the last queries to pass as <see cref="KvScore.Q"/>; 0 = all of the prompt's.</summary>
    public int Window { get; init; }

    /// <summary>Reduction over the window's rows.</summary>
    public ScoreStatistic Statistic { get; init; }

    /// <summary>Pooling along the keys.</summary>
    public ScorePool Pool { get; init; }

    /// <summary>Width of the pool, odd, 1 to 127; 0 without pooling.</summary>
    public int PoolWidth { get; init; }

    /// <summary>Reduction over query heads.</summary>
    public ScoreHeads Heads { get; init; }

    /// <summary>Reduce over heads before pooling; otherwise pool each head first.</summary>
    public bool ReduceFirst { get; init; }

    /// <summary>Slots at the end that get no score, and should be protected in <see cref="KvSelect"/>.</summary>
    public int ExcludeLast { get; init; }

    /// <summary>Weight of the variance with <see cref="ScoreStatistic.MeanVariance"/>.</summary>
    public float Gamma { get; init; }

    /// <summary>SnapKV (Li et al. 2024): attention of the last queries, pooled; those queries' own tokens stay.</summary>
    /// <param name="window">Queries.</param>
    /// <param name="pool">Width of the pool.</param>
    /// <param name="kind">Average, or maximum as many of its configurations have it.</param>
    /// <param name="reduceFirst">Whether heads are reduced before pooling; with an average it makes no difference.</param>
    public static KvScoreSettings SnapKv(int window = 32, int pool = 5, ScorePool kind = ScorePool.Average, bool reduceFirst = false) =>
        new() { Window = window, Statistic = ScoreStatistic.Sum, Pool = kind, PoolWidth = pool, ReduceFirst = reduceFirst, ExcludeLast = window };

    /// <summary>Ada-KV (Feng et al. 2024): mean over the window, reduced over the group, then max-pooled.</summary>
    /// <param name="window">Queries.</param>
    /// <param name="pool">Width of the pool.</param>
    public static KvScoreSettings AdaKv(int window = 32, int pool = 7) =>
        new() { Window = window, Statistic = ScoreStatistic.Mean, Pool = ScorePool.Max, PoolWidth = pool, ReduceFirst = true, ExcludeLast = window };

    /// <summary>CAKE (Qin et al. 2025): mean plus weighted variance over the window, average-pooled.</summary>
    /// <param name="window">Queries.</param>
    /// <param name="pool">Width of the pool.</param>
    /// <param name="gamma">Weight of the variance.</param>
    public static KvScoreSettings Cake(int window = 32, int pool = 5, float gamma = 200) =>
        new() { Window = window, Statistic = ScoreStatistic.MeanVariance, Pool = ScorePool.Average, PoolWidth = pool, ExcludeLast = window, Gamma = gamma };

    /// <summary>H2O (Zhang et al. 2023): attention of every query, summed.</summary>
    public static KvScoreSettings H2O() => new() { Window = 0, Statistic = ScoreStatistic.Sum };

    /// <summary>TOVA (Oren et al. 2024): attention of the last query, mean over all heads of the layer.</summary>
    public static KvScoreSettings Tova() => new() { Window = 1, Statistic = ScoreStatistic.Sum, Heads = ScoreHeads.LayerMean };
}

/// <summary>
/// Scores of cached keys from the attention of the last queries: <c>p = softmax(scale · q Kᵀ)</c> of each of the window's rows over the slots it sees
/// (row r of w sees slots 0 to length - w + r), reduced over the rows, pooled along the keys and reduced over heads. Nothing of size window · length is
/// ever stored. Exactly equal inputs give exactly equal scores, so plateaus of a maximum pool stay ties.
/// </summary>
public readonly struct KvScore : IOp
{
    /// <summary>The cache; keys, page table and lengths are read.</summary>
    public KvCache Cache { get; init; }

    /// <summary>The last queries [batch, window, q_heads, head_dim], F32, F16 or BF16, rotated. Rows that see no slot (a window longer than the cache) count as zeros.</summary>
    public TensorView Q { get; init; }

    /// <summary>Optional [batch, window, q_heads], F32: what <see cref="KvAttention.LogSumExp"/> (causal) wrote for these rows; absent: one more pass over the keys.</summary>
    public TensorView LogSumExp { get; init; }

    /// <summary>Written: [batch, kv_heads, capacity], F32; columns 0 to length - <see cref="ExcludeLast"/> - 1, the others are left alone.</summary>
    public TensorView Scores { get; init; }

    /// <summary>Reduction over the window's rows.</summary>
    public ScoreStatistic Statistic { get; init; }

    /// <summary>Pooling along the keys.</summary>
    public ScorePool Pool { get; init; }

    /// <summary>Width of the pool, odd, 1 to 127; 0 without pooling.</summary>
    public int PoolWidth { get; init; }

    /// <summary>Reduction over query heads.</summary>
    public ScoreHeads Heads { get; init; }

    /// <summary>Reduce over heads before pooling.</summary>
    public bool ReduceFirst { get; init; }

    /// <summary>Slots at the end that get no score.</summary>
    public int ExcludeLast { get; init; }

    /// <summary>Weight of the variance with <see cref="ScoreStatistic.MeanVariance"/>.</summary>
    public float Gamma { get; init; }

    /// <summary>Factor of q k; 0 = 1 / √head_dim.</summary>
    public float Scale { get; init; }

    /// <summary>An upper bound of the lengths known on the host, at most 2^30; 0 = the capacity of the page table.</summary>
    public int MaxLength { get; init; }

    /// <summary>Sets everything that a method says, from <see cref="Statistic"/> to <see cref="Gamma"/>. The window is the number of rows of <see cref="Q"/>.</summary>
    public KvScoreSettings Settings
    {
        init
        {
            Statistic = value.Statistic;
            Pool = value.Pool;
            PoolWidth = value.PoolWidth;
            Heads = value.Heads;
            ReduceFirst = value.ReduceFirst;
            ExcludeLast = value.ExcludeLast;
            Gamma = value.Gamma;
        }
    }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_kv_score_args
        {
            struct_size = (uint)sizeof(strata_kv_score_args),
            cache = Cache.Raw,
            q = Q.Raw,
            lse = LogSumExp.Raw,
            scores = Scores.Raw,
            statistic = (int)Statistic,
            pool = (int)Pool,
            pool_width = PoolWidth,
            heads = (int)Heads,
            reduce_first = ReduceFirst ? 1 : 0,
            exclude_last = ExcludeLast,
            gamma = Gamma,
            scale = Scale,
            max_length = MaxLength,
        };
        int status = invocation.Call(&args, &Native.strata_kv_score_supported, &Native.strata_kv_score_workspace, &Native.strata_kv_score_run);
        TensorView.KeepAlive(Q, LogSumExp, Scores);
        KvCache.KeepAlive(Cache);
        return status;
    }
}
