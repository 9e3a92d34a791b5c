// SPDX-License-Identifier: Apache-2.0
// The numbers of a perplexity run.
namespace Strata.Engine.Generation;

/// <summary>The numbers of a perplexity run.</summary>
/// <param name="Value">exp of the mean.</param>
/// <param name="MeanNll">Mean negative log-likelihood of all scored tokens, in nats.</param>
/// <param name="Tokens">Scored tokens.</param>
/// <param name="NllPerWindow">Mean of each window, in nats.</param>
public sealed record PerplexityResult(double Value, double MeanNll, int Tokens, IReadOnlyList<double> NllPerWindow)
{
    // Every window scores the same number of tokens, so the mean of the means is the mean.
    internal static PerplexityResult From(double[] nllPerWindow, int tokensPerWindow)
    {
        double mean = nllPerWindow.Average();
        return new(Math.Exp(mean), mean, nllPerWindow.Length * tokensPerWindow, nllPerWindow);
    }
}
