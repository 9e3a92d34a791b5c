// SPDX-License-Identifier: Apache-2.0
// simd/vec.h on AVX-512 (F, BW, DQ, VL), with VNNI where the file is compiled for it.
#pragma once

#include <immintrin.h>

namespace strata::STRATA_ISA_NAMESPACE {

inline __mmask16 lane_mask(std::int32_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

struct F32x16 {
    __m512 v;

    static F32x16 zero() { return {_mm512_setzero_ps()}; }
    static F32x16 set(float x) { return {_mm512_set1_ps(x)}; }
    static F32x16 set_pair(const float *p) {
        double pair;
        std::memcpy(&pair, p, sizeof pair);
        return {_mm512_castpd_ps(_mm512_set1_pd(pair))};
    }
    static F32x16 load(const float *p) { return {_mm512_loadu_ps(p)}; }
    static F32x16 load_partial(const float *p, std::int32_t n) { return {_mm512_maskz_loadu_ps(lane_mask(n), p)}; }
    static F32x16 load_f16(const std::uint16_t *p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)))}; }
    static F32x16 load_f16_partial(const std::uint16_t *p, std::int32_t n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lane_mask(n), p))}; }
    static F32x16 from_bf16(__m256i h) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))}; }
    static F32x16 load_bf16(const std::uint16_t *p) { return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
    static F32x16 load_bf16_partial(const std::uint16_t *p, std::int32_t n) { return from_bf16(_mm256_maskz_loadu_epi16(lane_mask(n), p)); }
    void store(float *p) const { _mm512_storeu_ps(p, v); }
    void store_partial(float *p, std::int32_t n) const { _mm512_mask_storeu_ps(p, lane_mask(n), v); }
    __m256i to_f16() const { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    void store_f16(std::uint16_t *p) const { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), to_f16()); }
    void store_f16_partial(std::uint16_t *p, std::int32_t n) const { _mm256_mask_storeu_epi16(p, lane_mask(n), to_f16()); }
    // Integer rounding, not vcvtneps2bf16: that one flushes denormals.
    __m256i to_bf16() const {
        const __m512i bits = _mm512_castps_si512(v);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
    }
    void store_bf16(std::uint16_t *p) const { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), to_bf16()); }
    void store_bf16_partial(std::uint16_t *p, std::int32_t n) const { _mm256_mask_storeu_epi16(p, lane_mask(n), to_bf16()); }
};
inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
inline F32x16 round_nearest(F32x16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline float reduce_add(F32x16 a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float reduce_max(F32x16 a) { return _mm512_reduce_max_ps(a.v); }
// Each level joins two halves of two vectors into one; the last two levels work inside the 128-bit quarters.
template <int Count, class Join>
inline F32x16 join_each(const F32x16 (&a)[std::size_t{Count}], Join &&join) {
    static_assert(Count == 4 || Count == 8 || Count == 16);
    const auto halves = [&](__m512 x, __m512 y) { return join(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee)); };
    const auto quarters = [&](__m512 x, __m512 y) { return join(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd)); };
    constexpr int kQuads = Count / 4;
    __m512 quads[std::size_t{kQuads}]; // quarter q of quads[k]: four parts of a[kQuads q + k]
    for (int k = 0; k < kQuads; ++k) {
        quads[k] = quarters(halves(a[k].v, a[k + kQuads].v), halves(a[k + 2 * kQuads].v, a[k + 3 * kQuads].v));
    }
    if constexpr (Count == 16) {
        const __m512 even = join(_mm512_unpacklo_ps(quads[0], quads[1]), _mm512_unpackhi_ps(quads[0], quads[1]));
        const __m512 odd = join(_mm512_unpacklo_ps(quads[2], quads[3]), _mm512_unpackhi_ps(quads[2], quads[3]));
        const __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(even), _mm512_castps_pd(odd)));
        const __m512 high = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(even), _mm512_castps_pd(odd)));
        return {join(low, high)};
    } else {
        const __m512 last = quads[std::size_t{kQuads - 1}];
        const __m512 pairs = join(_mm512_shuffle_ps(quads[0], last, 0x44), _mm512_shuffle_ps(quads[0], last, 0xee));
        return {join(pairs, _mm512_permute_ps(pairs, 0xb1))};
    }
}
template <std::size_t Count>
inline F32x16 sum_each(const F32x16 (&a)[Count]) {
    return join_each<int{Count}>(a, [](__m512 x, __m512 y) { return _mm512_add_ps(x, y); });
}
template <std::size_t Count>
inline F32x16 max_each(const F32x16 (&a)[Count]) {
    return join_each<int{Count}>(a, [](__m512 x, __m512 y) { return _mm512_max_ps(x, y); });
}
inline F32x16 power_below(F32x16 a) { return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7f800000)))}; }
inline void transpose(F32x16 (&a)[16]) {
    __m512 quads[16]; // quarter q of quads[4i + c]: lanes 4q + c of a[4i] ... a[4i + 3]
    for (int i = 0; i < 16; i += 4) {
        const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(a[i].v, a[i + 1].v));
        const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(a[i].v, a[i + 1].v));
        const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(a[i + 2].v, a[i + 3].v));
        const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(a[i + 2].v, a[i + 3].v));
        quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
        quads[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
        quads[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
        quads[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
    }
    for (int c = 0; c < 4; ++c) { // a 4 x 4 transpose of quarters
        const __m512 low01 = _mm512_shuffle_f32x4(quads[c], quads[c + 4], 0x44);
        const __m512 high01 = _mm512_shuffle_f32x4(quads[c], quads[c + 4], 0xee);
        const __m512 low23 = _mm512_shuffle_f32x4(quads[c + 8], quads[c + 12], 0x44);
        const __m512 high23 = _mm512_shuffle_f32x4(quads[c + 8], quads[c + 12], 0xee);
        a[c].v = _mm512_shuffle_f32x4(low01, low23, 0x88);
        a[c + 4].v = _mm512_shuffle_f32x4(low01, low23, 0xdd);
        a[c + 8].v = _mm512_shuffle_f32x4(high01, high23, 0x88);
        a[c + 12].v = _mm512_shuffle_f32x4(high01, high23, 0xdd);
    }
}
inline F32x16 select(std::uint32_t m, F32x16 a, F32x16 b) { return {_mm512_mask_blend_ps(static_cast<__mmask16>(m), b.v, a.v)}; }
inline void unzip(F32x16 a, F32x16 b, F32x16 &even, F32x16 &odd) {
    const __m512i first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even = {_mm512_permutex2var_ps(a.v, first, b.v)};
    odd = {_mm512_permutex2var_ps(a.v, _mm512_add_epi32(first, _mm512_set1_epi32(1)), b.v)};
}
inline void load_bf16_words(const void *p, F32x16 &even, F32x16 &odd) {
    const __m512i words = _mm512_loadu_si512(p);
    even = {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16))};
    odd = {_mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<std::int32_t>(0xffff0000u))))};
}
inline F32x16 fused(F32x16 a, F32x16 b, F32x16 c) { return fma(a, b, c); }
inline bool any_greater(F32x16 a, F32x16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ) != 0; }
inline bool any_nan(F32x16 a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q) != 0; }
inline F32x16 scale_exp(F32x16 p, F32x16 n, F32x16 x) {
    __m512 r = _mm512_scalef_ps(p.v, n.v);
    r = _mm512_mask_mov_ps(r, _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(88.72F), _CMP_GT_OQ), _mm512_set1_ps(__builtin_inff()));
    r = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-87.33F), _CMP_NLT_UQ), r);
    return {_mm512_mask_mov_ps(r, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), x.v)};
}
// p 2^n for whole n.
inline F32x16 scale_by_power(F32x16 p, F32x16 n) { return {_mm512_scalef_ps(p.v, n.v)}; }
inline F32x16 flush(F32x16 x) {
    const __mmask16 tiny = _mm512_cmp_ps_mask(_mm512_abs_ps(x.v), _mm512_set1_ps(1.17549435e-38F), _CMP_LT_OQ);
    return {_mm512_mask_and_ps(x.v, tiny, x.v, _mm512_set1_ps(-0.0F))};
}

