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

/// Codes as whole numbers of 16 bits; factors too (fold).
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

/// The middle of unsigned codes. Factors meet codes counted from there: half the error of their rounding, and none that all channels or slots share.
constexpr float middle_code(Number number) { return number == Number::kU8 ? 127.5F : number == Number::kU4 ? 7.5F : 0.0F; }

/// Scales of 32 numbers and the zero points of codes counted from the middle, moved as as_factors moves.
struct Scales {
    F32x16 scale[2];
    F32x16 zero[2];
};

/// Scales and zero points from where they lie, 16 and 16.
template <Number N>
inline Scales load_scales(const std::uint16_t *scales, const std::uint16_t *more_scales, const std::uint16_t *zeros,
                          const std::uint16_t *more_zeros) {
    Scales s;
    load_f16_as_factors<neighbours(N)>(scales, more_scales, s.scale[0], s.scale[1]);
    load_f16_as_factors<neighbours(N)>(zeros, more_zeros, s.zero[0], s.zero[1]);
    const F32x16 middle = F32x16::set(middle_code(N));
    for (int i = 0; i < 2; ++i) s.zero[i] = fma(middle, s.scale[i], s.zero[i]);
    return s;
}

/// Whole factors of Sums sums, one a group of scales and a row: sum_i x_i (scale_i code_i + zero_i) = step sum_i factor_i code_i + added.
template <int Sums>
struct Folded {
    alignas(64) float steps[16]; // powers of two; NaN where a number is not finite
    alignas(64) float addends[16];

    float step(int i) const { return steps[16 / Sums * i]; }
    F32x16 finish(int i, F32x16 sum) const { return fma(sum, F32x16::set(step(i)), F32x16::set(addends[16 / Sums * i])); }
};

/// How many are folded together at least.
constexpr int sums_for(int sums) { return sums <= 4 ? 4 : sums <= 8 ? 8 : 16; }

/// Folds the scales of `groups` groups, at most Sums / Rows, into x[0 ... count) of each row, whole 32 numbers that as_factors has moved:
/// x scale / step to the nearest, the step a power of two that gives the largest `digits` bits, so that numbers of few bits stay what they are.
/// scales_at(group, i): those of numbers i ... i + 31. Factors [groups][Rows][..], result group Rows + row. All sums are reduced together: one by
/// one each would wait for the steps of its own reduction.
template <Number N, int Rows, int Sums, class ScalesAt>
inline void fold(const float *x, std::int64_t x_step, std::int32_t count, std::uint32_t digits, std::int32_t groups, ScalesAt &&scales_at,
                 std::int16_t *factors, std::int64_t group_step, std::int64_t row_step, Folded<Sums> &folded) {
    F32x16 largest[std::size_t{Sums}];
    F32x16 zeros[std::size_t{Sums}];
    F32x16 wholes[std::size_t{Sums}];
    for (std::int32_t i = groups * Rows; i < Sums; ++i) largest[i] = zeros[i] = wholes[i] = F32x16::zero();
    for (std::int32_t group = 0; group < groups; ++group) {
        F32x16 most[std::size_t{Rows}];
        F32x16 zero[std::size_t{Rows}];
        UNROLLED for (int r = 0; r < Rows; ++r) most[r] = zero[r] = F32x16::zero();
        for (std::int32_t i = 0; i < count; i += 32) {
            const Scales s = scales_at(group, i);
            UNROLLED for (int r = 0; r < Rows; ++r) {
                UNROLLED for (int half = 0; half < 2; ++half) {
                    const F32x16 number = F32x16::load(x + r * x_step + i + 16 * half);
                    most[r] = max(most[r], abs(number * s.scale[half]));
                    zero[r] = fma(number, s.zero[half], zero[r]);
                }
            }
        }
        UNROLLED for (int r = 0; r < Rows; ++r) {
            largest[group * Rows + r] = most[r];
            zeros[group * Rows + r] = zero[r];
        }
    }
    const F32x16 most = max_each(largest);
    const F32x16 power = min(max(power_below(most), F32x16::set(0x1p-95F)), F32x16::set(0x1p125F)); // within what has an inverse
    alignas(64) float to_whole[16];
    (F32x16::set(bits_to_f32((127 + digits - 1) << 23)) / power).store(to_whole);
    static constexpr std::int16_t kOnes[2] = {1, 1};
    for (std::int32_t group = 0; group < groups; ++group) {
        I32x16 sums[std::size_t{Rows}];
        UNROLLED for (auto &sum : sums) sum = I32x16::zero();
        for (std::int32_t i = 0; i < count; i += 32) {
            const Scales s = scales_at(group, i);
            UNROLLED for (int r = 0; r < Rows; ++r) {
                const float *numbers = x + r * x_step + i;
                const F32x16 inverse = F32x16::set(to_whole[16 / Sums * (group * Rows + r)]);
                const I32x16 low = to_i32_nearest(F32x16::load(numbers) * s.scale[0] * inverse);
                const I32x16 high = to_i32_nearest(F32x16::load(numbers + 16) * s.scale[1] * inverse);
                const I16x32 whole = pack(low, high);
                whole.store(factors + group * group_step + r * row_step + i);
                sums[r] = dot(sums[r], whole, I16x32::set_pair(kOnes));
            }
        }
        UNROLLED for (int r = 0; r < Rows; ++r) wholes[group * Rows + r] = to_f32(sums[r]);
    }
    const F32x16 zero = sum_each(zeros);
    const F32x16 not_finite = (most + zero) * F32x16::zero(); // 0, or NaN
    const F32x16 step = fma(power, F32x16::set(bits_to_f32((127 - (digits - 1)) << 23)), not_finite);
    step.store(folded.steps);
    (zero - F32x16::set(middle_code(N)) * step * sum_each(wholes)).store(folded.addends);
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
