// SPDX-License-Identifier: Apache-2.0
// What a warp computes together, straight from the fragment formulas of gpu.h. Compiled without -fsanitize=thread in
// every build: the lanes' own accesses are made, and seen, in gpu_simt.h.
#include <type_traits>

#include "half.h"
#include "runtime.h"

namespace simt {
namespace {

constexpr int kLanes = 32;

// ---- ldmatrix ------------------------------------------------------------------------------------------------------

/// Shared memory serves one 16-byte row from each of eight bank groups per cycle; equal rows count once.
int extra_cycles(MatrixArgument *const *lanes) {
    int most = 1;
    for (int i = 0; i < 8; ++i) {
        const auto row = reinterpret_cast<uintptr_t>(lanes[i]->row);
        int in_same_bank = 1;
        for (int j = 0; j < i; ++j) {
            const auto other = reinterpret_cast<uintptr_t>(lanes[j]->row);
            if (other == row) {
                in_same_bank = 1;
                break;
            }
            if ((other >> 4 & 7) == (row >> 4 & 7)) ++in_same_bank;
        }
        if (in_same_bank > most) most = in_same_bank;
    }
    return most - 1;
}

template <int Matrices, bool Transposed>
void ldmatrix(void **arguments, Site site) {
    auto **lanes = reinterpret_cast<MatrixArgument **>(arguments);
    for (int j = 0; j < Matrices; ++j) {
        count_ldmatrix(extra_cycles(lanes + 8 * j), site);
        for (int lane = 0; lane < kLanes; ++lane) {
            const int g = lane >> 2, q = lane & 3;
            uint32_t pair = 0;
            for (int e = 0; e < 2; ++e) {
                const int row = Transposed ? 2 * q + e : g, column = Transposed ? g : 2 * q + e;
                const auto *values = static_cast<const uint16_t *>(lanes[8 * j + row]->row);
                pair |= uint32_t{values[column]} << (16 * e);
            }
            lanes[lane]->registers[j] = pair;
        }
    }
}

// ---- mma -----------------------------------------------------------------------------------------------------------

/// c += a * b, every sum over k in ascending order; b is stored by rows of k so that a row of c is one vector.
template <std::size_t K, typename T>
void multiply(const T (&a)[16][K], const T (&b)[K][8], MmaArgument *const *lanes) {
    T products[16][8];
    for (int row = 0; row < 16; ++row) {
        T sum[8] = {};
        for (std::size_t k = 0; k < K; ++k)
            for (int n = 0; n < 8; ++n) sum[n] += a[row][k] * b[k][n];
        for (int n = 0; n < 8; ++n) products[row][n] = sum[n];
    }
    for (int lane = 0; lane < kLanes; ++lane) {
        const int g = lane >> 2, q = lane & 3;
        auto *c = static_cast<T *>(lanes[lane]->c);
        for (int i = 0; i < 4; ++i) {
            const T product = products[g + 8 * (i >> 1)][2 * q + (i & 1)];
            // The tensor core's integers wrap around; so does unsigned arithmetic.
            if constexpr (std::is_integral_v<T>)
                c[i] = static_cast<T>(static_cast<uint32_t>(c[i]) + static_cast<uint32_t>(product));
            else
                c[i] += product;
        }
    }
}

template <float (*Widen)(uint16_t)>
void mma_halves(void **arguments, Site) {
    auto **lanes = reinterpret_cast<MmaArgument **>(arguments);
    float a[16][16];
    float b[16][8];
    for (int lane = 0; lane < kLanes; ++lane) {
        const int g = lane >> 2, q = lane & 3;
        for (int e = 0; e < 2; ++e) {
            for (int i = 0; i < 4; ++i) a[g + 8 * (i & 1)][2 * q + e + 8 * (i >> 1)] = Widen(static_cast<uint16_t>(lanes[lane]->a[i] >> (16 * e)));
            b[2 * q + e][g] = Widen(static_cast<uint16_t>(lanes[lane]->b0 >> (16 * e)));
            b[2 * q + e + 8][g] = Widen(static_cast<uint16_t>(lanes[lane]->b1 >> (16 * e)));
        }
    }
    multiply(a, b, lanes);
}

void mma_bytes(void **arguments, Site) {
    auto **lanes = reinterpret_cast<MmaArgument **>(arguments);
    int32_t a[16][32];
    int32_t b[32][8];
    for (int lane = 0; lane < kLanes; ++lane) {
        const int g = lane >> 2, q = lane & 3;
        for (int e = 0; e < 4; ++e) {
            for (int i = 0; i < 4; ++i) a[g + 8 * (i & 1)][4 * q + e + 16 * (i >> 1)] = static_cast<int8_t>(lanes[lane]->a[i] >> (8 * e));
            b[4 * q + e][g] = static_cast<int8_t>(lanes[lane]->b0 >> (8 * e));
            b[4 * q + e + 16][g] = static_cast<int8_t>(lanes[lane]->b1 >> (8 * e));
        }
    }
    multiply(a, b, lanes);
}

// ---- products of a warpgroup, each warp's 16 rows on their own ------------------------------------------------------

template <int Columns, float (*Widen)(uint16_t), bool Rows>
void warpgroup_multiply(void **arguments, Site site) {
    auto **lanes = reinterpret_cast<WarpgroupArgument **>(arguments);
    const WarpgroupArgument &first = *lanes[0];
    for (int lane = 1; lane < kLanes; ++lane)
        if (lanes[lane]->b != first.b || lanes[lane]->apart != first.apart || lanes[lane]->add != first.add)
            fail(kBadArgument, site, "gave the lanes of a warpgroup_multiply different right operands; make it from what all lanes share");
    float a[16][16];
    float b[16][std::size_t{Columns}];
    for (int lane = 0; lane < kLanes; ++lane) {
        const int g = lane >> 2, q = lane & 3;
        for (int e = 0; e < 2; ++e)
            for (int i = 0; i < 4; ++i) a[g + 8 * (i & 1)][2 * q + e + 8 * (i >> 1)] = Widen(static_cast<uint16_t>(lanes[lane]->a[i] >> (16 * e)));
    }
    for (int k = 0; k < 16; ++k)
        for (int n = 0; n < Columns; ++n)
            b[k][n] = Widen(*reinterpret_cast<const uint16_t *>(operand_at(first.b, first.apart, Rows ? n : k, Rows ? k : n)));
    for (int row = 0; row < 16; ++row) {
        float sum[std::size_t{Columns}] = {};
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < Columns; ++n) sum[n] += a[row][k] * b[k][n];
        for (int n = 0; n < Columns; ++n) {
            float &d = lanes[row % 8 * 4 + n % 8 / 2]->d[n / 8 * 4 + row / 8 * 2 + n % 2];
            d = first.add ? d + sum[n] : sum[n];
        }
    }
}

// ---- exchanges -----------------------------------------------------------------------------------------------------

template <int (*Source)(int lane, int parameter)>
void shuffle(void **arguments, Site) {
    auto **lanes = reinterpret_cast<ExchangeArgument **>(arguments);
    uint32_t before[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) before[lane] = lanes[lane]->value;
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane]->value = before[Source(lane, lanes[lane]->parameter)];
}

