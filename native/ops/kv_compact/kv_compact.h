// SPDX-License-Identifier: Apache-2.0
// kv_compact: the checked problem.
#pragma once

#include "core/kv_cache.h"

namespace strata {

struct KvCompactProblem {
    KvCacheView cache;
    View kept;        // int32 [batch, kv_heads, max_kept]
    View counts;      // int32 [batch, kv_heads]
    View to_table;    // int32 [batch, kv_heads, max_to_pages], or absent: in place
    View new_lengths; // int32 [batch, kv_heads], or absent
    std::int64_t max_kept;

    bool in_place() const { return !to_table.present(); }
    /// Slots that the destination's table can hold.
    std::int64_t destination_capacity() const { return (in_place() ? cache.max_pages : to_table.shape[2]) * cache.page_size; }
    const std::int32_t *kept_row(std::int64_t b, std::int64_t h) const {
        return static_cast<const std::int32_t *>(kept.data) + b * kept.stride[0] + h * kept.stride[1];
    }
    std::int32_t count(std::int64_t b, std::int64_t h) const {
        return static_cast<const std::int32_t *>(counts.data)[b * counts.stride[0] + h * counts.stride[1]];
    }
    const std::int32_t *to_row(std::int64_t b, std::int64_t h) const {
        return in_place() ? cache.table_row(b, h)
                          : static_cast<const std::int32_t *>(to_table.data) + b * to_table.stride[0] + h * to_table.stride[1];
    }
};

Status check_kv_compact(const CheckMode &mode, const strata_kv_compact_args &args, KvCompactProblem *problem);

} // namespace strata
