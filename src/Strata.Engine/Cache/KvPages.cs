// SPDX-License-Identifier: Apache-2.0
// The memory behind a KV cache: the pages of all layers, and the tails of all heads.
using System.Runtime.InteropServices;

namespace Strata.Engine.Cache;

/// <summary>Pools of keys and values with what travels with them. Which page is whose is not known here.</summary>
internal sealed class KvPages : IDisposable
{
    private readonly List<DeviceBuffer> _owned = [];
    private readonly DeviceTensor<int>? _positions;
    private readonly KvCache _shared;
    private readonly TensorView _tails;

    /// <param name="device">Where the pages are.</param>
    /// <param name="format">Their form.</param>
    /// <param name="pages">How many.</param>
    /// <param name="heads">KV heads of all layers.</param>
    public KvPages(Device device, KvPageFormat format, int pages, int heads)
    {
        _positions = format.Positions ? device.Allocate<int>(pages, 1, format.PageSize) : null;
        _tails = format.HasTail ? Allocate(device, format.Type, [heads, KvCache.BlockSlots, format.HeadDim]) : default;
        _shared = new KvCache
        {
            Keys = Allocate(device, format.PoolType, [pages, 1, format.PageSize, format.PoolColumns]),
            Values = Allocate(device, format.PoolType, [pages, 1, format.PageSize, format.PoolColumns]),
            KeyScales = Scales(device, pages, format.KeyScaleExtents),
            ValueScales = Scales(device, pages, format.ValueScaleExtents),
            Positions = _positions,
            KeyFormat = format.Format,
            ValueFormat = format.Format,
            Layout = format.Layout,
            Rotation = format.Rotation,
        };
    }

    /// <summary>The cache of one layer.</summary>
    /// <param name="table">Pages of the layer's heads, [1, heads, pages].</param>
    /// <param name="lengths">Tokens of the layer's heads, [1, heads].</param>
    /// <param name="firstHead">Number of the layer's first head among those of all layers.</param>
    /// <returns>A view.</returns>
    public KvCache Layer(TensorView table, TensorView lengths, int firstHead) => _shared with
    {
        PageTable = table,
        Lengths = lengths,
        KeyTail = _tails.IsPresent ? _tails.Slice(firstHead, lengths.Shape(1)) : default,
    };

    /// <summary>Reads the logical positions of the slots of a page; the format must have them.</summary>
    public void CopyPositions(int page, Span<int> positions) =>
        _positions!.Buffer.CopyTo(MemoryMarshal.AsBytes(positions), (long)page * positions.Length * sizeof(int));

    public void Dispose()
    {
        _positions?.Dispose();
        foreach (DeviceBuffer buffer in _owned)
        {
            buffer.Dispose();
        }
    }

    private TensorView Scales(Device device, int pages, long[] extents) => extents.Length == 0 ? default : Allocate(device, DType.F16, [pages, 1, .. extents]);

    private TensorView Allocate(Device device, DType type, long[] shape)
    {
        DeviceBuffer buffer = device.Allocate(shape.Aggregate((long)type.Size(), (product, extent) => product * extent));
        _owned.Add(buffer);
        return TensorView.Borrow(buffer.Pointer, type, shape, buffer);
    }
}
