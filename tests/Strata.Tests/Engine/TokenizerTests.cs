// SPDX-License-Identifier: Apache-2.0
// The tokenizer against ids of the models' own tokenizers, and on text that is made to break it.
using System.Diagnostics;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using Strata.Engine;
using Strata.Engine.Gguf;
using Strata.Engine.Tokenization;

namespace Strata.Tests.Engine;

/// <summary>Text to ids and back.</summary>
[TestFixture]
internal sealed partial class TokenizerTests
{
    private const string Model = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    private GgufTokenizer? _tokenizer;

    [Test]
    public void GoldenTextsGiveGoldenIds()
    {
        GgufTokenizer tokenizer = SmolLm();
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllText(SharedData.Require("golden/tokenize.json")));
        Assert.Multiple(() =>
        {
            foreach (JsonElement entry in golden.RootElement.EnumerateArray())
            {
                string text = entry.GetProperty("text").GetString()!;
                int[] ids = [.. entry.GetProperty("ids").EnumerateArray().Select(id => id.GetInt32())];
                Assert.That(tokenizer.Encode(text), Is.EqualTo(ids), text);
                Assert.That(tokenizer.Decode(ids), Is.EqualTo(text));
            }
        });
    }

    [Test]
    public void ALongTextGivesItsCountAndFirstIds()
    {
        GgufTokenizer tokenizer = SmolLm();
        string text = File.ReadAllText(SharedData.Require("data/wikitext-2-valid.txt"));
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllText(SharedData.Require("golden/perplexity.json")));
        int[] first = [.. golden.RootElement.GetProperty("first_ids").EnumerateArray().Select(id => id.GetInt32())];

        int[] ids = tokenizer.Encode(text);
        Assert.That(ids, Has.Length.EqualTo(golden.RootElement.GetProperty("text_tokens").GetInt32()));
        Assert.That(ids.AsSpan(0, first.Length).ToArray(), Is.EqualTo(first));
        Assert.That(tokenizer.Decode(ids), Is.EqualTo(text));
    }

    [Test]
    public void SpecialTokensAreTextWhereTheyAreNotParsed()
    {
        GgufTokenizer tokenizer = SmolLm();
        Assert.That(tokenizer.Encode("<|im_start|>"), Is.EqualTo(new[] { 1 }));
        Assert.That(tokenizer.Encode("<|im_start|>", parseSpecial: false), Has.Length.GreaterThan(1));
    }

    // The general tokenizer takes short pieces and our own merging takes long ones; both must merge alike.
    [Test]
    public void LongPiecesMergeLikeShortOnes()
    {
        GgufTokenizer tokenizer = SmolLm();
        var random = new Random(1);
        const string alphabet = "etaoinshrdlucmfwypvbgkjqxzETAéßжзд日本";
        for (int repeat = 0; repeat < 20; repeat++)
        {
            var text = new StringBuilder();
            while (text.Length < 1000)
            {
                text.Append(alphabet[random.Next(alphabet.Length)]);
            }

            // A piece of 1,000 letters, and the same letters in a piece long enough for the other path.
            int[] shorter = tokenizer.Encode(text.ToString());
            int[] longer = tokenizer.Encode(text.ToString() + text + text);
            int common = shorter.Zip(longer).TakeWhile(pair => pair.First == pair.Second).Count();
            Assert.That(common, Is.GreaterThanOrEqualTo(shorter.Length - 8), "only merges across the seam may differ");
        }
    }

    [Test]
    public void HostileTextTakesBoundedTime()
    {
        GgufTokenizer tokenizer = SmolLm();
        string[] texts = [new('a', 200_000), new(' ', 200_000), string.Concat(Enumerable.Repeat("<|im_start", 20_000)), new('\n', 200_000), new('\u0301', 100_000)];
        foreach (string text in texts)
        {
            var clock = Stopwatch.StartNew();
            int[] ids = tokenizer.Encode(text);
            Assert.That(clock.Elapsed.TotalSeconds, Is.LessThan(10));
            Assert.That(tokenizer.Decode(ids), Is.EqualTo(text));
        }
    }

    [Test]
    public void HalfSurrogatePairsBecomeReplacementCharacters()
    {
        GgufTokenizer tokenizer = SmolLm();
        Assert.That(tokenizer.Encode("a\ud800b\udc00"), Is.EqualTo(tokenizer.Encode("a\ufffdb\ufffd")));
    }

    [Test]
    public void CharactersOverSeveralTokensAppearWhenComplete()
    {
        GgufTokenizer tokenizer = SmolLm();
        int[] ids = tokenizer.Encode("\U0001F468\u200D");
        var decoder = new TokenTextDecoder(tokenizer);
        string text = string.Concat(ids.Select(id =>
        {
            string part = decoder.Add(id);
            Assert.That(part, Does.Not.Contain("\ufffd"));
            return part;
        }));
        Assert.That(text + decoder.Finish(), Is.EqualTo("\U0001F468\u200D"));

        decoder.Add(tokenizer.Encode("\U0001F468")[0]);
        Assert.That(decoder.Finish(), Is.EqualTo("\ufffd"));
        Assert.That(() => decoder.Add(-1), Throws.TypeOf<ArgumentOutOfRangeException>());
        Assert.That(() => decoder.Add(tokenizer.VocabularySize), Throws.TypeOf<ArgumentOutOfRangeException>());
    }

    [TestCase(false)]
    [TestCase(true)]
    public void PiecesAreThoseOfTheRegularExpression(bool isolateNumbers)
    {
        var random = new Random(7);
        const string alphabet = "aZé日 \t\n\r\u00a0\u3000'sstremvld059²½Ⅷ.,!_-\u0301\u200d";
        for (int repeat = 0; repeat < 20_000; repeat++)
        {
            char[] text = [.. Enumerable.Range(0, random.Next(24)).Select(_ => alphabet[random.Next(alphabet.Length)])];
            var pieces = new List<string>();
            foreach (ReadOnlySpan<char> piece in Pieces(text, isolateNumbers))
            {
                pieces.Add(piece.ToString());
            }

            Assert.That(pieces, Is.EqualTo(ExpectedPieces(new string(text), isolateNumbers)));
        }
    }

    [Test]
    public void LettersOutsideTheBmpAreLetters()
    {
        var pieces = new List<string>();
        foreach (ReadOnlySpan<char> piece in Pieces("x\U0001D49C\U0001D49E!", isolateNumbers: false))
        {
            pieces.Add(piece.ToString());
        }

        Assert.That(pieces, Is.EqualTo(new[] { "x\U0001D49C\U0001D49E", "!" }));
    }

    [TestCase("bert", null, "model")]
    [TestCase("gpt2", "qwen2", "pre-tokeniser")]
    public void OtherTokenizersAreRefusedByName(string model, string? rule, string named)
    {
        var builder = new GgufBuilder();
        AddVocabulary(builder, model, rule, ["a", "b", "ab"], ["a b"]);
        using var reader = GgufReader.Open((ReadOnlySpan<byte>)builder.Build());
        Assert.That(() => GgufTokenizer.Load(reader), Throws.TypeOf<StrataFormatException>().With.Message.Contains(named));
    }

    [TestCase("a", "b c")]
    [TestCase("a b", "a b")]
    [TestCase("ab", "")]
    public void MergesMustJoinKnownTokens(string token, string merge)
    {
        var builder = new GgufBuilder();
        AddVocabulary(builder, "gpt2", "gpt-2", ["x", token], [merge]);
        using var reader = GgufReader.Open((ReadOnlySpan<byte>)builder.Build());
        Assert.That(() => GgufTokenizer.Load(reader), Throws.TypeOf<StrataFormatException>().With.Message.Contains("merge 0"));
    }

    [TestCase(true)]
    [TestCase(false)]
    public void ABeginningTokenIsAddedOnlyIfTheFileAsks(bool asks)
    {
        var builder = new GgufBuilder();
        AddVocabulary(builder, "gpt2", "gpt-2", ["a", "b", "ab", "<s>"], ["a b"]);
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.bos_token_id", GgufValueType.U32, GgufBuilder.U32(3)));
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.add_bos_token", GgufValueType.Bool, [(byte)(asks ? 1 : 0)]));
        using var reader = GgufReader.Open((ReadOnlySpan<byte>)builder.Build());
        GgufTokenizer tokenizer = GgufTokenizer.Load(reader);
        Assert.That(tokenizer.Encode("abba"), Is.EqualTo(asks ? new[] { 3, 2, 1, 0 } : [2, 1, 0]));
    }

    [Test]
    public void AnIdOutsideTheVocabularyIsRefused()
    {
        var builder = new GgufBuilder();
        AddVocabulary(builder, "gpt2", "gpt-2", ["a"], []);
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.bos_token_id", GgufValueType.I32, GgufBuilder.U32(uint.MaxValue)));
        using var reader = GgufReader.Open((ReadOnlySpan<byte>)builder.Build());
        Assert.That(() => GgufTokenizer.Load(reader), Throws.TypeOf<StrataFormatException>());
    }

    [Test]
    public void SentencePieceMergesTheHighestScoreFromTheLeft()
    {
        GgufTokenizer tokenizer = SentencePiece(["<unk>", "<s>", "<0x41>", "\u2581", "a", "b", "ab", "ba", "\u2581\u2581", "bab", "\u2581a"], [0, 0, 0, -9, -9, -9, -1, -2, -3, -4, -0.5f]);

        // The merge of highest score comes first although another begins further left.
        Assert.That(tokenizer.Encode("bab"), Is.EqualTo(new[] { 3, 9 }));
        Assert.That(tokenizer.Encode("a"), Is.EqualTo(new[] { 10 }));

        // Of equal pairs the leftmost is first: two spaces, then one.
        Assert.That(tokenizer.Encode("  "), Is.EqualTo(new[] { 8, 3 }));

        // A byte token where there is one, else the unknown token, and special tokens in between.
        Assert.That(tokenizer.Encode("AZ"), Is.EqualTo(new[] { 3, 2, 0 }));
        Assert.That(tokenizer.Encode("b<s>a"), Is.EqualTo(new[] { 3, 5, 1, 10 }));
        Assert.That(tokenizer.Encode(string.Empty), Is.Empty);
        Assert.That(tokenizer.Decode([10, 2, 8]), Is.EqualTo(" aA  "));
    }

    [Test]
    public void SentencePieceAgreesWithTheDefinition()
    {
        var random = new Random(3);
        const string alphabet = "\u2581abc\u00e9";
        string[] pieces = [.. Enumerable.Range(0, 400).Select(_ => RandomText(random, alphabet, random.Next(2, 6))).Concat(alphabet.Select(c => c.ToString())).Distinct()];
        float[] scores = [.. pieces.Select(_ => -(float)random.Next(200))];
        GgufTokenizer tokenizer = SentencePiece(pieces, scores);
        for (int repeat = 0; repeat < 3000; repeat++)
        {
            string text = RandomText(random, " abc\u00e9", random.Next(1, 40));
            Assert.That(tokenizer.Encode(text), Is.EqualTo(ExpectedMerges(text, pieces, scores)), text);
        }
    }

    [TestCase("<0x-1>")]
    [TestCase("<0xG0>")]
    [TestCase("<0x100>")]
    [TestCase("0x41")]
    public void AByteTokenMustBeAByte(string token)
    {
        Assert.That(() => SentencePiece([token], [0], [6]), Throws.TypeOf<StrataFormatException>().With.Message.Contains("byte"));
    }

    [Test]
    public void ScoresMustFitTheTokens()
    {
        Assert.That(() => SentencePiece(["a", "b"], [0]), Throws.TypeOf<StrataFormatException>());
        Assert.That(() => SentencePiece(["a"], [float.NaN]), Throws.TypeOf<StrataFormatException>());
        Assert.That(() => SentencePiece(["a"], [0], [1, 1]), Throws.TypeOf<StrataFormatException>());
    }

    // Plainly: merge the best pair, the leftmost on a tie, until there is none.
    private static int[] ExpectedMerges(string text, string[] pieces, float[] scores)
    {
        List<string> symbols = [.. ("\u2581" + text.Replace(' ', '\u2581')).Select(c => c.ToString())];
        while (true)
        {
            int best = -1;
            float bestScore = float.NegativeInfinity;
            for (int i = 0; i + 1 < symbols.Count; i++)
            {
                int piece = Array.IndexOf(pieces, symbols[i] + symbols[i + 1]);
                if (piece >= 0 && scores[piece] > bestScore)
                {
                    (best, bestScore) = (i, scores[piece]);
                }
            }

            if (best < 0)
            {
                return [.. symbols.Select(symbol => Array.IndexOf(pieces, symbol))];
            }

            symbols[best] += symbols[best + 1];
            symbols.RemoveAt(best + 1);
        }
    }

    private static string RandomText(Random random, string alphabet, int length) =>
        new([.. Enumerable.Range(0, length).Select(_ => alphabet[random.Next(alphabet.Length)])]);

    private static GgufTokenizer SentencePiece(string[] tokens, float[] scores, int[]? types = null)
    {
        types ??= [.. tokens.Select(token => token is "<unk>" ? 2 : token is "<s>" ? 3 : token.StartsWith("<0x", StringComparison.Ordinal) ? 6 : 1)];
        var builder = new GgufBuilder();
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.model", GgufValueType.Text, GgufBuilder.Text("llama")));
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.tokens", GgufValueType.Array, Texts(tokens)));
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.scores", GgufValueType.Array, Numbers(GgufValueType.F32, scores.Select(BitConverter.SingleToUInt32Bits))));
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.token_type", GgufValueType.Array, Numbers(GgufValueType.I32, types.Select(type => (uint)type))));
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.unknown_token_id", GgufValueType.U32, GgufBuilder.U32(0)));
        using var reader = GgufReader.Open((ReadOnlySpan<byte>)builder.Build());
        return GgufTokenizer.Load(reader);
    }

    private static byte[] Numbers(GgufValueType type, IEnumerable<uint> values)
    {
        uint[] all = [.. values];
        return [.. GgufBuilder.U32((uint)type), .. GgufBuilder.U64((ulong)all.Length), .. all.SelectMany(GgufBuilder.U32)];
    }

    private static void AddVocabulary(GgufBuilder builder, string model, string? rule, string[] tokens, string[] merges)
    {
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.model", GgufValueType.Text, GgufBuilder.Text(model)));
        if (rule is not null)
        {
            builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.pre", GgufValueType.Text, GgufBuilder.Text(rule)));
        }

        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.tokens", GgufValueType.Array, Texts(tokens)));
        builder.Pairs.Add(GgufBuilder.Pair("tokenizer.ggml.merges", GgufValueType.Array, Texts(merges)));
    }

    private static byte[] Texts(string[] texts) =>
        [.. GgufBuilder.U32((uint)GgufValueType.Text), .. GgufBuilder.U64((ulong)texts.Length), .. texts.SelectMany(GgufBuilder.Text)];

    private static PieceEnumerator Pieces(ReadOnlySpan<char> text, bool isolateNumbers) => new(text, isolateNumbers);

    private static IEnumerable<string> ExpectedPieces(string text, bool isolateNumbers)
    {
        IEnumerable<string> stretches = isolateNumbers ? Numbers().Split(text).Where(stretch => stretch.Length > 0) : text.Length > 0 ? [text] : [];
        return stretches.SelectMany(stretch => Rule().Matches(stretch).Select(match => match.Value));
    }

    private GgufTokenizer SmolLm()
    {
        if (_tokenizer is null)
        {
            using var reader = GgufReader.Open(SharedData.Require(Model));
            _tokenizer = GgufTokenizer.Load(reader);
        }

        return _tokenizer;
    }

    [GeneratedRegex(@"(\p{N})", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Numbers();

    [GeneratedRegex(@"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", RegexOptions.None, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Rule();
}
