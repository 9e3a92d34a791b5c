// SPDX-License-Identifier: Apache-2.0
// Weights in the packed layout that every device reads.

using System.Runtime.InteropServices;
using Strata.Bindings;

namespace Strata;

/// <summary>Storage formats of weights. GGUF names are the blocks of that file format.</summary>
public enum WeightFormat
{
    /// <summary>No weight.</summary>
    None = 0,
    /// <summary>IEEE single.</summary>
    F32 = 1,
    /// <summary>IEEE half.</summary>
    F16 = 2,
    /// <summary>Brain float.</summary>
    BF16 = 3,
    /// <summary>Blocks of 32 codes of 4 bits, <c>w = d (q - 8)</c>; 4.5 bits a weight.</summary>
    Q4_0 = 4,
    /// <summary>Blocks of 32 codes of 4 bits, <c>w = d q + m</c>; 5 bits a weight.</summary>
    Q4_1 = 5,
    /// <summary>Blocks of 32 codes of 8 bits, <c>w = d q</c>; 8.5 bits a weight.</summary>
    Q8_0 = 6,
    /// <summary>Blocks of 256 codes of 4 bits, per 32 <c>w = d sc q - dmin m</c>; 4.5 bits a weight.</summary>
    Q4_K = 7,
    /// <summary>Blocks of 256 codes of 6 bits, per 16 <c>w = d sc (q - 32)</c>; 6.6 bits a weight.</summary>
    Q6_K = 8,
    /// <summary>Symmetric 4-bit codes, <c>w = scale (q - 8)</c>, one fp16 scale per group of 32, 64 or 128 columns.</summary>
    I4 = 9,
}

/// <summary>A borrowed weight matrix W[n, k] in the packed layout; <c>y = x Wᵀ</c>. Keeps its owner reachable. <c>default</c> is no weight.</summary>
public readonly struct WeightView
{
    internal WeightView(strata_weight raw, object? owner)
    {
        Raw = raw;
        Owner = owner;
    }

    internal strata_weight Raw { get; }

    /// <summary>What keeps the memory alive.</summary>
    public object? Owner { get; }

    /// <summary>Output features (rows).</summary>
    public long N => Raw.n;

    /// <summary>Input features (columns).</summary>
    public long K => Raw.k;

    /// <summary>Format of the weights.</summary>
    public WeightFormat Format => (WeightFormat)Raw.format;

    /// <summary>Columns that share a scale; 0 for floats.</summary>
    public int Group => Raw.group;

    /// <summary>Packed bytes, header included.</summary>
    public long Bytes => Raw.bytes;
}

/// <summary>
/// Owns a weight matrix on a device, packed for its kernels. Packing moves bits, never changes values: dequantising gives exactly what the source
/// gives. The bytes are the same for every device and may be kept in a file; <see cref="Open"/> reads them back and checks their hash.
/// </summary>
public sealed unsafe class PackedWeight : IDisposable
{
    private readonly DeviceBuffer _buffer;
    private readonly strata_weight _raw;

    private PackedWeight(DeviceBuffer buffer, strata_weight raw)
    {
        _buffer = buffer;
        _raw = raw;
        _raw.data = (void*)buffer.Pointer;
    }

    /// <summary>The weight as ops take it.</summary>
    public WeightView View => new(_raw, _buffer);

    /// <summary>The weight as ops take it.</summary>
    /// <param name="weight">The owner.</param>
    public static implicit operator WeightView(PackedWeight weight)
    {
        ArgumentNullException.ThrowIfNull(weight);
        return weight.View;
    }

    /// <summary>The packed bytes in device memory.</summary>
    public DeviceBuffer Buffer => _buffer;

    /// <summary>Packed bytes, header included.</summary>
    public long Bytes => _raw.bytes;

    /// <summary>Output features (rows).</summary>
    public long N => _raw.n;

    /// <summary>Input features (columns).</summary>
    public long K => _raw.k;

    /// <summary>Format of the weights.</summary>
    public WeightFormat Format => (WeightFormat)_raw.format;

    /// <summary>Bytes that packing a matrix would need, without touching one.</summary>
    /// <param name="format">Format of the source.</param>
    /// <param name="n">Rows.</param>
    /// <param name="k">Columns.</param>
    /// <param name="group">Of <see cref="WeightFormat.I4"/>: 32, 64 or 128; else 0.</param>
    /// <exception cref="StrataException">The format does not have such a shape.</exception>
    public static long PackedBytes(WeightFormat format, long n, long k, int group = 0)
    {
        NativeResolver.EnsureLoaded();
        var source = new strata_weight_source { struct_size = (uint)sizeof(strata_weight_source), format = (int)format, n = n, k = k, group = group };
        nuint bytes = 0;
        StrataException.ThrowIfFailed(Native.strata_weight_packed_bytes(&source, &bytes));
        return checked((long)bytes);
    }

