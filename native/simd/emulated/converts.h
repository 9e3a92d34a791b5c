// SPDX-License-Identifier: Apache-2.0
// Conversions between types of lanes. Part of simd/emulated_avx512.h.
#pragma once

namespace strata::STRATA_ISA_NAMESPACE {

namespace emulated {

/// f of lane l in lane l of another type; lanes without a source are zero.
template <class To, class From, class R, class F, class V>
inline R convert(F f, V v) {
    const auto x = lanes<From>(v);
    return from_lanes<To, R>([&](int i) { return i < x.kCount ? static_cast<To>(f(x.at[i < x.kCount ? i : 0])) : To{0}; });
}

/// A float as an unsigned number in the rounding of MXCSR or towards zero; all ones if it does not fit.
inline std::uint32_t to_unsigned(float x, int rounding) {
    const float n = whole(x, rounding);
    return n > -1.0F && n < 4294967296.0F ? static_cast<std::uint32_t>(static_cast<std::int64_t>(n)) : UINT32_MAX;
}

/// F16C with a rounding that is known at compile time only after inlining.
template <int Rounding>
inline __m256i to_half(__m512 a) {
    return _mm256_set_m128i(_mm256_cvtps_ph(high(a), Rounding), _mm256_cvtps_ph(low(a), Rounding));
}

} // namespace emulated

// Wider integers: with the sign, or with zeros.
#define STRATA_WIDEN(name, From, To, Source) \
    STRATA_EMULATE(name, __m512i, To, (Source a), (a), emulated::convert<To, From, __m512i>([](From x) { return To{x}; }, a))
STRATA_WIDEN(cvtepi8_epi16, std::int8_t, std::int16_t, __m256i)
STRATA_WIDEN(cvtepi8_epi32, std::int8_t, std::int32_t, __m128i)
STRATA_WIDEN(cvtepi8_epi64, std::int8_t, std::int64_t, __m128i)
STRATA_WIDEN(cvtepi16_epi32, std::int16_t, std::int32_t, __m256i)
STRATA_WIDEN(cvtepi16_epi64, std::int16_t, std::int64_t, __m128i)
STRATA_WIDEN(cvtepi32_epi64, std::int32_t, std::int64_t, __m256i)
STRATA_WIDEN(cvtepu8_epi16, std::uint8_t, std::uint16_t, __m256i)
STRATA_WIDEN(cvtepu8_epi32, std::uint8_t, std::uint32_t, __m128i)
STRATA_WIDEN(cvtepu8_epi64, std::uint8_t, std::uint64_t, __m128i)
STRATA_WIDEN(cvtepu16_epi32, std::uint16_t, std::uint32_t, __m256i)
STRATA_WIDEN(cvtepu16_epi64, std::uint16_t, std::uint64_t, __m128i)
STRATA_WIDEN(cvtepu32_epi64, std::uint32_t, std::uint64_t, __m256i)
#undef STRATA_WIDEN

// Narrower integers: cut off, held as signed, held as unsigned. The masked store writes the lanes of its mask.
#define STRATA_NARROW(prefix, name, V, From, To, Result, conversion)                                                          \
    STRATA_CALLED Result prefix##_##name(V a) {                                                                               \
        return emulated::convert<To, From, Result>([](From x) { return conversion; }, a);                                     \
    }                                                                                                                         \
    STRATA_CALLED Result prefix##_mask_##name(Result otherwise, emulated::Mask<From, sizeof(V)> k, V a) {                     \
        constexpr std::uint64_t kAbove = sizeof(V) / sizeof(From) < 64 ? ~std::uint64_t{0} << (sizeof(V) / sizeof(From)) : 0; \
        return emulated::keep<To>(otherwise, k | kAbove, prefix##_##name(a));                                                 \
    }                                                                                                                         \
    STRATA_CALLED Result prefix##_maskz_##name(emulated::Mask<From, sizeof(V)> k, V a) { return prefix##_mask_##name(Result{}, k, a); }
