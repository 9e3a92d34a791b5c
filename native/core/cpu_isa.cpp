// SPDX-License-Identifier: Apache-2.0
// CPUID and operating-system state, read once.
#include "core/cpu_isa.h"

#include <cpuid.h>
#include <cstdlib>
#include <cstring>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace strata {

namespace {

constexpr const char *kNames[kIsaCount] = {"scalar", "avx2", "avx512", "avx512vnni", "amx"};

// In a build for tests the kernels of these sets are AVX2 code, and AVX2 is the best set whose kernels are what they say.
#if defined(STRATA_EMULATE)
constexpr Isa kBestBuilt = Isa::kAvx2;
constexpr bool kEmulated[kIsaCount] = {false, false, true, true, true};
#else
constexpr Isa kBestBuilt = Isa::kAmx;
constexpr bool kEmulated[kIsaCount] = {};
#endif
constexpr const char *kTitles[kIsaCount] = {"scalar", "avx2", kEmulated[2] ? "avx512 (emulated)" : "avx512",
                                            kEmulated[3] ? "avx512vnni (emulated)" : "avx512vnni", kEmulated[4] ? "amx (emulated)" : "amx"};

std::uint64_t read_xcr0() {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (std::uint64_t{high} << 32) | low;
}

// Linux gives tile state only to processes that ask; without it the first tile instruction is SIGILL.
bool request_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int kRequestPermission = 0x1023;
    constexpr int kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

struct Detected {
    Isa best = Isa::kScalar;
    const char *amx_reason = "not on this processor";
};

Detected detect() {
    Detected found;
    std::uint32_t a = 0;
    std::uint32_t b = 0;
    std::uint32_t c = 0;
    std::uint32_t d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0) {
        return found;
    }
    constexpr std::uint32_t kFma = 1u << 12;
    constexpr std::uint32_t kOsxsave = 1u << 27;
    constexpr std::uint32_t kAvx = 1u << 28;
    constexpr std::uint32_t kF16c = 1u << 29;
    constexpr std::uint32_t kLeaf1 = kFma | kOsxsave | kAvx | kF16c;
    if ((c & kLeaf1) != kLeaf1) {
        return found;
    }
    const std::uint64_t saved = read_xcr0();
    std::uint32_t b7 = 0;
    std::uint32_t c7 = 0;
    std::uint32_t d7 = 0;
    if ((saved & 0x6) != 0x6 || __get_cpuid_count(7, 0, &a, &b7, &c7, &d7) == 0 || (b7 & (1u << 5)) == 0 || (b7 & (1u << 8)) == 0) {
        return found; // no AVX2 or BMI2
    }
    found.best = Isa::kAvx2;
    if (kBestBuilt == Isa::kAvx2) return found;
    constexpr std::uint32_t kAvx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31); // F, DQ, BW, VL
    if ((saved & 0xe6) != 0xe6 || (b7 & kAvx512) != kAvx512) {
        return found;
    }
    found.best = Isa::kAvx512;
    std::uint32_t a71 = 0;
    std::uint32_t unused = 0;
    const bool bf16 = __get_cpuid_count(7, 1, &a71, &unused, &unused, &unused) != 0 && (a71 & (1u << 5)) != 0;
    if ((c7 & (1u << 11)) == 0 || !bf16) {
        return found;
    }
    found.best = Isa::kAvx512Vnni;
    constexpr std::uint32_t kAmx = (1u << 22) | (1u << 24) | (1u << 25); // BF16, TILE, INT8
    if ((d7 & kAmx) != kAmx) {
        return found;
    }
    if ((saved & 0x60000) != 0x60000) {
        found.amx_reason = "the operating system does not save tile state";
    } else if (!request_tiles()) {
        found.amx_reason = "the operating system refused tile state (a thread's alternate signal stack may be too small)";
    } else {
        found.amx_reason = "";
        found.best = Isa::kAmx;
    }
    return found;
}

const Detected &detected() {
    static const Detected once = detect();
    return once;
}

} // namespace

const char *isa_name(Isa isa) { return kNames[static_cast<std::int32_t>(isa)]; }

const char *isa_title(Isa isa) { return kTitles[static_cast<std::int32_t>(isa)]; }

bool isa_is_emulated(Isa isa) { return kEmulated[static_cast<std::int32_t>(isa)]; }

Isa best_isa() { return detected().best; }

bool bf16_dot_is_fast() {
    // AMD's cores take a pair in the time of one fp32 multiply-add, Intel's in four times that: half the rate of fp32, and tiles do that work there.
    static const bool amd = [] {
        std::uint32_t a = 0;
        std::uint32_t name[3] = {};
        return __get_cpuid(0, &a, &name[0], &name[2], &name[1]) != 0 && std::memcmp(name, "AuthenticAMD", sizeof name) == 0;
    }();
    return amd || isa_is_emulated(Isa::kAvx512Vnni); // an emulated set is there to be tested
}

namespace {

// Emulated sets run on AVX2.
bool usable(Isa isa) { return isa <= best_isa() || (isa_is_emulated(isa) && best_isa() >= Isa::kAvx2); }

} // namespace

Status choose_isa(const char *requested, Isa *isa) {
    if (requested == nullptr || *requested == '\0') {
        requested = std::getenv("STRATA_ISA");
    }
    if (requested == nullptr || *requested == '\0') {
        *isa = best_isa();
        return STRATA_OK;
    }
    for (std::int32_t i = 0; i < kIsaCount; ++i) {
        if (std::strcmp(requested, kNames[i]) != 0) {
            continue;
        }
        if (!usable(static_cast<Isa>(i))) {
            return fail(STRATA_E_DEVICE, "cpu: instruction set ", requested, " is not usable here (best is ", isa_name(best_isa()),
                        "), must be one that the processor and the system have; choose a lower one or leave it to the library");
        }
        *isa = static_cast<Isa>(i);
        return STRATA_OK;
    }
    return fail(STRATA_E_ARGUMENT, "cpu: instruction set ", Quote{requested},
                " is not known, must be scalar, avx2, avx512, avx512vnni or amx; correct STRATA_ISA or desc.isa");
}

void describe_isa(Text &text) {
    text << isa_name(best_isa());
    for (std::int32_t i = 0; i < kIsaCount; ++i) {
        if (isa_is_emulated(static_cast<Isa>(i)) && usable(static_cast<Isa>(i))) {
            text << "; " << isa_title(static_cast<Isa>(i));
        }
    }
    if (best_isa() != Isa::kAmx && !isa_is_emulated(Isa::kAmx)) {
        text << "; amx: " << detected().amx_reason;
    }
}

} // namespace strata
