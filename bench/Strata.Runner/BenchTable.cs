// SPDX-License-Identifier: Apache-2.0
// The table that `strata bench` prints.

using System.Globalization;
using Spectre.Console;

namespace Strata.Runner;

internal static class BenchTable
{
    private static readonly string[] s_columns = ["op", "case", "isa", "state", "median µs", "p20–p80", "GB/s", "GFLOP/s", "% of limit"];
    private static readonly string[] s_peerColumns = ["peer", "ours is × as fast"];
    private const int FirstNumber = 4;

    public static void Print(BenchReport report, Display display)
    {
        BenchMachine machine = report.Machine;
        bool peers = report.Rows.Any(r => r.Peer is not null);
        display.WriteLine($"{machine.Name}, {machine.Isa}, {machine.Threads} threads, {machine.Date}");
        display.WriteLine($"limits: {Describe(machine.Limits)}");
        Table table = new Table().Border(TableBorder.Simple).AddColumns(s_columns);
        for (int i = FirstNumber; i < s_columns.Length; i++) table.Columns[i].RightAligned();
        if (peers) table.AddColumns(s_peerColumns).Columns[^1].RightAligned();
        foreach (BenchRow row in report.Rows)
        {
            string[] cells =
            [
                Markup.Escape(row.Op), Markup.Escape(row.Case), Markup.Escape(row.Isa), row.State,
                Number(row.MedianUs), $"{Number(row.P20Us)}–{Number(row.P80Us)}", Number(row.GbS), Number(row.GflopS),
                row.LimitShare is { } share ? (100 * share).ToString("0", CultureInfo.InvariantCulture) : "",
            ];
            table.AddRow(peers ? [.. cells, Markup.Escape(row.Peer ?? ""), row.Ratio is { } ratio ? Number(ratio) : ""] : cells);
        }
        display.Write(table);
        foreach (string missing in report.PeersMissing ?? []) display.WriteLine($"no peer: {missing}");
    }

    private static string Describe(BenchLimits limits)
    {
        (string Name, double? Value, string Unit)[] all =
        [
            ("read", limits.ReadGbS, "GB/s"), ("fp32", limits.Fp32Gflops, "GFLOP/s"), ("bf16", limits.Bf16Gflops, "GFLOP/s"), ("int8", limits.Int8Gops, "GOP/s"),
            ("amx bf16", limits.AmxBf16Gflops, "GFLOP/s"), ("amx int8", limits.AmxInt8Gops, "GOP/s"),
        ];
        return string.Join(", ", all.Where(l => l.Value is not null).Select(l => $"{l.Name} {Number(l.Value!.Value)} {l.Unit}").DefaultIfEmpty("none on this device"));
    }

    private static string Number(double value) => value.ToString(value < 10 ? "0.00" : value < 1000 ? "0.0" : "0", CultureInfo.InvariantCulture);
}