struct Bf16x32 {
    __m512i v;
    static Bf16x32 load(const std::uint16_t *p) { return {_mm512_loadu_si512(p)}; }
    static Bf16x32 set_pair(const std::uint16_t *p) {
        std::int32_t word;
        std::memcpy(&word, p, 4);
        return {_mm512_set1_epi32(word)};
    }
    static Bf16x32 zip(const std::uint16_t *p, const std::uint16_t *q) {
        const __m512i even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
        const __m512i odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(q)));
        return {_mm512_or_si512(even, _mm512_slli_epi32(odd, 16))};
    }
    void store(std::uint16_t *p) const { _mm512_storeu_si512(p, v); }
};
inline void zip(Bf16x32 p, Bf16x32 q, Bf16x32 &low, Bf16x32 &high) {
    low = {_mm512_unpacklo_epi16(p.v, q.v)}; // of each eight numbers the first four
    high = {_mm512_unpackhi_epi16(p.v, q.v)};
}
inline void in_order(F32x16 &x, F32x16 &y) {
    const __m512i at = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512 first = _mm512_permutex2var_ps(x.v, at, y.v);
    y = {_mm512_permutex2var_ps(x.v, _mm512_or_si512(at, _mm512_set1_epi32(8)), y.v)};
    x = {first};
}
inline F32x16 as_words(Bf16x32 p) { return {_mm512_castsi512_ps(p.v)}; }
inline Bf16x32 as_pairs(F32x16 x) { return {_mm512_castps_si512(x.v)}; }
inline F32x16 even_as_f32(Bf16x32 p) { return {_mm512_castsi512_ps(_mm512_slli_epi32(p.v, 16))}; }
inline F32x16 odd_as_f32(Bf16x32 p) { return {_mm512_castsi512_ps(_mm512_and_si512(p.v, _mm512_set1_epi32(static_cast<int>(0xffff0000U))))}; }
#if defined(__AVX512BF16__)
inline Bf16x32 narrow(F32x16 a, F32x16 b) { return {__builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(b.v, a.v))}; }
inline F32x16 dot(F32x16 sum, Bf16x32 p, Bf16x32 q) {
    return {_mm512_dpbf16_ps(sum.v, __builtin_bit_cast(__m512bh, p.v), __builtin_bit_cast(__m512bh, q.v))};
}
#else
inline Bf16x32 narrow(F32x16 a, F32x16 b) { return {_mm512_inserti64x4(_mm512_castsi256_si512(flush(a).to_bf16()), flush(b).to_bf16(), 1)}; }
inline F32x16 dot(F32x16 sum, Bf16x32 p, Bf16x32 q) {
    const F32x16 odd = flush(fma(flush(odd_as_f32(p)), flush(odd_as_f32(q)), flush(sum)));
    return flush(fma(flush(even_as_f32(p)), flush(even_as_f32(q)), odd));
}
#endif

