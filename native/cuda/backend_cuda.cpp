// SPDX-License-Identifier: Apache-2.0
// The devices "cuda:N": memory from a pool of the context's own, the caller's streams, a fault word that sync reads.
// The CUDA runtime is linked in; only the driver must be there.
#include <atomic>
#include <memory>

#include "core/backend.h"
#include "cuda/clear_fault.h"
#include "cuda/cuda_check.h"
#include "cuda/cuda_devices.h"
#include "cuda/gpu_ops.h"
#include "cuda/staging.h"

namespace strata {
namespace {

// What the pool keeps for the next allocation when buffers are freed. Larger frees go back to the system, because
// whoever drops a part of a cache wants the memory.
constexpr std::uint64_t kPoolKeepsBytes = std::uint64_t{64} << 20;

// Threads that may sync at the same time and still each see their own copy of the fault word.
constexpr unsigned kSyncs = 64;

struct CudaState {
    int device = 0;
    char isa[16] = {};
    cudaMemPool_t pool = nullptr;   // null where the driver has no pools
    cudaStream_t memory = nullptr;  // orders the pool's own work
    std::uint32_t *fault = nullptr; // in device memory
    std::uint32_t *seen = nullptr;  // [kSyncs] pinned: where syncs look at it
    std::atomic<unsigned> syncs{0};
    Staging staging;

    ~CudaState();
};

CudaState &of(void *state) { return *static_cast<CudaState *>(state); }

cudaStream_t stream_of(void *stream) { return static_cast<cudaStream_t>(stream); }

CudaState::~CudaState() {
    const CurrentDevice current(device);
    if (fault != nullptr) cudaFree(fault);
    if (seen != nullptr) cudaFreeHost(seen);
    if (pool != nullptr) cudaMemPoolDestroy(pool);
    if (memory != nullptr) cudaStreamDestroy(memory);
}

const char *last_error() { return error_text().c_str(); }

// ---- opening -------------------------------------------------------------------------------------------------------

Status make_pool(CudaState &state) {
    int supported = 0;
    TRY(cuda_status("context_create", cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, state.device)));
    if (supported == 0) return STRATA_OK;
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.handleTypes = cudaMemHandleTypeNone;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = state.device;
    TRY(cuda_status("context_create", cudaMemPoolCreate(&state.pool, &properties)));
    std::uint64_t keeps = kPoolKeepsBytes;
    return cuda_status("context_create", cudaMemPoolSetAttribute(state.pool, cudaMemPoolAttrReleaseThreshold, &keeps));
}

/// Runs the first kernel: a device that does not take this build's code says so here.
Status first_kernel(CudaState &state) {
    const auto error = static_cast<cudaError_t>(clear_fault(state.fault, ~0u, state.memory));
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction || error == cudaErrorUnsupportedPtxVersion ||
        error == cudaErrorInvalidPtx || error == cudaErrorJitCompilerNotFound) {
        return fail(STRATA_E_DEVICE, "context_create: cuda:", state.device, " (", state.isa, ") takes none of this build's kernels (",
                    cudaGetErrorName(error),
                    "), must be sm_8x or sm_90, or newer with a driver for CUDA 12.4; update the driver or use the cpu device");
    }
    TRY(cuda_status("context_create", error));
    return cuda_status("context_create", cudaStreamSynchronize(state.memory));
}

Status read_architecture(int device, std::int32_t *architecture) {
    int major = 0;
    int minor = 0;
    TRY(cuda_status("context_create", cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)));
    TRY(cuda_status("context_create", cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device)));
    *architecture = 10 * major + minor;
    return STRATA_OK;
}

