// SPDX-License-Identifier: Apache-2.0
// Draws tokens from logits: the highest, or at random by temperature and top-p.
namespace Strata.Engine.Generation;

/// <summary>Draws the next token. Not safe for concurrent use.</summary>
public sealed class Sampler
{
    private readonly SamplerOptions _options;
    private ulong[] _order = [];
    private ulong _state;

    /// <summary>Makes a sampler at the start of its random sequence.</summary>
    /// <param name="options">How to draw.</param>
    /// <exception cref="ArgumentOutOfRangeException">The temperature is negative or not finite, or top-p is not in 0 to 1.</exception>
    public Sampler(SamplerOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (!(options.Temperature >= 0) || !float.IsFinite(options.Temperature))
        {
            throw new ArgumentOutOfRangeException(
                nameof(options), $"sampler: temperature is {options.Temperature}, must be 0 or a positive number; pass 0 for the highest logit");
        }

        if (!(options.TopP > 0) || options.TopP > 1)
        {
            throw new ArgumentOutOfRangeException(
                nameof(options), $"sampler: top-p is {options.TopP}, must be above 0 and at most 1; pass 1 to draw from all tokens");
        }

        _options = options;
        _state = options.Seed;
    }

    /// <summary>Whether the highest logit always wins.</summary>
    public bool IsGreedy => _options.Temperature == 0;

    /// <summary>The highest logit's id, the lower of equal ones; a NaN loses to every number.</summary>
    /// <param name="logits">One logit per token, at least one.</param>
    /// <param name="margin">Highest minus second-highest logit; infinite for a single token.</param>
    /// <returns>The id.</returns>
    public static int Best(ReadOnlySpan<float> logits, out float margin)
    {
        ArgumentOutOfRangeException.ThrowIfZero(logits.Length, nameof(logits));
        int best = 0;
        float first = float.NegativeInfinity;
        float second = float.NegativeInfinity;
        for (int id = 0; id < logits.Length; id++)
        {
            if (logits[id] > first)
            {
                second = first;
                first = logits[id];
                best = id;
            }
            else if (logits[id] > second)
            {
                second = logits[id];
            }
        }

        margin = first - second;
        return best;
    }

    /// <summary>Draws a token.</summary>
    /// <param name="logits">One logit per token, at least one.</param>
    /// <returns>Its id.</returns>
    public int Draw(ReadOnlySpan<float> logits)
    {
        int best = Best(logits, out _);
        if (IsGreedy)
        {
            return best;
        }

        double total = Order(logits, logits[best]);
        double limit = total * _options.TopP;
        double kept = 0;
        int count = 0;
        while (count < _order.Length && (kept < limit || count == 0))
        {
            kept += Weight(_order[count++]);
        }

        double target = NextUnit() * kept;
        double sum = 0;
        for (int i = 0; i < count; i++)
        {
            sum += Weight(_order[i]);
            if (target < sum)
            {
                return (int)(uint)_order[i];
            }
        }

        return best;
    }

    private static double Weight(ulong entry) => Math.Exp(-BitConverter.UInt32BitsToSingle((uint)(entry >> 32)));

    // Each entry is the distance below the best logit, then the id: as integers they sort by probability and, on a tie, by id.
    private double Order(ReadOnlySpan<float> logits, float best)
    {
        if (_order.Length != logits.Length)
        {
            _order = new ulong[logits.Length];
        }

        double total = 0;
        for (int id = 0; id < logits.Length; id++)
        {
            float distance = (best - logits[id]) / _options.Temperature;
            uint bits = distance >= 0 ? BitConverter.SingleToUInt32Bits(distance) & 0x7FFFFFFF : 0x7F800000;
            _order[id] = ((ulong)bits << 32) | (uint)id;
            total += Weight(_order[id]);
        }

        if (_options.TopP < 1)
        {
            Array.Sort(_order);
        }

        return total;
    }

    // SplitMix64: the whole state is one number, and the sequence does not depend on the runtime's version.
    private double NextUnit()
    {
        _state += 0x9E3779B97F4A7C15;
        ulong z = _state;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return ((z ^ (z >> 31)) >> 11) * (1.0 / (1UL << 53));
    }
}
