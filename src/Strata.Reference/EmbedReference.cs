// SPDX-License-Identifier: Apache-2.0
// embed, exactly, and its harness.

namespace Strata.Reference;

/// <summary>The oracle of <see cref="Embed"/>.</summary>
public static class EmbedReference
{
    /// <summary><c>y[t,:] = W[ids[t],:]</c>, each value rounded to fp32 once.</summary>
    /// <param name="ids">[tokens].</param>
    /// <param name="w">[n, k].</param>
    /// <returns>[tokens, k], row-major.</returns>
    public static double[] Run(HostTensor ids, HostWeight w)
    {
        ArgumentNullException.ThrowIfNull(ids);
        ArgumentNullException.ThrowIfNull(w);
        var y = new double[ids.Count * w.K];
        for (long t = 0; t < ids.Count; t++)
        {
            for (long c = 0; c < w.K; c++) y[(t * w.K) + c] = (float)w[(long)ids[t], c];
        }
        return y;
    }
}

/// <summary>embed for tests, verify and bench. Keys: tokens, n, k, format and group as qgemm, y (dtype), padding (elements between rows).</summary>
public sealed class EmbedHarness : OpHarness
{
    /// <inheritdoc/>
    public override string Op => "embed";

    /// <inheritdoc/>
    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian];

    /// <inheritdoc/>
    public override OpProblem Create(OpCase opCase, DataFamily family, int seed)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return new Problem(opCase, seed);
    }

    private sealed class Problem : OpProblem
    {
        private readonly HostTensor _ids, _y;
        private readonly HostWeight _w;
        private readonly int _padding;
        private readonly Lazy<double[]> _want;

        public Problem(OpCase c, int seed)
        {
            var random = new InputRandom(seed);
            long tokens = c.Int("tokens", 1), n = c.Int("n", 64), k = c.Int("k", 256);
            _padding = c.Int("padding", 0);
            WeightFormat format = HostWeight.ParseFormat(c.Text("format", "q8_0"));
            _w = HostWeight.Create(format, n, k, format == WeightFormat.I4 ? c.Int("group", 32) : 0, exact: false, seed + 1);
            _ids = new HostTensor(DType.I32, [tokens]).Fill(t => t == 0 ? n - 1 : random.Integer(0, (int)n - 1));
            _y = new HostTensor(c.DType("y", DType.F32), [tokens, k], _padding);
            _want = new(() => EmbedReference.Run(_ids, _w));
        }

        public override long Bytes => ((PackedWeight.PackedBytes(_w.Format, 16, _w.K, _w.Group) - 64) / 16 * _ids.Count) + _ids.DataBytes + _y.DataBytes;

        public override double Operations => 2.0 * _y.Count;

        public override OpRun Bind(Device device, Poison poison) => new Bound(this, device, poison);

        private sealed class Bound : OpRun
        {
            private readonly Problem _p;
            private readonly Device _device;
            private readonly Poison _poison;
            private readonly DeviceArray _ids, _y;
            private readonly DeviceBuffer? _workspace;
            private readonly Embed _op;

            public Bound(Problem p, Device device, Poison poison)
            {
                (_p, _device, _poison) = (p, device, poison);
                _ids = Own(p._ids.Upload(device));
                _y = Own(p._y.Upload(device));
                _op = new Embed { Ids = _ids.View, Y = _y.View, W = Own(p._w.Pack(device)) };
                _workspace = Workspace(device, _op.WorkspaceBytes(device));
                Reset();
            }

            public override void Run(StrataStream? stream = null) => _op.Run(_device, _workspace, stream);

            public override void Reset() => Poisons.Fill(_y.Buffer, _poison);

            /// <summary>No tolerance: values are exact in fp32 and rounded to y's type once.</summary>
            public override Comparison Compare()
            {
                HostTensor want = new HostTensor(_p._y.DType, _p._y.Shape).Fill(i => _p._want.Value[i]);
                return Comparison.Rows(Download().ToDoubles(), want.ToDoubles(), _p._y.Shape[1], 0, "y");
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
