// SPDX-License-Identifier: Apache-2.0
// bitstack: a weight matrix of any size, chosen at run time.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// A weight matrix as a stack of 1-bit residual levels (Wang et al. 2024, BitStack): <c>W = Σ_levels sign ∘ (U Vᵀ)</c>. With <see cref="X"/> it
/// multiplies, <c>y = x Wᵀ</c>, without building W; without <see cref="X"/> it writes W itself to <see cref="Y"/>. Any prefix of the levels is a matrix.
/// </summary>
public readonly struct BitStack : IOp
{
    /// <summary>Most levels of one call.</summary>
    public const int MaxLevels = 16;

    /// <summary>The loaded levels, 1 to <see cref="MaxLevels"/>, of one n and k.</summary>
    public ReadOnlyMemory<BitStackLevel> Levels { get; init; }

    /// <summary>Activations [m, k], F32, F16 or BF16; absent: decode.</summary>
    public TensorView X { get; init; }

    /// <summary>Output [m, n], in a decode [n, k]; F32, F16 or BF16.</summary>
    public TensorView Y { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        ReadOnlySpan<BitStackLevel> levels = Levels.Span;
        int count = Math.Min(levels.Length, MaxLevels); // more are refused by their number
        strata_bitstack_level* views = stackalloc strata_bitstack_level[MaxLevels];
        for (int i = 0; i < count; i++)
        {
            ArgumentNullException.ThrowIfNull(levels[i], nameof(Levels));
            views[i] = levels[i].Raw;
        }
        var args = new strata_bitstack_args
        {
            struct_size = (uint)sizeof(strata_bitstack_args),
            levels = views,
            level_count = levels.Length,
            x = X.Raw,
            y = Y.Raw,
        };
        invocation.Auxiliary(views, (long)count * sizeof(strata_bitstack_level));
        int status = invocation.Call(&args, &Native.strata_bitstack_supported, &Native.strata_bitstack_workspace, &Native.strata_bitstack_run);
        TensorView.KeepAlive(X, Y);
        foreach (BitStackLevel level in levels) GC.KeepAlive(level);
        return status;
    }
}
