// SPDX-License-Identifier: Apache-2.0
// gpu.h for the host: each intrinsic in plain C++. What touches the kernel's memory stays in this header, so that a
// sanitizer sees the access with the kernel's own stack; what only coordinates fibers is in the runtime.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "half.h"

namespace gpu {

GPU_DEVICE int thread_x() { return simt::self->index.x; }
GPU_DEVICE int thread_y() { return simt::self->index.y; }
GPU_DEVICE int thread_z() { return simt::self->index.z; }
GPU_DEVICE int block_x() { return simt::self->block->index.x; }
GPU_DEVICE int block_y() { return simt::self->block->index.y; }
GPU_DEVICE int block_z() { return simt::self->block->index.z; }
GPU_DEVICE int block_dim_x() { return simt::self->block->threads.x; }
GPU_DEVICE int block_dim_y() { return simt::self->block->threads.y; }
GPU_DEVICE int block_dim_z() { return simt::self->block->threads.z; }
GPU_DEVICE int grid_dim_x() { return simt::self->block->blocks.x; }
GPU_DEVICE int grid_dim_y() { return simt::self->block->blocks.y; }
GPU_DEVICE int grid_dim_z() { return simt::self->block->blocks.z; }
GPU_DEVICE int lane_id() { return simt::self->id & 31; }
GPU_DEVICE int warp_id() { return simt::self->id >> 5; }

GPU_DEVICE void sync_threads(Site site) { simt::barrier(site); }
GPU_DEVICE void sync_warp(Site site) { simt::meet(simt::kSyncWarp, site, nullptr); }
GPU_DEVICE void threadfence() { simt::fence(); }
GPU_DEVICE void wait_for_previous() {} // a launch returns when its grid has ended
GPU_DEVICE void let_next_start() {}

namespace detail {

inline double round_double(double x) { return std::nearbyint(x); }

inline bool aligned(const void *p, std::size_t to) { return (reinterpret_cast<uintptr_t>(p) & (to - 1)) == 0; }

/// Reads memory for the sanitizers' sake.
inline void touch(const void *p, int bytes) {
    const auto *words = static_cast<const volatile uint32_t *>(p);
    for (int i = 0; i < bytes / 4; ++i) [[maybe_unused]] const uint32_t word = words[i];
}

inline void land(const simt::Copy &copy) {
    auto *to = static_cast<uint32_t *>(copy.to);
    const auto *from = static_cast<const uint32_t *>(copy.from);
    for (int i = 0; i < copy.bytes / 4; ++i) to[i] = from != nullptr ? from[i] : 0;
}

inline void cp_async(void *shared, const void *global, bool predicate, int bytes, Site site) {
    const auto alignment = static_cast<std::size_t>(bytes);
    if (!aligned(shared, alignment) || (predicate && !aligned(global, alignment)))
        simt::fail(simt::kMisaligned, site, "gave cp_async an address that is not aligned to the size of the copy; align rows and tiles to it");
    if (predicate) touch(global, bytes);
    // Until the copy lands the destination reads as NaN, so that nobody gets away with not waiting.
    for (int i = 0; i < bytes / 4; ++i) static_cast<uint32_t *>(shared)[i] = 0xffffffffu;
    const simt::Copy copy{shared, predicate ? global : nullptr, bytes};
    if (!simt::defer_copy(copy, site)) land(copy);
}

inline void ldmatrix(const simt::Collective &collective, int matrices, uint32_t *registers, const void *row, Site site) {
    if ((simt::self->id & 31) < 8 * matrices) {
        if (!aligned(row, 16))
            simt::fail(simt::kMisaligned, site, "gave ldmatrix the address of a row that is not 16-byte aligned; align rows to 16 bytes");
        touch(row, 16);
    }
    simt::MatrixArgument argument{registers, row};
    simt::meet(collective, site, &argument);
}

inline void mma(const simt::Collective &collective, void *c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
    simt::MmaArgument argument{c, a, b0, b1};
    simt::meet(collective, site, &argument);
}

template <typename T>
inline T exchange(const simt::Collective &collective, T value, int parameter, Site site) {
    static_assert(sizeof(T) == 4);
    simt::ExchangeArgument argument{std::bit_cast<uint32_t>(value), parameter};
    simt::meet(collective, site, &argument);
    return std::bit_cast<T>(argument.value);
}

template <typename T>
inline T shuffle_within(const simt::Collective &collective, T value, int parameter, Site site) {
    if (parameter < 0 || parameter > 31) simt::fail(simt::kBadArgument, site, "gave a shuffle a mask or distance outside 0..31; keep it in the warp");
    return exchange(collective, value, parameter, site);
}

template <typename Operation>
inline uint32_t on_halves(Operation operation) {
    return uint32_t{operation(0)} | uint32_t{operation(16)} << 16;
}

inline uint16_t half_of(uint32_t pair, int shift) { return static_cast<uint16_t>(pair >> shift); }

inline float f32_of(uint32_t pair, int shift) { return simt::f16_to_f32(half_of(pair, shift)); }

} // namespace detail

GPU_DEVICE void cp_async16(void *shared, const void *global, bool predicate, Site site) { detail::cp_async(shared, global, predicate, 16, site); }
GPU_DEVICE void cp_async8(void *shared, const void *global, bool predicate, Site site) { detail::cp_async(shared, global, predicate, 8, site); }
GPU_DEVICE void cp_async4(void *shared, const void *global, bool predicate, Site site) { detail::cp_async(shared, global, predicate, 4, site); }
GPU_DEVICE void cp_async_commit(Site site) { simt::commit_copies(site); }
template <int N>
GPU_DEVICE void cp_async_wait() {
    simt::Copy copy;
    while (simt::next_landing(N, copy)) detail::land(copy);
}

GPU_DEVICE void ldmatrix_x1(uint32_t (&r)[1], const void *row, Site site) { detail::ldmatrix(simt::kLdmatrixX1, 1, r, row, site); }
GPU_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void *row, Site site) { detail::ldmatrix(simt::kLdmatrixX2, 2, r, row, site); }
GPU_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void *row, Site site) { detail::ldmatrix(simt::kLdmatrixX4, 4, r, row, site); }
GPU_DEVICE void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row, Site site) { detail::ldmatrix(simt::kLdmatrixX1Trans, 1, r, row, site); }
GPU_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, Site site) { detail::ldmatrix(simt::kLdmatrixX2Trans, 2, r, row, site); }
GPU_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, Site site) { detail::ldmatrix(simt::kLdmatrixX4Trans, 4, r, row, site); }

