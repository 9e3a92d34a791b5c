// SPDX-License-Identifier: Apache-2.0
// What the executor's self tests share: options for a scope, sanitizer switches.
#pragma once

#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "simt/simt.h"

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif
#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

/// Races that the thread sanitizer has reported so far; always 0 in other builds.
int reported_races();

/// Executor options until the end of the scope.
class WithOptions {
public:
    WithOptions(uint64_t seed, simt::AsyncMode async, simt::Order order = simt::Order::kRandom, bool strict_banks = false)
        : before_(simt::options()) {
        simt::set_options({seed, async, order, strict_banks});
        simt::reset_stats();
    }
    ~WithOptions() { simt::set_options(before_); }
    WithOptions(const WithOptions &) = delete;
    WithOptions &operator=(const WithOptions &) = delete;

private:
    simt::Options before_;
};

constexpr simt::AsyncMode kAsyncModes[] = {simt::AsyncMode::kAtIssue, simt::AsyncMode::kAtWait, simt::AsyncMode::kRandom};
constexpr simt::Order kOrders[] = {simt::Order::kRandom, simt::Order::kLowestFirst, simt::Order::kHighestFirst};

/// A repeatable value in -1..1 that fp16 and bf16 hold exactly.
inline float test_value(int row, int column) { return static_cast<float>((row * 37 + column * 11 + 5) % 33 - 16) / 16.0f; }
