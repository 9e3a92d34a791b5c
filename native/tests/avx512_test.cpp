// SPDX-License-Identifier: Apache-2.0
// What AVX-512 instructions do where it is easy to get wrong, by hand-computed values. Compiled with the flags of the avx512vnni kernels: on a
// processor that has it this tests the expectations, in a build that emulates it (STRATA_EMULATE) the emulation.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <immintrin.h>
#include <limits>
#include <sys/mman.h>
#include <unistd.h>

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kLeast = std::numeric_limits<int>::min();
constexpr int kMost = std::numeric_limits<int>::max();
constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// A register of the given lanes, the first at the bottom; those that are not given are zero.
template <class V, class T, class... Rest>
V reg(T first, Rest... rest) {
    const std::array<T, sizeof(V) / sizeof(T)> lanes{first, static_cast<T>(rest)...};
    V v;
    std::memcpy(&v, &lanes, sizeof v);
    return v;
}

/// Lane l is f(l).
template <class V, class T, class F>
V each(F f) {
    std::array<T, sizeof(V) / sizeof(T)> lanes;
    for (std::size_t i = 0; i < lanes.size(); ++i) {
        lanes[i] = static_cast<T>(f(static_cast<int>(i)));
    }
    V v;
    std::memcpy(&v, &lanes, sizeof v);
    return v;
}
template <class V, class T>
V counting() {
    return each<V, T>([](int i) { return i; });
}

template <class T, class V>
T lane(const V &v, int l) {
    T value;
    std::memcpy(&value, reinterpret_cast<const unsigned char *>(&v) + static_cast<std::size_t>(l) * sizeof(T), sizeof value);
    return value;
}
std::uint32_t bits(float x) { return __builtin_bit_cast(std::uint32_t, x); }
float from_bits(std::uint32_t x) { return __builtin_bit_cast(float, x); }
float power(int n) { return std::ldexp(1.0F, n); }

/// The first lanes are those, bit by bit.
template <class T, class V, std::size_t N>
void expect_lanes(const V &v, const T (&wanted)[N], const char *what = "") {
    for (int l = 0; l < static_cast<int>(N); ++l) {
        const T got = lane<T>(v, l);
        EXPECT_EQ(std::memcmp(&got, &wanted[l], sizeof(T)), 0) << what << " lane " << l << ": " << +got << ", not " << +wanted[l];
    }
}

/// A register of bfloat16 pairs, each lane (even, odd), all lanes the same.
__m512bh pairs(float even, float odd) {
    return __builtin_bit_cast(__m512bh, _mm512_set1_epi32(static_cast<int>((bits(odd) & 0xffff0000u) | (bits(even) >> 16))));
}
float dot(float sum, __m512bh a, __m512bh b) {
    const __m512 r = _mm512_dpbf16_ps(_mm512_set1_ps(sum), a, b);
    EXPECT_EQ(bits(lane<float>(r, 0)), bits(lane<float>(r, 15)));
    return lane<float>(r, 0);
}

/// Memory that ends where the next byte may not be touched.
class EndOfPage : public testing::Test {
protected:
    void SetUp() override {
        page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        base_ = static_cast<unsigned char *>(mmap(nullptr, 2 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        ASSERT_NE(base_, MAP_FAILED);
        ASSERT_EQ(mprotect(base_ + page_, page_, PROT_NONE), 0);
    }
    void TearDown() override { munmap(base_, 2 * page_); }
    /// The last n numbers, which are 1 ... n.
    template <class T>
    T *last(int n) {
        T *p = reinterpret_cast<T *>(base_ + page_) - n;
        for (int i = 0; i < n; ++i) {
            p[i] = static_cast<T>(i + 1);
        }
        return p;
    }

private:
    std::size_t page_ = 0;
    unsigned char *base_ = nullptr;
};

} // namespace

TEST(Bf16, Dot_OddPairFirst) {
    EXPECT_EQ(dot(1.0F, pairs(power(-30), -1.0F), pairs(1.0F, 1.0F)), power(-30)); // the other way 2^-30 is lost in 1
    EXPECT_EQ(dot(1.0F, pairs(-1.0F, power(-30)), pairs(1.0F, 1.0F)), 0.0F);
}

TEST(Bf16, Dot_ProductIsNotRounded) {
    EXPECT_EQ(dot(-power(127), pairs(0.0F, power(127)), pairs(0.0F, 2.0F)), power(127)); // the product alone is infinite
}

TEST(Bf16, Dot_DenormalsAreZeros) {
    const float denormal = from_bits(0x00010000); // a bfloat16 too
    EXPECT_EQ(bits(dot(denormal, pairs(0.0F, 0.0F), pairs(0.0F, 0.0F))), 0u);
    EXPECT_EQ(dot(0.0F, pairs(denormal, denormal), pairs(power(120), power(120))), 0.0F);
    EXPECT_EQ(dot(0.0F, pairs(power(-100), 0.0F), pairs(power(-40), 0.0F)), 0.0F);                   // the result
    EXPECT_EQ(dot(0.0F, pairs(power(-70), power(-70)), pairs(power(-56), power(-57))), power(-126)); // the step between: 2^-127 is gone
    EXPECT_EQ(dot(0.0F, pairs(power(-63), 0.0F), pairs(power(-63), 0.0F)), power(-126));
}

TEST(Bf16, Dot_RoundsToNearestEvenWhateverMxcsrSays) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr((before & ~0x6000u) | 0x4000u); // up
    const float low = dot(1.0F, pairs(power(-24), 0.0F), pairs(1.0F, 0.0F));
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    EXPECT_EQ(low, 1.0F);
    EXPECT_EQ(after & 0x6000u, 0x4000u);
    EXPECT_EQ(dot(1.0F + power(-23), pairs(power(-24), 0.0F), pairs(1.0F, 0.0F)), 1.0F + power(-22));
}

