// SPDX-License-Identifier: Apache-2.0
// Integer arithmetic, shifts and logic. Part of simd/emulated_avx512.h.
#pragma once

namespace strata::STRATA_ISA_NAMESPACE {

// As AVX2 has it, with the masked forms on the shorter registers too. T is the type of the lanes.
#define STRATA_SHORTER_2(name, T)                                           \
    STRATA_MASKED(_mm256, name, __m256i, T, (__m256i a, __m256i b), (a, b)) \
    STRATA_MASKED(_mm, name, __m128i, T, (__m128i a, __m128i b), (a, b))
#define STRATA_ALL_2(name, T)                                        \
    STRATA_BY_HALVES(name, __m512i, T, (__m512i a, __m512i b), a, b) \
    STRATA_SHORTER_2(name, T)
// A lane-wise operation in x and y of type T. Sums and products are taken of unsigned numbers: they wrap.
#define STRATA_INTEGER_1(name, T, ...) STRATA_EMULATE(name, __m512i, T, (__m512i a), (a), emulated::each<T>([](T x) { return __VA_ARGS__; }, a))
#define STRATA_INTEGER_2(name, T, ...) \
    STRATA_EMULATE(name, __m512i, T, (__m512i a, __m512i b), (a, b), emulated::each<T>([](T x, T y) { return __VA_ARGS__; }, a, b))
// AVX2 has no 64-bit form of these.
#define STRATA_LONG_2(name, T, ...)                                           \
    STRATA_INTEGER_2(name, T, __VA_ARGS__)                                    \
    STRATA_CALLED __m256i _mm256_##name(__m256i a, __m256i b) {               \
        return emulated::each<T>([](T x, T y) { return __VA_ARGS__; }, a, b); \
    }                                                                         \
    STRATA_CALLED __m128i _mm_##name(__m128i a, __m128i b) {                  \
        return emulated::each<T>([](T x, T y) { return __VA_ARGS__; }, a, b); \
    }                                                                         \
    STRATA_SHORTER_2(name, T)
STRATA_ALL_2(add_epi8, std::uint8_t)
STRATA_ALL_2(add_epi16, std::uint16_t)
STRATA_ALL_2(add_epi32, std::uint32_t)
STRATA_ALL_2(add_epi64, std::uint64_t)
STRATA_ALL_2(sub_epi8, std::uint8_t)
STRATA_ALL_2(sub_epi16, std::uint16_t)
STRATA_ALL_2(sub_epi32, std::uint32_t)
STRATA_ALL_2(sub_epi64, std::uint64_t)
STRATA_ALL_2(adds_epi8, std::int8_t)
STRATA_ALL_2(adds_epi16, std::int16_t)
STRATA_ALL_2(adds_epu8, std::uint8_t)
STRATA_ALL_2(adds_epu16, std::uint16_t)
STRATA_ALL_2(subs_epi8, std::int8_t)
STRATA_ALL_2(subs_epi16, std::int16_t)
STRATA_ALL_2(subs_epu8, std::uint8_t)
STRATA_ALL_2(subs_epu16, std::uint16_t)
STRATA_ALL_2(avg_epu8, std::uint8_t)
STRATA_ALL_2(avg_epu16, std::uint16_t)
STRATA_ALL_2(mullo_epi16, std::uint16_t)
STRATA_ALL_2(mullo_epi32, std::uint32_t)
STRATA_LONG_2(mullo_epi64, std::uint64_t, x *y)
STRATA_ALL_2(mulhi_epi16, std::int16_t)
STRATA_ALL_2(mulhi_epu16, std::uint16_t)
STRATA_ALL_2(mulhrs_epi16, std::int16_t)
STRATA_ALL_2(mul_epi32, std::int64_t)
STRATA_ALL_2(mul_epu32, std::uint64_t)
STRATA_ALL_2(max_epi8, std::int8_t)
STRATA_ALL_2(max_epi16, std::int16_t)
STRATA_ALL_2(max_epi32, std::int32_t)
STRATA_LONG_2(max_epi64, std::int64_t, x > y ? x : y)
STRATA_ALL_2(max_epu8, std::uint8_t)
STRATA_ALL_2(max_epu16, std::uint16_t)
STRATA_ALL_2(max_epu32, std::uint32_t)
STRATA_LONG_2(max_epu64, std::uint64_t, x > y ? x : y)
STRATA_ALL_2(min_epi8, std::int8_t)
STRATA_ALL_2(min_epi16, std::int16_t)
STRATA_ALL_2(min_epi32, std::int32_t)
STRATA_LONG_2(min_epi64, std::int64_t, x < y ? x : y)
STRATA_ALL_2(min_epu8, std::uint8_t)
STRATA_ALL_2(min_epu16, std::uint16_t)
STRATA_ALL_2(min_epu32, std::uint32_t)
STRATA_LONG_2(min_epu64, std::uint64_t, x < y ? x : y)

