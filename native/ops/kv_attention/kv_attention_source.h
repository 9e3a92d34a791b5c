// SPDX-License-Identifier: Apache-2.0
// Finds where the K and V of a tile of slots lie, whatever the layout. Included by kv_attention_cpu.cpp alone.
#pragma once

#include "ops/kv_attention/kv_attention_tile.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

/// The slots of a tile of one (sequence, head), `slots` of them and all below `end`; and those of the tile after it.
struct TileSlots {
    std::int64_t sequence, head;
    PanelSlots here, next;
    std::int64_t end;
    std::int32_t slots;

    /// Of the tile's slot t; past the last one it repeats, so that every place may be read.
    std::int64_t slot(std::int32_t t) const { return here.slot(t < slots ? t : slots - 1); }
    bool more() const { return next.first < end; }
};

inline const std::uint8_t *bytes_at(const View &view, std::int64_t element) {
    return static_cast<const std::uint8_t *>(view.data) + element * dtype_bytes(view.dtype);
}

inline void find_rows(const KvCacheView &cache, const View &pool, const TileSlots &at, TileSource &source) {
    const std::int32_t *table = cache.table_row(at.sequence, at.head);
    const std::int64_t step = pool.stride[2] * dtype_bytes(pool.dtype);
    std::int32_t t = 0;
    for (std::int32_t panel = 0; t < at.slots; ++panel) {
        const std::int32_t end = at.slots < t + kPanel ? at.slots : t + kPanel;
        const std::int64_t slot = at.here.slot(kPanel * panel);
        std::int64_t page = slot / cache.page_size;
        for (std::int64_t in_page = slot - page * cache.page_size; t < end; ++page, in_page = 0) {
            const std::uint8_t *row = bytes_at(pool, cache.row(pool, table[page], at.head, in_page));
            for (; t < end && in_page < cache.page_size; ++t, ++in_page, row += step) source.rows[t] = row;
        }
    }
    for (; t < kTile; ++t) source.rows[t] = source.rows[t - 1];
    source.row_step = step;
}

/// Pages of the panels of a tile, and where each begins in its page. Past the last slot its panel repeats, so that every place may be read.
struct PanelPlaces {
    std::int64_t page[kPanels];
    std::int32_t slot[kPanels];
};

inline PanelPlaces find_places(const KvCacheView &cache, const TileSlots &at, const PanelSlots &panels) {
    const std::int32_t *table = cache.table_row(at.sequence, at.head);
    std::int64_t entry = panels.first / cache.page_size;
    std::int64_t slot = panels.first - entry * cache.page_size;
    PanelPlaces places;
    for (std::int32_t i = 0; i < kPanels; ++i) {
        if (i != 0 && panels.slot(kPanel * i) < at.end) {
            for (slot += panels.step; slot >= cache.page_size; slot -= cache.page_size) ++entry;
        }
        places.page[i] = table[entry];
        places.slot[i] = static_cast<std::int32_t>(slot);
    }
    return places;
}

inline void find_panels(const KvCacheView &cache, const View &pool, std::int64_t head, const PanelPlaces &places, TileSource &source) {
    const std::int64_t slot_bytes = cache.layout == STRATA_KV_SWIZZLED ? 0
                                    : cache.layout == STRATA_KV_ROWS   ? pool.stride[2] * dtype_bytes(pool.dtype)
                                                                       : pool.shape[3] * dtype_bytes(pool.dtype);
    for (std::int32_t i = 0; i < kPanels; ++i) {
        source.next_panels[i] = bytes_at(pool, cache.row(pool, places.page[i], head, 0)) + places.slot[i] * slot_bytes;
        source.next_first_slot[i] = places.slot[i];
    }
}

