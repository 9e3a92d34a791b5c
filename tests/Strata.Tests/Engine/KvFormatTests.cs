// SPDX-License-Identifier: Apache-2.0
// Quantised KV caches in a session: what they cost in bytes and in perplexity, on every device, and what goes with them.
using Strata.Engine.Cache;
using Strata.Engine.Generation;
using Strata.Engine.Models;

namespace Strata.Tests.Engine;

/// <summary>Formats, layouts and rotations of the cache.</summary>
[TestFixture]
internal sealed class KvFormatTests
{
    private const int Layers = 4;
    private const int KvHeads = 2;
    private const int HeadDim = 64;
    private const int PageSize = 64;

    private static readonly TestDevice Cpu = new("cpu", null);

    private static IEnumerable<TestDevice> Devices => TestDevices.All;

    // The type is that of plain numbers or of the tail.
    private static Store[] Stores =>
    [
        new(KvFormat.Plain, DType.F32, 1e-4),
        new(KvFormat.Plain, DType.F16, 2e-2),
        new(KvFormat.Plain, DType.BF16, 2e-2),
        new(KvFormat.I8, DType.F16, 2e-2),
        new(KvFormat.F8, DType.F16, 2e-2),
        new(KvFormat.I8Block, DType.F32, 2e-2),
        new(KvFormat.I8Block, DType.F16, 2e-2),
        new(KvFormat.I8Block, DType.BF16, 2e-2),
        new(KvFormat.I4Block, DType.F32, 6e-2),
        new(KvFormat.I4Block, DType.F16, 6e-2),
        new(KvFormat.I4Block, DType.BF16, 6e-2),
    ];

    // Shares of the perplexity with fp16; the model is small and its text simple, so they are not those of a larger one.
    [TestCase(KvFormat.Plain, DType.BF16, 0, 5e-4)]
    [TestCase(KvFormat.I8, DType.F16, 0, 2e-3)]
    [TestCase(KvFormat.I8, DType.F16, 64, 1e-3)]
    [TestCase(KvFormat.I8Block, DType.F16, 0, 5e-4)]
    [TestCase(KvFormat.I8Block, DType.BF16, 32, 1e-3)]
    [TestCase(KvFormat.I4Block, DType.F16, 0, 2e-2)]
    public void PerplexityStaysNearThatOfHalfPrecision(KvFormat format, DType type, int rotation, double share)
    {
        int[] ids = TinyModel.Tokenizer().Encode(TinyModel.Text);
        LlamaModel model = TinyModel.On(TestDevices.Open(Cpu));
        using var half = new LlamaSession(model, Options(512, KvFormat.Plain, DType.F16));
        using var other = new LlamaSession(model, Options(512, format, type) with { KvRotation = rotation });
        double expected = Perplexity.OfWindows(half, ids, 512, 2).Value;
        double actual = Perplexity.OfWindows(other, ids, 512, 2).Value;
        Assert.That(actual, Is.EqualTo(expected).Within(100 * share).Percent.And.Not.EqualTo(expected));
    }

    // The first 40 tokens fill a block and leave a tail; the steps append to both and fill the second block. A code near a tie may fall to
    // either side of it on another device, which one of 4 bits shows most.
    [Test]
    public void EveryDeviceGivesTheLogitsOfTheCpu(
        [ValueSource(nameof(Devices))] TestDevice device, [ValueSource(nameof(Stores))] Store store, [Values(0, 64)] int rotation)
    {
        SessionOptions options = Options(80, store.Format, store.Type) with { KvRotation = rotation };
        float[] expected = SyntheticLogits(Cpu, options);
        float[] actual = SyntheticLogits(device, options);
        Assert.That(actual.Zip(expected, (a, b) => Math.Abs(a - b)).Max(), Is.LessThan(store.Tolerance));
        Assert.That(expected.Max() - expected.Min(), Is.GreaterThan(1), "the logits say something");
    }

    [Test]
    public void EveryLayoutGivesTheSameLogits([Values(KvLayout.Rows, KvLayout.Tiled, KvLayout.Swizzled)] KvLayout layout)
    {
        float[] expected = SyntheticLogits(Cpu, Options(80, KvFormat.Plain, DType.F16) with { KvPageLayout = KvLayout.Rows });
        float[] actual = SyntheticLogits(Cpu, Options(80, KvFormat.Plain, DType.F16) with { KvPageLayout = layout });
        Assert.That(actual.Zip(expected, (a, b) => Math.Abs(a - b)).Max(), Is.LessThan(1e-4));
    }

