// SPDX-License-Identifier: Apache-2.0
// kv_attention: the kernel that adds the partial results of tiles with several items.
#pragma once

#include "ops/kv_attention/kv_attention_combine.cuh"

namespace strata {

/// Adds the partial results of each row of a tile in their order; one warp a row.
GPU_KERNEL(kThreads, 8) kv_attention_merge_kernel(AttentionParams p) {
    if (!plan_fits(p)) return; // the attention kernels have raised the fault
    if (gpu::block_x() >= p.plan.header->merges) return;
    const KvAttentionMerge merge = p.plan.merges[gpu::block_x()];
    const Work work = find_rows(p, merge.sequence, merge.head, merge.row, merge.rows, kManyRows);
    const int32_t r = gpu::block_y() * kWarps + gpu::warp_id();
    const int64_t last = merge.first + int64_t{merge.parts} * work.rows;
    if (merge.first < 0 || merge.parts < 1 || last > p.plan.header->partials) {
        raise_fault(p.fault, kFaultIndex);
        return;
    }
    if (r >= work.rows) return;
    const int lane = gpu::lane_id();
    const int64_t first = int64_t{merge.first} + r;
    const float *states = p.partial_state + first * kStateNumbers;
    const float *parts = p.partial_o + first * p.cache.head_dim;
    const int64_t state_step = int64_t{work.rows} * kStateNumbers;
    const int64_t part_step = int64_t{work.rows} * p.cache.head_dim;

    RowState state{-gpu::kInfinity, 0.0f, -gpu::kInfinity, 0.0f};
    for (int32_t i = 0; i < merge.parts; ++i) {
        state.max = gpu::max(state.max, states[i * state_step]);
        state.past_max = gpu::max(state.past_max, states[i * state_step + 2]);
    }
    const float base = safe_max(state.max);
    const float past_base = safe_max(state.past_max);
    for (int32_t i = 0; i < merge.parts; ++i) {
        state.sum += states[i * state_step + 1] * gpu::exp2(states[i * state_step] - base);
        state.past_sum += states[i * state_step + 3] * gpu::exp2(states[i * state_step + 2] - past_base);
    }
    for (int channel = lane; channel < p.cache.head_dim; channel += gpu::kWarpSize) {
        float o = 0.0f;
        for (int32_t i = 0; i < merge.parts; ++i) o = gpu::fma(parts[i * part_step + channel], gpu::exp2(states[i * state_step] - base), o);
        write_result(p, work, r, channel, o, state);
    }
}

} // namespace strata
