// SPDX-License-Identifier: Apache-2.0
// simd/vec.h on AVX2, FMA and F16C: two 256-bit halves.
#pragma once

#include "simd/half.h"

#include <immintrin.h>

namespace strata::STRATA_ISA_NAMESPACE {

struct F32x16 {
    __m256 a; // lanes 0-7
    __m256 b; // lanes 8-15

    static F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static F32x16 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static F32x16 set_pair(const float *p) {
        double pair;
        std::memcpy(&pair, p, sizeof pair);
        const __m256 x = _mm256_castpd_ps(_mm256_set1_pd(pair));
        return {x, x};
    }
    static F32x16 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static F32x16 load_partial(const float *p, std::int32_t n) {
        alignas(32) float lanes[16] = {};
        std::memcpy(lanes, p, static_cast<std::size_t>(n) * sizeof(float));
        return load(lanes);
    }
    static F32x16 load_f16(const std::uint16_t *p) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))),
                _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p + 8)))};
    }
    static F32x16 load_f16_partial(const std::uint16_t *p, std::int32_t n) {
        std::uint16_t lanes[16] = {};
        std::memcpy(lanes, p, static_cast<std::size_t>(n) * 2);
        return load_f16(lanes);
    }
    static __m256 widen_bf16(const std::uint16_t *p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))), 16));
    }
    static F32x16 load_bf16(const std::uint16_t *p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
    static F32x16 load_bf16_partial(const std::uint16_t *p, std::int32_t n) {
        std::uint16_t lanes[16] = {};
        std::memcpy(lanes, p, static_cast<std::size_t>(n) * 2);
        return load_bf16(lanes);
    }
    void store(float *p) const {
        _mm256_storeu_ps(p, a);
        _mm256_storeu_ps(p + 8, b);
    }
    void store_partial(float *p, std::int32_t n) const {
        alignas(32) float lanes[16];
        store(lanes);
        std::memcpy(p, lanes, static_cast<std::size_t>(n) * sizeof(float));
    }
    void store_f16(std::uint16_t *p) const {
        constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(a, kNearest));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(p + 8), _mm256_cvtps_ph(b, kNearest));
    }
    void store_f16_partial(std::uint16_t *p, std::int32_t n) const {
        std::uint16_t lanes[16];
        store_f16(lanes);
        std::memcpy(p, lanes, static_cast<std::size_t>(n) * 2);
    }
    static __m256i round_bf16(__m256 x) { // the upper half of each lane, in its lower half
        const __m256i bits = _mm256_castps_si256(x);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    }
    void store_bf16(std::uint16_t *p) const {
        const __m256i quarters = _mm256_packus_epi32(round_bf16(a), round_bf16(b)); // lanes 0-3, 8-11, 4-7, 12-15
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_permute4x64_epi64(quarters, 0xd8));
    }
    void store_bf16_partial(std::uint16_t *p, std::int32_t n) const {
        std::uint16_t lanes[16];
        store_bf16(lanes);
        std::memcpy(p, lanes, static_cast<std::size_t>(n) * 2);
    }
};
inline F32x16 operator+(F32x16 x, F32x16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F32x16 operator-(F32x16 x, F32x16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F32x16 operator*(F32x16 x, F32x16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F32x16 operator/(F32x16 x, F32x16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F32x16 fma(F32x16 x, F32x16 y, F32x16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F32x16 max(F32x16 x, F32x16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F32x16 min(F32x16 x, F32x16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F32x16 abs(F32x16 x) {
    const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
inline F32x16 round_nearest(F32x16 x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
}
inline float reduce_add(F32x16 x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float reduce_max(F32x16 x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
// Eight of the sixteen sums: a[0] ... a[7] of vectors whose two halves are added already.
inline __m256 sum_eight(const __m256 (&a)[8]) {
    __m256 quads[4]; // quarter q of quads[k]: four partial sums of a[4q + k]
    for (int k = 0; k < 4; ++k) {
        quads[k] = _mm256_add_ps(_mm256_permute2f128_ps(a[k], a[k + 4], 0x20), _mm256_permute2f128_ps(a[k], a[k + 4], 0x31));
    }
    const __m256 even = _mm256_add_ps(_mm256_unpacklo_ps(quads[0], quads[1]), _mm256_unpackhi_ps(quads[0], quads[1]));
    const __m256 odd = _mm256_add_ps(_mm256_unpacklo_ps(quads[2], quads[3]), _mm256_unpackhi_ps(quads[2], quads[3]));
    const __m256 low = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(even), _mm256_castps_pd(odd)));
    const __m256 high = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(even), _mm256_castps_pd(odd)));
    return _mm256_add_ps(low, high);
}
inline F32x16 power_below(F32x16 x) {
    const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000));
    return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
inline F32x16 sum_each(const F32x16 (&a)[16]) {
    __m256 low[8];
    __m256 high[8];
    for (int i = 0; i < 8; ++i) {
        low[i] = _mm256_add_ps(a[i].a, a[i].b);
        high[i] = _mm256_add_ps(a[i + 8].a, a[i + 8].b);
    }
    return {sum_eight(low), sum_eight(high)};
}
inline void transpose_eight(const __m256 (&a)[8], __m256 (&t)[8]) {
    __m256 quads[8]; // quarter q of quads[4i + c]: lanes 4q + c of a[4i] ... a[4i + 3]
    for (int i = 0; i < 8; i += 4) {
        const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(a[i], a[i + 1]));
        const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(a[i], a[i + 1]));
        const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(a[i + 2], a[i + 3]));
        const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(a[i + 2], a[i + 3]));
        quads[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
        quads[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
        quads[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
        quads[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
    }
    for (int c = 0; c < 4; ++c) {
        t[c] = _mm256_permute2f128_ps(quads[c], quads[c + 4], 0x20);
        t[c + 4] = _mm256_permute2f128_ps(quads[c], quads[c + 4], 0x31);
    }
}
inline void transpose(F32x16 (&a)[16]) {
    __m256 corner[2][2][8]; // [half of the rows][half of the lanes]
    for (int i = 0; i < 16; ++i) {
        corner[i / 8][0][i % 8] = a[i].a;
        corner[i / 8][1][i % 8] = a[i].b;
    }
    __m256 turned[2][2][8];
    for (int rows = 0; rows < 2; ++rows) {
        transpose_eight(corner[rows][0], turned[0][rows]);
        transpose_eight(corner[rows][1], turned[1][rows]);
    }
    for (int i = 0; i < 16; ++i) {
        a[i] = {turned[i / 8][0][i % 8], turned[i / 8][1][i % 8]};
    }
}
inline __m256 select_eight(std::uint32_t m, __m256 x, __m256 y) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<std::int32_t>(m)), bits), bits);
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(set));
}
inline F32x16 select(std::uint32_t m, F32x16 x, F32x16 y) { return {select_eight(m & 255, x.a, y.a), select_eight(m >> 8 & 255, x.b, y.b)}; }
inline __m256 unzip_half(__m256 x, __m256 y, bool odd) {
    const __m256 lanes = odd ? _mm256_shuffle_ps(x, y, 0xdd) : _mm256_shuffle_ps(x, y, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(lanes), 0xd8));
}
inline void unzip(F32x16 x, F32x16 y, F32x16 &even, F32x16 &odd) {
    even = {unzip_half(x.a, x.b, false), unzip_half(y.a, y.b, false)};
    odd = {unzip_half(x.a, x.b, true), unzip_half(y.a, y.b, true)};
}
inline void load_bf16_words(const void *p, F32x16 &even, F32x16 &odd) {
    const __m256i a = _mm256_loadu_si256(static_cast<const __m256i *>(p));
    const __m256i b = _mm256_loadu_si256(static_cast<const __m256i *>(p) + 1);
    const __m256i high = _mm256_set1_epi32(static_cast<std::int32_t>(0xffff0000u));
    even = {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
    odd = {_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high))};
}
inline F32x16 fused(F32x16 x, F32x16 y, F32x16 z) { return fma(x, y, z); }
inline bool any_greater(F32x16 x, F32x16 y) {
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))) != 0;
}
inline bool any_nan(F32x16 x) {
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))) != 0;
}
inline __m256 scale_exp_half(__m256 p, __m256 n, __m256 x) {
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1); // two steps: 2^128 does not exist
    const __m256i rest = _mm256_sub_epi32(whole, half);
    const __m256i bias = _mm256_set1_epi32(127);
    __m256 r = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    r = _mm256_mul_ps(r, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
    r = _mm256_blendv_ps(r, _mm256_set1_ps(__builtin_inff()), _mm256_cmp_ps(x, _mm256_set1_ps(88.72F), _CMP_GT_OQ));
    r = _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-87.33F), _CMP_LT_OQ), r);
    return _mm256_blendv_ps(r, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
inline F32x16 scale_exp(F32x16 p, F32x16 n, F32x16 x) { return {scale_exp_half(p.a, n.a, x.a), scale_exp_half(p.b, n.b, x.b)}; }
// p 2^n for whole n; from n = -127 down it is 0.
inline __m256 scale_by_power_half(__m256 p, __m256 n) {
    const __m256i exponent = _mm256_max_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), _mm256_setzero_si256());
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline F32x16 scale_by_power(F32x16 p, F32x16 n) { return {scale_by_power_half(p.a, n.a), scale_by_power_half(p.b, n.b)}; }
inline __m256 flush_half(__m256 x) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    const __m256 tiny = _mm256_cmp_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(1.17549435e-38F), _CMP_LT_OQ);
    return _mm256_andnot_ps(_mm256_andnot_ps(sign, tiny), x);
}
inline F32x16 flush(F32x16 x) { return {flush_half(x.a), flush_half(x.b)}; }

