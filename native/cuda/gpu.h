// SPDX-License-Identifier: Apache-2.0
// The vocabulary of every GPU kernel: one set of intrinsics with two implementations, nvcc's and the host's.
//
// A kernel file (`*_sm80.cu`, `*_sm90.cu`) includes this header (ops: by op_gpu.h) and nothing of CUDA. nvcc compiles it for the `cuda` devices
// (gpu_cuda.h); g++ compiles the very same file for the `simt` device (gpu_simt.h), where every CUDA thread is a fiber,
// warps meet at their collectives, copies land late on purpose and wrong programs are told where they are wrong.
//
//   struct ScaleParams { const float* x; float* y; float factor; int64_t n; };
//
//   GPU_KERNEL(256, 1) scale_kernel(ScaleParams p) {
//       const int64_t i = int64_t{gpu::block_x()} * 256 + gpu::thread_x();
//       if (i < p.n) p.y[i] = p.factor * p.x[i];
//   }
//   ...
//   int error = GPU_LAUNCH(scale_kernel, blocks, 256, 0, stream, params);   // 0 is ok
//
// The rules that let both compilers take a kernel, and let the host find its bugs:
//  1. Launch by GPU_LAUNCH, never <<<>>>. A kernel takes ONE trivially copyable struct by value, without host pointers.
//     A block has a multiple of 32 threads, 1024 at most. Template kernels are launched from the file that has them.
//  2. GPU_KERNEL and GPU_DEVICE make functions; no __device__ or __constant__ variables: tables come in the parameters.
//  3. Shared memory only by GPU_DYNAMIC_SMEM plus offsets from one constexpr layout struct that the launcher sizes too.
//  4. No CUDA built-in, inline PTX or device-only math outside this header: everything is in namespace gpu.
//  5. 16-bit floats are raw uint16_t, pairs of them raw uint32_t (low half = lower address).
//  6. All 32 lanes reach every warp collective and all threads reach every sync_threads, at the same line: predicate
//     the data, not the call. No return before the last collective or barrier.
//  7. Offsets into global memory are int64_t; inside a page or a tile int is enough.
//  8. 16-byte accesses go through U4 and load16/store16 (or cp_async16), so that misalignment is seen on the host.
//  9. Sums in a fixed order; atomics on integers only, so that results repeat bit for bit.
// 10. Blocks never wait for one another (no spin locks): the last block to arrive finishes the work, found by
//     write; threadfence; sync_threads; atomic_inc by one thread; sync_threads; threadfence; read the others' results.
// 11. No recursion, variable-length arrays, static locals, printf, assert, exceptions, or destructors that matter.
// 12. GPU_UNROLL in front of loops whose arrays must stay in registers; array indices there must become constants.
// 13. Read ids into const ints once at the top of the kernel.
// 14. Lambdas are fine; std:: algorithms and containers are not (constexpr helpers of your own are).
// 15. A kernel that GPU_LAUNCH_AFTER launches has every thread call wait_for_previous before it reads or writes global memory,
//     threads and blocks with nothing to do too: then the end of the last kernel of a chain is the end of all.
//     A kernel in front of it calls let_next_start at its top: the next kernel's blocks come once all of its own have come,
//     so they take no room from them, and are there, waiting, when it ends. Without the call they come when it has ended.
//
// Fragment layouts, with l = lane_id(), g = l >> 2, q = l & 3 (rows of A and C are m, columns of B and C are n):
//   m16n8k16, 16-bit   A a[i], half e: row g + 8*(i & 1), k = 2q + e + 8*(i >> 1)
//                      B b[i], half e: k = 2q + e + 8*i, column g
//   m16n8k32, int8     A a[i], byte e: row g + 8*(i & 1), k = 4q + e + 16*(i >> 1)
//                      B b[i], byte e: k = 4q + e + 16*i, column g
//   C and D of both    c[i]: row g + 8*(i >> 1), column 2q + (i & 1)
//   ldmatrix           lane l addresses row l & 7 of the 8x8 matrix l >> 3 (x1 looks at lanes 0-7 only, x2 at 0-15);
//                      a row is 16 bytes; r[j] of lane l = row g, columns 2q and 2q + 1 of matrix j;
//                      with _trans: rows 2q and 2q + 1 of column g
// and how they are loaded from shared memory:
//   A of [m][k]          ldmatrix_x4 at (m0 + (l & 15), k0 + 8*(l >> 4)) gives a[0..3]
//   B of [n][k] (Q.K^T)  ldmatrix_x4 at (n0 + (l & 7) + 8*(l >> 4), k0 + 8*((l >> 3) & 1))
//   B of [k][n] (P.V)    ldmatrix_x4_trans at (k0 + (l & 15), n0 + 8*(l >> 4)); both: r[0..1] is n0, r[2..3] n0 + 8
//   C of two neighbouring n-tiles c, d as A of the next product: {pack(c[0], c[1]), pack(c[2], c[3]), pack(d[0], d[1]),
//   pack(d[2], d[3])}; a row of C lives in lanes xor 1, 2; a column in lanes xor 4, 8, 16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(__CUDACC__)
#include "gpu_cuda_macros.h"
#else
#include "../simt/gpu_simt_macros.h"
#endif

