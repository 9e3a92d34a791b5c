// SPDX-License-Identifier: Apache-2.0
// What CUDA's error codes mean to a caller of Strata.
#include "cuda/cuda_check.h"

namespace strata {

Status cuda_status(const char *where, cudaError_t error) {
    if (error == cudaSuccess) return STRATA_OK;
    cudaGetLastError();
    const char *name = cudaGetErrorName(error);
    switch (error) {
    case cudaErrorMemoryAllocation: return fail(STRATA_E_MEMORY, where, ": device memory is exhausted, must have room; free buffers or ask for less");
    case cudaErrorInvalidValue:
    case cudaErrorInvalidDevicePointer:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorContextIsDestroyed:
        return fail(STRATA_E_ARGUMENT, where, ": CUDA refuses a pointer, stream or event (", name,
                    "), must be a live one of this device; pass what this context made or borrowed from its device");
    case cudaErrorNotReady: return fail(STRATA_E_ARGUMENT, where, ": the event has not passed, must have; wait for it by strata_event_sync");
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureInvalidated:
        return fail(STRATA_E_ARGUMENT, where, ": a graph is being captured (", name,
                    "), must not be for this call; make it before or after the capture");
    default:
        return fail(STRATA_E_DEVICE_FAULT, where, ": CUDA reports ", name, " (", cudaGetErrorString(error),
                    "), must succeed; the device may be lost to this process, so restart it and report the call");
    }
}

} // namespace strata
