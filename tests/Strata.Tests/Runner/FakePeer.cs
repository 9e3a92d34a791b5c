// SPDX-License-Identifier: Apache-2.0
// A peer of rms_norm that does nothing, well or badly.

using Strata.Reference;
using Strata.Runner.Peers;

namespace Strata.Tests.Runner;

/// <param name="name">"refuses", "wrong" and "throws" do so.</param>
internal sealed class FakePeer(string name) : IPeer
{
    public const long CallBytes = 12345;

    public string Op { get; init; } = "rms_norm";

    /// <summary>Tells the number of our own calls so far.</summary>
    public Func<int> Ours { get; init; } = () => 0;

    /// <summary>Of each run of the peer: how many calls of ours came before.</summary>
    public List<int> OursBefore { get; } = [];

    public string Name(OpCase opCase) => name;

    public string? Refusal(OpCase opCase) => name == "refuses" ? "the shape is not taken" : null;

    public long Bytes(OpProblem problem) => CallBytes;

    public OpRun Bind(IReadOnlyList<OpProblem> problems, Device device) =>
        name == "throws" ? throw new StrataException("fake: no") : new Bound(this, name == "wrong" ? 0.5 : 0);

    private sealed class Bound(FakePeer peer, double error) : OpRun
    {
        public override void Run(StrataStream? stream = null)
        {
            peer.OursBefore.Add(peer.Ours());
            Thread.SpinWait(100);
        }

        public override void Reset() { }

        public override Comparison Compare() => new(error, 0.1, "row 0");

        public override byte[] Outputs() => [];
    }
}
