// SPDX-License-Identifier: Apache-2.0
// Loads, stores, gathers and scatters. Part of simd/emulated_avx512.h.
#pragma once

namespace strata::STRATA_ISA_NAMESPACE {

namespace emulated {

inline void load_half(__m256 *to, const void *from) { *to = _mm256_loadu_ps(static_cast<const float *>(from)); }
inline void load_half(__m256d *to, const void *from) { *to = _mm256_loadu_pd(static_cast<const double *>(from)); }
inline void load_half(__m256i *to, const void *from) { *to = _mm256_loadu_si256(static_cast<const __m256i *>(from)); }
inline void store_half(void *to, __m256 v) { _mm256_storeu_ps(static_cast<float *>(to), v); }
inline void store_half(void *to, __m256d v) { _mm256_storeu_pd(static_cast<double *>(to), v); }
inline void store_half(void *to, __m256i v) { _mm256_storeu_si256(static_cast<__m256i *>(to), v); }

template <class V>
inline V load(const void *from) {
    V v;
    if constexpr (sizeof(V) == 64) {
        load_half(&v.half[0], from);
        load_half(&v.half[1], static_cast<const unsigned char *>(from) + 32);
    } else {
        std::memcpy(&v, from, sizeof v);
    }
    return v;
}
template <class V>
inline void store(void *to, V v) {
    if constexpr (sizeof(V) == 64) {
        store_half(to, v.half[0]);
        store_half(static_cast<unsigned char *>(to) + 32, v.half[1]);
    } else {
        std::memcpy(to, &v, sizeof v);
    }
}

// A real instruction faults.
inline const void *aligned(const void *p, std::size_t alignment) {
    if (reinterpret_cast<std::uintptr_t>(p) % alignment != 0) {
        __builtin_trap();
    }
    return p;
}
inline void *aligned(void *p, std::size_t alignment) {
    aligned(static_cast<const void *>(p), alignment);
    return p;
}

/// Lane l is read where bit l is set; other memory is not touched.
template <class T, class V>
inline V load_lanes(V otherwise, std::uint64_t mask, const void *from) {
    auto r = lanes<T>(otherwise);
    for (int i = 0; i < r.kCount; ++i) {
        if (bit(mask, i)) {
            std::memcpy(&r.at[i], static_cast<const unsigned char *>(from) + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
        }
    }
    return vector<V>(r);
}
template <class T, class V>
inline void store_lanes(void *to, std::uint64_t mask, V v) {
    const auto a = lanes<T>(v);
    for (int i = 0; i < a.kCount; ++i) {
        if (bit(mask, i)) {
            std::memcpy(static_cast<unsigned char *>(to) + static_cast<std::size_t>(i) * sizeof(T), &a.at[i], sizeof(T));
        }
    }
}

/// The lanes of the mask, one after the other in the lowest places.
template <class T, class V>
inline V compress(V otherwise, std::uint64_t mask, V v) {
    auto r = lanes<T>(otherwise);
    const auto a = lanes<T>(v);
    int n = 0;
    for (int i = 0; i < r.kCount; ++i) {
        if (bit(mask, i)) r.at[n++] = a.at[i];
    }
    return vector<V>(r);
}
/// The other way: the lowest places, in the lanes of the mask.
template <class T, class V>
inline V expand(V otherwise, std::uint64_t mask, V v) {
    auto r = lanes<T>(otherwise);
    const auto a = lanes<T>(v);
    int n = 0;
    for (int i = 0; i < r.kCount; ++i) {
        if (bit(mask, i)) r.at[i] = a.at[n++];
    }
    return vector<V>(r);
}

/// The lowest bits, as many as the mask has.
template <class T, class V>
inline std::uint64_t first_lanes(std::uint64_t mask) {
    constexpr std::size_t kLanes = sizeof(V) / sizeof(T);
    const int count = __builtin_popcountll(kLanes < 64 ? mask & ((std::uint64_t{1} << (kLanes % 64)) - 1) : mask);
    return count < 64 ? (std::uint64_t{1} << count) - 1 : ~std::uint64_t{0};
}

template <class T, class Index, class V, class I>
inline V gather(V otherwise, std::uint64_t mask, I indices, const void *base, int scale) {
    auto r = lanes<T>(otherwise);
    const auto at = lanes<Index>(indices);
    for (int i = 0; i < r.kCount; ++i) {
        if (bit(mask, i)) {
            std::memcpy(&r.at[i], static_cast<const unsigned char *>(base) + std::int64_t{at.at[i]} * scale, sizeof(T));
        }
    }
    return vector<V>(r);
}
template <class T, class Index, class V, class I>
inline void scatter(void *base, std::uint64_t mask, I indices, V v, int scale) {
    const auto a = lanes<T>(v);
    const auto at = lanes<Index>(indices);
    for (int i = 0; i < a.kCount; ++i) {
        if (bit(mask, i)) {
            std::memcpy(static_cast<unsigned char *>(base) + std::int64_t{at.at[i]} * scale, &a.at[i], sizeof(T));
        }
    }
}

} // namespace emulated

// Whole registers.
#define STRATA_WHOLE(suffix, V)                                                                                 \
    inline V _mm512_load_##suffix(const void *p) { return emulated::load<V>(emulated::aligned(p, sizeof(V))); } \
    inline void _mm512_store_##suffix(void *p, V v) { emulated::store(emulated::aligned(p, sizeof(V)), v); }
#define STRATA_WHOLE_LOOSE(prefix, suffix, V)                                        \
    inline V prefix##_loadu_##suffix(const void *p) { return emulated::load<V>(p); } \
    inline void prefix##_storeu_##suffix(void *p, V v) { emulated::store(p, v); }
#define STRATA_STREAM(suffix, V) \
    inline void _mm512_stream_##suffix(void *p, V v) { emulated::store(emulated::aligned(p, sizeof(V)), v); }
STRATA_WHOLE(ps, __m512)
STRATA_WHOLE(pd, __m512d)
STRATA_WHOLE(si512, __m512i)
STRATA_WHOLE(epi32, __m512i)
STRATA_WHOLE(epi64, __m512i)
STRATA_WHOLE_LOOSE(_mm512, ps, __m512)
STRATA_WHOLE_LOOSE(_mm512, pd, __m512d)
STRATA_WHOLE_LOOSE(_mm512, si512, __m512i)
STRATA_WHOLE_LOOSE(_mm512, epi8, __m512i)
STRATA_WHOLE_LOOSE(_mm512, epi16, __m512i)
STRATA_WHOLE_LOOSE(_mm512, epi32, __m512i)
STRATA_WHOLE_LOOSE(_mm512, epi64, __m512i)
STRATA_WHOLE_LOOSE(_mm256, epi8, __m256i)
STRATA_WHOLE_LOOSE(_mm256, epi16, __m256i)
STRATA_WHOLE_LOOSE(_mm256, epi32, __m256i)
STRATA_WHOLE_LOOSE(_mm256, epi64, __m256i)
STRATA_WHOLE_LOOSE(_mm, epi8, __m128i)
STRATA_WHOLE_LOOSE(_mm, epi16, __m128i)
STRATA_WHOLE_LOOSE(_mm, epi32, __m128i)
STRATA_WHOLE_LOOSE(_mm, epi64, __m128i)
STRATA_STREAM(ps, __m512)
STRATA_STREAM(pd, __m512d)
STRATA_STREAM(si512, __m512i)
inline __m512i _mm512_stream_load_si512(const void *p) { return _mm512_load_si512(p); }
#undef STRATA_STREAM
#undef STRATA_WHOLE_LOOSE
#undef STRATA_WHOLE

// Under a mask.
#define STRATA_PARTIAL(prefix, suffix, V, T)                                                                                                    \
    STRATA_CALLED V prefix##_mask_loadu_##suffix(V otherwise, emulated::Mask<T, sizeof(V)> k, const void *p) {                                  \
        return emulated::load_lanes<T>(otherwise, k, p);                                                                                        \
    }                                                                                                                                           \
    STRATA_CALLED V prefix##_maskz_loadu_##suffix(emulated::Mask<T, sizeof(V)> k, const void *p) { return emulated::load_lanes<T>(V{}, k, p); } \
    STRATA_CALLED void prefix##_mask_storeu_##suffix(void *p, emulated::Mask<T, sizeof(V)> k, V v) { emulated::store_lanes<T>(p, k, v); }
#define STRATA_PARTIAL_ALIGNED(prefix, suffix, V, T)                                                          \
    STRATA_CALLED V prefix##_mask_load_##suffix(V otherwise, emulated::Mask<T, sizeof(V)> k, const void *p) { \
        return emulated::load_lanes<T>(otherwise, k, emulated::aligned(p, sizeof(V)));                        \
    }                                                                                                         \
    STRATA_CALLED V prefix##_maskz_load_##suffix(emulated::Mask<T, sizeof(V)> k, const void *p) {             \
        return emulated::load_lanes<T>(V{}, k, emulated::aligned(p, sizeof(V)));                              \
    }                                                                                                         \
    STRATA_CALLED void prefix##_mask_store_##suffix(void *p, emulated::Mask<T, sizeof(V)> k, V v) {           \
        emulated::store_lanes<T>(emulated::aligned(p, sizeof(V)), k, v);                                      \
    }
