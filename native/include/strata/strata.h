/* SPDX-License-Identifier: Apache-2.0
 *
 * strata.h: the C ABI of Strata, kernels for LLM inference under a memory budget. C11, no CUDA include.
 *
 * Promises
 *  1. Threads: a context may be used by many threads. Runs on different streams may overlap. One workspace belongs to one run in flight.
 *     On the CPU a run uses the context's thread pool; concurrent runs on one context take turns.
 *  2. Ownership: create/destroy pairs own; strata_tensor, strata_kv_cache and strata_weight are views and own nothing. Destroy accepts NULL.
 *  3. Synchrony: runs on "cpu" and "simt" are done on return. Runs on "cuda:N" are enqueued on the stream that is passed in.
 *  4. Allocation: no run allocates. Scratch is the caller's workspace, whose size the *_workspace query returns (the same planner, run dry).
 *  5. Alignment: data pointers are aligned to their element; a workspace and a packed weight to 64 bytes.
 *  6. Strides count elements. All strides zero means dense row-major. The last dimension must be dense.
 *  7. Zero is the default of every field. A tensor with data == NULL and ndim == 0 is absent.
 *  8. Text: strata_last_error() belongs to the calling thread and lives until its next call into the library.
 *  9. Growth: structs begin with struct_size = sizeof the struct the caller was compiled with; fields are only ever appended. Fields the
 *     library does not know must be zero. Enum values are never renumbered. A changed signature gets a new symbol.
 * 10. Determinism: the same call on the same device gives bitwise the same result, for any number of threads.
 * 11. supported() says yes only if run() with the same shapes cannot fail with 1xx or 2xx for a reason of shape or type.
 * 12. A failed call changes nothing: everything is checked before the first byte is written. What only the device can see (a page index in
 *     device memory) is checked by the kernel, read as zeros, and reported by the next strata_stream_sync.
 * Text of an error: where, what, got and wanted, cure; strata_device_describe() prints the block for a bug report.
 */
/* One declaration a line, comments beside the fields. */
/* clang-format off */
#ifndef STRATA_STRATA_H
#define STRATA_STRATA_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define STRATA_API __declspec(dllexport)
#else
#define STRATA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Major version of the ABI in the high 16 bits, minor in the low 16. Majors must match; the library's minor must not be older. */
#define STRATA_ABI_VERSION 0x00010000u
/** Most dimensions a strata_tensor has. */
#define STRATA_MAX_DIMS 4
/** Bytes of the header in front of a packed weight or a packed BitStack level. */
#define STRATA_PACKED_HEADER_BYTES 64
/** Most levels a BitStack call takes. */
#define STRATA_MAX_LEVELS 16

/** Status of every call: 0 is success; 1xx the caller's fault; 2xx this build or machine; 3xx while running. */
typedef int32_t strata_status;

/** Values of strata_status. */
enum strata_status_code {
    STRATA_OK = 0,
    STRATA_E_ARGUMENT = 100,    /**< A pointer, flag or option is not acceptable. */
    STRATA_E_SHAPE = 101,       /**< A shape or stride does not fit the others. */
    STRATA_E_DTYPE = 102,       /**< An element type is not taken there. */
    STRATA_E_ALIGNMENT = 103,   /**< A pointer is not aligned as promised. */
    STRATA_E_WORKSPACE = 104,   /**< The workspace is missing, too small or misaligned. */
    STRATA_E_INDEX = 105,       /**< A page, token or row index is out of range. */
    STRATA_E_FORMAT = 106,      /**< A packed weight is damaged or of another version. */
    STRATA_E_VERSION = 107,     /**< struct_size or the ABI version is not known here. */
    STRATA_E_UNSUPPORTED = 200, /**< This device or build has no kernel for the request. */
    STRATA_E_DEVICE = 201,      /**< No such device, or it cannot be opened; the text says why. */
    STRATA_E_MEMORY = 300,      /**< Out of host or device memory. */
    STRATA_E_DEVICE_FAULT = 301,/**< A kernel failed or met a bad index in device memory. */
    STRATA_E_INTERNAL = 302     /**< A defect in Strata. */
};

/** Element types of a strata_tensor. */
enum strata_dtype {
    STRATA_DTYPE_NONE = 0,
    STRATA_DTYPE_F32 = 1,
    STRATA_DTYPE_F16 = 2,
    STRATA_DTYPE_BF16 = 3,
    STRATA_DTYPE_I32 = 4,
    STRATA_DTYPE_I8 = 5,
    STRATA_DTYPE_U8 = 6,
    STRATA_DTYPE_F8E4M3 = 7 /**< 1 sign, 4 exponent, 3 mantissa bits, bias 7; no infinity, 0x7f and 0xff are NaN, largest 448 (OCP E4M3). */
};

/** Storage formats of weights: what strata_weight_pack reads and what strata_weight.format says. GGUF names are the blocks of that file format. */
enum strata_format {
    STRATA_FORMAT_NONE = 0,
    STRATA_FORMAT_F32 = 1,
    STRATA_FORMAT_F16 = 2,
    STRATA_FORMAT_BF16 = 3,
    STRATA_FORMAT_Q4_0 = 4, /**< 32 codes of 4 bits, w = d (q - 8). */
    STRATA_FORMAT_Q4_1 = 5, /**< 32 codes of 4 bits, w = d q + m. */
    STRATA_FORMAT_Q8_0 = 6, /**< 32 codes of 8 bits, w = d q. */
    STRATA_FORMAT_Q4_K = 7, /**< 256 codes of 4 bits, per 32: w = d sc q - dmin m. */
    STRATA_FORMAT_Q6_K = 8, /**< 256 codes of 6 bits, per 16: w = d sc (q - 32). */
    STRATA_FORMAT_I4 = 9    /**< Symmetric int4: w = scale (q - 8), one fp16 scale per group of 32, 64 or 128; codes two a byte, even k in the low nibble. */
};

