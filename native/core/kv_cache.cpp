// SPDX-License-Identifier: Apache-2.0
// Checks of the paged KV cache.
#include "core/kv_cache.h"

#include <cmath>

namespace strata {

namespace {

Status check_indices(const CheckMode &mode, const KvCacheView &view) {
    for (std::int64_t b = 0; b < view.batch; ++b) {
        for (std::int64_t h = 0; h < view.kv_heads; ++h) {
            const std::int32_t length = view.length(b, h);
            if (length < 0 || length > view.capacity()) {
                return fail(STRATA_E_INDEX, mode.op, ": cache.lengths[", b, ",", h, "] is ", length, ", must be 0 to ", view.capacity(),
                            " (max_pages * page_size); widen the page table or shorten the sequence");
            }
            const std::int32_t *table = view.table_row(b, h);
            const std::int64_t used = (length + view.page_size - 1) / view.page_size;
            for (std::int64_t i = 0; i < used; ++i) {
                if (table[i] < 0 || table[i] >= view.pages) {
                    return fail(STRATA_E_INDEX, mode.op, ": cache.page_table[", b, ",", h, ",", i, "] is ", table[i], ", must be 0 to ",
                                view.pages - 1, "; give every used slot a page of the pool");
                }
            }
        }
    }
    return STRATA_OK;
}

} // namespace

Status check_kv_cache(const CheckMode &mode, const strata_kv_cache &cache, Access access, KvCacheView *view) {
    *view = KvCacheView{};
    TRY(check_tensor(mode, "cache.keys", cache.keys, 4, kFloats, access, &view->keys));
    TRY(check_tensor(mode, "cache.values", cache.values, 4, dtype_bit(view->keys.dtype), access, &view->values));
    TRY(check_tensor(mode, "cache.page_table", cache.page_table, 3, kI32, Access::kRead, &view->table));
    TRY(check_tensor(mode, "cache.lengths", cache.lengths, 2, kI32, Access::kRead, &view->lengths));
    TRY(check_optional_tensor(mode, "cache.positions", cache.positions, 3, kI32, access, &view->positions));
    const View &keys = view->keys;
    for (std::int32_t i = 0; i < 4; ++i) {
        if (view->values.shape[i] != keys.shape[i]) {
            return fail(STRATA_E_SHAPE, mode.op, ": cache.values.shape[", i, "] is ", view->values.shape[i], ", must equal cache.keys.shape[", i,
                        "] = ", keys.shape[i], "; keep keys and values in pools of one shape");
        }
    }
    view->pages = keys.shape[0];
    view->batch = view->table.shape[0];
    view->kv_heads = view->table.shape[1];
    view->max_pages = view->table.shape[2];
    TRY(check_range(mode, "cache.keys.shape[0] (pages)", view->pages, 0, INT32_MAX, "a page index has 32 bits"));
    TRY(check_range(mode, "cache.keys.shape[2] (page_size)", keys.shape[2], 1, 256, "choose a power of two from 16 to 256"));
    TRY(check_range(mode, "cache.keys.shape[3] (head_dim)", keys.shape[3], 1, 512, "larger heads have no kernel"));
    view->page_size = static_cast<std::int32_t>(keys.shape[2]);
    view->head_dim = static_cast<std::int32_t>(keys.shape[3]);
    TRY(check_range(mode, "cache.page_table.shape[1] (kv_heads)", view->kv_heads, 1, 65535, "pass one row per KV head"));
    TRY(check_range(mode, "cache.page_table.shape[0] (batch)", view->batch, 0, INT32_MAX, "split the batch"));
    TRY(check_range(mode, "cache.page_table.shape[2] (max_pages)", view->max_pages, 0, INT32_MAX / view->page_size, "a length has 32 bits"));
    if (keys.shape[1] != 1 && keys.shape[1] != view->kv_heads) {
        return fail(STRATA_E_SHAPE, mode.op, ": cache.keys.shape[1] (heads_in_page) is ", keys.shape[1], ", must be 1 or kv_heads = ", view->kv_heads,
                    "; a page belongs to one KV head or holds them all");
    }
    TRY(check_equal(mode, "cache.lengths.shape[0]", view->lengths.shape[0], "batch", view->batch, "pass one length per sequence and KV head"));
    TRY(check_equal(mode, "cache.lengths.shape[1]", view->lengths.shape[1], "kv_heads", view->kv_heads, "pass one length per sequence and KV head"));
    if (view->positions.present()) {
        for (std::int32_t i = 0; i < 3; ++i) {
            if (view->positions.shape[i] != keys.shape[i]) {
                return fail(STRATA_E_SHAPE, mode.op, ": cache.positions.shape[", i, "] is ", view->positions.shape[i],
                            ", must equal cache.keys.shape[", i, "] = ", keys.shape[i], "; keep one position per slot");
            }
        }
    }
    return mode.read_indices ? check_indices(mode, *view) : STRATA_OK;
}

Status check_row_offsets(const CheckMode &mode, const char *name, const View &offsets, std::int64_t batch, std::int64_t rows) {
    if (!offsets.present()) {
        if (batch != 1) {
            return fail(STRATA_E_ARGUMENT, mode.op, ": ", name, " is absent, must be there for a batch of ", batch, "; pass batch + 1 row offsets");
        }
        return STRATA_OK;
    }
    if (offsets.shape[0] != batch + 1) {
        return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".shape[0] is ", offsets.shape[0], ", must be batch + 1 = ", batch + 1,
                    "; pass the first row of each sequence and the total");
    }
    if (!mode.read_indices) {
        return STRATA_OK;
    }
    const auto *values = static_cast<const std::int32_t *>(offsets.data);
    std::int64_t previous = 0;
    for (std::int64_t i = 0; i <= batch; ++i) {
        const std::int64_t at = values[i * offsets.stride[0]];
        const bool bad = (i == 0 && at != 0) || at < previous || at > rows || (i == batch && at != rows);
        if (bad) {
            return fail(STRATA_E_INDEX, mode.op, ": ", name, "[", i, "] is ", at, ", must rise from 0 to the row count ", rows,
                        "; rebuild the offsets");
        }
        previous = at;
    }
    return STRATA_OK;
}

Status check_rope(const CheckMode &mode, const strata_rope_params &rope, std::int64_t head_dim, strata_rope_params *checked) {
    *checked = rope;
    TRY(check_range(mode, "rope.mode", rope.mode, STRATA_ROPE_NONE, STRATA_ROPE_HALF, "choose a strata_rope_mode"));
    checked->dims = rope.dims == 0 ? static_cast<std::int32_t>(head_dim) : rope.dims;
    checked->base = rope.base == 0.0F ? 10000.0F : rope.base;
    checked->frequency_scale = rope.frequency_scale == 0.0F ? 1.0F : rope.frequency_scale;
    if (rope.mode == STRATA_ROPE_NONE && rope.dims == 0) {
        return STRATA_OK; // nothing turns, so an odd head_dim is fine
    }
    if (checked->dims < 0 || checked->dims > head_dim || checked->dims % 2 != 0) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": rope.dims is ", checked->dims, ", must be even and 0 to head_dim = ", head_dim,
                    "; rotate whole pairs");
    }
    if (!(checked->base > 0.0F) || !std::isfinite(checked->base) || !(checked->frequency_scale > 0.0F) || !std::isfinite(checked->frequency_scale)) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": rope.base is ", static_cast<double>(checked->base), " and rope.frequency_scale is ",
                    static_cast<double>(checked->frequency_scale), ", must both be finite and above 0; take them from the model's metadata");
    }
    return STRATA_OK;
}

} // namespace strata
