// SPDX-License-Identifier: Apache-2.0
// What an op's GPU file includes: the intrinsics, the run's resources, and the way from a launch to a status.
//
// `<op>_sm80.cu` defines `Status <op>_gpu(Exec &exec, const void *problem)` in namespace strata. The same function
// serves "cuda:N" and "simt": it takes its scratch from the planner, returns if it is a dry run, and launches.
//
//   Status scale_gpu(Exec &exec, const void *problem) {
//       const auto &p = *static_cast<const ScaleProblem *>(problem);
//       exec.impl = GPU_IMPL_NAME("scale");
//       if (exec.dry_run || p.n == 0) return STRATA_OK;
//       return launched("scale", GPU_LAUNCH(scale_kernel, blocks, 256, 0, exec.stream, params));
//   }
#pragma once

#include "core/exec.h"
#include "cuda/gpu.h"

/// The name of an op's implementation on the device that the file is compiled for.
#if defined(__CUDACC__)
#define GPU_IMPL_NAME(op) op "/sm80"
#else
#define GPU_IMPL_NAME(op) op "/simt"
#endif

namespace strata {

/// The status of a launch, with the device's own words in the sentence.
inline Status launched(const char *op, int error) {
    if (error == 0) return STRATA_OK;
    return fail(STRATA_E_DEVICE_FAULT, op, ": the kernel did not run (", gpu::launch_error_text(error),
                "), must be accepted by the device; check the GPU with strata_device_describe and report the shapes");
}

/// For kernels: tells the next strata_stream_sync what kind of bad index was met (bits of Fault).
GPU_DEVICE void raise_fault(std::uint32_t *fault, std::uint32_t bits) { gpu::atomic_or(fault, bits); }

} // namespace strata
