// SPDX-License-Identifier: Apache-2.0
// kv_attention in double, and its harness.

namespace Strata.Reference;

/// <summary>What <see cref="KvAttentionReference"/> computes.</summary>
/// <param name="Output">[tokens, q_heads, head_dim].</param>
/// <param name="LogSumExp">[tokens, q_heads]; -∞ for a query that sees nothing.</param>
/// <param name="LargestScore">[tokens, q_heads]: the largest scale · Σ|q k| of a row's slots, which scales the error of its scores.</param>
public sealed record KvAttentionResult(double[] Output, double[] LogSumExp, double[] LargestScore);

/// <summary>The oracle of <see cref="KvAttention"/>.</summary>
public static class KvAttentionReference
{
    /// <summary><c>softmax(scale · q Kᵀ) V</c> over the slots that each query sees, from the stored values.</summary>
    /// <param name="q">[tokens, q_heads, head_dim].</param>
    /// <param name="cache">The cache.</param>
    /// <param name="rowOffsets">First query row of each sequence, and the total.</param>
    /// <param name="causal">Query r of n sees slots 0 to length - n + r; otherwise all.</param>
    /// <param name="scale">Factor of q k; 0 = 1 / √head_dim.</param>
    /// <param name="only">Rows to compute (token · q_heads + head), the others stay 0; null = all.</param>
    public static KvAttentionResult Run(HostTensor q, HostKvCache cache, IReadOnlyList<int> rowOffsets, bool causal, float scale, IReadOnlySet<long>? only = null)
    {
        ArgumentNullException.ThrowIfNull(q);
        ArgumentNullException.ThrowIfNull(cache);
        ArgumentNullException.ThrowIfNull(rowOffsets);
        long tokens = q.Shape[0], heads = q.Shape[1], width = q.Shape[2], group = heads / cache.Shape.KvHeads;
        double factor = scale == 0 ? 1 / Math.Sqrt(width) : scale;
        var result = new KvAttentionResult(new double[tokens * heads * width], new double[tokens * heads], new double[tokens * heads]);
        for (int b = 0; b < cache.Shape.Batch; b++)
        {
            int rows = rowOffsets[b + 1] - rowOffsets[b];
            for (long h = 0; h < cache.Shape.KvHeads && rows > 0; h++)
            {
                int length = cache.Length(b, h);
                double[]? keys = null, values = null;
                for (long head = h * group; head < (h + 1) * group; head++)
                {
                    for (int r = 0; r < rows; r++)
                    {
                        if (only?.Contains(((rowOffsets[b] + r) * heads) + head) == false) continue;
                        keys ??= Rows(cache, cache.Keys, b, h);
                        values ??= Rows(cache, cache.Values, b, h);
                        int sees = causal ? Math.Clamp(length - rows + r + 1, 0, length) : length;
                        Attend(q, rowOffsets[b] + r, head, keys.AsSpan(0, (int)(sees * width)), values, factor, result);
                    }
                }
            }
        }
        return result;
    }

    private static void Attend(HostTensor q, long token, long head, ReadOnlySpan<double> keys, ReadOnlySpan<double> values, double scale, KvAttentionResult result)
    {
        int width = (int)q.Shape[2], slots = keys.Length / width;
        var query = new double[width];
        for (int d = 0; d < width; d++) query[d] = q[token, head, d];
        var scores = new double[slots];
        double highest = double.NegativeInfinity, largest = 0;
        for (int t = 0; t < slots; t++)
        {
            double dot = 0, magnitude = 0;
            for (int d = 0; d < width; d++)
            {
                double product = query[d] * keys[(t * width) + d];
                dot += product;
                magnitude += Math.Abs(product);
            }
            scores[t] = scale * dot;
            highest = Math.Max(highest, scores[t]);
            largest = Math.Max(largest, Math.Abs(scale) * magnitude);
        }
        double sum = 0;
        var o = new double[width];
        for (int t = 0; t < slots; t++)
        {
            double p = Math.Exp(scores[t] - highest);
            sum += p;
            for (int d = 0; d < width; d++) o[d] += p * values[(t * width) + d];
        }
        long row = (token * q.Shape[1]) + head;
        for (int d = 0; d < width; d++) result.Output[(row * width) + d] = slots == 0 ? 0 : o[d] / sum;
        result.LogSumExp[row] = slots == 0 ? double.NegativeInfinity : highest + Math.Log(sum);
        result.LargestScore[row] = largest;
    }

