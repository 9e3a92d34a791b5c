// SPDX-License-Identifier: Apache-2.0
// What simd_selftest asks of each instruction set; simd_bits.cpp is compiled once per set.
#pragma once

#include <cstdint>

#define STRATA_SIMD_BITS(isa)                                                                                             \
    namespace strata::isa {                                                                                               \
    /* out[l] = the dot product of pair l of a and b, onto sum[l]; 16 lanes */                                            \
    void dot_bits(const std::uint16_t *a, const std::uint16_t *b, const float *sum, float *out);                          \
    /* c[16][16] += a[16][32] b[16][16][2] in SoftTiles, or in this set's own tiles */                                    \
    void soft_tile_bits(const std::uint16_t *a, const std::uint16_t *b, float *c);                                        \
    void own_tile_bits(const std::uint16_t *a, const std::uint16_t *b, float *c);                                         \
    /* out[l] = exp_of_weight(x[l]); 16 lanes */                                                                          \
    void weight_bits(const float *x, float *out);                                                                         \
    /* out[0, 1, 2][l] = the sum over its numbers times factors of word l: 4 signed bytes, 4 unsigned ones, 8 nibbles; */ \
    /* of 32 factors the bytes take 4 from 8 group on, the nibbles 8; group 0 ... 3 */                                    \
    void code_bits(const std::uint8_t *words, const std::int32_t *factors, int group, std::int32_t *out);                 \
    /* sums, maxima[0, 1, 2]: of the lanes of each of 4, 8 and 16 vectors */                                              \
    void each_bits(const float (*x)[16], float (*sums)[16], float (*maxima)[16]);                                         \
    /* out[l] = the power of two at or below |x[l]|; 16 lanes */                                                          \
    void power_bits(const float *x, float *out);                                                                          \
    /* out[l] = p[l] weights[0] + q[l] weights[1]; 32 lanes */                                                            \
    void zip_bits(const std::uint16_t *p, const std::uint16_t *q, const std::uint16_t *weights, float *out);              \
    }
STRATA_SIMD_BITS(scalar)
STRATA_SIMD_BITS(avx2)
STRATA_SIMD_BITS(avx512)
STRATA_SIMD_BITS(avx512vnni)
STRATA_SIMD_BITS(amx)
