// SPDX-License-Identifier: Apache-2.0
// The machine's own limits, measured: what a share of the peak is a share of.
#pragma once

#include "core/cpu_isa.h"
#include "core/thread_pool.h"

namespace strata {

/// Best of several short rounds on all threads of the pool: another process's time slice must not lower the limit.
Status measure_cpu_limit(Isa isa, ThreadPool &pool, std::int32_t limit, double *per_second);

} // namespace strata
