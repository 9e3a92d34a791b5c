// SPDX-License-Identifier: Apache-2.0
// A whole model of random weights, small enough for the host executor of the GPU kernels, with any metadata.
using Strata.Engine.Gguf;
using Strata.Engine.Models;

namespace Strata.Tests.Engine;

/// <summary>Two layers, two query heads on one KV head of 64 channels, 32 token ids.</summary>
internal static class SyntheticModel
{
    public const int Layers = 2;
    public const int HeadDim = 64;
    public const int Vocabulary = 32;
    private const int Width = 64;
    private const int QueryHeads = 2;
    private const int FeedForward = 64;

    /// <summary>The model on a device. The same weights each time.</summary>
    /// <param name="device">The device.</param>
    /// <param name="frequencyFactors">What rope_freqs.weight holds; null leaves it out.</param>
    /// <param name="metadata">What the file says besides.</param>
    public static LlamaModel On(Device device, float[]? frequencyFactors, params (string Key, object Value)[] metadata)
    {
        using GgufReader reader = GgufReader.Open((ReadOnlySpan<byte>)File(frequencyFactors, metadata).Build());
        return LlamaModel.Load(reader, device);
    }

    /// <summary>Token ids without a pattern.</summary>
    public static int[] Tokens(int count) => [.. Enumerable.Range(0, count).Select(i => i * i * 7 % 31)];

    private static GgufBuilder File(float[]? frequencyFactors, (string Key, object Value)[] metadata)
    {
        var builder = new GgufBuilder();
        builder.Add("general.architecture", "llama");
        builder.Add("llama.block_count", (uint)Layers);
        builder.Add("llama.embedding_length", (uint)Width);
        builder.Add("llama.feed_forward_length", (uint)FeedForward);
        builder.Add("llama.attention.head_count", (uint)QueryHeads);
        builder.Add("llama.attention.head_count_kv", 1u);
        builder.Add("llama.attention.key_length", (uint)HeadDim);
        builder.Add("llama.attention.value_length", (uint)HeadDim);
        builder.Add("llama.context_length", 1024u);
        foreach ((string key, object value) in metadata)
        {
            builder.Add(key, value);
        }

        var random = new Random(17);
        Matrix("token_embd.weight", Vocabulary, Width);
        Norm("output_norm.weight");
        for (int layer = 0; layer < Layers; layer++)
        {
            string block = $"blk.{layer}.";
            Norm(block + "attn_norm.weight");
            Matrix(block + "attn_q.weight", QueryHeads * HeadDim, Width);
            Matrix(block + "attn_k.weight", HeadDim, Width);
            Matrix(block + "attn_v.weight", HeadDim, Width);
            Matrix(block + "attn_output.weight", Width, QueryHeads * HeadDim);
            Norm(block + "ffn_norm.weight");
            Matrix(block + "ffn_gate.weight", FeedForward, Width);
            Matrix(block + "ffn_up.weight", FeedForward, Width);
            Matrix(block + "ffn_down.weight", Width, FeedForward);
        }

        if (frequencyFactors is not null)
        {
            builder.Add("rope_freqs.weight", [(ulong)frequencyFactors.Length], frequencyFactors);
        }

        return builder;

        // Scaled so that a layer keeps the size of its input.
        void Matrix(string name, int rows, int columns) =>
            builder.Add(name, [(ulong)columns, (ulong)rows], Values(rows * columns, () => (random.NextSingle() - 0.5f) * MathF.Sqrt(12f / columns)));

        void Norm(string name) => builder.Add(name, [Width], Values(Width, () => 1));
    }

    private static float[] Values(int count, Func<float> value) => [.. Enumerable.Range(0, count).Select(_ => value())];
}
