// SPDX-License-Identifier: Apache-2.0
// A context: one open device and its table of ops.
#pragma once

#include "core/backend.h"

/// The opaque handle of strata.h.
struct strata_context {
    const strata::Backend *backend = nullptr;
    void *state = nullptr;
    strata::DeviceTraits traits;
    char device[16] = {};
};

namespace strata {

/// Carries a back end's sentence over into this library's error text.
Status carry(const Backend &backend, Status status);

/// Remembers the implementation of this thread's last run.
void set_last_impl(const char *impl);

} // namespace strata
