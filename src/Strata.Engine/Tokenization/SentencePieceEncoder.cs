// SPDX-License-Identifier: Apache-2.0
// The tokenizer of the first Llama models: characters merge to the pieces of highest score, the rest becomes bytes.
// Microsoft.ML.Tokenizers has one too, but merges runs of equal pairs from the right where SentencePiece does from the left.
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Strata.Engine.Gguf;

namespace Strata.Engine.Tokenization;

internal sealed class SentencePieceEncoder : SegmentEncoder
{
    private const char Space = '\u2581';
    private readonly Dictionary<string, (int Id, float Score)> _pieces = new(StringComparer.Ordinal);
    private readonly int[] _byteIds = new int[256];
    private readonly int? _unknownId;
    private readonly bool _addsSpace;

    public SentencePieceEncoder(GgufReader reader, string[] tokens, int[] types)
    {
        float[] scores = reader.FindFloats("tokenizer.ggml.scores") ?? [];
        if (scores.Length != tokens.Length || scores.Any(float.IsNaN))
        {
            throw new StrataFormatException(
                $"tokenizer: the file has {tokens.Length} tokens and {scores.Length} scores, must be one number per token for the model 'llama'; convert the model again");
        }

        Array.Fill(_byteIds, -1);
        for (int id = 0; id < tokens.Length; id++)
        {
            var type = (TokenType)types[id];
            if (type == TokenType.Byte)
            {
                _byteIds[ParseByte(tokens[id])] = id;
            }
            else if (type is TokenType.Ordinary or TokenType.UserDefined)
            {
                _pieces.TryAdd(tokens[id], (id, scores[id]));
            }
        }

        _unknownId = reader.FindInteger("tokenizer.ggml.unknown_token_id", 0, tokens.Length - 1);
        _addsSpace = reader.FindBool("tokenizer.ggml.add_space_prefix") ?? true;
    }

    public override void Encode(ReadOnlySpan<char> text, List<int> ids)
    {
        if (text.IsEmpty)
        {
            return;
        }

        string spaced = (_addsSpace ? Space + text.ToString() : text.ToString()).Replace(' ', Space);
        Symbol[] symbols = Split(spaced);
        Merge(spaced, symbols);
        foreach (Symbol symbol in symbols)
        {
            Emit(spaced.AsSpan(symbol.Start, symbol.Length), ids);
        }
    }

    public override byte[] TokenBytes(string token, TokenType type) =>
        type == TokenType.Byte ? [ParseByte(token)] : Encoding.UTF8.GetBytes(token.Replace(Space, ' '));

    private static byte ParseByte(string token) =>
        token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) && token[5] == '>'
            && byte.TryParse(token.AsSpan(3, 2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out byte value)
            ? value
            : throw new StrataFormatException($"tokenizer: byte token {GgufCursor.Quote(token)} is not a byte, must be <0x00> to <0xFF>; convert the model again");

    private static Symbol[] Split(string text)
    {
        var symbols = new List<Symbol>(text.Length);
        int start = 0;
        foreach (Rune rune in text.EnumerateRunes())
        {
            symbols.Add(new Symbol { Start = start, Length = rune.Utf16SequenceLength, Previous = symbols.Count - 1, Next = symbols.Count + 1 });
            start += rune.Utf16SequenceLength;
        }

        return [.. symbols];
    }

    // Highest score first, the leftmost on a tie. A symbol that was merged away keeps a length of 0.
    private void Merge(string text, Symbol[] symbols)
    {
        var queue = new PriorityQueue<(int Position, int Length), (float Cost, int Position)>();
        for (int i = 0; i + 1 < symbols.Length; i++)
        {
            Offer(text, symbols, i, queue);
        }

        while (queue.TryDequeue(out (int Position, int Length) pair, out _))
        {
            ref Symbol left = ref symbols[pair.Position];
            if (left.Length == 0 || left.Next == symbols.Length || left.Length + symbols[left.Next].Length != pair.Length)
            {
                continue;
            }

            ref Symbol right = ref symbols[left.Next];
            left.Length = pair.Length;
            left.Next = right.Next;
            right.Length = 0;
            if (left.Next < symbols.Length)
            {
                symbols[left.Next].Previous = pair.Position;
                Offer(text, symbols, pair.Position, queue);
            }

            if (left.Previous >= 0)
            {
                Offer(text, symbols, left.Previous, queue);
            }
        }
    }

    private void Offer(string text, Symbol[] symbols, int position, PriorityQueue<(int Position, int Length), (float Cost, int Position)> queue)
    {
        Symbol left = symbols[position];
        int length = left.Length + symbols[left.Next].Length;
        Dictionary<string, (int Id, float Score)>.AlternateLookup<ReadOnlySpan<char>> pieces = _pieces.GetAlternateLookup<ReadOnlySpan<char>>();
        if (pieces.TryGetValue(text.AsSpan(left.Start, length), out (int Id, float Score) piece))
        {
            queue.Enqueue((position, length), (-piece.Score, position));
        }
    }

    private void Emit(ReadOnlySpan<char> symbol, List<int> ids)
    {
        if (symbol.IsEmpty)
        {
            return;
        }

        if (_pieces.GetAlternateLookup<ReadOnlySpan<char>>().TryGetValue(symbol, out (int Id, float Score) piece))
        {
            ids.Add(piece.Id);
            return;
        }

        byte[] bytes = new byte[Encoding.UTF8.GetByteCount(symbol)];
        Encoding.UTF8.GetBytes(symbol, bytes);
        foreach (byte value in bytes)
        {
            int id = _byteIds[value] >= 0 ? _byteIds[value] : _unknownId ?? -1;
            if (id >= 0)
            {
                ids.Add(id);
            }
        }
    }

    [StructLayout(LayoutKind.Auto)]
    private struct Symbol
    {
        public int Start;
        public int Length;
        public int Previous;
        public int Next;
    }
}
