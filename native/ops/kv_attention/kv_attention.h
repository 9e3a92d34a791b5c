// SPDX-License-Identifier: Apache-2.0
// kv_attention: the checked problem.
#pragma once

#include "core/kv_cache.h"

namespace strata {

struct KvAttentionProblem {
    KvCacheView cache;
    View q;           // [tokens, q_heads, head_dim]
    View out;         // [tokens, q_heads, head_dim]
    View lse;         // f32 [tokens, q_heads], or absent
    View row_offsets; // int32 [batch + 1], or absent: batch is 1
    std::int64_t tokens;
    std::int64_t q_heads;
    std::int64_t group;      // query heads of one KV head
    std::int64_t max_length; // no length is above it
    float scale;
    bool causal;
};

Status check_kv_attention(const CheckMode &mode, const strata_kv_attention_args &args, KvAttentionProblem *problem);

} // namespace strata
