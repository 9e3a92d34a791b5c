// SPDX-License-Identifier: Apache-2.0
// Byte-level BPE of the GPT-2 family from the vocabulary and merges of a GGUF file.
using System.Text;
using Microsoft.ML.Tokenizers;
using Strata.Engine.Gguf;

namespace Strata.Engine.Tokenization;

internal sealed class ByteLevelEncoder : SegmentEncoder
{
    private const int LongPiece = 1024;
    private readonly bool _isolateNumbers;
    private readonly Dictionary<string, int> _vocabulary;
    private readonly string[] _merges;
    private readonly BpeTokenizer _tokenizer;
    private readonly int[] _byteIds;
    private readonly Lazy<PairMerger> _merger;

    public ByteLevelEncoder(GgufReader reader, Dictionary<string, int> vocabulary)
    {
        string rule = reader.FindString("tokenizer.ggml.pre") ?? "gpt-2";
        _isolateNumbers = rule switch
        {
            "gpt-2" or "gpt2" => false,
            "smollm" => true,
            _ => throw new StrataFormatException(
                $"tokenizer: pre-tokeniser 'tokenizer.ggml.pre' is {GgufCursor.Quote(rule)}, must be 'gpt-2' or 'smollm'; use a model with one of these"),
        };
        _vocabulary = vocabulary;
        _merges = reader.FindStrings("tokenizer.ggml.merges") ?? throw new StrataFormatException(
            "tokenizer: metadata key 'tokenizer.ggml.merges' is missing, must be there for the model 'gpt2'; convert the model again");
        CheckMerges();

        _tokenizer = BpeTokenizer.Create(new BpeOptions(vocabulary) { Merges = _merges, ByteLevel = true, PreTokenizer = new OnePiece() });
        _byteIds = new int[256];
        for (int value = 0; value < 256; value++)
        {
            _byteIds[value] = vocabulary.GetValueOrDefault(ByteAlphabet.Character((byte)value).ToString(), -1);
        }

        _merger = new Lazy<PairMerger>(MakeMerger);
    }

    public override void Encode(ReadOnlySpan<char> text, List<int> ids)
    {
        var pieces = new PieceEnumerator(text, _isolateNumbers);
        while (pieces.MoveNext())
        {
            if (pieces.Current.Length > LongPiece)
            {
                EncodeLong(pieces.Current, ids);
            }
            else
            {
                ids.AddRange(_tokenizer.EncodeToIds(pieces.Current));
            }
        }
    }

    public override byte[] TokenBytes(string token, TokenType type) => ByteAlphabet.Decode(token);

    // A byte that the vocabulary does not have is left out, as in every tokenizer of this family without an unknown token.
    private void EncodeLong(ReadOnlySpan<char> piece, List<int> ids)
    {
        byte[] bytes = new byte[Encoding.UTF8.GetByteCount(piece)];
        Encoding.UTF8.GetBytes(piece, bytes);
        int[] symbols = [.. bytes.Select(value => _byteIds[value]).Where(id => id >= 0)];
        _merger.Value.Merge(symbols, ids);
    }

    private static (string Left, string Right) Parts(string merge)
    {
        int space = merge.IndexOf(' ', StringComparison.Ordinal);
        return space < 0 ? (merge, string.Empty) : (merge[..space], merge[(space + 1)..]);
    }

    private void CheckMerges()
    {
        for (int rank = 0; rank < _merges.Length; rank++)
        {
            (string left, string right) = Parts(_merges[rank]);
            if (!_vocabulary.ContainsKey(left) || !_vocabulary.ContainsKey(right) || !_vocabulary.ContainsKey(left + right))
            {
                throw new StrataFormatException(
                    $"tokenizer: merge {rank} is {GgufCursor.Quote(_merges[rank])}, must join two tokens of the vocabulary to a third; convert the model again");
            }
        }
    }

    private PairMerger MakeMerger()
    {
        var merger = new PairMerger();
        for (int rank = 0; rank < _merges.Length; rank++)
        {
            (string left, string right) = Parts(_merges[rank]);
            merger.Add(_vocabulary[left], _vocabulary[right], rank, _vocabulary[left + right]);
        }

        return merger;
    }

    // The pieces are cut here, so the tokenizer must take what it is given as one.
    private sealed class OnePiece : PreTokenizer
    {
        public override IEnumerable<(int Offset, int Length)> PreTokenize(string text) => [(0, text.Length)];

        public override IEnumerable<(int Offset, int Length)> PreTokenize(ReadOnlySpan<char> text) => [(0, text.Length)];
    }
}