TEST(Bf16, Dot_InfinityAndNan) {
    EXPECT_EQ(dot(0.0F, pairs(kInfinity, 1.0F), pairs(1.0F, 1.0F)), kInfinity);
    EXPECT_TRUE(std::isnan(dot(0.0F, pairs(kInfinity, 0.0F), pairs(0.0F, 0.0F))));
    EXPECT_TRUE(std::isnan(dot(kNan, pairs(0.0F, 0.0F), pairs(0.0F, 0.0F))));
}

TEST(Bf16, Dot_MasksAndShorterRegisters) {
    const __m512bh one = pairs(1.0F, 2.0F);
    const __m512 sum = counting<__m512, float>();
    expect_lanes<float>(_mm512_mask_dpbf16_ps(sum, 0x5, one, one), {5, 1, 7, 3});
    expect_lanes<float>(_mm512_maskz_dpbf16_ps(0x5, sum, one, one), {5, 0, 7, 0});
    __m256bh half;
    __m128bh quarter;
    std::memcpy(&half, &one, sizeof half);
    std::memcpy(&quarter, &one, sizeof quarter);
    expect_lanes<float>(_mm256_dpbf16_ps(counting<__m256, float>(), half, half), {5, 6, 7, 8, 9, 10, 11, 12});
    expect_lanes<float>(_mm_dpbf16_ps(counting<__m128, float>(), quarter, quarter), {5, 6, 7, 8});
}

TEST(Bf16, Convert_TiesDenormalsNan) {
    const __m512 a =
        reg<__m512>(1.0F, from_bits(0x3f808000), from_bits(0x3f818000), from_bits(0x3f808001), from_bits(0x007fffff), from_bits(0x80000001),
                    kInfinity, from_bits(0x7f800001), from_bits(0xffc12345), from_bits(0x7f7fffff), -2.0F, 0.0F, -0.0F, 3.0F, 4.0F, 5.0F);
    const std::uint16_t wanted[16] = {0x3f80, 0x3f80, 0x3f82, 0x3f81, 0,      0x8000, 0x7f80, 0x7fc0,
                                      0xffc1, 0x7f80, 0xc000, 0,      0x8000, 0x4040, 0x4080, 0x40a0};
    expect_lanes(_mm512_cvtneps_pbh(a), wanted);
    const __m512bh two = _mm512_cvtne2ps_pbh(_mm512_set1_ps(7.0F), a); // the second argument is the lower half
    expect_lanes(two, wanted);
    EXPECT_EQ(lane<std::uint16_t>(two, 16), 0x40e0);
    EXPECT_EQ(lane<std::uint16_t>(two, 31), 0x40e0);
}

TEST(Vnni, Bytes_WrapAndDoNotSaturateInside) {
    const __m512i u = _mm512_set1_epi8(-1); // 255
    const __m512i s = _mm512_set1_epi8(-128);
    expect_lanes<int>(_mm512_dpbusd_epi32(_mm512_setzero_si512(), u, s), {-4 * 255 * 128});
    const __m512i one = _mm512_set1_epi32(1);
    expect_lanes<int>(_mm512_dpbusd_epi32(_mm512_set1_epi32(kMost), one, one), {kLeast});
    expect_lanes<int>(_mm512_dpbusds_epi32(_mm512_set1_epi32(kMost), one, one), {kMost});
    expect_lanes<int>(_mm512_dpbusds_epi32(_mm512_set1_epi32(kLeast), u, s), {kLeast});
    const __m512i count = counting<__m512i, std::uint8_t>();
    const __m512i by = reg<__m512i>(std::int8_t{1}, -2, 3, -4, 5, -6, 7, -8);
    expect_lanes<int>(_mm512_dpbusd_epi32(_mm512_set1_epi32(100), count, by), {100 - 2 + 6 - 12, 100 + 20 - 30 + 42 - 56, 100});
    expect_lanes<int>(_mm512_mask_dpbusd_epi32(_mm512_set1_epi32(9), 0x2, one, one), {9, 10, 9});
    expect_lanes<int>(_mm512_maskz_dpbusd_epi32(0x2, _mm512_set1_epi32(9), one, one), {0, 10, 0});
    expect_lanes<int>(_mm256_dpbusd_epi32(_mm256_set1_epi32(kMost), _mm256_set1_epi32(1), _mm256_set1_epi32(1)), {kLeast, kLeast});
    expect_lanes<int>(_mm_dpbusd_epi32(_mm_set1_epi32(5), _mm_set1_epi8(-1), _mm_set1_epi8(2)), {5 + 4 * 510, 5 + 4 * 510});
}

