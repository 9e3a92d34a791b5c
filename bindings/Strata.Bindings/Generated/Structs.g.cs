// SPDX-License-Identifier: Apache-2.0
// Generated from native/include/strata/strata.h by ./build.sh gen. Do not edit.
#nullable enable

using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Strata.Bindings;

/// <summary>128 values of byte in a row.</summary>
[InlineArray(128)]
public struct array_byte_128
{
    private byte _first;
}

/// <summary>16 values of byte in a row.</summary>
[InlineArray(16)]
public struct array_byte_16
{
    private byte _first;
}

/// <summary>384 values of byte in a row.</summary>
[InlineArray(384)]
public struct array_byte_384
{
    private byte _first;
}

/// <summary>4 values of long in a row.</summary>
[InlineArray(4)]
public struct array_long_4
{
    private long _first;
}

/// <summary>Opaque: one device, its threads, its caches.</summary>
public readonly struct strata_context;

/// <summary>Opaque: memory of a context's device.</summary>
public readonly struct strata_buffer;

/// <summary>Opaque: a point in a stream.</summary>
public readonly struct strata_event;

/// <summary>A borrowed, strided view. Never owns.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_tensor
{
    /// <summary>Device address of element 0; NULL in supported() and workspace() queries.</summary>
    public void* data;
    /// <summary>strata_dtype.</summary>
    public int dtype;
    /// <summary>1..STRATA_MAX_DIMS; 0 means absent.</summary>
    public int ndim;
    /// <summary>Extents, outermost first.</summary>
    public array_long_4 shape;
    /// <summary>Elements; all zero means dense row-major.</summary>
    public array_long_4 stride;
}

/// <summary>What one device is, or why it cannot be used.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_device_info
{
    /// <summary>sizeof(strata_device_info), set by the caller.</summary>
    public uint struct_size;
    /// <summary>1 if strata_context_create would open it.</summary>
    public int available;
    /// <summary>Memory of the device, 0 if unknown.</summary>
    public long total_bytes;
    /// <summary>CPU: usable cores. GPU: multiprocessors.</summary>
    public int threads;
    /// <summary>Must be 0.</summary>
    public int reserved;
    /// <summary>"cpu", "simt", "cuda:0".</summary>
    public array_byte_16 id;
    /// <summary>The processor's own name.</summary>
    public array_byte_128 name;
    /// <summary>CPU: the instruction set in use, then those not in use and why. GPU: the architecture.</summary>
    public array_byte_128 isa;
    /// <summary>Why it is not available, and what to do; "" if it is.</summary>
    public array_byte_384 reason;
}

/// <summary>How to open a device.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_context_desc
{
    /// <summary>sizeof(strata_context_desc).</summary>
    public uint struct_size;
    /// <summary>CPU and simt: worker threads, the caller included; 0 = all cores.</summary>
    public int threads;
    /// <summary>"cpu", "simt", "cuda:N"; NULL = "cpu".</summary>
    public byte* device;
    /// <summary>CPU: highest instruction set to use: "scalar", "avx2", "avx512", "avx512vnni", "amx"; NULL = environment STRATA_ISA, else the machine's best.</summary>
    public byte* isa;
}

/// <summary>A borrowed weight matrix W[n, k] in the packed layout (y = x W^T). Filled by strata_weight_pack or strata_weight_open; <c>data</c> may then be moved to device memory.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_weight
{
    /// <summary>The packed bytes, header first, 64-byte aligned, in memory of the context's device.</summary>
    public void* data;
    /// <summary>Their number.</summary>
    public long bytes;
    /// <summary>Output features (rows).</summary>
    public long n;
    /// <summary>Input features (columns).</summary>
    public long k;
    /// <summary>strata_format.</summary>
    public int format;
    /// <summary>Columns that share a scale.</summary>
    public int group;
    /// <summary>Layout id of this ABI major; 1 = panels of 16 rows.</summary>
    public int layout;
    /// <summary>Must be 0.</summary>
    public int reserved;
}

