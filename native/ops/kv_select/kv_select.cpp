// SPDX-License-Identifier: Apache-2.0
// kv_select: checks and exports.
#include "ops/kv_select/kv_select.h"

namespace strata {

namespace {

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

std::int32_t at(const View &view, std::int64_t b, std::int64_t h) {
    return static_cast<const std::int32_t *>(view.data)[b * view.stride[0] + h * view.stride[1]];
}

Status check_rows(const CheckMode &mode, const char *name, const View &view, const KvSelectProblem &p) {
    TRY(check_equal(mode, name, view.shape[0], "lengths.shape[0] (batch)", p.batch, "pass one row per sequence"));
    return check_equal(mode, name, view.shape[1], "lengths.shape[1] (kv_heads)", p.kv_heads, "pass one row per KV head");
}

Status check_values(const CheckMode &mode, const KvSelectProblem &p) {
    for (std::int64_t b = 0; b < p.batch; ++b) {
        for (std::int64_t h = 0; h < p.kv_heads; ++h) {
            const std::int32_t length = at(p.lengths, b, h);
            if (length < 0 || length > p.max_length) {
                return fail(STRATA_E_INDEX, mode.op, ": lengths[", b, ",", h, "] is ", length, ", must be 0 to max_length = ", p.max_length,
                            "; pass the cache's lengths and a bound that holds");
            }
            const std::int32_t budget = p.budgets.present() ? at(p.budgets, b, h) : p.budget;
            if (budget < 0 || smaller(budget, length) > p.max_kept) {
                return fail(STRATA_E_INDEX, mode.op, ": the budget of [", b, ",", h, "] is ", budget, " of ", length, " slots, must be 0 to ",
                            p.max_kept, " (kept.shape[2]); widen kept or lower the budget");
            }
        }
    }
    return STRATA_OK;
}

} // namespace

Status check_kv_select(const CheckMode &mode, const strata_kv_select_args &args, KvSelectProblem *problem) {
    KvSelectProblem &p = *problem;
    p = KvSelectProblem{};
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_optional_tensor(mode, "scores", args.scores, 3, kF32, Access::kRead, &p.scores));
    TRY(check_tensor(mode, "lengths", args.lengths, 2, kI32, Access::kRead, &p.lengths));
    TRY(check_optional_tensor(mode, "budgets", args.budgets, 2, kI32, Access::kRead, &p.budgets));
    TRY(check_tensor(mode, "kept", args.kept, 3, kI32, Access::kWrite, &p.kept));
    TRY(check_tensor(mode, "kept_counts", args.kept_counts, 2, kI32, Access::kWrite, &p.counts));
    p.batch = p.lengths.shape[0];
    p.kv_heads = p.lengths.shape[1];
    TRY(check_range(mode, "lengths.shape[0] (batch)", p.batch, 0, INT32_MAX, "split the batch"));
    TRY(check_range(mode, "lengths.shape[1] (kv_heads)", p.kv_heads, 1, 65535, "pass one row per KV head"));
    TRY(check_rows(mode, "kept.shape", p.kept, p));
    TRY(check_rows(mode, "kept_counts.shape", p.counts, p));
    if (p.budgets.present()) {
        TRY(check_rows(mode, "budgets.shape", p.budgets, p));
    }
    TRY(check_range(mode, "budget", args.budget, 0, INT32_MAX, "pass the slots to keep per head"));
    TRY(check_range(mode, "protect_first", args.protect_first, 0, INT32_MAX, "pass a number of slots"));
    TRY(check_range(mode, "protect_last", args.protect_last, 0, INT32_MAX, "pass a number of slots"));
    TRY(check_range(mode, "max_length", args.max_length, 0, INT32_MAX, "pass an upper bound of the lengths"));
    TRY(check_range(mode, "kept.shape[2] (max_kept)", p.kept.shape[2], 0, INT32_MAX, "a slot number has 32 bits"));
    p.max_kept = static_cast<std::int32_t>(p.kept.shape[2]);
    p.max_length = args.max_length;
    p.budget = args.budget;
    p.protect_first = args.protect_first;
    p.protect_last = args.protect_last;
    if (p.scores.present()) {
        TRY(check_rows(mode, "scores.shape", p.scores, p));
        TRY(check_range(mode, "scores.shape[2] (capacity)", p.scores.shape[2], 0, INT32_MAX, "a slot number has 32 bits"));
        if (p.max_length == 0) {
            p.max_length = static_cast<std::int32_t>(p.scores.shape[2]);
        }
        if (p.max_length - static_cast<std::int64_t>(p.protect_last) > p.scores.shape[2]) {
            return fail(STRATA_E_SHAPE, mode.op, ": scores.shape[2] is ", p.scores.shape[2],
                        ", must be at least max_length - protect_last = ", p.max_length - static_cast<std::int64_t>(p.protect_last),
                        "; pass a score for every slot that is not protected at the end");
        }
    } else if (p.max_length == 0 && p.batch > 0) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": max_length is 0 and scores are absent, must be an upper bound of the lengths; pass one");
    }
    if (!p.budgets.present() && smaller(p.budget, p.max_length) > p.max_kept) {
        return fail(STRATA_E_SHAPE, mode.op, ": kept.shape[2] is ", p.max_kept,
                    ", must be at least the smaller of budget and max_length = ", smaller(p.budget, p.max_length),
                    "; widen kept or lower the budget");
    }
    const struct {
        const char *name;
        const View &view;
    } inputs[] = {{"scores", p.scores}, {"lengths", p.lengths}, {"budgets", p.budgets}};
    for (const auto &input : inputs) {
        TRY(check_no_partial_overlap(mode, "kept", p.kept, input.name, input.view, false));
        TRY(check_no_partial_overlap(mode, "kept_counts", p.counts, input.name, input.view, false));
    }
    TRY(check_no_partial_overlap(mode, "kept", p.kept, "kept_counts", p.counts, false));
    return mode.read_indices ? check_values(mode, p) : STRATA_OK;
}

} // namespace strata

DEFINE_OP(kv_select, KvSelect)