    [TestCase(KvFormat.Plain, DType.F32, 2 * 4 * HeadDim, 2.0)]
    [TestCase(KvFormat.Plain, DType.F16, 2 * 2 * HeadDim, 1.0)]
    [TestCase(KvFormat.I8, DType.F16, (2 * HeadDim) + 4, 0.515625)]
    [TestCase(KvFormat.F8, DType.F16, (2 * HeadDim) + 4, 0.515625)]
    [TestCase(KvFormat.I8Block, DType.F16, (2 * HeadDim) + 16, 0.5625)]
    [TestCase(KvFormat.I4Block, DType.F16, HeadDim + 16, 0.3125)]
    [TestCase(KvFormat.I4Block, DType.F32, HeadDim + 16, 0.3125)]
    public void ThePagesInUseAreCountedWithTheirScales(KvFormat format, DType type, int bytesPerToken, double ratio)
    {
        using var session = new LlamaSession(TinyModel.On(TestDevices.Open(Cpu)), Options(256, format, type));
        int[] ids = TinyModel.Tokenizer().Encode(TinyModel.Text).AsSpan(0, 65).ToArray();
        session.Prefill(ids);
        Assert.That(session.KvBytesLive, Is.EqualTo((long)Layers * KvHeads * 2 * PageSize * bytesPerToken));
        Assert.That(session.KvBytesPeak, Is.EqualTo(session.KvBytesLive));
        Assert.That(session.KvRatioToF16, Is.EqualTo(ratio));

        bool block = format is KvFormat.I8Block or KvFormat.I4Block;
        Assert.That(session.KvBytesTail, Is.EqualTo(block ? (long)Layers * KvHeads * KvCache.BlockSlots * HeadDim * type.Size() : 0));
        Assert.That(session.CachedPositions(Layers - 1, KvHeads - 1), Is.EqualTo(Enumerable.Range(0, 65)));

        session.Reset();
        Assert.That(session.KvBytesLive, Is.Zero);
    }

    [Test]
    public void AResetQuantisedCacheStartsAnew([Values(KvFormat.I8, KvFormat.I8Block, KvFormat.I4Block)] KvFormat format)
    {
        using var session = new LlamaSession(TinyModel.On(TestDevices.Open(Cpu)), Options(128, format, DType.F16));
        int[] ids = TinyModel.Tokenizer().Encode(TinyModel.Text).AsSpan(0, 100).ToArray();
        session.Prefill(ids);
        float[] first = session.Logits.ToArray();
        session.Reset();
        session.Prefill(ids.AsSpan(50));
        session.Reset();
        session.Prefill(ids);
        Assert.That(session.Logits.ToArray(), Is.EqualTo(first));
    }

    [TestCase(KvFormat.I8, 0, KvLayout.Rows, "I8")]
    [TestCase(KvFormat.I4Block, 0, null, "I4Block")]
    [TestCase(KvFormat.Plain, 64, null, "rotation 64")]
    [TestCase(KvFormat.Plain, 0, KvLayout.Tiled, "Tiled")]
    public void UnderABudgetOnlyPlainRowsAreTaken(KvFormat format, int rotation, KvLayout? layout, string named)
    {
        SessionOptions options = Options(128, format, DType.F16) with
        {
            KvRotation = rotation,
            KvPageLayout = layout,
            Budget = new KvBudget(64, KvPolicy.Streaming),
        };
        Assert.That(
            () => new LlamaSession(TinyModel.On(TestDevices.Open(Cpu)), options),
            Throws.ArgumentException.With.Message.Contains(named).And.Message.Contains("budget of 64").And.Message.Contains("must be plain rows"));
    }

    [Test]
    public void WhatDoesNotFitTheFormatIsRefusedInASentence()
    {
        LlamaModel model = TinyModel.On(TestDevices.Open(Cpu));
        Assert.That(
            () => new LlamaSession(model, Options(128, KvFormat.I4Block, DType.F16) with { PageSize = 16 }),
            Throws.ArgumentException.With.Message.Contains("PageSize is 16").And.Message.Contains("multiple of 32"));
        Assert.That(
            () => new LlamaSession(model, Options(128, KvFormat.I8, DType.F16) with { KvRotation = 128 }),
            Throws.TypeOf<StrataException>().With.Message.Contains("rotation is 128").And.Message.Contains("divide head_dim = 64"));
        Assert.That(
            () => new LlamaSession(model, Options(128, KvFormat.I8Block, DType.F16) with { KvPageLayout = KvLayout.Rows }),
            Throws.TypeOf<StrataException>().With.Message.Contains("STRATA_KV_TILED"));
    }

    private static SessionOptions Options(int capacity, KvFormat format, DType type) =>
        new() { Capacity = capacity, KvFormat = format, KvType = type, PageSize = PageSize };

    private static float[] SyntheticLogits(TestDevice device, SessionOptions options)
    {
        using LlamaModel model = SyntheticModel.On(TestDevices.Open(device), null);
        using var session = new LlamaSession(model, options);
        int[] ids = SyntheticModel.Tokens(66);
        session.Prefill(ids.AsSpan(0, 40));
        var logits = new List<float>(session.Logits.ToArray());
        session.Prefill(ids.AsSpan(40, 22));
        foreach (int id in ids.AsSpan(62))
        {
            session.Step(id);
            logits.AddRange(session.Logits);
        }

        return [.. logits];
    }

    internal sealed record Store(KvFormat Format, DType Type, double Tolerance)
    {
        public override string ToString() => $"{Format}-{Type}";
    }
}
