// SPDX-License-Identifier: Apache-2.0
// The types that a metadata value of a GGUF file can declare.
namespace Strata.Engine.Gguf;

/// <summary>Declared type of a metadata value; the values are those of the file format.</summary>
public enum GgufValueType
{
    /// <summary>Unsigned, 8 bits.</summary>
    U8 = 0,

    /// <summary>Signed, 8 bits.</summary>
    I8 = 1,

    /// <summary>Unsigned, 16 bits.</summary>
    U16 = 2,

    /// <summary>Signed, 16 bits.</summary>
    I16 = 3,

    /// <summary>Unsigned, 32 bits.</summary>
    U32 = 4,

    /// <summary>Signed, 32 bits.</summary>
    I32 = 5,

    /// <summary>Float, 32 bits.</summary>
    F32 = 6,

    /// <summary>One byte, 0 or 1.</summary>
    Bool = 7,

    /// <summary>UTF-8 text.</summary>
    Text = 8,

    /// <summary>Values of one of the other types.</summary>
    Array = 9,

    /// <summary>Unsigned, 64 bits.</summary>
    U64 = 10,

    /// <summary>Signed, 64 bits.</summary>
    I64 = 11,

    /// <summary>Float, 64 bits.</summary>
    F64 = 12,
}
