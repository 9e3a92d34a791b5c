// SPDX-License-Identifier: Apache-2.0
// What stays in the KV cache when a budget is set.
namespace Strata.Engine.Cache;

/// <summary>Which tokens stay when the cache is cut to its budget.</summary>
public enum KvPolicy
{
    /// <summary>The last 32 tokens, and those that their queries attend to most: summed attention, average-pooled over 5 (SnapKV, arXiv 2404.14469).</summary>
    SnapKv,

    /// <summary>The first 4 tokens and the last ones (StreamingLLM, arXiv 2309.17453), positions kept as they were.</summary>
    Streaming,
}
