// SPDX-License-Identifier: Apache-2.0
// How a packed panel's bytes become codes, scales and weights on the CPU; one struct a format, all with one shape. The layout is drawn in
// core/weight.h.
//
//   kStepGroups, kCodeBytes, kTailBytes   a step: groups of 32 columns, bytes of a group's codes, bytes behind the step's codes
//   kHalves     scales per group: 1, or 2 (one for each 16 columns)
//   kHasMin     weight = scale * code + min; otherwise weight = scale * (code - kZero)
//   factors     scale[] and, with kHasMin, min of group `s` of the step
//   codes       eight vectors of u8 codes, vector v = columns 4v ... 4v+3
// Every product here is exact in fp32; only the last sum of scale * code + min may round, so all orders give one result.
#pragma once

#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

// Vector code must be one piece to stay in registers; array code of the scalar set would only take minutes to compile that way.
#if defined(__AVX2__)
#define STRATA_INLINE inline __attribute__((always_inline))
#define STRATA_INLINE_LAMBDA __attribute__((always_inline))
#define STRATA_UNROLL _Pragma("GCC unroll 16")
#else
#define STRATA_INLINE inline __attribute__((noinline))
#define STRATA_INLINE_LAMBDA __attribute__((noinline))
#define STRATA_UNROLL
#endif

template <int Halves>
struct Factors {
    F32x16 scale[std::size_t{Halves}];
    F32x16 min; // set only by formats with kHasMin
};

STRATA_INLINE F32x16 load_halves(const unsigned char *from) { return F32x16::load_f16(reinterpret_cast<const std::uint16_t *>(from)); }

struct NibbleCodes {
    static constexpr bool kNibbles = true;
    static constexpr int kCodeBytes = 256;

    STRATA_INLINE static void codes(const unsigned char *from, const unsigned char *, int, U8x64 (&u)[8]) {
        for (int j = 0; j < 4; ++j) {
            const U8x64 pair = U8x64::load(from + 64 * j);
            u[j] = low_nibbles(pair);
            u[4 + j] = high_nibbles(pair);
        }
    }
};

/// Q4_0, and I4 with groups of 32 * Sub columns.
template <int Sub>
struct SymmetricNibbles : NibbleCodes {
    static constexpr int kStepGroups = 2 * Sub;
    static constexpr int kTailBytes = 64;
    static constexpr int kHalves = 1;
    static constexpr bool kHasMin = false;
    static constexpr int kZero = 8;

    STRATA_INLINE static Factors<1> factors(const unsigned char *tail, int s) { return {{load_halves(tail + s / Sub * 32)}, F32x16::zero()}; }
};

struct Q4_1 : NibbleCodes {
    static constexpr int kStepGroups = 1;
    static constexpr int kTailBytes = 64;
    static constexpr int kHalves = 1;
    static constexpr bool kHasMin = true;
    static constexpr int kZero = 0;

    STRATA_INLINE static Factors<1> factors(const unsigned char *tail, int) { return {{load_halves(tail)}, load_halves(tail + 32)}; }
};

struct Q4_K : NibbleCodes {
    static constexpr int kStepGroups = 8;
    static constexpr int kTailBytes = 320;
    static constexpr int kHalves = 1;
    static constexpr bool kHasMin = true;
    static constexpr int kZero = 0;

    STRATA_INLINE static Factors<1> factors(const unsigned char *tail, int s) {
        const F32x16 scale = load_halves(tail) * to_f32(load_u8(tail + 64 + 32 * s));
        const F32x16 min = load_halves(tail + 32) * to_f32(load_u8(tail + 80 + 32 * s));
        return {{scale}, F32x16::zero() - min};
    }
};

struct Q8_0 {
    static constexpr bool kNibbles = false;
    static constexpr int kCodeBytes = 512;
    static constexpr int kStepGroups = 2;
    static constexpr int kTailBytes = 64;
    static constexpr int kHalves = 1;
    static constexpr bool kHasMin = false;
    static constexpr int kZero = 128; // the signed code with its top bit flipped

    STRATA_INLINE static Factors<1> factors(const unsigned char *tail, int s) { return {{load_halves(tail + s * 32)}, F32x16::zero()}; }
    STRATA_INLINE static void codes(const unsigned char *from, const unsigned char *, int, U8x64 (&u)[8]) {
        for (int v = 0; v < 8; ++v) {
            u[v] = U8x64::load(from + 64 * v) ^ U8x64::set(128);
        }
    }
};