/** Opaque: one device, its threads, its caches. */
typedef struct strata_context strata_context;
/** Opaque: memory of a context's device. */
typedef struct strata_buffer strata_buffer;
/** Opaque: a point in a stream. */
typedef struct strata_event strata_event;
/** A cudaStream_t / CUstream on "cuda:N" (NULL is the legacy default stream); NULL on "cpu" and "simt". */
typedef void *strata_stream;

/** A borrowed, strided view. Never owns. */
typedef struct strata_tensor {
    void *data;                      /**< Device address of element 0; NULL in supported() and workspace() queries. */
    int32_t dtype;                   /**< strata_dtype. */
    int32_t ndim;                    /**< 1..STRATA_MAX_DIMS; 0 means absent. */
    int64_t shape[STRATA_MAX_DIMS];  /**< Extents, outermost first. */
    int64_t stride[STRATA_MAX_DIMS]; /**< Elements; all zero means dense row-major. */
} strata_tensor;

/* ---------------------------------------------------------------- library */

/** The ABI version that the library was built with: STRATA_ABI_VERSION of its header. */
STRATA_API uint32_t strata_abi_version(void);
/** Version, compiler and instruction sets of the build, one line of UTF-8. Lives as long as the library. */
STRATA_API const char *strata_build_info(void);
/** The sentence of the calling thread's last failed call; "" if there was none. Valid until the thread's next call. */
STRATA_API const char *strata_last_error(void);
/** "E_SHAPE" for STRATA_E_SHAPE and so on; "E_UNKNOWN" for other numbers. */
STRATA_API const char *strata_status_name(strata_status status);

/* ---------------------------------------------------------------- devices */

/** What one device is, or why it cannot be used. */
typedef struct strata_device_info {
    uint32_t struct_size;  /**< sizeof(strata_device_info), set by the caller. */
    int32_t available;     /**< 1 if strata_context_create would open it. */
    int64_t total_bytes;   /**< Memory of the device, 0 if unknown. */
    int32_t threads;       /**< CPU: usable cores. GPU: multiprocessors. */
    int32_t reserved;
    char id[16];           /**< "cpu", "simt", "cuda:0". */
    char name[128];        /**< The processor's own name. */
    char isa[128];         /**< CPU: the instruction set in use, then those not in use and why. GPU: the architecture. */
    char reason[384];      /**< Why it is not available, and what to do; "" if it is. */
} strata_device_info;

/** Number of devices that strata_device_info knows, the unavailable ones included. */
STRATA_API strata_status strata_device_count(int32_t *count);
/** Describes device `index`. @errors E_ARGUMENT: index out of range; E_VERSION: unknown struct_size. */
STRATA_API strata_status strata_device_describe(int32_t index, strata_device_info *info);

/* ---------------------------------------------------------------- context */

/** How to open a device. */
typedef struct strata_context_desc {
    uint32_t struct_size; /**< sizeof(strata_context_desc). */
    int32_t threads;      /**< CPU and simt: worker threads, the caller included; 0 = all cores. */
    const char *device;   /**< "cpu", "simt", "cuda:N"; NULL = "cpu". */
    const char *isa;      /**< CPU: highest instruction set to use: "scalar", "avx2", "avx512", "avx512vnni", "amx"; NULL = environment STRATA_ISA, else the machine's best. */
} strata_context_desc;

/** Opens a device. @errors E_DEVICE: the device or instruction set is not there (the text says why); E_ARGUMENT; E_VERSION; E_MEMORY. */
STRATA_API strata_status strata_context_create(const strata_context_desc *desc, strata_context **context);
/** Closes a context. Buffers and events made from it must be destroyed before. NULL is fine. */
STRATA_API void strata_context_destroy(strata_context *context);
/** The device id of the context ("cpu", "simt", "cuda:0"). Lives as long as the context. */
STRATA_API const char *strata_context_device(const strata_context *context);
/** The instruction set or architecture that the context's kernels use: "avx512vnni", "sm_90", "simt". Lives as long as the context. */
STRATA_API const char *strata_context_isa(const strata_context *context);
/** The implementation that the calling thread's last run used: "qgemm/avx512vnni". "" before the first run. */
STRATA_API const char *strata_last_impl(void);

/* ---------------------------------------------------------------- memory, streams, events */

/** Allocates `bytes` of the context's device memory, aligned to 256 bytes (CPU: huge pages where the system gives them). @errors E_MEMORY; E_ARGUMENT: bytes is 0. */
STRATA_API strata_status strata_buffer_create(strata_context *context, size_t bytes, strata_buffer **buffer);
/** Frees a buffer. NULL is fine. */
STRATA_API void strata_buffer_destroy(strata_buffer *buffer);
/** Device address of a buffer; host-readable on "cpu" and "simt" only. NULL for NULL. */
STRATA_API void *strata_buffer_data(const strata_buffer *buffer);
/** Bytes asked for. 0 for NULL. */
STRATA_API size_t strata_buffer_bytes(const strata_buffer *buffer);

/** Directions of strata_copy. */
enum strata_copy_kind { STRATA_COPY_TO_DEVICE = 1, STRATA_COPY_TO_HOST = 2, STRATA_COPY_ON_DEVICE = 3 };
/** Copies bytes. To and from the host it returns when the host memory may be reused (to device) or read (to host). @errors E_ARGUMENT; E_DEVICE_FAULT. */
STRATA_API strata_status strata_copy(strata_context *context, void *destination, const void *source, size_t bytes, int32_t kind, strata_stream stream);
/** Fills device memory with one byte value. @errors E_ARGUMENT; E_DEVICE_FAULT. */
STRATA_API strata_status strata_fill(strata_context *context, void *destination, int32_t value, size_t bytes, strata_stream stream);

