// SPDX-License-Identifier: Apache-2.0
// kv_attention: checks and exports.
#include "ops/kv_attention/kv_attention.h"

#include <cmath>

namespace strata {

namespace {

Status check_lengths(const CheckMode &mode, const KvAttentionProblem &problem) {
    const KvCacheView &cache = problem.cache;
    for (std::int64_t b = 0; b < cache.batch; ++b) {
        for (std::int64_t h = 0; h < cache.kv_heads; ++h) {
            if (cache.length(b, h) > problem.max_length) {
                return fail(STRATA_E_INDEX, mode.op, ": cache.lengths[", b, ",", h, "] is ", cache.length(b, h),
                            ", must be at most max_length = ", problem.max_length, "; raise max_length or leave it 0");
            }
        }
    }
    return STRATA_OK;
}

Status check_no_overlap(const CheckMode &mode, const char *name, const View &output, const KvAttentionProblem &p) {
    TRY(check_no_partial_overlap(mode, name, output, "q", p.q, false));
    TRY(check_no_partial_overlap(mode, name, output, "cache.keys", p.cache.keys, false));
    TRY(check_no_partial_overlap(mode, name, output, "cache.values", p.cache.values, false));
    TRY(check_no_partial_overlap(mode, name, output, "cache.page_table", p.cache.table, false));
    TRY(check_no_partial_overlap(mode, name, output, "cache.lengths", p.cache.lengths, false));
    return check_no_partial_overlap(mode, name, output, "row_offsets", p.row_offsets, false);
}

} // namespace

Status check_kv_attention(const CheckMode &mode, const strata_kv_attention_args &args, KvAttentionProblem *problem) {
    *problem = KvAttentionProblem{};
    KvAttentionProblem &p = *problem;
    TRY(check_range(mode, "flags", args.flags, 0, STRATA_ATTENTION_CAUSAL, "STRATA_ATTENTION_CAUSAL is the only flag"));
    TRY(check_kv_cache(mode, args.cache, Access::kRead, &p.cache));
    TRY(check_tensor(mode, "q", args.q, 3, kFloats, Access::kRead, &p.q));
    TRY(check_tensor(mode, "out", args.out, 3, kFloats, Access::kWrite, &p.out));
    TRY(check_optional_tensor(mode, "lse", args.lse, 2, kF32, Access::kWrite, &p.lse));
    TRY(check_optional_tensor(mode, "row_offsets", args.row_offsets, 1, kI32, Access::kRead, &p.row_offsets));
    p.tokens = p.q.shape[0];
    p.q_heads = p.q.shape[1];
    p.causal = (args.flags & STRATA_ATTENTION_CAUSAL) != 0;
    TRY(check_range(mode, "q.shape[0] (tokens)", p.tokens, 0, INT32_MAX, "a row offset has 32 bits"));
    TRY(check_range(mode, "q.shape[1] (q_heads)", p.q_heads, 1, 65535, "pass one row per query head"));
    TRY(check_equal(mode, "q.shape[2]", p.q.shape[2], "cache head_dim", p.cache.head_dim, "pass queries of the cache's width"));
    if (p.q_heads % p.cache.kv_heads != 0) {
        return fail(STRATA_E_SHAPE, mode.op, ": q.shape[1] (q_heads) is ", p.q_heads, ", must be a multiple of kv_heads = ", p.cache.kv_heads,
                    "; every KV head serves the same number of query heads");
    }
    p.group = p.q_heads / p.cache.kv_heads;
    for (std::int32_t i = 0; i < 3; ++i) {
        if (p.out.shape[i] != p.q.shape[i]) {
            return fail(STRATA_E_SHAPE, mode.op, ": out.shape[", i, "] is ", p.out.shape[i], ", must equal q.shape[", i, "] = ", p.q.shape[i],
                        "; give out the shape of q");
        }
    }
    if (p.lse.present()) {
        TRY(check_equal(mode, "lse.shape[0]", p.lse.shape[0], "q.shape[0]", p.tokens, "give lse one row per token"));
        TRY(check_equal(mode, "lse.shape[1]", p.lse.shape[1], "q.shape[1]", p.q_heads, "give lse one entry per head"));
    }
    TRY(check_row_offsets(mode, "row_offsets", p.row_offsets, p.cache.batch, p.tokens));
    TRY(check_range(mode, "max_length", args.max_length, 0, p.cache.capacity(), "no length exceeds the page table"));
    p.max_length = args.max_length == 0 ? p.cache.capacity() : args.max_length;
    p.scale = args.scale == 0.0F ? 1.0F / std::sqrt(static_cast<float>(p.cache.head_dim)) : args.scale;
    if (!std::isfinite(p.scale)) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": scale is ", static_cast<double>(args.scale), ", must be finite; pass 0 for 1 / sqrt(head_dim)");
    }
    if (mode.read_indices) {
        TRY(check_lengths(mode, p));
    }
    TRY(check_no_overlap(mode, "out", p.out, p));
    if (p.lse.present()) {
        TRY(check_no_overlap(mode, "lse", p.lse, p));
        TRY(check_no_partial_overlap(mode, "lse", p.lse, "out", p.out, false));
    }
    return STRATA_OK;
}

} // namespace strata

DEFINE_OP(kv_attention, KvAttention)
