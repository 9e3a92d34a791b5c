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
            if (view.key_tail.present() && (view.tail(b, h) < 0 || view.tail(b, h) >= view.key_tail.shape[0])) {
                return fail(STRATA_E_INDEX, mode.op, ": cache.tail_table[", b, ",", h, "] is ", view.tail(b, h), ", must be 0 to ",
                            view.key_tail.shape[0] - 1, "; give every sequence and head a row of key_tail");
            }
        }
    }
    return STRATA_OK;
}

DtypeSet types_of(std::int32_t format) {
    switch (format) {
    case STRATA_KV_I8: return dtype_bit(STRATA_DTYPE_I8);
    case STRATA_KV_F8: return dtype_bit(STRATA_DTYPE_F8E4M3);
    case STRATA_KV_I8_BLOCK:
    case STRATA_KV_I4_BLOCK: return dtype_bit(STRATA_DTYPE_U8);
    default: return kFloats;
    }
}

/// Channels of a stored row: 4-bit codes lie two a byte.
std::int64_t stored_width(std::int32_t format, std::int64_t head_dim) { return format == STRATA_KV_I4_BLOCK ? head_dim / 2 : head_dim; }

Status check_format(const CheckMode &mode, const char *name, std::int32_t format, const KvCacheView &view) {
    TRY(check_range(mode, name, format, STRATA_KV_PLAIN, STRATA_KV_I4_BLOCK, "choose a strata_kv_format"));
    if (kv_block_scaled(format) && view.layout != STRATA_KV_TILED) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": ", name, " is a block format and cache.layout is ", view.layout,
                    ", must be STRATA_KV_TILED (1); keep block formats in tiled pages");
    }
    if (kv_block_scaled(format) && view.page_size % kKvBlock != 0) {
        return fail(STRATA_E_SHAPE, mode.op, ": cache.keys.shape[2] (page_size) is ", view.page_size,
                    ", must be a multiple of 32 with a block format; a page holds whole blocks");
    }
    return STRATA_OK;
}

Status check_multiple(const CheckMode &mode, const char *name, std::int64_t value, std::int64_t of, const char *cure) {
    if (value % of == 0) return STRATA_OK;
    return fail(STRATA_E_SHAPE, mode.op, ": ", name, " is ", value, ", must be a multiple of ", of, " in this cache.layout; ", cure);
}

/// Layouts other than rows: one dense block for each page and head.
Status check_layout(const CheckMode &mode, const char *name, const View &pool, std::int32_t format, const KvCacheView &view) {
    if (view.layout == STRATA_KV_ROWS) return STRATA_OK;
    if (pool.stride[2] != pool.shape[3]) {
        return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".stride[2] is ", pool.stride[2], ", must be shape[3] = ", pool.shape[3],
                    " in this layout; the block of a page is dense");
    }
    TRY(check_multiple(mode, "cache.keys.shape[2] (page_size)", view.page_size, 16, "such pages hold whole tiles of 16 slots"));
    if (view.layout == STRATA_KV_TILED) {
        return check_multiple(mode, "head_dim", view.head_dim, 16, "tiled pages hold whole words; keep other widths in rows");
    }
    if (format != STRATA_KV_PLAIN || dtype_bytes(pool.dtype) != 2) {
        return fail(STRATA_E_DTYPE, mode.op, ": ", name, ".dtype is ", dtype_name(pool.dtype),
                    ", must be f16 or bf16 in STRATA_KV_SWIZZLED; use STRATA_KV_TILED for other types");
    }
    return check_multiple(mode, "head_dim", view.head_dim, 64, "swizzled pages hold half blocks of 64 channels");
}

