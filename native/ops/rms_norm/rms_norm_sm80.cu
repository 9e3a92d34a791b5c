// SPDX-License-Identifier: Apache-2.0
// rms_norm on the GPU: y[r,i] = x[r,i] / sqrt(mean_i x[r,i]^2 + epsilon) * weight[i].
//
// Shapes   x, y [rows, n]; weight [n].
// Bound    bytes: sizeof x + sizeof y an element; a row is read twice, the second time from the cache.
// Split    one block a row (grid-stride), a chunk of kChunk elements a thread at a time; sums in a fixed order: a
// thread's chunks ascending,
//          lanes of a warp, warps ascending.
#include "cuda/elements.cuh"
#include "cuda/op_gpu.h"
#include "ops/rms_norm/rms_norm.h"

namespace strata {

namespace {

constexpr int kThreads = 256; // 2048 elements a pass: one pass of a 135M model's row, two of an 8B model's
constexpr int kWarps = kThreads / gpu::kWarpSize;

struct RmsNormSmem {
    float sums[kWarps];
};

struct RmsNormParams {
    const void *x;
    const float *weight;
    void *y;
    int64_t x_row, y_row; // strides, elements
    int64_t rows, n;
    float epsilon;
    int32_t x_dtype, y_dtype;
    bool x_wide, y_wide, weight_wide;
};

// The sum over the block, in every thread.
GPU_DEVICE float block_sum(float value, RmsNormSmem &smem) {
    const float warp_sum = gpu::warp_reduce_add(value);
    if (gpu::lane_id() == 0) smem.sums[gpu::warp_id()] = warp_sum;
    gpu::sync_threads();
    float sum = 0.0f;
    GPU_UNROLL
    for (int warp = 0; warp < kWarps; ++warp) sum += smem.sums[warp];
    gpu::sync_threads(); // the next row writes the sums again
    return sum;
}

GPU_KERNEL(kThreads, 4) rms_norm_kernel(RmsNormParams p) {
    GPU_DYNAMIC_SMEM(raw);
    RmsNormSmem &smem = *reinterpret_cast<RmsNormSmem *>(raw);
    for (int64_t row = gpu::block_x(); row < p.rows; row += gpu::grid_dim_x()) {
        const int64_t x = row * p.x_row;
        const int64_t y = row * p.y_row;
        float v[kChunk];
        float squares = 0.0f;
        for (int64_t i = int64_t{gpu::thread_x()} * kChunk; i < p.n; i += kThreads * kChunk) {
            load_chunk(p.x_dtype, p.x, x + i, static_cast<int>(gpu::min(int64_t{kChunk}, p.n - i)), p.x_wide, v);
            GPU_UNROLL
            for (int j = 0; j < kChunk; ++j) squares = gpu::fma(v[j], v[j], squares);
        }
        const float mean = gpu::div(block_sum(squares, smem), static_cast<float>(p.n));
        const float factor = gpu::div(1.0f, gpu::sqrt(mean + p.epsilon));
        for (int64_t i = int64_t{gpu::thread_x()} * kChunk; i < p.n; i += kThreads * kChunk) {
            const int count = static_cast<int>(gpu::min(int64_t{kChunk}, p.n - i));
            float w[kChunk];
            load_chunk(p.x_dtype, p.x, x + i, count, p.x_wide, v);
            load_chunk(STRATA_DTYPE_F32, p.weight, i, count, p.weight_wide, w);
            GPU_UNROLL
            for (int j = 0; j < kChunk; ++j) v[j] = v[j] * factor * w[j];
            store_chunk(p.y_dtype, p.y, y + i, count, p.y_wide, v);
        }
    }
}

} // namespace

Status rms_norm_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const RmsNormProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("rms_norm");
    if (exec.dry_run || p.rows == 0 || p.n == 0) return STRATA_OK;
    RmsNormParams params{};
    params.x = p.x.data;
    params.weight = static_cast<const float *>(p.weight.data);
    params.y = p.y.data;
    params.x_row = p.x.stride[0];
    params.y_row = p.y.stride[0];
    params.rows = p.rows;
    params.n = p.n;
    params.epsilon = p.epsilon;
    params.x_dtype = p.x.dtype;
    params.y_dtype = p.y.dtype;
    params.x_wide = wide_rows(p.x);
    params.y_wide = wide_rows(p.y);
    params.weight_wide = wide_rows(p.weight);
    const int grid = grid_blocks(p.rows, 1, exec.multiprocessors);
    return launched("rms_norm", GPU_LAUNCH(rms_norm_kernel, grid, kThreads, sizeof(RmsNormSmem), exec.stream, params));
}

} // namespace strata