TEST(Vnni, Words_WrapOrSaturate) {
    const __m512i least = _mm512_set1_epi16(-32768);
    expect_lanes<int>(_mm512_dpwssd_epi32(_mm512_setzero_si512(), least, least), {kLeast});
    expect_lanes<int>(_mm512_dpwssds_epi32(_mm512_setzero_si512(), least, least), {kMost});
    expect_lanes<int>(_mm512_dpwssds_epi32(_mm512_set1_epi32(-1), least, least), {kMost}); // held once, at the end
    expect_lanes<int>(_mm512_dpwssd_epi32(_mm512_set1_epi32(1), reg<__m512i>(std::int16_t{3}, -4), reg<__m512i>(std::int16_t{5}, 6)),
                      {1 + 15 - 24, 1});
}

TEST(Halves, ToHalf_RoundsTiesOverflowDenormals) {
    const __m512 a = reg<__m512>(1.0F + power(-11), 1.0F + 3 * power(-11), 65519.996F, 65520.0F, power(-24), power(-25), 1.5F * power(-25), -0.0F,
                                 kInfinity, from_bits(0x7f800001), -65520.0F);
    expect_lanes<std::uint16_t>(_mm512_cvtps_ph(a, kNearest), {0x3c00, 0x3c02, 0x7bff, 0x7c00, 1, 0, 1, 0x8000, 0x7c00, 0x7e00, 0xfc00});
    expect_lanes<std::uint16_t>(_mm512_cvtps_ph(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC),
                                {0x3c00, 0x3c01, 0x7bff, 0x7bff, 1, 0, 0, 0x8000, 0x7c00, 0x7e00, 0xfbff});
    expect_lanes<std::uint16_t>(_mm512_maskz_cvtps_ph(0x2, a, kNearest), {0, 0x3c02, 0});
}

TEST(Halves, FromHalf_DenormalsExactNanQuiet) {
    const __m256i h = reg<__m256i>(std::uint16_t{0x0001}, 0x8001, 0x7bff, 0xfc00, 0x7d01, 0x3c00);
    expect_lanes<float>(_mm512_cvtph_ps(h), {power(-24), -power(-24), 65504.0F, -kInfinity, from_bits(0x7fe02000), 1.0F});
}

TEST(Floats, RoundScale) {
    const __m512 a = reg<__m512>(0.5F, 1.5F, 2.5F, -0.5F, -1.5F, 1e10F, kInfinity, 0.49999997F, 8388607.5F, -0.3F);
    expect_lanes<float>(_mm512_roundscale_ps(a, kNearest), {0, 2, 2, -0.0F, -2, 1e10F, kInfinity, 0, 8388608.0F, -0.0F});
    expect_lanes<float>(_mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), {0, 1, 2, -1, -2, 1e10F, kInfinity, 0, 8388607.0F, -1});
    expect_lanes<float>(_mm512_roundscale_ps(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC),
                        {1, 2, 3, -0.0F, -1, 1e10F, kInfinity, 1, 8388608.0F, -0.0F});
    expect_lanes<float>(_mm512_roundscale_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC),
                        {0, 1, 2, -0.0F, -1, 1e10F, kInfinity, 0, 8388607.0F, -0.0F});
    // To quarters: the number of binary digits stands in the upper half of the immediate.
    expect_lanes<float>(_mm512_roundscale_ps(reg<__m512>(1.126F, -1.124F, 0.125F, 0.375F, 3e38F), 0x20 | kNearest),
                        {1.25F, -1.0F, 0.0F, 0.5F, 3e38F});
    EXPECT_EQ(bits(lane<float>(_mm512_roundscale_ps(_mm512_set1_ps(from_bits(0x7f800001)), kNearest), 0)), 0x7fc00001u);
}

TEST(Floats, ScaleF) {
    const __m512 a = reg<__m512>(1.0F, 1.0F, 3.0F, 1.0F, 1.5F, 1.0F, power(-149), -1.0F, kInfinity, 0.0F, -0.0F, -1.0F, kNan, kNan, 1.25F, 1.0F);
    const __m512 b = reg<__m512>(3.9F, -0.5F, -149.0F, -150.0F, -150.0F, 128.0F, 276.0F, -kInfinity, 5.0F, 9.0F, -kInfinity, kInfinity, kInfinity,
                                 -kInfinity, 0.0F, -1e30F);
    expect_lanes<float>(_mm512_scalef_ps(a, b), {8, 0.5F, 3 * power(-149), 0, power(-149), kInfinity, power(127), -0.0F, kInfinity, 0.0F, -0.0F,
                                                 -kInfinity, kInfinity, 0.0F, 1.25F, 0.0F});
    const __m512 invalid = _mm512_scalef_ps(reg<__m512>(0.0F, kInfinity, 1.0F, kNan), reg<__m512>(kInfinity, -kInfinity, kNan, 1.0F));
    for (int l = 0; l < 4; ++l) {
        EXPECT_TRUE(std::isnan(lane<float>(invalid, l))) << l;
    }
    expect_lanes<float>(_mm512_maskz_scalef_ps(0x2, a, b), {0, 0.5F, 0});
}

