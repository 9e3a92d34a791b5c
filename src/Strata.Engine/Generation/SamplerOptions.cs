// SPDX-License-Identifier: Apache-2.0
// How the next token is drawn.
namespace Strata.Engine.Generation;

/// <summary>How the next token is drawn from the logits.</summary>
public sealed record SamplerOptions
{
    /// <summary>Divisor of the logits before the softmax; 0 takes the highest logit.</summary>
    public float Temperature { get; init; }

    /// <summary>Only the most probable tokens whose probabilities add up to this are drawn, 0 to 1; 1 keeps all.</summary>
    public float TopP { get; init; } = 1f;

    /// <summary>Start of the random sequence; the same seed gives the same tokens.</summary>
    public ulong Seed { get; init; }
}
