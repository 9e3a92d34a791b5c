// SPDX-License-Identifier: Apache-2.0
// What a C# call costs before and after the kernel: time and garbage.

using BenchmarkDotNet.Attributes;
using Strata.Bindings;

namespace Strata.Bench;

/// <summary>Calls whose kernel work is next to nothing, so that what remains is the way there. None on the run path may allocate.</summary>
[MemoryDiagnoser]
public class HostOverhead : IDisposable
{
    private Device _device = null!;
    private DeviceTensor<float> _x = null!, _weight = null!, _y = null!;
    private RmsNorm _norm;

    /// <summary>Threads of the device: 1 shows the call alone, more show what waking the pool adds.</summary>
    [Params(1, 2)]
    public int Threads { get; set; }

    /// <summary>Opens the device and makes a normalisation of one row of 16 values.</summary>
    [GlobalSetup]
    public void Open()
    {
        _device = Device.Open("cpu", Threads);
        _x = _device.Upload<float>(Enumerable.Range(1, 16).Select(i => (float)i).ToArray(), 1, 16);
        _weight = _device.Upload<float>(Enumerable.Repeat(1f, 16).ToArray(), 16);
        _y = _device.Allocate<float>(1, 16);
        _norm = new RmsNorm { X = _x, Weight = _weight, Y = _y, Epsilon = 1e-5f };
    }

    /// <summary>A P/Invoke that reads one number.</summary>
    [Benchmark(Baseline = true)]
    public uint Getter() => Native.strata_abi_version();

    /// <summary>Checks of shapes and types.</summary>
    [Benchmark]
    public bool IsSupported() => _norm.IsSupported(_device, out _);

    /// <summary>The size query.</summary>
    [Benchmark]
    public long WorkspaceBytes() => _norm.WorkspaceBytes(_device);

    /// <summary>A whole run.</summary>
    [Benchmark]
    public void Run() => _norm.Run(_device);

    /// <summary>A view over memory that exists.</summary>
    [Benchmark]
    public TensorView View() => _x.View;

    /// <summary>Device memory made and freed.</summary>
    [Benchmark]
    public void AllocateAndFree()
    {
        using DeviceBuffer buffer = _device.Allocate(4096);
    }

    /// <summary>Frees what <see cref="Open"/> made.</summary>
    [GlobalCleanup]
    public void Dispose()
    {
        _x?.Dispose();
        _weight?.Dispose();
        _y?.Dispose();
        _device?.Dispose();
        GC.SuppressFinalize(this);
    }
}
