// SPDX-License-Identifier: Apache-2.0
// merge_states.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// Joins attention over disjoint sets of keys: <c>lse = ln Σᵢ exp(lseᵢ)</c>, <c>out = Σᵢ exp(lseᵢ - lse) outᵢ</c>, for each token and query head (Juravsky et al.,
/// arXiv 2402.05099). A part with a log-sum-exp of -∞ counts nothing and is not read; where all parts have it the result is 0 and -∞. Sums are fp32, parts are
/// added in their order. <see cref="CascadeAttention"/> is made of it.
/// </summary>
public readonly struct MergeStates : IOp
{
    /// <summary>Outputs of the parts [parts, tokens, q_heads, head_dim], F32, F16 or BF16; 1 to 64 parts.</summary>
    public TensorView Parts { get; init; }

    /// <summary>Log-sum-exp of the parts [parts, tokens, q_heads], F32.</summary>
    public TensorView PartLogSumExp { get; init; }

    /// <summary>Written: [tokens, q_heads, head_dim], F32, F16 or BF16.</summary>
    public TensorView Output { get; init; }

    /// <summary>Optional, written: [tokens, q_heads], F32.</summary>
    public TensorView LogSumExp { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_merge_states_args
        {
            struct_size = (uint)sizeof(strata_merge_states_args),
            parts = Parts.Raw,
            part_lse = PartLogSumExp.Raw,
            @out = Output.Raw,
            lse = LogSumExp.Raw,
        };
        int status = invocation.Call(&args, &Native.strata_merge_states_supported, &Native.strata_merge_states_workspace, &Native.strata_merge_states_run);
        TensorView.KeepAlive(Parts, PartLogSumExp, Output, LogSumExp);
        return status;
    }
}
