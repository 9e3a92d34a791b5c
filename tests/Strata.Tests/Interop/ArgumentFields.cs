// SPDX-License-Identifier: Apache-2.0
// The fields of an argument block, flattened: what a hostile caller can write wrong.

using System.Buffers.Binary;
using System.Reflection;
using System.Runtime.CompilerServices;
using Strata.Bindings;

namespace Strata.Tests.Interop;

/// <summary>One word of a block.</summary>
/// <param name="Path">"cache.keys.shape[2]".</param>
/// <param name="Owner">The struct that it is in, or strata_tensor for a tensor's fields.</param>
/// <param name="Name">Its own name: "shape".</param>
/// <param name="Index">Its index in an array, else 0.</param>
/// <param name="Offset">Byte offset in the block.</param>
/// <param name="Type">Its type.</param>
/// <param name="Parent">Byte offset of the struct that it is in.</param>
internal sealed record ArgumentField(string Path, Type Owner, string Name, int Index, int Offset, Type Type, int Parent)
{
    public int Size => Type == typeof(int) || Type == typeof(uint) || Type == typeof(float) ? 4 : 8;

    public bool InTensor => Owner == typeof(strata_tensor);

    public long Get(ReadOnlySpan<byte> block) =>
        Size == 4 ? BinaryPrimitives.ReadInt32LittleEndian(block[Offset..]) : BinaryPrimitives.ReadInt64LittleEndian(block[Offset..]);

    public void Set(Span<byte> block, long value)
    {
        if (Size == 4) BinaryPrimitives.WriteInt32LittleEndian(block[Offset..], unchecked((int)value));
        else BinaryPrimitives.WriteInt64LittleEndian(block[Offset..], value);
    }
}

/// <summary>A tensor in a block, read back from its bytes.</summary>
/// <param name="Path">"cache.keys".</param>
/// <param name="Offset">Byte offset in the block.</param>
internal sealed record TensorField(string Path, int Offset)
{
    private const int DtypeAt = 8, NdimAt = 12, ShapeAt = 16, StrideAt = 48;

    public static int DataSize => 8;

    public long Data(ReadOnlySpan<byte> block) => BinaryPrimitives.ReadInt64LittleEndian(block[Offset..]);

    public void SetData(Span<byte> block, long address) => BinaryPrimitives.WriteInt64LittleEndian(block[Offset..], address);

    public DType DType(ReadOnlySpan<byte> block) => (DType)BinaryPrimitives.ReadInt32LittleEndian(block[(Offset + DtypeAt)..]);

    public int Rank(ReadOnlySpan<byte> block) => BinaryPrimitives.ReadInt32LittleEndian(block[(Offset + NdimAt)..]);

    public long Shape(ReadOnlySpan<byte> block, int i) => BinaryPrimitives.ReadInt64LittleEndian(block[(Offset + ShapeAt + (8 * i))..]);

    public long Stride(ReadOnlySpan<byte> block, int i) => BinaryPrimitives.ReadInt64LittleEndian(block[(Offset + StrideAt + (8 * i))..]);

    public long Elements(ReadOnlySpan<byte> block)
    {
        long elements = 1;
        for (int i = 0; i < Rank(block); i++) elements *= Shape(block, i);
        return elements;
    }
}

internal static class ArgumentFields
{
    /// <summary>All words of a struct, in order; their offsets follow the C rules for the types that the ABI uses.</summary>
    public static IReadOnlyList<ArgumentField> Of(Type type)
    {
        var fields = new List<ArgumentField>();
        int size = Lay(type, "", 0, fields).Size;
        int real = (int)typeof(Unsafe).GetMethod(nameof(Unsafe.SizeOf))!.MakeGenericMethod(type).Invoke(null, null)!;
        return size == real ? fields : throw new InvalidOperationException($"{type.Name}: laid out as {size} bytes, is {real}");
    }

    /// <summary>The tensors of a struct.</summary>
    public static IReadOnlyList<TensorField> Tensors(Type type) =>
        [.. Of(type).Where(f => f.InTensor && f.Name == "data").Select(f => new TensorField(f.Path[..^".data".Length], f.Parent))];

    private static (int Size, int Alignment) Lay(Type type, string path, int start, List<ArgumentField> fields)
    {
        int at = 0, alignment = 1;
        foreach (FieldInfo field in type.GetFields(BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance).OrderBy(f => f.MetadataToken))
        {
            string name = path.Length == 0 ? field.Name : $"{path}.{field.Name}";
            Type fieldType = field.FieldType;
            if (fieldType.GetCustomAttribute<InlineArrayAttribute>() is { } array)
            {
                Type element = fieldType.GetFields(BindingFlags.NonPublic | BindingFlags.Instance)[0].FieldType;
                int width = Width(element);
                at = Align(at, width);
                for (int i = 0; i < array.Length; i++) fields.Add(new ArgumentField($"{name}[{i}]", type, field.Name, i, start + at + (i * width), element, start));
                (at, alignment) = (at + (array.Length * width), Math.Max(alignment, width));
            }
            else if (fieldType is { IsValueType: true, IsPrimitive: false })
            {
                (int size, int inner) = Lay(fieldType, name, start + Align(at, 8), fields);
                at = Align(at, 8) + size;
                alignment = Math.Max(alignment, inner);
            }
            else
            {
                int width = Width(fieldType);
                at = Align(at, width);
                fields.Add(new ArgumentField(name, type, field.Name, 0, start + at, fieldType, start));
                (at, alignment) = (at + width, Math.Max(alignment, width));
            }
        }
        return (Align(at, alignment), alignment);
    }

    private static int Width(Type type) => type == typeof(byte) ? 1 : type == typeof(int) || type == typeof(uint) || type == typeof(float) ? 4 : 8;

    private static int Align(int at, int alignment) => (at + alignment - 1) / alignment * alignment;
}
