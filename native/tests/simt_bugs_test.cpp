// SPDX-License-Identifier: Apache-2.0
// Bugs that kernels really have, put in on purpose: the executor or a sanitizer must catch every one of them.
#include "simt_selftest.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace {
std::atomic<int> races{0};
}

#if defined(__SANITIZE_THREAD__)
// Called by the thread sanitizer for each report. Its exit code would fail the runs whose races are wanted.
extern "C" __attribute__((visibility("default"))) void __tsan_on_report(const void *) { races.fetch_add(1); }
extern "C" __attribute__((visibility("default"))) const char *__tsan_default_options() { return "exitcode=0:report_signal_unsafe=0"; }
#endif

int reported_races() { return races.load(); }

namespace {

// C[16, 64] = A[16, k] B[64, k]^T in fp16 through a pipeline of three stages: what attention and GEMM kernels are made of.
enum class Bug { kNone, kNoBarrier, kWaitsTooLittle, kWarpSkipsBarrier, kNoSwizzle, kCopyInFlight, kReadsPastPages };

constexpr int kThreads = 128, kStages = 3, kDepth = 64, kRows = 16 + 64;
constexpr int kStageBytes = kRows * kDepth * 2;
constexpr int kSmemBytes = kStages * kStageBytes;

struct TileParams {
    const uint16_t *rows; // A then B: [80][k], found through `pages`
    const int32_t *pages; // [k / 64]: which 64 columns come next
    float *c;             // [16][64]
    int k;
};

template <Bug kBug>
GPU_KERNEL(kThreads, 1)
tile_kernel(TileParams p) {
    GPU_DYNAMIC_SMEM(shared);
    const int t = gpu::thread_x(), lane = gpu::lane_id(), warp = gpu::warp_id();
    const int tiles = p.k / kDepth;
    const auto address = [&](int stage, int row, int chunk) {
        const int swizzled = kBug == Bug::kNoSwizzle ? chunk : chunk ^ (row & 7);
        return shared + stage * kStageBytes + row * (kDepth * 2) + 16 * swizzled;
    };
    const auto load = [&](int tile) {
        const bool there = tile < tiles;
        const int page = there || kBug == Bug::kReadsPastPages ? p.pages[tile] : 0;
        for (int i = t; i < kRows * 8; i += kThreads) {
            const int row = i >> 3, chunk = i & 7;
            const uint16_t *from = p.rows + int64_t{row} * p.k + int64_t{page} * kDepth + 8 * chunk;
            gpu::cp_async16(address(tile % kStages, row, chunk), from, there);
        }
        gpu::cp_async_commit();
    };
    for (int s = 0; s < kStages - 1; ++s) load(s);
    float c[2][4] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        gpu::cp_async_wait<kBug == Bug::kWaitsTooLittle ? kStages - 1 : kStages - 2>();
        if constexpr (kBug == Bug::kWarpSkipsBarrier) {
            if (warp != 2 || tile != 1) gpu::sync_threads();
        } else if constexpr (kBug != Bug::kNoBarrier) {
            gpu::sync_threads();
        }
        load(tile + kStages - 1);
        const int stage = tile % kStages;
        for (int step = 0; step < kDepth / 16; ++step) {
            uint32_t a[4], b[4];
            gpu::ldmatrix_x4(a, address(stage, lane & 15, 2 * step + (lane >> 4)));
            gpu::ldmatrix_x4(b, address(stage, 16 + 16 * warp + (lane & 7) + 8 * (lane >> 4), 2 * step + (lane >> 3 & 1)));
            gpu::mma_f16(c[0], a, b[0], b[1]);
            gpu::mma_f16(c[1], a, b[2], b[3]);
        }
    }
    if constexpr (kBug != Bug::kCopyInFlight) gpu::cp_async_wait<0>();
    gpu::sync_threads();
    const int g = lane >> 2, q = lane & 3;
    for (int n = 0; n < 2; ++n)
        for (int i = 0; i < 4; ++i) p.c[(g + 8 * (i >> 1)) * 64 + 16 * warp + 8 * n + 2 * q + (i & 1)] = c[n][i];
}

