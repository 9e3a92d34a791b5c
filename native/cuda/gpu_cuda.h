// SPDX-License-Identifier: Apache-2.0
// gpu.h for nvcc: each intrinsic is one CUDA built-in or one PTX instruction of sm_80.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

namespace gpu {

GPU_DEVICE int thread_x() { return static_cast<int>(threadIdx.x); }
GPU_DEVICE int thread_y() { return static_cast<int>(threadIdx.y); }
GPU_DEVICE int thread_z() { return static_cast<int>(threadIdx.z); }
GPU_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
GPU_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
GPU_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }
GPU_DEVICE int block_dim_x() { return static_cast<int>(blockDim.x); }
GPU_DEVICE int block_dim_y() { return static_cast<int>(blockDim.y); }
GPU_DEVICE int block_dim_z() { return static_cast<int>(blockDim.z); }
GPU_DEVICE int grid_dim_x() { return static_cast<int>(gridDim.x); }
GPU_DEVICE int grid_dim_y() { return static_cast<int>(gridDim.y); }
GPU_DEVICE int grid_dim_z() { return static_cast<int>(gridDim.z); }
GPU_DEVICE int lane_id() { return static_cast<int>(threadIdx.x) & 31; }
GPU_DEVICE int warp_id() { return static_cast<int>(threadIdx.x) >> 5; }

GPU_DEVICE void sync_threads(Site) { __syncthreads(); }
GPU_DEVICE void sync_warp(Site) { __syncwarp(); }
GPU_DEVICE void threadfence() { __threadfence(); }
GPU_DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
GPU_DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

namespace detail {

constexpr unsigned kFullWarp = 0xffffffffu;

GPU_DEVICE double round_double(double x) { return ::rint(x); }

#if __CUDA_ARCH__ >= 890
#define GPU_HAS_E4M3
GPU_DEVICE uint32_t convert2_e4m3(uint32_t codes) {
    uint32_t pair;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<uint16_t>(codes)));
    return pair;
}
/// Both halves of a word: named apart in one asm, the upper one needs no shift.
GPU_DEVICE void convert4_e4m3(uint32_t codes, uint32_t &low, uint32_t &high) {
    asm("{.reg .b16 first, second; mov.b32 {first, second}, %2; cvt.rn.f16x2.e4m3x2 %0, first; cvt.rn.f16x2.e4m3x2 %1, second;}"
        : "=r"(low), "=r"(high)
        : "r"(codes));
}
#endif

/// The 32-bit address that shared-memory instructions take.
GPU_DEVICE uint32_t smem_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

} // namespace detail

GPU_DEVICE void cp_async16(void *shared, const void *global, bool predicate, Site) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(detail::smem_address(shared)), "l"(global), "r"(predicate ? 16 : 0)
                 : "memory");
}
GPU_DEVICE void cp_async8(void *shared, const void *global, bool predicate, Site) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(detail::smem_address(shared)), "l"(global), "r"(predicate ? 8 : 0) : "memory");
}
GPU_DEVICE void cp_async4(void *shared, const void *global, bool predicate, Site) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(detail::smem_address(shared)), "l"(global), "r"(predicate ? 4 : 0) : "memory");
}
GPU_DEVICE void cp_async_commit(Site) { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
GPU_DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Volatile keeps these in order with barriers and copies; no ordinary access needs more, because a barrier is between.
GPU_DEVICE void ldmatrix_x1(uint32_t (&r)[1], const void *row, Site) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(detail::smem_address(row)));
}
GPU_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void *row, Site) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(detail::smem_address(row)));
}
GPU_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void *row, Site) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(detail::smem_address(row)));
}
GPU_DEVICE void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row, Site) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(detail::smem_address(row)));
}
GPU_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, Site) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(detail::smem_address(row)));
}
GPU_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, Site) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(detail::smem_address(row)));
}

GPU_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
GPU_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
GPU_DEVICE void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

