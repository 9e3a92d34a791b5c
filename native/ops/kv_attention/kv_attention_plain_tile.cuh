// SPDX-License-Identifier: Apache-2.0
// kv_attention without tensor cores: the tile. 8 rows against 32 slots: K is widened into shared memory with an odd pitch, so that
// 32 lanes read 32 slots without bank conflicts; a warp computes the scores of two rows, one slot a lane.
#pragma once

#include "ops/kv_attention/kv_attention_combine.cuh"
#include "ops/kv_attention/kv_attention_numbers.cuh"

namespace strata {

constexpr int kPlainRows = 8;
constexpr int kPlainSlots = gpu::kWarpSize;
constexpr int kRowsPerWarp = kPlainRows / kWarps;
static_assert(kPlainSlots == kTileAlign, "a tile has one block of keys");

struct PlainSmem {
    GpuSlot slots[kPlainSlots];
    float p[kPlainRows][kPlainSlots];
    float bias[kPlainSlots];
    float factor[kPlainRows];
    RowState states[kPlainRows];
    RowEnd ends[kPlainRows];
    RowView views[kPlainRows];
    uint32_t seen[kPlainRows]; // bit t: the row sees slot t of the tile
    // then float q[kPlainRows][head_dim], float keys[kPlainSlots][pitch]
};

GPU_HOST_DEVICE constexpr int key_pitch(int head_dim) { return head_dim | 1; }
constexpr std::size_t plain_smem_bytes(int head_dim) {
    return sizeof(PlainSmem) + (static_cast<std::size_t>(kPlainRows) * static_cast<std::size_t>(head_dim) +
                                static_cast<std::size_t>(kPlainSlots) * static_cast<std::size_t>(key_pitch(head_dim))) *
                                   sizeof(float);
}

/// Rows row, row + 1, ... of q as fp32, turned where the cache is; zeros past the last one. All threads; ends with a meeting.
GPU_DEVICE void plain_queries(const AttentionParams &p, const Work &work, float *queries) {
    const int head_dim = p.cache.head_dim;
    for (int i = gpu::thread_x(); i < kPlainRows * head_dim; i += kThreads) {
        const int r = i / head_dim;
        const int64_t at = token_of(p, work, r) * p.q_token + head_of(p, work, r) * p.q_head + i % head_dim;
        queries[i] = r < work.rows ? load_element(p.q_dtype, p.q, at) : 0.0f;
    }
    gpu::sync_threads();
    if (p.cache.rotation == 0) return;
    hadamard_rows(queries, kPlainRows, head_dim, head_dim, p.cache.rotation);
    gpu::sync_threads();
}

/// Where the slots of a tile are, their biases and their keys. All threads; begins and ends with a meeting.
GPU_DEVICE void plain_keys(const AttentionParams &p, const Work &work, const Tile &tile, PlainSmem &smem, float *keys) {
    const int head_dim = p.cache.head_dim;
    const int thread = gpu::thread_x();
    gpu::sync_threads();
    if (thread < kPlainSlots) {
        const int32_t slot = tile.first + thread;
        smem.slots[thread] = counts(tile, slot) ? find_slot(p.cache, work.table, slot, p.fault) : GpuSlot{-1, 0};
        smem.bias[thread] = slot_bias(p, smem.slots[thread], work.head);
    }
    gpu::sync_threads();
    const bool in_tail = tile.first >= paged_keys(p.cache, work.length);
    const int64_t tail = in_tail ? find_tail(p.cache, work.sequence, work.head, p.fault) : 0;
    for (int i = thread; i < kPlainSlots * head_dim; i += kThreads) {
        const int t = i / head_dim;
        const int d = i % head_dim;
        float key = 0.0f;
        if (counts(tile, tile.first + t) && in_tail) {
            if (tail >= 0) key = load_element(p.cache.tail_dtype, p.cache.tails, tail * p.cache.tail_stride + t * p.cache.tail_row + d);
        } else if (smem.slots[t].page >= 0) {
            key = key_number(p.cache, smem.slots[t], work.head, d);
        }
        keys[t * key_pitch(head_dim) + d] = key;
    }
    gpu::sync_threads();
}

/// The score of row r and this lane's slot.
GPU_DEVICE float plain_score(const AttentionParams &p, const PlainSmem &smem, const float *queries, const float *keys, const Tile &tile, int r) {
    const int lane = gpu::lane_id();
    const int head_dim = p.cache.head_dim;
    float dot = 0.0f;
    for (int d = 0; d < head_dim; ++d) dot = gpu::fma(queries[r * head_dim + d], keys[lane * key_pitch(head_dim) + d], dot);
    const RowView row = smem.views[r];
    const float score = p.shaped ? shaped_score(p, dot, row, tile.first + lane, smem.bias[lane]) : dot * p.scale_log2;
    return sees(p, tile, row, tile.first + lane) ? score : -gpu::kInfinity;
}

} // namespace strata
