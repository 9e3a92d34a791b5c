// SPDX-License-Identifier: Apache-2.0
// bitstack for one row of x: tables of signed sums instead of W.
//
// Formula  Z[i,r] = sum_j sign[i,j] T[r,j] with T[r,j] = V[r,j] x[j];  y[i] += sum_r U[i,r] Z[i,r].
// Four columns have 16 signed sums. They are computed once per rank and chunk of rows; then one permute and one addition serve 4 columns of
// 16 rows, where rebuilding W takes four multiply-adds. Every sum is exact in the sense of fp32: no integers, no scales.
//
//     block of 64 columns = 16 groups of 4            table of (group, rank): 16 floats
//     panel's sign word    ...|0110|1011|  → lane's index → permute → + Z[panel][rank]
//
// Split    chunks of panels; blocks outside, panels inside, so that a block's tables (1 KiB a rank) stay in L1.
#include "ops/bitstack/bitstack_cpu.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int64_t kGroups = kColumns / 4;
constexpr std::int64_t kGroupsPerWord = 8;
constexpr std::int64_t kTable = 16;
// Enough panels to earn the tables back (five operations a table, two a panel), few enough that Z stays in L1 beside them.
constexpr std::int64_t kMostPanels = 16;

// signs[j][i] is the sign of the group's column j in entry i: bit j of i is 1 where it is minus.
struct Patterns {
    float signs[4][kTable];
};
constexpr Patterns make_patterns() {
    Patterns p{};
    for (std::size_t j = 0; j < 4; ++j) {
        for (std::size_t i = 0; i < kTable; ++i) {
            p.signs[j][i] = (i >> j & 1) != 0 ? -1.0F : 1.0F;
        }
    }
    return p;
}
constexpr Patterns kPatterns = make_patterns();

// tables[group][rank][16] of one block; v is widened V, and becomes T.
void make_tables(std::int32_t rank, const float *x, float *v, float *tables) {
    for (std::int32_t r = 0; r < rank; ++r) {
        float *t = v + r * kColumns;
        for (std::int64_t i = 0; i < kColumns; i += 16) {
            (F32x16::load(t + i) * F32x16::load(x + i)).store(t + i);
        }
    }
    const F32x16 sign0 = F32x16::load(kPatterns.signs[0]);
    const F32x16 sign1 = F32x16::load(kPatterns.signs[1]);
    const F32x16 sign2 = F32x16::load(kPatterns.signs[2]);
    const F32x16 sign3 = F32x16::load(kPatterns.signs[3]);
    for (std::int64_t group = 0; group < kGroups; ++group) {
        const auto bit = static_cast<std::int32_t>(group % kGroupsPerWord * 4);
        const std::int64_t first = group / kGroupsPerWord * 32 + bitstack_column(bit); // the four columns lie two apart
        for (std::int32_t r = 0; r < rank; ++r) {
            const float *t = v + r * kColumns + first;
            F32x16 sum = sign0 * F32x16::set(t[0]);
            sum = fma(sign1, F32x16::set(t[2]), sum);
            sum = fma(sign2, F32x16::set(t[4]), sum);
            sum = fma(sign3, F32x16::set(t[6]), sum);
            sum.store(tables + (group * rank + r) * kTable);
        }
    }
}

// Adds one block to Z[rank][16] of one panel: ranks first ... first + Ranks - 1.
template <int Ranks>
void add_sums(const float *tables, std::int32_t rank, std::int32_t first, const OddIndex *index, float *z) {
    F32x16 sum[static_cast<std::size_t>(Ranks)];
    for (int i = 0; i < Ranks; ++i) {
        sum[i] = F32x16::zero();
    }
    for (std::int64_t group = 0; group < kGroups; ++group) {
        const float *table = tables + (group * rank + first) * kTable;
#pragma GCC unroll 16
        for (int i = 0; i < Ranks; ++i) {
            sum[i] = sum[i] + look_up(table + i * kTable, index[group]);
        }
    }
    for (int i = 0; i < Ranks; ++i) {
        float *to = z + (first + i) * kRows;
        (F32x16::load(to) + sum[i]).store(to);
    }
}

