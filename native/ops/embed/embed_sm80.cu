// SPDX-License-Identifier: Apache-2.0
// embed on the GPU: y[t,:] = dequantise(W)[ids[t],:].
//
// Shapes   ids [tokens]; W [n, k] in panels; y [tokens, k].   Bound: bytes of y; a row's codes lie 4 together in every 64 of its panel.
// Split    a warp takes 32 neighbouring columns of one token, a lane one column; grid-stride over all of them. An id out of range is reported and
//          gives zeros.
#include "cuda/op_gpu.h"
#include "cuda/panel.cuh"
#include "ops/embed/embed.h"

namespace strata {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / gpu::kWarpSize;

struct EmbedParams {
    PanelParams w;
    const int32_t *ids;
    void *y;
    uint32_t *fault;
    int64_t n, y_row, chunks, work; // chunks of 32 columns in a row; in all rows
    int32_t y_dtype, w_dtype;       // w_dtype: of float weights, else NONE
};

GPU_DEVICE float embedded_value(const EmbedParams &p, int64_t id, int64_t chunk, int lane) {
    const unsigned char *panel = p.w.panels + id / kPanelRows * p.w.panel_bytes;
    const int row = static_cast<int>(id % kPanelRows);
    if (p.w_dtype != STRATA_DTYPE_NONE) return load_element(p.w_dtype, panel, (32 * chunk + lane) * kPanelRows + row);
    return panel_weight(p.w, group_place(p.w, panel, chunk), row, lane);
}

GPU_KERNEL(kThreads, 4) embed_kernel(EmbedParams p) {
    const int lane = gpu::lane_id();
    const int64_t step = int64_t{gpu::grid_dim_x()} * kWarps;
    for (int64_t item = int64_t{gpu::block_x()} * kWarps + gpu::warp_id(); item < p.work; item += step) {
        const int64_t token = item / p.chunks;
        const int64_t chunk = item % p.chunks;
        const int64_t id = p.ids[token];
        const bool known = id >= 0 && id < p.n;
        if (!known && chunk == 0 && lane == 0) raise_fault(p.fault, kFaultIndex);
        if (32 * chunk + lane >= p.w.k) continue;
        store_element(p.y_dtype, p.y, token * p.y_row + 32 * chunk + lane, known ? embedded_value(p, id, chunk, lane) : 0.0f);
    }
}

} // namespace

Status embed_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const EmbedProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("embed");
    if (exec.dry_run || p.tokens == 0) return STRATA_OK;
    EmbedParams params{};
    params.w = panel_params(p.w);
    params.ids = static_cast<const int32_t *>(p.ids.data);
    params.y = p.y.data;
    params.fault = exec.fault;
    params.n = p.w.n;
    params.y_row = p.y.stride[0];
    params.chunks = (p.w.k + 31) / 32;
    params.work = p.tokens * params.chunks;
    params.y_dtype = p.y.dtype;
    params.w_dtype = is_float_format(p.w.format) ? float_weight_dtype(p.w.format) : STRATA_DTYPE_NONE;
    const int grid = grid_blocks(params.work, kWarps, exec.multiprocessors);
    return launched("embed", GPU_LAUNCH(embed_kernel, grid, kThreads, 0, exec.stream, params));
}

} // namespace strata