struct Q6_K {
    static constexpr bool kNibbles = false;
    static constexpr int kCodeBytes = 256;
    static constexpr int kStepGroups = 8;
    static constexpr int kTailBytes = 1344;
    static constexpr int kHalves = 2;
    static constexpr bool kHasMin = false;
    static constexpr int kZero = 32;

    STRATA_INLINE static Factors<2> factors(const unsigned char *tail, int s) {
        const F32x16 d = load_halves(tail + 1280);
        const auto *scales = reinterpret_cast<const std::int8_t *>(tail + 1024 + 32 * s);
        return {{d * to_f32(load_s8(scales)), d * to_f32(load_s8(scales + 16))}, F32x16::zero()};
    }
    STRATA_INLINE static void codes(const unsigned char *from, const unsigned char *tail, int s, U8x64 (&u)[8]) {
        NibbleCodes::codes(from, tail, s, u);
        const U8x64 three = U8x64::set(48);
        for (int half = 0; half < 2; ++half) {
            const U8x64 plane = U8x64::load(tail + 128 * s + 64 * half);
            U8x64 *to = u + 4 * half;
            to[0] = to[0] | (shift_left<4>(plane) & three);
            to[1] = to[1] | (shift_left<2>(plane) & three);
            to[2] = to[2] | (plane & three);
            to[3] = to[3] | (shift_right<2>(plane) & three);
        }
    }
};

/// body(g, codes, tail, s) for groups 0 ... groups-1 from `panel` on; s counts within the step.
template <class Format, class Body>
STRATA_INLINE void for_each_group(const unsigned char *panel, std::int64_t groups, Body &&body) {
    for (std::int64_t g = 0; g < groups;) {
        const int here = groups - g < Format::kStepGroups ? static_cast<int>(groups - g) : Format::kStepGroups;
        const unsigned char *tail = panel + here * Format::kCodeBytes;
        for (int s = 0; s < here; ++s, ++g) {
            body(g, panel + s * Format::kCodeBytes, tail, s);
        }
        panel = tail + Format::kTailBytes;
    }
}

/// sink(column, weights) for the 32 columns of one group in ascending order, weights as fp32.
template <class Format, class Sink>
STRATA_INLINE void dequantise_group(const unsigned char *from, const unsigned char *tail, int s, Sink &&sink) {
    const auto factors = Format::factors(tail, s);
    F32x16 offset[std::size_t{Format::kHalves}];
    for (int h = 0; h < Format::kHalves; ++h) {
        offset[h] = Format::kHasMin ? factors.min : factors.scale[h] * F32x16::set(static_cast<float>(-Format::kZero));
    }
    if constexpr (Format::kNibbles) {
        const F32x16 scale = factors.scale[0];
        const U8x64 pairs[4] = {U8x64::load(from), U8x64::load(from + 64), U8x64::load(from + 128), U8x64::load(from + 192)};
        STRATA_UNROLL
        for (int j = 0; j < 4; ++j) {
            sink(4 * j + 0, fma(nibble_as_f32<0>(pairs[j]), scale, offset[0]));
            sink(4 * j + 1, fma(nibble_as_f32<2>(pairs[j]), scale, offset[0]));
            sink(4 * j + 2, fma(nibble_as_f32<4>(pairs[j]), scale, offset[0]));
            sink(4 * j + 3, fma(nibble_as_f32<6>(pairs[j]), scale, offset[0]));
        }
        STRATA_UNROLL
        for (int j = 0; j < 4; ++j) {
            sink(4 * j + 16, fma(nibble_as_f32<1>(pairs[j]), scale, offset[0]));
            sink(4 * j + 17, fma(nibble_as_f32<3>(pairs[j]), scale, offset[0]));
            sink(4 * j + 18, fma(nibble_as_f32<5>(pairs[j]), scale, offset[0]));
            sink(4 * j + 19, fma(nibble_as_f32<7>(pairs[j]), scale, offset[0]));
        }
    } else {
        U8x64 u[8];
        Format::codes(from, tail, s, u);
        STRATA_UNROLL
        for (int v = 0; v < 8; ++v) {
            const int h = v / 4 < Format::kHalves ? v / 4 : 0;
            sink(4 * v + 0, fma(byte_as_f32<0>(u[v]), factors.scale[h], offset[h]));
            sink(4 * v + 1, fma(byte_as_f32<1>(u[v]), factors.scale[h], offset[h]));
            sink(4 * v + 2, fma(byte_as_f32<2>(u[v]), factors.scale[h], offset[h]));
            sink(4 * v + 3, fma(byte_as_f32<3>(u[v]), factors.scale[h], offset[h]));
        }
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
