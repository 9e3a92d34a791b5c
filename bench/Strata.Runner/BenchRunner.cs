// SPDX-License-Identifier: Apache-2.0
// `strata bench`: times the ops' cases against the limits that the machine shows in the same run.

using System.Globalization;
using System.Text.Json;
using Spectre.Console;
using Strata.Reference;
using Strata.Runner.Peers;

namespace Strata.Runner;

/// <summary>The engine of `strata bench`.</summary>
public static class BenchRunner
{
    /// <summary>Seconds of timing a row.</summary>
    private const double FullSeconds = 1, QuickSeconds = 0.2;

    /// <summary>Times the cases and prints a table or a JSON document. An op that disagrees with the reference is not timed.</summary>
    /// <param name="options">What to time.</param>
    /// <param name="output">Gets the table or the document, nothing else.</param>
    /// <param name="log">Gets the progress and what was refused.</param>
    /// <param name="cancel">Ends the run early.</param>
    /// <returns>0, or 1 if a case was refused.</returns>
    /// <exception cref="StrataException">An op, case or device that is not there.</exception>
    /// <exception cref="OperationCanceledException">The run was ended early.</exception>
    public static int Run(BenchOptions options, TextWriter output, TextWriter log, CancellationToken cancel = default) =>
        Run(options, OpHarness.All, PeerList.All, Limits.Measure, output, log, cancel);

    internal static int Run(BenchOptions options, IReadOnlyList<OpHarness> harnesses, Func<int, IReadOnlyList<IPeer>> peers, Func<Device, Limits> measure, TextWriter output, TextWriter log, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        var display = new Display(output, log);
        List<(OpHarness Harness, OpCase Case)> work = Select(options, harnesses);
        using Targets targets = Targets.Open(options.Device, options.Isa == "all" ? null : options.Isa, options.Isa == "all", options.Threads);
        BenchReport report = Time(work, targets, options, peers, measure, display, cancel);
        string json = JsonSerializer.Serialize(report, ReportJson.Default.BenchReport);
        if (options.Out is not null) Save(options.Out, report, json, display);
        if (options.Json) display.WriteLine(json);
        else BenchTable.Print(report, display);
        foreach (string refused in report.Refused ?? []) display.Log($"refused: {refused}");
        return report.Refused is null ? 0 : 1;
    }

    private static List<(OpHarness Harness, OpCase Case)> Select(BenchOptions options, IReadOnlyList<OpHarness> harnesses)
    {
        if (options.Model is not null && options.Ops.Count == 0 && options.Case is null) return [];
        string tag = options.Quick ? "quick" : "bench";
        var work = Targets.Select("bench", harnesses, options.Ops)
            .SelectMany(h => h.Cases.Select(c => (Harness: h, Case: c)))
            .Where(w => options.Case is { } name ? w.Case.Name.Contains(name, StringComparison.Ordinal) : w.Case.Tags.Contains(tag))
            .ToList();
        if (work.Count == 0)
        {
            throw new StrataException(StrataStatus.Argument, options.Case is { } name
                ? $"bench: no case of these ops has {name} in its name, must be at least one; see native/ops/<op>/cases.inc for the names"
                : $"bench: these ops have no case with the tag {tag}, must be at least one; pick other ops or name a case");
        }
        return work;
    }

