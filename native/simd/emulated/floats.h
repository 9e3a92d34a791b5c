// SPDX-License-Identifier: Apache-2.0
// Floating-point arithmetic. Part of simd/emulated_avx512.h.
#pragma once

namespace strata::STRATA_ISA_NAMESPACE {

namespace emulated {

/// To a whole number, by the low three bits of an immediate.
template <class T>
inline T whole(T a, int rounding) {
    switch (rounding & 7) {
    case _MM_FROUND_TO_NEAREST_INT: return static_cast<T>(__builtin_roundeven(a)); // a float's whole number is one in double, and back
    case _MM_FROUND_TO_NEG_INF: return static_cast<T>(__builtin_floor(a));
    case _MM_FROUND_TO_POS_INF: return static_cast<T>(__builtin_ceil(a));
    case _MM_FROUND_TO_ZERO: return static_cast<T>(__builtin_trunc(a));
    default: return static_cast<T>(__builtin_nearbyint(a)); // as MXCSR says
    }
}

/// x 2^n, exact: n is at most 1000 either way.
inline double scaled(double x, int n) { return x * __builtin_bit_cast(double, static_cast<std::uint64_t>(1023 + n) << 52); }

/// To a multiple of 2^-M, M in the immediate's upper half; an infinite value is returned as it came.
template <class T>
inline T round_scaled(T a, int control) {
    const int digits = (control >> 4) & 15;
    if (digits == 0 || __builtin_isinf(a)) {
        return whole(a, control);
    }
    // In double neither step overflows for floats; for doubles the largest are whole anyway.
    const double up = scaled(static_cast<double>(a), digits);
    return __builtin_isinf(up) ? a : static_cast<T>(scaled(whole(up, control), -digits));
}

/// a 2^floor(b), rounded once.
inline float scale_by(float a, float b) {
    const bool a_nan = __builtin_isnan(a);
    const bool a_signalling = a_nan && (__builtin_bit_cast(std::uint32_t, a) & 0x400000u) == 0;
    if (a_nan) {
        // Infinity decides over a quiet NaN, the one case in which it does.
        return !a_signalling && __builtin_isinf(b) ? (b > 0 ? b : 0.0F) : a + a;
    }
    if (__builtin_isnan(b)) {
        return b + b;
    }
    if ((__builtin_isinf(a) && __builtin_isinf(b) && b < 0) || (a == 0 && __builtin_isinf(b) && b > 0)) {
        return -__builtin_nanf(""); // the default NaN has its sign set
    }
    const float n = whole(b, _MM_FROUND_TO_NEG_INF);
    const int clamped = static_cast<int>(n > 600.0F ? 600.0F : n < -600.0F ? -600.0F : n); // far past what a float can need
    return static_cast<float>(scaled(static_cast<double>(a), clamped));
}

} // namespace emulated

// As AVX2 has it; max and min give the second of two zeros, and the second if either is NaN.
#define STRATA_FLOATS_2(name)                                                         \
    STRATA_BY_HALVES(name##_ps, __m512, float, (__m512 a, __m512 b), a, b)            \
    STRATA_BY_HALVES(name##_pd, __m512d, double, (__m512d a, __m512d b), a, b)        \
    STRATA_MASKED(_mm256, name##_ps, __m256, float, (__m256 a, __m256 b), (a, b))     \
    STRATA_MASKED(_mm256, name##_pd, __m256d, double, (__m256d a, __m256d b), (a, b)) \
    STRATA_MASKED(_mm, name##_ps, __m128, float, (__m128 a, __m128 b), (a, b))        \
    STRATA_MASKED(_mm, name##_pd, __m128d, double, (__m128d a, __m128d b), (a, b))
STRATA_FLOATS_2(add)
STRATA_FLOATS_2(sub)
STRATA_FLOATS_2(mul)
STRATA_FLOATS_2(div)
STRATA_FLOATS_2(max)
STRATA_FLOATS_2(min)
#undef STRATA_FLOATS_2
STRATA_BY_HALVES(sqrt_ps, __m512, float, (__m512 a), a)
STRATA_BY_HALVES(sqrt_pd, __m512d, double, (__m512d a), a)
STRATA_EMULATE(floor_ps, __m512, float, (__m512 a), (a), emulated::each<float>([](float x) { return emulated::whole(x, _MM_FROUND_TO_NEG_INF); }, a))
STRATA_EMULATE(ceil_ps, __m512, float, (__m512 a), (a), emulated::each<float>([](float x) { return emulated::whole(x, _MM_FROUND_TO_POS_INF); }, a))
inline __m512 _mm512_abs_ps(__m512 a) {
    return emulated::each<std::uint32_t>([](std::uint32_t x) { return x & 0x7fffffffu; }, a);
}
inline __m512 _mm512_mask_abs_ps(__m512 otherwise, __mmask16 k, __m512 a) { return emulated::keep<float>(otherwise, k, _mm512_abs_ps(a)); }

// Fused: the mask form keeps a, mask3 keeps c.
#define STRATA_FUSED_MASKS(prefix, name, V, T)                                             \
    STRATA_CALLED V prefix##_mask_##name(V a, emulated::Mask<T, sizeof(V)> k, V b, V c) {  \
        return emulated::keep<T>(a, k, prefix##_##name(a, b, c));                          \
    }                                                                                      \
    STRATA_CALLED V prefix##_mask3_##name(V a, V b, V c, emulated::Mask<T, sizeof(V)> k) { \
        return emulated::keep<T>(c, k, prefix##_##name(a, b, c));                          \
    }                                                                                      \
    STRATA_CALLED V prefix##_maskz_##name(emulated::Mask<T, sizeof(V)> k, V a, V b, V c) { \
        return emulated::keep<T>(V{}, k, prefix##_##name(a, b, c));                        \
    }
#define STRATA_FUSED(name)                                                                                             \
    inline __m512 _mm512_##name##_ps(__m512 a, __m512 b, __m512 c) {                                                   \
        return emulated::halves([](__m256 x, __m256 y, __m256 z) { return _mm256_##name##_ps(x, y, z); }, a, b, c);    \
    }                                                                                                                  \
    inline __m512d _mm512_##name##_pd(__m512d a, __m512d b, __m512d c) {                                               \
        return emulated::halves([](__m256d x, __m256d y, __m256d z) { return _mm256_##name##_pd(x, y, z); }, a, b, c); \
    }                                                                                                                  \
    STRATA_FUSED_MASKS(_mm512, name##_ps, __m512, float)                                                               \
    STRATA_FUSED_MASKS(_mm512, name##_pd, __m512d, double)                                                             \
    STRATA_FUSED_MASKS(_mm256, name##_ps, __m256, float)                                                               \
    STRATA_FUSED_MASKS(_mm256, name##_pd, __m256d, double)                                                             \
    STRATA_FUSED_MASKS(_mm, name##_ps, __m128, float)
STRATA_FUSED(fmadd)
STRATA_FUSED(fmsub)
STRATA_FUSED(fnmadd)
STRATA_FUSED(fnmsub)
#undef STRATA_FUSED
#undef STRATA_FUSED_MASKS

// Bitwise (DQ).
#define STRATA_BITWISE(name, ...)                                                                                     \
    STRATA_EMULATE(name##_ps, __m512, float, (__m512 a, __m512 b), (a, b),                                            \
                   emulated::each<std::uint32_t>([](std::uint32_t x, std::uint32_t y) { return __VA_ARGS__; }, a, b)) \
    STRATA_EMULATE(name##_pd, __m512d, double, (__m512d a, __m512d b), (a, b),                                        \
                   emulated::each<std::uint64_t>([](std::uint64_t x, std::uint64_t y) { return __VA_ARGS__; }, a, b))
STRATA_BITWISE(and, x &y)
STRATA_BITWISE(or, x | y)
STRATA_BITWISE(xor, x ^ y)
STRATA_BITWISE(andnot, ~x &y)
#undef STRATA_BITWISE

#define STRATA_ROUND_SCALE(prefix, V)                                                                       \
    STRATA_CALLED V prefix##_roundscale_ps(V a, int control) {                                              \
        return emulated::each<float>([control](float x) { return emulated::round_scaled(x, control); }, a); \
    }                                                                                                       \
    STRATA_CALLED V prefix##_scalef_ps(V a, V b) {                                                          \
        return emulated::each<float>([](float x, float y) { return emulated::scale_by(x, y); }, a, b);      \
    }                                                                                                       \
    STRATA_MASKED(prefix, roundscale_ps, V, float, (V a, int control), (a, control))                        \
    STRATA_MASKED(prefix, scalef_ps, V, float, (V a, V b), (a, b))
STRATA_ROUND_SCALE(_mm512, __m512)
STRATA_ROUND_SCALE(_mm256, __m256)
STRATA_ROUND_SCALE(_mm, __m128)
#undef STRATA_ROUND_SCALE
inline __m512d _mm512_roundscale_pd(__m512d a, int control) {
    return emulated::each<double>([control](double x) { return emulated::round_scaled(x, control); }, a);
}

namespace emulated {

/// Upper against lower half, until one lane is left: the order of the compiler's own reductions.
template <class T, class V, class F>
inline T reduce(V v, F f) {
    auto x = lanes<T>(v);
    for (int half = x.kCount / 2; half > 1; half /= 2) {
        for (int i = 0; i < half; ++i) x.at[i] = static_cast<T>(f(x.at[i + half], x.at[i]));
    }
    return static_cast<T>(f(x.at[0], x.at[1]));
}

} // namespace emulated

#define STRATA_REDUCE(name, suffix, V, T, Result, neutral, ...)                                                                   \
    STRATA_CALLED Result _mm512_reduce_##name##_##suffix(V a) {                                                                   \
        return static_cast<Result>(emulated::reduce<T>(a, [](T x, T y) { return __VA_ARGS__; }));                                 \
    }                                                                                                                             \
    STRATA_CALLED Result _mm512_mask_reduce_##name##_##suffix(emulated::Mask<T, sizeof(V)> k, V a) {                              \
        return _mm512_reduce_##name##_##suffix(emulated::keep<T>(emulated::from_lanes<T, V>([](int) { return neutral; }), k, a)); \
    }
#define STRATA_REDUCE_FLOATS(suffix, V, T)                                \
    STRATA_REDUCE(add, suffix, V, T, T, T{0}, x + y)                      \
    STRATA_REDUCE(mul, suffix, V, T, T, T{1}, x *y)                       \
    STRATA_REDUCE(max, suffix, V, T, T, -__builtin_inff(), x > y ? x : y) \
    STRATA_REDUCE(min, suffix, V, T, T, __builtin_inff(), x < y ? x : y)
STRATA_REDUCE_FLOATS(ps, __m512, float)
STRATA_REDUCE_FLOATS(pd, __m512d, double)
#undef STRATA_REDUCE_FLOATS

} // namespace strata::STRATA_ISA_NAMESPACE
