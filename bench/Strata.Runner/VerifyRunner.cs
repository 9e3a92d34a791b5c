// SPDX-License-Identifier: Apache-2.0
// `strata verify`: every op, case and data family on the devices of this machine against the fp64 oracle.

using System.Globalization;
using System.Text.Json;
using Spectre.Console;
using Strata.Reference;

namespace Strata.Runner;

/// <summary>The engine of `strata verify`.</summary>
public static class VerifyRunner
{
    /// <summary>Runs every test case of the ops and prints a table or a JSON document.</summary>
    /// <param name="options">What to verify.</param>
    /// <param name="output">Gets the table or the document, nothing else.</param>
    /// <param name="log">Gets the progress.</param>
    /// <param name="cancel">Ends the run early.</param>
    /// <returns>0 if every comparison passed, else 1.</returns>
    /// <exception cref="StrataException">An op or device that is not there.</exception>
    /// <exception cref="OperationCanceledException">The run was ended early.</exception>
    public static int Run(VerifyOptions options, TextWriter output, TextWriter log, CancellationToken cancel = default) =>
        Run(options, OpHarness.All, output, log, cancel);

    internal static int Run(VerifyOptions options, IReadOnlyList<OpHarness> harnesses, TextWriter output, TextWriter log, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        var display = new Display(output, log);
        IReadOnlyList<OpHarness> selected = Targets.Select("verify", harnesses, options.Ops);
        using Targets targets = options.Device is null
            ? Targets.OpenAll(options.Isa, options.AllIsas, options.Threads)
            : Targets.Open(options.Device, options.Isa, options.AllIsas, options.Threads);
        using CallRecorder? recorder = options.Record is null ? null : Recorder(options.Record, targets);
        VerifyReport report = Verify(selected, targets, recorder, display, cancel);
        if (options.Json) display.WriteLine(JsonSerializer.Serialize(report, ReportJson.Default.VerifyReport));
        else Print(report, display);
        return report.Passed ? 0 : 1;
    }

    private static CallRecorder Recorder(string path, Targets targets)
    {
        if (targets.Devices.Count != 1 || !targets.Devices[0].IsHostMemory)
        {
            throw new StrataException($"verify: --record has {targets.Devices.Count} devices, must have one with host memory; pass --device simt or --device cpu");
        }
        return new CallRecorder(path, targets.Devices[0]);
    }

    private static VerifyReport Verify(IReadOnlyList<OpHarness> harnesses, Targets targets, CallRecorder? recorder, Display display, CancellationToken cancel)
    {
        var work = harnesses.SelectMany(h => h.Cases.Where(c => c.Tags.Contains("test")).Select(c => (Harness: h, Case: c))).ToList();
        var rows = new List<VerifyRow>();
        display.WithProgress("verify", work.Count, report =>
        {
            int done = 0;
            foreach (OpHarness harness in harnesses)
            {
                Tally[] tallies = [.. targets.Devices.Select(d => new Tally(harness.Op, d))];
                foreach (OpCase opCase in work.Where(w => w.Harness == harness).Select(w => w.Case))
                {
                    report(opCase.ToString(), done++);
                    VerifyCase(harness, opCase, tallies, recorder, cancel);
                }
                rows.AddRange(tallies.Select(t => t.ToRow()));
            }
        });
        return new VerifyReport(Device.List()[0].Name, rows.All(r => r.Passed), rows, targets.Skipped);
    }

    // The oracle is slow and remembers its result, so one problem serves all devices.
    private static void VerifyCase(OpHarness harness, OpCase opCase, Tally[] tallies, CallRecorder? recorder, CancellationToken cancel)
    {
        foreach (Tally tally in tallies) tally.Cases++;
        foreach (DataFamily family in harness.FamiliesOf(opCase))
        {
            recorder?.Begin($"{opCase}, {family}", opCase.Tags.Contains("tiny") && family == harness.Families[0]);
            OpProblem problem = harness.Create(opCase, family, seed: 1);
            foreach (Tally tally in tallies)
            {
                cancel.ThrowIfCancellationRequested();
                tally.Check(problem, $"{opCase.Name}, {family}");
            }
        }
    }

    private static void Print(VerifyReport report, Display display)
    {
        Table table = new Table().Border(TableBorder.Simple).AddColumns("op", "device", "cases", "checks", "error ÷ gate", "worst at", "");
        table.Columns[2].RightAligned();
        table.Columns[3].RightAligned();
        table.Columns[4].RightAligned();
        foreach (VerifyRow row in report.Rows)
        {
            string device = row.Isa == row.Device ? row.Device : $"{row.Device}/{row.Isa}";
            table.AddRow(
                row.Op, Markup.Escape(device), Number(row.Cases), Number(row.Checks),
                row.Share is { } share ? share.ToString("0.000", CultureInfo.InvariantCulture) : "–",
                Markup.Escape(row.Where), row.Passed ? "[green]ok[/]" : "[red]FAILED[/]");
        }
        display.Write(table);
        foreach (SkippedDevice skipped in report.Skipped) display.WriteLine($"not here: {skipped.Device}: {skipped.Reason}");
        foreach (string failure in report.Rows.SelectMany(r => r.Failures)) display.WriteLine($"FAILED {failure}");
        int passed = report.Rows.Count(r => r.Passed);
        display.WriteLine($"{passed} of {report.Rows.Count} ops and devices agree with the reference");
    }

    private static string Number(int value) => value.ToString(CultureInfo.InvariantCulture);

    /// <summary>What is known about one op on one device so far.</summary>
    private sealed class Tally(string op, Device device)
    {
        private const int KeptFailures = 5;
        private readonly List<string> _failures = [];
        private Comparison _worst = new(0, 1, "");
        private string _where = "";
        private int _checks;
        private bool _failed;

        public int Cases { get; set; }

        public void Check(OpProblem problem, string what)
        {
            _checks++;
            try
            {
                using OpRun run = problem.Bind(device, Poison.Nan);
                run.Run();
                device.Synchronize();
                Comparison comparison = run.Compare();
                if (Comparison.Worst(_worst, comparison) != _worst) (_worst, _where) = (comparison, $"{what}: {comparison.Where}");
                if (!comparison.Passes) Fail($"{what}: error {comparison.Error:g3} above {comparison.Gate:g3} at {comparison.Where} ({Device.LastImplementation})");
            }
            catch (Exception e) when (e is not OperationCanceledException)
            {
                Fail($"{what}: {e.Message}");
            }
        }

        public VerifyRow ToRow()
        {
            double share = _worst.Error == 0 ? 0 : _worst.Error / _worst.Gate;
            return new VerifyRow(op, device.Id, device.Isa, Cases, _checks, Finite(share), Finite(_worst.Error), Finite(_worst.Gate), _where, !_failed, _failures);
        }

        private static double? Finite(double value) => double.IsFinite(value) ? value : null;

        private void Fail(string sentence)
        {
            _failed = true;
            if (_failures.Count < KeptFailures) _failures.Add($"{op} on {device.Id}/{device.Isa}: {sentence}");
        }
    }
}
