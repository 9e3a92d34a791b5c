// SPDX-License-Identifier: Apache-2.0
// A cache of the harnesses on a device.

namespace Strata.Reference;

/// <summary>A <see cref="HostKvCache"/> on a device.</summary>
public sealed class DeviceKvCache : IDisposable
{
    private readonly KvCacheShape _shape;
    private readonly List<DeviceArray> _arrays = [];

    internal DeviceKvCache(Device device, HostKvCache host)
    {
        _shape = host.Shape;
        DeviceArray? Optional(HostTensor? tensor)
        {
            if (tensor is null) return null;
            DeviceArray array = tensor.Upload(device);
            _arrays.Add(array);
            return array;
        }
        Keys = Optional(host.Keys)!;
        Values = Optional(host.Values)!;
        Positions = Optional(host.Positions)!;
        PageTable = Optional(host.PageTable)!;
        Lengths = Optional(host.Lengths)!;
        LogitBias = Optional(host.LogitBias);
        KeyNorms = Optional(host.KeyNorms);
        ValueNorms = Optional(host.ValueNorms);
        KeyScales = Optional(host.KeyScales);
        ValueScales = Optional(host.ValueScales);
        KeyTail = Optional(host.KeyTail);
        TailTable = Optional(host.TailTable);
    }

    /// <summary>Keys.</summary>
    public DeviceArray Keys { get; }

    /// <summary>Values.</summary>
    public DeviceArray Values { get; }

    /// <summary>Positions.</summary>
    public DeviceArray Positions { get; }

    /// <summary>Page table.</summary>
    public DeviceArray PageTable { get; }

    /// <summary>Lengths.</summary>
    public DeviceArray Lengths { get; }

    /// <summary>Logit bias, or null.</summary>
    public DeviceArray? LogitBias { get; }

    /// <summary>Key norms, or null.</summary>
    public DeviceArray? KeyNorms { get; }

    /// <summary>Value norms, or null.</summary>
    public DeviceArray? ValueNorms { get; }

    /// <summary>Key scales, or null.</summary>
    public DeviceArray? KeyScales { get; }

    /// <summary>Value scales, or null.</summary>
    public DeviceArray? ValueScales { get; }

    /// <summary>Key tail, or null.</summary>
    public DeviceArray? KeyTail { get; }

    /// <summary>Tail table, or null.</summary>
    public DeviceArray? TailTable { get; }

    /// <summary>The cache as ops take it.</summary>
    public KvCache View => new()
    {
        Keys = Keys.View,
        Values = Values.View,
        PageTable = PageTable.View,
        Lengths = Lengths.View,
        Positions = Positions.View,
        LogitBias = LogitBias?.View ?? default,
        KeyNorms = KeyNorms?.View ?? default,
        ValueNorms = ValueNorms?.View ?? default,
        KeyScales = KeyScales?.View ?? default,
        ValueScales = ValueScales?.View ?? default,
        KeyTail = KeyTail?.View ?? default,
        TailTable = TailTable?.View ?? default,
        KeyFormat = _shape.KeyFormat,
        ValueFormat = _shape.ValueFormat,
        Layout = _shape.Layout,
        Rotation = _shape.Rotation,
    };

    /// <summary>Frees the memory.</summary>
    public void Dispose()
    {
        foreach (DeviceArray array in _arrays) array.Dispose();
    }
}
