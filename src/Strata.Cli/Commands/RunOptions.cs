// SPDX-License-Identifier: Apache-2.0
// Options of the verbs that run a model, and the model and session that they ask for.
using System.CommandLine;
using Strata.Engine.Cache;
using Strata.Engine.Models;

namespace Strata.Cli.Commands;

/// <summary>What `generate` and `perplexity` have in common.</summary>
internal sealed class RunOptions
{
    private readonly Option<string?> _model = CommonOptions.Model();
    private readonly Option<string> _device = CommonOptions.Device();
    private readonly Option<int> _threads = CommonOptions.Threads();
    private readonly Option<string?> _isa = new("--isa")
    {
        Description = "Highest instruction set of the CPU to use: scalar, avx2, avx512, avx512vnni or amx.",
        HelpName = "ISA",
    };

    private readonly Option<string?> _activations = Choice("--activations", "Inputs of quantised matrices: f32, or i8 in groups of 32.", "f32", "i8");
    private readonly Option<string?> _kv = Choice(
        "--kv",
        "How the KV cache stores numbers: f32, f16 or bf16; i8, one scale per token and head; i8b or i4, scales and zero points per 32 tokens of a key channel and per 32 channels of a value. Without it f32 with f32 activations and f16 with i8.",
        [.. KvStorage.Names]);

    private readonly Option<int> _rotation = CommonOptions.Number(
        "--kv-rotation", "Points of a Hadamard rotation of keys and values, which spreads outliers: 16, 32, 64, 128 or 256, a divisor of the head size; 0 is none.", 0, 0, 256);
    private readonly Option<int> _budget = CommonOptions.Number("--kv-budget", "Tokens that the KV cache keeps per layer and head; 0 keeps all.", 0, 0, 1 << 24);
    private readonly Option<string?> _policy = Choice("--policy", "Which tokens stay under a budget; snapkv where it is not given.", "snapkv", "streaming");

    public void AddTo(Command command)
    {
        Option[] options = [_model, _device, _threads, _isa, _activations, _kv, _rotation, _budget, _policy];
        foreach (Option option in options)
        {
            command.Add(option);
        }
    }

    public string ModelPath(ParseResult parsed) => CommonOptions.ModelPath(parsed, _model);

    public KvBudget? Budget(ParseResult parsed)
    {
        int tokens = parsed.GetValue(_budget);
        return tokens == 0 ? null : new KvBudget(tokens, parsed.GetValue(_policy) is "streaming" ? KvPolicy.Streaming : KvPolicy.SnapKv);
    }

    /// <summary>How the KV cache stores numbers.</summary>
    /// <exception cref="CommandException">A quantised or rotated cache is to be cut to a budget.</exception>
    public KvStorage Kv(ParseResult parsed)
    {
        KvStorage storage = KvStorage.Named(parsed.GetValue(_kv) ?? (parsed.GetValue(_activations) is "i8" ? "f16" : "f32"));
        int rotation = parsed.GetValue(_rotation);
        if (parsed.GetValue(_budget) != 0 && (storage.Format is not KvFormat.Plain || rotation != 0))
        {
            throw new CommandException(
                $"--kv {storage.Name} with --kv-rotation {rotation} comes with --kv-budget, must be f32, f16 or bf16 without rotation, which is what scoring and compaction read; leave out one or the other");
        }

        return storage with { Rotation = rotation };
    }

    public SessionOptions Session(ParseResult parsed, int capacity)
    {
        KvStorage storage = Kv(parsed);
        return new SessionOptions
        {
            Capacity = capacity,
            Budget = Budget(parsed),
            Int8Activations = parsed.GetValue(_activations) is "i8",
            KvType = storage.Type,
            KvFormat = storage.Format,
            KvRotation = storage.Rotation,
        };
    }

    public LoadedModel Load(ParseResult parsed, CancellationToken cancellation) =>
        new(ModelPath(parsed), parsed.GetValue(_device)!, parsed.GetValue(_threads), parsed.GetValue(_isa), cancellation);

    private static Option<string?> Choice(string name, string description, params string[] values)
    {
        var option = new Option<string?>(name) { Description = description };
        option.AcceptOnlyFromAmong(values);
        return option;
    }
}
