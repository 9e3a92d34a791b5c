// SPDX-License-Identifier: Apache-2.0
// The shape of a Llama-architecture model as its file states it.
using Strata.Engine.Gguf;

namespace Strata.Engine.Models;

/// <summary>Extents and constants of a Llama-architecture model.</summary>
public sealed record LlamaConfig
{
    private const int MostLayers = 1024;
    private const int MostHeads = 1024;
    private const int MostChannels = 1 << 20;
    private const int MostContext = 1 << 24;

    /// <summary>Decoder blocks.</summary>
    public required int Layers { get; init; }

    /// <summary>Channels of the residual stream.</summary>
    public required int Width { get; init; }

    /// <summary>Channels inside the feed-forward part.</summary>
    public required int FeedForward { get; init; }

    /// <summary>Query heads.</summary>
    public required int QueryHeads { get; init; }

    /// <summary>KV heads; a divisor of <see cref="QueryHeads"/>.</summary>
    public required int KvHeads { get; init; }

    /// <summary>Channels of one head.</summary>
    public required int HeadDim { get; init; }

    /// <summary>Tokens that the model was trained to look back over.</summary>
    public required int ContextLength { get; init; }

    /// <summary>Added to the mean square under the root of RMSNorm.</summary>
    public required float NormEpsilon { get; init; }

    /// <summary>How queries and keys turn with their position; the factors that a file may have for single frequencies come with its weights.</summary>
    public required RopeParameters Rope { get; init; }

    /// <summary>Reads the shape from the metadata.</summary>
    /// <param name="reader">The file.</param>
    /// <returns>The shape.</returns>
    /// <exception cref="StrataFormatException">A value is missing or impossible, or the model is not one that this engine runs.</exception>
    public static LlamaConfig Read(GgufReader reader)
    {
        ArgumentNullException.ThrowIfNull(reader);
        string architecture = reader.GetString("general.architecture");
        if (architecture is not "llama")
        {
            throw new StrataFormatException(
                $"model: 'general.architecture' is {GgufCursor.Quote(architecture)}, must be 'llama'; use a model of the Llama architecture");
        }

        if (reader.FindInteger("llama.expert_count", 0, int.MaxValue) is > 0 and int experts)
        {
            throw new StrataFormatException($"model: 'llama.expert_count' is {experts}, must be 0; use a model without a mixture of experts");
        }

        int width = reader.GetInteger("llama.embedding_length", 1, MostChannels);
        int queryHeads = reader.GetInteger("llama.attention.head_count", 1, MostHeads);
        int kvHeads = reader.FindInteger("llama.attention.head_count_kv", 1, MostHeads) ?? queryHeads;
        int headDim = reader.FindInteger("llama.attention.key_length", 1, MostChannels) ?? width / queryHeads;
        int valueDim = reader.FindInteger("llama.attention.value_length", 1, MostChannels) ?? headDim;
        if (queryHeads % kvHeads != 0 || headDim == 0 || valueDim != headDim)
        {
            throw new StrataFormatException(
                $"model: {queryHeads} query heads, {kvHeads} KV heads, key size {headDim} and value size {valueDim} is what the file has, must be a multiple of the KV heads and two equal sizes above 0; use a model of that form");
        }

        int contextLength = reader.GetInteger("llama.context_length", 1, MostContext);
        return new LlamaConfig
        {
            Layers = reader.GetInteger("llama.block_count", 1, MostLayers),
            Width = width,
            FeedForward = reader.GetInteger("llama.feed_forward_length", 1, MostChannels),
            QueryHeads = queryHeads,
            KvHeads = kvHeads,
            HeadDim = headDim,
            ContextLength = contextLength,
            NormEpsilon = reader.FindPositive("llama.attention.layer_norm_rms_epsilon") ?? 1e-5f,
            Rope = RopeMetadata.Read(reader, headDim, contextLength),
        };
    }
}
