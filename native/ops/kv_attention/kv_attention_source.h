// SPDX-License-Identifier: Apache-2.0
// Finds where the K and V of a tile of slots lie, whatever the layout. Included by kv_attention_cpu.cpp alone.
#pragma once

#include "ops/kv_attention/kv_attention_tile.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

/// Slots [first, first + slots) of one (sequence, head), of those that lie below `end`.
struct TileSlots {
    std::int64_t sequence, head;
    std::int64_t first, end;
    std::int32_t slots;
};

inline const std::uint8_t *bytes_at(const View &view, std::int64_t element) {
    return static_cast<const std::uint8_t *>(view.data) + element * dtype_bytes(view.dtype);
}

inline void find_rows(const KvCacheView &cache, const View &pool, const TileSlots &at, TileSource &source) {
    const std::int32_t *table = cache.table_row(at.sequence, at.head);
    const std::int64_t step = pool.stride[2] * dtype_bytes(pool.dtype);
    std::int64_t page = at.first / cache.page_size;
    std::int64_t in_page = at.first - page * cache.page_size;
    std::int32_t t = 0;
    for (; t < at.slots; ++page, in_page = 0) {
        const std::uint8_t *row = bytes_at(pool, cache.row(pool, table[page], at.head, in_page));
        for (; t < at.slots && in_page < cache.page_size; ++t, ++in_page, row += step) source.rows[t] = row;
    }
    for (; t < kTile; ++t) source.rows[t] = source.rows[t - 1];
    source.row_step = step;
}

inline void find_panels(const KvCacheView &cache, const View &pool, const TileSlots &at, TileSource &source) {
    const std::int32_t *table = cache.table_row(at.sequence, at.head);
    for (std::int32_t i = 0; i < kPanels; ++i) {
        // Past the last slot the last panel repeats, so that every pointer may be read.
        const std::int64_t slot = kPanel * i < at.slots ? at.first + kPanel * i : at.first + (at.slots - 1) / kPanel * kPanel;
        const std::int64_t page = slot / cache.page_size;
        source.first_slot[i] = static_cast<std::int32_t>(slot - page * cache.page_size);
        source.blocks[i] = bytes_at(pool, cache.row(pool, table[page], at.head, 0));
    }
}

/// Where the scales of a panel that begins at `slot` lie.
inline const std::uint16_t *panel_scales(const KvCacheView &cache, const View &scales, const TileSlots &at, std::int32_t format, bool keys,
                                         std::int64_t slot) {
    const std::int64_t page = slot / cache.page_size;
    const std::int64_t in_page = slot - page * cache.page_size;
    const std::int64_t base = cache.row(scales, cache.table_row(at.sequence, at.head)[page], at.head, 0);
    const std::int64_t offset = !kv_block_scaled(format) ? in_page * scales.stride[2] : keys ? in_page / kKvBlock * scales.stride[2] : in_page;
    return reinterpret_cast<const std::uint16_t *>(bytes_at(scales, base + offset));
}

/// Pointers to the scales of each panel, and of the next tile's, as far as there are any. In rows of token-scaled codes a panel may cross pages, so
/// there each slot is looked up (token_scale).
inline void find_scales(const KvCacheView &cache, const View &scales, const TileSlots &at, bool keys, TileSource &source) {
    source.scale_step = scales.stride[2];
    for (std::int32_t i = 0; i < kPanels; ++i) {
        const std::int64_t last = at.first + (at.slots - 1) / kPanel * kPanel;
        const std::int64_t slot = kPanel * i < at.slots ? at.first + kPanel * i : last;
        const std::int64_t ahead = at.first + at.slots + kPanel * i;
        source.scales[i] = panel_scales(cache, scales, at, source.format, keys, slot);
        source.next_scales[i] = panel_scales(cache, scales, at, source.format, keys, ahead < at.end ? ahead : last);
    }
}

