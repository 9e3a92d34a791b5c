// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU for many rows over bf16 caches with a tile unit: blocks of 32 query rows against 64 slots. Prefill. Included by
// kv_attention_cpu.cpp alone.
//
//   scores   C 2 x 2 tiles = 32 rows x 32 slots       A = queries [row][depth]       B = a panel of keys, 16 channel pairs of it
//   values   C 2 x 2 tiles = 32 rows x 32 channels    A = weights [row][64 slots]    B = 16 slot pairs, two panels of values
//
//            block      | n - 1               | n                   | n + 1
//            tiles      | scores(n-1)  values | scores(n)    values | scores(n+1)
//            vectors    |                     | softmax(n-1)        | softmax(n)         rows spread between the tile products of scores
//
// Blocks whose 64 slots every row sees go through that pipeline. A row's exponentials there are taken against a reference that only moves when a
// score exceeds it by 6 ln 2: until then nothing has to be rescaled, and the quotient is the same. Tiles at an edge are taken one step at a time.
#pragma once

#include "ops/kv_attention/kv_attention_pairs.h"
#include "ops/kv_attention/kv_attention_softmax.h"
#include "simd/tiles.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int32_t kTileRows = 32; // rows of a block
static_assert(kBlockRows % kTileRows == 0 && kBlockRows >= 2 * kTileRows && kTile == 64);

/// Loading zeros costs a third of what clearing a tile does.
alignas(64) constexpr float kZeroTile[256] = {};

/// The tile state of a worker thread for one item, and the block that waits for its softmax and values.
struct TileUnit {
    Tiles tiles;
    std::int32_t steps = 0;    // blocks that went through the pipeline
    std::int32_t pending = -1; // first row of the block whose scores are ready
};

/// 32 rows of scores from `row` on, not scaled yet, to s. between(done, all) is called after each of `all` steps.
template <class Between>
inline void score_block(Tiles &tiles, const Tile &tile, std::int32_t row, float *s, std::uint64_t seen, Between &&between) {
    const std::int64_t query_stride = tile.depth * 2;
    const std::int64_t steps = tile.depth / 32;
    const std::int64_t all = 2 * tile.query_parts * steps;
    std::int64_t done = 0;
    for (std::int32_t panel = 0; panel < kPanels; panel += 2) {
        if ((seen >> (kPanel * panel) & 0xffffffffU) == 0) continue;
        tiles.load<0>(kZeroTile, 64);
        tiles.load<1>(kZeroTile, 64);
        tiles.load<2>(kZeroTile, 64);
        tiles.load<3>(kZeroTile, 64);
        for (std::int32_t part = 0; part < tile.query_parts; ++part) {
            const std::uint16_t *upper = tile.query_pairs + (part * kBlockRows + row) * tile.depth;
            const std::uint16_t *lower = upper + 16 * tile.depth;
            for (std::int64_t step = 0; step < steps; ++step) {
                tiles.load<4>(upper + 32 * step, query_stride);
                tiles.load<6>(tile.key_panels[panel] + 512 * step, 64);
                tiles.dot<0, 4, 6>();
                tiles.load<7>(tile.key_panels[panel + 1] + 512 * step, 64);
                tiles.dot<1, 4, 7>();
                tiles.load<5>(lower + 32 * step, query_stride);
                tiles.dot<2, 5, 6>();
                tiles.dot<3, 5, 7>();
                between(++done, all);
            }
        }
        float *to = s + kPanel * panel;
        tiles.store<0>(to, kTile * 4);
        tiles.store<1>(to + 16, kTile * 4);
        tiles.store<2>(to + 16 * kTile, kTile * 4);
        tiles.store<3>(to + 16 * kTile + 16, kTile * 4);
    }
}

