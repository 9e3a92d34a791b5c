// SPDX-License-Identifier: Apache-2.0
// Rotary embedding in kernels: the angle of one pair at one position, and where the pair's channels are.
#pragma once

#include "core/rope_angles.h"
#include "cuda/gpu.h"

namespace strata {

/// What a kernel needs of strata_rope_params; pairs is 0 where nothing turns.
struct RopeTable {
    double ratio;           // of neighbouring frequencies
    double frequency_scale; // the first frequency
    std::int32_t pairs;
    std::int32_t interleaved; // 1: pairs (2i, 2i+1); 0: (i, i + pairs)
};

/// For the launcher, of checked parameters.
inline RopeTable rope_table(const strata_rope_params &rope) {
    if (rope.mode == STRATA_ROPE_NONE) return RopeTable{1.0, 1.0, 0, 0};
    return RopeTable{rope_ratio(rope), static_cast<double>(rope.frequency_scale), rope.dims / 2, rope.mode == STRATA_ROPE_INTERLEAVED ? 1 : 0};
}

/// Sine and cosine of position * frequency_scale * ratio^pair: the power by squaring, as right as the host's table.
GPU_DEVICE void rope_angle(const RopeTable &rope, std::int32_t position, int pair, float &sine, float &cosine) {
    double frequency = rope.frequency_scale;
    double power = rope.ratio;
    for (int bits = pair; bits != 0; bits >>= 1) {
        if ((bits & 1) != 0) frequency *= power;
        power *= power;
    }
    gpu::sincos(static_cast<double>(position) * frequency, sine, cosine);
}

/// The first channel of a pair; the second is rope_partner_distance away.
GPU_DEVICE int rope_first_channel(const RopeTable &rope, int pair) { return rope.interleaved != 0 ? 2 * pair : pair; }
GPU_DEVICE int rope_partner_distance(const RopeTable &rope) { return rope.interleaved != 0 ? 1 : rope.pairs; }

} // namespace strata
