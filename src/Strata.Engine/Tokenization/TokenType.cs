// SPDX-License-Identifier: Apache-2.0
// The kinds of tokens that a GGUF vocabulary tells apart.
namespace Strata.Engine.Tokenization;

/// <summary>Kind of a token; the values are those of `tokenizer.ggml.token_type`.</summary>
internal enum TokenType
{
    Ordinary = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}