    private static double[] Rows(HostKvCache cache, HostTensor pool, long b, long h)
    {
        int length = cache.Length(b, h), width = cache.Shape.HeadDim;
        var rows = new double[length * width];
        for (int slot = 0; slot < length; slot++)
        {
            (long page, long head, long at) = cache.Locate(cache.PageTable, b, h, slot);
            for (int d = 0; d < width; d++) rows[(slot * width) + d] = pool[page, head, at, d];
        }
        return rows;
    }
}

/// <summary>What a problem of <see cref="KvAttentionHarness"/> is made of, for other libraries that compute the same.</summary>
public interface IKvAttentionInputs
{
    /// <summary>Queries [tokens, q_heads, head_dim].</summary>
    HostTensor Q { get; }

    /// <summary>The cache.</summary>
    HostKvCache Cache { get; }

    /// <summary>Factor of q k; 0 = 1 / √head_dim.</summary>
    float Scale { get; }

    /// <summary>Compares another library's output with the oracle.</summary>
    /// <param name="output">[tokens, q_heads, head_dim].</param>
    /// <param name="gate">The largest error that passes, of each row that is compared.</param>
    Comparison Compare(HostTensor output, double gate);
}

/// <summary>kv_attention for tests, verify and bench. Keys: q_heads, kv_heads, head_dim, length (of each sequence; "/" between sequences), uneven (slots
/// that each KV head has fewer than the one before), tokens (query rows, likewise; absent: 1 each), page_size, shared (1: pages hold all heads), dtype (cache), q, out (types),
/// causal, lse, scale, padding (elements between rows of cache and output), max_length (1: tell the op).</summary>
public sealed class KvAttentionHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "kv_attention";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian, DataFamily.Wide, DataFamily.Needle, DataFamily.Exact, DataFamily.OneHot];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, family, seed);
    }

    private sealed class Problem : OpProblem, IKvAttentionInputs
    {
        // What the oracle does in a fraction of a second; every case for tests is far below.
        private const double MostOperations = 2e8;
        private const long LeastRows = 8;
        private const long FewElements = 1 << 20;

        private readonly DataFamily _family;
        private readonly HostKvCache _cache;
        private readonly HostTensor _q, _out, _offsets;
        private readonly int[] _rows;
        private readonly int _padding, _maxLength;
        private readonly bool _causal, _lse;
        private readonly float _scale;
        private readonly long[] _checked;
        private readonly Lazy<KvAttentionResult> _want;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            int[] lengths = c.Ints("length", 128);
            int batch = lengths.Length, heads = c.Int("kv_heads", 1), width = c.Int("head_dim", 64), uneven = c.Int("uneven", 0);
            int[] tokens = c.Ints("tokens", [.. lengths.Select(_ => 1)]);
            _family = family;
            _padding = c.Int("padding", 0);
            _causal = c.Int("causal", 1) != 0;
            _lse = c.Int("lse", 0) != 0;
            _scale = c.Float("scale", 0);
            _rows = new int[batch + 1];
            for (int b = 0; b < batch; b++) _rows[b + 1] = _rows[b] + tokens[b];
            var shape = new KvCacheShape(c.DType("dtype", DType.F32), batch, heads, width, c.Int("page_size", 64), c.Int("shared", 0) != 0, _padding);
            _cache = new HostKvCache(shape, [.. lengths.SelectMany(l => Enumerable.Range(0, heads).Select(h => Math.Max(0, l - (h * uneven))))], random);
            _maxLength = c.Int("max_length", 0) != 0 ? _cache.MaxLength : 0;
            long[] rows = [_rows[batch], c.Int("q_heads", heads), width];
            _q = new HostTensor(c.DType("q", DType.F32), rows);
            _out = new HostTensor(c.DType("out", DType.F32), rows, _padding);
            _offsets = new HostTensor(DType.I32, [batch + 1]).Fill(i => _rows[i]);
            Fill(random);
            // The oracle is slow: of a large problem it computes rows from the first to the last, spread over all heads and tokens.
            long count = _q.Shape[0] * _q.Shape[1], most = Math.Clamp((long)(MostOperations * count / Math.Max(1, Operations)), Math.Min(count, LeastRows), count);
            _checked = [.. Enumerable.Range(0, (int)most).Select(i => most == 1 ? 0 : (count - 1) * i / (most - 1))];
            _want = new Lazy<KvAttentionResult>(() => KvAttentionReference.Run(_q, _cache, _rows, _causal, _scale, most == count ? null : _checked.ToHashSet()));
        }

        public override long Bytes => (2 * _cache.LiveBytes) + _q.DataBytes + _out.DataBytes;

        public override double Operations
        {
            get
            {
                double seen = 0;
                for (int b = 0; b < _cache.Shape.Batch; b++)
                {
                    int rows = _rows[b + 1] - _rows[b];
                    for (int h = 0; h < _cache.Shape.KvHeads; h++)
                    {
                        int length = _cache.Length(b, h);
                        for (int r = 0; r < rows; r++) seen += _causal ? Math.Clamp(length - rows + r + 1, 0, length) : length;
                    }
                }
                return 4 * seen * (_q.Shape[1] / _cache.Shape.KvHeads) * _cache.Shape.HeadDim;
            }
        }

        HostTensor IKvAttentionInputs.Q => _q;

        HostKvCache IKvAttentionInputs.Cache => _cache;

        float IKvAttentionInputs.Scale => _scale;

        Comparison IKvAttentionInputs.Compare(HostTensor output, double gate) => Comparison.Rows(Checked(output), Checked(_want.Value.Output), _q.Shape[2], gate, "out", _checked);

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        // The rows that are compared, one after the other.
        private double[] Checked(double[] all)
        {
            int width = (int)_q.Shape[2];
            return [.. _checked.SelectMany(row => new ArraySegment<double>(all, (int)(row * width), width))];
        }

        private double[] Checked(HostTensor all)
        {
            long heads = _q.Shape[1], width = _q.Shape[2];
            var values = new double[_checked.Length * width];
            for (int i = 0; i < _checked.Length; i++)
            {
                for (long d = 0; d < width; d++) values[(i * width) + d] = all[_checked[i] / heads, _checked[i] % heads, d];
            }
            return values;
        }

        private void Fill(InputRandom random)
        {
            int width = _cache.Shape.HeadDim;
            double sign(int d) => (d * 7 % 11) % 2 == 0 ? 1 : -1;
            // Beside the needle every weight is below fp32's reach, so that the needle's value comes out bit for bit.
            double factor = _scale == 0 ? 1 / Math.Sqrt(width) : _scale;
            double sharp = Math.Ceiling(Math.Max(16, 100 / (width * factor))), soft = 12 / (width * factor);
            var needles = new Dictionary<(int, int), int>();
            int Needle(int b, int h)
            {
                if (!needles.TryGetValue((b, h), out int slot)) needles[(b, h)] = slot = AtRisk(_cache.Length(b, h), random);
                return slot;
            }
            switch (_family)
            {
                case DataFamily.Exact: // equal scores: the exact mean of whole numbers
                    _cache.FillKeys((_, _, _, _) => random.Gaussian()).FillValues((_, _, _, _) => random.Integer(-8, 8));
                    break;
                case DataFamily.OneHot:
                    _q.Fill(i => sign((int)(i % width)));
                    _cache.FillKeys((b, h, slot, d) => (slot == Needle(b, h) ? sharp : -sharp) * sign(d)).FillValues((_, _, _, _) => random.Integer(-8, 8));
                    break;
                case DataFamily.Needle:
                    _q.Fill(i => sign((int)(i % width)) + (0.25 * random.Gaussian()));
                    _cache.FillKeys((b, h, slot, d) => slot == Needle(b, h) ? soft * sign(d) : random.Gaussian()).FillValues((_, _, _, _) => random.Gaussian());
                    break;
                case DataFamily.Gaussian when _cache.Keys.Count > FewElements:
                    _q.FillWithPieces(random);
                    _cache.Keys.FillWithPieces(random);
                    _cache.Values.FillWithPieces(random);
                    break;
                default:
                    _q.Fill(_ => random.Gaussian());
                    _cache.FillKeys((_, _, _, _) => random.Value(_family)).FillValues((_, _, _, _) => random.Gaussian());
                    break;
            }
        }

        /// <summary>First, last, and the edges of pages, tiles and ranges.</summary>
        private int AtRisk(int length, InputRandom random)
        {
            int page = _cache.Shape.PageSize;
            int[] slots = [.. new[] { 0, length - 1, page - 1, page, 31, 32, 63, 64, 127, 128, 255, 256 }.Where(s => s >= 0 && s < length)];
            return slots.Length == 0 ? 0 : slots[random.Integer(0, slots.Length - 1)];
        }

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly DeviceArray _out;
            private readonly DeviceArray? _lse;
            private readonly DeviceBuffer? _workspace;
            private readonly KvAttention _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                p._cache.PoisonRest(poison);
                DeviceKvCache cache = Own(p._cache.Upload(device));
                _out = Own(p._out.Upload(device));
                _lse = p._lse ? Own(NewLse().Upload(device)) : null;
                _op = new KvAttention
                {
                    Cache = cache.View,
                    Q = Own(p._q.Upload(device)).View,
                    Output = _out.View,
                    LogSumExp = _lse?.View ?? default,
                    RowOffsets = p._cache.Shape.Batch == 1 ? default : Own(p._offsets.Upload(device)).View,
                    Causal = p._causal,
                    Scale = p._scale,
                    MaxLength = p._maxLength,
                };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                Poisons.Fill(_out.Buffer, _poison);
                if (_lse is not null) Poisons.Fill(_lse.Buffer, _poison);
                if (_workspace is not null) Poisons.Fill(_workspace, _poison);
            }

            public override Comparison Compare()
            {
                double[] want = _p.Checked(_p._want.Value.Output);
                bool exact = _p._family is DataFamily.Exact or DataFamily.OneHot;
                if (exact) want = Rounded(want);
                Comparison worst = Comparison.Rows(_p.Checked(DownloadOutput()), want, _p._q.Shape[2], exact ? 0 : Gate(), "out", _p._checked);
                return _lse is null ? worst : Comparison.Worst(worst, CompareLse());
            }

            public override byte[] Outputs()
            {
                double[] values = [.. DownloadOutput().ToDoubles(), .. _lse is null ? [] : DownloadLse().ToDoubles()];
                return System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()).ToArray();
            }

            /// <summary>fp32 sums everywhere; GPUs round the weights to a 16-bit cache's type for the tensor cores.</summary>
            private double Gate() => Math.Max(Gate(_p._out.DType), _device.Id == "cpu" ? 0 : Gate(_p._cache.Shape.Type));

            private static double Gate(DType type) => type switch { DType.F32 => 1e-5, DType.F16 => 6e-4, _ => 4.5e-3 };

            /// <summary>One rounding to fp32, one to the output type, as the op does.</summary>
            private double[] Rounded(double[] want)
            {
                var rounded = new HostTensor(_p._out.DType, [want.Length]);
                return rounded.Fill(i => (float)want[i]).ToDoubles();
            }

            private Comparison CompareLse()
            {
                const double unit = 1.0 / (1 << 24);
                KvAttentionResult want = _p._want.Value;
                double[] got = DownloadLse().ToDoubles();
                // On the GPU a query that is finer than the cache is the sum of two of the cache's type.
                double query = _device.Id == "cpu" || _p._q.DType == _p._cache.Shape.Type ? 0 : _p._cache.Shape.Type == DType.BF16 ? 1.0 / (1 << 17) : 1.0 / (1 << 21);
                var worst = new Comparison(0, 1e-6, "");
                foreach (long i in _p._checked)
                {
                    double score = ((((4 * Math.Sqrt(_p._q.Shape[2])) + 3) * unit) + query) * want.LargestScore[i];
                    double gate = score + (1e-6 * (1 + Math.Abs(want.LogSumExp[i])));
                    double error = got[i].Equals(want.LogSumExp[i]) ? 0 : Math.Abs(got[i] - want.LogSumExp[i]);
                    worst = Comparison.Worst(worst, new Comparison(error, double.IsFinite(gate) ? gate : 0, $"lse row {i}"));
                }
                return worst;
            }

            private HostTensor NewLse() => new(DType.F32, [_p._q.Shape[0], _p._q.Shape[1]]);

            private HostTensor DownloadLse()
            {
                HostTensor got = NewLse();
                got.Download(_lse!);
                return got;
            }

            private HostTensor DownloadOutput()
            {
                var got = new HostTensor(_p._out.DType, _p._out.Shape, _p._padding);
                got.Download(_out);
                return got;
            }
        }
    }
}
