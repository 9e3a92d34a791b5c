// SPDX-License-Identifier: Apache-2.0
// bitstack on the CPU: what its three files share. Everything is fp32; nothing is ever rounded to less.
#pragma once

#include "ops/bitstack/bitstack.h"
#include "simd/signs.h"

namespace strata::STRATA_ISA_NAMESPACE {

inline constexpr std::int64_t kRows = kBitStackRows;
inline constexpr std::int64_t kColumns = kBitStackColumns;

/// Up to this many rows of x tables of signed sums beat rebuilding W: they cost rank/2 operations per element, level and
/// row of x, rebuilding rank + 3 per element and level and then one per row of x; permutes are dearer than multiply-adds.
inline constexpr std::int64_t kLookUpRows = 1;
/// Rows of x that one rebuilt tile serves.
inline constexpr std::int64_t kTokenBlock = 256;

/// How a run is cut: by the problem alone, never by the number of threads.
struct BitStackSplit {
    bool look_up;
    std::int64_t panels_per_chunk;
    std::int64_t tokens_per_chunk;
    std::int64_t panel_chunks;
    std::int64_t token_chunks;
    std::int64_t scratch_floats; // of one worker
};

/// Panels first ... end - 1 and rows of x `token` ... token + tokens - 1.
struct BitStackChunk {
    std::int64_t first;
    std::int64_t end;
    std::int64_t token;
    std::int64_t tokens;
};

BitStackSplit split_look_up(const BitStackProblem &p);
BitStackSplit split_rebuild(const BitStackProblem &p);

/// y rows of a chunk by tables of signed sums.
void multiply_look_up(const BitStackProblem &p, const BitStackChunk &chunk, float *scratch);
/// y rows of a chunk, or W of a chunk's panels, by rebuilding tiles of W.
void multiply_rebuild(const BitStackProblem &p, const BitStackChunk &chunk, float *scratch);
void decode_rebuild(const BitStackProblem &p, const BitStackChunk &chunk, float *scratch);

/// Signs of 32 columns of a block, one word a row.
static inline I32x16 sign_words(const BitStackProblem &p, const BitStackLevelView &level, std::int64_t panel, std::int64_t block, std::int64_t half) {
    const std::int64_t at = (panel * p.blocks + block) * (kBitStackBlockBytes / 4) + half * kRows;
    return I32x16::load(reinterpret_cast<const std::int32_t *>(level.signs + at));
}

/// V of one block as fp32 [rank][64].
static inline void widen_v(const BitStackLevelView &level, std::int64_t block, float *v) {
    const std::int64_t count = level.rank * kColumns;
    const std::uint16_t *from = level.v + block * count;
    for (std::int64_t i = 0; i < count; i += 16) {
        F32x16::load_f16(from + i).store(v + i);
    }
}

/// U of one panel, one vector a rank.
static inline void widen_u(const BitStackLevelView &level, std::int64_t panel, F32x16 *u) {
    const std::uint16_t *from = level.u + panel * level.rank * kRows;
    for (std::int32_t r = 0; r < level.rank; ++r) {
        u[r] = F32x16::load_f16(from + r * kRows);
    }
}

/// Columns of one block of a row of x as fp32 [64]; past k they are 0, as V is there, and 0 times what lies behind x might not be.
static inline void widen_x(const BitStackProblem &p, std::int64_t row, std::int64_t block, float *x) {
    const std::int64_t first = block * kColumns;
    for (std::int64_t i = 0; i < kColumns; i += 16) {
        const std::int64_t left = p.k - first - i;
        const auto lanes = static_cast<std::int32_t>(left < 0 ? 0 : left < 16 ? left : 16);
        const F32x16 v = lanes == 0 ? F32x16::zero() : load_as_f32(p.x.dtype, p.x.data, row * p.x.stride[0] + first + i, lanes);
        v.store(x + i);
    }
}

/// Sixteen results of one row of y, those past n dropped.
static inline void store_y(const BitStackProblem &p, std::int64_t row, std::int64_t panel, F32x16 value) {
    const std::int64_t left = p.n - panel * kRows;
    store_from_f32(p.y.dtype, p.y.data, row * p.y.stride[0] + panel * kRows, value, static_cast<std::int32_t>(left < kRows ? left : kRows));
}

} // namespace strata::STRATA_ISA_NAMESPACE
