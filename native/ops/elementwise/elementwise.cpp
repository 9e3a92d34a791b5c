// SPDX-License-Identifier: Apache-2.0
// elementwise: checks and exports.
#include "ops/elementwise/elementwise.h"

namespace strata {

Status check_elementwise(const CheckMode &mode, const strata_elementwise_args &args, ElementwiseProblem *problem) {
    *problem = ElementwiseProblem{};
    ElementwiseProblem &p = *problem;
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_range(mode, "function", args.function, STRATA_ELEMENTWISE_ADD, STRATA_ELEMENTWISE_SILU_MUL, "choose a strata_elementwise_function"));
    TRY(check_tensor(mode, "a", args.a, 2, kFloats, Access::kRead, &p.a));
    const DtypeSet same = dtype_bit(p.a.dtype);
    TRY(check_tensor(mode, "b", args.b, 2, same, Access::kRead, &p.b));
    TRY(check_tensor(mode, "y", args.y, 2, same, Access::kWrite, &p.y));
    p.function = args.function;
    p.rows = p.a.shape[0];
    p.n = p.a.shape[1];
    TRY(check_equal(mode, "b.shape[0]", p.b.shape[0], "a.shape[0]", p.rows, "give b the rows of a"));
    TRY(check_equal(mode, "b.shape[1]", p.b.shape[1], "a.shape[1]", p.n, "give b the width of a"));
    TRY(check_equal(mode, "y.shape[0]", p.y.shape[0], "a.shape[0]", p.rows, "give y the rows of a"));
    TRY(check_equal(mode, "y.shape[1]", p.y.shape[1], "a.shape[1]", p.n, "give y the width of a"));
    TRY(check_no_partial_overlap(mode, "y", p.y, "a", p.a, true));
    return check_no_partial_overlap(mode, "y", p.y, "b", p.b, true);
}

} // namespace strata

DEFINE_OP(elementwise, Elementwise)
