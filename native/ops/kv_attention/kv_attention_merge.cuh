// SPDX-License-Identifier: Apache-2.0
// kv_attention: the kernel that adds the partial results of tiles with several items.
#pragma once

#include "ops/kv_attention/kv_attention_combine.cuh"

namespace strata {

constexpr int kMostChannels = 512; // of a head
constexpr int kLaneChannels = 4;   // of a lane at a time, with the loads of as many parts under way

struct MergeSmem {
    float o[kWarps][kMostChannels];
    float numbers[kWarps][kStateNumbers];
    RowEnd end;
};

/// The largest of every thread's value, or their sum; all threads get the same.
struct BlockMax {
    GPU_DEVICE static float join(float a, float b) { return gpu::max(a, b); }
};
struct BlockSum {
    GPU_DEVICE static float join(float a, float b) { return a + b; }
};
template <class Join>
GPU_DEVICE float over_block(float value, float (&warps)[kWarps][kStateNumbers], int number) {
    GPU_UNROLL
    for (int mask = 1; mask < gpu::kWarpSize; mask *= 2) value = Join::join(value, gpu::shfl_xor(value, mask));
    if (gpu::lane_id() == 0) warps[gpu::warp_id()][number] = value;
    gpu::sync_threads();
    float all = warps[0][number];
    GPU_UNROLL
    for (int w = 1; w < kWarps; ++w) all = Join::join(all, warps[w][number]);
    return all;
}

/// Adds the partial results of one row of a tile. Threads take parts for the states, then each warp every fourth part for the channels.
GPU_KERNEL(kThreads, 4) kv_attention_merge_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(bytes);
    auto &smem = *reinterpret_cast<MergeSmem *>(bytes);
    gpu::let_next_start();
    gpu::wait_for_previous();
    const KvAttentionPlanHeader header = *p.plan.header;
    const KvAttentionMerge merge = p.plan.merges[gpu::block_x()];
    if (!plan_fits(p, header)) return; // the attention kernels have raised the fault
    if (gpu::block_x() >= header.merges) return;
    const Work work = find_rows(p, merge.sequence, merge.head, merge.row, merge.rows, kManyRows);
    const int32_t r = gpu::block_y();
    const int64_t last = merge.first + int64_t{merge.parts} * work.rows;
    if (merge.first < 0 || merge.parts < 1 || last > header.partials) {
        raise_fault(p.fault, kFaultIndex);
        return;
    }
    if (r >= work.rows) return;
    const int thread = gpu::thread_x();
    const int64_t first = int64_t{merge.first} + r;
    const float *states = p.partial_state + first * kStateNumbers;
    const float *parts = p.partial_o + first * p.cache.head_dim;
    const int64_t state_step = int64_t{work.rows} * kStateNumbers;
    const int64_t part_step = int64_t{work.rows} * p.cache.head_dim;

    RowState state{-gpu::kInfinity, 0.0f, -gpu::kInfinity, 0.0f};
    for (int32_t i = thread; i < merge.parts; i += kThreads) {
        state.max = gpu::max(state.max, states[i * state_step]);
        state.past_max = gpu::max(state.past_max, states[i * state_step + 2]);
    }
    state.max = over_block<BlockMax>(state.max, smem.numbers, 0);
    state.past_max = over_block<BlockMax>(state.past_max, smem.numbers, 1);
    const float base = safe_max(state.max);
    const float past_base = safe_max(state.past_max);
    for (int32_t i = thread; i < merge.parts; i += kThreads) {
        state.sum += states[i * state_step + 1] * gpu::exp2(states[i * state_step] - base);
        state.past_sum += states[i * state_step + 3] * gpu::exp2(states[i * state_step + 2] - past_base);
    }
    state.sum = over_block<BlockSum>(state.sum, smem.numbers, 2);
    state.past_sum = over_block<BlockSum>(state.past_sum, smem.numbers, 3);

    for (int channel = gpu::lane_id(); channel < p.cache.head_dim; channel += kLaneChannels * gpu::kWarpSize) {
        float o[std::size_t{kLaneChannels}] = {};
        GPU_UNROLL_BY(4)
        for (int32_t i = gpu::warp_id(); i < merge.parts; i += kWarps) {
            const float weight = gpu::exp2(states[i * state_step] - base);
            GPU_UNROLL
            for (int j = 0; j < kLaneChannels; ++j) {
                o[j] = gpu::fma(parts[i * part_step + gpu::min(channel + j * gpu::kWarpSize, p.cache.head_dim - 1)], weight, o[j]);
            }
        }
        GPU_UNROLL
        for (int j = 0; j < kLaneChannels; ++j) {
            if (channel + j * gpu::kWarpSize < p.cache.head_dim) smem.o[gpu::warp_id()][channel + j * gpu::kWarpSize] = o[j];
        }
    }
    if (thread == 0) smem.end = end_row(p, work, r, state);
    gpu::sync_threads();
    for (int channel = thread; channel < p.cache.head_dim; channel += kThreads) {
        float all = smem.o[0][channel];
        GPU_UNROLL
        for (int w = 1; w < kWarps; ++w) all += smem.o[w][channel];
        emit(p, work, r, channel, all, smem.end);
    }
}

} // namespace strata
