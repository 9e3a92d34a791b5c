// SPDX-License-Identifier: Apache-2.0
// What `strata verify` found.

namespace Strata.Runner;

/// <summary>One op on one device.</summary>
/// <param name="Op">The op.</param>
/// <param name="Device">"cpu", "simt" or "cuda:N".</param>
/// <param name="Isa">The instruction set or architecture.</param>
/// <param name="Cases">Number of cases.</param>
/// <param name="Checks">Number of comparisons: cases times data families.</param>
/// <param name="Share">The worst error ÷ its gate; null if it is not finite.</param>
/// <param name="Error">The worst error; null if it is not finite or the op failed.</param>
/// <param name="Gate">The gate of the worst error.</param>
/// <param name="Where">Case, family and place of the worst error.</param>
/// <param name="Passed">Whether all comparisons passed.</param>
/// <param name="Failures">The first failures, a sentence each.</param>
public sealed record VerifyRow(string Op, string Device, string Isa, int Cases, int Checks, double? Share, double? Error, double? Gate, string Where, bool Passed, IReadOnlyList<string> Failures);

/// <summary>Everything that one run found.</summary>
/// <param name="Machine">The processor's name.</param>
/// <param name="Passed">Whether every row passed.</param>
/// <param name="Rows">One an op and device.</param>
/// <param name="Skipped">Devices that are not here.</param>
public sealed record VerifyReport(string Machine, bool Passed, IReadOnlyList<VerifyRow> Rows, IReadOnlyList<SkippedDevice> Skipped);
