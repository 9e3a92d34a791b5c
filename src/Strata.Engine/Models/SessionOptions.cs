// SPDX-License-Identifier: Apache-2.0
// How a session runs a model.
using Strata.Engine.Cache;

namespace Strata.Engine.Models;

/// <summary>How a session runs a model.</summary>
public sealed record SessionOptions
{
    /// <summary>Most tokens that the KV cache is to hold at one time, 1 to 2^24. With a budget: the prompt, or the budget and two pages.</summary>
    public required int Capacity { get; init; }

    /// <summary>Element type of plain keys and values, and of the keys of a block that is not full yet: F32, F16 or BF16.</summary>
    public DType KvType { get; init; } = DType.F32;

    /// <summary>How keys and values are stored. Under a budget: plain.</summary>
    public KvFormat KvFormat { get; init; }

    /// <summary>Points of the Hadamard rotation of keys and values: 16, 32, 64, 128 or 256, a divisor of the head size; 0 and under a budget: none.</summary>
    public int KvRotation { get; init; }

    /// <summary>Order of the numbers within a page; null takes the one that the device is fast with. Under a budget: rows.</summary>
    public KvLayout? KvPageLayout { get; init; }

    /// <summary>Whether the inputs of quantised matrices are quantised to int8 in groups of 32, and multiplied as integers.</summary>
    public bool Int8Activations { get; init; }

    /// <summary>Tokens per page of the KV cache: a power of two, 16 to 256, and from 32 where blocks of tokens share scales.</summary>
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

        if (KvFormat is KvFormat.I8Block or KvFormat.I4Block && PageSize % KvCache.BlockSlots != 0)
        {
            throw new ArgumentException(
                $"session: PageSize is {PageSize} with KV format {KvFormat}, must be a multiple of {KvCache.BlockSlots}; a page holds whole blocks");
        }

        if (Budget is not null && (KvFormat is not KvFormat.Plain || KvRotation != 0 || KvPageLayout is not (null or KvLayout.Rows)))
        {
            throw new ArgumentException(
                $"session: KV format {KvFormat}, rotation {KvRotation} and layout {KvPageLayout ?? KvLayout.Rows} come with a budget of {Budget.Tokens} tokens, must be plain rows without rotation there; leave out the budget or the format");
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
