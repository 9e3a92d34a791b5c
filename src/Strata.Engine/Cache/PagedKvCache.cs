// SPDX-License-Identifier: Apache-2.0
// The KV cache of one sequence: pages that each belong to one KV head of one layer, and the tables that name them.
using System.Runtime.InteropServices;
using Strata.Engine.Gguf;
using Strata.Engine.Models;

namespace Strata.Engine.Cache;

/// <summary>One pool of pages for all layers; page tables and lengths per (layer, KV head).</summary>
internal sealed class PagedKvCache : IDisposable
{
    private readonly LlamaConfig _config;
    private readonly PagePool _pool;
    private readonly DeviceBuffer _keys;
    private readonly DeviceBuffer _values;
    private readonly DeviceTensor<int> _positions;
    private readonly DeviceTensor<int> _deviceTables;
    private readonly DeviceTensor<int> _deviceLengths;
    private readonly int[] _tables;
    private readonly int[] _lengths;
    private readonly KvCache[] _layers;

    /// <param name="device">Where the pages are.</param>
    /// <param name="config">Layers, KV heads and head size.</param>
    /// <param name="type">Element type of keys and values.</param>
    /// <param name="pageSize">Tokens per page.</param>
    /// <param name="capacity">Most tokens that a head may hold at one time.</param>
    public PagedKvCache(Device device, LlamaConfig config, DType type, int pageSize, int capacity)
    {
        _config = config;
        PageSize = pageSize;
        MaxPages = (capacity + pageSize - 1) / pageSize;
        int heads = config.Layers * config.KvHeads;
        long pages = (long)heads * MaxPages;
        if (!SizeMath.TryMultiply(pages, (long)pageSize * config.HeadDim * type.Size(), out long bytes) || pages > int.MaxValue)
        {
            throw new ArgumentOutOfRangeException(
                nameof(capacity), $"cache: {capacity} tokens for {heads} heads are asked for, must fit {int.MaxValue} pages; lower the number of tokens");
        }

        _pool = new PagePool((int)pages);
        BytesPerPage = (2 * (bytes / pages)) + (pageSize * sizeof(int));
        _tables = new int[pages];
        _lengths = new int[heads];
        _keys = device.Allocate(bytes);
        _values = device.Allocate(bytes);
        _positions = device.Allocate<int>(pages, 1, pageSize);
        _deviceTables = device.Allocate<int>(config.Layers, config.KvHeads, MaxPages);
        _deviceLengths = device.Allocate<int>(config.Layers, config.KvHeads);
        TensorView keys = TensorView.Borrow(_keys.Pointer, type, [pages, 1, pageSize, config.HeadDim], _keys);
        TensorView values = TensorView.Borrow(_values.Pointer, type, [pages, 1, pageSize, config.HeadDim], _values);
        _layers = [.. Enumerable.Range(0, config.Layers).Select(layer => new KvCache
        {
            Keys = keys,
            Values = values,
            PageTable = _deviceTables.View.Slice(layer, 1),
            Lengths = _deviceLengths.View.Slice(layer, 1),
            Positions = _positions,
        })];
        Clear();
    }

    public int PageSize { get; }

    /// <summary>Most pages of one head.</summary>
    public int MaxPages { get; }

    /// <summary>Bytes of one page: keys, values and positions.</summary>
    public long BytesPerPage { get; }

    public long BytesLive => _pool.Live * BytesPerPage;

    public long BytesPeak => _pool.Peak * BytesPerPage;

    /// <summary>Most tokens that any head holds.</summary>
    public int Longest => _lengths.Max();

    public KvCache Layer(int layer) => _layers[layer];

    public int Length(int layer, int head) => _lengths[(layer * _config.KvHeads) + head];

    /// <summary>Logical positions of the tokens that a head holds, in the order of their slots.</summary>
    public int[] Positions(int layer, int head)
    {
        int index = (layer * _config.KvHeads) + head;
        int[] positions = new int[Pages(_lengths[index]) * PageSize];
        for (int page = 0; page < Pages(_lengths[index]); page++)
        {
            long offset = (long)_tables[(index * MaxPages) + page] * PageSize * sizeof(int);
            _positions.Buffer.CopyTo(MemoryMarshal.AsBytes(positions.AsSpan(page * PageSize, PageSize)), offset);
        }

        return positions[.._lengths[index]];
    }

    /// <summary>Makes room for the next tokens in every head: takes pages, counts the tokens, and tells the device.</summary>
    public void Reserve(int tokens)
    {
        int missing = 0;
        foreach (int length in _lengths)
        {
            missing += Pages(length + tokens) - Pages(length);
            if (Pages(length + tokens) > MaxPages)
            {
                throw new InvalidOperationException(
                    $"cache: {length + tokens} tokens are to be held, must be at most {MaxPages * PageSize}; open the session for more tokens");
            }
        }

        for (int head = 0; head < _lengths.Length; head++)
        {
            int pages = Pages(_lengths[head]);
            _lengths[head] += tokens;
            while (pages < Pages(_lengths[head]))
            {
                _tables[(head * MaxPages) + pages++] = _pool.Take();
            }
        }

        if (missing > 0)
        {
            _deviceTables.CopyFrom(_tables);
        }

        _deviceLengths.CopyFrom(_lengths);
    }

    /// <summary>Shortens the heads of a layer to tokens that have been moved to the front, and frees the pages behind them.</summary>
    public void ShortenLayer(int layer, int tokens)
    {
        for (int head = layer * _config.KvHeads; head < (layer + 1) * _config.KvHeads; head++)
        {
            Shorten(head, Math.Min(tokens, _lengths[head]));
        }

        Upload();
    }

    public void Clear()
    {
        Array.Clear(_lengths);
        Array.Clear(_tables);
        _pool.Reset();
        Upload();
    }

    public void Dispose()
    {
        _keys.Dispose();
        _values.Dispose();
        _positions.Dispose();
        _deviceTables.Dispose();
        _deviceLengths.Dispose();
    }

    private void Shorten(int head, int tokens)
    {
        for (int page = Pages(tokens); page < Pages(_lengths[head]); page++)
        {
            _pool.Return(_tables[(head * MaxPages) + page]);
            _tables[(head * MaxPages) + page] = 0;
        }

        _lengths[head] = tokens;
    }

    private void Upload()
    {
        _deviceTables.CopyFrom(_tables);
        _deviceLengths.CopyFrom(_lengths);
    }

    private int Pages(int tokens) => (tokens + PageSize - 1) / PageSize;
}