/// o += weights V for 32 rows from `row` on; `halves` of 32 slots.
inline void weigh_block(Tiles &tiles, const Tile &tile, std::int32_t row, const std::uint16_t *weights, std::int32_t halves) {
    const std::int64_t o_stride = tile.width * 4;
    float *upper = tile.o + row * tile.width;
    float *lower = upper + 16 * tile.width;
    std::int64_t d = 0;
    for (; d + 32 <= tile.width; d += 32) {
        if (d == 0) {
            tiles.load<0>(upper, o_stride);
            tiles.load<1>(lower, o_stride);
            tiles.load<2>(upper + 16, o_stride);
            tiles.load<3>(lower + 16, o_stride);
        } else { // store, load, one tile at a time: four stores in a row would stall the loads behind them
            tiles.store<0>(upper + d - 32, o_stride);
            tiles.load<0>(upper + d, o_stride);
            tiles.store<1>(lower + d - 32, o_stride);
            tiles.load<1>(lower + d, o_stride);
            tiles.store<2>(upper + d - 16, o_stride);
            tiles.load<2>(upper + d + 16, o_stride);
            tiles.store<3>(lower + d - 16, o_stride);
            tiles.load<3>(lower + d + 16, o_stride);
        }
        for (std::int32_t half = 0; half < halves; ++half) {
            const std::uint16_t *values = tile.value_panels[2 * half] + 2 * d;
            tiles.load<6>(values, 4 * tile.width);
            tiles.load<4>(weights + 32 * half, kTile * 2);
            tiles.dot<0, 4, 6>();
            tiles.load<5>(weights + 16 * kTile + 32 * half, kTile * 2);
            tiles.dot<1, 5, 6>();
            tiles.load<7>(values + 32, 4 * tile.width);
            tiles.dot<2, 4, 7>();
            tiles.dot<3, 5, 7>();
        }
    }
    if (d > 0) {
        tiles.store<0>(upper + d - 32, o_stride);
        tiles.store<1>(lower + d - 32, o_stride);
        tiles.store<2>(upper + d - 16, o_stride);
        tiles.store<3>(lower + d - 16, o_stride);
    }
    if (d == tile.width) return;
    tiles.load<0>(upper + d, o_stride);
    tiles.load<1>(lower + d, o_stride);
    for (std::int32_t half = 0; half < halves; ++half) {
        tiles.load<6>(tile.value_panels[2 * half] + 2 * d, 4 * tile.width);
        tiles.load<4>(weights + 32 * half, kTile * 2);
        tiles.dot<0, 4, 6>();
        tiles.load<5>(weights + 16 * kTile + 32 * half, kTile * 2);
        tiles.dot<1, 5, 6>();
    }
    tiles.store<0>(upper + d, o_stride);
    tiles.store<1>(lower + d, o_stride);
}

/// V of the tile as value_panels, two panels in one run: where they lie if they are whole and follow each other in a page, else packed.
inline void place_value_runs(Tile &tile) {
    for (std::int32_t panel = 0; kPanel * panel < tile.slots; panel += 2) {
        const bool whole = tile.values.layout == STRATA_KV_TILED && tile.slots - kPanel * panel >= 2 * kPanel;
        const std::uint16_t *first = whole ? tiled_panel(tile.values, panel) : nullptr;
        if (whole && tiled_panel(tile.values, panel + 1) == first + kPanel * tile.width) {
            tile.value_panels[panel] = first;
            continue;
        }
        std::uint16_t *to = reinterpret_cast<std::uint16_t *>(tile.wide_values) + panel * tile.width * kPanel;
        pack_value_panel(tile, panel, to);
        pack_value_panel(tile, panel + 1, to + tile.width * kPanel);
        tile.value_panels[panel] = to;
    }
}

// ---- one tile at a time --------------------------------------------------------------------------------------------

inline void score_amx(Tile &tile) {
    place_keys(tile, 32);
    const F32x16 scale = F32x16::set(tile.scale);
    for (std::int32_t row = 0; row < tile.rows; row += kTileRows) {
        const std::int32_t end = row + kTileRows < tile.rows ? row + kTileRows : tile.rows;
        score_block(tile.unit->tiles, tile, row, tile.s + row * kTile, seen_by_any(tile, row, end - row), [](std::int64_t, std::int64_t) {});
        for (float *s = tile.s + row * kTile; s < tile.s + end * kTile; s += 16) (F32x16::load(s) * scale).store(s);
    }
}

/// Whether the values of slots that some row does not see are finite: only then a weight of zero hides them.
inline bool hides_unseen_values(const Tile &tile) {
    F32x16 none = F32x16::zero();
    for (std::int32_t pair = 0; 2 * pair < tile.slots; ++pair) {
        if ((tile.seen_by_all >> (2 * pair) & 3) == 3) continue;
        const std::uint16_t *numbers = tile.value_panels[pair / 16 * 2] + (pair % 16) * 2 * tile.width;
        for (std::int64_t d = 0; d < tile.width; d += 16) {
            const Bf16x32 words = Bf16x32::load(numbers + 2 * d);
            none = none + (even_as_f32(words) - even_as_f32(words)) + (odd_as_f32(words) - odd_as_f32(words));
        }
    }
    return !any_nan(none);
}

