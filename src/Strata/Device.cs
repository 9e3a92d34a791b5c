// SPDX-License-Identifier: Apache-2.0
// A device: what there is, opening one, its memory, streams and limits.

using System.Runtime.InteropServices;
using System.Text;
using Strata.Bindings;

namespace Strata;

/// <summary>One device of this machine, or the reason why it cannot be used.</summary>
/// <param name="Id">"cpu", "simt", "cuda:0".</param>
/// <param name="Name">The processor's own name.</param>
/// <param name="Isa">CPU: the instruction set in use, then those that are not and why. GPU: the architecture.</param>
/// <param name="Available">Whether <see cref="Device.Open"/> would open it.</param>
/// <param name="Reason">Why it is not available and what to do; "" if it is.</param>
/// <param name="TotalBytes">Memory of the device in bytes; 0 if unknown.</param>
/// <param name="Threads">CPU: usable cores. GPU: multiprocessors.</param>
public sealed record DeviceInfo(string Id, string Name, string Isa, bool Available, string Reason, long TotalBytes, int Threads);

/// <summary>A limit of the machine that <see cref="Device.MeasureLimit"/> measures.</summary>
public enum MachineLimit
{
    /// <summary>Sustained reads from memory, bytes/s.</summary>
    Read = 1,
    /// <summary>fp32 multiply-add, FLOP/s (two per multiply-add).</summary>
    Fp32 = 2,
    /// <summary>bf16 dot product with fp32 sums, FLOP/s.</summary>
    Bf16 = 3,
    /// <summary>int8 dot product with int32 sums, OP/s.</summary>
    Int8 = 4,
    /// <summary>AMX bf16 tiles, FLOP/s.</summary>
    AmxBf16 = 5,
    /// <summary>AMX int8 tiles, OP/s.</summary>
    AmxInt8 = 6,
}

/// <summary>
/// An open device. Ops on "cpu" and "simt" are done when the call returns; on "cuda:N" they are queued on the stream.
/// Thread-safe. Buffers, streams and events keep the device open until they are disposed of themselves.
/// </summary>
public sealed unsafe class Device : IDisposable
{
    private Device(ContextHandle handle)
    {
        Handle = handle;
        Id = Text(Native.strata_context_device(handle.Pointer));
        Isa = Text(Native.strata_context_isa(handle.Pointer));
    }

    internal ContextHandle Handle { get; }

    /// <summary>"cpu", "simt" or "cuda:N".</summary>
    public string Id { get; }

    /// <summary>The instruction set or architecture that the kernels use: "avx512vnni", "sm_90", "simt".</summary>
    public string Isa { get; }

    /// <summary>Whether buffers are ordinary host memory ("cpu" and "simt").</summary>
    public bool IsHostMemory => !Id.StartsWith("cuda", StringComparison.Ordinal);

    /// <summary>Version, compiler and instruction sets of the native build.</summary>
    /// <exception cref="NativeLibraryException">The native library cannot be loaded.</exception>
    public static string BuildInfo
    {
        get
        {
            NativeResolver.EnsureLoaded();
            return Text(Native.strata_build_info());
        }
    }

    /// <summary>The implementation that the calling thread's last op used: "qgemm/avx512vnni".</summary>
    public static string LastImplementation => Text(Native.strata_last_impl());

    /// <summary>All devices, the unavailable ones with their reasons.</summary>
    /// <exception cref="NativeLibraryException">The native library cannot be loaded.</exception>
    public static IReadOnlyList<DeviceInfo> List()
    {
        NativeResolver.EnsureLoaded();
        int count = 0;
        StrataException.ThrowIfFailed(Native.strata_device_count(&count));
        var devices = new DeviceInfo[count];
        for (int i = 0; i < count; i++)
        {
            var raw = new strata_device_info { struct_size = (uint)sizeof(strata_device_info) };
            StrataException.ThrowIfFailed(Native.strata_device_describe(i, &raw));
            devices[i] = new DeviceInfo(Text(raw.id), Text(raw.name), Text(raw.isa), raw.available != 0, Text(raw.reason), raw.total_bytes, raw.threads);
        }
        return devices;
    }

    /// <summary>Opens a device.</summary>
    /// <param name="device">"cpu", "simt" or "cuda:N".</param>
    /// <param name="threads">CPU threads, the caller's included; 0 = all cores.</param>
    /// <param name="isa">CPU: highest instruction set to use (scalar, avx2, avx512, avx512vnni, amx); null = STRATA_ISA, else the best.</param>
    /// <exception cref="BackendUnavailableException">The device or instruction set is not there; the message says why.</exception>
    /// <exception cref="StrataException">A name that is not known.</exception>
    /// <exception cref="NativeLibraryException">The native library cannot be loaded.</exception>
    public static Device Open(string device = "cpu", int threads = 0, string? isa = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        NativeResolver.EnsureLoaded();
        fixed (byte* id = Encoding.UTF8.GetBytes(device + '\0'))
        fixed (byte* set = isa is null ? null : Encoding.UTF8.GetBytes(isa + '\0'))
        {
            var desc = new strata_context_desc { struct_size = (uint)sizeof(strata_context_desc), threads = threads, device = id, isa = set };
            strata_context* context = null;
            StrataException.ThrowIfFailed(Native.strata_context_create(&desc, &context));
            return new Device(new ContextHandle(context));
        }
    }

