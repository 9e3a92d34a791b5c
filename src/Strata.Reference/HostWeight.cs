// SPDX-License-Identifier: Apache-2.0
// Weight matrices of the oracle: stored as a model file stores them, read as exact doubles.

using System.Buffers.Binary;
using System.Globalization;

namespace Strata.Reference;

/// <summary>A weight matrix [n, k] in host memory, in its source format.</summary>
public sealed class HostWeight
{
    private readonly byte[] _blocks;
    private readonly Half[] _scales;
    private readonly (int Elements, int Bytes) _block;

    private HostWeight(WeightFormat format, long n, long k, int group)
    {
        (Format, N, K, Group) = (format, n, k, group);
        _block = format == WeightFormat.I4 ? (32, 16) : GgufBlocksReference.Block(Type);
        _blocks = new byte[checked((int)(n * (k / _block.Elements) * _block.Bytes))];
        _scales = format == WeightFormat.I4 ? new Half[n * (k / group)] : [];
    }

    /// <summary>Format of the weights.</summary>
    public WeightFormat Format { get; }

    /// <summary>Rows.</summary>
    public long N { get; }

    /// <summary>Columns.</summary>
    public long K { get; }

    /// <summary>Of <see cref="WeightFormat.I4"/>: columns that share a scale; else 0.</summary>
    public int Group { get; }

    /// <summary>The source bytes.</summary>
    public Span<byte> Blocks => _blocks;

    /// <summary>The scales of <see cref="WeightFormat.I4"/>.</summary>
    public Span<Half> Scales => _scales;

    private GgufBlockType Type => Format switch
    {
        WeightFormat.F32 => GgufBlockType.F32,
        WeightFormat.F16 => GgufBlockType.F16,
        WeightFormat.BF16 => GgufBlockType.BF16,
        WeightFormat.Q4_0 => GgufBlockType.Q4_0,
        WeightFormat.Q4_1 => GgufBlockType.Q4_1,
        WeightFormat.Q8_0 => GgufBlockType.Q8_0,
        WeightFormat.Q4_K => GgufBlockType.Q4_K,
        WeightFormat.Q6_K => GgufBlockType.Q6_K,
        _ => throw new ArgumentOutOfRangeException(nameof(Format), Format, "weight: format has no GGUF block, must be a GGUF format; use I4 with scales"),
    };

    /// <summary>Random weights whose size falls with √k. Exact: scales are powers of two and values small, so that sums are exact in fp32.</summary>
    /// <param name="format">Format of the weights.</param>
    /// <param name="n">Rows.</param>
    /// <param name="k">Columns; a multiple of the format's block.</param>
    /// <param name="group">Of <see cref="WeightFormat.I4"/>; else 0.</param>
    /// <param name="exact">Whether sums are to be exact.</param>
    /// <param name="seed">The seed.</param>
    public static HostWeight Create(WeightFormat format, long n, long k, int group, bool exact, int seed)
    {
        var weight = new HostWeight(format, n, k, group);
        var random = new Random(seed);
        random.NextBytes(weight._blocks);
        double size = 1 / Math.Sqrt(k);
        for (int at = 0; at < weight._blocks.Length; at += weight._block.Bytes)
        {
            weight.SetScales(weight._blocks.AsSpan(at, weight._block.Bytes), random, exact, size);
        }
        foreach (ref Half scale in weight._scales.AsSpan()) scale = (Half)(exact ? Power(random, -3, 1) : size * (0.1 + (0.2 * random.NextDouble())) * Sign(random));
        return weight;
    }

    /// <summary>The format of a case's name: f32, f16, bf16, q4_0, q4_1, q8_0, q4_k, q6_k, i4.</summary>
    /// <param name="name">The name.</param>
    public static WeightFormat ParseFormat(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        return Enum.Parse<WeightFormat>(name.ToUpper(CultureInfo.InvariantCulture));
    }

    /// <summary>Row <paramref name="row"/> as exact values.</summary>
    /// <param name="row">0 to n - 1.</param>
    public double[] Row(long row)
    {
        var values = new double[K];
        for (long column = 0; column < K; column++) values[column] = this[row, column];
        return values;
    }

    /// <summary>The exact value of a weight.</summary>
    /// <param name="row">0 to n - 1.</param>
    /// <param name="column">0 to k - 1.</param>
    public double this[long row, long column]
    {
        get
        {
            if (Format == WeightFormat.I4)
            {
                int pair = _blocks[((row * K) + column) / 2];
                return (double)_scales[((row * K) + column) / Group] * ((column % 2 == 0 ? pair & 15 : pair >> 4) - 8);
            }
            long block = (row * (K / _block.Elements)) + (column / _block.Elements);
            return GgufBlocksReference.Element(Type, _blocks.AsSpan((int)(block * _block.Bytes), _block.Bytes), (int)(column % _block.Elements));
        }
    }

    /// <summary>Packs the weights for a device.</summary>
    /// <param name="device">The device.</param>
    public PackedWeight Pack(Device device) =>
        Format == WeightFormat.I4 ? PackedWeight.PackInt4(device, N, K, _blocks, _scales, Group) : PackedWeight.Pack(device, Format, N, K, _blocks);

    private void SetScales(Span<byte> block, Random random, bool exact, double size)
    {
        double scale = exact ? Power(random, -3, 1) : size * (0.5 + random.NextDouble()) * Sign(random);
        switch (Format)
        {
            case WeightFormat.F32:
                BinaryPrimitives.WriteSingleLittleEndian(block, (float)Plain());
                break;
            case WeightFormat.F16:
                BinaryPrimitives.WriteHalfLittleEndian(block, (Half)Plain());
                break;
            case WeightFormat.BF16:
                BinaryPrimitives.WriteUInt16LittleEndian(block, ((BFloat16)(float)Plain()).Bits);
                break;
            case WeightFormat.Q4_0:
                SetHalf(block, exact ? scale : scale / 5);
                break;
            case WeightFormat.Q4_1:
                SetHalf(block, exact ? scale : scale / 5);
                SetHalf(block[2..], exact ? -random.Next(16) * scale : -scale * (1 + random.NextDouble()));
                break;
            case WeightFormat.Q8_0:
                SetHalf(block, exact ? scale : scale / 74);
                break;
            case WeightFormat.Q4_K:
                SetHalf(block, exact ? 0.125 : scale / 160);
                SetHalf(block[2..], exact ? 0.125 : scale / 24);
                break;
            case WeightFormat.Q6_K:
                SetHalf(block[208..], exact ? 0.125 : scale / 1400);
                if (exact)
                {
                    foreach (ref byte s in block.Slice(192, 16)) s = (byte)(sbyte)random.Next(-7, 8);
                }
                break;
            default:
                break; // I4: the scales are a table of their own
        }

        double Plain() => exact ? random.Next(-15, 16) * 0.25 : size * ((2 * random.NextDouble()) - 1);
    }

    private static void SetHalf(Span<byte> to, double value) => BinaryPrimitives.WriteHalfLittleEndian(to, (Half)value);

    private static double Power(Random random, int low, int high) => Math.ScaleB(Sign(random), random.Next(low, high + 1));

    private static int Sign(Random random) => random.Next(2) == 0 ? 1 : -1;
}
