// SPDX-License-Identifier: Apache-2.0
// What nvcc needs to know before the declarations of gpu.h.
#pragma once

#define GPU_KERNEL(threads, min_blocks) static __global__ void __launch_bounds__(threads, min_blocks)
#define GPU_DEVICE __device__ __forceinline__
#define GPU_HOST_DEVICE __host__ __device__ __forceinline__
#define GPU_DYNAMIC_SMEM(name) extern __shared__ __align__(1024) unsigned char name[]
#define GPU_UNROLL _Pragma("unroll")
#define GPU_PRAGMA(text) _Pragma(#text)
#define GPU_UNROLL_BY(count) GPU_PRAGMA(unroll count)
#define GPU_LAUNCH(...) ::gpu::launch(false, __VA_ARGS__)
#define GPU_LAUNCH_AFTER(after, kernel, ...) ::gpu::launch((after) && ::gpu::waits_for_previous<kernel>(), kernel, __VA_ARGS__)
#define GPU_SITE \
    {}

namespace gpu {

/// Whether this pass of the compiler makes code for an sm_90 or newer: for launch bounds, since ptxas needs other registers for others.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kTargetsHopper = false;
#else
constexpr bool kTargetsHopper = true;
#endif

/// Where a collective was called; only the host implementation looks at it.
struct Site {};

} // namespace gpu
