// SPDX-License-Identifier: Apache-2.0
// rms_norm on the CPU: y[r,i] = x[r,i] / sqrt(mean_i x[r,i]^2 + epsilon) * weight[i].
//
// Shapes   x, y [rows, n]; weight [n].   Bound: bytes, (sizeof x + sizeof y) per element; a row is read twice, the second time from L1.
// Split    chunks of whole rows, so a row's sum has one order whatever the number of threads.
#include "core/thread_pool.h"
#include "ops/rms_norm/rms_norm.h"
#include "simd/vec.h"

#include <cmath>

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

// Elements below which waking another thread costs more than it saves.
constexpr std::int64_t kElementsPerChunk = 16384;

void normalise_row(const RmsNormProblem &p, std::int64_t row) {
    const std::int64_t x = row * p.x.stride[0];
    const std::int64_t y = row * p.y.stride[0];
    F32x16 squares = F32x16::zero();
    for (std::int64_t i = 0; i < p.n; i += 16) {
        const F32x16 v = load_as_f32(p.x.dtype, p.x.data, x + i, static_cast<std::int32_t>(p.n - i < 16 ? p.n - i : 16));
        squares = fma(v, v, squares);
    }
    const float mean = reduce_add(squares) / static_cast<float>(p.n);
    const F32x16 factor = F32x16::set(1.0F / std::sqrt(mean + p.epsilon));
    const auto *weight = static_cast<const float *>(p.weight.data);
    for (std::int64_t i = 0; i < p.n; i += 16) {
        const auto lanes = static_cast<std::int32_t>(p.n - i < 16 ? p.n - i : 16);
        const F32x16 v = load_as_f32(p.x.dtype, p.x.data, x + i, lanes);
        const F32x16 w = load_as_f32(STRATA_DTYPE_F32, weight, i, lanes);
        store_from_f32(p.y.dtype, p.y.data, y + i, v * factor * w, lanes);
    }
}

} // namespace

Status rms_norm_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const RmsNormProblem *>(problem);
    exec.impl = IMPL_NAME("rms_norm");
    if (exec.dry_run || p.n == 0) {
        return STRATA_OK;
    }
    const std::int64_t rows_per_chunk = 1 + kElementsPerChunk / p.n;
    const std::int64_t chunks = (p.rows + rows_per_chunk - 1) / rows_per_chunk;
    parallel_for(*exec.pool, chunks, [&](std::int64_t chunk, std::int32_t) {
        const std::int64_t end = (chunk + 1) * rows_per_chunk < p.rows ? (chunk + 1) * rows_per_chunk : p.rows;
        for (std::int64_t row = chunk * rows_per_chunk; row < end; ++row) {
            normalise_row(p, row);
        }
    });
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
