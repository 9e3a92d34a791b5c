// SPDX-License-Identifier: Apache-2.0
// The tokenizer against ids of the models' own tokenizers, and on text that is made to break it.
using System.Diagnostics;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using NUnit.Framework;
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
