// SPDX-License-Identifier: Apache-2.0
// kv_attention: words of codes to pairs of fp16. 1024 + c is what 0x6400 | c means in fp16, for codes below 1024.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/kv_cache.cuh"

namespace strata {

/// What a word of a tiled pool has: from kByte on with a scale and a zero point a block.
enum class Codes : int32_t { kHalf, kBfloat, kInt8, kFloat8, kByte, kNibble };

GPU_HOST_DEVICE constexpr Codes codes_of(int32_t format, int32_t dtype) {
    switch (format) {
    case STRATA_KV_I8: return Codes::kInt8;
    case STRATA_KV_F8: return Codes::kFloat8;
    case STRATA_KV_I8_BLOCK: return Codes::kByte;
    case STRATA_KV_I4_BLOCK: return Codes::kNibble;
    default: return dtype == STRATA_DTYPE_BF16 ? Codes::kBfloat : Codes::kHalf;
    }
}
constexpr int kAnyCodes = -1;
/// One scale a token, in both pools.
GPU_HOST_DEVICE constexpr bool token_scaled(Codes codes) { return codes == Codes::kInt8 || codes == Codes::kFloat8; }
/// Log2 of the numbers in a word.
GPU_HOST_DEVICE constexpr int word_shift(Codes codes) { return codes <= Codes::kBfloat ? 1 : codes == Codes::kNibble ? 3 : 2; }

/// Bytes 0, 1 and 2, 3: two instructions a pair. `Centred`: counted
/// from the middle, as block keys are: q times a scale is rounded, and the rounding is multiplied by the code.
template <Codes C, bool Centred>
GPU_DEVICE void unpack_bytes(uint32_t word, uint32_t &low, uint32_t &high) {
    if constexpr (C == Codes::kFloat8) {
        gpu::unpack4_e4m3(word, low, high);
    } else {
        constexpr uint32_t kThousands = 0x64646464u;
        constexpr uint32_t kBias = C == Codes::kInt8 || Centred ? 0x64806480u : 0x64006400u;
        if constexpr (C == Codes::kInt8) word ^= 0x80808080u; // to 128 more, without a sign
        low = gpu::hsub2(gpu::prmt(word, kThousands, 0x4140), kBias);
        high = gpu::hsub2(gpu::prmt(word, kThousands, 0x4342), kBias);
    }
}

/// Bytes 0, 2 and 1, 3: of two rows of two numbers, the columns.
template <Codes C>
GPU_DEVICE void unpack_columns(uint32_t word, uint32_t &even, uint32_t &odd) {
    static_assert(token_scaled(C));
    if constexpr (C == Codes::kFloat8) {
        unpack_bytes<C, false>(gpu::prmt(word, 0, 0x3120), even, odd);
    } else {
        constexpr uint32_t kThousands = 0x64646464u;
        constexpr uint32_t kBias = 0x64806480u;
        word ^= 0x80808080u;
        even = gpu::hsub2(gpu::prmt(word, kThousands, 0x4240), kBias);
        odd = gpu::hsub2(gpu::prmt(word, kThousands, 0x4341), kBias);
    }
}

/// Neighbours (0, 2), (1, 3), (4, 6), (5, 7): byte i has neighbour i in its low half, i + 4 in its high half.
template <bool Centred>
GPU_DEVICE void unpack_nibbles(uint32_t word, uint32_t (&pairs)[4]) {
    constexpr int kAndOr = (gpu::kLopA & gpu::kLopB) | gpu::kLopC;
    constexpr uint32_t kThousands = 0x64006400u;
    constexpr uint32_t kBias = Centred ? 0x64086408u : kThousands;
    constexpr uint32_t kSixteenth = 0x2c002c00u;
    constexpr uint32_t kMinusBias = Centred ? 0xd480d480u : 0xd400d400u; // 1024 / 16, and 8 more
    const uint32_t odd = word >> 8;
    pairs[0] = gpu::hsub2(gpu::lop3<kAndOr>(word, 0x000f000fu, kThousands), kBias);
    pairs[1] = gpu::hsub2(gpu::lop3<kAndOr>(odd, 0x000f000fu, kThousands), kBias);
    pairs[2] = gpu::hfma2(gpu::lop3<kAndOr>(word, 0x00f000f0u, kThousands), kSixteenth, kMinusBias);
    pairs[3] = gpu::hfma2(gpu::lop3<kAndOr>(odd, 0x00f000f0u, kThousands), kSixteenth, kMinusBias);
}

/// Eight fp16 in the order of unpack_nibbles.
GPU_DEVICE void order_as_nibbles(const gpu::U4 &natural, uint32_t (&pairs)[4]) {
    GPU_UNROLL
    for (int t = 0; t < 2; ++t) {
        pairs[2 * t] = gpu::prmt(natural.v[2 * t], natural.v[2 * t + 1], 0x5410);
        pairs[2 * t + 1] = gpu::prmt(natural.v[2 * t], natural.v[2 * t + 1], 0x7632);
    }
}

/// Scales or zero points of the channels of a word of keys, in the order of its pairs.
template <bool Nibbles>
GPU_DEVICE void load_pairs(const unsigned char *at, uint32_t (&pairs)[4]) {
    if constexpr (Nibbles) {
        order_as_nibbles(gpu::load16(at), pairs);
    } else {
        const gpu::U2 read = gpu::load8(at);
        pairs[0] = read.v[0];
        pairs[1] = read.v[1];
    }
}

/// Of a lane's 2 T slots of values, in the order of the pairs of its words.
template <bool Nibbles, int T>
GPU_DEVICE void load_slot_pairs(const unsigned char *at, uint32_t (&pairs)[4]) {
    if constexpr (Nibbles) {
        order_as_nibbles(gpu::load16(at), pairs);
    } else if constexpr (T == 4) {
        const gpu::U4 read = gpu::load16(at);
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) pairs[i] = read.v[i];
    } else {
        const gpu::U2 read = gpu::load8(at);
        pairs[0] = read.v[0];
        pairs[1] = read.v[1];
    }
}

/// Four neighbouring numbers at an address that is a multiple of them.
GPU_DEVICE void load_four(int32_t dtype, const void *data, int64_t at, float (&v)[4]) {
    if (dtype == STRATA_DTYPE_F32) {
        const gpu::U4 read = gpu::load16(static_cast<const float *>(data) + at);
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) v[i] = gpu::as_float(read.v[i]);
        return;
    }
    const gpu::U2 read = gpu::load8(static_cast<const uint16_t *>(data) + at);
    const bool half = dtype == STRATA_DTYPE_F16;
    GPU_UNROLL
    for (int i = 0; i < 2; ++i) {
        v[2 * i] = half ? gpu::f16_low(read.v[i]) : gpu::bf16_low(read.v[i]);
        v[2 * i + 1] = half ? gpu::f16_high(read.v[i]) : gpu::bf16_high(read.v[i]);
    }
}

} // namespace strata