#define STRATA_COMPRESS(prefix, suffix, V, T)                                                                                                        \
    STRATA_CALLED V prefix##_mask_compress_##suffix(V otherwise, emulated::Mask<T, sizeof(V)> k, V v) {                                              \
        return emulated::compress<T>(otherwise, k, v);                                                                                               \
    }                                                                                                                                                \
    STRATA_CALLED V prefix##_maskz_compress_##suffix(emulated::Mask<T, sizeof(V)> k, V v) { return emulated::compress<T>(V{}, k, v); }               \
    STRATA_CALLED void prefix##_mask_compressstoreu_##suffix(void *p, emulated::Mask<T, sizeof(V)> k, V v) {                                         \
        emulated::store_lanes<T>(p, emulated::first_lanes<T, V>(k), emulated::compress<T>(v, k, v));                                                 \
    }                                                                                                                                                \
    STRATA_CALLED V prefix##_mask_expand_##suffix(V otherwise, emulated::Mask<T, sizeof(V)> k, V v) { return emulated::expand<T>(otherwise, k, v); } \
    STRATA_CALLED V prefix##_maskz_expand_##suffix(emulated::Mask<T, sizeof(V)> k, V v) { return emulated::expand<T>(V{}, k, v); }                   \
    STRATA_CALLED V prefix##_mask_expandloadu_##suffix(V otherwise, emulated::Mask<T, sizeof(V)> k, const void *p) {                                 \
        return emulated::expand<T>(otherwise, k, emulated::load_lanes<T>(V{}, emulated::first_lanes<T, V>(k), p));                                   \
    }                                                                                                                                                \
    STRATA_CALLED V prefix##_maskz_expandloadu_##suffix(emulated::Mask<T, sizeof(V)> k, const void *p) {                                             \
        return prefix##_mask_expandloadu_##suffix(V{}, k, p);                                                                                        \
    }
