// SPDX-License-Identifier: Apache-2.0
// The paged KV cache as the kv_* ops see it: checked extents, and how a slot is found.
#pragma once

#include "core/op.h"

namespace strata {

inline constexpr std::int32_t kKvBlock = STRATA_KV_BLOCK; // slots that share a key scale, channels that share a value scale

/// Whether codes come with one scale per token (I8, F8), or with scale and zero point per block.
constexpr bool kv_token_scaled(std::int32_t format) { return format == STRATA_KV_I8 || format == STRATA_KV_F8; }
constexpr bool kv_block_scaled(std::int32_t format) { return format == STRATA_KV_I8_BLOCK || format == STRATA_KV_I4_BLOCK; }

/// A checked strata_kv_cache. With STRATA_KV_ROWS slot s of KV head h of sequence b lies at
///     page = table[b][h][s / page_size];  keys + page * stride[0] + (heads_in_page == 1 ? 0 : h) * stride[1] + (s % page_size) * stride[2]
/// in the other layouts the block of a page and head starts where its slot 0 would, and strata_kv_layout says the rest.
struct KvCacheView {
    View keys;         // [pages, heads_in_page, page_size, head_dim], or head_dim / 2 bytes of 4-bit codes
    View values;       // the same; type and strides may differ
    View table;        // int32 [batch, kv_heads, max_pages]
    View lengths;      // int32 [batch, kv_heads]
    View positions;    // int32 [pages, heads_in_page, page_size], or absent; likewise the next three
    View logit_bias;   // f32
    View key_norms;    // f32 or f16
    View value_norms;  // f32 or f16
    View key_scales;   // f16; see strata_kv_format
    View value_scales; // f16
    View key_tail;     // [tails, kKvBlock, head_dim], or absent
    View tail_table;   // int32 [batch, kv_heads], or absent
    std::int64_t pages;
    std::int64_t batch;
    std::int64_t kv_heads;
    std::int64_t max_pages;
    std::int32_t page_size;
    std::int32_t head_dim;
    std::int32_t key_format;
    std::int32_t value_format;
    std::int32_t layout;
    std::int32_t rotation; // points of the Hadamard transform, or 0

    bool shared_pages() const { return keys.shape[1] != 1; }
    bool plain() const { return key_format == STRATA_KV_PLAIN && value_format == STRATA_KV_PLAIN; }
    std::int64_t capacity() const { return max_pages * page_size; }
    /// Element of a slot's row in a pool of rows, of a side array, or (slot 0) of a page's block.
    std::int64_t row(const View &pool, std::int64_t page, std::int64_t head, std::int64_t slot_in_page) const {
        return page * pool.stride[0] + (shared_pages() ? head : 0) * pool.stride[1] + slot_in_page * pool.stride[2];
    }
    const std::int32_t *table_row(std::int64_t sequence, std::int64_t head) const {
        return static_cast<const std::int32_t *>(table.data) + sequence * table.stride[0] + head * table.stride[1];
    }
    std::int32_t length(std::int64_t sequence, std::int64_t head) const {
        return static_cast<const std::int32_t *>(lengths.data)[sequence * lengths.stride[0] + head * lengths.stride[1]];
    }
    /// Row of key_tail that belongs to a sequence and head.
    std::int64_t tail(std::int64_t sequence, std::int64_t head) const {
        if (!tail_table.present()) return sequence * kv_heads + head;
        return static_cast<const std::int32_t *>(tail_table.data)[sequence * tail_table.stride[0] + head * tail_table.stride[1]];
    }
    /// Slots whose keys are in pages; the others, length % kKvBlock of them, are in the tail.
    std::int32_t paged_keys(std::int32_t held) const { return kv_block_scaled(key_format) ? held / kKvBlock * kKvBlock : held; }
};

/// Checks types, shapes and, where mode.read_indices, every length, every page index that the lengths reach and every tail. With kWrite no two
/// (sequence, head) may share a tail.
Status check_kv_cache(const CheckMode &mode, const strata_kv_cache &cache, Access access, KvCacheView *view);

/// For ops that read or move rows of numbers: plain formats, rows, no rotation.
Status check_plain_rows(const CheckMode &mode, const KvCacheView &view);

/// Checks that `output` does not share memory with any part of the cache.
Status check_no_cache_overlap(const CheckMode &mode, const char *name, const View &output, const KvCacheView &cache);

/// Checks that row offsets begin at 0, never fall and end at `rows`, where mode.read_indices. Absent offsets need batch 1.
Status check_row_offsets(const CheckMode &mode, const char *name, const View &offsets, std::int64_t batch, std::int64_t rows);

/// The rope parameters with their defaults filled in; dims is even and at most head_dim, the factors are finite and positive.
Status check_rope(const CheckMode &mode, const strata_rope_params &rope, std::int64_t head_dim, strata_rope_params *checked);

/// The optional divisors of the frequencies, one a pair of checked parameters.
Status check_frequency_factors(const CheckMode &mode, const strata_tensor &tensor, const strata_rope_params &rope, View *factors);

} // namespace strata