/// <summary>Where the weights come from, in host memory.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_weight_source
{
    /// <summary>sizeof(strata_weight_source).</summary>
    public uint struct_size;
    /// <summary>strata_format of the source; the packed weight keeps it.</summary>
    public int format;
    /// <summary>Rows.</summary>
    public long n;
    /// <summary>Columns; a multiple of the format's block (1 for floats, 32, or 256 for Q4_K and Q6_K; of <c>group</c> for I4).</summary>
    public long k;
    /// <summary>Row after row of blocks; I4: codes [n, k/2].</summary>
    public void* data;
    /// <summary>Must be exactly what n, k and format need.</summary>
    public long data_bytes;
    /// <summary>I4: fp16 [n, k/group]; else NULL.</summary>
    public void* scales;
    /// <summary>I4: 2 n k/group; else 0.</summary>
    public long scales_bytes;
    /// <summary>I4: 32, 64 or 128; else 0.</summary>
    public int group;
    /// <summary>Must be 0.</summary>
    public int reserved;
}

/// <summary>A paged KV cache of one layer, for a batch of sequences. Pages belong to one KV head where heads_in_page is 1; table and lengths are per (sequence, KV head). Tensors beside the pages ("side arrays") are f32 unless noted, [pages, heads_in_page, page_size], and travel with their slots.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_kv_cache
{
    /// <summary>[pages, heads_in_page, page_size, head_dim], type by key_format; heads_in_page is 1 or kv_heads; any strides, last dense.</summary>
    public strata_tensor keys;
    /// <summary>Like keys, type by value_format.</summary>
    public strata_tensor values;
    /// <summary>int32 [batch, kv_heads, max_pages]: page of slots i page_size ... ; a head stride of 0 shares one table.</summary>
    public strata_tensor page_table;
    /// <summary>int32 [batch, kv_heads]: tokens held, 0 ... max_pages page_size.</summary>
    public strata_tensor lengths;
    /// <summary>Optional int32: logical position of each slot.</summary>
    public strata_tensor positions;
    /// <summary>Optional: added to every score of the slot (merged tokens); kv_append writes 0.</summary>
    public strata_tensor logit_bias;
    /// <summary>Optional f32 | f16: ||k|| of the key as given to the cache (rotated by its position, before quantisation); written by kv_append.</summary>
    public strata_tensor key_norms;
    /// <summary>Optional f32 | f16: ||v||; written by kv_append.</summary>
    public strata_tensor value_norms;
    /// <summary>f16; needed, and only allowed, where key_format has scales.</summary>
    public strata_tensor key_scales;
    /// <summary>f16; likewise for value_format.</summary>
    public strata_tensor value_scales;
    /// <summary>f32 | f16 | bf16 [tails, STRATA_KV_BLOCK, head_dim]: keys of the last length % 32 slots; needed with a block key_format.</summary>
    public strata_tensor key_tail;
    /// <summary>Optional int32 [batch, kv_heads]: the row of key_tail of each sequence and head; absent: sequence * kv_heads + head.</summary>
    public strata_tensor tail_table;
    /// <summary>strata_kv_format.</summary>
    public int key_format;
    /// <summary>strata_kv_format.</summary>
    public int value_format;
    /// <summary>strata_kv_layout of keys and values.</summary>
    public int layout;
    /// <summary>0, or n = 16, 32, 64, 128, 256 dividing head_dim: keys and values are stored after a normalised n-point Walsh-Hadamard transform of each n channels; kv_attention turns q likewise and out back. Outliers spread over channels: int8 per token then loses a tenth.</summary>
    public int rotation;
}

