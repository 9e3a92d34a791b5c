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

/// <summary>
/// Rotary embedding (Su et al. 2021): pair i of <see cref="Dims"/> channels turns by <c>position · f_i</c> radians and is multiplied by <see cref="Magnitude"/>. Plain and linear:
/// <c>f_i = FrequencyScale · e_i</c>, <c>e_i = Base^(-2i/Dims)</c>. With YaRN (Peng et al., arXiv 2309.00071; <see cref="YarnContext"/> above 0) <c>f_i = e_i (FrequencyScale (1 - m_i) + m_i)</c>,
/// where <c>m_i = 1 - clamp((i - low) / max(high - low, 0.001), 0, 1)</c>, <c>low = max(⌊c(YarnBetaFast)⌋, 0)</c>, <c>high = min(⌈c(YarnBetaSlow)⌉, Dims - 1)</c> and
/// <c>c(b) = Dims ln(YarnContext / (2 π b)) / (2 ln Base)</c>: fast pairs keep their frequency, slow ones are stretched.
/// </summary>
public readonly record struct RopeParameters
{
    /// <summary>How channels are paired.</summary>
    public RopeMode Mode { get; init; }

    /// <summary>Channels that turn, even; 0 = all of the head.</summary>
    public int Dims { get; init; }

    /// <summary>Base of the frequencies; 0 = 10000.</summary>
    public float Base { get; init; }

    /// <summary>Linear scaling of positions, 1 / factor; 0 = 1.</summary>
    public float FrequencyScale { get; init; }

    /// <summary>YaRN: the context in tokens that the model was first trained with; 0 = no YaRN.</summary>
    public int YarnContext { get; init; }

    /// <summary>YaRN: pairs that turn more often than this within the context keep their frequency; 0 = 32.</summary>
    public float YarnBetaFast { get; init; }

    /// <summary>YaRN: pairs that turn less often than this within the context are scaled in full; 0 = 1.</summary>
    public float YarnBetaSlow { get; init; }

    /// <summary>Factor of the turned channels; 0 = 1, with YaRN <c>1 + 0.1 ln(1 / FrequencyScale)</c>.</summary>
    public float Magnitude { get; init; }

    internal strata_rope_params Raw => new()
    {
        mode = (int)Mode,
        dims = Dims,
        @base = Base,
        frequency_scale = FrequencyScale,
        yarn_context = YarnContext,
        yarn_beta_fast = YarnBetaFast,
        yarn_beta_slow = YarnBetaSlow,
        magnitude = Magnitude,
    };
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

    /// <summary>Optional [dims / 2], F32: the frequency of pair i is divided by factor i (the rope_freqs of Llama 3).</summary>
    public TensorView FrequencyFactors { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_rope_args
        {
            struct_size = (uint)sizeof(strata_rope_args),
            x = X.Raw,
            positions = Positions.Raw,
            y = Y.Raw,
            rope = Parameters.Raw,
            frequency_factors = FrequencyFactors.Raw,
        };
        int status = invocation.Call(&args, &Native.strata_rope_supported, &Native.strata_rope_workspace, &Native.strata_rope_run);
        TensorView.KeepAlive(X, Positions, Y, FrequencyFactors);
        return status;
    }
}
