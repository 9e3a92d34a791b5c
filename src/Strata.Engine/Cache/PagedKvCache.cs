// SPDX-License-Identifier: Apache-2.0
// The KV cache of one sequence: pages that each belong to one KV head of one layer, and the tables that name them.
using Strata.Engine.Gguf;
using Strata.Engine.Models;

namespace Strata.Engine.Cache;

/// <summary>One pool of pages for all layers; page tables and lengths per (layer, KV head).</summary>
internal sealed class PagedKvCache : IDisposable
{
    private readonly LlamaConfig _config;
    private readonly PagePool _pool;
    private readonly KvPageFormat _format;
    private readonly KvPages _pages;
    private readonly DeviceTensor<int> _deviceTables;
    private readonly DeviceTensor<int> _deviceLengths;
    private readonly int[] _tables;
    private readonly int[] _lengths;
    private readonly KvCache[] _layers;

    /// <param name="device">Where the pages are.</param>
    /// <param name="config">Layers and KV heads.</param>
    /// <param name="format">The form of a page.</param>
    /// <param name="capacity">Most tokens that a head may hold at one time.</param>
    public PagedKvCache(Device device, LlamaConfig config, KvPageFormat format, int capacity)
    {
        _config = config;
        _format = format;
        MaxPages = (capacity + PageSize - 1) / PageSize;
        int heads = config.Layers * config.KvHeads;
        long pages = (long)heads * MaxPages;
        if (!SizeMath.TryMultiply(pages, format.Bytes, out _) || pages > int.MaxValue)
        {
            throw new ArgumentOutOfRangeException(
                nameof(capacity), $"cache: {capacity} tokens for {heads} heads are asked for, must fit {int.MaxValue} pages; lower the number of tokens");
        }

        _pool = new PagePool((int)pages);
        _tables = new int[pages];
        _lengths = new int[heads];
        _pages = new KvPages(device, format, (int)pages, heads);
        _deviceTables = device.Allocate<int>(config.Layers, config.KvHeads, MaxPages);
        _deviceLengths = device.Allocate<int>(config.Layers, config.KvHeads);
        _layers = [.. Enumerable.Range(0, config.Layers).Select(layer =>
            _pages.Layer(_deviceTables.View.Slice(layer, 1), _deviceLengths.View.Slice(layer, 1), layer * config.KvHeads))];
        Clear();
    }

    public int PageSize => _format.PageSize;

    /// <summary>Most pages of one head.</summary>
    public int MaxPages { get; }

    /// <summary>Bytes of the pages in use, scales included.</summary>
    public long BytesLive => _pool.Live * _format.Bytes;

    public long BytesPeak => _pool.Peak * _format.Bytes;

    /// <summary>Bytes that hold the keys of blocks that are not full, however many tokens there are.</summary>
    public long TailBytes => _lengths.Length * _format.TailBytes;

    /// <summary>Bytes of the pages over those that plain fp16 numbers would take.</summary>
    public double RatioToF16 => _format.RatioToF16;

    /// <summary>Most tokens that any head holds.</summary>
    public int Longest => _lengths.Max();

    /// <summary>Whether head by head every layer holds as many tokens as the first.</summary>
    public bool LayersAreAlike
    {
        get
        {
            // A list that equals itself shifted by a layer repeats its first layer.
            ReadOnlySpan<int> lengths = _lengths;
            return lengths[_config.KvHeads..].SequenceEqual(lengths[..^_config.KvHeads]);
        }
    }

    public KvCache Layer(int layer) => _layers[layer];

    public int Length(int layer, int head) => _lengths[(layer * _config.KvHeads) + head];

    /// <summary>Logical positions of the tokens that a head holds, in the order of their slots.</summary>
    public int[] Positions(int layer, int head)
    {
        int index = (layer * _config.KvHeads) + head;
        if (!_format.Positions)
        {
            return [.. Enumerable.Range(0, _lengths[index])];
        }

        int[] positions = new int[Pages(_lengths[index]) * PageSize];
        for (int page = 0; page < Pages(_lengths[index]); page++)
        {
            _pages.CopyPositions(_tables[(index * MaxPages) + page], positions.AsSpan(page * PageSize, PageSize));
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
        _pages.Dispose();
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
