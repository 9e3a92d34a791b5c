// SPDX-License-Identifier: Apache-2.0
// What the blocks of kv_append's kernel share: a tile of 32 rows in fp32, its scales, and the codes and words of each format and layout.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/kv_cache.cuh"
#include "cuda/rope.cuh"

namespace strata {

constexpr int kAppendThreads = 128;
constexpr int kAppendWarps = kAppendThreads / gpu::kWarpSize;
constexpr int kAppendRows = kKvBlock;
constexpr int kRowsOfWarp = kAppendRows / kAppendWarps;

/// Keys or values: their input, and their parts of the cache. Strides in elements.
struct AppendSide {
    const void *input;
    int64_t input_token, input_head;
    GpuPool pool, scales, norms; // scales.slot: from one row of them to the next; norms.data is null where the cache has none
    int32_t format, dtype;       // dtype: of plain pools
    int32_t norm_dtype;
    int32_t pairs;      // channel pairs that turn
    bool input_words;   // input rows can be read in 4-byte words
    bool aligned_words; // and pages written so
};

struct AppendParams {
    GpuKvCache cache;
    AppendSide sides[2]; // keys, values
    GpuPool bias;        // data is null where the cache has none
    const int32_t *positions;
    int64_t position_step;
    void *tail;
    const int32_t *tail_table; // null: sequence * kv_heads + head
    int64_t tail_row, tail_slot, tail_sequence, tail_head, tails;
    int64_t items, capacity;
    GpuRowOffsets offsets;
    RopeTable rope;
    uint32_t *fault;
    int32_t kv_heads, input_dtype, tail_dtype, layout, rotation;
};

/// Shared memory of one block. A row of the tile has an odd stride: threads that read a column hit 32 banks.
struct AppendSmem {
    GpuSlot *slots;      // of the tile's rows; page -1: not to be written
    double *frequencies; // of the pairs
    float *tile;
    float *scale, *reciprocal, *zero; // of the rows, their groups or the channels, by format
    int stride;

    static int scales(int head_dim) { return gpu::max(kAppendRows, (head_dim + kKvBlock - 1) / kKvBlock * kAppendRows); }
    static std::size_t bytes(int head_dim) {
        return kAppendRows * sizeof(GpuSlot) + static_cast<std::size_t>(head_dim / 2) * sizeof(double) +
               static_cast<std::size_t>(kAppendRows * (head_dim | 1) + 3 * scales(head_dim)) * sizeof(float);
    }
    GPU_DEVICE static AppendSmem of(unsigned char *raw, int head_dim) {
        AppendSmem smem{};
        const int count = gpu::max(kAppendRows, (head_dim + kKvBlock - 1) / kKvBlock * kAppendRows);
        smem.frequencies = reinterpret_cast<double *>(raw);
        smem.slots = reinterpret_cast<GpuSlot *>(smem.frequencies + head_dim / 2);
        smem.tile = reinterpret_cast<float *>(smem.slots + kAppendRows);
        smem.stride = head_dim | 1;
        smem.scale = smem.tile + kAppendRows * smem.stride;
        smem.reciprocal = smem.scale + count;
        smem.zero = smem.reciprocal + count;
        return smem;
    }
};

// ---------------------------------------------------------------- codes

constexpr float kLargestF16 = 65504.0f;
constexpr uint16_t kNanF16 = 0x7e00;

/// The nearest f16, never infinite.
GPU_DEVICE uint16_t round_scale(float x) { return gpu::f32_to_f16(gpu::max(gpu::min(x, kLargestF16), -kLargestF16)); }

/// Keeps scale `at` for the threads that make codes; a scale of 0 or NaN gives codes 0.
GPU_DEVICE void keep_scale(const AppendSmem &smem, int at, uint16_t scale, uint16_t zero) {
    const float value = gpu::f16_to_f32(scale);
    const bool usable = value > 0.0f;
    smem.scale[at] = usable ? value : 0.0f;
    smem.reciprocal[at] = usable ? gpu::div(1.0f, value) : 0.0f;
    smem.zero[at] = gpu::f16_to_f32(zero);
}

/// e4m3 of |q| <= 448 with the sign of x (a quotient may have lost that of its zero). Normal numbers round in their bits; below 2^-6 the fp32 adder
/// rounds at 2^-9.
GPU_DEVICE uint32_t e4m3_bits(float q, float x) {
    const uint32_t magnitude = gpu::as_uint(q) & 0x7fffffffu;
    const uint32_t normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
    const uint32_t small = gpu::as_uint(gpu::as_float(magnitude) + 16384.0f) - 0x46800000u;
    return (magnitude < 0x3c800000u ? small : normal) | ((gpu::as_uint(x) >> 24) & 0x80u);
}

/// x / scale as IEEE rounds it wherever a code may depend on it (see kv_append_quantize.h).
GPU_DEVICE float quotient(const AppendSmem &smem, int at, float x) {
    const float scale = smem.scale[at];
    const float reciprocal = smem.reciprocal[at];
    const float q = x * reciprocal;
    const float corrected = gpu::fma(gpu::fma(-q, scale, x), reciprocal, q);
    return scale > 0.0f ? corrected : 0.0f;
}

/// Numbers of the tile in the bits of one format; a word has kNumbers neighbours.
template <int Format, int Bits>
struct Encoder {
    static constexpr int kBits = Bits;
    static constexpr int kNumbers = 32 / Bits;
    static constexpr bool kRowScales = Format == STRATA_KV_I8 || Format == STRATA_KV_F8;
    static constexpr bool kBlockScales = Format == STRATA_KV_I8_BLOCK || Format == STRATA_KV_I4_BLOCK;
    static constexpr float kTop = Format == STRATA_KV_I8 ? 127.0f : Format == STRATA_KV_F8 ? 448.0f : Format == STRATA_KV_I8_BLOCK ? 255.0f : 15.0f;

