// SPDX-License-Identifier: Apache-2.0
// bitstack: the checked problem.
#pragma once

#include "core/op.h"
#include "ops/bitstack/bitstack_layout.h"

namespace strata {

/// One level's parts; null in a query. See bitstack_layout.h.
struct BitStackLevelView {
    const std::uint16_t *u;
    const std::uint16_t *v;
    const std::uint32_t *signs;
    std::int32_t rank;
};

struct BitStackProblem {
    BitStackLevelView levels[STRATA_MAX_LEVELS];
    std::int32_t level_count;
    std::int32_t max_rank;
    std::int64_t n;
    std::int64_t k;
    std::int64_t panels; // of 16 rows
    std::int64_t blocks; // of 64 columns
    View x;              // [m, k]; absent: decode
    View y;              // [m, n]; decode: [n, k]
    std::int64_t m;      // 0 in a decode
};

Status check_bitstack(const CheckMode &mode, const strata_bitstack_args &args, BitStackProblem *problem);

} // namespace strata
