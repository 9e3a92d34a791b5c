// SPDX-License-Identifier: Apache-2.0
// A paged key-value cache in host memory for the harnesses: shuffled pages, spare pages, and poison in everything that the lengths do not reach.

namespace Strata.Reference;

/// <summary>Extents of a <see cref="HostKvCache"/>.</summary>
/// <param name="Type">Element type of keys and values.</param>
/// <param name="Batch">Sequences.</param>
/// <param name="KvHeads">KV heads.</param>
/// <param name="HeadDim">Channels of a head.</param>
/// <param name="PageSize">Slots of a page.</param>
/// <param name="SharedPages">Whether a page holds all heads; else it belongs to one.</param>
/// <param name="Padding">Elements between rows.</param>
public sealed record KvCacheShape(DType Type, int Batch, int KvHeads, int HeadDim, int PageSize = 64, bool SharedPages = false, int Padding = 0);

/// <summary>A cache whose pages lie in random order, with one unused table entry a row and a few unused pages.</summary>
public sealed class HostKvCache
{
    private const int SparePages = 3;
    private readonly int[] _lengths;

    /// <summary>A cache of zeros.</summary>
    /// <param name="shape">Its extents.</param>
    /// <param name="lengths">Tokens of each (sequence, KV head), row-major.</param>
    /// <param name="random">Orders the pages.</param>
    /// <param name="freshPages">Further unused pages to each table row, for a destination.</param>
    public HostKvCache(KvCacheShape shape, ReadOnlySpan<int> lengths, InputRandom random, int freshPages = 0)
    {
        ArgumentNullException.ThrowIfNull(shape);
        ArgumentNullException.ThrowIfNull(random);
        Shape = shape;
        _lengths = lengths.ToArray();
        int longest = 0;
        foreach (int length in lengths) longest = Math.Max(longest, length);
        MaxPages = ((longest + shape.PageSize - 1) / shape.PageSize) + 1;
        int rows = shape.SharedPages ? shape.Batch : shape.Batch * shape.KvHeads;
        int[] order = random.Permutation((rows * (MaxPages + freshPages)) + SparePages);
        int heads = shape.SharedPages ? shape.KvHeads : 1;
        long[] pool = [order.Length, heads, shape.PageSize, shape.HeadDim];
        Keys = new HostTensor(shape.Type, pool, shape.Padding);
        Values = new HostTensor(shape.Type, pool, shape.Padding);
        Positions = new HostTensor(DType.I32, [order.Length, heads, shape.PageSize]);
        PageTable = new HostTensor(DType.I32, [shape.Batch, shape.KvHeads, MaxPages]);
        FreshTable = new HostTensor(DType.I32, [shape.Batch, shape.KvHeads, freshPages]);
        Lengths = new HostTensor(DType.I32, [shape.Batch, shape.KvHeads]).Fill(i => _lengths[i]);
        for (int b = 0; b < shape.Batch; b++)
        {
            for (int h = 0; h < shape.KvHeads; h++)
            {
                int row = shape.SharedPages ? b : (b * shape.KvHeads) + h;
                for (int i = 0; i < MaxPages; i++) PageTable[b, h, i] = order[(row * (MaxPages + freshPages)) + i];
                for (int i = 0; i < freshPages; i++) FreshTable[b, h, i] = order[(row * (MaxPages + freshPages)) + MaxPages + i];
            }
        }
        ForEachSlot((b, h, slot) =>
        {
            (long page, long head, long at) = Locate(PageTable, b, h, slot);
            Positions[page, head, at] = slot;
        });
    }

    /// <summary>Extents.</summary>
    public KvCacheShape Shape { get; }

    /// <summary>Table entries of a row.</summary>
    public int MaxPages { get; }

    /// <summary>Keys [pages, heads_in_page, page_size, head_dim].</summary>
    public HostTensor Keys { get; }

    /// <summary>Values, like <see cref="Keys"/>.</summary>
    public HostTensor Values { get; }

    /// <summary>Positions [pages, heads_in_page, page_size]; a slot's own number at first.</summary>
    public HostTensor Positions { get; }

    /// <summary>Pages [batch, kv_heads, max_pages].</summary>
    public HostTensor PageTable { get; }

    /// <summary>Unused pages [batch, kv_heads, fresh pages].</summary>
    public HostTensor FreshTable { get; }

    /// <summary>Lengths [batch, kv_heads].</summary>
    public HostTensor Lengths { get; }

    /// <summary>The longest length.</summary>
    public int MaxLength => _lengths.Length == 0 ? 0 : _lengths.Max();

    /// <summary>Length of a head.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    public int Length(long b, long h) => _lengths[(b * Shape.KvHeads) + h];

    /// <summary>Bytes of keys (or values) that the lengths reach.</summary>
    public long LiveBytes => _lengths.Sum(l => (long)l) * Shape.HeadDim * Shape.Type.Size();

