// SPDX-License-Identifier: Apache-2.0
// Operands of kv_attention's bf16 products on the CPU: two neighbours in a 4-byte word, as dot products of bf16 take them. A tiled bf16 page is such
// an operand where it lies; rows and swizzled pages are packed. Included by kv_attention_cpu.cpp alone.
//
//   keys     panel i  [channel pairs][16 slots][2]        queries  [1 or 2 parts][kBlockRows][depth]
//   values   panel i  [8 slot pairs][width][2]            weights  [kBlockRows][kTile]
//
// Queries are not scaled, so that bf16 ones keep every bit; the scores are. A finer query is the sum of two parts. Weights are rounded after their
// sum was taken in fp32.
#pragma once

#include "ops/kv_attention/kv_attention_wide.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

/// Whether rounding to bf16 loses no more than the cache's own type has lost.
inline bool holds_pairs(const KvCacheView &cache) {
    return cache.plain() && cache.keys.dtype == STRATA_DTYPE_BF16 && cache.values.dtype == STRATA_DTYPE_BF16;
}

/// Query row r, which has no scale yet, from tile.q.
inline void pack_query(const Tile &tile, std::int32_t r) {
    const float *row = tile.q + r * tile.width;
    for (std::int64_t d = 0; d < tile.depth; d += 32) {
        std::uint16_t *to = tile.query_pairs + r * tile.depth + d;
        F32x16 first = F32x16::load(row + d);
        F32x16 second = d + 16 < tile.width ? F32x16::load(row + d + 16) : F32x16::zero();
        for (std::int32_t part = 0; part < tile.query_parts; ++part, to += kBlockRows * tile.depth) {
            narrow(first, second).store(to);
            first = first - F32x16::load_bf16(to);
            second = second - F32x16::load_bf16(to + 16);
        }
    }
}

/// Query row r, whose head_dim numbers are bf16 already.
inline void place_query(const Tile &tile, std::int32_t r, const std::uint16_t *row) {
    std::uint16_t *to = tile.query_pairs + r * tile.depth;
    std::memcpy(to, row, static_cast<std::size_t>(tile.head_dim) * sizeof *to);
    std::memset(to + tile.head_dim, 0, static_cast<std::size_t>(tile.depth - tile.head_dim) * sizeof *to);
}

/// Weights of every row, from tile.s.
inline void pack_weights(const Tile &tile) {
    for (std::int32_t r = 0; r < tile.rows; ++r) {
        const float *p = tile.s + r * kTile;
        if (tile.seen[r] == 0) { // the softmax left scores there
            std::memset(tile.weight_pairs + r * kTile, 0, kTile * 2);
            continue;
        }
        for (std::int32_t t = 0; t < tile.slots; t += 32) {
            const F32x16 high = t + 16 < tile.slots ? F32x16::load(p + t + 16) : F32x16::zero();
            narrow(F32x16::load(p + t), high).store(tile.weight_pairs + r * kTile + t);
        }
    }
}

/// Numbers of channels [d, d + count) of slot t of a panel of rows or of a swizzled page: where they lie or, copied, in `copy`; zeros past head_dim.
template <std::size_t Count>
inline const std::uint16_t *find_numbers(const Tile &tile, const TileSource &source, std::int32_t panel, std::int32_t t, std::int32_t d,
                                         std::uint16_t (&copy)[Count]) {
    if (source.layout == STRATA_KV_SWIZZLED) {
        for (std::size_t i = 0; i < Count; i += 8) std::memcpy(copy + i, swizzled_chunk(source, panel, t, d + static_cast<std::int32_t>(i)), 16);
        return copy;
    }
    const auto *row = static_cast<const std::uint16_t *>(source.rows[kPanel * panel + t]) + d;
    const std::int32_t left = tile.head_dim - d;
    if (left >= static_cast<std::int32_t>(Count)) return row;
    std::memset(copy, 0, sizeof copy);
    std::memcpy(copy, row, static_cast<std::size_t>(left) * 2);
    return copy;
}

