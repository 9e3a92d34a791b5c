// SPDX-License-Identifier: Apache-2.0
// elementwise in double, and its harness.

namespace Strata.Reference;

/// <summary>The oracle of <see cref="Elementwise"/>.</summary>
public static class ElementwiseReference
{
    /// <summary><c>a + b</c>, or <c>a / (1 + exp(-a)) · b</c>.</summary>
    /// <param name="function">Which.</param>
    /// <param name="a">First input.</param>
    /// <param name="b">Second input.</param>
    public static double Apply(ElementwiseFunction function, double a, double b) =>
        function == ElementwiseFunction.Add ? a + b : a / (1 + Math.Exp(-a)) * b;

    /// <summary>The function of every element.</summary>
    /// <param name="function">Which.</param>
    /// <param name="a">[rows, n].</param>
    /// <param name="b">[rows, n].</param>
    /// <returns>[rows, n], row-major.</returns>
    public static double[] Run(ElementwiseFunction function, HostTensor a, HostTensor b)
    {
        ArgumentNullException.ThrowIfNull(a);
        ArgumentNullException.ThrowIfNull(b);
        var y = new double[a.Count];
        for (long i = 0; i < a.Count; i++) y[i] = Apply(function, a[i], b[i]);
        return y;
    }
}

/// <summary>elementwise for tests, verify and bench. Keys: function (add, silumul), rows, n, dtype, padding (elements between rows), in_place (a, b).</summary>
public sealed class ElementwiseHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "elementwise";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian, DataFamily.Wide, DataFamily.Needle, DataFamily.Exact];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, family, seed);
    }

    private sealed class Problem : OpProblem
    {
        private readonly HostTensor _a, _b, _y;
        private readonly string _inPlace;
        private readonly int _padding;
        private readonly ElementwiseFunction _function;
        private readonly Lazy<double[]> _want;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            long[] shape = [c.Int("rows", 1), c.Int("n", 576)];
            DType type = c.DType("dtype", DType.F32);
            _function = Enum.Parse<ElementwiseFunction>(c.Text("function", "add"), ignoreCase: true);
            _inPlace = c.Text("in_place", "");
            _padding = c.Int("padding", 0);
            _a = new HostTensor(type, shape, _padding).Fill(_ => random.Value(family));
            _b = new HostTensor(type, shape, _padding).Fill(_ => random.Value(family));
            if (family == DataFamily.Needle && _a.Count > 0)
            {
                _a[0] = -80; // the far end of the exponential
                _a[_a.Count - 1] = 80;
            }
            _y = _inPlace switch { "a" => _a, "b" => _b, _ => new HostTensor(type, shape, _padding) };
            _want = new Lazy<double[]>(() => ElementwiseReference.Run(_function, _a, _b));
        }

        public override long Bytes => _a.DataBytes + _b.DataBytes + _y.DataBytes;

        public override double Operations => (_function == ElementwiseFunction.Add ? 1.0 : 4.0) * _a.Count;

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly DeviceArray _a, _b, _y;
            private readonly DeviceBuffer? _workspace;
            private readonly Elementwise _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                p._a.PoisonPadding(poison);
                p._b.PoisonPadding(poison);
                _a = Own(p._a.Upload(device));
                _b = Own(p._b.Upload(device));
                _y = p._inPlace switch { "a" => _a, "b" => _b, _ => Own(p._y.Upload(device)) };
                _op = new Elementwise { A = _a.View, B = _b.View, Y = _y.View, Function = p._function };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset()
            {
                if (ReferenceEquals(_y, _a)) _a.Buffer.CopyFrom(_p._a.Bytes);
                else if (ReferenceEquals(_y, _b)) _b.Buffer.CopyFrom(_p._b.Bytes);
                else Poisons.Fill(_y.Buffer, _poison);
                if (_workspace is not null) Poisons.Fill(_workspace, _poison);
            }

            // Element by element, since one result does not depend on the others: the sum must be the correctly rounded one, the gate within
            // 2e-6 before the rounding of a 16-bit type. Results below the smallest normal number may be flushed to it.
            public override Comparison Compare()
            {
                double[] got = Download().ToDoubles();
                double[] want = _p._want.Value;
                HostTensor rounded = new HostTensor(_p._y.DType, [want.Length]).Fill(i => want[i]);
                (double unit, double smallest) = _p._y.DType switch
                {
                    DType.F32 => (6e-8, 2e-36),
                    DType.F16 => (4.9e-4, 6.2e-5),
                    _ => (3.91e-3, 2e-36),
                };
                double gate = _p._function == ElementwiseFunction.Add ? 0 : 2e-6 + unit;
                var worst = new Comparison(0, gate, "");
                for (int i = 0; i < want.Length; i++)
                {
                    double error = _p._function == ElementwiseFunction.Add
                        ? (got[i] == rounded[i] ? 0 : double.PositiveInfinity)
                        : Math.Abs(got[i] - want[i]) / Math.Max(Math.Abs(want[i]), smallest / gate);
                    worst = Comparison.Worst(worst, new Comparison(error, gate, $"y element {i}"));
                }
                return worst;
            }

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
