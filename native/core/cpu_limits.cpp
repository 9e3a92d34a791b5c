// SPDX-License-Identifier: Apache-2.0
// Peak probes: sums over a buffer much larger than the caches, and chains of independent multiply-adds. Intrinsics sit behind target
// attributes so that this file keeps the baseline flags.
#include "core/cpu_limits.h"

#include <chrono>
#include <immintrin.h>
#include <sys/mman.h>

namespace strata {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kOperations = 200000; // multiply-adds per accumulator: about a millisecond
constexpr int kRounds = 40;
constexpr std::size_t kReadBytes = std::size_t{256} << 20;
constexpr std::size_t kReadChunk = std::size_t{2} << 20;
constexpr int kReadRounds = 8;

// Twelve accumulators hide the latency of four to five cycles on two ports. The empty asm statements make each accumulator and the factor
// unknown to the compiler, which would merge equal chains and hoist constant products.
#define PROBE_LOOP(vector, step)                                                                                                           \
    vector sum[12] = {};                                                                                                                   \
    _Pragma("GCC unroll 12") for (int j = 0; j < 12; ++j) {                                                                                \
        __asm__ volatile("" : "+x"(sum[j]));                                                                                               \
    }                                                                                                                                      \
    for (std::int64_t i = 0; i < kOperations; ++i) {                                                                                       \
        _Pragma("GCC unroll 12") for (int j = 0; j < 12; ++j) {                                                                            \
            __asm__ volatile("" : "+x"(a));                                                                                                \
            step;                                                                                                                          \
        }                                                                                                                                  \
    }                                                                                                                                      \
    _Pragma("GCC unroll 12") for (int j = 0; j < 12; ++j) {                                                                                \
        __asm__ volatile("" ::"x"(sum[j]));                                                                                                \
    }

__attribute__((target("avx512f"))) void fp32_avx512() {
    __m512 a = _mm512_set1_ps(0.5F);
    PROBE_LOOP(__m512, sum[j] = _mm512_fmadd_ps(a, a, sum[j]))
}
__attribute__((target("avx2,fma"))) void fp32_avx2() {
    __m256 a = _mm256_set1_ps(0.5F);
    PROBE_LOOP(__m256, sum[j] = _mm256_fmadd_ps(a, a, sum[j]))
}
void fp32_scalar() {
    __m128 a = _mm_set1_ps(0.5F);
    PROBE_LOOP(__m128, sum[j] = _mm_add_ps(_mm_mul_ps(a, a), sum[j]))
}
__attribute__((target("avx512f,avx512bf16"))) void bf16_avx512() {
    __m512 a = _mm512_set1_ps(0.5F);
    PROBE_LOOP(__m512, sum[j] = _mm512_dpbf16_ps(sum[j], reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(a)))
}
__attribute__((target("avx512f,avx512vnni"))) void int8_vnni() {
    __m512i a = _mm512_set1_epi8(3);
    PROBE_LOOP(__m512i, sum[j] = _mm512_dpbusd_epi32(sum[j], a, a))
}
__attribute__((target("avx2"))) void int8_avx2() {
    __m256i a = _mm256_set1_epi8(3);
    const __m256i ones = _mm256_set1_epi16(1);
    PROBE_LOOP(__m256i, sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(_mm256_maddubs_epi16(a, a), ones)))
}
#undef PROBE_LOOP

struct Probe {
    void (*run)();
    double operations; // per run and thread
};

bool choose_probe(Isa isa, std::int32_t limit, Probe *probe) {
    const double chains = static_cast<double>(kOperations) * 12;
    switch (limit) {
    case STRATA_LIMIT_FP32:
        *probe = isa >= Isa::kAvx512 ? Probe{fp32_avx512, chains * 32} : isa == Isa::kAvx2 ? Probe{fp32_avx2, chains * 16} : Probe{fp32_scalar, chains * 8};
        return true;
    case STRATA_LIMIT_BF16: *probe = Probe{bf16_avx512, chains * 64}; return isa >= Isa::kAvx512Vnni;
    case STRATA_LIMIT_INT8:
        *probe = isa >= Isa::kAvx512Vnni ? Probe{int8_vnni, chains * 128} : Probe{int8_avx2, chains * 64};
        return isa >= Isa::kAvx2;
    default: return false;
    }
}

double seconds_of(ThreadPool &pool, ThreadPool::Body body, void *argument, std::int64_t chunks) {
    const auto start = Clock::now();
    pool.run(chunks, body, argument);
    return std::chrono::duration<double>(Clock::now() - start).count();
}

void read_chunk(void *argument, std::int64_t chunk, std::int32_t) {
    const auto *from = reinterpret_cast<const __m128i *>(static_cast<const unsigned char *>(argument) + static_cast<std::size_t>(chunk) * kReadChunk);
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

Status measure_read(ThreadPool &pool, double *per_second) {
    void *data = mmap(nullptr, kReadBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
        return fail(STRATA_E_MEMORY, "limit_measure: 256 MiB are not free, must be for the read probe; free some memory");
    }
    madvise(data, kReadBytes, MADV_HUGEPAGE);
    auto *bytes = static_cast<unsigned char *>(data);
    for (std::size_t i = 0; i < kReadBytes; i += 4096) {
        bytes[i] = static_cast<unsigned char>(i >> 12); // real pages, not the shared zero page
    }
    double best = 0;
    for (int round = 0; round < kReadRounds; ++round) {
        const double seconds = seconds_of(pool, read_chunk, bytes, kReadBytes / kReadChunk);
        const double rate = static_cast<double>(kReadBytes) / seconds;
        best = rate > best ? rate : best;
    }
    munmap(data, kReadBytes);
    *per_second = best;
    return STRATA_OK;
}

} // namespace

Status measure_cpu_limit(Isa isa, ThreadPool &pool, std::int32_t limit, double *per_second) {
    if (limit == STRATA_LIMIT_READ) {
        return measure_read(pool, per_second);
    }
    Probe probe{};
    if (!choose_probe(isa, limit, &probe)) {
        return fail(STRATA_E_UNSUPPORTED, "limit_measure: limit ", limit, " has no probe for instruction set ", isa_name(isa),
                    ", must be a unit of the context; measure another limit");
    }
    auto body = [](void *argument, std::int64_t, std::int32_t) { static_cast<Probe *>(argument)->run(); };
    double best = 0;
    const std::int64_t chunks = pool.threads() * std::int64_t{2};
    for (int round = 0; round < kRounds; ++round) {
        const double rate = probe.operations * static_cast<double>(chunks) / seconds_of(pool, body, &probe, chunks);
        best = rate > best ? rate : best;
    }
    *per_second = best;
    return STRATA_OK;
}

} // namespace strata