GPU_DEVICE float shfl(float value, int lane, Site) { return __shfl_sync(detail::kFullWarp, value, lane); }
GPU_DEVICE int32_t shfl(int32_t value, int lane, Site) { return __shfl_sync(detail::kFullWarp, value, lane); }
GPU_DEVICE uint32_t shfl(uint32_t value, int lane, Site) { return __shfl_sync(detail::kFullWarp, value, lane); }
GPU_DEVICE float shfl_xor(float value, int mask, Site) { return __shfl_xor_sync(detail::kFullWarp, value, mask); }
GPU_DEVICE int32_t shfl_xor(int32_t value, int mask, Site) { return __shfl_xor_sync(detail::kFullWarp, value, mask); }
GPU_DEVICE uint32_t shfl_xor(uint32_t value, int mask, Site) { return __shfl_xor_sync(detail::kFullWarp, value, mask); }
GPU_DEVICE float shfl_up(float value, int by, Site) { return __shfl_up_sync(detail::kFullWarp, value, static_cast<unsigned>(by)); }
GPU_DEVICE int32_t shfl_up(int32_t value, int by, Site) { return __shfl_up_sync(detail::kFullWarp, value, static_cast<unsigned>(by)); }
GPU_DEVICE uint32_t shfl_up(uint32_t value, int by, Site) { return __shfl_up_sync(detail::kFullWarp, value, static_cast<unsigned>(by)); }
GPU_DEVICE float shfl_down(float value, int by, Site) { return __shfl_down_sync(detail::kFullWarp, value, static_cast<unsigned>(by)); }
GPU_DEVICE int32_t shfl_down(int32_t value, int by, Site) { return __shfl_down_sync(detail::kFullWarp, value, static_cast<unsigned>(by)); }
GPU_DEVICE uint32_t shfl_down(uint32_t value, int by, Site) { return __shfl_down_sync(detail::kFullWarp, value, static_cast<unsigned>(by)); }
GPU_DEVICE uint32_t ballot(bool vote, Site) { return __ballot_sync(detail::kFullWarp, vote); }
GPU_DEVICE bool any(bool vote, Site) { return __any_sync(detail::kFullWarp, vote) != 0; }
GPU_DEVICE bool all(bool vote, Site) { return __all_sync(detail::kFullWarp, vote) != 0; }

GPU_DEVICE float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
GPU_DEVICE float log2(float x) { return __log2f(x); }
GPU_DEVICE float rcp(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
GPU_DEVICE float rsqrt(float x) { return ::rsqrtf(x); }
GPU_DEVICE float sqrt(float x) { return __fsqrt_rn(x); }
GPU_DEVICE float div(float x, float y) { return __fdiv_rn(x, y); }
GPU_DEVICE float fma(float x, float y, float z) { return __fmaf_rn(x, y, z); }
GPU_DEVICE float round(float x) { return ::rintf(x); }
GPU_DEVICE int32_t float_to_int(float x) { return __float2int_rn(x); }
GPU_DEVICE float min(float x, float y) { return ::fminf(x, y); }
GPU_DEVICE float max(float x, float y) { return ::fmaxf(x, y); }
GPU_DEVICE float abs(float x) { return ::fabsf(x); }

template <int Table>
GPU_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(c), "n"(Table));
    return r;
}
GPU_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }
GPU_DEVICE int clz(uint32_t x) { return __clz(static_cast<int>(x)); }
GPU_DEVICE int popc(uint32_t x) { return __popc(x); }
GPU_DEVICE uint32_t as_uint(float x) { return __float_as_uint(x); }
GPU_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }

