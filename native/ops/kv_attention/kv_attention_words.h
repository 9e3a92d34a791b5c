// SPDX-License-Identifier: Apache-2.0
// Operands of kv_attention's few-row products over tiled pages on the CPU. A line of a page is 16 words of 4 bytes, a word kEach neighbours: channels
// of one slot in keys, slots of one channel in values. Lanes are the words, so both products are
//
//   sum[lane] += sum over e of line[lane][e] * factor[e]
//
// with the factors (q, or the weights) in the order that the class documents. Included by kv_attention_cpu.cpp alone.
#pragma once

#include "ops/kv_attention/kv_attention_wide.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

inline F32x16 as_floats(F32x16 x) { return x; }
inline F32x16 as_floats(I32x16 x) { return to_f32(x); }

/// Floats, widened in registers; factors in their own order.
template <Number N>
struct FloatLine {
    using Factor = float;
    using Sum = F32x16;
    static constexpr std::int32_t kEach = neighbours(N);
    static constexpr int kOperands = neighbours(N);

    F32x16 x[std::size_t{kEach}];

    void load(const std::uint8_t *line) {
        if constexpr (N == Number::kBf16) {
            load_bf16_words(line, x[0], x[1]);
        } else {
            expand<N>(line, x);
        }
    }
    F32x16 add(F32x16 sum, const float *factors) const {
        for (std::int32_t e = 0; e < kEach; ++e) sum = fma(F32x16::set(factors[e]), x[e], sum);
        return sum;
    }
};

/// bf16 pairs, multiplied where they lie; factors are bf16.
struct PairLine {
    using Factor = std::uint16_t;
    using Sum = F32x16;
    static constexpr std::int32_t kEach = 2;
    static constexpr int kOperands = 1;

    Bf16x32 x;

    void load(const std::uint8_t *line) { x = Bf16x32::load(reinterpret_cast<const std::uint16_t *>(line)); }
    F32x16 add(F32x16 sum, const std::uint16_t *factors) const { return dot(sum, x, Bf16x32::set_pair(factors)); }
};

/// Codes as whole numbers of 16 bits; factors too (narrow_factors).
template <Number N>
struct CodeLine {
    using Factor = std::int16_t;
    using Sum = I32x16;
    static constexpr std::int32_t kEach = neighbours(N);
    static constexpr int kOperands = neighbours(N) / 2;

    I16x32 x[std::size_t{kOperands}];

    void load(const std::uint8_t *line) {
        const U8x64 words = U8x64::load(line);
        [&]<int... I>(std::integer_sequence<int, I...>) { ((x[I] = pair<I>(words)), ...); }
        (std::make_integer_sequence<int, kOperands>{});
    }
    I32x16 add(I32x16 sum, const std::int16_t *factors) const {
        for (int i = 0; i < kOperands; ++i) sum = dot(sum, x[i], I16x32::set_pair(factors + 2 * i));
        return sum;
    }

private:
    template <int I>
    static I16x32 pair(U8x64 words) {
        if constexpr (N == Number::kI8) {
            return signed_bytes<I>(words);
        } else if constexpr (N == Number::kU8) {
            return unsigned_bytes<I>(words);
        } else {
            return nibbles<I>(words);
        }
    }
};

/// Bits of factors beside their sign for which a sum of `count` products with codes fits 32 bits.
constexpr std::uint32_t factor_bits(Number number, std::int64_t count) {
    const std::int64_t largest = number == Number::kI8 ? 128 : number == Number::kU8 ? 255 : 15;
    return largest * count <= 65535 ? 15 : 14; // head_dim is at most 512
}

/// The power of two that brings the largest magnitude of x[0 ... count), whole vectors, into [1/2, 1), as its exponent's bits; 0 where an x is not
/// finite. Held for what lies beyond 2^-95 and 2^126.
inline std::uint32_t bits_to_one(const float *x, std::int64_t count) {
    F32x16 largest = F32x16::zero();
    F32x16 probe = F32x16::zero();
    for (std::int64_t i = 0; i < count; i += 16) {
        const F32x16 v = F32x16::load(x + i);
        largest = max(largest, abs(v));
        probe = fma(v, F32x16::zero(), probe); // 0, or NaN for good
    }
    if (any_nan(probe)) return 0;
    constexpr std::uint32_t kLowest = 32;
    constexpr std::uint32_t kHighest = 252;
    const std::uint32_t exponent = f32_to_bits(reduce_max(largest)) >> 23;
    const std::uint32_t held = exponent < kLowest ? kLowest : exponent > kHighest ? kHighest : exponent;
    return (2 * 127 - 1 - held) << 23;
}

/// One over a power of two given by its bits.
inline float one_over(std::uint32_t bits) { return bits_to_f32((2U * 127 << 23) - bits); }

/// The middle of unsigned codes. What rounding takes from the sum of the factors is given back times it, as if codes were counted from there: half
/// the error, and none that all channels or slots share.
constexpr float middle_code(Number number) { return number == Number::kU8 ? 127.5F : number == Number::kU4 ? 7.5F : 0.0F; }

struct Narrowed {
    float step; // of the factors; NaN where a number is not finite
    float lost; // sum of the numbers - step * sum of the factors
};

/// Factors for CodeLine from x[0 ... count), whole vectors: x / step to the nearest, the step a power of two that gives the largest `digits` bits, so
/// that numbers of few bits stay what they are.
template <std::int32_t Each>
inline Narrowed narrow_factors(const float *x, std::int64_t count, std::uint32_t digits, std::int16_t *factors) {
    const std::uint32_t bits = bits_to_one(x, count);
    if (bits == 0) {
        std::memset(factors, 0, static_cast<std::size_t>(count) * sizeof *factors);
        return {__builtin_nanf(""), 0.0F};
    }
    const F32x16 scale = F32x16::set(bits_to_f32(bits + (digits << 23)));
    const F32x16 most = F32x16::set(32767.0F);
    F32x16 lost = F32x16::zero();
    for (std::int64_t i = 0; i < count; i += 16) {
        const F32x16 exact = F32x16::load(x + i) * scale;
        const I32x16 whole = to_i32_nearest(min(exact, most));
        store_as_operand<Each>(factors + i, whole);
        lost = lost + (exact - to_f32(whole));
    }
    const float step = one_over(bits + (digits << 23));
    return {step, step * reduce_add(lost)};
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
