// SPDX-License-Identifier: Apache-2.0
// qgemm in double, and its harness.

namespace Strata.Reference;

/// <summary>The oracle of <see cref="Qgemm"/>.</summary>
public static class QgemmReference
{
    /// <summary>Columns that share a scale of quantised activations.</summary>
    public const int ActivationGroup = 32;

    /// <summary>A row of x as the op multiplies it: as stored, or quantised to int8 by groups of 32 columns and read back exactly.</summary>
    /// <param name="x">[m, k].</param>
    /// <param name="row">Which row.</param>
    /// <param name="int8">Whether to quantise: d = max|x| / 127, q = x (127 / max|x|) to nearest even, both in fp32. A group whose largest
    /// magnitude is below 2^-100 is zero; one that is not finite is NaN.</param>
    public static double[] Activations(HostTensor x, long row, bool int8)
    {
        ArgumentNullException.ThrowIfNull(x);
        var values = new double[x.Shape[1]];
        for (long c = 0; c < values.Length; c++) values[c] = x[row, c];
        if (!int8) return values;
        for (int start = 0; start < values.Length; start += ActivationGroup)
        {
            Span<double> group = values.AsSpan(start, ActivationGroup);
            float largest = 0;
            bool finite = true;
            foreach (double v in group)
            {
                largest = MathF.Max(largest, MathF.Abs((float)v));
                finite &= double.IsFinite(v);
            }
            float inverse = 127f / largest, d = largest / 127f;
            foreach (ref double v in group)
            {
                if (!finite) v = double.NaN;
                else if (largest < 7.888609052210118e-31f) v = 0;
                else v = (double)d * MathF.Round((float)v * inverse, MidpointRounding.ToEven);
            }
        }
        return values;
    }

    /// <summary><c>y = x · Wᵀ</c> at chosen rows and columns, and the sums of magnitudes that bound rounding errors.</summary>
    /// <param name="x">[m, k].</param>
    /// <param name="w">[n, k].</param>
    /// <param name="int8">Whether x is quantised first.</param>
    /// <param name="rows">Rows of x.</param>
    /// <param name="columns">Rows of W.</param>
    /// <returns>Two arrays [rows, columns]: <c>Σ x w</c> and <c>Σ |x w|</c>.</returns>
    public static (double[] Values, double[] Magnitudes) Run(HostTensor x, HostWeight w, bool int8, long[] rows, long[] columns)
    {
        ArgumentNullException.ThrowIfNull(rows);
        ArgumentNullException.ThrowIfNull(columns);
        ArgumentNullException.ThrowIfNull(w);
        var values = new double[rows.Length * columns.Length];
        var magnitudes = new double[values.Length];
        double[][] inputs = [.. rows.Select(r => Activations(x, r, int8))];
        for (int c = 0; c < columns.Length; c++)
        {
            double[] weights = w.Row(columns[c]);
            for (int r = 0; r < rows.Length; r++)
            {
                double sum = 0, magnitude = 0;
                for (int i = 0; i < weights.Length; i++)
                {
                    double product = inputs[r][i] * weights[i];
                    sum += product;
                    magnitude += Math.Abs(product);
                }
                values[(r * columns.Length) + c] = sum;
                magnitudes[(r * columns.Length) + c] = magnitude;
            }
        }
        return (values, magnitudes);
    }
}

/// <summary>What a problem of <see cref="QgemmHarness"/> is made of, for other libraries that compute the same.</summary>
public interface IQgemmInputs
{
    /// <summary>Activations [m, k].</summary>
    HostTensor X { get; }

    /// <summary>Weights [n, k].</summary>
    HostWeight W { get; }

    /// <summary>Whether the activations are multiplied as int8.</summary>
    bool Int8 { get; }

    /// <summary>Compares another library's output with the oracle, row by row at the columns that are checked.</summary>
    /// <param name="y">[m, n].</param>
    /// <param name="gate">The largest error that passes.</param>
    /// <param name="weight">The weights that were multiplied, where the library cannot hold these exactly; null = these.</param>
    Comparison Compare(HostTensor y, double gate, HostWeight? weight = null);
}

