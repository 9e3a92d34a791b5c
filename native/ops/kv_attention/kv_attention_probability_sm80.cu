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
    if (words) return GPU_LAUNCH(kv_attention_mma_probability_words_kernel<Dim>, grid, kThreads, bytes, stream, params);
    if (params.cache.dtype == STRATA_DTYPE_BF16) {
        return GPU_LAUNCH((kv_attention_mma_probability_rows_kernel<Dim, true>), grid, kThreads, bytes, stream, params);
    }
    return GPU_LAUNCH((kv_attention_mma_probability_rows_kernel<Dim, false>), grid, kThreads, bytes, stream, params);
}

/// The keys of one tile, its slots, operands and turned rows; `many` is the layout of the attention itself.
SmemLayout probability_layout(const KvAttentionProblem &p, const SmemLayout &many, bool words, bool split) {
    const int dim = padded_dim(p.cache.head_dim);
    SmemLayout at = many;
    at.stages = 1;
    at.infos = many.key_unit;
    at.queries = at.infos + static_cast<std::int32_t>(words ? sizeof(WordSource<64, 4, false>::Info) : sizeof(RowSource<64, false, false>::Info));
    at.turned = at.queries + (words || dim > 128 ? query_bytes(dim, kWarps, split) : 0);
    at.state = at.turned + (p.cache.rotation != 0 ? turned_bytes(dim) : 0);
    at.total = at.state + static_cast<std::int32_t>(sizeof(BlockState));
    return at;
}

/// N-tiles of a group, slots of a tile, bytes of what is kept of the tile's slots.
struct WordShape {
    int group, slots, info;
};
template <int Dim, int T, bool Few>
constexpr WordShape word_shape() {
    return {T, WordSource<Dim, T, Few>::kTileSlots, static_cast<int>(sizeof(typename WordSource<Dim, T, Few>::Info))};
}
constexpr WordShape kHalves = word_shape<64, 2, true>();
constexpr WordShape kCodes = word_shape<64, 4, true>();
constexpr WordShape kManyShape = word_shape<128, 4, false>();
constexpr WordShape kManyWideShape = word_shape<256, 4, false>();

SmemLayout layout_of(const KvAttentionProblem &p, const WordShape &shape, bool few, bool split, int stages) {
    const Codes keys = codes_of(p.cache.key_format, p.cache.keys.dtype);
    const Codes values = codes_of(p.cache.value_format, p.cache.values.dtype);
    const int dim = padded_dim(p.cache.head_dim);
    SmemLayout at{};
    at.key_unit = key_unit_bytes(shape.slots, dim, 1 << word_shift(keys), keys >= Codes::kByte);
    at.value_unit = value_unit_bytes(shape.slots, dim, 1 << word_shift(values), values >= Codes::kByte);
    at.stages = stages;
    at.infos = stages * (at.key_unit + at.value_unit);
    at.queries = at.infos + (stages + 1) * shape.info;
    if (p.cache.rotation != 0 && at.queries < turned_bytes(dim)) at.queries = turned_bytes(dim);
    at.total = at.queries + query_bytes(dim, few ? 1 : kWarps, split);
    at.word_tiles = shape.group;
    finish_layout(dim, at);
    return at;
}

WordShape shape_of(const KvAttentionProblem &p, bool few, bool split) {
    if (!few) return padded_dim(p.cache.head_dim) > 128 ? kManyWideShape : kManyShape;
    if (p.cache.plain()) return kHalves;
    // Tiles of 128 slots, unless a wide head would leave no room for what is under way; words of 4-bit values need them.
    const bool roomy = static_cast<std::size_t>(layout_of(p, kCodes, true, split, 2).total) <= gpu::kPortableSmemBytes;
    return roomy || p.cache.value_format == STRATA_KV_I4_BLOCK ? kCodes : kHalves;
}

bool words_of_codes(std::int32_t format, std::int32_t dtype) { return format != STRATA_KV_PLAIN || dtype != STRATA_DTYPE_F32; }

/// Words are copied 16 bytes at a time, from blocks that are dense.
bool wide_words(const View &pool) {
    const std::int64_t chunk = 16 / static_cast<std::int64_t>(dtype_bytes(pool.dtype));
    return reinterpret_cast<std::uintptr_t>(pool.data) % 16 == 0 && pool.stride[0] % chunk == 0 && pool.stride[1] % chunk == 0;
}

/// Block scales are copied 16 bytes at a time.
bool wide_scales(std::int32_t format, const View &scales) { return !kv_block_scaled(format) || wide_rows(scales); }

SmemLayout words_layout(const KvAttentionProblem &p, bool few, bool split) {
    const KvCacheView &cache = p.cache;
    const bool taken = cache.layout == STRATA_KV_TILED && cache.head_dim <= 256 && words_of_codes(cache.key_format, cache.keys.dtype) &&
                       words_of_codes(cache.value_format, cache.values.dtype) && wide_words(cache.keys) && wide_words(cache.values) &&
                       wide_scales(cache.key_format, cache.key_scales) && wide_scales(cache.value_format, cache.value_scales) &&
                       wide_rows(cache.key_tail);
    if (!taken) return SmemLayout{};
    const WordShape shape = shape_of(p, few, split);
    SmemLayout best = layout_of(p, shape, few, split, 1);
    for (int stages = 2; stages <= (few ? kMostStages : 2); ++stages) {
        const SmemLayout more = layout_of(p, shape, few, split, stages);
        if (static_cast<std::size_t>(more.total) <= gpu::kPortableSmemBytes) best = more;
    }
    return best;
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
    if (plain) return GPU_LAUNCH(kv_attention_plain_probability_kernel, grid, kThreads, plain_smem_bytes(p.cache.head_dim), stream, params);
    switch (dim) {
    case 64: return launch<64>(tiled, grid, stream, params);
    case 128: return launch<128>(tiled, grid, stream, params);
    default: return launch<256>(tiled, grid, stream, params);
    }
}

} // namespace strata
