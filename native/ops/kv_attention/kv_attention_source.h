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

/// Where the panels of a tile begin, then those of the next one.
struct PanelPlaces {
    std::int64_t page[2 * kPanels];
    std::int32_t slot[2 * kPanels]; // in that page
};

/// Past the last slot the last panel repeats, and past the last tile this one's panels, so that every place may be read.
inline PanelPlaces find_places(const KvCacheView &cache, const TileSlots &at) {
    const std::int32_t *table = cache.table_row(at.sequence, at.head);
    std::int64_t entry = at.first / cache.page_size;
    auto slot = static_cast<std::int32_t>(at.first - entry * cache.page_size);
    const auto advance = [&](std::int32_t slots) {
        for (slot += slots; slot >= cache.page_size; slot -= cache.page_size) ++entry;
    };
    PanelPlaces places;
    for (std::int32_t i = 0; i < kPanels; ++i) {
        if (i != 0 && kPanel * i < at.slots) advance(kPanel);
        places.page[i] = table[entry];
        places.slot[i] = slot;
    }
    advance(at.slots - (at.slots - 1) / kPanel * kPanel);
    for (std::int32_t i = 0; i < kPanels; ++i) {
        const bool there = at.first + at.slots + kPanel * i < at.end;
        if (i != 0 && there) advance(kPanel);
        places.page[kPanels + i] = there ? table[entry] : places.page[i];
        places.slot[kPanels + i] = there ? slot : places.slot[i];
    }
    return places;
}

inline void find_panels(const KvCacheView &cache, const View &pool, const TileSlots &at, const PanelPlaces &places, TileSource &source) {
    for (std::int32_t i = 0; i < kPanels; ++i) {
        source.first_slot[i] = places.slot[i];
        source.blocks[i] = bytes_at(pool, cache.row(pool, places.page[i], at.head, 0));
    }
}

/// Pointers to the scales of each panel, and of the next tile's. In rows of token-scaled codes a panel may cross pages, so there each slot is looked
/// up (token_scale).
inline void find_scales(const KvCacheView &cache, const View &scales, const TileSlots &at, const PanelPlaces &places, bool keys, TileSource &source) {
    source.scale_step = scales.stride[2];
    const auto scales_of = [&](std::int32_t i) {
        const std::int32_t slot = places.slot[i];
        const std::int64_t base = cache.row(scales, places.page[i], at.head, 0);
        const std::int64_t offset = !kv_block_scaled(source.format) ? slot * scales.stride[2]
                                    : keys                          ? slot / kKvBlock * scales.stride[2]
                                                                    : std::int64_t{slot};
        return reinterpret_cast<const std::uint16_t *>(bytes_at(scales, base + offset));
    };
    for (std::int32_t i = 0; i < kPanels; ++i) {
        source.scales[i] = scales_of(i);
        source.next_scales[i] = scales_of(kPanels + i);
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
                      const PanelPlaces &places, std::uint16_t *row_scales, TileSource &source) {
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
    find_panels(cache, pool, at, places, source);
    if (format != STRATA_KV_PLAIN) find_scales(cache, scales, at, places, keys, source);
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

/// Where the panels of the tile after this one begin.
inline void find_next_panels(const KvCacheView &cache, const View &pool, const TileSlots &at, const PanelPlaces &places,
                             const std::uint8_t *(&next)[kPanels]) {
    const std::int64_t slot_bytes = (cache.layout == STRATA_KV_ROWS ? pool.stride[2] : pool.shape[3]) * dtype_bytes(pool.dtype);
    for (std::int32_t i = 0; i < kPanels; ++i) {
        next[i] = bytes_at(pool, cache.row(pool, places.page[kPanels + i], at.head, 0)) + places.slot[kPanels + i] * slot_bytes;
    }
}

/// Fills tile.keys and tile.values. row_scales: 2 kTile numbers that live as long as the tile.
inline void find_tile(const KvCacheView &cache, const TileSlots &at, std::uint16_t *row_scales, Tile &tile) {
    const PanelPlaces places = find_places(cache, at);
    if (kv_block_scaled(cache.key_format) && at.first >= cache.paged_keys(cache.length(at.sequence, at.head))) {
        find_tail(cache, at, tile.keys);
    } else {
        find_pool(cache, cache.keys, cache.key_scales, cache.key_format, true, at, places, row_scales, tile.keys);
    }
    find_pool(cache, cache.values, cache.value_scales, cache.value_format, false, at, places, row_scales + kTile, tile.values);
    find_next_panels(cache, cache.keys, at, places, tile.next_keys);
    find_next_panels(cache, cache.values, at, places, tile.next_values);
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
