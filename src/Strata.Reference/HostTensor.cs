// SPDX-License-Identifier: Apache-2.0
// Tensors of the oracle: stored in the op's own element type, read as double, with room between rows for poison.

using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Strata.Reference;

/// <summary>What fills the bytes that an op must not depend on.</summary>
public enum Poison
{
    /// <summary>0xFF: NaN in every float type, -1 in every integer.</summary>
    Nan,
    /// <summary>Finite, large, changing values.</summary>
    Random,
}

/// <summary>A strided tensor in host memory that stores what the op will read. Values go in and out as double.</summary>
public sealed class HostTensor
{
    private readonly byte[] _bytes;

    /// <summary>A tensor of zeros whose outermost rows are <paramref name="padding"/> elements apart.</summary>
    /// <param name="type">Element type.</param>
    /// <param name="shape">1 to 4 extents.</param>
    /// <param name="padding">Elements between the last dimension's rows.</param>
    public HostTensor(DType type, long[] shape, int padding = 0)
    {
        DType = type;
        Shape = shape;
        Stride = new long[shape.Length];
        long step = 1;
        for (int i = shape.Length - 1; i >= 0; i--)
        {
            Stride[i] = step;
            step *= Math.Max(1, shape[i]) + (i == shape.Length - 1 ? padding : 0);
        }
        Count = shape.Aggregate(1L, (a, b) => a * b);
        _bytes = new byte[Math.Max(1, step) * type.Size()];
    }

    /// <summary>A tensor of zeros with strides of its own, which must not let elements overlap.</summary>
    /// <param name="type">Element type.</param>
    /// <param name="shape">1 to 4 extents.</param>
    /// <param name="stride">As many strides, in elements; the first steps over everything below it.</param>
    public HostTensor(DType type, long[] shape, long[] stride)
    {
        (DType, Shape, Stride) = (type, shape, stride);
        Count = shape.Aggregate(1L, (a, b) => a * b);
        _bytes = new byte[Math.Max(1, shape[0] * stride[0]) * type.Size()];
    }

    /// <summary>Element type.</summary>
    public DType DType { get; }

    /// <summary>Extents.</summary>
    public long[] Shape { get; }

    /// <summary>Strides in elements.</summary>
    public long[] Stride { get; }

    /// <summary>Number of elements.</summary>
    public long Count { get; }

    /// <summary>Bytes of the elements, padding not counted.</summary>
    public long DataBytes => Count * DType.Size();

    /// <summary>The storage, padding included.</summary>
    public Span<byte> Bytes => _bytes;

    /// <summary>Element by its index in row-major order.</summary>
    /// <param name="index">0 to <see cref="Count"/> - 1.</param>
    public double this[long index]
    {
        get => Load(DType, _bytes, Offset(index));
        set => Store(DType, _bytes, Offset(index), value);
    }

    /// <summary>Element by its offset in the storage, padding counted.</summary>
    /// <param name="offset">In elements.</param>
    public double At(long offset) => Load(DType, _bytes, offset);

    /// <summary>Sets an element by its offset in the storage, padding counted.</summary>
    /// <param name="offset">In elements.</param>
    /// <param name="value">Rounded to the element type.</param>
    public void SetAt(long offset, double value) => Store(DType, _bytes, offset, value);

    /// <summary>Element [i, j].</summary>
    public double this[long i, long j]
    {
        get => Load(DType, _bytes, (i * Stride[0]) + (j * Stride[1]));
        set => Store(DType, _bytes, (i * Stride[0]) + (j * Stride[1]), value);
    }

    /// <summary>Element [i, j, k].</summary>
    public double this[long i, long j, long k]
    {
        get => Load(DType, _bytes, (i * Stride[0]) + (j * Stride[1]) + (k * Stride[2]));
        set => Store(DType, _bytes, (i * Stride[0]) + (j * Stride[1]) + (k * Stride[2]), value);
    }

    /// <summary>Element [i, j, k, l].</summary>
    public double this[long i, long j, long k, long l]
    {
        get => Load(DType, _bytes, (i * Stride[0]) + (j * Stride[1]) + (k * Stride[2]) + (l * Stride[3]));
        set => Store(DType, _bytes, (i * Stride[0]) + (j * Stride[1]) + (k * Stride[2]) + (l * Stride[3]), value);
    }

