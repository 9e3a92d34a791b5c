// SPDX-License-Identifier: Apache-2.0
// The interface of a device kind: "cpu" is linked in; "cuda" and "simt" are libraries of their own that the core opens itself,
// so that it can say why it could not.
#pragma once

#include "core/exec.h"

namespace strata {

/// Ids of the ops, in the order of ops.def.
enum class OpId : std::int32_t {
#define OP(name, Type) name,
#include "ops/ops.def"
#undef OP
    kCount
};
inline constexpr std::int32_t kOpCount = static_cast<std::int32_t>(OpId::kCount);

/// What strata_context_create passes on.
struct OpenOptions {
    std::int32_t index;   // device number within its kind
    std::int32_t threads; // 0 = all
    const char *isa;      // CPU: highest instruction set; may be null
};

/// What an opened device tells the context.
struct DeviceTraits {
    const char *isa = "";            // "avx512vnni", "sm_90", "simt"; lives as long as the device is open
    const OpFunction *ops = nullptr; // [kOpCount]
    ThreadPool *pool = nullptr;      // CPU only
    std::uint32_t *fault = nullptr;  // device address of the fault word; null on the CPU
    std::int32_t multiprocessors = 1;
    std::int32_t architecture = 0;    // GPU: compute capability times ten
    bool host_checks_indices = false; // tables and lengths are ordinary host memory that the check step reads
};

/// Functions of one device kind. `state` is what open() returned. A failing function leaves its sentence in last_error().
struct Backend {
    std::uint32_t interface_version; // kBackendInterface
    const char *kind;                // "cpu", "simt", "cuda"

    const char *(*last_error)();
    std::int32_t (*device_count)(); // devices to list, unavailable ones included (at least 1: one that says why there is none)
    void (*describe)(std::int32_t index, strata_device_info *info); // id, name, isa, available, reason

    Status (*open)(const OpenOptions &options, void **state, DeviceTraits *traits);
    void (*close)(void *state);
    void (*enter)(void *state, Exec *exec); // before a run: makes the device current (no-op elsewhere)

    Status (*allocate)(void *state, std::size_t bytes, void **data);
    void (*release)(void *state, void *data, std::size_t bytes);
    Status (*copy)(void *state, void *destination, const void *source, std::size_t bytes, std::int32_t kind, void *stream);
    Status (*fill)(void *state, void *destination, std::int32_t value, std::size_t bytes, void *stream);

    Status (*stream_create)(void *state, void **stream);
    Status (*stream_destroy)(void *state, void *stream);
    Status (*stream_sync)(void *state, void *stream);

    Status (*event_create)(void *state, void **event);
    void (*event_destroy)(void *state, void *event);
    Status (*event_record)(void *state, void *event, void *stream);
    Status (*event_wait)(void *state, void *event, void *stream);
    Status (*event_sync)(void *state, void *event);
    Status (*event_elapsed)(void *state, void *start, void *end, double *microseconds);

    Status (*limit_measure)(void *state, std::int32_t limit, double *per_second);
};

inline constexpr std::uint32_t kBackendInterface = 2;

/// The one export of libstrata_cuda.so and libstrata_simt.so.
using BackendEntry = const Backend *(*)();
inline constexpr const char *kBackendEntryName = "strata_backend";

const Backend &cpu_backend();

/// A device kind that could not be loaded is still listed, with the reason.
struct BackendSlot {
    const char *kind;
    const Backend *backend; // null if not loaded
    char reason[384];
};
inline constexpr std::int32_t kBackendSlots = 3;
/// cpu, simt, cuda; loaded on first use, once per process.
const BackendSlot *backend_slots();

} // namespace strata