/** Makes a stream; NULL on devices that run synchronously. */
STRATA_API strata_status strata_stream_create(strata_context *context, strata_stream *stream);
/** Destroys a stream made by strata_stream_create. NULL is fine. */
STRATA_API strata_status strata_stream_destroy(strata_context *context, strata_stream stream);
/** Waits for the stream and reports what went wrong on it. @errors E_DEVICE_FAULT: a kernel failed, or met an index out of range and read zeros in its place. */
STRATA_API strata_status strata_stream_sync(strata_context *context, strata_stream stream);

/** Makes an event with time stamps. */
STRATA_API strata_status strata_event_create(strata_context *context, strata_event **event);
/** Destroys an event. NULL is fine. */
STRATA_API void strata_event_destroy(strata_event *event);
/** Marks the present end of the stream. */
STRATA_API strata_status strata_event_record(strata_event *event, strata_stream stream);
/** Makes later work of `stream` wait for the event. */
STRATA_API strata_status strata_event_wait(strata_event *event, strata_stream stream);
/** Waits on the host for the event. */
STRATA_API strata_status strata_event_sync(strata_event *event);
/** Microseconds between two recorded events that have both passed. @errors E_ARGUMENT: one was not recorded. */
STRATA_API strata_status strata_event_elapsed(strata_event *start, strata_event *end, double *microseconds);

/** What strata_limit_measure measures. */
enum strata_limit {
    STRATA_LIMIT_READ = 1,  /**< Sustained reads from memory, bytes/s. */
    STRATA_LIMIT_FP32 = 2,  /**< fp32 multiply-add, FLOP/s (two per multiply-add). */
    STRATA_LIMIT_BF16 = 3,  /**< bf16 dot product with fp32 sums, FLOP/s. */
    STRATA_LIMIT_INT8 = 4,  /**< int8 dot product with int32 sums (VNNI, else the best there is), OP/s. */
    STRATA_LIMIT_AMX_BF16 = 5,
    STRATA_LIMIT_AMX_INT8 = 6
};
/** Measures one limit of the machine with the context's threads, a few hundred milliseconds. @errors E_UNSUPPORTED: the machine or the device has no such unit; E_ARGUMENT. */
STRATA_API strata_status strata_limit_measure(strata_context *context, int32_t limit, double *per_second);

/* ---------------------------------------------------------------- packed weights */

/** A borrowed weight matrix W[n, k] in the packed layout (y = x W^T). Filled by strata_weight_pack or strata_weight_open; `data` may then be moved to device memory. */
typedef struct strata_weight {
    const void *data;   /**< The packed bytes, header first, 64-byte aligned, in memory of the context's device. */
    int64_t bytes;      /**< Their number. */
    int64_t n;          /**< Output features (rows). */
    int64_t k;          /**< Input features (columns). */
    int32_t format;     /**< strata_format. */
    int32_t group;      /**< Columns that share a scale. */
    int32_t layout;     /**< Layout id of this ABI major; 1 = panels of 16 rows. */
    int32_t reserved;
} strata_weight;

/** Where the weights come from, in host memory. */
typedef struct strata_weight_source {
    uint32_t struct_size;  /**< sizeof(strata_weight_source). */
    int32_t format;        /**< strata_format of the source; the packed weight keeps it. */
    int64_t n;             /**< Rows. */
    int64_t k;             /**< Columns; a multiple of the format's block (1 for floats, 32, or 256 for Q4_K and Q6_K; of `group` for I4). */
    const void *data;      /**< Row after row of blocks; I4: codes [n, k/2]. */
    int64_t data_bytes;    /**< Must be exactly what n, k and format need. */
    const void *scales;    /**< I4: fp16 [n, k/group]; else NULL. */
    int64_t scales_bytes;  /**< I4: 2 n k/group; else 0. */
    int32_t group;         /**< I4: 32, 64 or 128; else 0. */
    int32_t reserved;
} strata_weight_source;

/** Bytes that packing `source` needs, header included. `data` and `scales` may be NULL. @errors E_SHAPE; E_FORMAT: unknown format; E_VERSION. */
STRATA_API strata_status strata_weight_packed_bytes(const strata_weight_source *source, size_t *bytes);
/** Packs into host memory (64-byte aligned) and describes the result. No value changes: dequantising the packed weight gives exactly what the source gives. @errors as above; E_WORKSPACE: too few bytes; E_ALIGNMENT. */
STRATA_API strata_status strata_weight_pack(const strata_weight_source *source, void *destination, size_t destination_bytes, strata_weight *weight);
/** Reads the header of packed bytes in host memory and checks them. @errors E_FORMAT: not a packed weight, another version, or damaged. */
STRATA_API strata_status strata_weight_open(const void *data, size_t bytes, strata_weight *weight);

/* ---------------------------------------------------------------- paged KV cache */

/** How the numbers of a pool of keys or values are stored. d is head_dim; groups = ceil(d / 32). Scales, zero points: f16. Keys and values choose independently. */
enum strata_kv_format {
    STRATA_KV_PLAIN = 0,    /**< The tensor's own type, f32 | f16 | bf16; no scales. */
    STRATA_KV_I8 = 1,       /**< i8, one scale per token and head: x = scale c. Scales [pages, heads_in_page, page_size]. */
    STRATA_KV_F8 = 2,       /**< f8e4m3, one scale per token and head: x = scale c. Scales as STRATA_KV_I8. */
    STRATA_KV_I8_BLOCK = 3, /**< u8 with zero points, x = scale c + zero. Keys: one pair per channel and block of STRATA_KV_BLOCK slots, scales [pages, heads_in_page, page_size / 32, 2 d]
                                 (d scales, then d zeros). Values: one pair per token and group of 32 channels, scales [pages, heads_in_page, 2 groups, page_size] (row 2g scale, row 2g+1 zero of group g). */
    STRATA_KV_I4_BLOCK = 4  /**< The same with codes 0 ... 15, two a byte: the pool is u8 [pages, heads_in_page, page_size, d / 2]. */
};
/** Slots that share a key scale in the block formats. A block is quantised when its last slot is written; until then its keys stay in key_tail. */
#define STRATA_KV_BLOCK 32

