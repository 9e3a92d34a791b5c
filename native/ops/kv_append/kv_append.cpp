// SPDX-License-Identifier: Apache-2.0
// kv_append: checks and exports.
#include "ops/kv_append/kv_append.h"

namespace strata {

namespace {

// Every head of a sequence must have room for the sequence's new rows among the slots that its length counts.
Status check_room(const CheckMode &mode, const KvAppendProblem &p) {
    const auto *offsets = static_cast<const std::int32_t *>(p.row_offsets.data);
    for (std::int64_t b = 0; b < p.cache.batch; ++b) {
        const std::int64_t step = p.row_offsets.stride[0];
        const std::int64_t rows = p.row_offsets.present() ? offsets[(b + 1) * step] - offsets[b * step] : p.tokens;
        for (std::int64_t h = 0; h < p.cache.kv_heads; ++h) {
            if (p.cache.length(b, h) < rows) {
                return fail(STRATA_E_INDEX, mode.op, ": cache.lengths[", b, ",", h, "] is ", p.cache.length(b, h), ", must be at least the ", rows,
                            " rows of sequence ", b, "; lengths count the new tokens already");
            }
        }
    }
    return STRATA_OK;
}

// What is written may not be what is read. Parts of the cache may interleave in one allocation, so they are not held against each other.
Status check_no_overlap(const CheckMode &mode, const KvAppendProblem &p) {
    const struct {
        const char *name;
        const View &view;
    } inputs[] = {{"keys", p.keys},
                  {"values", p.values},
                  {"positions", p.positions},
                  {"row_offsets", p.row_offsets},
                  {"frequency_factors", p.factors},
                  {"cache.page_table", p.cache.table},
                  {"cache.lengths", p.cache.lengths},
                  {"cache.tail_table", p.cache.tail_table}},
      outputs[] = {{"cache.keys", p.cache.keys},
                   {"cache.values", p.cache.values},
                   {"cache.positions", p.cache.positions},
                   {"cache.logit_bias", p.cache.logit_bias},
                   {"cache.key_norms", p.cache.key_norms},
                   {"cache.value_norms", p.cache.value_norms},
                   {"cache.key_scales", p.cache.key_scales},
                   {"cache.value_scales", p.cache.value_scales},
                   {"cache.key_tail", p.cache.key_tail}};
    for (const auto &output : outputs) {
        for (const auto &input : inputs) {
            TRY(check_no_partial_overlap(mode, output.name, output.view, input.name, input.view, false));
        }
    }
    return STRATA_OK;
}

} // namespace

Status check_kv_append(const CheckMode &mode, const strata_kv_append_args &args, KvAppendProblem *problem) {
    *problem = KvAppendProblem{};
    KvAppendProblem &p = *problem;
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_kv_cache(mode, args.cache, Access::kWrite, &p.cache));
    TRY(check_tensor(mode, "keys", args.keys, 3, kFloats, Access::kRead, &p.keys));
    TRY(check_tensor(mode, "values", args.values, 3, dtype_bit(p.keys.dtype), Access::kRead, &p.values));
    TRY(check_optional_tensor(mode, "positions", args.positions, 1, kI32, Access::kRead, &p.positions));
    TRY(check_optional_tensor(mode, "row_offsets", args.row_offsets, 1, kI32, Access::kRead, &p.row_offsets));
    p.tokens = p.keys.shape[0];
    TRY(check_range(mode, "keys.shape[0] (tokens)", p.tokens, 0, INT32_MAX, "a row offset has 32 bits"));
    TRY(check_equal(mode, "keys.shape[1]", p.keys.shape[1], "cache kv_heads", p.cache.kv_heads, "pass one row per KV head"));
    TRY(check_equal(mode, "keys.shape[2]", p.keys.shape[2], "cache head_dim", p.cache.head_dim, "pass keys of the cache's width"));
    for (std::int32_t i = 0; i < 3; ++i) {
        if (p.values.shape[i] != p.keys.shape[i]) {
            return fail(STRATA_E_SHAPE, mode.op, ": values.shape[", i, "] is ", p.values.shape[i], ", must equal keys.shape[", i,
                        "] = ", p.keys.shape[i], "; pass as many values as keys");
        }
    }
    TRY(check_rope(mode, args.rope, p.cache.head_dim, &p.rope));
    TRY(check_frequency_factors(mode, args.frequency_factors, p.rope, &p.factors));
    const bool positions_needed = p.rope.mode != STRATA_ROPE_NONE || p.cache.positions.present();
    if (positions_needed && !p.positions.present()) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": positions is absent, must be there for ",
                    p.rope.mode != STRATA_ROPE_NONE ? "rope" : "cache.positions", "; pass one logical position per token");
    }
    if (p.positions.present()) {
        TRY(check_equal(mode, "positions.shape[0]", p.positions.shape[0], "keys.shape[0]", p.tokens, "pass one logical position per token"));
    }
    TRY(check_row_offsets(mode, "row_offsets", p.row_offsets, p.cache.batch, p.tokens));
    if (mode.read_indices) {
        TRY(check_room(mode, p));
    }
    return check_no_overlap(mode, p);
}

} // namespace strata

DEFINE_OP(kv_append, KvAppend)