constexpr int kColumns = 5 * kDepth;

struct Outcome {
    int error;
    bool right;
    std::string sentence;
    simt::Stats stats;
};

template <Bug kBug>
Outcome run_tile(uint64_t seed, simt::AsyncMode mode, simt::Order order = simt::Order::kRandom, int smem = kSmemBytes, bool strict_banks = false) {
    const WithOptions options(seed, mode, order, strict_banks);
    std::vector<uint16_t> rows(kRows * kColumns + 8);
    auto *aligned = reinterpret_cast<uint16_t *>((reinterpret_cast<uintptr_t>(rows.data()) + 15) & ~uintptr_t{15});
    const std::vector<int32_t> pages{3, 0, 4, 1, 2};
    for (int r = 0; r < kRows; ++r)
        for (int k = 0; k < kColumns; ++k) aligned[r * kColumns + k] = gpu::f32_to_f16(test_value(r, k));
    std::vector<float> c(16 * 64, NAN);
    const TileParams params{aligned, pages.data(), c.data(), kColumns};
    const int error = GPU_LAUNCH(tile_kernel<kBug>, 1, kThreads, static_cast<size_t>(smem), nullptr, params);
    bool right = true;
    for (int m = 0; m < 16; ++m) {
        for (int n = 0; n < 64; ++n) {
            double expected = 0;
            for (int k = 0; k < kColumns; ++k) expected += double{test_value(m, k)} * test_value(16 + n, k);
            right = right && std::fabs(c[static_cast<size_t>(64 * m + n)] - expected) < 1e-3;
        }
    }
    return {error, right, simt::last_error(), simt::stats()};
}

TEST(Pipeline, IsRightInEveryOrderAndMode) {
    const int before = reported_races();
    for (uint64_t seed = 1; seed <= 3; ++seed) {
        for (const simt::AsyncMode mode : kAsyncModes) {
            for (const simt::Order order : kOrders) {
                const Outcome outcome = run_tile<Bug::kNone>(seed, mode, order);
                EXPECT_EQ(outcome.error, 0) << outcome.sentence;
                EXPECT_TRUE(outcome.right);
                EXPECT_EQ(outcome.stats.ldmatrix_bank_conflicts, 0u);
            }
        }
    }
    EXPECT_EQ(reported_races(), before);
}

TEST(SeededBug, MissingBarrierShowsAsNanAndAsRace) {
    const int before = reported_races();
    int wrong = 0;
    for (uint64_t seed = 1; seed <= 3; ++seed)
        for (const simt::AsyncMode mode : kAsyncModes) wrong += run_tile<Bug::kNoBarrier>(seed, mode).right ? 0 : 1;
    EXPECT_EQ(wrong, 9);
    EXPECT_EQ(reported_races() > before, kThreadSanitizer);
}

TEST(SeededBug, WaitGroupOffByOneShowsAsNan) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
        EXPECT_FALSE(run_tile<Bug::kWaitsTooLittle>(seed, simt::AsyncMode::kAtWait).right);
        EXPECT_FALSE(run_tile<Bug::kWaitsTooLittle>(seed, simt::AsyncMode::kRandom).right);
    }
}

TEST(SeededBug, WarpThatSkipsABarrierIsNamed) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
        for (const simt::Order order : kOrders) {
            const Outcome outcome = run_tile<Bug::kWarpSkipsBarrier>(seed, simt::AsyncMode::kRandom, order);
            EXPECT_TRUE(outcome.error == simt::kDivergence || outcome.error == simt::kDeadlock) << outcome.error;
            EXPECT_NE(outcome.sentence.find("tile_kernel<kBug> at simt_bugs_test.cpp:"), std::string::npos) << outcome.sentence;
            EXPECT_NE(outcome.sentence.find("sync_threads"), std::string::npos) << outcome.sentence;
        }
    }
}

