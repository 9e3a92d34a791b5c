// SPDX-License-Identifier: Apache-2.0
// Rows of fp32 to codes and f16 scales, in the terms of simd/vec.h.
//
//   per row      scale = f16(max|x| / top),  code = round(x / scale)               top 127: int8; 448: e4m3
//   per block    zero = f16(min), scale = f16((max - zero) / levels),  code = round((x - zero) / scale), 0 ... levels
// All divisions round as IEEE says, all roundings go to the nearest even, and f16 saturates. A scale of 0 gives codes 0. A row or block with a NaN or
// an infinity gets a NaN scale: what adds up x - x over it is 0 or NaN, and joins the scale.
#pragma once

#include "simd/half.h"
#include "simd/vec.h"

#include <limits>

namespace strata::STRATA_ISA_NAMESPACE {

inline constexpr float kLargestF16 = 65504.0F;
inline constexpr float kInt8Top = 127.0F;
inline constexpr float kF8Top = 448.0F;
inline constexpr std::int32_t kMaxRow = 512; // channels

/// The nearest f16 of `x` in its bits; NaN stays one.
inline std::uint16_t scale_bits(float x) { return f32_to_f16(x > kLargestF16 ? kLargestF16 : x); }

/// The nearest f16s of x, written to `bits` (16 of them), as fp32. min and max return their second operand where the comparison is with a NaN.
inline F32x16 round_to_f16(F32x16 x, std::uint16_t *bits) {
    max(F32x16::set(-kLargestF16), min(F32x16::set(kLargestF16), x)).store_f16(bits);
    return F32x16::load_f16(bits);
}

/// Division by scales of f16 precision, which are 0 or more; x / 0 is NaN. With fused multiply-add one correction of x * (1 / scale) rounds it like
/// the division wherever a code may depend on it: a tie between two codes, at most 9 bits times the scale's 11, is a number of fp32, and every other
/// quotient is more than half a unit of the last place away from it.
struct Quotient {
    F32x16 scale; // negative with fused multiply-add
    F32x16 reciprocal;

    static Quotient of(F32x16 scale) {
        const F32x16 one_or_zero = min(scale * F32x16::set(16777216.0F), F32x16::set(1.0F)); // 2^-24 is the smallest f16
        const F32x16 safe = scale / one_or_zero;
#if defined(__FMA__)
        return {F32x16::zero() - safe, F32x16::set(1.0F) / safe};
#else
        return {safe, F32x16::zero()};
#endif
    }
    F32x16 operator()(F32x16 x) const {
#if defined(__FMA__)
        const F32x16 q = x * reciprocal;
        return fma(fma(q, scale, x), reciprocal, q);
#else
        return x / scale;
#endif
    }
};

/// The first n (16 or fewer) codes as bytes.
inline void store_codes(std::uint8_t *to, I32x16 codes, std::int32_t n) {
    if (n >= 16) {
        store_s8(reinterpret_cast<std::int8_t *>(to), codes);
        return;
    }
    std::uint8_t lanes[16];
    store_s8(reinterpret_cast<std::int8_t *>(lanes), codes);
    std::memcpy(to, lanes, static_cast<std::size_t>(n));
}

/// e4m3 of |q| <= 448 with the signs of x (a quotient may have lost that of its zero). Normal numbers round in their bits; below 2^-6 the fp32 adder
/// rounds at 2^-9.
inline void store_e4m3(std::uint8_t *__restrict to, const float *__restrict q, const float *__restrict x, std::int32_t width) {
    for (std::int32_t i = 0; i < width; ++i) {
        const std::uint32_t magnitude = f32_to_bits(q[i]) & 0x7fffffffu;
        const std::uint32_t normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
        const std::uint32_t small = f32_to_bits(bits_to_f32(magnitude) + 16384.0F) - 0x46800000u;
        const std::uint32_t is_small = 0u - static_cast<std::uint32_t>(magnitude < 0x3c800000u); // a branch would keep the loop scalar
        to[i] = static_cast<std::uint8_t>(((normal & ~is_small) | (small & is_small)) | ((f32_to_bits(x[i]) >> 24) & 0x80u));
    }
}

/// One row of int8 or e4m3 codes; returns the bits of its scale.
template <bool kFloat>
inline std::uint16_t encode_row(const float *row, std::int32_t width, std::uint8_t *codes) {
    constexpr float kTop = kFloat ? kF8Top : kInt8Top;
    F32x16 largest = F32x16::zero();
    F32x16 broken = F32x16::zero();
    for (std::int32_t i = 0; i < width; i += 16) {
        const F32x16 x = load_as_f32(1, row, i, width - i);
        largest = max(largest, abs(x));
        broken = broken + (x - x);
    }
    const std::uint16_t bits = scale_bits(any_nan(broken) ? std::numeric_limits<float>::quiet_NaN() : reduce_max(largest) / kTop);
    const float scale = f16_to_f32(bits);
    if (!(scale > 0.0F)) {
        std::memset(codes, 0, static_cast<std::size_t>(width));
        return bits;
    }
    const Quotient quotient = Quotient::of(F32x16::set(scale));
    alignas(64) float ratios[kFloat ? kMaxRow : 16];
    for (std::int32_t i = 0; i < width; i += 16) {
        const F32x16 q = min(max(quotient(load_as_f32(1, row, i, width - i)), F32x16::set(-kTop)), F32x16::set(kTop));
        if constexpr (kFloat) {
            q.store(ratios + i);
        } else {
            store_codes(codes + i, to_i32_nearest(q), width - i);
        }
    }
    if constexpr (kFloat) store_e4m3(codes, ratios, row, width);
    return bits;
}

/// Sixteen blocks at once, one a lane: what is known of their numbers, then their scales.
struct BlockRange {
    F32x16 low = F32x16::set(std::numeric_limits<float>::infinity());
    F32x16 high = F32x16::set(-std::numeric_limits<float>::infinity());
    F32x16 broken = F32x16::zero();

    void add(F32x16 x) {
        low = min(low, x);
        high = max(high, x);
        broken = broken + (x - x);
    }
};

struct BlockScale {
    F32x16 zero;
    Quotient quotient;

    /// Writes sixteen scales and zero points.
    static BlockScale of(const BlockRange &range, float levels, std::uint16_t *scales, std::uint16_t *zeros) {
        const F32x16 low = range.low + range.broken;                                                  // -0 + 0 is 0
        const F32x16 zero = round_to_f16(max(low, F32x16::zero()) + min(low, F32x16::zero()), zeros); // 0 where low is NaN
        const F32x16 scale = max(F32x16::zero(), (range.high - zero) / F32x16::set(levels)) + range.broken;
        return {zero, Quotient::of(round_to_f16(scale, scales))};
    }
    /// max drops the NaN that stands for no code.
    I32x16 codes(F32x16 x, float levels) const { return to_i32_nearest(min(max(quotient(x - zero), F32x16::zero()), F32x16::set(levels))); }
};

} // namespace strata::STRATA_ISA_NAMESPACE
