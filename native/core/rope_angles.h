// SPDX-License-Identifier: Apache-2.0
// Rotary embedding on the host: the frequencies of a model, the angles of a position, the turn of one row.
//
// Frequencies are powers of one ratio in double, so an angle is right to 1e-9 for positions up to a million. It is
// reduced to a quarter turn in double; sine and cosine are then polynomials in fp32, right to 1.5e-7. No rounding
// depends on the instruction set. The functions are static because kernel files of several instruction sets share them.
#pragma once

#include <strata/strata.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace strata {

/// Neighbouring frequencies differ by this factor: base^(-2 / dims).
static inline double rope_ratio(const strata_rope_params &rope) {
    return std::pow(static_cast<double>(rope.base), -2.0 / static_cast<double>(rope.dims));
}

/// YaRN's ramp over the pairs: those up to `low` keep their frequency, those from low + span on get the whole scale.
struct YarnRamp {
    double low;
    double span;
};

static inline YarnRamp yarn_ramp(const strata_rope_params &rope) {
    constexpr double kTwoPi = 6.28318530717958647693;
    // The pair, as a real number, that turns `turns` times within the context.
    const auto pair_of = [&](float turns) {
        return rope.dims * std::log(rope.yarn_context / (kTwoPi * static_cast<double>(turns))) / (2.0 * std::log(static_cast<double>(rope.base)));
    };
    const double first = std::floor(pair_of(rope.yarn_beta_fast));
    const double last = std::ceil(pair_of(rope.yarn_beta_slow));
    const double low = first > 0.0 ? first : 0.0;
    const double high = last < rope.dims - 1 ? last : rope.dims - 1;
    return YarnRamp{low, high - low > 0.001 ? high - low : 0.001};
}

/// How much of the scale pair i gets, 0 ... 1.
static inline double yarn_share(const YarnRamp &ramp, std::int32_t pair) {
    const double share = (pair - ramp.low) / ramp.span;
    return share > 0.0 ? (share < 1.0 ? share : 1.0) : 0.0;
}

/// frequencies[i], i = 0 ... dims/2 - 1, of checked parameters: see strata_rope_params. `factors`, `step` elements apart, or null.
static inline void rope_frequencies(const strata_rope_params &rope, const float *factors, std::int64_t step, double *frequencies) {
    const double ratio = rope_ratio(rope);
    const double scale = static_cast<double>(rope.frequency_scale);
    const bool yarn = rope.yarn_context > 0;
    const YarnRamp ramp = yarn ? yarn_ramp(rope) : YarnRamp{};
    double frequency = 1.0;
    for (std::int32_t i = 0; i < rope.dims / 2; ++i) {
        const double share = yarn ? yarn_share(ramp, i) : 1.0;
        frequencies[i] = frequency * (scale * share + (1.0 - share));
        if (factors != nullptr) frequencies[i] /= static_cast<double>(factors[i * step]);
        frequency *= ratio;
    }
}

/// cosine[i], sine[i] of position * frequencies[i], times `magnitude`.
static inline void rope_angles(const double *frequencies, std::int64_t pairs, std::int32_t position, float magnitude, float *__restrict cosine,
                               float *__restrict sine) {
    constexpr double kTwoOverPi = 0.63661977236758134308;
    constexpr double kHalfPiHigh = 1.57079632679489655800;
    constexpr double kHalfPiLow = 6.12323399573676603587e-17;
    constexpr double kRounder = 6755399441055744.0; // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
    for (std::int64_t i = 0; i < pairs; ++i) {
        const double angle = static_cast<double>(position) * frequencies[i];
        const double rounded = angle * kTwoOverPi + kRounder;
        const double quarters = rounded - kRounder;
        std::uint64_t bits;
        std::memcpy(&bits, &rounded, sizeof bits);
        const auto quadrant = static_cast<std::uint32_t>(bits) & 3u;
        const auto r = static_cast<float>((angle - quarters * kHalfPiHigh) - quarters * kHalfPiLow);
        const float r2 = r * r;
        // Taylor series: on |r| <= pi/4 the first dropped terms are below 2e-9.
        const float s = r + r * r2 * (-1.0F / 6 + r2 * (1.0F / 120 + r2 * (-1.0F / 5040 + r2 * (1.0F / 362880))));
        const float c = 1.0F + r2 * (-0.5F + r2 * (1.0F / 24 + r2 * (-1.0F / 720 + r2 * (1.0F / 40320 - r2 * (1.0F / 3628800)))));
        const float odd_sine = (quadrant & 1u) != 0 ? c : s;
        const float odd_cosine = (quadrant & 1u) != 0 ? s : c;
        sine[i] = magnitude * ((quadrant & 2u) != 0 ? -odd_sine : odd_sine);
        cosine[i] = magnitude * (((quadrant + 1u) & 2u) != 0 ? -odd_cosine : odd_cosine);
    }
}

/// Turns the first 2 * pairs channels of `row` in place; pairs are (2i, 2i+1) or (i, i + pairs), see strata_rope_mode.
static inline void rope_turn(std::int32_t mode, std::int64_t pairs, const float *__restrict cosine, const float *__restrict sine,
                             float *__restrict row) {
    if (mode == STRATA_ROPE_INTERLEAVED) {
        for (std::int64_t i = 0; i < pairs; ++i) {
            const float a = row[2 * i];
            const float b = row[2 * i + 1];
            row[2 * i] = a * cosine[i] - b * sine[i];
            row[2 * i + 1] = a * sine[i] + b * cosine[i];
        }
        return;
    }
    float *__restrict upper = row + pairs;
    for (std::int64_t i = 0; i < pairs; ++i) {
        const float a = row[i];
        const float b = upper[i];
        row[i] = a * cosine[i] - b * sine[i];
        upper[i] = a * sine[i] + b * cosine[i];
    }
}

} // namespace strata
