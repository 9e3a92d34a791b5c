// SPDX-License-Identifier: Apache-2.0
#include "simd_bits.h"

#include "simd/tiles.h"

#include <type_traits>

namespace strata::STRATA_ISA_NAMESPACE {

void dot_bits(const std::uint16_t *a, const std::uint16_t *b, const float *sum, float *out) {
    dot(F32x16::load(sum), Bf16x32::load(a), Bf16x32::load(b)).store(out);
}

namespace {

template <class AnyTiles>
void multiply(const std::uint16_t *a, const std::uint16_t *b, float *c) {
    AnyTiles tiles;
    tiles.template load<0>(c, 64);
    tiles.template load<1>(a, 64);
    tiles.template load<2>(b, 64);
    tiles.template dot<0, 1, 2>();
    tiles.template store<0>(c, 64);
}

} // namespace

void soft_tile_bits(const std::uint16_t *a, const std::uint16_t *b, float *c) { multiply<SoftTiles>(a, b, c); }
void own_tile_bits(const std::uint16_t *a, const std::uint16_t *b, float *c) { multiply<Tiles>(a, b, c); }

void weight_bits(const float *x, float *out) { exp_of_weight(F32x16::load(x)).store(out); }

void code_bits(const std::uint8_t *words, const std::int32_t *factors, int group, std::int32_t *out) {
    const U8x64 u = U8x64::load(words);
    std::int16_t bytes[32];
    std::int16_t nibble[32];
    const auto keep = [&](auto each, std::int16_t *p) {
        const F32x16 half = F32x16::set(0.5F);
        as_factors<each()>(to_f32(I32x16::load(factors)), to_f32(I32x16::load(factors + 16)), half).store(p);
    };
    keep(std::integral_constant<int, 4>{}, bytes);
    keep(std::integral_constant<int, 8>{}, nibble);
    const auto pair = [&](const std::int16_t *p, int i) { return I16x32::set_pair(p + 8 * group + 2 * i); };
    dot(dot(I32x16::zero(), signed_bytes<0>(u), pair(bytes, 0)), signed_bytes<1>(u), pair(bytes, 1)).store(out);
    const I32x16 half = dot(dot(I32x16::zero(), signed_nibbles<0>(u), pair(nibble, 0)), signed_nibbles<1>(u), pair(nibble, 1));
    dot(dot(half, signed_nibbles<2>(u), pair(nibble, 2)), signed_nibbles<3>(u), pair(nibble, 3)).store(out + 16);
}

namespace {

template <std::size_t Count>
void reduce(const float (*x)[16], float *sums, float *maxima) {
    F32x16 a[Count];
    for (std::size_t i = 0; i < Count; ++i) a[i] = F32x16::load(x[i]);
    sum_each(a).store(sums);
    max_each(a).store(maxima);
}

} // namespace

void each_bits(const float (*x)[16], float (*sums)[16], float (*maxima)[16]) {
    reduce<4>(x, sums[0], maxima[0]);
    reduce<8>(x, sums[1], maxima[1]);
    reduce<16>(x, sums[2], maxima[2]);
}

void power_bits(const float *x, float *out) { power_below(F32x16::load(x)).store(out); }

void zip_bits(const std::uint16_t *p, const std::uint16_t *q, const std::uint16_t *weights, float *out) {
    Bf16x32 low;
    Bf16x32 high;
    zip(Bf16x32::load(p), Bf16x32::load(q), low, high);
    F32x16 x = dot(F32x16::zero(), low, Bf16x32::set_pair(weights));
    F32x16 y = dot(F32x16::zero(), high, Bf16x32::set_pair(weights));
    in_order(x, y);
    x.store(out);
    y.store(out + 16);
}

} // namespace strata::STRATA_ISA_NAMESPACE