    const AppendSmem &smem;
    bool keys;
    int32_t dtype;

    GPU_DEVICE float value(int row, int channel) const { return smem.tile[row * smem.stride + channel]; }

    GPU_DEVICE uint32_t number(int row, int channel) const {
        const float x = value(row, channel);
        if constexpr (Format == STRATA_KV_PLAIN) {
            if (Bits == 32) return gpu::as_uint(x);
            return dtype == STRATA_DTYPE_F16 ? gpu::f32_to_f16(x) : gpu::f32_to_bf16(x);
        } else if constexpr (kRowScales) {
            const float q = gpu::max(gpu::min(quotient(smem, row, x), kTop), -kTop);
            return Format == STRATA_KV_F8 ? e4m3_bits(q, x) : static_cast<uint32_t>(gpu::float_to_int(q)) & 255u;
        } else {
            const int at = keys ? channel : channel / kKvBlock * kAppendRows + row;
            return static_cast<uint32_t>(gpu::float_to_int(gpu::max(gpu::min(quotient(smem, at, x - smem.zero[at]), kTop), 0.0f)));
        }
    }

    /// Shift of neighbour i in its word.
    GPU_DEVICE static constexpr int shift(int i) { return Bits == 4 ? i % 4 * 8 + i / 4 * 4 : i * Bits; }

