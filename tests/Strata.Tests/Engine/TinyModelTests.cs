// SPDX-License-Identifier: Apache-2.0
// The shipped model through the ops, on every device, against logits of an independent implementation.
using Strata.Engine.Generation;
using Strata.Engine.Models;

namespace Strata.Tests.Engine;

/// <summary>Logits, sessions and sampling on the small model.</summary>
[TestFixture]
internal sealed class TinyModelTests
{
    // By the reference, over the first windows of 512 of the validation text: all but each first token scored.
    private static readonly double[] WindowNll = [3.06281, 3.28764];

    private static IEnumerable<TestDevice> Devices => TestDevices.All;

    private static IEnumerable<TestDevice> CpuSets => TestDevices.Cpu;

    private static LogitGate[] Gates => LogitGate.All;

    [Test]
    public void EveryTokenOfAPassHasTheLogitsOfTheReference([ValueSource(nameof(Devices))] TestDevice device, [ValueSource(nameof(Gates))] LogitGate gate)
    {
        (int[] ids, float[] logits) = TinyModel.Golden();
        int tokens = Tokens(device, ids.Length);
        using var session = new LlamaSession(TinyModel.On(TestDevices.Open(device)), gate.Options(ids.Length));
        int seen = 0;
        session.Evaluate(ids.AsSpan(0, tokens), (index, row) =>
        {
            gate.Check(row, logits.AsSpan(index * row.Length, row.Length), $"token {index}");
            seen++;
        });
        Assert.That(seen, Is.EqualTo(tokens));
    }

    [Test]
    public void SteppedTokensHaveTheLogitsOfTheReference([ValueSource(nameof(CpuSets))] TestDevice device, [ValueSource(nameof(Gates))] LogitGate gate)
    {
        (int[] ids, float[] logits) = TinyModel.Golden();
        using var session = new LlamaSession(TinyModel.On(TestDevices.Open(device)), gate.Options(ids.Length));
        const int prompt = 5;
        Generator.Follow(session, ids.AsSpan(0, prompt), ids.AsSpan(prompt), (index, row) =>
            gate.Check(row, logits.AsSpan((prompt - 1 + index) * row.Length, row.Length), $"step {index}"));
        Assert.That(session.Position, Is.EqualTo(ids.Length));
    }

    [Test]
    public void PerplexityIsThatOfTheReference([ValueSource(nameof(Gates))] LogitGate gate)
    {
        int[] ids = TinyModel.Tokenizer().Encode(TinyModel.Text);
        using var session = new LlamaSession(TinyModel.On(Cpu()), gate.Options(512));
        PerplexityResult result = Perplexity.OfWindows(session, ids, 512, WindowNll.Length);
        Assert.That(result.Tokens, Is.EqualTo(511 * WindowNll.Length));
        Assert.That(result.Value, Is.EqualTo(Math.Exp(WindowNll.Average())).Within(100 * gate.PerplexityShare).Percent);
        for (int i = 0; i < WindowNll.Length; i++)
        {
            Assert.That(result.NllPerWindow[i], Is.EqualTo(WindowNll[i]).Within(1e-5 + gate.PerplexityShare), $"window {i}");
        }
    }

    [Test]
    public void PartsOfAPromptAreAsGoodAsTheWhole()
    {
        (int[] ids, float[] logits) = TinyModel.Golden();
        LogitGate gate = LogitGate.All[0];
        foreach (int part in new[] { 1, 7, 32, 64 })
        {
            using var session = new LlamaSession(TinyModel.On(Cpu()), gate.Options(64) with { ChunkTokens = part, PageSize = 16, LogitRows = 3 });
            session.Prefill(ids);
            gate.Check(session.Logits, logits.AsSpan(63 * 1024, 1024), $"parts of {part}");
            session.Reset();
            session.Evaluate(ids, (index, row) => gate.Check(row, logits.AsSpan(index * row.Length, row.Length), $"parts of {part}, token {index}"));
        }
    }

