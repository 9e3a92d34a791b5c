// SPDX-License-Identifier: Apache-2.0
// The intrinsics of gpu.h that are the same words for nvcc and for the host.
#pragma once

namespace gpu {

template <typename T>
GPU_DEVICE T warp_reduce_add(T value, Site site) {
    GPU_UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) value += shfl_xor(value, mask, site);
    return value;
}

template <typename T>
GPU_DEVICE T warp_reduce_max(T value, Site site) {
    GPU_UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) value = max(value, shfl_xor(value, mask, site));
    return value;
}

template <typename T>
GPU_DEVICE T warp_reduce_min(T value, Site site) {
    GPU_UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) value = min(value, shfl_xor(value, mask, site));
    return value;
}

// Sign, exponent and mantissa moved to the places of fp16 are the number times 2^-8; only NaN, all ones, reads as a number then.
GPU_DEVICE uint32_t unpack2_e4m3(uint32_t codes) {
#if defined(GPU_HAS_E4M3)
    return detail::convert2_e4m3(codes);
#else
    const uint32_t high = prmt(codes, 0, 0x1404);
    const uint32_t pair = hmul2((high & 0x80008000u) | ((high >> 1) & 0x3f803f80u), 0x5c005c00u);
    const uint32_t nan = ((high & 0x7f007f00u) + 0x01000100u) & 0x80008000u;
    return nan == 0 ? pair : pair | (nan >> 15) * 0x7fffu;
#endif
}

GPU_DEVICE void unpack4_e4m3(uint32_t codes, uint32_t &low, uint32_t &high) {
#if defined(GPU_HAS_E4M3)
    detail::convert4_e4m3(codes, low, high);
#else
    low = unpack2_e4m3(codes & 0xffffu);
    high = unpack2_e4m3(codes >> 16);
#endif
}

// Reduction by multiples of pi/2 in double keeps 27 bits of the remainder for angles up to 1e8, which is what rotary
// embeddings of long contexts need; the library's own float version keeps a slow path in local memory instead.
GPU_DEVICE void sincos(double angle, float &sine, float &cosine) {
    constexpr double kTwoOverPi = 0.63661977236758134308;
    constexpr double kHalfPiHigh = 1.57079632679489655800;
    constexpr double kHalfPiLow = 6.12323399573676603587e-17;
    const double quarters = detail::round_double(angle * kTwoOverPi);
    const float r = static_cast<float>((angle - quarters * kHalfPiHigh) - quarters * kHalfPiLow);
    const float r2 = r * r;
    // Taylor series: on |r| <= pi/4 the first dropped terms are below 2e-9.
    const float s = r + r * r2 * (-1.0f / 6 + r2 * (1.0f / 120 + r2 * (-1.0f / 5040 + r2 * (1.0f / 362880))));
    const float c = 1.0f + r2 * (-0.5f + r2 * (1.0f / 24 + r2 * (-1.0f / 720 + r2 * (1.0f / 40320 - r2 * (1.0f / 3628800)))));
    const int64_t quadrant = static_cast<int64_t>(quarters) & 3;
    const float odd_sine = (quadrant & 1) != 0 ? c : s;
    const float odd_cosine = (quadrant & 1) != 0 ? s : c;
    sine = (quadrant & 2) != 0 ? -odd_sine : odd_sine;
    cosine = quadrant == 1 || quadrant == 2 ? -odd_cosine : odd_cosine;
}

} // namespace gpu