/// <summary>qgemm for tests, verify and bench. Keys: m, n, k, format (f32, f16, bf16, q4_0, q4_1, q8_0, q4_k, q6_k, i4), group (of i4), x and y (dtypes),
/// int8 (activations), padding (elements between rows).</summary>
public sealed class QgemmHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "qgemm";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian, DataFamily.Wide, DataFamily.Exact, DataFamily.OneHot];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, family, seed);
    }

    private sealed class Problem : OpProblem, IQgemmInputs
    {
        private readonly HostTensor _x, _y;
        private readonly HostWeight _w;
        private readonly bool _int8, _exact;
        private readonly int _padding;
        private readonly long[] _rows, _columns;
        private readonly Lazy<(double[] Values, double[] Magnitudes)> _want;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            long m = c.Int("m", 1), n = c.Int("n", 64), k = c.Int("k", 256);
            _int8 = c.Int("int8", 0) != 0;
            _padding = c.Int("padding", 0);
            _exact = family is DataFamily.Exact or DataFamily.OneHot;
            WeightFormat format = HostWeight.ParseFormat(c.Text("format", "q4_0"));
            // A unit vector gives back weights of any scale; through int8 codes only those that multiply exactly.
            bool plainWeights = family == DataFamily.Exact || (family == DataFamily.OneHot && _int8);
            _w = HostWeight.Create(format, n, k, format == WeightFormat.I4 ? c.Int("group", 32) : 0, plainWeights, seed + 1);
            _x = new HostTensor(c.DType("x", DType.F32), [m, k], _padding).Fill(i => Input(family, random, i / k, i % k, k));
            _y = new HostTensor(c.DType("y", DType.F32), [m, n], _padding);
            // The oracle is slow: large problems are checked at every edge of the tiles and in between.
            bool whole = (double)m * n * k < 3e7;
            _rows = Samples(m, whole ? m : 6);
            _columns = Samples(n, whole ? n : 200);
            _want = new(() => QgemmReference.Run(_x, _w, _int8, _rows, _columns));
        }

        public override long Bytes => PackedWeight.PackedBytes(_w.Format, _w.N, _w.K, _w.Group) + _x.DataBytes + _y.DataBytes;

        public override double Operations => 2.0 * _x.Shape[0] * _w.N * _w.K;

        public override Roof Roof => _int8 ? Roof.Int8 : Roof.Fp32;

        HostTensor IQgemmInputs.X => _x;

        HostWeight IQgemmInputs.W => _w;

        bool IQgemmInputs.Int8 => _int8;

        Comparison IQgemmInputs.Compare(HostTensor y, double gate, HostWeight? weight)
        {
            double[] want = weight is null ? _want.Value.Values : QgemmReference.Run(_x, weight, _int8, _rows, _columns).Values;
            double[] got = [.. _rows.SelectMany(row => _columns.Select(column => y[row, column]))];
            return Comparison.Rows(got, want, _columns.Length, gate, "y", _rows);
        }

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private double Input(DataFamily family, InputRandom random, long row, long column, long k)
        {
            if (family == DataFamily.OneHot) return column == (row * 37 + 5) % k ? (_int8 ? 127 : 1) : 0;
            // 127 in every group makes the scale of the quantised group 1, so that whole numbers stay what they are.
            if (family == DataFamily.Exact && _int8 && column % QgemmReference.ActivationGroup == row % QgemmReference.ActivationGroup) return 127;
            return random.Value(family);
        }

        private static long[] Samples(long count, long most)
        {
            if (count <= most) return [.. Enumerable.Range(0, (int)count).Select(i => (long)i)];
            return [.. Enumerable.Range(0, (int)most).Select(i => (count - 1) * i / (most - 1))];
        }

        private Comparison Compare(HostTensor got)
        {
            (double[] values, double[] magnitudes) = _want.Value;
            // fp32: sums of blocks, each of a few hundred terms; the 16-bit types round the result once more.
            (double gate, double unit) = got.DType switch { DType.F32 => (2e-6, 0), DType.F16 => (4e-4, 4.88e-4), _ => (3.2e-3, 3.91e-3) };
            if (_exact) gate = 0;
            double chain = ((4 * Math.Sqrt(256 + (_w.K / 256.0))) + 2) * 5.96e-8;
            var stored = new HostTensor(got.DType, [1]);
            var worst = new Comparison(0, gate, "");
            for (int r = 0; r < _rows.Length; r++)
            {
                double difference = 0, norm = 0, share = 0;
                for (int c = 0; c < _columns.Length; c++)
                {
                    int at = (r * _columns.Length) + c;
                    double want = values[at];
                    if (_exact)
                    {
                        stored[0] = (float)want; // the one rounding there is
                        want = stored[0];
                    }
                    double error = got[_rows[r], _columns[c]] - want;
                    difference += error * error;
                    norm += want * want;
                    share = Math.Max(share, Math.Abs(error) / ((unit * Math.Abs(want)) + (chain * magnitudes[at]) + 1e-60));
                }
                double relative = difference == 0 ? 0 : Math.Sqrt(difference / Math.Max(norm, 1e-60));
                // Few columns may all cancel; then every element must keep to what its own terms allow.
                if (relative > gate && share <= 1 && !_exact) relative = gate * share;
                worst = Comparison.Worst(worst, new Comparison(relative, gate, $"y row {_rows[r]}"));
            }
            return worst;
        }

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly DeviceArray _x, _y;
            private readonly DeviceBuffer? _workspace;
            private readonly Qgemm _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                p._x.PoisonPadding(poison);
                _x = Own(p._x.Upload(device));
                _y = Own(p._y.Upload(device));
                _op = new Qgemm { X = _x.View, Y = _y.View, W = Own(p._w.Pack(device)), Int8Activations = p._int8 };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                Poisons.Fill(_y.Buffer, _poison);
                if (_workspace is not null) Poisons.Fill(_workspace, _poison);
            }

            public override Comparison Compare() => _p.Compare(Download());

            public override byte[] Outputs()
            {
                double[] values = Download().ToDoubles();
                return System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()).ToArray();
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
