// SPDX-License-Identifier: Apache-2.0
// `strata bench`: times the ops, or a model, against the limits that the machine shows in the same run.
using System.CommandLine;
using Strata.Runner;

namespace Strata.Cli.Commands;

internal static class BenchCommand
{
    public static Command Create()
    {
        var ops = new Argument<string[]>("op") { Description = "Ops to time; none means all.", DefaultValueFactory = _ => [] };
        var filter = new Option<string?>("--case") { Description = "Only cases whose name contains this.", HelpName = "TEXT" };
        var quick = new Option<bool>("--quick") { Description = "The short selection of cases, about 0.2 s each." };
        var model = new Option<string?>("--model", "-m") { Description = "GGUF model to time as a whole: decode and prefill.", HelpName = "FILE" };
        var device = CommonOptions.Device();
        var isa = new Option<string?>("--isa") { Description = "Instruction set of the CPU to use, or all.", HelpName = "ISA" };
        var threads = CommonOptions.Threads();
        var seconds = new Option<double>("--seconds") { Description = "Seconds of timing a case; 0 is the usual." };
        var peers = new Option<bool>("--peers") { Description = "Time other libraries beside ours, in turns (CPU only): ONNX Runtime for kv_attention and qgemm." };
        var json = CommonOptions.Json();
        var output = new Option<string?>("--out") { Description = "Also writes the JSON document here.", HelpName = "FILE" };
        var command = new Command("bench", "Times ops and models against the machine's own limits.")
        {
            ops, filter, quick, model, device, isa, threads, seconds, peers, json, output,
        };
        command.SetAction((parsed, cancellation) => Task.FromResult(BenchRunner.Run(
            new BenchOptions
            {
                Ops = parsed.GetValue(ops)!,
                Case = parsed.GetValue(filter),
                Quick = parsed.GetValue(quick),
                Model = parsed.GetValue(model),
                Device = parsed.GetValue(device)!,
                Isa = parsed.GetValue(isa),
                Threads = parsed.GetValue(threads),
                Seconds = parsed.GetValue(seconds),
                Peers = parsed.GetValue(peers),
                Json = parsed.GetValue(json),
                Out = parsed.GetValue(output),
            },
            Console.Out,
            Console.Error,
            cancellation)));
        return command;
    }
}
