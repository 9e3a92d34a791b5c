// SPDX-License-Identifier: Apache-2.0
// One tile of kv_attention on the CPU: up to 48 query rows against up to 64 slots. Included by kv_attention_cpu.cpp alone.
//
//   scores   s[r][t]  = sum_d q[r][d] k[t][d]             q holds scale * q, so s is ready for the softmax
//   softmax  p[r][t]  = exp(s[r][t] - max[r]) for t < counts[r], in place; factor[r] undoes the old maximum
//   values   o[r][d]  = o[r][d] factor[r] + sum_t p[r][t] v[t][d]
//
// A tile's sum starts at zero and joins o once: a single running sum over a long context would lose fp32's last digits.
//
// Two ways through the same three steps, chosen by the number of rows:
//   few rows   K and V are widened as they are used, each element once: lanes run along d and 16 slots' dot products
//              are reduced together. This is decode, where bytes are the limit.
//   many rows  K is widened and turned ([d][slot]), V widened into scratch, then both products are the same
//              register-blocked multiplication. This is prefill, where multiply-adds are the limit.
#pragma once

#include "core/kv_cache.h"
#include "simd/vec.h"

#include <type_traits>

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int32_t kTile = 64;      // slots: the tile of K and V stays in the second-level cache for every type and width
constexpr std::int32_t kBlockRows = 48; // query rows that share the widening of a tile
constexpr std::int32_t kRows = 6;       // rows of a register block
#if defined(__AVX512F__)
constexpr std::int32_t kColumns = 4; // vectors of a register block: 24 sums, 4 operands and a broadcast in 32 registers
constexpr std::int32_t kFewRows = 8;
constexpr std::int32_t kSlotsAtOnce = 4;
#else
constexpr std::int32_t kColumns = 1; // 12 sums, 2 operands and a broadcast in 16 registers
constexpr std::int32_t kFewRows = 6;
constexpr std::int32_t kSlotsAtOnce = 1;
#endif
constexpr std::int32_t kAhead = 16; // slots between the K row that is asked for and the one in use
static_assert(kBlockRows % 16 == 0 && kBlockRows % kRows == 0 && kTile % (16 * kColumns) == 0);

/// Scratch of one worker, and the tile at hand.
struct Tile {
    float *q;           // [kBlockRows][width]
    float *o;           // [kBlockRows][width]
    float *s;           // [kBlockRows][kTile]
    float *keys;        // [width][kTile]
    float *values;      // [kTile][width]
    std::int64_t width; // head_dim rounded up to whole vectors
    std::int32_t rows;  // query rows in use
    std::int32_t slots; // slots in use
    alignas(64) float max[kBlockRows];
    alignas(64) float sum[kBlockRows];
    alignas(64) float factor[kBlockRows];
    std::int32_t counts[kBlockRows]; // slots that a row sees; never falls from row to row
    // Past `slots` both repeat a row, so that every pointer may be read; key_rows goes on into the next tile, if there is one.
    const void *key_rows[kTile + kAhead];
    const void *value_rows[kTile];

    static std::int64_t floats(std::int64_t width) { return kBlockRows * (2 * width + kTile) + 2 * kTile * width; }

    void place(float *scratch, std::int64_t row_width) {
        width = row_width;
        q = scratch;
        o = q + kBlockRows * width;
        s = o + kBlockRows * width;
        keys = s + kBlockRows * kTile;
        values = keys + width * kTile;
    }
};

/// Body<N> for a run-time n of 1 ... kFewRows.
template <class Body>
inline void with_rows(std::int32_t n, Body &&body) {
    switch (n) {
    case 1: return body(std::integral_constant<int, 1>{});
    case 2: return body(std::integral_constant<int, 2>{});
    case 3: return body(std::integral_constant<int, 3>{});
    case 4: return body(std::integral_constant<int, 4>{});
    case 5: return body(std::integral_constant<int, 5>{});
    case 6: return body(std::integral_constant<int, 6>{});
#if defined(__AVX512F__)
    case 7: return body(std::integral_constant<int, 7>{});
    case 8: return body(std::integral_constant<int, 8>{});
#endif
    default: return;
    }
}

template <std::int32_t Dtype>
inline F32x16 load_whole(const void *row, std::int64_t vector) {
    if constexpr (Dtype == STRATA_DTYPE_F32) {
        return F32x16::load(static_cast<const float *>(row) + 16 * vector);
    } else if constexpr (Dtype == STRATA_DTYPE_F16) {
        return F32x16::load_f16(static_cast<const std::uint16_t *>(row) + 16 * vector);
    } else {
        return F32x16::load_bf16(static_cast<const std::uint16_t *>(row) + 16 * vector);
    }
}

// The right operand of a product, one row an index: widened scratch, or rows where they lie in the cache.
struct ScratchRows {
    const float *base;
    std::int64_t stride;
    F32x16 load(std::int64_t row, std::int64_t vector) const { return F32x16::load(base + row * stride + 16 * vector); }
};
template <std::int32_t Dtype>
struct CacheRows {
    const void *const *rows;
    F32x16 load(std::int64_t row, std::int64_t vector) const { return load_whole<Dtype>(rows[row], vector); }
};