GPU_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
    detail::mma(simt::kMmaF16, c, a, b0, b1, site);
}
GPU_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
    detail::mma(simt::kMmaBf16, c, a, b0, b1, site);
}
GPU_DEVICE void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
    detail::mma(simt::kMmaS8, c, a, b0, b1, site);
}

/// As the kernel gave it; the products read through the exchange of chunks.
struct WarpgroupOperand {
    const unsigned char *at;
    int apart;
};

GPU_DEVICE WarpgroupOperand warpgroup_operand(const void *at, int apart) { return {static_cast<const unsigned char *>(at), apart}; }
GPU_DEVICE void publish_to_warpgroups() {}
GPU_DEVICE void warpgroup_start(Site site) { simt::meet(simt::kWarpgroupStart, site, nullptr); }
GPU_DEVICE void warpgroup_commit() {}
template <int N>
GPU_DEVICE void warpgroup_wait() {}
template <class Register, std::size_t Tiles>
GPU_DEVICE void warpgroup_hold(Register (&)[Tiles][4]) {}

template <int Columns, bool Bf16, bool Rows>
GPU_DEVICE void warpgroup_multiply(float (&d)[std::size_t{Columns / 8}][4], const uint32_t (&a)[4], const WarpgroupOperand &b, bool add, Site site) {
    static_assert(Columns == 64 || Columns == 128);
    if (!detail::aligned(b.at, 16))
        simt::fail(simt::kMisaligned, site, "gave warpgroup_multiply a right operand that is not 16-byte aligned; align rows to 128 bytes");
    constexpr int kRows = Rows ? Columns : 16;
    constexpr int kChunks = Rows ? 2 : Columns / 8;
    for (int i = lane_id(); i < kRows * kChunks; i += kWarpSize) detail::touch(simt::operand_at(b.at, b.apart, i / kChunks, i % kChunks * 8), 16);
    simt::WarpgroupArgument argument{&d[0][0], a, b.at, b.apart, add};
    simt::meet(simt::kWarpgroupMultiply[Columns / 64 - 1][Bf16][Rows], site, &argument);
}

