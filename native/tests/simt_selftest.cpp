// SPDX-License-Identifier: Apache-2.0
// Every intrinsic of gpu.h on the host against its plain formula.
#include "simt_selftest.h"

#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int kLanes = 32;

double half_by_definition(uint16_t x) {
    const int exponent = x >> 10 & 31, fraction = x & 1023;
    const double sign = (x & 0x8000) != 0 ? -1 : 1;
    if (exponent == 31) return fraction != 0 ? std::nan("") : sign * HUGE_VAL;
    return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

TEST(Half, WidensEveryValueExactly) {
    for (uint32_t x = 0; x < 0x10000; ++x) {
        const double expected = half_by_definition(static_cast<uint16_t>(x));
        const float got = gpu::f16_to_f32(static_cast<uint16_t>(x));
        if (std::isnan(expected))
            EXPECT_TRUE(std::isnan(got)) << x;
        else
            EXPECT_EQ(expected, got) << x;
    }
}

TEST(Half, RoundsToNearestEven) {
    for (uint32_t x = 0; x < 0x7c00; ++x) {
        const auto low = static_cast<uint16_t>(x);
        const float exact = gpu::f16_to_f32(low);
        const double next = x + 1 < 0x7c00 ? half_by_definition(static_cast<uint16_t>(x + 1)) : 65536.0;
        const auto middle = static_cast<float>((exact + next) / 2);
        const auto even = static_cast<uint16_t>(x + (x & 1));
        EXPECT_EQ(gpu::f32_to_f16(exact), low);
        EXPECT_EQ(gpu::f32_to_f16(-exact), low | 0x8000);
        EXPECT_EQ(gpu::f32_to_f16(middle), even) << x;
        EXPECT_EQ(gpu::f32_to_f16(std::nextafterf(middle, 0.0f)), low) << x;
        EXPECT_EQ(gpu::f32_to_f16(std::nextafterf(middle, 1e9f)), x + 1) << x;
        EXPECT_EQ(simt::f64_to_f16(std::nextafter((exact + next) / 2, 0.0)), low) << x;
        EXPECT_EQ(simt::f64_to_f16(std::nextafter((exact + next) / 2, 1e9)), x + 1) << x;
    }
    EXPECT_EQ(gpu::f32_to_f16(NAN), 0x7fff);
    EXPECT_EQ(gpu::f32_to_f16(INFINITY), 0x7c00);
    EXPECT_EQ(gpu::f32_to_f16(-1e30f), 0xfc00);
}

TEST(Half, BfloatRoundsToNearestEven) {
    for (uint32_t x = 0; x < 0x7f80; ++x) {
        const float exact = gpu::bf16_to_f32(static_cast<uint16_t>(x));
        EXPECT_EQ(gpu::f32_to_bf16(exact), x);
        EXPECT_EQ(gpu::f32_to_bf16(gpu::as_float(x << 16 | 0x8000u)), x + (x & 1));
        EXPECT_EQ(gpu::f32_to_bf16(gpu::as_float(x << 16 | 0x7fffu)), x);
        EXPECT_EQ(gpu::f32_to_bf16(gpu::as_float(x << 16 | 0x8001u)), x + 1);
    }
    EXPECT_EQ(gpu::f32_to_bf16(NAN), 0x7fff);
    EXPECT_EQ(gpu::f32_to_bf16(-INFINITY), 0xff80);
}

TEST(Half, PairArithmeticRoundsOnce) {
    // 1 + 2^-11 is a tie; the product's last bits decide it, which a second rounding would lose.
    const uint32_t one = 0x3c00, tiny = gpu::f32_to_f16(0x1p-11f), above = gpu::f32_to_f16(1.0f + 0x1p-10f);
    EXPECT_EQ(gpu::hfma2(tiny, one, one), one);
    EXPECT_EQ(gpu::hfma2(tiny, above, one), one + 1);
    EXPECT_EQ(gpu::hfma2(tiny << 16, above << 16, one << 16), (one + 1) << 16);
    EXPECT_EQ(gpu::hsub2(0x64086408u, 0x64086408u), 0u);
    EXPECT_EQ(gpu::hadd2(one | one << 16, one), 0x3c004000u);
    EXPECT_EQ(gpu::hmul2(0x42004200u, 0x40003c00u), 0x46004200u);
}

TEST(Bits, Int4CodesBecomeHalves) {
    constexpr int kAndOr = (gpu::kLopA & gpu::kLopB) | gpu::kLopC;
    for (uint32_t i = 0; i < 65536; ++i) {
        const uint32_t codes = i * 2654435761u;
        const uint32_t even = gpu::hsub2(gpu::lop3<kAndOr>(codes, 0x000f000fu, 0x64006400u), 0x64086408u);
        const uint32_t odd = gpu::hfma2(gpu::lop3<kAndOr>(codes, 0x00f000f0u, 0x64006400u), 0x2c002c00u, 0xd480d480u);
        ASSERT_EQ(gpu::f16_low(even), static_cast<float>(codes & 15) - 8);
        ASSERT_EQ(gpu::f16_high(even), static_cast<float>(codes >> 16 & 15) - 8);
        ASSERT_EQ(gpu::f16_low(odd), static_cast<float>(codes >> 4 & 15) - 8);
        ASSERT_EQ(gpu::f16_high(odd), static_cast<float>(codes >> 20 & 15) - 8);
    }
}

TEST(Bits, PermuteAndCount) {
    EXPECT_EQ(gpu::prmt(0x33221100u, 0x77665544u, 0x6240u), 0x66224400u);
    EXPECT_EQ(gpu::prmt(0x00000080u, 0, 0x0008u), 0x808080ffu);
    EXPECT_EQ((gpu::lop3<(gpu::kLopA & gpu::kLopB) ^ gpu::kLopC>(0xff00ff00u, 0x0ff00ff0u, 0x12345678u)), (0xff00ff00u & 0x0ff00ff0u) ^ 0x12345678u);
    EXPECT_EQ(gpu::clz(0), 32);
    EXPECT_EQ(gpu::clz(1), 31);
    EXPECT_EQ(gpu::popc(0xf0f0u), 8);
    EXPECT_EQ(gpu::float_to_int(2.5f), 2);
    EXPECT_EQ(gpu::float_to_int(-3e9f), INT32_MIN);
    EXPECT_EQ(gpu::float_to_int(NAN), 0);
    EXPECT_EQ(gpu::max(NAN, 1.0f), 1.0f);
}

TEST(Arithmetic, SineAndCosineOfLongContexts) {
    for (int i = -2000; i < 200000; ++i) {
        const double angle = i * 0.7318 + (i % 7) * 1000.0;
        float sine = 0, cosine = 0;
        gpu::sincos(angle, sine, cosine);
        ASSERT_NEAR(sine, std::sin(angle), 1.2e-7) << angle;
        ASSERT_NEAR(cosine, std::cos(angle), 1.2e-7) << angle;
    }
    float sine = 0, cosine = 0;
    gpu::sincos(99999999.25, sine, cosine);
    EXPECT_NEAR(sine, std::sin(99999999.25), 1.2e-7);
}

// ---- one warp at a time --------------------------------------------------------------------------------------------

struct MatrixParams {
    const uint16_t *matrices; // 4 of 8x8
    uint32_t *out;            // [variant 6][register 4][lane 32]
};

GPU_KERNEL(32, 1) matrix_kernel(MatrixParams p) {
    GPU_DYNAMIC_SMEM(shared);
    const int lane = gpu::lane_id();
    gpu::store16(shared + 16 * lane, gpu::load16(p.matrices + 8 * lane));
    gpu::sync_warp();
    const void *row = shared + 16 * lane;
    uint32_t x1[1], x2[2], x4[4];
    const auto put = [&](int variant, const uint32_t *r, int count) {
        for (int j = 0; j < count; ++j) p.out[(variant * 4 + j) * kLanes + lane] = r[j];
    };
    gpu::ldmatrix_x1(x1, row);
    put(0, x1, 1);
    gpu::ldmatrix_x2(x2, row);
    put(1, x2, 2);
    gpu::ldmatrix_x4(x4, row);
    put(2, x4, 4);
    gpu::ldmatrix_x1_trans(x1, row);
    put(3, x1, 1);
    gpu::ldmatrix_x2_trans(x2, row);
    put(4, x2, 2);
    gpu::ldmatrix_x4_trans(x4, row);
    put(5, x4, 4);
}

TEST(Warp, LdmatrixFollowsItsFormula) {
    alignas(16) uint16_t matrices[4 * 64];
    for (int i = 0; i < 256; ++i) matrices[i] = static_cast<uint16_t>(i * 257);
    std::vector<uint32_t> out(6 * 4 * kLanes);
    ASSERT_EQ(GPU_LAUNCH(matrix_kernel, 1, 32, 512, nullptr, {matrices, out.data()}), 0) << simt::last_error();
    const int counts[6] = {1, 2, 4, 1, 2, 4};
    for (int variant = 0; variant < 6; ++variant) {
        for (int j = 0; j < counts[variant]; ++j) {
            for (int lane = 0; lane < kLanes; ++lane) {
                const auto at = [&](int row, int column) { return uint32_t{matrices[64 * j + 8 * row + column]}; };
                const int g = lane / 4, c = 2 * (lane % 4);
                const uint32_t expected = variant < 3 ? at(g, c) | at(g, c + 1) << 16 : at(c, g) | at(c + 1, g) << 16;
                EXPECT_EQ(out[static_cast<size_t>((variant * 4 + j) * kLanes + lane)], expected);
            }
        }
    }
}

struct MmaParams {
    const uint16_t *a16, *b16; // fp16 A [16][16] and B [8 n][16 k]
    const uint16_t *abf, *bbf; // the same in bf16
    const int8_t *a8, *b8;     // A [16][32], B [8 n][32 k]
    float *c16, *cbf;          // [16][8]
    int32_t *c8;
};

GPU_KERNEL(32, 1) mma_kernel(MmaParams p) {
    const int lane = gpu::lane_id(), g = lane >> 2, q = lane & 3;
    const auto word = [](const void *base, int byte) { return *reinterpret_cast<const uint32_t *>(static_cast<const char *>(base) + byte); };
    // Rows are 32 bytes in all three formats, so one walk gathers the fragments of all.
    const auto multiply = [&](const void *a, const void *b, auto &c, auto mma) {
        uint32_t fragment[4];
        for (int i = 0; i < 4; ++i) fragment[i] = word(a, 32 * (g + 8 * (i & 1)) + 4 * q + 16 * (i >> 1));
        mma(c, fragment, word(b, 32 * g + 4 * q), word(b, 32 * g + 4 * q + 16));
    };
    float c16[4] = {1, 2, 3, 4}, cbf[4] = {};
    int32_t c8[4] = {5, 6, 7, 8};
    multiply(p.a16, p.b16, c16, [](auto &c, auto &a, uint32_t b0, uint32_t b1) { gpu::mma_f16(c, a, b0, b1); });
    multiply(p.abf, p.bbf, cbf, [](auto &c, auto &a, uint32_t b0, uint32_t b1) { gpu::mma_bf16(c, a, b0, b1); });
    multiply(p.a8, p.b8, c8, [](auto &c, auto &a, uint32_t b0, uint32_t b1) { gpu::mma_s8(c, a, b0, b1); });
    for (int i = 0; i < 4; ++i) {
        const int at = (g + 8 * (i >> 1)) * 8 + 2 * q + (i & 1);
        p.c16[at] = c16[i];
        p.cbf[at] = cbf[i];
        p.c8[at] = c8[i];
    }
}

TEST(Warp, MmaMultiplies) {
    alignas(16) uint16_t a16[16 * 16], b16[8 * 16], abf[16 * 16], bbf[8 * 16];
    alignas(16) int8_t a8[16 * 32], b8[8 * 32];
    for (int r = 0; r < 16; ++r) {
        for (int k = 0; k < 16; ++k) {
            a16[16 * r + k] = gpu::f32_to_f16(test_value(r, k));
            abf[16 * r + k] = gpu::f32_to_bf16(test_value(r, k));
            if (r < 8) b16[16 * r + k] = gpu::f32_to_f16(test_value(k, r + 3));
            if (r < 8) bbf[16 * r + k] = gpu::f32_to_bf16(test_value(k, r + 3));
        }
        for (int k = 0; k < 32; ++k) {
            a8[32 * r + k] = static_cast<int8_t>(r * 91 + k * 17 + 128);
            if (r < 8) b8[32 * r + k] = static_cast<int8_t>(r * 57 + k * 29 + 127);
        }
    }
    float c16[128], cbf[128];
    int32_t c8[128];
    ASSERT_EQ(GPU_LAUNCH(mma_kernel, 1, 32, 0, nullptr, {a16, b16, abf, bbf, a8, b8, c16, cbf, c8}), 0) << simt::last_error();
    for (int r = 0; r < 16; ++r) {
        for (int n = 0; n < 8; ++n) {
            const int first = 2 * (r / 8) + (n & 1); // the accumulator's register, which sets its start
            float halves = 0;
            int32_t bytes = 0;
            for (int k = 0; k < 16; ++k) halves += test_value(r, k) * test_value(k, n + 3);
            for (int k = 0; k < 32; ++k) bytes += a8[32 * r + k] * b8[32 * n + k];
            EXPECT_NEAR(c16[8 * r + n], halves + static_cast<float>(1 + first), 1e-5f);
            EXPECT_NEAR(cbf[8 * r + n], halves, 1e-5f);
            EXPECT_EQ(c8[8 * r + n], bytes + 5 + first);
        }
    }
}

struct WarpgroupParams {
    float *rows, *columns; // [64][128]: against rows of the operand, and against its columns
};

constexpr int kOperandRows = 128, kHalfBytes = kOperandRows * 128;

/// Where chunk c of row r lies in a half block of 64 columns.
GPU_DEVICE uint16_t *operand_chunk(unsigned char *half, int row, int chunk) {
    return reinterpret_cast<uint16_t *>(half + row * 128 + (chunk ^ (row & 7)) * 16);
}

template <bool Bf16>
GPU_KERNEL(128, 1)
warpgroup_kernel(WarpgroupParams p) {
    GPU_DYNAMIC_SMEM(smem);
    const int lane = gpu::lane_id(), g = lane >> 2, q = lane & 3;
    const auto narrow = [](float x) { return Bf16 ? gpu::f32_to_bf16(x) : gpu::f32_to_f16(x); };
    for (int i = gpu::thread_x(); i < kOperandRows * 16; i += 128) {
        const int row = i / 16, chunk = i % 16;
        uint16_t *to = operand_chunk(smem + chunk / 8 * kHalfBytes, row, chunk % 8);
        for (int e = 0; e < 8; ++e) to[e] = narrow(test_value(row, 8 * chunk + e));
    }
    uint32_t a[1][4];
    for (int i = 0; i < 4; ++i) {
        const int row = 16 * gpu::warp_id() + g + 8 * (i & 1), k = 2 * q + 8 * (i >> 1);
        a[0][i] = narrow(test_value(row, k + 100)) | uint32_t{narrow(test_value(row, k + 101))} << 16;
    }
    float rows[16][4] = {}, columns[16][4];
    for (auto &tile : columns)
        for (float &d : tile) d = 1.0f;
    gpu::publish_to_warpgroups();
    gpu::sync_threads();
    gpu::warpgroup_hold(a);
    gpu::warpgroup_start();
    // Channels 80 ... 95 of all rows; rows 32 ... 47 of all channels.
    gpu::warpgroup_multiply<128, Bf16, true>(rows, a[0], gpu::warpgroup_operand(smem + kHalfBytes + 32, kHalfBytes), false);
    gpu::warpgroup_multiply<128, Bf16, false>(columns, a[0], gpu::warpgroup_operand(smem + 32 * 128, kHalfBytes), true);
    gpu::warpgroup_commit();
    gpu::warpgroup_wait<0>();
    gpu::warpgroup_hold(rows);
    gpu::warpgroup_hold(columns);
    for (int n = 0; n < 16; ++n) {
        for (int i = 0; i < 4; ++i) {
            const int at = (16 * gpu::warp_id() + g + 8 * (i >> 1)) * 128 + 8 * n + 2 * q + (i & 1);
            p.rows[at] = rows[n][i];
            p.columns[at] = columns[n][i];
        }
    }
}

TEST(Warp, WarpgroupsMultiply) {
    for (const bool bf16 : {false, true}) {
        std::vector<float> rows(64 * 128), columns(64 * 128);
        const WarpgroupParams params{rows.data(), columns.data()};
        const int error = bf16 ? GPU_LAUNCH(warpgroup_kernel<true>, 1, 128, 2 * kHalfBytes, nullptr, params)
                               : GPU_LAUNCH(warpgroup_kernel<false>, 1, 128, 2 * kHalfBytes, nullptr, params);
        ASSERT_EQ(error, 0) << simt::last_error();
        for (int m = 0; m < 64; ++m) {
            for (int n = 0; n < 128; ++n) {
                float by_rows = 0, by_columns = 1;
                for (int k = 0; k < 16; ++k) {
                    by_rows += test_value(m, k + 100) * test_value(n, k + 80);
                    by_columns += test_value(m, k + 100) * test_value(k + 32, n);
                }
                EXPECT_NEAR(rows[static_cast<std::size_t>(128 * m + n)], by_rows, 1e-5f);
                EXPECT_NEAR(columns[static_cast<std::size_t>(128 * m + n)], by_columns, 1e-5f);
            }
        }
    }
}

struct ExchangeParams {
    int32_t *out; // [16][lane]
};

GPU_KERNEL(64, 1) exchange_kernel(ExchangeParams p) {
    const int lane = gpu::lane_id(), warp = gpu::warp_id();
    const int value = 100 * warp + lane * lane;
    int32_t got[16] = {
        gpu::shfl(value, (lane + 5) & 31),
        gpu::shfl_xor(value, 9),
        gpu::shfl_up(value, 3),
        gpu::shfl_down(value, 30),
        static_cast<int32_t>(gpu::ballot(lane % 3 == 0)),
        gpu::any(lane == 31 && warp == 0),
        gpu::all(lane < 32 - warp),
        gpu::warp_reduce_add(value),
        gpu::warp_reduce_max(value),
        gpu::warp_reduce_min(-value),
        static_cast<int32_t>(gpu::warp_reduce_add(static_cast<float>(value))),
        static_cast<int32_t>(gpu::warp_reduce_max(lane == 7 ? NAN : static_cast<float>(value))),
        static_cast<int32_t>(gpu::shfl(static_cast<float>(value), 4)),
        static_cast<int32_t>(gpu::shfl_up(static_cast<uint32_t>(value), 1)),
        static_cast<int32_t>(gpu::shfl_down(static_cast<float>(value), 1)),
        static_cast<int32_t>(gpu::warp_reduce_max(static_cast<uint32_t>(value))),
    };
    for (int i = 0; i < 16; ++i) p.out[(16 * warp + i) * kLanes + lane] = got[i];
}

TEST(Warp, LanesExchange) {
    for (const simt::Order order : kOrders) {
        const WithOptions options(7, simt::AsyncMode::kRandom, order);
        std::vector<int32_t> out(2 * 16 * kLanes);
        ASSERT_EQ(GPU_LAUNCH(exchange_kernel, 1, 64, 0, nullptr, {out.data()}), 0) << simt::last_error();
        for (int warp = 0; warp < 2; ++warp) {
            const auto value = [&](int lane) { return 100 * warp + lane * lane; };
            int sum = 0;
            for (int lane = 0; lane < kLanes; ++lane) sum += value(lane);
            for (int lane = 0; lane < kLanes; ++lane) {
                const int expected[16] = {value((lane + 5) & 31),
                                          value(lane ^ 9),
                                          value(lane >= 3 ? lane - 3 : lane),
                                          value(lane < 2 ? lane + 30 : lane),
                                          0x49249249,
                                          warp == 0,
                                          warp == 0,
                                          sum,
                                          value(31),
                                          -value(31),
                                          sum,
                                          value(31),
                                          value(4),
                                          value(lane >= 1 ? lane - 1 : lane),
                                          value(lane < 31 ? lane + 1 : lane),
                                          value(31)};
                for (int i = 0; i < 16; ++i) EXPECT_EQ(out[static_cast<size_t>((16 * warp + i) * kLanes + lane)], expected[i]) << i << " " << lane;
            }
        }
    }
}

// ---- copies, blocks, atomics ---------------------------------------------------------------------------------------

struct CopyParams {
    const float *from;
    float *to, *early;
    int count;
};

GPU_KERNEL(64, 1) copy_kernel(CopyParams p) {
    GPU_DYNAMIC_SMEM(shared);
    auto *tile = reinterpret_cast<float *>(shared);
    const int t = gpu::thread_x();
    gpu::cp_async16(tile + 4 * t, p.from + 4 * t, 4 * t < p.count);
    gpu::cp_async_commit();
    gpu::cp_async4(tile + 256 + t, p.from + t, t < p.count);
    gpu::cp_async_commit();
    gpu::cp_async8(tile + 320 + 2 * t, p.from + 2 * t, 2 * t < p.count);
    gpu::cp_async_commit();
    p.early[t] = tile[256 + t];
    gpu::cp_async_wait<0>();
    gpu::sync_threads();
    for (int i = t; i < 448; i += 64) p.to[i] = tile[447 - i];
}

TEST(Copies, LandWhenWaitedForAndReadAsNanBefore) {
    alignas(16) float from[256];
    for (int i = 0; i < 256; ++i) from[i] = static_cast<float>(i + 1);
    constexpr int kCount = 40;
    for (const simt::AsyncMode mode : kAsyncModes) {
        const WithOptions options(3, mode);
        std::vector<float> to(448), early(64);
        ASSERT_EQ(GPU_LAUNCH(copy_kernel, 1, 64, 448 * 4, nullptr, {from, to.data(), early.data(), kCount}), 0);
        for (int i = 0; i < 448; ++i) {
            const int at = i < 256 ? i : i < 320 ? i - 256 : i - 320;
            EXPECT_EQ(to[static_cast<size_t>(447 - i)], at < kCount ? from[at] : 0) << i;
        }
        int unwritten = 0;
        for (const float value : early) unwritten += std::isnan(value) ? 1 : 0;
        const int least = mode == simt::AsyncMode::kAtWait ? 64 : mode == simt::AsyncMode::kRandom ? 1 : 0;
        const int most = mode == simt::AsyncMode::kAtWait ? 64 : mode == simt::AsyncMode::kRandom ? 63 : 0;
        EXPECT_GE(unwritten, least);
        EXPECT_LE(unwritten, most);
    }
}

struct SumParams {
    const int32_t *values;
    int32_t *partial, *total;
    uint32_t *arrived, *maximum, *bits;
    int n;
};

GPU_KERNEL(96, 1) sum_kernel(SumParams p) {
    GPU_DYNAMIC_SMEM(shared);
    auto *words = reinterpret_cast<int32_t *>(shared); // [0] sum, [1] is this block the last
    const int t = gpu::thread_x(), b = gpu::block_x(), blocks = gpu::grid_dim_x();
    if (t == 0) words[0] = 0;
    gpu::sync_threads();
    const int i = b * 96 + t;
    gpu::atomic_add(words, i < p.n ? p.values[i] : 0);
    gpu::atomic_max(p.maximum, static_cast<uint32_t>(i));
    gpu::atomic_or(p.bits, 1u << (t & 31));
    gpu::sync_threads();
    if (t == 0) {
        p.partial[b] = words[0];
        gpu::threadfence();
        words[1] = gpu::atomic_inc(p.arrived, static_cast<uint32_t>(blocks - 1)) == static_cast<uint32_t>(blocks - 1);
        gpu::threadfence();
    }
    gpu::sync_threads();
    if (words[1] != 0 && t == 0) {
        int32_t sum = 0;
        for (int k = 0; k < blocks; ++k) sum += p.partial[k];
        *p.total = sum;
    }
}

TEST(Blocks, LastArriverFinishesInAnyOrder) {
    std::vector<int32_t> values(1000), partial(11);
    for (int i = 0; i < 1000; ++i) values[static_cast<size_t>(i)] = i;
    const int races = reported_races();
    for (uint64_t seed = 1; seed <= 4; ++seed) {
        for (const simt::Order order : kOrders) {
            const WithOptions options(seed, simt::AsyncMode::kRandom, order);
            int32_t total = 0;
            uint32_t arrived = 0, maximum = 0, bits = 0;
            const SumParams params{values.data(), partial.data(), &total, &arrived, &maximum, &bits, 1000};
            ASSERT_EQ(GPU_LAUNCH(sum_kernel, 11, 96, 8, nullptr, params), 0) << simt::last_error();
            EXPECT_EQ(total, 499500);
            EXPECT_EQ(arrived, 0u);
            EXPECT_EQ(maximum, 11u * 96 - 1);
            EXPECT_EQ(bits, 0xffffffffu);
        }
    }
    EXPECT_EQ(reported_races(), races);
}

struct IndexParams {
    int32_t *out;
};

GPU_KERNEL(64, 1) index_kernel(IndexParams p) {
    const int t = gpu::thread_x() + gpu::block_dim_x() * (gpu::thread_y() + gpu::block_dim_y() * gpu::thread_z());
    const int b = gpu::block_x() + gpu::grid_dim_x() * (gpu::block_y() + gpu::grid_dim_y() * gpu::block_z());
    const int threads = gpu::block_dim_x() * gpu::block_dim_y() * gpu::block_dim_z();
    gpu::atomic_add(p.out + b * threads + t, 1);
    gpu::sync_threads();
}

TEST(Blocks, EveryThreadOfEveryBlockRunsOnce) {
    std::vector<int32_t> out(3 * 2 * 2 * 64);
    ASSERT_EQ(GPU_LAUNCH(index_kernel, {3, 2, 2}, {8, 4, 2}, 0, nullptr, {out.data()}), 0) << simt::last_error();
    for (const int32_t count : out) EXPECT_EQ(count, 1);
    const int most = kThreadSanitizer ? 256 : 1024; // each thread costs the race detector milliseconds
    std::vector<int32_t> large(static_cast<size_t>(2 * most));
    ASSERT_EQ(GPU_LAUNCH(index_kernel, 2, most, 0, nullptr, {large.data()}), 0) << simt::last_error();
    for (const int32_t count : large) EXPECT_EQ(count, 1);
}

TEST(Blocks, TwoThreadsOfTheHostRunTwoLaunches) {
    const auto work = [](int32_t *total) {
        std::vector<int32_t> values(1000, 3), partial(11);
        for (int i = 0; i < 5; ++i) {
            uint32_t arrived = 0, maximum = 0, bits = 0;
            const SumParams params{values.data(), partial.data(), total, &arrived, &maximum, &bits, 1000};
            if (GPU_LAUNCH(sum_kernel, 11, 96, 8, nullptr, params) != 0) *total = -1;
        }
    };
    int32_t first = 0, second = 0;
    std::thread other(work, &second);
    work(&first);
    other.join();
    EXPECT_EQ(first, 3000);
    EXPECT_EQ(second, 3000);
}

} // namespace
