// SPDX-License-Identifier: Apache-2.0
// AVX-512 for processors that lack it, in builds for tests (STRATA_EMULATE): correct to the bit, not fast.
//
// Included in front of a kernel file that is compiled for AVX2. The intrinsics are defined once more in the namespace of the instruction set,
// where the kernels look first; the compiler's own stay visible behind them, so an intrinsic that is missing here does not compile
// ("target specific option mismatch" names it). Where the real instruction leaves bits undefined, they are ones here: a kernel that uses them
// makes NaN. Alignment that the real instruction needs is checked, and no form touches memory that its mask leaves out.
//
//   F, BW, DQ, VL   memory.h masks.h floats.h integers.h moves.h converts.h
//   VNNI, BF16      dots.h, with STRATA_EMULATED_VNNI
//
// Not here: approximations (rcp14, rsqrt14), whose bits differ from maker to maker.
#pragma once

#if !defined(__OPTIMIZE__) || !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "simd/emulated_avx512.h: needs -O1 or more (without, intrinsics with an immediate are macros), -mavx2, -mfma and -mf16c; set CMAKE_BUILD_TYPE"
#endif

// The compiler's header first: with the names below defined it would take its own AVX-512 parts for usable.
#include <immintrin.h>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#if defined(STRATA_EMULATED_VNNI)
#define __AVX512VNNI__ 1
#define __AVX512BF16__ 1
#endif

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes" // __m512 as a template argument: that it may alias does not matter here

#include "simd/emulated/lanes.h"

#include "simd/emulated/masks.h"

#include "simd/emulated/memory.h"

#include "simd/emulated/moves.h"

#include "simd/emulated/permutes.h"

#include "simd/emulated/floats.h"

#include "simd/emulated/integers.h"

#include "simd/emulated/converts.h"

#if defined(STRATA_EMULATED_VNNI)
#include "simd/emulated/dots.h"
#endif

#undef STRATA_LIST
#undef STRATA_MASKED
#undef STRATA_CALLED
#undef STRATA_EMULATE
#undef STRATA_BY_HALVES

#pragma GCC diagnostic pop
