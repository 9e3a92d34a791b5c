// SPDX-License-Identifier: Apache-2.0
// kv_attention on the GPU: out = softmax(s) V over paged K and V; which kernels, which grids.
//
// Shapes   q, out [tokens, q_heads, head_dim]; K, V pages of one KV head; lse, past_lse [tokens, q_heads].
// Bound    decode: bytes of K and V, each read once for the whole group of query heads; prefill: tensor cores.
// Split    a plan (kv_attention_plan.h), the caller's or one that a kernel makes first, says which rows and slots a block takes. Grids
//          follow from shapes alone, so that nothing waits for the host and a graph may be replayed; blocks past the plan's items leave.
// Kernels  16-bit rows or swizzled pages, tiled pages, 8-bit rows, and a plain one for everything else; each as a launch for items with
//          few rows and one for items with many, which on an sm_90 are kv_attention_sm90.cu's where that takes the problem. A third
//          adds partial results, a fourth the probabilities of keys.
#include "ops/kv_attention/kv_attention_gpu.h"
#include "ops/kv_attention/kv_attention_merge.cuh"
#include "ops/kv_attention/kv_attention_plain.cuh"
#include "ops/kv_attention/kv_attention_plan.cuh"

namespace strata {

namespace {

/// The kernels of a cache.
struct Family {
    const char *impl;
    SmemLayout (*layout)(const KvAttentionProblem &problem, bool few, bool split); // null: the plain kernel
    int (*launch)(gpu::Dim3 grid, void *stream, const AttentionParams &params);
};
constexpr Family kRowsFamily{GPU_IMPL_NAME("kv_attention") "_rows", rows_layout, launch_rows};
constexpr Family kWordsFamily{GPU_IMPL_NAME("kv_attention") "_words", words_layout, launch_words};
constexpr Family kBytesFamily{GPU_IMPL_NAME("kv_attention") "_bytes", bytes_layout, launch_bytes};
constexpr Family kPlainFamily{GPU_IMPL_NAME("kv_attention") "_plain", nullptr, nullptr};

#if defined(__CUDACC__)
constexpr const char *kWarpgroupImpl = "kv_attention/sm90_rows";
#else
constexpr const char *kWarpgroupImpl = GPU_IMPL_NAME("kv_attention") "_rows90";
#endif

const Family &family_of(const KvAttentionProblem &p, bool split) {
    const auto fits = [&](const Family &family) {
        const auto bytes = static_cast<std::size_t>(family.layout(p, true, split).total);
        return bytes > 0 && bytes <= gpu::kPortableSmemBytes;
    };
    if (fits(kRowsFamily)) return kRowsFamily;
    if (fits(kWordsFamily)) return kWordsFamily;
    if (fits(kBytesFamily)) return kBytesFamily;
    return kPlainFamily;
}

std::int64_t smaller(std::int64_t x, std::int64_t y) { return x < y ? x : y; }

/// Items of at most `tiles` tiles of rows: what the plan can have of one kind.
std::int64_t most_items(const KvAttentionProblem &p, const KvAttentionSplit &split, std::int64_t tiles, bool few) {
    const std::int64_t slots = p.batch_invariant ? split.fixed : split.least;
    const std::int64_t parts = (p.max_length + slots - 1) / slots;
    if (parts <= 1 || (p.batch_invariant && !few)) return tiles;
    return p.batch_invariant ? tiles * parts : smaller(tiles * parts, tiles + split.target);
}

/// Products are in the type of the keys, those of codes in f16: does q need two terms?
bool needs_split(const KvAttentionProblem &p) {
    if (p.cache.rotation != 0) return true; // turned in fp32
    if (p.cache.keys.dtype == STRATA_DTYPE_BF16) return p.q.dtype != STRATA_DTYPE_BF16;
    return p.q.dtype == STRATA_DTYPE_F32; // bf16 in f16 is exact from 2^-17 up to 65504
}

bool is_shaped(const KvAttentionProblem &p) { return p.softcap != 0.0F || p.alibi_slopes.present() || p.cache.logit_bias.present(); }

AttentionParams parameters(const Exec &exec, const KvAttentionProblem &p, const KvAttentionPlanBounds &bounds, void *plan) {
    AttentionParams params{};
    params.cache = gpu_kv_cache(p.cache);
    params.offsets = gpu_row_offsets(p.row_offsets, p.tokens, p.cache.batch);
    params.plan = plan_at(plan, bounds);
    params.q = p.q.data;
    params.out = p.out.data;
    params.lse = static_cast<float *>(p.lse.data);
    params.past_lse = static_cast<float *>(p.past_lse.data);
    params.probability = static_cast<float *>(p.key_probability.data);
    params.slopes = static_cast<const float *>(p.alibi_slopes.data);
    params.sink_logits = static_cast<const float *>(p.sink_logits.data);
    params.q_token = p.q.stride[0];
    params.q_head = p.q.stride[1];
    params.out_token = p.out.stride[0];
    params.out_head = p.out.stride[1];
    params.lse_token = p.lse.stride[0];
    params.lse_head = p.lse.stride[1];
    params.past_token = p.past_lse.stride[0];
    params.past_head = p.past_lse.stride[1];
    params.probability_sequence = p.key_probability.stride[0];
    params.probability_head = p.key_probability.stride[1];
    params.slope_step = p.alibi_slopes.stride[0];
    params.sink_step = p.sink_logits.stride[0];
    params.fault = exec.fault;
    params.max_length = p.max_length;
    params.most_items = bounds.items;
    params.most_merges = bounds.merges;
    params.most_partials = bounds.partials;
    params.scale = p.scale;
    params.scale_log2 = p.scale * gpu::kLog2e;
    params.softcap = p.softcap;
    params.q_dtype = p.q.dtype;
    params.out_dtype = p.out.dtype;
    params.q_heads = static_cast<std::int32_t>(p.q_heads);
    params.kv_heads = static_cast<std::int32_t>(p.cache.kv_heads);
    params.group = static_cast<std::int32_t>(p.group);
    params.window = p.window;
    params.window_sinks = p.window_sinks;
    params.causal = p.causal;
    params.q_split = needs_split(p);
    params.shaped = is_shaped(p);
    params.store_probability = p.store_probability;
    return params;
}

Status launch_plan(const Exec &exec, const KvAttentionProblem &p, const KvAttentionSplit &split, const KvAttentionPlanBounds &bounds, void *plan) {
    PlanParams params{};
    params.cache = gpu_kv_cache(p.cache);
    params.offsets = gpu_row_offsets(p.row_offsets, p.tokens, p.cache.batch);
    params.plan = plan_at(plan, bounds);
    params.split = split;
    params.fault = exec.fault;
    params.max_length = p.max_length;
    params.most_items = bounds.items;
    params.most_merges = bounds.merges;
    params.most_partials = bounds.partials;
    params.kv_heads = static_cast<std::int32_t>(p.cache.kv_heads);
    params.group = static_cast<std::int32_t>(p.group);
    params.window = p.window;
    params.window_sinks = p.window_sinks;
    params.causal = p.causal;
    params.batch_invariant = p.batch_invariant;
    return launched("kv_attention", GPU_LAUNCH(kv_attention_plan_kernel, 1, kPlanThreads, sizeof(PlanSmem), exec.stream, params));
}

/// Whether items with many rows go to the kernels of sm_90, which have one term of q and scores that are products and nothing more.
bool takes_warpgroups(const Exec &exec, const KvAttentionProblem &p, const Family &family) {
    return exec.architecture == gpu::kHopper && &family == &kRowsFamily && p.cache.head_dim <= 128 && p.scale > 0.0F && !needs_split(p) &&
           !is_shaped(p);
}

/// One launch for the items of one kind, in parts of as many rows as a block of the kernel takes; where the kernel for many rows needs too
/// much memory, that for few takes its items.
Status launch_items(const Exec &exec, const KvAttentionProblem &p, const Family &family, std::int64_t items, bool few, AttentionParams params) {
    const int rows = few ? kFewRows : kItemRows;
    const auto blocks = static_cast<int>(items);
    params.few = few;
    if (!few && takes_warpgroups(exec, p, family)) {
        params.smem = warpgroup_layout(p.cache.head_dim);
        return launched("kv_attention", launch_warpgroup(blocks, exec.stream, params));
    }
    if (family.layout == nullptr) {
        const gpu::Dim3 grid(blocks, rows / kPlainRows);
        return launched("kv_attention", GPU_LAUNCH_AFTER(params.after, kv_attention_plain_kernel, grid, kThreads, plain_smem_bytes(p.cache.head_dim),
                                                         exec.stream, params));
    }
    params.few_kernel = few;
    params.smem = family.layout(p, few, params.q_split);
    if (static_cast<std::size_t>(params.smem.total) > gpu::kPortableSmemBytes) {
        params.few_kernel = true;
        params.smem = family.layout(p, true, params.q_split);
    }
    const gpu::Dim3 grid(blocks, rows / (params.few_kernel ? kFewRows : kManyRows));
    return launched("kv_attention", family.launch(grid, exec.stream, params));
}

Status launch_attention(const Exec &exec, const KvAttentionProblem &p, const Family &family, const KvAttentionSplit &split,
                        const KvAttentionPlanBounds &bounds, AttentionParams params) {
    const std::int64_t rows = p.tokens * p.group;
    const std::int64_t batch = p.cache.batch;
    if (batch > 1 || rows <= split.few_limit) {
        const std::int64_t tiles = smaller(rows, smaller(rows / kFewRows + batch, batch * ((split.few_limit + kFewRows) / kFewRows)));
        const std::int64_t items = smaller(bounds.items, most_items(p, split, tiles * p.cache.kv_heads, true));
        TRY(launch_items(exec, p, family, items, true, params));
        params.after = true;
    }
    if (rows > split.few_limit) {
        const std::int64_t tiles = rows / kItemRows + smaller(batch, rows / (split.few_limit + 1));
        const std::int64_t items = smaller(bounds.items, most_items(p, split, tiles * p.cache.kv_heads, false));
        TRY(launch_items(exec, p, family, items, false, params));
        params.after = true;
    }
    if (bounds.merges == 0) return STRATA_OK;
    // A block takes a row, or where tiles have more of them several: blocks without rows cost more than they save.
    const gpu::Dim3 grid(static_cast<int>(bounds.merges), static_cast<int>(smaller(kFewRows, (rows + batch - 1) / batch)));
    return launched("kv_attention",
                    GPU_LAUNCH_AFTER(params.after, kv_attention_merge_kernel, grid, kThreads, sizeof(MergeSmem), exec.stream, params));
}

} // namespace

Status kv_attention_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvAttentionProblem *>(problem);
    const KvAttentionSplit split = gpu_split(exec.multiprocessors);
    const KvAttentionPlanBounds bounds = plan_bounds(p, split);
    if (p.plan_to != nullptr) return launch_plan(exec, p, split, bounds, p.plan_to);
    if (bounds.words() > INT32_MAX) {
        return fail(STRATA_E_SHAPE, "kv_attention: q has ", p.tokens, " tokens in ", p.cache.batch, " sequences, must need a plan of at most ",
                    INT32_MAX, " words; split the batch or pass max_length");
    }
    if (p.plan.present() && p.plan.shape[0] < bounds.words()) {
        return fail(STRATA_E_SHAPE, "kv_attention: plan.shape[0] is ", p.plan.shape[0], ", must be at least ", bounds.words(),
                    "; ask strata_kv_attention_plan_words");
    }
    const Family &family = family_of(p, needs_split(p));
    // Only so many rows have a sequence of many for sure; offsets may be on the device.
    const bool many = p.tokens * p.group > p.cache.batch * split.few_limit;
    exec.impl = many && takes_warpgroups(exec, p, family) ? kWarpgroupImpl : family.impl;

    const bool keeps_lse = p.key_probability.present() && !p.lse.present();
    void *plan = p.plan.present() ? p.plan.data : exec.planner.take<std::int32_t>(bounds.words());
    float *partial_o = exec.planner.take<float>(bounds.partials * partial_pitch(p.cache.head_dim));
    float *partial_state = exec.planner.take<float>(bounds.partials * kStateNumbers);
    float *known_lse = exec.planner.take<float>(keeps_lse ? p.tokens * p.q_heads : 0);
    if (exec.dry_run || p.cache.batch == 0) return STRATA_OK;

    AttentionParams params = parameters(exec, p, bounds, plan);
    params.partial_o = partial_o;
    params.partial_state = partial_state;
    params.known_lse = keeps_lse ? known_lse : nullptr;
    if (p.tokens > 0) {
        if (!p.plan.present()) TRY(launch_plan(exec, p, split, bounds, plan));
        params.after = !p.plan.present();
        TRY(launch_attention(exec, p, family, split, bounds, params));
        params.after = true;
    }
    if (!p.key_probability.present() || p.max_length == 0) return STRATA_OK;
    return launched("kv_attention", launch_probability(p, exec.stream, params));
}

} // namespace strata
