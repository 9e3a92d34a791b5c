// SPDX-License-Identifier: Apache-2.0
// `strata generate`: continues a prompt.
using System.CommandLine;
using System.Globalization;
using Spectre.Console;
using Strata.Engine.Cache;
using Strata.Engine.Generation;
using Strata.Engine.Models;
using Strata.Engine.Tokenization;

namespace Strata.Cli.Commands;

internal static class GenerateCommand
{
    public static Command Create()
    {
        var run = new RunOptions();
        var prompt = CommonOptions.Prompt();
        var file = CommonOptions.TextFile("File with the prompt, UTF-8.");
        var count = CommonOptions.Number("--tokens", "Tokens to generate.", 64, 0, 1 << 20, "-n");
        var temperature = new Option<float>("--temperature") { Description = "0 takes the most probable token; above it, tokens are drawn." };
        var topP = new Option<float>("--top-p") { Description = "Draws among the most probable tokens that add up to this.", DefaultValueFactory = _ => 1f };
        var seed = new Option<ulong>("--seed") { Description = "Start of the random sequence; the same seed gives the same text." };
        var stop = new Option<bool>("--stop-at-end") { Description = "Stops at the model's end token; without it, exactly the tokens asked for are generated." };
        var json = CommonOptions.Json();
        var command = new Command("generate", "Continues a prompt.") { prompt, file, count, temperature, topP, seed, stop, json };
        run.AddTo(command);
        command.SetAction((parsed, cancellation) =>
        {
            var sampler = new SamplerOptions { Temperature = parsed.GetValue(temperature), TopP = parsed.GetValue(topP), Seed = parsed.GetValue(seed) };
            string text = CommonOptions.Text(parsed, prompt, file);
            Run(run, parsed, text, parsed.GetValue(count), sampler, parsed.GetValue(stop), parsed.GetValue(json), cancellation);
            return Task.FromResult(0);
        });
        return command;
    }

    private static void Run(
        RunOptions options, ParseResult parsed, string text, int count, SamplerOptions sampling, bool stop, bool json, CancellationToken cancellation)
    {
        var sampler = new Sampler(sampling);
        KvStorage storage = options.Kv(parsed);
        using LoadedModel loaded = options.Load(parsed, cancellation);
        int[] prompt = loaded.Tokenizer.Encode(text);
        if (prompt.Length == 0)
        {
            throw new CommandException("the prompt is 0 tokens long, must be at least 1; pass a text that is not empty");
        }

        SessionOptions sessionOptions = options.Session(parsed, capacity: 1);
        using var session = new LlamaSession(loaded.Model, sessionOptions with { Capacity = Capacity(prompt.Length, count, sessionOptions) });
        WarnBeyondContext(loaded.Model.Config, (long)prompt.Length + count);
        var decoder = new TokenTextDecoder(loaded.Tokenizer);
        Action<int>? onToken = json ? null : id => Console.Out.Write(decoder.Add(id));
        GenerationResult result = Generator.Run(session, prompt, count, sampler, stop ? loaded.Tokenizer.EndId : null, onToken, cancellation);
        if (json)
        {
            WriteJson(loaded, prompt, result, session, storage);
        }
        else
        {
            Console.Out.WriteLine(decoder.Finish());
            WriteTable(loaded, prompt.Length, result, session, storage);
        }
    }

    // Without a budget the cache holds everything; with one, the prompt before the cut, then the budget and what decoding may add to it.
    private static int Capacity(int prompt, int count, SessionOptions options)
    {
        long all = (long)prompt + count;
        long bounded = options.Budget is { } budget ? Math.Max(prompt, (long)budget.Tokens + (2 * options.PageSize)) : all;
        return (int)Math.Min(Math.Min(all, bounded), 1 << 24);
    }

    private static void WarnBeyondContext(LlamaConfig config, long tokens)
    {
        if (tokens > config.ContextLength)
        {
            Terminal.Log.WriteLine($"strata: {tokens} tokens are more than the {config.ContextLength} that the model was trained on; its text gets worse past them");
        }
    }

    private static void WriteTable(LoadedModel loaded, int prompt, GenerationResult result, LlamaSession session, KvStorage storage)
    {
        Table table = new Table().Border(TableBorder.Simple).AddColumns("", "tokens", "tokens/s", "KV cache");
        table.AddRow("prompt", $"{prompt}", Rate(prompt, result.SecondsPrefill), $"{KvStorage.Mebibytes(session.KvBytesPeak)} at its largest");
        table.AddRow("generated", $"{result.Ids.Count}", Rate(result.Ids.Count - 1, result.SecondsDecode), $"{KvStorage.Mebibytes(session.KvBytesLive)} at the end");
        Terminal.Log.Write(table);
        Terminal.Log.WriteLine($"{loaded.Device.Id} {loaded.Device.Isa}, {storage.Describe(session)}");
    }

    private static string Rate(int tokens, double seconds) =>
        tokens > 0 && seconds > 0 ? string.Create(CultureInfo.InvariantCulture, $"{tokens / seconds:0.0}") : "";

    private static void WriteJson(LoadedModel loaded, int[] prompt, GenerationResult result, LlamaSession session, KvStorage storage) => Terminal.WriteJson(writer =>
    {
        writer.WriteStartObject();
        writer.WriteNumbers("prompt_ids", prompt);
        writer.WriteNumbers("ids", result.Ids);
        writer.WriteString("text", loaded.Tokenizer.Decode([.. result.Ids]));
        if (result.Margins is { } margins)
        {
            writer.WriteStartArray("margins");
            foreach (float margin in margins)
            {
                writer.WriteFinite(margin);
            }

            writer.WriteEndArray();
        }
        else
        {
            writer.WriteNull("margins");
        }

        writer.WriteNumber("seconds_prefill", result.SecondsPrefill);
        writer.WriteNumber("seconds_decode", result.SecondsDecode);
        storage.WriteTo(writer, session);
        writer.WriteString("device", loaded.Device.Id);
        writer.WriteString("isa", loaded.Device.Isa);
        writer.WriteEndObject();
    });
}
