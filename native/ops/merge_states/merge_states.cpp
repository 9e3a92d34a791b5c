// SPDX-License-Identifier: Apache-2.0
// merge_states: checks and exports.
#include "ops/merge_states/merge_states.h"

namespace strata {

namespace {

constexpr std::int64_t kMostParts = 64;

/// Dimension i of `view` must be dimension first_of_parts + i of the parts.
Status check_like_parts(const CheckMode &mode, const char *name, const View &view, std::int32_t first_of_parts, const View &parts) {
    for (std::int32_t i = 0; i < view.ndim; ++i) {
        if (view.shape[i] != parts.shape[first_of_parts + i]) {
            return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".shape[", i, "] is ", view.shape[i], ", must equal parts.shape[", first_of_parts + i,
                        "] = ", parts.shape[first_of_parts + i], "; give every part and the result the same tokens, heads and width");
        }
    }
    return STRATA_OK;
}

} // namespace

Status check_merge_states(const CheckMode &mode, const strata_merge_states_args &args, MergeStatesProblem *problem) {
    *problem = MergeStatesProblem{};
    MergeStatesProblem &p = *problem;
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_tensor(mode, "parts", args.parts, 4, kFloats, Access::kRead, &p.parts));
    TRY(check_tensor(mode, "part_lse", args.part_lse, 3, kF32, Access::kRead, &p.part_lse));
    TRY(check_tensor(mode, "out", args.out, 3, kFloats, Access::kWrite, &p.out));
    TRY(check_optional_tensor(mode, "lse", args.lse, 2, kF32, Access::kWrite, &p.lse));
    TRY(check_range(mode, "parts.shape[0]", p.parts.shape[0], 1, kMostParts, "merge more parts in several calls"));
    TRY(check_range(mode, "parts.shape[1] (tokens)", p.parts.shape[1], 0, INT32_MAX, "split the batch"));
    TRY(check_range(mode, "parts.shape[2] (q_heads)", p.parts.shape[2], 1, 65535, "pass one row per query head"));
    TRY(check_range(mode, "parts.shape[3] (head_dim)", p.parts.shape[3], 1, 512, "larger heads have no kernel"));
    TRY(check_like_parts(mode, "part_lse", p.part_lse, 0, p.parts));
    TRY(check_like_parts(mode, "out", p.out, 1, p.parts));
    TRY(check_like_parts(mode, "lse", p.lse, 1, p.parts));
    const struct {
        const char *name;
        const View &view;
    } outputs[] = {{"out", p.out}, {"lse", p.lse}};
    for (const auto &output : outputs) {
        TRY(check_no_partial_overlap(mode, output.name, output.view, "parts", p.parts, false));
        TRY(check_no_partial_overlap(mode, output.name, output.view, "part_lse", p.part_lse, false));
    }
    return check_no_partial_overlap(mode, "lse", p.lse, "out", p.out, false);
}

} // namespace strata

DEFINE_OP(merge_states, MergeStates)
