// SPDX-License-Identifier: Apache-2.0
// fp16 and bf16 in plain integer arithmetic, round to nearest even; what the hardware conversions do, for code without them.
#pragma once

#include <cstdint>
#include <cstring>

namespace strata {

static inline float bits_to_f32(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
static inline std::uint32_t f32_to_bits(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float f16_to_f32(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t exponent = (half >> 10) & 31u;
    const std::uint32_t mantissa = half & 0x3ffu;
    if (exponent == 31) {
        return bits_to_f32(sign | 0x7f800000u | (mantissa << 13));
    }
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8F; // 2^-24, exact
        return bits_to_f32(sign | f32_to_bits(magnitude));
    }
    return bits_to_f32(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

static inline std::uint16_t f32_to_f16(float value) {
    const std::uint32_t bits = f32_to_bits(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu)); // quiet NaN, payload kept
    }
    if (magnitude >= 0x47800000u) {
        return static_cast<std::uint16_t>(sign | 0x7c00u); // 65536 and more
    }
    if (magnitude < 0x38800000u) { // below the smallest normal: let the fp32 adder round at 2^-24
        const float rounded = bits_to_f32(magnitude) + 0.5F;
        return static_cast<std::uint16_t>(sign | (f32_to_bits(rounded) - 0x3f000000u));
    }
    const std::uint32_t odd = (magnitude >> 13) & 1u;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

static inline float bf16_to_f32(std::uint16_t half) { return bits_to_f32(static_cast<std::uint32_t>(half) << 16); }

static inline std::uint16_t f32_to_bf16(float value) {
    const std::uint32_t bits = f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
    }
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// OCP E4M3: bias 7, no infinity, 0x7f and 0xff are NaN.
static inline float f8e4m3_to_f32(std::uint8_t code) {
    const std::uint32_t sign = static_cast<std::uint32_t>(code & 0x80u) << 24;
    const std::uint32_t exponent = (code >> 3) & 15u;
    const std::uint32_t mantissa = code & 7u;
    if ((code & 0x7fu) == 0x7fu) return bits_to_f32(sign | 0x7fc00000u);
    if (exponent == 0) return bits_to_f32(sign | f32_to_bits(static_cast<float>(mantissa) * 0.001953125F)); // 2^-9, exact
    return bits_to_f32(sign | ((exponent + 120u) << 23) | (mantissa << 20));
}

} // namespace strata
