// SPDX-License-Identifier: Apache-2.0
// The machine's own limits, measured: what a share of the peak is a share of.
#pragma once

#include "core/cpu_isa.h"
#include "core/thread_pool.h"

namespace strata {

/// Measures a STRATA_LIMIT_* on all threads of the pool for about a third of a second. @errors E_UNSUPPORTED: the instruction set has no such unit;
/// E_MEMORY.
Status measure_cpu_limit(Isa isa, ThreadPool &pool, std::int32_t limit, double *per_second);

} // namespace strata
