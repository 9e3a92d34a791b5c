// SPDX-License-Identifier: Apache-2.0
// kv_attention: checks and exports.
#include "ops/kv_attention/kv_attention.h"

#include "ops/kv_attention/kv_attention_plan.h"

#include <cmath>

namespace strata {

namespace {

constexpr std::uint32_t kFlags = STRATA_ATTENTION_CAUSAL | STRATA_ATTENTION_BATCH_INVARIANT | STRATA_ATTENTION_STORE_PROBABILITY;

Status check_lengths(const CheckMode &mode, const KvAttentionProblem &problem) {
    const KvCacheView &cache = problem.cache;
    for (std::int64_t b = 0; b < cache.batch; ++b) {
        for (std::int64_t h = 0; h < cache.kv_heads; ++h) {
            if (cache.length(b, h) < 0 || cache.length(b, h) > problem.max_length) {
                return fail(STRATA_E_INDEX, mode.op, ": cache.lengths[", b, ",", h, "] is ", cache.length(b, h),
                            ", must be at most max_length = ", problem.max_length, "; raise max_length or leave it 0");
            }
        }
    }
    return STRATA_OK;
}

Status check_queries(const CheckMode &mode, const strata_kv_attention_args &args, KvAttentionProblem &p) {
    TRY(check_tensor(mode, "q", args.q, 3, kFloats, Access::kRead, &p.q));
    TRY(check_tensor(mode, "out", args.out, 3, kFloats, Access::kWrite, &p.out));
    TRY(check_optional_tensor(mode, "row_offsets", args.row_offsets, 1, kI32, Access::kRead, &p.row_offsets));
    p.tokens = p.q.shape[0];
    p.q_heads = p.q.shape[1];
    TRY(check_range(mode, "q.shape[0] (tokens)", p.tokens, 0, INT32_MAX, "a row offset has 32 bits"));
    TRY(check_range(mode, "q.shape[1] (q_heads)", p.q_heads, 1, 65535, "pass one row per query head"));
    TRY(check_range(mode, "q.shape[0] * q.shape[1]", p.tokens * p.q_heads, 0, INT32_MAX, "a row number has 32 bits; split the batch"));
    TRY(check_equal(mode, "q.shape[2]", p.q.shape[2], "cache head_dim", p.cache.head_dim, "pass queries of the cache's width"));
    if (p.q_heads % p.cache.kv_heads != 0) {
        return fail(STRATA_E_SHAPE, mode.op, ": q.shape[1] (q_heads) is ", p.q_heads, ", must be a multiple of kv_heads = ", p.cache.kv_heads,
                    "; every KV head serves the same number of query heads");
    }
    p.group = p.q_heads / p.cache.kv_heads;
    for (std::int32_t i = 0; i < 3; ++i) {
        if (p.out.shape[i] != p.q.shape[i]) {
            return fail(STRATA_E_SHAPE, mode.op, ": out.shape[", i, "] is ", p.out.shape[i], ", must equal q.shape[", i, "] = ", p.q.shape[i],
                        "; give out the shape of q");
        }
    }
    return check_row_offsets(mode, "row_offsets", p.row_offsets, p.cache.batch, p.tokens);
}

Status check_extents(const CheckMode &mode, const char *name, const View &view, const std::int64_t (&wanted)[2]) {
    for (std::int32_t i = 0; i < view.ndim && i < 2; ++i) {
        if (view.shape[i] != wanted[i]) {
            return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".shape[", i, "] is ", view.shape[i], ", must be ", wanted[i],
                        "; give it one number per query head", view.ndim == 2 ? " of each token" : "");
        }
    }
    return STRATA_OK;
}

Status check_probability(const CheckMode &mode, const strata_kv_attention_args &args, KvAttentionProblem &p) {
    TRY(check_optional_tensor(mode, "key_probability", args.key_probability, 3, kF32, Access::kWrite, &p.key_probability));
    if (!p.key_probability.present()) return STRATA_OK;
    TRY(check_equal(mode, "key_probability.shape[0]", p.key_probability.shape[0], "batch", p.cache.batch, "give it one row per sequence"));
    TRY(check_equal(mode, "key_probability.shape[1]", p.key_probability.shape[1], "kv_heads", p.cache.kv_heads, "give it one row per KV head"));
    if (p.key_probability.shape[2] < p.max_length) {
        return fail(STRATA_E_SHAPE, mode.op, ": key_probability.shape[2] is ", p.key_probability.shape[2],
                    ", must be at least max_length = ", p.max_length, "; give it one column per slot");
    }
    return STRATA_OK;
}

Status check_settings(const CheckMode &mode, const strata_kv_attention_args &args, KvAttentionProblem &p) {
    p.causal = (args.flags & STRATA_ATTENTION_CAUSAL) != 0;
    p.batch_invariant = (args.flags & STRATA_ATTENTION_BATCH_INVARIANT) != 0;
    p.store_probability = (args.flags & STRATA_ATTENTION_STORE_PROBABILITY) != 0;
    TRY(check_range(mode, "max_length", args.max_length, 0, p.cache.capacity(), "no length exceeds the page table"));
    p.max_length = args.max_length == 0 ? p.cache.capacity() : args.max_length;
    p.scale = args.scale == 0.0F ? 1.0F / std::sqrt(static_cast<float>(p.cache.head_dim)) : args.scale;
    if (!std::isfinite(p.scale)) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": scale is ", static_cast<double>(args.scale), ", must be finite; pass 0 for 1 / sqrt(head_dim)");
    }
    p.softcap = args.softcap;
    if (!(p.softcap >= 0.0F) || !std::isfinite(p.softcap)) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": softcap is ", static_cast<double>(args.softcap),
                    ", must be finite and not negative; pass 0 for none");
    }
    TRY(check_range(mode, "window", args.window, 0, INT32_MAX, "pass 0 for no window"));
    TRY(check_range(mode, "window_sinks", args.window_sinks, 0, INT32_MAX, "pass 0 for none"));
    p.window = args.window;
    p.window_sinks = args.window > 0 ? args.window_sinks : 0;
    return STRATA_OK;
}

