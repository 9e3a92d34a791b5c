// SPDX-License-Identifier: Apache-2.0
// kv_attention: one number of a page, whatever its layout and format: for the plain kernels.
#pragma once

#include "ops/kv_attention/kv_attention_work.cuh"

namespace strata {

GPU_DEVICE float scale_at(const GpuPool &scales, int64_t at) { return gpu::f16_to_f32(static_cast<const uint16_t *>(scales.data)[at]); }

/// The stored number at a place of a pool, without its scale. `at`: element; of tiled pools word and neighbour.
GPU_DEVICE float code_number(const unsigned char *pool, int32_t format, int32_t dtype, int64_t byte, int32_t shift) {
    switch (format) {
    case STRATA_KV_I8: return static_cast<float>(static_cast<int8_t>(pool[byte]));
    case STRATA_KV_F8: return gpu::f16_low(gpu::unpack2_e4m3(pool[byte]));
    case STRATA_KV_I8_BLOCK: return static_cast<float>(pool[byte]);
    case STRATA_KV_I4_BLOCK: return static_cast<float>((pool[byte] >> shift) & 15);
    default: return load_element(dtype, pool, byte / (dtype == STRATA_DTYPE_F32 ? 4 : 2));
    }
}

/// Byte of neighbour i of a tiled word; 4-bit neighbours i and i + 4 share one.
GPU_DEVICE int32_t neighbour_byte(int32_t i, int32_t bits) { return bits == 4 ? i % 4 : i * bits / 8; }

GPU_DEVICE float stored_number(const GpuKvCache &cache, const GpuPool &pool, int32_t format, int32_t dtype, const GpuSlot &slot, int64_t head,
                               int32_t channel, bool key) {
    const int32_t bits = number_bits(format, dtype);
    const int64_t unit = bits == 4 ? 1 : bits / 8; // bytes of what the strides count
    const auto *bytes = static_cast<const unsigned char *>(pool.data);
    if (cache.layout == STRATA_KV_TILED) {
        const int32_t per_word = 32 / bits;
        const int32_t word =
            key ? tiled_key_word(slot.in_page, channel, cache.head_dim, per_word) : tiled_value_word(slot.in_page, channel, cache.head_dim, per_word);
        const int32_t i = (key ? channel : slot.in_page) % per_word;
        const int64_t byte = block_at(pool, slot.page, head) * unit + int64_t{word} * 4 + neighbour_byte(i, bits);
        return code_number(bytes, format, dtype, byte, i < 4 ? 0 : 4);
    }
    const int64_t element = cache.layout == STRATA_KV_ROWS
                                ? row_at(pool, slot, head) + channel
                                : block_at(pool, slot.page, head) + swizzled_element(slot.in_page, channel, cache.page_size);
    return code_number(bytes, format, dtype, element * unit, 0);
}

GPU_DEVICE float key_number(const GpuKvCache &cache, const GpuSlot &slot, int64_t head, int32_t channel) {
    const float code = stored_number(cache, cache.keys, cache.key_format, cache.dtype, slot, head, channel, true);
    const GpuPool &scales = cache.key_scales;
    if (cache.key_format == STRATA_KV_PLAIN) return code;
    if (kv_token_scaled(cache.key_format)) return code * scale_at(scales, row_at(scales, slot, head));
    const int64_t at = row_at(scales, GpuSlot{slot.page, slot.in_page / kKvBlock}, head) + channel;
    return gpu::fma(code, scale_at(scales, at), scale_at(scales, at + cache.head_dim));
}

GPU_DEVICE float value_number(const GpuKvCache &cache, const GpuSlot &slot, int64_t head, int32_t channel) {
    const float code = stored_number(cache, cache.values, cache.value_format, cache.value_dtype, slot, head, channel, false);
    const GpuPool &scales = cache.value_scales;
    if (cache.value_format == STRATA_KV_PLAIN) return code;
    if (kv_token_scaled(cache.value_format)) return code * scale_at(scales, row_at(scales, slot, head));
    const int64_t at = row_at(scales, GpuSlot{slot.page, channel / kKvBlock * 2}, head) + slot.in_page;
    return gpu::fma(code, scale_at(scales, at), scale_at(scales, at + scales.slot));
}

} // namespace strata
