// SPDX-License-Identifier: Apache-2.0
// The codes and scales of quantised KV caches, and the Hadamard rotation before them, bit by bit as kv_append makes them: fp32, round half to even.

namespace Strata.Reference;

/// <summary>Quantises rows and blocks. A row or block that holds a NaN or an infinity gets a NaN scale and codes 0, so it reads as NaN as a whole.</summary>
public static class KvQuantizer
{
    private const float LargestHalf = 65504;

    /// <summary>Whether a format has one scale per slot and head.</summary>
    /// <param name="format">The format.</param>
    public static bool IsTokenScaled(this KvFormat format) => format is KvFormat.I8 or KvFormat.F8;

    /// <summary>Whether a format has a scale and a zero point per block.</summary>
    /// <param name="format">The format.</param>
    public static bool IsBlockScaled(this KvFormat format) => format is KvFormat.I8Block or KvFormat.I4Block;

    /// <summary>Bits of a stored number.</summary>
    /// <param name="format">The format.</param>
    /// <param name="plain">Type of a plain pool.</param>
    public static int Bits(this KvFormat format, DType plain) => format switch
    {
        KvFormat.Plain => 8 * plain.Size(),
        KvFormat.I4Block => 4,
        _ => 8,
    };

    /// <summary>Element type of a pool.</summary>
    /// <param name="format">The format.</param>
    /// <param name="plain">Type of a plain pool.</param>
    public static DType PoolType(this KvFormat format, DType plain) => format switch
    {
        KvFormat.Plain => plain,
        KvFormat.I8 => DType.I8,
        KvFormat.F8 => DType.F8E4M3,
        _ => DType.U8,
    };

    /// <summary>The largest code, or with <see cref="KvFormat.F8"/> the largest number.</summary>
    /// <param name="format">A format with scales.</param>
    public static int Levels(this KvFormat format) => format switch
    {
        KvFormat.I8 => 127,
        KvFormat.F8 => 448,
        KvFormat.I8Block => 255,
        _ => 15,
    };

    /// <summary>fp32 to fp16: to nearest even, saturated to ±65504; NaN stays NaN.</summary>
    /// <param name="value">The number.</param>
    public static Half ToHalf(float value) => (Half)Math.Clamp(value, -LargestHalf, LargestHalf);

    /// <summary>One slot's row with one scale: the code (or the e4m3 number) nearest to <c>x / scale</c>.</summary>
    /// <param name="row">The numbers.</param>
    /// <param name="format"><see cref="KvFormat.I8"/> or <see cref="KvFormat.F8"/>.</param>
    /// <param name="codes">Written, one each.</param>
    /// <returns>The scale.</returns>
    public static Half QuantizeToken(ReadOnlySpan<float> row, KvFormat format, Span<float> codes)
    {
        codes.Clear();
        float largest = 0;
        foreach (float x in row)
        {
            if (!float.IsFinite(x)) return Half.NaN;
            largest = MathF.Max(largest, MathF.Abs(x));
        }
        Half scale = ToHalf(largest / format.Levels());
        for (int i = 0; i < row.Length && scale != (Half)0; i++)
        {
            float ratio = row[i] / (float)scale;
            codes[i] = format == KvFormat.F8 ? (float)(Float8E4M3)ratio : Math.Clamp(MathF.Round(ratio), -127, 127);
        }
        return scale;
    }

    /// <summary>A block with a scale and a zero point: the code 0 to <see cref="Levels"/> nearest to <c>(x - zero) / scale</c>.</summary>
    /// <param name="block">The numbers.</param>
    /// <param name="format"><see cref="KvFormat.I8Block"/> or <see cref="KvFormat.I4Block"/>.</param>
    /// <param name="codes">Written, one each.</param>
    /// <returns>Scale and zero point.</returns>
    public static (Half Scale, Half Zero) QuantizeBlock(ReadOnlySpan<float> block, KvFormat format, Span<float> codes)
    {
        codes.Clear();
        float low = float.PositiveInfinity, high = float.NegativeInfinity;
        foreach (float x in block)
        {
            if (!float.IsFinite(x)) return (Half.NaN, (Half)0);
            low = MathF.Min(low, x);
            high = MathF.Max(high, x);
        }
        Half zero = ToHalf(low), scale = ToHalf(MathF.Max(0, (high - (float)zero) / format.Levels()));
        for (int i = 0; i < block.Length && scale != (Half)0; i++)
        {
            codes[i] = Math.Clamp(MathF.Round((block[i] - (float)zero) / (float)scale), 0, format.Levels());
        }
        return (scale, zero);
    }

    /// <summary>The normalised Walsh-Hadamard transform of each <paramref name="points"/> numbers, in place, in fp32; its own inverse but for rounding.</summary>
    /// <param name="row">A multiple of <paramref name="points"/> numbers.</param>
    /// <param name="points">A power of two, or 0 for nothing.</param>
    public static void Rotate(Span<float> row, int points)
    {
        if (points == 0) return;
        var factor = (float)(1 / Math.Sqrt(points));
        for (int from = 0; from < row.Length; from += points)
        {
            for (int half = 1; half < points; half *= 2)
            {
                for (int i = 0; i < points; i++)
                {
                    if ((i & half) != 0) continue;
                    float a = row[from + i], b = row[from + i + half];
                    (row[from + i], row[from + i + half]) = (a + b, a - b);
                }
            }
        }
        for (int i = 0; i < row.Length; i++) row[i] *= factor;
    }

    /// <summary>The same transform in double, from its definition: channel i of a group is <c>Σⱼ (-1)^popcount(i &amp; j) xⱼ / √points</c>.</summary>
    /// <param name="row">A multiple of <paramref name="points"/> numbers.</param>
    /// <param name="points">A power of two, or 0 for nothing.</param>
    public static void Rotate(Span<double> row, int points)
    {
        if (points == 0) return;
        Span<double> turned = stackalloc double[points];
        for (int from = 0; from < row.Length; from += points)
        {
            for (int i = 0; i < points; i++)
            {
                double sum = 0;
                for (int j = 0; j < points; j++) sum += (int.PopCount(i & j) & 1) == 0 ? row[from + j] : -row[from + j];
                turned[i] = sum / Math.Sqrt(points);
            }
            turned.CopyTo(row[from..]);
        }
    }
}
