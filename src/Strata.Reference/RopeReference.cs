// SPDX-License-Identifier: Apache-2.0
// rope in double, and its harness.

namespace Strata.Reference;

/// <summary>The oracle of <see cref="Rope"/>.</summary>
public static class RopeReference
{
    /// <summary>Turns pair i of the first <c>dims</c> channels by <c>position · f_i</c> (see <see cref="Frequencies"/>) and multiplies it by the magnitude.</summary>
    /// <param name="x">[tokens, heads, head_dim].</param>
    /// <param name="positions">[tokens].</param>
    /// <param name="parameters">The rotation; zeros mean the defaults.</param>
    /// <param name="factors">Divisors of the frequencies, or null.</param>
    /// <returns>[tokens, heads, head_dim], row-major.</returns>
    public static double[] Run(HostTensor x, HostTensor positions, RopeParameters parameters, HostTensor? factors = null)
    {
        ArgumentNullException.ThrowIfNull(x);
        ArgumentNullException.ThrowIfNull(positions);
        long tokens = x.Shape[0], heads = x.Shape[1], headDim = x.Shape[2];
        var y = new double[tokens * heads * headDim];
        for (long t = 0; t < tokens; t++)
        {
            for (long h = 0; h < heads; h++)
            {
                var row = new double[headDim];
                for (long c = 0; c < headDim; c++) row[c] = x[t, h, c];
                Turn(row, (long)positions[t], parameters, factors);
                row.CopyTo(y.AsSpan((int)(((t * heads) + h) * headDim)));
            }
        }
        return y;
    }

    /// <summary>Turns one head's channels in place.</summary>
    /// <param name="row">[head_dim].</param>
    /// <param name="position">The token's position.</param>
    /// <param name="parameters">The rotation; zeros mean the defaults; mode None changes nothing.</param>
    /// <param name="factors">Divisors of the frequencies, or null.</param>
    public static void Turn(Span<double> row, long position, RopeParameters parameters, HostTensor? factors = null)
    {
        if (parameters.Mode == RopeMode.None) return;
        int dims = parameters.Dims == 0 ? row.Length : parameters.Dims;
        double scale = parameters.FrequencyScale == 0 ? 1 : parameters.FrequencyScale;
        double magnitude = parameters.Magnitude != 0 ? parameters.Magnitude : parameters.YarnContext > 0 ? 1 + (0.1 * Math.Log(1 / scale)) : 1;
        double[] frequencies = Frequencies(parameters, dims);
        for (int i = 0; i < dims / 2; i++)
        {
            double angle = position * frequencies[i] / (factors is null ? 1 : factors[i]);
            (double sine, double cosine) = Math.SinCos(angle);
            int first = parameters.Mode == RopeMode.Interleaved ? 2 * i : i;
            int second = parameters.Mode == RopeMode.Interleaved ? first + 1 : i + (dims / 2);
            (row[first], row[second]) = (magnitude * ((row[first] * cosine) - (row[second] * sine)), magnitude * ((row[first] * sine) + (row[second] * cosine)));
        }
    }

    /// <summary>Radians that each pair turns from one position to the next: <c>frequency_scale · base^(-2i/dims)</c>, with YaRN mixed with the unscaled ones.</summary>
    /// <param name="parameters">The rotation; zeros mean the defaults.</param>
    /// <param name="dims">Channels that turn.</param>
    public static double[] Frequencies(RopeParameters parameters, int dims)
    {
        double frequencyBase = parameters.Base == 0 ? 10000 : parameters.Base, scale = parameters.FrequencyScale == 0 ? 1 : parameters.FrequencyScale;
        double fast = parameters.YarnBetaFast == 0 ? 32 : parameters.YarnBetaFast, slow = parameters.YarnBetaSlow == 0 ? 1 : parameters.YarnBetaSlow;
        double Pair(double turns) => dims * Math.Log(parameters.YarnContext / (2 * Math.PI * turns)) / (2 * Math.Log(frequencyBase));
        double low = Math.Max(Math.Floor(Pair(fast)), 0), high = Math.Min(Math.Ceiling(Pair(slow)), dims - 1);
        var frequencies = new double[dims / 2];
        for (int i = 0; i < frequencies.Length; i++)
        {
            double kept = parameters.YarnContext == 0 ? 0 : 1 - Math.Clamp((i - low) / Math.Max(high - low, 0.001), 0, 1);
            frequencies[i] = Math.Pow(frequencyBase, -2.0 * i / dims) * ((scale * (1 - kept)) + kept);
        }
        return frequencies;
    }

