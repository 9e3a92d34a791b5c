// SPDX-License-Identifier: Apache-2.0
// One tile of kv_attention on the CPU: up to 48 query rows against up to 64 slots, and where its K and V lie.
// Included by kv_attention_cpu.cpp alone.
//
//   scores   s[r][t]  = sum_d q[r][d] k[t][d]             q holds scale * q, so s is ready for the softmax
//   softmax  p[r][t]  = exp(s[r][t] - max[r]) for the slots that row r sees, in place; where max[r] moves, o[r] and its sum do too
//   values   o[r][d] += sum_t p[r][t] v[t][d]
//
// A tile's sum starts at zero and joins o once: a single running sum over a long context would lose fp32's last digits.
//
// Ways through the same three steps, chosen by rows, layout and type:
//   kv_attention_rows.h    few rows, rows of floats: lanes run along d, each element widened once. Decode.
//   kv_attention_tiled.h   few rows, tiled pages of any format: lanes run along slots for K and channels for V. Decode.
//   kv_attention_amx.h     many rows, bf16 caches: both products in a tile unit, the softmax beside them. Prefill where there is one.
//   kv_attention_dot.h     many rows, bf16 caches: both products are dot products of bf16 pairs. Prefill where the processor has a fast one.
//   kv_attention_wide.h    everything: K and V widened to fp32 scratch, then register-blocked products. Prefill, edges.
#pragma once

#include "core/kv_cache.h"
#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

// Unrolls before the compiler looks for what fits registers: indices must be constants by then.
#define UNROLLED _Pragma("GCC unroll 8")

constexpr std::int32_t kTile = 64;  // slots: the tile of K and V stays in the second-level cache for every type and width
constexpr std::int32_t kPanel = 16; // slots of a panel: the lanes of a vector
constexpr std::int32_t kPanels = kTile / kPanel;
constexpr std::int32_t kRun = kPanels * kTile; // slots that four tiles may take in turn, see PanelSlots
constexpr std::int32_t kBlockRows = 96;        // query rows that share the widening of a tile
constexpr std::int32_t kMostChannels = 512;
constexpr std::int32_t kFewRows = 8; // at most: decode, whose tiles are read once and bound by memory
static_assert(kBlockRows % 16 == 0 && kTile % kPanel == 0 && kTile % kKvBlock == 0);

/// Which slots a tile's panels take: panel i those from first + i step. Where a few rows see all of the next kRun slots, four tiles take a panel of
/// each kTile of them in turn, so that a stream of memory runs on through a page (kv_attention_tiled.h):
///
///   one after the other   tile 0   0-15  16-31   32-47   48-63        in turn   tile 0   0-15  64-79  128-143  192-207
///                         tile 1  64-79  80-95 ...                              tile 1  16-31  80-95 ...
struct PanelSlots {
    std::int64_t first = 0;
    std::int64_t step = kPanel;

    bool in_turn() const { return step != kPanel; }
    std::int64_t slot(std::int32_t t) const { return first + t / kPanel * step + t % kPanel; }
    bool operator==(const PanelSlots &) const = default;
};

/// Where the keys or the values of a tile lie. Tiles of layouts other than rows begin at a multiple of 16 slots (32 for block keys), so that a panel
/// never leaves its page.
struct TileSource {
    std::int32_t format; // strata_kv_format
    std::int32_t layout; // strata_kv_layout; a key tail is rows
    std::int32_t dtype;  // of the stored numbers
    std::int32_t page_size;
    // Rows: one pointer a slot; past the last slot it repeats, so that every pointer may be read.
    const void *rows[kTile];
    std::int64_t row_step; // bytes from row to row within a page
    // Where panel i begins; swizzled: where the block of its page does, and the panel's first slot in that page.
    const std::uint8_t *panels[kPanels];
    std::int32_t first_slot[kPanels];
    // Scales. Per token: 16 numbers a panel (rows: with any step between slots). Block keys: d scales and d zeros. Block values: see scale_step.
    const std::uint16_t *scales[kPanels];
    std::int64_t scale_step; // token scales: from slot to slot; block values: from one row [page_size] to the next
    // The same places of the next tile, to ask for them early; this tile's if it is the last.
    const std::uint8_t *next_panels[kPanels];
    std::int32_t next_first_slot[kPanels];
    const std::uint16_t *next_scales[kPanels];
};

/// What turns sums of whole factors and codes into numbers: sum * step + addend, a row and group of scales each (kv_attention_words.h).
struct FoldedSums {
    alignas(64) float steps[16]; // powers of two; NaN where a number is not finite
    alignas(64) float addends[16];
};

/// The query rows of one pass with the scales of the block keys that lie at `scales` folded in, their factors in Tile::factors.
struct FoldedKeys {
    FoldedSums sums;
    const std::uint16_t *scales[kTile / kKvBlock];
};

