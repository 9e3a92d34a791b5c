// SPDX-License-Identifier: Apache-2.0
// Generated from native/include/strata/strata.h by ./build.sh gen. Do not edit.
#nullable enable

namespace Strata.Bindings;

/// <summary>The C ABI of libstrata, name for name. Stable only together with its library; prefer the Strata assembly.</summary>
public static unsafe partial class Native
{
    /// <summary>Major version of the ABI in the high 16 bits, minor in the low 16. Majors must match; the library's minor must not be older.</summary>
    public const uint STRATA_ABI_VERSION = 0x00010000u;
    /// <summary>Most dimensions a strata_tensor has.</summary>
    public const int STRATA_MAX_DIMS = 4;
    /// <summary>Bytes of the header in front of a packed weight or a packed BitStack level.</summary>
    public const int STRATA_PACKED_HEADER_BYTES = 64;
    /// <summary>Most levels a BitStack call takes.</summary>
    public const int STRATA_MAX_LEVELS = 16;
    /// <summary>Slots that share a key scale in the block formats. A block is quantised when its last slot is written; until then its keys stay in key_tail.</summary>
    public const int STRATA_KV_BLOCK = 32;

    // strata_status_code
    /// <summary>A value of <c>strata_status_code</c>.</summary>
    public const int STRATA_OK = 0;
    /// <summary>A pointer, flag or option is not acceptable.</summary>
    public const int STRATA_E_ARGUMENT = 100;
    /// <summary>A shape or stride does not fit the others.</summary>
    public const int STRATA_E_SHAPE = 101;
    /// <summary>An element type is not taken there.</summary>
    public const int STRATA_E_DTYPE = 102;
    /// <summary>A pointer is not aligned as promised.</summary>
    public const int STRATA_E_ALIGNMENT = 103;
    /// <summary>The workspace is missing, too small or misaligned.</summary>
    public const int STRATA_E_WORKSPACE = 104;
    /// <summary>A page, token or row index is out of range.</summary>
    public const int STRATA_E_INDEX = 105;
    /// <summary>A packed weight is damaged or of another version.</summary>
    public const int STRATA_E_FORMAT = 106;
    /// <summary>struct_size or the ABI version is not known here.</summary>
    public const int STRATA_E_VERSION = 107;
    /// <summary>This device or build has no kernel for the request.</summary>
    public const int STRATA_E_UNSUPPORTED = 200;
    /// <summary>No such device, or it cannot be opened; the text says why.</summary>
    public const int STRATA_E_DEVICE = 201;
    /// <summary>Out of host or device memory.</summary>
    public const int STRATA_E_MEMORY = 300;
    /// <summary>A kernel failed or met a bad index in device memory.</summary>
    public const int STRATA_E_DEVICE_FAULT = 301;
    /// <summary>A defect in Strata.</summary>
    public const int STRATA_E_INTERNAL = 302;

    // strata_dtype
    /// <summary>A value of <c>strata_dtype</c>.</summary>
    public const int STRATA_DTYPE_NONE = 0;
    /// <summary>A value of <c>strata_dtype</c>.</summary>
    public const int STRATA_DTYPE_F32 = 1;
    /// <summary>A value of <c>strata_dtype</c>.</summary>
    public const int STRATA_DTYPE_F16 = 2;
    /// <summary>A value of <c>strata_dtype</c>.</summary>
    public const int STRATA_DTYPE_BF16 = 3;
    /// <summary>A value of <c>strata_dtype</c>.</summary>
    public const int STRATA_DTYPE_I32 = 4;
    /// <summary>A value of <c>strata_dtype</c>.</summary>
    public const int STRATA_DTYPE_I8 = 5;
    /// <summary>A value of <c>strata_dtype</c>.</summary>
    public const int STRATA_DTYPE_U8 = 6;
    /// <summary>1 sign, 4 exponent, 3 mantissa bits, bias 7; no infinity, 0x7f and 0xff are NaN, largest 448 (OCP E4M3).</summary>
    public const int STRATA_DTYPE_F8E4M3 = 7;