    /// <summary>The rotation that a case names: dims (0 = all), base, scale, yarn (context), beta_fast, beta_slow, magnitude.</summary>
    /// <param name="opCase">The case.</param>
    /// <param name="modeKey">Its key of the mode.</param>
    /// <param name="missing">The mode of a case without that key.</param>
    public static RopeParameters Parameters(OpCase opCase, string modeKey, string missing)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new RopeParameters
        {
            Mode = Enum.Parse<RopeMode>(opCase.Text(modeKey, missing), ignoreCase: true),
            Dims = opCase.Int("dims", 0),
            Base = opCase.Float("base", 0),
            FrequencyScale = opCase.Float("scale", 0),
            YarnContext = opCase.Int("yarn", 0),
            YarnBetaFast = opCase.Float("beta_fast", 0),
            YarnBetaSlow = opCase.Float("beta_slow", 0),
            Magnitude = opCase.Float("magnitude", 0),
        };
    }

    /// <summary>Divisors between 1 and 8 where a case says factors=1, else null.</summary>
    /// <param name="opCase">The case.</param>
    /// <param name="parameters">Its rotation.</param>
    /// <param name="headDim">Channels of a head.</param>
    /// <param name="random">The divisors.</param>
    public static HostTensor? Factors(OpCase opCase, RopeParameters parameters, int headDim, InputRandom random)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        ArgumentNullException.ThrowIfNull(random);
        if (opCase.Int("factors", 0) == 0) return null;
        return new HostTensor(DType.F32, [(parameters.Dims == 0 ? headDim : parameters.Dims) / 2]).Fill(_ => random.Integer(4, 32) / 4.0);
    }
}

/// <summary>rope for tests, verify and bench. Keys: tokens, heads, head_dim, mode (interleaved, half) with the keys of <see cref="RopeReference.Parameters"/>, factors
/// (1: with divisors of the frequencies), dtype, position (of the last token), padding (elements between heads), in_place.</summary>
public sealed class RopeHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "rope";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian, DataFamily.Wide];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, family, seed);
    }

    private sealed class Problem : OpProblem
    {
        private readonly HostTensor _x, _positions, _y;
        private readonly HostTensor? _factors;
        private readonly bool _inPlace;
        private readonly int _padding;
        private readonly RopeParameters _parameters;
        private readonly Lazy<double[]> _want;

        public Problem(OpCase c, DataFamily family, int seed)
        {
            var random = new InputRandom(seed);
            long[] shape = [c.Int("tokens", 1), c.Int("heads", 9), c.Int("head_dim", 64)];
            DType type = c.DType("dtype", DType.F32);
            _inPlace = c.Int("in_place", 0) != 0;
            _padding = c.Int("padding", 0);
            _parameters = RopeReference.Parameters(c, "mode", "interleaved");
            _factors = RopeReference.Factors(c, _parameters, (int)shape[2], random);
            _x = new HostTensor(type, shape, _padding).Fill(_ => random.Value(family));
            long last = c.Int("position", 4096);
            _positions = new HostTensor(DType.I32, [shape[0]]).Fill(t => last - (shape[0] - 1 - t));
            _y = _inPlace ? _x : new HostTensor(type, shape, _padding);
            _want = new Lazy<double[]>(() => RopeReference.Run(_x, _positions, _parameters, _factors));
        }

        public override long Bytes => _x.DataBytes + _positions.DataBytes + _y.DataBytes;

        public override double Operations => 3.0 * _x.Count;

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly DeviceArray _x, _positions, _y;
            private readonly DeviceBuffer? _workspace;
            private readonly Rope _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                p._x.PoisonPadding(poison);
                _x = Own(p._x.Upload(device));
                _positions = Own(p._positions.Upload(device));
                _y = p._inPlace ? _x : Own(p._y.Upload(device));
                TensorView factors = p._factors is null ? default : Own(p._factors.Upload(device)).View;
                _op = new Rope { X = _x.View, Positions = _positions.View, Y = _y.View, Parameters = p._parameters, FrequencyFactors = factors };
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
                // fp32: angles right to 1e-7 and three roundings; the 16-bit types round once more.
                double gate = _p._y.DType switch { DType.F32 => 1e-6, DType.F16 => 4e-4, _ => 3.2e-3 };
                return Comparison.Rows(Download().ToDoubles(), _p._want.Value, _p._y.Shape[2], gate, "y");
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