struct Bf16x32 {
    __m256i a; // pairs 0-7
    __m256i b; // pairs 8-15
    static Bf16x32 load(const std::uint16_t *p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 16))};
    }
    static Bf16x32 set_pair(const std::uint16_t *p) {
        std::int32_t word;
        std::memcpy(&word, p, 4);
        return {_mm256_set1_epi32(word), _mm256_set1_epi32(word)};
    }
    static __m256i zip_half(const std::uint16_t *p, const std::uint16_t *q) {
        const __m256i even = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
        const __m256i odd = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(q)));
        return _mm256_or_si256(even, _mm256_slli_epi32(odd, 16));
    }
    static Bf16x32 zip(const std::uint16_t *p, const std::uint16_t *q) { return {zip_half(p, q), zip_half(p + 8, q + 8)}; }
    void store(std::uint16_t *p) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), a);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 16), b);
    }
};
inline void zip(Bf16x32 p, Bf16x32 q, Bf16x32 &low, Bf16x32 &high) {
    const auto zipped = [](__m256i x, __m256i y) {
        const __m256i first = _mm256_unpacklo_epi16(x, y);
        const __m256i second = _mm256_unpackhi_epi16(x, y);
        return Bf16x32{_mm256_permute2x128_si256(first, second, 0x20), _mm256_permute2x128_si256(first, second, 0x31)};
    };
    low = zipped(p.a, q.a);
    high = zipped(p.b, q.b);
}
inline void in_order(F32x16 &, F32x16 &) {}
inline Bf16x32 narrow(F32x16 a, F32x16 b) {
    alignas(32) std::uint16_t numbers[32];
    flush(a).store_bf16(numbers);
    flush(b).store_bf16(numbers + 16);
    return Bf16x32::load(numbers);
}
inline F32x16 as_words(Bf16x32 p) { return {_mm256_castsi256_ps(p.a), _mm256_castsi256_ps(p.b)}; }
inline Bf16x32 as_pairs(F32x16 x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline F32x16 even_as_f32(Bf16x32 p) { return {_mm256_castsi256_ps(_mm256_slli_epi32(p.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(p.b, 16))}; }
inline F32x16 odd_as_f32(Bf16x32 p) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000U));
    return {_mm256_castsi256_ps(_mm256_and_si256(p.a, high)), _mm256_castsi256_ps(_mm256_and_si256(p.b, high))};
}
inline F32x16 dot(F32x16 sum, Bf16x32 p, Bf16x32 q) {
    const F32x16 odd = flush(fma(flush(odd_as_f32(p)), flush(odd_as_f32(q)), flush(sum)));
    return flush(fma(flush(even_as_f32(p)), flush(even_as_f32(q)), odd));
}