    /// <summary>Where a slot lies under a table.</summary>
    /// <param name="table"><see cref="PageTable"/> or another of its shape.</param>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="slot">Slot.</param>
    public (long Page, long Head, long Slot) Locate(HostTensor table, long b, long h, long slot)
    {
        ArgumentNullException.ThrowIfNull(table);
        return ((long)table[b, h, slot / Shape.PageSize], Shape.SharedPages ? h : 0, slot % Shape.PageSize);
    }

    /// <summary>One channel of a cached key.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="slot">Slot.</param>
    /// <param name="channel">Channel.</param>
    public double Key(long b, long h, long slot, long channel)
    {
        (long page, long head, long at) = Locate(PageTable, b, h, slot);
        return Keys[page, head, at, channel];
    }

    /// <summary>One channel of a cached value.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="slot">Slot.</param>
    /// <param name="channel">Channel.</param>
    public double Value(long b, long h, long slot, long channel)
    {
        (long page, long head, long at) = Locate(PageTable, b, h, slot);
        return Values[page, head, at, channel];
    }

    /// <summary>Sets every key channel that the lengths reach.</summary>
    /// <param name="value">From (sequence, head, slot, channel).</param>
    public HostKvCache FillKeys(Func<int, int, int, int, double> value) => Fill(Keys, value);

    /// <summary>Sets every value channel that the lengths reach.</summary>
    /// <param name="value">From (sequence, head, slot, channel).</param>
    public HostKvCache FillValues(Func<int, int, int, int, double> value) => Fill(Values, value);

    /// <summary>Fills everything that the lengths do not reach: slots past the end, unused pages and table entries, padding.</summary>
    /// <param name="poison">With what.</param>
    public void PoisonRest(Poison poison)
    {
        foreach (HostTensor tensor in new[] { Keys, Values, Positions })
        {
            byte[] before = tensor.Bytes.ToArray();
            Poisons.Fill(tensor.Bytes, poison);
            int size = tensor.DType.Size();
            long width = ReferenceEquals(tensor, Positions) ? 1 : Shape.HeadDim;
            ForEachSlot((b, h, slot) =>
            {
                (long page, long head, long at) = Locate(PageTable, b, h, slot);
                int from = checked((int)(((page * tensor.Stride[0]) + (head * tensor.Stride[1]) + (at * tensor.Stride[2])) * size));
                before.AsSpan(from, checked((int)(width * size))).CopyTo(tensor.Bytes[from..]);
            });
        }
        for (int b = 0; b < Shape.Batch; b++)
        {
            for (int h = 0; h < Shape.KvHeads; h++)
            {
                for (int i = (Length(b, h) + Shape.PageSize - 1) / Shape.PageSize; i < MaxPages; i++) PageTable[b, h, i] = poison == Poison.Nan ? -1 : int.MaxValue;
            }
        }
    }

    /// <summary>Copies the cache to a device.</summary>
    /// <param name="device">The device.</param>
    public DeviceKvCache Upload(Device device) => new(device, this);

    /// <summary>Calls an action for every slot that the lengths reach.</summary>
    /// <param name="action">Takes sequence, head and slot.</param>
    public void ForEachSlot(Action<int, int, int> action)
    {
        ArgumentNullException.ThrowIfNull(action);
        for (int b = 0; b < Shape.Batch; b++)
        {
            for (int h = 0; h < Shape.KvHeads; h++)
            {
                for (int slot = 0; slot < Length(b, h); slot++) action(b, h, slot);
            }
        }
    }

    private HostKvCache Fill(HostTensor pool, Func<int, int, int, int, double> value)
    {
        ForEachSlot((b, h, slot) =>
        {
            (long page, long head, long at) = Locate(PageTable, b, h, slot);
            for (int c = 0; c < Shape.HeadDim; c++) pool[page, head, at, c] = value(b, h, slot, c);
        });
        return this;
    }
}

/// <summary>A <see cref="HostKvCache"/> on a device.</summary>
public sealed class DeviceKvCache : IDisposable
{
    internal DeviceKvCache(Device device, HostKvCache host)
    {
        Keys = host.Keys.Upload(device);
        Values = host.Values.Upload(device);
        Positions = host.Positions.Upload(device);
        PageTable = host.PageTable.Upload(device);
        Lengths = host.Lengths.Upload(device);
    }

    /// <summary>Keys.</summary>
    public DeviceArray Keys { get; }

    /// <summary>Values.</summary>
    public DeviceArray Values { get; }

    /// <summary>Positions.</summary>
    public DeviceArray Positions { get; }

    /// <summary>Page table.</summary>
    public DeviceArray PageTable { get; }

    /// <summary>Lengths.</summary>
    public DeviceArray Lengths { get; }

    /// <summary>The cache as ops take it.</summary>
    public KvCache View => new() { Keys = Keys.View, Values = Values.View, PageTable = PageTable.View, Lengths = Lengths.View, Positions = Positions.View };

    /// <summary>Frees the memory.</summary>
    public void Dispose()
    {
        foreach (DeviceArray array in new[] { Keys, Values, Positions, PageTable, Lengths }) array.Dispose();
    }
}
