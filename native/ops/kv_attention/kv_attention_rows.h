// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU for few query rows over plain rows: lanes run along d, each element of K and V is widened once and serves all rows. Decode
// over foreign pools, where bytes are the limit. Included by kv_attention_cpu.cpp alone.
//
//   scores   sum over vectors of K row x q row; sixteen such sums, of four slots and four rows, are reduced together
//   values   V rows, each times a broadcast weight; bf16 in pairs of slots where pairs multiply in one go
//
// Memory order, as in kv_attention_tiled.h: four streams side by side, slot t of each panel; each asks for rows ahead of those it uses, and, where
// tiles do not take panels in turn, the beginning of a tile for the translations of the next one's addresses.
#pragma once

#include "ops/kv_attention/kv_attention_tiled.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

#if defined(__AVX512F__)
constexpr std::int32_t kMostRows = 8;
constexpr int kStreamsAtOnce = 4;
#else
constexpr std::int32_t kMostRows = 6;
constexpr int kStreamsAtOnce = 1; // half the registers
#endif
constexpr int kRowsOfSums = 4;          // times four streams: the sixteen sums that are reduced together
constexpr std::int32_t kSlotsAPass = 4; // whose values some channels take before the next channels do, while sums wait in memory

/// Slots of a stream from the row in use to the one asked for; the stream runs over a panel's keys and values into the next tile's keys.
inline std::int32_t slots_ahead(std::int64_t row_bytes) {
    const auto slots = static_cast<std::int32_t>(kLead / row_bytes);
    return slots < 2 ? 2 : slots < kPanel ? slots : kPanel - 1;
}

// ---- numbers in rows -----------------------------------------------------------------------------------------------

/// Floats, widened in registers.
template <std::int32_t Dtype>
struct FloatRow {
    using Factor = float;
    static constexpr std::int32_t kChannels = 16; // of an operand
    static constexpr std::int32_t kSlots = 1;     // whose values are weighed together
    static constexpr std::int32_t kBytes = Dtype == STRATA_DTYPE_F32 ? 4 : 2;

    F32x16 x;

    static F32x16 load_vector(const void *row, std::int64_t vector) {
        if constexpr (Dtype == STRATA_DTYPE_F32) {
            return F32x16::load(static_cast<const float *>(row) + 16 * vector);
        } else if constexpr (Dtype == STRATA_DTYPE_F16) {
            return F32x16::load_f16(static_cast<const std::uint16_t *>(row) + 16 * vector);
        } else {
            return F32x16::load_bf16(static_cast<const std::uint16_t *>(row) + 16 * vector);
        }
    }
    void load(const void *row, std::int64_t vector) { x = load_vector(row, vector); }
    F32x16 add(F32x16 sum, const float *q) const { return fma(F32x16::load(q), x, sum); }
};

/// Pairs of bf16: of neighbouring channels in keys, of neighbouring slots in values.
struct PairRow {
    using Factor = std::uint16_t;
    static constexpr std::int32_t kChannels = 32;
    static constexpr std::int32_t kSlots = 2;
    static constexpr std::int32_t kBytes = 2;

    Bf16x32 x;

    void load(const void *row, std::int64_t vector) { x = Bf16x32::load(static_cast<const std::uint16_t *>(row) + 32 * vector); }
    F32x16 add(F32x16 sum, const std::uint16_t *q) const { return dot(sum, x, Bf16x32::load(q)); }
};

template <std::int32_t Dtype>
struct CacheRows {
    const void *const *rows;
    F32x16 load(std::int64_t row, std::int64_t vector) const { return FloatRow<Dtype>::load_vector(rows[row], vector); }
};

inline void prefetch_bytes(const void *from, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes; at += kLine) prefetch(static_cast<const std::uint8_t *>(from) + at);
}

inline void prefetch_row_translations(const Tile &tile) {
    const auto touch = [](const std::uint8_t *panel, std::int64_t step) {
        for (std::int64_t at = 0; at < kPanel * step; at += step < 4096 ? 4096 : step) prefetch(panel + at);
    };
    for (std::int32_t i = 0; i < kPanels; ++i) {
        touch(tile.keys.next_panels[i], tile.keys.row_step);
        touch(tile.values.next_panels[i], tile.values.row_step);
    }
}

