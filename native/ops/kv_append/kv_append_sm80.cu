// SPDX-License-Identifier: Apache-2.0
// kv_append on the GPU: K rows, turned by their positions, and V rows into the last slots of their sequences.
//
// Shapes   keys, values [tokens, kv_heads, head_dim]; cache pages [page_size, head_dim].
// Bound    bytes: each element is read once and written once.
// Split    one warp takes one row of one head: it finds the slot once, then its lanes take channel pairs of K and
//          channels of V. Neighbouring lanes touch neighbouring channels.
#include "cuda/elements.cuh"
#include "cuda/kv_cache.cuh"
#include "cuda/rope.cuh"
#include "ops/kv_append/kv_append.h"

namespace strata {

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / gpu::kWarpSize;

struct AppendParams {
    GpuKvCache cache;
    const void *keys;
    const void *values;
    const int32_t *positions; // null: none
    int64_t key_token, key_head, value_token, value_head, position_step;
    int64_t items; // tokens * kv_heads
    int64_t capacity;
    GpuRowOffsets offsets;
    RopeTable rope;
    uint32_t *fault;
    int32_t kv_heads, dtype;
};

/// The slot of a row, or page -1 where an index is bad.
GPU_DEVICE GpuSlot destination(const AppendParams &p, int64_t token, int64_t head) {
    const int64_t sequence = sequence_of_row(p.offsets, token);
    const GpuRows rows = rows_of(p.offsets, sequence, p.fault);
    const int64_t from_end = rows.first + rows.count - token;
    const int32_t length = checked_length(p.cache, sequence, head, p.capacity, p.fault);
    if (token < rows.first || from_end <= 0 || from_end > length) {
        raise_fault(p.fault, from_end > length ? kFaultLength : kFaultIndex);
        return GpuSlot{-1, 0};
    }
    return find_slot(p.cache, table_row(p.cache, sequence, head), static_cast<int32_t>(length - from_end), p.fault);
}

GPU_KERNEL(kThreads, 8) append_kernel(AppendParams p) {
    const int lane = gpu::lane_id();
    const int64_t stride = int64_t{gpu::grid_dim_x()} * kWarps;
    for (int64_t item = int64_t{gpu::block_x()} * kWarps + gpu::warp_id(); item < p.items; item += stride) {
        const int64_t token = item / p.kv_heads;
        const int64_t head = item % p.kv_heads;
        const GpuSlot slot = destination(p, token, head);
        if (slot.page < 0) continue;
        const int32_t position = p.positions != nullptr ? p.positions[token * p.position_step] : 0;

        const int64_t key = token * p.key_token + head * p.key_head;
        const int64_t key_to = row_at(p.cache.keys, slot, head);
        for (int pair = lane; pair < p.rope.pairs; pair += gpu::kWarpSize) {
            const int first = rope_first_channel(p.rope, pair);
            const int second = first + rope_partner_distance(p.rope);
            const float a = load_element(p.dtype, p.keys, key + first);
            const float b = load_element(p.dtype, p.keys, key + second);
            float sine;
            float cosine;
            rope_angle(p.rope, position, rope_frequency(p.rope, pair), sine, cosine);
            store_element(p.cache.dtype, p.cache.keys.data, key_to + first, a * cosine - b * sine);
            store_element(p.cache.dtype, p.cache.keys.data, key_to + second, a * sine + b * cosine);
        }
        for (int channel = 2 * p.rope.pairs + lane; channel < p.cache.head_dim; channel += gpu::kWarpSize) {
            store_element(p.cache.dtype, p.cache.keys.data, key_to + channel, load_element(p.dtype, p.keys, key + channel));
        }

        const int64_t value = token * p.value_token + head * p.value_head;
        const int64_t value_to = row_at(p.cache.values, slot, head);
        for (int channel = lane; channel < p.cache.head_dim; channel += gpu::kWarpSize) {
            store_element(p.cache.dtype, p.cache.values.data, value_to + channel, load_element(p.dtype, p.values, value + channel));
        }

        if (lane == 0 && p.cache.positions.data != nullptr) {
            static_cast<int32_t *>(p.cache.positions.data)[row_at(p.cache.positions, slot, head)] = position;
        }
    }
}

} // namespace

Status kv_append_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvAppendProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("kv_append");
    if (exec.dry_run || p.tokens == 0) return STRATA_OK;
    AppendParams params{};
    params.cache = gpu_kv_cache(p.cache);
    params.keys = p.keys.data;
    params.values = p.values.data;
    params.positions = static_cast<const std::int32_t *>(p.positions.data);
    params.key_token = p.keys.stride[0];
    params.key_head = p.keys.stride[1];
    params.value_token = p.values.stride[0];
    params.value_head = p.values.stride[1];
    params.position_step = p.positions.stride[0];
    params.items = p.tokens * p.cache.kv_heads;
    params.capacity = p.cache.capacity();
    params.offsets = gpu_row_offsets(p.row_offsets, p.tokens, p.cache.batch);
    params.rope = rope_table(p.rope, p.factors);
    params.fault = exec.fault;
    params.kv_heads = static_cast<std::int32_t>(p.cache.kv_heads);
    params.dtype = p.keys.dtype;
    const int grid = grid_blocks(params.items * gpu::kWarpSize, kThreads, exec.multiprocessors);
    return launched("kv_append", GPU_LAUNCH(append_kernel, grid, kThreads, 0, exec.stream, params));
}

} // namespace strata