TEST(SeededBug, CopyInFlightAtTheEndIsNamed) {
    for (const simt::AsyncMode mode : kAsyncModes) {
        // The last groups copy nothing but still fill shared memory with zeros.
        const Outcome outcome = run_tile<Bug::kCopyInFlight>(1, mode);
        EXPECT_EQ(outcome.error, simt::kAsyncInFlight);
        EXPECT_NE(outcome.sentence.find("cp_async"), std::string::npos) << outcome.sentence;
    }
}

TEST(SeededBug, MissingSwizzleShowsAsBankConflicts) {
    const Outcome outcome = run_tile<Bug::kNoSwizzle>(1, simt::AsyncMode::kRandom);
    EXPECT_TRUE(outcome.right);
    EXPECT_EQ(outcome.stats.ldmatrix_bank_conflicts, 7 * outcome.stats.ldmatrix_phases);
    const Outcome strict = run_tile<Bug::kNoSwizzle>(1, simt::AsyncMode::kRandom, simt::Order::kRandom, kSmemBytes, true);
    EXPECT_EQ(strict.error, simt::kBankConflict);
    EXPECT_NE(strict.sentence.find("swizzle"), std::string::npos) << strict.sentence;
}

TEST(SeededBugDeathTest, SharedMemoryTooSmallIsSeenByTheAddressSanitizer) {
    if (!kAddressSanitizer) GTEST_SKIP() << "needs a build with STRATA_SANITIZE=address";
    EXPECT_DEATH(run_tile<Bug::kNone>(1, simt::AsyncMode::kRandom, simt::Order::kRandom, kSmemBytes - 16), "heap-buffer-overflow");
}

TEST(SeededBugDeathTest, PageTableReadPastItsEndIsSeenByTheAddressSanitizer) {
    if (!kAddressSanitizer) GTEST_SKIP() << "needs a build with STRATA_SANITIZE=address";
    EXPECT_DEATH(run_tile<Bug::kReadsPastPages>(1, simt::AsyncMode::kRandom), "heap-buffer-overflow");
}

// ---- small wrong kernels -------------------------------------------------------------------------------------------

struct SmallParams {
    int32_t *out;
};

GPU_KERNEL(32, 1) divergent_shuffle_kernel(SmallParams p) {
    const int lane = gpu::lane_id();
    int value = lane;
    if (lane < 16) value = gpu::shfl_xor(value, 1);
    p.out[lane] = gpu::shfl_xor(value, 2);
}

GPU_KERNEL(64, 1) early_return_kernel(SmallParams p) {
    const int lane = gpu::lane_id();
    if (lane == 5) return;
    p.out[gpu::thread_x()] = gpu::warp_reduce_add(lane);
}

GPU_KERNEL(64, 1) deadlock_kernel(SmallParams p) {
    const int t = gpu::thread_x();
    if (t == 0)
        gpu::sync_threads();
    else
        gpu::sync_warp();
    p.out[t] = t;
}

GPU_KERNEL(32, 1) misaligned_copy_kernel(SmallParams p) {
    GPU_DYNAMIC_SMEM(shared);
    gpu::cp_async16(shared + 16 * gpu::lane_id() + 4, p.out);
    gpu::cp_async_commit();
    gpu::cp_async_wait<0>();
}

GPU_KERNEL(32, 1) misaligned_matrix_kernel(SmallParams p) {
    GPU_DYNAMIC_SMEM(shared);
    uint32_t r[4];
    gpu::ldmatrix_x4(r, shared + 8 * gpu::lane_id());
    p.out[gpu::lane_id()] = static_cast<int32_t>(r[0]);
}

GPU_KERNEL(32, 1) overflow_kernel(SmallParams p) {
    GPU_DYNAMIC_SMEM(shared);
    for (int i = 0; i < 300; ++i) gpu::cp_async4(shared + 4 * gpu::lane_id(), p.out);
    gpu::cp_async_commit();
    gpu::cp_async_wait<0>();
}

