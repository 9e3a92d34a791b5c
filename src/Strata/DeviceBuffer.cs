// SPDX-License-Identifier: Apache-2.0
// Owned device memory.

using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Strata.Bindings;

namespace Strata;

/// <summary>Device memory that is freed on dispose. Aligned to 256 bytes.</summary>
public sealed unsafe class DeviceBuffer : IDisposable
{
    private readonly BufferHandle _handle;
    private readonly nint _data;

    internal DeviceBuffer(Device device, long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(bytes, 1);
        strata_buffer* buffer = null;
        StrataException.ThrowIfFailed(Native.strata_buffer_create(device.Handle.Pointer, (nuint)bytes, &buffer));
        Device = device;
        Bytes = bytes;
        _data = (nint)Native.strata_buffer_data(buffer);
        _handle = new BufferHandle(device.Handle, buffer);
        CallRecorder.Active?.Allocated(_data, bytes);
    }

    /// <summary>The device that the memory belongs to.</summary>
    public Device Device { get; }

    /// <summary>Size in bytes.</summary>
    public long Bytes { get; }

    /// <summary>Device address of the first byte.</summary>
    /// <exception cref="ObjectDisposedException">The buffer was disposed of.</exception>
    public nint Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(_handle.IsClosed, this);
            return _data;
        }
    }

    /// <summary>The memory itself, where it is host memory. Valid until dispose.</summary>
    /// <exception cref="InvalidOperationException">The device has memory of its own, or the buffer is longer than a span can be.</exception>
    public Span<byte> Span
    {
        get
        {
            if (!Device.IsHostMemory || Bytes > int.MaxValue)
            {
                throw new InvalidOperationException($"buffer: {Bytes} bytes on {Device.Id} have no span, must be host memory below 2 GiB; use CopyTo and CopyFrom");
            }
            return new Span<byte>((void*)Pointer, (int)Bytes);
        }
    }

    /// <summary>Copies host bytes into the buffer; returns when the host memory may be reused.</summary>
    /// <param name="source">The bytes.</param>
    /// <param name="offset">Byte offset in the buffer.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    public void CopyFrom(ReadOnlySpan<byte> source, long offset = 0, StrataStream? stream = null)
    {
        CheckRange(offset, source.Length);
        fixed (byte* from = source) Device.CopyBytes((void*)(Pointer + (nint)offset), from, source.Length, Device.strata_copy_kind_to_device, stream);
    }

    /// <summary>Copies from the buffer to host memory; returns when it is there.</summary>
    /// <param name="destination">Where to.</param>
    /// <param name="offset">Byte offset in the buffer.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    public void CopyTo(Span<byte> destination, long offset = 0, StrataStream? stream = null)
    {
        CheckRange(offset, destination.Length);
        fixed (byte* to = destination) Device.CopyBytes(to, (void*)(Pointer + (nint)offset), destination.Length, Device.strata_copy_kind_to_host, stream);
    }

    /// <summary>Fills the whole buffer with one byte value.</summary>
    /// <param name="value">The byte.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    public void Fill(byte value, StrataStream? stream = null) => Device.Fill(Pointer, value, Bytes, stream);

    /// <summary>Frees the memory. On a GPU work that still uses it must be done: synchronise its stream first.</summary>
    public void Dispose()
    {
        CallRecorder.Active?.Freed(_data);
        _handle.Dispose();
    }

    private void CheckRange(long offset, long length)
    {
        if (offset < 0 || offset > Bytes - length)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), offset, $"buffer: {length} bytes at offset {offset} do not lie in {Bytes}; shorten the copy or move it");
        }
    }
}

/// <summary>A dense tensor that owns its memory.</summary>
/// <typeparam name="T">float, Half, BFloat16, int, sbyte, byte or Float8E4M3.</typeparam>
public sealed class DeviceTensor<T> : IDisposable where T : unmanaged
{
    private readonly DeviceBuffer _buffer;

    internal DeviceTensor(Device device, ReadOnlySpan<long> shape)
    {
        long elements = TensorView.Elements(shape);
        _buffer = new DeviceBuffer(device, Math.Max(1, checked(elements * Unsafe.SizeOf<T>())));
        View = TensorView.Borrow<T>(_buffer.Pointer, shape, _buffer);
        Length = elements;
    }

    /// <summary>The tensor as ops take it.</summary>
    public TensorView View { get; }

    /// <summary>Number of elements.</summary>
    public long Length { get; }

    /// <summary>The memory.</summary>
    public DeviceBuffer Buffer => _buffer;

    /// <summary>The elements, where the device's memory is host memory.</summary>
    public Span<T> Span => MemoryMarshal.Cast<byte, T>(_buffer.Span)[..checked((int)Length)];

    /// <summary>Copies all elements from host memory.</summary>
    /// <param name="values">Exactly <see cref="Length"/> values.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    public void CopyFrom(ReadOnlySpan<T> values, StrataStream? stream = null)
    {
        if (values.Length != Length) throw new ArgumentException($"tensor: {values.Length} values for {Length} elements; pass as many as the shape has", nameof(values));
        if (Length > 0) _buffer.CopyFrom(MemoryMarshal.AsBytes(values), 0, stream);
    }

    /// <summary>Copies all elements to host memory.</summary>
    /// <param name="values">Exactly <see cref="Length"/> values.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    public void CopyTo(Span<T> values, StrataStream? stream = null)
    {
        if (values.Length != Length) throw new ArgumentException($"tensor: room for {values.Length} values, {Length} elements to copy; pass as many as the shape has", nameof(values));
        if (Length > 0) _buffer.CopyTo(MemoryMarshal.AsBytes(values), 0, stream);
    }

    /// <summary>All elements, copied to a new array.</summary>
    public T[] ToArray()
    {
        var values = new T[Length];
        CopyTo(values);
        return values;
    }

    /// <summary>Frees the memory.</summary>
    public void Dispose() => _buffer.Dispose();

    /// <summary>The view.</summary>
    /// <param name="tensor">The tensor; null gives an absent view.</param>
    public static implicit operator TensorView(DeviceTensor<T>? tensor) => tensor?.View ?? default;
}
