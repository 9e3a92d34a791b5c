// SPDX-License-Identifier: Apache-2.0
// kv_score in double.

namespace Strata.Reference;

/// <summary>The oracle of <see cref="KvScore"/>: writes every probability down and reduces it by the definition.</summary>
public static class KvScoreReference
{
    /// <summary>Scores of every head.</summary>
    /// <param name="cache">The keys.</param>
    /// <param name="q">[batch, window, q_heads, head_dim].</param>
    /// <param name="settings">The method.</param>
    /// <param name="scale">0 = 1 / √head_dim.</param>
    /// <returns>One row per (sequence, KV head): columns 0 to length - ExcludeLast - 1.</returns>
    public static double[][] Run(HostKvCache cache, HostTensor q, KvScoreSettings settings, float scale = 0)
    {
        ArgumentNullException.ThrowIfNull(cache);
        ArgumentNullException.ThrowIfNull(q);
        int kvHeads = cache.Shape.KvHeads, qHeads = (int)q.Shape[2], group = qHeads / kvHeads;
        var scores = new double[cache.Shape.Batch * kvHeads][];
        for (int b = 0; b < cache.Shape.Batch; b++)
        {
            var statistics = new double[qHeads][];
            for (int h = 0; h < kvHeads; h++)
            {
                double[][] keys = Keys(cache, b, h);
                int columns = Math.Max(0, keys.Length - settings.ExcludeLast);
                for (int g = 0; g < group; g++)
                {
                    double[][] rows = Probabilities(keys, q, b, (h * group) + g, scale, out _);
                    statistics[(h * group) + g] = [.. Enumerable.Range(0, columns).Select(j => Statistic(rows, j, settings))];
                }
            }
            for (int h = 0; h < kvHeads; h++)
            {
                bool layer = settings.Heads == ScoreHeads.LayerMean;
                double[][] heads = layer ? statistics : statistics[(h * group)..((h + 1) * group)];
                int columns = Math.Max(0, cache.Length(b, h) - settings.ExcludeLast);
                scores[(b * kvHeads) + h] = settings.ReduceFirst
                    ? Pooled(Reduced(heads, columns, settings.Heads), settings)
                    : Reduced([.. heads.Select(s => Pooled(s, settings))], columns, settings.Heads);
            }
        }
        return scores;
    }

    /// <summary>Natural logarithm of the sum of exp(scale · q k) of every row over the slots it sees; -∞ where it sees none.</summary>
    /// <param name="cache">The keys.</param>
    /// <param name="q">[batch, window, q_heads, head_dim].</param>
    /// <param name="scale">0 = 1 / √head_dim.</param>
    /// <returns>[batch, window, q_heads].</returns>
    public static HostTensor LogSumExp(HostKvCache cache, HostTensor q, float scale = 0)
    {
        ArgumentNullException.ThrowIfNull(cache);
        ArgumentNullException.ThrowIfNull(q);
        var result = new HostTensor(DType.F32, [q.Shape[0], q.Shape[1], q.Shape[2]]);
        int group = (int)q.Shape[2] / cache.Shape.KvHeads;
        for (int b = 0; b < cache.Shape.Batch; b++)
        {
            for (int h = 0; h < (int)q.Shape[2]; h++)
            {
                Probabilities(Keys(cache, b, h / group), q, b, h, scale, out double[] lse);
                for (int r = 0; r < lse.Length; r++) result[b, r, h] = lse[r];
            }
        }
        return result;
    }

    private static double[][] Keys(HostKvCache cache, int b, int h)
    {
        var keys = new double[cache.Length(b, h)][];
        for (int slot = 0; slot < keys.Length; slot++)
        {
            keys[slot] = new double[cache.Shape.HeadDim];
            for (int c = 0; c < cache.Shape.HeadDim; c++) keys[slot][c] = cache.Key(b, h, slot, c);
        }
        return keys;
    }

    // [window][slots]; 0 for slots that a row does not see.
    private static double[][] Probabilities(double[][] keys, HostTensor q, int b, int qHead, float scale, out double[] lse)
    {
        int window = (int)q.Shape[1], headDim = (int)q.Shape[3];
        double factor = scale == 0 ? 1 / Math.Sqrt(headDim) : scale;
        var rows = new double[window][];
        lse = new double[window];
        for (int r = 0; r < window; r++)
        {
            rows[r] = new double[keys.Length];
            int seen = Math.Max(0, keys.Length - window + r + 1);
            var query = new double[headDim];
            for (int c = 0; c < headDim; c++) query[c] = q[b, r, qHead, c];
            double largest = double.NegativeInfinity;
            for (int j = 0; j < seen; j++)
            {
                double product = 0;
                for (int c = 0; c < headDim; c++) product += query[c] * keys[j][c];
                rows[r][j] = factor * product;
                largest = Math.Max(largest, rows[r][j]);
            }
            double sum = 0;
            for (int j = 0; j < seen; j++) sum += rows[r][j] = Math.Exp(rows[r][j] - largest);
            for (int j = 0; j < seen; j++) rows[r][j] /= sum;
            lse[r] = seen == 0 ? double.NegativeInfinity : largest + Math.Log(sum);
        }
        return rows;
    }

