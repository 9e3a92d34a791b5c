// SPDX-License-Identifier: Apache-2.0
// kv_attention without tensor cores: fp32 K and V, and every head_dim, alignment, type, format and layout that the mma kernels do not take.
//
// A block has 8 rows of an item and walks its slots in tiles of 32. V stays where it is: neighbouring threads read neighbouring
// channels, each value once for all rows.
#pragma once

#include "ops/kv_attention/kv_attention_plain_tile.cuh"

namespace strata {

constexpr int kMaxHeadDim = 512;
constexpr int kColumnsPerThread = kMaxHeadDim / kThreads;
static_assert(plain_smem_bytes(kMaxHeadDim) <= gpu::kPortableSmemBytes);

/// Scores of one tile to probabilities, for the rows of this warp.
GPU_DEVICE void plain_scores(const AttentionParams &p, PlainSmem &smem, const float *queries, const float *keys, const Tile &tile) {
    const int lane = gpu::lane_id();
    GPU_UNROLL
    for (int i = 0; i < kRowsPerWarp; ++i) {
        const int r = gpu::warp_id() * kRowsPerWarp + i;
        const float s = plain_score(p, smem, queries, keys, tile, r);
        const uint32_t seen = gpu::ballot(sees(p, tile, smem.views[r], tile.first + lane));
        const float old = smem.states[r].max;
        const float high = gpu::max(old, gpu::warp_reduce_max(s));
        const float base = safe_max(high);
        const float factor = gpu::exp2(old - base);
        const float probability = gpu::exp2(s - base);
        const float total = gpu::warp_reduce_add(probability);
        smem.p[r][lane] = probability;
        gpu::sync_warp(); // every lane has read max before lane 0 replaces it
        if (lane == 0) {
            smem.seen[r] = seen;
            smem.states[r].max = high;
            smem.factor[r] = factor;
            smem.states[r].sum = gpu::fma(smem.states[r].sum, factor, total);
        }
    }
}

GPU_DEVICE void keep_past(PlainSmem &smem) {
    gpu::sync_threads();
    if (gpu::thread_x() >= kPlainRows) return;
    RowState &state = smem.states[gpu::thread_x()];
    state.past_max = state.max;
    state.past_sum = state.sum;
}

GPU_KERNEL(kThreads, 2) kv_attention_plain_kernel(AttentionParams p) {
    gpu::let_next_start();
    gpu::wait_for_previous();
    GPU_DYNAMIC_SMEM(bytes);
    auto &smem = *reinterpret_cast<PlainSmem *>(bytes);
    auto *queries = reinterpret_cast<float *>(bytes + sizeof(PlainSmem));
    float *keys = queries + kPlainRows * p.cache.head_dim;
    const int thread = gpu::thread_x();
    const int head_dim = p.cache.head_dim;
    const Work work = find_work(p, gpu::block_x(), gpu::block_y(), kPlainRows);
    if (work.rows == 0) return;
    const Walk walk = make_walk(p, work, kPlainSlots);

    // ---- load: the queries
    plain_queries(p, work, queries);
    if (thread < kPlainRows) {
        smem.states[thread] = RowState{-gpu::kInfinity, 0.0f, -gpu::kInfinity, 0.0f};
        smem.views[thread] = row_view(p, work, thread);
    }
    float o[kColumnsPerThread][kPlainRows];
    GPU_UNROLL
    for (int c = 0; c < kColumnsPerThread; ++c) {
        GPU_UNROLL
        for (int r = 0; r < kPlainRows; ++r) o[c][r] = 0.0f;
    }

    for (int32_t index = 0; index < walk.tiles; ++index) {
        if (index == walk.border) keep_past(smem);
        const Tile tile = tile_at(walk, index, kPlainSlots);
        plain_keys(p, work, tile, smem, keys);

        // ---- compute: scores and softmax
        plain_scores(p, smem, queries, keys, tile);
        gpu::sync_threads();

        // ---- compute: values; a tile's sum starts at zero and joins o once, which keeps fp32's last digits
        GPU_UNROLL
        for (int c = 0; c < kColumnsPerThread; ++c) {
            const int channel = thread + c * kThreads;
            if (channel >= head_dim) continue;
            float part[kPlainRows];
            GPU_UNROLL
            for (int r = 0; r < kPlainRows; ++r) part[r] = 0.0f;
            for (int t = 0; t < kPlainSlots; ++t) {
                if (smem.slots[t].page < 0) continue;
                const float value = value_number(p.cache, smem.slots[t], work.head, channel);
                GPU_UNROLL
                for (int r = 0; r < kPlainRows; ++r) {
                    if (((smem.seen[r] >> t) & 1u) != 0) part[r] = gpu::fma(smem.p[r][t], value, part[r]);
                }
            }
            GPU_UNROLL
            for (int r = 0; r < kPlainRows; ++r) o[c][r] = gpu::fma(o[c][r], smem.factor[r], part[r]);
        }
    }
    if (walk.border == walk.tiles) keep_past(smem);

    // ---- store
    gpu::sync_threads();
    if (thread < work.rows) smem.ends[thread] = end_row(p, work, thread, smem.states[thread]);
    gpu::sync_threads();
    const bool turned = p.cache.rotation != 0;
    if (turned) {
        GPU_UNROLL
        for (int c = 0; c < kColumnsPerThread; ++c) {
            GPU_UNROLL
            for (int r = 0; r < kPlainRows; ++r) {
                if (thread + c * kThreads < head_dim) queries[r * head_dim + thread + c * kThreads] = o[c][r];
            }
        }
        gpu::sync_threads();
        hadamard_rows(queries, kPlainRows, head_dim, head_dim, p.cache.rotation);
        gpu::sync_threads();
    }
    GPU_UNROLL
    for (int c = 0; c < kColumnsPerThread; ++c) {
        const int channel = thread + c * kThreads;
        GPU_UNROLL
        for (int r = 0; r < kPlainRows; ++r) {
            if (channel >= head_dim || r >= work.rows) continue;
            emit(p, work, r, channel, turned ? queries[r * head_dim + channel] : o[c][r], smem.ends[r]);
        }
    }
}

} // namespace strata
