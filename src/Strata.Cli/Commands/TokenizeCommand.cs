// SPDX-License-Identifier: Apache-2.0
// `strata tokenize`: the ids of a text by the tokenizer of a model file.
using System.CommandLine;
using Strata.Engine.Gguf;
using Strata.Engine.Tokenization;

namespace Strata.Cli.Commands;

internal static class TokenizeCommand
{
    public static Command Create()
    {
        var model = CommonOptions.Model();
        var prompt = CommonOptions.Prompt();
        var file = CommonOptions.TextFile("File with the text, UTF-8.");
        var json = CommonOptions.Json();
        var command = new Command("tokenize", "Ids of a text; special tokens that are written out are parsed.") { model, prompt, file, json };
        command.SetAction(parsed => Run(CommonOptions.ModelPath(parsed, model), CommonOptions.Text(parsed, prompt, file), parsed.GetValue(json)));
        return command;
    }

    private static int Run(string model, string text, bool json)
    {
        using GgufReader reader = GgufReader.Open(model);
        GgufTokenizer tokenizer = GgufTokenizer.Load(reader);
        int[] ids = tokenizer.Encode(text);
        if (json)
        {
            Terminal.WriteJson(writer =>
            {
                writer.WriteStartObject();
                writer.WriteNumber("count", ids.Length);
                writer.WriteNumbers("ids", ids);
                writer.WriteEndObject();
            });
            return 0;
        }

        Console.Out.WriteLine(string.Join(' ', ids));
        return 0;
    }
}
