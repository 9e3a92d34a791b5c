// SPDX-License-Identifier: Apache-2.0
// The KV cache under a budget: memory really falls, and what stays is what the policy says.
using Strata.Engine.Cache;
using Strata.Engine.Generation;
using Strata.Engine.Models;

namespace Strata.Tests.Engine;

/// <summary>Budgets on the small model: 4 layers, 2 KV heads of 64.</summary>
[TestFixture]
internal sealed class KvBudgetTests
{
    private const int Layers = 4;
    private const int KvHeads = 2;
    private const int HeadDim = 64;
    private const int PageSize = 16;

    private static readonly TestDevice Cpu = new("cpu", null);

    [Test]
    public void PagesReallyGoBack([Values] KvPolicy policy, [Values(DType.F32, DType.F16, DType.BF16)] DType type)
    {
        int[] prompt = Prompt(256);
        using LlamaSession session = Open(320, new KvBudget(64, policy), type);
        session.Prefill(prompt);
        Assert.That(session.KvBytesLive, Is.EqualTo(Bytes(256, type)));

        session.CutToBudget();
        Assert.That(session.LiveTokens, Is.EqualTo(64));
        Assert.That(session.KvBytesLive, Is.EqualTo(Bytes(64, type)));
        Assert.That(session.KvBytesPeak, Is.EqualTo(Bytes(256, type)));
        Assert.That(session.Position, Is.EqualTo(256));
    }

    [Test]
    public void DecodingStaysWithinAPageOfTheBudget([Values] KvPolicy policy, [Values(1, 3, 32, 50, 64)] int budget)
    {
        using LlamaSession session = Open(128, new KvBudget(budget, policy));
        session.Prefill(Prompt(100));
        session.CutToBudget();
        long most = 0;
        for (int i = 0; i < 200; i++)
        {
            session.Step(Sampler.Best(session.Logits, out _));
            Assert.That(session.LiveTokens, Is.LessThanOrEqualTo(budget + PageSize));
            most = Math.Max(most, session.KvBytesLive);
        }

        Assert.That(most, Is.LessThanOrEqualTo(Bytes(budget + PageSize, DType.F32)));
        Assert.That(session.Position, Is.EqualTo(300));
    }

    [Test]
    public void StreamingKeepsTheFirstFourAndTheLast()
    {
        using LlamaSession session = Open(320, new KvBudget(64, KvPolicy.Streaming));
        session.Prefill(Prompt(256));
        session.CutToBudget();
        int[] expected = [.. Enumerable.Range(0, 4), .. Enumerable.Range(196, 60)];
        ForEachHead((layer, head) => Assert.That(session.CachedPositions(layer, head), Is.EqualTo(expected)));

        // The cut comes with the step that would pass the budget by more than a page.
        for (int i = 0; i < PageSize + 1; i++)
        {
            session.Step(1);
        }

        expected = [.. Enumerable.Range(0, 4), .. Enumerable.Range(212, 61)];
        ForEachHead((layer, head) => Assert.That(session.CachedPositions(layer, head), Is.EqualTo(expected)));
    }

    [Test]
    public void SnapKvKeepsItsWindowAndDifferentTokensPerHead()
    {
        using LlamaSession session = Open(320, new KvBudget(64, KvPolicy.SnapKv));
        session.Prefill(Prompt(256));
        session.CutToBudget();
        var sets = new HashSet<string>();
        ForEachHead((layer, head) =>
        {
            int[] positions = session.CachedPositions(layer, head);
            Assert.That(positions, Has.Length.EqualTo(64));
            Assert.That(positions, Is.Ordered.Ascending.And.Unique);
            Assert.That(positions[^32..], Is.EqualTo(Enumerable.Range(224, 32)));
            sets.Add(string.Join(',', positions));
        });
        Assert.That(sets, Has.Count.GreaterThan(1));
    }

