// SPDX-License-Identifier: Apache-2.0
// elementwise: the checked problem.
#pragma once

#include "core/op.h"

namespace strata {

struct ElementwiseProblem {
    View a; // [rows, n]
    View b; // like a
    View y; // like a
    std::int64_t rows;
    std::int64_t n;
    std::int32_t function; // strata_elementwise_function
};

Status check_elementwise(const CheckMode &mode, const strata_elementwise_args &args, ElementwiseProblem *problem);

} // namespace strata
