// SPDX-License-Identifier: Apache-2.0
// Writes GGUF files field by field, right or deliberately wrong.
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using Strata.Engine.Gguf;

namespace Strata.Tests.Engine;

/// <summary>A GGUF file as a list of fields that a test can change before it is written.</summary>
internal sealed class GgufBuilder
{
    public byte[] Magic { get; set; } = "GGUF"u8.ToArray();

    public uint Version { get; set; } = 3;

    public ulong? TensorCount { get; set; }

    public ulong? PairCount { get; set; }

    public List<byte[]> Pairs { get; } = [];

    public List<Tensor> Tensors { get; } = [];

    public int Alignment { get; set; } = 32;

    /// <summary>Bytes of counting numbers as data, in front of <see cref="Data"/>.</summary>
    public int DataBytes { get; set; }

    public List<byte> Data { get; } = [];

    public bool PadBeforeData { get; set; } = true;

    /// <summary>A small sound file: three values and two tensors of 16 and 18 bytes.</summary>
    public static GgufBuilder Sound()
    {
        var builder = new GgufBuilder { DataBytes = 64 };
        builder.Pairs.Add(Pair("general.architecture", GgufValueType.Text, Text("llama")));
        builder.Pairs.Add(Pair("llama.block_count", GgufValueType.U32, U32(2)));
        builder.Pairs.Add(Pair("list", GgufValueType.Array, [.. U32((uint)GgufValueType.Text), .. U64(2), .. Text("a"), .. Text("bc")]));
        builder.Tensors.Add(new("a", [4], GgufType.F32, 0));
        builder.Tensors.Add(new("b", [32, 1], GgufType.Q4_0, 32));
        return builder;
    }

    public static byte[] Pair(string key, GgufValueType type, byte[] value) => [.. Text(key), .. U32((uint)type), .. value];

    public static byte[] Text(string text) => Text(Encoding.UTF8.GetBytes(text));

    public static byte[] Text(byte[] text) => [.. U64((ulong)text.Length), .. text];

    public static byte[] U32(uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return bytes;
    }

    public static byte[] U64(ulong value)
    {
        byte[] bytes = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        return bytes;
    }

    /// <summary>Adds a value of the metadata: text, a whole number or a float; null adds nothing.</summary>
    public void Add(string key, object? value)
    {
        if (value is not null)
        {
            Pairs.Add(value switch
            {
                string text => Pair(key, GgufValueType.Text, Text(text)),
                uint number => Pair(key, GgufValueType.U32, U32(number)),
                float number => Pair(key, GgufValueType.F32, BitConverter.GetBytes(number)),
                _ => throw new ArgumentException($"metadata: {value.GetType()} is given, must be string, uint or float; convert it", nameof(value)),
            });
        }
    }

    /// <summary>Adds a tensor of floats and its data; extents from the innermost.</summary>
    public void Add(string name, ulong[] extents, ReadOnlySpan<float> values)
    {
        while (Data.Count % Alignment != 0)
        {
            Data.Add(0);
        }

        Tensors.Add(new(name, extents, GgufType.F32, (ulong)Data.Count));
        Data.AddRange(MemoryMarshal.AsBytes(values));
    }

    public byte[] Build()
    {
        List<byte> file = [.. Magic, .. U32(Version), .. U64(TensorCount ?? (ulong)Tensors.Count), .. U64(PairCount ?? (ulong)Pairs.Count)];
        foreach (byte[] pair in Pairs)
        {
            file.AddRange(pair);
        }

        foreach (Tensor tensor in Tensors)
        {
            file.AddRange(tensor.Bytes());
        }

        while (PadBeforeData && file.Count % Alignment != 0)
        {
            file.Add(0);
        }

        for (int i = 0; i < DataBytes; i++)
        {
            file.Add((byte)i);
        }

        file.AddRange(Data);
        return [.. file];
    }

    /// <summary>One entry of the tensor table.</summary>
    internal sealed record Tensor(byte[] Name, ulong[] Extents, uint Type, ulong Offset)
    {
        public Tensor(string name, ulong[] extents, GgufType type, ulong offset)
            : this(Encoding.UTF8.GetBytes(name), extents, (uint)type, offset)
        {
        }

        public uint? Rank { get; init; }

        public byte[] Bytes() =>
            [.. Text(Name), .. U32(Rank ?? (uint)Extents.Length), .. Extents.SelectMany(U64), .. U32(Type), .. U64(Offset)];
    }
}
