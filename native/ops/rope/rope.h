// SPDX-License-Identifier: Apache-2.0
// rope: the checked problem.
#pragma once

#include "core/op.h"

namespace strata {

/// Most channel pairs of one head: half of the largest head_dim.
inline constexpr std::int32_t kMaxRopePairs = 256;

struct RopeProblem {
    View x;         // [tokens, heads, head_dim]
    View positions; // int32 [tokens]
    View y;         // like x
    View factors;   // f32 [rope.dims / 2], or absent
    std::int64_t tokens;
    std::int64_t heads;
    std::int32_t head_dim;
    strata_rope_params rope; // defaults filled in
};

Status check_rope(const CheckMode &mode, const strata_rope_args &args, RopeProblem *problem);

} // namespace strata