    /// <summary>Fills every element from a function of its row-major index; each value is rounded to the element type.</summary>
    /// <param name="value">The function.</param>
    public HostTensor Fill(Func<long, double> value)
    {
        for (long i = 0; i < Count; i++) this[i] = value(i);
        return this;
    }

    /// <summary>The bytes of one row: what lies along the last dimension.</summary>
    /// <param name="index">The row, one number a leading dimension.</param>
    public Span<byte> Row(params ReadOnlySpan<long> index)
    {
        long at = 0;
        for (int i = 0; i < index.Length; i++) at += index[i] * Stride[i];
        return _bytes.AsSpan(checked((int)(at * DType.Size())), checked((int)(Shape[^1] * DType.Size())));
    }

    /// <summary>Copies one row to fp32, which holds every value of the types up to 16 bits.</summary>
    /// <param name="to">As many values as a row has.</param>
    /// <param name="index">The row, one number a leading dimension.</param>
    public void CopyRow(Span<float> to, params ReadOnlySpan<long> index)
    {
        ReadOnlySpan<byte> row = Row(index);
        switch (DType)
        {
            case DType.F32:
                MemoryMarshal.Cast<byte, float>(row).CopyTo(to);
                break;
            case DType.F16:
                ReadOnlySpan<Half> halves = MemoryMarshal.Cast<byte, Half>(row);
                for (int i = 0; i < to.Length; i++) to[i] = (float)halves[i];
                break;
            case DType.BF16:
                ReadOnlySpan<BFloat16> brains = MemoryMarshal.Cast<byte, BFloat16>(row);
                for (int i = 0; i < to.Length; i++) to[i] = (float)brains[i];
                break;
            default:
                throw new NotSupportedException($"row: the element type is {DType}, must be F32, F16 or BF16; read the elements one by one");
        }
    }

    /// <summary>Rounds fp32 values to one row.</summary>
    /// <param name="from">As many values as a row has.</param>
    /// <param name="index">The row, one number a leading dimension.</param>
    public void SetRow(ReadOnlySpan<float> from, params ReadOnlySpan<long> index)
    {
        Span<byte> row = Row(index);
        switch (DType)
        {
            case DType.F32:
                from.CopyTo(MemoryMarshal.Cast<byte, float>(row));
                break;
            case DType.F16:
                Span<Half> halves = MemoryMarshal.Cast<byte, Half>(row);
                for (int i = 0; i < from.Length; i++) halves[i] = (Half)from[i];
                break;
            default:
                throw new NotSupportedException($"row: the element type is {DType}, must be F32 or F16; write the elements one by one");
        }
    }

    /// <summary>Makes every row a piece, from a random place, of one strip of Gaussian values: as good as fresh values to time with, and much sooner there.</summary>
    /// <param name="random">Values and places.</param>
    public HostTensor FillWithPieces(InputRandom random)
    {
        ArgumentNullException.ThrowIfNull(random);
        const int places = 1 << 14;
        int size = DType.Size(), width = checked((int)Shape[^1]);
        ReadOnlySpan<byte> strip = new HostTensor(DType, [places + width]).Fill(_ => random.Gaussian()).Bytes;
        for (long start = 0; start < Count; start += width) strip.Slice(random.Integer(0, places) * size, width * size).CopyTo(_bytes.AsSpan(checked((int)(Offset(start) * size))));
        return this;
    }

    /// <summary>All elements as doubles, row-major.</summary>
    public double[] ToDoubles()
    {
        var values = new double[Count];
        for (long i = 0; i < Count; i++) values[i] = this[i];
        return values;
    }

    /// <summary>Fills everything between the elements.</summary>
    /// <param name="poison">With what.</param>
    /// <param name="seed">Of the random bytes.</param>
    public void PoisonPadding(Poison poison, int seed = 1)
    {
        double[] values = ToDoubles();
        Poisons.Fill(_bytes, poison, seed);
        for (long i = 0; i < Count; i++) this[i] = values[i];
    }

    /// <summary>Fills everything but the given elements.</summary>
    /// <param name="poison">With what.</param>
    /// <param name="live">Indices of the elements that stay; those past the last dimension are 0.</param>
    public void PoisonRest(Poison poison, IEnumerable<(long I, long J, long K, long L)> live)
    {
        ArgumentNullException.ThrowIfNull(live);
        byte[] before = [.. _bytes];
        Poisons.Fill(_bytes, poison);
        int size = DType.Size();
        foreach ((long i, long j, long k, long l) in live)
        {
            long at = (i * Stride[0]) + (j * Stride[1]) + (k * Stride[2]) + (Stride.Length > 3 ? l * Stride[3] : 0);
            before.AsSpan(checked((int)(at * size)), size).CopyTo(_bytes.AsSpan(checked((int)(at * size))));
        }
    }

