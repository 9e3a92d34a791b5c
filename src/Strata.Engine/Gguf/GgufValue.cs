// SPDX-License-Identifier: Apache-2.0
// One metadata value of a GGUF file with its declared type.
namespace Strata.Engine.Gguf;

/// <summary>A metadata value: its type and where its bytes lie. Text and arrays are made from the bytes when asked for.</summary>
/// <param name="Type">Declared type.</param>
/// <param name="ElementType">Of an array, the type of its elements; else <paramref name="Type"/>.</param>
/// <param name="Count">Of an array, the number of its elements; else 1.</param>
/// <param name="Offset">First byte of the value in the file; of text and arrays, after type, count and length.</param>
/// <param name="Bytes">Bytes of the value; of an array of text, with the length in front of each.</param>
public readonly record struct GgufValue(GgufValueType Type, GgufValueType ElementType, int Count, long Offset, int Bytes)
{
    // 0 stands for types without a fixed size.
    internal static int SizeOf(GgufValueType type) => type switch
    {
        GgufValueType.U8 or GgufValueType.I8 or GgufValueType.Bool => 1,
        GgufValueType.U16 or GgufValueType.I16 => 2,
        GgufValueType.U32 or GgufValueType.I32 or GgufValueType.F32 => 4,
        GgufValueType.U64 or GgufValueType.I64 or GgufValueType.F64 => 8,
        _ => 0,
    };
}
