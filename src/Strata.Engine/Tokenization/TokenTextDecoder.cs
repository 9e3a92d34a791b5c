// SPDX-License-Identifier: Apache-2.0
// Turns tokens into text as they come, holding back characters whose bytes are not all there yet.
using System.Text;

namespace Strata.Engine.Tokenization;

/// <summary>Text of a stream of tokens. A character that is spread over several tokens appears with the last of them.</summary>
/// <param name="tokenizer">The tokenizer of the ids.</param>
public sealed class TokenTextDecoder(GgufTokenizer tokenizer)
{
    private readonly Decoder _decoder = Encoding.UTF8.GetDecoder();

    /// <summary>Takes the next token.</summary>
    /// <param name="id">Its id.</param>
    /// <returns>The characters that it completes, possibly none.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The id is not in the vocabulary.</exception>
    public string Add(int id) => Decode(tokenizer.Bytes(id), flush: false);

    /// <summary>Ends the stream and makes the decoder ready for another.</summary>
    /// <returns>U+FFFD where the last character was not complete, else nothing.</returns>
    public string Finish() => Decode([], flush: true);

    private string Decode(ReadOnlySpan<byte> bytes, bool flush)
    {
        char[] characters = new char[Encoding.UTF8.GetMaxCharCount(bytes.Length)];
        int count = _decoder.GetChars(bytes, characters, flush);
        return new string(characters, 0, count);
    }
}
