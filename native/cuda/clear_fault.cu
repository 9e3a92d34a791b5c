// SPDX-License-Identifier: Apache-2.0
// Clears bits of the word in which kernels report bad indices. The first kernel that a context runs, so it also shows
// that the device takes this build's machine code.
#include "cuda/clear_fault.h"
#include "cuda/gpu.h"

namespace strata {
namespace {

struct ClearFaultParams {
    std::uint32_t *fault;
    std::uint32_t bits;
};

GPU_KERNEL(32, 1) clear_fault_kernel(ClearFaultParams p) {
    if (gpu::thread_x() != 0) return;
    // Kernels of other streams may raise bits meanwhile; those must stay.
    std::uint32_t seen = *p.fault;
    for (std::uint32_t before = ~seen; before != seen;) {
        before = seen;
        seen = gpu::atomic_cas(p.fault, before, before & ~p.bits);
    }
}

} // namespace

int clear_fault(std::uint32_t *fault, std::uint32_t bits, void *stream) {
    return GPU_LAUNCH(clear_fault_kernel, 1, 32, 0, stream, ClearFaultParams{fault, bits});
}

} // namespace strata
