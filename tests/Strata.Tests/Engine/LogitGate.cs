// SPDX-License-Identifier: Apache-2.0
// How far logits may be from the reference: the columns of the golden data, by what is quantised.
using Strata.Engine.Generation;
using Strata.Engine.Models;

namespace Strata.Tests.Engine;

/// <summary>Tolerances of one way to run a model.</summary>
internal sealed record LogitGate(string Name, DType KvType, bool Int8Activations, double Margin, double Divergence, double CentredRms, double PerplexityShare)
{
    public static readonly LogitGate[] All =
    [
        new("f32-f32", DType.F32, false, 0.002, 1e-6, 1e-3, 1e-4),
        new("f32-f16", DType.F16, false, 0.02, 5e-5, 5e-3, 2e-4),
        new("f32-bf16", DType.BF16, false, 0.1, 2e-3, 3e-2, 1e-3),
        new("i8-f16", DType.F16, true, 0.5, 0.08, 0.25, 6e-3),
    ];

    public override string ToString() => Name;

    public SessionOptions Options(int capacity) => new() { Capacity = capacity, KvType = KvType, Int8Activations = Int8Activations };

    /// <summary>Compares one step: the best token where it is clear, the divergence of the distributions, and the logits up to a constant.</summary>
    public void Check(ReadOnlySpan<float> actual, ReadOnlySpan<float> expected, string where)
    {
        int best = Sampler.Best(expected, out float margin);
        if (margin >= Margin)
        {
            Assert.That(Sampler.Best(actual, out _), Is.EqualTo(best), $"{where}: best token, margin {margin}");
        }

        Assert.That(KlDivergence(expected, actual), Is.LessThanOrEqualTo(Divergence), $"{where}: divergence");
        Assert.That(Rms(actual, expected), Is.LessThanOrEqualTo(CentredRms), $"{where}: rms of the centred difference");
    }

    private static double KlDivergence(ReadOnlySpan<float> reference, ReadOnlySpan<float> other)
    {
        double referenceTotal = LogSum(reference);
        double otherTotal = LogSum(other);
        double sum = 0;
        for (int i = 0; i < reference.Length; i++)
        {
            double logP = reference[i] - referenceTotal;
            sum += Math.Exp(logP) * (logP - (other[i] - otherTotal));
        }

        return sum;
    }

    private static double LogSum(ReadOnlySpan<float> logits)
    {
        double highest = double.NegativeInfinity;
        foreach (float logit in logits)
        {
            highest = Math.Max(highest, logit);
        }

        double sum = 0;
        foreach (float logit in logits)
        {
            sum += Math.Exp(logit - highest);
        }

        return highest + Math.Log(sum);
    }

    private static double Rms(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        double mean = 0;
        for (int i = 0; i < a.Length; i++)
        {
            mean += ((double)a[i] - b[i]) / a.Length;
        }

        double squares = 0;
        for (int i = 0; i < a.Length; i++)
        {
            squares += Math.Pow((double)a[i] - b[i] - mean, 2) / a.Length;
        }

        return Math.Sqrt(squares);
    }
}
