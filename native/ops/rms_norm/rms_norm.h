// SPDX-License-Identifier: Apache-2.0
// rms_norm: the checked problem.
#pragma once

#include "core/op.h"

namespace strata {

struct RmsNormProblem {
    View x;      // [rows, n]
    View weight; // f32 [n]
    View y;      // [rows, n]
    std::int64_t rows;
    std::int64_t n;
    float epsilon;
};

Status check_rms_norm(const CheckMode &mode, const strata_rms_norm_args &args, RmsNormProblem *problem);

} // namespace strata