    /// A word of neighbouring channels.
    GPU_DEVICE uint32_t row_word(int row, int channel) const {
        if constexpr (Format == STRATA_KV_PLAIN && Bits == 16) {
            const float low = value(row, channel);
            const float high = value(row, channel + 1);
            return dtype == STRATA_DTYPE_F16 ? gpu::pack2_f16(low, high) : gpu::pack2_bf16(low, high);
        }
        uint32_t word = 0;
        GPU_UNROLL
        for (int i = 0; i < kNumbers; ++i) word |= number(row, channel + i) << shift(i);
        return word;
    }
};

GPU_DEVICE void store_word(unsigned char *to, uint32_t word, bool aligned) {
    if (aligned) {
        *reinterpret_cast<uint32_t *>(to) = word;
        return;
    }
    GPU_UNROLL
    for (int i = 0; i < 4; ++i) to[i] = static_cast<unsigned char>(word >> (8 * i));
}

GPU_DEVICE uint32_t load_word(const unsigned char *from, bool aligned) {
    if (aligned) return *reinterpret_cast<const uint32_t *>(from);
    uint32_t word = 0;
    GPU_UNROLL
    for (int i = 0; i < 4; ++i) word |= uint32_t{from[i]} << (8 * i);
    return word;
}

// ---------------------------------------------------------------- layouts: rows first ... end - 1 of the tile into their pages

/// First byte of a page's block of one head.
template <class Codes>
GPU_DEVICE unsigned char *page_block(const AppendSide &side, const GpuSlot &slot, int64_t head) {
    constexpr int kSize = Codes::kBits < 8 ? 1 : Codes::kBits / 8;
    return static_cast<unsigned char *>(side.pool.data) + (slot.page * side.pool.page + head * side.pool.head) * kSize;
}

template <class Codes>
GPU_DEVICE void store_rows(const Codes &codes, const AppendSide &side, int head_dim, int64_t head, int first, int end) {
    constexpr int kSize = Codes::kBits < 8 ? 1 : Codes::kBits / 8;
    const int lane = gpu::lane_id();
    const int words = side.aligned_words ? head_dim / Codes::kNumbers : 0;
    for (int row = first + gpu::warp_id(); row < end; row += kAppendWarps) {
        const GpuSlot slot = codes.smem.slots[row];
        if (slot.page < 0) continue;
        unsigned char *to = page_block<Codes>(side, slot, head) + slot.in_page * side.pool.slot * kSize;
        for (int word = lane; word < words; word += gpu::kWarpSize) store_word(to + word * 4, codes.row_word(row, word * Codes::kNumbers), true);
        for (int channel = words * Codes::kNumbers + lane; channel < head_dim; channel += gpu::kWarpSize) {
            const uint32_t number = codes.number(row, channel);
            if (kSize == 4) {
                reinterpret_cast<uint32_t *>(to)[channel] = number;
            } else if (kSize == 2) {
                reinterpret_cast<uint16_t *>(to)[channel] = static_cast<uint16_t>(number);
            } else {
                to[channel] = static_cast<unsigned char>(number);
            }
        }
    }
}

template <class Codes>
GPU_DEVICE void store_swizzled(const Codes &codes, const AppendSide &side, int head_dim, int page_size, int64_t head, int first, int end) {
    for (int row = first + gpu::warp_id(); row < end; row += kAppendWarps) {
        const GpuSlot slot = codes.smem.slots[row];
        if (slot.page < 0) continue;
        unsigned char *const block = page_block<Codes>(side, slot, head);
        for (int channel = 2 * gpu::lane_id(); channel < head_dim; channel += 2 * gpu::kWarpSize) {
            const int chunk = channel % 64 / 8 ^ (slot.in_page & 7);
            const int at = (channel / 64 * page_size + slot.in_page) * 64 + chunk * 8 + channel % 8;
            store_word(block + 2 * at, codes.row_word(row, channel), side.aligned_words);
        }
    }
}

/// [tile of 16 slots][word of the row][slot in the tile]: neighbouring threads take neighbouring slots.
template <class Codes>
GPU_DEVICE void store_key_tiles(const Codes &codes, const AppendSide &side, int head_dim, int64_t head, int first, int end) {
    constexpr int kTile = 16;
    const int words = head_dim / Codes::kNumbers;
    for (int tile = 0; tile < kAppendRows; tile += kTile) {
        const int row = tile + gpu::thread_x() % kTile;
        const GpuSlot slot = codes.smem.slots[row];
        if (row < first || row >= end || slot.page < 0) continue;
        unsigned char *const block = page_block<Codes>(side, slot, head);
        for (int word = gpu::thread_x() / kTile; word < words; word += kAppendThreads / kTile) {
            const int at = (slot.in_page / kTile * words + word) * kTile + slot.in_page % kTile;
            store_word(block + 4 * at, codes.row_word(row, word * Codes::kNumbers), side.aligned_words);
        }
    }
}

/// [kNumbers slots][channel]. A word of which some slots are not new keeps them: no other block of threads writes it.
template <class Codes>
GPU_DEVICE void store_value_tiles(const Codes &codes, const AppendSide &side, int head_dim, int64_t head, int first, int end) {
    constexpr int kNumbers = Codes::kNumbers;
    for (int group = first / kNumbers + gpu::warp_id(); group * kNumbers < end; group += kAppendWarps) {
        const int from = gpu::max(first, group * kNumbers);
        const int to = gpu::min(end, (group + 1) * kNumbers);
        const GpuSlot slot = codes.smem.slots[from];
        if (slot.page < 0) continue;
        unsigned char *const words = page_block<Codes>(side, slot, head) + slot.in_page / kNumbers * head_dim * 4;
        for (int channel = gpu::lane_id(); channel < head_dim; channel += gpu::kWarpSize) {
            uint32_t word = to - from == kNumbers ? 0 : load_word(words + 4 * channel, side.aligned_words);
            GPU_UNROLL
            for (int i = 0; i < kNumbers; ++i) {
                const int row = group * kNumbers + i;
                if (row < from || row >= to) continue;
                constexpr uint32_t kMask = Codes::kBits == 32 ? ~0u : (1u << Codes::kBits) - 1;
                word = (word & ~(kMask << Codes::shift(i))) | codes.number(row, channel) << Codes::shift(i);
            }
            store_word(words + 4 * channel, word, side.aligned_words);
        }
    }
}

} // namespace strata