struct TileUnit; // kv_attention_amx.h

/// Scratch of one worker, and the tile at hand.
struct Tile {
    float *q;           // [kBlockRows][width]
    float *o;           // [kBlockRows][width]
    float *s;           // [kBlockRows][kTile]
    float *wide_keys;   // [kPanels][width][16]; see kv_attention_wide.h
    float *wide_values; // [width / 16][kTile][16]
    std::int64_t width; // head_dim rounded up to whole vectors
    // Products in bf16, see kv_attention_pairs.h.
    bool pairs;                  // whether the rows at hand take them
    TileUnit *unit = nullptr;    // set while they do so in tiles
    std::int32_t query_parts;    // bf16 numbers whose sum is a query's number: 1, or 2 for finer queries
    std::int64_t depth;          // head_dim rounded up to 32
    float scale;                 // of the scores; q holds it already, query_pairs do not
    std::uint16_t *query_pairs;  // [query_parts][kBlockRows][depth]
    std::uint16_t *weight_pairs; // [kBlockRows][kTile]
    // Queries of few rows as kv_attention_tiled.h multiplies them.
    float *factors;              // [kFewRows][kMostChannels] floats, or twice as many numbers of 16 bits
    float factor_step[kFewRows]; // what a row of whole numbers counts
    float *padded_q;             // [kFewRows][kMostChannels]: q, zeros past head_dim
    FoldedKeys folded_keys[2];   // of each pass over rows
    const std::uint16_t *key_panels[kPanels];
    const std::uint16_t *value_panels[kPanels];
    std::int32_t head_dim;
    std::int32_t rows;  // query rows in use
    std::int32_t slots; // slots in use
    PanelSlots at;      // the sequence's slots that they are
    alignas(64) float max[kBlockRows];
    alignas(64) float lane_sums[kBlockRows][16]; // of exp(s - max), lane by lane
    std::uint64_t seen[kBlockRows];              // bit t: row r sees slot t; a row's bits never reach past `slots`
    std::uint64_t seen_by_all;                   // bit t: every row sees slot t
    TileSource keys;
    TileSource values;
    const std::uint8_t *lines_apart[kMostChannels / 4]; // kv_attention_tiled.h: 32 channels' block scales are four lines of keys, four of values
    PanelSlots found;                                   // the slots whose places are those of the next tile; from -1: none are

    float sum(std::int32_t r) const { return reduce_add(F32x16::load(lane_sums[r])); }

    bool whole() const { return seen_by_all == ~std::uint64_t{0}; } // 64 slots, seen by every row

    static std::int64_t depth_of(std::int64_t width) { return (width + 31) / 32 * 32; }
    static std::int64_t floats(std::int64_t width) {
        return kBlockRows * (2 * width + kTile + depth_of(width) + kTile / 2) + 2 * kTile * width + 2 * kFewRows * kMostChannels;
    }

    void place(float *scratch, std::int64_t row_width, std::int32_t channels) {
        width = row_width;
        head_dim = channels;
        found = {-1};
        q = scratch;
        o = q + kBlockRows * width;
        s = o + kBlockRows * width;
        wide_keys = s + kBlockRows * kTile;
        wide_values = wide_keys + width * kTile;
        depth = depth_of(width);
        query_pairs = reinterpret_cast<std::uint16_t *>(wide_values + width * kTile);
        weight_pairs = query_pairs + 2 * kBlockRows * depth;
        factors = reinterpret_cast<float *>(weight_pairs + kBlockRows * kTile);
        padded_q = factors + kFewRows * kMostChannels;
    }
};

/// Bits low ... high-1 of 64, after forcing both into 0 ... 64.
inline std::uint64_t bit_run(std::int64_t low, std::int64_t high) {
    low = low < 0 ? 0 : low > 64 ? 64 : low;
    high = high < 0 ? 0 : high > 64 ? 64 : high;
    if (low >= high) return 0;
    return ~std::uint64_t{0} >> (64 - (high - low)) << low;
}

/// body(std::integral_constant<int, n>) for a run-time n of 1 ... 8.
template <class Body>
inline void with_rows(std::int32_t n, Body &&body) {
    switch (n) {
    case 1: return body(std::integral_constant<int, 1>{});
    case 2: return body(std::integral_constant<int, 2>{});
    case 3: return body(std::integral_constant<int, 3>{});
    case 4: return body(std::integral_constant<int, 4>{});
    case 5: return body(std::integral_constant<int, 5>{});
    case 6: return body(std::integral_constant<int, 6>{});
    case 7: return body(std::integral_constant<int, 7>{});
    case 8: return body(std::integral_constant<int, 8>{});
    default: return;
    }
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
