// SPDX-License-Identifier: Apache-2.0
// embed: checks and exports.
#include "ops/embed/embed.h"

namespace strata {

Status check_embed(const CheckMode &mode, const strata_embed_args &args, EmbedProblem *problem) {
    *problem = EmbedProblem{};
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_weight(mode, "w", args.w, &problem->w));
    TRY(check_tensor(mode, "ids", args.ids, 1, kI32, Access::kRead, &problem->ids));
    TRY(check_tensor(mode, "y", args.y, 2, kFloats, Access::kWrite, &problem->y));
    problem->tokens = problem->ids.shape[0];
    TRY(check_equal(mode, "y.shape[0]", problem->y.shape[0], "ids.shape[0]", problem->tokens, "give y one row per id"));
    TRY(check_equal(mode, "y.shape[1]", problem->y.shape[1], "w.k", problem->w.k, "give y the width of the weight"));
    TRY(check_range(mode, "ids.shape[0] (tokens)", problem->tokens, 0, INT32_MAX, "split the tokens"));
    TRY(check_range(mode, "w.n", problem->w.n, 1, INT32_MAX, "an id has 32 bits"));
    TRY(check_range(mode, "w.k", problem->w.k, 1, INT32_MAX, "split the weight"));
    TRY(check_no_partial_overlap(mode, "y", problem->y, "ids", problem->ids, false));
    if (mode.read_indices) {
        const auto *ids = static_cast<const std::int32_t *>(problem->ids.data);
        for (std::int64_t t = 0; t < problem->tokens; ++t) {
            if (ids[t] < 0 || ids[t] >= problem->w.n) {
                return fail(STRATA_E_INDEX, mode.op, ": ids[", t, "] is ", ids[t], ", must be 0 to ", problem->w.n - 1,
                            "; pass ids of this model's vocabulary");
            }
        }
    }
    return STRATA_OK;
}

} // namespace strata

DEFINE_OP(embed, Embed)
