// SPDX-License-Identifier: Apache-2.0
// kv_attention without tensor cores: fp32 K and V, and every head_dim, alignment and type that the mma kernel does not take.
//
// A block has 8 rows and walks its range in tiles of 32 slots. K is widened into shared memory with an odd pitch, so that
// 32 lanes read 32 slots without bank conflicts; a warp computes the scores of two rows, one slot a lane. V stays where it
// is: neighbouring threads read neighbouring channels, each value once for all rows.
#pragma once

#include "ops/kv_attention/kv_attention_work.cuh"

namespace strata {

constexpr int kPlainRows = 8;
constexpr int kPlainSlots = gpu::kWarpSize;
constexpr int kRowsPerWarp = kPlainRows / kWarps;
constexpr int kMaxHeadDim = 512;
constexpr int kColumnsPerThread = kMaxHeadDim / kThreads;

struct PlainSmem {
    int64_t value_rows[kPlainSlots]; // -1: nothing to read
    int64_t key_rows[kPlainSlots];
    float p[kPlainRows][kPlainSlots];
    float factor[kPlainRows];
    float max[kPlainRows];
    float sum[kPlainRows];
    int32_t sees[kPlainRows];
    // then float q[kPlainRows][head_dim], float keys[kPlainSlots][pitch]
};

GPU_HOST_DEVICE constexpr int key_pitch(int head_dim) { return head_dim | 1; }
constexpr std::size_t plain_smem_bytes(int head_dim) {
    return sizeof(PlainSmem) + (static_cast<std::size_t>(kPlainRows) * static_cast<std::size_t>(head_dim) +
                                static_cast<std::size_t>(kPlainSlots) * static_cast<std::size_t>(key_pitch(head_dim))) *
                                   sizeof(float);
}
static_assert(plain_smem_bytes(kMaxHeadDim) <= gpu::kPortableSmemBytes);

/// Scores of one tile to probabilities, for the rows of this warp.
GPU_DEVICE void plain_scores(const AttentionParams &p, PlainSmem &smem, const float *queries, const float *keys, int32_t first) {
    const int lane = gpu::lane_id();
    const int pitch = key_pitch(p.cache.head_dim);
    GPU_UNROLL
    for (int i = 0; i < kRowsPerWarp; ++i) {
        const int r = gpu::warp_id() * kRowsPerWarp + i;
        float dot = 0.0f;
        for (int d = 0; d < p.cache.head_dim; ++d) dot = gpu::fma(queries[r * p.cache.head_dim + d], keys[lane * pitch + d], dot);
        const float s = first + lane < smem.sees[r] ? dot * p.scale_log2 : -gpu::kInfinity;
        const float old = smem.max[r];
        const float high = gpu::max(old, gpu::warp_reduce_max(s));
        const float base = safe_max(high);
        const float factor = gpu::exp2(old - base);
        const float probability = gpu::exp2(s - base);
        const float total = gpu::warp_reduce_add(probability);
        smem.p[r][lane] = probability;
        gpu::sync_warp(); // every lane has read max[r] before lane 0 replaces it
        if (lane == 0) {
            smem.max[r] = high;
            smem.factor[r] = factor;
            smem.sum[r] = gpu::fma(smem.sum[r], factor, total);
        }
    }
}

GPU_KERNEL(kThreads, 2) kv_attention_plain_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(bytes);
    auto &smem = *reinterpret_cast<PlainSmem *>(bytes);
    auto *queries = reinterpret_cast<float *>(bytes + sizeof(PlainSmem));
    float *keys = queries + kPlainRows * p.cache.head_dim;
    const int thread = gpu::thread_x();
    const int head_dim = p.cache.head_dim;
    const int pitch = key_pitch(head_dim);
    const Work work = find_work(p);
    if (work.rows == 0) return;

    // ---- load: the queries
    for (int i = thread; i < kPlainRows * head_dim; i += kThreads) {
        const int r = i / head_dim;
        const int64_t at = token_of(p, work, r) * p.q_token + head_of(p, work, r) * p.q_head + i % head_dim;
        queries[i] = r < work.rows ? load_element(p.q_dtype, p.q, at) : 0.0f;
    }
    if (thread < kPlainRows) {
        smem.max[thread] = -gpu::kInfinity;
        smem.sum[thread] = 0.0f;
        smem.sees[thread] = thread < work.rows ? gpu::min(visible_slots(p, work, work.row + thread), work.end) : 0;
    }
    float o[kColumnsPerThread][kPlainRows];
    GPU_UNROLL
    for (int c = 0; c < kColumnsPerThread; ++c) {
        GPU_UNROLL
        for (int r = 0; r < kPlainRows; ++r) o[c][r] = 0.0f;
    }

    for (int32_t first = work.begin; first < work.end; first += kPlainSlots) {
        // ---- load: where the tile's rows are, then K
        gpu::sync_threads();
        if (thread < kPlainSlots) {
            const GpuSlot slot = first + thread < work.end ? find_slot(p.cache, work.table, first + thread, p.fault) : GpuSlot{-1, 0};
            smem.key_rows[thread] = slot.page < 0 ? -1 : row_at(p.cache.keys, slot, gpu::block_y());
            smem.value_rows[thread] = slot.page < 0 ? -1 : row_at(p.cache.values, slot, gpu::block_y());
        }
        gpu::sync_threads();
        for (int i = thread; i < kPlainSlots * head_dim; i += kThreads) {
            const int t = i / head_dim;
            const int d = i % head_dim;
            keys[t * pitch + d] = smem.key_rows[t] < 0 ? 0.0f : load_element(p.cache.dtype, p.cache.keys.data, smem.key_rows[t] + d);
        }
        gpu::sync_threads();

        // ---- compute: scores and softmax
        plain_scores(p, smem, queries, keys, first);
        gpu::sync_threads();

        // ---- compute: values; a tile's sum starts at zero and joins o once, which keeps fp32's last digits
        const int slots = gpu::min(kPlainSlots, work.end - first);
        GPU_UNROLL
        for (int c = 0; c < kColumnsPerThread; ++c) {
            const int channel = thread + c * kThreads;
            if (channel >= head_dim) continue;
            float part[kPlainRows];
            GPU_UNROLL
            for (int r = 0; r < kPlainRows; ++r) part[r] = 0.0f;
            for (int t = 0; t < slots; ++t) {
                const int64_t row = smem.value_rows[t];
                const float value = row < 0 ? 0.0f : load_element(p.cache.dtype, p.cache.values.data, row + channel);
                GPU_UNROLL
                for (int r = 0; r < kPlainRows; ++r) {
                    if (first + t < smem.sees[r]) part[r] = gpu::fma(smem.p[r][t], value, part[r]);
                }
            }
            GPU_UNROLL
            for (int r = 0; r < kPlainRows; ++r) o[c][r] = gpu::fma(o[c][r], smem.factor[r], part[r]);
        }
    }

    // ---- store
    gpu::sync_threads();
    GPU_UNROLL
    for (int c = 0; c < kColumnsPerThread; ++c) {
        const int channel = thread + c * kThreads;
        GPU_UNROLL
        for (int r = 0; r < kPlainRows; ++r) {
            if (channel < head_dim && r < work.rows) emit(p, work, r, channel, o[c][r], smem.max[r], smem.sum[r]);
        }
    }
}

} // namespace strata
