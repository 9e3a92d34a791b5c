// SPDX-License-Identifier: Apache-2.0
// Peak probes: sums over a buffer much larger than the caches, and chains of independent multiply-adds. Vector units sit behind target
// attributes and tiles behind asm, so that this file keeps the baseline flags.
#include "core/cpu_limits.h"

#include <algorithm>
#include <chrono>
#include <immintrin.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace strata {

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr double kBudget = 0.25;         // seconds of one window
constexpr double kChunkSeconds = 0.0002; // long beside reading the clock, short beside a time slice
constexpr int kChunksPerThread = 4;
constexpr std::int64_t kTrialIterations = 2000;
constexpr int kTrials = 5;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kReadChunk = std::size_t{2} << 20;
constexpr std::size_t kReadRound = std::size_t{32} << 20;
constexpr std::size_t kMinReadBytes = std::size_t{256} << 20;
constexpr std::size_t kMaxReadBytes = std::size_t{1} << 30;

constexpr int kChains = 12; // enough to hide a latency of four to five cycles on two ports

// The empty asm statements make each accumulator and the factor unknown to the compiler, which would merge equal chains and hoist
// constant products.
#define PROBE_LOOP(vector, step)                                                                        \
    vector sum[kChains] = {};                                                                           \
    _Pragma("GCC unroll 12") for (int j = 0; j < kChains; ++j) { __asm__ volatile("" : "+x"(sum[j])); } \
    for (std::int64_t i = 0; i < iterations; ++i) {                                                     \
        _Pragma("GCC unroll 12") for (int j = 0; j < kChains; ++j) {                                    \
            __asm__ volatile("" : "+x"(a));                                                             \
            step;                                                                                       \
        }                                                                                               \
    }                                                                                                   \
    _Pragma("GCC unroll 12") for (int j = 0; j < kChains; ++j) { __asm__ volatile("" ::"x"(sum[j])); }

__attribute__((target("avx512f"))) void fp32_avx512(std::int64_t iterations) {
    __m512 a = _mm512_set1_ps(0.5F);
    PROBE_LOOP(__m512, sum[j] = _mm512_fmadd_ps(a, a, sum[j]))
}
__attribute__((target("avx2,fma"))) void fp32_avx2(std::int64_t iterations) {
    __m256 a = _mm256_set1_ps(0.5F);
    PROBE_LOOP(__m256, sum[j] = _mm256_fmadd_ps(a, a, sum[j]))
}
void fp32_sse(std::int64_t iterations) {
    __m128 a = _mm_set1_ps(0.5F);
    PROBE_LOOP(__m128, sum[j] = _mm_add_ps(_mm_mul_ps(a, a), sum[j]))
}
__attribute__((target("avx512f,avx512bf16"))) void bf16_avx512(std::int64_t iterations) {
    __m512 a = _mm512_set1_ps(0.5F);
    PROBE_LOOP(__m512, sum[j] = _mm512_dpbf16_ps(sum[j], reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(a)))
}
__attribute__((target("avx512f,avx512vnni"))) void int8_vnni(std::int64_t iterations) {
    __m512i a = _mm512_set1_epi8(3);
    PROBE_LOOP(__m512i, sum[j] = _mm512_dpbusd_epi32(sum[j], a, a))
}
__attribute__((target("avx512f,avx512bw"))) void int8_avx512(std::int64_t iterations) {
    __m512i a = _mm512_set1_epi8(3);
    const __m512i ones = _mm512_set1_epi16(1);
    PROBE_LOOP(__m512i, sum[j] = _mm512_add_epi32(sum[j], _mm512_madd_epi16(_mm512_maddubs_epi16(a, a), ones)))
}
__attribute__((target("avx2"))) void int8_avx2(std::int64_t iterations) {
    __m256i a = _mm256_set1_epi8(3);
    const __m256i ones = _mm256_set1_epi16(1);
    PROBE_LOOP(__m256i, sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(_mm256_maddubs_epi16(a, a), ones)))
}
#undef PROBE_LOOP

// Palette 1, eight tiles of 16 rows of 64 bytes: the operand of ldtilecfg.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

