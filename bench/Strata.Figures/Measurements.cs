// SPDX-License-Identifier: Apache-2.0
// What a picture shows: a selection of a document of `strata bench`.

using System.Text.Json.Serialization;

namespace Strata.Figures;

/// <summary>GB/s, and GFLOP/s or GOP/s; null where the machine has no such unit.</summary>
internal sealed record Limits(double? ReadGbS, double? Fp32Gflops, double? Bf16Gflops, double? Int8Gops, double? AmxBf16Gflops, double? AmxInt8Gops);

internal sealed record Machine(string Name, string Isa, int Threads, string Date, Limits Limits);

/// <summary>A case of ours, or of another library.</summary>
internal sealed record Point(string Case, string? Peer, double GbS, double GflopS)
{
    public double Intensity => GflopS / GbS;
}

internal sealed record Measurements(string Op, Machine Machine, IReadOnlyList<Point> Rows);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower)]
[JsonSerializable(typeof(Measurements))]
internal sealed partial class MeasurementsJson : JsonSerializerContext;
