// SPDX-License-Identifier: Apache-2.0
// rope on the GPU: (y0, y1) = magnitude (x0 cos a - x1 sin a, x1 cos a + x0 sin a) for each channel pair, a = position *
// frequency of the pair.
//
// Shapes   x, y [tokens, heads, head_dim]; positions [tokens].
// Bound    bytes: 2 sizeof(x) an element.
// Split    one thread takes one channel pair (or one channel past the pairs) of kHeads heads of one token, so that its
// angle, the only
//          arithmetic that counts, is computed once for them; neighbouring threads take neighbouring channels.
#include "cuda/elements.cuh"
#include "cuda/op_gpu.h"
#include "cuda/rope.cuh"
#include "ops/rope/rope.h"

namespace strata {

namespace {

constexpr int kThreads = 128;
// Heads a thread turns with one angle: enough loads in flight to cover their latency, few enough that decode still
// fills the GPU.
constexpr int kHeads = 4;

struct RopeParams {
    const void *x;
    const int32_t *positions;
    void *y;
    int64_t x_token, x_head, y_token, y_head, position_step; // strides, elements
    int64_t heads, head_groups, work;                        // work: threads that have something to do
    int32_t dtype, slots;                                    // slots of a head: its pairs and its other channels
    RopeTable table;
};

GPU_KERNEL(kThreads, 8) rope_kernel(RopeParams p) {
    const int64_t stride = int64_t{gpu::grid_dim_x()} * kThreads;
    for (int64_t item = int64_t{gpu::block_x()} * kThreads + gpu::thread_x(); item < p.work; item += stride) {
        const int slot = static_cast<int>(item % p.slots);
        const int64_t rest = item / p.slots;
        const int64_t head = rest % p.head_groups * kHeads;
        const int64_t token = rest / p.head_groups;
        const int count = static_cast<int>(gpu::min(int64_t{kHeads}, p.heads - head));
        const bool turns = slot < p.table.pairs;
        const int channel = turns ? rope_first_channel(p.table, slot) : slot + p.table.pairs;
        const int step = turns ? rope_partner_distance(p.table) : 0;
        const int64_t x = token * p.x_token + head * p.x_head + channel;
        const int64_t y = token * p.y_token + head * p.y_head + channel;

        float first[kHeads];
        float second[kHeads];
        GPU_UNROLL
        for (int i = 0; i < kHeads; ++i) {
            first[i] = i < count ? load_element(p.dtype, p.x, x + i * p.x_head) : 0.0f;
            second[i] = i < count && turns ? load_element(p.dtype, p.x, x + i * p.x_head + step) : 0.0f;
        }
        float sine = 0.0f;
        float cosine = 1.0f;
        if (turns) rope_angle(p.table, p.positions[token * p.position_step], rope_frequency(p.table, slot), sine, cosine);
        GPU_UNROLL
        for (int i = 0; i < kHeads; ++i) {
            if (i >= count) continue;
            const int64_t to = y + i * p.y_head;
            store_element(p.dtype, p.y, to, turns ? first[i] * cosine - second[i] * sine : first[i]);
            if (turns) store_element(p.dtype, p.y, to + step, first[i] * sine + second[i] * cosine);
        }
    }
}

} // namespace

Status rope_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const RopeProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("rope");
    if (exec.dry_run || p.tokens == 0 || p.heads == 0) return STRATA_OK;
    RopeParams params{};
    params.x = p.x.data;
    params.positions = static_cast<const std::int32_t *>(p.positions.data);
    params.y = p.y.data;
    params.x_token = p.x.stride[0];
    params.x_head = p.x.stride[1];
    params.y_token = p.y.stride[0];
    params.y_head = p.y.stride[1];
    params.position_step = p.positions.stride[0];
    params.heads = p.heads;
    params.head_groups = (p.heads + kHeads - 1) / kHeads;
    params.dtype = p.x.dtype;
    params.slots = p.head_dim - p.rope.dims / 2;
    params.work = p.tokens * params.head_groups * params.slots;
    params.table = rope_table(p.rope, p.factors);
    const int grid = grid_blocks(params.work, kThreads, exec.multiprocessors);
    return launched("rope", GPU_LAUNCH(rope_kernel, grid, kThreads, 0, exec.stream, params));
}

} // namespace strata
