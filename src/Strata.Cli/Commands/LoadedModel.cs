// SPDX-License-Identifier: Apache-2.0
// A device with a model on it and the model's tokenizer.
using Strata.Engine.Gguf;
using Strata.Engine.Models;
using Strata.Engine.Tokenization;

namespace Strata.Cli.Commands;

internal sealed class LoadedModel : IDisposable
{
    /// <summary>Opens the device and loads the model, with a bar on stderr.</summary>
    public LoadedModel(string path, string device, int threads, string? isa, CancellationToken cancellation)
    {
        using GgufReader reader = GgufReader.Open(path);
        Tokenizer = GgufTokenizer.Load(reader);
        Device = Device.Open(device, threads, isa);
        try
        {
            Model = Terminal.WithProgress("loading", progress => LlamaModel.Load(reader, Device, progress, cancellation));
        }
        catch
        {
            Device.Dispose();
            throw;
        }
    }

    public Device Device { get; }

    public LlamaModel Model { get; }

    public GgufTokenizer Tokenizer { get; }

    public void Dispose()
    {
        Model.Dispose();
        Device.Dispose();
    }
}
