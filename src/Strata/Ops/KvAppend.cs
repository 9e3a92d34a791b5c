// SPDX-License-Identifier: Apache-2.0
// kv_append.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// Writes the key and value rows of new tokens into the last slots of their sequences: row r of sequence b goes to slot
/// <c>lengths[b, h] - (row_offsets[b+1] - r)</c> of every KV head, so the lengths must count the new tokens already. Keys are turned by
/// <see cref="Rope"/> on their way, values are not; both then go through the cache's Hadamard rotation and are rounded once to a plain pool's type, or quantised by
/// the pool's format: per slot at once, keys of a block format when the block's last slot is written, from <see cref="KvCache.KeyTail"/> and the new rows, so that
/// appending at once or token by token gives the same bits. Norms are those before rotation and rounding. No two rows of a call may name one slot.
/// </summary>
public readonly struct KvAppend : IOp
{
    /// <summary>The cache: keys, values, scales, tail and (if present) positions, norms and logit bias (0) of the new slots are written.</summary>
    public KvCache Cache { get; init; }

    /// <summary>Keys [tokens, kv_heads, head_dim], F32, F16 or BF16, not yet rotated.</summary>
    public TensorView Keys { get; init; }

    /// <summary>Values, type and shape of <see cref="Keys"/>.</summary>
    public TensorView Values { get; init; }

    /// <summary>Logical positions [tokens], I32; needed by <see cref="Rope"/> and by a cache that stores positions.</summary>
    public TensorView Positions { get; init; }

    /// <summary>First row of each sequence and the total [batch + 1], I32; absent: all rows belong to the only sequence.</summary>
    public TensorView RowOffsets { get; init; }

    /// <summary>Rotation of the keys; <c>default</c> is none.</summary>
    public RopeParameters Rope { get; init; }

    /// <summary>Optional [rope dims / 2], F32: the frequency of pair i is divided by factor i (the rope_freqs of Llama 3).</summary>
    public TensorView FrequencyFactors { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_kv_append_args
        {
            struct_size = (uint)sizeof(strata_kv_append_args),
            cache = Cache.Raw,
            keys = Keys.Raw,
            values = Values.Raw,
            positions = Positions.Raw,
            row_offsets = RowOffsets.Raw,
            rope = Rope.Raw,
            frequency_factors = FrequencyFactors.Raw,
        };
        int status = invocation.Call(&args, &Native.strata_kv_append_supported, &Native.strata_kv_append_workspace, &Native.strata_kv_append_run);
        TensorView.KeepAlive(Keys, Values, Positions, RowOffsets, FrequencyFactors);
        KvCache.KeepAlive(Cache);
        return status;
    }
}