// Tiles belong to the thread that configures them and are given back before it returns to the pool: left live, they would add 8 KiB to
// each of its context switches. The asm names all 64 bytes that it reads; the compiler's own intrinsic names eight.
void tiles_begin() {
    static constexpr TileConfig config;
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
    __asm__ volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"
                     "tilezero %%tmm4\n\ttilezero %%tmm5\n\ttilezero %%tmm6\n\ttilezero %%tmm7" ::);
}
void tiles_end() { __asm__ volatile("tilerelease" ::); }

// Four accumulators by two rows and two columns of operands, as in a 2x2 kernel, three times over.
constexpr int kTileProducts = 12;
#define TILE_PRODUCTS(product)                                                                                                \
    product " %%tmm6, %%tmm4, %%tmm0\n\t" product " %%tmm7, %%tmm4, %%tmm1\n\t" product " %%tmm6, %%tmm5, %%tmm2\n\t" product \
            " %%tmm7, %%tmm5, %%tmm3\n\t"
#define TILE_LOOP(product)                                                                        \
    tiles_begin();                                                                                \
    for (std::int64_t i = 0; i < iterations; ++i) {                                               \
        __asm__ volatile(TILE_PRODUCTS(product) TILE_PRODUCTS(product) TILE_PRODUCTS(product)::); \
    }                                                                                             \
    tiles_end();

void amx_bf16(std::int64_t iterations) { TILE_LOOP("tdpbf16ps") }
void amx_int8(std::int64_t iterations) { TILE_LOOP("tdpbssd") }
#undef TILE_LOOP
#undef TILE_PRODUCTS

struct Probe {
    void (*run)(std::int64_t iterations) = nullptr;
    double operations = 0; // per iteration
};

Probe vector_probe(void (*run)(std::int64_t), int operations) { return Probe{run, static_cast<double>(kChains * operations)}; }

// A probe without a function: the instruction set has no such unit.
Probe choose_probe(Isa isa, std::int32_t limit) {
    constexpr double kTileRows = 16.0 * 16.0 * 2.0 * kTileProducts; // times the elements of a row: operations of an iteration
    switch (limit) {
    case STRATA_LIMIT_FP32:
        return isa >= Isa::kAvx512 ? vector_probe(fp32_avx512, 32) : isa == Isa::kAvx2 ? vector_probe(fp32_avx2, 16) : vector_probe(fp32_sse, 8);
    case STRATA_LIMIT_BF16: return isa >= Isa::kAvx512Vnni ? vector_probe(bf16_avx512, 64) : Probe{};
    case STRATA_LIMIT_INT8:
        return isa >= Isa::kAvx512Vnni ? vector_probe(int8_vnni, 128)
               : isa == Isa::kAvx512   ? vector_probe(int8_avx512, 128)
               : isa == Isa::kAvx2     ? vector_probe(int8_avx2, 64)
                                       : Probe{};
    case STRATA_LIMIT_AMX_BF16: return isa == Isa::kAmx ? Probe{amx_bf16, kTileRows * 32} : Probe{};
    case STRATA_LIMIT_AMX_INT8: return isa == Isa::kAmx ? Probe{amx_int8, kTileRows * 64} : Probe{};
    default: return Probe{};
    }
}

template <class Body>
double seconds_of(const Body &body) {
    const auto start = Clock::now();
    body();
    return Seconds(Clock::now() - start).count();
}

// The upper quartile of the values, which are many.
double upper_quartile(std::vector<double> &values) {
    const auto quartile = values.begin() + static_cast<std::ptrdiff_t>(values.size() * 3 / 4);
    std::nth_element(values.begin(), quartile, values.end());
    return *quartile;
}

