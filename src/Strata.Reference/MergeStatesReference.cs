// SPDX-License-Identifier: Apache-2.0
// merge_states in double, and its harness.

using System.Runtime.InteropServices;

namespace Strata.Reference;

/// <summary>The oracle of <see cref="MergeStates"/>.</summary>
public static class MergeStatesReference
{
    /// <summary><c>lse = ln Σᵢ exp(lseᵢ)</c>, <c>out = Σᵢ exp(lseᵢ - lse) outᵢ</c>; a part with -∞ counts nothing, whatever it holds.</summary>
    /// <param name="parts">[parts, tokens, q_heads, head_dim].</param>
    /// <param name="sums">[parts, tokens, q_heads].</param>
    /// <returns>[tokens, q_heads, head_dim] and [tokens, q_heads], row-major.</returns>
    public static (double[] Output, double[] LogSumExp) Run(HostTensor parts, HostTensor sums)
    {
        ArgumentNullException.ThrowIfNull(parts);
        ArgumentNullException.ThrowIfNull(sums);
        long count = parts.Shape[0], tokens = parts.Shape[1], heads = parts.Shape[2], width = parts.Shape[3];
        var output = new double[tokens * heads * width];
        var lse = new double[tokens * heads];
        for (long t = 0; t < tokens; t++)
        {
            for (long h = 0; h < heads; h++)
            {
                double highest = double.NegativeInfinity, sum = 0;
                for (long i = 0; i < count; i++) highest = Math.Max(highest, sums[i, t, h]);
                for (long i = 0; i < count && double.IsFinite(highest); i++) sum += Math.Exp(sums[i, t, h] - highest);
                long row = (t * heads) + h;
                lse[row] = double.IsFinite(highest) ? highest + Math.Log(sum) : highest;
                for (long i = 0; i < count; i++)
                {
                    if (double.IsNegativeInfinity(sums[i, t, h])) continue;
                    double weight = Math.Exp(sums[i, t, h] - highest);
                    for (long d = 0; d < width; d++) output[(row * width) + d] += weight * parts[i, t, h, d];
                }
                // Divided last, so that the mean of whole numbers is exact.
                for (long d = 0; d < width && double.IsFinite(highest); d++) output[(row * width) + d] /= sum;
            }
        }
        return (output, lse);
    }
}

/// <summary>merge_states for tests, verify and bench. Keys: parts, tokens, q_heads, head_dim, dtype (parts), out (type), lse, empty (percent of rows that saw nothing:
/// log-sum-exp -∞, output poison), padding (elements between rows).</summary>
public sealed class MergeStatesHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "merge_states";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian, DataFamily.Wide, DataFamily.Exact, DataFamily.OneHot];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, family, seed);
    }

    private sealed class Problem : OpProblem
    {
        private readonly DataFamily _family;
        private readonly HostTensor _parts, _sums, _out;
        private readonly int _padding;
        private readonly bool _lse;
        private readonly Lazy<(double[] Output, double[] LogSumExp)> _want;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            long count = c.Int("parts", 2), tokens = c.Int("tokens", 1), heads = c.Int("q_heads", 1), width = c.Int("head_dim", 64);
            int empty = c.Int("empty", 0), kept = random.Integer(0, (int)count - 1);
            (_family, _padding, _lse) = (family, c.Int("padding", 0), c.Int("lse", 1) != 0);
            _parts = new HostTensor(c.DType("dtype", DType.F32), [count, tokens, heads, width], _padding).Fill(_ => random.Value(family));
            _sums = new HostTensor(DType.F32, [count, tokens, heads]).Fill(i => random.Integer(1, 100) <= empty ? double.NegativeInfinity : family switch
            {
                DataFamily.Exact => 3, // equal weights
                DataFamily.OneHot => i / (tokens * heads) == kept ? -7 : -300, // below fp32's reach
                _ => 2 * random.Value(family),
            });
            _out = new HostTensor(c.DType("out", DType.F32), [tokens, heads, width], _padding);
            _want = new Lazy<(double[], double[])>(() => MergeStatesReference.Run(_parts, _sums));
        }

        public override long Bytes => _parts.DataBytes + _sums.DataBytes + _out.DataBytes;

        public override double Operations => 2.0 * _parts.Count;

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly DeviceArray _out;
            private readonly DeviceArray? _lse;
            private readonly DeviceBuffer? _workspace;
            private readonly MergeStates _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                PoisonRest(poison);
                _out = Own(p._out.Upload(device));
                _lse = p._lse ? Own(NewSums().Upload(device)) : null;
                _op = new MergeStates
                {
                    Parts = Own(p._parts.Upload(device)).View,
                    PartLogSumExp = Own(p._sums.Upload(device)).View,
                    Output = _out.View,
                    LogSumExp = _lse?.View ?? default,
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
                (double[] want, double[] sums) = _p._want.Value;
                bool exact = _p._family is DataFamily.Exact or DataFamily.OneHot;
                if (exact) want = new HostTensor(_p._out.DType, [want.Length]).Fill(i => (float)want[i]).ToDoubles();
                double gate = exact ? 0 : _p._out.DType switch { DType.F32 => 1e-5, DType.F16 => 6e-4, _ => 4.5e-3 };
                Comparison worst = Comparison.Rows(DownloadOutput().ToDoubles(), want, _p._out.Shape[2], gate, "out");
                if (_lse is null) return worst;
                double[] got = DownloadSums().ToDoubles();
                for (int i = 0; i < got.Length; i++)
                {
                    double error = got[i].Equals(sums[i]) ? 0 : Math.Abs(got[i] - sums[i]);
                    worst = Comparison.Worst(worst, new Comparison(error, double.IsFinite(sums[i]) ? 1e-6 * (1 + Math.Abs(sums[i])) : 0, $"lse row {i}"));
                }
                return worst;
            }

            public override byte[] Outputs()
            {
                double[] values = [.. DownloadOutput().ToDoubles(), .. _lse is null ? [] : DownloadSums().ToDoubles()];
                return MemoryMarshal.AsBytes(values.AsSpan()).ToArray();
            }

            /// <summary>Padding, and the rows of parts that saw nothing.</summary>
            private void PoisonRest(Poison poison)
            {
                (long count, long tokens, long heads, long width) = (_p._parts.Shape[0], _p._parts.Shape[1], _p._parts.Shape[2], _p._parts.Shape[3]);
                var live = new List<(long, long, long, long)>();
                for (long row = 0; row < count * tokens * heads; row++)
                {
                    (long i, long t, long h) = (row / (tokens * heads), row / heads % tokens, row % heads);
                    for (long d = 0; d < width && !double.IsNegativeInfinity(_p._sums[i, t, h]); d++) live.Add((i, t, h, d));
                }
                _p._parts.PoisonRest(poison, live);
            }

            private HostTensor NewSums() => new(DType.F32, [_p._out.Shape[0], _p._out.Shape[1]]);

            private HostTensor DownloadSums()
            {
                HostTensor got = NewSums();
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
