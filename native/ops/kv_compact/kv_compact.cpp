// SPDX-License-Identifier: Apache-2.0
// kv_compact: checks and exports.
#include "ops/kv_compact/kv_compact.h"

namespace strata {

namespace {

Status check_kept(const CheckMode &mode, const KvCompactProblem &p, std::int64_t b, std::int64_t h) {
    const std::int32_t count = p.count(b, h);
    if (count < 0 || count > p.max_kept) {
        return fail(STRATA_E_INDEX, mode.op, ": kept_counts[", b, ",", h, "] is ", count, ", must be 0 to ", p.max_kept,
                    " (kept.shape[2]); pass what kv_select wrote");
    }
    const std::int32_t length = p.cache.length(b, h);
    const std::int32_t *kept = p.kept_row(b, h);
    std::int32_t previous = -1;
    for (std::int32_t i = 0; i < count; ++i) {
        if (kept[i] <= previous || kept[i] >= length) {
            return fail(STRATA_E_INDEX, mode.op, ": kept[", b, ",", h, ",", i, "] is ", kept[i], ", must be above ", previous,
                        " and below the length ", length, "; pass strictly ascending slots of this head");
        }
        previous = kept[i];
    }
    return STRATA_OK;
}

Status check_destination(const CheckMode &mode, const KvCompactProblem &p, std::int64_t b, std::int64_t h) {
    const std::int64_t pages = (p.count(b, h) + p.cache.page_size - 1) / p.cache.page_size;
    if (pages > p.to_table.shape[2]) {
        return fail(STRATA_E_INDEX, mode.op, ": to_page_table.shape[2] is ", p.to_table.shape[2], ", must be at least ", pages, " for the ",
                    p.count(b, h), " kept slots of [", b, ",", h, "]; pass enough fresh pages");
    }
    const std::int32_t *table = p.to_row(b, h);
    for (std::int64_t i = 0; i < pages; ++i) {
        if (table[i] < 0 || table[i] >= p.cache.pages) {
            return fail(STRATA_E_INDEX, mode.op, ": to_page_table[", b, ",", h, ",", i, "] is ", table[i], ", must be 0 to ", p.cache.pages - 1,
                        "; pass pages of the cache's pool");
        }
    }
    return STRATA_OK;
}

Status check_rows(const CheckMode &mode, const char *name, const View &view, const KvCacheView &cache) {
    TRY(check_equal(mode, name, view.shape[0], "batch", cache.batch, "pass one row per sequence"));
    return check_equal(mode, name, view.shape[1], "kv_heads", cache.kv_heads, "pass one row per KV head");
}

} // namespace

Status check_kv_compact(const CheckMode &mode, const strata_kv_compact_args &args, KvCompactProblem *problem) {
    KvCompactProblem &p = *problem;
    p = KvCompactProblem{};
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_kv_cache(mode, args.cache, Access::kWrite, &p.cache));
    TRY(check_plain_rows(mode, p.cache));
    TRY(check_tensor(mode, "kept", args.kept, 3, kI32, Access::kRead, &p.kept));
    TRY(check_tensor(mode, "kept_counts", args.kept_counts, 2, kI32, Access::kRead, &p.counts));
    TRY(check_optional_tensor(mode, "to_page_table", args.to_page_table, 3, kI32, Access::kRead, &p.to_table));
    TRY(check_optional_tensor(mode, "new_lengths", args.new_lengths, 2, kI32, Access::kWrite, &p.new_lengths));
    TRY(check_rows(mode, "kept.shape", p.kept, p.cache));
    TRY(check_rows(mode, "kept_counts.shape", p.counts, p.cache));
    TRY(check_range(mode, "kept.shape[2] (max_kept)", p.kept.shape[2], 0, INT32_MAX, "a slot number has 32 bits"));
    p.max_kept = p.kept.shape[2];
    if (p.to_table.present()) {
        TRY(check_rows(mode, "to_page_table.shape", p.to_table, p.cache));
        TRY(check_range(mode, "to_page_table.shape[2] (max_to_pages)", p.to_table.shape[2], 0, INT32_MAX / p.cache.page_size,
                        "a length has 32 bits"));
    }
    if (p.new_lengths.present()) {
        TRY(check_rows(mode, "new_lengths.shape", p.new_lengths, p.cache));
    }
    // Keys and values may interleave in one allocation, so only the small tensors are held against the pools and each other.
    const struct {
        const char *name;
        const View &view;
    } inputs[] = {{"cache.page_table", p.cache.table},
                  {"cache.lengths", p.cache.lengths},
                  {"kept", p.kept},
                  {"kept_counts", p.counts},
                  {"to_page_table", p.to_table}},
      outputs[] = {{"cache.keys", p.cache.keys},           {"cache.values", p.cache.values},
                   {"cache.positions", p.cache.positions}, {"cache.logit_bias", p.cache.logit_bias},
                   {"cache.key_norms", p.cache.key_norms}, {"cache.value_norms", p.cache.value_norms},
                   {"new_lengths", p.new_lengths}};
    for (const auto &output : outputs) {
        for (const auto &input : inputs) {
            // Each row reads its own length and count before it writes its new length.
            const bool in_place = &output.view == &p.new_lengths && (&input.view == &p.cache.lengths || &input.view == &p.counts);
            TRY(check_no_partial_overlap(mode, output.name, output.view, input.name, input.view, in_place));
        }
    }
    for (const auto &output : outputs) {
        if (&output.view == &p.new_lengths) continue;
        TRY(check_no_partial_overlap(mode, "new_lengths", p.new_lengths, output.name, output.view, false));
    }
    if (!mode.read_indices) {
        return STRATA_OK;
    }
    for (std::int64_t b = 0; b < p.cache.batch; ++b) {
        for (std::int64_t h = 0; h < p.cache.kv_heads; ++h) {
            TRY(check_kept(mode, p, b, h));
            if (!p.in_place()) {
                TRY(check_destination(mode, p, b, h));
            }
        }
    }
    return STRATA_OK;
}

} // namespace strata

DEFINE_OP(kv_compact, KvCompact)
