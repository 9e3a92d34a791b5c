// SPDX-License-Identifier: Apache-2.0
// Constants, casts, broadcasts, inserts, extracts and blends. Part of simd/emulated_avx512.h.
#pragma once

namespace strata::STRATA_ISA_NAMESPACE {

namespace emulated {

template <class Part, class V>
inline Part extract(V v, int part) {
    const auto parts = __builtin_bit_cast(Lanes<Part, sizeof(V)>, v);
    return parts.at[part & (parts.kCount - 1)];
}
template <class V, class Part>
inline V insert(V v, Part value, int part) {
    auto parts = __builtin_bit_cast(Lanes<Part, sizeof(V)>, v);
    parts.at[part & (parts.kCount - 1)] = value;
    return __builtin_bit_cast(V, parts);
}
template <class V, class Part>
inline V repeat(Part part) {
    Lanes<Part, sizeof(V)> parts;
    for (int i = 0; i < parts.kCount; ++i) parts.at[i] = part;
    return __builtin_bit_cast(V, parts);
}

} // namespace emulated

inline __m512 _mm512_undefined_ps() { return emulated::undefined<__m512>(); }
inline __m512d _mm512_undefined_pd() { return emulated::undefined<__m512d>(); }
inline __m512i _mm512_undefined_epi32() { return emulated::undefined<__m512i>(); }
inline __m512 _mm512_setzero_ps() { return __m512{}; }
inline __m512d _mm512_setzero_pd() { return __m512d{}; }
inline __m512i _mm512_setzero_si512() { return __m512i{}; }
inline __m512i _mm512_setzero_epi32() { return __m512i{}; }
inline __m512 _mm512_setzero() { return __m512{}; }

// Constants and blends of one type of lane; `x` is the type that the intrinsic takes.
#define STRATA_SET1(suffix, V, X, wide)          \
    inline V _mm512_set1_##suffix(X x) {         \
        const auto half = _mm256_set1_##wide(x); \
        return {{half, half}};                   \
    }
#define STRATA_MASKED_SET1(prefix, suffix, V, T, X)                                                 \
    STRATA_CALLED V prefix##_mask_set1_##suffix(V otherwise, emulated::Mask<T, sizeof(V)> k, X x) { \
        return emulated::keep<T>(otherwise, k, emulated::from_lanes<T, V>([x](int) { return x; })); \
    }                                                                                               \
    STRATA_CALLED V prefix##_maskz_set1_##suffix(emulated::Mask<T, sizeof(V)> k, X x) { return prefix##_mask_set1_##suffix(V{}, k, x); }
#define STRATA_BLEND(prefix, suffix, V, T)                                                                                                      \
    STRATA_CALLED V prefix##_mask_blend_##suffix(emulated::Mask<T, sizeof(V)> k, V a, V b) { return emulated::keep<T>(a, k, b); }               \
    STRATA_CALLED V prefix##_mask_mov_##suffix(V otherwise, emulated::Mask<T, sizeof(V)> k, V a) { return emulated::keep<T>(otherwise, k, a); } \
    STRATA_CALLED V prefix##_maskz_mov_##suffix(emulated::Mask<T, sizeof(V)> k, V a) { return emulated::keep<T>(V{}, k, a); }
#define STRATA_REGISTER_BLENDS(prefix, I, F, D)                \
    STRATA_BLEND(prefix, epi8, I, std::uint8_t)                \
    STRATA_BLEND(prefix, epi16, I, std::uint16_t)              \
    STRATA_BLEND(prefix, epi32, I, std::uint32_t)              \
    STRATA_BLEND(prefix, epi64, I, std::uint64_t)              \
    STRATA_BLEND(prefix, ps, F, float)                         \
    STRATA_BLEND(prefix, pd, D, double)                        \
    STRATA_MASKED_SET1(prefix, epi8, I, std::uint8_t, char)    \
    STRATA_MASKED_SET1(prefix, epi16, I, std::uint16_t, short) \
    STRATA_MASKED_SET1(prefix, epi32, I, std::uint32_t, int)   \
    STRATA_MASKED_SET1(prefix, epi64, I, std::uint64_t, long long)