#define STRATA_PARTIAL_REGISTER(prefix, I, F, D)            \
    STRATA_PARTIAL(prefix, epi8, I, std::uint8_t)           \
    STRATA_PARTIAL(prefix, epi16, I, std::uint16_t)         \
    STRATA_PARTIAL(prefix, epi32, I, std::uint32_t)         \
    STRATA_PARTIAL(prefix, epi64, I, std::uint64_t)         \
    STRATA_PARTIAL(prefix, ps, F, float)                    \
    STRATA_PARTIAL(prefix, pd, D, double)                   \
    STRATA_PARTIAL_ALIGNED(prefix, epi32, I, std::uint32_t) \
    STRATA_PARTIAL_ALIGNED(prefix, epi64, I, std::uint64_t) \
    STRATA_PARTIAL_ALIGNED(prefix, ps, F, float)            \
    STRATA_PARTIAL_ALIGNED(prefix, pd, D, double)           \
    STRATA_COMPRESS(prefix, epi32, I, std::uint32_t)        \
    STRATA_COMPRESS(prefix, epi64, I, std::uint64_t)        \
    STRATA_COMPRESS(prefix, ps, F, float)                   \
    STRATA_COMPRESS(prefix, pd, D, double)
STRATA_PARTIAL_REGISTER(_mm512, __m512i, __m512, __m512d)
STRATA_PARTIAL_REGISTER(_mm256, __m256i, __m256, __m256d)
STRATA_PARTIAL_REGISTER(_mm, __m128i, __m128, __m128d)
#undef STRATA_PARTIAL_REGISTER
#undef STRATA_COMPRESS
#undef STRATA_PARTIAL_ALIGNED
#undef STRATA_PARTIAL

// Through indices.
#define STRATA_INDEXED(suffix, V, T, I)                                                                                            \
    STRATA_CALLED V _mm512_i32gather_##suffix(I indices, const void *base, int scale) {                                            \
        return emulated::gather<T, std::int32_t>(V{}, ~std::uint64_t{0}, indices, base, scale);                                    \
    }                                                                                                                              \
    STRATA_CALLED V _mm512_mask_i32gather_##suffix(V otherwise, emulated::Mask<T, 64> k, I indices, const void *base, int scale) { \
        return emulated::gather<T, std::int32_t>(otherwise, k, indices, base, scale);                                              \
    }                                                                                                                              \
    STRATA_CALLED void _mm512_i32scatter_##suffix(void *base, I indices, V v, int scale) {                                         \
        emulated::scatter<T, std::int32_t>(base, ~std::uint64_t{0}, indices, v, scale);                                            \
    }                                                                                                                              \
    STRATA_CALLED void _mm512_mask_i32scatter_##suffix(void *base, emulated::Mask<T, 64> k, I indices, V v, int scale) {           \
        emulated::scatter<T, std::int32_t>(base, k, indices, v, scale);                                                            \
    }
STRATA_INDEXED(epi32, __m512i, std::uint32_t, __m512i)
STRATA_INDEXED(ps, __m512, float, __m512i)
STRATA_INDEXED(epi64, __m512i, std::uint64_t, __m256i)
STRATA_INDEXED(pd, __m512d, double, __m256i)
#undef STRATA_INDEXED

} // namespace strata::STRATA_ISA_NAMESPACE