    [Test]
    public void TheSameRunGivesTheSameBits()
    {
        (int[] ids, _) = TinyModel.Golden();
        LlamaModel model = TinyModel.On(Cpu());
        var first = new List<float>();
        var second = new List<float>();
        foreach (List<float> run in new[] { first, second })
        {
            using var session = new LlamaSession(model, LogitGate.All[3].Options(64));
            session.Evaluate(ids, (_, row) => run.AddRange(row));
        }

        Assert.That(second, Is.EqualTo(first));
    }

    [Test]
    public void AResetSessionStartsAnew()
    {
        (int[] ids, _) = TinyModel.Golden();
        using var session = new LlamaSession(TinyModel.On(Cpu()), LogitGate.All[0].Options(64));
        session.Prefill(ids);
        float[] first = session.Logits.ToArray();
        long peak = session.KvBytesPeak;
        session.Reset();
        Assert.That((session.Position, session.LiveTokens, session.KvBytesLive), Is.EqualTo((0, 0, 0L)));
        session.Prefill(ids);
        Assert.That(session.Logits.ToArray(), Is.EqualTo(first));
        Assert.That(session.KvBytesPeak, Is.EqualTo(peak));
    }

    [Test]
    public void GreedyTextIsRepeatableAndSampledTextFollowsItsSeed()
    {
        int[] prompt = TinyModel.Tokenizer().Encode("ROMEO:\n");
        string greedy = Generate(prompt, new SamplerOptions());
        Assert.That(greedy, Does.StartWith("I am a man, my lord.\n\nNurse:\n"));
        Assert.That(Generate(prompt, new SamplerOptions { Seed = 5 }), Is.EqualTo(greedy));

        string drawn = Generate(prompt, new SamplerOptions { Temperature = 1, TopP = 0.9f, Seed = 5 });
        Assert.That(Generate(prompt, new SamplerOptions { Temperature = 1, TopP = 0.9f, Seed = 5 }), Is.EqualTo(drawn));
        Assert.That(Generate(prompt, new SamplerOptions { Temperature = 1, TopP = 0.9f, Seed = 6 }), Is.Not.EqualTo(drawn));
    }

    [Test]
    public void WhatASessionCannotRunIsRefusedInASentence()
    {
        LlamaModel model = TinyModel.On(Cpu());
        using var session = new LlamaSession(model, LogitGate.All[0].Options(8));
        Assert.That(() => session.Prefill([]), Throws.ArgumentException.With.Message.Contains("0 tokens"));
        Assert.That(() => session.Prefill([1, -1]), Throws.ArgumentException.With.Message.Contains("token 1 is -1"));
        Assert.That(() => session.Step(1024), Throws.ArgumentException.With.Message.Contains("1023"));
        Assert.That(() => session.Prefill(new int[9]), Throws.ArgumentException.With.Message.Contains("at most 8"));
        session.Prefill(new int[8]);
        Assert.That(() => session.Step(0), Throws.ArgumentException.With.Message.Contains("at most 8"));
        Assert.That(session.Position, Is.EqualTo(8), "a refused call changes nothing");

        SessionOptions options = LogitGate.All[0].Options(8);
        Assert.That(() => new LlamaSession(model, options with { Capacity = 0 }), Throws.InstanceOf<ArgumentException>());
        Assert.That(() => new LlamaSession(model, options with { PageSize = 48 }), Throws.InstanceOf<ArgumentException>());
        Assert.That(() => new LlamaSession(model, options with { KvType = DType.I8 }), Throws.InstanceOf<ArgumentException>());
    }

    private static string Generate(int[] prompt, SamplerOptions sampling)
    {
        using var session = new LlamaSession(TinyModel.On(Cpu()), LogitGate.All[0].Options(128));
        GenerationResult result = Generator.Run(session, prompt, 24, new Sampler(sampling));
        Assert.That(result.Ids, Has.Count.EqualTo(24));
        Assert.That(result.Margins?.Count, Is.EqualTo(sampling.Temperature == 0 ? 24 : null));
        return TinyModel.Tokenizer().Decode([.. result.Ids]);
    }

    private static Device Cpu() => TestDevices.Open(new TestDevice("cpu", null));

    // The host executor of the GPU kernels takes its time.
    private static int Tokens(TestDevice device, int all) => device.Id is "simt" ? 8 : all;
}
