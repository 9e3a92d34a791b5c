// SPDX-License-Identifier: Apache-2.0
// Mask arithmetic, comparisons, tests, and masks from and to registers. Part of simd/emulated_avx512.h.
#pragma once

namespace strata::STRATA_ISA_NAMESPACE {

// Macros in the compiler's header.
#undef _kand_mask16
#undef _kandn_mask16
#undef _knot_mask16
#undef _kor_mask16
#undef _kxnor_mask16
#undef _kxor_mask16

#define STRATA_MASK_ARITHMETIC(K, suffix)                                                                                  \
    inline K _kand_##suffix(K a, K b) { return static_cast<K>(a & b); }                                                    \
    inline K _kor_##suffix(K a, K b) { return static_cast<K>(a | b); }                                                     \
    inline K _kxor_##suffix(K a, K b) { return static_cast<K>(a ^ b); }                                                    \
    inline K _kxnor_##suffix(K a, K b) { return static_cast<K>(~(a ^ b)); }                                                \
    inline K _kandn_##suffix(K a, K b) { return static_cast<K>(~a & b); }                                                  \
    inline K _knot_##suffix(K a) { return static_cast<K>(~a); }                                                            \
    inline K _kadd_##suffix(K a, K b) { return static_cast<K>(a + b); }                                                    \
    inline K _kshiftli_##suffix(K a, unsigned n) { return static_cast<K>(n < 8 * sizeof(K) ? std::uint64_t{a} << n : 0); } \
    inline K _kshiftri_##suffix(K a, unsigned n) { return static_cast<K>(n < 8 * sizeof(K) ? std::uint64_t{a} >> n : 0); } \
    inline unsigned char _kortestz_##suffix##_u8(K a, K b) { return static_cast<K>(a | b) == 0; }                          \
    inline unsigned char _kortestc_##suffix##_u8(K a, K b) { return static_cast<K>(~(a | b)) == 0; }
STRATA_MASK_ARITHMETIC(__mmask8, mask8)
STRATA_MASK_ARITHMETIC(__mmask16, mask16)
STRATA_MASK_ARITHMETIC(__mmask32, mask32)
STRATA_MASK_ARITHMETIC(__mmask64, mask64)
#undef STRATA_MASK_ARITHMETIC

inline unsigned _cvtmask8_u32(__mmask8 a) { return a; }
inline unsigned _cvtmask16_u32(__mmask16 a) { return a; }
inline unsigned _cvtmask32_u32(__mmask32 a) { return a; }
inline unsigned long long _cvtmask64_u64(__mmask64 a) { return a; }
inline __mmask8 _cvtu32_mask8(unsigned a) { return static_cast<__mmask8>(a); }
inline __mmask16 _cvtu32_mask16(unsigned a) { return static_cast<__mmask16>(a); }
inline __mmask32 _cvtu32_mask32(unsigned a) { return a; }
inline __mmask64 _cvtu64_mask64(unsigned long long a) { return a; }
inline __mmask16 _mm512_kand(__mmask16 a, __mmask16 b) { return _kand_mask16(a, b); }
inline __mmask16 _mm512_kor(__mmask16 a, __mmask16 b) { return _kor_mask16(a, b); }
inline __mmask16 _mm512_kxor(__mmask16 a, __mmask16 b) { return _kxor_mask16(a, b); }
inline __mmask16 _mm512_kxnor(__mmask16 a, __mmask16 b) { return _kxnor_mask16(a, b); }
inline __mmask16 _mm512_kandn(__mmask16 a, __mmask16 b) { return _kandn_mask16(a, b); }
inline __mmask16 _mm512_knot(__mmask16 a) { return _knot_mask16(a); }
inline int _mm512_kortestz(__mmask16 a, __mmask16 b) { return _kortestz_mask16_u8(a, b); }
inline int _mm512_kortestc(__mmask16 a, __mmask16 b) { return _kortestc_mask16_u8(a, b); }
inline __mmask16 _mm512_kunpackb(__mmask16 a, __mmask16 b) { return static_cast<__mmask16>((a << 8) | (b & 0xff)); }
inline __mmask32 _mm512_kunpackw(__mmask32 a, __mmask32 b) { return (a << 16) | (b & 0xffffu); }
inline __mmask64 _mm512_kunpackd(__mmask64 a, __mmask64 b) { return (a << 32) | (b & 0xffffffffu); }

namespace emulated {

// The predicates as sets of outcomes: 1 less, 2 equal, 4 greater, 8 unordered.
inline constexpr unsigned char kIntegerPredicates[8] = {2, 1, 3, 0, 5, 6, 4, 7};
inline constexpr unsigned char kFloatPredicates[16] = {2, 1, 3, 8, 13, 14, 12, 7, 10, 9, 11, 0, 5, 6, 4, 15};

template <class T>
inline bool compare(T x, T y, int predicate) {
    const int outcome = x < y ? 1 : x == y ? 2 : x > y ? 4 : 8;
    // The upper half of the float predicates differs in the exceptions it raises only.
    return ((std::is_floating_point_v<T> ? kFloatPredicates[predicate & 15] : kIntegerPredicates[predicate & 7]) & outcome) != 0;
}

} // namespace emulated

// prefix_name_mask(a, b): bit l is the expression in x and y, the lanes l of a and b; and the form that looks at some lanes only.
#define STRATA_TO_MASK(prefix, name, V, T, ...)                                                                           \
    STRATA_CALLED emulated::Mask<T, sizeof(V)> prefix##_##name##_mask(V a, V b) {                                         \
        return static_cast<emulated::Mask<T, sizeof(V)>>(emulated::where<T>([](T x, T y) { return __VA_ARGS__; }, a, b)); \
    }                                                                                                                     \
    STRATA_CALLED emulated::Mask<T, sizeof(V)> prefix##_mask_##name##_mask(emulated::Mask<T, sizeof(V)> k, V a, V b) {    \
        return static_cast<emulated::Mask<T, sizeof(V)>>(k & prefix##_##name##_mask(a, b));                               \
    }