    // strata_format
    /// <summary>A value of <c>strata_format</c>.</summary>
    public const int STRATA_FORMAT_NONE = 0;
    /// <summary>A value of <c>strata_format</c>.</summary>
    public const int STRATA_FORMAT_F32 = 1;
    /// <summary>A value of <c>strata_format</c>.</summary>
    public const int STRATA_FORMAT_F16 = 2;
    /// <summary>A value of <c>strata_format</c>.</summary>
    public const int STRATA_FORMAT_BF16 = 3;
    /// <summary>32 codes of 4 bits, w = d (q - 8).</summary>
    public const int STRATA_FORMAT_Q4_0 = 4;
    /// <summary>32 codes of 4 bits, w = d q + m.</summary>
    public const int STRATA_FORMAT_Q4_1 = 5;
    /// <summary>32 codes of 8 bits, w = d q.</summary>
    public const int STRATA_FORMAT_Q8_0 = 6;
    /// <summary>256 codes of 4 bits, per 32: w = d sc q - dmin m.</summary>
    public const int STRATA_FORMAT_Q4_K = 7;
    /// <summary>256 codes of 6 bits, per 16: w = d sc (q - 32).</summary>
    public const int STRATA_FORMAT_Q6_K = 8;
    /// <summary>Symmetric int4: w = scale (q - 8), one fp16 scale per group of 32, 64 or 128; codes two a byte, even k in the low nibble.</summary>
    public const int STRATA_FORMAT_I4 = 9;

    // strata_copy_kind
    /// <summary>A value of <c>strata_copy_kind</c>.</summary>
    public const int STRATA_COPY_TO_DEVICE = 1;
    /// <summary>A value of <c>strata_copy_kind</c>.</summary>
    public const int STRATA_COPY_TO_HOST = 2;
    /// <summary>A value of <c>strata_copy_kind</c>.</summary>
    public const int STRATA_COPY_ON_DEVICE = 3;

    // strata_limit
    /// <summary>Sustained reads from memory, bytes/s.</summary>
    public const int STRATA_LIMIT_READ = 1;
    /// <summary>fp32 multiply-add, FLOP/s (two per multiply-add).</summary>
    public const int STRATA_LIMIT_FP32 = 2;
    /// <summary>bf16 dot product with fp32 sums, FLOP/s.</summary>
    public const int STRATA_LIMIT_BF16 = 3;
    /// <summary>int8 dot product with int32 sums (VNNI, else the best there is), OP/s.</summary>
    public const int STRATA_LIMIT_INT8 = 4;
    /// <summary>A value of <c>strata_limit</c>.</summary>
    public const int STRATA_LIMIT_AMX_BF16 = 5;
    /// <summary>A value of <c>strata_limit</c>.</summary>
    public const int STRATA_LIMIT_AMX_INT8 = 6;

    // strata_kv_format
    /// <summary>The tensor's own type, f32 | f16 | bf16; no scales.</summary>
    public const int STRATA_KV_PLAIN = 0;
    /// <summary>i8, one scale per token and head: x = scale c. Scales [pages, heads_in_page, page_size].</summary>
    public const int STRATA_KV_I8 = 1;
    /// <summary>f8e4m3, one scale per token and head: x = scale c. Scales as STRATA_KV_I8.</summary>
    public const int STRATA_KV_F8 = 2;
    /// <summary>u8 with zero points, x = scale c + zero. Keys: one pair per channel and block of STRATA_KV_BLOCK slots, scales [pages, heads_in_page, page_size / 32, 2 d] (d scales, then d zeros). Values: one pair per token and group of 32 channels, scales [pages, heads_in_page, 2 groups, page_size] (row 2g scale, row 2g+1 zero of group g).</summary>
    public const int STRATA_KV_I8_BLOCK = 3;
    /// <summary>The same with codes 0 ... 15, two a byte: the pool is u8 [pages, heads_in_page, page_size, d / 2].</summary>
    public const int STRATA_KV_I4_BLOCK = 4;

