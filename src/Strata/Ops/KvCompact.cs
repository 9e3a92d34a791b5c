// SPDX-License-Identifier: Apache-2.0
// kv_compact.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// Moves the kept slots of each head to the front of its pages, or into fresh pages of the same pool: keys, values and positions together. Keys stay
/// as rotated. Pages past the new length are free afterwards. On the CPU everything is checked before the first byte moves; in place, a page that
/// changes must belong to one head of one sequence alone.
/// </summary>
public readonly struct KvCompact : IOp
{
    /// <summary>The source; in place also the destination.</summary>
    public KvCache Cache { get; init; }

    /// <summary>Slots to keep [batch, kv_heads, max_kept], I32, strictly ascending; what <see cref="KvSelect"/> writes.</summary>
    public TensorView Kept { get; init; }

    /// <summary>How many of them [batch, kv_heads], I32.</summary>
    public TensorView KeptCounts { get; init; }

    /// <summary>Optional [batch, kv_heads, max_to_pages], I32: fresh pages of the same pool, none of which the sources use; absent: in place.</summary>
    public TensorView ToPageTable { get; init; }

    /// <summary>Optional, written: [batch, kv_heads], I32, the kept counts. May be the lengths of <see cref="Cache"/>.</summary>
    public TensorView NewLengths { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_kv_compact_args
        {
            struct_size = (uint)sizeof(strata_kv_compact_args),
            cache = Cache.Raw,
            kept = Kept.Raw,
            kept_counts = KeptCounts.Raw,
            to_page_table = ToPageTable.Raw,
            new_lengths = NewLengths.Raw,
        };
        int status = invocation.Call(&args, &Native.strata_kv_compact_supported, &Native.strata_kv_compact_workspace, &Native.strata_kv_compact_run);
        TensorView.KeepAlive(Kept, KeptCounts, ToPageTable, NewLengths);
        KvCache.KeepAlive(Cache);
        return status;
    }
}