struct I32x16 {
    __m256i a;
    __m256i b;
    static I32x16 zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static I32x16 set(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
    static I32x16 load(const std::int32_t *p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 8))};
    }
    void store(std::int32_t *p) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), a);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 8), b);
    }
};
inline I32x16 operator+(I32x16 x, I32x16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I32x16 operator-(I32x16 x, I32x16 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
inline I32x16 operator*(I32x16 x, I32x16 y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
inline F32x16 to_f32(I32x16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline std::int32_t reduce_add(I32x16 x) {
    const __m256i eight = _mm256_add_epi32(x.a, x.b);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
inline I32x16 to_i32_nearest(F32x16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline I32x16 load_s8(const std::int8_t *p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
inline I32x16 load_u8(const std::uint8_t *p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
// The lowest byte of each lane.
inline __m128i low_bytes(__m256i x) {
    const __m256i first =
        _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i quads = _mm256_shuffle_epi8(x, first);
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(quads), _mm256_extracti128_si256(quads, 1));
}
inline void store_s8(std::int8_t *p, I32x16 x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm_unpacklo_epi64(low_bytes(x.a), low_bytes(x.b)));
}

inline __m256i order_key_half(__m256 x) {
    const __m256i bits = _mm256_castps_si256(_mm256_add_ps(x, _mm256_setzero_ps()));
    const __m256i key = _mm256_xor_si256(bits, _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(key, _mm256_set1_epi32(INT32_MIN), nan);
}
inline I32x16 order_key(F32x16 x) { return {order_key_half(x.a), order_key_half(x.b)}; }
inline std::uint32_t lane_bits(__m256i a, __m256i b) {
    const int low = _mm256_movemask_ps(_mm256_castsi256_ps(a));
    const int high = _mm256_movemask_ps(_mm256_castsi256_ps(b));
    return static_cast<std::uint32_t>(low | (high << 8));
}
inline std::uint32_t lanes_greater(I32x16 x, I32x16 y) { return lane_bits(_mm256_cmpgt_epi32(x.a, y.a), _mm256_cmpgt_epi32(x.b, y.b)); }
inline std::uint32_t lanes_equal(I32x16 x, I32x16 y) { return lane_bits(_mm256_cmpeq_epi32(x.a, y.a), _mm256_cmpeq_epi32(x.b, y.b)); }

struct U8x64 {
    __m256i a;
    __m256i b;
    static U8x64 load(const void *p) {
        const auto *from = static_cast<const __m256i *>(p);
        return {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
    }
    static U8x64 set(std::uint8_t x) {
        const __m256i all = _mm256_set1_epi8(static_cast<char>(x));
        return {all, all};
    }
};
inline U8x64 operator^(U8x64 x, U8x64 y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
inline U8x64 operator|(U8x64 x, U8x64 y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
inline U8x64 operator&(U8x64 x, U8x64 y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
template <int Bits>
inline U8x64 shift_right(U8x64 x) {
    return U8x64{_mm256_srli_epi16(x.a, Bits), _mm256_srli_epi16(x.b, Bits)} & U8x64::set(static_cast<std::uint8_t>(0xff >> Bits));
}
template <int Bits>
inline U8x64 shift_left(U8x64 x) {
    return U8x64{_mm256_slli_epi16(x.a, Bits), _mm256_slli_epi16(x.b, Bits)} & U8x64::set(static_cast<std::uint8_t>((0xff << Bits) & 0xff));
}
inline U8x64 low_nibbles(U8x64 x) { return x & U8x64::set(15); }
inline U8x64 high_nibbles(U8x64 x) { return shift_right<4>(x); }
inline I32x16 byte_of_lane(U8x64 x, int byte) {
    const __m128i shift = _mm_cvtsi32_si128(8 * byte);
    const __m256i mask = _mm256_set1_epi32(255);
    return {_mm256_and_si256(_mm256_srl_epi32(x.a, shift), mask), _mm256_and_si256(_mm256_srl_epi32(x.b, shift), mask)};
}
template <int Byte>
inline F32x16 byte_as_f32(U8x64 x) {
    const __m256i mask = _mm256_set1_epi32(255);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.a, 8 * Byte), mask)),
            _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.b, 8 * Byte), mask))};
}
template <int Nibble>
inline F32x16 nibble_as_f32(U8x64 x) {
    const __m256i mask = _mm256_set1_epi32(15);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.a, 4 * Nibble), mask)),
            _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.b, 4 * Nibble), mask))};
}

