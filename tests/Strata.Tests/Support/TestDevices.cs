// SPDX-License-Identifier: Apache-2.0
// The devices that every op is tested on.

namespace Strata.Tests;

/// <summary>A device and instruction set to test on.</summary>
public sealed record TestDevice(string Id, string? Isa)
{
    public override string ToString() => Isa is null ? Id : $"{Id}-{Isa}";
}

/// <summary>All devices and instruction sets of this machine. Those that it lacks are tested as one skipped case that says why.</summary>
public static class TestDevices
{
    private static readonly string[] s_sets = ["scalar", "avx2", "avx512", "avx512vnni", "amx"];
    private static readonly Dictionary<(TestDevice, int), Device> s_open = [];
    private static readonly Lock s_gate = new();

    public static IEnumerable<TestDevice> Cpu => s_sets.Select(isa => new TestDevice("cpu", isa)).Where(d => Missing(d) is null);

    public static IEnumerable<TestDevice> All
    {
        get
        {
            foreach (TestDevice device in Cpu) yield return device;
            foreach (string id in new[] { "simt", "cuda:0" })
            {
                if (Missing(new TestDevice(id, null)) is null) yield return new TestDevice(id, null);
            }
        }
    }

    /// <summary>Devices that should be tested somewhere and are not here, with the reason.</summary>
    public static IEnumerable<(TestDevice Device, string Reason)> Skipped =>
        s_sets.Select(isa => new TestDevice("cpu", isa)).Append(new TestDevice("simt", null)).Append(new TestDevice("cuda:0", null))
            .Select(d => (d, Missing(d))).Where(d => d.Item2 is not null).Select(d => (d.d, d.Item2!));

    /// <summary>An open device, shared by all tests.</summary>
    public static Device Open(TestDevice device, int threads = 2)
    {
        lock (s_gate)
        {
            if (!s_open.TryGetValue((device, threads), out Device? open)) s_open[(device, threads)] = open = Device.Open(device.Id, threads, device.Isa);
            return open;
        }
    }

    private static string? Missing(TestDevice device)
    {
        try
        {
            Open(device);
            return null;
        }
        catch (StrataException e)
        {
            return e.Message;
        }
    }
}
