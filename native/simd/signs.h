// SPDX-License-Identifier: Apache-2.0
// One-bit signs of sixteen lanes: flipping signs by the bits of a word per lane, and tables of all signed sums of four numbers.
//
//   flip_by_sign(a, s)      a, negated in the lanes whose word in s is negative
//   next_bit(s)             the words shifted left by one: the next lower bit decides
//   OddIndex(words, shift)  four neighbouring bits of each lane's word, as an index
//   look_up(table, index)   lane l: table[index of l]; the table has 16 entries and is odd, table[15 - i] = -table[i]
#pragma once

#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

#if defined(__AVX512F__)

// Ranks whose sums stay in registers through one pass over a block.
inline constexpr int kLookUpPass = 16;

inline F32x16 flip_by_sign(F32x16 a, I32x16 s) {
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(a.v), s.v, sign, 0x78))}; // a ^ (s & sign)
}
inline I32x16 next_bit(I32x16 s) { return {_mm512_add_epi32(s.v, s.v)}; }

struct OddIndex {
    __m512i v; // vpermps looks at the low four bits only
    OddIndex() = default;
    OddIndex(I32x16 words, int shift) : v(_mm512_srl_epi32(words.v, _mm_cvtsi32_si128(shift))) {}
};
inline F32x16 look_up(const float *table, OddIndex index) { return {_mm512_permutexvar_ps(index.v, _mm512_loadu_ps(table))}; }

#elif defined(__AVX2__)

inline constexpr int kLookUpPass = 4;

inline __m256 flip_half(__m256 a, __m256i s) { return _mm256_xor_ps(a, _mm256_and_ps(_mm256_castsi256_ps(s), _mm256_set1_ps(-0.0F))); }
inline F32x16 flip_by_sign(F32x16 x, I32x16 s) { return {flip_half(x.a, s.a), flip_half(x.b, s.b)}; }
inline I32x16 next_bit(I32x16 s) { return {_mm256_slli_epi32(s.a, 1), _mm256_slli_epi32(s.b, 1)}; }

// Eight entries fit a register; the upper half of an odd table is the lower half backwards with its sign flipped.
struct OddIndex {
    __m256i place_a, place_b;
    __m256i sign_a, sign_b;
    OddIndex() = default;
    OddIndex(I32x16 words, int shift) {
        split(words.a, shift, &place_a, &sign_a);
        split(words.b, shift, &place_b, &sign_b);
    }
    static void split(__m256i words, int shift, __m256i *place, __m256i *sign) {
        const __m256i top = _mm256_sll_epi32(words, _mm_cvtsi32_si128(28 - shift)); // bit 3 of the index becomes bit 31
        *sign = top;
        *place = _mm256_xor_si256(_mm256_srli_epi32(top, 28), _mm256_srai_epi32(top, 31)); // the low three bits count
    }
};
inline F32x16 look_up(const float *table, const OddIndex &index) {
    const __m256 lower = _mm256_loadu_ps(table);
    return {flip_half(_mm256_permutevar8x32_ps(lower, index.place_a), index.sign_a),
            flip_half(_mm256_permutevar8x32_ps(lower, index.place_b), index.sign_b)};
}

#else

inline constexpr int kLookUpPass = 4;

inline F32x16 flip_by_sign(F32x16 a, I32x16 s) {
    for (int i = 0; i < 16; ++i) a.v[i] = s.v[i] < 0 ? -a.v[i] : a.v[i];
    return a;
}
inline I32x16 next_bit(I32x16 s) {
    for (int i = 0; i < 16; ++i) s.v[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(s.v[i]) << 1);
    return s;
}

struct OddIndex {
    std::uint8_t v[16];
    OddIndex() = default;
    OddIndex(I32x16 words, int shift) {
        for (int i = 0; i < 16; ++i) {
            v[i] = static_cast<std::uint8_t>((static_cast<std::uint32_t>(words.v[i]) >> shift) & 15u);
        }
    }
};
inline F32x16 look_up(const float *table, const OddIndex &index) {
    F32x16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = table[index.v[i]];
    return r;
}

#endif

} // namespace strata::STRATA_ISA_NAMESPACE
