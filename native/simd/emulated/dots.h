// SPDX-License-Identifier: Apache-2.0
// VNNI and BF16: dot products of bytes, words and bfloat16, and conversions to bfloat16. Part of simd/emulated_avx512.h.
#pragma once

namespace strata::STRATA_ISA_NAMESPACE {

namespace emulated {

/// Lane l: sum + the dot product of its group of a and its group of b, held at the ends.
template <class A, class B, class V>
inline V dot_held(V sum, V va, V vb) {
    constexpr int kGroup = static_cast<int>(4 / sizeof(A));
    const auto s = lanes<std::int32_t>(sum);
    const auto a = lanes<A>(va);
    const auto b = lanes<B>(vb);
    return from_lanes<std::int32_t, V>([&](int i) {
        std::int64_t total = s.at[i];
        for (int j = 0; j < kGroup; ++j) total += std::int64_t{a.at[kGroup * i + j]} * b.at[kGroup * i + j];
        return saturated<std::int32_t>(total);
    });
}

/// The wrapping ones in AVX2: products of bytes as words, which hold them exactly.
inline __m256i dot_bytes(__m256i sum, __m256i a, __m256i b) {
    const __m256i low = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
    const __m256i high = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
}
inline __m256i dot_words(__m256i sum, __m256i a, __m256i b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
inline __m512i dot_bytes(__m512i sum, __m512i a, __m512i b) {
    return halves([](__m256i s, __m256i x, __m256i y) { return dot_bytes(s, x, y); }, sum, a, b);
}
inline __m512i dot_words(__m512i sum, __m512i a, __m512i b) {
    return halves([](__m256i s, __m256i x, __m256i y) { return dot_words(s, x, y); }, sum, a, b);
}
inline __m128i dot_bytes(__m128i sum, __m128i a, __m128i b) {
    return _mm256_castsi256_si128(dot_bytes(_mm256_zextsi128_si256(sum), _mm256_zextsi128_si256(a), _mm256_zextsi128_si256(b)));
}
inline __m128i dot_words(__m128i sum, __m128i a, __m128i b) { return _mm_add_epi32(sum, _mm_madd_epi16(a, b)); }

/// sum + odd a * odd b, then + even a * even b, each fused, rounded to nearest even, denormals taken and given as zeros: what the instruction
/// does whatever MXCSR says. In one asm, so that the compiler moves no arithmetic between the two changes of MXCSR.
inline __m256 dot_pairs(__m256 sum, __m256 odd_a, __m256 odd_b, __m256 even_a, __m256 even_b) {
    constexpr unsigned kFlush = 0x9fc0; // all exceptions masked, to nearest even, denormals are zeros, flush to zero
    const unsigned flush = kFlush;
    const unsigned current = _mm_getcsr();
    __asm__("vldmxcsr %[flush]\n\t"
            "vfmadd231ps %[odd_b], %[odd_a], %[sum]\n\t"
            "vfmadd231ps %[even_b], %[even_a], %[sum]\n\t"
            "vldmxcsr %[current]"
            : [sum] "+x"(sum)
            : [odd_a] "x"(odd_a), [odd_b] "x"(odd_b), [even_a] "x"(even_a), [even_b] "x"(even_b), [flush] "m"(flush), [current] "m"(current));
    return sum;
}

/// The upper or the lower bfloat16 of each lane as a float.
inline __m256 odd(__m256i pairs) { return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536))); }
inline __m256 even(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline __m256 dot_pairs(__m256 sum, __m256i a, __m256i b) { return dot_pairs(sum, odd(a), odd(b), even(a), even(b)); }

/// To nearest even; denormals become zeros of their sign, NaN stays one and is quiet.
inline std::uint16_t to_bfloat16(std::uint32_t bits) {
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
    }
    if (magnitude < 0x00800000u) {
        return static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
    }
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// The lanes of b, then those of a.
template <class R, class V>
inline R two_to_bfloat16(V va, V vb) {
    const auto a = lanes<std::uint32_t>(va);
    const auto b = lanes<std::uint32_t>(vb);
    return from_lanes<std::uint16_t, R>(
        [&](int i) { return to_bfloat16(i < b.kCount ? b.at[i < b.kCount ? i : 0] : a.at[i < b.kCount ? 0 : i - b.kCount]); });
}

} // namespace emulated

// Macros in the compiler's header, over this unit's and AVX-VNNI's instruction.
#undef _mm256_dpbusd_epi32
#undef _mm256_dpbusds_epi32
#undef _mm256_dpwssd_epi32
#undef _mm256_dpwssds_epi32
#undef _mm_dpbusd_epi32
#undef _mm_dpbusds_epi32
#undef _mm_dpwssd_epi32
#undef _mm_dpwssds_epi32

