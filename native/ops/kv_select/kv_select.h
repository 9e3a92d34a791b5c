// SPDX-License-Identifier: Apache-2.0
// kv_select: the checked problem, and how a row's budget falls to its protected ends and its middle.
#pragma once

#include "core/op.h"

namespace strata {

struct KvSelectProblem {
    View scores;  // f32 [batch, kv_heads, capacity], or absent
    View lengths; // int32 [batch, kv_heads]
    View budgets; // int32 [batch, kv_heads], or absent
    View kept;    // int32 [batch, kv_heads, max_kept]
    View counts;  // int32 [batch, kv_heads]
    std::int64_t batch;
    std::int64_t kv_heads;
    std::int32_t max_kept;
    std::int32_t max_length; // no length is larger
    std::int32_t budget;
    std::int32_t protect_first;
    std::int32_t protect_last;
};

/// One row's split: slots 0 ... first-1 stay, `chosen` of the `middle` slots after them, and the last `last`.
struct KeptSplit {
    std::int32_t first;
    std::int32_t middle;
    std::int32_t chosen; // all of the middle if it equals `middle`
    std::int32_t last;

    constexpr std::int32_t count() const { return first + chosen + last; }
};

/// The split for `length` slots, 0 or more, and a budget of 0 or more. The protected front goes before the protected end.
constexpr KeptSplit split_budget(std::int32_t length, std::int32_t budget, std::int32_t protect_first, std::int32_t protect_last) {
    if (budget >= length) {
        return {length, 0, 0, 0};
    }
    std::int32_t first = protect_first < length ? protect_first : length;
    std::int32_t last = protect_last < length - first ? protect_last : length - first;
    const std::int32_t middle = length - first - last;
    first = first < budget ? first : budget;
    last = last < budget - first ? last : budget - first;
    return {first, middle, budget - first - last, last};
}

Status check_kv_select(const CheckMode &mode, const strata_kv_select_args &args, KvSelectProblem *problem);

} // namespace strata
