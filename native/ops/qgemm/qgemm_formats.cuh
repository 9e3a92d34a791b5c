// SPDX-License-Identifier: Apache-2.0
// How the tensor-core kernel of qgemm stages a panel's bytes and turns them into A fragments; one struct a format, all with one shape.
//
// A stage is 64 columns of a panel: two groups of 32, their codes first, then the pieces of tail that belong to them.
//   kCodeChunks, kTailChunks     16-byte chunks of both
//   code_source, tail_source     where chunk c of stage s lies in the panel; negative: nothing there (past the last group), zeros are staged
//   fragment                     codes of group `h` of the stage as fp16: a[kstep][0..3] of m16n8k16, kstep = columns 0-15 or 16-31
//   scales                       scale[half][row], min[row] of the lane's two rows
//
// Lane (g, q) holds rows 2g and 2g + 1 of the panel as rows g and g + 8 of the fragment: neighbours in memory, one 8-byte read. Of each 16 columns
// it holds 4q ... 4q + 3, in the fragment's order of k: 4q, 4q+2 at 2q, 2q+1 and 4q+1, 4q+3 at 8+2q, 9+2q; x is prepared in that order.
// Vectors of 64 bytes whose number has bit 1 set are staged with their halves swapped: without it lanes of q and q + 2 would meet in one bank.
#pragma once

#include "cuda/gpu.h"

namespace strata {

constexpr int kStageColumns = 64;

/// The weight's sizes that sources need.
struct StageParams {
    int64_t groups;       // of 32 columns, in all of k
    int32_t scale_groups; // groups of 32 columns that share a scale (I4), else 1
};

/// Where chunk c of the staged codes goes, and where a lane's words of vector v are.
GPU_DEVICE int staged_chunk(int c) { return c ^ (((c >> 3) & 1) << 1); }
GPU_DEVICE gpu::U2 staged_words(const unsigned char *codes, int vector, int g) {
    return gpu::load8(codes + 64 * vector + (((g >> 1) ^ ((vector >> 1 & 1) << 1)) * 16) + 8 * (g & 1));
}

/// The lane's two values of a piece of 16 halves.
GPU_DEVICE void two_halves(const unsigned char *piece, int g, float (&value)[2]) {
    const uint32_t pair = *reinterpret_cast<const uint32_t *>(piece + 4 * g);
    value[0] = gpu::f16_low(pair);
    value[1] = gpu::f16_high(pair);
}

/// Four nibbles of a row's 4 bytes, low or high ones, less `zero`: fp16 0x6400 + n is 1024 + n, 0x6400 + 16 n is 1024 + 16 n.
template <int Zero>
GPU_DEVICE void nibble_halves(uint32_t word, uint32_t (&low)[2], uint32_t (&high)[2]) {
    constexpr int kAndOr = (gpu::kLopA & gpu::kLopB) | gpu::kLopC;
    constexpr uint32_t kBias = (0x6400u + Zero) * 0x10001u;                    // 1024 + zero
    constexpr uint32_t kSixteenth = 0x2c002c00u;                               // 1/16
    constexpr uint32_t kHighBias = (Zero == 8 ? 0xd480u : 0xd400u) * 0x10001u; // -(64 + zero)
    static_assert(Zero == 8 || Zero == 0);
    GPU_UNROLL
    for (int i = 0; i < 2; ++i) {
        const uint32_t bytes = word >> (8 * i); // bytes 0 and 2, then 1 and 3
        low[i] = gpu::hsub2(gpu::lop3<kAndOr>(bytes, 0x000f000fu, 0x64006400u), kBias);
        high[i] = gpu::hfma2(gpu::lop3<kAndOr>(bytes, 0x00f000f0u, 0x64006400u), kSixteenth, kHighBias);
    }
}

/// Four u8 codes less `zero`, as halves in the same order.
template <int Zero>
GPU_DEVICE void byte_halves(uint32_t word, uint32_t (&halves)[2]) {
    constexpr uint32_t kBias = (0x6400u + Zero) * 0x10001u;
    halves[0] = gpu::hsub2(gpu::prmt(word, 0x64646464u, 0x4240), kBias);
    halves[1] = gpu::hsub2(gpu::prmt(word, 0x64646464u, 0x4341), kBias);
}

template <int Zero>
GPU_DEVICE void nibble_fragment(const unsigned char *codes, int h, int g, int q, uint32_t (&a)[2][4]) {
    const gpu::U2 words = staged_words(codes, 4 * h + q, g);
    GPU_UNROLL
    for (int row = 0; row < 2; ++row) {
        uint32_t low[2];
        uint32_t high[2];
        nibble_halves<Zero>(words.v[row], low, high);
        GPU_UNROLL
        for (int i = 0; i < 2; ++i) {
            a[0][row + 2 * i] = low[i];
            a[1][row + 2 * i] = high[i];
        }
    }
}

/// Q4_0 and I4: steps of two groups of `scale_groups` * 32 columns.
struct GpuSymmetric {
    static constexpr int kCodeChunks = 32;
    static constexpr int kTailChunks = 4;
    static constexpr int kHalves = 1;
    static constexpr bool kHasMin = false;

