// SPDX-License-Identifier: Apache-2.0
// A paged key-value cache in host memory for the harnesses: shuffled pages, spare pages, and poison in everything that the lengths do not reach.

namespace Strata.Reference;

/// <summary>A cache whose pages and tails lie in random order, with one unused table entry a row and a few unused pages and tails.</summary>
public sealed class HostKvCache
{
    private const int Spare = 3;
    private readonly int[] _lengths;
    private readonly KvPagePool _keys, _values;

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
        int[] order = random.Permutation((rows * (MaxPages + freshPages)) + Spare);
        int heads = shape.SharedPages ? shape.KvHeads : 1;
        long[] slots = [order.Length, heads, shape.PageSize];
        _keys = new KvPagePool(shape, keys: true, order.Length);
        _values = new KvPagePool(shape, keys: false, order.Length);
        Positions = new HostTensor(DType.I32, slots);
        LogitBias = shape.LogitBias ? new HostTensor(DType.F32, slots) : null;
        KeyNorms = shape.Norms == DType.None ? null : new HostTensor(shape.Norms, slots);
        ValueNorms = shape.Norms == DType.None ? null : new HostTensor(shape.Norms, slots);
        KeyScales = Scales(shape.KeyFormat, slots, [order.Length, heads, shape.PageSize / KvCache.BlockSlots, 2 * shape.HeadDim]);
        ValueScales = Scales(shape.ValueFormat, slots, [order.Length, heads, 2 * shape.ValueGroups, shape.PageSize]);
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
        if (shape.KeyFormat.IsBlockScaled())
        {
            int tails = shape.Batch * shape.KvHeads;
            KeyTail = new HostTensor(shape.Type, [tails + Spare, KvCache.BlockSlots, shape.HeadDim]);
            if (shape.TailTable)
            {
                int[] tailOrder = random.Permutation(tails + Spare);
                TailTable = new HostTensor(DType.I32, [shape.Batch, shape.KvHeads]).Fill(i => tailOrder[i]);
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

    /// <summary>Keys [pages, heads_in_page, page_size, head_dim] as stored.</summary>
    public HostTensor Keys => _keys.Tensor;

    /// <summary>Values, like <see cref="Keys"/>.</summary>
    public HostTensor Values => _values.Tensor;

    /// <summary>The pages of <see cref="Keys"/>, by slot and channel.</summary>
    public KvPagePool KeyPool => _keys;

    /// <summary>The pages of <see cref="Values"/>, by slot and channel.</summary>
    public KvPagePool ValuePool => _values;

    /// <summary>Positions [pages, heads_in_page, page_size]; a slot's own number at first.</summary>
    public HostTensor Positions { get; }

    /// <summary>Logit bias of each slot, or null.</summary>
    public HostTensor? LogitBias { get; }

    /// <summary>Norm of each key, or null.</summary>
    public HostTensor? KeyNorms { get; }

    /// <summary>Norm of each value, or null.</summary>
    public HostTensor? ValueNorms { get; }

    /// <summary>Scales of the keys, or null.</summary>
    public HostTensor? KeyScales { get; }

    /// <summary>Scales of the values, or null.</summary>
    public HostTensor? ValueScales { get; }

    /// <summary>Keys of the block that is not full [tails, 32, head_dim], or null.</summary>
    public HostTensor? KeyTail { get; }

    /// <summary>Row of the tail of each sequence and head, or null.</summary>
    public HostTensor? TailTable { get; }

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

    /// <summary>Bytes of keys, scales included, that the lengths reach.</summary>
    public long LiveKeyBytes => (long)(_lengths.Sum(l => (long)l) * Shape.KeyBytes);

    /// <summary>Bytes of values, scales included, that the lengths reach.</summary>
    public long LiveValueBytes => (long)(_lengths.Sum(l => (long)l) * Shape.ValueBytes);

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

    /// <summary>Row of <see cref="KeyTail"/> of a sequence and head.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    public long Tail(long b, long h) => TailTable is null ? (b * Shape.KvHeads) + h : (long)TailTable[b, h];

    /// <summary>Slots of a head whose keys lie in pages; the keys of the others lie in the tail.</summary>
    /// <param name="length">Slots held.</param>
    public int PagedKeys(int length) => Shape.KeyFormat.IsBlockScaled() ? length / KvCache.BlockSlots * KvCache.BlockSlots : length;

    /// <summary>One channel of a cached key: what the stored bits mean, in the rotated basis where the cache has a rotation.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="slot">Slot.</param>
    /// <param name="channel">Channel.</param>
    public double Key(long b, long h, long slot, long channel) =>
        slot >= PagedKeys(Length(b, h)) ? KeyTail![Tail(b, h), slot % KvCache.BlockSlots, channel] : PagedKey(Locate(PageTable, b, h, slot), channel);

    /// <summary>One channel of a cached value: what the stored bits mean, in the rotated basis where the cache has a rotation.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="slot">Slot.</param>
    /// <param name="channel">Channel.</param>
    public double Value(long b, long h, long slot, long channel) => PagedValue(Locate(PageTable, b, h, slot), channel);

    /// <summary>All channels of a cached key, as <see cref="Key"/> reads them.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="slot">Slot.</param>
    /// <param name="to">Written, head_dim numbers.</param>
    public void ReadKey(int b, int h, int slot, Span<double> to)
    {
        bool paged = slot < PagedKeys(Length(b, h));
        long tail = paged ? 0 : Tail(b, h);
        (long Page, long Head, long Slot) place = Locate(PageTable, b, h, slot);
        for (int c = 0; c < to.Length; c++) to[c] = paged ? PagedKey(place, c) : KeyTail![tail, slot % KvCache.BlockSlots, c];
    }

    /// <summary>All channels of a cached value, as <see cref="Value"/> reads them.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="slot">Slot.</param>
    /// <param name="to">Written, head_dim numbers.</param>
    public void ReadValue(int b, int h, int slot, Span<double> to)
    {
        (long Page, long Head, long Slot) place = Locate(PageTable, b, h, slot);
        for (int c = 0; c < to.Length; c++) to[c] = PagedValue(place, c);
    }

    /// <summary>Bias of a slot's scores; 0 where the cache has none.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="slot">Slot.</param>
    public double Bias(long b, long h, long slot)
    {
        (long page, long head, long at) = Locate(PageTable, b, h, slot);
        return LogitBias is null ? 0 : LogitBias[page, head, at];
    }

    /// <summary>Stores a key in every slot that the lengths reach, as kv_append would: rotated, and quantised by the format.</summary>
    /// <param name="value">From (sequence, head, slot, channel), not rotated.</param>
    public HostKvCache FillKeys(Func<int, int, int, int, double> value) => Fill(value, StoreKeys);

    /// <summary>Stores a value in every slot that the lengths reach, as kv_append would: rotated, and quantised by the format.</summary>
    /// <param name="value">From (sequence, head, slot, channel), not rotated.</param>
    public HostKvCache FillValues(Func<int, int, int, int, double> value) => Fill(value, StoreValues);

    /// <summary>Sets the logit bias of every slot that the lengths reach.</summary>
    /// <param name="value">From (sequence, head, slot).</param>
    public HostKvCache FillBias(Func<int, int, int, double> value)
    {
        ArgumentNullException.ThrowIfNull(value);
        ForEachSlot((b, h, slot) =>
        {
            (long page, long head, long at) = Locate(PageTable, b, h, slot);
            LogitBias![page, head, at] = value(b, h, slot);
        });
        return this;
    }

    /// <summary>Stores the keys of slots 0 to n - 1 of a head, n = rows / head_dim: norms, rotation, tail, full blocks.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="rows">[n, head_dim] as given to the cache: rotary embedding done, not rotated.</param>
    public void StoreKeys(int b, int h, float[] rows)
    {
        ArgumentNullException.ThrowIfNull(rows);
        int width = Shape.HeadDim, held = rows.Length / width;
        var codes = new float[width];
        for (int slot = 0; slot < held; slot++)
        {
            (long Page, long Head, long Slot) place = Locate(PageTable, b, h, slot);
            float[] row = rows[(slot * width)..((slot + 1) * width)];
            if (KeyNorms is not null) KeyNorms[place.Page, place.Head, place.Slot] = Norm(row);
            KvQuantizer.Rotate(row, Shape.Rotation);
            if (Shape.KeyFormat.IsBlockScaled())
            {
                for (int c = 0; c < width; c++) KeyTail![Tail(b, h), slot % KvCache.BlockSlots, c] = row[c];
                if (slot % KvCache.BlockSlots == KvCache.BlockSlots - 1) StoreKeyBlock(b, h, place);
                continue;
            }
            if (Shape.KeyFormat != KvFormat.Plain)
            {
                KeyScales![place.Page, place.Head, place.Slot] = (double)KvQuantizer.QuantizeToken(row, Shape.KeyFormat, codes);
                row = codes;
            }
            for (int c = 0; c < width; c++) _keys[place, c] = row[c];
        }
    }

    /// <summary>Stores the values of slots 0 to n - 1 of a head, n = rows / head_dim: norms, rotation, codes.</summary>
    /// <param name="b">Sequence.</param>
    /// <param name="h">KV head.</param>
    /// <param name="rows">[n, head_dim], not rotated.</param>
    public void StoreValues(int b, int h, float[] rows)
    {
        ArgumentNullException.ThrowIfNull(rows);
        int width = Shape.HeadDim, held = rows.Length / width;
        var codes = new float[width];
        for (int slot = 0; slot < held; slot++)
        {
            (long Page, long Head, long Slot) place = Locate(PageTable, b, h, slot);
            float[] row = rows[(slot * width)..((slot + 1) * width)];
            if (ValueNorms is not null) ValueNorms[place.Page, place.Head, place.Slot] = Norm(row);
            KvQuantizer.Rotate(row, Shape.Rotation);
            if (Shape.ValueFormat.IsTokenScaled()) ValueScales![place.Page, place.Head, place.Slot] = (double)KvQuantizer.QuantizeToken(row, Shape.ValueFormat, codes);
            for (int g = 0; g < Shape.ValueGroups && Shape.ValueFormat.IsBlockScaled(); g++)
            {
                int from = g * KvCache.BlockSlots, count = Math.Min(KvCache.BlockSlots, width - from);
                (Half scale, Half zero) = KvQuantizer.QuantizeBlock(row.AsSpan(from, count), Shape.ValueFormat, codes.AsSpan(from, count));
                ValueScales![place.Page, place.Head, 2 * g, place.Slot] = (double)scale;
                ValueScales[place.Page, place.Head, (2 * g) + 1, place.Slot] = (double)zero;
            }
            if (Shape.ValueFormat != KvFormat.Plain) row = codes;
            for (int c = 0; c < width; c++) _values[place, c] = row[c];
        }
    }

    /// <summary>Fills everything that the slots held do not reach: slots past the end, unused pages, tails and table entries, padding.</summary>
    /// <param name="poison">With what.</param>
    /// <param name="held">Slots held, from (sequence, head); absent: the lengths. Table entries that the lengths reach stay in any case.</param>
    public void PoisonRest(Poison poison, Func<int, int, int>? held = null)
    {
        var live = new List<(long Page, long Head, long Slot)>();
        var blocks = new List<(long Page, long Head, long Slot)>();
        var pagedKeys = new List<(long Page, long Head, long Slot)>();
        var tails = new List<(long, long, long)>();
        for (int b = 0; b < Shape.Batch; b++)
        {
            for (int h = 0; h < Shape.KvHeads; h++)
            {
                int count = held is null ? Length(b, h) : held(b, h), paged = PagedKeys(count);
                for (int slot = 0; slot < count; slot++)
                {
                    (long Page, long Head, long Slot) place = Locate(PageTable, b, h, slot);
                    live.Add(place);
                    if (slot < paged) pagedKeys.Add(place);
                    else tails.Add((Tail(b, h), slot % KvCache.BlockSlots, 0));
                    if (slot < paged && slot % KvCache.BlockSlots == 0) blocks.Add((place.Page, place.Head, place.Slot / KvCache.BlockSlots));
                }
                for (int i = (Length(b, h) + Shape.PageSize - 1) / Shape.PageSize; i < MaxPages; i++) PageTable[b, h, i] = poison == Poison.Nan ? -1 : int.MaxValue;
            }
        }
        _keys.PoisonRest(poison, pagedKeys);
        _values.PoisonRest(poison, live);
        foreach (HostTensor? side in new[] { Positions, LogitBias, KeyNorms, ValueNorms }) side?.PoisonRest(poison, live.Select(p => (p.Page, p.Head, p.Slot, 0L)));
        KeyScales?.PoisonRest(poison, Shape.KeyFormat.IsTokenScaled()
            ? live.Select(p => (p.Page, p.Head, p.Slot, 0L))
            : blocks.SelectMany(p => Enumerable.Range(0, 2 * Shape.HeadDim).Select(c => (p.Page, p.Head, p.Slot, (long)c))));
        ValueScales?.PoisonRest(poison, Shape.ValueFormat.IsTokenScaled()
            ? live.Select(p => (p.Page, p.Head, p.Slot, 0L))
            : live.SelectMany(p => Enumerable.Range(0, 2 * Shape.ValueGroups).Select(g => (p.Page, p.Head, (long)g, p.Slot))));
        KeyTail?.PoisonRest(poison, tails.SelectMany(t => Enumerable.Range(0, Shape.HeadDim).Select(c => (t.Item1, t.Item2, (long)c, 0L))));
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

    private double PagedKey((long Page, long Head, long Slot) place, long channel)
    {
        double code = _keys[place, channel];
        if (Shape.KeyFormat == KvFormat.Plain) return code;
        if (Shape.KeyFormat.IsTokenScaled()) return KeyScales![place.Page, place.Head, place.Slot] * code;
        long block = place.Slot / KvCache.BlockSlots;
        return (KeyScales![place.Page, place.Head, block, channel] * code) + KeyScales[place.Page, place.Head, block, Shape.HeadDim + channel];
    }

    private double PagedValue((long Page, long Head, long Slot) place, long channel)
    {
        double code = _values[place, channel];
        if (Shape.ValueFormat == KvFormat.Plain) return code;
        if (Shape.ValueFormat.IsTokenScaled()) return ValueScales![place.Page, place.Head, place.Slot] * code;
        long group = channel / KvCache.BlockSlots;
        return (ValueScales![place.Page, place.Head, 2 * group, place.Slot] * code) + ValueScales[place.Page, place.Head, (2 * group) + 1, place.Slot];
    }

    private static HostTensor? Scales(KvFormat format, long[] ofSlots, long[] ofBlocks) =>
        format == KvFormat.Plain ? null : new HostTensor(DType.F16, format.IsTokenScaled() ? ofSlots : ofBlocks);

    private static float Norm(ReadOnlySpan<float> row)
    {
        float sum = 0;
        foreach (float x in row) sum += x * x;
        return MathF.Sqrt(sum);
    }

    /// <summary>Quantises the block whose last slot is `last`, from the tail.</summary>
    private void StoreKeyBlock(int b, int h, (long Page, long Head, long Slot) last)
    {
        Span<float> block = stackalloc float[KvCache.BlockSlots], codes = stackalloc float[KvCache.BlockSlots];
        for (int c = 0; c < Shape.HeadDim; c++)
        {
            for (int i = 0; i < KvCache.BlockSlots; i++) block[i] = (float)KeyTail![Tail(b, h), i, c];
            (Half scale, Half zero) = KvQuantizer.QuantizeBlock(block, Shape.KeyFormat, codes);
            KeyScales![last.Page, last.Head, last.Slot / KvCache.BlockSlots, c] = (double)scale;
            KeyScales[last.Page, last.Head, last.Slot / KvCache.BlockSlots, Shape.HeadDim + c] = (double)zero;
            for (int i = 0; i < KvCache.BlockSlots; i++) _keys[(last.Page, last.Head, last.Slot - KvCache.BlockSlots + 1 + i), c] = codes[i];
        }
    }

    private HostKvCache Fill(Func<int, int, int, int, double> value, Action<int, int, float[]> store)
    {
        ArgumentNullException.ThrowIfNull(value);
        int width = Shape.HeadDim;
        for (int b = 0; b < Shape.Batch; b++)
        {
            for (int h = 0; h < Shape.KvHeads; h++)
            {
                var rows = new float[Length(b, h) * width];
                for (int i = 0; i < rows.Length; i++) rows[i] = (float)value(b, h, i / width, i % width);
                store(b, h, rows);
            }
        }
        return this;
    }
}