Status check_outputs_apart(const CheckMode &mode, const KvAttentionProblem &p) {
    const struct {
        const char *name;
        const View &view;
    } outputs[] = {{"out", p.out}, {"lse", p.lse}, {"past_lse", p.past_lse}, {"key_probability", p.key_probability}},
      inputs[] = {{"q", p.q}, {"row_offsets", p.row_offsets}, {"alibi_slopes", p.alibi_slopes}, {"sink_logits", p.sink_logits}, {"plan", p.plan}};
    for (const auto &output : outputs) {
        TRY(check_no_cache_overlap(mode, output.name, output.view, p.cache));
        for (const auto &input : inputs) {
            TRY(check_no_partial_overlap(mode, output.name, output.view, input.name, input.view, false));
        }
        for (const auto &other : outputs) {
            if (&other == &output) break;
            TRY(check_no_partial_overlap(mode, output.name, output.view, other.name, other.view, false));
        }
    }
    return STRATA_OK;
}

Status check_plan_size(const CheckMode &mode, const strata_kv_attention_args &args, KvAttentionProblem &p) {
    TRY(check_optional_tensor(mode, "plan", args.plan, 1, kI32, Access::kRead, &p.plan));
    if (p.plan.present() && p.plan.shape[0] > 1 && p.plan.stride[0] != 1) {
        return fail(STRATA_E_SHAPE, mode.op, ": plan.stride[0] is ", p.plan.stride[0],
                    ", must be 1; pass the words as strata_kv_attention_plan wrote them");
    }
    return STRATA_OK;
}

} // namespace

Status check_kv_attention(const CheckMode &mode, const strata_kv_attention_args &args, KvAttentionProblem *problem) {
    *problem = KvAttentionProblem{};
    KvAttentionProblem &p = *problem;
    TRY(check_range(mode, "flags", args.flags, 0, kFlags, "choose among strata_kv_attention_flag"));
    TRY(check_kv_cache(mode, args.cache, Access::kRead, &p.cache));
    TRY(check_queries(mode, args, p));
    TRY(check_settings(mode, args, p));
    TRY(check_optional_tensor(mode, "lse", args.lse, 2, kF32, Access::kWrite, &p.lse));
    TRY(check_optional_tensor(mode, "past_lse", args.past_lse, 2, kF32, Access::kWrite, &p.past_lse));
    TRY(check_optional_tensor(mode, "alibi_slopes", args.alibi_slopes, 1, kF32, Access::kRead, &p.alibi_slopes));
    TRY(check_optional_tensor(mode, "sink_logits", args.sink_logits, 1, kF32, Access::kRead, &p.sink_logits));
    TRY(check_extents(mode, "lse", p.lse, {p.tokens, p.q_heads}));
    TRY(check_extents(mode, "past_lse", p.past_lse, {p.tokens, p.q_heads}));
    TRY(check_extents(mode, "alibi_slopes", p.alibi_slopes, {p.q_heads, 0}));
    TRY(check_extents(mode, "sink_logits", p.sink_logits, {p.q_heads, 0}));
    TRY(check_probability(mode, args, p));
    TRY(check_plan_size(mode, args, p));
    if (mode.read_indices) {
        TRY(check_lengths(mode, p));
    }
    return check_outputs_apart(mode, p);
}