    // strata_kv_layout
    /// <summary>Slot after slot, d numbers each; any strides, so pools of other engines (NHD, HND) are read in place. Not for block formats.</summary>
    public const int STRATA_KV_ROWS = 0;
    /// <summary>Pages of one dense block. Keys: words [page_size / 16][d / E][16 slots], a word = E channels of a slot. Values: words [page_size / E][d], a word = E slots of a channel. 4-bit words: byte i holds neighbour i in its low and neighbour i + 4 in its high nibble. page_size and d multiples of 16. The fast one on CPUs; all block formats have it.</summary>
    public const int STRATA_KV_TILED = 1;
    /// <summary>16-bit types, d a multiple of 64, page_size of 16, dense pages: [d / 64][page_size][64], where the 16-byte chunk c of slot r lies at chunk c ^ (r &amp; 7). The fast one on GPUs.</summary>
    public const int STRATA_KV_SWIZZLED = 2;

    // strata_rope_mode
    /// <summary>A value of <c>strata_rope_mode</c>.</summary>
    public const int STRATA_ROPE_NONE = 0;
    /// <summary>Pairs (2i, 2i+1): GGUF llama.</summary>
    public const int STRATA_ROPE_INTERLEAVED = 1;
    /// <summary>Pairs (i, i + dims/2): NeoX, Hugging Face.</summary>
    public const int STRATA_ROPE_HALF = 2;

    // strata_kv_attention_flag
    /// <summary>Query r of n sees slots 0 ... length - n + r; otherwise all.</summary>
    public const int STRATA_ATTENTION_CAUSAL = 1;
    /// <summary>A sequence's result does not depend on its neighbours, its place in the batch or its pages: the work is split by fixed numbers.</summary>
    public const int STRATA_ATTENTION_BATCH_INVARIANT = 2;
    /// <summary>key_probability is overwritten; otherwise added to.</summary>
    public const int STRATA_ATTENTION_STORE_PROBABILITY = 4;

    // strata_plan_place
    /// <summary>All in host memory; the caller copies the plan to the device.</summary>
    public const int STRATA_PLAN_HOST = 0;
    /// <summary>All in the device's memory: a kernel on the stream makes the plan (graphs, speculation). On "cpu" and "simt" the same as HOST.</summary>
    public const int STRATA_PLAN_DEVICE = 1;

    // strata_score_statistic
    /// <summary>A value of <c>strata_score_statistic</c>.</summary>
    public const int STRATA_SCORE_SUM = 0;
    /// <summary>A value of <c>strata_score_statistic</c>.</summary>
    public const int STRATA_SCORE_MEAN = 1;
    /// <summary>A value of <c>strata_score_statistic</c>.</summary>
    public const int STRATA_SCORE_MAX = 2;
    /// <summary>mean + gamma * unbiased variance (0 for one row): CAKE.</summary>
    public const int STRATA_SCORE_MEAN_VARIANCE = 3;

    // strata_score_pool
    /// <summary>A value of <c>strata_score_pool</c>.</summary>
    public const int STRATA_POOL_NONE = 0;
    /// <summary>Zero padding counted in the divisor.</summary>
    public const int STRATA_POOL_AVERAGE = 1;
    /// <summary>Out of range ignored.</summary>
    public const int STRATA_POOL_MAX = 2;

    // strata_score_heads
    /// <summary>Mean over the query heads of a KV head.</summary>
    public const int STRATA_HEADS_GROUP_MEAN = 0;
    /// <summary>A value of <c>strata_score_heads</c>.</summary>
    public const int STRATA_HEADS_GROUP_MAX = 1;
    /// <summary>Mean over all query heads, written to every KV head.</summary>
    public const int STRATA_HEADS_LAYER_MEAN = 2;

    // strata_qgemm_flag
    /// <summary>Quantise x to int8, one scale per row and 32 columns, and multiply in integers; formats of 4 to 8 bits.</summary>
    public const int STRATA_QGEMM_INT8_ACTIVATIONS = 1;

    // strata_elementwise_function
    /// <summary>y = a + b.</summary>
    public const int STRATA_ELEMENTWISE_ADD = 0;
    /// <summary>y = a / (1 + exp(-a)) * b.</summary>
    public const int STRATA_ELEMENTWISE_SILU_MUL = 1;
}
