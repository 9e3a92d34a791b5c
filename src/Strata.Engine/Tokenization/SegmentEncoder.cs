// SPDX-License-Identifier: Apache-2.0
// What differs between the tokenizer models of GGUF files: plain text to ids, id to bytes.
namespace Strata.Engine.Tokenization;

internal abstract class SegmentEncoder
{
    // Appends the ids of text that holds no special token; a special token or the start of the text is in front of it.
    public abstract void Encode(ReadOnlySpan<char> text, List<int> ids);

    // The bytes that a token stands for which is not written out as itself.
    public abstract byte[] TokenBytes(string token, TokenType type);
}
