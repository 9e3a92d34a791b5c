// SPDX-License-Identifier: Apache-2.0
// Elements of any float type as fp32, one or eight at a time. The type is a value, not a template argument: the branch
// is the same for all threads, and one kernel then serves every combination of types.
#pragma once

#include "core/tensor_check.h"
#include "cuda/gpu.h"

namespace strata {

/// Elements of one chunk: one or two 16-byte accesses.
constexpr int kChunk = 8;

/// Blocks for `work` items of one thread each in a grid-stride loop: all of them, or as many as keep every multiprocessor
/// busy.
inline int grid_blocks(std::int64_t work, int threads, std::int32_t multiprocessors) {
    constexpr std::int64_t kBlocksPerMultiprocessor = 16; // 2048 threads of 128
    const std::int64_t needed = (work + threads - 1) / threads;
    const std::int64_t most = kBlocksPerMultiprocessor * multiprocessors;
    return static_cast<int>(needed < most ? needed : most);
}

/// True when every chunk that starts at a multiple of kChunk in a row begins at 16 bytes (host side, for the `wide`
/// arguments below).
inline bool wide_rows(const View &view) {
    if (reinterpret_cast<std::uintptr_t>(view.data) % 16 != 0) return false;
    for (std::int32_t i = 0; i + 1 < view.ndim; ++i) {
        if (view.shape[i] > 1 && view.stride[i] % kChunk != 0) return false;
    }
    return true;
}

GPU_DEVICE float load_element(int32_t dtype, const void *data, int64_t at) {
    if (dtype == STRATA_DTYPE_F32) return static_cast<const float *>(data)[at];
    const uint16_t bits = static_cast<const uint16_t *>(data)[at];
    return dtype == STRATA_DTYPE_F16 ? gpu::f16_to_f32(bits) : gpu::bf16_to_f32(bits);
}

GPU_DEVICE void store_element(int32_t dtype, void *data, int64_t at, float value) {
    if (dtype == STRATA_DTYPE_F32) {
        static_cast<float *>(data)[at] = value;
    } else {
        static_cast<uint16_t *>(data)[at] = dtype == STRATA_DTYPE_F16 ? gpu::f32_to_f16(value) : gpu::f32_to_bf16(value);
    }
}

/// Elements at ... at + count - 1, the rest 0. `wide`: see wide_rows; only whole chunks use it.
GPU_DEVICE void load_chunk(int32_t dtype, const void *data, int64_t at, int count, bool wide, float (&v)[kChunk]) {
    if (!wide || count < kChunk) {
        GPU_UNROLL
        for (int i = 0; i < kChunk; ++i) v[i] = i < count ? load_element(dtype, data, at + i) : 0.0f;
        return;
    }
    if (dtype == STRATA_DTYPE_F32) {
        const float *from = static_cast<const float *>(data) + at;
        const gpu::U4 low = gpu::load16(from);
        const gpu::U4 high = gpu::load16(from + 4);
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
            v[i] = gpu::as_float(low.v[i]);
            v[i + 4] = gpu::as_float(high.v[i]);
        }
        return;
    }
    const gpu::U4 words = gpu::load16(static_cast<const uint16_t *>(data) + at);
    const bool half = dtype == STRATA_DTYPE_F16;
    GPU_UNROLL
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = half ? gpu::f16_low(words.v[i]) : gpu::bf16_low(words.v[i]);
        v[2 * i + 1] = half ? gpu::f16_high(words.v[i]) : gpu::bf16_high(words.v[i]);
    }
}

/// Writes elements at ... at + count - 1, rounded to nearest even.
GPU_DEVICE void store_chunk(int32_t dtype, void *data, int64_t at, int count, bool wide, const float (&v)[kChunk]) {
    if (!wide || count < kChunk) {
        GPU_UNROLL
        for (int i = 0; i < kChunk; ++i) {
            if (i < count) store_element(dtype, data, at + i, v[i]);
        }
        return;
    }
    gpu::U4 words;
    if (dtype == STRATA_DTYPE_F32) {
        float *to = static_cast<float *>(data) + at;
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) words.v[i] = gpu::as_uint(v[i]);
        gpu::store16(to, words);
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) words.v[i] = gpu::as_uint(v[i + 4]);
        gpu::store16(to + 4, words);
        return;
    }
    const bool half = dtype == STRATA_DTYPE_F16;
    GPU_UNROLL
    for (int i = 0; i < 4; ++i) words.v[i] = half ? gpu::pack2_f16(v[2 * i], v[2 * i + 1]) : gpu::pack2_bf16(v[2 * i], v[2 * i + 1]);
    gpu::store16(static_cast<uint16_t *>(data) + at, words);
}

} // namespace strata
