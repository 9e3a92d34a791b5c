// SPDX-License-Identifier: Apache-2.0
// bitstack on the CPU: chooses the way and deals panels of 16 rows to the threads.
//
// Formula  W[i,j] = sum over levels of sign[i,j] sum_r U[i,r] V[r,j];  y[t,i] = sum_j W[i,j] x[t,j].
// Shapes   x [m, k], y [m, n], W [n, k]; layout of a level: bitstack_layout.h.
// Bound    arithmetic: a level has n k / 8 bytes of signs, but 2 rank n k operations. Memory is 8 times away at rank 16.
#include "ops/bitstack/bitstack_cpu.h"

#include "core/thread_pool.h"

namespace strata::STRATA_ISA_NAMESPACE {

Status bitstack_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const BitStackProblem *>(problem);
    const bool decode = p.x.dtype == STRATA_DTYPE_NONE;
    const BitStackSplit look_up = split_look_up(p);
    const BitStackSplit rebuild = split_rebuild(p);
    const BitStackSplit &split = !decode && p.m <= kLookUpRows ? look_up : rebuild;
    exec.impl = IMPL_NAME("bitstack");
    // The larger of both, so that the workspace of more rows always serves fewer.
    const std::int64_t worker_floats = look_up.scratch_floats > rebuild.scratch_floats ? look_up.scratch_floats : rebuild.scratch_floats;
    float *const scratch = exec.planner.take<float>(worker_floats * exec.pool->threads());
    if (exec.dry_run || (!decode && p.m == 0)) {
        return STRATA_OK;
    }
    parallel_for(*exec.pool, split.panel_chunks * split.token_chunks, [&](std::int64_t index, std::int32_t worker) {
        BitStackChunk chunk{};
        chunk.first = index / split.token_chunks * split.panels_per_chunk;
        chunk.end = chunk.first + split.panels_per_chunk < p.panels ? chunk.first + split.panels_per_chunk : p.panels;
        chunk.token = index % split.token_chunks * split.tokens_per_chunk;
        chunk.tokens = p.m - chunk.token < split.tokens_per_chunk ? p.m - chunk.token : split.tokens_per_chunk;
        float *const mine = scratch + worker * worker_floats;
        if (decode) {
            decode_rebuild(p, chunk, mine);
        } else if (split.look_up) {
            multiply_look_up(p, chunk, mine);
        } else {
            multiply_rebuild(p, chunk, mine);
        }
    });
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