/// Scales of one pool: absent, one per slot, or pairs per block.
Status check_scales(const CheckMode &mode, const char *name, const strata_tensor &tensor, bool keys, std::int32_t format, Access access,
                    const KvCacheView &view, View *scales) {
    if (format == STRATA_KV_PLAIN) {
        if (tensor.data != nullptr || tensor.ndim != 0) {
            return fail(STRATA_E_ARGUMENT, mode.op, ": ", name, " is there, must be absent with a plain format; leave it zero or set the format");
        }
        return STRATA_OK;
    }
    const bool block = kv_block_scaled(format);
    TRY(check_tensor(mode, name, tensor, block ? 4 : 3, dtype_bit(STRATA_DTYPE_F16), access, scales));
    const std::int64_t groups = (view.head_dim + kKvBlock - 1) / kKvBlock;
    std::int64_t wanted[4] = {view.pages, view.keys.shape[1], view.page_size, 0};
    if (block && keys) {
        wanted[2] = view.page_size / kKvBlock;
        wanted[3] = 2 * view.head_dim;
    } else if (block) {
        wanted[2] = 2 * groups;
        wanted[3] = view.page_size;
    }
    for (std::int32_t i = 0; i < scales->ndim; ++i) {
        if (scales->shape[i] != wanted[i]) {
            return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".shape[", i, "] is ", scales->shape[i], ", must be ", wanted[i],
                        "; strata_kv_format says the shape of each format's scales");
        }
    }
    return STRATA_OK;
}

Status check_side_array(const CheckMode &mode, const char *name, const strata_tensor &tensor, DtypeSet types, Access access, const KvCacheView &view,
                        View *side) {
    TRY(check_optional_tensor(mode, name, tensor, 3, types, access, side));
    if (!side->present()) return STRATA_OK;
    const std::int64_t wanted[3] = {view.pages, view.keys.shape[1], view.page_size};
    for (std::int32_t i = 0; i < 3; ++i) {
        if (side->shape[i] != wanted[i]) {
            return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".shape[", i, "] is ", side->shape[i], ", must equal cache.keys.shape[", i,
                        "] = ", wanted[i], "; keep one number per slot");
        }
    }
    return STRATA_OK;
}

Status check_tail(const CheckMode &mode, const strata_kv_cache &cache, Access access, KvCacheView *view) {
    const bool needed = kv_block_scaled(view->key_format);
    TRY(check_optional_tensor(mode, "cache.key_tail", cache.key_tail, 3, kFloats, access, &view->key_tail));
    TRY(check_optional_tensor(mode, "cache.tail_table", cache.tail_table, 2, kI32, Access::kRead, &view->tail_table));
    if (needed != view->key_tail.present() || (view->tail_table.present() && !needed)) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": cache.key_tail is ", view->key_tail.present() ? "there" : "absent", ", must be there ",
                    "with a block key_format and only then; it holds the keys of the block that is not full");
    }
    if (!needed) return STRATA_OK;
    TRY(check_equal(mode, "cache.key_tail.shape[1]", view->key_tail.shape[1], "STRATA_KV_BLOCK", kKvBlock, "a tail holds one block"));
    TRY(check_equal(mode, "cache.key_tail.shape[2]", view->key_tail.shape[2], "head_dim", view->head_dim, "give the tail the cache's width"));
    if (view->tail_table.present()) {
        TRY(check_equal(mode, "cache.tail_table.shape[0]", view->tail_table.shape[0], "batch", view->batch,
                        "pass one tail per sequence and KV head"));
        return check_equal(mode, "cache.tail_table.shape[1]", view->tail_table.shape[1], "kv_heads", view->kv_heads,
                           "pass one tail per sequence and KV head");
    }
    if (view->key_tail.shape[0] < view->batch * view->kv_heads) {
        return fail(STRATA_E_SHAPE, mode.op, ": cache.key_tail.shape[0] is ", view->key_tail.shape[0],
                    ", must be at least batch * kv_heads = ", view->batch * view->kv_heads,
                    "; pass one tail per sequence and KV head, or a tail_table");
    }
    return STRATA_OK;
}

Status check_rotation(const CheckMode &mode, const KvCacheView &view) {
    const std::int32_t n = view.rotation;
    const bool power = n >= 16 && n <= 256 && (n & (n - 1)) == 0;
    if (n != 0 && (!power || view.head_dim % n != 0)) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": cache.rotation is ", n,
                    ", must be 0, or 16, 32, 64, 128 or 256 and divide head_dim = ", view.head_dim, "; choose the largest that divides it");
    }
    return STRATA_OK;
}

} // namespace

