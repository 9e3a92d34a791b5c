// SPDX-License-Identifier: Apache-2.0
// Drawing of tokens: the best one, and distributions.
using Strata.Engine.Generation;

namespace Strata.Tests.Engine;

/// <summary>Greedy and random drawing.</summary>
[TestFixture]
internal sealed class SamplerTests
{
    [Test]
    public void TheBestIsTheHighestAndTheLowerIdOnATie()
    {
        Assert.That(Sampler.Best([1, 3, 3, 2], out float tie), Is.EqualTo(1));
        Assert.That(tie, Is.Zero);
        Assert.That(Sampler.Best([-5, -1, -3], out float margin), Is.EqualTo(1));
        Assert.That(margin, Is.EqualTo(2f));
        Assert.That(Sampler.Best([7], out float alone), Is.Zero);
        Assert.That(alone, Is.EqualTo(float.PositiveInfinity));
        Assert.That(Sampler.Best([float.NaN, 2, float.NaN, 1], out _), Is.EqualTo(1));
        Assert.That(() => Sampler.Best([], out _), Throws.InstanceOf<ArgumentException>());
    }

    [Test]
    public void FrequenciesFollowTheSoftmaxAtTheTemperature()
    {
        float[] logits = [0, 1, 2, -30];
        const float temperature = 0.5f;
        const int draws = 100_000;
        int[] counts = Count(logits, new SamplerOptions { Temperature = temperature, Seed = 11 }, draws);
        double total = logits.Sum(logit => Math.Exp(logit / temperature));
        for (int id = 0; id < logits.Length; id++)
        {
            double expected = Math.Exp(logits[id] / temperature) / total;
            double deviation = Math.Sqrt(expected * (1 - expected) / draws);
            Assert.That(counts[id] / (double)draws, Is.EqualTo(expected).Within((5 * deviation) + 1e-9), $"id {id}");
        }
    }

    [Test]
    public void TopPKeepsTheFewestThatReachIt()
    {
        // Probabilities 0.5, 0.3, 0.15, 0.05.
        float[] logits = [.. new[] { 0.15, 0.5, 0.05, 0.3 }.Select(p => (float)Math.Log(p))];
        int[] counts = Count(logits, new SamplerOptions { Temperature = 1, TopP = 0.7f, Seed = 3 }, 10_000);
        Assert.That(counts[0], Is.Zero);
        Assert.That(counts[2], Is.Zero);
        Assert.That(counts[1] / 10_000.0, Is.EqualTo(0.625).Within(0.03));
        Assert.That(Count(logits, new SamplerOptions { Temperature = 1, TopP = 1e-6f }, 100)[1], Is.EqualTo(100));
    }

    [Test]
    public void HostileLogitsGiveAnId()
    {
        var sampler = new Sampler(new SamplerOptions { Temperature = 1, TopP = 0.5f });
        float[][] rows =
        [
            [float.NaN, float.NaN], [float.NegativeInfinity, float.NegativeInfinity], [float.PositiveInfinity, 0], [float.MaxValue, float.MinValue],
            [float.NaN, 1, float.PositiveInfinity],
        ];
        foreach (float[] row in rows)
        {
            Assert.That(sampler.Draw(row), Is.InRange(0, row.Length - 1));
        }
    }

    [TestCase(-1f, 1f)]
    [TestCase(float.NaN, 1f)]
    [TestCase(float.PositiveInfinity, 1f)]
    [TestCase(1f, 0f)]
    [TestCase(1f, 1.5f)]
    [TestCase(1f, float.NaN)]
    public void OptionsOutOfRangeAreRefused(float temperature, float topP) =>
        Assert.That(() => new Sampler(new SamplerOptions { Temperature = temperature, TopP = topP }), Throws.InstanceOf<ArgumentOutOfRangeException>());

    private static int[] Count(float[] logits, SamplerOptions options, int draws)
    {
        var sampler = new Sampler(options);
        int[] counts = new int[logits.Length];
        for (int i = 0; i < draws; i++)
        {
            counts[sampler.Draw(logits)]++;
        }

        return counts;
    }
}
