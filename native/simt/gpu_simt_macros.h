// SPDX-License-Identifier: Apache-2.0
// What the host compiler needs to know before the declarations of gpu.h.
#pragma once

#include "simt.h"

#define GPU_KERNEL(threads, min_blocks) [[maybe_unused]] static void
#define GPU_DEVICE inline
#define GPU_HOST_DEVICE inline
#define GPU_DYNAMIC_SMEM(name) unsigned char *const name = ::simt::self->block->shared
#define GPU_UNROLL
#define GPU_UNROLL_BY(count)
#define GPU_LAUNCH(...) ::gpu::launch(#__VA_ARGS__, __VA_ARGS__)
#define GPU_LAUNCH_AFTER(after, ...) (static_cast<void>(after), GPU_LAUNCH(__VA_ARGS__))
#define GPU_SITE ::gpu::Site::current()

namespace gpu {

constexpr bool kTargetsHopper = true;

/// Where a collective was called, for the check that all lanes stand at the same one.
using Site = ::simt::Site;

} // namespace gpu