    /// <summary>Packs a matrix of GGUF blocks or floats.</summary>
    /// <param name="device">Where to.</param>
    /// <param name="format">Format of the blocks; not <see cref="WeightFormat.I4"/>.</param>
    /// <param name="n">Rows.</param>
    /// <param name="k">Columns; a multiple of the format's block.</param>
    /// <param name="blocks">Row after row, exactly the bytes of the matrix.</param>
    /// <exception cref="StrataException">Shape, bytes and format do not fit.</exception>
    public static PackedWeight Pack(Device device, WeightFormat format, long n, long k, ReadOnlySpan<byte> blocks)
    {
        fixed (byte* data = blocks) return Pack(device, format, n, k, (nint)data, blocks.Length);
    }

    /// <summary>Packs a matrix of GGUF blocks or floats of any length, for instance from a memory-mapped file.</summary>
    /// <param name="device">Where to.</param>
    /// <param name="format">Format of the blocks; not <see cref="WeightFormat.I4"/>.</param>
    /// <param name="n">Rows.</param>
    /// <param name="k">Columns; a multiple of the format's block.</param>
    /// <param name="blocks">Host address of the first block.</param>
    /// <param name="bytes">Exactly the bytes of the matrix.</param>
    /// <exception cref="StrataException">Shape, bytes and format do not fit.</exception>
    public static PackedWeight Pack(Device device, WeightFormat format, long n, long k, nint blocks, long bytes)
    {
        var source = new strata_weight_source
        {
            struct_size = (uint)sizeof(strata_weight_source),
            format = (int)format,
            n = n,
            k = k,
            data = (void*)blocks,
            data_bytes = bytes,
        };
        return Pack(device, source);
    }

    /// <summary>Packs symmetric 4-bit codes, <c>w = scale (q - 8)</c>.</summary>
    /// <param name="device">Where to.</param>
    /// <param name="n">Rows.</param>
    /// <param name="k">Columns; a multiple of the group.</param>
    /// <param name="codes">[n, k/2]: two codes a byte, even columns in the low nibble.</param>
    /// <param name="scales">[n, k/group].</param>
    /// <param name="group">Columns that share a scale: 32, 64 or 128.</param>
    /// <exception cref="StrataException">Shape and lengths do not fit.</exception>
    public static PackedWeight PackInt4(Device device, long n, long k, ReadOnlySpan<byte> codes, ReadOnlySpan<Half> scales, int group)
    {
        fixed (byte* data = codes)
        fixed (Half* factors = scales)
        {
            var source = new strata_weight_source
            {
                struct_size = (uint)sizeof(strata_weight_source),
                format = (int)WeightFormat.I4,
                n = n,
                k = k,
                group = group,
                data = data,
                data_bytes = codes.Length,
                scales = factors,
                scales_bytes = 2L * scales.Length,
            };
            return Pack(device, source);
        }
    }

    /// <summary>Takes bytes that were packed before; they are checked against the hash of their header.</summary>
    /// <param name="device">Where to.</param>
    /// <param name="packed">The whole packed weight.</param>
    /// <exception cref="StrataException">Not a packed weight, of another version, or damaged.</exception>
    public static PackedWeight Open(Device device, ReadOnlySpan<byte> packed)
    {
        ArgumentNullException.ThrowIfNull(device);
        int length = packed.Length;
        using var host = new HostMemory(Math.Max(1, length));
        packed.CopyTo(new Span<byte>(host.Pointer, length));
        strata_weight raw;
        StrataException.ThrowIfFailed(Native.strata_weight_open(host.Pointer, (nuint)length, &raw));
        return Upload(device, raw, host);
    }

    /// <summary>Frees the memory. On a GPU work that still uses it must be done: synchronise its stream first.</summary>
    public void Dispose() => _buffer.Dispose();

    private static PackedWeight Pack(Device device, strata_weight_source source)
    {
        ArgumentNullException.ThrowIfNull(device);
        nuint bytes = 0;
        StrataException.ThrowIfFailed(Native.strata_weight_packed_bytes(&source, &bytes));
        strata_weight raw;
        if (!device.IsHostMemory)
        {
            using var host = new HostMemory((long)bytes);
            StrataException.ThrowIfFailed(Native.strata_weight_pack(&source, host.Pointer, bytes, &raw));
            return Upload(device, raw, host);
        }
        DeviceBuffer buffer = device.Allocate((long)bytes);
        int status = Native.strata_weight_pack(&source, (void*)buffer.Pointer, bytes, &raw);
        if (status == 0) return new PackedWeight(buffer, raw);
        string reason = StrataException.LastError(); // freeing the buffer is a native call, too
        buffer.Dispose();
        throw new StrataException((StrataStatus)status, reason);
    }

    private static PackedWeight Upload(Device device, strata_weight raw, HostMemory host)
    {
        DeviceBuffer buffer = device.Allocate(raw.bytes);
        device.CopyBytes((void*)buffer.Pointer, host.Pointer, raw.bytes, Device.strata_copy_kind_to_device, null);
        return new PackedWeight(buffer, raw);
    }

    /// <summary>Host memory aligned as a packed weight must be.</summary>
    private sealed class HostMemory(long bytes) : IDisposable
    {
        public void* Pointer { get; private set; } = NativeMemory.AlignedAlloc(checked((nuint)bytes), 64);

        public void Dispose()
        {
            NativeMemory.AlignedFree(Pointer);
            Pointer = null;
        }
    }
}
