// SPDX-License-Identifier: Apache-2.0
// What `strata bench` measured.

using System.Text.Json.Serialization;

namespace Strata.Runner;

/// <summary>Measured limits of the machine; null where it has no such unit.</summary>
/// <param name="ReadGbS">Reads from memory, GB/s.</param>
/// <param name="Fp32Gflops">fp32 multiply-add, GFLOP/s.</param>
/// <param name="Bf16Gflops">bf16 dot product, GFLOP/s.</param>
/// <param name="Int8Gops">int8 dot product, GOP/s.</param>
/// <param name="AmxBf16Gflops">bf16 tiles, GFLOP/s.</param>
/// <param name="AmxInt8Gops">int8 tiles, GOP/s.</param>
public sealed record BenchLimits(double? ReadGbS, double? Fp32Gflops, double? Bf16Gflops, double? Int8Gops, double? AmxBf16Gflops, double? AmxInt8Gops);

/// <summary>Where and when was measured.</summary>
/// <param name="Name">The processor.</param>
/// <param name="Isa">The instruction set or architecture; with several, the highest.</param>
/// <param name="Threads">CPU threads.</param>
/// <param name="Date">The day, UTC: 2026-01-31.</param>
/// <param name="Limits">Measured in the same run.</param>
public sealed record BenchMachine(string Name, string Isa, int Threads, string Date, BenchLimits Limits);

/// <summary>One case in one state.</summary>
/// <param name="Op">The op; "model" for end-to-end rows.</param>
/// <param name="Case">The case.</param>
/// <param name="Device">"cpu", "simt" or "cuda:N".</param>
/// <param name="Isa">The instruction set or architecture.</param>
/// <param name="Threads">CPU threads.</param>
/// <param name="State">"cold": inputs come from memory; "warm": the same call again and again.</param>
/// <param name="MedianUs">Median time of a call, µs.</param>
/// <param name="P20Us">A fifth of the calls was faster, µs.</param>
/// <param name="P80Us">A fifth of the calls was slower, µs.</param>
/// <param name="GbS">Bytes the call must move ÷ median, GB/s. A peer's are those of its own formats.</param>
/// <param name="GflopS">Operations ÷ median, GFLOP/s (or GOP/s).</param>
/// <param name="LimitShare">Share (0..1) of max(bytes ÷ bandwidth, operations ÷ peak) reached; null without limits.</param>
/// <param name="Peer">The other library whose time this is; null = ours.</param>
/// <param name="Ratio">Its time ÷ ours in the same state: how many times as fast we are; null in our own rows.</param>
public sealed record BenchRow(string Op, string Case, string Device, string Isa, int Threads, string State, double MedianUs, double P20Us, double P80Us, double GbS, double GflopS, double? LimitShare, string? Peer, double? Ratio);

/// <summary>Everything that one run measured.</summary>
/// <param name="Machine">Where and when.</param>
/// <param name="Rows">One a case, state and contender.</param>
/// <param name="Refused">Cases that were not timed because the op disagrees with the reference or failed, a sentence each; absent if there are none.</param>
/// <param name="PeersMissing">Peers that could not be timed beside a case, a sentence each; absent if there are none.</param>
public sealed record BenchReport(
    BenchMachine Machine,
    IReadOnlyList<BenchRow> Rows,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] IReadOnlyList<string>? Refused,
    [property: JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)] IReadOnlyList<string>? PeersMissing);