STRATA_SET1(epi8, __m512i, char, epi8)
STRATA_SET1(epi16, __m512i, short, epi16)
STRATA_SET1(epi32, __m512i, int, epi32)
STRATA_SET1(epi64, __m512i, long long, epi64x)
STRATA_SET1(ps, __m512, float, ps)
STRATA_SET1(pd, __m512d, double, pd)
STRATA_REGISTER_BLENDS(_mm512, __m512i, __m512, __m512d)
STRATA_REGISTER_BLENDS(_mm256, __m256i, __m256, __m256d)
STRATA_REGISTER_BLENDS(_mm, __m128i, __m128, __m128d)
#undef STRATA_REGISTER_BLENDS
#undef STRATA_BLEND
#undef STRATA_MASKED_SET1
#undef STRATA_SET1

// The setr forms are macros of the compiler's header over these.
inline __m512 _mm512_set_ps(float a, float b, float c, float d, float e, float f, float g, float h, float i, float j, float k, float l, float m,
                            float n, float o, float p) {
    return emulated::vector<__m512>(emulated::Lanes<float, 64>{{p, o, n, m, l, k, j, i, h, g, f, e, d, c, b, a}});
}
inline __m512i _mm512_set_epi32(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k, int l, int m, int n, int o, int p) {
    return emulated::vector<__m512i>(emulated::Lanes<int, 64>{{p, o, n, m, l, k, j, i, h, g, f, e, d, c, b, a}});
}
inline __m512d _mm512_set_pd(double a, double b, double c, double d, double e, double f, double g, double h) {
    return emulated::vector<__m512d>(emulated::Lanes<double, 64>{{h, g, f, e, d, c, b, a}});
}
inline __m512i _mm512_set_epi64(long long a, long long b, long long c, long long d, long long e, long long f, long long g, long long h) {
    return emulated::vector<__m512i>(emulated::Lanes<long long, 64>{{h, g, f, e, d, c, b, a}});
}
inline __m512i _mm512_set4_epi32(int a, int b, int c, int d) { return _mm512_set_epi32(a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d); }
inline __m512 _mm512_set4_ps(float a, float b, float c, float d) { return _mm512_set_ps(a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d); }
template <class... Words>
inline __m512i _mm512_set_epi16(Words... words) {
    static_assert(sizeof...(Words) == 32);
    const emulated::Lanes<short, 64> backwards{{static_cast<short>(words)...}};
    return emulated::from_lanes<short, __m512i>([&](int i) { return backwards.at[31 - i]; });
}
template <class... Bytes>
inline __m512i _mm512_set_epi8(Bytes... bytes) {
    static_assert(sizeof...(Bytes) == 64);
    const emulated::Lanes<char, 64> backwards{{static_cast<char>(bytes)...}};
    return emulated::from_lanes<char, __m512i>([&](int i) { return backwards.at[63 - i]; });
}

// Casts: the same bits, fewer, or more with undefined (cast) or zero (zext) ones above.
#define STRATA_CAST(from, From, to, To, cast) \
    inline To _mm512_cast##from##_##to(From a) { return {{_mm256_cast##cast(a.half[0]), _mm256_cast##cast(a.half[1])}}; }
