// SPDX-License-Identifier: Apache-2.0
// The paged key-value cache that the kv ops share.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// A paged key-value cache of one layer for a batch of sequences: a view, owning nothing. Slot s of KV head h of sequence b lies in page
/// <c>PageTable[b, h, s / page_size]</c>, row <c>s % page_size</c>; the row's head is 0 where a page belongs to one head, else h.
/// Tables and lengths are per (sequence, KV head), so that eviction per head frees real pages.
/// </summary>
public readonly struct KvCache
{
    /// <summary>Keys [pages, heads_in_page, page_size, head_dim], F32, F16 or BF16; heads_in_page is 1 or kv_heads; page_size at most 256, head_dim at most 512.</summary>
    public TensorView Keys { get; init; }

    /// <summary>Values, type and shape of <see cref="Keys"/>; strides may differ.</summary>
    public TensorView Values { get; init; }

    /// <summary>Pages [batch, kv_heads, max_pages], I32; a head stride of 0 shares one table.</summary>
    public TensorView PageTable { get; init; }

    /// <summary>Tokens held [batch, kv_heads], I32, 0 to max_pages · page_size.</summary>
    public TensorView Lengths { get; init; }

    /// <summary>Optional: logical position of each slot [pages, heads_in_page, page_size], I32.</summary>
    public TensorView Positions { get; init; }

    /// <summary>The cache as the C ABI takes it.</summary>
    internal strata_kv_cache Raw => new() { keys = Keys.Raw, values = Values.Raw, page_table = PageTable.Raw, lengths = Lengths.Raw, positions = Positions.Raw };

    /// <summary>Keeps the owners of the cache's tensors reachable up to here.</summary>
    internal static void KeepAlive(in KvCache cache) => TensorView.KeepAlive(cache.Keys, cache.Values, cache.PageTable, cache.Lengths, cache.Positions);
}
