// SPDX-License-Identifier: Apache-2.0
// `strata verify`: every op on this machine's devices against the reference.
using System.CommandLine;
using Strata.Runner;

namespace Strata.Cli.Commands;

internal static class VerifyCommand
{
    public static Command Create()
    {
        var ops = new Argument<string[]>("op") { Description = "Ops to check; none means all.", DefaultValueFactory = _ => [] };
        var device = new Option<string?>("--device") { Description = "cpu, simt or cuda:N; without it, every device that is here.", HelpName = "DEVICE" };
        var isa = new Option<string?>("--isa") { Description = "Instruction set of the CPU to use, or all.", HelpName = "ISA" };
        var threads = CommonOptions.Threads();
        var record = new Option<string?>("--record") { Description = "Also writes every call with its memory here, for replaying in the sanitizer builds; needs --device cpu or simt.", HelpName = "FILE" };
        var json = CommonOptions.Json();
        var command = new Command("verify", "Checks every op against the reference.") { ops, device, isa, threads, record, json };
        command.SetAction((parsed, cancellation) =>
        {
            string? set = parsed.GetValue(isa);
            return Task.FromResult(VerifyRunner.Run(
                new VerifyOptions
                {
                    Ops = parsed.GetValue(ops)!,
                    Device = parsed.GetValue(device),
                    Isa = set is "all" ? null : set,
                    AllIsas = set is "all",
                    Threads = parsed.GetValue(threads),
                    Record = parsed.GetValue(record),
                    Json = parsed.GetValue(json),
                },
                Console.Out,
                Console.Error,
                cancellation));
        });
        return command;
    }
}
