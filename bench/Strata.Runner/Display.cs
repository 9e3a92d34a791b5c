// SPDX-License-Identifier: Apache-2.0
// Tables on the output, progress on the log. A log that is no terminal gets a line now and then.

using System.Diagnostics;
using Spectre.Console;

namespace Strata.Runner;

/// <summary>Where a command writes: results to one side, everything about the run to the other.</summary>
internal sealed class Display
{
    // Wide enough for every table, so that redirected output has one row a line.
    private const int RedirectedWidth = 240;
    private static readonly TimeSpan s_quiet = TimeSpan.FromSeconds(10);

    private readonly TextWriter _output;
    private readonly TextWriter _log;
    private readonly IAnsiConsole _logConsole;

    public Display(TextWriter output, TextWriter log)
    {
        (_output, _log) = (output, log);
        _logConsole = Console(log);
    }

    public void Write(Table table) => Console(_output).Write(table);

    public void WriteLine(string line) => _output.WriteLine(line);

    public void Log(string line) => _log.WriteLine(line);

    /// <summary>Runs long work. It reports what it is at and how much of <paramref name="total"/> is done.</summary>
    public void WithProgress(string title, double total, Action<Action<string, double>> work)
    {
        if (!_logConsole.Profile.Out.IsTerminal)
        {
            PlainProgress(title, total, work);
            return;
        }
        _logConsole.Progress()
            .Columns(new ProgressBarColumn(), new PercentageColumn(), new ElapsedTimeColumn(), new TaskDescriptionColumn { Alignment = Justify.Left })
            .AutoClear(true)
            .Start(context =>
            {
                ProgressTask task = context.AddTask(title, maxValue: Math.Max(1, total));
                work((what, done) =>
                {
                    task.Description = Markup.Escape(what);
                    task.Value = done;
                });
            });
    }

    private static IAnsiConsole Console(TextWriter writer)
    {
        var output = new AnsiConsoleOutput(writer);
        if (output.IsTerminal) return AnsiConsole.Create(new AnsiConsoleSettings { Out = output });
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings { Out = output, Ansi = AnsiSupport.No, ColorSystem = ColorSystemSupport.NoColors, Interactive = InteractionSupport.No });
        console.Profile.Width = RedirectedWidth;
        return console;
    }

    private void PlainProgress(string title, double total, Action<Action<string, double>> work)
    {
        var since = Stopwatch.StartNew();
        work((what, done) =>
        {
            if (since.Elapsed < s_quiet) return;
            since.Restart();
            _log.WriteLine($"{title}: {100 * done / Math.Max(1, total):0} %, {what}");
        });
    }
}