// ---- scores --------------------------------------------------------------------------------------------------------

/// Reduced sums of one step of the streams: lane (r kSteps + u) 4 + stream of row r and the step's slot u.
template <class Row, int Rows, int Parts, int Steps>
inline F32x16 score_step(const Tile &tile, const typename Row::Factor *q, std::int32_t t) {
    const std::int64_t vectors = tile.head_dim / Row::kChannels;
    F32x16 sums[16];
    for (F32x16 &sum : sums) sum = F32x16::zero();
    for (int u = 0; u < Steps; ++u) {
        for (int stream = 0; stream < kPanels; stream += kStreamsAtOnce) {
            F32x16 c[std::size_t{Rows}][std::size_t{kStreamsAtOnce}];
            UNROLLED for (auto &row : c) { UNROLLED for (auto &sum : row) sum = F32x16::zero(); }
            const void *rows[std::size_t{kStreamsAtOnce}];
            UNROLLED for (int i = 0; i < kStreamsAtOnce; ++i) rows[i] = tile.keys.rows[kPanel * (stream + i) + t + u];
            for (std::int64_t v = 0; v < vectors; ++v) {
                Row x[std::size_t{kStreamsAtOnce}];
                UNROLLED for (int i = 0; i < kStreamsAtOnce; ++i) x[i].load(rows[i], v);
                UNROLLED for (int part = 0; part < Parts; ++part) {
                    UNROLLED for (int r = 0; r < Rows; ++r) {
                        UNROLLED for (int i = 0; i < kStreamsAtOnce; ++i) {
                            c[r][i] = x[i].add(c[r][i], q + part * kPartStep + r * kRowStep + Row::kChannels * v);
                        }
                    }
                }
            }
            UNROLLED for (int r = 0; r < Rows; ++r) {
                UNROLLED for (int i = 0; i < kStreamsAtOnce; ++i) sums[(r * Steps + u) * kPanels + stream + i] = c[r][i];
            }
        }
    }
    return sum_each(sums);
}

/// Scores of all slots for Rows rows from `row`.
template <class Row, int Rows, int Parts>
inline void score_slots(const Tile &tile, std::int32_t row, float scale) {
    constexpr int kSteps = kRowsOfSums / Rows; // 1, 2 or 4 slots fill the sixteen sums
    const auto *q = reinterpret_cast<const typename Row::Factor *>(tile.factors) + row * kRowStep;
    const std::int64_t row_bytes = std::int64_t{tile.head_dim} * Row::kBytes;
    const std::int32_t lead = slots_ahead(row_bytes);
    const F32x16 factor = F32x16::set(scale);
    F32x16 lanes[16];
    for (std::int32_t t = 0; t < kPanel; t += kSteps) {
        for (std::int32_t u = t; u < t + kSteps; ++u) {
            for (std::int32_t i = 0; i < kPanels; ++i) {
                const std::int32_t ahead = u + lead;
                prefetch_bytes(ahead < kPanel ? tile.keys.rows[kPanel * i + ahead] : tile.values.rows[kPanel * i + ahead - kPanel], row_bytes);
            }
        }
        lanes[t / kSteps] = score_step<Row, Rows, Parts, kSteps>(tile, q, t) * factor;
    }
    if constexpr (kSteps == 1) {
        transpose(lanes);
        for (int r = 0; r < Rows; ++r) {
            for (int i = 0; i < kPanels; ++i) lanes[r * kPanels + i].store(tile.s + (row + r) * kTile + kPanel * i);
        }
    } else {
        alignas(64) float numbers[std::size_t{16 / kSteps}][16];
        for (int n = 0; n < 16 / kSteps; ++n) lanes[n].store(numbers[n]);
        for (int r = 0; r < Rows; ++r) {
            for (int slot = 0; slot < kTile; ++slot) {
                const int t = slot % kPanel;
                tile.s[(row + r) * kTile + slot] = numbers[t / kSteps][(r * kSteps + t % kSteps) * kPanels + slot / kPanel];
            }
        }
    }
}

