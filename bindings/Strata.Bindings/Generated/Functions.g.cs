// SPDX-License-Identifier: Apache-2.0
// Generated from native/include/strata/strata.h by ./build.sh gen. Do not edit.
#nullable enable

using System.Runtime.InteropServices;

namespace Strata.Bindings;

public static unsafe partial class Native
{
    /// <summary>The ABI version that the library was built with: STRATA_ABI_VERSION of its header.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    [SuppressGCTransition]
    public static partial uint strata_abi_version();

    /// <summary>Version, compiler and instruction sets of the build, one line of UTF-8. Lives as long as the library.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    [SuppressGCTransition]
    public static partial byte* strata_build_info();

    /// <summary>The sentence of the calling thread's last failed call; "" if there was none. Valid until the thread's next call.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    [SuppressGCTransition]
    public static partial byte* strata_last_error();

    /// <summary>"E_SHAPE" for STRATA_E_SHAPE and so on; "E_UNKNOWN" for other numbers.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    [SuppressGCTransition]
    public static partial byte* strata_status_name(int status);

    /// <summary>Number of devices that strata_device_info knows, the unavailable ones included.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_device_count(int* count);

    /// <summary>Describes device <c>index</c>.</summary>
    /// <remarks>Errors: E_ARGUMENT: index out of range; E_VERSION: unknown struct_size.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_device_describe(int index, strata_device_info* info);

    /// <summary>Opens a device.</summary>
    /// <remarks>Errors: E_DEVICE: the device or instruction set is not there (the text says why); E_ARGUMENT; E_VERSION; E_MEMORY.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_context_create(strata_context_desc* desc, strata_context** context);

    /// <summary>Closes a context. Buffers and events made from it must be destroyed before. NULL is fine.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial void strata_context_destroy(strata_context* context);

    /// <summary>The device id of the context ("cpu", "simt", "cuda:0"). Lives as long as the context.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    [SuppressGCTransition]
    public static partial byte* strata_context_device(strata_context* context);

    /// <summary>The instruction set or architecture that the context's kernels use: "avx512vnni", "sm_90", "simt". Lives as long as the context.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    [SuppressGCTransition]
    public static partial byte* strata_context_isa(strata_context* context);

    /// <summary>The implementation that the calling thread's last run used: "qgemm/avx512vnni". "" before the first run.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    [SuppressGCTransition]
    public static partial byte* strata_last_impl();

    /// <summary>Allocates <c>bytes</c> of the context's device memory, aligned to 256 bytes (CPU: huge pages where the system gives them).</summary>
    /// <remarks>Errors: E_MEMORY; E_ARGUMENT: bytes is 0.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_buffer_create(strata_context* context, nuint bytes, strata_buffer** buffer);

    /// <summary>Frees a buffer. NULL is fine.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial void strata_buffer_destroy(strata_buffer* buffer);

    /// <summary>Device address of a buffer; host-readable on "cpu" and "simt" only. NULL for NULL.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    [SuppressGCTransition]
    public static partial void* strata_buffer_data(strata_buffer* buffer);

    /// <summary>Bytes asked for. 0 for NULL.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    [SuppressGCTransition]
    public static partial nuint strata_buffer_bytes(strata_buffer* buffer);

    /// <summary>Copies bytes. To and from the host it returns when the host memory may be reused (to device) or read (to host).</summary>
    /// <remarks>Errors: E_ARGUMENT; E_DEVICE_FAULT.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_copy(strata_context* context, void* destination, void* source, nuint bytes, int kind, void* stream);

    /// <summary>Fills device memory with one byte value.</summary>
    /// <remarks>Errors: E_ARGUMENT; E_DEVICE_FAULT.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_fill(strata_context* context, void* destination, int value, nuint bytes, void* stream);

    /// <summary>Makes a stream; NULL on devices that run synchronously.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_stream_create(strata_context* context, void** stream);

    /// <summary>Destroys a stream made by strata_stream_create. NULL is fine.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_stream_destroy(strata_context* context, void* stream);

    /// <summary>Waits for the stream and reports what went wrong on it.</summary>
    /// <remarks>Errors: E_DEVICE_FAULT: a kernel failed, or met an index out of range and read zeros in its place.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_stream_sync(strata_context* context, void* stream);

