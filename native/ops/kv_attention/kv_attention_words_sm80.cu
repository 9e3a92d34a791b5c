// SPDX-License-Identifier: Apache-2.0
// kv_attention: the kernels for tiled pages.
#include "ops/kv_attention/kv_attention_words_warps.cuh"

#include "ops/kv_attention/kv_attention_gpu.h"

namespace strata {

namespace {

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
    at.key_codes = static_cast<std::int32_t>(keys);
    at.value_codes = static_cast<std::int32_t>(values);
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

template <int Dim>
SmemLayout warps_layout(const KvAttentionProblem &p, bool split) {
    switch (codes_of(p.cache.key_format, p.cache.keys.dtype)) {
    case Codes::kInt8: return warps_layout_of<WordWarpsShape<Dim, Codes::kInt8>>(p, split);
    case Codes::kFloat8: return warps_layout_of<WordWarpsShape<Dim, Codes::kFloat8>>(p, split);
    case Codes::kByte: return warps_layout_of<WordWarpsShape<Dim, Codes::kByte>>(p, split);
    default: return warps_layout_of<WordWarpsShape<Dim, Codes::kNibble>>(p, split);
    }
}

/// Few rows of 16-bit words: decode. Where keys and values are alike, and the head is none of the widest, a kernel of its own is shorter.
template <int Dim, Codes C>
int launch_halves(gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    const auto bytes = static_cast<std::size_t>(params.smem.total);
    if constexpr (Dim <= 128) {
        if (params.smem.key_codes == params.smem.value_codes) {
            return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_words_kernel<Dim, 2, true, static_cast<int>(C)>), grid, kThreads, bytes, stream,
                                    params);
        }
    }
    return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_words_kernel<Dim, 2, true>), grid, kThreads, bytes, stream, params);
}

template <int Dim, Codes C>
int launch_by_warps(gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    const auto bytes = static_cast<std::size_t>(params.smem.total);
    return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_warps_kernel<Dim, static_cast<int>(C)>), grid, kThreads, bytes, stream, params);
}

template <int Dim>
int launch(gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    const auto bytes = static_cast<std::size_t>(params.smem.total);
    if (!params.few_kernel) {
        return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_words_kernel<Dim, 4, false>), grid, kThreads, bytes, stream, params);
    }
    if (params.smem.word_tiles == kHalves.group) {
        if (params.smem.key_codes == static_cast<std::int32_t>(Codes::kBfloat)) return launch_halves<Dim, Codes::kBfloat>(grid, stream, params);
        if (params.smem.key_codes == static_cast<std::int32_t>(Codes::kHalf)) return launch_halves<Dim, Codes::kHalf>(grid, stream, params);
        return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_words_kernel<Dim, 2, true>), grid, kThreads, bytes, stream, params);
    }
    if constexpr (Dim <= 128) {
        if (params.smem.by_warps) {
            switch (static_cast<Codes>(params.smem.key_codes)) {
            case Codes::kInt8: return launch_by_warps<Dim, Codes::kInt8>(grid, stream, params);
            case Codes::kFloat8: return launch_by_warps<Dim, Codes::kFloat8>(grid, stream, params);
            case Codes::kByte: return launch_by_warps<Dim, Codes::kByte>(grid, stream, params);
            default: return launch_by_warps<Dim, Codes::kNibble>(grid, stream, params);
            }
        }
    }
    return GPU_LAUNCH_AFTER(params.after, (kv_attention_mma_words_kernel<Dim, 4, true>), grid, kThreads, bytes, stream, params);
}

bool words_of_codes(std::int32_t format, std::int32_t dtype) { return format != STRATA_KV_PLAIN || dtype != STRATA_DTYPE_F32; }

/// Words are copied 16 bytes at a time, from blocks that are dense.
bool wide_words(const View &pool) {
    const std::int64_t chunk = 16 / static_cast<std::int64_t>(dtype_bytes(pool.dtype));
    return reinterpret_cast<std::uintptr_t>(pool.data) % 16 == 0 && pool.stride[0] % chunk == 0 && pool.stride[1] % chunk == 0;
}

/// Block scales are copied 16 bytes at a time.
bool wide_scales(std::int32_t format, const View &scales) { return !kv_block_scaled(format) || wide_rows(scales); }

} // namespace

SmemLayout words_layout(const KvAttentionProblem &p, bool few, bool split) {
    const KvCacheView &cache = p.cache;
    const bool taken = cache.layout == STRATA_KV_TILED && cache.head_dim <= 256 && words_of_codes(cache.key_format, cache.keys.dtype) &&
                       words_of_codes(cache.value_format, cache.values.dtype) && wide_words(cache.keys) && wide_words(cache.values) &&
                       wide_scales(cache.key_format, cache.key_scales) && wide_scales(cache.value_format, cache.value_scales) &&
                       wide_rows(cache.key_tail);
    if (!taken) return SmemLayout{};
    if (few && takes_warps(cache)) return padded_dim(cache.head_dim) == 64 ? warps_layout<64>(p, split) : warps_layout<128>(p, split);
    const WordShape shape = shape_of(p, few, split);
    SmemLayout best = layout_of(p, shape, few, split, 1);
    for (int stages = 2; stages <= (few ? kMostStages : 2); ++stages) {
        const SmemLayout more = layout_of(p, shape, few, split, stages);
        if (static_cast<std::size_t>(more.total) <= gpu::kPortableSmemBytes) best = more;
    }
    return best;
}

int launch_words(gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    switch (padded_dim(params.cache.head_dim)) {
    case 64: return launch<64>(grid, stream, params);
    case 128: return launch<128>(grid, stream, params);
    default: return launch<256>(grid, stream, params);
    }
}

} // namespace strata
