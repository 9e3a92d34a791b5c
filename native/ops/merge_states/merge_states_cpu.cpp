// SPDX-License-Identifier: Apache-2.0
// merge_states on the CPU: out = sum_i exp(lse_i - lse) out_i, lse = ln sum_i exp(lse_i).
//
// Shapes   parts [parts, tokens, q_heads, head_dim]; part_lse [parts, tokens, q_heads]; out [tokens, q_heads, head_dim].
// Bound    bytes: every part is read once.
// Split    chunks of whole rows (token, head); parts are added in their order.
#include "core/thread_pool.h"
#include "ops/merge_states/merge_states.h"
#include "simd/vec.h"

#include <cmath>

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

// Elements below which waking another thread costs more than it saves.
constexpr std::int64_t kElementsPerChunk = 16384;
constexpr std::int64_t kMostParts = 64;

void merge_row(const MergeStatesProblem &p, std::int64_t token, std::int64_t head) {
    const std::int64_t parts = p.parts.shape[0];
    const std::int64_t width = p.parts.shape[3];
    const auto *states = static_cast<const float *>(p.part_lse.data) + token * p.part_lse.stride[1] + head * p.part_lse.stride[2];
    float highest = -__builtin_inff();
    for (std::int64_t i = 0; i < parts; ++i) {
        const float state = states[i * p.part_lse.stride[0]];
        highest = state > highest ? state : highest;
    }
    const float base = highest == -__builtin_inff() ? 0.0F : highest; // -inf - -inf would be NaN
    float weights[kMostParts];
    float sum = 0.0F;
    for (std::int64_t i = 0; i < parts; ++i) {
        weights[i] = std::exp(states[i * p.part_lse.stride[0]] - base);
        sum += weights[i];
    }
    const std::int64_t from = token * p.parts.stride[1] + head * p.parts.stride[2];
    const std::int64_t to = token * p.out.stride[0] + head * p.out.stride[1];
    const F32x16 divisor = F32x16::set(sum == 0.0F ? 1.0F : sum);
    for (std::int64_t d = 0; d < width; d += 16) {
        const auto lanes = static_cast<std::int32_t>(width - d < 16 ? width - d : 16);
        F32x16 o = F32x16::zero();
        for (std::int64_t i = 0; i < parts; ++i) {
            if (weights[i] == 0.0F) continue; // a part that counts nothing may hold anything
            o = fma(load_as_f32(p.parts.dtype, p.parts.data, from + i * p.parts.stride[0] + d, lanes), F32x16::set(weights[i]), o);
        }
        store_from_f32(p.out.dtype, p.out.data, to + d, o / divisor, lanes);
    }
    if (p.lse.present()) {
        static_cast<float *>(p.lse.data)[token * p.lse.stride[0] + head * p.lse.stride[1]] = sum == 0.0F ? highest : base + std::log(sum);
    }
}

} // namespace

Status merge_states_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const MergeStatesProblem *>(problem);
    exec.impl = IMPL_NAME("merge_states");
    if (exec.dry_run) return STRATA_OK;
    const std::int64_t heads = p.parts.shape[2];
    const std::int64_t rows = p.parts.shape[1] * heads;
    const std::int64_t rows_per_chunk = 1 + kElementsPerChunk / (p.parts.shape[0] * p.parts.shape[3]);
    parallel_for(*exec.pool, (rows + rows_per_chunk - 1) / rows_per_chunk, [&](std::int64_t chunk, std::int32_t) {
        const std::int64_t first = chunk * rows_per_chunk;
        const std::int64_t end = first + rows_per_chunk < rows ? first + rows_per_chunk : rows;
        for (std::int64_t row = first; row < end; ++row) merge_row(p, row / heads, row % heads);
    });
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
