// SPDX-License-Identifier: Apache-2.0
// kv_attention: the kernel that adds the partial results of tiles with several items.
//
// It is short, and its time is that of loads that wait for one another: the plan, then everything else at once. Each warp finds the maximum
// and the sum from all states on its own, without meetings, while its first parts are under way.
#pragma once

#include "ops/kv_attention/kv_attention_combine.cuh"

namespace strata {

constexpr int kMostChannels = 512; // of a head
constexpr int kLaneChannels = 4;   // of a lane at a time
constexpr int kPartsAhead = 8;     // parts of a warp under way

struct MergeSmem {
    alignas(16) float o[kWarps][kMostChannels];
    RowEnd end;
};

/// Where the partial results of one row lie.
struct MergeRow {
    const float *states, *parts;
    int64_t state_step, part_step; // from a part to the next
    int32_t count;
};

/// Some channels of a part, and the maximum that they are relative to.
struct MergePart {
    gpu::U4 o;
    float max;
};

/// Parts first, first + kWarps, ...; those past the last one weigh nothing.
GPU_DEVICE void load_parts(const MergeRow &row, int32_t first, int channel, bool inside, MergePart (&parts)[kPartsAhead]) {
    const float *state = row.states + first * row.state_step;
    const float *part = row.parts + first * row.part_step + channel;
    GPU_UNROLL
    for (int k = 0; k < kPartsAhead; ++k) {
        const bool there = first + k * kWarps < row.count;
        parts[k] = MergePart{{{0, 0, 0, 0}}, -gpu::kInfinity};
        if (there) parts[k].max = *state;
        if (there && inside) parts[k].o = gpu::load16(part);
        state += kWarps * row.state_step;
        part += kWarps * row.part_step;
    }
}

/// Adds a sum relative to one maximum to a sum relative to another.
GPU_DEVICE void join_sums(float &max, float &sum, float other_max, float other_sum) {
    const float high = gpu::max(max, other_max);
    const float base = safe_max(high);
    sum = gpu::fma(other_sum, gpu::exp2(other_max - base), sum * gpu::exp2(max - base));
    max = high;
}
/// The same over a warp.
GPU_DEVICE void join_lanes(float &max, float &sum) {
    const float high = gpu::warp_reduce_max(max);
    sum = gpu::warp_reduce_add(sum * gpu::exp2(max - safe_max(high)));
    max = high;
}

/// A row's state from those of its parts; every lane gets the same.
GPU_DEVICE RowState merge_states_of(const MergeRow &row, bool past) {
    RowState state{-gpu::kInfinity, 0.0f, -gpu::kInfinity, 0.0f};
    GPU_UNROLL_BY(1)
    for (int32_t i = gpu::lane_id(); i < row.count; i += gpu::kWarpSize) {
        const gpu::U4 part = gpu::load16(row.states + i * row.state_step);
        join_sums(state.max, state.sum, gpu::as_float(part.v[0]), gpu::as_float(part.v[1]));
        if (past) join_sums(state.past_max, state.past_sum, gpu::as_float(part.v[2]), gpu::as_float(part.v[3]));
    }
    join_lanes(state.max, state.sum);
    if (past) join_lanes(state.past_max, state.past_sum);
    return state;
}

/// Adds the partial results of rows of a tile. A warp takes every fourth part.
GPU_KERNEL(kThreads, 4) kv_attention_merge_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(bytes);
    auto &smem = *reinterpret_cast<MergeSmem *>(bytes);
    gpu::let_next_start();
    const int thread = gpu::thread_x();
    const int warp = gpu::warp_id();
    const int lane_channel = gpu::lane_id() * kLaneChannels;
    constexpr int kStep = kLaneChannels * gpu::kWarpSize;
    const int head_dim = p.cache.head_dim;
    gpu::wait_for_previous();
    const KvAttentionPlanHeader header = *p.plan.header;
    const KvAttentionMerge merge = p.plan.merges[gpu::block_x()];
    const int64_t last = merge.first + int64_t{merge.parts} * merge.rows;
    // Where the plan does not fit the attention kernels have raised the fault. One condition, so that all of it is loaded together.
    const bool there = plan_fits(p, header) & (gpu::block_x() < header.merges);
    const bool good = (merge.first >= 0) & (merge.parts >= 1) & (merge.rows >= 1) & (last <= header.partials);
    if (!(there & good)) {
        if (there) raise_fault(p.fault, kFaultIndex);
        return;
    }
    const int32_t pitch = partial_pitch(head_dim);
    for (int32_t r = gpu::block_y(); r < merge.rows; r += gpu::grid_dim_y()) {
        const int64_t first = int64_t{merge.first} + r;
        const MergeRow row{p.partial_state + first * kStateNumbers, p.partial_o + first * pitch, int64_t{merge.rows} * kStateNumbers,
                           int64_t{merge.rows} * pitch, merge.parts};
        MergePart parts[kPartsAhead];
        load_parts(row, warp, lane_channel, lane_channel < pitch, parts);
        const RowState state = merge_states_of(row, p.past_lse != nullptr);
        Work work = find_rows(p, merge.sequence, merge.head, merge.row, merge.rows, kItemRows);
        if (work.rows == 0) return;
        work.partial = -1; // results are final
        const float base = safe_max(state.max);
        if (thread == 0) smem.end = end_row(p, work, r, state);

        bool loaded = true;
        for (int channel = lane_channel; channel < head_dim + lane_channel; channel += kStep) {
            float o[std::size_t{kLaneChannels}] = {};
            for (int32_t i = warp; i < merge.parts; i += kWarps * kPartsAhead) {
                if (!loaded) load_parts(row, i, channel, channel < pitch, parts);
                loaded = false;
                GPU_UNROLL
                for (int k = 0; k < kPartsAhead; ++k) {
                    const float weight = gpu::exp2(parts[k].max - base);
                    GPU_UNROLL
                    for (int j = 0; j < kLaneChannels; ++j) o[j] = gpu::fma(gpu::as_float(parts[k].o.v[j]), weight, o[j]);
                }
            }
            loaded = false;
            const gpu::U4 words{{gpu::as_uint(o[0]), gpu::as_uint(o[1]), gpu::as_uint(o[2]), gpu::as_uint(o[3])}};
            if (channel < kMostChannels) gpu::store16(smem.o[warp] + channel, words);
        }
        gpu::sync_threads();
        for (int channel = thread; channel < head_dim; channel += kThreads) {
            float all = smem.o[0][channel];
            GPU_UNROLL
            for (int w = 1; w < kWarps; ++w) all += smem.o[w][channel];
            emit(p, work, r, channel, all, smem.end);
        }
        gpu::sync_threads(); // before the next row takes their places
    }
}

} // namespace strata