STRATA_CAST(ps, __m512, pd, __m512d, ps_pd)
STRATA_CAST(ps, __m512, si512, __m512i, ps_si256)
STRATA_CAST(pd, __m512d, ps, __m512, pd_ps)
STRATA_CAST(pd, __m512d, si512, __m512i, pd_si256)
STRATA_CAST(si512, __m512i, ps, __m512, si256_ps)
STRATA_CAST(si512, __m512i, pd, __m512d, si256_pd)
#undef STRATA_CAST
#define STRATA_RESIZE(Wide, wide, Half, half, Quarter, quarter)                                                          \
    inline Half _mm512_cast##wide##_##half(Wide a) { return emulated::low(a); }                                          \
    inline Wide _mm512_cast##half##_##wide(Half a) { return {{a, emulated::undefined<Half>()}}; }                        \
    inline Wide _mm512_zext##half##_##wide(Half a) { return {{a, Half{}}}; }                                             \
    inline Quarter _mm512_cast##wide##_##quarter(Wide a) { return emulated::lanes<Quarter>(a).at[0]; }                   \
    inline Wide _mm512_cast##quarter##_##wide(Quarter a) { return emulated::insert(emulated::undefined<Wide>(), a, 0); } \
    inline Wide _mm512_zext##quarter##_##wide(Quarter a) { return emulated::insert(Wide{}, a, 0); }
STRATA_RESIZE(__m512, ps512, __m256, ps256, __m128, ps128)
STRATA_RESIZE(__m512d, pd512, __m256d, pd256, __m128d, pd128)
STRATA_RESIZE(__m512i, si512, __m256i, si256, __m128i, si128)
#undef STRATA_RESIZE
inline int _mm512_cvtsi512_si32(__m512i a) { return emulated::lanes<int>(a).at[0]; }
inline float _mm512_cvtss_f32(__m512 a) { return emulated::lanes<float>(a).at[0]; }
inline double _mm512_cvtsd_f64(__m512d a) { return emulated::lanes<double>(a).at[0]; }

// Parts of registers: `part` counts in units of the part.
#define STRATA_PART(extract_name, insert_name, broadcast_name, V, Part, T)                                 \
    inline Part _mm512_##extract_name(V a, int part) { return emulated::extract<Part>(a, part); }          \
    STRATA_MASKED(_mm512, extract_name, Part, T, (V a, int part), (a, part))                               \
    STRATA_EMULATE(insert_name, V, T, (V a, Part b, int part), (a, b, part), emulated::insert(a, b, part)) \
    STRATA_EMULATE(broadcast_name, V, T, (Part a), (a), emulated::repeat<V>(a))
STRATA_PART(extractf32x4_ps, insertf32x4, broadcast_f32x4, __m512, __m128, float)
STRATA_PART(extractf32x8_ps, insertf32x8, broadcast_f32x8, __m512, __m256, float)
STRATA_PART(extractf64x2_pd, insertf64x2, broadcast_f64x2, __m512d, __m128d, double)
STRATA_PART(extractf64x4_pd, insertf64x4, broadcast_f64x4, __m512d, __m256d, double)
STRATA_PART(extracti32x4_epi32, inserti32x4, broadcast_i32x4, __m512i, __m128i, std::uint32_t)
STRATA_PART(extracti32x8_epi32, inserti32x8, broadcast_i32x8, __m512i, __m256i, std::uint32_t)
STRATA_PART(extracti64x2_epi64, inserti64x2, broadcast_i64x2, __m512i, __m128i, std::uint64_t)
STRATA_PART(extracti64x4_epi64, inserti64x4, broadcast_i64x4, __m512i, __m256i, std::uint64_t)
#undef STRATA_PART

#define STRATA_BROADCAST(name, V, Narrow, T) STRATA_EMULATE(name, V, T, (Narrow a), (a), emulated::repeat<V>(emulated::lanes<T>(a).at[0]))
STRATA_BROADCAST(broadcastss_ps, __m512, __m128, float)
STRATA_BROADCAST(broadcastsd_pd, __m512d, __m128d, double)
STRATA_BROADCAST(broadcastb_epi8, __m512i, __m128i, std::uint8_t)
STRATA_BROADCAST(broadcastw_epi16, __m512i, __m128i, std::uint16_t)
STRATA_BROADCAST(broadcastd_epi32, __m512i, __m128i, std::uint32_t)
STRATA_BROADCAST(broadcastq_epi64, __m512i, __m128i, std::uint64_t)
#undef STRATA_BROADCAST

} // namespace strata::STRATA_ISA_NAMESPACE