int from_lane(int, int parameter) { return parameter; }
int from_xor(int lane, int parameter) { return lane ^ parameter; }
int from_below(int lane, int parameter) { return lane >= parameter ? lane - parameter : lane; }
int from_above(int lane, int parameter) { return lane + parameter < kLanes ? lane + parameter : lane; }

void vote(void **arguments, Site) {
    auto **lanes = reinterpret_cast<ExchangeArgument **>(arguments);
    uint32_t votes = 0;
    for (int lane = 0; lane < kLanes; ++lane) votes |= lanes[lane]->value << lane;
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane]->value = votes;
}

void nothing(void **, Site) {}

} // namespace

const Collective kSyncWarp{"sync_warp", nothing, true};
const Collective kLdmatrixX1{"ldmatrix_x1", ldmatrix<1, false>, false};
const Collective kLdmatrixX2{"ldmatrix_x2", ldmatrix<2, false>, false};
const Collective kLdmatrixX4{"ldmatrix_x4", ldmatrix<4, false>, false};
const Collective kLdmatrixX1Trans{"ldmatrix_x1_trans", ldmatrix<1, true>, false};
const Collective kLdmatrixX2Trans{"ldmatrix_x2_trans", ldmatrix<2, true>, false};
const Collective kLdmatrixX4Trans{"ldmatrix_x4_trans", ldmatrix<4, true>, false};
const Collective kMmaF16{"mma_f16", mma_halves<f16_to_f32>, false};
const Collective kMmaBf16{"mma_bf16", mma_halves<bf16_to_f32>, false};
const Collective kMmaS8{"mma_s8", mma_bytes, false};
const Collective kWarpgroupStart{"warpgroup_start", nothing, false};
const Collective kWarpgroupMultiply[2][2][2] = {{{{"warpgroup_multiply", warpgroup_multiply<64, f16_to_f32, false>, false},
                                                  {"warpgroup_multiply", warpgroup_multiply<64, f16_to_f32, true>, false}},
                                                 {{"warpgroup_multiply", warpgroup_multiply<64, bf16_to_f32, false>, false},
                                                  {"warpgroup_multiply", warpgroup_multiply<64, bf16_to_f32, true>, false}}},
                                                {{{"warpgroup_multiply", warpgroup_multiply<128, f16_to_f32, false>, false},
                                                  {"warpgroup_multiply", warpgroup_multiply<128, f16_to_f32, true>, false}},
                                                 {{"warpgroup_multiply", warpgroup_multiply<128, bf16_to_f32, false>, false},
                                                  {"warpgroup_multiply", warpgroup_multiply<128, bf16_to_f32, true>, false}}}};
const Collective kShuffle{"shfl", shuffle<from_lane>, false};
const Collective kShuffleXor{"shfl_xor", shuffle<from_xor>, false};
const Collective kShuffleUp{"shfl_up", shuffle<from_below>, false};
const Collective kShuffleDown{"shfl_down", shuffle<from_above>, false};
const Collective kBallot{"ballot", vote, false};
const Collective kAny{"any", vote, false};
const Collective kAll{"all", vote, false};

} // namespace simt
