// SPDX-License-Identifier: Apache-2.0
// qgemm: the checked problem.
#pragma once

#include "core/weight.h"

namespace strata {

struct QgemmProblem {
    View x; // [m, k]
    View y; // [m, n]
    WeightView w;
    std::int64_t m;
    bool int8_activations;
};

Status check_qgemm(const CheckMode &mode, const strata_qgemm_args &args, QgemmProblem *problem);

} // namespace strata
