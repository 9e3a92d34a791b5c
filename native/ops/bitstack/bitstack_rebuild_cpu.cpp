// SPDX-License-Identifier: Apache-2.0
// bitstack by rebuilding tiles of W: 16 rows by 64 columns in L1, used for every row of x, then forgotten. Also the decode.
//
// Formula  tile[j][i] = sum over levels of sign[i,j] sum_r U[i,r] V[r,j];  y[t,i] += sum_j tile[j][i] x[t,j].
// A lane is a row of W: U is one vector a rank, V a broadcast, and a column's signs are one bit of each lane's word.
// Sums     each tile's share of y is summed on its own and then added, so that the error does not grow with k.
// Split    chunks of panels by blocks of kTokenBlock rows of x; blocks of columns outside, panels inside.
#include "ops/bitstack/bitstack_cpu.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

#if defined(__AVX512F__)
constexpr int kColumnsAtOnce = 8; // independent sums in registers
constexpr int kTokensAtOnce = 8;
#else
constexpr int kColumnsAtOnce = 4;
constexpr int kTokensAtOnce = 4;
#endif
constexpr std::int64_t kTileFloats = kColumns * kRows;
constexpr std::int64_t kMostPanels = 8;

// Columns of bits bit, bit - 1, ... (neighbours two apart) of one half of a block. The words have `bit` at their sign.
template <bool First>
I32x16 add_columns(std::int32_t rank, const F32x16 *u, const float *v, I32x16 words, float *tile) {
    F32x16 w[kColumnsAtOnce];
#pragma GCC unroll 8
    for (int i = 0; i < kColumnsAtOnce; ++i) {
        w[i] = u[0] * F32x16::set(v[-2 * i]);
    }
    for (std::int32_t r = 1; r < rank; ++r) {
        v += kColumns;
#pragma GCC unroll 8
        for (int i = 0; i < kColumnsAtOnce; ++i) {
            w[i] = fma(u[r], F32x16::set(v[-2 * i]), w[i]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kColumnsAtOnce; ++i) {
        float *to = tile - 2 * i * kRows;
        const F32x16 signed_w = flip_by_sign(w[i], words);
        (First ? signed_w : F32x16::load(to) + signed_w).store(to);
        words = next_bit(words);
    }
    return words;
}

// Adds one level to a tile [64][16]; the first level overwrites it.
template <bool First>
void add_level(const BitStackProblem &p, const BitStackLevelView &level, std::int64_t panel, std::int64_t block, const float *v, float *tile) {
    F32x16 u[kBitStackMaxRank];
    widen_u(level, panel, u);
    for (std::int64_t half = 0; half < 2; ++half) {
        I32x16 words = sign_words(p, level, panel, block, half);
        for (std::int32_t bit = 31; bit > 0; bit -= kColumnsAtOnce) {
            const std::int64_t column = half * 32 + bitstack_column(bit);
            words = add_columns<First>(level.rank, u, v + column, words, tile + column * kRows);
        }
    }
}

struct Scratch {
    float *tile; // [64][16]
    float *v;    // [levels][max_rank][64]
    float *x;    // [tokens][64]
    float *y;    // [tokens][panels][16]
};

Scratch divide(const BitStackProblem &p, const BitStackChunk &chunk, float *scratch) {
    Scratch s{};
    s.tile = scratch;
    s.v = s.tile + kTileFloats;
    s.x = s.v + p.level_count * p.max_rank * kColumns;
    s.y = s.x + chunk.tokens * kColumns;
    return s;
}

void widen_levels(const BitStackProblem &p, std::int64_t block, const Scratch &s) {
    for (std::int32_t level = 0; level < p.level_count; ++level) {
        widen_v(p.levels[level], block, s.v + level * p.max_rank * kColumns);
    }
}

void rebuild_tile(const BitStackProblem &p, std::int64_t panel, std::int64_t block, const Scratch &s) {
    add_level<true>(p, p.levels[0], panel, block, s.v, s.tile);
    for (std::int32_t level = 1; level < p.level_count; ++level) {
        add_level<false>(p, p.levels[level], panel, block, s.v + level * p.max_rank * kColumns, s.tile);
    }
}

// y[t] += tile^T x[t] for Tokens rows; y rows are `stride` floats apart.
template <int Tokens>
void multiply_tile(const float *tile, const float *x, float *y, std::int64_t stride) {
    F32x16 sum[static_cast<std::size_t>(Tokens)];
    for (int t = 0; t < Tokens; ++t) {
        sum[t] = F32x16::zero();
    }
    for (std::int64_t column = 0; column < kColumns; ++column) {
        const F32x16 w = F32x16::load(tile + column * kRows);
#pragma GCC unroll 8
        for (int t = 0; t < Tokens; ++t) {
            sum[t] = fma(w, F32x16::set(x[t * kColumns + column]), sum[t]);
        }
    }
    for (int t = 0; t < Tokens; ++t) {
        (F32x16::load(y + t * stride) + sum[t]).store(y + t * stride);
    }
}

} // namespace

BitStackSplit split_rebuild(const BitStackProblem &p) {
    BitStackSplit split{};
    const std::int64_t eighth = (p.panels + 7) / 8;
    split.panels_per_chunk = eighth < kMostPanels ? eighth : kMostPanels;
    split.panel_chunks = (p.panels + split.panels_per_chunk - 1) / split.panels_per_chunk;
    split.tokens_per_chunk = p.m < kTokenBlock ? p.m : kTokenBlock;
    split.token_chunks = p.m == 0 ? 1 : (p.m + split.tokens_per_chunk - 1) / split.tokens_per_chunk;
    split.scratch_floats = kTileFloats + p.level_count * p.max_rank * kColumns + split.tokens_per_chunk * (kColumns + split.panels_per_chunk * kRows);
    return split;
}

void multiply_rebuild(const BitStackProblem &p, const BitStackChunk &chunk, float *scratch) {
    const Scratch s = divide(p, chunk, scratch);
    const std::int64_t stride = (chunk.end - chunk.first) * kRows;
    for (std::int64_t i = 0; i < chunk.tokens * stride; i += 16) {
        F32x16::zero().store(s.y + i);
    }
    for (std::int64_t block = 0; block < p.blocks; ++block) {
        widen_levels(p, block, s);
        for (std::int64_t t = 0; t < chunk.tokens; ++t) {
            widen_x(p, chunk.token + t, block, s.x + t * kColumns);
        }
        for (std::int64_t panel = chunk.first; panel < chunk.end; ++panel) {
            rebuild_tile(p, panel, block, s);
            float *y = s.y + (panel - chunk.first) * kRows;
            std::int64_t t = 0;
            for (; chunk.tokens - t >= kTokensAtOnce; t += kTokensAtOnce) {
                multiply_tile<kTokensAtOnce>(s.tile, s.x + t * kColumns, y + t * stride, stride);
            }
            for (; chunk.tokens - t >= 2; t += 2) {
                multiply_tile<2>(s.tile, s.x + t * kColumns, y + t * stride, stride);
            }
            for (; t < chunk.tokens; ++t) {
                multiply_tile<1>(s.tile, s.x + t * kColumns, y + t * stride, stride);
            }
        }
    }
    for (std::int64_t t = 0; t < chunk.tokens; ++t) {
        for (std::int64_t panel = chunk.first; panel < chunk.end; ++panel) {
            store_y(p, chunk.token + t, panel, F32x16::load(s.y + t * stride + (panel - chunk.first) * kRows));
        }
    }
}

void decode_rebuild(const BitStackProblem &p, const BitStackChunk &chunk, float *scratch) {
    const Scratch s = divide(p, chunk, scratch);
    for (std::int64_t block = 0; block < p.blocks; ++block) {
        widen_levels(p, block, s);
        const std::int64_t left = p.k - block * kColumns;
        const std::int64_t count = left < kColumns ? left : kColumns;
        for (std::int64_t panel = chunk.first; panel < chunk.end; ++panel) {
            rebuild_tile(p, panel, block, s);
            for (std::int64_t row = 0; row < kRows && panel * kRows + row < p.n; ++row) {
                float w[kColumns];
                for (std::int64_t column = 0; column < kColumns; ++column) {
                    w[column] = s.tile[column * kRows + row];
                }
                const std::int64_t at = (panel * kRows + row) * p.y.stride[0] + block * kColumns;
                for (std::int64_t i = 0; i < count; i += 16) {
                    store_from_f32(p.y.dtype, p.y.data, at + i, F32x16::load(w + i), static_cast<std::int32_t>(count - i < 16 ? count - i : 16));
                }
            }
        }
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