// What the two implementations define as macros:
//   GPU_KERNEL(threads, min_blocks) name(Params p)
//                           a kernel of at most `threads` threads; `min_blocks` blocks of it are to fit one SM
//   GPU_DEVICE              a function of device code
//   GPU_HOST_DEVICE         a function of both sides (layout arithmetic)
//   GPU_DYNAMIC_SMEM(name)  `unsigned char name[]`, 1 KiB aligned: the block's shared memory
//   gpu::kTargetsHopper     for min_blocks: whether code is made for sm_90 or newer
//   GPU_UNROLL              in front of a loop: unroll it fully
//   GPU_UNROLL_BY(n)        or n times, to have the loads of n steps under way
//   GPU_LAUNCH(kernel, grid, block, smem_bytes, stream, params)
//                           queues the kernel on the stream; an int, 0 when ok, else a code for launch_error_text;
//                           grid and block are gpu::Dim3, an int or {x, y, z}; kernel may be a template-id
//   GPU_LAUNCH_AFTER(after, kernel, grid, block, smem_bytes, stream, params)
//                           the same; `after` says that a kernel of the same op call is in front of it in the stream, so that it may
//                           start before that one has ended (see rule 15). False: what is in front is somebody else's

namespace gpu {

/// Sizes of a grid or a block; missing ones are 1.
struct Dim3 {
    int x, y, z;
    constexpr Dim3(int x_size = 1, int y_size = 1, int z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};

/// 16 bytes that move as one access.
struct alignas(16) U4 {
    uint32_t v[4];
};

/// 8 bytes that move as one access.
struct alignas(8) U2 {
    uint32_t v[2];
};

constexpr int kWarpSize = 32;
constexpr int kMaxThreadsPerBlock = 1024;
/// Dynamic shared memory that every supported GPU grants one block; more (up to 163 KiB) needs sm_80 or sm_90 proper.
constexpr std::size_t kPortableSmemBytes = 99 * 1024;
/// What a block of an sm_90 gets.
constexpr std::size_t kHopperSmemBytes = 227 * 1024;
/// The compute capability, times ten, whose own instructions the `*_sm90.cu` files use; the only one that takes their kernels.
constexpr int kHopper = 90;

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

/// The inputs of a lop3 truth table: lop3<(kLopA & kLopB) | kLopC>(a, b, c) computes (a & b) | c.
constexpr int kLopA = 0xF0, kLopB = 0xCC, kLopC = 0xAA;

// The last parameter `site` is filled in by the compiler: never pass it.

// ---- who am I ------------------------------------------------------------------------------------------------------

GPU_DEVICE int thread_x();    ///< index of the thread in its block
GPU_DEVICE int thread_y();    ///< index of the thread in its block, second dimension
GPU_DEVICE int thread_z();    ///< index of the thread in its block, third dimension
GPU_DEVICE int block_x();     ///< index of the block in the grid
GPU_DEVICE int block_y();     ///< index of the block in the grid, second dimension
GPU_DEVICE int block_z();     ///< index of the block in the grid, third dimension
GPU_DEVICE int block_dim_x(); ///< threads of the block
GPU_DEVICE int block_dim_y(); ///< threads of the block, second dimension
GPU_DEVICE int block_dim_z(); ///< threads of the block, third dimension
GPU_DEVICE int grid_dim_x();  ///< blocks of the grid
GPU_DEVICE int grid_dim_y();  ///< blocks of the grid, second dimension
GPU_DEVICE int grid_dim_z();  ///< blocks of the grid, third dimension
GPU_DEVICE int lane_id();     ///< 0..31, of a block with one dimension
GPU_DEVICE int warp_id();     ///< 0.., of a block with one dimension

// ---- waiting for one another ---------------------------------------------------------------------------------------

GPU_DEVICE void sync_threads(Site site = GPU_SITE); ///< the block's threads meet and see each other's writes
GPU_DEVICE void sync_warp(Site site = GPU_SITE);    ///< the warp's lanes meet and see each other's writes
GPU_DEVICE void threadfence();                      ///< orders this thread's memory accesses for the whole GPU
GPU_DEVICE void wait_for_previous();                ///< until the kernels in front have ended and all they wrote is seen; see rule 15
GPU_DEVICE void let_next_start();                   ///< what GPU_LAUNCH_AFTER launches next may start once all blocks have said so or ended

// ---- copies from global to shared memory that run behind the thread's back ------------------------------------------

/// Starts copying 16 bytes; both addresses 16-byte aligned. Without the predicate it writes zeros and reads nothing.
GPU_DEVICE void cp_async16(void *shared, const void *global, bool predicate = true, Site site = GPU_SITE);
/// As cp_async16 for 8 bytes.
GPU_DEVICE void cp_async8(void *shared, const void *global, bool predicate = true, Site site = GPU_SITE);
/// As cp_async16 for 4 bytes.
GPU_DEVICE void cp_async4(void *shared, const void *global, bool predicate = true, Site site = GPU_SITE);
/// Closes the group of this thread's copies since the last commit (an empty group counts too).
GPU_DEVICE void cp_async_commit(Site site = GPU_SITE);
/// Waits until at most N of this thread's newest groups are still under way; others see the data after sync_threads.
template <int N>
GPU_DEVICE void cp_async_wait();

// ---- tensor cores --------------------------------------------------------------------------------------------------

/// Reads one, two or four 8x8 matrices of 16-bit values from shared memory.
GPU_DEVICE void ldmatrix_x1(uint32_t (&r)[1], const void *row, Site site = GPU_SITE);
GPU_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void *row, Site site = GPU_SITE);
GPU_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void *row, Site site = GPU_SITE);
/// The same, each matrix transposed.
GPU_DEVICE void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row, Site site = GPU_SITE);
GPU_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, Site site = GPU_SITE);
GPU_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, Site site = GPU_SITE);

