// SPDX-License-Identifier: Apache-2.0
// Opens GGUF files from disk or memory and hands out their metadata and tensors.
using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace Strata.Engine.Gguf;

/// <summary>A GGUF file, version 2 or 3, little-endian. Everything the header says is checked when it is opened; after that no tensor or value can reach outside the file.</summary>
/// <remarks>A file on disk is mapped, not copied, so it must not be shortened while it is open. Spans that a reader hands out end with it.</remarks>
public sealed class GgufReader : IDisposable
{
    private readonly GgufSource _source;
    private readonly GgufParser _header;

    private GgufReader(GgufSource source)
    {
        _source = source;
        try
        {
            _header = GgufParser.Parse(source);
        }
        catch
        {
            source.Dispose();
            throw;
        }
    }

    /// <summary>Version of the format, 2 or 3.</summary>
    public int Version => _header.Version;

    /// <summary>Alignment of the tensors in bytes, a power of two.</summary>
    public int Alignment => _header.Alignment;

    /// <summary>Bytes of the file.</summary>
    public long Length => _source.Length;

    /// <summary>Metadata by key: types and places. The values come from the Get and Find methods.</summary>
    public IReadOnlyDictionary<string, GgufValue> Metadata => _header.Values;

    /// <summary>Tensors in the order of the file.</summary>
    public IReadOnlyList<GgufTensorInfo> Tensors => _header.Tensors;

    /// <summary>Maps a file.</summary>
    /// <param name="path">Path of the file.</param>
    /// <returns>A reader that holds the file open.</returns>
    /// <exception cref="StrataFormatException">The file is not a sound GGUF file.</exception>
    /// <exception cref="IOException">The file cannot be opened.</exception>
    /// <exception cref="UnauthorizedAccessException">The file may not be read.</exception>
    public static GgufReader Open(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return new(new GgufSource.Mapped(path));
    }

    /// <summary>Reads a file that is in memory, without copying it.</summary>
    /// <param name="bytes">The whole file; must not change while the reader is in use.</param>
    /// <returns>A reader over the memory.</returns>
    /// <exception cref="StrataFormatException">The bytes are not a sound GGUF file.</exception>
    public static GgufReader Open(ReadOnlyMemory<byte> bytes) => new(new GgufSource.InMemory(bytes));

    /// <summary>Reads a copy of a file that is in memory.</summary>
    /// <param name="bytes">The whole file.</param>
    /// <returns>A reader that owns its copy.</returns>
    /// <exception cref="StrataFormatException">The bytes are not a sound GGUF file.</exception>
    public static GgufReader Open(ReadOnlySpan<byte> bytes) => Open((ReadOnlyMemory<byte>)bytes.ToArray());

    /// <summary>Finds a tensor.</summary>
    /// <param name="name">Its name.</param>
    /// <returns>The tensor, or null.</returns>
    public GgufTensorInfo? FindTensor(string name) => _header.TensorsByName.GetValueOrDefault(name);

    /// <summary>The bytes of whole rows of a tensor.</summary>
    /// <param name="tensor">A tensor of this reader.</param>
    /// <param name="firstRow">First row, from 0.</param>
    /// <param name="rowCount">Number of rows.</param>
    /// <returns>A view of <paramref name="rowCount"/> × <see cref="GgufTensorInfo.RowBytes"/> bytes, valid until the reader is disposed.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The rows are not all in the tensor, or are 2^31 bytes or more.</exception>
    /// <exception cref="ObjectDisposedException">The reader is disposed.</exception>
    public ReadOnlySpan<byte> Rows(GgufTensorInfo tensor, long firstRow, long rowCount)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        if (!SizeMath.IsInside(firstRow, rowCount, tensor.Rows))
        {
            throw new ArgumentOutOfRangeException(
                nameof(firstRow), $"gguf: rows {firstRow} and the {rowCount} from it are asked for, must lie in the {tensor.Rows} rows of {GgufCursor.Quote(tensor.Name)}; ask for fewer rows");
        }

        if (!SizeMath.TryMultiply(rowCount, tensor.RowBytes, out long bytes) || bytes > Array.MaxLength)
        {
            throw new ArgumentOutOfRangeException(
                nameof(rowCount), $"gguf: {rowCount} rows of {tensor.RowBytes} bytes are asked for at once, must be below 2^31 bytes; ask for fewer rows at a time");
        }

