// SPDX-License-Identifier: Apache-2.0
// What the GPU kernels of kv_score share: parameters, rows and columns, the keys of a tile, the statistics of a column.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/op_gpu.h"
#include "ops/kv_score/kv_score.h"

namespace strata {

constexpr int kScoreThreads = 128;
constexpr int kScoreWarps = kScoreThreads / gpu::kWarpSize;
constexpr int kTileRows = 16; // rows of an mma tile; each head's rows are rounded up to it, so that no tile has two heads
/// Rows of one block of the log-sum-exp pass.
constexpr int kRowsPerChunk = 1024;
constexpr float kNothing = -gpu::kInfinity;

struct ScoreParams {
    const void *keys;
    int64_t key_page, key_head, key_slot; // strides, elements
    const int32_t *table, *lengths;
    int64_t table_b, table_h, lengths_b, lengths_h, pages;
    const void *queries;  // [pairs][rows][parts][row_channels], 16-bit like the keys, or f32
    const float *factors; // [pairs][rows]: what turns a product into a logit of base 2
    float *lse;           // [pairs][rows], base 2
    float *partial;       // [pairs][splits][warps][rows][2]: maximum and sum, base 2
    float *planes;
    int64_t plane_b, plane_h, pairs;
    uint32_t *fault;
    float gamma;
    int32_t kv_heads, group, window, head_rows, rows; // head_rows: window rounded up to tiles; rows: of all heads of a group
    int32_t head_dim, row_channels, parts, page_size, max_length, exclude_last, key_dtype;
    int32_t statistic, heads, splits, split_keys, row_chunks, key_tiles, stage_rows;
    bool shared_pages, wide, early;
};

/// One pair (sequence, KV head) and its length, made safe.
struct ScorePair {
    int64_t index, sequence, head;
    int32_t length, columns;
};

/// A length that the kernels may trust; `told` says what memory holds.
GPU_DEVICE int32_t safe_length(const ScoreParams &p, int64_t b, int64_t h, int32_t &told) {
    told = p.lengths[b * p.lengths_b + h * p.lengths_h];
    return gpu::max(0, gpu::min(told, p.max_length));
}

GPU_DEVICE int32_t scored_columns(const ScoreParams &p, int64_t b, int64_t h) {
    int32_t told = 0;
    return gpu::max(0, safe_length(p, b, h, told) - p.exclude_last);
}

GPU_DEVICE ScorePair score_pair(const ScoreParams &p, int64_t index) {
    ScorePair pair{index, index / p.kv_heads, index % p.kv_heads, 0, 0};
    int32_t told = 0;
    pair.length = safe_length(p, pair.sequence, pair.head, told);
    if (told != pair.length && gpu::thread_x() == 0) raise_fault(p.fault, kFaultLength);
    pair.columns = gpu::max(0, pair.length - p.exclude_last);
    return pair;
}

/// Offset of a slot's key in elements; -1 for a slot past the end, and for a page that does not exist (then the fault word says so).
GPU_DEVICE int64_t key_offset(const ScoreParams &p, const ScorePair &pair, int32_t slot) {
    if (slot >= pair.length) return -1;
    const int64_t page = p.table[pair.sequence * p.table_b + pair.head * p.table_h + slot / p.page_size];
    if (page < 0 || page >= p.pages) {
        raise_fault(p.fault, kFaultPage);
        return -1;
    }
    return page * p.key_page + (p.shared_pages ? pair.head : 0) * p.key_head + slot % p.page_size * p.key_slot;
}

/// Slots that window row i sees, from slot 0 on; may be negative.
GPU_DEVICE int32_t seen_slots(const ScoreParams &p, const ScorePair &pair, int32_t i) { return pair.length - p.window + i + 1; }

/// True if no row of the tile that starts at window row i sees slot `key` or one after it.
GPU_DEVICE bool tile_is_blind(const ScoreParams &p, const ScorePair &pair, int32_t i, int32_t key) {
    return seen_slots(p, pair, gpu::min(i + kTileRows, p.window) - 1) <= key;
}

/// Statistics of some columns over some rows of one head. Deviations are taken from the first row's value, so that nothing cancels where rows agree.
template <std::size_t Columns>
struct ColumnStats {
    float sum[Columns];     // of values, their maximum, or of deviations
    float shift[Columns];   // the first row's value
    float squares[Columns]; // of deviations

