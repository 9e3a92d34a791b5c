// SPDX-License-Identifier: Apache-2.0
// The names that `--kv` takes, and what the tool says of a cache.
using System.Globalization;
using System.Text.Json;
using Strata.Engine.Models;

namespace Strata.Cli.Commands;

/// <summary>How a KV cache stores numbers, by name.</summary>
/// <param name="Name">What `--kv` takes.</param>
/// <param name="Type">Type of plain numbers, and of the keys of a block that is not full.</param>
/// <param name="Format">The format.</param>
internal sealed record KvStorage(string Name, DType Type, KvFormat Format)
{
    private const double Mebibyte = 1 << 20;

    private static readonly KvStorage[] All =
    [
        new("f32", DType.F32, KvFormat.Plain),
        new("f16", DType.F16, KvFormat.Plain),
        new("bf16", DType.BF16, KvFormat.Plain),
        new("i8", DType.F16, KvFormat.I8),
        new("i8b", DType.F16, KvFormat.I8Block),
        new("i4", DType.F16, KvFormat.I4Block),
    ];

    public static IEnumerable<string> Names => All.Select(storage => storage.Name);

    /// <summary>Points of the Hadamard rotation, or 0.</summary>
    public int Rotation { get; init; }

    public static KvStorage Named(string name) => All.Single(storage => storage.Name == name);

    /// <summary>"KV cache i4: 0.3125 of fp16, 0.35 MiB of open blocks beside".</summary>
    public string Describe(LlamaSession session)
    {
        string tail = session.KvBytesTail > 0 ? $", {Mebibytes(session.KvBytesTail)} of open blocks beside" : string.Empty;
        string rotation = Rotation > 0 ? $" rotated by {Rotation}" : string.Empty;
        return string.Create(CultureInfo.InvariantCulture, $"KV cache {Name}{rotation}: {session.KvRatioToF16:0.0000} of fp16{tail}");
    }

    /// <summary>Writes the format and the bytes of a cache into an object.</summary>
    public void WriteTo(Utf8JsonWriter writer, LlamaSession session)
    {
        writer.WriteString("kv_format", Name);
        writer.WriteNumber("kv_rotation", Rotation);
        writer.WriteNumber("kv_bytes_live", session.KvBytesLive);
        writer.WriteNumber("kv_bytes_peak", session.KvBytesPeak);
        writer.WriteNumber("kv_bytes_tail", session.KvBytesTail);
        writer.WriteNumber("kv_ratio_to_f16", session.KvRatioToF16);
    }

    public static string Mebibytes(long bytes) => string.Create(CultureInfo.InvariantCulture, $"{bytes / Mebibyte:0.00} MiB");
}