GPU_KERNEL(32, 1) bad_shuffle_kernel(SmallParams p) { p.out[gpu::lane_id()] = gpu::shfl_xor(gpu::lane_id(), 32); }

GPU_KERNEL(64, 1) right_kernel(SmallParams p) {
    gpu::sync_threads();
    p.out[gpu::thread_x()] = gpu::warp_reduce_add(1);
}

GPU_KERNEL(64, 1) block_race_kernel(SmallParams p) {
    gpu::sync_threads();
    if (gpu::thread_x() == 0) p.out[0] = gpu::block_x();
    gpu::sync_threads();
}

struct WrongKernel {
    void (*kernel)(SmallParams);
    int threads;
    simt::Error error;
    const char *says;
};

TEST(SeededBug, SmallKernelsAreStoppedAndTheNextOneRuns) {
    const WrongKernel wrong[] = {
        {divergent_shuffle_kernel, 32, simt::kDivergence, "lanes disagree"}, {early_return_kernel, 64, simt::kDivergence, "has ended"},
        {deadlock_kernel, 64, simt::kDeadlock, "no thread can go on"},       {misaligned_copy_kernel, 32, simt::kMisaligned, "cp_async"},
        {misaligned_matrix_kernel, 32, simt::kMisaligned, "ldmatrix"},       {overflow_kernel, 32, simt::kAsyncOverflow, "256 copies"},
        {bad_shuffle_kernel, 32, simt::kBadArgument, "outside 0..31"},
    };
    alignas(16) int32_t out[64];
    for (const WrongKernel &test : wrong) {
        for (uint64_t seed = 1; seed <= 5; ++seed) {
            const WithOptions options(seed, simt::AsyncMode::kRandom);
            EXPECT_EQ(GPU_LAUNCH(test.kernel, 3, test.threads, 512, nullptr, {out}), test.error) << simt::last_error();
            EXPECT_NE(std::strstr(simt::last_error(), test.says), nullptr) << simt::last_error();
            EXPECT_NE(std::strstr(simt::last_error(), "; seed "), nullptr) << simt::last_error();
            ASSERT_EQ(GPU_LAUNCH(right_kernel, 1, 64, 0, nullptr, {out}), 0) << simt::last_error();
            EXPECT_EQ(out[63], 32);
        }
    }
}

TEST(SeededBug, RaceBetweenBlocksIsSeenByTheThreadSanitizer) {
    if (!kThreadSanitizer) GTEST_SKIP() << "needs a build with STRATA_SANITIZE=thread";
    const int before = reported_races();
    int32_t out[1];
    ASSERT_EQ(GPU_LAUNCH(block_race_kernel, 4, 64, 0, nullptr, {out}), 0) << simt::last_error();
    EXPECT_GT(reported_races(), before);
}

TEST(Launch, RefusesSizesThatNoGpuTakes) {
    int32_t out[64];
    const auto refused = [&](gpu::Dim3 grid, gpu::Dim3 block, size_t smem, const char *says) {
        EXPECT_EQ(GPU_LAUNCH(right_kernel, grid, block, smem, nullptr, {out}), simt::kBadLaunch);
        EXPECT_NE(std::strstr(simt::last_error(), says), nullptr) << simt::last_error();
    };
    refused(1, 0, 0, "block is 0,1,1");
    refused(1, 48, 0, "multiple of 32");
    refused(1, 2048, 0, "1024 at most");
    refused(1, {64, 64, 1}, 0, "1024 at most");
    refused(0, 64, 0, "grid is 0,1,1");
    refused({1, 70000}, 64, 0, "65535");
    refused({65536, 65535, 2}, 64, 0, "2147483647");
    refused(1, 64, 228 * 1024, "233472 bytes of shared memory");
}

} // namespace
