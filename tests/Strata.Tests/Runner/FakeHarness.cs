// SPDX-License-Identifier: Apache-2.0
// rms_norm's harness with a fault put into it.

using Strata.Reference;

namespace Strata.Tests.Runner;

/// <summary>What is wrong with the op.</summary>
internal enum Fault
{
    None,
    /// <summary>The oracle disagrees.</summary>
    Disagrees,
    /// <summary>The result is not a number.</summary>
    NotANumber,
    /// <summary>The call fails.</summary>
    Throws,
    /// <summary>A second call without a reset gives another result.</summary>
    NeedsReset,
}

internal sealed class FakeHarness(Fault fault) : OpHarness
{
    private readonly RmsNormHarness _inner = new();

    public const string Sentence = "rms_norm: x.shape[0] is 1, must be 2; pass another";

    public override string Op => _inner.Op;

    public override IReadOnlyList<DataFamily> Families => [DataFamily.Gaussian];

    /// <summary>Calls that met what an earlier call left behind.</summary>
    public int StaleCalls { get; private set; }

    public int Calls { get; private set; }

    public override OpProblem Create(OpCase opCase, DataFamily family, int seed) => new Problem(this, _inner.Create(opCase, family, seed), fault);

    private sealed class Problem(FakeHarness harness, OpProblem inner, Fault fault) : OpProblem
    {
        public override long Bytes => inner.Bytes;

        public override double Operations => inner.Operations;

        public override OpRun Bind(Device device, Poison poison) => new Bound(harness, inner.Bind(device, poison), fault);
    }

    private sealed class Bound : OpRun
    {
        private readonly FakeHarness _harness;
        private readonly OpRun _inner;
        private readonly Fault _fault;
        private int _callsSinceReset;

        public Bound(FakeHarness harness, OpRun inner, Fault fault)
        {
            (_harness, _inner, _fault) = (harness, Own(inner), fault);
        }

        public override void Run(StrataStream? stream = null)
        {
            if (_fault == Fault.Throws) throw new StrataException(StrataStatus.Shape, Sentence);
            _harness.Calls++;
            if (_callsSinceReset++ > 0) _harness.StaleCalls++;
            _inner.Run(stream);
        }

        public override void Reset()
        {
            _callsSinceReset = 0;
            _inner.Reset();
        }

        public override Comparison Compare() => _fault switch
        {
            Fault.Disagrees => new Comparison(0.5, 1e-6, "y row 0"),
            Fault.NotANumber => new Comparison(double.NaN, 1e-6, "y row 0"),
            Fault.NeedsReset when _callsSinceReset > 1 => new Comparison(1, 1e-6, "y row 0"),
            _ => _inner.Compare(),
        };

        public override byte[] Outputs() => _inner.Outputs();
    }
}
