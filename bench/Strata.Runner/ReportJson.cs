// SPDX-License-Identifier: Apache-2.0
// The JSON form of the reports: snake_case names, nulls written.

using System.Text.Json.Serialization;

namespace Strata.Runner;

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, WriteIndented = true)]
[JsonSerializable(typeof(VerifyReport))]
[JsonSerializable(typeof(BenchReport))]
internal sealed partial class ReportJson : JsonSerializerContext;
