// SPDX-License-Identifier: Apache-2.0
// Registers as arrays of lanes. Part of simd/emulated_avx512.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace strata::STRATA_ISA_NAMESPACE {

// Two halves each: the compiler's own 512-bit types live in memory without AVX-512. Between types, bits go by __builtin_bit_cast.
struct alignas(64) __m512 {
    __m256 half[2];
};
struct alignas(64) __m512d {
    __m256d half[2];
};
struct alignas(64) __m512i {
    __m256i half[2];
};
struct alignas(64) __m512bh {
    __m256bh half[2];
};

namespace emulated {

template <class T, std::size_t Bytes>
struct Lanes {
    static constexpr int kCount = static_cast<int>(Bytes / sizeof(T));
    T at[std::size_t{kCount}];
};

template <class T, class V>
inline Lanes<T, sizeof(V)> lanes(V v) {
    return __builtin_bit_cast(Lanes<T, sizeof(V)>, v);
}
template <class V, class T, std::size_t Bytes>
inline V vector(const Lanes<T, Bytes> &x) {
    return __builtin_bit_cast(V, x);
}

/// The mask type of a register of `Bytes` in lanes of T.
template <class T, std::size_t Bytes>
using Mask =
    std::conditional_t<Bytes / sizeof(T) <= 8, __mmask8,
                       std::conditional_t<Bytes / sizeof(T) == 16, __mmask16, std::conditional_t<Bytes / sizeof(T) == 32, __mmask32, __mmask64>>>;

inline bool bit(std::uint64_t mask, int lane) { return ((mask >> lane) & 1u) != 0; }

/// f of the lanes of one or more registers of one type.
template <class T, class F, class V, class... More>
inline V each(F f, V first, More... more) {
    Lanes<T, sizeof(V)> r;
    const auto a = lanes<T>(first);
    if constexpr (sizeof...(More) == 0) {
        for (int i = 0; i < r.kCount; ++i) r.at[i] = static_cast<T>(f(a.at[i]));
    } else if constexpr (sizeof...(More) == 1) {
        const auto b = lanes<T>(more...);
        for (int i = 0; i < r.kCount; ++i) r.at[i] = static_cast<T>(f(a.at[i], b.at[i]));
    } else {
        const Lanes<T, sizeof(V)> rest[] = {lanes<T>(more)...};
        for (int i = 0; i < r.kCount; ++i) r.at[i] = static_cast<T>(f(a.at[i], rest[0].at[i], rest[1].at[i]));
    }
    return vector<V>(r);
}

/// Lane l of v where bit l is set, of `otherwise` where it is not.
template <class T, class V>
inline V keep(V otherwise, std::uint64_t mask, V v) {
    auto r = lanes<T>(otherwise);
    const auto a = lanes<T>(v);
    for (int i = 0; i < r.kCount; ++i) r.at[i] = bit(mask, i) ? a.at[i] : r.at[i];
    return vector<V>(r);
}

/// Bit l: f of lanes l.
template <class T, class F, class V>
inline std::uint64_t where(F f, V va, V vb) {
    const auto a = lanes<T>(va);
    const auto b = lanes<T>(vb);
    std::uint64_t mask = 0;
    for (int i = 0; i < a.kCount; ++i) mask |= std::uint64_t{f(a.at[i], b.at[i])} << i;
    return mask;
}

/// Lane l: f(l).
template <class T, class V, class F>
inline V from_lanes(F f) {
    Lanes<T, sizeof(V)> r;
    for (int i = 0; i < r.kCount; ++i) r.at[i] = static_cast<T>(f(i));
    return vector<V>(r);
}

/// What undefined bits are: ones, NaN in every float type.
template <class V>
inline V undefined() {
    return from_lanes<std::uint64_t, V>([](int) { return ~std::uint64_t{0}; });
}

template <class V>
inline auto low(V v) {
    return v.half[0];
}
template <class V>
inline auto high(V v) {
    return v.half[1];
}
inline __m512 join(__m256 a, __m256 b) { return {{a, b}}; }
inline __m512d join(__m256d a, __m256d b) { return {{a, b}}; }
inline __m512i join(__m256i a, __m256i b) { return {{a, b}}; }

/// An AVX2 instruction on both halves: for everything that works inside 128-bit quarters.
template <class F, class... V>
inline auto halves(F f, V... v) {
    return join(f(low(v)...), f(high(v)...));
}

/// x, held to what T can say.
template <class T>
inline T saturated(std::int64_t x) {
    constexpr std::int64_t kLeast = std::int64_t{static_cast<T>(std::is_signed_v<T> ? std::uint64_t{1} << (8 * sizeof(T) - 1) : 0)};
    constexpr std::int64_t kMost = std::is_signed_v<T> ? ~kLeast : (std::int64_t{1} << (8 * sizeof(T))) - 1;
    return static_cast<T>(x < kLeast ? kLeast : x > kMost ? kMost : x);
}

} // namespace emulated

// An intrinsic that is called: a kernel with a thousand loops inlined takes minutes to compile.
#define STRATA_CALLED inline __attribute__((noinline))

// The two masked forms of prefix_name: lanes that the mask leaves out are those of `otherwise`, or zero.
#define STRATA_LIST(...) __VA_ARGS__
#define STRATA_MASKED(prefix, name, V, T, parameters, arguments)                                                \
    STRATA_CALLED V prefix##_mask_##name(V otherwise, emulated::Mask<T, sizeof(V)> k, STRATA_LIST parameters) { \
        return emulated::keep<T>(otherwise, k, prefix##_##name arguments);                                      \
    }                                                                                                           \
    STRATA_CALLED V prefix##_maskz_##name(emulated::Mask<T, sizeof(V)> k, STRATA_LIST parameters) {             \
        return emulated::keep<T>(V{}, k, prefix##_##name arguments);                                            \
    }

// A 512-bit intrinsic whose value is the last argument, and its masked forms.
#define STRATA_EMULATE(name, V, T, parameters, arguments, ...)       \
    STRATA_CALLED V _mm512_##name parameters { return __VA_ARGS__; } \
    STRATA_MASKED(_mm512, name, V, T, parameters, arguments)

// The same, where AVX2 has it for each half.
#define STRATA_BY_HALVES(name, V, T, parameters, ...)                                                  \
    inline V _mm512_##name parameters {                                                                \
        return emulated::halves([](auto... halves) { return _mm256_##name(halves...); }, __VA_ARGS__); \
    }                                                                                                  \
    STRATA_MASKED(_mm512, name, V, T, parameters, (__VA_ARGS__))

} // namespace strata::STRATA_ISA_NAMESPACE
