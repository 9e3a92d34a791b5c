// SPDX-License-Identifier: Apache-2.0
// No exception leaves the library.
#pragma once

#include "core/status.h"

#include <new>

namespace strata {

template <class Body>
Status guard(const Body &body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return fail(STRATA_E_MEMORY, "strata: host memory is exhausted, must hold a few kilobytes more; free some and call again");
    } catch (...) {
        return fail(STRATA_E_INTERNAL,
                    "strata: an unexpected exception was stopped at the ABI, must never happen; report it with the call's arguments");
    }
}

} // namespace strata
