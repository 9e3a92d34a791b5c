// SPDX-License-Identifier: Apache-2.0
// Where output goes: results to stdout, everything about the run to stderr.
using System.Text.Encodings.Web;
using System.Text.Json;
using Spectre.Console;

namespace Strata.Cli;

internal static class Terminal
{
    /// <summary>Tables and results.</summary>
    public static IAnsiConsole Out { get; } = AnsiConsole.Console;

    /// <summary>Progress and remarks; never part of what a program would read.</summary>
    public static IAnsiConsole Log { get; } = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(Console.Error) });

    /// <summary>Writes one JSON document to stdout.</summary>
    public static void WriteJson(Action<Utf8JsonWriter> write)
    {
        using Stream stream = Console.OpenStandardOutput();
        using (var writer = new Utf8JsonWriter(stream, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            write(writer);
        }

        stream.Write("\n"u8);
    }

    public static void WriteNumbers(this Utf8JsonWriter writer, string name, IEnumerable<int> values)
    {
        writer.WriteStartArray(name);
        foreach (int value in values)
        {
            writer.WriteNumberValue(value);
        }

        writer.WriteEndArray();
    }

    /// <summary>A number, or null where JSON has none for it.</summary>
    public static void WriteFinite(this Utf8JsonWriter writer, double value)
    {
        if (double.IsFinite(value))
        {
            writer.WriteNumberValue(value);
        }
        else
        {
            writer.WriteNullValue();
        }
    }

    /// <summary>Runs long work with a bar on stderr, where stderr is a terminal.</summary>
    public static T WithProgress<T>(string title, Func<Action<double>?, T> work)
    {
        if (!Log.Profile.Out.IsTerminal)
        {
            return work(null);
        }

        return Log.Progress()
            .Columns(new TaskDescriptionColumn(), new ProgressBarColumn(), new PercentageColumn(), new RemainingTimeColumn())
            .AutoClear(true)
            .Start(context =>
            {
                ProgressTask task = context.AddTask(title, maxValue: 1);
                return work(share => task.Value = share);
            });
    }
}
