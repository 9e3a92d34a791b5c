// SPDX-License-Identifier: Apache-2.0
// The machine's own limits, measured in the same run as what is compared with them.

using Strata.Reference;

namespace Strata.Runner;

/// <summary>Measured limits of a device.</summary>
internal sealed class Limits
{
    private readonly Dictionary<MachineLimit, double> _perSecond = [];

    private Limits() { }

    public static Limits Measure(Device device)
    {
        var limits = new Limits();
        foreach (MachineLimit limit in Enum.GetValues<MachineLimit>())
        {
            if (device.MeasureLimit(limit) is { } value) limits._perSecond[limit] = value;
        }
        return limits;
    }

    internal static Limits Of(params (MachineLimit Limit, double PerSecond)[] values)
    {
        var limits = new Limits();
        foreach ((MachineLimit limit, double perSecond) in values) limits._perSecond[limit] = perSecond;
        return limits;
    }

    /// <summary>Of each limit the higher of the two measurements.</summary>
    public Limits OrHigher(Limits other)
    {
        var limits = new Limits();
        foreach (MachineLimit limit in Enum.GetValues<MachineLimit>())
        {
            if (Max(this[limit], other[limit]) is { } value) limits._perSecond[limit] = value;
        }
        return limits;
    }

    public double? this[MachineLimit limit] => _perSecond.TryGetValue(limit, out double value) ? value : null;

    /// <summary>The peak that bounds arithmetic of a kind: the fastest unit that can do it. fp32 does what no special unit does.</summary>
    public double? Peak(Roof roof)
    {
        double? special = roof switch
        {
            Roof.Bf16 => Max(this[MachineLimit.Bf16], this[MachineLimit.AmxBf16]),
            Roof.Int8 => Max(this[MachineLimit.Int8], this[MachineLimit.AmxInt8]),
            _ => null,
        };
        return Max(special, this[MachineLimit.Fp32]);
    }

    /// <summary>max(bytes ÷ bandwidth, operations ÷ peak) ÷ time; null without limits.</summary>
    /// <param name="bytes">Bytes that a call must move.</param>
    /// <param name="operations">Operations of a call.</param>
    /// <param name="roof">Their kind.</param>
    /// <param name="seconds">Time of a call.</param>
    public double? Share(double bytes, double operations, Roof roof, double seconds)
    {
        if (this[MachineLimit.Read] is not { } read || Peak(roof) is not { } peak || seconds <= 0) return null;
        return Math.Max(bytes / read, operations / peak) / seconds;
    }

    public BenchLimits ToReport() => new(
        Giga(MachineLimit.Read), Giga(MachineLimit.Fp32), Giga(MachineLimit.Bf16), Giga(MachineLimit.Int8), Giga(MachineLimit.AmxBf16), Giga(MachineLimit.AmxInt8));

    private double? Giga(MachineLimit limit) => this[limit] is { } value ? Statistics.Rounded(value / 1e9) : null;

    private static double? Max(double? a, double? b) => a is { } x && b is { } y ? Math.Max(x, y) : a ?? b;
}