/// <summary>Rotary embedding: pair i of <c>dims</c> channels turns by position * f_i and is multiplied by <c>magnitude</c>. Plain and linear: f_i = frequency_scale * base^(-2i/dims). YaRN (arXiv 2309.00071; yarn_context &gt; 0): e_i = base^(-2i/dims), c(b) = dims ln(yarn_context / (2 pi b)) / (2 ln base), low = max(floor c(beta_fast), 0), high = min(ceil c(beta_slow), dims - 1), m_i = 1 - clamp((i - low) / max(high - low, 0.001), 0, 1), f_i = e_i (frequency_scale (1 - m_i) + m_i).</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_rope_params
{
    /// <summary>strata_rope_mode.</summary>
    public int mode;
    /// <summary>Channels that turn, even; 0 = all of head_dim.</summary>
    public int dims;
    /// <summary>0 = 10000.</summary>
    public float @base;
    /// <summary>Linear scaling, 1 / factor; 0 = 1.</summary>
    public float frequency_scale;
    /// <summary>The context that the model was first trained with; 0 = no YaRN.</summary>
    public int yarn_context;
    /// <summary>0 = 32.</summary>
    public float yarn_beta_fast;
    /// <summary>0 = 1.</summary>
    public float yarn_beta_slow;
    /// <summary>0 = 1, with YaRN 1 + 0.1 ln(1 / frequency_scale).</summary>
    public float magnitude;
}

/// <summary>kv_append: K and V rows of new tokens into the last slots of their sequences, in one pass: rope on keys, the cache's Hadamard rotation, quantisation, norms, positions, a zero logit bias. A block of keys whose last slot is written is quantised from key_tail and the new rows. Row r of sequence b, r = row_offsets[b] ... row_offsets[b+1]-1, goes to slot lengths[b,h] - (row_offsets[b+1] - r): lengths count the new tokens already.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_kv_append_args
{
    /// <summary>sizeof(strata_kv_append_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>Written: keys, values, positions (if present).</summary>
    public strata_kv_cache cache;
    /// <summary>[tokens, kv_heads, head_dim] f32 | f16 | bf16.</summary>
    public strata_tensor keys;
    /// <summary>Like keys.</summary>
    public strata_tensor values;
    /// <summary>int32 [tokens] logical positions; needed by rope and by cache.positions.</summary>
    public strata_tensor positions;
    /// <summary>int32 [batch + 1]; absent: every row belongs to the only sequence.</summary>
    public strata_tensor row_offsets;
    /// <summary>Applied to keys.</summary>
    public strata_rope_params rope;
    /// <summary>Optional f32 [rope.dims / 2]: f_i is divided by factor i (Llama 3's rope_freqs).</summary>
    public strata_tensor frequency_factors;
}

/// <summary>kv_attention: out = softmax(s) V over the pages of each query's sequence and KV head (head h reads KV head h / (q_heads / kv_heads)), with s = cap(scale q k) + slope_h (slot - (length - n + r)) + logit_bias[slot], cap(x) = softcap tanh(x / softcap). Decode is a few query rows a sequence, prefill many; a batch may mix them. A query that sees no slot gives 0 and lse = -inf (with a sink logit: that logit).</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_kv_attention_args
{
    /// <summary>sizeof(strata_kv_attention_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>strata_kv_attention_flag.</summary>
    public uint flags;
    /// <summary>Read.</summary>
    public strata_kv_cache cache;
    /// <summary>[tokens, q_heads, head_dim] f32 | f16 | bf16.</summary>
    public strata_tensor q;
    /// <summary>Like q, f32 | f16 | bf16.</summary>
    public strata_tensor @out;
    /// <summary>Optional f32 [tokens, q_heads]: ln of the sum of exp(s), sink logit included.</summary>
    public strata_tensor lse;
    /// <summary>int32 [batch + 1] ragged query rows; absent: all rows belong to the only sequence.</summary>
    public strata_tensor row_offsets;
    /// <summary>0 = 1 / sqrt(head_dim).</summary>
    public float scale;
    /// <summary>An upper bound of lengths known on the host; 0 = max_pages * page_size.</summary>
    public int max_length;
    /// <summary>Optional f32 [tokens, q_heads]: ln of the sum of exp(s) over slots 0 ... length - n - 1 that the query sees, n its sequence's rows (EpiCache); no sink logit.</summary>
    public strata_tensor past_lse;
    /// <summary>Optional f32 [batch, kv_heads, capacity]: slot s gets the sum over the sequence's rows of the mean over the group of exp(s - lse) (H2O, D2O, TOVA); columns 0 ... length - 1 are written, the others left alone.</summary>
    public strata_tensor key_probability;
    /// <summary>Optional f32 [q_heads]: slope_h.</summary>
    public strata_tensor alibi_slopes;
    /// <summary>Optional f32 [q_heads]: one more score in the softmax of each row, with value 0; neither scaled nor capped.</summary>
    public strata_tensor sink_logits;
    /// <summary>Optional int32 [words]: what strata_kv_attention_plan wrote for these lengths and rows, in memory of the device; absent: the run plans for itself.</summary>
    public strata_tensor plan;
    /// <summary>0 = none.</summary>
    public float softcap;
    /// <summary>Sliding window: a query sees the last <c>window</c> slots of those that it would see, itself included; 0 = no window.</summary>
    public int window;
    /// <summary>With a window: slots 0 ... window_sinks - 1 are seen as well.</summary>
    public int window_sinks;
    /// <summary>Must be 0.</summary>
    public int reserved;
}

