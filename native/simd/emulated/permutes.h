// SPDX-License-Identifier: Apache-2.0
// Shuffles, unpacks and permutes. Part of simd/emulated_avx512.h.
#pragma once

namespace strata::STRATA_ISA_NAMESPACE {

namespace emulated {

/// Lane l of every 128-bit quarter: f(its quarter of a, its quarter of b, l).
template <class T, class V, class F>
inline V in_quarters(V a, V b, F f) {
    constexpr int kLanes = static_cast<int>(16 / sizeof(T));
    const auto x = lanes<T>(a);
    const auto y = lanes<T>(b);
    return from_lanes<T, V>([&](int i) { return f(&x.at[i / kLanes * kLanes], &y.at[i / kLanes * kLanes], i % kLanes); });
}

/// Whole quarters (or halves of a 256-bit register): the lower half of the result from a, the upper from b.
template <class V>
inline V shuffle_parts(V a, V b, int control) {
    const auto x = lanes<__m128i>(a);
    const auto y = lanes<__m128i>(b);
    Lanes<__m128i, sizeof(V)> r;
    constexpr int kBits = r.kCount == 4 ? 2 : 1;
    for (int i = 0; i < r.kCount; ++i) {
        const int from = (control >> (kBits * i)) & (r.kCount - 1);
        r.at[i] = i < r.kCount / 2 ? x.at[from] : y.at[from];
    }
    return __builtin_bit_cast(V, r);
}

template <class T, class Index, class I, class V>
inline V permute(I indices, V v) {
    const auto x = lanes<T>(v);
    const auto at = lanes<Index>(indices);
    return from_lanes<T, V>([&](int i) { return x.at[at.at[i] & (x.kCount - 1)]; });
}
template <class T, class Index, class I, class V>
inline V permute_two(V a, I indices, V b) {
    const auto x = lanes<T>(a);
    const auto y = lanes<T>(b);
    const auto at = lanes<Index>(indices);
    return from_lanes<T, V>([&](int i) {
        const int from = static_cast<int>(at.at[i] & (x.kCount - 1));
        return (at.at[i] & x.kCount) != 0 ? y.at[from] : x.at[from];
    });
}

/// A field of two bits.
inline int two_bits(int control, int field) { return (control >> (2 * field)) & 3; }

} // namespace emulated

// Inside quarters, as AVX2 has it.
#define STRATA_AS_HALVES_2(name, V, T) STRATA_BY_HALVES(name, V, T, (V a, V b), a, b)
STRATA_AS_HALVES_2(unpacklo_ps, __m512, float)
STRATA_AS_HALVES_2(unpackhi_ps, __m512, float)
STRATA_AS_HALVES_2(unpacklo_pd, __m512d, double)
STRATA_AS_HALVES_2(unpackhi_pd, __m512d, double)
STRATA_AS_HALVES_2(unpacklo_epi8, __m512i, std::uint8_t)
STRATA_AS_HALVES_2(unpackhi_epi8, __m512i, std::uint8_t)
STRATA_AS_HALVES_2(unpacklo_epi16, __m512i, std::uint16_t)
STRATA_AS_HALVES_2(unpackhi_epi16, __m512i, std::uint16_t)
STRATA_AS_HALVES_2(unpacklo_epi32, __m512i, std::uint32_t)
STRATA_AS_HALVES_2(unpackhi_epi32, __m512i, std::uint32_t)
STRATA_AS_HALVES_2(unpacklo_epi64, __m512i, std::uint64_t)
STRATA_AS_HALVES_2(unpackhi_epi64, __m512i, std::uint64_t)
STRATA_AS_HALVES_2(shuffle_epi8, __m512i, std::uint8_t)
STRATA_AS_HALVES_2(packs_epi16, __m512i, std::uint8_t)
STRATA_AS_HALVES_2(packus_epi16, __m512i, std::uint8_t)
STRATA_AS_HALVES_2(packs_epi32, __m512i, std::uint16_t)
STRATA_AS_HALVES_2(packus_epi32, __m512i, std::uint16_t)
#undef STRATA_AS_HALVES_2

// Inside quarters, by an immediate.
STRATA_EMULATE(shuffle_ps, __m512, float, (__m512 a, __m512 b, int c), (a, b, c),
               emulated::in_quarters<float>(a, b, [c](const float *x, const float *y, int l) { return (l < 2 ? x : y)[emulated::two_bits(c, l)]; }))
STRATA_EMULATE(permute_ps, __m512, float, (__m512 a, int c), (a, c),
               emulated::in_quarters<float>(a, a, [c](const float *x, const float *, int l) { return x[emulated::two_bits(c, l)]; }))
STRATA_EMULATE(shuffle_epi32, __m512i, std::uint32_t, (__m512i a, int c), (a, c),
               emulated::in_quarters<std::uint32_t>(a, a, [c](const std::uint32_t *x, const std::uint32_t *, int l) {
                   return x[emulated::two_bits(c, l)];
               }))
STRATA_EMULATE(shufflelo_epi16, __m512i, std::uint16_t, (__m512i a, int c), (a, c),
               emulated::in_quarters<std::uint16_t>(a, a, [c](const std::uint16_t *x, const std::uint16_t *, int l) {
                   return l < 4 ? x[emulated::two_bits(c, l)] : x[l];
               }))
STRATA_EMULATE(shufflehi_epi16, __m512i, std::uint16_t, (__m512i a, int c), (a, c),
               emulated::in_quarters<std::uint16_t>(a, a, [c](const std::uint16_t *x, const std::uint16_t *, int l) {
                   return l < 4 ? x[l] : x[4 + emulated::two_bits(c, l - 4)];
               }))
STRATA_EMULATE(alignr_epi8, __m512i, std::uint8_t, (__m512i a, __m512i b, int n), (a, b, n),
               emulated::in_quarters<std::uint8_t>(a, b, [n](const std::uint8_t *x, const std::uint8_t *y, int l) -> std::uint8_t {
                   const int from = l + (n & 255);
                   return from < 16 ? y[from] : from < 32 ? x[from - 16] : std::uint8_t{0};
               }))
STRATA_EMULATE(movehdup_ps, __m512, float, (__m512 a), (a), _mm512_permute_ps(a, 0xf5))
STRATA_EMULATE(moveldup_ps, __m512, float, (__m512 a), (a), _mm512_permute_ps(a, 0xa0))
inline __m512d _mm512_shuffle_pd(__m512d a, __m512d b, int c) {
    return emulated::from_lanes<double, __m512d>([&](int i) { return emulated::lanes<double>(i % 2 == 0 ? a : b).at[i / 2 * 2 + ((c >> i) & 1)]; });
}
inline __m512i _mm512_bslli_epi128(__m512i a, int n) { return _mm512_alignr_epi8(a, __m512i{}, n < 16 ? 16 - n : 0); }
inline __m512i _mm512_bsrli_epi128(__m512i a, int n) { return _mm512_alignr_epi8(__m512i{}, a, n < 16 ? n : 16); }

// Whole quarters, and rotations across the register.
#define STRATA_SHUFFLE_PARTS(prefix, name, V, T)                                                              \
    STRATA_CALLED V prefix##_##name(V a, V b, int control) { return emulated::shuffle_parts(a, b, control); } \
    STRATA_MASKED(prefix, name, V, T, (V a, V b, int control), (a, b, control))
STRATA_SHUFFLE_PARTS(_mm512, shuffle_f32x4, __m512, float)
STRATA_SHUFFLE_PARTS(_mm512, shuffle_f64x2, __m512d, double)
STRATA_SHUFFLE_PARTS(_mm512, shuffle_i32x4, __m512i, std::uint32_t)
STRATA_SHUFFLE_PARTS(_mm512, shuffle_i64x2, __m512i, std::uint64_t)
STRATA_SHUFFLE_PARTS(_mm256, shuffle_f32x4, __m256, float)
STRATA_SHUFFLE_PARTS(_mm256, shuffle_f64x2, __m256d, double)
STRATA_SHUFFLE_PARTS(_mm256, shuffle_i32x4, __m256i, std::uint32_t)
STRATA_SHUFFLE_PARTS(_mm256, shuffle_i64x2, __m256i, std::uint64_t)
#undef STRATA_SHUFFLE_PARTS

#define STRATA_ALIGN(prefix, name, V, T)                                 \
    STRATA_CALLED V prefix##_##name(V a, V b, int n) {                   \
        const auto x = emulated::lanes<T>(a);                            \
        const auto y = emulated::lanes<T>(b);                            \
        return emulated::from_lanes<T, V>([&](int i) {                   \
            const int from = i + (n & (x.kCount - 1));                   \
            return from < x.kCount ? y.at[from] : x.at[from - x.kCount]; \
        });                                                              \
    }                                                                    \
    STRATA_MASKED(prefix, name, V, T, (V a, V b, int n), (a, b, n))
