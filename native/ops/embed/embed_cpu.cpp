// SPDX-License-Identifier: Apache-2.0
// embed on the CPU: y[t,:] = dequantise(W)[ids[t],:].
//
// Shapes   ids [tokens]; W [n, k] in panels; y [tokens, k].   Bound: latency; a row's bytes lie 4 together in every 64 of its panel.
// Split    chunks of whole tokens. A group of 32 columns is dequantised for all 16 rows, as qgemm does it, and one row is kept: the panel's lines are
//          fetched anyway, and the values are those that qgemm multiplies with.
#include "core/thread_pool.h"
#include "ops/embed/embed.h"
#include "simd/panel_formats.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int64_t kElementsPerChunk = 16384;

template <class Format>
void quantised_row(const EmbedProblem &p, const unsigned char *panel, std::int64_t lane, std::int64_t y) {
    for_each_group<Format>(panel, p.w.k / 32, [&](std::int64_t g, const unsigned char *codes, const unsigned char *tail, int s) STRATA_INLINE_LAMBDA {
        alignas(64) float row[32];
        dequantise_group<Format>(codes, tail, s, [&](int column, F32x16 weights) STRATA_INLINE_LAMBDA {
            alignas(64) float rows[16];
            weights.store(rows);
            row[column] = rows[lane];
        });
        store_from_f32(p.y.dtype, p.y.data, y + 32 * g, F32x16::load(row), 16);
        store_from_f32(p.y.dtype, p.y.data, y + 32 * g + 16, F32x16::load(row + 16), 16);
    });
}

template <std::int32_t Dtype>
void float_row(const EmbedProblem &p, const unsigned char *panel, std::int64_t lane, std::int64_t y) {
    for (std::int64_t c = 0; c < p.w.k; ++c) {
        store_from_f32(p.y.dtype, p.y.data, y + c, load_as_f32(Dtype, panel, c * kPanelRows + lane, 1), 1);
    }
}

using RowFunction = void (*)(const EmbedProblem &p, const unsigned char *panel, std::int64_t lane, std::int64_t y);

RowFunction row_function(const EmbedProblem &p) {
    switch (p.w.format) {
    case STRATA_FORMAT_F32: return float_row<STRATA_DTYPE_F32>;
    case STRATA_FORMAT_F16: return float_row<STRATA_DTYPE_F16>;
    case STRATA_FORMAT_BF16: return float_row<STRATA_DTYPE_BF16>;
    case STRATA_FORMAT_Q4_1: return quantised_row<Q4_1>;
    case STRATA_FORMAT_Q8_0: return quantised_row<Q8_0>;
    case STRATA_FORMAT_Q4_K: return quantised_row<Q4_K>;
    case STRATA_FORMAT_Q6_K: return quantised_row<Q6_K>;
    default: break; // Q4_0 and I4
    }
    switch (p.w.groups_per_step) {
    case 2: return quantised_row<SymmetricNibbles<1>>;
    case 4: return quantised_row<SymmetricNibbles<2>>;
    default: return quantised_row<SymmetricNibbles<4>>;
    }
}

} // namespace

Status embed_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const EmbedProblem *>(problem);
    exec.impl = IMPL_NAME("embed");
    if (exec.dry_run) {
        return STRATA_OK;
    }
    const RowFunction row = row_function(p);
    const auto *ids = static_cast<const std::int32_t *>(p.ids.data);
    const std::int64_t per_chunk = 1 + kElementsPerChunk / p.w.k;
    parallel_for(*exec.pool, (p.tokens + per_chunk - 1) / per_chunk, [&](std::int64_t chunk, std::int32_t) {
        const std::int64_t end = (chunk + 1) * per_chunk < p.tokens ? (chunk + 1) * per_chunk : p.tokens;
        for (std::int64_t t = chunk * per_chunk; t < end; ++t) {
            row(p, p.w.panels + ids[t] / kPanelRows * p.w.panel_bytes, ids[t] % kPanelRows, t * p.y.stride[0]);
        }
    });
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
