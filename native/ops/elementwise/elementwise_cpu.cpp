// SPDX-License-Identifier: Apache-2.0
// elementwise on the CPU: y = a + b, or y = a / (1 + exp(-a)) * b.
//
// Shapes   a, b, y [rows, n].   Bound: bytes, 3 sizeof(a) an element.
// Split    chunks of kElementsPerChunk columns or of whole rows, whichever is less.
#include "core/thread_pool.h"
#include "ops/elementwise/elementwise.h"
#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

// Elements below which waking another thread costs more than it saves.
constexpr std::int64_t kElementsPerChunk = 16384;

struct Add {
    static F32x16 apply(F32x16 a, F32x16 b) { return a + b; }
};

struct SiluMul {
    static F32x16 apply(F32x16 a, F32x16 b) {
        const F32x16 one = F32x16::set(1.0F);
        return a / (one + exp(F32x16::zero() - a)) * b;
    }
};

template <class Function>
void apply_row(const ElementwiseProblem &p, std::int64_t row, std::int64_t first, std::int64_t end) {
    const std::int64_t a = row * p.a.stride[0];
    const std::int64_t b = row * p.b.stride[0];
    const std::int64_t y = row * p.y.stride[0];
    for (std::int64_t i = first; i < end; i += 16) {
        const auto lanes = static_cast<std::int32_t>(end - i < 16 ? end - i : 16);
        const F32x16 va = load_as_f32(p.a.dtype, p.a.data, a + i, lanes);
        const F32x16 vb = load_as_f32(p.b.dtype, p.b.data, b + i, lanes);
        store_from_f32(p.y.dtype, p.y.data, y + i, Function::apply(va, vb), lanes);
    }
}

template <class Function>
void apply_all(ThreadPool &pool, const ElementwiseProblem &p) {
    const std::int64_t width = p.n < kElementsPerChunk ? p.n : kElementsPerChunk; // columns of a chunk
    const std::int64_t chunks_across = (p.n + width - 1) / width;
    const std::int64_t height = chunks_across > 1 ? 1 : 1 + kElementsPerChunk / p.n; // rows of a chunk
    const std::int64_t chunks_down = (p.rows + height - 1) / height;
    parallel_for(pool, chunks_down * chunks_across, [&](std::int64_t chunk, std::int32_t) {
        const std::int64_t first_row = chunk / chunks_across * height;
        const std::int64_t end_row = first_row + height < p.rows ? first_row + height : p.rows;
        const std::int64_t first = chunk % chunks_across * width;
        const std::int64_t end = first + width < p.n ? first + width : p.n;
        for (std::int64_t row = first_row; row < end_row; ++row) {
            apply_row<Function>(p, row, first, end);
        }
    });
}

} // namespace

Status elementwise_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const ElementwiseProblem *>(problem);
    exec.impl = IMPL_NAME("elementwise");
    if (exec.dry_run || p.n == 0 || p.rows == 0) {
        return STRATA_OK;
    }
    if (p.function == STRATA_ELEMENTWISE_ADD) {
        apply_all<Add>(*exec.pool, p);
    } else {
        apply_all<SiluMul>(*exec.pool, p);
    }
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
