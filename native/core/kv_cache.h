// SPDX-License-Identifier: Apache-2.0
// The paged KV cache as the kv_* ops see it: checked extents, and how a slot is found.
#pragma once

#include "core/op.h"

namespace strata {

/// A checked strata_kv_cache. Slot s of KV head h of sequence b lies at
///     page = table[b][h][s / page_size];  keys + page * stride[0] + (heads_in_page == 1 ? 0 : h) * stride[1] + (s % page_size) * stride[2]
struct KvCacheView {
    View keys;      // [pages, heads_in_page, page_size, head_dim]
    View values;    // the same; its strides may differ
    View table;     // int32 [batch, kv_heads, max_pages]
    View lengths;   // int32 [batch, kv_heads]
    View positions; // int32 [pages, heads_in_page, page_size], or absent
    std::int64_t pages;
    std::int64_t batch;
    std::int64_t kv_heads;
    std::int64_t max_pages;
    std::int32_t page_size;
    std::int32_t head_dim;

    bool shared_pages() const { return keys.shape[1] != 1; }
    std::int64_t capacity() const { return max_pages * page_size; }
    std::int64_t row(const View &pool, std::int64_t page, std::int64_t head, std::int64_t slot_in_page) const {
        return page * pool.stride[0] + (shared_pages() ? head : 0) * pool.stride[1] + slot_in_page * pool.stride[2];
    }
    const std::int32_t *table_row(std::int64_t sequence, std::int64_t head) const {
        return static_cast<const std::int32_t *>(table.data) + sequence * table.stride[0] + head * table.stride[1];
    }
    std::int32_t length(std::int64_t sequence, std::int64_t head) const {
        return static_cast<const std::int32_t *>(lengths.data)[sequence * lengths.stride[0] + head * lengths.stride[1]];
    }
};

/// Checks types, shapes and, where mode.read_indices, every length and every page index that the lengths reach.
Status check_kv_cache(const CheckMode &mode, const strata_kv_cache &cache, Access access, KvCacheView *view);

/// Checks that row offsets begin at 0, never fall and end at `rows`, where mode.read_indices. Absent offsets need batch 1.
Status check_row_offsets(const CheckMode &mode, const char *name, const View &offsets, std::int64_t batch, std::int64_t rows);

/// The rope parameters with their defaults filled in; dims is even and at most head_dim, base and frequency_scale are finite and positive.
Status check_rope(const CheckMode &mode, const strata_rope_params &rope, std::int64_t head_dim, strata_rope_params *checked);

} // namespace strata