GPU_DEVICE float shfl(float value, int lane, Site site) { return detail::exchange(simt::kShuffle, value, lane & 31, site); }
GPU_DEVICE int32_t shfl(int32_t value, int lane, Site site) { return detail::exchange(simt::kShuffle, value, lane & 31, site); }
GPU_DEVICE uint32_t shfl(uint32_t value, int lane, Site site) { return detail::exchange(simt::kShuffle, value, lane & 31, site); }
GPU_DEVICE float shfl_xor(float value, int mask, Site site) { return detail::shuffle_within(simt::kShuffleXor, value, mask, site); }
GPU_DEVICE int32_t shfl_xor(int32_t value, int mask, Site site) { return detail::shuffle_within(simt::kShuffleXor, value, mask, site); }
GPU_DEVICE uint32_t shfl_xor(uint32_t value, int mask, Site site) { return detail::shuffle_within(simt::kShuffleXor, value, mask, site); }
GPU_DEVICE float shfl_up(float value, int by, Site site) { return detail::shuffle_within(simt::kShuffleUp, value, by, site); }
GPU_DEVICE int32_t shfl_up(int32_t value, int by, Site site) { return detail::shuffle_within(simt::kShuffleUp, value, by, site); }
GPU_DEVICE uint32_t shfl_up(uint32_t value, int by, Site site) { return detail::shuffle_within(simt::kShuffleUp, value, by, site); }
GPU_DEVICE float shfl_down(float value, int by, Site site) { return detail::shuffle_within(simt::kShuffleDown, value, by, site); }
GPU_DEVICE int32_t shfl_down(int32_t value, int by, Site site) { return detail::shuffle_within(simt::kShuffleDown, value, by, site); }
GPU_DEVICE uint32_t shfl_down(uint32_t value, int by, Site site) { return detail::shuffle_within(simt::kShuffleDown, value, by, site); }
GPU_DEVICE uint32_t ballot(bool vote, Site site) { return detail::exchange(simt::kBallot, uint32_t{vote}, 0, site); }
GPU_DEVICE bool any(bool vote, Site site) { return detail::exchange(simt::kAny, uint32_t{vote}, 0, site) != 0; }
GPU_DEVICE bool all(bool vote, Site site) { return detail::exchange(simt::kAll, uint32_t{vote}, 0, site) == 0xffffffffu; }

GPU_DEVICE float exp2(float x) { return std::exp2(x); }
GPU_DEVICE float log2(float x) { return std::log2(x); }
GPU_DEVICE float rcp(float x) { return 1.0f / x; }
GPU_DEVICE float rsqrt(float x) { return 1.0f / std::sqrt(x); }
GPU_DEVICE float sqrt(float x) { return std::sqrt(x); }
GPU_DEVICE float div(float x, float y) { return x / y; }
GPU_DEVICE float fma(float x, float y, float z) { return std::fma(x, y, z); }
GPU_DEVICE float round(float x) { return std::nearbyint(x); }
GPU_DEVICE int32_t float_to_int(float x) {
    if (x != x) return 0;
    if (x >= 0x1p31f) return INT32_MAX;
    if (x < -0x1p31f) return INT32_MIN;
    return static_cast<int32_t>(std::nearbyint(x));
}
GPU_DEVICE float min(float x, float y) { return std::fmin(x, y); }
GPU_DEVICE float max(float x, float y) { return std::fmax(x, y); }
GPU_DEVICE float abs(float x) { return std::fabs(x); }

template <int Table>
GPU_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
    static_assert(Table >= 0 && Table <= 255);
    uint32_t result = 0;
    for (int row = 0; row < 8; ++row) {
        if ((Table >> row & 1) != 0) result |= ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
    }
    return result;
}
GPU_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = uint64_t{b} << 32 | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t pick = selector >> (4 * i) & 15u;
        uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (pick & 7u))) & 0xffu;
        // The nibble's top bit asks for the byte's sign, eight times.
        if ((pick & 8u) != 0) byte = (byte & 0x80u) != 0 ? 0xffu : 0u;
        result |= byte << (8 * i);
    }
    return result;
}
GPU_DEVICE int clz(uint32_t x) { return std::countl_zero(x); }
GPU_DEVICE int popc(uint32_t x) { return std::popcount(x); }
GPU_DEVICE uint32_t as_uint(float x) { return std::bit_cast<uint32_t>(x); }
GPU_DEVICE float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }

