// SPDX-License-Identifier: Apache-2.0
// What a model file says of its shape: taken where it makes sense, refused in a sentence where it does not.
using Strata.Engine;
using Strata.Engine.Gguf;
using Strata.Engine.Models;

namespace Strata.Tests.Engine;

/// <summary>Reading of the model's shape, and of its tensors.</summary>
[TestFixture]
internal sealed class LlamaConfigTests
{
    [Test]
    public void TheShapeOfTheShippedModelIsRead()
    {
        using GgufReader reader = GgufReader.Open(TinyModel.Path);
        LlamaConfig config = LlamaConfig.Read(reader);
        Assert.That((config.Layers, config.Width, config.FeedForward), Is.EqualTo((4, 256, 768)));
        Assert.That((config.QueryHeads, config.KvHeads, config.HeadDim, config.Rope.Dims), Is.EqualTo((4, 2, 64, 64)));
        Assert.That((config.ContextLength, config.NormEpsilon, config.Rope.Base, config.Rope.FrequencyScale), Is.EqualTo((1024, 1e-5f, 10_000f, 1f)));
    }

    [TestCase("general.architecture", "qwen2", "architecture")]
    [TestCase("llama.block_count", 0u, "block_count")]
    [TestCase("llama.block_count", uint.MaxValue, "block_count")]
    [TestCase("llama.embedding_length", 0u, "embedding_length")]
    [TestCase("llama.attention.head_count", 0u, "head_count")]
    [TestCase("llama.attention.head_count", 100_000u, "head_count")]
    [TestCase("llama.attention.head_count_kv", 3u, "KV heads")]
    [TestCase("llama.attention.head_count_kv", 0u, "head_count_kv")]
    [TestCase("llama.attention.value_length", 32u, "value size")]
    [TestCase("llama.rope.dimension_count", 63u, "dimension_count")]
    [TestCase("llama.rope.dimension_count", 66u, "dimension_count")]
    [TestCase("llama.rope.freq_base", -1f, "freq_base")]
    [TestCase("llama.rope.freq_base", float.NaN, "freq_base")]
    [TestCase("llama.attention.layer_norm_rms_epsilon", 0f, "epsilon")]
    [TestCase("llama.expert_count", 8u, "expert_count")]
    [TestCase("llama.rope.scaling.type", "longrope", "'none', 'linear' or 'yarn'")]
    [TestCase("llama.rope.scaling.type", "yarn", "scaling.factor")]
    [TestCase("llama.rope.scaling.factor", 0f, "scaling.factor")]
    [TestCase("llama.rope.scaling.attn_factor", -1f, "attn_factor")]
    [TestCase("llama.context_length", "long", "context_length")]
    [TestCase("llama.feed_forward_length", 1.5f, "feed_forward_length")]
    public void AnImpossibleShapeIsRefused(string key, object value, string named)
    {
        using GgufReader reader = With(key, value);
        Assert.That(() => LlamaConfig.Read(reader), Throws.TypeOf<StrataFormatException>().With.Message.Contains(named).And.Message.Contains("must be"));
    }

    [TestCase("general.architecture")]
    [TestCase("llama.block_count")]
    [TestCase("llama.embedding_length")]
    [TestCase("llama.feed_forward_length")]
    [TestCase("llama.attention.head_count")]
    [TestCase("llama.context_length")]
    public void WhatEveryModelHasMustBeThere(string key)
    {
        using GgufReader reader = With(key, null);
        Assert.That(() => LlamaConfig.Read(reader), Throws.TypeOf<StrataFormatException>().With.Message.Contains(key).And.Message.Contains("missing"));
    }

    [TestCase("linear", "llama.rope.scaling.factor", 0.25f)]
    [TestCase(null, "llama.rope.scaling.factor", 0.25f)]
    [TestCase(null, "llama.rope.scale_linear", 0.25f)]
    [TestCase("none", "llama.rope.scaling.factor", 1f)]
    public void LinearScalingDividesPositions(string? type, string key, float scale)
    {
        using GgufReader reader = With(("llama.rope.scaling.type", type), (key, 4f));
        RopeParameters rope = LlamaConfig.Read(reader).Rope;
        Assert.That((rope.FrequencyScale, rope.YarnContext, rope.Magnitude), Is.EqualTo((scale, 0, 1f)));
    }

    [Test]
    public void YarnIsReadWithItsDefaults()
    {
        using GgufReader reader = With(("llama.rope.scaling.type", "yarn"), ("llama.rope.scaling.factor", 4f));
        RopeParameters rope = LlamaConfig.Read(reader).Rope;
        Assert.That((rope.FrequencyScale, rope.YarnContext, rope.YarnBetaFast, rope.YarnBetaSlow), Is.EqualTo((0.25f, 128, 32f, 1f)));
        Assert.That(rope.Magnitude, Is.EqualTo(1 + (0.1 * Math.Log(4))).Within(1e-6));
    }

    [Test]
    public void YarnIsReadAsTheFileHasIt()
    {
        using GgufReader reader = With(
            ("llama.rope.scaling.type", "yarn"),
            ("llama.rope.scaling.factor", 8f),
            ("llama.rope.scaling.original_context_length", 64u),
            ("llama.rope.scaling.attn_factor", 0.5f),
            ("llama.rope.scaling.yarn_beta_fast", 16f),
            ("llama.rope.scaling.yarn_beta_slow", 2f),
            ("llama.rope.scaling.yarn_attn_factor", 3f));
        RopeParameters rope = LlamaConfig.Read(reader).Rope;
        Assert.That((rope.FrequencyScale, rope.YarnContext, rope.YarnBetaFast, rope.YarnBetaSlow), Is.EqualTo((0.125f, 64, 16f, 2f)));
        Assert.That(rope.Magnitude, Is.EqualTo(1.5 * (1 + (0.1 * Math.Log(8)))).Within(1e-6));
    }

    [TestCase("yarn_ext_factor", 0.5f)]
    [TestCase("yarn_log_multiplier", 0.1f)]
    public void AnotherYarnIsRefused(string key, float value)
    {
        using GgufReader reader = With(
            ("llama.rope.scaling.type", "yarn"), ("llama.rope.scaling.factor", 4f), ("llama.rope.scaling." + key, value));
        Assert.That(() => LlamaConfig.Read(reader), Throws.TypeOf<StrataFormatException>().With.Message.Contains(key).And.Message.Contains("must be"));
    }

    private static GgufReader With(string key, object? value) => With((key, value));

    // A sound shape with some values replaced, added, or, where null, left out.
    private static GgufReader With(params (string Key, object? Value)[] changes)
    {
        var values = new Dictionary<string, object?>(StringComparer.Ordinal)
        {
            ["general.architecture"] = "llama",
            ["llama.block_count"] = 2u,
            ["llama.embedding_length"] = 256u,
            ["llama.feed_forward_length"] = 512u,
            ["llama.attention.head_count"] = 4u,
            ["llama.attention.head_count_kv"] = 2u,
            ["llama.context_length"] = 128u,
        };
        foreach ((string key, object? value) in changes)
        {
            values[key] = value;
        }

        var builder = new GgufBuilder();
        foreach ((string key, object? value) in values)
        {
            builder.Add(key, value);
        }

        return GgufReader.Open((ReadOnlySpan<byte>)builder.Build());
    }
}