struct I32x16 {
    __m512i v;
    static I32x16 zero() { return {_mm512_setzero_si512()}; }
    static I32x16 set(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
    static I32x16 load(const std::int32_t *p) { return {_mm512_loadu_si512(p)}; }
    void store(std::int32_t *p) const { _mm512_storeu_si512(p, v); }
};
inline I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32x16 operator-(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I32x16 operator*(I32x16 a, I32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline F32x16 to_f32(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline std::int32_t reduce_add(I32x16 a) { return _mm512_reduce_add_epi32(a.v); }
inline I32x16 to_i32_nearest(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
inline I32x16 load_s8(const std::int8_t *p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)))}; }
inline I32x16 load_u8(const std::uint8_t *p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)))}; }
inline void store_s8(std::int8_t *p, I32x16 a) { _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(a.v)); }

inline I32x16 order_key(F32x16 x) {
    const __m512i bits = _mm512_castps_si512(_mm512_add_ps(x.v, _mm512_setzero_ps()));
    const __m512i key = _mm512_xor_si512(bits, _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1));
    return {_mm512_mask_mov_epi32(key, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), _mm512_set1_epi32(INT32_MIN))};
}
inline std::uint32_t lanes_greater(I32x16 a, I32x16 b) { return _mm512_cmpgt_epi32_mask(a.v, b.v); }
inline std::uint32_t lanes_equal(I32x16 a, I32x16 b) { return _mm512_cmpeq_epi32_mask(a.v, b.v); }