    GPU_DEVICE void reset() {
        GPU_UNROLL
        for (std::size_t c = 0; c < Columns; ++c) sum[c] = shift[c] = squares[c] = 0.0f;
    }
    GPU_DEVICE void add(int32_t statistic, int c, float value, bool first) {
        if (statistic == STRATA_SCORE_MAX) {
            sum[c] = value > sum[c] || value != value ? value : sum[c];
        } else if (statistic == STRATA_SCORE_MEAN_VARIANCE) {
            shift[c] = first ? value : shift[c];
            const float deviation = value - shift[c];
            sum[c] += deviation;
            squares[c] = gpu::fma(deviation, deviation, squares[c]);
        } else {
            sum[c] += value;
        }
    }
};

/// Mean of `count` values and the sum of their squared deviations from it.
struct Moments {
    float count, mean, squares;
};

GPU_DEVICE Moments moments_of(float count, float sum, float shift, float squares) {
    if (count == 0.0f) return {0.0f, 0.0f, 0.0f};
    const float mean = gpu::div(sum, count);
    return {count, shift + mean, gpu::max(0.0f, squares - sum * mean)};
}

/// Moments of two sets together (Chan, Golub, LeVeque).
GPU_DEVICE Moments merge(const Moments &a, const Moments &b) {
    const float count = a.count + b.count;
    if (count == 0.0f) return a;
    const float apart = b.mean - a.mean;
    const float share = gpu::div(b.count, count);
    return {count, gpu::fma(apart, share, a.mean), a.squares + b.squares + apart * apart * a.count * share};
}

GPU_DEVICE float variance_score(const ScoreParams &p, const Moments &m) {
    const float degrees = static_cast<float>(gpu::max(1, p.window - 1));
    return gpu::fma(p.gamma, gpu::div(m.squares, degrees), m.mean);
}

/// The group's reduction so far with one more head's value.
GPU_DEVICE float reduce_heads(const ScoreParams &p, int32_t g, float reduced, float value) {
    if (g == 0) return value;
    return p.heads == STRATA_HEADS_GROUP_MAX ? gpu::max(reduced, value) : reduced + value;
}

/// Writes a column's value: of head g, or reduced over the group.
GPU_DEVICE void store_score(const ScoreParams &p, const ScorePair &pair, int32_t column, int32_t g, float value, float reduced) {
    if (column >= pair.columns) return;
    float *plane = p.planes + pair.sequence * p.plane_b;
    if (!p.early) {
        plane[(pair.head * p.group + g) * p.plane_h + column] = value;
    } else if (g == p.group - 1) {
        plane[pair.head * p.plane_h + column] = p.heads == STRATA_HEADS_GROUP_MEAN ? gpu::div(reduced, static_cast<float>(p.group)) : reduced;
    }
}

/// One key tile's maximum and sum of a row join those of the warp's tiles before it.
GPU_DEVICE void merge_row(float *state, float maximum, float sum, bool first) {
    const float old_maximum = first ? kNothing : state[0];
    const float old_sum = first ? 0.0f : state[1];
    const float most = gpu::max(maximum, old_maximum);
    const float shrunk = old_sum == 0.0f ? 0.0f : old_sum * gpu::exp2(old_maximum - most);
    state[0] = most;
    state[1] = shrunk + (sum == 0.0f ? 0.0f : sum * gpu::exp2(maximum - most));
}

GPU_DEVICE float *row_state(const ScoreParams &p, int64_t pair, int32_t split, int warp, int32_t row) {
    return p.partial + (((pair * p.splits + split) * kScoreWarps + warp) * p.rows + row) * 2;
}

} // namespace strata