Status open(const OpenOptions &options, void **state, DeviceTraits *traits) {
    strata_device_info info{};
    cuda_describe(options.index, &info);
    if (info.available == 0) return fail(STRATA_E_DEVICE, info.reason);
    auto made = std::make_unique<CudaState>();
    made->device = options.index;
    const char *isa = info.isa;
    for (std::size_t i = 0; i + 1 < sizeof made->isa && isa[i] != '\0'; ++i) made->isa[i] = isa[i];
    const CurrentDevice current(made->device);
    TRY(cuda_status("context_create", cudaStreamCreateWithFlags(&made->memory, cudaStreamNonBlocking)));
    void *fault = nullptr;
    TRY(cuda_status("context_create", cudaMalloc(&fault, sizeof *made->fault)));
    made->fault = static_cast<std::uint32_t *>(fault);
    void *seen = nullptr;
    TRY(cuda_status("context_create", cudaHostAlloc(&seen, kSyncs * sizeof *made->seen, cudaHostAllocDefault)));
    made->seen = static_cast<std::uint32_t *>(seen);
    TRY(first_kernel(*made));
    TRY(make_pool(*made));
    traits->isa = made->isa;
    traits->ops = gpu_ops();
    traits->fault = made->fault;
    traits->multiprocessors = info.threads;
    TRY(read_architecture(made->device, &traits->architecture));
    *state = made.release();
    return STRATA_OK;
}

void close(void *state) { delete &of(state); }

void enter(void *state, Exec *) {
    int current = -1;
    if (cudaGetDevice(&current) != cudaSuccess || current != of(state).device) cudaSetDevice(of(state).device);
}

// ---- memory --------------------------------------------------------------------------------------------------------

Status allocate(void *state, std::size_t bytes, void **data) {
    CudaState &device = of(state);
    const CurrentDevice current(device.device);
    cudaError_t error = device.pool == nullptr ? cudaMalloc(data, bytes) : cudaMallocFromPoolAsync(data, bytes, device.pool, device.memory);
    // Other streams may use the memory at once.
    if (error == cudaSuccess && device.pool != nullptr) error = cudaStreamSynchronize(device.memory);
    if (error == cudaErrorMemoryAllocation) {
        std::size_t free = 0, total = 0;
        cudaGetLastError();
        cudaMemGetInfo(&free, &total);
        return fail(STRATA_E_MEMORY, "buffer_create: ", bytes, " bytes of device memory are not free (", free, " of ", total,
                    " are), must be; free buffers or ask for less");
    }
    return cuda_status("buffer_create", error);
}

void release(void *state, void *data, std::size_t) {
    CudaState &device = of(state);
    const CurrentDevice current(device.device);
    if (device.pool == nullptr) {
        cudaFree(data);
        return;
    }
    // As cudaFree: work on any stream may still use the buffer.
    cudaDeviceSynchronize();
    cudaFreeAsync(data, device.memory);
    cudaStreamSynchronize(device.memory);
}

bool is_pageable(const void *host) {
    cudaPointerAttributes attributes{};
    const cudaError_t error = cudaPointerGetAttributes(&attributes, host);
    cudaGetLastError();
    return error != cudaSuccess || attributes.type == cudaMemoryTypeUnregistered;
}

Status copy(void *state, void *destination, const void *source, std::size_t bytes, std::int32_t kind, void *stream) {
    CudaState &device = of(state);
    const CurrentDevice current(device.device);
    const cudaStream_t on = stream_of(stream);
    if (kind == STRATA_COPY_ON_DEVICE) return cuda_status("copy", cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, on));
    const bool up = kind == STRATA_COPY_TO_DEVICE;
    if (is_pageable(up ? source : destination))
        return up ? device.staging.to_device(destination, source, bytes, on) : device.staging.to_host(destination, source, bytes, on);
    TRY(cuda_status("copy", cudaMemcpyAsync(destination, source, bytes, up ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, on)));
    return cuda_status("copy", cudaStreamSynchronize(on));
}

Status fill(void *state, void *destination, std::int32_t value, std::size_t bytes, void *stream) {
    const CurrentDevice current(of(state).device);
    return cuda_status("fill", cudaMemsetAsync(destination, value, bytes, stream_of(stream)));
}

// ---- streams and events --------------------------------------------------------------------------------------------

