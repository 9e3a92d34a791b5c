// SPDX-License-Identifier: Apache-2.0
// kv_score on the GPU: scores of cached keys from the attention of the last `window` queries, reduced as it is computed.
//
//   p[r,j] = exp(scale q_r k_j - lse_r), j <= length - window + r;   statistic over r;   pooling over j and reduction over heads, in either order.
//
// Shapes   q [batch, window, q_heads, head_dim]; keys by page table; scores [batch, kv_heads, capacity] f32.
// Bound    bytes of K where window * group <= ~128, tensor cores above; K is read once per KV head (twice without lse).
// Passes   1 pack the queries in the type of the keys;  2 without lse: maximum and sum of every row over splits of the keys, then merged;
//          3 statistics: a block holds a tile of keys and streams all rows past it;  4 pooling and what reduction is left.
// Split    blocks by shapes alone; every sum has one order.
#include "ops/kv_score/kv_score_f32.cuh"
#include "ops/kv_score/kv_score_mma.cuh"

namespace strata {

namespace {

constexpr int kPoolThreads = 256;
constexpr std::int64_t kMostSplits = 16;
constexpr std::int64_t kKeysPerSplit = 1024;
/// Row states of a pair that a workspace has room for before splits make way for rows.
constexpr std::int64_t kRowStates = 65536;

// ---- 1: queries ----------------------------------------------------------------------------------------------------------------------------

struct PackParams {
    const void *q;
    const float *lse_in;                                  // null: absent
    int64_t q_b, q_row, q_head, lse_b, lse_row, lse_head; // strides
    void *queries;
    float *factors, *lse;
    int64_t lines; // pairs * rows
    float scale;
    int32_t q_dtype, key_dtype, kv_heads, group, window, head_rows, head_dim, row_channels, parts;
};

GPU_DEVICE float narrow(int32_t dtype, float x, uint16_t &bits) {
    bits = dtype == STRATA_DTYPE_F16 ? gpu::f32_to_f16(x) : gpu::f32_to_bf16(x);
    return dtype == STRATA_DTYPE_F16 ? gpu::f16_to_f32(bits) : gpu::bf16_to_f32(bits);
}

/// A power of two that brings a row with this largest magnitude to 2^13 ... 2^14, where fp16 parts neither overflow nor lose bits; 1 for 0, infinity,
/// NaN.
GPU_DEVICE float row_power(float largest) {
    const int exponent = static_cast<int>(gpu::as_uint(largest) >> 23 & 255u);
    return exponent == 0 || exponent == 255 ? 1.0f
                                            : gpu::as_float(static_cast<uint32_t>(gpu::max(1, gpu::min(254, 127 + 13 - (exponent - 127)))) << 23);
}

/// One warp packs one row of one head, zeros for the rows that round a head up to tiles.
GPU_KERNEL(kScoreThreads, 8) kv_score_pack_kernel(PackParams p) {
    const int lane = gpu::lane_id();
    const int64_t step = int64_t{gpu::grid_dim_x()} * kScoreWarps;
    for (int64_t line = int64_t{gpu::block_x()} * kScoreWarps + gpu::warp_id(); line < p.lines; line += step) {
        const int64_t rows = int64_t{p.group} * p.head_rows;
        const int64_t pair = line / rows;
        const int32_t i = static_cast<int32_t>(line % p.head_rows);
        const int64_t q_head = pair % p.kv_heads * p.group + line % rows / p.head_rows;
        const int64_t b = pair / p.kv_heads;
        const bool real = i < p.window;
        const int64_t from = b * p.q_b + i * p.q_row + q_head * p.q_head;
        float power = 1.0f;
        if (p.parts > 1 && p.key_dtype == STRATA_DTYPE_F16) {
            float largest = 0.0f;
            for (int c = lane; c < p.head_dim && real; c += gpu::kWarpSize)
                largest = gpu::max(largest, gpu::abs(load_element(p.q_dtype, p.q, from + c)));
            power = row_power(gpu::warp_reduce_max(largest));
        }
        for (int c = lane; c < p.row_channels; c += gpu::kWarpSize) {
            const float x = real && c < p.head_dim ? load_element(p.q_dtype, p.q, from + c) * power : 0.0f;
            if (p.key_dtype == STRATA_DTYPE_F32) {
                static_cast<float *>(p.queries)[line * p.row_channels + c] = x;
                continue;
            }
            uint16_t *to = static_cast<uint16_t *>(p.queries) + line * p.parts * p.row_channels + c;
            float rest = x;
            for (int part = 0; part < p.parts; ++part) {
                uint16_t bits = 0;
                rest -= narrow(p.key_dtype, rest, bits);
                to[int64_t{part} * p.row_channels] = bits;
            }
        }
        if (lane == 0) {
            p.factors[line] = gpu::div(p.scale * gpu::kLog2e, power);
            if (p.lse_in != nullptr) p.lse[line] = real ? p.lse_in[b * p.lse_b + i * p.lse_row + q_head * p.lse_head] * gpu::kLog2e : 0.0f;
        }
    }
}

// ---- 2: log-sum-exp, its last step ---------------------------------------------------------------------------------------------------------

GPU_KERNEL(kPoolThreads, 4) kv_score_merge_kernel(ScoreParams p) {
    const int64_t step = int64_t{gpu::grid_dim_x()} * kPoolThreads;
    for (int64_t line = int64_t{gpu::block_x()} * kPoolThreads + gpu::thread_x(); line < p.pairs * p.rows; line += step) {
        const int64_t pair = line / p.rows;
        const int32_t row = static_cast<int32_t>(line % p.rows);
        int32_t told = 0;
        const int32_t length = safe_length(p, pair / p.kv_heads, pair % p.kv_heads, told);
        const int32_t splits = gpu::min(p.splits, gpu::ceil_div(length, p.split_keys)); // those that had keys
        float state[2] = {kNothing, 0.0f};
        for (int32_t split = 0; split < splits; ++split) {
            for (int warp = 0; warp < kScoreWarps; ++warp) {
                const float *part = row_state(p, pair, split, warp, row);
                merge_row(state, part[0], part[1], false);
            }
        }
        p.lse[line] = state[1] == 0.0f ? 0.0f : state[0] + gpu::log2(state[1]);
    }
}

// ---- 4: pooling ----------------------------------------------------------------------------------------------------------------------------

struct PoolParams {
    ScoreParams score; // planes, lengths, reductions
    float *scores;
    int64_t scores_b, scores_h;
    int32_t pool, width, q_heads, column_blocks;
    bool layer;
};

/// A plane's value at column j of `columns`, what pooling ignores elsewhere. Early planes of a layer mean are added up on the way.
GPU_DEVICE float plane_value(const PoolParams &p, int64_t b, int64_t plane, int32_t columns, int32_t j, float neutral) {
    const float *planes = p.score.planes + b * p.score.plane_b;
    if (j < 0 || j >= columns) return neutral;
    if (!p.layer || !p.score.early) return planes[plane * p.score.plane_h + j];
    float sum = 0.0f;
    for (int64_t h = 0; h < p.score.kv_heads; ++h) sum += j < scored_columns(p.score, b, h) ? planes[h * p.score.plane_h + j] : 0.0f;
    return gpu::div(sum, static_cast<float>(p.q_heads));
}

GPU_DEVICE float pooled_value(const PoolParams &p, int64_t b, int64_t plane, int32_t columns, int32_t j) {
    const float neutral = p.pool == STRATA_POOL_MAX ? kNothing : 0.0f;
    const int32_t half = p.width / 2;
    float value = plane_value(p, b, plane, columns, j - half, neutral);
    for (int32_t t = 1 - half; t <= half; ++t) {
        const float other = plane_value(p, b, plane, columns, j + t, neutral);
        value = p.pool == STRATA_POOL_MAX ? gpu::max(value, other) : value + other;
    }
    return p.pool == STRATA_POOL_AVERAGE ? gpu::div(value, static_cast<float>(p.width)) : value;
}

GPU_KERNEL(kPoolThreads, 4) kv_score_pool_kernel(PoolParams p) {
    const int64_t pair = gpu::block_x() / p.column_blocks;
    const int64_t b = pair / p.score.kv_heads;
    const int64_t h = pair % p.score.kv_heads;
    const int32_t j = gpu::block_x() % p.column_blocks * kPoolThreads + gpu::thread_x();
    const int32_t columns = scored_columns(p.score, b, h);
    if (j >= columns) return;
    float value = 0.0f;
    if (p.score.early) {
        value = pooled_value(p, b, h, columns, j);
    } else {
        const int64_t first = p.layer ? 0 : h * p.score.group;
        const int64_t heads = p.layer ? p.q_heads : p.score.group;
        for (int64_t q_head = first; q_head < first + heads; ++q_head) {
            const int32_t own = scored_columns(p.score, b, q_head / p.score.group);
            const float pooled = j < own ? pooled_value(p, b, q_head, own, j) : 0.0f; // a shorter head adds nothing past its end
            value = reduce_heads(p.score, q_head == first ? 0 : 1, value, pooled);
        }
        if (p.score.heads != STRATA_HEADS_GROUP_MAX) value = gpu::div(value, static_cast<float>(heads));
    }
    p.scores[b * p.scores_b + h * p.scores_h + j] = value;
}

// ---- launches ------------------------------------------------------------------------------------------------------------------------------

Status blocks_of(std::int64_t pairs, std::int64_t each, int *blocks) {
    const std::int64_t all = product(pairs, each, 1);
    if (all < 0 || all > INT32_MAX) {
        return fail(STRATA_E_SHAPE, "kv_score: the problem takes more than 2147483647 blocks, must take fewer on a GPU; split the batch");
    }
    *blocks = static_cast<int>(all);
    return STRATA_OK;
}

template <bool Bf16, int D>
Status launch_mma(Exec &exec, ScoreParams params, bool statistics, int blocks) {
    params.stage_rows = stage_rows<D>(params.parts);
    const auto smem = static_cast<std::size_t>(mma_smem_bytes<D>(params.parts));
    return launched("kv_score", statistics ? GPU_LAUNCH((kv_score_mma_kernel<Bf16, D>), blocks, kScoreThreads, smem, exec.stream, params)
                                           : GPU_LAUNCH((kv_score_lse_mma_kernel<Bf16, D>), blocks, kScoreThreads, smem, exec.stream, params));
}

template <bool Bf16>
Status launch_mma(Exec &exec, const ScoreParams &params, bool statistics, int blocks) {
    switch (params.row_channels) {
    case 64: return launch_mma<Bf16, 64>(exec, params, statistics, blocks);
    case 128: return launch_mma<Bf16, 128>(exec, params, statistics, blocks);
    case 256: return launch_mma<Bf16, 256>(exec, params, statistics, blocks);
    default: return launch_mma<Bf16, 512>(exec, params, statistics, blocks);
    }
}

Status launch_pass(Exec &exec, const ScoreParams &params, bool statistics, int blocks) {
    if (blocks == 0) return STRATA_OK;
    if (params.key_dtype == STRATA_DTYPE_F16) return launch_mma<false>(exec, params, statistics, blocks);
    if (params.key_dtype == STRATA_DTYPE_BF16) return launch_mma<true>(exec, params, statistics, blocks);
    const auto smem = static_cast<std::size_t>(params.row_channels) * kTileRows * sizeof(float);
    return launched("kv_score", statistics ? GPU_LAUNCH(kv_score_f32_kernel, blocks, kScoreThreads, smem, exec.stream, params)
                                           : GPU_LAUNCH(kv_score_lse_f32_kernel, blocks, kScoreThreads, smem, exec.stream, params));
}

/// Channels of a packed row: of an instance of the mma kernels, or a multiple of 16 bytes.
std::int32_t packed_channels(const KvScoreProblem &p) {
    if (p.cache.keys.dtype == STRATA_DTYPE_F32) return (p.cache.head_dim + 3) / 4 * 4;
    std::int32_t channels = 64;
    while (channels < p.cache.head_dim) {
        channels *= 2;
    }
    return channels;
}

/// Parts whose sum is a query: one of its own type; two of fp16 hold 22 bits, three of bf16 24.
std::int32_t query_parts(const KvScoreProblem &p) {
    if (p.cache.keys.dtype == STRATA_DTYPE_F32 || p.cache.keys.dtype == p.q.dtype) return 1;
    return p.cache.keys.dtype == STRATA_DTYPE_F16 ? 2 : 3;
}

ScoreParams score_params(const KvScoreProblem &p, const Exec &exec) {
    const KvCacheView &cache = p.cache;
    ScoreParams params{};
    params.keys = cache.keys.data;
    params.key_page = cache.keys.stride[0];
    params.key_head = cache.keys.stride[1];
    params.key_slot = cache.keys.stride[2];
    params.table = static_cast<const std::int32_t *>(cache.table.data);
    params.lengths = static_cast<const std::int32_t *>(cache.lengths.data);
    params.table_b = cache.table.stride[0];
    params.table_h = cache.table.stride[1];
    params.lengths_b = cache.lengths.stride[0];
    params.lengths_h = cache.lengths.stride[1];
    params.pages = cache.pages;
    params.pairs = p.pairs();
    params.fault = exec.fault;
    params.gamma = p.gamma;
    params.kv_heads = static_cast<std::int32_t>(cache.kv_heads);
    params.group = p.group;
    params.window = p.window;
    params.head_rows = gpu::ceil_div(p.window, kTileRows) * kTileRows;
    params.head_dim = cache.head_dim;
    params.row_channels = packed_channels(p);
    params.parts = query_parts(p);
    params.page_size = cache.page_size;
    params.max_length = p.max_length;
    params.exclude_last = p.exclude_last;
    params.key_dtype = cache.keys.dtype;
    params.statistic = p.statistic;
    params.heads = p.heads;
    params.shared_pages = cache.shared_pages();
    params.wide = wide_rows(cache.keys) && cache.head_dim % kChunk == 0;
    params.early = p.reduces_early();
    return params;
}

PackParams pack_params(const KvScoreProblem &p, const ScoreParams &score, void *queries, float *factors) {
    PackParams params{};
    params.q = p.q.data;
    params.lse_in = static_cast<const float *>(p.lse.data);
    params.q_b = p.q.stride[0];
    params.q_row = p.q.stride[1];
    params.q_head = p.q.stride[2];
    params.lse_b = p.lse.stride[0];
    params.lse_row = p.lse.stride[1];
    params.lse_head = p.lse.stride[2];
    params.queries = queries;
    params.factors = factors;
    params.lse = score.lse;
    params.lines = score.pairs * score.rows;
    params.scale = p.scale;
    params.q_dtype = p.q.dtype;
    params.key_dtype = score.key_dtype;
    params.kv_heads = score.kv_heads;
    params.group = score.group;
    params.window = score.window;
    params.head_rows = score.head_rows;
    params.head_dim = score.head_dim;
    params.row_channels = score.row_channels;
    params.parts = score.parts;
    return params;
}

} // namespace

Status kv_score_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvScoreProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("kv_score");
    ScoreParams params = score_params(p, exec);
    const std::int64_t rows = product(p.group, params.head_rows, 1);
    if (rows > INT32_MAX) {
        return fail(STRATA_E_SHAPE, "kv_score: a KV head has ", rows, " rows, must have at most 2147483647 on a GPU; score fewer rows at once");
    }
    params.rows = static_cast<std::int32_t>(rows);
    const std::int64_t element = p.cache.keys.dtype == STRATA_DTYPE_F32 ? 4 : 2;
    void *const queries = exec.planner.take<unsigned char>(product(product(p.pairs(), rows, params.parts), params.row_channels, element));
    float *const factors = exec.planner.take<float>(product(p.pairs(), rows, 1));
    params.lse = exec.planner.take<float>(product(p.pairs(), rows, 1));
    params.queries = queries;
    params.factors = factors;
    const std::int64_t wanted_splits = gpu::min(kMostSplits, 1 + p.max_length / kKeysPerSplit);
    params.splits = static_cast<std::int32_t>(gpu::max(std::int64_t{1}, gpu::min(wanted_splits, kRowStates / rows)));
    params.split_keys = (p.max_length / params.splits / kScoreThreads + 1) * kScoreThreads;
    if (!p.lse.present()) {
        // What the chosen number of splits takes falls as rows grow; this bound does not.
        const std::int64_t states = gpu::min(wanted_splits * rows, gpu::max(rows, kRowStates));
        params.partial = exec.planner.take<float>(product(p.pairs(), states, 2 * kScoreWarps));
    }
    if (p.writes_scores()) {
        params.planes = static_cast<float *>(p.scores.data);
        params.plane_b = p.scores.stride[0];
        params.plane_h = p.scores.stride[1];
    } else {
        const std::int64_t planes = p.reduces_early() ? p.cache.kv_heads : p.q_heads;
        params.plane_h = (std::int64_t{p.max_columns()} + 31) / 32 * 32;
        params.plane_b = planes * params.plane_h;
        params.planes = exec.planner.take<float>(product(p.batch(), planes, params.plane_h));
    }
    const std::int64_t tile_keys = element == 2 && params.row_channels > 128 ? kScoreThreads / 2 : kScoreThreads;
    params.key_tiles = static_cast<std::int32_t>((p.max_columns() + tile_keys - 1) / tile_keys);
    params.row_chunks = gpu::ceil_div(params.rows, kRowsPerChunk);
    const std::int32_t column_blocks = gpu::ceil_div(p.max_columns(), kPoolThreads);
    int lse_blocks = 0;
    int blocks = 0;
    int pool_blocks = 0;
    TRY(blocks_of(p.pairs(), std::int64_t{params.row_chunks} * params.splits, &lse_blocks));
    TRY(blocks_of(p.pairs(), params.key_tiles, &blocks));
    TRY(blocks_of(p.pairs(), column_blocks, &pool_blocks));
    if (exec.dry_run || blocks == 0) return STRATA_OK;

    const PackParams pack = pack_params(p, params, queries, factors);
    const int pack_blocks = grid_blocks(pack.lines * gpu::kWarpSize, kScoreThreads, exec.multiprocessors);
    TRY(launched("kv_score", GPU_LAUNCH(kv_score_pack_kernel, pack_blocks, kScoreThreads, 0, exec.stream, pack)));
    if (!p.lse.present()) {
        TRY(launch_pass(exec, params, false, lse_blocks));
        const int merge_blocks = grid_blocks(pack.lines, kPoolThreads, exec.multiprocessors);
        TRY(launched("kv_score", GPU_LAUNCH(kv_score_merge_kernel, merge_blocks, kPoolThreads, 0, exec.stream, params)));
    }
    TRY(launch_pass(exec, params, true, blocks));
    if (p.writes_scores()) return STRATA_OK;
    PoolParams pool{params,        static_cast<float *>(p.scores.data), p.scores.stride[0], p.scores.stride[1], p.pool, p.pool_width, p.q_heads,
                    column_blocks, p.heads == STRATA_HEADS_LAYER_MEAN};
    return launched("kv_score", GPU_LAUNCH(kv_score_pool_kernel, pool_blocks, kPoolThreads, 0, exec.stream, pool));
}

} // namespace strata
