// SPDX-License-Identifier: Apache-2.0
// gpu.h for nvcc: products of a warpgroup, PTX of sm_90a. Only files that are compiled for it instantiate these.
#pragma once

namespace gpu {

/// The matrix descriptor of wgmma: address and strides in units of 16 bytes, and the exchange of chunks within 128 bytes.
struct WarpgroupOperand {
    uint64_t descriptor;
};

GPU_DEVICE WarpgroupOperand warpgroup_operand(const void *at, int apart) {
    constexpr uint64_t kEightRows = 1024 / 16;
    constexpr uint64_t kExchange128 = uint64_t{1} << 62;
    const uint64_t start = (detail::smem_address(at) & 0x3ffff) / 16;
    return WarpgroupOperand{start | static_cast<uint64_t>(apart / 16) << 16 | kEightRows << 32 | kExchange128};
}

GPU_DEVICE void publish_to_warpgroups() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
GPU_DEVICE void warpgroup_start(Site) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
GPU_DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
GPU_DEVICE void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
template <class Register, std::size_t Tiles>
GPU_DEVICE void warpgroup_hold(Register (&registers)[Tiles][4]) {
    GPU_UNROLL
    for (std::size_t n = 0; n < Tiles; ++n) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
            if constexpr (std::is_same_v<Register, float>) {
                asm volatile("" : "+f"(registers[n][i])::"memory");
            } else {
                asm volatile("" : "+r"(registers[n][i])::"memory");
            }
        }
    }
}

// clang-format off
#define GPU_REGISTERS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GPU_REGISTERS_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GPU_TILE(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define GPU_TILES_8 GPU_TILE(0), GPU_TILE(1), GPU_TILE(2), GPU_TILE(3), GPU_TILE(4), GPU_TILE(5), GPU_TILE(6), GPU_TILE(7)
#define GPU_TILES_16 GPU_TILES_8, GPU_TILE(8), GPU_TILE(9), GPU_TILE(10), GPU_TILE(11), GPU_TILE(12), GPU_TILE(13), GPU_TILE(14), GPU_TILE(15)
#define GPU_MULTIPLY_64(type) \
    asm volatile("{.reg .pred add; setp.ne.b32 add, %37, 0;" \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" GPU_REGISTERS_32 "}, {%32, %33, %34, %35}, %36, add, 1, 1, %38;}" \
                 : GPU_TILES_8 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor), "r"(add ? 1 : 0), "n"(Rows ? 0 : 1))
#define GPU_MULTIPLY_128(type) \
    asm volatile("{.reg .pred add; setp.ne.b32 add, %69, 0;" \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" GPU_REGISTERS_64 "}, {%64, %65, %66, %67}, %68, add, 1, 1, %70;}" \
                 : GPU_TILES_16 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor), "r"(add ? 1 : 0), "n"(Rows ? 0 : 1))
// clang-format on

template <int Columns, bool Bf16, bool Rows>
GPU_DEVICE void warpgroup_multiply(float (&d)[std::size_t{Columns / 8}][4], const uint32_t (&a)[4], const WarpgroupOperand &b, bool add, Site) {
    static_assert(Columns == 64 || Columns == 128);
    if constexpr (Columns == 64 && Bf16) {
        GPU_MULTIPLY_64("bf16");
    } else if constexpr (Columns == 64) {
        GPU_MULTIPLY_64("f16");
    } else if constexpr (Bf16) {
        GPU_MULTIPLY_128("bf16");
    } else {
        GPU_MULTIPLY_128("f16");
    }
}

#undef GPU_MULTIPLY_128
#undef GPU_MULTIPLY_64
#undef GPU_TILES_16
#undef GPU_TILES_8
#undef GPU_TILE
#undef GPU_REGISTERS_64
#undef GPU_REGISTERS_32

} // namespace gpu