Status stream_create(void *state, void **stream) {
    const CurrentDevice current(of(state).device);
    cudaStream_t made = nullptr;
    // Ordered with the legacy default stream, so that a copy on NULL and a run on this stream do not race.
    TRY(cuda_status("stream_create", cudaStreamCreateWithFlags(&made, cudaStreamDefault)));
    *stream = made;
    return STRATA_OK;
}

Status stream_destroy(void *state, void *stream) {
    const CurrentDevice current(of(state).device);
    return cuda_status("stream_destroy", cudaStreamDestroy(stream_of(stream)));
}

Status stream_sync(void *state, void *stream) {
    CudaState &device = of(state);
    const CurrentDevice current(device.device);
    const cudaStream_t on = stream_of(stream);
    std::uint32_t *seen = device.seen + device.syncs.fetch_add(1) % kSyncs;
    TRY(cuda_status("stream_sync", cudaMemcpyAsync(seen, device.fault, sizeof *seen, cudaMemcpyDeviceToHost, on)));
    TRY(cuda_status("stream_sync", cudaStreamSynchronize(on)));
    const std::uint32_t bits = *seen;
    if (bits == 0) return STRATA_OK;
    TRY(cuda_status("stream_sync", static_cast<cudaError_t>(clear_fault(device.fault, bits, on))));
    TRY(cuda_status("stream_sync", cudaStreamSynchronize(on)));
    return report_fault(bits);
}

Status event_create(void *state, void **event) {
    const CurrentDevice current(of(state).device);
    cudaEvent_t made = nullptr;
    TRY(cuda_status("event_create", cudaEventCreate(&made)));
    *event = made;
    return STRATA_OK;
}

void event_destroy(void *state, void *event) {
    const CurrentDevice current(of(state).device);
    cudaEventDestroy(static_cast<cudaEvent_t>(event));
}

Status event_record(void *state, void *event, void *stream) {
    const CurrentDevice current(of(state).device);
    return cuda_status("event_record", cudaEventRecord(static_cast<cudaEvent_t>(event), stream_of(stream)));
}

Status event_wait(void *state, void *event, void *stream) {
    const CurrentDevice current(of(state).device);
    return cuda_status("event_wait", cudaStreamWaitEvent(stream_of(stream), static_cast<cudaEvent_t>(event), 0));
}

Status event_sync(void *state, void *event) {
    const CurrentDevice current(of(state).device);
    return cuda_status("event_sync", cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
}

Status event_elapsed(void *state, void *start, void *end, double *microseconds) {
    const CurrentDevice current(of(state).device);
    float milliseconds = 0;
    TRY(cuda_status("event_elapsed", cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start), static_cast<cudaEvent_t>(end))));
    *microseconds = 1e3 * static_cast<double>(milliseconds);
    return STRATA_OK;
}

Status limit_measure(void *, std::int32_t limit, double *) {
    return fail(STRATA_E_UNSUPPORTED, "limit_measure: limit ", limit,
                " is not measured on a GPU, must be one of the cpu device; use the GPU's data sheet");
}

} // namespace
} // namespace strata

extern "C" __attribute__((visibility("default"))) const strata::Backend *strata_backend() {
    using namespace strata;
    static const Backend backend = {
        .interface_version = kBackendInterface,
        .kind = "cuda",
        .last_error = last_error,
        .device_count = cuda_device_count,
        .describe = cuda_describe,
        .open = open,
        .close = close,
        .enter = enter,
        .allocate = allocate,
        .release = release,
        .copy = copy,
        .fill = fill,
        .stream_create = stream_create,
        .stream_destroy = stream_destroy,
        .stream_sync = stream_sync,
        .event_create = event_create,
        .event_destroy = event_destroy,
        .event_record = event_record,
        .event_wait = event_wait,
        .event_sync = event_sync,
        .event_elapsed = event_elapsed,
        .limit_measure = limit_measure,
    };
    return &backend;
}
