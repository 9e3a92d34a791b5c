// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes, whatever the instruction set: what the CPU kernels are written in.
//
// A kernel file (<op>_cpu.cpp) is compiled once per instruction set with STRATA_ISA_NAMESPACE = scalar | avx2 | avx512 | avx512vnni and that set's
// flags. Types and functions here have one meaning and one rounding everywhere except where noted; a vector is one zmm, two ymm or an array.
//
//   F32x16   zero set load load_partial store store_partial  + - *  fma(a,b,c) = a*b+c  min max  reduce_add reduce_max  exp
//            load_f16 load_bf16 (and _partial, store_)        lanes beyond a partial count read as 0
//            sum_each(a[16]): lane i = reduce_add(a[i]), the same tree      transpose(a[16]): lane j of a[i] <-> lane i of a[j]
//            sum_each(a[n]), max_each(a[n]), n = 4 or 8: the same for lanes 16 / n i ... 16 / n (i + 1) - 1, and for n = 16
//            power_below(a): the power of two at or below |a|; 0 for denormals
//   I32x16   zero set load + -  to_f32
//   order_key(x): signed integers in the order of the floats, -0 as +0 and every NaN below -infinity
//   lanes_greater(a, b), lanes_equal(a, b): bit l is the answer of lane l
//   any_nan(a)   any_greater(a, b)   reduce_add(I32x16)      fused(a,b,c) = a*b+c with one rounding everywhere, for what promises bits
//   store_s8(p, I32x16): the lowest byte of each lane
//   F32x16::set_pair(p): lanes p[0], p[1], p[0], p[1] ...            load_bf16_words(p, even, odd): lane l: the low and the high half of word l
//   select(m, a, b): lane l of a where bit l of m is set, else of b      unzip(a, b, even, odd): the even and the odd lanes of a then b
//   flush(x): denormal lanes become zeros of their sign      exp_of_weight(x): exp with less work at the ends; x is at most 64
//   Bf16x32  32 bf16 numbers, a pair to a lane: load store  set_pair(p): p[0], p[1] in every lane  zip(p, q): p[l], q[l] in lane l
//   narrow(a, b): the lanes of a, then of b, to nearest even, denormals as zeros      even_as_f32(p), odd_as_f32(p): one of each pair
//   as_words(p), as_pairs(x): the same bits, to move pairs as lanes
//   zip(p, q, low, high): the 32 pairs p[l], q[l], in an order that in_order(x, y) undoes for lanes: x those of l = 0 ... 15, y of 16 ... 31
//   dot(sum, p, q): lane l: fma(p[2l], q[2l], fma(p[2l+1], q[2l+1], sum)), denormal operands and results as zeros: the hardware's to the bit
//   I16x32   32 whole numbers of 16 bits, a pair to a lane: set_pair(p): p[0], p[1] in every lane
//   dot(sum, a, b) of I16x32: lane l: sum + a[2l] b[2l] + a[2l+1] b[2l+1]
//   signed_bytes<i>(u): lane l: bytes i and i + 2 of its four (i = 0, 1)      signed_nibbles<i>(u): nibbles i and i + 4 of its eight
//   as_factors<n>(a, b, scale): the 32 numbers times a power of two, to nearest even, which must be 16 bits but for -32768, as factors of words of n
//                               numbers: 0 2 1 3 for bytes; 0 2 4 6 1 3 5 7 for nibbles, of which byte b holds number b below number b + 4
//   U8x64    64 bytes, four to a lane: load, low_nibbles, high_nibbles, exclusive or
//   byte_as_f32<b>(u), nibble_as_f32<i>(u): lane l: byte b of its four, nibble i of its eight (0 = low nibble of byte 0), as a float
//   dot_u8s8(sum, u, s4): lane l: sum + u[4l]*s[0] + ... + u[4l+3]*s[3], exact when every pair sum u*s + u*s fits 16 bits signed
//   dot_s8s8(sum, a, s4): the same for signed a, -127 ... 127 (exact)
//
// Rule for kernel files: no standard containers and no non-inline templates from headers shared with other instruction sets; the linker keeps one
// copy of each such function, and it may be the one that needs AVX-512.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if !defined(STRATA_ISA_NAMESPACE)
#error "compile kernel files with STRATA_ISA_NAMESPACE"
#endif

#if defined(__AVX512F__)
#include "simd/vec_avx512.h"
#elif defined(__AVX2__)
#include "simd/vec_avx2.h"
#else
#include "simd/vec_scalar.h"
#endif

