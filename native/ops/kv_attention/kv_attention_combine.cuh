// SPDX-License-Identifier: Apache-2.0
// kv_attention: from sums to results: the Hadamard transform of a block's rows, finished rows, partial results.
#pragma once

#include "ops/kv_attention/kv_attention_work.cuh"

namespace strata {

/// Turns `count` rows of shared memory, each n channels on their own; all threads of the block, which must have met before and
/// must meet again after. Linear and its own inverse, so partial results may be turned before they are added.
GPU_DEVICE void hadamard_rows(float *rows, int count, int pitch, int width, int n) {
    const int pairs = width / 2;
    for (int h = 1; h < n; h *= 2) {
        const float factor = 2 * h == n ? gpu::div(1.0f, gpu::sqrt(static_cast<float>(n))) : 1.0f;
        for (int i = gpu::thread_x(); i < count * pairs; i += kThreads) {
            const int pair = i % pairs;
            float *low = rows + i / pairs * pitch + pair / h * 2 * h + pair % h;
            const float a = low[0];
            const float b = low[h];
            low[0] = (a + b) * factor;
            low[h] = (a - b) * factor;
        }
        if (2 * h < n) gpu::sync_threads();
    }
}

/// Maximum and sum of a row, over all of its slots and over those of the past.
struct RowState {
    float max, sum, past_max, past_sum;
};

GPU_DEVICE float log_sum(float max, float sum) { return sum == 0.0f ? -gpu::kInfinity : (max + gpu::log2(sum)) * gpu::kLn2; }

/// What a row's sums are divided by, and the reciprocal of that: 0 where the row is 0, because it saw nothing or because its sink has it all.
struct RowEnd {
    float divisor, reciprocal;
};

/// The end of a row: its sum with its sink logit, once its numbers are written: the log of its sums, or what the merge needs of them.
GPU_DEVICE RowEnd end_row(const AttentionParams &p, const Work &work, int r, const RowState &state) {
    if (work.partial >= 0) {
        float *numbers = p.partial_state + (int64_t{work.partial} + r) * kStateNumbers;
        gpu::store16(numbers,
                     gpu::U4{{gpu::as_uint(state.max), gpu::as_uint(state.sum), gpu::as_uint(state.past_max), gpu::as_uint(state.past_sum)}});
        return RowEnd{1.0f, 1.0f};
    }
    const int64_t token = token_of(p, work, r);
    const int64_t head = head_of(p, work, r);
    float lse = log_sum(state.max, state.sum);
    float divisor = state.sum;
    if (p.sink_logits != nullptr) {
        const float sink = p.sink_logits[head * p.sink_step];
        const float sink_log2 = sink * gpu::kLog2e;
        const float base = safe_max(gpu::max(state.max, sink_log2));
        // The row's own sum keeps its base; a sink far above it makes the divisor infinite and the row 0, as it should.
        divisor = state.sum + gpu::exp2(sink_log2 - safe_max(state.max));
        const float own = state.sum == 0.0f ? 0.0f : state.sum * gpu::exp2(state.max - base);
        lse = log_sum(base, own + gpu::exp2(sink_log2 - base));
    }
    if (p.lse != nullptr) p.lse[token * p.lse_token + head * p.lse_head] = lse;
    if (p.known_lse != nullptr) p.known_lse[token * p.q_heads + head] = lse;
    if (p.past_lse != nullptr) p.past_lse[token * p.past_token + head * p.past_head] = log_sum(state.past_max, state.past_sum);
    return RowEnd{divisor, state.sum == 0.0f ? 0.0f : gpu::div(1.0f, divisor)};
}

/// o / divisor, rounded once: with the rounded reciprocal, one step of Newton's is exact but where it meets infinities.
GPU_DEVICE float divided(float o, const RowEnd &end) {
    if (end.reciprocal == 0.0f) return 0.0f;
    const float quotient = o * end.reciprocal;
    const float better = gpu::fma(gpu::fma(-end.divisor, quotient, o), end.reciprocal, quotient);
    return gpu::abs(better) < gpu::kInfinity ? better : quotient;
}

/// One channel of a tile's row r: a result, or a part of one that the merge will add.
GPU_DEVICE void emit(const AttentionParams &p, const Work &work, int r, int channel, float o, const RowEnd &end) {
    if (work.partial >= 0) {
        p.partial_o[(int64_t{work.partial} + r) * partial_pitch(p.cache.head_dim) + channel] = o;
    } else {
        store_element(p.out_dtype, p.out, token_of(p, work, r) * p.out_token + head_of(p, work, r) * p.out_head + channel, divided(o, end));
    }
}

constexpr int kEmitted = 4; // channels at once

/// The same for channels that follow one another, of which some may not exist.
GPU_DEVICE void emit_some(const AttentionParams &p, const Work &work, int r, int channel, const float (&o)[kEmitted], const RowEnd &end) {
    const int head_dim = p.cache.head_dim;
    if (work.partial >= 0) {
        const int pitch = partial_pitch(head_dim);
        if (channel >= pitch) return;
        gpu::store16(p.partial_o + (int64_t{work.partial} + r) * pitch + channel,
                     gpu::U4{{gpu::as_uint(o[0]), gpu::as_uint(o[1]), gpu::as_uint(o[2]), gpu::as_uint(o[3])}});
        return;
    }
    const int64_t at = token_of(p, work, r) * p.out_token + head_of(p, work, r) * p.out_head + channel;
    float results[kEmitted];
    GPU_UNROLL
    for (int j = 0; j < kEmitted; ++j) results[j] = divided(o[j], end);
    void *to = static_cast<unsigned char *>(p.out) + at * (p.out_dtype == STRATA_DTYPE_F32 ? 4 : 2);
    if (p.out_dtype != STRATA_DTYPE_F32 && channel + kEmitted <= head_dim && reinterpret_cast<uintptr_t>(to) % sizeof(gpu::U2) == 0) {
        const bool bf16 = p.out_dtype == STRATA_DTYPE_BF16;
        gpu::U2 words;
        GPU_UNROLL
        for (int j = 0; j < 2; ++j) {
            const float low = results[2 * j];
            const float high = results[2 * j + 1];
            words.v[j] = bf16 ? gpu::pack2_bf16(low, high) : gpu::pack2_f16(low, high);
        }
        gpu::store8(to, words);
        return;
    }
    GPU_UNROLL
    for (int j = 0; j < kEmitted; ++j) {
        if (channel + j < head_dim) store_element(p.out_dtype, p.out, at + j, results[j]);
    }
}

} // namespace strata
