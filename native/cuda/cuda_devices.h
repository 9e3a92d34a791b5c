// SPDX-License-Identifier: Apache-2.0
// Which GPUs there are, and why one cannot be used.
#pragma once

#include "core/status.h"

namespace strata {

/// Devices to list; 1 when there is none, so that the list says why.
std::int32_t cuda_device_count();

/// Everything strata_device_describe says about device `index`.
void cuda_describe(std::int32_t index, strata_device_info *info);

} // namespace strata
