// SPDX-License-Identifier: Apache-2.0
// What a page of the KV cache looks like, and what it costs.
using Strata.Engine.Models;

namespace Strata.Engine.Cache;

/// <summary>The form of the pages of one KV head; keys and values are stored alike.</summary>
/// <param name="Format">How numbers are stored.</param>
/// <param name="Type">Type of plain numbers, and of the keys of a block that is not full.</param>
/// <param name="Layout">Order within a page.</param>
/// <param name="Rotation">Points of the Hadamard rotation, or 0.</param>
/// <param name="PageSize">Slots of a page.</param>
/// <param name="HeadDim">Channels of a head.</param>
/// <param name="Positions">Whether each slot has its logical position with it.</param>
internal sealed record KvPageFormat(KvFormat Format, DType Type, KvLayout Layout, int Rotation, int PageSize, int HeadDim, bool Positions)
{
    private const int Tile = 16;
    private const int SwizzledChannels = 64;

    /// <summary>Whether a block of slots shares a key's scale, and its keys wait in a tail until it is full.</summary>
    public bool HasTail => Format is KvFormat.I8Block or KvFormat.I4Block;

    public DType PoolType => Format switch
    {
        KvFormat.Plain => Type,
        KvFormat.I8 => DType.I8,
        KvFormat.F8 => DType.F8E4M3,
        _ => DType.U8,
    };

    /// <summary>Elements of a pool that one slot takes.</summary>
    public int PoolColumns => Format is KvFormat.I4Block ? HeadDim / 2 : HeadDim;

    /// <summary>Extents of a page's key scales behind [pages, 1]; empty without scales.</summary>
    public long[] KeyScaleExtents => Format is KvFormat.Plain ? [] : HasTail ? [PageSize / KvCache.BlockSlots, 2 * HeadDim] : [PageSize];

    /// <summary>Extents of a page's value scales behind [pages, 1]; empty without scales.</summary>
    public long[] ValueScaleExtents => Format is KvFormat.Plain ? [] : HasTail ? [2 * ChannelGroups, PageSize] : [PageSize];

    /// <summary>Bytes of a page's keys, or of its values, without scales.</summary>
    public long PoolBytes => (long)PageSize * PoolColumns * PoolType.Size();

    /// <summary>Bytes of one page: keys, values, their scales, and positions.</summary>
    public long Bytes => (2 * PoolBytes) + ScaleBytes(KeyScaleExtents) + ScaleBytes(ValueScaleExtents) + (Positions ? PageSize * sizeof(int) : 0);

    /// <summary>Bytes of the tail of one head; 0 where there is none.</summary>
    public long TailBytes => HasTail ? (long)KvCache.BlockSlots * HeadDim * Type.Size() : 0;

    /// <summary>Bytes of a page over those of one with plain fp16 numbers.</summary>
    public double RatioToF16 => Bytes / (double)(this with { Format = KvFormat.Plain, Type = DType.F16 }).Bytes;

    private int ChannelGroups => (HeadDim + KvCache.BlockSlots - 1) / KvCache.BlockSlots;

    /// <summary>The form that a session asks for, in the layout that its device is fast with.</summary>
    public static KvPageFormat Of(SessionOptions options, int headDim, Device device) => new(
        options.KvFormat,
        options.KvType,
        options.KvPageLayout ?? Fastest(options, headDim, device),
        options.KvRotation,
        options.PageSize,
        headDim,
        Positions: options.Budget is not null);

    private static KvLayout Fastest(SessionOptions options, int headDim, Device device)
    {
        if (options.KvFormat is KvFormat.I8Block or KvFormat.I4Block)
        {
            return KvLayout.Tiled;
        }

        // Scoring and compaction move whole rows.
        if (options.Budget is not null)
        {
            return KvLayout.Rows;
        }

        if (device.Id is "cpu")
        {
            return headDim % Tile == 0 && options.PageSize % Tile == 0 ? KvLayout.Tiled : KvLayout.Rows;
        }

        bool swizzles = options.KvFormat is KvFormat.Plain && options.KvType.Size() == sizeof(ushort) && headDim % SwizzledChannels == 0;
        return swizzles ? KvLayout.Swizzled : KvLayout.Rows;
    }

    private static long ScaleBytes(long[] extents) => extents.Length == 0 ? 0 : DType.F16.Size() * extents.Aggregate(1L, (product, extent) => product * extent);
}