    GPU_DEVICE static int64_t code_source(const StageParams &p, int64_t s, int c) {
        if (2 * s + (c >> 4) >= p.groups) return -1;
        return s / p.scale_groups * (512 * p.scale_groups + 64) + s % p.scale_groups * 512 + 16 * c;
    }
    GPU_DEVICE static int64_t tail_source(const StageParams &p, int64_t s, int c) {
        const int64_t group = 2 * s + (c >> 1);
        if (group >= p.groups) return -1;
        const int64_t first = s / p.scale_groups * 2 * p.scale_groups;
        const int64_t here = gpu::min(int64_t{2} * p.scale_groups, p.groups - first);
        return s / p.scale_groups * (512 * p.scale_groups + 64) + here * 256 + (group - first) / p.scale_groups * 32 + 16 * (c & 1);
    }
    GPU_DEVICE static void fragment(const unsigned char *codes, const unsigned char *, int h, int g, int q, uint32_t (&a)[2][4]) {
        nibble_fragment<8>(codes, h, g, q, a);
    }
    GPU_DEVICE static void scales(const unsigned char *tail, int h, int g, float (&scale)[1][2], float (&)[2]) {
        two_halves(tail + 32 * h, g, scale[0]);
    }
};

/// Q4_1: steps of one group.
struct GpuQ4_1 {
    static constexpr int kCodeChunks = 32;
    static constexpr int kTailChunks = 8;
    static constexpr int kHalves = 1;
    static constexpr bool kHasMin = true;

    GPU_DEVICE static int64_t code_source(const StageParams &p, int64_t s, int c) {
        const int64_t group = 2 * s + (c >> 4);
        return group < p.groups ? group * 320 + 16 * (c & 15) : -1;
    }
    GPU_DEVICE static int64_t tail_source(const StageParams &p, int64_t s, int c) {
        const int64_t group = 2 * s + (c >> 2);
        return group < p.groups ? group * 320 + 256 + 16 * (c & 3) : -1;
    }
    GPU_DEVICE static void fragment(const unsigned char *codes, const unsigned char *, int h, int g, int q, uint32_t (&a)[2][4]) {
        nibble_fragment<0>(codes, h, g, q, a);
    }
    GPU_DEVICE static void scales(const unsigned char *tail, int h, int g, float (&scale)[1][2], float (&min)[2]) {
        two_halves(tail + 64 * h, g, scale[0]);
        two_halves(tail + 64 * h + 32, g, min);
    }
};

/// Q8_0: steps of two groups.
struct GpuQ8_0 {
    static constexpr int kCodeChunks = 64;
    static constexpr int kTailChunks = 4;
    static constexpr int kHalves = 1;
    static constexpr bool kHasMin = false;

