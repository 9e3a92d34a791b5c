// SPDX-License-Identifier: Apache-2.0
// The one exception that a damaged, hostile or unsupported model file leads to.
namespace Strata.Engine;

/// <summary>A model file is damaged, or says something that this engine does not take. The message has four parts: where, what, got and wanted, cure.</summary>
public sealed class StrataFormatException : Exception
{
    /// <summary>Makes an exception with a whole sentence.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    public StrataFormatException(string message)
        : base(message)
    {
        ByteOffset = -1;
    }

    /// <summary>Makes an exception with a whole sentence and its cause.</summary>
    /// <param name="message">Where, what, got and wanted, cure.</param>
    /// <param name="innerException">What was thrown below.</param>
    public StrataFormatException(string message, Exception innerException)
        : base(message, innerException)
    {
        ByteOffset = -1;
    }

    /// <summary>Makes an exception without a sentence of its own.</summary>
    public StrataFormatException()
        : this("gguf: the file is not one that this engine reads, must be GGUF version 2 or 3; convert the model again")
    {
    }

    internal StrataFormatException(string message, long byteOffset)
        : base(message)
    {
        ByteOffset = byteOffset;
    }

    /// <summary>Offset in bytes from the start of the file of what was wrong; -1 where it is not one place.</summary>
    public long ByteOffset { get; }
}
