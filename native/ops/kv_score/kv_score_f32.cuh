// SPDX-License-Identifier: Apache-2.0
// kv_score's two passes over fp32 keys: a thread takes one key and walks through the rows, sixteen at a time.
#pragma once

#include "ops/kv_score/kv_score_gpu.cuh"

namespace strata {

/// Products of sixteen rows with this thread's key, channels in ascending order; `stage` gets the rows.
GPU_DEVICE void multiply_f32(const ScoreParams &p, int64_t pair, int32_t row, int64_t offset, float *stage, float (&products)[kTileRows]) {
    const float *from = static_cast<const float *>(p.queries) + (pair * p.rows + row) * p.row_channels;
    gpu::sync_threads(); // the rows before these are done with
    for (int i = gpu::thread_x(); i < kTileRows * p.row_channels; i += kScoreThreads) stage[i] = from[i];
    gpu::sync_threads();
    GPU_UNROLL
    for (int r = 0; r < kTileRows; ++r) products[r] = 0.0f;
    if (offset < 0) return;
    const float *key = static_cast<const float *>(p.keys) + offset;
    for (int c = 0; c < p.row_channels; c += 4) { // row_channels is head_dim rounded up to 4, rows are zero there
        float k[4];
        if (p.wide) {
            const gpu::U4 four = gpu::load16(key + c);
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) k[i] = gpu::as_float(four.v[i]);
        } else {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) k[i] = c + i < p.head_dim ? key[c + i] : 0.0f;
        }
        GPU_UNROLL
        for (int r = 0; r < kTileRows; ++r) {
            const gpu::U4 q = gpu::load16(stage + r * p.row_channels + c);
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) products[r] = gpu::fma(gpu::as_float(q.v[i]), k[i], products[r]);
        }
    }
}

GPU_KERNEL(kScoreThreads, 4) kv_score_f32_kernel(ScoreParams p) {
    GPU_DYNAMIC_SMEM(raw);
    float *stage = reinterpret_cast<float *>(raw);
    const ScorePair pair = score_pair(p, gpu::block_x() / p.key_tiles);
    const int32_t first_key = gpu::block_x() % p.key_tiles * kScoreThreads;
    if (first_key >= pair.columns) return; // the whole block
    const int32_t key = first_key + gpu::thread_x();
    const int64_t offset = key_offset(p, pair, key);
    ColumnStats<1> stats{};
    float reduced = 0.0f;
    for (int32_t row = 0; row < p.rows; row += kTileRows) {
        const int32_t i = row % p.head_rows;
        if (i == 0) stats.reset();
        if (!tile_is_blind(p, pair, i, first_key)) {
            float products[kTileRows];
            multiply_f32(p, pair.index, row, offset, stage, products);
            GPU_UNROLL
            for (int r = 0; r < kTileRows; ++r) {
                if (i + r >= p.window) continue;
                const int64_t at = pair.index * p.rows + row + r;
                const float weight = key < seen_slots(p, pair, i + r) ? gpu::exp2(gpu::fma(products[r], p.factors[at], -p.lse[at])) : 0.0f;
                stats.add(p.statistic, 0, weight, i + r == 0);
            }
        }
        if (i + kTileRows < p.head_rows) continue;
        const int32_t g = row / p.head_rows;
        const float rows = static_cast<float>(p.window);
        float value = stats.sum[0];
        if (p.statistic == STRATA_SCORE_MEAN_VARIANCE) value = variance_score(p, moments_of(rows, value, stats.shift[0], stats.squares[0]));
        if (p.statistic == STRATA_SCORE_MEAN) value = gpu::div(value, rows);
        reduced = reduce_heads(p, g, reduced, value);
        store_score(p, pair, key, g, value, reduced);
    }
}

GPU_KERNEL(kScoreThreads, 4) kv_score_lse_f32_kernel(ScoreParams p) {
    GPU_DYNAMIC_SMEM(raw);
    float *stage = reinterpret_cast<float *>(raw);
    const int64_t block = gpu::block_x();
    const int32_t chunk = static_cast<int32_t>(block % p.row_chunks);
    const int32_t split = static_cast<int32_t>(block / p.row_chunks % p.splits);
    const ScorePair pair = score_pair(p, block / p.row_chunks / p.splits);
    const int32_t last_row = gpu::min((chunk + 1) * kRowsPerChunk, p.rows);
    const int32_t begin = split * p.split_keys;
    const int32_t end = gpu::min(begin + p.split_keys, pair.length);
    for (int32_t first_key = begin; first_key < end; first_key += kScoreThreads) {
        const int32_t key = first_key + gpu::thread_x();
        const int64_t offset = key_offset(p, pair, key);
        for (int32_t row = chunk * kRowsPerChunk; row < last_row; row += kTileRows) {
            const int32_t i = row % p.head_rows;
            const bool blind = tile_is_blind(p, pair, i, first_key);
            if (blind && first_key != begin) continue;
            float products[kTileRows];
            multiply_f32(p, pair.index, row, blind ? -1 : offset, stage, products);
            GPU_UNROLL
            for (int r = 0; r < kTileRows; ++r) {
                const bool sees = i + r < p.window && key < seen_slots(p, pair, i + r);
                const float logit = sees ? products[r] * p.factors[pair.index * p.rows + row + r] : kNothing;
                const float maximum = gpu::warp_reduce_max(logit);
                const float sum = gpu::warp_reduce_add(gpu::exp2(logit - (maximum == kNothing ? 0.0f : maximum)));
                if (gpu::lane_id() == r) merge_row(row_state(p, pair.index, split, gpu::warp_id(), row + r), maximum, sum, first_key == begin);
            }
        }
    }
}

} // namespace strata
