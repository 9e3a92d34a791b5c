// SPDX-License-Identifier: Apache-2.0
// What differs between the tokenizer models of GGUF files: plain text to ids, id to bytes.
namespace Strata.Engine.Tokenization;

internal abstract class SegmentEncoder
{
    // Appends the ids of text that holds no special token.
    public abstract void Encode(ReadOnlySpan<char> text, List<int> ids);

    // The bytes that an ordinary token stands for.
    public abstract byte[] TokenBytes(string token);
}
