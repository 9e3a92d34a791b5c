// SPDX-License-Identifier: Apache-2.0
// CUDA's error codes as statuses, and the current device as a scope.
#pragma once

#include <cuda_runtime_api.h>

#include "core/status.h"

namespace strata {

/// The status of a CUDA call; the sentence begins with `where`. The error does not stay behind for others to find.
Status cuda_status(const char *where, cudaError_t error);

/// Makes a device current until the end of the scope; other libraries of the process have their own idea of it.
class CurrentDevice {
public:
    explicit CurrentDevice(int device) {
        changed_ = cudaGetDevice(&before_) == cudaSuccess && before_ != device;
        if (changed_) cudaSetDevice(device);
    }
    ~CurrentDevice() {
        if (changed_) cudaSetDevice(before_);
    }
    CurrentDevice(const CurrentDevice &) = delete;
    CurrentDevice &operator=(const CurrentDevice &) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

} // namespace strata