// Pairs and groups of neighbours; the type is that of the result's lanes.
STRATA_ALL_2(madd_epi16, std::int32_t)
STRATA_ALL_2(maddubs_epi16, std::int16_t)
inline __m512i _mm512_sad_epu8(__m512i a, __m512i b) {
    return emulated::halves([](__m256i x, __m256i y) { return _mm256_sad_epu8(x, y); }, a, b);
}

// The least number has no positive twin and stays as it is.
STRATA_BY_HALVES(abs_epi8, __m512i, std::uint8_t, (__m512i a), a)
STRATA_BY_HALVES(abs_epi16, __m512i, std::uint16_t, (__m512i a), a)
STRATA_BY_HALVES(abs_epi32, __m512i, std::uint32_t, (__m512i a), a)
STRATA_INTEGER_1(abs_epi64, std::uint64_t, x >> 63 == 0 ? x : std::uint64_t{0} - x)

// Logic: one meaning under three names.
#define STRATA_LOGIC(name)                                                                               \
    inline __m512i _mm512_##name##_si512(__m512i a, __m512i b) {                                         \
        return emulated::halves([](__m256i x, __m256i y) { return _mm256_##name##_si256(x, y); }, a, b); \
    }                                                                                                    \
    STRATA_LOGIC_LANES(name##_epi32, name, std::uint32_t)                                                \
    STRATA_LOGIC_LANES(name##_epi64, name, std::uint64_t)
#define STRATA_LOGIC_LANES(title, name, T)                                                      \
    inline __m512i _mm512_##title(__m512i a, __m512i b) { return _mm512_##name##_si512(a, b); } \
    inline __m256i _mm256_##title(__m256i a, __m256i b) { return _mm256_##name##_si256(a, b); } \
    inline __m128i _mm_##title(__m128i a, __m128i b) { return _mm_##name##_si128(a, b); }       \
    STRATA_MASKED(_mm512, title, __m512i, T, (__m512i a, __m512i b), (a, b))                    \
    STRATA_SHORTER_2(title, T)
STRATA_LOGIC(and)
STRATA_LOGIC(or)
STRATA_LOGIC(xor)
STRATA_LOGIC(andnot)
#undef STRATA_LOGIC_LANES
#undef STRATA_LOGIC

namespace emulated {

/// Bit by bit: bit 4a + 2b + c of the table.
template <class V>
inline V by_table(V va, V vb, V vc, int table) {
    return each<std::uint64_t>(
        [table](std::uint64_t a, std::uint64_t b, std::uint64_t c) {
            std::uint64_t r = 0;
            for (int row = 0; row < 8; ++row) {
                if (((table >> row) & 1) != 0) r |= ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
            }
            return r;
        },
        va, vb, vc);
}

} // namespace emulated

// The masked form keeps a.
#define STRATA_BY_TABLE(prefix, suffix, V, T)                                                                               \
    STRATA_CALLED V prefix##_ternarylogic_##suffix(V a, V b, V c, int table) { return emulated::by_table(a, b, c, table); } \
    STRATA_CALLED V prefix##_mask_ternarylogic_##suffix(V a, emulated::Mask<T, sizeof(V)> k, V b, V c, int table) {         \
        return emulated::keep<T>(a, k, emulated::by_table(a, b, c, table));                                                 \
    }                                                                                                                       \
    STRATA_CALLED V prefix##_maskz_ternarylogic_##suffix(emulated::Mask<T, sizeof(V)> k, V a, V b, V c, int table) {        \
        return emulated::keep<T>(V{}, k, emulated::by_table(a, b, c, table));                                               \
    }
STRATA_BY_TABLE(_mm512, epi32, __m512i, std::uint32_t)
STRATA_BY_TABLE(_mm512, epi64, __m512i, std::uint64_t)
STRATA_BY_TABLE(_mm256, epi32, __m256i, std::uint32_t)
STRATA_BY_TABLE(_mm256, epi64, __m256i, std::uint64_t)
STRATA_BY_TABLE(_mm, epi32, __m128i, std::uint32_t)
STRATA_BY_TABLE(_mm, epi64, __m128i, std::uint64_t)
#undef STRATA_BY_TABLE

namespace emulated {

// A count of all bits or more shifts everything out.
template <class T>
inline T shifted_left(T x, std::uint64_t n) {
    return n < 8 * sizeof(T) ? static_cast<T>(static_cast<std::make_unsigned_t<T>>(x) << n) : T{0};
}
template <class T>
inline T shifted_right(T x, std::uint64_t n) {
    constexpr std::uint64_t kBits = 8 * sizeof(T);
    if constexpr (std::is_signed_v<T>) {
        return static_cast<T>(x >> (n < kBits ? n : kBits - 1));
    } else {
        return n < kBits ? static_cast<T>(x >> n) : T{0};
    }
}
template <class T>
inline T rotated_left(T x, std::uint64_t n) {
    constexpr std::uint64_t kBits = 8 * sizeof(T);
    return static_cast<T>((x << (n % kBits)) | (x >> ((kBits - n % kBits) % kBits)));
}

} // namespace emulated

// Shifts by an immediate, by the low half of a register, and by each lane's own count.
#define STRATA_SHIFT_UNIFORM(name, suffix, T)                                                                     \
    inline __m512i _mm512_##name##i_##suffix(__m512i a, unsigned n) {                                             \
        return emulated::halves([n](__m256i x) { return _mm256_##name##i_##suffix(x, static_cast<int>(n)); }, a); \
    }                                                                                                             \
    inline __m512i _mm512_##name##_##suffix(__m512i a, __m128i n) {                                               \
        return emulated::halves([n](__m256i x) { return _mm256_##name##_##suffix(x, n); }, a);                    \
    }                                                                                                             \
    STRATA_MASKED(_mm512, name##i_##suffix, __m512i, T, (__m512i a, unsigned n), (a, n))                          \
    STRATA_MASKED(_mm512, name##_##suffix, __m512i, T, (__m512i a, __m128i n), (a, n))
#define STRATA_SHIFT_EACH(name, suffix, T, function) \
    STRATA_INTEGER_2(name##v_##suffix, T, emulated::function(x, static_cast<std::make_unsigned_t<T>>(y)))
STRATA_SHIFT_UNIFORM(sll, epi16, std::uint16_t)
STRATA_SHIFT_UNIFORM(sll, epi32, std::uint32_t)
STRATA_SHIFT_UNIFORM(sll, epi64, std::uint64_t)
STRATA_SHIFT_UNIFORM(srl, epi16, std::uint16_t)
STRATA_SHIFT_UNIFORM(srl, epi32, std::uint32_t)
STRATA_SHIFT_UNIFORM(srl, epi64, std::uint64_t)
STRATA_SHIFT_UNIFORM(sra, epi16, std::uint16_t)
STRATA_SHIFT_UNIFORM(sra, epi32, std::uint32_t)
STRATA_SHIFT_EACH(sll, epi16, std::uint16_t, shifted_left)
STRATA_SHIFT_EACH(sll, epi32, std::uint32_t, shifted_left)
STRATA_SHIFT_EACH(sll, epi64, std::uint64_t, shifted_left)
STRATA_SHIFT_EACH(srl, epi16, std::uint16_t, shifted_right)
STRATA_SHIFT_EACH(srl, epi32, std::uint32_t, shifted_right)
STRATA_SHIFT_EACH(srl, epi64, std::uint64_t, shifted_right)
STRATA_SHIFT_EACH(sra, epi16, std::int16_t, shifted_right)
STRATA_SHIFT_EACH(sra, epi32, std::int32_t, shifted_right)
STRATA_SHIFT_EACH(sra, epi64, std::int64_t, shifted_right)
#undef STRATA_SHIFT_EACH
#undef STRATA_SHIFT_UNIFORM
STRATA_EMULATE(srai_epi64, __m512i, std::int64_t, (__m512i a, unsigned n), (a, n),
               emulated::each<std::int64_t>([n](std::int64_t x) { return emulated::shifted_right(x, n); }, a))
#define STRATA_SHORT_SHIFT(name, function, T)                                                                                    \
    STRATA_CALLED __m256i _mm256_##name(__m256i a, __m256i n) {                                                                  \
        return emulated::each<T>([](T x, T y) { return emulated::function(x, static_cast<std::make_unsigned_t<T>>(y)); }, a, n); \
    }                                                                                                                            \
    STRATA_CALLED __m128i _mm_##name(__m128i a, __m128i n) {                                                                     \
        return emulated::each<T>([](T x, T y) { return emulated::function(x, static_cast<std::make_unsigned_t<T>>(y)); }, a, n); \
    }
STRATA_SHORT_SHIFT(sllv_epi16, shifted_left, std::uint16_t)
STRATA_SHORT_SHIFT(srlv_epi16, shifted_right, std::uint16_t)
STRATA_SHORT_SHIFT(srav_epi16, shifted_right, std::int16_t)
#undef STRATA_SHORT_SHIFT
#define STRATA_ROTATE(suffix, T)                                                                                         \
    STRATA_EMULATE(rol_##suffix, __m512i, T, (__m512i a, int n), (a, n),                                                 \
                   emulated::each<T>([n](T x) { return emulated::rotated_left(x, static_cast<std::uint64_t>(n)); }, a))  \
    STRATA_EMULATE(ror_##suffix, __m512i, T, (__m512i a, int n), (a, n),                                                 \
                   emulated::each<T>([n](T x) { return emulated::rotated_left(x, static_cast<std::uint64_t>(-n)); }, a)) \
    STRATA_INTEGER_2(rolv_##suffix, T, emulated::rotated_left(x, y))                                                     \
    STRATA_INTEGER_2(rorv_##suffix, T, emulated::rotated_left(x, std::uint64_t{0} - y))
STRATA_ROTATE(epi32, std::uint32_t)
STRATA_ROTATE(epi64, std::uint64_t)
#undef STRATA_ROTATE

#define STRATA_REDUCE_INTEGERS(bits, Result)                                                           \
    STRATA_REDUCE(add, epi##bits, __m512i, std::uint##bits##_t, Result, 0, x + y)                      \
    STRATA_REDUCE(mul, epi##bits, __m512i, std::uint##bits##_t, Result, 1, x *y)                       \
    STRATA_REDUCE(and, epi##bits, __m512i, std::uint##bits##_t, Result, -1, x &y)                      \
    STRATA_REDUCE(or, epi##bits, __m512i, std::uint##bits##_t, Result, 0, x | y)                       \
    STRATA_REDUCE(max, epi##bits, __m512i, std::int##bits##_t, Result, INT##bits##_MIN, x > y ? x : y) \
    STRATA_REDUCE(min, epi##bits, __m512i, std::int##bits##_t, Result, INT##bits##_MAX, x < y ? x : y) \
    STRATA_REDUCE(max, epu##bits, __m512i, std::uint##bits##_t, unsigned Result, 0, x > y ? x : y)     \
    STRATA_REDUCE(min, epu##bits, __m512i, std::uint##bits##_t, unsigned Result, -1, x < y ? x : y)
STRATA_REDUCE_INTEGERS(32, int)
STRATA_REDUCE_INTEGERS(64, long long)
#undef STRATA_REDUCE_INTEGERS
#undef STRATA_REDUCE

#undef STRATA_LONG_2
#undef STRATA_ALL_2
#undef STRATA_SHORTER_2
#undef STRATA_INTEGER_2
#undef STRATA_INTEGER_1

} // namespace strata::STRATA_ISA_NAMESPACE
