// SPDX-License-Identifier: Apache-2.0
// What the GPU kernels of kv_attention share: parameters, which rows and slots a block has, and where results go.
//
// Rows of one (sequence, KV head) are its tokens times the group of query heads, head innermost. A block takes one tile of
// rows against one range of slots. Tiles are numbered without a plan kernel: sequence b owns the numbers
//     floor(first_row[b] * group / tile_rows) + b   up to that of b + 1,
// which is never less than it needs and at most one more; blocks without rows leave at once.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/kv_cache.cuh"
#include "ops/kv_attention/kv_attention.h"

namespace strata {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / gpu::kWarpSize;
constexpr int kTileSlots = 64;   // slots of K and V that travel together
constexpr int kLeastRange = 128; // slots below which one more block costs more than it saves
constexpr int kMostRanges = 64;  // the merge reads this many partial results a row at most
constexpr int kBlocksPerMultiprocessor = 2;

struct AttentionParams {
    GpuKvCache cache;
    GpuRowOffsets offsets;
    const void *q;
    void *out;
    float *lse; // null: not wanted
    int64_t q_token, q_head, out_token, out_head, lse_token, lse_head;
    float *partial_o;     // [tokens * q_heads][ranges][head_dim]
    float *partial_state; // [tokens * q_heads][ranges][max, sum], max in units of log2
    uint32_t *fault;
    int64_t max_length, tiles;
    float scale_log2; // scale * log2(e)
    int32_t q_dtype, out_dtype, q_heads, group, ranges, tile_rows;
    bool causal;
    bool q_split; // q is finer than the cache's type: it is taken as a sum of two
};

/// The rows and slots of one block.
struct Work {
    int64_t token;  // first row of the sequence in q
    int64_t tokens; // of the sequence
    int64_t row;    // first row of the tile, of tokens * group
    int32_t rows;   // 0: nothing to do
    int32_t range;
    int32_t length;
    int32_t begin, end; // slots
    const int32_t *table;
};

/// Slots of one range.
GPU_DEVICE int32_t range_slots(int32_t length, int32_t ranges) {
    if (ranges <= 1) return gpu::max(length, 1);
    const int32_t share = gpu::max(gpu::ceil_div(length, ranges), kLeastRange);
    return gpu::ceil_div(share, kTileSlots) * kTileSlots;
}

/// Slots that a row sees.
GPU_DEVICE int32_t visible_slots(const AttentionParams &p, const Work &work, int64_t row) {
    if (!p.causal) return work.length;
    const int64_t count = work.length - work.tokens + row / p.group + 1;
    return static_cast<int32_t>(gpu::max(int64_t{0}, gpu::min(count, int64_t{work.length})));
}

GPU_DEVICE int64_t first_tile(const AttentionParams &p, int64_t sequence) {
    return row_offset(p.offsets, sequence) * p.group / p.tile_rows + sequence;
}

/// Every thread of a block finds the same. Tiles run backwards: with a causal mask the last ones see most.
GPU_DEVICE Work find_work(const AttentionParams &p) {
    const int64_t tile = p.tiles - 1 - gpu::block_x() / p.ranges;
    Work work{};
    work.range = gpu::block_x() % p.ranges;
    int64_t low = 0;
    int64_t high = p.offsets.batch - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (first_tile(p, middle) <= tile) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    const GpuRows rows = rows_of(p.offsets, low, p.fault);
    work.token = rows.first;
    work.tokens = rows.count;
    work.row = (tile - first_tile(p, low)) * p.tile_rows;
    const int64_t left = rows.count * p.group - work.row;
    if (work.row < 0 || left <= 0) return work;
    work.rows = static_cast<int32_t>(gpu::min(left, int64_t{p.tile_rows}));
    work.length = checked_length(p.cache, low, gpu::block_y(), p.max_length, p.fault);
    work.table = table_row(p.cache, low, gpu::block_y());
    const int32_t slots = range_slots(work.length, p.ranges);
    const int64_t begin = int64_t{work.range} * slots;
    work.begin = static_cast<int32_t>(gpu::min(begin, int64_t{work.length}));
    work.end = static_cast<int32_t>(gpu::min(begin + slots, int64_t{visible_slots(p, work, work.row + work.rows - 1)}));
    work.end = gpu::max(work.end, work.begin);
    return work;
}

/// Token and query head of row r of the tile.
GPU_DEVICE int64_t token_of(const AttentionParams &p, const Work &work, int r) { return work.token + (work.row + r) / p.group; }
GPU_DEVICE int64_t head_of(const AttentionParams &p, const Work &work, int r) { return int64_t{gpu::block_y()} * p.group + (work.row + r) % p.group; }

/// One channel of a finished row: out = o / sum; a row that saw nothing is 0. Channel 0 also writes the lse.
GPU_DEVICE void write_result(const AttentionParams &p, int64_t token, int64_t head, int channel, float o, float max, float sum) {
    const float value = sum == 0.0f ? 0.0f : gpu::div(o, sum);
    store_element(p.out_dtype, p.out, token * p.out_token + head * p.out_head + channel, value);
    if (channel == 0 && p.lse != nullptr) {
        p.lse[token * p.lse_token + head * p.lse_head] = sum == 0.0f ? -gpu::kInfinity : (max + gpu::log2(sum)) * gpu::kLn2;
    }
}

/// One channel of a tile's row r: a result, or a part of one that the merge will add.
GPU_DEVICE void emit(const AttentionParams &p, const Work &work, int r, int channel, float o, float max, float sum) {
    const int64_t token = token_of(p, work, r);
    const int64_t head = head_of(p, work, r);
    if (p.ranges == 1) {
        write_result(p, token, head, channel, o, max, sum);
        return;
    }
    const int64_t at = (token * p.q_heads + head) * p.ranges + work.range;
    p.partial_o[at * p.cache.head_dim + channel] = o;
    if (channel == 0) {
        p.partial_state[2 * at] = max;
        p.partial_state[2 * at + 1] = sum;
    }
}

/// A maximum that can be subtracted: -inf - -inf would be NaN.
GPU_DEVICE float safe_max(float max) { return max == -gpu::kInfinity ? 0.0f : max; }

/// Adds the partial results of each row in the order of their ranges; one warp a row.
GPU_KERNEL(kThreads, 8) kv_attention_merge_kernel(AttentionParams p) {
    const int lane = gpu::lane_id();
    const int64_t rows = p.offsets.rows * p.q_heads;
    const int64_t stride = int64_t{gpu::grid_dim_x()} * kWarps;
    for (int64_t row = int64_t{gpu::block_x()} * kWarps + gpu::warp_id(); row < rows; row += stride) {
        const int64_t token = row / p.q_heads;
        const int64_t head = row % p.q_heads;
        const int64_t sequence = sequence_of_row(p.offsets, token);
        const int32_t length = checked_length(p.cache, sequence, head / p.group, p.max_length, p.fault);
        const int32_t used = gpu::max(1, gpu::ceil_div(length, range_slots(length, p.ranges)));
        const float *state = p.partial_state + 2 * row * p.ranges;
        const float *partial = p.partial_o + row * p.ranges * p.cache.head_dim;

        float max = -gpu::kInfinity;
        for (int32_t i = 0; i < used; ++i) max = gpu::max(max, state[2 * i]);
        const float base = safe_max(max);
        float sum = 0.0f;
        for (int32_t i = 0; i < used; ++i) sum += state[2 * i + 1] * gpu::exp2(state[2 * i] - base);
        for (int channel = lane; channel < p.cache.head_dim; channel += gpu::kWarpSize) {
            float o = 0.0f;
            for (int32_t i = 0; i < used; ++i) {
                o = gpu::fma(partial[int64_t{i} * p.cache.head_dim + channel], gpu::exp2(state[2 * i] - base), o);
            }
            write_result(p, token, head, channel, o, max, sum);
        }
    }
}

} // namespace strata