    /// <summary>Opens the first GPU that works, else the CPU, and says what was passed over and why.</summary>
    /// <param name="skipped">Devices that were preferred and are not available.</param>
    /// <exception cref="NativeLibraryException">The native library cannot be loaded.</exception>
    public static Device OpenBest(out IReadOnlyList<DeviceInfo> skipped)
    {
        var missing = new List<DeviceInfo>();
        skipped = missing;
        foreach (DeviceInfo info in List())
        {
            if (!info.Id.StartsWith("cuda", StringComparison.Ordinal)) continue;
            if (info.Available) return Open(info.Id);
            missing.Add(info);
        }
        return Open("cpu");
    }

    /// <summary>Allocates device memory, aligned to 256 bytes, contents undefined.</summary>
    /// <param name="bytes">At least 1.</param>
    /// <exception cref="DeviceOutOfMemoryException">Not enough memory.</exception>
    public DeviceBuffer Allocate(long bytes) => new(this, bytes);

    /// <summary>Allocates a dense tensor, contents undefined.</summary>
    /// <typeparam name="T">Element type.</typeparam>
    /// <param name="shape">1 to 4 extents, outermost first.</param>
    public DeviceTensor<T> Allocate<T>(params ReadOnlySpan<long> shape) where T : unmanaged => new(this, shape);

    /// <summary>Allocates a dense tensor and copies the values into it.</summary>
    /// <typeparam name="T">Element type.</typeparam>
    /// <param name="values">As many values as the shape has elements.</param>
    /// <param name="shape">1 to 4 extents, outermost first.</param>
    public DeviceTensor<T> Upload<T>(ReadOnlySpan<T> values, params ReadOnlySpan<long> shape) where T : unmanaged
    {
        var tensor = new DeviceTensor<T>(this, shape);
        tensor.CopyFrom(values);
        return tensor;
    }

    /// <summary>Makes a stream. On devices that run synchronously it is a formality.</summary>
    public StrataStream CreateStream() => new(this);

    /// <summary>Wraps a cudaStream_t or CUstream that somebody else owns. Disposing of the wrapper does not destroy it.</summary>
    /// <param name="stream">The raw stream handle.</param>
    public StrataStream BorrowStream(nint stream) => new(this, stream);

    /// <summary>Makes an event with time stamps.</summary>
    public StrataEvent CreateEvent() => new(this);

    /// <summary>Copies within the device's memory.</summary>
    /// <param name="destination">Where to.</param>
    /// <param name="source">Where from.</param>
    /// <param name="bytes">How much.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    public void Copy(nint destination, nint source, long bytes, StrataStream? stream = null) =>
        CopyBytes((void*)destination, (void*)source, bytes, strata_copy_kind_on_device, stream);

    internal const int strata_copy_kind_to_device = 1, strata_copy_kind_to_host = 2, strata_copy_kind_on_device = 3;

    internal void CopyBytes(void* destination, void* source, long bytes, int kind, StrataStream? stream)
    {
        StrataException.ThrowIfFailed(Native.strata_copy(Handle.Pointer, destination, source, checked((nuint)bytes), kind, StrataStream.Raw(stream)));
        GC.KeepAlive(this);
    }

    /// <summary>Fills device memory with one byte value.</summary>
    /// <param name="destination">Where to.</param>
    /// <param name="value">The byte.</param>
    /// <param name="bytes">How much.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    public void Fill(nint destination, byte value, long bytes, StrataStream? stream = null)
    {
        StrataException.ThrowIfFailed(Native.strata_fill(Handle.Pointer, (void*)destination, value, checked((nuint)bytes), StrataStream.Raw(stream)));
        GC.KeepAlive(this);
    }

    /// <summary>Waits for the default stream and reports what went wrong on it.</summary>
    /// <exception cref="DeviceFaultException">A kernel failed or met an index out of range.</exception>
    public void Synchronize()
    {
        StrataException.ThrowIfFailed(Native.strata_stream_sync(Handle.Pointer, null));
        GC.KeepAlive(this);
    }

    /// <summary>Measures a limit of the machine with this device's threads: a few hundred milliseconds.</summary>
    /// <param name="limit">Which one.</param>
    /// <returns>Bytes/s or operations/s; null if the machine has no such unit.</returns>
    public double? MeasureLimit(MachineLimit limit)
    {
        double value = 0;
        int status = Native.strata_limit_measure(Handle.Pointer, (int)limit, &value);
        GC.KeepAlive(this);
        if ((StrataStatus)status == StrataStatus.Unsupported) return null;
        StrataException.ThrowIfFailed(status);
        return value;
    }

    /// <summary>Closes the device once nothing made from it is alive any more.</summary>
    public void Dispose() => Handle.Dispose();

    private static string Text(byte* text) => Marshal.PtrToStringUTF8((nint)text) ?? "";

    private static string Text(ReadOnlySpan<byte> text)
    {
        int end = text.IndexOf((byte)0);
        return Encoding.UTF8.GetString(end < 0 ? text : text[..end]);
    }
}
