// SPDX-License-Identifier: Apache-2.0
// Small paged caches for hand-written tests of the kv ops.

using System.Runtime.InteropServices;

namespace Strata.Tests.Support;

/// <summary>What a test needs of a cache whose element type it does not know.</summary>
internal interface ISmallCache
{
    KvCache View { get; }
}

/// <summary>One sequence, one KV head, one page.</summary>
internal sealed class SmallCache<T> : ISmallCache, IDisposable where T : unmanaged
{
    /// <summary>`keys` and `values` are the first rows of the page; the rest is zero.</summary>
    public SmallCache(Device device, int length, int headDim, T[] keys, T[] values, int page = 0, int pageSize = 4)
    {
        Keys = device.Allocate<T>(1, 1, pageSize, headDim);
        Values = device.Allocate<T>(1, 1, pageSize, headDim);
        foreach ((DeviceTensor<T> tensor, T[] rows) in new[] { (Keys, keys), (Values, values) })
        {
            var all = new T[pageSize * headDim];
            rows.CopyTo(all, 0);
            tensor.CopyFrom(all);
        }
        PageTable = device.Upload<int>([page], 1, 1, 1);
        Lengths = device.Upload<int>([length], 1, 1);
    }

    public DeviceTensor<T> Keys { get; }

    public DeviceTensor<T> Values { get; }

    public DeviceTensor<int> PageTable { get; }

    public DeviceTensor<int> Lengths { get; }

    public KvCache View => new() { Keys = Keys, Values = Values, PageTable = PageTable, Lengths = Lengths };

    public void Dispose()
    {
        foreach (IDisposable tensor in new IDisposable[] { Keys, Values, PageTable, Lengths }) tensor.Dispose();
    }
}

/// <summary>How other libraries lay out the pages of a pool.</summary>
internal enum PoolLayout
{
    /// <summary>A page belongs to one head: [page][slot][channel].</summary>
    HeadMajor,
    /// <summary>[page][slot][head][channel], "NHD".</summary>
    SlotsThenHeads,
    /// <summary>[page][head][slot][channel], "HND".</summary>
    HeadsThenSlots,
    /// <summary>[page][keys, values][slot][head][channel] in one allocation.</summary>
    KeysAndValuesTogether,
}

/// <summary>One sequence in a pool of some layout, pages in reverse order. Unused slots hold NaN.</summary>
internal sealed class StridedPool : IDisposable
{
    private readonly DeviceTensor<Half> _keys, _values;
    private readonly DeviceTensor<int> _table, _lengths;

    /// <summary>`keys` and `values` are [heads, length, width].</summary>
    public StridedPool(Device device, int heads, int length, int width, int pageSize, PoolLayout layout, Half[] keys, Half[] values)
    {
        bool shared = layout != PoolLayout.HeadMajor;
        int pagesOfHead = (length + pageSize - 1) / pageSize, pages = shared ? pagesOfHead : heads * pagesOfHead, headsInPage = shared ? heads : 1;
        long slotStride = layout is PoolLayout.SlotsThenHeads or PoolLayout.KeysAndValuesTogether ? (long)headsInPage * width : width;
        long headStride = layout == PoolLayout.HeadsThenSlots ? (long)pageSize * width : width;
        long half = (long)headsInPage * pageSize * width, pageStride = layout == PoolLayout.KeysAndValuesTogether ? 2 * half : half;
        long together = layout == PoolLayout.KeysAndValuesTogether ? half : 0;
        var keyPool = new Half[pages * pageStride];
        Half[] valuePool = together > 0 ? keyPool : new Half[keyPool.Length];
        Array.Fill(keyPool, Half.NaN);
        Array.Fill(valuePool, Half.NaN);
        var table = new int[heads * pagesOfHead];
        for (int h = 0; h < heads; h++)
        {
            for (int i = 0; i < pagesOfHead; i++) table[(h * pagesOfHead) + i] = pages - 1 - (shared ? i : (h * pagesOfHead) + i);
            for (int slot = 0; slot < length; slot++)
            {
                long row = (table[(h * pagesOfHead) + (slot / pageSize)] * pageStride) + (shared ? h * headStride : 0) + (slot % pageSize * slotStride);
                keys.AsSpan(((h * length) + slot) * width, width).CopyTo(keyPool.AsSpan((int)row));
                values.AsSpan(((h * length) + slot) * width, width).CopyTo(valuePool.AsSpan((int)(row + together)));
            }
        }
        _keys = device.Upload<Half>(keyPool, keyPool.Length);
        _values = together > 0 ? _keys : device.Upload<Half>(valuePool, valuePool.Length);
        _table = device.Upload<int>(table, 1, heads, pagesOfHead);
        _lengths = device.Upload<int>([.. Enumerable.Repeat(length, heads)], 1, heads);
        long[] shape = [pages, headsInPage, pageSize, width], stride = [pageStride, headStride, slotStride, 1];
        View = new KvCache
        {
            Keys = TensorView.Borrow<Half>(_keys.Buffer.Pointer, shape, _keys, stride),
            Values = TensorView.Borrow<Half>(_values.Buffer.Pointer + (nint)(together * Marshal.SizeOf<Half>()), shape, _values, stride),
            PageTable = _table,
            Lengths = _lengths,
        };
    }

    public KvCache View { get; }

    public void Dispose()
    {
        foreach (IDisposable tensor in new IDisposable[] { _keys, _values, _table, _lengths }) tensor.Dispose();
    }
}
