// SPDX-License-Identifier: Apache-2.0
// How a session runs a model.
using Strata.Engine.Cache;

namespace Strata.Engine.Models;

/// <summary>How a session runs a model.</summary>
public sealed record SessionOptions
{
    /// <summary>Most tokens that the KV cache is to hold at one time, 1 to 2^24. With a budget: the prompt, or the budget and two pages.</summary>
    public required int Capacity { get; init; }

    /// <summary>Element type of keys and values: F32, F16 or BF16.</summary>
    public DType KvType { get; init; } = DType.F32;

    /// <summary>Whether the inputs of quantised matrices are quantised to int8 in groups of 32, and multiplied as integers.</summary>
    public bool Int8Activations { get; init; }

    /// <summary>Tokens per page of the KV cache: a power of two, 16 to 256.</summary>
    public int PageSize { get; init; } = 64;

    /// <summary>Most tokens of one forward pass; longer input is run in parts.</summary>
    public int ChunkTokens { get; init; } = 512;

    /// <summary>Most tokens of one pass whose logits are computed together, where all logits are wanted.</summary>
    public int LogitRows { get; init; } = 32;

    /// <summary>Limit on the cache; null keeps everything.</summary>
    public KvBudget? Budget { get; init; }

    internal void Check()
    {
        Within(nameof(Capacity), Capacity, 1, 1 << 24);
        Within(nameof(ChunkTokens), ChunkTokens, 1, 1 << 16);
        Within(nameof(LogitRows), LogitRows, 1, 1 << 12);
        Within(nameof(PageSize), PageSize, 16, 256);
        Within(nameof(Budget), Budget?.Tokens ?? 1, 1, 1 << 24);
        if (KvType is not (DType.F32 or DType.F16 or DType.BF16) || (PageSize & (PageSize - 1)) != 0)
        {
            throw new ArgumentException($"session: KV type {KvType} with pages of {PageSize} is asked for, must be F32, F16 or BF16 and a power of two; change the options");
        }
    }

    private static void Within(string name, int value, int minimum, int maximum)
    {
        if (value < minimum || value > maximum)
        {
            throw new ArgumentOutOfRangeException(name, $"session: {name} is {value}, must be {minimum} to {maximum}; change the options");
        }
    }
}
