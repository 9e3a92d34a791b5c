// SPDX-License-Identifier: Apache-2.0
// embed.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// Row lookup with dequantisation: <c>y[t,:] = dequantise(W)[ids[t],:]</c>. The values are those that <see cref="Qgemm"/> multiplies with, rounded to y's type.
/// An id out of range is refused on "cpu"; on a GPU it reads zeros and the next synchronisation reports it.
/// </summary>
public readonly struct Embed : IOp
{
    /// <summary>Row numbers [tokens], I32, 0 to n - 1.</summary>
    public TensorView Ids { get; init; }

    /// <summary>Output [tokens, k], F32, F16 or BF16.</summary>
    public TensorView Y { get; init; }

    /// <summary>Table, n x k.</summary>
    public WeightView W { get; init; }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        var args = new strata_embed_args { struct_size = (uint)sizeof(strata_embed_args), ids = Ids.Raw, y = Y.Raw, w = W.Raw };
        int status = invocation.Call(&args, &Native.strata_embed_supported, &Native.strata_embed_workspace, &Native.strata_embed_run);
        TensorView.KeepAlive(Ids, Y);
        GC.KeepAlive(W.Owner);
        return status;
    }
}
