// SPDX-License-Identifier: Apache-2.0
// elementwise on the GPU: y = a + b, or y = a / (1 + exp(-a)) * b.
//
// Shapes   a, b, y [rows, n].
// Bound    bytes: 3 sizeof(a) an element.
// Split    one thread takes a chunk of kChunk neighbouring elements of a row; grid-stride over all chunks.
#include "cuda/elements.cuh"
#include "cuda/op_gpu.h"
#include "ops/elementwise/elementwise.h"

namespace strata {

namespace {

constexpr int kThreads = 128;

struct ElementwiseParams {
    const void *a;
    const void *b;
    void *y;
    int64_t a_row, b_row, y_row; // strides, elements
    int64_t n, chunks, work;     // chunks of a row; chunks of all rows
    int32_t dtype, function;
    bool a_wide, b_wide, y_wide;
};

// exp(-a) = 2^whole 2^part: the hardware's exponent of a rounded product alone would be off by 2^-17 where a is large.
GPU_DEVICE float exp_negative(float a) {
    constexpr float kLog2eHigh = 1.44269502162933349609f;
    constexpr float kLog2eLow = 1.92596299112661746887e-8f;
    const float whole = gpu::max(-150.0f, gpu::min(150.0f, gpu::round(-a * kLog2eHigh)));
    const float part = gpu::fma(-a, kLog2eLow, gpu::fma(-a, kLog2eHigh, -whole));
    return gpu::exp2(part) * gpu::exp2(whole);
}

GPU_DEVICE float silu(float a) { return gpu::div(a, 1.0f + exp_negative(a)); }

GPU_KERNEL(kThreads, 8) elementwise_kernel(ElementwiseParams p) {
    const int64_t stride = int64_t{gpu::grid_dim_x()} * kThreads;
    for (int64_t item = int64_t{gpu::block_x()} * kThreads + gpu::thread_x(); item < p.work; item += stride) {
        const int64_t row = item / p.chunks;
        const int64_t column = item % p.chunks * kChunk;
        const int count = static_cast<int>(gpu::min(int64_t{kChunk}, p.n - column));
        float a[kChunk];
        float b[kChunk];
        load_chunk(p.dtype, p.a, row * p.a_row + column, count, p.a_wide, a);
        load_chunk(p.dtype, p.b, row * p.b_row + column, count, p.b_wide, b);
        if (p.function == STRATA_ELEMENTWISE_ADD) {
            GPU_UNROLL
            for (int i = 0; i < kChunk; ++i) a[i] += b[i];
        } else {
            GPU_UNROLL
            for (int i = 0; i < kChunk; ++i) a[i] = silu(a[i]) * b[i];
        }
        store_chunk(p.dtype, p.y, row * p.y_row + column, count, p.y_wide, a);
    }
}

} // namespace

Status elementwise_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const ElementwiseProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("elementwise");
    if (exec.dry_run || p.rows == 0 || p.n == 0) return STRATA_OK;
    ElementwiseParams params{};
    params.a = p.a.data;
    params.b = p.b.data;
    params.y = p.y.data;
    params.a_row = p.a.stride[0];
    params.b_row = p.b.stride[0];
    params.y_row = p.y.stride[0];
    params.n = p.n;
    params.chunks = (p.n + kChunk - 1) / kChunk;
    params.work = p.rows * params.chunks;
    params.dtype = p.a.dtype;
    params.function = p.function;
    params.a_wide = wide_rows(p.a);
    params.b_wide = wide_rows(p.b);
    params.y_wide = wide_rows(p.y);
    const int grid = grid_blocks(params.work, kThreads, exec.multiprocessors);
    return launched("elementwise", GPU_LAUNCH(elementwise_kernel, grid, kThreads, 0, exec.stream, params));
}

} // namespace strata