/// <summary>merge_states: joins attention over disjoint sets of keys: lse = ln sum_i exp(lse_i), out = sum_i exp(lse_i - lse) out_i. A part with lse -inf counts nothing. A prefix shared by many sequences is attended to once with all their rows as one sequence, each suffix on its own, then both are merged (cascade).</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_merge_states_args
{
    /// <summary>sizeof(strata_merge_states_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>[parts, tokens, q_heads, head_dim] f32 | f16 | bf16; 1 ... 64 parts.</summary>
    public strata_tensor parts;
    /// <summary>f32 [parts, tokens, q_heads].</summary>
    public strata_tensor part_lse;
    /// <summary>Written: [tokens, q_heads, head_dim] f32 | f16 | bf16.</summary>
    public strata_tensor @out;
    /// <summary>Optional, written: f32 [tokens, q_heads].</summary>
    public strata_tensor lse;
}

/// <summary>kv_score: scores of cached keys from the attention of the last <c>window</c> queries. p = softmax of scale q K^T of each window row over the slots it sees (row r of w sees slots 0 ... length - w + r); then the statistic over rows, pooling over the scored columns, and the reduction over heads. SnapKV, TOVA, H2O, CAKE, Ada-KV are settings of it.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_kv_score_args
{
    /// <summary>sizeof(strata_kv_score_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>Read: keys, page_table, lengths.</summary>
    public strata_kv_cache cache;
    /// <summary>[batch, window, q_heads, head_dim] f32 | f16 | bf16: the last <c>window</c> queries, rotated.</summary>
    public strata_tensor q;
    /// <summary>Optional f32 [batch, window, q_heads] as kv_attention (causal) wrote it; absent: computed by one more pass over K.</summary>
    public strata_tensor lse;
    /// <summary>f32 [batch, kv_heads, capacity]; columns 0 ... length - exclude_last - 1 are written, the others are left alone.</summary>
    public strata_tensor scores;
    /// <summary>strata_score_statistic.</summary>
    public int statistic;
    /// <summary>strata_score_pool.</summary>
    public int pool;
    /// <summary>Odd, 1 ... 127; 0 with POOL_NONE.</summary>
    public int pool_width;
    /// <summary>strata_score_heads.</summary>
    public int heads;
    /// <summary>0: pool each head, then reduce; 1: reduce, then pool.</summary>
    public int reduce_first;
    /// <summary>Slots at the end that get no score (SnapKV: the window).</summary>
    public int exclude_last;
    /// <summary>Of MEAN_VARIANCE.</summary>
    public float gamma;
    /// <summary>0 = 1 / sqrt(head_dim).</summary>
    public float scale;
    /// <summary>An upper bound of lengths known on the host; 0 = max_pages * page_size.</summary>
    public int max_length;
    /// <summary>Must be 0.</summary>
    public int reserved;
}