TEST(Floats, MaxMin_SecondOfZerosAndOfNan) {
    const __m512 a = reg<__m512>(kNan, 1.0F, 0.0F, -0.0F, 2.0F);
    const __m512 b = reg<__m512>(1.0F, kNan, -0.0F, 0.0F, 3.0F);
    expect_lanes<float>(_mm512_max_ps(a, b), {1, kNan, -0.0F, 0.0F, 3});
    expect_lanes<float>(_mm512_min_ps(a, b), {1, kNan, -0.0F, 0.0F, 2});
    expect_lanes<float>(_mm512_mask_max_ps(_mm512_set1_ps(9), 0x10, a, b), {9, 9, 9, 9, 3, 9});
}

TEST(Floats, Fused_OneRoundingAndMasks) {
    const float x = 1.0F + power(-12);
    EXPECT_EQ(lane<float>(_mm512_fmsub_ps(_mm512_set1_ps(x), _mm512_set1_ps(x), _mm512_set1_ps(1.0F + power(-11))), 0), power(-24));
    const __m512 two = _mm512_set1_ps(2);
    const __m512 three = _mm512_set1_ps(3);
    const __m512 five = _mm512_set1_ps(5);
    expect_lanes<float>(_mm512_mask_fmadd_ps(two, 0x1, three, five), {11, 2});
    expect_lanes<float>(_mm512_mask3_fmadd_ps(two, three, five, 0x1), {11, 5});
    expect_lanes<float>(_mm512_maskz_fnmadd_ps(0x1, two, three, five), {-1, 0});
    expect_lanes<float>(_mm512_fnmsub_ps(two, three, five), {-11});
}

TEST(Floats, Reduce_HalvesAgainstHalves) {
    // The tree of sixteen lanes: l with l + 8, then l with l + 4, and so on.
    const __m512 a = each<__m512, float>([](int i) { return 1.0F / static_cast<float>(3 * i + 1); });
    float tree[16];
    for (int i = 0; i < 16; ++i) {
        tree[i] = lane<float>(a, i);
    }
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) {
            tree[i] = tree[i + half] + tree[i];
        }
    }
    EXPECT_EQ(_mm512_reduce_add_ps(a), tree[0]);
    EXPECT_EQ(_mm512_reduce_max_ps(counting<__m512, float>()), 15.0F);
    EXPECT_EQ(_mm512_reduce_min_ps(counting<__m512, float>()), 0.0F);
    EXPECT_EQ(_mm512_mask_reduce_add_ps(0x8002, counting<__m512, float>()), 16.0F);
    EXPECT_EQ(_mm512_mask_reduce_max_ps(0x6, _mm512_set1_ps(-4)), -4.0F);
    EXPECT_EQ(_mm512_reduce_add_epi32(_mm512_set1_epi32(kMost)), -16);
    EXPECT_EQ(_mm512_mask_reduce_max_epi32(0x3, _mm512_set1_epi32(-4)), -4);
    EXPECT_EQ(_mm512_reduce_max_epu32(reg<__m512i>(-1, 5)), 0xffffffffu);
    EXPECT_EQ(_mm512_reduce_min_epi64(_mm512_set1_epi64(-7)), -7);
}

TEST(Convert, FloatsAndIntegers) {
    const __m512 a = reg<__m512>(2.5F, 3.5F, -2.5F, 3e9F, -3e9F, kNan, 2147483520.0F, -0.9F);
    expect_lanes<int>(_mm512_cvtps_epi32(a), {2, 4, -2, kLeast, kLeast, kLeast, 2147483520, -1});
    expect_lanes<int>(_mm512_cvttps_epi32(a), {2, 3, -2, kLeast, kLeast, kLeast, 2147483520, 0});
    expect_lanes<std::uint32_t>(_mm512_cvtps_epu32(a), {2, 4, UINT32_MAX, 3000000000u, UINT32_MAX, UINT32_MAX, 2147483520, UINT32_MAX});
    expect_lanes<std::uint32_t>(_mm512_cvttps_epu32(reg<__m512>(-0.9F, -1.0F, 4294967040.0F, 4294967296.0F)),
                                {0, UINT32_MAX, 4294967040u, UINT32_MAX});
    expect_lanes<float>(_mm512_cvtepi32_ps(reg<__m512i>(16777217, -16777219, kLeast)), {16777216, -16777220, -2147483648.0F});
    expect_lanes<float>(_mm512_cvtepu32_ps(reg<__m512i>(-1, 16777217)), {4294967296.0F, 16777216});
}

TEST(Convert, Wider) {
    expect_lanes<int>(_mm512_cvtepi8_epi32(reg<__m128i>(std::uint8_t{0x80}, 0x7f, 0xff)), {-128, 127, -1});
    expect_lanes<int>(_mm512_cvtepu8_epi32(reg<__m128i>(std::uint8_t{0x80}, 0x7f, 0xff)), {128, 127, 255});
    expect_lanes<std::int16_t>(_mm512_cvtepi8_epi16(each<__m256i, std::int8_t>([](int i) { return -i; })), {0, -1, -2, -3});
    expect_lanes<int>(_mm512_cvtepu16_epi32(reg<__m256i>(std::uint16_t{0xffff}, 1)), {65535, 1});
    expect_lanes<std::int64_t>(_mm512_cvtepi32_epi64(reg<__m256i>(-3, kLeast)), {-3, kLeast});
}

