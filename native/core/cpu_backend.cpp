// SPDX-License-Identifier: Apache-2.0
// The CPU as a device: memory with huge pages, a thread pool, and one table of ops per instruction set.
#include "core/backend.h"
#include "core/cpu_isa.h"
#include "core/cpu_limits.h"
#include "core/thread_pool.h"

#include <chrono>
#include <cstring>
#include <memory>
#include <sys/mman.h>
#include <thread>

// Every <op>_cpu.cpp is compiled once per instruction set into that set's namespace.
#define DECLARE_OPS(isa)                   \
    namespace strata::isa {                \
    extern const OpFunction ops[kOpCount]; \
    }
DECLARE_OPS(scalar)
DECLARE_OPS(avx2)
DECLARE_OPS(avx512)
DECLARE_OPS(avx512vnni)
DECLARE_OPS(amx)

namespace strata {

namespace {

struct CpuState {
    Isa isa;
    ThreadPool pool;
    CpuState(Isa chosen, std::int32_t threads) : isa(chosen), pool(threads) {}
};

struct CpuEvent {
    std::chrono::steady_clock::time_point at;
};

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::int32_t core_count() {
    const unsigned cores = std::thread::hardware_concurrency();
    return cores == 0 ? 1 : static_cast<std::int32_t>(cores);
}

const OpFunction *ops_of(Isa isa) {
    switch (isa) {
    case Isa::kScalar: return scalar::ops;
    case Isa::kAvx2: return avx2::ops;
    case Isa::kAvx512: return avx512::ops;
    case Isa::kAvx512Vnni: return avx512vnni::ops;
    case Isa::kAmx: return amx::ops;
    }
    return scalar::ops;
}

const char *last_error() { return error_text().c_str(); }

std::int32_t device_count() { return 1; }

template <std::size_t Capacity>
void processor_name(char (&name)[Capacity]) {
    std::uint32_t words[13] = {}; // 48 bytes of text and a terminator
    for (std::uint32_t leaf = 0; leaf < 3; ++leaf) {
        std::uint32_t *to = words + 4 * leaf;
        __asm__("cpuid" : "=a"(to[0]), "=b"(to[1]), "=c"(to[2]), "=d"(to[3]) : "a"(0x80000002u + leaf), "c"(0));
    }
    const auto *text = reinterpret_cast<const char *>(words);
    while (*text == ' ') {
        ++text;
    }
    copy_text(name, text);
}

void describe(std::int32_t, strata_device_info *info) {
    copy_text(info->id, "cpu");
    processor_name(info->name);
    Text isa;
    describe_isa(isa);
    copy_text(info->isa, isa.c_str());
    info->threads = core_count();
    info->available = 1;
}

Status open(const OpenOptions &options, void **state, DeviceTraits *traits) {
    Isa isa = Isa::kScalar;
    TRY(choose_isa(options.isa, &isa));
    auto made = std::make_unique<CpuState>(isa, options.threads > 0 ? options.threads : core_count());
    traits->isa = isa_title(isa);
    traits->ops = ops_of(isa);
    traits->pool = &made->pool;
    traits->host_checks_indices = true;
    *state = made.release();
    return STRATA_OK;
}

void close(void *state) { delete static_cast<CpuState *>(state); }

void enter(void *, Exec *) {}

// Large buffers are mapped at a huge-page boundary: 2 MiB pages are worth a fifth of one core's read bandwidth.
Status allocate(void *, std::size_t bytes, void **data) {
    if (bytes < kHugePage) {
        *data = ::operator new (bytes, std::align_val_t{256}, std::nothrow);
        if (*data == nullptr) {
            return fail(STRATA_E_MEMORY, "buffer_create: ", bytes, " bytes are not free, must be; free some memory or ask for less");
        }
        return STRATA_OK;
    }
    const std::size_t mapped = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    void *raw = mmap(nullptr, mapped + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) {
        return fail(STRATA_E_MEMORY, "buffer_create: ", bytes, " bytes are not free, must be; free some memory or ask for less");
    }
    auto *begin = static_cast<unsigned char *>(raw);
    const std::size_t skip = (kHugePage - reinterpret_cast<std::uintptr_t>(begin) % kHugePage) % kHugePage;
    if (skip > 0) {
        munmap(begin, skip);
    }
    if (skip < kHugePage) {
        munmap(begin + skip + mapped, kHugePage - skip);
    }
    madvise(begin + skip, mapped, MADV_HUGEPAGE);
    *data = begin + skip;
    return STRATA_OK;
}

void release(void *, void *data, std::size_t bytes) {
    if (bytes < kHugePage) {
        ::operator delete (data, std::align_val_t{256});
    } else {
        munmap(data, (bytes + kHugePage - 1) / kHugePage * kHugePage);
    }
}

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

Status stream_nothing(void *, void *) { return STRATA_OK; }

Status event_create(void *, void **event) {
    *event = new CpuEvent{};
    return STRATA_OK;
}

void event_destroy(void *, void *event) { delete static_cast<CpuEvent *>(event); }

Status event_record(void *, void *event, void *) {
    static_cast<CpuEvent *>(event)->at = std::chrono::steady_clock::now();
    return STRATA_OK;
}

Status event_wait(void *, void *, void *) { return STRATA_OK; }

Status event_elapsed(void *, void *start, void *end, double *microseconds) {
    const auto span = static_cast<CpuEvent *>(end)->at - static_cast<CpuEvent *>(start)->at;
    *microseconds = std::chrono::duration<double, std::micro>(span).count();
    return STRATA_OK;
}

Status limit_measure(void *state, std::int32_t limit, double *per_second) {
    auto *cpu = static_cast<CpuState *>(state);
    // What an emulated set really runs on limits it.
    return measure_cpu_limit(isa_is_emulated(cpu->isa) ? best_isa() : cpu->isa, cpu->pool, limit, per_second);
}

} // namespace

const Backend &cpu_backend() {
    static const Backend backend = {
        kBackendInterface, "cpu",        last_error, device_count,   describe,      open,           close,          enter,
        allocate,          release,      copy,       fill,           stream_create, stream_nothing, stream_nothing, event_create,
        event_destroy,     event_record, event_wait, stream_nothing, event_elapsed, limit_measure,
    };
    return backend;
}

} // namespace strata
