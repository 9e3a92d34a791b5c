// SPDX-License-Identifier: Apache-2.0
// Clears bits of the device's fault word.
#pragma once

#include <cstdint>

namespace strata {

/// Queues the change; returns GPU_LAUNCH's code.
int clear_fault(std::uint32_t *fault, std::uint32_t bits, void *stream);

} // namespace strata
