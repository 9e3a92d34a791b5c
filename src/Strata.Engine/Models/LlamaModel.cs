// SPDX-License-Identifier: Apache-2.0
// The weights of a Llama-architecture model in the memory of a device.
using Strata.Engine.Gguf;

namespace Strata.Engine.Models;

/// <summary>A model on a device: its shape and its packed weights. Read-only once loaded, so several sessions may share it.</summary>
public sealed class LlamaModel : IDisposable
{
    private readonly List<IDisposable> _owned = [];

    private LlamaModel(Device device, LlamaConfig config)
    {
        Device = device;
        Config = config;
    }

    /// <summary>The device that holds the weights and runs the model; not owned.</summary>
    public Device Device { get; }

    /// <summary>Extents and constants.</summary>
    public LlamaConfig Config { get; }

    /// <summary>Number of token ids: rows of the embedding.</summary>
    public int VocabularySize { get; private set; }

    /// <summary>Bytes of the packed weights that one token reads: all but the embedding, where that is not the output matrix as well.</summary>
    public long WeightBytesPerToken { get; private set; }

    internal PackedWeight Embedding { get; private set; } = null!;

    internal PackedWeight Output { get; private set; } = null!;

    internal DeviceTensor<float> OutputNorm { get; private set; } = null!;

    /// <summary>What the frequency of each rotating pair is divided by; null where the file has no such factors.</summary>
    internal DeviceTensor<float>? FrequencyFactors { get; private set; }

    internal LlamaLayer[] Layers { get; private set; } = [];

    /// <summary>Packs the weights of a file for a device.</summary>
    /// <param name="reader">The file; not needed afterwards.</param>
    /// <param name="device">The device; must outlive the model.</param>
    /// <param name="progress">Told the share done, 0 to 1; may be null.</param>
    /// <param name="cancellation">Ends the work between two tensors.</param>
    /// <returns>The model.</returns>
    /// <exception cref="StrataFormatException">The file is not a Llama-architecture model, lacks a tensor, or has one of another shape or of a type without kernels.</exception>
    /// <exception cref="DeviceOutOfMemoryException">The device has too little memory.</exception>
    /// <exception cref="OperationCanceledException">The work was cancelled.</exception>
    public static LlamaModel Load(GgufReader reader, Device device, Action<double>? progress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(reader);
        ArgumentNullException.ThrowIfNull(device);
        LlamaConfig config = LlamaConfig.Read(reader);
        var model = new LlamaModel(device, config);
        try
        {
            model.LoadWeights(new WeightLoader(reader, device, model._owned, progress, cancellation));
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Frees the weights. Sessions of the model must be disposed of before.</summary>
    public void Dispose()
    {
        foreach (IDisposable weight in _owned)
        {
            weight.Dispose();
        }

        _owned.Clear();
    }

    private void LoadWeights(WeightLoader loader)
    {
        LlamaConfig config = Config;
        int queries = config.QueryHeads * config.HeadDim;
        int keys = config.KvHeads * config.HeadDim;
        Embedding = loader.Matrix("token_embd.weight", rows: null, config.Width);
        VocabularySize = checked((int)Embedding.N);
        OutputNorm = loader.Vector("output_norm.weight", config.Width);
        Output = loader.Has("output.weight") ? loader.Matrix("output.weight", VocabularySize, config.Width) : Embedding;
        FrequencyFactors = loader.Has("rope_freqs.weight") ? loader.PositiveVector("rope_freqs.weight", config.Rope.Dims / 2) : null;
        Layers = new LlamaLayer[config.Layers];
        for (int i = 0; i < Layers.Length; i++)
        {
            string block = $"blk.{i}.";
            Layers[i] = new LlamaLayer
            {
                AttentionNorm = loader.Vector(block + "attn_norm.weight", config.Width),
                Query = loader.Matrix(block + "attn_q.weight", queries, config.Width),
                Key = loader.Matrix(block + "attn_k.weight", keys, config.Width),
                Value = loader.Matrix(block + "attn_v.weight", keys, config.Width),
                AttentionOutput = loader.Matrix(block + "attn_output.weight", config.Width, queries),
                FeedForwardNorm = loader.Vector(block + "ffn_norm.weight", config.Width),
                Gate = loader.Matrix(block + "ffn_gate.weight", config.FeedForward, config.Width),
                Up = loader.Matrix(block + "ffn_up.weight", config.FeedForward, config.Width),
                Down = loader.Matrix(block + "ffn_down.weight", config.Width, config.FeedForward),
            };
        }

        loader.RefuseOthers();
        WeightBytesPerToken = loader.Bytes - (ReferenceEquals(Output, Embedding) ? 0 : Embedding.Bytes);
    }
}
