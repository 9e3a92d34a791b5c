// SPDX-License-Identifier: Apache-2.0
// What simd_selftest asks of each instruction set; simd_bits.cpp is compiled once per set.
#pragma once

#include <cstdint>

#define STRATA_SIMD_BITS(isa)                                                                    \
    namespace strata::isa {                                                                      \
    /* out[l] = the dot product of pair l of a and b, onto sum[l]; 16 lanes */                   \
    void dot_bits(const std::uint16_t *a, const std::uint16_t *b, const float *sum, float *out); \
    /* c[16][16] += a[16][32] b[16][16][2] in SoftTiles, or in this set's own tiles */           \
    void soft_tile_bits(const std::uint16_t *a, const std::uint16_t *b, float *c);               \
    void own_tile_bits(const std::uint16_t *a, const std::uint16_t *b, float *c);                \
    /* out[l] = exp_of_weight(x[l]); 16 lanes */                                                 \
    void weight_bits(const float *x, float *out);                                                \
    }
STRATA_SIMD_BITS(scalar)
STRATA_SIMD_BITS(avx2)
STRATA_SIMD_BITS(avx512)
STRATA_SIMD_BITS(avx512vnni)
STRATA_SIMD_BITS(amx)