STRATA_ALIGN(_mm512, alignr_epi32, __m512i, std::uint32_t)
STRATA_ALIGN(_mm512, alignr_epi64, __m512i, std::uint64_t)
STRATA_ALIGN(_mm256, alignr_epi32, __m256i, std::uint32_t)
STRATA_ALIGN(_mm256, alignr_epi64, __m256i, std::uint64_t)
#undef STRATA_ALIGN

// By a register of indices, of which as many low bits count as are needed.
#undef _mm256_permutexvar_ps // a macro in the compiler's header
#define STRATA_PERMUTE(prefix, suffix, V, T, I, Index)                                                                   \
    STRATA_CALLED V prefix##_permutexvar_##suffix(I at, V a) { return emulated::permute<T, Index>(at, a); }              \
    STRATA_MASKED(prefix, permutexvar_##suffix, V, T, (I at, V a), (at, a))                                              \
    STRATA_CALLED V prefix##_permutex2var_##suffix(V a, I at, V b) { return emulated::permute_two<T, Index>(a, at, b); } \
    STRATA_CALLED V prefix##_mask_permutex2var_##suffix(V a, emulated::Mask<T, sizeof(V)> k, I at, V b) {                \
        return emulated::keep<T>(a, k, prefix##_permutex2var_##suffix(a, at, b));                                        \
    }                                                                                                                    \
    STRATA_CALLED V prefix##_mask2_permutex2var_##suffix(V a, I at, emulated::Mask<T, sizeof(V)> k, V b) {               \
        return emulated::keep<T>(__builtin_bit_cast(V, at), k, prefix##_permutex2var_##suffix(a, at, b));                \
    }                                                                                                                    \
    STRATA_CALLED V prefix##_maskz_permutex2var_##suffix(emulated::Mask<T, sizeof(V)> k, V a, I at, V b) {               \
        return emulated::keep<T>(V{}, k, prefix##_permutex2var_##suffix(a, at, b));                                      \
    }
STRATA_PERMUTE(_mm512, ps, __m512, float, __m512i, std::int32_t)
STRATA_PERMUTE(_mm512, pd, __m512d, double, __m512i, std::int64_t)
STRATA_PERMUTE(_mm512, epi16, __m512i, std::uint16_t, __m512i, std::int16_t)
STRATA_PERMUTE(_mm512, epi32, __m512i, std::uint32_t, __m512i, std::int32_t)
STRATA_PERMUTE(_mm512, epi64, __m512i, std::uint64_t, __m512i, std::int64_t)
STRATA_PERMUTE(_mm256, ps, __m256, float, __m256i, std::int32_t)
STRATA_PERMUTE(_mm256, pd, __m256d, double, __m256i, std::int64_t)
STRATA_PERMUTE(_mm256, epi16, __m256i, std::uint16_t, __m256i, std::int16_t)
STRATA_PERMUTE(_mm256, epi32, __m256i, std::uint32_t, __m256i, std::int32_t)
STRATA_PERMUTE(_mm256, epi64, __m256i, std::uint64_t, __m256i, std::int64_t)
#undef STRATA_PERMUTE
STRATA_EMULATE(permutevar_ps, __m512, float, (__m512 a, __m512i at), (a, at), emulated::from_lanes<float, __m512>([&](int i) {
                   return emulated::lanes<float>(a).at[i / 4 * 4 + (emulated::lanes<int>(at).at[i] & 3)];
               }))
STRATA_EMULATE(permutex_epi64, __m512i, std::uint64_t, (__m512i a, int c), (a, c), emulated::from_lanes<std::uint64_t, __m512i>([&](int i) {
                   return emulated::lanes<std::uint64_t>(a).at[i / 4 * 4 + emulated::two_bits(c, i % 4)];
               }))
STRATA_EMULATE(permutex_pd, __m512d, double, (__m512d a, int c), (a, c),
               emulated::from_lanes<double, __m512d>([&](int i) { return emulated::lanes<double>(a).at[i / 4 * 4 + emulated::two_bits(c, i % 4)]; }))

} // namespace strata::STRATA_ISA_NAMESPACE
