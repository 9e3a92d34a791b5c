// SPDX-License-Identifier: Apache-2.0
// Packed weights in kernels: where a group of 32 columns lies, and one weight at a time. The layout is drawn in core/weight.h.
#pragma once

#include "core/weight.h"
#include "cuda/elements.cuh"

namespace strata {

/// The weight's sizes as a kernel needs them.
struct PanelParams {
    const unsigned char *panels;
    int64_t panel_bytes;
    int64_t k;
    int32_t format, groups_per_step, code_bytes, tail_bytes;
    int32_t scale_groups; // groups of 32 columns that share a scale: more than 1 for I4 only
};

inline PanelParams panel_params(const WeightView &w) {
    return {w.panels, w.panel_bytes, w.k, w.format, w.groups_per_step, w.code_bytes, w.tail_bytes, w.format == STRATA_FORMAT_I4 ? w.group / 32 : 1};
}

/// Element type of float weights.
inline std::int32_t float_weight_dtype(std::int32_t format) {
    return format == STRATA_FORMAT_F32 ? STRATA_DTYPE_F32 : format == STRATA_FORMAT_F16 ? STRATA_DTYPE_F16 : STRATA_DTYPE_BF16;
}

/// A group of 32 columns of one panel: its codes, the tail of its step, its number within the step.
struct GroupPlace {
    const unsigned char *codes;
    const unsigned char *tail;
    int s;
};

GPU_DEVICE GroupPlace group_place(const PanelParams &p, const unsigned char *panel, int64_t group) {
    const int64_t step = group / p.groups_per_step;
    const int64_t first = step * p.groups_per_step;
    const int64_t here = gpu::min(int64_t{p.groups_per_step}, p.k / 32 - first);
    const unsigned char *base = panel + step * (int64_t{p.groups_per_step} * p.code_bytes + p.tail_bytes);
    const int s = static_cast<int>(group - first);
    return {base + int64_t{s} * p.code_bytes, base + here * p.code_bytes, s};
}

GPU_DEVICE float half_at(const unsigned char *tail, int offset, int row) {
    return gpu::f16_to_f32(*reinterpret_cast<const uint16_t *>(tail + offset + 2 * row));
}

/// The weight in row `row` of the panel and column `column` of the group: scale * code + offset, of which only the sum may round.
GPU_DEVICE float panel_weight(const PanelParams &p, const GroupPlace &at, int row, int column) {
    const int half = column >> 4;
    const int vector = (column & 15) >> 2;
    const int byte = 4 * row + (column & 3);
    if (p.format == STRATA_FORMAT_Q8_0) {
        const auto code = static_cast<int8_t>(at.codes[64 * (column >> 2) + byte]);
        return half_at(at.tail, 32 * at.s, row) * static_cast<float>(code);
    }
    const int pair = at.codes[64 * vector + byte];
    const auto nibble = static_cast<float>(half != 0 ? pair >> 4 : pair & 15);
    switch (p.format) {
    case STRATA_FORMAT_Q4_1: return gpu::fma(half_at(at.tail, 0, row), nibble, half_at(at.tail, 32, row));
    case STRATA_FORMAT_Q4_K: {
        const unsigned char *factors = at.tail + 64 + 32 * at.s;
        const float scale = half_at(at.tail, 0, row) * static_cast<float>(factors[row]);
        return gpu::fma(scale, nibble, -(half_at(at.tail, 32, row) * static_cast<float>(factors[16 + row])));
    }
    case STRATA_FORMAT_Q6_K: {
        const int upper = (at.tail[128 * at.s + 64 * half + byte] >> (2 * vector)) & 3;
        const auto scale = static_cast<int8_t>(at.tail[1024 + 32 * at.s + 16 * half + row]);
        return half_at(at.tail, 1280, row) * static_cast<float>(scale) * (nibble + static_cast<float>(16 * upper - 32));
    }
    default: return half_at(at.tail, at.s / p.scale_groups * 32, row) * (nibble - 8.0f);
    }
}

} // namespace strata