/** Order of the numbers inside one page of one head. A word is 4 bytes: E = 1, 2, 4 or 8 neighbours of 32, 16, 8 or 4 bits. */
enum strata_kv_layout {
    STRATA_KV_ROWS = 0,     /**< Slot after slot, d numbers each; any strides, so pools of other engines (NHD, HND) are read in place. Not for block formats. */
    STRATA_KV_TILED = 1,    /**< Pages of one dense block. Keys: words [page_size / 16][d / E][16 slots], a word = E channels of a slot. Values: words [page_size / E][d], a word = E slots of a channel.
                                 4-bit words: byte i holds neighbour i in its low and neighbour i + 4 in its high nibble. page_size and d multiples of 16. The fast one on CPUs; all block formats have it. */
    STRATA_KV_SWIZZLED = 2  /**< 16-bit types, d a multiple of 64, page_size of 16, dense pages: [d / 64][page_size][64], where the 16-byte chunk c of slot r lies at chunk c ^ (r & 7). The fast one on GPUs. */
};

/** A paged KV cache of one layer, for a batch of sequences. Pages belong to one KV head where heads_in_page is 1; table and lengths are per (sequence, KV head).
 *  Tensors beside the pages ("side arrays") are f32 unless noted, [pages, heads_in_page, page_size], and travel with their slots. */
typedef struct strata_kv_cache {
    strata_tensor keys;       /**< [pages, heads_in_page, page_size, head_dim], type by key_format; heads_in_page is 1 or kv_heads; any strides, last dense. */
    strata_tensor values;     /**< Like keys, type by value_format. */
    strata_tensor page_table; /**< int32 [batch, kv_heads, max_pages]: page of slots i page_size ... ; a head stride of 0 shares one table. */
    strata_tensor lengths;    /**< int32 [batch, kv_heads]: tokens held, 0 ... max_pages page_size. */
    strata_tensor positions;  /**< Optional int32: logical position of each slot. */
    strata_tensor logit_bias; /**< Optional: added to every score of the slot (merged tokens); kv_append writes 0. */
    strata_tensor key_norms;  /**< Optional f32 | f16: ||k|| of the key as given to the cache (rotated by its position, before quantisation); written by kv_append. */
    strata_tensor value_norms;/**< Optional f32 | f16: ||v||; written by kv_append. */
    strata_tensor key_scales; /**< f16; needed, and only allowed, where key_format has scales. */
    strata_tensor value_scales; /**< f16; likewise for value_format. */
    strata_tensor key_tail;   /**< f32 | f16 | bf16 [tails, STRATA_KV_BLOCK, head_dim]: keys of the last length % 32 slots; needed with a block key_format. */
    strata_tensor tail_table; /**< Optional int32 [batch, kv_heads]: the row of key_tail of each sequence and head; absent: sequence * kv_heads + head. */
    int32_t key_format;       /**< strata_kv_format. */
    int32_t value_format;     /**< strata_kv_format. */
    int32_t layout;           /**< strata_kv_layout of keys and values. */
    int32_t rotation;         /**< 0, or n = 16, 32, 64, 128, 256 dividing head_dim: keys and values are stored after a normalised n-point Walsh-Hadamard transform of each n channels;
                                   kv_attention turns q likewise and out back. Outliers spread over channels: int8 per token then loses a tenth. */
} strata_kv_cache;

/** How rotary embedding pairs channels. */
enum strata_rope_mode {
    STRATA_ROPE_NONE = 0,
    STRATA_ROPE_INTERLEAVED = 1, /**< Pairs (2i, 2i+1): GGUF llama. */
    STRATA_ROPE_HALF = 2         /**< Pairs (i, i + dims/2): NeoX, Hugging Face. */
};

/** Rotary embedding: pair i of `dims` channels turns by position * f_i and is multiplied by `magnitude`. Plain and linear: f_i = frequency_scale * base^(-2i/dims).
 *  YaRN (arXiv 2309.00071; yarn_context > 0): e_i = base^(-2i/dims), c(b) = dims ln(yarn_context / (2 pi b)) / (2 ln base), low = max(floor c(beta_fast), 0), high = min(ceil c(beta_slow), dims - 1),
 *  m_i = 1 - clamp((i - low) / max(high - low, 0.001), 0, 1), f_i = e_i (frequency_scale (1 - m_i) + m_i). */
typedef struct strata_rope_params {
    int32_t mode;          /**< strata_rope_mode. */
    int32_t dims;          /**< Channels that turn, even; 0 = all of head_dim. */
    float base;            /**< 0 = 10000. */
    float frequency_scale; /**< Linear scaling, 1 / factor; 0 = 1. */
    int32_t yarn_context;  /**< The context that the model was first trained with; 0 = no YaRN. */
    float yarn_beta_fast;  /**< 0 = 32. */
    float yarn_beta_slow;  /**< 0 = 1. */
    float magnitude;       /**< 0 = 1, with YaRN 1 + 0.1 ln(1 / frequency_scale). */
} strata_rope_params;

/* ---------------------------------------------------------------- ops: supported / workspace / run
 * supported and workspace look at shapes, types and options only; data may be NULL. workspace returns an upper bound that grows with every extent.
 */

