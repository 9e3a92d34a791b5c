// SPDX-License-Identifier: Apache-2.0
// kv_score: checks and exports.
#include "ops/kv_score/kv_score.h"

#include <cmath>

namespace strata {

namespace {

Status check_settings(const CheckMode &mode, const strata_kv_score_args &args, KvScoreProblem *p) {
    TRY(check_range(mode, "statistic", args.statistic, STRATA_SCORE_SUM, STRATA_SCORE_MEAN_VARIANCE, "choose a strata_score_statistic"));
    TRY(check_range(mode, "pool", args.pool, STRATA_POOL_NONE, STRATA_POOL_MAX, "choose a strata_score_pool"));
    TRY(check_range(mode, "heads", args.heads, STRATA_HEADS_GROUP_MEAN, STRATA_HEADS_LAYER_MEAN, "choose a strata_score_heads"));
    TRY(check_range(mode, "reduce_first", args.reduce_first, 0, 1, "0 pools first, 1 reduces first"));
    TRY(check_range(mode, "exclude_last", args.exclude_last, 0, INT32_MAX, "pass a number of slots"));
    TRY(check_range(mode, "max_length", args.max_length, 0, INT32_MAX, "pass an upper bound of the lengths"));
    TRY(check_range(mode, "reserved", args.reserved, 0, 0, "leave it zero"));
    if (args.pool == STRATA_POOL_NONE) {
        TRY(check_range(mode, "pool_width", args.pool_width, 0, 0, "there is no pooling"));
    } else if (args.pool_width < 1 || args.pool_width > 127 || args.pool_width % 2 == 0) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": pool_width is ", args.pool_width, ", must be odd and 1 to 127; centre the window on its key");
    }
    if (!std::isfinite(args.gamma) || !std::isfinite(args.scale)) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": gamma is ", static_cast<double>(args.gamma), " and scale is ", static_cast<double>(args.scale),
                    ", must both be finite; pass the method's and the model's");
    }
    p->statistic = args.statistic;
    p->pool = args.pool;
    p->pool_width = args.pool == STRATA_POOL_NONE ? 1 : args.pool_width;
    p->heads = args.heads;
    p->reduce_first = args.reduce_first != 0;
    p->exclude_last = args.exclude_last;
    p->gamma = args.gamma;
    return STRATA_OK;
}

Status check_shapes(const CheckMode &mode, KvScoreProblem *p) {
    const KvCacheView &cache = p->cache;
    // Half of 2^31, so that key numbers may be rounded up to tiles.
    TRY(check_range(mode, "max_length", p->max_length, 0, INT32_MAX / 2, "pass an upper bound of the lengths"));
    TRY(check_equal(mode, "q.shape[0]", p->q.shape[0], "batch", cache.batch, "pass the window of every sequence"));
    TRY(check_equal(mode, "q.shape[3]", p->q.shape[3], "head_dim", cache.head_dim, "pass queries of the cache's heads"));
    TRY(check_range(mode, "q.shape[1] (window)", p->q.shape[1], 1, INT32_MAX, "pass at least the last query"));
    const std::int64_t q_heads = p->q.shape[2];
    if (q_heads < 1 || q_heads % cache.kv_heads != 0) {
        return fail(STRATA_E_SHAPE, mode.op, ": q.shape[2] (q_heads) is ", q_heads, ", must be a multiple of kv_heads = ", cache.kv_heads,
                    "; every KV head serves the same number of query heads");
    }
    // Half of 2^31, so that row counts may be rounded up to tiles.
    if (q_heads > INT32_MAX / 2 / p->q.shape[1]) {
        return fail(STRATA_E_SHAPE, mode.op, ": q has ", p->q.shape[1], " rows of ", q_heads,
                    " heads, must be at most 2^30 in all; score fewer rows at once");
    }
    p->window = static_cast<std::int32_t>(p->q.shape[1]);
    p->q_heads = static_cast<std::int32_t>(q_heads);
    p->group = static_cast<std::int32_t>(q_heads / cache.kv_heads);
    if (p->lse.present()) {
        const char *const names[] = {"lse.shape[0]", "lse.shape[1]", "lse.shape[2]"};
        for (std::int32_t i = 0; i < 3; ++i) {
            TRY(check_equal(mode, names[i], p->lse.shape[i], "the same extent of q", p->q.shape[i], "pass one value per query row and head"));
        }
    }
    TRY(check_equal(mode, "scores.shape[0]", p->scores.shape[0], "batch", cache.batch, "give scores one row per sequence"));
    TRY(check_equal(mode, "scores.shape[1]", p->scores.shape[1], "kv_heads", cache.kv_heads, "give scores one row per KV head"));
    if (p->scores.shape[2] < p->max_columns()) {
        return fail(STRATA_E_SHAPE, mode.op, ": scores.shape[2] is ", p->scores.shape[2],
                    ", must be at least max_length - exclude_last = ", p->max_columns(), "; widen scores or pass a smaller max_length");
    }
    return STRATA_OK;
}

} // namespace

Status check_kv_score(const CheckMode &mode, const strata_kv_score_args &args, KvScoreProblem *problem) {
    KvScoreProblem &p = *problem;
    p = KvScoreProblem{};
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_settings(mode, args, &p));
    TRY(check_kv_cache(mode, args.cache, Access::kRead, &p.cache));
    TRY(check_plain_rows(mode, p.cache));
    TRY(check_tensor(mode, "q", args.q, 4, kFloats, Access::kRead, &p.q));
    TRY(check_optional_tensor(mode, "lse", args.lse, 3, kF32, Access::kRead, &p.lse));
    TRY(check_tensor(mode, "scores", args.scores, 3, kF32, Access::kWrite, &p.scores));
    const std::int64_t capacity = p.cache.capacity();
    p.max_length = static_cast<std::int32_t>(args.max_length == 0 || args.max_length > capacity ? capacity : args.max_length);
    p.scale = args.scale == 0.0F ? 1.0F / std::sqrt(static_cast<float>(p.cache.head_dim)) : args.scale;
    TRY(check_shapes(mode, &p));
    const struct {
        const char *name;
        const View &view;
    } inputs[] = {{"q", p.q}, {"lse", p.lse}, {"cache.keys", p.cache.keys}, {"cache.page_table", p.cache.table}, {"cache.lengths", p.cache.lengths}};
    for (const auto &input : inputs) {
        TRY(check_no_partial_overlap(mode, "scores", p.scores, input.name, input.view, false));
    }
    if (mode.read_indices) {
        for (std::int64_t b = 0; b < p.cache.batch; ++b) {
            for (std::int64_t h = 0; h < p.cache.kv_heads; ++h) {
                if (p.cache.length(b, h) > p.max_length) {
                    return fail(STRATA_E_INDEX, mode.op, ": cache.lengths[", b, ",", h, "] is ", p.cache.length(b, h),
                                ", must be at most max_length = ", p.max_length, "; pass a bound that holds");
                }
            }
        }
    }
    return STRATA_OK;
}

} // namespace strata

DEFINE_OP(kv_score, KvScore)
