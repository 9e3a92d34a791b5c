// SPDX-License-Identifier: Apache-2.0
// Probing: driver absent, too old, no GPU, a GPU that is too old; each with what to do. Makes no context, so asking is cheap.
#include "cuda/cuda_devices.h"

#include <cuda_runtime_api.h>

namespace strata {
namespace {

constexpr int kOldestMajor = 8;

/// Writes why the whole kind is missing; nothing if there are GPUs.
void explain_absence(Text &reason) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    cudaGetLastError();
    if (error == cudaSuccess && count > 0) return;
    int driver = 0;
    const bool known = cudaDriverGetVersion(&driver) == cudaSuccess;
    cudaGetLastError();
    if (known && driver == 0) {
        reason << "cuda: no NVIDIA driver is installed, must be 525.60 or newer; install the driver of your GPU or use the cpu device";
    } else if (error == cudaErrorInsufficientDriver) {
        reason << "cuda: the NVIDIA driver serves CUDA " << driver / 1000 << "." << driver % 1000 / 10
               << ", must serve 12.0 or newer; update it to 525.60 or newer";
    } else if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
        reason << "cuda: the driver shows no GPU, must show one; look at nvidia-smi and at CUDA_VISIBLE_DEVICES";
    } else {
        reason << "cuda: the driver answers " << cudaGetErrorName(error) << " (" << cudaGetErrorString(error)
               << "), must list its GPUs; look at nvidia-smi and restart the machine or the container";
    }
}

} // namespace

std::int32_t cuda_device_count() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    cudaGetLastError();
    return error == cudaSuccess && count > 0 ? count : 1;
}

void cuda_describe(std::int32_t index, strata_device_info *info) {
    Text id;
    id << "cuda:" << index;
    copy_text(info->id, id.c_str());
    Text reason;
    explain_absence(reason);
    cudaDeviceProp properties{};
    if (reason.c_str()[0] == '\0') {
        const cudaError_t error = cudaGetDeviceProperties(&properties, index);
        cudaGetLastError();
        if (error != cudaSuccess) {
            reason << "cuda: there is no device " << index << ", must be 0 to " << cuda_device_count() - 1
                   << "; choose one that strata_device_describe lists";
        } else {
            Text isa;
            isa << "sm_" << properties.major << properties.minor;
            copy_text(info->name, properties.name);
            copy_text(info->isa, isa.c_str());
            info->total_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
            info->threads = properties.multiProcessorCount;
            if (properties.major < kOldestMajor)
                reason << "cuda: " << properties.name << " has compute capability " << properties.major << "." << properties.minor
                       << ", must have 8.0 or higher; use a GPU of the Ampere generation or newer, or the cpu device";
        }
    }
    copy_text(info->reason, reason.c_str());
    info->available = reason.c_str()[0] == '\0' ? 1 : 0;
}

} // namespace strata
