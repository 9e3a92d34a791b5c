// SPDX-License-Identifier: Apache-2.0
// kv_attention without tensor cores: fp32 K and V, and every head_dim, alignment, type, format and layout that the mma kernels do not take.
//
// A block has 8 rows of an item and walks its slots in tiles of 32. K is widened into shared memory with an odd pitch, so that
// 32 lanes read 32 slots without bank conflicts; a warp computes the scores of two rows, one slot a lane. V stays where it
// is: neighbouring threads read neighbouring channels, each value once for all rows.
#pragma once

#include "ops/kv_attention/kv_attention_combine.cuh"
#include "ops/kv_attention/kv_attention_numbers.cuh"

namespace strata {

constexpr int kPlainRows = 8;
constexpr int kPlainSlots = gpu::kWarpSize;
constexpr int kRowsPerWarp = kPlainRows / kWarps;
constexpr int kMaxHeadDim = 512;
constexpr int kColumnsPerThread = kMaxHeadDim / kThreads;
static_assert(kPlainSlots == kTileAlign, "a tile has one block of keys");

struct PlainSmem {
    GpuSlot slots[kPlainSlots];
    float p[kPlainRows][kPlainSlots];
    float bias[kPlainSlots];
    float factor[kPlainRows];
    RowState states[kPlainRows];
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
static_assert(plain_smem_bytes(kMaxHeadDim) <= gpu::kPortableSmemBytes);

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
            emit(p, work, r, gpu::block_y() * kPlainRows + r, channel, turned ? queries[r * head_dim + channel] : o[c][r], smem.states[r]);
        }
    }
}

} // namespace strata
