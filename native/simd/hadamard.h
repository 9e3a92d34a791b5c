// SPDX-License-Identifier: Apache-2.0
// The normalised Walsh-Hadamard transform of a row: each n channels times H_n / sqrt(n), H_n in natural (Sylvester) order. It is its own inverse.
//
// Butterflies h = 1, 2, 4 ... n/2 turn (a, b) into (a + b, a - b), then comes one product with 1 / sqrt(n): every instruction set, GPU and oracle
// rounds the same.
#pragma once

#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

#if defined(__AVX512F__)
// The four butterflies inside a vector: swapped neighbours plus or minus themselves.
inline F32x16 hadamard16(F32x16 x) {
    const auto butterfly = [](__m512 swapped, __m512 v, __mmask16 second) {
        return _mm512_mask_sub_ps(_mm512_add_ps(swapped, v), second, swapped, v);
    };
    __m512 v = butterfly(_mm512_shuffle_ps(x.v, x.v, 0xb1), x.v, 0xaaaa);
    v = butterfly(_mm512_shuffle_ps(v, v, 0x4e), v, 0xcccc);
    v = butterfly(_mm512_shuffle_f32x4(v, v, 0xb1), v, 0xf0f0);
    return {butterfly(_mm512_shuffle_f32x4(v, v, 0x4e), v, 0xff00)};
}
#elif defined(__AVX2__)
inline __m256 hadamard8(__m256 v) {
    v = _mm256_blend_ps(_mm256_add_ps(_mm256_shuffle_ps(v, v, 0xb1), v), _mm256_sub_ps(_mm256_shuffle_ps(v, v, 0xb1), v), 0xaa);
    v = _mm256_blend_ps(_mm256_add_ps(_mm256_shuffle_ps(v, v, 0x4e), v), _mm256_sub_ps(_mm256_shuffle_ps(v, v, 0x4e), v), 0xcc);
    const __m256 swapped = _mm256_permute2f128_ps(v, v, 1);
    return _mm256_blend_ps(_mm256_add_ps(swapped, v), _mm256_sub_ps(swapped, v), 0xf0);
}
inline F32x16 hadamard16(F32x16 x) {
    const __m256 a = hadamard8(x.a);
    const __m256 b = hadamard8(x.b);
    return {_mm256_add_ps(a, b), _mm256_sub_ps(a, b)};
}
#else
inline F32x16 hadamard16(F32x16 x) {
    for (int h = 1; h < 16; h *= 2) {
        for (int i = 0; i < 16; ++i) {
            if ((i & h) != 0) continue;
            const float a = x.v[i];
            const float b = x.v[i + h];
            x.v[i] = a + b;
            x.v[i + h] = a - b;
        }
    }
    return x;
}
#endif

/// Transforms each n of `width` channels in place; n is a power of two from 16 to 256 that divides `width`.
inline void hadamard(float *row, std::int32_t width, std::int32_t n) {
    // 1 / sqrt(n): a power of two, or one of them times the square root of a half.
    const float scale = n == 16 ? 0.25F : n == 32 ? 0.17677669529663687F : n == 64 ? 0.125F : n == 128 ? 0.08838834764831845F : 0.0625F;
    for (std::int32_t first = 0; first < width; first += n) {
        float *const x = row + first;
        for (std::int32_t i = 0; i < n; i += 16) hadamard16(F32x16::load(x + i)).store(x + i);
        for (std::int32_t h = 16; h < n; h *= 2) {
            for (std::int32_t pairs = 0; pairs < n; pairs += 2 * h) {
                for (std::int32_t i = pairs; i < pairs + h; i += 16) {
                    const F32x16 a = F32x16::load(x + i);
                    const F32x16 b = F32x16::load(x + i + h);
                    (a + b).store(x + i);
                    (a - b).store(x + i + h);
                }
            }
        }
        for (std::int32_t i = 0; i < n; i += 16) (F32x16::load(x + i) * F32x16::set(scale)).store(x + i);
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
