// SPDX-License-Identifier: Apache-2.0
// kv_append: the checked problem.
#pragma once

#include "core/kv_cache.h"

namespace strata {

struct KvAppendProblem {
    KvCacheView cache;
    View keys;        // [tokens, kv_heads, head_dim]
    View values;      // [tokens, kv_heads, head_dim]
    View positions;   // int32 [tokens], or absent: no rope and no positions in the cache
    View row_offsets; // int32 [batch + 1], or absent: batch is 1
    View factors;     // f32 [rope.dims / 2], or absent
    strata_rope_params rope;
    std::int64_t tokens;

    std::int64_t pairs() const { return rope.mode == STRATA_ROPE_NONE ? 0 : rope.dims / 2; }
};

Status check_kv_append(const CheckMode &mode, const strata_kv_append_args &args, KvAppendProblem *problem);

} // namespace strata
