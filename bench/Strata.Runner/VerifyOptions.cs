// SPDX-License-Identifier: Apache-2.0
// What `strata verify` is asked to do.

namespace Strata.Runner;

/// <summary>What to verify. The default is every op on every device that is here.</summary>
public sealed record VerifyOptions
{
    /// <summary>Ops by their folder names; empty = all.</summary>
    public IReadOnlyList<string> Ops { get; init; } = [];

    /// <summary>"cpu", "simt" or "cuda:N"; null = every available device.</summary>
    public string? Device { get; init; }

    /// <summary>CPU: the instruction set to use; null = the machine's best.</summary>
    public string? Isa { get; init; }

    /// <summary>CPU: every instruction set that the machine has, not only the best.</summary>
    public bool AllIsas { get; init; }

    /// <summary>CPU threads; 0 = all cores.</summary>
    public int Threads { get; init; }

    /// <summary>Write one JSON document instead of the table.</summary>
    public bool Json { get; init; }

    /// <summary>A file that gets every call with its memory, for replaying under the sanitizers (native/tests/replay.cpp); needs one device with host memory.</summary>
    public string? Record { get; init; }
}
