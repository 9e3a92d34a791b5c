// SPDX-License-Identifier: Apache-2.0
// kv_attention: the kernels that add up the probabilities of keys.
#include "ops/kv_attention/kv_attention_probability.cuh"

#include "ops/kv_attention/kv_attention_gpu.h"
#include "ops/kv_attention/kv_attention_rows.cuh"
#include "ops/kv_attention/kv_attention_words.cuh"

namespace strata {

namespace {

template <int Dim, bool Bf16>
GPU_KERNEL(kThreads, 2)
kv_attention_mma_probability_rows_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(smem);
    add_probabilities<RowSource<Dim, Bf16, false>>(p, smem);
}

template <int Dim>
GPU_KERNEL(kThreads, 2)
kv_attention_mma_probability_words_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(smem);
    add_probabilities<WordSource<Dim, 4, false>>(p, smem);
}

template <int Dim>
int launch(bool words, gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    const auto bytes = static_cast<std::size_t>(params.smem.total);
    if (words) return GPU_LAUNCH_AFTER(params.after, kv_attention_mma_probability_words_kernel<Dim>, grid, kThreads, bytes, stream, params);
    if (params.cache.dtype == STRATA_DTYPE_BF16) {
        return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_probability_rows_kernel<Dim, true>), grid, kThreads, bytes, stream, params);
    }
    return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_probability_rows_kernel<Dim, false>), grid, kThreads, bytes, stream, params);
}

/// The keys of one tile, its slots, operands and turned rows; `many` is the layout of the attention itself.
SmemLayout probability_layout(const KvAttentionProblem &p, const SmemLayout &many, bool words, bool split) {
    const int dim = padded_dim(p.cache.head_dim);
    SmemLayout at = many;
    at.stages = 1;
    at.infos = many.key_unit;
    at.queries = at.infos + static_cast<std::int32_t>(words ? sizeof(WordSource<64, 4, false>::Info) : sizeof(RowSource<64, false, false>::Info));
    at.turned = at.queries + query_bytes(dim, kWarps, split && (words || dim > 128));
    at.state = at.turned + (p.cache.rotation != 0 ? turned_bytes(dim) : 0);
    at.total = at.state + static_cast<std::int32_t>(sizeof(BlockState));
    return at;
}

} // namespace

int launch_probability(const KvAttentionProblem &p, void *stream, AttentionParams params) {
    const bool split = params.q_split;
    const SmemLayout rows = rows_layout(p, false, split);
    const SmemLayout words = words_layout(p, false, split);
    const bool tiled = rows.total == 0;
    params.smem = probability_layout(p, tiled ? words : rows, tiled, split);
    const bool plain = (rows.total == 0 && words.total == 0) || static_cast<std::size_t>(params.smem.total) > gpu::kPortableSmemBytes;
    const int dim = padded_dim(p.cache.head_dim);
    const int rows_slots = dim > 128 ? RowSource<256, false, false>::kTileSlots : RowSource<128, false, false>::kTileSlots;
    const int words_slots = dim > 128 ? WordSource<256, 4, false>::kTileSlots : WordSource<128, 4, false>::kTileSlots;
    const int slots = plain ? kPlainSlots : tiled ? words_slots : rows_slots;
    constexpr std::int64_t kMostZ = 65535;
    const auto tiles = static_cast<int>((p.max_length + slots - 1) / slots);
    const gpu::Dim3 grid(tiles, static_cast<int>(p.cache.kv_heads), static_cast<int>(p.cache.batch < kMostZ ? p.cache.batch : kMostZ));
    if (plain) {
        return GPU_LAUNCH_AFTER(params.after, kv_attention_plain_probability_kernel, grid, kThreads, plain_smem_bytes(p.cache.head_dim), stream,
                                params);
    }
    switch (dim) {
    case 64: return launch<64>(tiled, grid, stream, params);
    case 128: return launch<128>(tiled, grid, stream, params);
    default: return launch<256>(tiled, grid, stream, params);
    }
}

} // namespace strata