        return SizeMath.TryMultiply(firstRow, tensor.RowBytes, out long skipped) && SizeMath.TryAdd(tensor.Offset, skipped, out long start)
            ? _source.Slice(start, (int)bytes)
            : throw new ArgumentOutOfRangeException(nameof(tensor), $"gguf: {GgufCursor.Quote(tensor.Name)} is not a tensor of this file, must be one of its list; pass a tensor of this reader");
    }

    /// <summary>A metadata text that must be there.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The text.</returns>
    /// <exception cref="StrataFormatException">It is missing or of another type.</exception>
    public string GetString(string key) => FindString(key) ?? throw Missing(key, "string");

    /// <summary>A metadata text.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The text, or null where the key is absent.</returns>
    /// <exception cref="StrataFormatException">It is of another type.</exception>
    public string? FindString(string key)
    {
        if (!_header.Values.TryGetValue(key, out GgufValue value))
        {
            return null;
        }

        return value.Type == GgufValueType.Text ? Encoding.UTF8.GetString(_source.Slice(value.Offset, value.Bytes)) : throw WrongType(key, value, "string");
    }

    /// <summary>A metadata integer of any width that must be there.</summary>
    /// <param name="key">The key.</param>
    /// <param name="minimum">Lowest acceptable value.</param>
    /// <param name="maximum">Highest acceptable value.</param>
    /// <returns>The value.</returns>
    /// <exception cref="StrataFormatException">It is missing, of another type or out of range.</exception>
    public int GetInteger(string key, int minimum, int maximum) => FindInteger(key, minimum, maximum) ?? throw Missing(key, "integer");

    /// <summary>A metadata integer of any width.</summary>
    /// <param name="key">The key.</param>
    /// <param name="minimum">Lowest acceptable value.</param>
    /// <param name="maximum">Highest acceptable value.</param>
    /// <returns>The value, or null where the key is absent.</returns>
    /// <exception cref="StrataFormatException">It is of another type or out of range.</exception>
    public int? FindInteger(string key, int minimum, int maximum)
    {
        if (!_header.Values.TryGetValue(key, out GgufValue value))
        {
            return null;
        }

        ReadOnlySpan<byte> bytes = _source.Slice(value.Offset, value.Bytes);
        Int128 number = value.Type switch
        {
            GgufValueType.U8 => bytes[0],
            GgufValueType.I8 => (sbyte)bytes[0],
            GgufValueType.U16 => BinaryPrimitives.ReadUInt16LittleEndian(bytes),
            GgufValueType.I16 => BinaryPrimitives.ReadInt16LittleEndian(bytes),
            GgufValueType.U32 => BinaryPrimitives.ReadUInt32LittleEndian(bytes),
            GgufValueType.I32 => BinaryPrimitives.ReadInt32LittleEndian(bytes),
            GgufValueType.U64 => BinaryPrimitives.ReadUInt64LittleEndian(bytes),
            GgufValueType.I64 => BinaryPrimitives.ReadInt64LittleEndian(bytes),
            _ => throw WrongType(key, value, "integer"),
        };
        return number >= minimum && number <= maximum
            ? (int)number
            : throw GgufCursor.Error(value.Offset, "value of", key, number.ToString(CultureInfo.InvariantCulture), $"{minimum} to {maximum}", "use a model within these limits");
    }

    /// <summary>A metadata float of 32 or 64 bits.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The value, or null where the key is absent.</returns>
    /// <exception cref="StrataFormatException">It is of another type or not finite.</exception>
    public float? FindFloat(string key)
    {
        if (!_header.Values.TryGetValue(key, out GgufValue value))
        {
            return null;
        }

        ReadOnlySpan<byte> bytes = _source.Slice(value.Offset, value.Bytes);
        float number = value.Type switch
        {
            GgufValueType.F32 => BinaryPrimitives.ReadSingleLittleEndian(bytes),
            GgufValueType.F64 => (float)BinaryPrimitives.ReadDoubleLittleEndian(bytes),
            _ => throw WrongType(key, value, "float"),
        };
        return float.IsFinite(number)
            ? number
            : throw GgufCursor.Error(value.Offset, "value of", key, number.ToString(CultureInfo.InvariantCulture), "finite", "convert the model again");
    }

    /// <summary>A metadata float above 0.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The value, or null where the key is absent.</returns>
    /// <exception cref="StrataFormatException">It is of another type, not finite, or not above 0.</exception>
    public float? FindPositive(string key)
    {
        float? number = FindFloat(key);
        return number is <= 0
            ? throw GgufCursor.Error(_header.Values[key].Offset, "value of", key, number.Value.ToString(CultureInfo.InvariantCulture), "above 0", "convert the model again")
            : number;
    }

    /// <summary>A metadata bool.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The value, or null where the key is absent.</returns>
    /// <exception cref="StrataFormatException">It is of another type.</exception>
    public bool? FindBool(string key)
    {
        if (!_header.Values.TryGetValue(key, out GgufValue value))
        {
            return null;
        }

        return value.Type == GgufValueType.Bool ? _source.Slice(value.Offset, 1)[0] != 0 : throw WrongType(key, value, "bool");
    }

    /// <summary>A metadata array of text.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The texts, or null where the key is absent.</returns>
    /// <exception cref="StrataFormatException">It is of another type.</exception>
    public string[]? FindStrings(string key)
    {
        ReadOnlySpan<byte> bytes = FindArray(key, GgufValueType.Text, out GgufValue value);
        if (value.Offset == 0)
        {
            return null;
        }

        string[] texts = new string[value.Count];
        for (int i = 0; i < texts.Length; i++)
        {
            int length = (int)BinaryPrimitives.ReadUInt64LittleEndian(bytes);
            texts[i] = Encoding.UTF8.GetString(bytes.Slice(8, length));
            bytes = bytes[(8 + length)..];
        }

        return texts;
    }

    /// <summary>A metadata array of 32-bit signed integers.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The values, or null where the key is absent.</returns>
    /// <exception cref="StrataFormatException">It is of another type.</exception>
    public int[]? FindInt32s(string key)
    {
        ReadOnlySpan<byte> bytes = FindArray(key, GgufValueType.I32, out GgufValue value);
        if (value.Offset == 0)
        {
            return null;
        }

        int[] numbers = new int[value.Count];
        for (int i = 0; i < numbers.Length; i++)
        {
            numbers[i] = BinaryPrimitives.ReadInt32LittleEndian(bytes[(4 * i)..]);
        }

        return numbers;
    }

    /// <summary>A metadata array of 32-bit floats.</summary>
    /// <param name="key">The key.</param>
    /// <returns>The values, or null where the key is absent.</returns>
    /// <exception cref="StrataFormatException">It is of another type.</exception>
    public float[]? FindFloats(string key)
    {
        ReadOnlySpan<byte> bytes = FindArray(key, GgufValueType.F32, out GgufValue value);
        if (value.Offset == 0)
        {
            return null;
        }

        float[] numbers = new float[value.Count];
        for (int i = 0; i < numbers.Length; i++)
        {
            numbers[i] = BinaryPrimitives.ReadSingleLittleEndian(bytes[(4 * i)..]);
        }

        return numbers;
    }

    /// <summary>Unmaps the file.</summary>
    public void Dispose() => _source.Dispose();

    // An offset of 0, where only the magic number can be, stands for an absent key.
    private ReadOnlySpan<byte> FindArray(string key, GgufValueType elementType, out GgufValue value)
    {
        if (!_header.Values.TryGetValue(key, out value))
        {
            return default;
        }

        return value.Type == GgufValueType.Array && value.ElementType == elementType
            ? _source.Slice(value.Offset, value.Bytes)
            : throw WrongType(key, value, $"array of {elementType}");
    }

    private static StrataFormatException WrongType(string key, GgufValue value, string wanted)
    {
        string got = value.Type == GgufValueType.Array ? $"array of {value.ElementType}" : value.Type.ToString();
        return GgufCursor.Error(value.Offset, "value of", key, $"of type {got}", $"of type {wanted}", "convert the model again");
    }

    private static StrataFormatException Missing(string key, string wanted) =>
        new($"gguf: metadata key {GgufCursor.Quote(key)} is missing, must be there as {wanted}; use a model file with complete metadata");
}