TEST(Convert, Narrower_CutHeldSignedHeldUnsigned) {
    const __m512i a = reg<__m512i>(300, -1, -300, 127, 128, 255, 256);
    expect_lanes<std::uint8_t>(_mm512_cvtepi32_epi8(a), {44, 255, 212, 127, 128, 255, 0, 0});
    expect_lanes<std::int8_t>(_mm512_cvtsepi32_epi8(a), {127, -1, -128, 127, 127, 127, 127, 0});
    expect_lanes<std::uint8_t>(_mm512_cvtusepi32_epi8(a), {255, 255, 255, 127, 128, 255, 255, 0});
    expect_lanes<std::int16_t>(_mm512_cvtsepi32_epi16(reg<__m512i>(40000, -40000, 5)), {32767, -32768, 5});
    expect_lanes<std::uint8_t>(_mm256_cvtepi32_epi8(reg<__m256i>(1, 258)), {1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}); // zeros above
    expect_lanes<std::uint8_t>(_mm512_mask_cvtepi32_epi8(_mm_set1_epi8(9), 0x3, a), {44, 255, 9, 9});
    expect_lanes<std::int32_t>(_mm512_cvtusepi64_epi32(_mm512_set1_epi64(-1)), {-1, -1});
    expect_lanes<std::int32_t>(_mm512_cvtsepi64_epi32(_mm512_set1_epi64(INT64_MIN)), {kLeast});
}

TEST(Integers, SaturationAndEdges) {
    expect_lanes<std::int16_t>(_mm512_maddubs_epi16(_mm512_set1_epi8(-1), _mm512_set1_epi8(127)), {32767});
    expect_lanes<std::int16_t>(_mm512_maddubs_epi16(_mm512_set1_epi8(-1), _mm512_set1_epi8(-128)), {-32768});
    expect_lanes<int>(_mm512_madd_epi16(_mm512_set1_epi16(-32768), _mm512_set1_epi16(-32768)), {kLeast});
    expect_lanes<std::int8_t>(_mm512_abs_epi8(reg<__m512i>(std::int8_t{-128}, -5, 5)), {-128, 5, 5});
    expect_lanes<int>(_mm512_abs_epi32(reg<__m512i>(kLeast, -5)), {kLeast, 5});
    expect_lanes<std::int64_t>(_mm512_abs_epi64(reg<__m512i>(std::int64_t{-5}, INT64_MIN)), {5, INT64_MIN});
    expect_lanes<std::int8_t>(_mm512_mask_sub_epi8(_mm512_set1_epi8(3), 0x2, _mm512_setzero_si512(), _mm512_set1_epi8(-128)), {3, -128, 3});
    expect_lanes<int>(_mm512_mullo_epi32(_mm512_set1_epi32(65536), _mm512_set1_epi32(65537)), {65536});
    expect_lanes<std::int64_t>(_mm512_mullo_epi64(_mm512_set1_epi64(std::int64_t{1} << 40), _mm512_set1_epi64((1 << 24) + 1)),
                               {std::int64_t{1} << 40});
    expect_lanes<std::int64_t>(_mm512_mul_epi32(_mm512_set1_epi64(0x7fffffffffffffff), _mm512_set1_epi64(3)), {-3});
    expect_lanes<std::int64_t>(_mm512_max_epi64(_mm512_set1_epi64(-1), _mm512_set1_epi64(1)), {1});
    expect_lanes<std::int64_t>(_mm512_max_epu64(_mm512_set1_epi64(-1), _mm512_set1_epi64(1)), {-1});
    expect_lanes<std::int16_t>(_mm512_packs_epi32(reg<__m512i>(70000, -70000, 3, 4), _mm512_set1_epi32(8)), {32767, -32768, 3, 4, 8, 8, 8, 8, 0});
}

TEST(Integers, Shifts) {
    const __m512i a = _mm512_set1_epi32(-8);
    expect_lanes<int>(_mm512_srai_epi32(a, 1), {-4});
    expect_lanes<int>(_mm512_srai_epi32(a, 40), {-1});
    expect_lanes<int>(_mm512_srli_epi32(a, 32), {0});
    expect_lanes<int>(_mm512_srl_epi32(a, _mm_cvtsi32_si128(28)), {15});
    expect_lanes<int>(_mm512_sll_epi32(a, _mm_set_epi64x(0, std::int64_t{1} << 40)), {0}); // the whole low half is the count
    expect_lanes<int>(_mm512_sllv_epi32(_mm512_set1_epi32(1), reg<__m512i>(0, 31, 32, -1)), {1, kLeast, 0, 0});
    expect_lanes<int>(_mm512_srav_epi32(a, reg<__m512i>(1, 31, 32, -1)), {-4, -1, -1, -1});
    expect_lanes<std::int64_t>(_mm512_srai_epi64(_mm512_set1_epi64(-8), 63), {-1});
    expect_lanes<std::int16_t>(_mm512_srav_epi16(_mm512_set1_epi16(-8), reg<__m512i>(std::int16_t{1}, 16)), {-4, -1});
    expect_lanes<int>(_mm512_rol_epi32(_mm512_set1_epi32(kLeast + 1), 1), {3});
    expect_lanes<int>(_mm512_ror_epi32(_mm512_set1_epi32(3), 1), {kLeast + 1});
    expect_lanes<std::int64_t>(_mm512_rolv_epi64(_mm512_set1_epi64(1), reg<__m512i>(std::int64_t{64}, 65)), {1, 2});
    expect_lanes<std::uint8_t>(_mm512_bsrli_epi128(counting<__m512i, std::uint8_t>(), 14), {14, 15, 0, 0});
    expect_lanes<std::uint8_t>(_mm512_bslli_epi128(counting<__m512i, std::uint8_t>(), 14), {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0});
}

