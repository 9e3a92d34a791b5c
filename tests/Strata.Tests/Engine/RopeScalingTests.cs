// SPDX-License-Identifier: Apache-2.0
// Rotary scaling from the file reaches queries and keys: one rotation, said in two ways, gives one text.
using Strata.Engine;
using Strata.Engine.Models;

namespace Strata.Tests.Engine;

/// <summary>Linear scaling, YaRN and frequency factors on a model of random weights.</summary>
[TestFixture]
internal sealed class RopeScalingTests
{
    private const int Pairs = SyntheticModel.HeadDim / 2;
    private const int Count = 48;

    private static IEnumerable<TestDevice> Devices => TestDevices.All;

    [Test]
    public void EqualFactorsAreLinearScaling([ValueSource(nameof(Devices))] TestDevice device)
    {
        float[] plain = Logits(device, null);
        float[] factors = Logits(device, Factors(2));
        float[] linear = Logits(device, null, ("llama.rope.scaling.type", "linear"), ("llama.rope.scaling.factor", 2f));
        Assert.That(Farthest(factors, linear), Is.LessThan(1e-5));
        Assert.That(Farthest(factors, plain), Is.GreaterThan(1e-2));
    }

    // With an original context of one token every pair but the first is slow: all are stretched, and the magnitude is taken back by the file's own factor.
    [Test]
    public void YarnOfSlowPairsIsLinearScaling([ValueSource(nameof(Devices))] TestDevice device)
    {
        float[] factors = Factors(2);
        factors[0] = 1;
        (string Key, object Value)[] yarn =
        [
            ("llama.rope.scaling.type", "yarn"), ("llama.rope.scaling.factor", 2f), ("llama.rope.scaling.original_context_length", 1u),
        ];
        float[] expected = Logits(device, factors);
        float[] sharp = Logits(device, null, yarn);
        float[] actual = Logits(device, null, [.. yarn, ("llama.rope.scaling.attn_factor", 1 / (1 + (0.1f * MathF.Log(2))))]);
        Assert.That(Farthest(actual, expected), Is.LessThan(1e-4));
        Assert.That(Farthest(sharp, expected), Is.GreaterThan(1e-2), "the magnitude of YaRN counts");
    }

    // With an original context that is long every pair turns often in it: none is stretched.
    [Test]
    public void YarnOfFastPairsIsNone([ValueSource(nameof(Devices))] TestDevice device)
    {
        float[] actual = Logits(
            device,
            null,
            ("llama.rope.scaling.type", "yarn"),
            ("llama.rope.scaling.factor", 2f),
            ("llama.rope.scaling.original_context_length", 1u << 23),
            ("llama.rope.scaling.attn_factor", 1 / (1 + (0.1f * MathF.Log(2)))));
        Assert.That(Farthest(actual, Logits(device, null)), Is.LessThan(1e-4));
    }

    [TestCase(0f)]
    [TestCase(-1f)]
    [TestCase(float.NaN)]
    [TestCase(float.PositiveInfinity)]
    public void AFactorThatIsNoneIsRefused(float factor)
    {
        float[] factors = Factors(1);
        factors[^1] = factor;
        Assert.That(
            () => SyntheticModel.On(TestDevices.Open(new TestDevice("cpu", null)), factors),
            Throws.TypeOf<StrataFormatException>().With.Message.Contains("rope_freqs.weight").And.Message.Contains("above 0"));
    }

    [Test]
    public void AsManyFactorsAsPairsMustBeThere() => Assert.That(
        () => SyntheticModel.On(TestDevices.Open(new TestDevice("cpu", null)), [1, 1]),
        Throws.TypeOf<StrataFormatException>().With.Message.Contains("rope_freqs.weight").And.Message.Contains($"{Pairs} values"));

    private static float[] Factors(float value) => [.. Enumerable.Repeat(value, Pairs)];

    // The logits of every token, those of the last few through steps of one token.
    private static float[] Logits(TestDevice device, float[]? factors, params (string Key, object Value)[] metadata)
    {
        using LlamaModel model = SyntheticModel.On(TestDevices.Open(device), factors, metadata);
        using var session = new LlamaSession(model, new SessionOptions { Capacity = Count });
        int[] ids = SyntheticModel.Tokens(Count);
        var logits = new List<float>();
        session.Evaluate(ids.AsSpan(0, Count - 2), (_, row) => logits.AddRange(row));
        foreach (int id in ids.AsSpan(Count - 2))
        {
            session.Step(id);
            logits.AddRange(session.Logits);
        }

        return [.. logits];
    }

    private static float Farthest(float[] a, float[] b) => a.Zip(b, (x, y) => MathF.Abs(x - y)).Max();
}
