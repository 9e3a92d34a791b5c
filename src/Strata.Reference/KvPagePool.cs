// SPDX-License-Identifier: Apache-2.0
// A pool of keys or values: where a number lies in a page of each layout, and its bits.

namespace Strata.Reference;

/// <summary>Pages of one side of a cache, in the layout and format that the op reads.</summary>
public sealed class KvPagePool
{
    private readonly bool _keys;
    private readonly DType _type;
    private readonly int _bits, _pageSize, _headDim;
    private readonly KvLayout _layout;

    /// <summary>A pool of zeros.</summary>
    /// <param name="shape">Of the cache.</param>
    /// <param name="keys">Whether it holds keys.</param>
    /// <param name="pages">Their number.</param>
    public KvPagePool(KvCacheShape shape, bool keys, int pages)
    {
        ArgumentNullException.ThrowIfNull(shape);
        KvFormat format = keys ? shape.KeyFormat : shape.ValueFormat;
        _keys = keys;
        _type = format.PoolType(shape.Type);
        _bits = format.Bits(shape.Type);
        (_layout, _pageSize, _headDim) = (shape.Layout, shape.PageSize, shape.HeadDim);
        int heads = shape.SharedPages ? shape.KvHeads : 1, width = format == KvFormat.I4Block ? shape.HeadDim / 2 : shape.HeadDim;
        long[] extents = [pages, heads, shape.PageSize, width];
        if (shape.Layout == KvLayout.Rows)
        {
            Tensor = new HostTensor(_type, extents, shape.Padding);
            return;
        }
        // Dense pages: the room goes between them, whole vectors of it so that they stay aligned.
        long block = ((long)shape.PageSize * width) + ((shape.Padding + 15) / 16 * 16);
        Tensor = new HostTensor(_type, extents, [block * heads, block, width, 1]);
    }

    /// <summary>The storage [pages, heads_in_page, page_size, stored width].</summary>
    public HostTensor Tensor { get; }

    /// <summary>A number as stored: a plain value, an e4m3 value or an integer code.</summary>
    /// <param name="place">Page, head in the page, slot in the page.</param>
    /// <param name="channel">Channel.</param>
    public double this[(long Page, long Head, long Slot) place, long channel]
    {
        get
        {
            (long element, int shift) = Find(place, channel);
            if (_bits == 4) return (Tensor.Bytes[checked((int)element)] >> shift) & 15;
            return Tensor.At(element);
        }
        set
        {
            (long element, int shift) = Find(place, channel);
            if (_bits != 4)
            {
                Tensor.SetAt(element, value);
                return;
            }
            ref byte b = ref Tensor.Bytes[checked((int)element)];
            b = (byte)((b & ~(15 << shift)) | ((int)value << shift));
        }
    }

    /// <summary>Byte of the storage, and bit in that byte, where a number begins.</summary>
    /// <param name="place">Page, head in the page, slot in the page.</param>
    /// <param name="channel">Channel.</param>
    public (int Byte, int Bit) Locate((long Page, long Head, long Slot) place, long channel)
    {
        (long element, int shift) = Find(place, channel);
        return (checked((int)(element * _type.Size())), shift);
    }

    /// <summary>Fills everything but the numbers of the given rows.</summary>
    /// <param name="poison">With what.</param>
    /// <param name="live">Rows that stay.</param>
    public void PoisonRest(Poison poison, IReadOnlyCollection<(long Page, long Head, long Slot)> live)
    {
        ArgumentNullException.ThrowIfNull(live);
        byte[] before = Tensor.Bytes.ToArray();
        Poisons.Fill(Tensor.Bytes, poison);
        foreach ((long Page, long Head, long Slot) place in live)
        {
            if (_layout == KvLayout.Rows)
            {
                int first = Locate(place, 0).Byte, bytes = _headDim * _type.Size();
                before.AsSpan(first, bytes).CopyTo(Tensor.Bytes[first..]);
                continue;
            }
            for (int channel = 0; channel < _headDim; channel++) Copy(before, Tensor.Bytes, place, channel);
        }
    }

    /// <summary>Copies the bits of one number from other storage of this pool's shape.</summary>
    /// <param name="from">Source.</param>
    /// <param name="to">Destination.</param>
    /// <param name="place">Page, head in the page, slot in the page.</param>
    /// <param name="channel">Channel.</param>
    public void Copy(ReadOnlySpan<byte> from, Span<byte> to, (long Page, long Head, long Slot) place, long channel)
    {
        (int first, int bit) = Locate(place, channel);
        if (_bits == 4) to[first] = (byte)((to[first] & ~(15 << bit)) | (from[first] & (15 << bit)));
        else from.Slice(first, _bits / 8).CopyTo(to[first..]);
    }

    /// <summary>Element of the storage, and the shift of a 4-bit code in it.</summary>
    private (long Element, int Shift) Find((long Page, long Head, long Slot) place, long channel)
    {
        long block = (place.Page * Tensor.Stride[0]) + (place.Head * Tensor.Stride[1]);
        if (_layout == KvLayout.Rows) return (block + (place.Slot * Tensor.Stride[2]) + channel, 0);
        if (_layout == KvLayout.Swizzled)
        {
            long chunk = (channel % 64 / 8) ^ (place.Slot & 7);
            return (block + (((((channel / 64) * _pageSize) + place.Slot) * 64) + (chunk * 8) + (channel % 8)), 0);
        }
        int neighbours = 32 / _bits;
        long word = _keys
            ? ((((place.Slot / 16) * (_headDim / neighbours)) + (channel / neighbours)) * 16) + (place.Slot % 16)
            : ((place.Slot / neighbours) * _headDim) + channel;
        int neighbour = (int)((_keys ? channel : place.Slot) % neighbours);
        if (_bits == 4) return (block + (word * 4) + (neighbour % 4), neighbour < 4 ? 0 : 4);
        return (block + (word * neighbours) + neighbour, 0);
    }
}