TEST(Integers, TernaryLogic) {
    const __m512i a = _mm512_set1_epi32(0xf0);
    const __m512i b = _mm512_set1_epi32(0xcc);
    const __m512i c = _mm512_set1_epi32(0xaa);
    // With these, the low eight bits are the table itself.
    EXPECT_EQ(lane<int>(_mm512_ternarylogic_epi32(a, b, c, 0x78), 0) & 0xff, 0x78);
    EXPECT_EQ(lane<int>(_mm512_ternarylogic_epi32(a, b, c, 0xca), 3) & 0xff, 0xca);
    EXPECT_EQ(lane<int>(_mm512_ternarylogic_epi32(a, b, c, 0x1), 0), ~0xfe & -1);
    expect_lanes<int>(_mm512_mask_ternarylogic_epi32(a, 0x1, b, c, 0x96), {0xf0 ^ 0xcc ^ 0xaa, 0xf0});
}

TEST(Masks, FloatPredicates) {
    const __m512 a = reg<__m512>(1.0F, 2.0F, 3.0F, kNan); // less, equal, greater, unordered
    const __m512 b = _mm512_mask_mov_ps(_mm512_set1_ps(2.0F), 0xfff0, _mm512_set1_ps(kNan));
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) & 15, 2);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_LT_OS) & 15, 1);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_LE_OS) & 15, 3);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) & 15, 8);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ) & 15, 13);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ) & 15, 14);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ) & 15, 12);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_ORD_Q) & 15, 7);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_EQ_UQ) & 15, 10);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_NGE_UQ) & 15, 9);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_NGT_UQ) & 15, 11);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_FALSE_OQ) & 15, 0);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_NEQ_OQ) & 15, 5);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ) & 15, 6);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) & 15, 4);
    EXPECT_EQ(_mm512_cmp_ps_mask(a, b, _CMP_TRUE_UQ) & 15, 15);
    EXPECT_EQ(_mm512_mask_cmp_ps_mask(0xe, a, b, _CMP_LE_OS), 2);
    EXPECT_EQ(_mm256_cmp_ps_mask(_mm256_set1_ps(1), _mm256_set1_ps(2), _CMP_LT_OS), 0xff);
    EXPECT_EQ(_mm_cmp_ps_mask(_mm_set1_ps(1), _mm_set1_ps(2), _CMP_LT_OS), 0xf);
}

TEST(Masks, IntegerPredicatesAndSigns) {
    const __m512i a = reg<__m512i>(-1, 2, 3);
    const __m512i b = _mm512_set1_epi32(2);
    EXPECT_EQ(_mm512_cmpgt_epi32_mask(a, b) & 7, 4);
    EXPECT_EQ(_mm512_cmpgt_epu32_mask(a, b) & 7, 5);
    EXPECT_EQ(_mm512_cmp_epi32_mask(a, b, _MM_CMPINT_NLT) & 7, 6);
    EXPECT_EQ(_mm512_cmp_epi32_mask(a, b, _MM_CMPINT_LE) & 7, 3);
    EXPECT_EQ(_mm512_mask_cmpeq_epi32_mask(0x5, a, a), 5);
    EXPECT_EQ(_mm512_test_epi32_mask(a, _mm512_set1_epi32(1)) & 7, 5);
    EXPECT_EQ(_mm512_testn_epi32_mask(a, _mm512_set1_epi32(1)) & 7, 2);
    EXPECT_EQ(_mm512_movepi8_mask(reg<__m512i>(std::int8_t{-1}, 0, -128)), 5u);
    EXPECT_EQ(_mm512_cmplt_epi8_mask(reg<__m512i>(std::int8_t{-1}), _mm512_setzero_si512()), 1u);
    expect_lanes<std::int8_t>(_mm512_movm_epi8(std::uint64_t{5}), {-1, 0, -1, 0});
    EXPECT_EQ(_mm512_kunpackb(0x1234, 0x5678), 0x3478);
    EXPECT_EQ(_kshiftli_mask16(0x8001, 1), 2);
    EXPECT_EQ(_kshiftri_mask16(0x8001, 16), 0);
    EXPECT_EQ(_kandn_mask16(0x00ff, 0x0ff0), 0x0f00);
    EXPECT_EQ(_knot_mask16(0x00ff), 0xff00);
    EXPECT_EQ(_kortestz_mask16_u8(0, 0), 1);
    EXPECT_EQ(_kortestc_mask16_u8(0xff00, 0x00ff), 1);
}