/// Pointers to the scales of each panel. In rows of token-scaled codes a panel may cross pages, so there each slot is looked up (token_scale).
inline void find_scales(const KvCacheView &cache, const View &scales, std::int64_t head, const PanelPlaces &places, bool keys, TileSource &source) {
    const bool key_blocks = keys && kv_block_scaled(cache.key_format);
    const std::int64_t step = !kv_block_scaled(source.format) || keys ? scales.stride[2] : 1; // from slot to slot, or from block to block of keys
    for (std::int32_t i = 0; i < kPanels; ++i) {
        const std::int64_t at = key_blocks ? places.slot[i] / kKvBlock : places.slot[i];
        source.next_scales[i] = reinterpret_cast<const std::uint16_t *>(bytes_at(scales, cache.row(scales, places.page[i], head, 0) + at * step));
    }
}

/// The scale of slot t of a tile in rows of token-scaled codes.
inline std::uint16_t token_scale(const KvCacheView &cache, const View &scales, const TileSlots &at, std::int32_t t) {
    const std::int64_t slot = at.slot(t);
    const std::int64_t page = slot / cache.page_size;
    const std::int64_t element = cache.row(scales, cache.table_row(at.sequence, at.head)[page], at.head, slot - page * cache.page_size);
    return *reinterpret_cast<const std::uint16_t *>(bytes_at(scales, element));
}

/// What was the next tile is the one at hand.
inline void move_on(TileSource &source) {
    std::memcpy(source.panels, source.next_panels, sizeof source.panels);
    std::memcpy(source.first_slot, source.next_first_slot, sizeof source.first_slot);
    std::memcpy(source.scales, source.next_scales, sizeof source.scales);
}

/// The pool's part of find_tile: places of this tile, unless they are known as those of the tile before, and of the next, if there is one.
inline void find_pool(const KvCacheView &cache, bool keys, const TileSlots &at, const PanelPlaces *here, const PanelPlaces *next,
                      std::uint16_t *row_scales, TileSource &source) {
    const View &pool = keys ? cache.keys : cache.values;
    const View &scales = keys ? cache.key_scales : cache.value_scales;
    source.format = keys ? cache.key_format : cache.value_format;
    source.layout = cache.layout;
    source.dtype = pool.dtype;
    source.page_size = cache.page_size;
    const bool rows = cache.layout == STRATA_KV_ROWS;
    const bool scaled = source.format != STRATA_KV_PLAIN;
    const auto find = [&](const PanelPlaces &places) {
        find_panels(cache, pool, at.head, places, source);
        if (scaled && !rows) find_scales(cache, scales, at.head, places, keys, source);
    };
    if (here != nullptr) find(*here);
    move_on(source);
    if (next != nullptr) find(*next);
    if (scaled) source.scale_step = rows ? 1 : scales.stride[2];
    if (!rows) return;
    find_rows(cache, pool, at, source);
    if (!scaled) return;
    for (std::int32_t t = 0; t < kTile; ++t) row_scales[t] = token_scale(cache, scales, at, t);
    for (std::int32_t i = 0; i < kPanels; ++i) source.scales[i] = row_scales + kPanel * i;
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
        source.rows[t] = bytes_at(cache.key_tail, base + at.slot(t) % kKvBlock * cache.key_tail.stride[1]);
    }
}

/// Fills tile.keys and tile.values. row_scales: 2 kTile numbers that live as long as the tile.
inline void find_tile(const KvCacheView &cache, const TileSlots &at, std::uint16_t *row_scales, Tile &tile) {
    const bool known = tile.found == at.here;
    const PanelPlaces here = known ? PanelPlaces{} : find_places(cache, at, at.here);
    const PanelPlaces next = at.more() ? find_places(cache, at, at.next) : PanelPlaces{};
    const auto pool = [&](bool keys, std::uint16_t *own_scales, TileSource &source) {
        find_pool(cache, keys, at, known ? nullptr : &here, at.more() ? &next : nullptr, own_scales, source);
    };
    pool(true, row_scales, tile.keys);
    pool(false, row_scales + kTile, tile.values);
    if (kv_block_scaled(cache.key_format) && at.here.first >= cache.paged_keys(cache.length(at.sequence, at.head))) find_tail(cache, at, tile.keys);
    tile.found = at.more() ? at.next : PanelSlots{-1};
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
