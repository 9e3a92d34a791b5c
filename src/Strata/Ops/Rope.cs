// SPDX-License-Identifier: Apache-2.0
// rope, and the parameters that it shares with kv_append.

using Strata.Bindings;

namespace Strata;

/// <summary>How rotary embedding pairs channels.</summary>
public enum RopeMode
{
    /// <summary>No rotation.</summary>
    None = 0,
    /// <summary>Pairs (2i, 2i+1): GGUF llama.</summary>
    Interleaved = 1,
    /// <summary>Pairs (i, i + dims/2): NeoX, Hugging Face.</summary>
    Half = 2,
}

/// <summary>Rotary embedding (Su et al. 2021): pair i of <see cref="Dims"/> channels turns by <c>position · FrequencyScale · Base^(-2i/Dims)</c> radians.</summary>
public readonly record struct RopeParameters
{
    /// <summary>How channels are paired.</summary>
    public RopeMode Mode { get; init; }

    /// <summary>Channels that turn, even; 0 = all of the head.</summary>
    public int Dims { get; init; }

    /// <summary>Base of the frequencies; 0 = 10000.</summary>
    public float Base { get; init; }

    /// <summary>Linear scaling of positions; 0 = 1.</summary>
    public float FrequencyScale { get; init; }

    internal strata_rope_params Raw => new() { mode = (int)Mode, dims = Dims, @base = Base, frequency_scale = FrequencyScale };
}

/// <summary>
/// Rotary embedding: turns the channel pairs of each head by the angle of its token's position; channels past <see cref="RopeParameters.Dims"/> are copied.
/// Angles are right to 1e-7 for positions up to millions. <see cref="Y"/> may be <see cref="X"/>.
/// </summary>
public readonly struct Rope : IOp
{
    /// <summary>Input [tokens, heads, head_dim], F32, F16 or BF16; head_dim at most 512.</summary>
    public TensorView X { get; init; }

    /// <summary>Positions [tokens], I32.</summary>
    public TensorView Positions { get; init; }

    /// <summary>Output, type and shape of <see cref="X"/>.</summary>
    public TensorView Y { get; init; }

    /// <summary>The rotation; its mode must not be <see cref="RopeMode.None"/>.</summary>
    public RopeParameters Parameters { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_rope_args { struct_size = (uint)sizeof(strata_rope_args), x = X.Raw, positions = Positions.Raw, y = Y.Raw, rope = Parameters.Raw };
        int status = invocation.Call(&args, &Native.strata_rope_supported, &Native.strata_rope_workspace, &Native.strata_rope_run);
        TensorView.KeepAlive(X, Positions, Y);
        return status;
    }
}
