// SPDX-License-Identifier: Apache-2.0
// Rotary embedding as a model file states it: plain, linearly scaled, or YaRN.
using Strata.Engine.Gguf;

namespace Strata.Engine.Models;

/// <summary>Reads the rotation of a Llama-architecture model.</summary>
internal static class RopeMetadata
{
    private const string Scaling = "llama.rope.scaling.";
    private const int MostContext = 1 << 24;

    public static RopeParameters Read(GgufReader reader, int headDim, int contextLength)
    {
        int dims = reader.FindInteger("llama.rope.dimension_count", 1, int.MaxValue) ?? headDim;
        if (dims > headDim || dims % 2 != 0)
        {
            throw new StrataFormatException(
                $"model: 'llama.rope.dimension_count' is {dims}, must be even and at most the head size {headDim}; convert the model again");
        }

        var plain = new RopeParameters
        {
            Mode = RopeMode.Interleaved,
            Dims = dims,
            Base = reader.FindPositive("llama.rope.freq_base") ?? 10_000f,
            FrequencyScale = 1,
            Magnitude = reader.FindPositive(Scaling + "attn_factor") ?? 1f,
        };

        // A file without a type that has a factor is one from before there were types, and linear.
        string type = reader.FindString(Scaling + "type") ?? "linear";
        return type switch
        {
            "none" => plain,
            "linear" => plain with { FrequencyScale = 1 / (Factor(reader) ?? 1f) },
            "yarn" => Yarn(reader, plain, contextLength),
            _ => throw new StrataFormatException(
                $"model: '{Scaling}type' is {GgufCursor.Quote(type)}, must be 'none', 'linear' or 'yarn'; use a model with one of these"),
        };
    }

    private static RopeParameters Yarn(GgufReader reader, RopeParameters plain, int contextLength)
    {
        float factor = Factor(reader) ?? throw new StrataFormatException(
            $"model: '{Scaling}factor' is missing, must be there with the scaling type 'yarn'; use a model file with complete metadata");
        Require(reader, Scaling + "yarn_ext_factor", 1f);
        Require(reader, Scaling + "yarn_log_multiplier", 0f);
        float magnitude = plain.Magnitude * (reader.FindPositive(Scaling + "yarn_attn_factor") ?? 1f);
        return plain with
        {
            FrequencyScale = 1 / factor,
            YarnContext = reader.FindInteger(Scaling + "original_context_length", 1, MostContext) ?? contextLength,
            YarnBetaFast = reader.FindPositive(Scaling + "yarn_beta_fast") ?? 32f,
            YarnBetaSlow = reader.FindPositive(Scaling + "yarn_beta_slow") ?? 1f,

            // Longer contexts flatten the softmax; YaRN sharpens it again by scaling queries and keys.
            Magnitude = magnitude * (1 + (0.1f * MathF.Log(factor))),
        };
    }

    private static float? Factor(GgufReader reader) => reader.FindPositive(Scaling + "factor") ?? reader.FindPositive("llama.rope.scale_linear");

    private static void Require(GgufReader reader, string key, float wanted)
    {
        if (reader.FindFloat(key) is { } value && value != wanted)
        {
            throw new StrataFormatException($"model: {GgufCursor.Quote(key)} is {value}, must be {wanted} or absent; use a model with plain YaRN");
        }
    }
}
