// SPDX-License-Identifier: Apache-2.0
// Element types, and the 16-bit brain float and the 8-bit float that .NET does not have.

using System.Runtime.CompilerServices;

namespace Strata;

/// <summary>Element type of a tensor.</summary>
public enum DType
{
    /// <summary>No tensor.</summary>
    None = 0,
    /// <summary>IEEE single: <see cref="float"/>.</summary>
    F32 = 1,
    /// <summary>IEEE half: <see cref="Half"/>.</summary>
    F16 = 2,
    /// <summary>Brain float: <see cref="BFloat16"/>.</summary>
    BF16 = 3,
    /// <summary><see cref="int"/>.</summary>
    I32 = 4,
    /// <summary><see cref="sbyte"/>.</summary>
    I8 = 5,
    /// <summary><see cref="byte"/>.</summary>
    U8 = 6,
    /// <summary>8-bit float: <see cref="Float8E4M3"/>.</summary>
    F8E4M3 = 7,
}

/// <summary>A bf16 number: the upper half of an IEEE single.</summary>
/// <param name="Bits">Sign, 8 exponent bits, 7 mantissa bits.</param>
public readonly record struct BFloat16(ushort Bits)
{
    /// <summary>The value, exactly.</summary>
    public static explicit operator float(BFloat16 value) => BitConverter.UInt32BitsToSingle((uint)value.Bits << 16);

    /// <summary>Rounds to nearest even; NaN stays NaN.</summary>
    public static explicit operator BFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        if (float.IsNaN(value)) return new BFloat16((ushort)((bits >> 16) | 0x40));
        return new BFloat16((ushort)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16));
    }
}

/// <summary>An 8-bit float (OCP E4M3): bias 7, subnormals, no infinity; the largest is 448, 0x7f and 0xff are NaN.</summary>
/// <param name="Bits">Sign, 4 exponent bits, 3 mantissa bits.</param>
public readonly record struct Float8E4M3(byte Bits)
{
    private const int Bias = 7, MantissaBits = 3;
    private const byte NanBits = 0x7f, LargestBits = 0x7e;

    /// <summary>The largest number.</summary>
    public static Float8E4M3 MaxValue => new(LargestBits);

    /// <summary>The value, exactly.</summary>
    public static explicit operator float(Float8E4M3 value)
    {
        int exponent = (value.Bits >> MantissaBits) & 15, mantissa = value.Bits & 7;
        float magnitude = (value.Bits & NanBits) == NanBits ? float.NaN
            : exponent == 0 ? MathF.ScaleB(mantissa, 1 - Bias - MantissaBits)
            : MathF.ScaleB(8 + mantissa, exponent - Bias - MantissaBits);
        return MathF.CopySign(magnitude, (value.Bits & 0x80) != 0 ? -1 : 1);
    }

    /// <summary>Rounds to nearest even; what is beyond ±448, infinities included, becomes ±448; NaN stays NaN.</summary>
    public static explicit operator Float8E4M3(float value)
    {
        byte sign = float.IsNegative(value) ? (byte)0x80 : (byte)0;
        if (float.IsNaN(value)) return new Float8E4M3((byte)(sign | NanBits));
        float magnitude = MathF.Min(MathF.Abs(value), (float)MaxValue);
        int exponent = magnitude == 0 ? 1 - Bias : Math.Max(MathF.ILogB(magnitude), 1 - Bias);
        // Steps of the number's binade: fewer than 8 is subnormal, 16 carries into the next exponent field by itself.
        int steps = (int)MathF.Round(MathF.ScaleB(magnitude, MantissaBits - exponent));
        return new Float8E4M3((byte)(sign | (((exponent + Bias - 1) << MantissaBits) + steps)));
    }
}

/// <summary>Facts about element types.</summary>
public static class DTypes
{
    /// <summary>Bytes of one element.</summary>
    /// <param name="type">A type other than <see cref="DType.None"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">The type is not an element type.</exception>
    public static int Size(this DType type) => type switch
    {
        DType.F32 or DType.I32 => 4,
        DType.F16 or DType.BF16 => 2,
        DType.I8 or DType.U8 or DType.F8E4M3 => 1,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "dtype: must be an element type (F32 to F8E4M3); name one"),
    };

    /// <summary>The element type of <typeparamref name="T"/>.</summary>
    /// <typeparam name="T">float, Half, BFloat16, int, sbyte, byte or Float8E4M3.</typeparam>
    /// <exception cref="NotSupportedException">Another type.</exception>
    public static DType Of<T>() where T : unmanaged
    {
        if (typeof(T) == typeof(float)) return DType.F32;
        if (typeof(T) == typeof(Half)) return DType.F16;
        if (typeof(T) == typeof(BFloat16)) return DType.BF16;
        if (typeof(T) == typeof(int)) return DType.I32;
        if (typeof(T) == typeof(sbyte)) return DType.I8;
        if (typeof(T) == typeof(byte)) return DType.U8;
        if (typeof(T) == typeof(Float8E4M3)) return DType.F8E4M3;
        throw new NotSupportedException($"tensor: element type {typeof(T).Name} is not known, must be float, Half, BFloat16, int, sbyte, byte or Float8E4M3; convert it first");
    }

    /// <summary>"f32", "f16", "bf16", "i32", "i8", "u8", "f8e4m3": the names that tools and cases use.</summary>
    /// <param name="type">The type.</param>
    public static string Name(this DType type) => type switch
    {
        DType.F32 => "f32",
        DType.F16 => "f16",
        DType.BF16 => "bf16",
        DType.I32 => "i32",
        DType.I8 => "i8",
        DType.U8 => "u8",
        DType.F8E4M3 => "f8e4m3",
        _ => "none",
    };

    /// <summary>The type of a <see cref="Name"/>.</summary>
    /// <param name="name">"f32" and so on.</param>
    /// <exception cref="ArgumentException">No such name.</exception>
    public static DType Parse(string name) => name switch
    {
        "f32" => DType.F32,
        "f16" => DType.F16,
        "bf16" => DType.BF16,
        "i32" => DType.I32,
        "i8" => DType.I8,
        "u8" => DType.U8,
        "f8e4m3" => DType.F8E4M3,
        _ => throw new ArgumentException($"dtype: {name} is not known, must be f32, f16, bf16, i32, i8, u8 or f8e4m3; correct the name", nameof(name)),
    };
}