    GPU_DEVICE static int64_t code_source(const StageParams &p, int64_t s, int c) { return 2 * s + (c >> 5) < p.groups ? s * 1088 + 16 * c : -1; }
    GPU_DEVICE static int64_t tail_source(const StageParams &p, int64_t s, int c) {
        if (2 * s + (c >> 1) >= p.groups) return -1;
        return s * 1088 + gpu::min(int64_t{2}, p.groups - 2 * s) * 512 + 16 * c;
    }
    GPU_DEVICE static void fragment(const unsigned char *codes, const unsigned char *, int h, int g, int q, uint32_t (&a)[2][4]) {
        GPU_UNROLL
        for (int step = 0; step < 2; ++step) {
            const gpu::U2 words = staged_words(codes, 8 * h + 4 * step + q, g);
            GPU_UNROLL
            for (int row = 0; row < 2; ++row) {
                uint32_t halves[2];
                byte_halves<128>(words.v[row] ^ 0x80808080u, halves);
                a[step][row] = halves[0];
                a[step][row + 2] = halves[1];
            }
        }
    }
    GPU_DEVICE static void scales(const unsigned char *tail, int h, int g, float (&scale)[1][2], float (&)[2]) {
        two_halves(tail + 32 * h, g, scale[0]);
    }
};

/// Q4_K: steps of 8 groups; staged tail: d, dmin (64 bytes), then sc, m of both groups (64 bytes).
struct GpuQ4_K {
    static constexpr int kCodeChunks = 32;
    static constexpr int kTailChunks = 8;
    static constexpr int kHalves = 1;
    static constexpr bool kHasMin = true;

    GPU_DEVICE static int64_t code_source(const StageParams &, int64_t s, int c) { return s / 4 * 2368 + s % 4 * 512 + 16 * c; }
    GPU_DEVICE static int64_t tail_source(const StageParams &, int64_t s, int c) {
        return s / 4 * 2368 + 2048 + (c < 4 ? 16 * c : 64 + s % 4 * 64 + 16 * (c - 4));
    }
    GPU_DEVICE static void fragment(const unsigned char *codes, const unsigned char *, int h, int g, int q, uint32_t (&a)[2][4]) {
        nibble_fragment<0>(codes, h, g, q, a);
    }
    GPU_DEVICE static void scales(const unsigned char *tail, int h, int g, float (&scale)[1][2], float (&min)[2]) {
        two_halves(tail, g, scale[0]);
        two_halves(tail + 32, g, min);
        const unsigned char *factors = tail + 64 + 32 * h + 2 * g;
        GPU_UNROLL
        for (int row = 0; row < 2; ++row) {
            scale[0][row] *= static_cast<float>(factors[row]);
            min[row] *= -static_cast<float>(factors[16 + row]);
        }
    }
};

/// Q6_K: steps of 8 groups; staged tail: two upper-bit vectors of each group (256 bytes), sc of both (64), d (32).
struct GpuQ6_K {
    static constexpr int kCodeChunks = 32;
    static constexpr int kTailChunks = 22;
    static constexpr int kHalves = 2;
    static constexpr bool kHasMin = false;

    GPU_DEVICE static int64_t code_source(const StageParams &, int64_t s, int c) { return s / 4 * 3392 + s % 4 * 512 + 16 * c; }
    GPU_DEVICE static int64_t tail_source(const StageParams &, int64_t s, int c) {
        const int64_t tail = s / 4 * 3392 + 2048;
        if (c < 16) return tail + s % 4 * 256 + 16 * c;
        return c < 20 ? tail + 1024 + s % 4 * 64 + 16 * (c - 16) : tail + 1280 + 16 * (c - 20);
    }
    GPU_DEVICE static void fragment(const unsigned char *codes, const unsigned char *tail, int h, int g, int q, uint32_t (&a)[2][4]) {
        const gpu::U2 words = staged_words(codes, 4 * h + q, g);
        GPU_UNROLL
        for (int step = 0; step < 2; ++step) {
            const gpu::U2 upper = gpu::load8(tail + 128 * h + 64 * step + 8 * g);
            GPU_UNROLL
            for (int row = 0; row < 2; ++row) {
                const uint32_t nibbles = (words.v[row] >> (4 * step)) & 0x0f0f0f0fu;
                uint32_t halves[2];
                byte_halves<32>(nibbles | (((upper.v[row] >> (2 * q)) & 0x03030303u) << 4), halves);
                a[step][row] = halves[0];
                a[step][row + 2] = halves[1];
            }
        }
    }
    GPU_DEVICE static void scales(const unsigned char *tail, int h, int g, float (&scale)[2][2], float (&)[2]) {
        float d[2];
        two_halves(tail + 320, g, d);
        GPU_UNROLL
        for (int half = 0; half < 2; ++half) {
            GPU_UNROLL
            for (int row = 0; row < 2; ++row)
                scale[half][row] = d[row] * static_cast<float>(static_cast<int8_t>(tail[256 + 32 * h + 16 * half + 2 * g + row]));
        }
    }
};

} // namespace strata
