// SPDX-License-Identifier: Apache-2.0
// rms_norm: checks and exports.
#include "ops/rms_norm/rms_norm.h"

#include <cmath>

namespace strata {

Status check_rms_norm(const CheckMode &mode, const strata_rms_norm_args &args, RmsNormProblem *problem) {
    *problem = RmsNormProblem{};
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_tensor(mode, "x", args.x, 2, kFloats, Access::kRead, &problem->x));
    TRY(check_tensor(mode, "weight", args.weight, 1, kF32, Access::kRead, &problem->weight));
    TRY(check_tensor(mode, "y", args.y, 2, kFloats, Access::kWrite, &problem->y));
    problem->rows = problem->x.shape[0];
    problem->n = problem->x.shape[1];
    problem->epsilon = args.epsilon;
    TRY(check_equal(mode, "y.shape[0]", problem->y.shape[0], "x.shape[0]", problem->rows, "give y the rows of x"));
    TRY(check_equal(mode, "y.shape[1]", problem->y.shape[1], "x.shape[1]", problem->n, "give y the width of x"));
    TRY(check_equal(mode, "weight.shape[0]", problem->weight.shape[0], "x.shape[1]", problem->n, "pass the gain of this layer"));
    if (!std::isfinite(args.epsilon) || args.epsilon < 0.0F) {
        return fail(STRATA_E_ARGUMENT, "rms_norm: epsilon is ", static_cast<double>(args.epsilon),
                    ", must be finite and not negative; take it from the model's metadata");
    }
    TRY(check_no_partial_overlap(mode, "y", problem->y, "x", problem->x, true));
    return check_no_partial_overlap(mode, "y", problem->y, "weight", problem->weight, false);
}

} // namespace strata

DEFINE_OP(rms_norm, RmsNorm)
