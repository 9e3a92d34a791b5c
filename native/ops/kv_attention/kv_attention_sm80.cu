// SPDX-License-Identifier: Apache-2.0
// kv_attention on the GPU: out = softmax(scale q K^T) V over paged K and V; which kernel, which grid.
//
// Shapes   q, out [tokens, q_heads, head_dim]; K, V pages [page_size, head_dim]; lse [tokens, q_heads].
// Bound    decode: bytes of K and V, each read once for the whole group of query heads; prefill: tensor cores.
// Split    a block takes one tile of rows of one KV head against one range of slots. Ranges exist where tiles are too
//          few to fill the GPU; a second kernel adds their partial results in fixed order. Lengths are read on the device,
//          so that nothing waits for the host.
#include "ops/kv_attention/kv_attention_mma.cuh"
#include "ops/kv_attention/kv_attention_plain.cuh"

namespace strata {

namespace {

constexpr int kDecodeRows = 16;
constexpr int kPrefillRows = 64;

/// The kernels, each with the rows of its tile.
enum class Kernel { kPlain, kDecode, kPrefill };

struct Choice {
    Kernel kernel;
    std::int32_t tile_rows;
    std::int64_t tiles;
    std::int32_t ranges;
};

Choice choose(const KvAttentionProblem &p, std::int32_t multiprocessors) {
    const bool tensor_cores = p.cache.keys.dtype != STRATA_DTYPE_F32 && p.cache.head_dim % 8 == 0 && p.cache.head_dim <= 128 &&
                              wide_rows(p.cache.keys) && wide_rows(p.cache.values);
    const std::int64_t rows = p.tokens * p.group;
    Choice choice{};
    choice.kernel = !tensor_cores ? Kernel::kPlain : rows >= kPrefillRows * p.cache.batch ? Kernel::kPrefill : Kernel::kDecode;
    choice.tile_rows = choice.kernel == Kernel::kPlain ? kPlainRows : choice.kernel == Kernel::kDecode ? kDecodeRows : kPrefillRows;
    choice.tiles = rows / choice.tile_rows + p.cache.batch;
    const std::int64_t blocks = choice.tiles > 0 ? choice.tiles * p.cache.kv_heads : 1;
    const std::int64_t wanted = std::int64_t{kBlocksPerMultiprocessor} * multiprocessors / blocks;
    const std::int64_t most = (p.max_length + kLeastRange - 1) / kLeastRange;
    const std::int64_t ranges = wanted < most ? wanted : most;
    choice.ranges = static_cast<std::int32_t>(ranges < 1 ? 1 : ranges < kMostRanges ? ranges : kMostRanges);
    return choice;
}

/// Rows times ranges that can need a partial result: with more than one range, tiles * kv_heads * ranges is at most the
/// blocks wanted, and a tile has kPrefillRows rows at most. Written so that it never falls when an extent grows.
std::int64_t most_partials(const KvAttentionProblem &p, std::int32_t multiprocessors) {
    const std::int64_t bound = std::int64_t{kPrefillRows} * kBlocksPerMultiprocessor * multiprocessors;
    const std::int64_t most = (p.max_length + kLeastRange - 1) / kLeastRange;
    const std::int64_t ranges = most < kMostRanges ? most : kMostRanges;
    const std::int64_t rows = p.tokens * p.q_heads;
    if (ranges <= 1) return 0;
    return rows < bound && rows * ranges < bound ? rows * ranges : bound;
}

AttentionParams parameters(const Exec &exec, const KvAttentionProblem &p, const Choice &choice) {
    AttentionParams params{};
    params.cache = gpu_kv_cache(p.cache);
    params.offsets = gpu_row_offsets(p.row_offsets, p.tokens, p.cache.batch);
    params.q = p.q.data;
    params.out = p.out.data;
    params.lse = static_cast<float *>(p.lse.data);
    params.q_token = p.q.stride[0];
    params.q_head = p.q.stride[1];
    params.out_token = p.out.stride[0];
    params.out_head = p.out.stride[1];
    params.lse_token = p.lse.stride[0];
    params.lse_head = p.lse.stride[1];
    params.fault = exec.fault;
    params.max_length = p.max_length;
    params.tiles = choice.tiles;
    params.scale_log2 = p.scale * gpu::kLog2e;
    params.q_dtype = p.q.dtype;
    params.out_dtype = p.out.dtype;
    params.q_heads = static_cast<std::int32_t>(p.q_heads);
    params.group = static_cast<std::int32_t>(p.group);
    params.ranges = choice.ranges;
    params.tile_rows = choice.tile_rows;
    params.causal = p.causal;
    params.q_split = p.q.dtype != p.cache.keys.dtype;
    return params;
}

template <int Dim, bool Bf16>
int launch_mma(const Choice &choice, gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    constexpr int kDecodeStages = 3;
    constexpr int kPrefillStages = 2;
    if (choice.kernel == Kernel::kDecode) {
        return GPU_LAUNCH((kv_attention_kernel<Dim, Bf16, 1, 4, kDecodeStages>), grid, kThreads, (MmaSmem<Dim, kDecodeStages>::kBytes), stream,
                          params);
    }
    return GPU_LAUNCH((kv_attention_kernel<Dim, Bf16, 4, 1, kPrefillStages>), grid, kThreads, (MmaSmem<Dim, kPrefillStages>::kBytes), stream, params);
}

int launch_attention(const KvAttentionProblem &p, const Choice &choice, gpu::Dim3 grid, void *stream, const AttentionParams &params) {
    if (choice.kernel == Kernel::kPlain) {
        return GPU_LAUNCH(kv_attention_plain_kernel, grid, kThreads, plain_smem_bytes(p.cache.head_dim), stream, params);
    }
    const bool bf16 = p.cache.keys.dtype == STRATA_DTYPE_BF16;
    if (p.cache.head_dim <= 64) {
        return bf16 ? launch_mma<64, true>(choice, grid, stream, params) : launch_mma<64, false>(choice, grid, stream, params);
    }
    return bf16 ? launch_mma<128, true>(choice, grid, stream, params) : launch_mma<128, false>(choice, grid, stream, params);
}

} // namespace

Status kv_attention_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvAttentionProblem *>(problem);
    const Choice choice = choose(p, exec.multiprocessors);
    exec.impl = choice.kernel == Kernel::kPlain    ? GPU_IMPL_NAME("kv_attention") "_plain"
                : choice.kernel == Kernel::kDecode ? GPU_IMPL_NAME("kv_attention") "_decode"
                                                   : GPU_IMPL_NAME("kv_attention") "_prefill";
    if (choice.tiles * choice.ranges > INT32_MAX) {
        return fail(STRATA_E_SHAPE, "kv_attention: q has ", p.tokens, " tokens in ", p.cache.batch, " sequences, must be at most ", INT32_MAX,
                    " tiles of rows; split the batch");
    }
    const std::int64_t partials = most_partials(p, exec.multiprocessors);
    float *partial_o = exec.planner.take<float>(partials * p.cache.head_dim);
    float *partial_state = exec.planner.take<float>(partials * 2);
    if (exec.dry_run || p.tokens == 0) return STRATA_OK;

    AttentionParams params = parameters(exec, p, choice);
    params.partial_o = partial_o;
    params.partial_state = partial_state;
    const gpu::Dim3 grid(static_cast<int>(choice.tiles * choice.ranges), static_cast<int>(p.cache.kv_heads));
    TRY(launched("kv_attention", launch_attention(p, choice, grid, exec.stream, params)));
    if (choice.ranges == 1) return STRATA_OK;
    const int blocks = grid_blocks(p.tokens * p.q_heads * gpu::kWarpSize, kThreads, exec.multiprocessors);
    return launched("kv_attention", GPU_LAUNCH(kv_attention_merge_kernel, blocks, kThreads, 0, exec.stream, params));
}

} // namespace strata
