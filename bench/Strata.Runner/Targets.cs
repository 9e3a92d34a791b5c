// SPDX-License-Identifier: Apache-2.0
// The devices and instruction sets of one run, and those that are not here with the reason.

using Strata.Reference;

namespace Strata.Runner;

/// <summary>A device that was passed over.</summary>
/// <param name="Device">"cuda:0", or "cpu" with an instruction set: "cpu/amx".</param>
/// <param name="Reason">Why it is not here and what to do.</param>
public sealed record SkippedDevice(string Device, string Reason);

/// <summary>Open devices, closed together.</summary>
internal sealed class Targets : IDisposable
{
    private static readonly string[] s_sets = ["scalar", "avx2", "avx512", "avx512vnni", "amx"];

    private readonly List<Device> _devices = [];
    private readonly List<SkippedDevice> _skipped = [];

    public IReadOnlyList<Device> Devices => _devices;

    public IReadOnlyList<SkippedDevice> Skipped => _skipped;

    /// <summary>Opens a device with one instruction set or, for the CPU, with each that the machine has.</summary>
    public static Targets Open(string device, string? isa, bool allIsas, int threads)
    {
        var targets = new Targets();
        try
        {
            targets.Add(device, isa, allIsas, threads);
            return targets;
        }
        catch
        {
            targets.Dispose();
            throw;
        }
    }

    /// <summary>Opens every available device.</summary>
    public static Targets OpenAll(string? isa, bool allIsas, int threads)
    {
        var targets = new Targets();
        foreach (DeviceInfo info in Device.List())
        {
            if (info.Available) targets.Add(info.Id, isa, allIsas, threads);
            else targets._skipped.Add(new SkippedDevice(info.Id, info.Reason));
        }
        return targets;
    }

    /// <summary>The harnesses of the named ops, all of them for no names.</summary>
    /// <exception cref="StrataException">A name that no op has.</exception>
    public static IReadOnlyList<OpHarness> Select(string verb, IReadOnlyList<OpHarness> harnesses, IReadOnlyList<string> ops)
    {
        foreach (string op in ops)
        {
            if (harnesses.All(h => h.Op != op))
            {
                throw new StrataException(StrataStatus.Argument, $"{verb}: op {op} is not known, must be one of {string.Join(", ", harnesses.Select(h => h.Op))}; correct the name");
            }
        }
        return ops.Count == 0 ? harnesses : [.. harnesses.Where(h => ops.Contains(h.Op))];
    }

    public void Dispose()
    {
        foreach (Device device in _devices) device.Dispose();
        _devices.Clear();
    }

    private void Add(string device, string? isa, bool allIsas, int threads)
    {
        if (device != "cpu")
        {
            _devices.Add(Device.Open(device, threads));
            return;
        }
        if (!allIsas)
        {
            _devices.Add(Device.Open(device, threads, isa));
            return;
        }
        foreach (string set in s_sets)
        {
            try
            {
                _devices.Add(Device.Open(device, threads, set));
            }
            catch (BackendUnavailableException e)
            {
                _skipped.Add(new SkippedDevice($"cpu/{set}", e.Message));
            }
        }
    }
}
