// SPDX-License-Identifier: Apache-2.0
// kv_attention.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// Attention over a paged cache: <c>out = softmax(s) V</c> over the slots that a query sees, with
/// <c>s = cap(scale · q k) + slope · (slot - (length - n + r)) + logit_bias[slot]</c> for query row r of its sequence's n and <c>cap(x) = softcap · tanh(x / softcap)</c>.
/// Query head h reads KV head <c>h / (q_heads / kv_heads)</c>. Decode is a few query rows a sequence, prefill many; a batch may mix them. A query that sees no slot
/// gives 0 and a log-sum-exp of -∞ (with a sink logit: that logit). Sums are fp32; the result is bitwise the same for any number of threads.
/// </summary>
public readonly struct KvAttention : IOp
{
    /// <summary>The cache, read.</summary>
    public KvCache Cache { get; init; }

    /// <summary>Queries [tokens, q_heads, head_dim], F32, F16 or BF16, rotated by their positions; the type is independent of the cache's.</summary>
    public TensorView Q { get; init; }

    /// <summary>Output, shape of <see cref="Q"/>, F32, F16 or BF16.</summary>
    public TensorView Output { get; init; }

    /// <summary>Optional output [tokens, q_heads], F32: natural logarithm of the sum of exp(s) over the slots that were seen, the sink logit included.</summary>
    public TensorView LogSumExp { get; init; }

    /// <summary>First query row of each sequence and the total [batch + 1], I32; absent: all rows belong to the only sequence.</summary>
    public TensorView RowOffsets { get; init; }

    /// <summary>Query r of n sees slots 0 to length - n + r; otherwise all slots.</summary>
    public bool Causal { get; init; }

    /// <summary>Factor of q k; 0 = 1 / √head_dim.</summary>
    public float Scale { get; init; }

    /// <summary>An upper bound of the lengths known on the host, for a better split of the work; 0 = the capacity of the page table.</summary>
    public int MaxLength { get; init; }

    /// <summary>
    /// Optional output [tokens, q_heads], F32: like <see cref="LogSumExp"/>, but over slots 0 to length - n - 1 only and without the sink logit: how much of a query's
    /// attention goes to what was there before its sequence's new rows (EpiCache, arXiv 2509.17396).
    /// </summary>
    public TensorView PastLogSumExp { get; init; }

    /// <summary>
    /// Optional [batch, kv_heads, capacity], F32: to column s is added the sum over the sequence's rows of the mean over the query heads of the KV head of
    /// <c>exp(s - lse)</c>, the attention that slot s received (H2O, arXiv 2306.14048). Columns 0 to length - 1 are written, the others are left alone.
    /// </summary>
    public TensorView KeyProbability { get; init; }

    /// <summary>Whether <see cref="KeyProbability"/> is overwritten instead of added to.</summary>
    public bool StoreProbability { get; init; }

    /// <summary>Optional [q_heads], F32: slope of each head's linear bias, which is 0 for the query's own slot (ALiBi, arXiv 2108.12409).</summary>
    public TensorView AlibiSlopes { get; init; }

    /// <summary>Optional [q_heads], F32: one more score in the softmax of each row, whose value is 0; neither scaled nor capped (StreamingLLM, arXiv 2309.17453).</summary>
    public TensorView SinkLogits { get; init; }

    /// <summary>Optional [at least <see cref="PlanWords"/>], I32: the plan for these lengths and rows in the device's memory; absent: the run plans for itself.</summary>
    public TensorView Plan { get; init; }

    /// <summary>Scores are bent into ±SoftCap by a hyperbolic tangent (Gemma 2, arXiv 2408.00118); 0 = not.</summary>
    public float SoftCap { get; init; }

    /// <summary>Sliding window: a query sees only the last Window slots of those that it would see, its own included; 0 = no window.</summary>
    public int Window { get; init; }

    /// <summary>With a window: slots 0 to WindowSinks - 1 are seen as well.</summary>
    public int WindowSinks { get; init; }

    /// <summary>A sequence's result does not depend on its neighbours, its place in the batch or its pages: work is split by fixed numbers, which costs speed on long sequences.</summary>
    public bool BatchInvariant { get; init; }

    /// <summary>Words that a plan for these shapes needs on the device; lengths are not looked at.</summary>
    /// <param name="device">The device.</param>
    /// <exception cref="StrataException">The shapes or types do not fit.</exception>
    public unsafe long PlanWords(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        strata_kv_attention_args args = Raw;
        long words = 0;
        StrataException.ThrowIfFailed(Native.strata_kv_attention_plan_words(device.Handle.Pointer, &args, &words));
        GC.KeepAlive(device);
        return words;
    }

    /// <summary>
    /// Splits the work for the given lengths and rows, on the host, once for all layers of a step. Copy the plan to the device and pass it as <see cref="Plan"/>.
    /// Of this struct only shapes and settings are read.
    /// </summary>
    /// <param name="device">The device that will run it.</param>
    /// <param name="lengths">Tokens held [batch · kv_heads], row-major.</param>
    /// <param name="rowOffsets">First query row of each sequence and the total [batch + 1]; empty where <see cref="RowOffsets"/> is absent.</param>
    /// <param name="plan">At least <see cref="PlanWords"/> words, written.</param>
    /// <exception cref="ArgumentException">Not as many lengths or offsets as the shapes say.</exception>
    /// <exception cref="StrataException">Shapes, lengths, offsets or the room for the plan do not fit; nothing was written.</exception>
    public unsafe void PlanOnHost(Device device, ReadOnlySpan<int> lengths, ReadOnlySpan<int> rowOffsets, Span<int> plan)
    {
        ArgumentNullException.ThrowIfNull(device);
        CheckCount(lengths.Length, Cache.Lengths, nameof(lengths));
        CheckCount(rowOffsets.Length, RowOffsets, nameof(rowOffsets));
        strata_kv_attention_args args = Raw;
        fixed (int* held = lengths, offsets = rowOffsets, words = plan)
        {
            args.cache.lengths = OnHost(args.cache.lengths, held);
            args.row_offsets = OnHost(args.row_offsets, offsets);
            StrataException.ThrowIfFailed(Native.strata_kv_attention_plan(device.Handle.Pointer, &args, words, plan.Length, Native.STRATA_PLAN_HOST, null));
        }
        GC.KeepAlive(device);
    }

    /// <summary>
    /// Splits the work for the lengths and rows that lie in the device's memory, queued on the stream: for graphs, whose later runs keep their grid and take a new
    /// plan, and for lengths that the host does not know.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <param name="plan">Written: at least <see cref="PlanWords"/> words in the device's memory.</param>
    /// <param name="stream">The stream; null = the default one.</param>
    /// <exception cref="StrataException">Shapes or the room for the plan do not fit; on the CPU lengths and offsets too. Nothing was written.</exception>
    public unsafe void PlanOnDevice(Device device, DeviceTensor<int> plan, StrataStream? stream = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(plan);
        strata_kv_attention_args args = Raw;
        StrataException.ThrowIfFailed(Native.strata_kv_attention_plan(device.Handle.Pointer, &args, (int*)plan.View.Pointer, plan.Length, Native.STRATA_PLAN_DEVICE, StrataStream.Raw(stream)));
        TensorView.KeepAlive(Cache.Lengths, RowOffsets, plan);
        GC.KeepAlive(stream);
        GC.KeepAlive(device);
    }

    /// <inheritdoc/>
    unsafe int IOp.Invoke(ref OpInvocation invocation)
    {
        strata_kv_attention_args args = Raw;
        int status = invocation.Call(&args, &Native.strata_kv_attention_supported, &Native.strata_kv_attention_workspace, &Native.strata_kv_attention_run);
        KvCache.KeepAlive(Cache);
        TensorView.KeepAlive(Q, Output, LogSumExp, RowOffsets, PastLogSumExp);
        TensorView.KeepAlive(KeyProbability, AlibiSlopes, SinkLogits, Plan);
        return status;
    }

    private unsafe strata_kv_attention_args Raw => new()
    {
        struct_size = (uint)sizeof(strata_kv_attention_args),
        flags = (Causal ? (uint)Native.STRATA_ATTENTION_CAUSAL : 0)
            | (BatchInvariant ? (uint)Native.STRATA_ATTENTION_BATCH_INVARIANT : 0)
            | (StoreProbability ? (uint)Native.STRATA_ATTENTION_STORE_PROBABILITY : 0),
        cache = Cache.Raw,
        q = Q.Raw,
        @out = Output.Raw,
        lse = LogSumExp.Raw,
        row_offsets = RowOffsets.Raw,
        scale = Scale,
        max_length = MaxLength,
        past_lse = PastLogSumExp.Raw,
        key_probability = KeyProbability.Raw,
        alibi_slopes = AlibiSlopes.Raw,
        sink_logits = SinkLogits.Raw,
        plan = Plan.Raw,
        softcap = SoftCap,
        window = Window,
        window_sinks = WindowSinks,
    };

    private static void CheckCount(int count, in TensorView like, string name)
    {
        long wanted = like.IsPresent ? 1 : 0;
        for (int i = 0; i < like.Rank; i++) wanted *= like.Shape(i);
        if (count != wanted) throw new ArgumentException($"kv_attention: {count} {name}, must be {wanted} as in the op's tensor; pass one number for each of its elements", name);
    }

    /// <summary>A tensor of the same shape in host memory, dense.</summary>
    private static unsafe strata_tensor OnHost(strata_tensor tensor, int* data)
    {
        tensor.data = data;
        for (int i = 0; i < TensorView.MaxDims; i++) tensor.stride[i] = 0;
        return tensor;
    }
}