namespace {

/// What the context's device wants. Only the CPU reads indices on the host.
KvAttentionSplit split_of(const strata_context &context) {
    return context.traits.host_checks_indices ? kCpuSplit : gpu_split(context.traits.multiprocessors);
}

} // namespace

} // namespace strata

DEFINE_OP(kv_attention, KvAttention)

namespace strata {

namespace {

Status plan_words(strata_context *context, const strata_kv_attention_args *args, std::int64_t *words) {
    if (words == nullptr) {
        return fail(STRATA_E_ARGUMENT, "kv_attention: words is NULL, must point to an int64; pass its address");
    }
    KvAttentionProblem problem;
    TRY(kv_attention_call.prepare(context, args, false, &problem));
    const std::int64_t needed = plan_bounds(problem, split_of(*context)).words();
    if (needed > INT32_MAX) {
        return fail(STRATA_E_SHAPE, "kv_attention: a plan for these shapes would need ", needed, " words, must be at most ", INT32_MAX,
                    "; split the batch or pass max_length");
    }
    *words = needed;
    return STRATA_OK;
}

Status plan_on_host(const CheckMode &mode, const strata_kv_attention_args &args, const KvAttentionSplit &split, KvAttentionProblem &problem,
                    std::int32_t *plan) {
    TRY(check_tensor(mode, "cache.lengths", args.cache.lengths, 2, kI32, Access::kRead, &problem.cache.lengths));
    TRY(check_optional_tensor(mode, "row_offsets", args.row_offsets, 1, kI32, Access::kRead, &problem.row_offsets));
    TRY(check_row_offsets(mode, "row_offsets", problem.row_offsets, problem.cache.batch, problem.tokens));
    TRY(check_lengths(mode, problem));
    build_plan(problem, split, plan_at(plan, plan_bounds(problem, split)));
    return STRATA_OK;
}

Status make_plan(strata_context *context, const strata_kv_attention_args *args, std::int32_t *plan, std::int64_t words, std::int32_t place,
                 strata_stream stream) {
    constexpr CheckMode kHostData{"kv_attention", true, true};
    std::int64_t needed = 0;
    TRY(plan_words(context, args, &needed));
    TRY(check_range(kHostData, "place", place, STRATA_PLAN_HOST, STRATA_PLAN_DEVICE, "choose a strata_plan_place"));
    if (plan == nullptr || words < needed) {
        return fail(STRATA_E_WORKSPACE, "kv_attention: plan has ", plan == nullptr ? 0 : words, " words, must have ", needed,
                    "; ask strata_kv_attention_plan_words");
    }
    if (reinterpret_cast<std::uintptr_t>(plan) % sizeof(std::int32_t) != 0) {
        return fail(STRATA_E_ALIGNMENT, "kv_attention: plan is not 4-byte aligned, must be; use an array of int32");
    }
    strata_kv_attention_args known;
    TRY(read_args("kv_attention", args, &known));
    KvAttentionProblem problem;
    TRY(kv_attention_call.prepare(context, args, false, &problem));
    if (place == STRATA_PLAN_HOST || context->traits.host_checks_indices) {
        return plan_on_host(kHostData, known, split_of(*context), problem, plan);
    }
    constexpr CheckMode kDeviceData{"kv_attention", true, false};
    TRY(check_tensor(kDeviceData, "cache.lengths", known.cache.lengths, 2, kI32, Access::kRead, &problem.cache.lengths));
    TRY(check_optional_tensor(kDeviceData, "row_offsets", known.row_offsets, 1, kI32, Access::kRead, &problem.row_offsets));
    problem.plan_to = plan;
    Exec exec{Planner(nullptr), false};
    exec.stream = stream;
    context->backend->enter(context->state, &exec);
    return kv_attention_call.dispatch(context, exec, problem);
}

} // namespace

} // namespace strata

strata_status strata_kv_attention_plan_words(strata_context *context, const strata_kv_attention_args *args, int64_t *words) {
    return ::strata::guard([&] { return ::strata::plan_words(context, args, words); });
}

strata_status strata_kv_attention_plan(strata_context *context, const strata_kv_attention_args *args, int32_t *plan, int64_t words, int32_t place,
                                       strata_stream stream) {
    return ::strata::guard([&] { return ::strata::make_plan(context, args, plan, words, place, stream); });
}
