// SPDX-License-Identifier: Apache-2.0
// What a cache of the harnesses looks like.

namespace Strata.Reference;

/// <summary>Extents and storage of a <see cref="HostKvCache"/>.</summary>
/// <param name="Type">Element type of plain keys and values, and of the key tail.</param>
/// <param name="Batch">Sequences.</param>
/// <param name="KvHeads">KV heads.</param>
/// <param name="HeadDim">Channels of a head.</param>
/// <param name="PageSize">Slots of a page.</param>
/// <param name="SharedPages">Whether a page holds all heads; else it belongs to one.</param>
/// <param name="Padding">Elements between rows; between whole pages where the layout wants them dense.</param>
public sealed record KvCacheShape(DType Type, int Batch, int KvHeads, int HeadDim, int PageSize = 64, bool SharedPages = false, int Padding = 0)
{
    /// <summary>How keys are stored.</summary>
    public KvFormat KeyFormat { get; init; }

    /// <summary>How values are stored.</summary>
    public KvFormat ValueFormat { get; init; }

    /// <summary>Order within a page.</summary>
    public KvLayout Layout { get; init; }

    /// <summary>Points of the Hadamard rotation, or 0.</summary>
    public int Rotation { get; init; }

    /// <summary>Whether each slot has a logit bias.</summary>
    public bool LogitBias { get; init; }

    /// <summary>Type of the norms that go with each slot; <see cref="DType.None"/> for none.</summary>
    public DType Norms { get; init; }

    /// <summary>Whether the rows of the key tail are found through a table, out of order; else by sequence and head.</summary>
    public bool TailTable { get; init; } = true;

    /// <summary>Whether both pools are plain.</summary>
    public bool IsPlain => KeyFormat == KvFormat.Plain && ValueFormat == KvFormat.Plain;

    /// <summary>Groups of channels that share a value's scale in the block formats.</summary>
    public int ValueGroups => (HeadDim + KvCache.BlockSlots - 1) / KvCache.BlockSlots;

    /// <summary>This shape with the storage that a case names: key, value (plain, i8, f8, i8b, i4b), layout (rows, tiled, swizzled), rotation.</summary>
    /// <param name="opCase">The case.</param>
    public KvCacheShape With(OpCase opCase)
    {
        ArgumentNullException.ThrowIfNull(opCase);
        return this with
        {
            KeyFormat = Format(opCase.Text("key", "plain")),
            ValueFormat = Format(opCase.Text("value", "plain")),
            Layout = Enum.Parse<KvLayout>(opCase.Text("layout", "rows"), ignoreCase: true),
            Rotation = opCase.Int("rotation", 0),
        };
    }

    /// <summary>Bytes of one slot's key, its share of the scales counted.</summary>
    public double KeyBytes => (HeadDim * KeyFormat.Bits(Type) / 8.0) + (KeyFormat.IsTokenScaled() ? 2 : KeyFormat.IsBlockScaled() ? 4.0 * HeadDim / KvCache.BlockSlots : 0);

    /// <summary>Bytes of one slot's value and its scales.</summary>
    public double ValueBytes => (HeadDim * ValueFormat.Bits(Type) / 8.0) + (ValueFormat.IsTokenScaled() ? 2 : ValueFormat.IsBlockScaled() ? 4 * ValueGroups : 0);

    private static KvFormat Format(string name) => name switch
    {
        "plain" => KvFormat.Plain,
        "i8" => KvFormat.I8,
        "f8" => KvFormat.F8,
        "i8b" => KvFormat.I8Block,
        "i4b" => KvFormat.I4Block,
        _ => throw new ArgumentException($"cases: format {name} is not known, must be plain, i8, f8, i8b or i4b; correct the line", nameof(name)),
    };
}
