// SPDX-License-Identifier: Apache-2.0
// Attention of many sequences that begin with the same tokens, composed of kv_attention twice and merge_states.

namespace Strata;

/// <summary>
/// Attention of a batch whose sequences share a prefix (Juravsky et al., arXiv 2402.05099): the prefix is attended to once with the query rows of all sequences as
/// one, each sequence's own slots as usual, and <see cref="MergeStates"/> joins the two. The prefix is read from memory once instead of once a sequence.
/// The result is that of <see cref="KvAttention"/> over caches that hold the prefix followed by the suffix, to rounding. What counts distances over both
/// (a window, ALiBi) is not offered.
/// </summary>
public readonly struct CascadeAttention
{
    private const int Alignment = 256; // of device buffers, kept for the parts of one

    /// <summary>The shared prefix: a batch of one sequence. Every query sees all of it.</summary>
    public KvCache Prefix { get; init; }

    /// <summary>What follows it, of each sequence.</summary>
    public KvCache Suffix { get; init; }

    /// <summary>Queries [tokens, q_heads, head_dim], F32, F16 or BF16.</summary>
    public TensorView Q { get; init; }

    /// <summary>Output, shape of <see cref="Q"/>, F32, F16 or BF16.</summary>
    public TensorView Output { get; init; }

    /// <summary>Optional output [tokens, q_heads], F32: natural logarithm of the sum of exp(s) over prefix and suffix, the sink logit included.</summary>
    public TensorView LogSumExp { get; init; }

    /// <summary>First query row of each sequence and the total [batch + 1], I32; absent: all rows belong to the only sequence.</summary>
    public TensorView RowOffsets { get; init; }

    /// <summary>Query r of n sees slots 0 to length - n + r of its suffix; otherwise all of it.</summary>
    public bool Causal { get; init; }

    /// <summary>Factor of q k; 0 = 1 / √head_dim.</summary>
    public float Scale { get; init; }

    /// <summary>Scores are bent into ±SoftCap by a hyperbolic tangent; 0 = not.</summary>
    public float SoftCap { get; init; }

    /// <summary>Optional [q_heads], F32: one more score in the softmax of each row, whose value is 0.</summary>
    public TensorView SinkLogits { get; init; }

    /// <summary>An upper bound of the prefix's lengths known on the host; 0 = the capacity of its page table.</summary>
    public int MaxPrefixLength { get; init; }

    /// <summary>An upper bound of the suffixes' lengths known on the host; 0 = the capacity of their page table.</summary>
    public int MaxSuffixLength { get; init; }

    /// <summary>Whether the device can run all three steps with these shapes and types.</summary>
    /// <param name="device">The device.</param>
    /// <param name="reason">Why not; "" if it can.</param>
    public bool IsSupported(Device device, out string reason)
    {
        Steps steps = StepsAt(0, null);
        return steps.Prefix.IsSupported(device, out reason) && steps.Suffix.IsSupported(device, out reason) && steps.Merge.IsSupported(device, out reason);
    }

    /// <summary>Scratch bytes that <see cref="Run"/> needs: the two partial results in fp32 and the largest workspace of the steps.</summary>
    /// <param name="device">The device.</param>
    /// <exception cref="StrataException">The shapes or types do not fit.</exception>
    public long WorkspaceBytes(Device device)
    {
        Steps steps = StepsAt(0, null);
        long largest = Math.Max(Math.Max(steps.Prefix.WorkspaceBytes(device), steps.Suffix.WorkspaceBytes(device)), steps.Merge.WorkspaceBytes(device));
        return steps.Bytes + largest;
    }

    /// <summary>Runs the three steps. Allocates nothing; on a GPU they are queued on the stream.</summary>
    /// <param name="device">The device.</param>
    /// <param name="workspace">Scratch of at least <see cref="WorkspaceBytes"/>.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    /// <exception cref="StrataException">Shapes, types, pointers, indices or the workspace do not fit; the output was not changed.</exception>
    public void Run(Device device, DeviceBuffer workspace, StrataStream? stream = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(workspace);
        long wanted = WorkspaceBytes(device);
        if (workspace.Bytes < wanted)
        {
            throw new ArgumentException($"cascade: workspace has {workspace.Bytes} bytes, must have {wanted}; ask WorkspaceBytes", nameof(workspace));
        }
        Steps steps = StepsAt(workspace.Pointer, workspace);
        steps.Prefix.RunAt(device, workspace, steps.Bytes, stream);
        steps.Suffix.RunAt(device, workspace, steps.Bytes, stream);
        steps.Merge.RunAt(device, workspace, steps.Bytes, stream);
    }

    private readonly record struct Steps(KvAttention Prefix, KvAttention Suffix, MergeStates Merge, long Bytes);

    /// <summary>The steps with their partial results at an address, which is 0 for queries of shape.</summary>
    private Steps StepsAt(nint start, object? owner)
    {
        if (Q.Rank != 3) throw new ArgumentException($"cascade: q has {Q.Rank} dimensions, must have 3; pass [tokens, q_heads, head_dim]");
        long tokens = Q.Shape(0), heads = Q.Shape(1), width = Q.Shape(2);
        long partBytes = Aligned(2 * tokens * heads * width * sizeof(float));
        TensorView parts = TensorView.Borrow(start, DType.F32, [2, tokens, heads, width], owner);
        TensorView sums = TensorView.Borrow(start == 0 ? 0 : start + (nint)partBytes, DType.F32, [2, tokens, heads], owner);
        var prefix = new KvAttention { Cache = Prefix, Q = Q, Output = Part(parts, 0), LogSumExp = Part(sums, 0), Scale = Scale, SoftCap = SoftCap, MaxLength = MaxPrefixLength };
        KvAttention suffix = prefix with
        {
            Cache = Suffix,
            Output = Part(parts, 1),
            LogSumExp = Part(sums, 1),
            RowOffsets = RowOffsets,
            Causal = Causal,
            SinkLogits = SinkLogits,
            MaxLength = MaxSuffixLength,
        };
        return new Steps(prefix, suffix, new MergeStates { Parts = parts, PartLogSumExp = sums, Output = Output, LogSumExp = LogSumExp }, partBytes + Aligned(2 * tokens * heads * sizeof(float)));
    }

    private static TensorView Part(in TensorView parts, int index)
    {
        Span<long> shape = stackalloc long[parts.Rank - 1];
        for (int i = 0; i < shape.Length; i++) shape[i] = parts.Shape(i + 1);
        nint start = parts.Pointer == 0 ? 0 : parts.Pointer + (nint)(index * parts.Stride(0) * sizeof(float));
        return TensorView.Borrow(start, DType.F32, shape, parts.Owner);
    }

    private static long Aligned(long bytes) => (bytes + Alignment - 1) / Alignment * Alignment;
}
