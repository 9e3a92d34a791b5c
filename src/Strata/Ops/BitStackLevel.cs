// SPDX-License-Identifier: Apache-2.0
// One packed BitStack level that owns its device memory.

using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Strata.Bindings;

namespace Strata;

/// <summary>
/// One residual level <c>sign ∘ (U Vᵀ)</c> of a weight matrix, packed, in device memory of its own: levels are loaded and dropped one by one while
/// the model runs. Each level costs about 1 + 16 rank (n + k) / (n k) bits per weight.
/// </summary>
public sealed unsafe class BitStackLevel : IDisposable
{
    private const nuint Alignment = 64;

    private readonly strata_bitstack_level _raw;

    private BitStackLevel(DeviceBuffer buffer, strata_bitstack_level raw)
    {
        Buffer = buffer;
        _raw = raw;
    }

    /// <summary>Rows of the weight matrix (outputs).</summary>
    public long N => _raw.n;

    /// <summary>Columns of the weight matrix (inputs).</summary>
    public long K => _raw.k;

    /// <summary>Rank of the factors, 1 to 32.</summary>
    public int Rank => _raw.rank;

    /// <summary>Packed bytes, header included.</summary>
    public long Bytes => _raw.bytes;

    /// <summary>The device memory.</summary>
    public DeviceBuffer Buffer { get; }

    /// <summary>The view that the C ABI takes.</summary>
    internal strata_bitstack_level Raw
    {
        get
        {
            strata_bitstack_level raw = _raw;
            raw.data = (void*)Buffer.Pointer;
            return raw;
        }
    }

    /// <summary>Bytes that a packed level takes.</summary>
    /// <param name="n">Rows of the weight matrix.</param>
    /// <param name="k">Columns; n k must be a multiple of 8.</param>
    /// <param name="rank">1 to 32.</param>
    /// <exception cref="StrataException">The extents are not acceptable.</exception>
    public static long PackedBytes(long n, long k, int rank)
    {
        NativeResolver.EnsureLoaded();
        var source = new strata_bitstack_source { struct_size = (uint)sizeof(strata_bitstack_source), n = n, k = k, rank = rank };
        nuint bytes = 0;
        StrataException.ThrowIfFailed(Native.strata_bitstack_packed_bytes(&source, &bytes));
        return checked((long)bytes);
    }

    /// <summary>Packs a level as BitStack's authors store it and loads it. No value changes.</summary>
    /// <param name="device">The device.</param>
    /// <param name="n">Rows of the weight matrix.</param>
    /// <param name="k">Columns; n k must be a multiple of 8.</param>
    /// <param name="rank">1 to 32.</param>
    /// <param name="signs">n k / 8 bytes: row-major bits, first element in bit 7, 1 = +1.</param>
    /// <param name="u">[n, rank].</param>
    /// <param name="vt">[rank, k].</param>
    /// <exception cref="StrataException">The extents or the lengths do not fit.</exception>
    public static BitStackLevel Pack(Device device, long n, long k, int rank, ReadOnlySpan<byte> signs, ReadOnlySpan<Half> u, ReadOnlySpan<Half> vt)
    {
        ArgumentNullException.ThrowIfNull(device);
        long bytes = PackedBytes(n, k, rank);
        void* packed = NativeMemory.AlignedAlloc((nuint)bytes, Alignment);
        try
        {
            strata_bitstack_level level;
            fixed (byte* s = signs)
            fixed (Half* left = u)
            fixed (Half* right = vt)
            {
                var source = new strata_bitstack_source
                {
                    struct_size = (uint)sizeof(strata_bitstack_source),
                    n = n,
                    k = k,
                    rank = rank,
                    signs = s,
                    signs_bytes = signs.Length,
                    u = left,
                    u_bytes = (long)u.Length * sizeof(Half),
                    vt = right,
                    vt_bytes = (long)vt.Length * sizeof(Half),
                };
                StrataException.ThrowIfFailed(Native.strata_bitstack_pack(&source, packed, (nuint)bytes, &level));
            }
            return Upload(device, level);
        }
        finally
        {
            NativeMemory.AlignedFree(packed);
        }
    }

    /// <summary>Loads a level that was packed before, after checking it.</summary>
    /// <param name="device">The device.</param>
    /// <param name="packed">What <see cref="CopyTo"/> gave; more may follow.</param>
    /// <exception cref="StrataException">Not a packed level, of another version, or damaged.</exception>
    public static BitStackLevel Load(Device device, ReadOnlySpan<byte> packed)
    {
        ArgumentNullException.ThrowIfNull(device);
        NativeResolver.EnsureLoaded();
        fixed (byte* data = packed)
        {
            strata_bitstack_level level;
            StrataException.ThrowIfFailed(Native.strata_bitstack_open(data, (nuint)packed.Length, &level));
            return Upload(device, level);
        }
    }

    /// <summary>Copies the packed bytes to host memory, for a file.</summary>
    /// <param name="destination">At least <see cref="Bytes"/> bytes.</param>
    /// <exception cref="ArgumentException">Too short.</exception>
    public void CopyTo(Span<byte> destination)
    {
        if (destination.Length < Bytes) throw new ArgumentException($"bitstack: {destination.Length} bytes do not hold the level's {Bytes}; pass a longer span", nameof(destination));
        Buffer.CopyTo(destination[..checked((int)Bytes)]);
    }

    /// <summary>Frees the memory. On a GPU work that still uses it must be done.</summary>
    public void Dispose() => Buffer.Dispose();

    private static BitStackLevel Upload(Device device, strata_bitstack_level level)
    {
        var buffer = new DeviceBuffer(device, level.bytes);
        try
        {
            device.CopyBytes((void*)buffer.Pointer, level.data, level.bytes, Device.strata_copy_kind_to_device, stream: null);
            return new BitStackLevel(buffer, level);
        }
        catch
        {
            buffer.Dispose();
            throw;
        }
    }
}
