// SPDX-License-Identifier: Apache-2.0
// kv_attention: the kernels of sm_90 for items with many rows.
#include "ops/kv_attention/kv_attention_warpgroup.cuh"

#include "ops/kv_attention/kv_attention_gpu.h"

namespace strata {

namespace {

template <int Dim>
SmemLayout layout_of() {
    using Source = WarpgroupSource<Dim, false>;
    SmemLayout at{};
    at.key_unit = Source::kUnitBytes;
    at.value_unit = Source::kUnitBytes;
    at.stages = 2;
    at.queries = 4 * Source::kUnitBytes;
    at.infos = at.queries + query_bytes(Dim, kGroupWarps, false);
    at.state = at.infos + Source::kNotes * static_cast<std::int32_t>(sizeof(typename Source::Info));
    at.total = at.state + static_cast<std::int32_t>(sizeof(WarpgroupState));
    return at;
}

template <int Dim, bool Bf16>
int launch(int items, void *stream, const AttentionParams &params) {
    return GPU_LAUNCH_AFTER(params.after, (kv_attention_warpgroup_kernel<Dim, Bf16>), items, kGroupThreads,
                            static_cast<std::size_t>(params.smem.total), stream, params);
}

} // namespace

SmemLayout warpgroup_layout(int head_dim) { return head_dim <= 64 ? layout_of<64>() : layout_of<128>(); }

int launch_warpgroup(int items, void *stream, const AttentionParams &params) {
    const bool bf16 = params.cache.dtype == STRATA_DTYPE_BF16;
    if (params.cache.head_dim <= 64) return bf16 ? launch<64, true>(items, stream, params) : launch<64, false>(items, stream, params);
    return bf16 ? launch<128, true>(items, stream, params) : launch<128, false>(items, stream, params);
}

} // namespace strata
