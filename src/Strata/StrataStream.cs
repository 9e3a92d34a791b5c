// SPDX-License-Identifier: Apache-2.0
// Streams and events.

using Strata.Bindings;

namespace Strata;

/// <summary>A queue of work on a device. On "cpu" and "simt" everything is done when a call returns.</summary>
public sealed unsafe class StrataStream : IDisposable
{
    private readonly StreamHandle _handle;
    private readonly List<object> _alive = [];

    internal StrataStream(Device device)
    {
        void* stream = null;
        StrataException.ThrowIfFailed(Native.strata_stream_create(device.Handle.Pointer, &stream));
        Device = device;
        _handle = new StreamHandle(device.Handle, stream, owned: true);
    }

    internal StrataStream(Device device, nint borrowed)
    {
        Device = device;
        _handle = new StreamHandle(device.Handle, (void*)borrowed, owned: false);
    }

    /// <summary>The device of the stream.</summary>
    public Device Device { get; }

    /// <summary>The raw cudaStream_t; 0 on synchronous devices.</summary>
    public nint Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(_handle.IsClosed, this);
            return _handle.DangerousGetHandle();
        }
    }

    internal static void* Raw(StrataStream? stream) => stream is null ? null : (void*)stream.Pointer;

    /// <summary>Keeps an object alive until the next <see cref="Synchronize"/>: memory that queued work still reads.</summary>
    /// <param name="owner">The object.</param>
    public void KeepAlive(object owner)
    {
        ArgumentNullException.ThrowIfNull(owner);
        lock (_alive) _alive.Add(owner);
    }

    /// <summary>Waits until everything queued so far is done and reports what went wrong.</summary>
    /// <exception cref="DeviceFaultException">A kernel failed or met an index out of range.</exception>
    public void Synchronize()
    {
        int status = Native.strata_stream_sync(Device.Handle.Pointer, (void*)Pointer);
        lock (_alive) _alive.Clear();
        StrataException.ThrowIfFailed(status);
    }

    /// <summary>Destroys the stream if it is owned.</summary>
    public void Dispose() => _handle.Dispose();
}

/// <summary>A point in a stream, with a time stamp.</summary>
public sealed unsafe class StrataEvent : IDisposable
{
    private readonly EventHandle _handle;

    internal StrataEvent(Device device)
    {
        strata_event* value = null;
        StrataException.ThrowIfFailed(Native.strata_event_create(device.Handle.Pointer, &value));
        _handle = new EventHandle(device.Handle, value);
    }

    private strata_event* Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(_handle.IsClosed, this);
            return (strata_event*)_handle.DangerousGetHandle();
        }
    }

    /// <summary>Marks the present end of the stream.</summary>
    /// <param name="stream">The stream; null = the default one.</param>
    public void Record(StrataStream? stream = null) => StrataException.ThrowIfFailed(Native.strata_event_record(Pointer, StrataStream.Raw(stream)));

    /// <summary>Makes later work of the stream wait for this point.</summary>
    /// <param name="stream">The stream; null = the default one.</param>
    public void Wait(StrataStream? stream = null) => StrataException.ThrowIfFailed(Native.strata_event_wait(Pointer, StrataStream.Raw(stream)));

    /// <summary>Waits on the host.</summary>
    public void Synchronize() => StrataException.ThrowIfFailed(Native.strata_event_sync(Pointer));

    /// <summary>Time from this event to a later one; both must have passed.</summary>
    /// <param name="end">The later event.</param>
    /// <returns>Microseconds.</returns>
    public double MicrosecondsTo(StrataEvent end)
    {
        ArgumentNullException.ThrowIfNull(end);
        double microseconds = 0;
        StrataException.ThrowIfFailed(Native.strata_event_elapsed(Pointer, end.Pointer, &microseconds));
        return microseconds;
    }

    /// <summary>Destroys the event.</summary>
    public void Dispose() => _handle.Dispose();
}
