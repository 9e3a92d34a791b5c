// SPDX-License-Identifier: Apache-2.0
// The paged key-value cache that the kv ops share.

using Strata.Bindings;

namespace Strata;

/// <summary>
/// How the numbers of a pool of keys or values are stored. Scales and zero points are F16; keys and values choose independently. In the block formats a
/// key's scale belongs to one channel and a block of <see cref="KvCache.BlockSlots"/> slots, because keys differ by channel, and a value's to one slot and
/// 32 channels (KIVI, arXiv 2402.02750).
/// </summary>
public enum KvFormat
{
    /// <summary>The pool's own type, F32, F16 or BF16; no scales.</summary>
    Plain = 0,
    /// <summary>I8, one scale per slot and head: <c>x = scale · code</c>, code -127 to 127. Scales [pages, heads_in_page, page_size].</summary>
    I8 = 1,
    /// <summary>F8E4M3, one scale per slot and head: <c>x = scale · code</c>. Scales as <see cref="I8"/>.</summary>
    F8 = 2,
    /// <summary>
    /// U8 with zero points: <c>x = scale · code + zero</c>, code 0 to 255. Key scales [pages, heads_in_page, page_size / 32, 2 · head_dim]: head_dim scales, then
    /// head_dim zero points. Value scales [pages, heads_in_page, 2 · ⌈head_dim / 32⌉, page_size]: row 2g the scales, row 2g + 1 the zero points of channels
    /// 32g to 32g + 31.
    /// </summary>
    I8Block = 3,
    /// <summary>The same with codes 0 to 15, two a byte: the pool is U8 [pages, heads_in_page, page_size, head_dim / 2].</summary>
    I4Block = 4,
}

/// <summary>Order of the numbers inside one page of one head. A word is 4 bytes: E = 1, 2, 4 or 8 neighbours of 32, 16, 8 or 4 bits.</summary>
public enum KvLayout
{
    /// <summary>Slot after slot, head_dim numbers each, any strides: pools of other engines are read in place. Not for the block formats.</summary>
    Rows = 0,
    /// <summary>
    /// Dense pages. Keys: words [page_size / 16][head_dim / E][16 slots], a word = E channels of a slot. Values: words [page_size / E][head_dim], a word = E slots
    /// of a channel. page_size and head_dim are multiples of 16. The fast one on CPUs; the block formats have no other.
    /// </summary>
    Tiled = 1,
    /// <summary>
    /// F16 and BF16, head_dim a multiple of 64, dense pages: [head_dim / 64][page_size][64 channels], where the 16-byte chunk c of slot r lies at chunk
    /// <c>c ^ (r &amp; 7)</c>. The fast one on GPUs.
    /// </summary>
    Swizzled = 2,
}