TEST(Permutes, ByRegister) {
    const __m512 table = each<__m512, float>([](int i) { return 10 * i; });
    expect_lanes<float>(_mm512_permutexvar_ps(reg<__m512i>(3, 16 + 5, -1), table), {30, 50, 150, 0}); // the low four bits count
    const __m512 other = each<__m512, float>([](int i) { return 1000 + i; });
    const __m512i at = reg<__m512i>(3, 16 + 5, 32 + 7);
    expect_lanes<float>(_mm512_permutex2var_ps(table, at, other), {30, 1005, 70, 0});
    expect_lanes<float>(_mm512_mask_permutex2var_ps(table, 0x2, at, other), {0, 1005, 20});
    expect_lanes<float>(_mm512_maskz_permutex2var_ps(0x2, table, at, other), {0, 1005, 0});
    expect_lanes<int>(_mm512_mask2_permutex2var_epi32(counting<__m512i, int>(), at, 0x2, _mm512_set1_epi32(9)), {3, 9, 39});
    expect_lanes<std::uint16_t>(_mm512_permutexvar_epi16(reg<__m512i>(std::uint16_t{31}, 32, 33), counting<__m512i, std::uint16_t>()), {31, 0, 1, 0});
    expect_lanes<int>(_mm256_permutexvar_epi32(reg<__m256i>(7, 8, 9), counting<__m256i, int>()), {7, 0, 1, 0});
    expect_lanes<float>(_mm512_permutevar_ps(counting<__m512, float>(), _mm512_set1_epi32(7)), {3, 3, 3, 3, 7, 7, 7, 7, 11});
    expect_lanes<std::int64_t>(_mm512_permutexvar_epi64(reg<__m512i>(std::int64_t{7}, 9), counting<__m512i, std::int64_t>()), {7, 1, 0});
}