Status check_kv_cache(const CheckMode &mode, const strata_kv_cache &cache, Access access, KvCacheView *view) {
    *view = KvCacheView{};
    view->layout = cache.layout;
    view->key_format = cache.key_format;
    view->value_format = cache.value_format;
    view->rotation = cache.rotation;
    TRY(check_range(mode, "cache.layout", cache.layout, STRATA_KV_ROWS, STRATA_KV_SWIZZLED, "choose a strata_kv_layout"));
    TRY(check_tensor(mode, "cache.keys", cache.keys, 4, types_of(cache.key_format), access, &view->keys));
    TRY(check_tensor(mode, "cache.values", cache.values, 4, types_of(cache.value_format), access, &view->values));
    TRY(check_tensor(mode, "cache.page_table", cache.page_table, 3, kI32, Access::kRead, &view->table));
    TRY(check_tensor(mode, "cache.lengths", cache.lengths, 2, kI32, Access::kRead, &view->lengths));
    const View &keys = view->keys;
    view->pages = keys.shape[0];
    view->batch = view->table.shape[0];
    view->kv_heads = view->table.shape[1];
    view->max_pages = view->table.shape[2];
    const std::int64_t width = keys.shape[3] * (cache.key_format == STRATA_KV_I4_BLOCK ? 2 : 1);
    TRY(check_range(mode, "cache.keys.shape[0] (pages)", view->pages, 0, INT32_MAX, "a page index has 32 bits"));
    TRY(check_range(mode, "cache.keys.shape[2] (page_size)", keys.shape[2], 1, 256, "choose a power of two from 16 to 256"));
    TRY(check_range(mode, "cache.keys.shape[3] (head_dim)", width, 1, 512, "larger heads have no kernel"));
    view->page_size = static_cast<std::int32_t>(keys.shape[2]);
    view->head_dim = static_cast<std::int32_t>(width);
    TRY(check_format(mode, "cache.key_format", cache.key_format, *view));
    TRY(check_format(mode, "cache.value_format", cache.value_format, *view));
    for (std::int32_t i = 0; i < 4; ++i) {
        const std::int64_t wanted = i < 3 ? keys.shape[i] : stored_width(cache.value_format, width);
        if (view->values.shape[i] != wanted) {
            return fail(STRATA_E_SHAPE, mode.op, ": cache.values.shape[", i, "] is ", view->values.shape[i], ", must be ", wanted,
                        " to match cache.keys", "; keep keys and values in pools of one shape");
        }
    }
    if (view->plain() && keys.dtype != view->values.dtype) {
        return fail(STRATA_E_DTYPE, mode.op, ": cache.values.dtype is ", dtype_name(view->values.dtype), ", must be ", dtype_name(keys.dtype),
                    " as cache.keys; two plain pools have one type");
    }
    TRY(check_range(mode, "cache.page_table.shape[1] (kv_heads)", view->kv_heads, 1, 65535, "pass one row per KV head"));
    TRY(check_range(mode, "cache.page_table.shape[0] (batch)", view->batch, 0, INT32_MAX, "split the batch"));
    TRY(check_range(mode, "cache.page_table.shape[2] (max_pages)", view->max_pages, 0, INT32_MAX / view->page_size, "a length has 32 bits"));
    if (keys.shape[1] != 1 && keys.shape[1] != view->kv_heads) {
        return fail(STRATA_E_SHAPE, mode.op, ": cache.keys.shape[1] (heads_in_page) is ", keys.shape[1], ", must be 1 or kv_heads = ", view->kv_heads,
                    "; a page belongs to one KV head or holds them all");
    }
    TRY(check_equal(mode, "cache.lengths.shape[0]", view->lengths.shape[0], "batch", view->batch, "pass one length per sequence and KV head"));
    TRY(check_equal(mode, "cache.lengths.shape[1]", view->lengths.shape[1], "kv_heads", view->kv_heads, "pass one length per sequence and KV head"));
    TRY(check_layout(mode, "cache.keys", view->keys, cache.key_format, *view));
    TRY(check_layout(mode, "cache.values", view->values, cache.value_format, *view));
    TRY(check_rotation(mode, *view));
    TRY(check_scales(mode, "cache.key_scales", cache.key_scales, true, cache.key_format, access, *view, &view->key_scales));
    TRY(check_scales(mode, "cache.value_scales", cache.value_scales, false, cache.value_format, access, *view, &view->value_scales));
    TRY(check_tail(mode, cache, access, view));
    constexpr DtypeSet kNormTypes = kF32 | dtype_bit(STRATA_DTYPE_F16);
    TRY(check_side_array(mode, "cache.positions", cache.positions, kI32, access, *view, &view->positions));
    TRY(check_side_array(mode, "cache.logit_bias", cache.logit_bias, kF32, access, *view, &view->logit_bias));
    TRY(check_side_array(mode, "cache.key_norms", cache.key_norms, kNormTypes, access, *view, &view->key_norms));
    TRY(check_side_array(mode, "cache.value_norms", cache.value_norms, kNormTypes, access, *view, &view->value_norms));
    return mode.read_indices ? check_indices(mode, *view) : STRATA_OK;
}

