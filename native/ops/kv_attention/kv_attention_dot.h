// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU for many rows over bf16 caches, and for few at the edges of tiled pages, where the processor multiplies pairs of bf16 at
// twice the rate of fp32: both products are dot products of pairs. Prefill. Included by kv_attention_cpu.cpp alone.
//
//   scores   lanes are 16 slots:     sum over channel pairs of K word x broadcast pair of q          6 rows x 4 panels of sums
//   values   lanes are 16 channels:  sum over slot pairs of V word x broadcast pair of weights       6 rows x 4 vectors of sums
//
// Slot pairs that every row of a register block sees are multiplied as pairs, other slots one by one in fp32 for the rows that see them.
#pragma once

#include "ops/kv_attention/kv_attention_pairs.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

template <int Rows, int Columns, int Parts>
inline void dot_keys(const Tile &tile, std::int32_t row, std::int32_t panel) {
    const std::int32_t channel_pairs = (tile.head_dim + 1) / 2;
    const std::int64_t part_step = kBlockRows * tile.depth;
    const std::uint16_t *q = tile.query_pairs + row * tile.depth;
    const std::uint16_t *keys[std::size_t{Columns}];
    UNROLLED for (int i = 0; i < Columns; ++i) keys[i] = tile.key_panels[panel + i];
    Sums<Rows, Columns> c;
    c.clear();
    for (std::int32_t j = 0; j < channel_pairs; ++j, q += 2) {
        Bf16x32 operand[std::size_t{Columns}];
        UNROLLED for (int i = 0; i < Columns; ++i) operand[i] = Bf16x32::load(keys[i] + 2 * kPanel * j);
        UNROLLED for (int part = 0; part < Parts; ++part) {
            UNROLLED for (int r = 0; r < Rows; ++r) {
                const Bf16x32 factor = Bf16x32::set_pair(q + part * part_step + r * tile.depth);
                UNROLLED for (int i = 0; i < Columns; ++i) c.v[r][i] = dot(c.v[r][i], operand[i], factor);
            }
        }
    }
    const F32x16 scale = F32x16::set(tile.scale);
    float *s = tile.s + row * kTile + kPanel * panel;
    UNROLLED for (int r = 0; r < Rows; ++r) { UNROLLED for (int i = 0; i < Columns; ++i)(c.v[r][i] * scale).store(s + r * kTile + kPanel * i); }
}

/// s = scale q K^T for the panels that a row of the block sees: near the causal edge not all of them.
template <int Parts>
inline void score_parts(Tile &tile) {
    for_row_blocks(tile, [&](auto count, std::int32_t row) {
        const std::uint64_t seen = seen_by_any(tile, row, count());
        if (seen == 0) return;
        std::int32_t panel = std::countr_zero(seen) / kPanel;
        std::int32_t left = (static_cast<std::int32_t>(std::bit_width(seen)) + kPanel - 1) / kPanel - panel;
        for (; left >= 4; left -= 4, panel += 4) dot_keys<count(), 4, Parts>(tile, row, panel);
        for (; left >= 2; left -= 2, panel += 2) dot_keys<count(), 2, Parts>(tile, row, panel);
        if (left > 0) dot_keys<count(), 1, Parts>(tile, row, panel);
    });
}

inline void score_dot(Tile &tile) {
    place_keys(tile, 2);
    if (tile.query_parts == 1) return score_parts<1>(tile);
    score_parts<2>(tile);
}

/// o += weights V for some rows and columns.
template <int Rows, int Columns>
inline void dot_values(const Tile &tile, std::int32_t row, std::int64_t first) {
    const std::uint16_t *weights = tile.weight_pairs + row * kTile;
    const auto words = [&](std::int32_t pair, int i) {
        return Bf16x32::load(tile.value_panels[pair / 8] + ((pair & 7) * tile.width + 16 * (first + i)) * 2);
    };
    const std::uint64_t any = seen_by_any(tile, row, Rows);
    if (any == 0) return;
    std::uint64_t common = tile.seen[row];
    for (int r = 1; r < Rows; ++r) common &= tile.seen[row + r];
    // The first run of what all see, in whole pairs.
    const std::int32_t low = common == 0 ? 0 : (std::countr_zero(common) + 1) / 2;
    const std::int32_t high = common == 0 || low == kTile / 2 ? low : (2 * low + std::countr_one(common >> (2 * low))) / 2;
    const std::uint64_t rest = any & ~bit_run(2 * low, 2 * high);
    Sums<Rows, Columns> c;
    c.clear();
    for (std::int32_t pair = low; pair < high; ++pair) {
        Bf16x32 operand[std::size_t{Columns}];
        UNROLLED for (int i = 0; i < Columns; ++i) operand[i] = words(pair, i);
        UNROLLED for (int r = 0; r < Rows; ++r) {
            const Bf16x32 factor = Bf16x32::set_pair(weights + r * kTile + 2 * pair);
            UNROLLED for (int i = 0; i < Columns; ++i) c.v[r][i] = dot(c.v[r][i], operand[i], factor);
        }
    }
    if (rest == 0) return join(tile, row, first, c);
    join_with(
        tile, row, first, c, rest, [&](int r, std::int32_t t) { return bf16_to_f32(weights[r * kTile + t]); },
        [&](std::int32_t t, int i) {
            const Bf16x32 operand = words(t / 2, i);
            return t % 2 == 0 ? even_as_f32(operand) : odd_as_f32(operand);
        });
}

inline void weigh_dot(Tile &tile) {
    pack_weights(tile);
    auto *packed = reinterpret_cast<std::uint16_t *>(tile.wide_values);
    for (std::int32_t panel = 0; kPanel * panel < tile.slots; ++panel) {
        const bool in_place = tile.values.layout == STRATA_KV_TILED;
        std::uint16_t *to = packed + panel * tile.width * kPanel;
        if (!in_place) pack_value_panel(tile, panel, to);
        tile.value_panels[panel] = in_place ? tiled_panel(tile.values, panel) : to;
    }
    const std::int64_t vectors = tile.width / 16;
    std::int64_t v = 0;
    for (; v + 4 <= vectors; v += 4) {
        for_row_blocks(tile, [&](auto count, std::int32_t row) { dot_values<count(), 4>(tile, row, v); });
    }
    for (; v + 2 <= vectors; v += 2) {
        for_row_blocks(tile, [&](auto count, std::int32_t row) { dot_values<count(), 2>(tile, row, v); });
    }
    if (v < vectors) {
        for_row_blocks(tile, [&](auto count, std::int32_t row) { dot_values<count(), 1>(tile, row, v); });
    }
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