/// The scale of slot t of a tile in rows of token-scaled codes.
inline std::uint16_t token_scale(const KvCacheView &cache, const View &scales, const TileSlots &at, std::int32_t t) {
    const std::int64_t slot = at.first + t;
    const std::int64_t page = slot / cache.page_size;
    const std::int64_t element = cache.row(scales, cache.table_row(at.sequence, at.head)[page], at.head, slot - page * cache.page_size);
    return *reinterpret_cast<const std::uint16_t *>(bytes_at(scales, element));
}

inline void find_pool(const KvCacheView &cache, const View &pool, const View &scales, std::int32_t format, bool keys, const TileSlots &at,
                      std::uint16_t *row_scales, TileSource &source) {
    source.format = format;
    source.layout = cache.layout;
    source.dtype = pool.dtype;
    source.page_size = cache.page_size;
    if (cache.layout == STRATA_KV_ROWS) {
        find_rows(cache, pool, at, source);
        if (format == STRATA_KV_PLAIN) return;
        for (std::int32_t t = 0; t < kTile; ++t) row_scales[t] = token_scale(cache, scales, at, t < at.slots ? t : at.slots - 1);
        for (std::int32_t i = 0; i < kPanels; ++i) source.scales[i] = row_scales + kPanel * i;
        source.scale_step = 1;
        return;
    }
    find_panels(cache, pool, at, source);
    if (format != STRATA_KV_PLAIN) find_scales(cache, scales, at, keys, source);
}

/// Keys that are still in the tail: rows of its type.
inline void find_tail(const KvCacheView &cache, const TileSlots &at, TileSource &source) {
    source.format = STRATA_KV_PLAIN;
    source.layout = STRATA_KV_ROWS;
    source.dtype = cache.key_tail.dtype;
    source.page_size = cache.page_size;
    const std::int64_t base = cache.tail(at.sequence, at.head) * cache.key_tail.stride[0];
    source.row_step = cache.key_tail.stride[1] * dtype_bytes(cache.key_tail.dtype);
    for (std::int32_t t = 0; t < kTile; ++t) {
        const std::int64_t slot = at.first + (t < at.slots ? t : at.slots - 1);
        source.rows[t] = bytes_at(cache.key_tail, base + slot % kKvBlock * cache.key_tail.stride[1]);
    }
}

/// Where the panels of the tile after this one begin, as far as there are any.
inline void find_next_panels(const KvCacheView &cache, const View &pool, const TileSlots &at, const std::uint8_t *(&next)[kPanels]) {
    const std::int32_t *table = cache.table_row(at.sequence, at.head);
    const std::int64_t slot_bytes = (cache.layout == STRATA_KV_ROWS ? pool.stride[2] : pool.shape[3]) * dtype_bytes(pool.dtype);
    for (std::int32_t i = 0; i < kPanels; ++i) {
        const std::int64_t ahead = at.first + at.slots + kPanel * i;
        const std::int64_t slot = ahead < at.end ? ahead : at.first;
        const std::int64_t page = slot / cache.page_size;
        next[i] = bytes_at(pool, cache.row(pool, table[page], at.head, 0)) + (slot - page * cache.page_size) * slot_bytes;
    }
}

/// Fills tile.keys and tile.values. row_scales: 2 kTile numbers that live as long as the tile.
inline void find_tile(const KvCacheView &cache, const TileSlots &at, std::uint16_t *row_scales, Tile &tile) {
    if (kv_block_scaled(cache.key_format) && at.first >= cache.paged_keys(cache.length(at.sequence, at.head))) {
        find_tail(cache, at, tile.keys);
    } else {
        find_pool(cache, cache.keys, cache.key_scales, cache.key_format, true, at, row_scales, tile.keys);
    }
    find_pool(cache, cache.values, cache.value_scales, cache.value_format, false, at, row_scales + kTile, tile.values);
    find_next_panels(cache, cache.keys, at, tile.next_keys);
    find_next_panels(cache, cache.values, at, tile.next_values);
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
