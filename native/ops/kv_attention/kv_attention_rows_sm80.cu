// SPDX-License-Identifier: Apache-2.0
// kv_attention: the kernels for rows of 16-bit numbers.
#include "ops/kv_attention/kv_attention_rows.cuh"

#include "ops/kv_attention/kv_attention_gpu.h"

namespace strata {

namespace {

/// Two blocks a multiprocessor have 2 (2 stages - 1) units of 64 rows under way: 96 KiB at 128 channels.
constexpr int stages_of(int dim, bool few) { return dim > 128 ? 1 : dim > 64 || !few ? 2 : 3; }

template <int Dim, bool Few>
SmemLayout layout_of(bool split) {
    using Source = RowSource<Dim, false, Few>;
    SmemLayout at{};
    at.key_unit = Source::kUnitBytes;
    at.value_unit = Source::kUnitBytes;
    at.stages = stages_of(Dim, Few);
    at.infos = 2 * at.stages * Source::kUnitBytes;
    at.queries = at.infos + (at.stages + 1) * static_cast<std::int32_t>(sizeof(typename Source::Info));
    at.total = at.queries;
    if (Source::kQueryInSmem) {
        if (at.queries < turned_bytes(Dim)) at.queries = turned_bytes(Dim);
        at.total = at.queries + query_bytes(Dim, Source::kRows / 16, split);
    } else {
        at.queries = at.infos - at.value_unit; // the last values' place, which is filled last; turned rows end before it
        static_assert(Source::kQueryInSmem || query_bytes(Dim, Source::kRows / 16, false) <= Source::kUnitBytes);
    }
    finish_layout(Dim, at);
    return at;
}
template <int Dim>
SmemLayout layout_of(bool few, bool split) {
    return few ? layout_of<Dim, true>(split) : layout_of<Dim, false>(split);
}

template <int Dim, bool Bf16>
int launch(gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    const auto bytes = static_cast<std::size_t>(params.smem.total);
    if (params.few_kernel) {
        return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_rows_kernel<Dim, Bf16, true>), grid, kThreads, bytes, stream, params);
    }
    return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_rows_kernel<Dim, Bf16, false>), grid, kThreads, bytes, stream, params);
}

} // namespace

SmemLayout rows_layout(const KvAttentionProblem &p, bool few, bool split) {
    if (!p.cache.plain() || p.cache.layout == STRATA_KV_TILED || p.cache.keys.dtype == STRATA_DTYPE_F32 || p.cache.head_dim % kChunk != 0 ||
        p.cache.head_dim > 256 || !wide_rows(p.cache.keys) || !wide_rows(p.cache.values)) {
        return SmemLayout{};
    }
    switch (padded_dim(p.cache.head_dim)) {
    case 64: return layout_of<64>(few, split);
    case 128: return layout_of<128>(few, split);
    default: return layout_of<256>(few, split);
    }
}

int launch_rows(gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    const bool bf16 = params.cache.dtype == STRATA_DTYPE_BF16;
    switch (padded_dim(params.cache.head_dim)) {
    case 64: return bf16 ? launch<64, true>(grid, stream, params) : launch<64, false>(grid, stream, params);
    case 128: return bf16 ? launch<128, true>(grid, stream, params) : launch<128, false>(grid, stream, params);
    default: return bf16 ? launch<256, true>(grid, stream, params) : launch<256, false>(grid, stream, params);
    }
}

} // namespace strata