void add_block(const float *tables, std::int32_t rank, const OddIndex *index, float *z) {
    std::int32_t r = 0;
    if constexpr (kLookUpPass >= 16) {
        for (; rank - r >= 16; r += 16) add_sums<16>(tables, rank, r, index, z);
        for (; rank - r >= 8; r += 8) add_sums<8>(tables, rank, r, index, z);
    }
    for (; rank - r >= 4; r += 4) add_sums<4>(tables, rank, r, index, z);
    for (; r < rank; ++r) add_sums<1>(tables, rank, r, index, z);
}

struct Scratch {
    float *tables; // [groups][rank][16]
    float *v;      // [rank][64]
    float *z;      // [panels][rank][16]
    float *y;      // [panels][16]
    float *x;      // [64]
};

void add_level(const BitStackProblem &p, const BitStackLevelView &level, const BitStackChunk &chunk, std::int64_t row, const Scratch &s) {
    const std::int64_t panel_sums = level.rank * kRows;
    const std::int64_t sums = (chunk.end - chunk.first) * panel_sums;
    for (std::int64_t i = 0; i < sums; i += 16) {
        F32x16::zero().store(s.z + i);
    }
    for (std::int64_t block = 0; block < p.blocks; ++block) {
        widen_x(p, row, block, s.x);
        widen_v(level, block, s.v);
        make_tables(level.rank, s.x, s.v, s.tables);
        for (std::int64_t panel = chunk.first; panel < chunk.end; ++panel) {
            OddIndex index[kGroups];
            for (std::int64_t half = 0; half < 2; ++half) {
                const I32x16 words = sign_words(p, level, panel, block, half);
                for (std::int64_t group = 0; group < kGroupsPerWord; ++group) {
                    index[half * kGroupsPerWord + group] = OddIndex(words, static_cast<int>(4 * group));
                }
            }
            add_block(s.tables, level.rank, index, s.z + (panel - chunk.first) * panel_sums);
        }
    }
    for (std::int64_t panel = chunk.first; panel < chunk.end; ++panel) {
        F32x16 u[kBitStackMaxRank];
        widen_u(level, panel, u);
        const float *z = s.z + (panel - chunk.first) * panel_sums;
        F32x16 sum = F32x16::zero();
        for (std::int32_t r = 0; r < level.rank; ++r) {
            sum = fma(u[r], F32x16::load(z + r * kRows), sum);
        }
        float *y = s.y + (panel - chunk.first) * kRows;
        (F32x16::load(y) + sum).store(y);
    }
}

} // namespace

BitStackSplit split_look_up(const BitStackProblem &p) {
    BitStackSplit split{};
    split.look_up = true;
    const std::int64_t quarter = (p.panels + 3) / 4;
    split.panels_per_chunk = quarter < kMostPanels ? quarter : kMostPanels;
    split.panel_chunks = (p.panels + split.panels_per_chunk - 1) / split.panels_per_chunk;
    split.tokens_per_chunk = 1;
    split.token_chunks = p.m;
    split.scratch_floats = kGroups * p.max_rank * kTable + p.max_rank * kColumns + split.panels_per_chunk * (p.max_rank + 1) * kRows + kColumns;
    return split;
}

void multiply_look_up(const BitStackProblem &p, const BitStackChunk &chunk, float *scratch) {
    Scratch s{};
    s.tables = scratch;
    s.v = s.tables + kGroups * p.max_rank * kTable;
    s.x = s.v + p.max_rank * kColumns;
    s.y = s.x + kColumns;
    s.z = s.y + (chunk.end - chunk.first) * kRows;
    for (std::int64_t panel = chunk.first; panel < chunk.end; ++panel) {
        F32x16::zero().store(s.y + (panel - chunk.first) * kRows);
    }
    for (std::int32_t level = 0; level < p.level_count; ++level) {
        add_level(p, p.levels[level], chunk, chunk.token, s);
    }
    for (std::int64_t panel = chunk.first; panel < chunk.end; ++panel) {
        store_y(p, chunk.token, panel, F32x16::load(s.y + (panel - chunk.first) * kRows));
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
