// SPDX-License-Identifier: Apache-2.0
// fp16 and bf16 in plain arithmetic, bit for bit what the GPU's conversions give (NaN becomes 0x7FFF).
#pragma once

#include <bit>
#include <cstdint>

namespace simt {

inline float f16_to_f32(uint16_t x) {
    // The exponent is rebased by one multiplication, which handles subnormals too; only infinity and NaN need a word
    // more.
    const uint32_t magnitude = (x & 0x7fffu) << 13;
    const float rebased = std::bit_cast<float>(magnitude) * 0x1p112f;
    uint32_t bits = std::bit_cast<uint32_t>(rebased);
    bits |= magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
    return std::bit_cast<float>(bits | (x & 0x8000u) << 16);
}

inline uint16_t f32_to_f16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t sign = bits >> 16 & 0x8000u;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        // Adding 1/2 puts the float's last place where a subnormal half's last place is, so the addition rounds.
        const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

inline float bf16_to_f32(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

inline uint16_t f32_to_bf16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// Rounds a double to fp16 once. The double must be exact or wide enough that its own rounding does not matter.
inline uint16_t f64_to_f16(double x) {
    // Rounding to odd at float precision keeps enough of the tail that the second rounding is the only one that counts.
    const float nearest = static_cast<float>(x);
    uint32_t bits = std::bit_cast<uint32_t>(nearest);
    if (static_cast<double>(nearest) != x && (bits & 0x7f800000u) != 0x7f800000u && (bits & 1u) == 0) {
        const bool away = (nearest > x) == (nearest > 0);
        bits = away ? bits - 1 : bits + 1;
    }
    return f32_to_f16(std::bit_cast<float>(bits));
}

} // namespace simt
