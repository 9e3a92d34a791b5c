// SPDX-License-Identifier: Apache-2.0
// What the two CPU forms of qgemm share: how work is cut and how results are stored.
#pragma once

#include "core/exec.h"
#include "core/thread_pool.h"
#include "ops/qgemm/qgemm.h"
#include "simd/panel_formats.h"

namespace strata::STRATA_ISA_NAMESPACE {

/// fp32 activations, weights dequantised in registers.
Status qgemm_exact_cpu(Exec &exec, const QgemmProblem &p);
/// int8 activations, integer products.
Status qgemm_int8_cpu(Exec &exec, const QgemmProblem &p);

/// Rows of x whose packed form is in the workspace at one time: bounds the scratch; the weights are read once for each such batch.
constexpr std::int64_t kBatchTokens = 512;
/// Activation columns that one chunk of packing work covers.
constexpr std::int64_t kPackElements = 16384;

static inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
static inline std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
static inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// One job: panels [0, panels) for blocks of tokens, cut so that a chunk is worth handing out and there are enough of them to share.
struct WorkGrid {
    std::int64_t token_blocks;
    std::int64_t tokens_per_block;
    std::int64_t panel_blocks;
    std::int64_t panels_per_block;

    WorkGrid(std::int64_t tokens, std::int64_t block, std::int64_t panels, std::int64_t panel_bytes, std::int64_t k) {
        // Estimates are enough: bytes from memory at 16 a nanosecond, products at 128 a nanosecond; a chunk is worth about 4 microseconds.
        constexpr std::int64_t kChunkNanoseconds = 4000;
        tokens_per_block = block;
        token_blocks = divide_up(tokens, block);
        const std::int64_t nanoseconds = larger(panel_bytes / 16, smaller(tokens, block) * k / 8) + 1;
        panels_per_block = larger(1, smaller(kChunkNanoseconds / nanoseconds, panels));
        panel_blocks = divide_up(panels, panels_per_block);
    }
    std::int64_t chunks() const { return token_blocks * panel_blocks; }
};

/// y[token, 16 panel ...] = sums.
STRATA_INLINE void store_rows(const QgemmProblem &p, std::int64_t token, std::int64_t panel, F32x16 sums) {
    const std::int64_t row = panel * kPanelRows;
    store_from_f32(p.y.dtype, p.y.data, token * p.y.stride[0] + row, sums, static_cast<std::int32_t>(smaller(kPanelRows, p.w.n - row)));
}

} // namespace strata::STRATA_ISA_NAMESPACE