inline void weigh_amx(Tile &tile) {
    place_value_runs(tile);
    if (!hides_unseen_values(tile)) {
        widen_values(tile);
        weigh_values(tile);
        return;
    }
    pack_weights(tile);
    for (std::int32_t row = 0; row < tile.rows; row += kTileRows) {
        weigh_block(tile.unit->tiles, tile, row, tile.weight_pairs + row * kTile, (tile.slots + 31) / 32);
    }
}

// ---- the pipeline --------------------------------------------------------------------------------------------------

/// Row r's scores s of 64 slots to weights.
inline void weigh_scores(Tile &tile, std::int32_t r, const float *s, std::uint16_t *weights) {
    constexpr float kSlack = 4.1588831F; // 6 ln 2
    const F32x16 scale = F32x16::set(tile.scale);
    F32x16 x[kPanels];
    for (int i = 0; i < kPanels; ++i) x[i] = F32x16::load(s + 16 * i) * scale;
    const F32x16 highest = max(max(x[0], x[1]), max(x[2], x[3]));
    if (any_greater(highest, F32x16::set(tile.max[r] + kSlack))) move_reference(tile, r, reduce_max(highest));
    const F32x16 reference = F32x16::set(tile.max[r] == -__builtin_inff() ? 0.0F : tile.max[r]);
    for (int i = 0; i < kPanels; ++i) x[i] = exp_of_weight(x[i] - reference);
    float *lanes = tile.lane_sums[r];
    (F32x16::load(lanes) + ((x[0] + x[1]) + (x[2] + x[3]))).store(lanes);
    narrow(x[0], x[1]).store(weights);
    narrow(x[2], x[3]).store(weights + 32);
}

/// The rows of the pending block, from `next` up to `end`.
inline void weigh_pending_scores(Tile &tile, std::int32_t &next, std::int64_t end) {
    const TileUnit &unit = *tile.unit;
    const float *s = tile.s + (unit.steps - 1) % 2 * kTileRows * kTile;
    for (; next < end && unit.pending + next < tile.rows; ++next) {
        weigh_scores(tile, unit.pending + next, s + next * kTile, tile.weight_pairs + next * kTile);
    }
}

/// Softmax and values of the pending block: tile.o, max and sums are those of all slots so far.
inline void drain_pipeline(Tile &tile) {
    TileUnit &unit = *tile.unit;
    if (unit.pending < 0) return;
    std::int32_t next = 0;
    weigh_pending_scores(tile, next, kTileRows);
    weigh_block(unit.tiles, tile, unit.pending, tile.weight_pairs, 2);
    unit.pending = -1;
}

/// Scores of the tile; softmax and values of all its blocks but the last, which waits for the next tile.
inline void advance_pipeline(Tile &tile) {
    TileUnit &unit = *tile.unit;
    place_keys(tile, 32);
    for (std::int32_t row = 0; row < tile.rows; row += kTileRows) {
        std::int32_t next = 0;
        score_block(unit.tiles, tile, row, tile.s + unit.steps % 2 * kTileRows * kTile, tile.seen_by_all, [&](std::int64_t done, std::int64_t all) {
            if (unit.pending >= 0) weigh_pending_scores(tile, next, done * kTileRows / all);
        });
        if (unit.pending >= 0) weigh_block(unit.tiles, tile, unit.pending, tile.weight_pairs, 2);
        if (row == 0) place_value_runs(tile); // only now: a packed tile takes the place of the one before
        unit.pending = row;
        ++unit.steps;
    }
}

/// body() with the tile unit set up, where the rows at hand use it: few rows leave most of a tile empty.
template <class Body>
inline void with_tile_unit(Tile &tile, Body &&body) {
    if constexpr (kTileProducts) {
        if (tile.pairs && tile.rows > kFewRows) {
            TileUnit unit;
            tile.unit = &unit;
            body();
            tile.unit = nullptr;
            return;
        }
    }
    body();
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