    // However the prompt is cut into parts, the last 32 queries are the same, and so is what they choose.
    [TestCase(5)]
    [TestCase(31)]
    [TestCase(32)]
    [TestCase(33)]
    [TestCase(100)]
    public void TheWindowReachesOverParts(int part)
    {
        using LlamaSession whole = Open(320, new KvBudget(64, KvPolicy.SnapKv));
        using var parts = new LlamaSession(TinyModel.On(TestDevices.Open(Cpu)), Options(320, new KvBudget(64, KvPolicy.SnapKv)) with { ChunkTokens = part });
        foreach (LlamaSession session in new[] { whole, parts })
        {
            session.Prefill(Prompt(256));
            session.CutToBudget();
        }

        ForEachHead((layer, head) =>
        {
            // Sums in another order may swap tokens whose scores are nearly equal.
            int same = whole.CachedPositions(layer, head).Intersect(parts.CachedPositions(layer, head)).Count();
            Assert.That(same, Is.GreaterThanOrEqualTo(63), $"layer {layer}, head {head}");
        });
    }

    [Test]
    public void ABudgetThatHoldsEverythingChangesNothing([Values] KvPolicy policy)
    {
        int[] prompt = Prompt(40);
        using LlamaSession limited = Open(128, new KvBudget(128, policy));
        using LlamaSession free = Open(128, null);
        GenerationResult withBudget = Generator.Run(limited, prompt, 60, new Sampler(new SamplerOptions()));
        GenerationResult without = Generator.Run(free, prompt, 60, new Sampler(new SamplerOptions()));
        Assert.That(withBudget.Ids, Is.EqualTo(without.Ids));
        Assert.That(limited.KvBytesLive, Is.EqualTo(Bytes(99, DType.F32)));
        Assert.That(free.KvBytesLive, Is.EqualTo(Bytes(99, DType.F32, positions: false)), "positions are kept where a cut makes them differ from slots");
    }

    // The reference for a cut: the logits must be near those of the full cache, and not equal to them.
    [Test]
    public void ACutChangesTheLogitsALittle([Values] KvPolicy policy)
    {
        int[] text = Prompt(300);
        using LlamaSession full = Open(320, null);
        using LlamaSession cut = Open(320, new KvBudget(128, policy));
        full.Prefill(text.AsSpan(0, 256));
        cut.Prefill(text.AsSpan(0, 256));
        cut.CutToBudget();
        double sum = 0;
        for (int i = 256; i < 300; i++)
        {
            full.Step(text[i]);
            cut.Step(text[i]);
            double difference = Perplexity.TokenNll(cut.Logits, text[i]) - Perplexity.TokenNll(full.Logits, text[i]);
            sum += Math.Abs(difference);
        }

        Assert.That(sum / 44, Is.GreaterThan(0).And.LessThan(0.5));
    }

    [Test]
    public void PerplexityOfAContinuationUsesTheCutCache()
    {
        int[] ids = TinyModel.Tokenizer().Encode(TinyModel.Text).AsSpan(0, 4000).ToArray();
        using LlamaSession full = Open(320, null);
        using LlamaSession all = Open(320, new KvBudget(256, KvPolicy.SnapKv));
        using LlamaSession few = Open(320, new KvBudget(40, KvPolicy.Streaming));
        double[] values = [.. new[] { full, all, few }.Select(session => Perplexity.OfContinuations(session, ids, 256, 64, 4).Value)];
        Assert.That(values[1], Is.EqualTo(values[0]));
        Assert.That(values[2], Is.Not.EqualTo(values[0]).And.EqualTo(values[0]).Within(25).Percent);
        Assert.That(few.LiveTokens, Is.EqualTo(40 + 63), "nothing more is dropped after the cut");
    }

    private static int[] Prompt(int tokens) => TinyModel.Tokenizer().Encode(TinyModel.Text).AsSpan(0, tokens).ToArray();

    private static LlamaSession Open(int capacity, KvBudget? budget, DType type = DType.F32) =>
        new(TinyModel.On(TestDevices.Open(Cpu)), Options(capacity, budget) with { KvType = type });

    private static SessionOptions Options(int capacity, KvBudget? budget) => new() { Capacity = capacity, Budget = budget, PageSize = PageSize };

    private static long Bytes(int tokens, DType type, bool positions = true)
    {
        int pages = (tokens + PageSize - 1) / PageSize;
        return (long)Layers * KvHeads * pages * PageSize * ((2 * HeadDim * type.Size()) + (positions ? sizeof(int) : 0));
    }

    private static void ForEachHead(Action<int, int> check)
    {
        for (int layer = 0; layer < Layers; layer++)
        {
            for (int head = 0; head < KvHeads; head++)
            {
                check(layer, head);
            }
        }
    }
}