    /// <summary>Copies the storage to the device.</summary>
    /// <param name="device">The device.</param>
    public DeviceArray Upload(Device device) => new(device, this, upload: true);

    /// <summary>Reads the storage back.</summary>
    /// <param name="array">What <see cref="Upload"/> made.</param>
    public void Download(DeviceArray array)
    {
        ArgumentNullException.ThrowIfNull(array);
        array.Buffer.CopyTo(_bytes);
    }

    private long Offset(long index)
    {
        long offset = 0;
        for (int i = Shape.Length - 1; i >= 0; i--)
        {
            offset += index % Shape[i] * Stride[i];
            index /= Shape[i];
        }
        return offset;
    }

    private static double Load(DType type, byte[] bytes, long at)
    {
        ReadOnlySpan<byte> from = bytes.AsSpan(checked((int)(at * type.Size())));
        return type switch
        {
            DType.F32 => BinaryPrimitives.ReadSingleLittleEndian(from),
            DType.F16 => (double)BinaryPrimitives.ReadHalfLittleEndian(from),
            DType.BF16 => (float)new BFloat16(BinaryPrimitives.ReadUInt16LittleEndian(from)),
            DType.I32 => BinaryPrimitives.ReadInt32LittleEndian(from),
            DType.I8 => (sbyte)from[0],
            DType.F8E4M3 => (float)new Float8E4M3(from[0]),
            _ => from[0],
        };
    }

    private static void Store(DType type, byte[] bytes, long at, double value)
    {
        Span<byte> to = bytes.AsSpan(checked((int)(at * type.Size())));
        switch (type)
        {
            case DType.F32: BinaryPrimitives.WriteSingleLittleEndian(to, (float)value); break;
            case DType.F16: BinaryPrimitives.WriteHalfLittleEndian(to, (Half)value); break;
            case DType.BF16: BinaryPrimitives.WriteUInt16LittleEndian(to, ((BFloat16)(float)value).Bits); break;
            case DType.I32: BinaryPrimitives.WriteInt32LittleEndian(to, (int)value); break;
            case DType.I8: to[0] = (byte)(sbyte)value; break;
            case DType.F8E4M3: to[0] = ((Float8E4M3)(float)value).Bits; break;
            default: to[0] = (byte)value; break;
        }
    }
}

/// <summary>A host tensor's storage on a device.</summary>
public sealed class DeviceArray : IDisposable
{
    internal DeviceArray(Device device, HostTensor host, bool upload)
    {
        Buffer = device.Allocate(host.Bytes.Length);
        View = TensorView.Borrow(Buffer.Pointer, host.DType, host.Shape, Buffer, host.Stride);
        if (upload) Buffer.CopyFrom(host.Bytes);
    }

    /// <summary>The memory.</summary>
    public DeviceBuffer Buffer { get; }

    /// <summary>The tensor as ops take it.</summary>
    public TensorView View { get; }

    /// <summary>Frees the memory.</summary>
    public void Dispose() => Buffer.Dispose();
}

/// <summary>Poison for memory that an op must not depend on.</summary>
public static class Poisons
{
    /// <summary>Fills bytes.</summary>
    /// <param name="bytes">Where.</param>
    /// <param name="poison">With what.</param>
    /// <param name="seed">Of the random values.</param>
    public static void Fill(Span<byte> bytes, Poison poison, int seed = 1)
    {
        if (poison == Poison.Nan)
        {
            bytes.Fill(0xff);
            return;
        }
        // Bytes 0x40..0x4f make finite values of every float type and large indices.
        var random = new Random(seed);
        foreach (ref byte b in bytes) b = (byte)(0x40 + random.Next(16));
    }

    /// <summary>Fills device memory.</summary>
    /// <param name="buffer">Where.</param>
    /// <param name="poison">With what.</param>
    public static void Fill(DeviceBuffer buffer, Poison poison)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        buffer.Fill(poison == Poison.Nan ? (byte)0xff : (byte)0x45);
    }
}
