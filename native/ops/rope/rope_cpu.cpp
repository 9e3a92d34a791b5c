// SPDX-License-Identifier: Apache-2.0
// rope on the CPU: (y0, y1) = magnitude (x0 cos a - x1 sin a, x1 cos a + x0 sin a) for each channel pair, a = position *
// frequency of the pair.
//
// Shapes   x, y [tokens, heads, head_dim]; positions [tokens].   Bound: bytes, 2 sizeof(x) an element; angles once a
// token for all its heads. Split    chunks of whole tokens.
#include "core/rope_angles.h"
#include "core/thread_pool.h"
#include "ops/rope/rope.h"
#include "simd/convert.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

// Elements below which waking another thread costs more than it saves.
constexpr std::int64_t kElementsPerChunk = 16384;

void turn_token(const RopeProblem &p, const double *frequencies, std::int64_t token) {
    const std::int64_t pairs = p.rope.dims / 2;
    float cosine[kMaxRopePairs];
    float sine[kMaxRopePairs];
    float row[2 * kMaxRopePairs];
    const std::int32_t position = static_cast<const std::int32_t *>(p.positions.data)[token * p.positions.stride[0]];
    rope_angles(frequencies, pairs, position, p.rope.magnitude, cosine, sine);
    for (std::int64_t head = 0; head < p.heads; ++head) {
        const std::int64_t x = token * p.x.stride[0] + head * p.x.stride[1];
        const std::int64_t y = token * p.y.stride[0] + head * p.y.stride[1];
        convert(p.x.dtype, p.x.data, x, STRATA_DTYPE_F32, row, 0, p.head_dim);
        rope_turn(p.rope.mode, pairs, cosine, sine, row);
        convert(STRATA_DTYPE_F32, row, 0, p.y.dtype, p.y.data, y, p.head_dim);
    }
}

} // namespace

Status rope_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const RopeProblem *>(problem);
    exec.impl = IMPL_NAME("rope");
    if (exec.dry_run || p.heads == 0) {
        return STRATA_OK;
    }
    double frequencies[kMaxRopePairs];
    rope_frequencies(p.rope, static_cast<const float *>(p.factors.data), p.factors.stride[0], frequencies);
    const std::int64_t tokens_per_chunk = 1 + kElementsPerChunk / (p.heads * p.head_dim);
    const std::int64_t chunks = (p.tokens + tokens_per_chunk - 1) / tokens_per_chunk;
    parallel_for(*exec.pool, chunks, [&](std::int64_t chunk, std::int32_t) {
        const std::int64_t first = chunk * tokens_per_chunk;
        const std::int64_t end = first + tokens_per_chunk < p.tokens ? first + tokens_per_chunk : p.tokens;
        for (std::int64_t token = first; token < end; ++token) {
            turn_token(p, frequencies, token);
        }
    });
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