#define STRATA_COMPARE(prefix, suffix, V, T)                                                                                                \
    STRATA_CALLED emulated::Mask<T, sizeof(V)> prefix##_cmp_##suffix##_mask(V a, V b, int predicate) {                                      \
        return static_cast<emulated::Mask<T, sizeof(V)>>(                                                                                   \
            emulated::where<T>([predicate](T x, T y) { return emulated::compare(x, y, predicate); }, a, b));                                \
    }                                                                                                                                       \
    STRATA_CALLED emulated::Mask<T, sizeof(V)> prefix##_mask_cmp_##suffix##_mask(emulated::Mask<T, sizeof(V)> k, V a, V b, int predicate) { \
        return static_cast<emulated::Mask<T, sizeof(V)>>(k & prefix##_cmp_##suffix##_mask(a, b, predicate));                                \
    }
#define STRATA_COMPARE_INTEGERS(prefix, suffix, V, T)     \
    STRATA_COMPARE(prefix, suffix, V, T)                  \
    STRATA_TO_MASK(prefix, cmpeq_##suffix, V, T, x == y)  \
    STRATA_TO_MASK(prefix, cmpneq_##suffix, V, T, x != y) \
    STRATA_TO_MASK(prefix, cmplt_##suffix, V, T, x < y)   \
    STRATA_TO_MASK(prefix, cmple_##suffix, V, T, x <= y)  \
    STRATA_TO_MASK(prefix, cmpgt_##suffix, V, T, x > y)   \
    STRATA_TO_MASK(prefix, cmpge_##suffix, V, T, x >= y)
#define STRATA_COMPARE_FLOATS(prefix, suffix, V, T)                                     \
    STRATA_COMPARE(prefix, suffix, V, T)                                                \
    STRATA_TO_MASK(prefix, cmpeq_##suffix, V, T, emulated::compare(x, y, _CMP_EQ_OQ))   \
    STRATA_TO_MASK(prefix, cmpneq_##suffix, V, T, emulated::compare(x, y, _CMP_NEQ_UQ)) \
    STRATA_TO_MASK(prefix, cmplt_##suffix, V, T, emulated::compare(x, y, _CMP_LT_OS))   \
    STRATA_TO_MASK(prefix, cmple_##suffix, V, T, emulated::compare(x, y, _CMP_LE_OS))   \
    STRATA_TO_MASK(prefix, cmpnlt_##suffix, V, T, emulated::compare(x, y, _CMP_NLT_US)) \
    STRATA_TO_MASK(prefix, cmpnle_##suffix, V, T, emulated::compare(x, y, _CMP_NLE_US)) \
    STRATA_TO_MASK(prefix, cmpord_##suffix, V, T, emulated::compare(x, y, _CMP_ORD_Q))  \
    STRATA_TO_MASK(prefix, cmpunord_##suffix, V, T, emulated::compare(x, y, _CMP_UNORD_Q))

// Signed and unsigned comparisons, tests, and the sign bits as a mask and back, for one width of lane.
#define STRATA_LANE_MASKS(prefix, V, bits)                                                                                \
    STRATA_COMPARE_INTEGERS(prefix, epi##bits, V, std::int##bits##_t)                                                     \
    STRATA_COMPARE_INTEGERS(prefix, epu##bits, V, std::uint##bits##_t)                                                    \
    STRATA_TO_MASK(prefix, test_epi##bits, V, std::uint##bits##_t, (x & y) != 0)                                          \
    STRATA_TO_MASK(prefix, testn_epi##bits, V, std::uint##bits##_t, (x & y) == 0)                                         \
    STRATA_CALLED emulated::Mask<std::int##bits##_t, sizeof(V)> prefix##_movepi##bits##_mask(V a) {                       \
        return prefix##_cmplt_epi##bits##_mask(a, V{});                                                                   \
    }                                                                                                                     \
    STRATA_CALLED V prefix##_movm_epi##bits(emulated::Mask<std::int##bits##_t, sizeof(V)> k) {                            \
        return emulated::keep<std::int##bits##_t>(V{}, k, emulated::from_lanes<std::int64_t, V>([](int) { return -1; })); \
    }
#define STRATA_REGISTER_MASKS(prefix, V, F, D)  \
    STRATA_LANE_MASKS(prefix, V, 8)             \
    STRATA_LANE_MASKS(prefix, V, 16)            \
    STRATA_LANE_MASKS(prefix, V, 32)            \
    STRATA_LANE_MASKS(prefix, V, 64)            \
    STRATA_COMPARE_FLOATS(prefix, ps, F, float) \
    STRATA_COMPARE_FLOATS(prefix, pd, D, double)
STRATA_REGISTER_MASKS(_mm512, __m512i, __m512, __m512d)
STRATA_REGISTER_MASKS(_mm256, __m256i, __m256, __m256d)
STRATA_REGISTER_MASKS(_mm, __m128i, __m128, __m128d)
#undef STRATA_REGISTER_MASKS
#undef STRATA_LANE_MASKS
#undef STRATA_COMPARE_FLOATS
#undef STRATA_COMPARE_INTEGERS
#undef STRATA_COMPARE
#undef STRATA_TO_MASK

} // namespace strata::STRATA_ISA_NAMESPACE
