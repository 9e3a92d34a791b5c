// SPDX-License-Identifier: Apache-2.0
// The executor's options: from the environment, once, unless the program sets them.
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "simt.h"

namespace simt {
namespace {

bool environment_is(const char *name, const char *value) {
    const char *text = std::getenv(name);
    return text != nullptr && std::strcmp(text, value) == 0;
}

Options from_environment() {
    Options options;
    if (const char *seed = std::getenv("STRATA_SIMT_SEED")) options.seed = std::strtoull(seed, nullptr, 0);
    if (environment_is("STRATA_SIMT_ASYNC", "issue")) options.async = AsyncMode::kAtIssue;
    if (environment_is("STRATA_SIMT_ASYNC", "wait")) options.async = AsyncMode::kAtWait;
    if (environment_is("STRATA_SIMT_ORDER", "lowest")) options.order = Order::kLowestFirst;
    if (environment_is("STRATA_SIMT_ORDER", "highest")) options.order = Order::kHighestFirst;
    if (environment_is("STRATA_SIMT_ARCHITECTURE", "80")) options.architecture = 80;
    options.bank_conflict_is_error = environment_is("STRATA_SIMT_BANKS", "error");
    return options;
}

std::mutex mutex;

Options &current() {
    static Options options = from_environment();
    return options;
}

} // namespace

Options options() {
    const std::lock_guard lock(mutex);
    return current();
}

void set_options(const Options &options) {
    const std::lock_guard lock(mutex);
    current() = options;
}

} // namespace simt
