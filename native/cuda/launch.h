// SPDX-License-Identifier: Apache-2.0
// Host side of a launch: grid sizes, and a failed launch as a status with a sentence.
#pragma once

#include "core/status.h"
#include "cuda/gpu.h"

namespace strata {

/// Blocks for `work` items of one thread each in a grid-stride loop: all of them, or as many as keep every
/// multiprocessor busy.
inline int grid_blocks(std::int64_t work, int threads, std::int32_t multiprocessors) {
    constexpr std::int64_t kBlocksPerMultiprocessor = 16;  // 2048 threads of 128
    const std::int64_t needed = (work + threads - 1) / threads;
    const std::int64_t most = kBlocksPerMultiprocessor * multiprocessors;
    return static_cast<int>(needed < most ? needed : most);
}

/// Turns GPU_LAUNCH's code into a status.
inline Status launch_status(const char* op, int error) {
    if (error == 0) return STRATA_OK;
    return fail(STRATA_E_DEVICE_FAULT, op, ": the kernel did not start (", gpu::launch_error_text(error),
                "), must start; report it with the text of strata_device_describe");
}

}  // namespace strata
