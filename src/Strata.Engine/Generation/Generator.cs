// SPDX-License-Identifier: Apache-2.0
// Generates text, or follows a given one, token by token.
using System.Diagnostics;
using Strata.Engine.Models;

namespace Strata.Engine.Generation;

/// <summary>Runs a prompt and continues it.</summary>
public static class Generator
{
    /// <summary>Continues a prompt by drawn tokens. With a budget, the cache is cut after the prompt and again whenever it has grown a page beyond the budget.</summary>
    /// <param name="session">A session at its start.</param>
    /// <param name="prompt">At least one token.</param>
    /// <param name="count">Tokens to draw, 0 or more.</param>
    /// <param name="sampler">How to draw.</param>
    /// <param name="endId">A token that ends the text early; it is the last one returned. Null draws all.</param>
    /// <param name="onToken">Called with each token as it is drawn; may be null.</param>
    /// <param name="cancellation">Ends the work between two tokens.</param>
    /// <returns>The tokens and what they took.</returns>
    /// <exception cref="ArgumentException">The prompt is empty, has ids outside the vocabulary, or finds no room in the cache.</exception>
    /// <exception cref="OperationCanceledException">The work was cancelled.</exception>
    public static GenerationResult Run(
        LlamaSession session,
        ReadOnlySpan<int> prompt,
        int count,
        Sampler sampler,
        int? endId = null,
        Action<int>? onToken = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(session);
        ArgumentNullException.ThrowIfNull(sampler);
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        var ids = new List<int>(count);
        var margins = new List<float>(count);
        long start = Stopwatch.GetTimestamp();
        session.Prefill(prompt, cancellation);
        session.CutToBudget();
        double prefill = Stopwatch.GetElapsedTime(start).TotalSeconds;

        start = Stopwatch.GetTimestamp();
        while (ids.Count < count)
        {
            cancellation.ThrowIfCancellationRequested();
            int id = Draw(sampler, session.Logits, margins);
            ids.Add(id);
            onToken?.Invoke(id);
            if (id == endId || ids.Count == count)
            {
                break;
            }

            session.Step(id);
        }

        return new GenerationResult(ids, sampler.IsGreedy ? margins : null, prefill, Stopwatch.GetElapsedTime(start).TotalSeconds);
    }

    /// <summary>Follows a given continuation and hands out the logits of every step: index 0 after the prompt, index i after token i of the continuation.</summary>
    /// <param name="session">A session at its start.</param>
    /// <param name="prompt">At least one token.</param>
    /// <param name="continuation">Tokens to feed, one at a time as in generation.</param>
    /// <param name="handler">Called for each step in order; the number of steps is one more than the continuation is long.</param>
    /// <param name="cancellation">Ends the work between two tokens.</param>
    /// <exception cref="ArgumentException">An id is not in the vocabulary, the prompt is empty, or the cache has no room.</exception>
    public static void Follow(
        LlamaSession session, ReadOnlySpan<int> prompt, ReadOnlySpan<int> continuation, LogitsHandler handler, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(session);
        ArgumentNullException.ThrowIfNull(handler);
        session.Prefill(prompt, cancellation);
        session.CutToBudget();
        handler(0, session.Logits);
        for (int i = 0; i < continuation.Length; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            session.Step(continuation[i]);
            handler(i + 1, session.Logits);
        }
    }

    private static int Draw(Sampler sampler, ReadOnlySpan<float> logits, List<float> margins)
    {
        if (!sampler.IsGreedy)
        {
            return sampler.Draw(logits);
        }

        int id = Sampler.Best(logits, out float margin);
        margins.Add(margin);
        return id;
    }
}
