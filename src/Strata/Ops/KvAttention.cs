// SPDX-License-Identifier: Apache-2.0
// kv_attention.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// Attention over a paged cache: <c>out = softmax(scale · q Kᵀ) V</c>. Query head h reads KV head <c>h / (q_heads / kv_heads)</c>. Decode is one query row a
/// sequence, prefill many; a batch may mix them. A query that sees no slot gives 0 and a log-sum-exp of -∞. Sums are fp32; the result is
/// bitwise the same for any number of threads.
/// </summary>
public readonly struct KvAttention : IOp
{
    /// <summary>The cache, read.</summary>
    public KvCache Cache { get; init; }

    /// <summary>Queries [tokens, q_heads, head_dim], F32, F16 or BF16, rotated; the type is independent of the cache's.</summary>
    public TensorView Q { get; init; }

    /// <summary>Output, shape of <see cref="Q"/>, F32, F16 or BF16.</summary>
    public TensorView Output { get; init; }

    /// <summary>Optional output [tokens, q_heads], F32: natural logarithm of the sum of exp(scale · q k) over the slots that were seen.</summary>
    public TensorView LogSumExp { get; init; }

    /// <summary>First query row of each sequence and the total [batch + 1], I32; absent: all rows belong to the only sequence.</summary>
    public TensorView RowOffsets { get; init; }

    /// <summary>Query r of n sees slots 0 to length - n + r; otherwise all slots.</summary>
    public bool Causal { get; init; }

    /// <summary>Factor of q k; 0 = 1 / √head_dim.</summary>
    public float Scale { get; init; }

    /// <summary>An upper bound of the lengths known on the host, for a better split of the work; 0 = the capacity of the page table.</summary>
    public int MaxLength { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_kv_attention_args
        {
            struct_size = (uint)sizeof(strata_kv_attention_args),
            flags = Causal ? (uint)Native.STRATA_ATTENTION_CAUSAL : 0,
            cache = Cache.Raw,
            q = Q.Raw,
            @out = Output.Raw,
            lse = LogSumExp.Raw,
            row_offsets = RowOffsets.Raw,
            scale = Scale,
            max_length = MaxLength,
        };
        int status = invocation.Call(&args, &Native.strata_kv_attention_supported, &Native.strata_kv_attention_workspace, &Native.strata_kv_attention_run);
        TensorView.KeepAlive(Q, Output, LogSumExp, RowOffsets);
        KvCache.KeepAlive(Cache);
        return status;
    }
}
