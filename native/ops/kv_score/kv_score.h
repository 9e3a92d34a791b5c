// SPDX-License-Identifier: Apache-2.0
// kv_score: the checked problem, and where per-head statistics wait for pooling.
#pragma once

#include "core/kv_cache.h"

namespace strata {

struct KvScoreProblem {
    KvCacheView cache;
    View q;      // [batch, window, q_heads, head_dim]
    View lse;    // f32 [batch, window, q_heads], or absent
    View scores; // f32 [batch, kv_heads, capacity]
    std::int32_t statistic;
    std::int32_t pool;
    std::int32_t pool_width; // 1 with POOL_NONE
    std::int32_t heads;
    bool reduce_first;
    std::int32_t exclude_last;
    float gamma;
    float scale;
    std::int32_t max_length; // no length is larger
    std::int32_t window;
    std::int32_t q_heads;
    std::int32_t group; // query heads of a KV head

    std::int64_t batch() const { return cache.batch; }
    /// Pages of rows: the pairs (sequence, KV head).
    std::int64_t pairs() const { return cache.batch * cache.kv_heads; }
    /// Query rows of one KV head, head by head: row r is row r % window of head r / window.
    std::int32_t rows() const { return window * group; }
    /// Most scored columns of a head.
    std::int32_t max_columns() const { return max_length > exclude_last ? max_length - exclude_last : 0; }
    /// Whether the heads of a group become one row before pooling; then a plane is one row a KV head, else one a query head.
    bool reduces_early() const { return reduce_first || pool == STRATA_POOL_NONE; }
    /// Whether the statistics pass writes the scores themselves: nothing is left to do after it.
    bool writes_scores() const { return pool == STRATA_POOL_NONE && heads != STRATA_HEADS_LAYER_MEAN; }
};

/// a * b * c; -1, which no planner takes, where that exceeds 64 bits. No factor is negative.
constexpr std::int64_t product(std::int64_t a, std::int64_t b, std::int64_t c) {
    std::int64_t result = 0;
    return __builtin_mul_overflow(a, b, &result) || __builtin_mul_overflow(result, c, &result) ? -1 : result;
}

/// The row of statistics [column] of plane `plane` (a KV head or a query head) of sequence b: rows of the workspace, or of the scores themselves.
struct Planes {
    float *data;
    std::int64_t sequence_stride;
    std::int64_t plane_stride;
};

Status check_kv_score(const CheckMode &mode, const strata_kv_score_args &args, KvScoreProblem *problem);

} // namespace strata