/// Whether the tile's keys and values can be used where they lie.
inline bool takes_rows(const Tile &tile) {
    const auto plain_rows = [](const TileSource &source) { return source.format == STRATA_KV_PLAIN && source.layout == STRATA_KV_ROWS; };
    return tile.rows <= kMostRows && tile.head_dim % 16 == 0 && plain_rows(tile.keys) && plain_rows(tile.values) &&
           tile.keys.dtype == tile.values.dtype;
}

/// Whether pairs of bf16 multiply in one go.
inline bool pairs_of_rows(const Tile &tile) { return kBf16Dot && tile.pairs && tile.head_dim % PairRow::kChannels == 0; }

/// body(std::integral_constant<int32, dtype>).
template <class Body>
inline void with_row_dtype(const Tile &tile, Body &&body) {
    switch (tile.keys.dtype) {
    case STRATA_DTYPE_F32: return body(std::integral_constant<std::int32_t, STRATA_DTYPE_F32>{});
    case STRATA_DTYPE_F16: return body(std::integral_constant<std::int32_t, STRATA_DTYPE_F16>{});
    default: return body(std::integral_constant<std::int32_t, STRATA_DTYPE_BF16>{});
    }
}

inline void score_rows(const Tile &tile) {
    if (!tile.at.in_turn()) prefetch_row_translations(tile);
    for_row_runs<kRowsOfSums>(tile.rows, [&](auto count, std::int32_t row) {
        if constexpr (kBf16Dot) {
            if (pairs_of_rows(tile)) {
                if (tile.query_parts == 1) return score_slots<PairRow, count(), 1>(tile, row, tile.scale);
                return score_slots<PairRow, count(), 2>(tile, row, tile.scale);
            }
        }
        with_row_dtype(tile, [&](auto dtype) { score_slots<FloatRow<dtype()>, count(), 1>(tile, row, 1.0F); });
    });
}

// ---- values --------------------------------------------------------------------------------------------------------

