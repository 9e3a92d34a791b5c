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

/// The divisor of a row: its sum with its sink logit. Writes the row's lse where `first`.
GPU_DEVICE float finish_row(const AttentionParams &p, const Work &work, int r, const RowState &state, bool first) {
    const int64_t token = token_of(p, work, r);
    const int64_t head = head_of(p, work, r);
    float lse = first ? log_sum(state.max, state.sum) : 0.0f;
    float divisor = state.sum;
    if (p.sink_logits != nullptr) {
        const float sink = p.sink_logits[head * p.sink_step];
        const float sink_log2 = sink * gpu::kLog2e;
        const float base = safe_max(gpu::max(state.max, sink_log2));
        // The row's own sum keeps its base; a sink far above it makes the divisor infinite and the row 0, as it should.
        divisor = state.sum + gpu::exp2(sink_log2 - safe_max(state.max));
        const float own = state.sum == 0.0f ? 0.0f : state.sum * gpu::exp2(state.max - base);
        if (first) lse = log_sum(base, own + gpu::exp2(sink_log2 - base));
    }
    if (first) {
        if (p.lse != nullptr) p.lse[token * p.lse_token + head * p.lse_head] = lse;
        if (p.known_lse != nullptr) p.known_lse[token * p.q_heads + head] = lse;
        if (p.past_lse != nullptr) p.past_lse[token * p.past_token + head * p.past_head] = log_sum(state.past_max, state.past_sum);
    }
    return divisor;
}

/// One channel of a finished row: a row that saw nothing is 0.
GPU_DEVICE void write_result(const AttentionParams &p, const Work &work, int r, int channel, float o, const RowState &state) {
    const float divisor = finish_row(p, work, r, state, channel == 0);
    const float value = state.sum == 0.0f ? 0.0f : gpu::div(o, divisor);
    store_element(p.out_dtype, p.out, token_of(p, work, r) * p.out_token + head_of(p, work, r) * p.out_head + channel, value);
}

/// One channel of a tile's row r: a result, or a part of one that the merge will add.
GPU_DEVICE void emit(const AttentionParams &p, const Work &work, int r, int channel, float o, const RowState &state) {
    if (work.partial < 0) {
        write_result(p, work, r, channel, o, state);
        return;
    }
    const int64_t at = int64_t{work.partial} + r;
    p.partial_o[at * p.cache.head_dim + channel] = o;
    if (channel == 0) {
        float *numbers = p.partial_state + at * kStateNumbers;
        numbers[0] = state.max;
        numbers[1] = state.sum;
        numbers[2] = state.past_max;
        numbers[3] = state.past_sum;
    }
}

} // namespace strata