/// Sums that are to live in registers: every index must become a constant.
template <int Rows, int Columns>
struct Sums {
    F32x16 v[std::size_t{Rows}][std::size_t{Columns}];

    void clear() {
        for (auto &row : v) {
            for (F32x16 &sum : row) sum = F32x16::zero();
        }
    }
};

/// c[r][v] = sum over i < count of a[r][i] * b(i)[first + v].
template <int Rows, int Columns, class B>
inline void multiply(const float *a, std::int64_t a_stride, const B &b, std::int64_t first, std::int32_t count, Sums<Rows, Columns> &c) {
    c.clear();
    for (std::int32_t i = 0; i < count; ++i) {
        F32x16 operand[std::size_t{Columns}];
        for (int v = 0; v < Columns; ++v) operand[v] = b.load(i, first + v);
        for (int r = 0; r < Rows; ++r) {
            const F32x16 factor = F32x16::set(a[r * a_stride + i]);
            for (int v = 0; v < Columns; ++v) c.v[r][v] = fma(factor, operand[v], c.v[r][v]);
        }
    }
}

// ---- scores --------------------------------------------------------------------------------------------------------

/// Many rows: keys is [d][slot].
inline void multiply_keys(const Tile &tile) {
    const ScratchRows keys{tile.keys, kTile};
    const auto depth = static_cast<std::int32_t>(tile.width);
    for (std::int32_t row = 0; row < tile.rows; row += kRows) {
        with_rows(tile.rows - row < kRows ? tile.rows - row : kRows, [&](auto count) {
            if constexpr (count() <= kRows) {
                for (std::int32_t v = 0; 16 * v < tile.slots; v += kColumns) {
                    Sums<count(), kColumns> c;
                    multiply(tile.q + row * tile.width, tile.width, keys, v, depth, c);
                    for (int r = 0; r < count(); ++r) {
                        for (int i = 0; i < kColumns; ++i) c.v[r][i].store(tile.s + (row + r) * kTile + 16 * (v + i));
                    }
                }
            }
        });
    }
}

/// Asks for a row of `vectors` vectors. Rows of many pages are too short and too scattered for the hardware to see a stream.
template <std::int32_t Dtype>
inline void prefetch(const void *row, std::int64_t vectors) {
    const auto *bytes = static_cast<const char *>(row);
    const std::int64_t end = vectors * (Dtype == STRATA_DTYPE_F32 ? 64 : 32);
    for (std::int64_t at = 0; at < end; at += 64) __builtin_prefetch(bytes + at, 0, 2);
}

/// Few rows: lanes run along d; the sixteen partial sums of sixteen slots are reduced together.
template <int Rows, std::int32_t Dtype>
inline void dot_keys(const Tile &tile) {
    constexpr int kSlots = Rows <= kRows ? kSlotsAtOnce : kSlotsAtOnce / 2;
    const std::int64_t vectors = tile.width / 16;
    for (std::int32_t first = 0; first < tile.slots; first += 16) {
        F32x16 sums[std::size_t{Rows}][16];
        for (int t = 0; t < 16; t += kSlots) {
            for (int i = 0; i < kSlots; ++i) {
                prefetch<Dtype>(tile.key_rows[first + t + i + kAhead], vectors);
                prefetch<Dtype>(tile.value_rows[first + t + i], vectors);
            }
            Sums<Rows, kSlots> c;
            c.clear();
            for (std::int64_t v = 0; v < vectors; ++v) {
                F32x16 key[std::size_t{kSlots}];
                for (int i = 0; i < kSlots; ++i) key[i] = load_whole<Dtype>(tile.key_rows[first + t + i], v);
                for (int r = 0; r < Rows; ++r) {
                    const F32x16 query = F32x16::load(tile.q + r * tile.width + 16 * v);
                    for (int i = 0; i < kSlots; ++i) c.v[r][i] = fma(query, key[i], c.v[r][i]);
                }
            }
            for (int r = 0; r < Rows; ++r) {
                for (int i = 0; i < kSlots; ++i) sums[r][t + i] = c.v[r][i];
            }
        }
        for (int r = 0; r < Rows; ++r) sum_each(sums[r]).store(tile.s + r * kTile + first);
    }
}

// ---- softmax -------------------------------------------------------------------------------------------------------