struct I16x32 {
    __m256i a;
    __m256i b;
    static I16x32 set_pair(const std::int16_t *p) {
        std::int32_t word;
        std::memcpy(&word, p, 4);
        return {_mm256_set1_epi32(word), _mm256_set1_epi32(word)};
    }
    void store(std::int16_t *p) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), a);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 16), b);
    }
};
inline I32x16 dot(I32x16 sum, I16x32 x, I16x32 y) {
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(x.a, y.a)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(x.b, y.b))};
}
template <int Byte>
inline I16x32 signed_bytes(U8x64 x) {
    const auto half = [](__m256i h) { return _mm256_srai_epi16(Byte == 0 ? _mm256_slli_epi16(h, 8) : h, 8); };
    return {half(x.a), half(x.b)};
}
template <int Nibble>
inline I16x32 signed_nibbles(U8x64 x) {
    const auto half = [](__m256i h) { return _mm256_srai_epi16(Nibble == 3 ? h : _mm256_slli_epi16(h, 12 - 4 * Nibble), 12); };
    return {half(x.a), half(x.b)};
}
template <int Each>
inline I16x32 as_factors(F32x16 x, F32x16 y, F32x16 scale) {
    static_assert(Each == 4 || Each == 8);
    const __m256i order = _mm256_broadcastsi128_si256(Each == 4 ? _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15)
                                                                : _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    const auto sixteen = [&](F32x16 z) {
        const I32x16 whole = to_i32_nearest(z * scale);
        return _mm256_shuffle_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi32(whole.a, whole.b), 0xd8), order);
    };
    return {sixteen(x), sixteen(y)};
}

inline __m256i broadcast4(const std::int8_t *s4) {
    std::int32_t word;
    std::memcpy(&word, s4, 4);
    return _mm256_set1_epi32(word);
}
inline __m256i dot_half(__m256i sum, __m256i u, __m256i s) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
inline I32x16 dot_u8s8(I32x16 sum, U8x64 u, const std::int8_t *s4) {
    const __m256i s = broadcast4(s4);
    return {dot_half(sum.a, u.a, s), dot_half(sum.b, u.b, s)};
}
inline I32x16 dot_s8s8(I32x16 sum, U8x64 x, const std::int8_t *s4) {
    const __m256i s = broadcast4(s4);
    return {dot_half(sum.a, _mm256_abs_epi8(x.a), _mm256_sign_epi8(s, x.a)), dot_half(sum.b, _mm256_abs_epi8(x.b), _mm256_sign_epi8(s, x.b))};
}

} // namespace strata::STRATA_ISA_NAMESPACE
