// SPDX-License-Identifier: Apache-2.0
// What the back ends "cuda" and "simt" share.
#pragma once

#include "core/backend.h"

namespace strata {

/// The GPU functions of all ops, [kOpCount].
const OpFunction *gpu_ops();

/// The status of the bits that kernels raised since the last sync.
Status report_fault(std::uint32_t bits);

} // namespace strata
