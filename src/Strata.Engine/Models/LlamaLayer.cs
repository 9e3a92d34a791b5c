// SPDX-License-Identifier: Apache-2.0
// The weights of one decoder block.
namespace Strata.Engine.Models;

/// <summary>One decoder block. Matrices are [outputs, inputs].</summary>
internal sealed class LlamaLayer
{
    public required DeviceTensor<float> AttentionNorm { get; init; }

    public required PackedWeight Query { get; init; }

    public required PackedWeight Key { get; init; }

    public required PackedWeight Value { get; init; }

    public required PackedWeight AttentionOutput { get; init; }

    public required DeviceTensor<float> FeedForwardNorm { get; init; }

    public required PackedWeight Gate { get; init; }

    public required PackedWeight Up { get; init; }

    public required PackedWeight Down { get; init; }
}