struct U8x64 {
    __m512i v;
    static U8x64 load(const void *p) { return {_mm512_loadu_si512(p)}; }
    static U8x64 set(std::uint8_t x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
};
inline U8x64 operator^(U8x64 a, U8x64 b) { return {_mm512_xor_si512(a.v, b.v)}; }
inline U8x64 operator|(U8x64 a, U8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline U8x64 operator&(U8x64 a, U8x64 b) { return {_mm512_and_si512(a.v, b.v)}; }
template <int Bits>
inline U8x64 shift_right(U8x64 a) {
    return {_mm512_and_si512(_mm512_srli_epi16(a.v, Bits), _mm512_set1_epi8(static_cast<char>(0xff >> Bits)))};
}
template <int Bits>
inline U8x64 shift_left(U8x64 a) {
    return {_mm512_and_si512(_mm512_slli_epi16(a.v, Bits), _mm512_set1_epi8(static_cast<char>((0xff << Bits) & 0xff)))};
}
inline U8x64 low_nibbles(U8x64 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline U8x64 high_nibbles(U8x64 a) { return shift_right<4>(a); }
inline I32x16 byte_of_lane(U8x64 a, int b) { return {_mm512_and_si512(_mm512_srl_epi32(a.v, _mm_cvtsi32_si128(8 * b)), _mm512_set1_epi32(255))}; }
template <int Byte>
inline F32x16 byte_as_f32(U8x64 a) {
    return {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(a.v, 8 * Byte), _mm512_set1_epi32(255)))};
}
// The permutation looks at the low four bits of each lane only: a table of 0 ... 15 saves the mask and the conversion.
template <int Nibble>
inline F32x16 nibble_as_f32(U8x64 a) {
    const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return {_mm512_permutexvar_ps(_mm512_srli_epi32(a.v, 4 * Nibble), table)};
}

struct I16x32 {
    __m512i v;
    static I16x32 set_pair(const std::int16_t *p) {
        std::int32_t word;
        std::memcpy(&word, p, 4);
        return {_mm512_set1_epi32(word)};
    }
    void store(std::int16_t *p) const { _mm512_storeu_si512(p, v); }
};
inline I32x16 dot(I32x16 sum, I16x32 a, I16x32 b) {
#if defined(__AVX512VNNI__)
    return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)};
#else
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(a.v, b.v))};
#endif
}
template <int Byte>
inline I16x32 signed_bytes(U8x64 a) {
    return {_mm512_srai_epi16(Byte == 0 ? _mm512_slli_epi16(a.v, 8) : a.v, 8)};
}
template <int Nibble>
inline I16x32 signed_nibbles(U8x64 a) {
    return {_mm512_srai_epi16(Nibble == 3 ? a.v : _mm512_slli_epi16(a.v, 12 - 4 * Nibble), 12)};
}
// x + 1.5 * 2^23 holds x in its low bits.
template <int Each>
inline I16x32 as_factors(F32x16 a, F32x16 b, F32x16 scale) {
    static_assert(Each == 4 || Each == 8);
    static constexpr std::uint16_t kOrder[2][32] = {
        {0, 4, 2, 6, 8, 12, 10, 14, 16, 20, 18, 22, 24, 28, 26, 30, 32, 36, 34, 38, 40, 44, 42, 46, 48, 52, 50, 54, 56, 60, 58, 62},
        {0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30, 32, 36, 40, 44, 34, 38, 42, 46, 48, 52, 56, 60, 50, 54, 58, 62}};
    const __m512 shift = _mm512_set1_ps(0x1.8p23F);
    const __m512i low = _mm512_castps_si512(_mm512_fmadd_ps(a.v, scale.v, shift));
    const __m512i high = _mm512_castps_si512(_mm512_fmadd_ps(b.v, scale.v, shift));
    return {_mm512_permutex2var_epi16(low, _mm512_loadu_si512(kOrder[Each == 8]), high)};
}

inline __m512i broadcast4(const std::int8_t *s4) {
    std::int32_t word;
    std::memcpy(&word, s4, 4);
    return _mm512_set1_epi32(word);
}
inline I32x16 dot_u8s8(I32x16 sum, U8x64 u, const std::int8_t *s4) {
#if defined(__AVX512VNNI__)
    return {_mm512_dpbusd_epi32(sum.v, u.v, broadcast4(s4))};
#else
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(_mm512_maddubs_epi16(u.v, broadcast4(s4)), _mm512_set1_epi16(1)))};
#endif
}
// |a| * (s with a's sign): the products are those of a * s. VNNI code offsets its codes by 128 instead and calls dot_u8s8.
inline I32x16 dot_s8s8(I32x16 sum, U8x64 a, const std::int8_t *s4) {
    const __m512i s = broadcast4(s4);
    const __m512i signed_s = _mm512_mask_sub_epi8(s, _mm512_movepi8_mask(a.v), _mm512_setzero_si512(), s);
    const U8x64 magnitude{_mm512_abs_epi8(a.v)};
#if defined(__AVX512VNNI__)
    return {_mm512_dpbusd_epi32(sum.v, magnitude.v, signed_s)};
#else
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(_mm512_maddubs_epi16(magnitude.v, signed_s), _mm512_set1_epi16(1)))};
#endif
}

} // namespace strata::STRATA_ISA_NAMESPACE
