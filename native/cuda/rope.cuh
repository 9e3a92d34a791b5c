// SPDX-License-Identifier: Apache-2.0
// Rotary embedding in kernels: the frequency of a pair, its angle at one position, and where the pair's channels are.
#pragma once

#include "core/rope_angles.h"
#include "core/tensor_check.h"
#include "cuda/gpu.h"

namespace strata {

/// What a kernel needs of strata_rope_params; pairs is 0 where nothing turns.
struct RopeTable {
    double ratio;           // of neighbouring frequencies
    double frequency_scale; // of the pairs that get it: all, or with YaRN those past the ramp
    double ramp_low, ramp_slope;
    const float *factors; // null: none
    std::int64_t factor_step;
    float magnitude;
    std::int32_t pairs;
    std::int32_t interleaved; // 1: pairs (2i, 2i+1); 0: (i, i + pairs)
};

/// For the launcher, of checked parameters.
inline RopeTable rope_table(const strata_rope_params &rope, const View &factors) {
    RopeTable table{};
    if (rope.mode == STRATA_ROPE_NONE) return table;
    table.ratio = rope_ratio(rope);
    table.frequency_scale = static_cast<double>(rope.frequency_scale);
    const YarnRamp ramp = rope.yarn_context > 0 ? yarn_ramp(rope) : YarnRamp{-1.0, 1.0}; // without YaRN every pair is past the ramp
    table.ramp_low = ramp.low;
    table.ramp_slope = 1.0 / ramp.span;
    table.factors = static_cast<const float *>(factors.data);
    table.factor_step = factors.stride[0];
    table.magnitude = rope.magnitude;
    table.pairs = rope.dims / 2;
    table.interleaved = rope.mode == STRATA_ROPE_INTERLEAVED ? 1 : 0;
    return table;
}

/// The frequency of a pair: the power by squaring, as right as the host's table.
GPU_DEVICE double rope_frequency(const RopeTable &rope, int pair) {
    double frequency = 1.0;
    double power = rope.ratio;
    for (int bits = pair; bits != 0; bits >>= 1) {
        if ((bits & 1) != 0) frequency *= power;
        power *= power;
    }
    const double ramp = (pair - rope.ramp_low) * rope.ramp_slope;
    const double share = ramp > 0.0 ? (ramp < 1.0 ? ramp : 1.0) : 0.0;
    frequency *= rope.frequency_scale * share + (1.0 - share);
    return rope.factors == nullptr ? frequency : frequency / static_cast<double>(rope.factors[pair * rope.factor_step]);
}

/// Sine and cosine of position * frequency, times the magnitude.
GPU_DEVICE void rope_angle(const RopeTable &rope, std::int32_t position, double frequency, float &sine, float &cosine) {
    gpu::sincos(static_cast<double>(position) * frequency, sine, cosine);
    sine *= rope.magnitude;
    cosine *= rope.magnitude;
}

/// The first channel of a pair; the second is rope_partner_distance away.
GPU_DEVICE int rope_first_channel(const RopeTable &rope, int pair) { return rope.interleaved != 0 ? 2 * pair : pair; }
GPU_DEVICE int rope_partner_distance(const RopeTable &rope) { return rope.interleaved != 0 ? 1 : rope.pairs; }

} // namespace strata