GPU_DEVICE float f16_to_f32(uint16_t x) { return simt::f16_to_f32(x); }
GPU_DEVICE uint16_t f32_to_f16(float x) { return simt::f32_to_f16(x); }
GPU_DEVICE float bf16_to_f32(uint16_t x) { return simt::bf16_to_f32(x); }
GPU_DEVICE uint16_t f32_to_bf16(float x) { return simt::f32_to_bf16(x); }
GPU_DEVICE uint32_t pack2_f16(float low, float high) { return uint32_t{f32_to_f16(low)} | uint32_t{f32_to_f16(high)} << 16; }
GPU_DEVICE uint32_t pack2_bf16(float low, float high) { return uint32_t{f32_to_bf16(low)} | uint32_t{f32_to_bf16(high)} << 16; }
GPU_DEVICE float f16_low(uint32_t pair) { return detail::f32_of(pair, 0); }
GPU_DEVICE float f16_high(uint32_t pair) { return detail::f32_of(pair, 16); }
GPU_DEVICE float bf16_low(uint32_t pair) { return bf16_to_f32(detail::half_of(pair, 0)); }
GPU_DEVICE float bf16_high(uint32_t pair) { return bf16_to_f32(detail::half_of(pair, 16)); }
// One float operation on two halves, rounded to float and then to half, is correctly rounded: 24 >= 2 * 11 + 2 bits.
GPU_DEVICE uint32_t hadd2(uint32_t a, uint32_t b) {
    return detail::on_halves([&](int i) { return f32_to_f16(detail::f32_of(a, i) + detail::f32_of(b, i)); });
}
GPU_DEVICE uint32_t hsub2(uint32_t a, uint32_t b) {
    return detail::on_halves([&](int i) { return f32_to_f16(detail::f32_of(a, i) - detail::f32_of(b, i)); });
}
GPU_DEVICE uint32_t hmul2(uint32_t a, uint32_t b) {
    return detail::on_halves([&](int i) { return f32_to_f16(detail::f32_of(a, i) * detail::f32_of(b, i)); });
}
GPU_DEVICE uint32_t hfma2(uint32_t a, uint32_t b, uint32_t c) {
    return detail::on_halves([&](int i) {
        const double product = double{detail::f32_of(a, i)} * double{detail::f32_of(b, i)};
        return simt::f64_to_f16(product + double{detail::f32_of(c, i)});
    });
}

GPU_DEVICE U4 load16(const void *p) { return *static_cast<const U4 *>(p); }
GPU_DEVICE U2 load8(const void *p) { return *static_cast<const U2 *>(p); }
GPU_DEVICE U4 load16_streaming(const void *p) { return *static_cast<const U4 *>(p); }
GPU_DEVICE void store16(void *p, const U4 &value) { *static_cast<U4 *>(p) = value; }
GPU_DEVICE void store8(void *p, const U2 &value) { *static_cast<U2 *>(p) = value; }

GPU_DEVICE int32_t atomic_add(int32_t *p, int32_t value) { return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }
GPU_DEVICE uint32_t atomic_add(uint32_t *p, uint32_t value) { return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }
GPU_DEVICE int32_t atomic_max(int32_t *p, int32_t value) {
    int32_t old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(p, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
GPU_DEVICE uint32_t atomic_max(uint32_t *p, uint32_t value) {
    uint32_t old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(p, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
GPU_DEVICE uint32_t atomic_or(uint32_t *p, uint32_t value) { return __atomic_fetch_or(p, value, __ATOMIC_RELAXED); }
GPU_DEVICE uint32_t atomic_cas(uint32_t *p, uint32_t expected, uint32_t value) {
    __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
GPU_DEVICE uint32_t atomic_inc(uint32_t *p, uint32_t limit) {
    uint32_t old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, old >= limit ? 0 : old + 1, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

/// GPU_LAUNCH: runs the whole grid before it returns. The text of the call names the kernel in messages.
template <typename Params>
inline int launch(const char *text, void (*kernel)(Params), Dim3 grid, Dim3 block, std::size_t smem_bytes, [[maybe_unused]] void *stream,
                  const std::common_type_t<Params> &params) {
    static_assert(std::is_trivially_copyable_v<Params>, "a kernel takes one trivially copyable struct");
    struct Call {
        void (*kernel)(Params);
        Params params;
    } const call{kernel, params};
    return simt::launch(
        text, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, smem_bytes,
        [](const void *context) {
            const auto &bound = *static_cast<const Call *>(context);
            bound.kernel(bound.params);
        },
        &call);
}

/// A sentence for a code that GPU_LAUNCH returned on this OS thread.
inline const char *launch_error_text([[maybe_unused]] int error) { return simt::last_error(); }

} // namespace gpu