    private static double Statistic(double[][] rows, int column, KvScoreSettings settings)
    {
        double sum = rows.Sum(row => row[column]);
        double mean = sum / rows.Length;
        switch (settings.Statistic)
        {
            case ScoreStatistic.Sum: return sum;
            case ScoreStatistic.Mean: return mean;
            case ScoreStatistic.Max: return rows.Max(row => row[column]);
            default:
                double squares = rows.Sum(row => (row[column] - mean) * (row[column] - mean));
                return mean + (settings.Gamma * (rows.Length > 1 ? squares / (rows.Length - 1) : 0));
        }
    }

    private static double[] Pooled(double[] values, KvScoreSettings settings)
    {
        if (settings.Pool == ScorePool.None) return values;
        var pooled = new double[values.Length];
        int half = settings.PoolWidth / 2;
        for (int j = 0; j < values.Length; j++)
        {
            Span<double> window = values.AsSpan(Math.Max(0, j - half)..Math.Min(values.Length, j + half + 1));
            double sum = 0, largest = double.NegativeInfinity;
            foreach (double value in window)
            {
                sum += value;
                largest = Math.Max(largest, value);
            }
            pooled[j] = settings.Pool == ScorePool.Max ? largest : sum / settings.PoolWidth;
        }
        return pooled;
    }

    private static double[] Reduced(double[][] heads, int columns, ScoreHeads reduction)
    {
        var reduced = new double[columns];
        for (int j = 0; j < columns; j++)
        {
            reduced[j] = reduction == ScoreHeads.GroupMax
                ? heads.Max(head => head[j])
                : heads.Sum(head => j < head.Length ? head[j] : 0) / heads.Length;
        }
        return reduced;
    }
}

