// SPDX-License-Identifier: Apache-2.0
// `strata perplexity`: how well a model predicts a text, with the full cache or with a cut one.
using System.CommandLine;
using System.Globalization;
using Spectre.Console;
using Strata.Engine.Generation;
using Strata.Engine.Models;

namespace Strata.Cli.Commands;

internal static class PerplexityCommand
{
    private const int DefaultContext = 512;
    private const int DefaultContinuationWindows = 8;
    private const int MostTokens = 1 << 24;

    public static Command Create()
    {
        var run = new RunOptions();
        var file = CommonOptions.TextFile("File with the text, UTF-8.");
        file.Required = true;
        var context = CommonOptions.Number("--context", "Tokens per window, each run alone.", DefaultContext, 2, MostTokens);
        var windows = CommonOptions.Number("--windows", "Windows to run; 0 is all that the text fills, or 8 with --prompt.", 0, 0, MostTokens);
        var first = CommonOptions.Number("--score-from", "First token of a window that is scored, counted from 1.", 2, 2, MostTokens);
        var prompt = CommonOptions.Number("--prompt", "Tokens run with the full cache before it is cut; 0 scores whole windows.", 0, 0, MostTokens);
        var continuation = CommonOptions.Number("--continue", "Tokens scored after the cut.", 0, 0, MostTokens);
        var json = CommonOptions.Json();
        var command = new Command(
            "perplexity",
            "Perplexity of a text in windows; with --prompt and --continue, of continuations after the cache was cut to --kv-budget.")
        {
            file, context, windows, first, prompt, continuation, json,
        };
        run.AddTo(command);
        command.SetAction((parsed, cancellation) =>
        {
            var plan = new Plan(
                parsed.GetValue(context), parsed.GetValue(windows), parsed.GetValue(first) - 1, parsed.GetValue(prompt), parsed.GetValue(continuation));
            Run(run, parsed, File.ReadAllText(parsed.GetValue(file)!), plan, parsed.GetValue(json), cancellation);
            return Task.FromResult(0);
        });
        return command;
    }

    private static void Run(RunOptions options, ParseResult parsed, string text, Plan plan, bool json, CancellationToken cancellation)
    {
        bool continues = plan.Prompt > 0 || plan.Continuation > 0;
        if (continues && (plan.Prompt == 0 || plan.Continuation == 0))
        {
            throw new CommandException($"--prompt is {plan.Prompt} and --continue is {plan.Continuation}, must both be at least 1 or both absent; pass both");
        }

        if (!continues && options.Budget(parsed) is not null)
        {
            throw new CommandException("--kv-budget is given for whole windows, must come with a cut to apply it at; pass --prompt and --continue");
        }

        if (!continues && plan.FirstScored >= plan.Context)
        {
            throw new CommandException($"--score-from is {plan.FirstScored + 1}, must be at most the {plan.Context} tokens of a window; lower it");
        }

        KvStorage storage = options.Kv(parsed);
        using LoadedModel loaded = options.Load(parsed, cancellation);
        int[] ids = loaded.Tokenizer.Encode(text);
        using var session = new LlamaSession(loaded.Model, options.Session(parsed, continues ? plan.Prompt + plan.Continuation : plan.Context));
        PerplexityResult result = Terminal.WithProgress("perplexity", progress => continues
            ? Perplexity.OfContinuations(
                session, ids, plan.Prompt, plan.Continuation, plan.Windows > 0 ? plan.Windows : DefaultContinuationWindows, progress, cancellation)
            : Perplexity.OfWindows(
                session, ids, plan.Context, plan.Windows > 0 ? plan.Windows : ids.Length / plan.Context, plan.FirstScored, progress, cancellation));
        if (json)
        {
            WriteJson(result, session, storage);
        }
        else
        {
            WriteTable(result, session, storage);
        }
    }

    private static void WriteTable(PerplexityResult result, LlamaSession session, KvStorage storage)
    {
        Table table = new Table().Border(TableBorder.Simple).AddColumns("perplexity", "mean NLL", "tokens", "windows", "KV cache");
        table.AddRow(
            result.Value.ToString("0.0000", CultureInfo.InvariantCulture),
            result.MeanNll.ToString("0.00000", CultureInfo.InvariantCulture),
            $"{result.Tokens}",
            $"{result.NllPerWindow.Count}",
            KvStorage.Mebibytes(session.KvBytesPeak));
        Terminal.Out.Write(table);
        Terminal.Out.WriteLine(storage.Describe(session));
    }

    private static void WriteJson(PerplexityResult result, LlamaSession session, KvStorage storage) => Terminal.WriteJson(writer =>
    {
        writer.WriteStartObject();
        writer.WritePropertyName("perplexity");
        writer.WriteFinite(result.Value);
        writer.WritePropertyName("mean_nll");
        writer.WriteFinite(result.MeanNll);
        writer.WriteNumber("tokens", result.Tokens);
        writer.WriteStartArray("nll_per_window");
        foreach (double nll in result.NllPerWindow)
        {
            writer.WriteFinite(nll);
        }

        writer.WriteEndArray();
        storage.WriteTo(writer, session);
        writer.WriteEndObject();
    });

    private sealed record Plan(int Context, int Windows, int FirstScored, int Prompt, int Continuation);
}
