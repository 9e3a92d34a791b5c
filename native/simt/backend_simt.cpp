// SPDX-License-Identifier: Apache-2.0
// The device "simt": the CUDA kernels on the host. Its memory is the heap, exactly as large as asked for and full of
// NaN, so that a sanitizer guards every buffer and a forgotten write shows.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include "cuda/gpu_ops.h"
#include "simt/simt.h"

namespace strata {
namespace {

// Grid sizes follow it; small, so that shapes of a test still cover several blocks on one multiprocessor.
constexpr std::int32_t kMultiprocessors = 4;
constexpr std::size_t kAlignment = 256;
constexpr int kUnwritten = 0xff;

struct SimtState {
    std::uint32_t fault = 0;
};

struct SimtEvent {
    std::chrono::steady_clock::time_point at;
};

const char *last_error() { return error_text().c_str(); }

std::int32_t device_count() { return 1; }

void describe(std::int32_t, strata_device_info *info) {
    copy_text(info->id, "simt");
    copy_text(info->name, "CUDA kernels on the host, for tests");
    copy_text(info->isa, "simt");
    info->threads = kMultiprocessors;
    info->available = 1;
}

Status open(const OpenOptions &, void **state, DeviceTraits *traits) {
    auto *made = new SimtState;
    traits->isa = "simt";
    traits->ops = gpu_ops();
    traits->fault = &made->fault;
    traits->multiprocessors = kMultiprocessors;
    traits->architecture = simt::options().architecture;
    *state = made;
    return STRATA_OK;
}

void close(void *state) { delete static_cast<SimtState *>(state); }

void enter(void *, Exec *) {}

Status allocate(void *, std::size_t bytes, void **data) {
    void *memory = nullptr;
    if (posix_memalign(&memory, kAlignment, bytes) != 0) {
        return fail(STRATA_E_MEMORY, "buffer_create: ", bytes, " bytes are not free, must be; free some memory or ask for less");
    }
    std::memset(memory, kUnwritten, bytes);
    *data = memory;
    return STRATA_OK;
}

void release(void *, void *data, std::size_t) { std::free(data); }

Status copy(void *, void *destination, const void *source, std::size_t bytes, std::int32_t, void *) {
    std::memmove(destination, source, bytes);
    return STRATA_OK;
}

Status fill(void *, void *destination, std::int32_t value, std::size_t bytes, void *) {
    std::memset(destination, value, bytes);
    return STRATA_OK;
}

Status stream_create(void *, void **stream) {
    *stream = nullptr;
    return STRATA_OK;
}

Status stream_destroy(void *, void *) { return STRATA_OK; }

Status stream_sync(void *state, void *) { return report_fault(__atomic_exchange_n(&static_cast<SimtState *>(state)->fault, 0u, __ATOMIC_RELAXED)); }

Status event_create(void *, void **event) {
    *event = new SimtEvent{};
    return STRATA_OK;
}

void event_destroy(void *, void *event) { delete static_cast<SimtEvent *>(event); }

Status event_record(void *, void *event, void *) {
    static_cast<SimtEvent *>(event)->at = std::chrono::steady_clock::now();
    return STRATA_OK;
}

Status event_wait(void *, void *, void *) { return STRATA_OK; }

Status event_sync(void *, void *) { return STRATA_OK; }

Status event_elapsed(void *, void *start, void *end, double *microseconds) {
    const auto span = static_cast<SimtEvent *>(end)->at - static_cast<SimtEvent *>(start)->at;
    *microseconds = std::chrono::duration<double, std::micro>(span).count();
    return STRATA_OK;
}

Status limit_measure(void *, std::int32_t, double *) {
    return fail(STRATA_E_UNSUPPORTED, "limit_measure: the simt device checks kernels and has no speed of its own, must be cpu or cuda:N; "
                                      "measure there");
}

} // namespace
} // namespace strata

extern "C" __attribute__((visibility("default"))) const strata::Backend *strata_backend() {
    using namespace strata;
    static const Backend backend = {
        .interface_version = kBackendInterface,
        .kind = "simt",
        .last_error = last_error,
        .device_count = device_count,
        .describe = describe,
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