Status check_plain_rows(const CheckMode &mode, const KvCacheView &view) {
    if (view.plain() && view.layout == STRATA_KV_ROWS && view.rotation == 0) return STRATA_OK;
    return fail(STRATA_E_UNSUPPORTED, mode.op, ": cache has key_format ", view.key_format, ", value_format ", view.value_format, ", layout ",
                view.layout, " and rotation ", view.rotation, ", must have 0 in all four; keep the caches that this op reads as plain rows");
}

Status check_no_cache_overlap(const CheckMode &mode, const char *name, const View &output, const KvCacheView &cache) {
    const struct {
        const char *name;
        const View &view;
    } inputs[] = {{"cache.keys", cache.keys},
                  {"cache.values", cache.values},
                  {"cache.page_table", cache.table},
                  {"cache.lengths", cache.lengths},
                  {"cache.positions", cache.positions},
                  {"cache.logit_bias", cache.logit_bias},
                  {"cache.key_norms", cache.key_norms},
                  {"cache.value_norms", cache.value_norms},
                  {"cache.key_scales", cache.key_scales},
                  {"cache.value_scales", cache.value_scales},
                  {"cache.key_tail", cache.key_tail},
                  {"cache.tail_table", cache.tail_table}};
    for (const auto &input : inputs) {
        TRY(check_no_partial_overlap(mode, name, output, input.name, input.view, false));
    }
    return STRATA_OK;
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
    checked->yarn_beta_fast = rope.yarn_beta_fast == 0.0F ? 32.0F : rope.yarn_beta_fast;
    checked->yarn_beta_slow = rope.yarn_beta_slow == 0.0F ? 1.0F : rope.yarn_beta_slow;
    if (rope.magnitude == 0.0F) checked->magnitude = rope.yarn_context > 0 ? 1.0F - 0.1F * std::log(checked->frequency_scale) : 1.0F;
    if (rope.mode == STRATA_ROPE_NONE && rope.dims == 0) {
        return STRATA_OK; // nothing turns, so an odd head_dim is fine
    }
    if (checked->dims < 0 || checked->dims > head_dim || checked->dims % 2 != 0) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": rope.dims is ", checked->dims, ", must be even and 0 to head_dim = ", head_dim,
                    "; rotate whole pairs");
    }
    TRY(check_range(mode, "rope.yarn_context", rope.yarn_context, 0, INT32_MAX, "pass the context that the model was first trained with, or 0"));
    const struct {
        const char *name;
        float value;
    } factors[] = {{"rope.base", checked->base},
                   {"rope.frequency_scale", checked->frequency_scale},
                   {"rope.yarn_beta_fast", checked->yarn_beta_fast},
                   {"rope.yarn_beta_slow", checked->yarn_beta_slow},
                   {"rope.magnitude", checked->magnitude}};
    for (const auto &factor : factors) {
        if (!(factor.value > 0.0F) || !std::isfinite(factor.value)) {
            return fail(STRATA_E_ARGUMENT, mode.op, ": ", factor.name, " is ", static_cast<double>(factor.value),
                        ", must be finite and above 0; take it from the model's metadata");
        }
    }
    return STRATA_OK;
}

Status check_frequency_factors(const CheckMode &mode, const strata_tensor &tensor, const strata_rope_params &rope, View *factors) {
    TRY(check_optional_tensor(mode, "frequency_factors", tensor, 1, kF32, Access::kRead, factors));
    if (!factors->present()) return STRATA_OK;
    return check_equal(mode, "frequency_factors.shape[0]", factors->shape[0], "rope.dims / 2", rope.dims / 2, "pass one factor per pair that turns");
}

} // namespace strata
