// SPDX-License-Identifier: Apache-2.0
// Another library that computes what an op computes, to be timed beside it.

using Strata.Reference;

namespace Strata.Runner.Peers;

/// <summary>A library's way to compute an op.</summary>
internal interface IPeer
{
    /// <summary>The op.</summary>
    string Op { get; }

    /// <summary>Library, function and variant as results name them.</summary>
    /// <param name="opCase">The case, which may choose the variant.</param>
    string Name(OpCase opCase);

    /// <summary>Why the peer cannot compute a case; null = it can.</summary>
    /// <param name="opCase">The case.</param>
    string? Refusal(OpCase opCase);

    /// <summary>Bytes that one call must move, in the formats that the peer reads and writes.</summary>
    /// <param name="problem">The case with its inputs.</param>
    long Bytes(OpProblem problem);

    /// <summary>Makes a run that computes each of the problems once. A problem that is named again shares the memory of its first time.</summary>
    /// <param name="problems">The problems; the comparison with the oracle is with the first.</param>
    /// <param name="device">Gives the memory.</param>
    OpRun Bind(IReadOnlyList<OpProblem> problems, Device device);
}

/// <summary>The peers that this build has.</summary>
internal static class PeerList
{
    /// <summary>All peers.</summary>
    /// <param name="threads">Threads of each.</param>
    public static IReadOnlyList<IPeer> All(int threads)
    {
        var runtime = new OnnxRuntime(threads);
        return [new GroupQueryAttentionPeer(runtime, DType.F32), new GroupQueryAttentionPeer(runtime, DType.F16), new MatMulNBitsPeer(runtime)];
    }
}
