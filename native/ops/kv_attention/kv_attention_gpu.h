// SPDX-License-Identifier: Apache-2.0
// kv_attention on the GPU: what the translation units of the kernels offer to the launcher.
#pragma once

#include "ops/kv_attention/kv_attention_work.cuh"

namespace strata {

/// Shared memory of one of the launches, or total 0 where the kernels of the unit do not take the cache.
SmemLayout rows_layout(const KvAttentionProblem &problem, bool few, bool split);
SmemLayout words_layout(const KvAttentionProblem &problem, bool few, bool split);
SmemLayout bytes_layout(const KvAttentionProblem &problem, bool few, bool split);
/// Launches a grid over items and parts of items (y); 0 is ok.
int launch_rows(gpu::Dim3 grid, void *stream, const AttentionParams &params);
int launch_words(gpu::Dim3 grid, void *stream, const AttentionParams &params);
int launch_bytes(gpu::Dim3 grid, void *stream, const AttentionParams &params);

/// The same for items with many rows of what rows_layout takes, on an sm_90.
SmemLayout warpgroup_layout(int head_dim);
int launch_warpgroup(int items, void *stream, const AttentionParams &params);

/// Adds exp(s - lse) of every row to params.probability; after the attention itself.
int launch_probability(const KvAttentionProblem &problem, void *stream, AttentionParams params);

/// Channels of the kernels' tiles.
constexpr int padded_dim(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }

} // namespace strata