/** kv_append: K and V rows of new tokens into the last slots of their sequences, in one pass: rope on keys, the cache's Hadamard rotation, quantisation, norms, positions, a zero logit bias.
 *  A block of keys whose last slot is written is quantised from key_tail and the new rows. Row r of sequence b, r = row_offsets[b] ... row_offsets[b+1]-1, goes to slot lengths[b,h] - (row_offsets[b+1] - r): lengths count the new tokens already. */
typedef struct strata_kv_append_args {
    uint32_t struct_size;
    uint32_t flags;             /**< 0. */
    strata_kv_cache cache;      /**< Written: keys, values, positions (if present). */
    strata_tensor keys;         /**< [tokens, kv_heads, head_dim] f32 | f16 | bf16. */
    strata_tensor values;       /**< Like keys. */
    strata_tensor positions;    /**< int32 [tokens] logical positions; needed by rope and by cache.positions. */
    strata_tensor row_offsets;  /**< int32 [batch + 1]; absent: every row belongs to the only sequence. */
    strata_rope_params rope;    /**< Applied to keys. */
    strata_tensor frequency_factors; /**< Optional f32 [rope.dims / 2]: f_i is divided by factor i (Llama 3's rope_freqs). */
} strata_kv_append_args;
/** @errors E_SHAPE, E_DTYPE: see the fields; E_INDEX (cpu): a page, length or offset out of range. */
STRATA_API strata_status strata_kv_append_supported(strata_context *context, const strata_kv_append_args *args);
/** Scratch bytes of kv_append. */
STRATA_API strata_status strata_kv_append_workspace(strata_context *context, const strata_kv_append_args *args, size_t *bytes);
/** Runs kv_append. */
STRATA_API strata_status strata_kv_append_run(strata_context *context, const strata_kv_append_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** Flags of kv_attention. */
enum strata_kv_attention_flag {
    STRATA_ATTENTION_CAUSAL = 1,            /**< Query r of n sees slots 0 ... length - n + r; otherwise all. */
    STRATA_ATTENTION_BATCH_INVARIANT = 2,   /**< A sequence's result does not depend on its neighbours, its place in the batch or its pages: the work is split by fixed numbers. */
    STRATA_ATTENTION_STORE_PROBABILITY = 4  /**< key_probability is overwritten; otherwise added to. */
};
/** kv_attention: out = softmax(s) V over the pages of each query's sequence and KV head (head h reads KV head h / (q_heads / kv_heads)), with
 *  s = cap(scale q k) + slope_h (slot - (length - n + r)) + logit_bias[slot],  cap(x) = softcap tanh(x / softcap).
 *  Decode is a few query rows a sequence, prefill many; a batch may mix them. A query that sees no slot gives 0 and lse = -inf (with a sink logit: that logit). */
typedef struct strata_kv_attention_args {
    uint32_t struct_size;
    uint32_t flags;             /**< strata_kv_attention_flag. */
    strata_kv_cache cache;      /**< Read. */
    strata_tensor q;            /**< [tokens, q_heads, head_dim] f32 | f16 | bf16. */
    strata_tensor out;          /**< Like q, f32 | f16 | bf16. */
    strata_tensor lse;          /**< Optional f32 [tokens, q_heads]: ln of the sum of exp(s), sink logit included. */
    strata_tensor row_offsets;  /**< int32 [batch + 1] ragged query rows; absent: all rows belong to the only sequence. */
    float scale;                /**< 0 = 1 / sqrt(head_dim). */
    int32_t max_length;         /**< An upper bound of lengths known on the host; 0 = max_pages * page_size. */
    strata_tensor past_lse;     /**< Optional f32 [tokens, q_heads]: ln of the sum of exp(s) over slots 0 ... length - n - 1 that the query sees, n its sequence's rows (EpiCache); no sink logit. */
    strata_tensor key_probability; /**< Optional f32 [batch, kv_heads, capacity]: slot s gets the sum over the sequence's rows of the mean over the group of exp(s - lse) (H2O, D2O, TOVA);
                                     columns 0 ... length - 1 are written, the others left alone. */
    strata_tensor alibi_slopes; /**< Optional f32 [q_heads]: slope_h. */
    strata_tensor sink_logits;  /**< Optional f32 [q_heads]: one more score in the softmax of each row, with value 0; neither scaled nor capped. */
    strata_tensor plan;         /**< Optional int32 [words]: what strata_kv_attention_plan wrote for these lengths and rows, in memory of the device; absent: the run plans for itself. */
    float softcap;              /**< 0 = none. */
    int32_t window;             /**< Sliding window: a query sees the last `window` slots of those that it would see, itself included; 0 = no window. */
    int32_t window_sinks;       /**< With a window: slots 0 ... window_sinks - 1 are seen as well. */
    int32_t reserved;
} strata_kv_attention_args;
/** @errors E_SHAPE, E_DTYPE: see the fields; E_INDEX (cpu): a page, length or offset out of range. */
STRATA_API strata_status strata_kv_attention_supported(strata_context *context, const strata_kv_attention_args *args);
/** Scratch bytes of kv_attention. */
STRATA_API strata_status strata_kv_attention_workspace(strata_context *context, const strata_kv_attention_args *args, size_t *bytes);
/** Runs kv_attention. */
STRATA_API strata_status strata_kv_attention_run(strata_context *context, const strata_kv_attention_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);
/** Where the lengths and row offsets of strata_kv_attention_plan lie, and where the plan goes. */
enum strata_plan_place {
    STRATA_PLAN_HOST = 0,   /**< All in host memory; the caller copies the plan to the device. */
    STRATA_PLAN_DEVICE = 1  /**< All in the device's memory: a kernel on the stream makes the plan (graphs, speculation). On "cpu" and "simt" the same as HOST. */
};
/** Words (int32) that a plan for these shapes needs; lengths are not looked at. */
STRATA_API strata_status strata_kv_attention_plan_words(strata_context *context, const strata_kv_attention_args *args, int64_t *words);
/** Splits the work of kv_attention for the present lengths and rows, once for all layers of a step. Only cache.lengths, row_offsets and shapes are read; `plan` is not.
 *  The grid of a later run depends on shapes only, so it can be captured in a graph and replayed with a new plan. @errors as kv_attention_run; E_WORKSPACE: too few words. */
STRATA_API strata_status strata_kv_attention_plan(strata_context *context, const strata_kv_attention_args *args, int32_t *plan, int64_t words, int32_t place, strata_stream stream);

/** merge_states: joins attention over disjoint sets of keys: lse = ln sum_i exp(lse_i), out = sum_i exp(lse_i - lse) out_i. A part with lse -inf counts nothing.
 *  A prefix shared by many sequences is attended to once with all their rows as one sequence, each suffix on its own, then both are merged (cascade). */
typedef struct strata_merge_states_args {
    uint32_t struct_size;
    uint32_t flags;             /**< 0. */
    strata_tensor parts;        /**< [parts, tokens, q_heads, head_dim] f32 | f16 | bf16; 1 ... 64 parts. */
    strata_tensor part_lse;     /**< f32 [parts, tokens, q_heads]. */
    strata_tensor out;          /**< Written: [tokens, q_heads, head_dim] f32 | f16 | bf16. */
    strata_tensor lse;          /**< Optional, written: f32 [tokens, q_heads]. */
} strata_merge_states_args;
/** @errors E_SHAPE, E_DTYPE: see the fields. */
STRATA_API strata_status strata_merge_states_supported(strata_context *context, const strata_merge_states_args *args);
/** Scratch bytes of merge_states. */
STRATA_API strata_status strata_merge_states_workspace(strata_context *context, const strata_merge_states_args *args, size_t *bytes);
/** Runs merge_states. */
STRATA_API strata_status strata_merge_states_run(strata_context *context, const strata_merge_states_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** Reduction of kv_score over the window's rows, per query head and key. */
enum strata_score_statistic {
    STRATA_SCORE_SUM = 0,
    STRATA_SCORE_MEAN = 1,
    STRATA_SCORE_MAX = 2,
    STRATA_SCORE_MEAN_VARIANCE = 3 /**< mean + gamma * unbiased variance (0 for one row): CAKE. */
};
/** Pooling of kv_score along the keys; stride 1, odd width. */
enum strata_score_pool {
    STRATA_POOL_NONE = 0,
    STRATA_POOL_AVERAGE = 1, /**< Zero padding counted in the divisor. */
    STRATA_POOL_MAX = 2      /**< Out of range ignored. */
};
/** Reduction of kv_score over query heads. */
enum strata_score_heads {
    STRATA_HEADS_GROUP_MEAN = 0, /**< Mean over the query heads of a KV head. */
    STRATA_HEADS_GROUP_MAX = 1,
    STRATA_HEADS_LAYER_MEAN = 2  /**< Mean over all query heads, written to every KV head. */
};
/** kv_score: scores of cached keys from the attention of the last `window` queries. p = softmax of scale q K^T of each window row over the slots it sees
 *  (row r of w sees slots 0 ... length - w + r); then the statistic over rows, pooling over the scored columns, and the reduction over heads. SnapKV, TOVA, H2O, CAKE, Ada-KV are settings of it. */
typedef struct strata_kv_score_args {
    uint32_t struct_size;
    uint32_t flags;             /**< 0. */
    strata_kv_cache cache;      /**< Read: keys, page_table, lengths. */
    strata_tensor q;            /**< [batch, window, q_heads, head_dim] f32 | f16 | bf16: the last `window` queries, rotated. */
    strata_tensor lse;          /**< Optional f32 [batch, window, q_heads] as kv_attention (causal) wrote it; absent: computed by one more pass over K. */
    strata_tensor scores;       /**< f32 [batch, kv_heads, capacity]; columns 0 ... length - exclude_last - 1 are written, the others are left alone. */
    int32_t statistic;          /**< strata_score_statistic. */
    int32_t pool;               /**< strata_score_pool. */
    int32_t pool_width;         /**< Odd, 1 ... 127; 0 with POOL_NONE. */
    int32_t heads;              /**< strata_score_heads. */
    int32_t reduce_first;       /**< 0: pool each head, then reduce; 1: reduce, then pool. */
    int32_t exclude_last;       /**< Slots at the end that get no score (SnapKV: the window). */
    float gamma;                /**< Of MEAN_VARIANCE. */
    float scale;                /**< 0 = 1 / sqrt(head_dim). */
    int32_t max_length;         /**< An upper bound of lengths known on the host; 0 = max_pages * page_size. */
    int32_t reserved;
} strata_kv_score_args;
/** @errors E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields; E_INDEX (cpu): a page or length out of range. */
STRATA_API strata_status strata_kv_score_supported(strata_context *context, const strata_kv_score_args *args);
/** Scratch bytes of kv_score. */
STRATA_API strata_status strata_kv_score_workspace(strata_context *context, const strata_kv_score_args *args, size_t *bytes);
/** Runs kv_score. */
STRATA_API strata_status strata_kv_score_run(strata_context *context, const strata_kv_score_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** kv_select: which slots stay. Slots 0 ... protect_first-1 and the last protect_last stay; the rest of the budget goes to the highest scores between them
 *  (ties and NaN: a NaN loses to every number, equal scores go to the lower slot). The result is ascending. A budget not below the length keeps all; one below the protected slots keeps the first of them, then the last. */
typedef struct strata_kv_select_args {
    uint32_t struct_size;
    uint32_t flags;             /**< 0. */
    strata_tensor scores;       /**< f32 [batch, kv_heads, capacity], column = slot; absent: every score is equal (streaming). */
    strata_tensor lengths;      /**< int32 [batch, kv_heads]. */
    strata_tensor budgets;      /**< Optional int32 [batch, kv_heads] slots to keep; absent: `budget` for all. */
    strata_tensor kept;         /**< Written: int32 [batch, kv_heads, max_kept]; entries past the count are left alone. */
    strata_tensor kept_counts;  /**< Written: int32 [batch, kv_heads]. */
    int32_t budget;             /**< Slots to keep per head. */
    int32_t protect_first;      /**< Slots at the front that always stay. */
    int32_t protect_last;       /**< Slots at the end that always stay. */
    int32_t max_length;         /**< An upper bound of lengths known on the host; 0 = capacity (needed when scores are absent). */
} strata_kv_select_args;
/** @errors E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields; E_INDEX (cpu): a length or budget out of range. */
STRATA_API strata_status strata_kv_select_supported(strata_context *context, const strata_kv_select_args *args);
/** Scratch bytes of kv_select. */
STRATA_API strata_status strata_kv_select_workspace(strata_context *context, const strata_kv_select_args *args, size_t *bytes);
/** Runs kv_select. */
STRATA_API strata_status strata_kv_select_run(strata_context *context, const strata_kv_select_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** kv_compact: moves the kept slots of each head to the front of its pages, or into fresh pages. Keys stay as rotated; positions travel along. */
typedef struct strata_kv_compact_args {
    uint32_t struct_size;
    uint32_t flags;              /**< 0. */
    strata_kv_cache cache;       /**< Source; in place also destination. */
    strata_tensor kept;          /**< int32 [batch, kv_heads, max_kept], strictly ascending slots. */
    strata_tensor kept_counts;   /**< int32 [batch, kv_heads]. */
    strata_tensor to_page_table; /**< Optional int32 [batch, kv_heads, max_to_pages]: fresh pages of the same pool, none of which the sources use; absent: in place. */
    strata_tensor new_lengths;   /**< Optional, written: int32 [batch, kv_heads] = kept_counts. */
} strata_kv_compact_args;
/** @errors E_SHAPE, E_DTYPE: see the fields; E_INDEX (cpu): a page, slot or count out of range, slots not ascending. */
STRATA_API strata_status strata_kv_compact_supported(strata_context *context, const strata_kv_compact_args *args);
/** Scratch bytes of kv_compact. */
STRATA_API strata_status strata_kv_compact_workspace(strata_context *context, const strata_kv_compact_args *args, size_t *bytes);
/** Runs kv_compact. */
STRATA_API strata_status strata_kv_compact_run(strata_context *context, const strata_kv_compact_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** Flags of qgemm. */
enum strata_qgemm_flag { STRATA_QGEMM_INT8_ACTIVATIONS = 1 /**< Quantise x to int8, one scale per row and 32 columns, and multiply in integers; formats of 4 to 8 bits. */ };
/** qgemm: y[m,n] = x[m,k] dequantise(W)[n,k]^T. */
typedef struct strata_qgemm_args {
    uint32_t struct_size;
    uint32_t flags;       /**< strata_qgemm_flag. */
    strata_tensor x;      /**< [m, k] f32 | f16 | bf16. */
    strata_tensor y;      /**< Written: [m, n] f32 | f16 | bf16. */
    strata_weight w;      /**< Packed. */
} strata_qgemm_args;
/** @errors E_SHAPE, E_DTYPE, E_FORMAT: see the fields. */
STRATA_API strata_status strata_qgemm_supported(strata_context *context, const strata_qgemm_args *args);
/** Scratch bytes of qgemm. */
STRATA_API strata_status strata_qgemm_workspace(strata_context *context, const strata_qgemm_args *args, size_t *bytes);
/** Runs qgemm. */
STRATA_API strata_status strata_qgemm_run(strata_context *context, const strata_qgemm_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** One residual level as its authors store it, in host memory. */
typedef struct strata_bitstack_source {
    uint32_t struct_size;
    int32_t rank;           /**< 1 ... 32. */
    int64_t n;              /**< Rows of W. */
    int64_t k;              /**< Columns of W; n k must be a multiple of 8. */
    const void *signs;      /**< n k / 8 bytes: row-major bits, first element in bit 7, 1 = +1. */
    int64_t signs_bytes;
    const void *u;          /**< fp16 [n, rank]. */
    int64_t u_bytes;
    const void *vt;         /**< fp16 [rank, k]. */
    int64_t vt_bytes;
} strata_bitstack_source;
/** A borrowed packed level. Each level is memory of its own, so that levels can be loaded and dropped while running. */
typedef struct strata_bitstack_level {
    const void *data;       /**< Packed bytes, header first, 64-byte aligned, memory of the context's device. */
    int64_t bytes;          /**< Their number. */
    int64_t n;              /**< Rows of W. */
    int64_t k;              /**< Columns of W. */
    int32_t rank;           /**< 1 ... 32. */
    int32_t layout;         /**< Layout id of this ABI major. */
} strata_bitstack_level;
/** Bytes that packing one level needs, header included; the pointers may be NULL. @errors E_SHAPE; E_VERSION. */
STRATA_API strata_status strata_bitstack_packed_bytes(const strata_bitstack_source *source, size_t *bytes);
/** Packs one level into host memory (64-byte aligned). @errors E_SHAPE; E_ARGUMENT; E_WORKSPACE; E_ALIGNMENT. */
STRATA_API strata_status strata_bitstack_pack(const strata_bitstack_source *source, void *destination, size_t destination_bytes, strata_bitstack_level *level);
/** Reads the header of a packed level in host memory and checks it. @errors E_FORMAT. */
STRATA_API strata_status strata_bitstack_open(const void *data, size_t bytes, strata_bitstack_level *level);

/** bitstack: W = sum over levels of sign o (U V^T); multiply y[m,n] = x[m,k] W^T without building W, or decode W itself. */
typedef struct strata_bitstack_args {
    uint32_t struct_size;
    uint32_t flags;                       /**< 0. */
    const strata_bitstack_level *levels;  /**< Host array of `level_count` views, all of one n and k. */
    int32_t level_count;                  /**< 1 ... STRATA_MAX_LEVELS. */
    int32_t reserved;
    strata_tensor x;                      /**< Multiply: [m, k] f32 | f16 | bf16. Absent: decode. */
    strata_tensor y;                      /**< Multiply: [m, n] f32 | f16 | bf16. Decode: W [n, k] f32 | f16 | bf16. */
} strata_bitstack_args;
/** @errors E_SHAPE, E_DTYPE, E_FORMAT: see the fields. */
STRATA_API strata_status strata_bitstack_supported(strata_context *context, const strata_bitstack_args *args);
/** Scratch bytes of bitstack. */
STRATA_API strata_status strata_bitstack_workspace(strata_context *context, const strata_bitstack_args *args, size_t *bytes);
/** Runs bitstack. */
STRATA_API strata_status strata_bitstack_run(strata_context *context, const strata_bitstack_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** rms_norm: y[r,i] = x[r,i] / sqrt(mean_i x[r,i]^2 + epsilon) * weight[i]. y may be x. */
typedef struct strata_rms_norm_args {
    uint32_t struct_size;
    uint32_t flags;         /**< 0. */
    strata_tensor x;        /**< [rows, n] f32 | f16 | bf16. */
    strata_tensor weight;   /**< f32 [n]. */
    strata_tensor y;        /**< [rows, n] f32 | f16 | bf16. */
    float epsilon;          /**< 0 or more. */
    int32_t reserved;
} strata_rms_norm_args;
/** @errors E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields. */
STRATA_API strata_status strata_rms_norm_supported(strata_context *context, const strata_rms_norm_args *args);
/** Scratch bytes of rms_norm. */
STRATA_API strata_status strata_rms_norm_workspace(strata_context *context, const strata_rms_norm_args *args, size_t *bytes);
/** Runs rms_norm. */
STRATA_API strata_status strata_rms_norm_run(strata_context *context, const strata_rms_norm_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** rope: y = x with its channel pairs turned by strata_rope_params at each token's position. y may be x. */
typedef struct strata_rope_args {
    uint32_t struct_size;
    uint32_t flags;           /**< 0. */
    strata_tensor x;          /**< [tokens, heads, head_dim] f32 | f16 | bf16. */
    strata_tensor positions;  /**< int32 [tokens]. */
    strata_tensor y;          /**< Like x. */
    strata_rope_params rope;  /**< mode must not be NONE. */
    strata_tensor frequency_factors; /**< Optional f32 [rope.dims / 2]: f_i is divided by factor i (Llama 3's rope_freqs). */
} strata_rope_args;
/** @errors E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields. */
STRATA_API strata_status strata_rope_supported(strata_context *context, const strata_rope_args *args);
/** Scratch bytes of rope. */
STRATA_API strata_status strata_rope_workspace(strata_context *context, const strata_rope_args *args, size_t *bytes);
/** Runs rope. */
STRATA_API strata_status strata_rope_run(strata_context *context, const strata_rope_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** Functions of elementwise. */
enum strata_elementwise_function {
    STRATA_ELEMENTWISE_ADD = 0,     /**< y = a + b. */
    STRATA_ELEMENTWISE_SILU_MUL = 1 /**< y = a / (1 + exp(-a)) * b. */
};
/** elementwise: y = f(a, b) over matrices of one shape. y may be a or b. */
typedef struct strata_elementwise_args {
    uint32_t struct_size;
    uint32_t flags;       /**< 0. */
    strata_tensor a;      /**< [rows, n] f32 | f16 | bf16. */
    strata_tensor b;      /**< Like a. */
    strata_tensor y;      /**< Like a. */
    int32_t function;     /**< strata_elementwise_function. */
    int32_t reserved;
} strata_elementwise_args;
/** @errors E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields. */
STRATA_API strata_status strata_elementwise_supported(strata_context *context, const strata_elementwise_args *args);
/** Scratch bytes of elementwise. */
STRATA_API strata_status strata_elementwise_workspace(strata_context *context, const strata_elementwise_args *args, size_t *bytes);
/** Runs elementwise. */
STRATA_API strata_status strata_elementwise_run(strata_context *context, const strata_elementwise_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

/** embed: y[t,:] = dequantise(W)[ids[t],:]. */
typedef struct strata_embed_args {
    uint32_t struct_size;
    uint32_t flags;       /**< 0. */
    strata_tensor ids;    /**< int32 [tokens], 0 ... n-1. */
    strata_tensor y;      /**< Written: [tokens, k] f32 | f16 | bf16. */
    strata_weight w;      /**< Packed. */
} strata_embed_args;
/** @errors E_SHAPE, E_DTYPE, E_FORMAT: see the fields; E_INDEX (cpu): an id out of range. */
STRATA_API strata_status strata_embed_supported(strata_context *context, const strata_embed_args *args);
/** Scratch bytes of embed. */
STRATA_API strata_status strata_embed_workspace(strata_context *context, const strata_embed_args *args, size_t *bytes);
/** Runs embed. */
STRATA_API strata_status strata_embed_run(strata_context *context, const strata_embed_args *args, void *workspace, size_t workspace_bytes, strata_stream stream);

#ifdef __cplusplus
}
#endif
#endif /* STRATA_STRATA_H */
