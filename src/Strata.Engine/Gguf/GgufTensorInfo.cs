// SPDX-License-Identifier: Apache-2.0
// Where a tensor of a GGUF file lies and what it looks like.
namespace Strata.Engine.Gguf;

/// <summary>A tensor of a GGUF file; everything here was checked against the file's length.</summary>
public sealed class GgufTensorInfo
{
    internal GgufTensorInfo(string name, GgufType type, ReadOnlySpan<long> extents, long bytes, long rowBytes)
    {
        Name = name;
        Type = type;
        Rank = extents.Length;
        Columns = extents[0];
        Bytes = bytes;
        RowBytes = rowBytes;
        Rows = bytes / rowBytes;
    }

    /// <summary>Name, unique in the file.</summary>
    public string Name { get; }

    /// <summary>Element type; one that <see cref="GgufTypeLayout.TryGet"/> knows.</summary>
    public GgufType Type { get; }

    /// <summary>Dimensions, 1 to 4.</summary>
    public int Rank { get; }

    /// <summary>Elements of a row: the innermost extent.</summary>
    public long Columns { get; }

    /// <summary>Rows: the product of the outer extents, 1 for a vector.</summary>
    public long Rows { get; }

    /// <summary>First byte, from the start of the file.</summary>
    public long Offset { get; internal set; }

    /// <summary>Bytes of the whole tensor.</summary>
    public long Bytes { get; }

    /// <summary>Bytes of one row.</summary>
    public long RowBytes { get; }
}