    private static BenchReport Time(List<(OpHarness Harness, OpCase Case)> work, Targets targets, BenchOptions options, Func<int, IReadOnlyList<IPeer>> peersOf, Func<Device, Limits> measure, Display display, CancellationToken cancel)
    {
        var rows = new List<BenchRow>();
        List<string> refused = [], missing = [];
        DeviceInfo info = Device.List().First(d => d.Id == options.Device);
        int threads = options.Threads > 0 ? options.Threads : info.Threads;
        IReadOnlyList<IPeer> peers = options.Peers ? peersOf(threads) : [];
        double seconds = options.Seconds > 0 ? options.Seconds : options.Quick ? QuickSeconds : FullSeconds;
        BenchLimits? reported = null;
        display.WithProgress("bench", targets.Devices.Count * (work.Count + (options.Model is null ? 1 : 2)), progress =>
        {
            int done = 0;
            foreach (Device device in targets.Devices)
            {
                progress("limits of the machine", done++);
                Limits limits = measure(device);
                var timed = new List<(BenchRow Row, double Bytes, double Operations, Roof Roof)>();
                using var timer = new CaseTimer(device, seconds);
                foreach ((OpHarness harness, OpCase opCase) in work)
                {
                    cancel.ThrowIfCancellationRequested();
                    progress(opCase.ToString(), done++);
                    try
                    {
                        timed.AddRange(TimeCase(harness, opCase, device, threads, timer, [.. peers.Where(p => p.Op == opCase.Op)], missing));
                    }
                    catch (RefusedException e)
                    {
                        refused.Add(e.Message);
                    }
                }
                // A shared machine has slow minutes: the limits are the higher of those before and after the cases.
                limits = limits.OrHigher(measure(device));
                reported = limits.ToReport();
                rows.AddRange(timed.Select(t => t.Row with { LimitShare = Share(limits, t.Bytes, t.Operations, t.Roof, t.Row.MedianUs) }));
                if (options.Model is null) continue;
                progress(Path.GetFileName(options.Model), done++);
                rows.AddRange(ModelTimer.Time(options.Model, device, limits, seconds, cancel)
                    .Select(t => Row("model", t.Case, device, threads, "cold", t.Microseconds, t.Bytes, t.Operations, t.Share)));
            }
        });
        string date = DateTime.UtcNow.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
        var machine = new BenchMachine(info.Name, targets.Devices[^1].Isa, threads, date, reported!);
        return new BenchReport(machine, rows, refused.Count == 0 ? null : refused, missing.Count == 0 ? null : missing);
    }

    private static double? Share(Limits limits, double bytes, double operations, Roof roof, double microseconds) =>
        limits.Share(bytes, operations, roof, microseconds * 1e-6) is { } share ? Statistics.Rounded(share) : null;

    private static List<(BenchRow Row, double Bytes, double Operations, Roof Roof)> TimeCase(OpHarness harness, OpCase opCase, Device device, int threads, CaseTimer timer, IReadOnlyList<IPeer> peers, List<string> missing)
    {
        if (device.Id != "cpu")
        {
            foreach (IPeer peer in peers) Missing(peer, $"the device is {device.Id}, must be cpu");
            peers = [];
        }
        OpProblem problem = harness.Create(opCase, harness.Families[0], seed: 1);
        IReadOnlyList<CaseTime> times = timer.Time(harness, opCase, problem, peers, Missing);
        var rows = new List<(BenchRow, double, double, Roof)>();
        foreach ((string state, Func<CaseTime, Quantiles> of) in new (string, Func<CaseTime, Quantiles>)[] { ("cold", t => t.Cold), ("warm", t => t.Warm) })
        {
            foreach (CaseTime time in times)
            {
                Quantiles microseconds = of(time);
                BenchRow row = Row(opCase.Op, opCase.Name, device, threads, state, microseconds, time.Bytes, problem.Operations, share: null);
                if (time.Peer is not null) row = row with { Peer = time.Peer.Name(opCase), Ratio = Statistics.Rounded(microseconds.Median / of(times[0]).Median) };
                rows.Add((row, time.Bytes, problem.Operations, problem.Roof));
            }
        }
        return rows;

        void Missing(IPeer peer, string reason) => missing.Add($"{opCase} on {device.Id}/{device.Isa}: {peer.Name(opCase)}: {reason}");
    }

    private static BenchRow Row(string op, string name, Device device, int threads, string state, Quantiles microseconds, double bytes, double operations, double? share)
    {
        double time = microseconds.Median * 1e-6;
        return new BenchRow(
            op, name, device.Id, device.Isa, threads, state,
            Statistics.Rounded(microseconds.Median), Statistics.Rounded(microseconds.P20), Statistics.Rounded(microseconds.P80),
            Statistics.Rounded(bytes / time / 1e9), Statistics.Rounded(operations / time / 1e9), share is { } s ? Statistics.Rounded(s) : null,
            Peer: null, Ratio: null);
    }

    private static void Save(string path, BenchReport report, string json, Display display)
    {
        if (Directory.Exists(path) || path.EndsWith('/'))
        {
            string machine = string.Concat(report.Machine.Name.Select(c => char.IsAsciiLetterOrDigit(c) ? char.ToLowerInvariant(c) : '-')).Trim('-');
            path = Path.Combine(path, machine, $"{report.Machine.Date}.json");
        }
        if (Path.GetDirectoryName(Path.GetFullPath(path)) is { } folder) Directory.CreateDirectory(folder);
        File.WriteAllText(path, json + "\n");
        display.Log($"bench: wrote {path}");
    }
}
