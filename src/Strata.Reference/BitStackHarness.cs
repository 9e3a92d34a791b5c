// SPDX-License-Identifier: Apache-2.0
// bitstack for tests, verify and bench.

namespace Strata.Reference;

/// <summary>bitstack's harness. Keys: n, k, m (0 rows is a case; absent with decode=1), levels, rank (one, or one a level: 16/8/4), x, y (dtypes),
/// padding (elements between rows of x and y), decode.</summary>
public sealed class BitStackHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "bitstack";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian, DataFamily.Wide, DataFamily.Needle, DataFamily.Exact, DataFamily.OneHot];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, family, seed);
    }

    private sealed class Problem : OpProblem
    {
        // Rows of x that the oracle checks where all of them would take minutes: the edges of every split lie among the first and last.
        private const double MostWork = 2e9;

        private readonly BitStackHostLevel[] _levels;
        private readonly HostTensor? _x;
        private readonly HostTensor _y;
        private readonly long _n, _k, _m;
        private readonly int _padding;
        private readonly bool _exact;
        private readonly Lazy<double[]> _weight;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            (_n, _k, _m) = (c.Int("n", 576), c.Int("k", 576), c.Int("m", 1));
            _padding = c.Int("padding", 0);
            _exact = family is DataFamily.Exact or DataFamily.OneHot;
            int[] ranks = c.Ints("rank", 16);
            _levels = new BitStackHostLevel[c.Int("levels", 4)];
            for (int l = 0; l < _levels.Length; l++)
            {
                // Factors of -2 ... 2 keep every sum below 2^24; the others shrink from level to level as residuals do.
                double scale = Math.Pow(0.5, l / 2.0);
                Func<double> value = _exact ? () => random.Integer(-2, 2) : () => scale * random.Gaussian();
                _levels[l] = BitStackHostLevel.Create(_n, _k, ranks[l % ranks.Length], random, value);
            }
            bool decode = c.Int("decode", 0) != 0;
            if (!decode)
            {
                _x = new HostTensor(c.DType("x", DType.F32), [_m, _k], _padding).Fill(i => family switch
                {
                    DataFamily.OneHot => i % _k == (i / _k * 37 + _k - 1) % _k ? 1 : 0,
                    DataFamily.Needle => i % _k == _k - 1 ? 1000 : random.Gaussian(),
                    _ => random.Value(family),
                });
            }
            _y = new HostTensor(c.DType("y", DType.F32), decode ? [_n, _k] : [_m, _n], _padding);
            _weight = new Lazy<double[]>(() => BitStackReference.Decode(_levels));
        }

        public override long Bytes => _levels.Sum(l => (long)l.Signs.Length + (2L * l.U.Length) + (2L * l.Vt.Length)) + (_x?.DataBytes ?? 0) + _y.DataBytes;

        // What any fp32 way has to do: rebuild each element once (2 rank a level), then two operations a row of x.
        public override double Operations => (double)_n * _k * ((2.0 * _levels.Sum(l => l.Rank)) + (2.0 * (_x is null ? 0 : _m)));

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly DeviceArray? _x;
            private readonly DeviceArray _y;
            private readonly DeviceBuffer? _workspace;
            private readonly BitStack _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                p._x?.PoisonPadding(poison);
                _x = p._x is null ? null : Own(p._x.Upload(device));
                _y = Own(p._y.Upload(device));
                BitStackLevel[] levels = [.. p._levels.Select(l => Own(l.Upload(device)))];
                _op = new BitStack { Levels = levels, X = _x?.View ?? default, Y = _y.View };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                Poisons.Fill(_y.Buffer, _poison);
                if (_workspace is not null) Poisons.Fill(_workspace, _poison);
            }

            public override Comparison Compare()
            {
                HostTensor got = Download();
                var worst = new Comparison(0, Gate(), "");
                if (_p._x is null)
                {
                    for (long row = 0; row < _p._n; row++)
                    {
                        ReadOnlySpan<double> want = _p._weight.Value.AsSpan((int)(row * _p._k), (int)_p._k);
                        worst = Comparison.Worst(worst, CompareRow(got, row, want, []));
                    }
                    return worst;
                }
                var y = new double[_p._n];
                var magnitude = new double[_p._n];
                double work = 2.0 * _p._n * _p._k * _p._m;
                long step = work <= MostWork ? 1 : Math.Max(1, (_p._m - 1) / 2);
                for (long row = 0; row < _p._m; row += step)
                {
                    BitStackReference.MultiplyRow(_p._weight.Value, _p._x, row, y, magnitude);
                    worst = Comparison.Worst(worst, CompareRow(got, row, y, magnitude));
                }
                return worst;
            }

            public override byte[] Outputs()
            {
                double[] values = Download().ToDoubles();
                return System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()).ToArray();
            }

            // fp32: the CPU is exact in W and sums tiles; the GPU keeps 17 bits of W and x. The 16-bit types round once more.
            private double Gate() => (_p._exact, _p._y.DType) switch
            {
                (true, _) => 0,
                (_, DType.F32) => _device.Id == "cpu" || _p._x is null ? 1e-5 : 3e-5,
                (_, DType.F16) => 6e-4,
                _ => 4.5e-3,
            };

            // Normwise; where a row of few elements happens to cancel, against what its terms would typically add up to.
            private Comparison CompareRow(HostTensor got, long row, ReadOnlySpan<double> want, ReadOnlySpan<double> magnitude)
            {
                HostTensor rounded = new HostTensor(got.DType, [1]);
                double difference = 0, norm = 0, typical = 0;
                for (int i = 0; i < want.Length; i++)
                {
                    double g = got[row, i];
                    rounded[0] = want[i];
                    if (_p._exact && g.Equals(rounded[0])) continue;
                    difference += (g - want[i]) * (g - want[i]);
                    norm += want[i] * want[i];
                    if (magnitude.Length > 0) typical += magnitude[i] * magnitude[i] / _p._k;
                }
                double error = difference == 0 ? 0 : Math.Sqrt(difference / Math.Max(Math.Max(norm, typical), 1e-60));
                return new Comparison(error, Gate(), $"y row {row}");
            }

            private HostTensor Download()
            {
                var got = new HostTensor(_p._y.DType, _p._y.Shape, _p._padding);
                got.Download(_y);
                return got;
            }
        }
    }
}
