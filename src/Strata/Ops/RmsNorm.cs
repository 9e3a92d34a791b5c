// SPDX-License-Identifier: Apache-2.0
// rms_norm.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// Root-mean-square normalisation: <c>y[r,i] = x[r,i] / sqrt(mean_i x[r,i]² + epsilon) · weight[i]</c> (Zhang and Sennrich 2019, equation 4).
/// <see cref="Y"/> may be <see cref="X"/>.
/// </summary>
public readonly struct RmsNorm : IOp
{
    /// <summary>Input [rows, n], F32, F16 or BF16.</summary>
    public TensorView X { get; init; }

    /// <summary>Gain [n], F32.</summary>
    public TensorView Weight { get; init; }

    /// <summary>Output [rows, n], F32, F16 or BF16.</summary>
    public TensorView Y { get; init; }

    /// <summary>Added to the mean square; finite, not negative.</summary>
    public float Epsilon { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_rms_norm_args { struct_size = (uint)sizeof(strata_rms_norm_args), x = X.Raw, weight = Weight.Raw, y = Y.Raw, epsilon = Epsilon };
        int status = invocation.Call(&args, &Native.strata_rms_norm_supported, &Native.strata_rms_norm_workspace, &Native.strata_rms_norm_run);
        TensorView.KeepAlive(X, Weight, Y);
        return status;
    }
}
