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

/// Codes as whole numbers of 16 bits, unsigned ones counted from their middle; factors too (Fold).
template <Number N>
struct CodeLine {
    using Factor = std::int16_t;
    using Sum = I32x16;
    static constexpr std::int32_t kEach = neighbours(N);
    static constexpr int kOperands = neighbours(N) / 2;

    I16x32 x[std::size_t{kOperands}];

    void load(const std::uint8_t *line) {
        const U8x64 stored = U8x64::load(line);
        const U8x64 words = N == Number::kI8 ? stored : stored ^ U8x64::set(N == Number::kU8 ? 0x80 : 0x88);
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
        if constexpr (N == Number::kU4) {
            return signed_nibbles<I>(words);
        } else {
            return signed_bytes<I>(words);
        }
    }
};

/// The code that counts as zero: half the error of a factor's rounding, and none that all channels or slots share.
constexpr float middle_code(Number number) { return number == Number::kU8 ? 128.0F : number == Number::kU4 ? 8.0F : 0.0F; }

/// Bits of a factor beside its sign: sums of kMostChannels products with codes fit 32 bits.
constexpr std::uint32_t kFactorBits = 15;
static_assert(128 * kMostChannels * ((1LL << kFactorBits) - 1) < 1LL << 31);

/// Scales of 32 numbers, and the zero points of codes counted from the middle.
struct Scales {
    F32x16 scale[2];
    F32x16 zero[2];
};

/// Scales and zero points from where they lie, 16 and 16.
template <Number N>
inline Scales load_scales(const std::uint16_t *scales, const std::uint16_t *more_scales, const std::uint16_t *zeros,
                          const std::uint16_t *more_zeros) {
    Scales s{{F32x16::load_f16(scales), F32x16::load_f16(more_scales)}, {F32x16::load_f16(zeros), F32x16::load_f16(more_zeros)}};
    const F32x16 middle = F32x16::set(middle_code(N));
    for (int i = 0; i < 2; ++i) s.zero[i] = fma(middle, s.scale[i], s.zero[i]);
    return s;
}

/// How many sums are folded together at least.
constexpr int sums_for(int sums) { return sums <= 4 ? 4 : sums <= 8 ? 8 : 16; }

/// Folds the scales of `groups` groups, at most Sums / Rows, into x[0 ... count) of each row, whole 32 numbers:
///
///   sum_i x_i (scale_i code_i + zero_i) = step sum_i factor_i code_i + addend,   factor_i = x_i scale_i / step to the nearest
///
/// the step a power of two that gives the largest kFactorBits bits, so that numbers of few bits stay what they are. scales_at(group, i): those of
/// numbers i ... i + 31. All sums are reduced together: one by one each would wait for the steps of its own reduction. For the same reason it is
/// two calls: what is measured first waits while something else is.
template <Number N, int Rows, int Sums, class ScalesAt>
struct Fold {
    const float *x;
    std::int64_t x_step; // from row to row
    std::int32_t count, groups;
    ScalesAt scales_at;

    F32x16 zero{}, step{};
    alignas(64) float to_whole[16] = {};

    void measure() {
        F32x16 largest[std::size_t{Sums}];
        F32x16 zeros[std::size_t{Sums}];
        for (std::int32_t i = groups * Rows; i < Sums; ++i) largest[i] = zeros[i] = F32x16::zero();
        for (std::int32_t group = 0; group < groups; ++group) {
            F32x16 most[std::size_t{Rows}];
            F32x16 sum[std::size_t{Rows}];
            UNROLLED for (int r = 0; r < Rows; ++r) most[r] = sum[r] = F32x16::zero();
            for (std::int32_t i = 0; i < count; i += 32) {
                const Scales s = scales_at(group, i);
                UNROLLED for (int r = 0; r < Rows; ++r) {
                    UNROLLED for (int half = 0; half < 2; ++half) {
                        const F32x16 number = F32x16::load(x + r * x_step + i + 16 * half);
                        most[r] = max(most[r], abs(number * s.scale[half]));
                        sum[r] = fma(number, s.zero[half], sum[r]);
                    }
                }
            }
            UNROLLED for (int r = 0; r < Rows; ++r) {
                largest[group * Rows + r] = most[r];
                zeros[group * Rows + r] = sum[r];
            }
        }
        const F32x16 most = max_each(largest);
        zero = sum_each(zeros);
        // A little more than the largest, which must not round to 2^kFactorBits; and within what has an inverse.
        const F32x16 power = min(max(power_below(most * F32x16::set(1.0F + 0x1p-14F)), F32x16::set(0x1p-95F)), F32x16::set(0x1p125F));
        (F32x16::set(bits_to_f32((127 + kFactorBits - 1) << 23)) / power).store(to_whole);
        const F32x16 not_finite = (most + zero) * F32x16::zero(); // 0, or NaN
        step = fma(power, F32x16::set(bits_to_f32((127 - (kFactorBits - 1)) << 23)), not_finite);
    }

    /// Factors [groups][Rows][..], result group Rows + row.
    void round(std::int16_t *factors, std::int64_t group_step, std::int64_t row_step, FoldedSums &folded) const {
        for (std::int32_t group = 0; group < groups; ++group) {
            for (std::int32_t i = 0; i < count; i += 32) {
                const Scales s = scales_at(group, i);
                UNROLLED for (int r = 0; r < Rows; ++r) {
                    const float *numbers = x + r * x_step + i;
                    as_factors<neighbours(N)>(F32x16::load(numbers) * s.scale[0], F32x16::load(numbers + 16) * s.scale[1],
                                              F32x16::set(to_whole[16 / Sums * (group * Rows + r)]))
                        .store(factors + group * group_step + r * row_step + i);
                }
            }
        }
        step.store(folded.steps);
        zero.store(folded.addends);
    }
};

template <Number N, int Rows, int Sums, class ScalesAt>
inline Fold<N, Rows, Sums, ScalesAt> fold_of(const float *x, std::int64_t x_step, std::int32_t count, std::int32_t groups, ScalesAt scales_at) {
    return Fold<N, Rows, Sums, ScalesAt>{x, x_step, count, groups, scales_at};
}

/// Sum i of Sums, with its step and what is added.
template <int Sums>
inline F32x16 finish(const FoldedSums &folded, int i, F32x16 sum) {
    return fma(sum, F32x16::set(folded.steps[16 / Sums * i]), F32x16::set(folded.addends[16 / Sums * i]));
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
