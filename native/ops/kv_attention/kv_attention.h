// SPDX-License-Identifier: Apache-2.0
// kv_attention: the checked problem.
#pragma once

#include "core/kv_cache.h"

namespace strata {

struct KvAttentionProblem {
    KvCacheView cache;
    View q;               // [tokens, q_heads, head_dim]
    View out;             // [tokens, q_heads, head_dim]
    View lse;             // f32 [tokens, q_heads], or absent
    View past_lse;        // f32 [tokens, q_heads], or absent
    View row_offsets;     // int32 [batch + 1], or absent: batch is 1
    View key_probability; // f32 [batch, kv_heads, capacity], or absent
    View alibi_slopes;    // f32 [q_heads], or absent
    View sink_logits;     // f32 [q_heads], or absent
    View plan;            // int32 [words], or absent
    std::int64_t tokens;
    std::int64_t q_heads;
    std::int64_t group;      // query heads of one KV head
    std::int64_t max_length; // no length is above it
    float scale;
    float softcap;             // 0: none
    std::int32_t window;       // 0: none
    std::int32_t window_sinks; // 0 without a window
    bool causal;
    bool batch_invariant;
    bool store_probability;
    std::int32_t *plan_to; // not null: the call is strata_kv_attention_plan on the device; write there and do nothing else

    /// First query row of a sequence, from offsets in host memory.
    std::int64_t first_row(std::int64_t sequence) const {
        if (!row_offsets.present()) return sequence == 0 ? 0 : tokens;
        return static_cast<const std::int32_t *>(row_offsets.data)[sequence * row_offsets.stride[0]];
    }
};

Status check_kv_attention(const CheckMode &mode, const strata_kv_attention_args &args, KvAttentionProblem *problem);

} // namespace strata
