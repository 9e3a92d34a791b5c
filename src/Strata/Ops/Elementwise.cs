// SPDX-License-Identifier: Apache-2.0
// elementwise: residual sums and the gate of a feed-forward layer.

using Strata.Bindings;

namespace Strata;

/// <summary>Functions of <see cref="Elementwise"/>.</summary>
public enum ElementwiseFunction
{
    /// <summary><c>y = a + b</c>, correctly rounded.</summary>
    Add = 0,
    /// <summary><c>y = a / (1 + exp(-a)) · b</c> (SwiGLU; Shazeer 2020).</summary>
    SiluMul = 1,
}

/// <summary><c>y = f(a, b)</c>, element by element. <see cref="Y"/> may be <see cref="A"/> or <see cref="B"/>.</summary>
public readonly struct Elementwise : IOp
{
    /// <summary>First input [rows, n], F32, F16 or BF16. Of <see cref="ElementwiseFunction.SiluMul"/> the gate.</summary>
    public TensorView A { get; init; }

    /// <summary>Second input, type and shape of <see cref="A"/>.</summary>
    public TensorView B { get; init; }

    /// <summary>Output, type and shape of <see cref="A"/>.</summary>
    public TensorView Y { get; init; }

    /// <summary>The function.</summary>
    public ElementwiseFunction Function { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_elementwise_args { struct_size = (uint)sizeof(strata_elementwise_args), a = A.Raw, b = B.Raw, y = Y.Raw, function = (int)Function };
        int status = invocation.Call(&args, &Native.strata_elementwise_supported, &Native.strata_elementwise_workspace, &Native.strata_elementwise_run);
        TensorView.KeepAlive(A, B, Y);
        return status;
    }
}
