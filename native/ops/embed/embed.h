// SPDX-License-Identifier: Apache-2.0
// embed: the checked problem.
#pragma once

#include "core/weight.h"

namespace strata {

struct EmbedProblem {
    View ids; // i32 [tokens]
    View y;   // [tokens, k]
    WeightView w;
    std::int64_t tokens;
};

Status check_embed(const CheckMode &mode, const strata_embed_args &args, EmbedProblem *problem);

} // namespace strata
