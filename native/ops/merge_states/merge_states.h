// SPDX-License-Identifier: Apache-2.0
// merge_states: the checked problem.
#pragma once

#include "core/op.h"

namespace strata {

struct MergeStatesProblem {
    View parts;    // [parts, tokens, q_heads, head_dim]
    View part_lse; // f32 [parts, tokens, q_heads]
    View out;      // [tokens, q_heads, head_dim]
    View lse;      // f32 [tokens, q_heads], or absent
};

Status check_merge_states(const CheckMode &mode, const strata_merge_states_args &args, MergeStatesProblem *problem);

} // namespace strata