/// <summary>
/// A paged key-value cache of one layer for a batch of sequences: a view, owning nothing. Slot s of KV head h of sequence b lies in page
/// <c>PageTable[b, h, s / page_size]</c>, row <c>s % page_size</c>; the row's head is 0 where a page belongs to one head, else h.
/// Tables and lengths are per (sequence, KV head), so that eviction per head frees real pages. Arrays with one number per slot are
/// [pages, heads_in_page, page_size] and travel with their slots.
/// </summary>
public readonly struct KvCache
{
    /// <summary>Slots that share a key's scale in the block formats.</summary>
    public const int BlockSlots = Native.STRATA_KV_BLOCK;

    /// <summary>
    /// Keys [pages, heads_in_page, page_size, head_dim] (half of head_dim bytes with <see cref="KvFormat.I4Block"/>), type by <see cref="KeyFormat"/>; heads_in_page is
    /// 1 or kv_heads; page_size at most 256, a multiple of 32 with a block format; head_dim at most 512.
    /// </summary>
    public TensorView Keys { get; init; }

    /// <summary>Values, shape of <see cref="Keys"/>, type by <see cref="ValueFormat"/> (the keys' own where both are plain); strides may differ.</summary>
    public TensorView Values { get; init; }

    /// <summary>Pages [batch, kv_heads, max_pages], I32; a head stride of 0 shares one table.</summary>
    public TensorView PageTable { get; init; }

    /// <summary>Tokens held [batch, kv_heads], I32, 0 to max_pages · page_size.</summary>
    public TensorView Lengths { get; init; }

    /// <summary>Optional: logical position of each slot, I32.</summary>
    public TensorView Positions { get; init; }

    /// <summary>Optional: added to every score of the slot, F32; that of a merged slot is the logarithm of how many it stands for. kv_append writes 0.</summary>
    public TensorView LogitBias { get; init; }

    /// <summary>Optional: Euclidean norm of each key as given to the cache (rotary embedding done, not quantised), F32 or F16; written by kv_append.</summary>
    public TensorView KeyNorms { get; init; }

    /// <summary>Optional: Euclidean norm of each value, F32 or F16; written by kv_append.</summary>
    public TensorView ValueNorms { get; init; }

    /// <summary>Scales (and zero points) of the keys, F16, shape by <see cref="KeyFormat"/>; there exactly when the format has scales.</summary>
    public TensorView KeyScales { get; init; }

    /// <summary>Scales (and zero points) of the values, F16, shape by <see cref="ValueFormat"/>; there exactly when the format has scales.</summary>
    public TensorView ValueScales { get; init; }

    /// <summary>
    /// Keys of the last length % 32 slots [tails, 32, head_dim], F32, F16 or BF16, there exactly when <see cref="KeyFormat"/> is a block format: a block is quantised when
    /// its last slot is written.
    /// </summary>
    public TensorView KeyTail { get; init; }

    /// <summary>Optional [batch, kv_heads], I32: row of <see cref="KeyTail"/> of each sequence and head; absent: <c>sequence · kv_heads + head</c>.</summary>
    public TensorView TailTable { get; init; }

    /// <summary>How keys are stored.</summary>
    public KvFormat KeyFormat { get; init; }

    /// <summary>How values are stored.</summary>
    public KvFormat ValueFormat { get; init; }

    /// <summary>Order of keys and values within a page.</summary>
    public KvLayout Layout { get; init; }

    /// <summary>
    /// 0, or n = 16, 32, 64, 128 or 256 that divides head_dim: keys and values are stored after a normalised n-point Walsh-Hadamard transform of each n channels
    /// (QuaRot, arXiv 2404.00456), which spreads outliers over channels. kv_append applies it, kv_attention turns queries likewise and its output back.
    /// </summary>
    public int Rotation { get; init; }

    /// <summary>The cache as the C ABI takes it.</summary>
    internal strata_kv_cache Raw => new()
    {
        keys = Keys.Raw,
        values = Values.Raw,
        page_table = PageTable.Raw,
        lengths = Lengths.Raw,
        positions = Positions.Raw,
        logit_bias = LogitBias.Raw,
        key_norms = KeyNorms.Raw,
        value_norms = ValueNorms.Raw,
        key_scales = KeyScales.Raw,
        value_scales = ValueScales.Raw,
        key_tail = KeyTail.Raw,
        tail_table = TailTable.Raw,
        key_format = (int)KeyFormat,
        value_format = (int)ValueFormat,
        layout = (int)Layout,
        rotation = Rotation,
    };

    /// <summary>Keeps the owners of the cache's tensors reachable up to here.</summary>
    internal static void KeepAlive(in KvCache cache)
    {
        TensorView.KeepAlive(cache.Keys, cache.Values, cache.PageTable, cache.Lengths, cache.Positions);
        TensorView.KeepAlive(cache.LogitBias, cache.KeyNorms, cache.ValueNorms, cache.KeyScales, cache.ValueScales);
        TensorView.KeepAlive(cache.KeyTail, cache.TailTable);
    }
}