TEST(Permutes, QuartersAndWithinThem) {
    const __m512 a = counting<__m512, float>();
    const __m512 b = each<__m512, float>([](int i) { return 100 + i; });
    expect_lanes<float>(_mm512_shuffle_f32x4(a, b, 0x4e), {8, 9, 10, 11, 12, 13, 14, 15, 100, 101, 102, 103, 104, 105, 106, 107});
    expect_lanes<int>(_mm256_shuffle_i32x4(counting<__m256i, int>(), each<__m256i, int>([](int i) { return 10 + i; }), 1),
                      {4, 5, 6, 7, 10, 11, 12, 13});
    expect_lanes<float>(_mm512_unpacklo_ps(a, b), {0, 100, 1, 101, 4, 104, 5, 105, 8, 108});
    expect_lanes<float>(_mm512_unpackhi_ps(a, b), {2, 102, 3, 103, 6, 106});
    expect_lanes<float>(_mm512_shuffle_ps(a, b, 0x1b), {3, 2, 101, 100, 7, 6, 105, 104});
    expect_lanes<double>(_mm512_shuffle_pd(counting<__m512d, double>(), each<__m512d, double>([](int i) { return 10 + i; }), 0x0d),
                         {1, 10, 3, 13, 4, 14});
    expect_lanes<float>(_mm512_permute_ps(a, 0x1b), {3, 2, 1, 0, 7});
    expect_lanes<float>(_mm512_movehdup_ps(a), {1, 1, 3, 3, 5});
    expect_lanes<float>(_mm512_moveldup_ps(a), {0, 0, 2, 2, 4});
    expect_lanes<int>(_mm512_shuffle_epi32(counting<__m512i, int>(), static_cast<_MM_PERM_ENUM>(0x4e)), {2, 3, 0, 1, 6});
    expect_lanes<std::uint8_t>(_mm512_shuffle_epi8(counting<__m512i, std::uint8_t>(), _mm512_set1_epi32(static_cast<int>(0x8003'1f00u))),
                               {0, 15, 3, 0, 0, 15, 3, 0, 0, 15, 3, 0, 0, 15, 3, 0, 16, 31, 19, 0});
    expect_lanes<int>(_mm512_alignr_epi32(_mm512_set1_epi32(99), counting<__m512i, int>(), 14), {14, 15, 99});
    expect_lanes<std::uint8_t>(_mm512_alignr_epi8(_mm512_set1_epi8(99), counting<__m512i, std::uint8_t>(), 15),
                               {15, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 31, 99});
    expect_lanes<std::int64_t>(_mm512_permutex_epi64(counting<__m512i, std::int64_t>(), 0x1b), {3, 2, 1, 0, 7, 6, 5, 4});
    expect_lanes<std::uint16_t>(_mm512_shufflehi_epi16(counting<__m512i, std::uint16_t>(), static_cast<_MM_PERM_ENUM>(0x1b)),
                                {0, 1, 2, 3, 7, 6, 5, 4, 8});
}

TEST(Moves, ConstantsPartsAndBroadcasts) {
    expect_lanes<float>(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
    expect_lanes<int>(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
    expect_lanes<std::int64_t>(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), {0, 1, 2, 3, 4, 5, 6, 7});
    const __m512 a = counting<__m512, float>();
    expect_lanes<float>(_mm512_extractf32x4_ps(a, 2), {8, 9, 10, 11});
    expect_lanes<float>(_mm512_extractf32x8_ps(a, 1), {8, 9, 10, 11, 12, 13, 14, 15});
    expect_lanes<float>(_mm512_insertf32x4(a, _mm_set1_ps(99), 3), {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 99, 99, 99, 99});
    expect_lanes<int>(_mm512_broadcast_i32x4(counting<__m128i, int>()), {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3});
    expect_lanes<int>(_mm512_broadcastd_epi32(_mm_cvtsi32_si128(7)), {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7});
    expect_lanes<std::int8_t>(_mm512_maskz_set1_epi8(0x8000000000000001u, 5), {5, 0});
    expect_lanes<int>(_mm512_mask_blend_epi32(0x2, _mm512_set1_epi32(1), _mm512_set1_epi32(2)), {1, 2, 1});
    expect_lanes<float>(_mm512_zextps256_ps512(_mm256_set1_ps(3)), {3, 3, 3, 3, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0});
    expect_lanes<float>(_mm512_castps512_ps128(a), {0, 1, 2, 3});
}

TEST_F(EndOfPage, MaskedLoadsTouchTheirLanesOnly) {
    expect_lanes<float>(_mm512_maskz_loadu_ps(0x7, last<float>(3)), {1, 2, 3, 0});
    expect_lanes<float>(_mm512_mask_loadu_ps(_mm512_set1_ps(9), 0x5, last<float>(3)), {1, 9, 3, 9});
    expect_lanes<std::uint16_t>(_mm256_maskz_loadu_epi16(0x1f, last<std::uint16_t>(5)), {1, 2, 3, 4, 5, 0});
    expect_lanes<std::uint8_t>(_mm512_maskz_loadu_epi8(0x3, last<std::uint8_t>(2)), {1, 2, 0});
    expect_lanes<int>(_mm_maskz_loadu_epi32(0x1, last<int>(1)), {1, 0, 0, 0});
    expect_lanes<std::int64_t>(_mm512_maskz_loadu_epi64(0x1, last<std::int64_t>(1)), {1, 0});
    expect_lanes<float>(_mm512_maskz_loadu_ps(0, last<float>(0)), {0});
    expect_lanes<int>(_mm512_maskz_expandloadu_epi32(0x8005, last<int>(3)), {1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3});
    expect_lanes<float>(_mm512_mask_i32gather_ps(_mm512_set1_ps(9), 0x3, reg<__m512i>(1, 0, 1 << 20), last<float>(2), 4), {2, 1, 9});
}

TEST_F(EndOfPage, MaskedStoresTouchTheirLanesOnly) {
    auto *f = last<float>(3);
    _mm512_mask_storeu_ps(f, 0x5, _mm512_set1_ps(9));
    EXPECT_EQ(f[0], 9);
    EXPECT_EQ(f[1], 2);
    EXPECT_EQ(f[2], 9);
    auto *h = last<std::uint16_t>(2);
    _mm256_mask_storeu_epi16(h, 0x2, _mm256_set1_epi16(7));
    EXPECT_EQ(h[0], 1);
    EXPECT_EQ(h[1], 7);
    auto *b = last<std::uint8_t>(3);
    _mm512_mask_cvtepi32_storeu_epi8(b, 0x6, _mm512_set1_epi32(0x1234));
    EXPECT_EQ(b[0], 1);
    EXPECT_EQ(b[2], 0x34);
    auto *c = last<int>(2);
    _mm512_mask_compressstoreu_epi32(c, 0x8010, counting<__m512i, int>());
    EXPECT_EQ(c[0], 4);
    EXPECT_EQ(c[1], 15);
    auto *s = last<int>(2);
    _mm512_mask_i32scatter_epi32(s, 0x3, reg<__m512i>(1, 0, 1 << 20), reg<__m512i>(50, 60), 4);
    EXPECT_EQ(s[0], 60);
    EXPECT_EQ(s[1], 50);
}

TEST(Memory, CompressAndExpand) {
    const __m512i a = counting<__m512i, int>();
    expect_lanes<int>(_mm512_maskz_compress_epi32(0x8012, a), {1, 4, 15, 0, 0});
    expect_lanes<int>(_mm512_mask_compress_epi32(_mm512_set1_epi32(9), 0x8012, a), {1, 4, 15, 9, 9});
    expect_lanes<int>(_mm512_maskz_expand_epi32(0x8012, a), {0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2});
}

#if defined(STRATA_EMULATED_VNNI)
TEST(Emulation, UndefinedBitsAreNan) {
    EXPECT_TRUE(std::isnan(lane<float>(_mm512_castps256_ps512(_mm256_setzero_ps()), 8)));
    EXPECT_TRUE(std::isnan(lane<float>(_mm512_castps128_ps512(_mm_setzero_ps()), 4)));
    EXPECT_TRUE(std::isnan(lane<float>(_mm512_undefined_ps(), 0)));
}

TEST(EmulationDeathTest, MisalignedLoadIsFatal) {
    alignas(64) const float data[17] = {};
    EXPECT_DEATH(_mm512_load_ps(data + 1), "");
    EXPECT_EQ(lane<float>(_mm512_load_ps(data), 0), 0);
}
#endif

} // namespace strata::STRATA_ISA_NAMESPACE
