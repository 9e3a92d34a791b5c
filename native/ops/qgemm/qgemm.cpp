// SPDX-License-Identifier: Apache-2.0
// qgemm: checks and exports.
#include "ops/qgemm/qgemm.h"

namespace strata {

Status check_qgemm(const CheckMode &mode, const strata_qgemm_args &args, QgemmProblem *problem) {
    *problem = QgemmProblem{};
    TRY(check_range(mode, "flags", args.flags, 0, STRATA_QGEMM_INT8_ACTIVATIONS, "pass strata_qgemm_flag values only"));
    TRY(check_weight(mode, "w", args.w, &problem->w));
    TRY(check_tensor(mode, "x", args.x, 2, kFloats, Access::kRead, &problem->x));
    TRY(check_tensor(mode, "y", args.y, 2, kFloats, Access::kWrite, &problem->y));
    problem->m = problem->x.shape[0];
    problem->int8_activations = (args.flags & STRATA_QGEMM_INT8_ACTIVATIONS) != 0;
    TRY(check_equal(mode, "x.shape[1]", problem->x.shape[1], "w.k", problem->w.k, "pass activations of the weight's width"));
    TRY(check_equal(mode, "y.shape[0]", problem->y.shape[0], "x.shape[0]", problem->m, "give y the rows of x"));
    TRY(check_equal(mode, "y.shape[1]", problem->y.shape[1], "w.n", problem->w.n, "give y one column per row of the weight"));
    TRY(check_range(mode, "x.shape[0] (m)", problem->m, 0, INT32_MAX, "split the rows"));
    TRY(check_range(mode, "w.n", problem->w.n, 1, INT32_MAX, "split the weight"));
    TRY(check_range(mode, "w.k", problem->w.k, 1, INT32_MAX, "split the weight"));
    if (problem->int8_activations && is_float_format(problem->w.format)) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": flags asks for int8 activations with ", format_info(problem->w.format)->name,
                    " weights, must be with weights of 4 to 8 bits; clear STRATA_QGEMM_INT8_ACTIVATIONS");
    }
    return check_no_partial_overlap(mode, "y", problem->y, "x", problem->x, false);
}

} // namespace strata

DEFINE_OP(qgemm, Qgemm)