// All threads run the probe, each chunk timed by the thread that runs it: a chunk is short beside a time slice, so most chunks show what the
// unit can do even while other processes take turns on it.
double measure_probe(ThreadPool &pool, const Probe &probe) {
    double trial = 1;
    for (int i = 0; i < kTrials; ++i) {
        trial = std::min(trial, seconds_of([&] { probe.run(kTrialIterations); }));
    }
    const auto iterations = std::max<std::int64_t>(1, static_cast<std::int64_t>(kTrialIterations * kChunkSeconds / std::max(trial, 1e-9)));
    const std::int64_t chunks = pool.threads() * std::int64_t{kChunksPerThread};
    std::vector<double> seconds;
    const auto start = Clock::now();
    while (Seconds(Clock::now() - start).count() < kBudget) {
        const std::size_t done = seconds.size();
        seconds.resize(done + static_cast<std::size_t>(chunks));
        parallel_for(pool, chunks, [&](std::int64_t chunk, std::int32_t) {
            seconds[done + static_cast<std::size_t>(chunk)] = seconds_of([&] { probe.run(iterations); });
        });
    }
    std::vector<double> rates;
    rates.reserve(seconds.size());
    for (const double one : seconds) {
        rates.push_back(probe.operations * static_cast<double>(iterations) / one);
    }
    return upper_quartile(rates) * pool.threads();
}

void read_chunk(const unsigned char *bytes) {
    const auto *from = reinterpret_cast<const __m128i *>(bytes);
    __m128i a = _mm_setzero_si128();
    __m128i b = a;
    __m128i c = a;
    __m128i d = a;
    for (std::size_t i = 0; i < kReadChunk / sizeof(__m128i); i += 4) {
        a = _mm_add_epi64(a, _mm_load_si128(from + i));
        b = _mm_add_epi64(b, _mm_load_si128(from + i + 1));
        c = _mm_add_epi64(c, _mm_load_si128(from + i + 2));
        d = _mm_add_epi64(d, _mm_load_si128(from + i + 3));
    }
    const __m128i sum = _mm_add_epi64(_mm_add_epi64(a, b), _mm_add_epi64(c, d));
    __asm__ volatile("" ::"x"(sum));
}

// Twice the last-level cache where the system tells its size, so that little of one round is left for the next.
std::size_t read_bytes() {
    std::size_t cache = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    const long level3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    cache = level3 > 0 ? static_cast<std::size_t>(level3) : 0;
#endif
    return std::clamp(2 * cache, kMinReadBytes, kMaxReadBytes) / kReadRound * kReadRound;
}

// Rounds of a millisecond walk through the buffer. Their upper quartile is sustained: not the lucky window in which the neighbours of a
// virtual machine paused, and not the round in which another process ran.
Status measure_read(ThreadPool &pool, double *per_second) {
    const std::size_t bytes = read_bytes();
    void *mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
        return fail(STRATA_E_MEMORY, "limit_measure: ", bytes, " bytes for the read probe are not free, must be; free some memory");
    }
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(mapped);
    auto *data = static_cast<unsigned char *>(mapped) + (kHugePage - address % kHugePage) % kHugePage;
    madvise(data, bytes, MADV_HUGEPAGE);
    for (std::size_t i = 0; i < bytes; i += 4096) {
        data[i] = 1; // real pages, not the shared page of zeros
    }
    std::vector<double> rates;
    const auto start = Clock::now();
    for (std::size_t at = 0; at != 0 || rates.empty() || Seconds(Clock::now() - start).count() < kBudget;
         at = at + kReadRound < bytes ? at + kReadRound : 0) {
        const double seconds = seconds_of([&] {
            parallel_for(pool, kReadRound / kReadChunk,
                         [&](std::int64_t chunk, std::int32_t) { read_chunk(data + at + static_cast<std::size_t>(chunk) * kReadChunk); });
        });
        rates.push_back(static_cast<double>(kReadRound) / seconds);
    }
    munmap(mapped, bytes + kHugePage);
    *per_second = upper_quartile(rates);
    return STRATA_OK;
}

} // namespace

Status measure_cpu_limit(Isa isa, ThreadPool &pool, std::int32_t limit, double *per_second) {
    if (limit == STRATA_LIMIT_READ) {
        return measure_read(pool, per_second);
    }
    const Probe probe = choose_probe(isa, limit);
    if (probe.run == nullptr) {
        return fail(STRATA_E_UNSUPPORTED, "limit_measure: limit ", limit, " has no probe for instruction set ", isa_name(isa),
                    ", must be a unit of the context; measure another limit");
    }
    // Two of the threads may share a core for a whole window; not in each of three.
    double best = 0;
    for (int window = 0; window < 3; ++window) {
        best = std::max(best, measure_probe(pool, probe));
    }
    *per_second = best;
    return STRATA_OK;
}

} // namespace strata