/// Scores to probabilities relative to the row's running maximum. What a row does not see gets probability 0, whatever
/// was computed there.
inline void advance_softmax(Tile &tile) {
    alignas(64) float tile_sum[kBlockRows];
    for (std::int32_t r = 0; r < tile.rows; ++r) {
        tile_sum[r] = 0.0F;
        tile.factor[r] = 0.0F; // until the exponential below: the step of the maximum
        const std::int32_t count = tile.counts[r];
        if (count == 0) continue;
        float *s = tile.s + r * kTile;
        const std::int32_t end = (count + 15) / 16 * 16;
        for (std::int32_t t = count; t < end; ++t) s[t] = -__builtin_inff();
        F32x16 highest = F32x16::load(s);
        for (std::int32_t t = 16; t < end; t += 16) highest = max(highest, F32x16::load(s + t));
        const float candidate = reduce_max(highest);
        const float old = tile.max[r];
        const float now = candidate > old ? candidate : old;
        const float base = now == -__builtin_inff() ? 0.0F : now; // -inf - -inf would be NaN
        const F32x16 shift = F32x16::set(base);
        F32x16 sum = F32x16::zero();
        for (std::int32_t t = 0; t < end; t += 16) {
            const F32x16 p = exp(F32x16::load(s + t) - shift);
            p.store(s + t);
            sum = sum + p;
        }
        tile_sum[r] = reduce_add(sum);
        tile.max[r] = now;
        tile.factor[r] = old - base;
    }
    for (std::int32_t r = 0; r < tile.rows; r += 16) {
        const F32x16 factor = exp(F32x16::load(tile.factor + r));
        factor.store(tile.factor + r);
        fma(F32x16::load(tile.sum + r), factor, F32x16::load(tile_sum + r)).store(tile.sum + r);
    }
}

// ---- values --------------------------------------------------------------------------------------------------------

template <int Rows, int Columns, class B>
inline void weigh_columns(const Tile &tile, std::int32_t row, std::int64_t first, const B &values) {
    const float *p = tile.s + row * kTile;
    const std::int32_t *counts = tile.counts + row;
    Sums<Rows, Columns> c;
    multiply(p, kTile, values, first, counts[0], c);
    if (counts[Rows - 1] != counts[0]) { // the causal edge: a value that a row does not see must not even meet a zero
        for (int r = 1; r < Rows; ++r) {
            for (std::int32_t t = counts[0]; t < counts[r]; ++t) {
                const F32x16 weight = F32x16::set(p[r * kTile + t]);
                for (int v = 0; v < Columns; ++v) c.v[r][v] = fma(weight, values.load(t, first + v), c.v[r][v]);
            }
        }
    }
    for (int r = 0; r < Rows; ++r) {
        const F32x16 factor = F32x16::set(tile.factor[row + r]);
        for (int v = 0; v < Columns; ++v) {
            float *o = tile.o + (row + r) * tile.width + 16 * (first + v);
            fma(F32x16::load(o), factor, c.v[r][v]).store(o);
        }
    }
}

template <int Rows, class B>
inline void weigh_rows(const Tile &tile, std::int32_t row, const B &values) {
    constexpr int kWide = Rows <= kRows ? kColumns : kColumns / 2;
    const std::int64_t vectors = tile.width / 16;
    std::int64_t v = 0;
    for (; v + kWide <= vectors; v += kWide) weigh_columns<Rows, kWide>(tile, row, v, values);
    if constexpr (kWide > 1) {
        for (; v < vectors; ++v) weigh_columns<Rows, 1>(tile, row, v, values);
    }
}

inline void weigh_values(const Tile &tile) {
    const ScratchRows values{tile.values, tile.width};
    for (std::int32_t row = 0; row < tile.rows; row += kRows) {
        with_rows(tile.rows - row < kRows ? tile.rows - row : kRows, [&](auto count) {
            if constexpr (count() <= kRows) weigh_rows<count()>(tile, row, values);
        });
    }
}

// ---- widening ------------------------------------------------------------------------------------------------------

/// K and V of the tile as fp32: K turned, V as it is; channels past head_dim are zero.
template <std::int32_t Dtype>
inline void widen(const Tile &tile, std::int32_t head_dim) {
    const std::int32_t whole = head_dim / 16;
    for (std::int32_t first = 0; first < tile.slots; first += 16) {
        for (std::int32_t v = 0; 16 * v < head_dim; ++v) {
            F32x16 block[16];
            for (int t = 0; t < 16; ++t) {
                const void *row = tile.key_rows[first + t];
                block[t] = v < whole ? load_whole<Dtype>(row, v) : load_as_f32(Dtype, row, 16 * v, head_dim - 16 * v);
            }
            transpose(block);
            for (int d = 0; d < 16; ++d) block[d].store(tile.keys + (16 * v + d) * kTile + first);
        }
    }
    for (std::int32_t t = 0; t < tile.slots; ++t) {
        const void *row = tile.value_rows[t];
        float *to = tile.values + t * tile.width;
        for (std::int32_t v = 0; 16 * v < head_dim; ++v) {
            const F32x16 x = v < whole ? load_whole<Dtype>(row, v) : load_as_f32(Dtype, row, 16 * v, head_dim - 16 * v);
            x.store(to + 16 * v);
        }
    }
}

/// The whole tile: scores, softmax, values.
template <std::int32_t Dtype>
inline void attend(Tile &tile, std::int32_t head_dim) {
    if (tile.rows <= kFewRows && head_dim % 16 == 0) {
        with_rows(tile.rows, [&](auto rows) {
            dot_keys<rows(), Dtype>(tile);
            advance_softmax(tile);
            weigh_rows<rows()>(tile, 0, CacheRows<Dtype>{tile.value_rows});
        });
        return;
    }
    widen<Dtype>(tile, head_dim);
    multiply_keys(tile);
    advance_softmax(tile);
    weigh_values(tile);
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
