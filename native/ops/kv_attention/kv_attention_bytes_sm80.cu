// SPDX-License-Identifier: Apache-2.0
// kv_attention: the kernels for rows of 8-bit codes.
#include "ops/kv_attention/kv_attention_bytes_warps.cuh"

namespace strata {

namespace {

template <int Dim, bool Few>
SmemLayout layout_of(const KvAttentionProblem &p, bool split, int stages) {
    using Source = ByteSource<Dim, Few>;
    SmemLayout at{};
    at.key_unit = Source::kUnitBytes;
    at.value_unit = Source::kUnitBytes;
    at.stages = stages;
    at.infos = 2 * stages * Source::kUnitBytes;
    at.queries = at.infos + (stages + 1) * static_cast<std::int32_t>(sizeof(typename Source::Info));
    if (p.cache.rotation != 0 && at.queries < turned_bytes(Dim)) at.queries = turned_bytes(Dim);
    at.total = at.queries + query_bytes(Dim, Source::kRows / 16, split);
    at.key_codes = static_cast<std::int32_t>(codes_of(p.cache.key_format, p.cache.keys.dtype));
    at.value_codes = static_cast<std::int32_t>(codes_of(p.cache.value_format, p.cache.values.dtype));
    finish_layout(Dim, at);
    return at;
}
template <int Dim>
SmemLayout layout_of(const KvAttentionProblem &p, bool few, bool split, int stages) {
    return few ? layout_of<Dim, true>(p, split, stages) : layout_of<Dim, false>(p, split, stages);
}
SmemLayout layout_of(const KvAttentionProblem &p, bool few, bool split, int stages) {
    switch (padded_dim(p.cache.head_dim)) {
    case 64: return layout_of<64>(p, few, split, stages);
    case 128: return layout_of<128>(p, few, split, stages);
    default: return layout_of<256>(p, few, split, stages);
    }
}

/// Runs of 16 slots lie in one page.
bool by_warps(const KvCacheView &cache) { return takes_warps(cache) && cache.page_size % 16 == 0; }

template <int Dim, Codes C>
int launch_by_warps(gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    const auto bytes = static_cast<std::size_t>(params.smem.total);
    return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_bytes_warps_kernel<Dim, static_cast<int>(C)>), grid, kThreads, bytes, stream, params);
}

/// Decode has a kernel for each kind of code where keys and values are alike: one that asks is twice as long.
template <int Dim>
int launch(gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    constexpr int kInt8 = static_cast<int>(Codes::kInt8);
    constexpr int kFloat8 = static_cast<int>(Codes::kFloat8);
    const auto bytes = static_cast<std::size_t>(params.smem.total);
    if (!params.few_kernel) return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_bytes_kernel<Dim, false>), grid, kThreads, bytes, stream, params);
    if (params.smem.key_codes != params.smem.value_codes) {
        return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_bytes_kernel<Dim, true>), grid, kThreads, bytes, stream, params);
    }
    if constexpr (Dim <= 128) {
        if (params.smem.by_warps && params.smem.key_codes == kInt8) return launch_by_warps<Dim, Codes::kInt8>(grid, stream, params);
        if (params.smem.by_warps) return launch_by_warps<Dim, Codes::kFloat8>(grid, stream, params);
    }
    if (params.smem.key_codes == kInt8) {
        return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_bytes_kernel<Dim, true, kInt8>), grid, kThreads, bytes, stream, params);
    }
    return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_bytes_kernel<Dim, true, kFloat8>), grid, kThreads, bytes, stream, params);
}

/// Rows are copied 16 bytes at a time, which are two chunks of wide_rows.
bool wide_codes(const View &pool) {
    if (!wide_rows(pool)) return false;
    for (std::int32_t i = 0; i + 1 < pool.ndim; ++i) {
        if (pool.shape[i] > 1 && pool.stride[i] % 16 != 0) return false;
    }
    return true;
}

} // namespace

SmemLayout bytes_layout(const KvAttentionProblem &p, bool few, bool split) {
    const KvCacheView &cache = p.cache;
    const bool taken = cache.layout == STRATA_KV_ROWS && kv_token_scaled(cache.key_format) && kv_token_scaled(cache.value_format) &&
                       cache.head_dim % 16 == 0 && cache.head_dim <= 256 && wide_codes(cache.keys) && wide_codes(cache.values);
    if (!taken) return SmemLayout{};
    if (few && by_warps(cache)) {
        return padded_dim(cache.head_dim) == 64 ? warps_layout_of<ByteWarpsShape<64>>(p, split) : warps_layout_of<ByteWarpsShape<128>>(p, split);
    }
    SmemLayout best = layout_of(p, few, split, 1);
    for (int stages = 2; stages <= (few ? kMostStages : 2); ++stages) {
        const SmemLayout more = layout_of(p, few, split, stages);
        if (static_cast<std::size_t>(more.total) <= gpu::kPortableSmemBytes) best = more;
    }
    return best;
}

int launch_bytes(gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    switch (padded_dim(params.cache.head_dim)) {
    case 64: return launch<64>(grid, stream, params);
    case 128: return launch<128>(grid, stream, params);
    default: return launch<256>(grid, stream, params);
    }
}

} // namespace strata
