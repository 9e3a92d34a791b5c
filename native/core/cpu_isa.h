// SPDX-License-Identifier: Apache-2.0
// Which instruction set the CPU kernels use: scalar < avx2 < avx512 < avx512vnni < amx.
#pragma once

#include "core/status.h"

namespace strata {

enum class Isa : std::int32_t {
    kScalar = 0,     // the x86-64 baseline
    kAvx2 = 1,       // AVX2, FMA, F16C
    kAvx512 = 2,     // F, BW, DQ, VL
    kAvx512Vnni = 3, // and VNNI, BF16
    kAmx = 4         // and AMX-TILE, AMX-INT8, AMX-BF16
};
inline constexpr std::int32_t kIsaCount = 5;

const char *isa_name(Isa isa);

/// "avx512 (emulated)" where a build for tests runs it in software.
const char *isa_title(Isa isa);

/// Whether this build runs the set in software (STRATA_EMULATE).
bool isa_is_emulated(Isa isa);

/// The best instruction set of this machine: CPUID, and what the operating system saves. Never an emulated one.
Isa best_isa();

/// Whether AVX512-BF16's dot product beats fp32 multiply-adds on this processor, by its family: a timing would make results differ from run to run.
bool bf16_dot_is_fast();

/// The set to use for a requested name: null means STRATA_ISA, and without it the best. An emulated set must be asked for. @errors E_DEVICE: not
/// here; E_ARGUMENT: no such name.
Status choose_isa(const char *requested, Isa *isa);

/// "avx512vnni; amx: not on this processor" for the device list, "avx2; avx512 (emulated); ..." in a build that emulates.
void describe_isa(Text &text);

} // namespace strata
