// SPDX-License-Identifier: Apache-2.0
// What the GPU kernels of kv_attention share: parameters, the item of a block, which slots a row sees, what a score becomes.
//
// Rows of one (sequence, KV head) are its tokens times the group of query heads, head innermost. A block takes one item of the
// plan (kv_attention_plan.h): a tile of rows against the slots [0, sinks) and [begin, end). Plans are the caller's memory, so
// an item is checked against the lengths and rows of this call before anything is followed.
//
// Scores and maxima are in units of log2 from the mask on; what leaves the kernels is in natural units.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/kv_cache.cuh"
#include "ops/kv_attention/kv_attention.h"
#include "ops/kv_attention/kv_attention_plan.h"

namespace strata {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / gpu::kWarpSize;
constexpr int kFewRows = 16;   // rows of an mma tile: one for the block
constexpr int kManyRows = 64;  // one for each warp
constexpr int kItemRows = 128; // of an item with many: what the warpgroups of an sm_90 take at once
constexpr int kStateNumbers = 4;

/// Offsets of a block's shared memory, for launcher and kernel.
struct SmemLayout {
    int32_t key_unit, value_unit; // bytes of one tile's keys and values
    int32_t stages;               // tiles of each
    int32_t infos, queries, turned, state, total;
    int32_t word_tiles, key_codes, value_codes; // of tiled pages: T and Codes of kv_attention_words.cuh
    bool by_warps;                              // of codes: whether kv_attention_warps.cuh takes them
};

struct AttentionParams {
    GpuKvCache cache;
    GpuRowOffsets offsets;
    KvAttentionPlan plan;
    SmemLayout smem;
    const void *q;
    void *out;
    float *lse, *past_lse; // null: not wanted
    float *known_lse;      // [tokens, q_heads] where lse is wanted by key_probability alone
    float *probability;
    const float *slopes, *sink_logits; // null: none
    int64_t q_token, q_head, out_token, out_head, lse_token, lse_head, past_token, past_head, probability_sequence, probability_head;
    int64_t slope_step, sink_step;
    float *partial_o;     // [rows of partial results][partial_pitch]
    float *partial_state; // [rows of partial results][max, sum, max and sum of the past], maxima in units of log2
    uint32_t *fault;
    int64_t max_length, most_items, most_merges, most_partials;
    float scale, scale_log2; // scale_log2 = scale * log2(e)
    float softcap;
    int32_t q_dtype, out_dtype, q_heads, kv_heads, group, window, window_sinks;
    bool causal;
    bool few;        // the launch takes the items with few rows
    bool few_kernel; // and does so with blocks of few rows
    bool after;      // for the launch: a kernel of this call is in front
    bool q_split;    // q is finer than the type of the products: it is taken as a sum of two
    bool shaped;     // softcap, slopes or biases
    bool store_probability;
};

/// Floats from one row of partial results to the next: whole 16 bytes.
GPU_HOST_DEVICE constexpr int32_t partial_pitch(int32_t head_dim) { return (head_dim + 3) / 4 * 4; }

/// The rows and slots of one block.
struct Work {
    int64_t sequence, head;
    int64_t token;  // first row of the sequence in q
    int64_t tokens; // of the sequence
    int32_t row;    // first row of the tile, of tokens * group
    int32_t rows;   // 0: nothing to do
    int32_t length;
    int32_t begin, end; // slots
    int32_t sinks;      // slots [0, sinks) as well
    int32_t partial;    // where the results go; -1: they are final
    const int32_t *table;
};

/// One condition, not a chain of them, so that the header's words are loaded together.
GPU_DEVICE bool plan_fits(const AttentionParams &p, const KvAttentionPlanHeader &header) {
    bool fits = header.magic == kPlanMagic;
    fits &= header.batch == p.offsets.batch;
    fits &= header.kv_heads == p.kv_heads;
    fits &= header.tokens == p.offsets.rows;
    fits &= header.group == p.group;
    fits &= header.items >= 0;
    fits &= header.items <= p.most_items;
    fits &= header.few_items >= 0;
    fits &= header.few_items <= header.items;
    fits &= header.merges >= 0;
    fits &= header.merges <= p.most_merges;
    fits &= header.partials >= 0;
    fits &= header.partials <= p.most_partials;
    return fits;
}

/// The rows that an item or a merge names, with the length as it is; rows is 0, with a fault, where they do not exist.
GPU_DEVICE Work find_rows(const AttentionParams &p, int32_t sequence, int32_t head, int32_t row, int32_t rows, int32_t most) {
    Work work{};
    if (sequence < 0 || sequence >= p.offsets.batch || head < 0 || head >= p.kv_heads || row < 0 || rows < 1 || rows > most) {
        raise_fault(p.fault, kFaultIndex);
        return work;
    }
    work.length = length_entry(p.cache, sequence, head); // under way while the offsets are
    const GpuRows all = rows_of(p.offsets, sequence, p.fault);
    if (int64_t{row} + rows > all.count * p.group) {
        raise_fault(p.fault, kFaultIndex);
        return work;
    }
    work.sequence = sequence;
    work.head = head;
    work.token = all.first;
    work.tokens = all.count;
    work.row = row;
    work.rows = rows;
    work.partial = -1;
    return work;
}

/// What an item must be whatever its sequence is.
GPU_DEVICE bool item_fits(const KvAttentionPlanHeader &header, const KvAttentionItem &item) {
    bool fits = (item.sequence | item.head | item.row | item.sinks) >= 0;
    fits &= item.sinks <= item.begin;
    fits &= item.begin <= item.end;
    fits &= item.partial >= -1;
    fits &= (item.partial < 0) | (item.partial <= header.partials - item.rows);
    return fits;
}

/// The block's item, or of a larger one the sub-th `rows_per_block` rows. Every thread of a block finds the same.
GPU_DEVICE Work find_work(const AttentionParams &p, int32_t index, int32_t sub, int32_t rows_per_block) {
    const KvAttentionPlanHeader header = *p.plan.header;
    KvAttentionItem item = p.plan.items[index]; // the right one of few rows; asked about together with the header, one wait serves both
    const bool fits = plan_fits(p, header);
    const bool there = index < (p.few ? header.few_items : header.items - header.few_items);
    bool good = item_fits(header, item) | (!p.few);
    if (!(fits & there & good)) {
        if (!fits || (there && !good)) raise_fault(p.fault, kFaultIndex);
        return Work{};
    }
    if (!p.few) {
        item = p.plan.items[header.few_items + index];
        good = item_fits(header, item);
    }
    Work work = find_rows(p, item.sequence, item.head, item.row, item.rows, p.few ? kFewRows : kItemRows);
    if (work.rows == 0) return work;
    work.length = checked_length(work.length, p.max_length, p.fault);
    good &= item.end <= work.length;
    if (!good) raise_fault(p.fault, kFaultIndex);
    work.rows = good ? gpu::max(0, gpu::min(work.rows - sub * rows_per_block, rows_per_block)) : 0;
    work.row += sub * rows_per_block;
    work.begin = item.begin;
    work.end = item.end;
    work.sinks = item.sinks;
    work.partial = item.partial < 0 ? -1 : item.partial + sub * rows_per_block;
    if (p.causal && item.rows > rows_per_block && work.rows > 0) { // rows of a part see less than the item's last one
        const int64_t seen = work.length - work.tokens + (work.row + work.rows - 1) / p.group + 1;
        work.end = static_cast<int32_t>(gpu::max(int64_t{work.begin}, gpu::min(int64_t{work.end}, seen)));
    }
    work.table = table_row(p.cache, work.sequence, work.head);
    return work;
}

/// Token and query head of row r of the tile.
GPU_DEVICE int64_t token_of(const AttentionParams &p, const Work &work, int r) { return work.token + (work.row + r) / p.group; }
GPU_DEVICE int64_t head_of(const AttentionParams &p, const Work &work, int r) { return work.head * p.group + (work.row + r) % p.group; }

/// What one row sees: slots [low, high), and of those below `low` the first window_sinks; and how it weighs them.
struct RowView {
    int32_t low, high;
    int32_t position; // the slot of its own token
    float slope;      // 0: no ALiBi
};

/// Row r of the tile; a row past the last one sees what the last one does, so that a whole tile is seen by all or not.
GPU_DEVICE RowView row_view(const AttentionParams &p, const Work &work, int r) {
    const int32_t row = work.row + gpu::min(r, work.rows - 1);
    const int64_t position = work.length - work.tokens + row / p.group;
    const int64_t seen = p.causal ? gpu::max(int64_t{0}, gpu::min(position + 1, int64_t{work.length})) : work.length;
    RowView view{};
    view.high = static_cast<int32_t>(seen);
    view.low = p.window > 0 ? static_cast<int32_t>(gpu::max(int64_t{0}, seen - p.window)) : 0;
    view.position = static_cast<int32_t>(position);
    view.slope = p.slopes == nullptr ? 0.0f : p.slopes[(work.head * p.group + row % p.group) * p.slope_step];
    return view;
}

/// A tile of the walk: slots first, first + 1, ..., of which [low, high) count.
struct Tile {
    int32_t first, low, high;
};
GPU_DEVICE bool counts(const Tile &tile, int32_t slot) { return slot >= tile.low && slot < tile.high; }
GPU_DEVICE bool sees(const AttentionParams &p, const Tile &tile, const RowView &row, int32_t slot) {
    return counts(tile, slot) && slot < row.high && (slot >= row.low || slot < p.window_sinks);
}
GPU_DEVICE bool sees_all(const Tile &tile, const RowView &row, int32_t slots) {
    return tile.low <= tile.first && gpu::max(row.low, 0) <= tile.first && tile.first + slots <= gpu::min(tile.high, row.high);
}

/// The tiles of an item, in three stretches of slots. Where the sum over the past is wanted they are cut at its end, so that the
/// state before tile `border` is the past's.
struct Walk {
    Tile a, b, c;
    int32_t tiles_a, tiles_ab, tiles;
    int32_t border; // -1: not wanted
};

constexpr int kTileAlign = 32; // tiles start at multiples: whole words and blocks of the tiled layout

GPU_DEVICE Tile stretch(int32_t low, int32_t high) { return Tile{low / kTileAlign * kTileAlign, low, high}; }
GPU_DEVICE int32_t tiles_of(const Tile &whole, int32_t slots) { return whole.high > whole.low ? gpu::ceil_div(whole.high - whole.first, slots) : 0; }

GPU_DEVICE Walk make_walk(const AttentionParams &p, const Work &work, int32_t slots) {
    Walk walk{};
    const auto past = static_cast<int32_t>(gpu::max(int64_t{0}, work.length - work.tokens));
    const int32_t cut = p.past_lse != nullptr ? past : work.length;
    const bool early = cut <= work.begin; // the past ends among the sinks
    walk.a = stretch(0, early ? gpu::min(work.sinks, cut) : work.sinks);
    walk.b = early ? stretch(gpu::min(work.sinks, cut), work.sinks) : stretch(work.begin, gpu::min(cut, work.end));
    walk.c = early ? stretch(work.begin, work.end) : stretch(gpu::min(cut, work.end), work.end);
    walk.tiles_a = tiles_of(walk.a, slots);
    walk.tiles_ab = walk.tiles_a + tiles_of(walk.b, slots);
    walk.tiles = walk.tiles_ab + tiles_of(walk.c, slots);
    walk.border = p.past_lse == nullptr ? -1 : early ? walk.tiles_a : walk.tiles_ab;
    return walk;
}

GPU_DEVICE Tile tile_at(const Walk &walk, int32_t index, int32_t slots) {
    const bool in_a = index < walk.tiles_a;
    const bool in_b = index < walk.tiles_ab;
    Tile tile = in_a ? walk.a : in_b ? walk.b : walk.c;
    tile.first += (index - (in_a ? 0 : in_b ? walk.tiles_a : walk.tiles_ab)) * slots;
    return tile;
}

/// Within 1e-6 of tanh, relatively: a series where 1 - 2 / (1 + e^2x) would cancel.
GPU_DEVICE float tanh_exact(float x) {
    const float magnitude = gpu::abs(x);
    const float x2 = x * x;
    const float series = x + x * x2 * (-1.0f / 3 + x2 * (2.0f / 15 + x2 * (-17.0f / 315 + x2 * (62.0f / 2835 + x2 * (-1382.0f / 155925)))));
    const float far = 1.0f - gpu::div(2.0f, 1.0f + gpu::exp2(2.0f * gpu::kLog2e * magnitude));
    return magnitude < 0.4f ? series : x < 0.0f ? -far : far;
}

/// A product of q and k as the exponent of 2.
GPU_DEVICE float shaped_score(const AttentionParams &p, float product, const RowView &row, int32_t slot, float bias) {
    float score = product * p.scale;
    if (p.softcap != 0.0f) score = p.softcap * tanh_exact(gpu::div(score, p.softcap));
    score = gpu::fma(row.slope, static_cast<float>(slot - row.position), score) + bias;
    return score * gpu::kLog2e;
}

/// The bias of a slot whose page is good.
GPU_DEVICE float slot_bias(const AttentionParams &p, const GpuSlot &slot, int64_t head) {
    if (p.cache.logit_bias.data == nullptr || slot.page < 0) return 0.0f;
    return static_cast<const float *>(p.cache.logit_bias.data)[row_at(p.cache.logit_bias, slot, head)];
}

/// A maximum that can be subtracted: -inf - -inf would be NaN.
GPU_DEVICE float safe_max(float max) { return max == -gpu::kInfinity ? 0.0f : max; }

} // namespace strata