/// <summary>kv_score for tests, verify and bench. Keys: batch, q_heads, kv_heads, head_dim, page_size, shared (pages of all heads), padding (elements
/// between rows), length (one, or one per KV head), window, dtype (of the cache), q (type), statistic, pool, width, heads, reduce_first, exclude (default:
/// the window), gamma, lse (1: given), bound (1: max_length is given).</summary>
public sealed class KvScoreHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "kv_score";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian, DataFamily.Wide, DataFamily.Needle];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, family, seed);
    }

    private sealed class Problem : OpProblem
    {
        private readonly HostKvCache _cache;
        private readonly HostTensor _q;
        private readonly HostTensor? _lse;
        private readonly KvScoreSettings _settings;
        private readonly bool _bounded;
        private readonly Lazy<double[][]> _want;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            int kvHeads = c.Int("kv_heads", 3), batch = c.Int("batch", 1), headDim = c.Int("head_dim", 64), window = c.Int("window", 8);
            DType type = c.DType("dtype", DType.F32);
            int[] lengths = c.Ints("length", 64);
            var shape = new KvCacheShape(type, batch, kvHeads, headDim, c.Int("page_size", 64), c.Int("shared", 0) != 0, c.Int("padding", 0));
            _cache = new HostKvCache(shape, [.. Enumerable.Range(0, batch * kvHeads).Select(i => lengths[i % lengths.Length])], random);
            _cache.FillKeys((_, _, _, _) => random.Value(family));
            _q = new HostTensor(c.DType("q", type), [batch, window, c.Int("q_heads", 9), headDim], c.Int("padding", 0)).Fill(_ => random.Value(family));
            if (family == DataFamily.Needle) PlaceNeedles(window);
            _settings = new KvScoreSettings
            {
                Statistic = Enum.Parse<ScoreStatistic>(c.Text("statistic", "sum"), ignoreCase: true),
                Pool = Enum.Parse<ScorePool>(c.Text("pool", "none"), ignoreCase: true),
                PoolWidth = c.Int("width", 0),
                Heads = Enum.Parse<ScoreHeads>(c.Text("heads", "groupmean"), ignoreCase: true),
                ReduceFirst = c.Int("reduce_first", 0) != 0,
                ExcludeLast = c.Int("exclude", window),
                Gamma = c.Float("gamma", 0),
            };
            _bounded = c.Int("bound", 0) != 0;
            _lse = c.Int("lse", 0) != 0 ? KvScoreReference.LogSumExp(_cache, _q) : null;
            _want = new Lazy<double[][]>(() => KvScoreReference.Run(_cache, _q, _settings));
        }

        public override long Bytes => _cache.LiveKeyBytes + _q.DataBytes + (Columns() * sizeof(float));

        public override double Operations => 2.0 * _q.Shape[1] * (_q.Shape[2] / _cache.Shape.KvHeads) * _cache.Shape.HeadDim * Live() * (_lse is null ? 2 : 1);

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private long Live()
        {
            long slots = 0;
            for (int b = 0; b < _cache.Shape.Batch; b++)
            {
                for (int h = 0; h < _cache.Shape.KvHeads; h++) slots += _cache.Length(b, h);
            }
            return slots;
        }

        private long Columns() => Math.Max(0, Live() - (_settings.ExcludeLast * (long)_cache.Shape.Batch * _cache.Shape.KvHeads));

        // The first slot, a page's edge and the last scored slot answer the last query.
        private void PlaceNeedles(int window)
        {
            for (int b = 0; b < _cache.Shape.Batch; b++)
            {
                for (int h = 0; h < _cache.Shape.KvHeads; h++)
                {
                    long head = h * _q.Shape[2] / _cache.Shape.KvHeads;
                    foreach (int slot in new[] { 0, _cache.Shape.PageSize - 1, _cache.Length(b, h) - window - 1 })
                    {
                        if (slot < 0 || slot >= _cache.Length(b, h)) continue;
                        (long page, long inPage, long at) = _cache.Locate(_cache.PageTable, b, h, slot);
                        for (int c = 0; c < _cache.Shape.HeadDim; c++) _cache.Keys[page, inPage, at, c] = _q[b, window - 1, head, c];
                    }
                }
            }
        }

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly HostTensor _scores;
            private readonly DeviceArray _output;
            private readonly DeviceBuffer? _workspace;
            private readonly KvScore _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                p._cache.PoisonRest(poison);
                p._q.PoisonPadding(poison);
                DeviceKvCache cache = Own(p._cache.Upload(device));
                int capacity = p._bounded ? p._cache.MaxLength : p._cache.MaxPages * p._cache.Shape.PageSize;
                _scores = new HostTensor(DType.F32, [p._cache.Shape.Batch, p._cache.Shape.KvHeads, capacity], padding: 3);
                _output = Own(_scores.Upload(device));
                _op = new KvScore
                {
                    Cache = cache.View,
                    Q = Own(p._q.Upload(device)).View,
                    LogSumExp = p._lse is null ? default : Own(p._lse.Upload(device)).View,
                    Scores = _output.View,
                    Settings = p._settings,
                    MaxLength = p._bounded ? p._cache.MaxLength : 0,
                };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                Poisons.Fill(_output.Buffer, _poison);
                if (_workspace is not null) Poisons.Fill(_workspace, _poison);
            }

            public override Comparison Compare()
            {
                // Per key, because a small score decides as much as a large one: logits of length S carry S · √head_dim roundings. Below 1e-12 nothing counts.
                const double gate = 5e-4, floor = 1e-12;
                var worst = new Comparison(0, gate, "");
                ForEachScore((row, column, got) =>
                {
                    double[] want = _p._want.Value[row];
                    if (column < want.Length)
                    {
                        double difference = Math.Abs(got - want[column]);
                        double error = difference <= floor ? 0 : (difference - floor) / Math.Abs(want[column]);
                        worst = Comparison.Worst(worst, new Comparison(error, gate, $"row {row} column {column}"));
                    }
                    else if (_poison == Poison.Nan && !double.IsNaN(got))
                    {
                        worst = new Comparison(double.PositiveInfinity, gate, $"row {row} column {column}, which must be left alone");
                    }
                });
                return worst;
            }

            public override byte[] Outputs()
            {
                var values = new List<double>();
                ForEachScore((row, column, got) =>
                {
                    if (column < Columns(row)) values.Add(got);
                });
                return System.Runtime.InteropServices.MemoryMarshal.AsBytes(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(values)).ToArray();
            }

            private int Columns(int row) => _p._cache.Length(row / _p._cache.Shape.KvHeads, row % _p._cache.Shape.KvHeads) - _p._settings.ExcludeLast;

            private void ForEachScore(Action<int, int, double> action)
            {
                _scores.Download(_output);
                for (int row = 0; row < _p._cache.Shape.Batch * _p._cache.Shape.KvHeads; row++)
                {
                    for (int column = 0; column < _scores.Shape[2]; column++)
                    {
                        action(row, column, _scores[row / _p._cache.Shape.KvHeads, row % _p._cache.Shape.KvHeads, column]);
                    }
                }
            }
        }
    }
}
