// SPDX-License-Identifier: Apache-2.0
// rms_norm in double, and its harness.

namespace Strata.Reference;

/// <summary>The oracle of <see cref="RmsNorm"/>.</summary>
public static class RmsNormReference
{
    /// <summary><c>y[r,i] = x[r,i] / sqrt(mean_i x[r,i]² + epsilon) · weight[i]</c> in double.</summary>
    /// <param name="x">[rows, n].</param>
    /// <param name="weight">[n].</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <returns>[rows, n], row-major.</returns>
    public static double[] Run(HostTensor x, HostTensor weight, double epsilon)
    {
        ArgumentNullException.ThrowIfNull(x);
        ArgumentNullException.ThrowIfNull(weight);
        long rows = x.Shape[0], n = x.Shape[1];
        var y = new double[rows * n];
        for (long r = 0; r < rows; r++)
        {
            double squares = 0;
            for (long i = 0; i < n; i++) squares += x[r, i] * x[r, i];
            double divisor = Math.Sqrt((squares / n) + epsilon);
            for (long i = 0; i < n; i++) y[(r * n) + i] = x[r, i] / divisor * weight[i];
        }
        return y;
    }
}

/// <summary>rms_norm for tests, verify and bench. Keys: rows, n, x, y (dtypes), padding (elements between rows), in_place.</summary>
public sealed class RmsNormHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "rms_norm";

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
        private const float Epsilon = 1e-5f;
        private readonly HostTensor _x, _weight, _y;
        private readonly bool _inPlace;
        private readonly Lazy<double[]> _want;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            long[] shape = [c.Int("rows", 1), c.Int("n", 576)];
            _inPlace = c.Int("in_place", 0) != 0;
            _x = new HostTensor(c.DType("x", DType.F32), shape, c.Int("padding", 0)).Fill(_ => random.Value(family));
            if (family == DataFamily.Needle && shape[0] > 0 && shape[1] > 0) _x[shape[0] - 1, shape[1] - 1] = 1000;
            _weight = new HostTensor(DType.F32, [shape[1]]).Fill(_ => 1 + (0.1 * random.Gaussian()));
            _y = _inPlace ? _x : new HostTensor(c.DType("y", DType.F32), shape, c.Int("padding", 0));
            _want = new Lazy<double[]>(() => RmsNormReference.Run(_x, _weight, Epsilon));
        }

        public override long Bytes => _x.DataBytes + _weight.DataBytes + _y.DataBytes;

        public override double Operations => 4.0 * _x.Count;

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly DeviceArray _x, _weight, _y;
            private readonly DeviceBuffer? _workspace;
            private readonly RmsNorm _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                p._x.PoisonPadding(poison);
                _x = Own(p._x.Upload(device));
                _weight = Own(p._weight.Upload(device));
                _y = p._inPlace ? _x : Own(p._y.Upload(device));
                _op = new RmsNorm { X = _x.View, Weight = _weight.View, Y = _y.View, Epsilon = Epsilon };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                if (_p._inPlace) _x.Buffer.CopyFrom(_p._x.Bytes);
                else Poisons.Fill(_y.Buffer, _poison);
                if (_workspace is not null) Poisons.Fill(_workspace, _poison);
            }

            public override Comparison Compare()
            {
                HostTensor got = Download();
                // One rounding to the output type; fp32 sums of n squares.
                double gate = got.DType switch { DType.F32 => 1e-6, DType.F16 => 6e-4, _ => 4.5e-3 };
                return Comparison.Rows(got.ToDoubles(), _p._want.Value, _p._y.Shape[1], gate, "y");
            }

            public override byte[] Outputs()
            {
                double[] values = Download().ToDoubles();
                return System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()).ToArray();
            }

            private HostTensor Download()
            {
                var got = new HostTensor(_p._y.DType, _p._y.Shape, PaddingOf(_p._y));
                got.Download(_y);
                return got;
            }

            private static int PaddingOf(HostTensor tensor) => (int)(tensor.Stride[0] - tensor.Shape[1]);
        }
    }
}