    /// <summary>Makes an event with time stamps.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_event_create(strata_context* context, strata_event** @event);

    /// <summary>Destroys an event. NULL is fine.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial void strata_event_destroy(strata_event* @event);

    /// <summary>Marks the present end of the stream.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_event_record(strata_event* @event, void* stream);

    /// <summary>Makes later work of <c>stream</c> wait for the event.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_event_wait(strata_event* @event, void* stream);

    /// <summary>Waits on the host for the event.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_event_sync(strata_event* @event);

    /// <summary>Microseconds between two recorded events that have both passed.</summary>
    /// <remarks>Errors: E_ARGUMENT: one was not recorded.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_event_elapsed(strata_event* start, strata_event* end, double* microseconds);

    /// <summary>Measures one limit of the machine with the context's threads, a few hundred milliseconds.</summary>
    /// <remarks>Errors: E_UNSUPPORTED: the machine or the device has no such unit; E_ARGUMENT.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_limit_measure(strata_context* context, int limit, double* per_second);

    /// <summary>Bytes that packing <c>source</c> needs, header included. <c>data</c> and <c>scales</c> may be NULL.</summary>
    /// <remarks>Errors: E_SHAPE; E_FORMAT: unknown format; E_VERSION.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_weight_packed_bytes(strata_weight_source* source, nuint* bytes);

    /// <summary>Packs into host memory (64-byte aligned) and describes the result. No value changes: dequantising the packed weight gives exactly what the source gives.</summary>
    /// <remarks>Errors: as above; E_WORKSPACE: too few bytes; E_ALIGNMENT.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_weight_pack(strata_weight_source* source, void* destination, nuint destination_bytes, strata_weight* weight);

    /// <summary>Reads the header of packed bytes in host memory and checks them.</summary>
    /// <remarks>Errors: E_FORMAT: not a packed weight, another version, or damaged.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_weight_open(void* data, nuint bytes, strata_weight* weight);

    /// <summary>Whether kv_append can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE: see the fields; E_INDEX (cpu): a page, length or offset out of range.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_append_supported(strata_context* context, strata_kv_append_args* args);

    /// <summary>Scratch bytes of kv_append.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_append_workspace(strata_context* context, strata_kv_append_args* args, nuint* bytes);

    /// <summary>Runs kv_append.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_append_run(strata_context* context, strata_kv_append_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Whether kv_attention can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE: see the fields; E_INDEX (cpu): a page, length or offset out of range.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_attention_supported(strata_context* context, strata_kv_attention_args* args);

    /// <summary>Scratch bytes of kv_attention.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_attention_workspace(strata_context* context, strata_kv_attention_args* args, nuint* bytes);

    /// <summary>Runs kv_attention.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_attention_run(strata_context* context, strata_kv_attention_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Words (int32) that a plan for these shapes needs; lengths are not looked at.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_attention_plan_words(strata_context* context, strata_kv_attention_args* args, long* words);

    /// <summary>Splits the work of kv_attention for the present lengths and rows, once for all layers of a step. Only cache.lengths, row_offsets and shapes are read; <c>plan</c> is not. The grid of a later run depends on shapes only, so it can be captured in a graph and replayed with a new plan.</summary>
    /// <remarks>Errors: as kv_attention_run; E_WORKSPACE: too few words.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_attention_plan(strata_context* context, strata_kv_attention_args* args, int* plan, long words, int place, void* stream);

    /// <summary>Whether merge_states can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE: see the fields.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_merge_states_supported(strata_context* context, strata_merge_states_args* args);

    /// <summary>Scratch bytes of merge_states.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_merge_states_workspace(strata_context* context, strata_merge_states_args* args, nuint* bytes);

    /// <summary>Runs merge_states.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_merge_states_run(strata_context* context, strata_merge_states_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Whether kv_score can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields; E_INDEX (cpu): a page or length out of range.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_score_supported(strata_context* context, strata_kv_score_args* args);

    /// <summary>Scratch bytes of kv_score.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_score_workspace(strata_context* context, strata_kv_score_args* args, nuint* bytes);

