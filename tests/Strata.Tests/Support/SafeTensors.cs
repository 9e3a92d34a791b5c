// SPDX-License-Identifier: Apache-2.0
// Reads the golden data's safetensors files: a JSON header with names, types, shapes and byte ranges, then the bytes.
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text.Json;

namespace Strata.Tests.Support;

/// <summary>A safetensors file, whole in memory.</summary>
internal sealed class SafeTensors
{
    private readonly Dictionary<string, SafeTensor> _tensors = new(StringComparer.Ordinal);

    private SafeTensors(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        int headerBytes = checked((int)BinaryPrimitives.ReadInt64LittleEndian(file));
        using JsonDocument header = JsonDocument.Parse(file.AsMemory(sizeof(long), headerBytes));
        ReadOnlyMemory<byte> data = file.AsMemory(sizeof(long) + headerBytes);
        foreach (JsonProperty entry in header.RootElement.EnumerateObject())
        {
            if (entry.NameEquals("__metadata__"))
                continue;
            int[] range = Integers(entry.Value.GetProperty("data_offsets"));
            _tensors[entry.Name] = new SafeTensor(
                entry.Name,
                entry.Value.GetProperty("dtype").GetString()!,
                Integers(entry.Value.GetProperty("shape")),
                data[range[0]..range[1]]);
        }
    }

    /// <summary>Names in the file.</summary>
    public IReadOnlyCollection<string> Names => _tensors.Keys;

    /// <summary>The tensor of this name.</summary>
    public SafeTensor this[string name] => _tensors.TryGetValue(name, out SafeTensor? tensor)
        ? tensor
        : throw new KeyNotFoundException($"the file has no tensor '{name}', it has {string.Join(", ", _tensors.Keys)}");

    /// <summary>Reads a file.</summary>
    public static SafeTensors Open(string path) => new(path);

    private static int[] Integers(JsonElement array) => [.. array.EnumerateArray().Select(element => element.GetInt32())];
}

/// <summary>One tensor: its stored bytes, and its values in the types that tests work with.</summary>
internal sealed class SafeTensor(string name, string type, int[] shape, ReadOnlyMemory<byte> bytes)
{
    /// <summary>Name in the file.</summary>
    public string Name { get; } = name;

    /// <summary>Element type as the file spells it: "F32", "F16", "BF16", "I32".</summary>
    public string Type { get; } = type;

    /// <summary>Extents, outermost first.</summary>
    public int[] Shape { get; } = shape;

    /// <summary>The elements, row-major, little-endian.</summary>
    public ReadOnlyMemory<byte> Bytes { get; } = bytes;

    /// <summary>The stored fp16 values.</summary>
    public Half[] Halves() => Type == "F16"
        ? MemoryMarshal.Cast<byte, Half>(Bytes.Span).ToArray()
        : throw new InvalidOperationException($"{Name} is {Type}, must be F16 to be read as Half");

    /// <summary>The stored int32 values.</summary>
    public int[] Integers() => Type == "I32"
        ? MemoryMarshal.Cast<byte, int>(Bytes.Span).ToArray()
        : throw new InvalidOperationException($"{Name} is {Type}, must be I32 to be read as int");

    /// <summary>The values as fp32; every float type widens exactly.</summary>
    public float[] Floats() => Type switch
    {
        "F32" => MemoryMarshal.Cast<byte, float>(Bytes.Span).ToArray(),
        "F16" => Array.ConvertAll(Halves(), half => (float)half),
        "BF16" => Array.ConvertAll(
            MemoryMarshal.Cast<byte, ushort>(Bytes.Span).ToArray(), bits => BitConverter.UInt32BitsToSingle((uint)bits << 16)),
        _ => throw new InvalidOperationException($"{Name} is {Type}, must be F32, F16 or BF16 to be read as float"),
    };
}
