// SPDX-License-Identifier: Apache-2.0
// Takes tensors out of a GGUF file, checks their shapes and types, and packs them for a device.
using System.Runtime.InteropServices;
using Strata.Engine.Gguf;

namespace Strata.Engine.Models;

internal sealed class WeightLoader(GgufReader reader, Device device, List<IDisposable> owned, Action<double>? progress, CancellationToken cancellation)
{
    private readonly HashSet<string> _used = new(StringComparer.Ordinal);

    /// <summary>Bytes of all packed matrices.</summary>
    public long Bytes { get; private set; }

    public bool Has(string name) => reader.FindTensor(name) is not null;

    /// <summary>A matrix [rows, columns]; any number of rows that an id can name where <paramref name="rows"/> is null.</summary>
    public PackedWeight Matrix(string name, int? rows, int columns)
    {
        GgufTensorInfo tensor = Find(name);
        if (tensor.Rank != 2 || tensor.Columns != columns || tensor.Rows != (rows ?? tensor.Rows) || tensor.Rows > int.MaxValue)
        {
            throw new StrataFormatException(
                $"model: tensor {GgufCursor.Quote(name)} is {tensor.Rows} x {tensor.Columns} of rank {tensor.Rank}, must be {rows?.ToString(System.Globalization.CultureInfo.InvariantCulture) ?? "vocabulary"} x {columns}; convert the model again");
        }

        if (tensor.Bytes > Array.MaxLength)
        {
            throw new StrataFormatException($"model: tensor {GgufCursor.Quote(name)} is {tensor.Bytes} bytes, must be below 2^31; use a smaller type");
        }

        PackedWeight weight = PackedWeight.Pack(device, Format(tensor), tensor.Rows, columns, reader.Rows(tensor, 0, tensor.Rows));
        owned.Add(weight);
        Bytes += weight.Bytes;
        return weight;
    }

    /// <summary>A vector of fp32 values.</summary>
    public DeviceTensor<float> Vector(string name, int length) => Upload(Values(name, length));

    /// <summary>A vector of fp32 values that are finite and above 0.</summary>
    public DeviceTensor<float> PositiveVector(string name, int length)
    {
        ReadOnlySpan<float> values = Values(name, length);
        foreach (float value in values)
        {
            if (value is not (> 0 and < float.PositiveInfinity))
            {
                throw new StrataFormatException($"model: tensor {GgufCursor.Quote(name)} has the value {value}, must have finite ones above 0; convert the model again");
            }
        }

        return Upload(values);
    }

    /// <summary>Ends with an exception where the file has tensors that nothing asked for: leaving out a bias or an adapter would give wrong text without a word.</summary>
    public void RefuseOthers()
    {
        if (reader.Tensors.FirstOrDefault(tensor => !_used.Contains(tensor.Name)) is { } other)
        {
            throw new StrataFormatException(
                $"model: tensor {GgufCursor.Quote(other.Name)} is not part of the Llama architecture as run here, must be absent; use a model without it");
        }
    }

    private ReadOnlySpan<float> Values(string name, int length)
    {
        GgufTensorInfo tensor = Find(name);
        return tensor.Type == GgufType.F32 && tensor.Columns == length && tensor.Rows == 1
            ? MemoryMarshal.Cast<byte, float>(reader.Rows(tensor, 0, 1))
            : throw new StrataFormatException(
                $"model: tensor {GgufCursor.Quote(name)} is {tensor.Rows} x {tensor.Columns} of type {tensor.Type}, must be {length} values of type F32; convert the model again");
    }

    private DeviceTensor<float> Upload(ReadOnlySpan<float> values)
    {
        DeviceTensor<float> vector = device.Upload(values, values.Length);
        owned.Add(vector);
        return vector;
    }

    private GgufTensorInfo Find(string name)
    {
        cancellation.ThrowIfCancellationRequested();
        progress?.Invoke(_used.Count / (double)reader.Tensors.Count);
        _used.Add(name);
        return reader.FindTensor(name) ?? throw new StrataFormatException(
            $"model: tensor {GgufCursor.Quote(name)} is missing, must be there; use a complete model file");
    }

    private static WeightFormat Format(GgufTensorInfo tensor) => tensor.Type switch
    {
        GgufType.F32 => WeightFormat.F32,
        GgufType.F16 => WeightFormat.F16,
        GgufType.BF16 => WeightFormat.BF16,
        GgufType.Q4_0 => WeightFormat.Q4_0,
        GgufType.Q4_1 => WeightFormat.Q4_1,
        GgufType.Q8_0 => WeightFormat.Q8_0,
        GgufType.Q4_K => WeightFormat.Q4_K,
        GgufType.Q6_K => WeightFormat.Q6_K,
        _ => throw new StrataFormatException(
            $"model: tensor {GgufCursor.Quote(tensor.Name)} has type {tensor.Type}, must be F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K or Q6_K; convert the model to one of these"),
    };
}
