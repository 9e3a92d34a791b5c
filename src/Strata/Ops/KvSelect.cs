// SPDX-License-Identifier: Apache-2.0
// kv_select.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// Which slots of each head stay: the first <see cref="ProtectFirst"/>, the last <see cref="ProtectLast"/>, and for the rest of the budget the highest
/// scores between them, ascending. Exact: equal scores go to the lower slot, ±0 are equal, a NaN loses to every number; the same slots on every device.
/// A budget not below the length keeps all; one below the protected slots keeps the first of them, then the last.
/// </summary>
public readonly struct KvSelect : IOp
{
    /// <summary>Scores [batch, kv_heads, capacity], F32, column = slot; absent: every score is equal (streaming). Protected slots' scores are not read.</summary>
    public TensorView Scores { get; init; }

    /// <summary>Lengths [batch, kv_heads], I32.</summary>
    public TensorView Lengths { get; init; }

    /// <summary>Optional [batch, kv_heads], I32: slots to keep per head; absent: <see cref="Budget"/> for all.</summary>
    public TensorView Budgets { get; init; }

    /// <summary>Written: [batch, kv_heads, max_kept], I32, ascending slots; entries past the count are left alone.</summary>
    public TensorView Kept { get; init; }

    /// <summary>Written: [batch, kv_heads], I32.</summary>
    public TensorView KeptCounts { get; init; }

    /// <summary>Slots to keep per head.</summary>
    public int Budget { get; init; }

    /// <summary>Slots at the front that always stay (attention sinks, a system prompt).</summary>
    public int ProtectFirst { get; init; }

    /// <summary>Slots at the end that always stay (the observation window).</summary>
    public int ProtectLast { get; init; }

    /// <summary>An upper bound of the lengths known on the host; 0 = the capacity of the scores (needed when they are absent).</summary>
    public int MaxLength { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_kv_select_args
        {
            struct_size = (uint)sizeof(strata_kv_select_args),
            scores = Scores.Raw,
            lengths = Lengths.Raw,
            budgets = Budgets.Raw,
            kept = Kept.Raw,
            kept_counts = KeptCounts.Raw,
            budget = Budget,
            protect_first = ProtectFirst,
            protect_last = ProtectLast,
            max_length = MaxLength,
        };
        int status = invocation.Call(&args, &Native.strata_kv_select_supported, &Native.strata_kv_select_workspace, &Native.strata_kv_select_run);
        TensorView.KeepAlive(Scores, Lengths, Budgets, Kept, KeptCounts);
        return status;
    }
}
