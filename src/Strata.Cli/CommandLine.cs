// SPDX-License-Identifier: Apache-2.0
// The verbs of the tool, and how their failures are told: one sentence on stderr and an exit code.
using System.CommandLine;
using Strata.Cli.Commands;
using Strata.Engine;

namespace Strata.Cli;

internal static class CommandLine
{
    private const int Failed = 1;
    private const int Misused = 2;
    private const int Interrupted = 130;

    public static int Run(string[] args)
    {
        var root = new RootCommand("Runs GGUF models on the Strata kernels, checks the kernels and times them.")
        {
            InfoCommand.Create(), GenerateCommand.Create(), PerplexityCommand.Create(), TokenizeCommand.Create(), BenchCommand.Create(), VerifyCommand.Create(),
        };

        // A prompt that begins with @ is a prompt, not the name of a file with arguments.
        ParseResult parsed = root.Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
        if (parsed.Errors.Count > 0)
        {
            // A word that is no verb also leaves the verb missing; the word is what the user wants to hear of.
            string misuse = parsed.UnmatchedTokens.Count > 0 ? $"'{parsed.UnmatchedTokens[0]}' is not known here." : parsed.Errors[0].Message;
            Console.Error.WriteLine($"strata: {OneLine(misuse)} See strata --help.");
            return Misused;
        }

        try
        {
            return parsed.Invoke(new InvocationConfiguration { EnableDefaultExceptionHandler = false });
        }
        catch (OperationCanceledException)
        {
            Console.Error.WriteLine("strata: interrupted");
            return Interrupted;
        }
        catch (Exception e) when (IsExpected(e))
        {
            string message = OneLine(e.Message);
            Console.Error.WriteLine(message.StartsWith("strata: ", StringComparison.Ordinal) ? message : $"strata: {message}");
            return Failed;
        }
    }

    // What a user can cause; anything else is a defect and keeps its stack trace.
    private static bool IsExpected(Exception e) =>
        e is StrataException or StrataFormatException or CommandException or ArgumentException
            or DllNotFoundException or IOException or UnauthorizedAccessException or OutOfMemoryException;

    private static string OneLine(string message) => message.ReplaceLineEndings(" ");
}