GPU_DEVICE float f16_to_f32(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
GPU_DEVICE uint16_t f32_to_f16(float x) {
    uint16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
GPU_DEVICE float bf16_to_f32(uint16_t x) { return __uint_as_float(static_cast<uint32_t>(x) << 16); }
GPU_DEVICE uint32_t pack2_f16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
GPU_DEVICE uint32_t pack2_bf16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
GPU_DEVICE uint16_t f32_to_bf16(float x) { return static_cast<uint16_t>(pack2_bf16(x, 0.0f)); }
GPU_DEVICE float f16_low(uint32_t pair) { return f16_to_f32(static_cast<uint16_t>(pair)); }
GPU_DEVICE float f16_high(uint32_t pair) { return f16_to_f32(static_cast<uint16_t>(pair >> 16)); }
GPU_DEVICE float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
GPU_DEVICE float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
GPU_DEVICE uint32_t hadd2(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
GPU_DEVICE uint32_t hsub2(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
GPU_DEVICE uint32_t hmul2(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
GPU_DEVICE uint32_t hfma2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}

GPU_DEVICE U4 load16(const void *p) { return *static_cast<const U4 *>(p); }
GPU_DEVICE U2 load8(const void *p) { return *static_cast<const U2 *>(p); }
GPU_DEVICE U4 load16_streaming(const void *p) {
    U4 r;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3]) : "l"(p));
    return r;
}
GPU_DEVICE void store16(void *p, const U4 &value) { *static_cast<U4 *>(p) = value; }
GPU_DEVICE void store8(void *p, const U2 &value) { *static_cast<U2 *>(p) = value; }

GPU_DEVICE int32_t atomic_add(int32_t *p, int32_t value) { return atomicAdd(p, value); }
GPU_DEVICE uint32_t atomic_add(uint32_t *p, uint32_t value) { return atomicAdd(p, value); }
GPU_DEVICE int32_t atomic_max(int32_t *p, int32_t value) { return atomicMax(p, value); }
GPU_DEVICE uint32_t atomic_max(uint32_t *p, uint32_t value) { return atomicMax(p, value); }
GPU_DEVICE uint32_t atomic_or(uint32_t *p, uint32_t value) { return atomicOr(p, value); }
GPU_DEVICE uint32_t atomic_cas(uint32_t *p, uint32_t expected, uint32_t value) { return atomicCAS(p, expected, value); }
GPU_DEVICE uint32_t atomic_inc(uint32_t *p, uint32_t limit) { return atomicInc(p, limit); }

/// Whether wait_for_previous of a kernel waits on the current device. It does in code for sm_90 and newer; which code a device runs
/// depends on what the library was built for, so the kernel itself is asked, once.
template <auto Kernel>
bool waits_for_previous() {
    enum : signed char { kUnknown, kWaits, kDoesNot };
    constexpr int kDevices = 64;
    static std::atomic<signed char> known[kDevices];
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= kDevices) return false;
    signed char answer = known[device].load(std::memory_order_relaxed);
    if (answer == kUnknown) {
        cudaFuncAttributes attributes{};
        if (cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(Kernel)) != cudaSuccess) {
            cudaGetLastError();
            return false;
        }
        constexpr int kFirst = 90;
        answer = attributes.ptxVersion >= kFirst && attributes.binaryVersion >= kFirst ? kWaits : kDoesNot;
        known[device].store(answer, std::memory_order_relaxed);
    }
    return answer == kWaits;
}

/// GPU_LAUNCH: checks the sizes that CUDA would only call "invalid", raises the shared-memory limit when needed,
/// queues. `early`: the kernel may start before the one in front of it has ended.
template <typename Params>
inline int launch(bool early, void (*kernel)(Params), Dim3 grid, Dim3 block, std::size_t smem_bytes, void *stream,
                  const std::common_type_t<Params> &params) {
    static_assert(std::is_trivially_copyable_v<Params>, "a kernel takes one trivially copyable struct");
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || block.x < 1 || block.y < 1 || block.z < 1 || block.x * block.y * block.z % kWarpSize != 0)
        return cudaErrorInvalidConfiguration;
    constexpr std::size_t kDefaultLimit = 48 * 1024;
    const void *function = reinterpret_cast<const void *>(kernel);
    if (smem_bytes > kDefaultLimit) {
        const cudaError_t raised = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem_bytes));
        if (raised != cudaSuccess) return raised;
    }
    Params copy = params;
    void *arguments[] = {&copy};
    const dim3 grid_size(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
    const dim3 block_size(static_cast<unsigned>(block.x), static_cast<unsigned>(block.y), static_cast<unsigned>(block.z));
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid_size;
    config.blockDim = block_size;
    config.dynamicSmemBytes = smem_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = early ? 1 : 0;
    const cudaError_t queued = cudaLaunchKernelExC(&config, function, arguments);
    // Read and clear, so that the caller's next CUDA call does not report a failure that was ours.
    return queued != cudaSuccess ? cudaGetLastError() : queued;
}

/// A sentence for a code that GPU_LAUNCH returned.
inline const char *launch_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

} // namespace gpu