/// <summary>kv_select: which slots stay. Slots 0 ... protect_first-1 and the last protect_last stay; the rest of the budget goes to the highest scores between them (ties and NaN: a NaN loses to every number, equal scores go to the lower slot). The result is ascending. A budget not below the length keeps all; one below the protected slots keeps the first of them, then the last.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_kv_select_args
{
    /// <summary>sizeof(strata_kv_select_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>f32 [batch, kv_heads, capacity], column = slot; absent: every score is equal (streaming).</summary>
    public strata_tensor scores;
    /// <summary>int32 [batch, kv_heads].</summary>
    public strata_tensor lengths;
    /// <summary>Optional int32 [batch, kv_heads] slots to keep; absent: <c>budget</c> for all.</summary>
    public strata_tensor budgets;
    /// <summary>Written: int32 [batch, kv_heads, max_kept]; entries past the count are left alone.</summary>
    public strata_tensor kept;
    /// <summary>Written: int32 [batch, kv_heads].</summary>
    public strata_tensor kept_counts;
    /// <summary>Slots to keep per head.</summary>
    public int budget;
    /// <summary>Slots at the front that always stay.</summary>
    public int protect_first;
    /// <summary>Slots at the end that always stay.</summary>
    public int protect_last;
    /// <summary>An upper bound of lengths known on the host; 0 = capacity (needed when scores are absent).</summary>
    public int max_length;
}

/// <summary>kv_compact: moves the kept slots of each head to the front of its pages, or into fresh pages. Keys stay as rotated; positions travel along.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_kv_compact_args
{
    /// <summary>sizeof(strata_kv_compact_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>Source; in place also destination.</summary>
    public strata_kv_cache cache;
    /// <summary>int32 [batch, kv_heads, max_kept], strictly ascending slots.</summary>
    public strata_tensor kept;
    /// <summary>int32 [batch, kv_heads].</summary>
    public strata_tensor kept_counts;
    /// <summary>Optional int32 [batch, kv_heads, max_to_pages]: fresh pages of the same pool, none of which the sources use; absent: in place.</summary>
    public strata_tensor to_page_table;
    /// <summary>Optional, written: int32 [batch, kv_heads] = kept_counts.</summary>
    public strata_tensor new_lengths;
}

/// <summary>qgemm: y[m,n] = x[m,k] dequantise(W)[n,k]^T.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_qgemm_args
{
    /// <summary>sizeof(strata_qgemm_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>strata_qgemm_flag.</summary>
    public uint flags;
    /// <summary>[m, k] f32 | f16 | bf16.</summary>
    public strata_tensor x;
    /// <summary>Written: [m, n] f32 | f16 | bf16.</summary>
    public strata_tensor y;
    /// <summary>Packed.</summary>
    public strata_weight w;
}

/// <summary>One residual level as its authors store it, in host memory.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_bitstack_source
{
    /// <summary>sizeof(strata_bitstack_source), set by the caller.</summary>
    public uint struct_size;
    /// <summary>1 ... 32.</summary>
    public int rank;
    /// <summary>Rows of W.</summary>
    public long n;
    /// <summary>Columns of W; n k must be a multiple of 8.</summary>
    public long k;
    /// <summary>n k / 8 bytes: row-major bits, first element in bit 7, 1 = +1.</summary>
    public void* signs;
    /// <summary>Bytes of <c>signs</c>.</summary>
    public long signs_bytes;
    /// <summary>fp16 [n, rank].</summary>
    public void* u;
    /// <summary>Bytes of <c>u</c>.</summary>
    public long u_bytes;
    /// <summary>fp16 [rank, k].</summary>
    public void* vt;
    /// <summary>Bytes of <c>vt</c>.</summary>
    public long vt_bytes;
}