    /// <summary>Runs kv_score.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_score_run(strata_context* context, strata_kv_score_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Whether kv_select can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields; E_INDEX (cpu): a length or budget out of range.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_select_supported(strata_context* context, strata_kv_select_args* args);

    /// <summary>Scratch bytes of kv_select.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_select_workspace(strata_context* context, strata_kv_select_args* args, nuint* bytes);

    /// <summary>Runs kv_select.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_select_run(strata_context* context, strata_kv_select_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Whether kv_compact can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE: see the fields; E_INDEX (cpu): a page, slot or count out of range, slots not ascending.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_compact_supported(strata_context* context, strata_kv_compact_args* args);

    /// <summary>Scratch bytes of kv_compact.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_compact_workspace(strata_context* context, strata_kv_compact_args* args, nuint* bytes);

    /// <summary>Runs kv_compact.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_kv_compact_run(strata_context* context, strata_kv_compact_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Whether qgemm can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE, E_FORMAT: see the fields.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_qgemm_supported(strata_context* context, strata_qgemm_args* args);

    /// <summary>Scratch bytes of qgemm.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_qgemm_workspace(strata_context* context, strata_qgemm_args* args, nuint* bytes);

    /// <summary>Runs qgemm.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_qgemm_run(strata_context* context, strata_qgemm_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Bytes that packing one level needs, header included; the pointers may be NULL.</summary>
    /// <remarks>Errors: E_SHAPE; E_VERSION.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_bitstack_packed_bytes(strata_bitstack_source* source, nuint* bytes);

    /// <summary>Packs one level into host memory (64-byte aligned).</summary>
    /// <remarks>Errors: E_SHAPE; E_ARGUMENT; E_WORKSPACE; E_ALIGNMENT.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_bitstack_pack(strata_bitstack_source* source, void* destination, nuint destination_bytes, strata_bitstack_level* level);

    /// <summary>Reads the header of a packed level in host memory and checks it.</summary>
    /// <remarks>Errors: E_FORMAT.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_bitstack_open(void* data, nuint bytes, strata_bitstack_level* level);

    /// <summary>Whether bitstack can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE, E_FORMAT: see the fields.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_bitstack_supported(strata_context* context, strata_bitstack_args* args);

    /// <summary>Scratch bytes of bitstack.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_bitstack_workspace(strata_context* context, strata_bitstack_args* args, nuint* bytes);

    /// <summary>Runs bitstack.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_bitstack_run(strata_context* context, strata_bitstack_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Whether rms_norm can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_rms_norm_supported(strata_context* context, strata_rms_norm_args* args);

    /// <summary>Scratch bytes of rms_norm.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_rms_norm_workspace(strata_context* context, strata_rms_norm_args* args, nuint* bytes);

    /// <summary>Runs rms_norm.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_rms_norm_run(strata_context* context, strata_rms_norm_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Whether rope can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_rope_supported(strata_context* context, strata_rope_args* args);

    /// <summary>Scratch bytes of rope.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_rope_workspace(strata_context* context, strata_rope_args* args, nuint* bytes);

    /// <summary>Runs rope.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_rope_run(strata_context* context, strata_rope_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Whether elementwise can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE, E_ARGUMENT: see the fields.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_elementwise_supported(strata_context* context, strata_elementwise_args* args);

    /// <summary>Scratch bytes of elementwise.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_elementwise_workspace(strata_context* context, strata_elementwise_args* args, nuint* bytes);

    /// <summary>Runs elementwise.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_elementwise_run(strata_context* context, strata_elementwise_args* args, void* workspace, nuint workspace_bytes, void* stream);

    /// <summary>Whether embed can run with these shapes and types: STRATA_OK, or what stands in the way.</summary>
    /// <remarks>Errors: E_SHAPE, E_DTYPE, E_FORMAT: see the fields; E_INDEX (cpu): an id out of range.</remarks>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_embed_supported(strata_context* context, strata_embed_args* args);

    /// <summary>Scratch bytes of embed.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_embed_workspace(strata_context* context, strata_embed_args* args, nuint* bytes);

    /// <summary>Runs embed.</summary>
    [LibraryImport(NativeResolver.LibraryName)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int strata_embed_run(strata_context* context, strata_embed_args* args, void* workspace, nuint workspace_bytes, void* stream);
}
