// SPDX-License-Identifier: Apache-2.0
#include "simd_bits.h"

#include "simd/tiles.h"

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

} // namespace strata::STRATA_ISA_NAMESPACE