/// A panel of a tiled page where it lies.
inline const std::uint16_t *tiled_panel(const TileSource &source, std::int32_t panel) {
    return reinterpret_cast<const std::uint16_t *>(source.panels[panel]);
}

/// Packs the keys of a panel, [depth / 2][16 slots][2]. Slots past the tile's hold anything: their scores are hidden.
inline void pack_key_panel(const Tile &tile, std::int32_t panel, std::uint16_t *to) {
    if (tile.keys.layout == STRATA_KV_TILED) {
        const std::int64_t numbers = std::int64_t{tile.head_dim} * kPanel;
        std::memcpy(to, tiled_panel(tile.keys, panel), static_cast<std::size_t>(numbers) * 2);
        std::memset(to + numbers, 0, static_cast<std::size_t>(tile.depth * kPanel - numbers) * 2);
        return;
    }
    for (std::int32_t d = 0; d < tile.head_dim; d += 32) {
        alignas(64) std::uint16_t copy[32];
        F32x16 words[16];
        for (int t = 0; t < kPanel; ++t) words[t] = as_words(Bf16x32::load(find_numbers(tile, tile.keys, panel, t, d, copy)));
        transpose(words);
        for (int i = 0; i < 16; ++i) as_pairs(words[i]).store(to + (d / 2 + i) * 2 * kPanel);
    }
}

/// Packs the values of a panel, [8][width][2]. Slots past the tile's are zeros: a weight of zero would not make them harmless.
inline void pack_value_panel(const Tile &tile, std::int32_t panel, std::uint16_t *to) {
    const std::int64_t pair_row = 2 * tile.width;
    const std::int32_t left = tile.slots - kPanel * panel;
    const std::int32_t slots = left < 0 ? 0 : left < kPanel ? left : kPanel;
    if (tile.values.layout == STRATA_KV_TILED) {
        const std::uint16_t *from = tiled_panel(tile.values, panel);
        std::memcpy(to, from, static_cast<std::size_t>((slots + 1) / 2 * pair_row) * 2);
        for (std::int64_t i = slots / 2 * pair_row; slots % 2 != 0 && i < (slots + 1) / 2 * pair_row; i += 2) to[i + 1] = 0;
    } else {
        for (std::int32_t t = 0; t < slots; t += 2) {
            for (std::int32_t d = 0; d < tile.head_dim; d += 16) {
                alignas(64) std::uint16_t even[16];
                alignas(64) std::uint16_t odd[16] = {};
                const std::uint16_t *p = find_numbers(tile, tile.values, panel, t, d, even);
                const std::uint16_t *q = t + 1 < slots ? find_numbers(tile, tile.values, panel, t + 1, d, odd) : odd;
                Bf16x32::zip(p, q).store(to + t / 2 * pair_row + 2 * d);
            }
        }
    }
    std::memset(to + (slots + 1) / 2 * pair_row, 0, static_cast<std::size_t>((kPanel - slots) / 2 * pair_row) * 2);
}

/// K of the tile as key_panels. Channels come in whole runs of `step`.
inline void place_keys(Tile &tile, std::int32_t step) {
    auto *packed = reinterpret_cast<std::uint16_t *>(tile.wide_keys);
    const bool in_place = tile.keys.layout == STRATA_KV_TILED && tile.head_dim % step == 0;
    for (std::int32_t panel = 0; panel < kPanels; ++panel) {
        if (kPanel * panel >= tile.slots) { // nobody sees it, but it may be read
            tile.key_panels[panel] = tile.key_panels[panel - 1];
            continue;
        }
        std::uint16_t *to = packed + panel * tile.depth * kPanel;
        if (!in_place) pack_key_panel(tile, panel, to);
        tile.key_panels[panel] = in_place ? tiled_panel(tile.keys, panel) : to;
    }
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
