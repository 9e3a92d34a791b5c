// SPDX-License-Identifier: Apache-2.0
// A model as a whole: decode as a share of the read bandwidth, prefill as a share of the int8 peak. Everything between the ops is in the time.

using System.Diagnostics;
using Strata.Engine.Generation;
using Strata.Engine.Gguf;
using Strata.Engine.Models;
using Strata.Reference;

namespace Strata.Runner;

/// <summary>What was timed of a model.</summary>
/// <param name="Case">"decode" or "prefill-512".</param>
/// <param name="Microseconds">Of one token, or of one prompt.</param>
/// <param name="Bytes">Bytes of weights that it reads at least.</param>
/// <param name="Operations">Operations with weights that it does at least.</param>
/// <param name="Share">Share of its limit.</param>
internal sealed record ModelTime(string Case, Quantiles Microseconds, double Bytes, double Operations, double? Share);

internal static class ModelTimer
{
    private const int PromptTokens = 512, DecodeTokens = 64, MinPrompts = 3;

    /// <summary>Times prompts and generations with int8 activations, greedily.</summary>
    /// <param name="path">The GGUF file.</param>
    /// <param name="device">The device.</param>
    /// <param name="limits">Its limits.</param>
    /// <param name="seconds">How long to time each, at least.</param>
    /// <param name="cancel">Ends the work between two tokens.</param>
    /// <exception cref="Strata.Engine.StrataFormatException">The file is no model that can be run.</exception>
    public static IReadOnlyList<ModelTime> Time(string path, Device device, Limits limits, double seconds, CancellationToken cancel)
    {
        using GgufReader reader = GgufReader.Open(path);
        using LlamaModel model = LlamaModel.Load(reader, device, cancellation: cancel);
        int prompt = Math.Min(PromptTokens, model.Config.ContextLength);
        using var session = new LlamaSession(model, new SessionOptions { Capacity = prompt, Int8Activations = true });
        // Any tokens do: no work depends on which they are.
        int[] ids = [.. Enumerable.Range(0, prompt).Select(i => (int)(i * 7919L % model.VocabularySize))];

        double weights = LayerWeights(model.Config);
        var prefill = new List<double>();
        Repeat(prefill, MinPrompts, () =>
        {
            session.Reset();
            return TimeOf(() => session.Prefill(ids, cancel));
        });
        var decode = new List<double>();
        int tokens = Math.Min(DecodeTokens, prompt - 1);
        int next = 0;
        Repeat(decode, tokens, () =>
        {
            if (session.Position == 0 || session.Position > tokens)
            {
                session.Reset();
                session.Prefill(ids.AsSpan(0, 1), cancel);
                next = ids[^1];
            }
            cancel.ThrowIfCancellationRequested();
            return TimeOf(() =>
            {
                session.Step(next);
                next = Sampler.Best(session.Logits, out _);
            });
        });
        Quantiles perToken = Statistics.Of(decode), perPrompt = Statistics.Of(prefill);
        double bytes = model.WeightBytesPerToken, operations = 2 * weights * prompt;
        return
        [
            new ModelTime("decode", perToken, bytes, 2 * weights, limits.Share(bytes, 0, Roof.Int8, perToken.Median * 1e-6)),
            new ModelTime($"prefill-{prompt}", perPrompt, bytes, operations, limits.Share(0, operations, Roof.Int8, perPrompt.Median * 1e-6)),
        ];

        void Repeat(List<double> samples, int least, Func<double> once)
        {
            once(); // caches, clocks and the just-in-time compiler
            var watch = Stopwatch.StartNew();
            while (samples.Count < least || watch.Elapsed.TotalSeconds < seconds)
            {
                cancel.ThrowIfCancellationRequested();
                samples.Add(once());
            }
        }

        double TimeOf(Action work)
        {
            long start = Stopwatch.GetTimestamp();
            work();
            device.Synchronize();
            return Stopwatch.GetElapsedTime(start).TotalMicroseconds;
        }
    }

    // The output matrix counts in the bytes of a token, but a prompt multiplies it once only: leaving it out never flatters.
    private static double LayerWeights(LlamaConfig config)
    {
        double width = config.Width, queries = (double)config.QueryHeads * config.HeadDim, keys = (double)config.KvHeads * config.HeadDim;
        return config.Layers * ((2 * width * queries) + (2 * width * keys) + (3 * width * config.FeedForward));
    }
}