/// c[16,8] += a[16,16] * b[16,8]: fp16 in, fp32 sums.
GPU_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site = GPU_SITE);
/// c[16,8] += a[16,16] * b[16,8]: bf16 in, fp32 sums.
GPU_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site = GPU_SITE);
/// c[16,8] += a[16,32] * b[32,8]: signed bytes in, int32 sums.
GPU_DEVICE void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site = GPU_SITE);

// ---- tensor cores, four warps together (files `*_sm90.cu` only) ------------------------------------------------------

// A warpgroup is four neighbouring warps, the first one's number a multiple of 4; warp w of it has rows 16 w ... 16 w + 15 of d and a, each
// tile of 8 columns of d as c of the mma above, a as there. The products run behind the threads' backs: between warpgroup_start and
// warpgroup_wait nobody may touch d, a or the shared memory of b.

/// A right operand in shared memory: rows of 64 numbers (128 bytes), chunk c of 16 bytes of row r at chunk c ^ (r & 7), from a multiple of 1 KiB on.
struct WarpgroupOperand;
/// `at`: where the first number would lie without the exchange; `apart`: bytes from 64 columns to the next 64 of the same rows.
GPU_DEVICE WarpgroupOperand warpgroup_operand(const void *at, int apart);
/// This thread's writes to shared memory, and its copies that it has waited for, are there for products that start after the next sync_threads.
GPU_DEVICE void publish_to_warpgroups();
/// Before the first of some products, once d and a are set.
GPU_DEVICE void warpgroup_start(Site site = GPU_SITE);
/// d[64, Columns] (+)= a[64, 16] * b: fp32 sums of 16-bit numbers; where not `add`, d is overwritten.
/// Rows: b's rows are columns of d and its 16 columns the sum's index (Q.K^T); else its 16 rows are that (P.V). Columns: 64 or 128.
template <int Columns, bool Bf16, bool Rows>
GPU_DEVICE void warpgroup_multiply(float (&d)[std::size_t{Columns / 8}][4], const uint32_t (&a)[4], const WarpgroupOperand &b, bool add,
                                   Site site = GPU_SITE);
/// Closes the group of products since the last commit.
GPU_DEVICE void warpgroup_commit();
/// Waits until at most N of the newest groups are still under way.
template <int N>
GPU_DEVICE void warpgroup_wait();
/// Keeps the compiler from moving what sets or uses these registers past this place: of a before warpgroup_start, of d after the wait, of
/// what is computed beside the products before it.
template <class Register, std::size_t Tiles>
GPU_DEVICE void warpgroup_hold(Register (&registers)[Tiles][4]);

