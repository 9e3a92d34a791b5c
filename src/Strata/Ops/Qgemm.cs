// SPDX-License-Identifier: Apache-2.0
// qgemm.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// Matrix product with packed weights: <c>y[m,n] = x[m,k] · dequantise(W)[n,k]ᵀ</c>, sums in fp32 or better.
/// A row of x that holds NaN or an infinity spoils its own row of y and no other.
/// </summary>
public readonly struct Qgemm : IOp
{
    /// <summary>Activations [m, k], F32, F16 or BF16.</summary>
    public TensorView X { get; init; }

    /// <summary>Output [m, n], F32, F16 or BF16; must not overlap <see cref="X"/>.</summary>
    public TensorView Y { get; init; }

    /// <summary>Weights, n x k.</summary>
    public WeightView W { get; init; }

    /// <summary>
    /// Quantises x to int8 (one scale per row and 32 columns: <c>d = max|x| / 127</c>, rounded to nearest even) and multiplies in integers. Several times
    /// faster on CPUs; adds about 0.4 % of noise. Weights of 4 to 8 bits only.
    /// </summary>
    public bool Int8Activations { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_qgemm_args
        {
            struct_size = (uint)sizeof(strata_qgemm_args),
            flags = Int8Activations ? (uint)Native.STRATA_QGEMM_INT8_ACTIVATIONS : 0,
            x = X.Raw,
            y = Y.Raw,
            w = W.Raw,
        };
        int status = invocation.Call(&args, &Native.strata_qgemm_supported, &Native.strata_qgemm_workspace, &Native.strata_qgemm_run);
        TensorView.KeepAlive(X, Y);
        GC.KeepAlive(W.Owner);
        return status;
    }
}
