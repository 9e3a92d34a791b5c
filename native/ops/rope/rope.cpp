// SPDX-License-Identifier: Apache-2.0
// rope: checks and exports.
#include "ops/rope/rope.h"

#include "core/kv_cache.h"

namespace strata {

Status check_rope(const CheckMode &mode, const strata_rope_args &args, RopeProblem *problem) {
    *problem = RopeProblem{};
    RopeProblem &p = *problem;
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_tensor(mode, "x", args.x, 3, kFloats, Access::kRead, &p.x));
    TRY(check_tensor(mode, "positions", args.positions, 1, kI32, Access::kRead, &p.positions));
    TRY(check_tensor(mode, "y", args.y, 3, dtype_bit(p.x.dtype), Access::kWrite, &p.y));
    p.tokens = p.x.shape[0];
    p.heads = p.x.shape[1];
    TRY(check_range(mode, "x.shape[2] (head_dim)", p.x.shape[2], 1, 2 * kMaxRopePairs, "larger heads have no kernel"));
    p.head_dim = static_cast<std::int32_t>(p.x.shape[2]);
    TRY(check_equal(mode, "y.shape[0]", p.y.shape[0], "x.shape[0]", p.tokens, "give y the tokens of x"));
    TRY(check_equal(mode, "y.shape[1]", p.y.shape[1], "x.shape[1]", p.heads, "give y the heads of x"));
    TRY(check_equal(mode, "y.shape[2]", p.y.shape[2], "x.shape[2]", p.head_dim, "give y the head_dim of x"));
    TRY(check_equal(mode, "positions.shape[0]", p.positions.shape[0], "x.shape[0]", p.tokens, "pass one position per token"));
    TRY(check_range(mode, "rope.mode", args.rope.mode, STRATA_ROPE_INTERLEAVED, STRATA_ROPE_HALF, "choose how the model pairs its channels"));
    TRY(check_rope(mode, args.rope, p.head_dim, &p.rope));
    TRY(check_frequency_factors(mode, args.frequency_factors, p.rope, &p.factors));
    TRY(check_no_partial_overlap(mode, "y", p.y, "x", p.x, true));
    TRY(check_no_partial_overlap(mode, "y", p.y, "frequency_factors", p.factors, false));
    return check_no_partial_overlap(mode, "y", p.y, "positions", p.positions, false);
}

} // namespace strata

DEFINE_OP(rope, Rope)
