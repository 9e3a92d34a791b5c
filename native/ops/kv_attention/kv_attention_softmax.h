// SPDX-License-Identifier: Apache-2.0
// What stands between the two products of kv_attention on the CPU: soft cap, ALiBi and bias on the scores, then the online softmax over the slots
// that each row sees. Included by kv_attention_cpu.cpp alone.
#pragma once

#include "ops/kv_attention/kv_attention_tile.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

/// What is added to the scores of a tile, beside the scale that q carries.
struct ScoreTerms {
    float softcap;     // 0: none
    const float *bias; // [kTile], or null
    bool alibi;
    float slope[kBlockRows];     // of each row's head
    std::int64_t at[kBlockRows]; // slot of each row's own token: the distance is slot - at

    bool any() const { return softcap != 0.0F || bias != nullptr || alibi; }
};

/// tanh(x) = sign(x) (1 - e) / (1 + e), e = exp(-2 |x|); near zero x - x^3 / 3 + 2 x^5 / 15, where the quotient would lose digits.
inline F32x16 tanh(F32x16 x) {
    const F32x16 one = F32x16::set(1.0F);
    const F32x16 magnitude = abs(x);
    const F32x16 e = exp(magnitude * F32x16::set(-2.0F));
    const F32x16 quotient = (one - e) / (one + e);
    const F32x16 square = x * x;
    const F32x16 series =
        magnitude * fma(square, fma(square, fma(square, F32x16::set(-17.0F / 315.0F), F32x16::set(2.0F / 15.0F)), F32x16::set(-1.0F / 3.0F)), one);
    const F32x16 result = select(lanes_greater(order_key(magnitude), order_key(F32x16::set(0.1F))), quotient, series);
    return select(lanes_greater(order_key(F32x16::zero()), order_key(x)), F32x16::zero() - result, result);
}

inline void add_terms(const Tile &tile, const ScoreTerms &terms) {
    constexpr float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const F32x16 cap = F32x16::set(terms.softcap);
    for (std::int32_t r = 0; r < tile.rows; ++r) {
        for (std::int32_t t = 0; t < tile.slots; t += 16) {
            float *at = tile.s + r * kTile + t;
            F32x16 s = F32x16::load(at);
            if (terms.softcap != 0.0F) s = cap * tanh(s / cap);
            if (terms.alibi) {
                const F32x16 distance = F32x16::set(static_cast<float>(tile.at.slot(t) - terms.at[r])) + F32x16::load(kLanes);
                s = fma(F32x16::set(terms.slope[r]), distance, s);
            }
            if (terms.bias != nullptr) s = s + F32x16::load(terms.bias + t);
            s.store(at);
        }
    }
}

/// Scores of the slots that a row does not see become -inf, whatever was computed there.
inline void hide_unseen(const Tile &tile, std::int32_t r, std::int32_t end) {
    const F32x16 hidden = F32x16::set(-__builtin_inff());
    for (std::int32_t t = 0; t < end; t += 16) {
        const auto bits = static_cast<std::uint32_t>(tile.seen[r] >> t) & 0xffffu;
        float *s = tile.s + r * kTile + t;
        if (bits != 0xffffu) select(bits, F32x16::load(s), hidden).store(s);
    }
}

/// Moves row r's reference, what exponents are relative to, up to `highest`: with it all that was summed so far.
inline void move_reference(Tile &tile, std::int32_t r, float highest) {
    const float before = tile.max[r];
    tile.max[r] = highest;
    if (before == -__builtin_inff()) return; // nothing was summed
    const F32x16 factor = exp(F32x16::set(before - highest));
    float *lanes = tile.lane_sums[r];
    (F32x16::load(lanes) * factor).store(lanes);
    float *o = tile.o + r * tile.width;
    for (std::int64_t d = 0; d < tile.width; d += 16) (F32x16::load(o + d) * factor).store(o + d);
}

/// Scores to probabilities relative to each row's running maximum.
inline void advance_softmax(Tile &tile) {
    const std::int32_t end = (tile.slots + 15) / 16 * 16;
    for (std::int32_t r = 0; r < tile.rows; ++r) {
        if (tile.seen[r] == 0) continue;
        float *s = tile.s + r * kTile;
        if (tile.seen[r] != ~std::uint64_t{0}) hide_unseen(tile, r, end);
        F32x16 highest = F32x16::load(s);
        for (std::int32_t t = 16; t < end; t += 16) highest = max(highest, F32x16::load(s + t));
        if (any_greater(highest, F32x16::set(tile.max[r]))) move_reference(tile, r, reduce_max(highest)); // seldom
        const F32x16 reference = F32x16::set(tile.max[r] == -__builtin_inff() ? 0.0F : tile.max[r]);      // -inf - -inf would be NaN
        F32x16 sum = F32x16::zero();
        for (std::int32_t t = 0; t < end; t += 16) {
            const F32x16 p = exp_of_weight(F32x16::load(s + t) - reference);
            p.store(s + t);
            sum = sum + p;
        }
        (F32x16::load(tile.lane_sums[r]) + sum).store(tile.lane_sums[r]);
    }
}

/// Adds exp(s - lse) of every row to [kTile] sums, in the order of the rows.
inline void add_probabilities(const Tile &tile, const float *lse, float *sums) {
    const std::int32_t end = (tile.slots + 15) / 16 * 16;
    for (std::int32_t r = 0; r < tile.rows; ++r) {
        if (tile.seen[r] == 0 || lse[r] == -__builtin_inff()) continue;
        hide_unseen(tile, r, end);
        const F32x16 shift = F32x16::set(lse[r]);
        for (std::int32_t t = 0; t < end; t += 16) (F32x16::load(sums + t) + exp(F32x16::load(tile.s + r * kTile + t) - shift)).store(sums + t);
    }
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