#define STRATA_NARROW_WITH_STORE(prefix, from, to, V, From, To, Result)                                                    \
    STRATA_NARROW(prefix, cvtep##from##_ep##to, V, From, To, Result, x)                                                    \
    STRATA_NARROW(prefix, cvtsep##from##_ep##to, V, From, To, Result, emulated::saturated<To>(x))                          \
    STRATA_NARROW(prefix, cvtusep##from##_ep##to, V, std::make_unsigned_t<From>, std::make_unsigned_t<To>, Result,         \
                  emulated::saturated<std::make_unsigned_t<To>>(static_cast<std::int64_t>(x > INT64_MAX ? INT64_MAX : x))) \
    STRATA_CALLED void prefix##_mask_cvtep##from##_storeu_ep##to(void *p, emulated::Mask<From, sizeof(V)> k, V a) {        \
        emulated::store_lanes<To>(p, k, prefix##_cvtep##from##_ep##to(a));                                                 \
    }                                                                                                                      \
    STRATA_CALLED void prefix##_mask_cvtsep##from##_storeu_ep##to(void *p, emulated::Mask<From, sizeof(V)> k, V a) {       \
        emulated::store_lanes<To>(p, k, prefix##_cvtsep##from##_ep##to(a));                                                \
    }                                                                                                                      \
    STRATA_CALLED void prefix##_mask_cvtusep##from##_storeu_ep##to(void *p, emulated::Mask<From, sizeof(V)> k, V a) {      \
        emulated::store_lanes<To>(p, k, prefix##_cvtusep##from##_ep##to(a));                                               \
    }
#define STRATA_NARROW_REGISTER(prefix, V, Half)                                        \
    STRATA_NARROW_WITH_STORE(prefix, i16, i8, V, std::int16_t, std::int8_t, Half)      \
    STRATA_NARROW_WITH_STORE(prefix, i32, i8, V, std::int32_t, std::int8_t, __m128i)   \
    STRATA_NARROW_WITH_STORE(prefix, i32, i16, V, std::int32_t, std::int16_t, Half)    \
    STRATA_NARROW_WITH_STORE(prefix, i64, i8, V, std::int64_t, std::int8_t, __m128i)   \
    STRATA_NARROW_WITH_STORE(prefix, i64, i16, V, std::int64_t, std::int16_t, __m128i) \
    STRATA_NARROW_WITH_STORE(prefix, i64, i32, V, std::int64_t, std::int32_t, Half)
STRATA_NARROW_REGISTER(_mm512, __m512i, __m256i)
STRATA_NARROW_REGISTER(_mm256, __m256i, __m128i)
STRATA_NARROW_REGISTER(_mm, __m128i, __m128i)
#undef STRATA_NARROW_REGISTER
#undef STRATA_NARROW_WITH_STORE
#undef STRATA_NARROW

// Floats and 32-bit integers. A float that does not fit becomes the least integer, as AVX2 has it.
STRATA_BY_HALVES(cvtepi32_ps, __m512, float, (__m512i a), a)
STRATA_BY_HALVES(cvtps_epi32, __m512i, std::int32_t, (__m512 a), a)
STRATA_BY_HALVES(cvttps_epi32, __m512i, std::int32_t, (__m512 a), a)
STRATA_EMULATE(cvtepu32_ps, __m512, float, (__m512i a), (a),
               emulated::convert<float, std::uint32_t, __m512>([](std::uint32_t x) { return static_cast<float>(std::int64_t{x}); }, a))
STRATA_EMULATE(cvtps_epu32, __m512i, std::uint32_t, (__m512 a), (a),
               emulated::convert<std::uint32_t, float, __m512i>([](float x) { return emulated::to_unsigned(x, _MM_FROUND_CUR_DIRECTION); }, a))
STRATA_EMULATE(cvttps_epu32, __m512i, std::uint32_t, (__m512 a), (a),
               emulated::convert<std::uint32_t, float, __m512i>([](float x) { return emulated::to_unsigned(x, _MM_FROUND_TO_ZERO); }, a))
STRATA_EMULATE(cvtps_pd, __m512d, double, (__m256 a), (a), emulated::convert<double, float, __m512d>([](float x) { return double{x}; }, a))
inline __m256 _mm512_cvtpd_ps(__m512d a) {
    return emulated::convert<float, double, __m256>([](double x) { return static_cast<float>(x); }, a);
}
STRATA_EMULATE(cvtepi32_pd, __m512d, double, (__m256i a), (a),
               emulated::convert<double, std::int32_t, __m512d>([](std::int32_t x) { return double{static_cast<double>(x)}; }, a))

// Halves, by F16C.
STRATA_EMULATE(cvtph_ps, __m512, float, (__m256i a), (a),
               emulated::join(_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))))
STRATA_CALLED __m256i _mm512_cvtps_ph(__m512 a, int rounding) {
    switch (rounding & 7) {
    case _MM_FROUND_TO_NEAREST_INT: return emulated::to_half<_MM_FROUND_TO_NEAREST_INT>(a);
    case _MM_FROUND_TO_NEG_INF: return emulated::to_half<_MM_FROUND_TO_NEG_INF>(a);
    case _MM_FROUND_TO_POS_INF: return emulated::to_half<_MM_FROUND_TO_POS_INF>(a);
    case _MM_FROUND_TO_ZERO: return emulated::to_half<_MM_FROUND_TO_ZERO>(a);
    default: return emulated::to_half<_MM_FROUND_CUR_DIRECTION>(a);
    }
}
inline __m256i _mm512_cvt_roundps_ph(__m512 a, int rounding) { return _mm512_cvtps_ph(a, rounding); }
STRATA_MASKED(_mm512, cvtps_ph, __m256i, std::uint16_t, (__m512 a, int rounding), (a, rounding))
STRATA_MASKED(_mm256, cvtps_ph, __m128i, std::uint16_t, (__m256 a, int rounding), (a, rounding))
STRATA_MASKED(_mm256, cvtph_ps, __m256, float, (__m128i a), (a))

} // namespace strata::STRATA_ISA_NAMESPACE
