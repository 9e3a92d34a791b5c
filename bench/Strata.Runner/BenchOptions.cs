// SPDX-License-Identifier: Apache-2.0
// What `strata bench` is asked to do.

namespace Strata.Runner;

/// <summary>What to time. The default is every op's bench cases on the CPU with its best instruction set, cold and warm.</summary>
public sealed record BenchOptions
{
    /// <summary>Ops by their folder names; empty = all (none with a <see cref="Model"/>).</summary>
    public IReadOnlyList<string> Ops { get; init; } = [];

    /// <summary>Only cases whose name contains this text; any case of the op may be chosen, not only those meant for timing. Null = by tag.</summary>
    public string? Case { get; init; }

    /// <summary>Only the cases tagged quick, about 0.2 s a row in place of 1 s.</summary>
    public bool Quick { get; init; }

    /// <summary>A GGUF file to time end to end: decode and prefill; null = none.</summary>
    public string? Model { get; init; }

    /// <summary>"cpu", "simt" or "cuda:N".</summary>
    public string Device { get; init; } = "cpu";

    /// <summary>CPU: the instruction set to use; "all" = each that the machine has; null = its best.</summary>
    public string? Isa { get; init; }

    /// <summary>CPU threads; 0 = all cores.</summary>
    public int Threads { get; init; }

    /// <summary>Time other libraries beside ours, in turns, with as many threads. They run on the CPU.</summary>
    public bool Peers { get; init; }

    /// <summary>Write one JSON document instead of the table.</summary>
    public bool Json { get; init; }

    /// <summary>Also write the JSON document here; a folder gets machine/date.json in it. Null = nowhere.</summary>
    public string? Out { get; init; }

    /// <summary>Seconds of timing a row; 0 = 1, or 0.2 with <see cref="Quick"/>.</summary>
    public double Seconds { get; init; }
}
