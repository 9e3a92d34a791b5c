// SPDX-License-Identifier: Apache-2.0
// merge_states on the GPU: out = sum_i exp(lse_i - lse) out_i, lse = ln sum_i exp(lse_i).
//
// Shapes   parts [parts, tokens, q_heads, head_dim]; part_lse [parts, tokens, q_heads]; out [tokens, q_heads, head_dim].
// Bound    bytes: every part is read once.
// Split    one warp a row (token, head); neighbouring lanes take neighbouring channels; parts are added in their order.
#include "cuda/elements.cuh"
#include "cuda/op_gpu.h"
#include "ops/merge_states/merge_states.h"

namespace strata {

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / gpu::kWarpSize;

struct MergeParams {
    const void *parts;
    const float *part_lse;
    void *out;
    float *lse; // null: not wanted
    int64_t part_step, part_token, part_head, state_step, state_token, state_head, out_token, out_head, lse_token, lse_head;
    int64_t rows; // tokens * q_heads
    int32_t count, q_heads, head_dim, part_dtype, out_dtype;
};

GPU_KERNEL(kThreads, 8) merge_states_kernel(MergeParams p) {
    const int lane = gpu::lane_id();
    const int64_t stride = int64_t{gpu::grid_dim_x()} * kWarps;
    for (int64_t row = int64_t{gpu::block_x()} * kWarps + gpu::warp_id(); row < p.rows; row += stride) {
        const int64_t token = row / p.q_heads;
        const int64_t head = row % p.q_heads;
        const float *state = p.part_lse + token * p.state_token + head * p.state_head;
        const int64_t from = token * p.part_token + head * p.part_head;
        const int64_t to = token * p.out_token + head * p.out_head;

        float highest = -gpu::kInfinity;
        for (int i = 0; i < p.count; ++i) highest = gpu::max(highest, state[i * p.state_step]);
        const float base = highest == -gpu::kInfinity ? 0.0f : highest; // -inf - -inf would be NaN
        float sum = 0.0f;
        for (int i = 0; i < p.count; ++i) sum += gpu::exp2((state[i * p.state_step] - base) * gpu::kLog2e);
        for (int channel = lane; channel < p.head_dim; channel += gpu::kWarpSize) {
            float o = 0.0f;
            for (int i = 0; i < p.count; ++i) {
                const float weight = gpu::exp2((state[i * p.state_step] - base) * gpu::kLog2e);
                // a part that counts nothing may hold anything
                if (weight != 0.0f) o = gpu::fma(load_element(p.part_dtype, p.parts, from + i * p.part_step + channel), weight, o);
            }
            store_element(p.out_dtype, p.out, to + channel, sum == 0.0f ? 0.0f : gpu::div(o, sum));
        }
        if (lane == 0 && p.lse != nullptr) {
            p.lse[token * p.lse_token + head * p.lse_head] = sum == 0.0f ? highest : base + gpu::log2(sum) * gpu::kLn2;
        }
    }
}

} // namespace

Status merge_states_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const MergeStatesProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("merge_states");
    MergeParams params{};
    params.rows = p.parts.shape[1] * p.parts.shape[2];
    if (exec.dry_run || params.rows == 0) return STRATA_OK;
    params.parts = p.parts.data;
    params.part_lse = static_cast<const float *>(p.part_lse.data);
    params.out = p.out.data;
    params.lse = static_cast<float *>(p.lse.data);
    params.part_step = p.parts.stride[0];
    params.part_token = p.parts.stride[1];
    params.part_head = p.parts.stride[2];
    params.state_step = p.part_lse.stride[0];
    params.state_token = p.part_lse.stride[1];
    params.state_head = p.part_lse.stride[2];
    params.out_token = p.out.stride[0];
    params.out_head = p.out.stride[1];
    params.lse_token = p.lse.stride[0];
    params.lse_head = p.lse.stride[1];
    params.count = static_cast<std::int32_t>(p.parts.shape[0]);
    params.q_heads = static_cast<std::int32_t>(p.parts.shape[2]);
    params.head_dim = static_cast<std::int32_t>(p.parts.shape[3]);
    params.part_dtype = p.parts.dtype;
    params.out_dtype = p.out.dtype;
    const int grid = grid_blocks(params.rows * gpu::kWarpSize, kThreads, exec.multiprocessors);
    return launched("merge_states", GPU_LAUNCH(merge_states_kernel, grid, kThreads, 0, exec.stream, params));
}

} // namespace strata
