// SPDX-License-Identifier: Apache-2.0
// qgemm on the GPU, float weights: y[t,r] = sum_c x[t,c] w[r,c] in fp32 on the CUDA cores.
//
// Shapes       x [m, k]; W in panels [k][16 rows]; y [m, n].
// Bound        m small: bytes of W over the bandwidth; larger: m n k multiply-adds over the fp32 peak.
// Partition    a lane is a row, a warp two panels, a block 4 warps and `Tokens` tokens; x goes through shared memory, 64 columns at a time, as fp32
//              [column][token]: every lane reads the same words. Blocks: rows x tiles of tokens x splits of k.
// Order        sums of 64 columns start at zero and are added up in order, splits by a second kernel: results repeat bit for bit.
#include "cuda/panel.cuh"
#include "ops/qgemm/qgemm_gpu.h"

namespace strata {

namespace {

constexpr int kThreads = 128;
constexpr int kRows = kThreads; // of a block
constexpr int kColumns = 64;    // of a step

struct DenseParams {
    QgemmOutput out;
    const unsigned char *panels;
    const void *x;
    int64_t panel_bytes, panel_count, k;
    int64_t x_row; // stride, elements
    int64_t steps, steps_per_split;
    int32_t x_dtype, w_dtype;
};

template <int Tokens>
struct DenseSmem {
    static constexpr int kPitch = Tokens + 4; // 16-byte reads stay aligned, writes of neighbouring columns spread over the banks
    float x[kColumns][extent(kPitch)];
};

template <int Tokens>
GPU_KERNEL(kThreads, 4)
qgemm_dense_kernel(DenseParams p) {
    GPU_DYNAMIC_SMEM(raw);
    auto &smem = *reinterpret_cast<DenseSmem<Tokens> *>(raw);
    const int thread = gpu::thread_x();
    const int64_t row = int64_t{gpu::block_x()} * kRows + thread;
    const int64_t first_token = int64_t{gpu::block_y()} * Tokens;
    const int split = gpu::block_z();
    const int64_t panel = gpu::min(row / kPanelRows, p.panel_count - 1); // lanes past the last row repeat it and store nothing
    const unsigned char *weights = p.panels + panel * p.panel_bytes;
    const int64_t lane_row = row % kPanelRows;
    float totals[extent(Tokens)] = {};
    const int64_t end = gpu::min(p.steps, (split + 1) * p.steps_per_split);
    for (int64_t step = split * p.steps_per_split; step < end; ++step) {
        const int64_t first = step * kColumns;
        const int columns = static_cast<int>(gpu::min(int64_t{kColumns}, p.k - first));
        gpu::sync_threads(); // all have used the last step's x
        for (int i = thread; i < Tokens * kColumns; i += kThreads) {
            const int64_t token = first_token + i / kColumns;
            const int column = i % kColumns;
            const bool real = token < p.out.m && column < columns;
            smem.x[column][i / kColumns] = real ? load_element(p.x_dtype, p.x, token * p.x_row + first + column) : 0.0f;
        }
        gpu::sync_threads();
        float sums[extent(Tokens)] = {};
        for (int column = 0; column < columns; ++column) {
            const float w = load_element(p.w_dtype, weights, (first + column) * kPanelRows + lane_row);
            GPU_UNROLL
            for (int t = 0; t < Tokens; t += 4) {
                const gpu::U4 x = gpu::load16(&smem.x[column][t]);
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) sums[t + i] = gpu::fma(w, gpu::as_float(x.v[i]), sums[t + i]);
            }
        }
        GPU_UNROLL
        for (int t = 0; t < Tokens; ++t) totals[t] += sums[t];
    }
    GPU_UNROLL
    for (int t = 0; t < Tokens; ++t) put_sum(p.out, split, first_token + t, row, totals[t]);
}

} // namespace

Status qgemm_dense_gpu(Exec &exec, const QgemmProblem &p) {
    exec.impl = GPU_IMPL_NAME("qgemm.dense");
    const std::int64_t batch = p.m < kGpuBatch ? p.m : kGpuBatch;
    const std::int64_t tokens = batch <= 8 ? 8 : 32;
    const std::int64_t blocks = (p.w.n + kRows - 1) / kRows;
    const std::int64_t token_blocks = batch > 0 ? (batch + tokens - 1) / tokens : 1;
    const std::int64_t steps = (p.w.k + kColumns - 1) / kColumns;
    constexpr std::int64_t kLeastSteps = 2; // 128 columns a split at least
    const std::int32_t splits = split_count(blocks * token_blocks, steps, kLeastSteps, std::int64_t{exec.multiprocessors} * 8);
    float *partials = splits > 1 ? exec.planner.take<float>(splits * batch * p.w.n) : nullptr;
    if (exec.dry_run || p.m == 0) return STRATA_OK;
    for (std::int64_t first = 0; first < p.m; first += batch) {
        const std::int64_t m = p.m - first < batch ? p.m - first : batch;
        DenseParams params{};
        params.out = {
            static_cast<unsigned char *>(p.y.data) + first * p.y.stride[0] * dtype_bytes(p.y.dtype), partials, p.y.stride[0], m, p.w.n, p.y.dtype};
        params.panels = p.w.panels;
        params.x = static_cast<const unsigned char *>(p.x.data) + first * p.x.stride[0] * dtype_bytes(p.x.dtype);
        params.panel_bytes = p.w.panel_bytes;
        params.panel_count = p.w.panel_count;
        params.k = p.w.k;
        params.x_row = p.x.stride[0];
        params.steps = steps;
        params.steps_per_split = (steps + splits - 1) / splits;
        params.x_dtype = p.x.dtype;
        params.w_dtype = float_weight_dtype(p.w.format);
        const gpu::Dim3 grid(static_cast<int>(blocks), static_cast<int>((m + tokens - 1) / tokens), splits);
        const int error = tokens == 8 ? GPU_LAUNCH(qgemm_dense_kernel<8>, grid, kThreads, sizeof(DenseSmem<8>), exec.stream, params)
                                      : GPU_LAUNCH(qgemm_dense_kernel<32>, grid, kThreads, sizeof(DenseSmem<32>), exec.stream, params);
        TRY(launched("qgemm", error));
        if (splits > 1) TRY(reduce_partials(exec, params.out, splits));
    }
    return STRATA_OK;
}

} // namespace strata