namespace strata::STRATA_ISA_NAMESPACE {

#if !defined(__AVX512F__)
template <std::size_t Count, class Reduce>
inline F32x16 reduce_each(const F32x16 (&a)[Count], Reduce &&reduce) {
    alignas(64) float lanes[16];
    for (std::size_t i = 0; i < 16; ++i) lanes[i] = i % (16 / Count) == 0 ? reduce(a[i / (16 / Count)]) : lanes[i - 1];
    return F32x16::load(lanes);
}
template <std::size_t Count>
inline F32x16 sum_each(const F32x16 (&a)[Count]) {
    return reduce_each(a, [](F32x16 x) { return reduce_add(x); });
}
template <std::size_t Count>
inline F32x16 max_each(const F32x16 (&a)[Count]) {
    return reduce_each(a, [](F32x16 x) { return reduce_max(x); });
}
#endif

#define STRATA_STRING_(x) #x
#define STRATA_STRING(x) STRATA_STRING_(x)
/// "qgemm/avx2": the name a kernel file reports as exec.impl.
#define IMPL_NAME(op) op "/" STRATA_STRING(STRATA_ISA_NAMESPACE)

/// Whether dot is one instruction. Whether that is a fast one, bf16_dot_is_fast of core/cpu_isa.h knows.
#if defined(__AVX512BF16__)
inline constexpr bool kBf16Dot = true;
#else
inline constexpr bool kBf16Dot = false;
#endif

// exp(x) = 2^n p(r), |r| <= ln2/2: degree-6 minimax polynomial, below 2 ulp on [-87, 88]; below -87.3 it gives 0, above 88.7 infinity, NaN stays NaN.
inline F32x16 exp(F32x16 x) {
    const F32x16 n = round_nearest(x * F32x16::set(1.44269504088896341F));
    F32x16 r = fma(n, F32x16::set(-0.693145751953125F), x); // ln2 in two parts
    r = fma(n, F32x16::set(-1.428606820309417e-6F), r);
    F32x16 p = F32x16::set(1.3981999507e-3F);
    p = fma(p, r, F32x16::set(8.3334519073e-3F));
    p = fma(p, r, F32x16::set(4.1665795894e-2F));
    p = fma(p, r, F32x16::set(1.6666665459e-1F));
    p = fma(p, r, F32x16::set(5.0000001201e-1F));
    p = fma(p, r * r, r + F32x16::set(1.0F));
    return scale_exp(p, n, x);
}

// The same, but 2^n p(r) with |r| <= 1/2 in one step, for arguments that cannot overflow: x is at most 64. Below -87.3 it gives 0 or a denormal, from
// -111 down it gives 0, NaN stays NaN, and exp_of_weight(0) is 1.
inline F32x16 exp_of_weight(F32x16 x) {
    const F32x16 t = max(F32x16::set(-160.0F), x * F32x16::set(1.44269504088896341F)); // in this order a NaN stays
    const F32x16 n = round_nearest(t);
    const F32x16 r = t - n;
    F32x16 p = F32x16::set(1.5594677e-4F);
    p = fma(p, r, F32x16::set(1.3406644e-3F));
    p = fma(p, r, F32x16::set(9.6176930e-3F));
    p = fma(p, r, F32x16::set(5.5503105e-2F));
    p = fma(p, r, F32x16::set(2.4022653e-1F));
    p = fma(p, r, F32x16::set(6.9314721e-1F));
    p = fma(p, r, F32x16::set(1.0F));
    return scale_by_power(p, n);
}

// Loads of any float type, n lanes (16 or fewer), as fp32.
inline F32x16 load_as_f32(std::int32_t dtype, const void *from, std::int64_t at, std::int32_t n) {
    const bool whole = n >= 16;
    if (dtype == 1 /* f32 */) {
        const float *p = static_cast<const float *>(from) + at;
        return whole ? F32x16::load(p) : F32x16::load_partial(p, n);
    }
    const std::uint16_t *p = static_cast<const std::uint16_t *>(from) + at;
    if (dtype == 2 /* f16 */) {
        return whole ? F32x16::load_f16(p) : F32x16::load_f16_partial(p, n);
    }
    return whole ? F32x16::load_bf16(p) : F32x16::load_bf16_partial(p, n);
}

// Stores n lanes, rounding to nearest even.
inline void store_from_f32(std::int32_t dtype, void *to, std::int64_t at, F32x16 value, std::int32_t n) {
    const bool whole = n >= 16;
    if (dtype == 1 /* f32 */) {
        float *p = static_cast<float *>(to) + at;
        whole ? value.store(p) : value.store_partial(p, n);
        return;
    }
    std::uint16_t *p = static_cast<std::uint16_t *>(to) + at;
    if (dtype == 2 /* f16 */) {
        whole ? value.store_f16(p) : value.store_f16_partial(p, n);
    } else {
        whole ? value.store_bf16(p) : value.store_bf16_partial(p, n);
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
