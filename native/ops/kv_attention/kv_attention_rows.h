// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU for few query rows over plain rows: lanes run along d, each element of K and V is widened once and serves all rows, the
// sixteen partial sums of sixteen slots are reduced together. Decode over foreign pools, where bytes are the limit. Included by kv_attention_cpu.cpp
// alone.
#pragma once

#include "ops/kv_attention/kv_attention_wide.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

#if defined(__AVX512F__)
constexpr std::int32_t kFewRows = 8;
constexpr std::int32_t kSlotsAtOnce = 4;
#else
constexpr std::int32_t kFewRows = 6;
constexpr std::int32_t kSlotsAtOnce = 1;
#endif

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

template <std::int32_t Dtype>
struct CacheRows {
    const void *const *rows;
    F32x16 load(std::int64_t row, std::int64_t vector) const { return load_whole<Dtype>(rows[row], vector); }
};

/// Asks for a row of `vectors` vectors. Rows of many pages are too short and too scattered for the hardware to see a stream.
template <std::int32_t Dtype>
inline void prefetch(const void *row, std::int64_t vectors) {
    const auto *bytes = static_cast<const char *>(row);
    const std::int64_t end = vectors * (Dtype == STRATA_DTYPE_F32 ? 64 : 32);
    for (std::int64_t at = 0; at < end; at += 64) __builtin_prefetch(bytes + at, 0, 2);
}

template <int Rows, std::int32_t Dtype>
inline void dot_key_rows(const Tile &tile) {
    constexpr int kSlots = Rows <= kRows ? kSlotsAtOnce : kSlotsAtOnce / 2;
    const std::int64_t vectors = tile.width / 16;
    for (std::int32_t first = 0; first < tile.slots; first += 16) {
        F32x16 sums[std::size_t{Rows}][16];
        for (int t = 0; t < 16; t += kSlots) {
            for (int i = 0; i < kSlots; ++i) {
                prefetch<Dtype>(tile.keys.rows[first + t + i + kAhead], vectors);
                prefetch<Dtype>(tile.values.rows[first + t + i], vectors);
            }
            Sums<Rows, kSlots> c;
            c.clear();
            for (std::int64_t v = 0; v < vectors; ++v) {
                F32x16 key[std::size_t{kSlots}];
                for (int i = 0; i < kSlots; ++i) key[i] = load_whole<Dtype>(tile.keys.rows[first + t + i], v);
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

/// Whether the tile's keys and values can be used where they lie.
inline bool takes_rows(const Tile &tile) {
    const auto plain_rows = [](const TileSource &source) { return source.format == STRATA_KV_PLAIN && source.layout == STRATA_KV_ROWS; };
    return tile.rows <= kFewRows && tile.head_dim % 16 == 0 && plain_rows(tile.keys) && plain_rows(tile.values) &&
           tile.keys.dtype == tile.values.dtype;
}

/// body(std::integral_constant<int, rows>, std::integral_constant<int32, dtype>) of such a tile.
template <class Body>
inline void with_rows_and_dtype(const Tile &tile, Body &&body) {
    with_rows(tile.rows, [&](auto rows) {
        if constexpr (rows() <= kFewRows) {
            switch (tile.keys.dtype) {
            case STRATA_DTYPE_F32: return body(rows, std::integral_constant<std::int32_t, STRATA_DTYPE_F32>{});
            case STRATA_DTYPE_F16: return body(rows, std::integral_constant<std::int32_t, STRATA_DTYPE_F16>{});
            default: return body(rows, std::integral_constant<std::int32_t, STRATA_DTYPE_BF16>{});
            }
        }
    });
}

inline void score_rows(const Tile &tile) {
    with_rows_and_dtype(tile, [&](auto rows, auto dtype) { dot_key_rows<rows(), dtype()>(tile); });
}

inline void weigh_value_rows(const Tile &tile) {
    with_rows_and_dtype(tile, [&](auto rows, auto dtype) { weigh_rows<rows()>(tile, 0, CacheRows<dtype()>{tile.values.rows}); });
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