/// Columns vectors of channels from `first`, slots [begin, begin + kSlotsAPass) of each panel of a whole tile: sums from those before in `sums` and
/// into it, or at the end o += weights V. Sums [Rows][kMostChannels].
template <class Row, int Rows, int Columns>
inline void weigh_row_pass(const Tile &tile, std::int32_t row, std::int64_t first, std::int32_t begin, const typename Row::Factor *weights,
                           float *sums) {
    const std::int64_t pass_bytes = Columns * 16 * std::int64_t{Row::kBytes};
    const std::int32_t lead = slots_ahead(std::int64_t{tile.head_dim} * Row::kBytes);
    const auto place = [&](int r, int i) { return sums + r * kMostChannels + 16 * (first + i); };
    F32x16 c[std::size_t{Rows}][std::size_t{Columns}];
    UNROLLED for (int r = 0; r < Rows; ++r) {
        UNROLLED for (int i = 0; i < Columns; ++i) c[r][i] = begin == 0 ? F32x16::zero() : F32x16::load(place(r, i));
    }
    for (std::int32_t t = begin; t < begin + kSlotsAPass; t += Row::kSlots) {
        for (std::int32_t panel = 0; panel < kPanels; ++panel) {
            const void *const *rows = tile.values.rows + kPanel * panel + t;
            for (std::int32_t u = 0; u < Row::kSlots; ++u) {
                const std::int32_t ahead = t + u + lead;
                const auto *asked = ahead < kPanel ? static_cast<const std::uint8_t *>(tile.values.rows[kPanel * panel + ahead])
                                                   : tile.keys.next_panels[panel] + (ahead - kPanel) * tile.keys.row_step;
                prefetch_bytes(asked + 16 * Row::kBytes * first, pass_bytes);
            }
            const auto *factors = weights + kPanel * panel + t;
            F32x16 x[std::size_t{Columns}];
            if constexpr (Row::kSlots == 1) {
                UNROLLED for (int i = 0; i < Columns; ++i) x[i] = Row::load_vector(rows[0], first + i);
                UNROLLED for (int r = 0; r < Rows; ++r) {
                    UNROLLED for (int i = 0; i < Columns; ++i) c[r][i] = fma(F32x16::set(factors[r * kTile]), x[i], c[r][i]);
                }
            } else {
                UNROLLED for (int i = 0; i < Columns; i += 2) {
                    const auto *even = static_cast<const std::uint16_t *>(rows[0]) + 16 * (first + i);
                    const auto *odd = static_cast<const std::uint16_t *>(rows[1]) + 16 * (first + i);
                    Bf16x32 low;
                    Bf16x32 high;
                    zip(Bf16x32::load(even), Bf16x32::load(odd), low, high);
                    x[i] = as_words(low);
                    x[i + 1] = as_words(high);
                }
                UNROLLED for (int r = 0; r < Rows; ++r) {
                    UNROLLED for (int i = 0; i < Columns; ++i) c[r][i] = dot(c[r][i], as_pairs(x[i]), Bf16x32::set_pair(factors + r * kTile));
                }
            }
        }
    }
    if (begin + kSlotsAPass < kPanel) {
        UNROLLED for (int r = 0; r < Rows; ++r) { UNROLLED for (int i = 0; i < Columns; ++i) c[r][i].store(place(r, i)); }
        return;
    }
    UNROLLED for (int r = 0; r < Rows; ++r) {
        if constexpr (Row::kSlots == 2) {
            UNROLLED for (int i = 0; i < Columns; i += 2) in_order(c[r][i], c[r][i + 1]);
        }
        UNROLLED for (int i = 0; i < Columns; ++i) {
            float *o = tile.o + (row + r) * tile.width + 16 * (first + i);
            (F32x16::load(o) + c[r][i]).store(o);
        }
    }
}

/// All channels of a whole tile.
template <class Row, int Rows>
inline void weigh_slots(const Tile &tile, std::int32_t row, const typename Row::Factor *weights) {
    constexpr int kLeast = Row::kChannels / 16;
    constexpr int kColumnsHere = columns_for(Rows) > kLeast ? columns_for(Rows) : kLeast;
    const std::int64_t vectors = tile.head_dim / 16;
    alignas(64) float sums[std::size_t{Rows}][kMostChannels];
    for (std::int32_t begin = 0; begin < kPanel; begin += kSlotsAPass) {
        std::int64_t v = 0;
        for (; v + kColumnsHere <= vectors; v += kColumnsHere) weigh_row_pass<Row, Rows, kColumnsHere>(tile, row, v, begin, weights, sums[0]);
        if constexpr (kColumnsHere == 4) {
            for (; v + 2 <= vectors; v += 2) weigh_row_pass<Row, Rows, 2>(tile, row, v, begin, weights, sums[0]);
        }
        if constexpr (kLeast == 1 && kColumnsHere > 1) {
            for (; v < vectors; ++v) weigh_row_pass<Row, Rows, 1>(tile, row, v, begin, weights, sums[0]);
        }
    }
}

inline void weigh_value_rows(const Tile &tile) {
    if (!tile.whole()) { // an edge: some rows do not see some slots
        with_rows(tile.rows, [&](auto rows) {
            if constexpr (rows() <= kMostRows) {
                with_row_dtype(tile, [&](auto dtype) { weigh_rows<rows()>(tile, 0, CacheRows<dtype()>{tile.values.rows}); });
            }
        });
        return;
    }
    const bool pairs = pairs_of_rows(tile);
    if (pairs) pack_weights(tile);
    for_row_runs<kRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) {
        if constexpr (kBf16Dot) {
            if (pairs) return weigh_slots<PairRow, count()>(tile, row, tile.weight_pairs + row * kTile);
        }
        with_row_dtype(tile, [&](auto dtype) { weigh_slots<FloatRow<dtype()>, count()>(tile, row, tile.s + row * kTile); });
    });
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
