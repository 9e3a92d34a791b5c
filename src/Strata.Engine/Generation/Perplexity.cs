// SPDX-License-Identifier: Apache-2.0
// How well a model predicts a text, window by window.
using Strata.Engine.Models;

namespace Strata.Engine.Generation;

/// <summary>Perplexity of a text: exp of the mean negative log-likelihood of the scored tokens.</summary>
public static class Perplexity
{
    /// <summary>Windows of a fixed length from the start of the text, each run alone with the full cache.</summary>
    /// <param name="session">The session; reset before every window.</param>
    /// <param name="ids">The whole text.</param>
    /// <param name="context">Tokens per window, at least 2.</param>
    /// <param name="windows">Windows to run; all that the text fills are the most.</param>
    /// <param name="firstScored">First token of a window that is scored, from 1: the token before it must exist.</param>
    /// <param name="progress">Told the share done, 0 to 1; may be null.</param>
    /// <param name="cancellation">Ends the work between two parts of a window.</param>
    /// <returns>The result.</returns>
    /// <exception cref="ArgumentException">The text does not fill that many windows, or a number is out of range.</exception>
    public static PerplexityResult OfWindows(
        LlamaSession session,
        ReadOnlySpan<int> ids,
        int context,
        int windows,
        int firstScored = 1,
        Action<double>? progress = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(session);
        ArgumentOutOfRangeException.ThrowIfLessThan(context, 2);
        ArgumentOutOfRangeException.ThrowIfLessThan(firstScored, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(firstScored, context);
        CheckFills(ids.Length, (long)windows * context, windows);
        var nll = new double[windows];
        for (int window = 0; window < windows; window++)
        {
            nll[window] = WindowNll(session, ids.Slice(window * context, context), firstScored, cancellation);
            progress?.Invoke((window + 1) / (double)windows);
        }

        return PerplexityResult.From(nll, context - firstScored);
    }

    /// <summary>Prompts with the full cache, a cut to the session's budget, then a continuation on what is left, in windows spread evenly over the text.</summary>
    /// <param name="session">The session, with a budget or without; reset before every window.</param>
    /// <param name="ids">The whole text.</param>
    /// <param name="prompt">Tokens run before the cut, at least 1.</param>
    /// <param name="continuation">Tokens scored, at least 1: the first by the prompt's pass, the others by the cut cache.</param>
    /// <param name="windows">Windows to run, at least 1.</param>
    /// <param name="progress">Told the share done, 0 to 1; may be null.</param>
    /// <param name="cancellation">Ends the work between two parts of a window.</param>
    /// <returns>The result.</returns>
    /// <exception cref="ArgumentException">The text is shorter than a window, or a number is out of range.</exception>
    public static PerplexityResult OfContinuations(
        LlamaSession session,
        ReadOnlySpan<int> ids,
        int prompt,
        int continuation,
        int windows,
        Action<double>? progress = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(session);
        ArgumentOutOfRangeException.ThrowIfLessThan(prompt, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(continuation, 1);
        long length = (long)prompt + continuation;
        CheckFills(ids.Length, length, windows);
        var nll = new double[windows];
        for (int window = 0; window < windows; window++)
        {
            // The first window begins with the text, the last one ends with it.
            int start = windows == 1 ? 0 : (int)((ids.Length - length) * window / (windows - 1));
            nll[window] = ContinuationNll(session, ids.Slice(start, prompt), ids.Slice(start + prompt, continuation), cancellation);
            progress?.Invoke((window + 1) / (double)windows);
        }

        return PerplexityResult.From(nll, continuation);
    }

    /// <summary>Negative log-likelihood of one token: ln of the sum of exp(logit), minus its own logit.</summary>
    /// <param name="logits">One logit per token id.</param>
    /// <param name="id">The token.</param>
    /// <returns>In nats.</returns>
    public static double TokenNll(ReadOnlySpan<float> logits, int id)
    {
        float highest = logits[Sampler.Best(logits, out _)];
        double sum = 0;
        foreach (float logit in logits)
        {
            sum += Math.Exp(logit - highest);
        }

        return Math.Log(sum) + highest - logits[id];
    }

    private static double WindowNll(LlamaSession session, ReadOnlySpan<int> ids, int firstScored, CancellationToken cancellation)
    {
        int[] targets = ids.ToArray();
        double sum = 0;
        session.Reset();
        session.Evaluate(
            ids[..^1],
            (index, logits) => sum += index + 1 < firstScored ? 0 : TokenNll(logits, targets[index + 1]),
            cancellation);
        return sum / (ids.Length - firstScored);
    }

    private static double ContinuationNll(LlamaSession session, ReadOnlySpan<int> prompt, ReadOnlySpan<int> continuation, CancellationToken cancellation)
    {
        int[] targets = continuation.ToArray();
        session.Reset();
        session.Prefill(prompt, cancellation);
        double sum = TokenNll(session.Logits, targets[0]);
        session.CutToBudget();
        if (targets.Length > 1)
        {
            session.Evaluate(continuation[..^1], (index, logits) => sum += TokenNll(logits, targets[index + 1]), cancellation);
        }

        return sum / targets.Length;
    }

    private static void CheckFills(int tokens, long needed, int windows)
    {
        if (windows < 1 || needed > tokens)
        {
            throw new ArgumentException(
                $"perplexity: {windows} windows need {needed} tokens and the text has {tokens}, must be at least 1 window and enough text; pass fewer windows, shorter ones or a longer text",
                nameof(windows));
        }
    }
}