/// <summary>A borrowed packed level. Each level is memory of its own, so that levels can be loaded and dropped while running.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_bitstack_level
{
    /// <summary>Packed bytes, header first, 64-byte aligned, memory of the context's device.</summary>
    public void* data;
    /// <summary>Their number.</summary>
    public long bytes;
    /// <summary>Rows of W.</summary>
    public long n;
    /// <summary>Columns of W.</summary>
    public long k;
    /// <summary>1 ... 32.</summary>
    public int rank;
    /// <summary>Layout id of this ABI major.</summary>
    public int layout;
}

/// <summary>bitstack: W = sum over levels of sign o (U V^T); multiply y[m,n] = x[m,k] W^T without building W, or decode W itself.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_bitstack_args
{
    /// <summary>sizeof(strata_bitstack_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>Host array of <c>level_count</c> views, all of one n and k.</summary>
    public strata_bitstack_level* levels;
    /// <summary>1 ... STRATA_MAX_LEVELS.</summary>
    public int level_count;
    /// <summary>Must be 0.</summary>
    public int reserved;
    /// <summary>Multiply: [m, k] f32 | f16 | bf16. Absent: decode.</summary>
    public strata_tensor x;
    /// <summary>Multiply: [m, n] f32 | f16 | bf16. Decode: W [n, k] f32 | f16 | bf16.</summary>
    public strata_tensor y;
}

/// <summary>rms_norm: y[r,i] = x[r,i] / sqrt(mean_i x[r,i]^2 + epsilon) * weight[i]. y may be x.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_rms_norm_args
{
    /// <summary>sizeof(strata_rms_norm_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>[rows, n] f32 | f16 | bf16.</summary>
    public strata_tensor x;
    /// <summary>f32 [n].</summary>
    public strata_tensor weight;
    /// <summary>[rows, n] f32 | f16 | bf16.</summary>
    public strata_tensor y;
    /// <summary>0 or more.</summary>
    public float epsilon;
    /// <summary>Must be 0.</summary>
    public int reserved;
}

/// <summary>rope: y = x with its channel pairs turned by strata_rope_params at each token's position. y may be x.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_rope_args
{
    /// <summary>sizeof(strata_rope_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>[tokens, heads, head_dim] f32 | f16 | bf16.</summary>
    public strata_tensor x;
    /// <summary>int32 [tokens].</summary>
    public strata_tensor positions;
    /// <summary>Like x.</summary>
    public strata_tensor y;
    /// <summary>mode must not be NONE.</summary>
    public strata_rope_params rope;
    /// <summary>Optional f32 [rope.dims / 2]: f_i is divided by factor i (Llama 3's rope_freqs).</summary>
    public strata_tensor frequency_factors;
}

/// <summary>elementwise: y = f(a, b) over matrices of one shape. y may be a or b.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_elementwise_args
{
    /// <summary>sizeof(strata_elementwise_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>[rows, n] f32 | f16 | bf16.</summary>
    public strata_tensor a;
    /// <summary>Like a.</summary>
    public strata_tensor b;
    /// <summary>Like a.</summary>
    public strata_tensor y;
    /// <summary>strata_elementwise_function.</summary>
    public int function;
    /// <summary>Must be 0.</summary>
    public int reserved;
}

/// <summary>embed: y[t,:] = dequantise(W)[ids[t],:].</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct strata_embed_args
{
    /// <summary>sizeof(strata_embed_args), set by the caller.</summary>
    public uint struct_size;
    /// <summary>0.</summary>
    public uint flags;
    /// <summary>int32 [tokens], 0 ... n-1.</summary>
    public strata_tensor ids;
    /// <summary>Written: [tokens, k] f32 | f16 | bf16.</summary>
    public strata_tensor y;
    /// <summary>Packed.</summary>
    public strata_weight w;
}
