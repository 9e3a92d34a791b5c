// SPDX-License-Identifier: Apache-2.0
// Options that several verbs share, so that they are spelled and refused alike.
using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;

namespace Strata.Cli.Commands;

internal static class CommonOptions
{
    private const string ModelVariable = "STRATA_MODEL";

    public static Option<string?> Model() => new("--model", "-m") { Description = $"GGUF model file; without it, the one that {ModelVariable} names.", HelpName = "FILE" };

    public static Option<string?> Prompt() => new("--prompt", "-p") { Description = "The text itself.", HelpName = "TEXT" };

    public static Option<string?> TextFile(string description) => new("--file", "-f") { Description = description, HelpName = "FILE" };

    public static Option<bool> Json() => new("--json") { Description = "One JSON document on stdout and nothing else there." };

    public static Option<string> Device()
    {
        var option = new Option<string>("--device") { Description = "cpu, simt or cuda:N.", HelpName = "DEVICE", DefaultValueFactory = _ => "cpu" };
        return option;
    }

    public static Option<int> Threads() => Number("--threads", "CPU threads; 0 is all cores.", 0, 0, 1024);

    /// <summary>A whole number with a default and bounds.</summary>
    public static Option<int> Number(string name, string description, int otherwise, int minimum, int maximum, params string[] aliases)
    {
        var option = new Option<int>(name, aliases) { Description = description, HelpName = "N", DefaultValueFactory = _ => otherwise };
        option.Validators.Add(result =>
        {
            // A value that is no number at all is refused by the parser itself.
            foreach (Token token in result.Tokens)
            {
                if (int.TryParse(token.Value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int value) && (value < minimum || value > maximum))
                {
                    result.AddError($"{name} is {value}, must be {minimum} to {maximum}; pass a number in that range.");
                }
            }
        });
        return option;
    }

    /// <summary>Path of the model file, from the option or the environment.</summary>
    public static string ModelPath(ParseResult parsed, Option<string?> option)
    {
        string? path = parsed.GetValue(option);
        path = string.IsNullOrEmpty(path) ? Environment.GetEnvironmentVariable(ModelVariable) : path;
        return string.IsNullOrEmpty(path)
            ? throw new CommandException($"no model is named, must be a GGUF file; pass -m FILE or set {ModelVariable}")
            : path;
    }

    /// <summary>The text of -p or of the file of -f; exactly one of them.</summary>
    public static string Text(ParseResult parsed, Option<string?> prompt, Option<string?> file)
    {
        string? text = parsed.GetValue(prompt);
        string? path = parsed.GetValue(file);
        if (text is null == path is null)
        {
            throw new CommandException($"{(text is null ? "no text is" : "two texts are")} given, must be one; pass either -p TEXT or -f FILE");
        }

        return text ?? File.ReadAllText(path!);
    }
}
