// SPDX-License-Identifier: Apache-2.0
// Eight tile registers of 16 rows x 64 bytes: what kernels for AMX are templates over. Each type owns the tile state of its thread from construction
// to destruction; make one on entry to a chunk of work and never hold it across a wait or a return to the caller.
//
//   tiles.load<t>(p, stride)    row i of tile t from p + i * stride bytes      store<t>(p, stride)      zero<t>()
//   tiles.dot<c, a, b>()        bf16:  C[m][n] += sum over k of A[m][2k] B[k][2n] + A[m][2k+1] B[k][2n+1]       16 x 16 x 32
//
// The sum, in hardware and in SoftTiles to the bit: e over the even and o over the odd numbers of k, each a chain of fused multiply-adds from zero,
// then C + (e + o); every step rounds to nearest even, denormal operands and results are zeros.
#pragma once

#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

#if defined(__AMX_TILE__) && defined(__AMX_BF16__)

/// Instructions. The wrappers are our own because the compiler's do not name the memory they touch (gcc 12: 8 of the 64 bytes of a configuration,
/// none of a tile), and stores before them were lost.
struct HwTiles {
    HwTiles() {
        struct alignas(64) Configuration {
            std::uint8_t palette = 1;
            std::uint8_t start_row = 0;
            std::uint8_t reserved[14] = {};
            std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        };
        static_assert(sizeof(Configuration) == 64);
        static constexpr Configuration kAllWhole{};
        __asm__ volatile("ldtilecfg %0" : : "m"(kAllWhole));
    }
    ~HwTiles() { __asm__ volatile("tilerelease"); }
    HwTiles(const HwTiles &) = delete;
    HwTiles &operator=(const HwTiles &) = delete;

    template <int T>
    void load(const void *p, std::int64_t stride) {
        __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(p), "r"(stride), "m"(*static_cast<const char(*)[]>(p)));
    }
    template <int T>
    void store(void *p, std::int64_t stride) {
        __asm__ volatile("tilestored %%tmm%c1, (%2,%3,1)" : "=m"(*static_cast<char(*)[]>(p)) : "i"(T), "r"(p), "r"(stride));
    }
    template <int T>
    void zero() {
        __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
    }
    template <int C, int A, int B>
    void dot() {
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
    }
};

#endif

/// The same in arrays, for tests on any machine.
class SoftTiles {
public:
    template <int T>
    void load(const void *p, std::int64_t stride) {
        for (int i = 0; i < 16; ++i) std::memcpy(rows_[T][i], static_cast<const char *>(p) + i * stride, 64);
    }
    template <int T>
    void store(void *p, std::int64_t stride) {
        for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char *>(p) + i * stride, rows_[T][i], 64);
    }
    template <int T>
    void zero() {
        std::memset(rows_[T], 0, sizeof rows_[T]);
    }
    template <int C, int A, int B>
    void dot() {
        for (int m = 0; m < 16; ++m) {
            F32x16 even = F32x16::zero();
            F32x16 odd = F32x16::zero();
            for (int k = 0; k < 16; ++k) {
                const Bf16x32 a = Bf16x32::set_pair(rows_[A][m] + 2 * k);
                const Bf16x32 b = Bf16x32::load(rows_[B][k]);
                even = flush(fused(flush(even_as_f32(a)), flush(even_as_f32(b)), even));
                odd = flush(fused(flush(odd_as_f32(a)), flush(odd_as_f32(b)), odd));
            }
            const F32x16 sum = flush(even + odd);
            as_pairs(flush(flush(as_words(Bf16x32::load(rows_[C][m]))) + sum)).store(rows_[C][m]);
        }
    }

private:
    alignas(64) std::uint16_t rows_[8][16][32] = {};
};

// What the kernels of this instruction set multiply with.
#if defined(STRATA_EMULATED_AMX)
inline constexpr bool kTileProducts = true;
using Tiles = SoftTiles;
#elif defined(__AMX_TILE__) && defined(__AMX_BF16__)
inline constexpr bool kTileProducts = true;
using Tiles = HwTiles;
#else
inline constexpr bool kTileProducts = false;
using Tiles = SoftTiles;
#endif

} // namespace strata::STRATA_ISA_NAMESPACE