// ---- lanes of a warp talk (full warp always) ------------------------------------------------------------------------

/// The value of that lane.
GPU_DEVICE float shfl(float value, int lane, Site site = GPU_SITE);
GPU_DEVICE int32_t shfl(int32_t value, int lane, Site site = GPU_SITE);
GPU_DEVICE uint32_t shfl(uint32_t value, int lane, Site site = GPU_SITE);
/// The value of lane ^ mask.
GPU_DEVICE float shfl_xor(float value, int mask, Site site = GPU_SITE);
GPU_DEVICE int32_t shfl_xor(int32_t value, int mask, Site site = GPU_SITE);
GPU_DEVICE uint32_t shfl_xor(uint32_t value, int mask, Site site = GPU_SITE);
/// The value of lane - by; one's own in the lanes below `by`.
GPU_DEVICE float shfl_up(float value, int by, Site site = GPU_SITE);
GPU_DEVICE int32_t shfl_up(int32_t value, int by, Site site = GPU_SITE);
GPU_DEVICE uint32_t shfl_up(uint32_t value, int by, Site site = GPU_SITE);
/// The value of lane + by; one's own where that is past lane 31.
GPU_DEVICE float shfl_down(float value, int by, Site site = GPU_SITE);
GPU_DEVICE int32_t shfl_down(int32_t value, int by, Site site = GPU_SITE);
GPU_DEVICE uint32_t shfl_down(uint32_t value, int by, Site site = GPU_SITE);

GPU_DEVICE uint32_t ballot(bool vote, Site site = GPU_SITE); ///< bit l is the vote of lane l
GPU_DEVICE bool any(bool vote, Site site = GPU_SITE);        ///< true when some lane votes yes
GPU_DEVICE bool all(bool vote, Site site = GPU_SITE);        ///< true when every lane votes yes

/// Sum over the warp in every lane, added in the order xor 16, 8, 4, 2, 1 (T is float, int32_t or uint32_t).
template <typename T>
GPU_DEVICE T warp_reduce_add(T value, Site site = GPU_SITE);
/// Largest over the warp in every lane (a NaN is passed over).
template <typename T>
GPU_DEVICE T warp_reduce_max(T value, Site site = GPU_SITE);
/// Smallest over the warp in every lane (a NaN is passed over).
template <typename T>
GPU_DEVICE T warp_reduce_min(T value, Site site = GPU_SITE);

// ---- arithmetic ----------------------------------------------------------------------------------------------------

GPU_DEVICE float exp2(float x);                  ///< 2^x, 2 ulp; -infinity gives 0
GPU_DEVICE float log2(float x);                  ///< log2 x, absolute error 2^-22
GPU_DEVICE float rcp(float x);                   ///< 1 / x, 1 ulp
GPU_DEVICE float rsqrt(float x);                 ///< 1 / sqrt x, 2 ulp
GPU_DEVICE float sqrt(float x);                  ///< sqrt x, correctly rounded
GPU_DEVICE float div(float x, float y);          ///< x / y, correctly rounded
GPU_DEVICE float fma(float x, float y, float z); ///< x * y + z with one rounding
GPU_DEVICE float round(float x);                 ///< to the nearest integer, ties to even
GPU_DEVICE int32_t float_to_int(float x);        ///< nearest integer, ties to even; saturates, NaN gives 0
GPU_DEVICE float min(float x, float y);          ///< smaller one; a NaN loses
GPU_DEVICE float max(float x, float y);          ///< larger one; a NaN loses
GPU_DEVICE float abs(float x);                   ///< |x|
/// Both within 1e-7 for |angle| < 1e8: the angle is reduced in double.
GPU_DEVICE void sincos(double angle, float &sine, float &cosine);

GPU_HOST_DEVICE constexpr int32_t min(int32_t x, int32_t y) { return x < y ? x : y; }
GPU_HOST_DEVICE constexpr int32_t max(int32_t x, int32_t y) { return x < y ? y : x; }
GPU_HOST_DEVICE constexpr uint32_t min(uint32_t x, uint32_t y) { return x < y ? x : y; }
GPU_HOST_DEVICE constexpr uint32_t max(uint32_t x, uint32_t y) { return x < y ? y : x; }
GPU_HOST_DEVICE constexpr int64_t min(int64_t x, int64_t y) { return x < y ? x : y; }
GPU_HOST_DEVICE constexpr int64_t max(int64_t x, int64_t y) { return x < y ? y : x; }
GPU_HOST_DEVICE constexpr int32_t ceil_div(int32_t x, int32_t y) { return (x + y - 1) / y; }

