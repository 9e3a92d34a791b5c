// SPDX-License-Identifier: Apache-2.0
// The only place where sizes that come from a file are added, multiplied or rounded.
namespace Strata.Engine.Gguf;

/// <summary>Arithmetic on sizes and offsets, 0 to 2^63-1, that says when a result does not fit instead of wrapping.</summary>
public static class SizeMath
{
    /// <summary>Takes an unsigned value of a file as a size.</summary>
    /// <param name="value">The value as stored.</param>
    /// <param name="size">The same value; 0 where it does not fit.</param>
    /// <returns>Whether it is at most 2^63-1.</returns>
    public static bool TryToSize(ulong value, out long size)
    {
        bool fits = value <= long.MaxValue;
        size = fits ? (long)value : 0;
        return fits;
    }

    /// <summary>sum = a + b.</summary>
    /// <param name="a">Not negative.</param>
    /// <param name="b">Not negative.</param>
    /// <param name="sum">The sum; 0 where it does not fit.</param>
    /// <returns>Whether both are sizes and the sum is one.</returns>
    public static bool TryAdd(long a, long b, out long sum)
    {
        bool fits = a >= 0 && b >= 0 && b <= long.MaxValue - a;
        sum = fits ? a + b : 0;
        return fits;
    }

    /// <summary>product = a b.</summary>
    /// <param name="a">Not negative.</param>
    /// <param name="b">Not negative.</param>
    /// <param name="product">The product; 0 where it does not fit.</param>
    /// <returns>Whether both are sizes and the product is one.</returns>
    public static bool TryMultiply(long a, long b, out long product)
    {
        // The division comes first: a product that wrapped to 0 must not be what decides.
        bool fits = a >= 0 && b >= 0 && (a == 0 || b <= long.MaxValue / a);
        product = fits ? a * b : 0;
        return fits;
    }

    /// <summary>aligned = the lowest multiple of <paramref name="alignment"/> that is not below <paramref name="value"/>.</summary>
    /// <param name="value">Not negative.</param>
    /// <param name="alignment">A power of two.</param>
    /// <param name="aligned">The multiple; 0 where it does not fit.</param>
    /// <returns>Whether the arguments are as described and the multiple fits.</returns>
    public static bool TryAlignUp(long value, long alignment, out long aligned)
    {
        aligned = 0;
        if (value < 0 || alignment <= 0 || (alignment & (alignment - 1)) != 0)
        {
            return false;
        }

        long past = value & (alignment - 1);
        return past == 0 ? TryAdd(value, 0, out aligned) : TryAdd(value, alignment - past, out aligned);
    }

    /// <summary>Bytes of a tensor: product of the extents ÷ block elements × block bytes.</summary>
    /// <param name="extents">Elements per dimension, innermost first; each above 0, the first a multiple of the block.</param>
    /// <param name="layout">The blocks that the elements are stored in.</param>
    /// <param name="bytes">The number of bytes; 0 where it does not fit.</param>
    /// <returns>Whether the extents are as described and the number fits.</returns>
    public static bool TryTensorBytes(ReadOnlySpan<long> extents, GgufTypeLayout layout, out long bytes)
    {
        bytes = 0;
        if (extents.IsEmpty || extents[0] <= 0 || extents[0] % layout.BlockElements != 0)
        {
            return false;
        }

        if (!TryMultiply(extents[0] / layout.BlockElements, layout.BlockBytes, out long total))
        {
            return false;
        }

        foreach (long extent in extents[1..])
        {
            if (extent <= 0 || !TryMultiply(total, extent, out total))
            {
                return false;
            }
        }

        bytes = total;
        return true;
    }

    /// <summary>Whether [offset, offset + length) lies in [0, limit).</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="length">Number of bytes.</param>
    /// <param name="limit">Bytes that exist.</param>
    /// <returns>True where no byte of the range is outside; an empty range may start at the limit.</returns>
    public static bool IsInside(long offset, long length, long limit) =>
        offset >= 0 && length >= 0 && offset <= limit && length <= limit - offset;
}
