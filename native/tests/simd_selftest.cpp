// SPDX-License-Identifier: Apache-2.0
// Primitives that promise bits: bf16 dot products and tile products in every instruction set of this machine, against plain arithmetic.
#include "core/cpu_isa.h"
#include "simd/half.h"
#include "simd_bits.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <random>
#include <vector>

namespace strata {
namespace {

struct Set {
    Isa isa;
    void (*dot)(const std::uint16_t *, const std::uint16_t *, const float *, float *);
    void (*soft_tile)(const std::uint16_t *, const std::uint16_t *, float *);
    void (*own_tile)(const std::uint16_t *, const std::uint16_t *, float *);
    void (*weight)(const float *, float *);
    void (*codes)(const std::uint8_t *, const std::int32_t *, int, std::int32_t *);
    void (*each)(const float (*)[16], float (*)[16], float (*)[16]);
    void (*power)(const float *, float *);
    void (*zip)(const std::uint16_t *, const std::uint16_t *, const std::uint16_t *, float *);
};
#define SET(id, isa) \
    { id, isa::dot_bits, isa::soft_tile_bits, isa::own_tile_bits, isa::weight_bits, isa::code_bits, isa::each_bits, isa::power_bits, isa::zip_bits }
constexpr Set kSets[] = {
    SET(Isa::kScalar, scalar), SET(Isa::kAvx2, avx2), SET(Isa::kAvx512, avx512), SET(Isa::kAvx512Vnni, avx512vnni), SET(Isa::kAmx, amx),
};

class SimdSelfTest : public testing::TestWithParam<Set> {
protected:
    void SetUp() override {
        Isa isa;
        if (choose_isa(isa_name(GetParam().isa), &isa) == STRATA_OK) return;
        Text text;
        describe_isa(text);
        GTEST_SKIP() << "skip: " << isa_name(GetParam().isa) << ": this machine has " << text.c_str();
    }
};

/// Numbers whose products are of every size: ordinary, denormal, and too small to be either.
std::uint16_t any_bf16(std::mt19937 &random) {
    const auto bits = static_cast<std::uint32_t>(random());
    const std::uint32_t exponent = bits % 8 == 0 ? 0 : bits % 8 < 4 ? 1 + (bits >> 8) % 90 : 100 + (bits >> 8) % 50;
    return static_cast<std::uint16_t>((bits >> 16 & 0x8000u) | exponent << 7 | (bits >> 3 & 0x7fu));
}

float any_f32(std::mt19937 &random) {
    return bits_to_f32(static_cast<std::uint32_t>(any_bf16(random)) << 16 | (static_cast<std::uint32_t>(random()) & 0xffffu));
}

float flushed(float x) { return std::fabs(x) < 1.17549435e-38F ? std::copysign(0.0F, x) : x; }
float multiply_add(std::uint16_t a, std::uint16_t b, float c) {
    return flushed(std::fma(flushed(bf16_to_f32(a)), flushed(bf16_to_f32(b)), flushed(c)));
}

TEST_P(SimdSelfTest, Dot_AnyNumbers_IsTwoFusedStepsOddFirst) {
    std::mt19937 random(7);
    for (int round = 0; round < 2000; ++round) {
        std::uint16_t a[32];
        std::uint16_t b[32];
        float sum[16];
        float got[16];
        for (auto &x : a) x = any_bf16(random);
        for (auto &x : b) x = any_bf16(random);
        for (auto &x : sum) x = any_f32(random);
        GetParam().dot(a, b, sum, got);
        for (int l = 0; l < 16; ++l) {
            const float want = multiply_add(a[2 * l], b[2 * l], multiply_add(a[2 * l + 1], b[2 * l + 1], sum[l]));
            ASSERT_EQ(f32_to_bits(got[l]), f32_to_bits(want)) << "lane " << l << ": " << got[l] << ", wanted " << want;
        }
    }
}

void check_tiles(void (*multiply)(const std::uint16_t *, const std::uint16_t *, float *)) {
    std::mt19937 random(11);
    for (int round = 0; round < 50; ++round) {
        alignas(64) std::uint16_t a[16][32];
        alignas(64) std::uint16_t b[16][16][2];
        alignas(64) float c[16][16];
        float want[16][16];
        for (auto &row : a) {
            for (auto &x : row) x = any_bf16(random);
        }
        for (auto &row : b) {
            for (auto &pair : row) {
                for (auto &x : pair) x = any_bf16(random);
            }
        }
        for (int m = 0; m < 16; ++m) {
            for (int n = 0; n < 16; ++n) {
                c[m][n] = any_f32(random);
                float even = 0.0F;
                float odd = 0.0F;
                for (int k = 0; k < 16; ++k) {
                    even = multiply_add(a[m][2 * k], b[k][n][0], even);
                    odd = multiply_add(a[m][2 * k + 1], b[k][n][1], odd);
                }
                want[m][n] = flushed(flushed(c[m][n]) + flushed(even + odd));
            }
        }
        multiply(a[0], b[0][0], c[0]);
        for (int m = 0; m < 16; ++m) {
            for (int n = 0; n < 16; ++n) {
                ASSERT_EQ(f32_to_bits(c[m][n]), f32_to_bits(want[m][n]))
                    << "row " << m << ", column " << n << ": " << c[m][n] << ", wanted " << want[m][n];
            }
        }
    }
}

TEST_P(SimdSelfTest, SoftTiles_AnyNumbers_AreTwoFusedChains) { check_tiles(GetParam().soft_tile); }

TEST_P(SimdSelfTest, OwnTiles_AnyNumbers_AreTwoFusedChains) { check_tiles(GetParam().own_tile); }

TEST_P(SimdSelfTest, ExpOfWeight_WholeRange_IsExp) {
    std::vector<float> arguments = {0.0F, -INFINITY, NAN, -87.0F, -88.0F, -104.0F, -111.0F, -1e30F, 4.1588831F, 64.0F};
    for (float x = -87.0F; x < 64.0F; x += 0.00731F) arguments.push_back(x);
    arguments.resize((arguments.size() + 15) / 16 * 16);
    for (std::size_t i = 0; i < arguments.size(); i += 16) {
        float got[16];
        GetParam().weight(&arguments[i], got);
        for (std::size_t l = 0; l < 16; ++l) {
            const float x = arguments[i + l];
            const double want = std::exp(static_cast<double>(x));
            if (std::isnan(x)) {
                EXPECT_TRUE(std::isnan(got[l]));
            } else if (x == 0.0F || x <= -111.0F) {
                EXPECT_EQ(got[l], x == 0.0F ? 1.0F : 0.0F) << x;
            } else if (x < -87.0F) {
                EXPECT_LE(got[l], 1.0001 * want + 1.5e-45) << x;
            } else { // the argument's own rounding, and three steps of the result
                EXPECT_NEAR(got[l] / want, 1.0, (std::fabs(x) * 1.2e-7) + 3.6e-7) << x;
            }
        }
    }
}

TEST_P(SimdSelfTest, Codes_AnyWords_SumsOfProductsAreWhole) {
    std::mt19937 random(13);
    for (int round = 0; round < 500; ++round) {
        std::uint8_t words[16][4];
        std::int32_t factors[32];
        std::int32_t got[2][16];
        const int group = round % 4;
        for (auto &word : words) {
            for (auto &byte : word) byte = static_cast<std::uint8_t>(random());
        }
        for (auto &factor : factors) factor = static_cast<std::int32_t>(random() % 131069) - 65534; // twice the whole number, or between two
        GetParam().codes(words[0], factors, group, got[0]);
        for (int l = 0; l < 16; ++l) {
            std::int32_t want[2] = {};
            for (int e = 0; e < 8; ++e) {
                const auto held = static_cast<std::int32_t>(std::nearbyint(factors[8 * group + e] * 0.5));
                want[1] += held * (((e < 4 ? words[l][e] & 15 : words[l][e - 4] >> 4) ^ 8) - 8);
                if (e < 4) want[0] += held * static_cast<std::int8_t>(words[l][e]);
            }
            for (int kind = 0; kind < 2; ++kind) ASSERT_EQ(got[kind][l], want[kind]) << "kind " << kind << ", lane " << l;
        }
    }
}

TEST_P(SimdSelfTest, Each_AnyNumbers_SumsAndMaximaStandInTheirLanes) {
    std::mt19937 random(19);
    float x[16][16];
    float sums[3][16];
    float maxima[3][16];
    for (auto &row : x) {
        for (float &number : row) number = static_cast<float>(static_cast<std::int32_t>(random() % 2001) - 1000); // whole: sums are exact
    }
    GetParam().each(x, sums, maxima);
    for (int kind = 0; kind < 3; ++kind) {
        const int count = 4 << kind;
        for (int l = 0; l < 16; ++l) {
            const float *row = x[l / (16 / count)];
            float sum = 0.0F;
            for (int i = 0; i < 16; ++i) sum += row[i];
            ASSERT_EQ(sums[kind][l], sum) << count << " vectors, lane " << l;
            ASSERT_EQ(maxima[kind][l], *std::max_element(row, row + 16)) << count << " vectors, lane " << l;
        }
    }
}

TEST_P(SimdSelfTest, PowerBelow_AnyNumbers_KeepsTheExponentAlone) {
    const float x[16] = {0.0F,    1.0F,    -1.0F,    1.9999F,  2.0F, -3.0F, 1e-40F,         1e38F,
                         -1e-38F, 0.3333F, -1024.5F, 65504.0F, 7.0F, 1e-3F, 1.1754944e-38F, __builtin_inff()};
    float got[16];
    GetParam().power(x, got);
    for (int l = 0; l < 16; ++l) {
        const float magnitude = std::fabs(x[l]);
        const float want = magnitude < 1.17549435e-38F ? 0.0F : std::isinf(magnitude) ? magnitude : std::ldexp(1.0F, std::ilogb(magnitude));
        EXPECT_EQ(got[l], want) << x[l];
    }
}

TEST_P(SimdSelfTest, Zip_AnyNumbers_IsPairsInOrder) {
    std::mt19937 random(17);
    std::uint16_t p[32];
    std::uint16_t q[32];
    float got[32];
    for (int i = 0; i < 32; ++i) {
        p[i] = any_bf16(random);
        q[i] = any_bf16(random);
    }
    const std::uint16_t weights[2] = {0x3f80, 0x4000}; // 1 and 2
    GetParam().zip(p, q, weights, got);
    for (int i = 0; i < 32; ++i) {
        const float want = multiply_add(p[i], weights[0], multiply_add(q[i], weights[1], 0.0F));
        ASSERT_EQ(f32_to_bits(got[i]), f32_to_bits(want)) << "lane " << i;
    }
}

INSTANTIATE_TEST_SUITE_P(Sets, SimdSelfTest, testing::ValuesIn(kSets), [](const auto &set) { return isa_name(set.param.isa); });

} // namespace
} // namespace strata