// ---- bits ----------------------------------------------------------------------------------------------------------

/// Any bitwise function of three words; Table is its truth table, see kLopA.
template <int Table>
GPU_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c);
/// Picks four bytes of {b, a}: nibble i of the selector names byte 0-3 (of a) or 4-7 (of b) for byte i of the result.
GPU_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector);
GPU_DEVICE int clz(uint32_t x);           ///< leading zero bits, 32 for 0
GPU_DEVICE int popc(uint32_t x);          ///< bits that are 1
GPU_DEVICE uint32_t as_uint(float x);     ///< the bits of a float
GPU_DEVICE float as_float(uint32_t bits); ///< the float of these bits

// ---- 16-bit floats, raw --------------------------------------------------------------------------------------------

GPU_DEVICE float f16_to_f32(uint16_t x);                       ///< exact
GPU_DEVICE uint16_t f32_to_f16(float x);                       ///< nearest, ties to even, overflow to infinity, NaN to 0x7FFF
GPU_DEVICE float bf16_to_f32(uint16_t x);                      ///< exact
GPU_DEVICE uint16_t f32_to_bf16(float x);                      ///< nearest, ties to even, overflow to infinity, NaN to 0x7FFF
GPU_DEVICE uint32_t pack2_f16(float low, float high);          ///< two fp16 in one word
GPU_DEVICE uint32_t pack2_bf16(float low, float high);         ///< two bf16 in one word
GPU_DEVICE float f16_low(uint32_t pair);                       ///< the lower fp16 of a pair
GPU_DEVICE float f16_high(uint32_t pair);                      ///< the upper fp16 of a pair
GPU_DEVICE float bf16_low(uint32_t pair);                      ///< the lower bf16 of a pair
GPU_DEVICE float bf16_high(uint32_t pair);                     ///< the upper bf16 of a pair
GPU_DEVICE uint32_t hadd2(uint32_t a, uint32_t b);             ///< fp16 pairs: a + b
GPU_DEVICE uint32_t hsub2(uint32_t a, uint32_t b);             ///< fp16 pairs: a - b
GPU_DEVICE uint32_t hmul2(uint32_t a, uint32_t b);             ///< fp16 pairs: a * b
GPU_DEVICE uint32_t hfma2(uint32_t a, uint32_t b, uint32_t c); ///< fp16 pairs: a * b + c with one rounding
GPU_DEVICE uint32_t unpack2_e4m3(uint32_t codes);              ///< the two e4m3 in the low 16 bits as a pair of fp16, exact
/// The same for those in the low and those in the high 16 bits.
GPU_DEVICE void unpack4_e4m3(uint32_t codes, uint32_t &low, uint32_t &high);

// ---- memory --------------------------------------------------------------------------------------------------------

GPU_DEVICE U4 load16(const void *p); ///< 16 aligned bytes of global or shared memory
GPU_DEVICE U2 load8(const void *p);  ///< 8 aligned bytes of global or shared memory
/// 16 aligned bytes of global memory that are read once and that nothing writes while the kernel runs.
GPU_DEVICE U4 load16_streaming(const void *p);
GPU_DEVICE void store16(void *p, const U4 &value); ///< 16 aligned bytes to global or shared memory
GPU_DEVICE void store8(void *p, const U2 &value);  ///< 8 aligned bytes to global or shared memory

// Atomics on global or shared memory; each returns what was there before. They order nothing: see threadfence.
GPU_DEVICE int32_t atomic_add(int32_t *p, int32_t value);
GPU_DEVICE uint32_t atomic_add(uint32_t *p, uint32_t value);
GPU_DEVICE int32_t atomic_max(int32_t *p, int32_t value);
GPU_DEVICE uint32_t atomic_max(uint32_t *p, uint32_t value);
GPU_DEVICE uint32_t atomic_or(uint32_t *p, uint32_t value);
GPU_DEVICE uint32_t atomic_cas(uint32_t *p, uint32_t expected, uint32_t value); ///< stores where `expected` was
GPU_DEVICE uint32_t atomic_inc(uint32_t *p, uint32_t limit);                    ///< counts up, from limit back to 0

} // namespace gpu

#if defined(__CUDACC__)
#include "gpu_cuda.h"
#include "gpu_cuda_warpgroup.h"
#else
#include "../simt/gpu_simt.h"
#endif

#include "gpu_common.h"
