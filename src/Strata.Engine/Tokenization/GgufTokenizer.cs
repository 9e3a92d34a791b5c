// SPDX-License-Identifier: Apache-2.0
// The tokenizer that a GGUF file carries in its metadata: text to ids and back.
using System.Buffers;
using System.Text;
using Strata.Engine.Gguf;

namespace Strata.Engine.Tokenization;

/// <summary>The tokenizer of a model file. Special tokens that are written out in a text become their ids; a beginning token is added only where the file asks for one.</summary>
/// <remarks>Supported: byte-level BPE (`tokenizer.ggml.model` = gpt2) with the pre-tokenisers gpt-2 and smollm, and SentencePiece BPE (llama). Instances are safe for concurrent use.</remarks>
public sealed class GgufTokenizer
{
    private readonly SegmentEncoder _encoder;
    private readonly SpecialTokens _specialTokens;
    private readonly byte[][] _bytes;

    private GgufTokenizer(GgufReader reader)
    {
        string model = reader.GetString("tokenizer.ggml.model");
        string[] tokens = reader.FindStrings("tokenizer.ggml.tokens") ?? throw new StrataFormatException(
            "tokenizer: metadata key 'tokenizer.ggml.tokens' is missing, must be there; use a model file that carries its tokenizer");
        int[] types = reader.FindInt32s("tokenizer.ggml.token_type") ?? [.. Enumerable.Repeat((int)TokenType.Ordinary, tokens.Length)];
        if (tokens.Length == 0 || types.Length != tokens.Length)
        {
            throw new StrataFormatException(
                $"tokenizer: the file has {tokens.Length} tokens and {types.Length} token types, must be one type per token and at least one token; convert the model again");
        }

        _encoder = model switch
        {
            "gpt2" => new ByteLevelEncoder(reader, Vocabulary(tokens)),
            "llama" => new SentencePieceEncoder(reader, tokens, types),
            _ => throw new StrataFormatException(
                $"tokenizer: model 'tokenizer.ggml.model' is {GgufCursor.Quote(model)}, must be 'gpt2' (byte-level BPE) or 'llama' (SentencePiece BPE); use a model with such a tokenizer"),
        };
        _specialTokens = new(tokens.Select((text, id) => (text, id)).Where(token => IsWrittenOut((TokenType)types[token.id])));
        _bytes = new byte[tokens.Length][];
        for (int id = 0; id < tokens.Length; id++)
        {
            var type = (TokenType)types[id];
            _bytes[id] = IsWrittenOut(type) ? Encoding.UTF8.GetBytes(tokens[id]) : _encoder.TokenBytes(tokens[id], type);
        }

        int last = tokens.Length - 1;
        BeginningId = reader.FindInteger("tokenizer.ggml.bos_token_id", 0, last);
        EndId = reader.FindInteger("tokenizer.ggml.eos_token_id", 0, last);
        AddsBeginning = BeginningId is not null && (reader.FindBool("tokenizer.ggml.add_bos_token") ?? false);
    }

    /// <summary>Number of tokens; ids are below it.</summary>
    public int VocabularySize => _bytes.Length;

    /// <summary>Id of the token that begins a text, if the file names one.</summary>
    public int? BeginningId { get; }

    /// <summary>Id of the token that ends a text, if the file names one.</summary>
    public int? EndId { get; }

    /// <summary>Whether <see cref="Encode"/> puts <see cref="BeginningId"/> in front.</summary>
    public bool AddsBeginning { get; }

    /// <summary>Makes the tokenizer of a file.</summary>
    /// <param name="reader">The file; not needed afterwards.</param>
    /// <returns>The tokenizer.</returns>
    /// <exception cref="StrataFormatException">The metadata is incomplete, contradicts itself, or names a tokenizer that is not supported.</exception>
    public static GgufTokenizer Load(GgufReader reader)
    {
        ArgumentNullException.ThrowIfNull(reader);
        return new(reader);
    }

    /// <summary>Ids of a text.</summary>
    /// <param name="text">Any text; half surrogate pairs count as U+FFFD.</param>
    /// <param name="parseSpecial">Whether control and user-defined tokens that are written out become their ids; otherwise they are text like any other.</param>
    /// <returns>The ids.</returns>
    public int[] Encode(ReadOnlySpan<char> text, bool parseSpecial = true)
    {
        var ids = new List<int>((text.Length / 3) + 1);
        if (AddsBeginning)
        {
            ids.Add(BeginningId!.Value);
        }

        text = WithWholePairs(text);
        while (parseSpecial && _specialTokens.TryFind(text, out int index, out int length, out int id))
        {
            _encoder.Encode(text[..index], ids);
            ids.Add(id);
            text = text[(index + length)..];
        }

        _encoder.Encode(text, ids);
        return [.. ids];
    }

    /// <summary>The bytes of one token: a piece of UTF-8 text that may begin or end inside a character.</summary>
    /// <param name="id">The token.</param>
    /// <returns>Its bytes.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The id is not in the vocabulary.</exception>
    public ReadOnlySpan<byte> Bytes(int id) => id >= 0 && id < _bytes.Length
        ? _bytes[id]
        : throw new ArgumentOutOfRangeException(
            nameof(id), $"tokenizer: id is {id}, must be 0 to {_bytes.Length - 1}; pass ids of this model");

    /// <summary>The text of ids, special tokens written out.</summary>
    /// <param name="ids">The ids.</param>
    /// <returns>The text; bytes that are not UTF-8 appear as U+FFFD.</returns>
    /// <exception cref="ArgumentOutOfRangeException">An id is not in the vocabulary.</exception>
    public string Decode(ReadOnlySpan<int> ids)
    {
        var decoder = new TokenTextDecoder(this);
        var text = new StringBuilder();
        foreach (int id in ids)
        {
            text.Append(decoder.Add(id));
        }

        return text.Append(decoder.Finish()).ToString();
    }

    private static bool IsWrittenOut(TokenType type) => type is TokenType.Unknown or TokenType.Control or TokenType.UserDefined;

    // Where a text is there twice, the lower id is what it encodes to.
    private static Dictionary<string, int> Vocabulary(string[] tokens)
    {
        var vocabulary = new Dictionary<string, int>(tokens.Length, StringComparer.Ordinal);
        for (int id = 0; id < tokens.Length; id++)
        {
            vocabulary.TryAdd(tokens[id], id);
        }

        return vocabulary;
    }

    // Half surrogate pairs have no UTF-8, and encoders differ in what they make of them.
    private static ReadOnlySpan<char> WithWholePairs(ReadOnlySpan<char> text)
    {
        int at = 0;
        while (Rune.DecodeFromUtf16(text[at..], out _, out int length) == OperationStatus.Done)
        {
            at += length;
        }

        if (at == text.Length)
        {
            return text;
        }

        var repaired = new StringBuilder(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            repaired.Append(rune);
        }

        return repaired.ToString();
    }
}