// The masked form keeps the sum.
#define STRATA_DOT(prefix, name, V, Factor, T, ...)                                                    \
    inline V prefix##_##name(V sum, Factor a, Factor b) { return __VA_ARGS__; }                        \
    STRATA_CALLED V prefix##_mask_##name(V sum, emulated::Mask<T, sizeof(V)> k, Factor a, Factor b) {  \
        return emulated::keep<T>(sum, k, prefix##_##name(sum, a, b));                                  \
    }                                                                                                  \
    STRATA_CALLED V prefix##_maskz_##name(emulated::Mask<T, sizeof(V)> k, V sum, Factor a, Factor b) { \
        return emulated::keep<T>(V{}, k, prefix##_##name(sum, a, b));                                  \
    }
#define STRATA_INTEGER_DOTS(prefix, V)                                                                              \
    STRATA_DOT(prefix, dpbusd_epi32, V, V, std::int32_t, emulated::dot_bytes(sum, a, b))                            \
    STRATA_DOT(prefix, dpbusds_epi32, V, V, std::int32_t, emulated::dot_held<std::uint8_t, std::int8_t>(sum, a, b)) \
    STRATA_DOT(prefix, dpwssd_epi32, V, V, std::int32_t, emulated::dot_words(sum, a, b))                            \
    STRATA_DOT(prefix, dpwssds_epi32, V, V, std::int32_t, emulated::dot_held<std::int16_t, std::int16_t>(sum, a, b))
STRATA_INTEGER_DOTS(_mm512, __m512i)
STRATA_INTEGER_DOTS(_mm256, __m256i)
STRATA_INTEGER_DOTS(_mm, __m128i)
#undef STRATA_INTEGER_DOTS

STRATA_DOT(_mm512, dpbf16_ps, __m512, __m512bh, float,
           emulated::join(emulated::dot_pairs(emulated::low(sum), emulated::low(__builtin_bit_cast(__m512i, a)),
                                              emulated::low(__builtin_bit_cast(__m512i, b))),
                          emulated::dot_pairs(emulated::high(sum), emulated::high(__builtin_bit_cast(__m512i, a)),
                                              emulated::high(__builtin_bit_cast(__m512i, b)))))
STRATA_DOT(_mm256, dpbf16_ps, __m256, __m256bh, float, emulated::dot_pairs(sum, __builtin_bit_cast(__m256i, a), __builtin_bit_cast(__m256i, b)))
STRATA_DOT(_mm, dpbf16_ps, __m128, __m128bh, float,
           _mm256_castps256_ps128(emulated::dot_pairs(_mm256_zextps128_ps256(sum), _mm256_zextsi128_si256(__builtin_bit_cast(__m128i, a)),
                                                      _mm256_zextsi128_si256(__builtin_bit_cast(__m128i, b)))))
#undef STRATA_DOT

inline __m512bh _mm512_cvtne2ps_pbh(__m512 a, __m512 b) { return emulated::two_to_bfloat16<__m512bh>(a, b); }
inline __m256bh _mm256_cvtne2ps_pbh(__m256 a, __m256 b) { return emulated::two_to_bfloat16<__m256bh>(a, b); }
inline __m128bh _mm_cvtne2ps_pbh(__m128 a, __m128 b) { return emulated::two_to_bfloat16<__m128bh>(a, b); }
STRATA_MASKED(_mm512, cvtne2ps_pbh, __m512bh, std::uint16_t, (__m512 a, __m512 b), (a, b))
STRATA_MASKED(_mm256, cvtne2ps_pbh, __m256bh, std::uint16_t, (__m256 a, __m256 b), (a, b))
inline __m256bh _mm512_cvtneps_pbh(__m512 a) { return emulated::two_to_bfloat16<__m256bh>(emulated::high(a), emulated::low(a)); }
inline __m128bh _mm256_cvtneps_pbh(__m256 a) { return emulated::two_to_bfloat16<__m128bh>(_mm256_extractf128_ps(a, 1), _mm256_castps256_ps128(a)); }
STRATA_MASKED(_mm512, cvtneps_pbh, __m256bh, std::uint16_t, (__m512 a), (a))
STRATA_MASKED(_mm256, cvtneps_pbh, __m128bh, std::uint16_t, (__m256 a), (a))
inline __m512 _mm512_cvtpbh_ps(__m256bh a) {
    const __m256i bits = __builtin_bit_cast(__m256i, a);
    const auto widened = [](__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); };
    return emulated::join(widened(_mm256_castsi256_si128(bits)), widened(_mm256_extracti128_si256(bits, 1)));
}

} // namespace strata::STRATA_ISA_NAMESPACE
