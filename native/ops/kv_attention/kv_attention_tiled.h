// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU for few query rows over whole tiles of tiled pages: decode at the speed of memory. Included by kv_attention_cpu.cpp alone.
//
//   scores   lanes are 16 slots: K words [d / E][16 slots] stream through, each times broadcast channels of q; no sums across lanes
//   values   lanes are 16 channels: V words [64 / E][d], each times broadcast probabilities of its E slots
//
// Every element of K and V is widened once, in registers, and serves all rows; products and sums are fp32.
#pragma once

#include "ops/kv_attention/kv_attention_wide.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int32_t kMostTiledRows = 8;
#if defined(__AVX512F__)
constexpr int kSumVectors = 8; // sums that are under way together: enough to hide a multiply-add's latency
constexpr int kRowsAtOnce = 8;
#else
constexpr int kSumVectors = 6; // twice as many registers
constexpr int kRowsAtOnce = 4;
#endif

/// Panels of scores, or vectors of channels, that Rows rows take together.
constexpr int columns_for(int rows) { return rows >= kSumVectors ? 1 : kSumVectors / rows < 4 ? kSumVectors / rows : 4; }

/// The whole tile in numbers that this file takes, seen by every row.
inline bool takes_tiled(const Tile &tile, const TileSource &source) {
    return source.layout == STRATA_KV_TILED && source.format != STRATA_KV_F8 && tile.rows <= kMostTiledRows && tile.whole();
}

/// body(std::integral_constant<int, rows>, first row) for runs of at most AtOnce rows.
template <int AtOnce, class Body>
inline void for_row_runs(std::int32_t rows, Body &&body) {
    for (std::int32_t row = 0; row < rows; row += AtOnce) {
        with_rows(rows - row < AtOnce ? rows - row : AtOnce, [&](auto count) {
            if constexpr (count() <= AtOnce) body(count, row);
        });
    }
}

// Memory is asked for one line ahead of each line that is used: the values of the tile while its keys are used, the keys of the next tile while the
// values are. A panel is too short for the hardware to see its stream, V is walked down its columns, and a burst of requests would only queue.

/// The values of a panel, as the stream that its keys run beside.
inline const std::uint8_t *panel_of_values(const Tile &tile, std::int32_t panel) {
    const std::int32_t bits = tile.values.format == STRATA_KV_I4_BLOCK ? 4 : 8 * dtype_bytes(tile.values.dtype);
    return tile.values.blocks[panel] + std::int64_t{tile.values.first_slot[panel]} * tile.head_dim * bits / 8;
}

/// Line n of the next tile's keys; lines from there to the end of the page follow.
inline const std::uint8_t *next_key_line(const Tile &tile, std::int32_t line, std::int32_t lines_of_panel) {
    return tile.next_keys[line / lines_of_panel] + 64 * std::int64_t{line % lines_of_panel};
}

inline void prefetch(const std::uint8_t *line) { __builtin_prefetch(line, 0, 3); }

inline const std::uint8_t *panel_of_keys(const Tile &tile, std::int32_t panel, std::int32_t words) {
    return tile.keys.blocks[panel] + std::int64_t{tile.keys.first_slot[panel] / kPanel} * words * 64;
}

// ---- floats --------------------------------------------------------------------------------------------------------

/// Scores of Columns panels. Halves are multiplied as pairs: lane 2i + e holds channel 2j + e of slot i, and the pairs are added at the end.
template <int Rows, int Columns, Number N>
inline void score_float_panels(const Tile &tile, std::int32_t row, std::int32_t panel) {
    const std::int32_t words = tile.head_dim / neighbours(N);
    const float *q = tile.q + row * tile.width;
    const std::uint8_t *from[std::size_t{Columns}];
    const std::uint8_t *values[std::size_t{Columns}];
    for (int i = 0; i < Columns; ++i) {
        from[i] = panel_of_keys(tile, panel + i, words);
        values[i] = panel_of_values(tile, panel + i);
    }
    Sums<Rows, Columns> c;
    c.clear();
    const auto add = [&](F32x16 x, int i, const float *factor) {
        for (int r = 0; r < Rows; ++r) c.v[r][i] = fma(F32x16::set(factor[r * tile.width]), x, c.v[r][i]);
    };
    if constexpr (N == Number::kF16) {
        Sums<Rows, Columns> upper; // slots 8 to 15 of each panel
        upper.clear();
        for (std::int32_t j = 0; j < words; ++j) {
            for (int i = 0; i < Columns; ++i) {
                prefetch(values[i] + 64 * j);
                const auto *halves = reinterpret_cast<const std::uint16_t *>(from[i] + 64 * j);
                const F32x16 low = F32x16::load_f16(halves);
                const F32x16 high = F32x16::load_f16(halves + 16);
                for (int r = 0; r < Rows; ++r) {
                    const F32x16 pair = F32x16::set_pair(q + r * tile.width + 2 * j);
                    c.v[r][i] = fma(pair, low, c.v[r][i]);
                    upper.v[r][i] = fma(pair, high, upper.v[r][i]);
                }
            }
        }
        for (int r = 0; r < Rows; ++r) {
            for (int i = 0; i < Columns; ++i) {
                F32x16 even;
                F32x16 odd;
                unzip(c.v[r][i], upper.v[r][i], even, odd);
                c.v[r][i] = even + odd;
            }
        }
    } else {
        for (std::int32_t j = 0; j < words; ++j) {
            for (int i = 0; i < Columns; ++i) {
                prefetch(values[i] + 64 * j);
                if constexpr (N == Number::kBf16) {
                    F32x16 even;
                    F32x16 odd;
                    load_bf16_words(from[i] + 64 * j, even, odd);
                    add(even, i, q + 2 * j);
                    add(odd, i, q + 2 * j + 1);
                } else {
                    add(F32x16::load(reinterpret_cast<const float *>(from[i]) + 16 * j), i, q + j);
                }
            }
        }
    }
    for (int r = 0; r < Rows; ++r) {
        for (int i = 0; i < Columns; ++i) c.v[r][i].store(tile.s + (row + r) * kTile + kPanel * (panel + i));
    }
}

template <int Rows, Number N>
inline void score_floats(const Tile &tile, std::int32_t row) {
    constexpr int kSums = N == Number::kF16 ? 2 * Rows : Rows; // halves need twice as many
    constexpr int kColumnsHere = columns_for(kSums) == 3 ? 2 : columns_for(kSums);
    for (std::int32_t panel = 0; panel < kPanels; panel += kColumnsHere) {
        score_float_panels<Rows, kColumnsHere, N>(tile, row, panel);
    }
}

/// Where word row w of the tile's values begins: slots w E ... w E + E - 1.
inline const std::uint8_t *value_words(const Tile &tile, std::int32_t w, std::int32_t each) {
    const std::int32_t panel = w * each / kPanel;
    return tile.values.blocks[panel] + std::int64_t{(tile.values.first_slot[panel] + w * each % kPanel) / each} * tile.head_dim * 4;
}

template <int Rows, Number N>
inline void weigh_float_column(const Tile &tile, std::int32_t row, std::int32_t d) {
    constexpr std::int32_t kEach = neighbours(N);
    const float *p = tile.s + row * kTile;
    F32x16 c[std::size_t{Rows}];
    F32x16 upper[std::size_t{Rows}]; // halves: channels 8 to 15, as pairs
    for (int r = 0; r < Rows; ++r) c[r] = upper[r] = F32x16::zero();
    const std::uint8_t *next = next_key_line(tile, d / 16 * (kTile / kEach), tile.head_dim / kEach);
    for (std::int32_t panel = 0; panel < kPanels; ++panel) {
        const std::uint8_t *from = value_words(tile, kPanel / kEach * panel, kEach) + 4 * d;
        for (std::int32_t t = kPanel * panel; t < kPanel * (panel + 1); t += kEach, from += 4 * tile.head_dim, next += 64) {
            prefetch(next);
            if constexpr (N == Number::kF16) {
                const auto *halves = reinterpret_cast<const std::uint16_t *>(from);
                const F32x16 low = F32x16::load_f16(halves);
                const F32x16 high = F32x16::load_f16(halves + 16);
                for (int r = 0; r < Rows; ++r) {
                    const F32x16 pair = F32x16::set_pair(p + r * kTile + t);
                    c[r] = fma(pair, low, c[r]);
                    upper[r] = fma(pair, high, upper[r]);
                }
            } else if constexpr (N == Number::kBf16) {
                F32x16 even;
                F32x16 odd;
                load_bf16_words(from, even, odd);
                for (int r = 0; r < Rows; ++r) c[r] = fma(F32x16::set(p[r * kTile + t]), even, c[r]);
                for (int r = 0; r < Rows; ++r) c[r] = fma(F32x16::set(p[r * kTile + t + 1]), odd, c[r]);
            } else {
                const F32x16 x = F32x16::load(reinterpret_cast<const float *>(from));
                for (int r = 0; r < Rows; ++r) c[r] = fma(F32x16::set(p[r * kTile + t]), x, c[r]);
            }
        }
    }
    for (int r = 0; r < Rows; ++r) {
        if constexpr (N == Number::kF16) {
            F32x16 even;
            F32x16 odd;
            unzip(c[r], upper[r], even, odd);
            c[r] = even + odd;
        }
        float *o = tile.o + (row + r) * tile.width + d;
        fma(F32x16::load(o), F32x16::set(tile.factor[row + r]), c[r]).store(o);
    }
}

// ---- codes ---------------------------------------------------------------------------------------------------------
// Codes become floats in registers; their scales and zero points never do: a channel's scale joins q, a token's the finished score, a group's the
// probabilities, and zero points are one sum a row.

/// Scores of Columns panels; q [Rows][stride] carries the scales of channels, added[r] what the zero points come to.
template <int Rows, int Columns, Number N>
inline void score_code_panels(const Tile &tile, std::int32_t row, std::int32_t panel, const float *q, std::int64_t stride, const float *added) {
    constexpr std::int32_t kEach = neighbours(N);
    const std::int32_t words = tile.head_dim / kEach;
    const std::uint8_t *from[std::size_t{Columns}];
    const std::uint8_t *values[std::size_t{Columns}];
    for (int i = 0; i < Columns; ++i) {
        from[i] = panel_of_keys(tile, panel + i, words);
        values[i] = panel_of_values(tile, panel + i);
    }
    Sums<Rows, Columns> c;
    c.clear();
    for (std::int32_t j = 0; j < words; ++j) {
        for (int i = 0; i < Columns; ++i) {
            prefetch(values[i] + 64 * j);
            F32x16 x[std::size_t{kEach}];
            expand<N>(from[i] + 64 * j, x);
            for (std::int32_t e = 0; e < kEach; ++e) {
                for (int r = 0; r < Rows; ++r) c.v[r][i] = fma(F32x16::set(q[r * stride + j * kEach + e]), x[e], c.v[r][i]);
            }
        }
    }
    for (int i = 0; i < Columns; ++i) {
        const F32x16 scale = kv_token_scaled(tile.keys.format) ? F32x16::load_f16(tile.keys.scales[panel + i]) : F32x16::set(1.0F);
        for (int r = 0; r < Rows; ++r) ((c.v[r][i] + F32x16::set(added[r])) * scale).store(tile.s + (row + r) * kTile + kPanel * (panel + i));
    }
}

template <int Rows, Number N>
inline void score_codes(const Tile &tile, std::int32_t row) {
    constexpr int kColumnsHere = columns_for(Rows) >= 2 ? 2 : 1; // both panels lie in one block of 32 slots
    const bool blocks = kv_block_scaled(tile.keys.format);
    alignas(64) float folded[std::size_t{Rows}][512];
    float added[std::size_t{Rows}] = {};
    for (std::int32_t panel = 0; panel < kPanels; panel += kColumnsHere) {
        if (!blocks) {
            score_code_panels<Rows, kColumnsHere, N>(tile, row, panel, tile.q + row * tile.width, tile.width, added);
            continue;
        }
        for (int r = 0; panel * kPanel % kKvBlock == 0 && r < Rows; ++r) { // sum_d q_d (scale_d c_d + zero_d)
            const float *q = tile.q + (row + r) * tile.width;
            const std::uint16_t *scales = tile.keys.scales[panel];
            F32x16 zeros = F32x16::zero();
            for (std::int32_t d = 0; d < tile.head_dim; d += 16) {
                const F32x16 query = F32x16::load(q + d);
                (query * F32x16::load_f16(scales + d)).store(folded[r] + d);
                zeros = fma(query, F32x16::load_f16(scales + tile.head_dim + d), zeros);
            }
            added[r] = reduce_add(zeros);
        }
        score_code_panels<Rows, kColumnsHere, N>(tile, row, panel, folded[0], 512, added);
    }
}

/// The columns of one group of channels [low, high), whose probabilities carry the group's scales.
template <int Rows, Number N>
inline void weigh_code_group(const Tile &tile, std::int32_t row, std::int32_t low, std::int32_t high, std::int32_t group) {
    constexpr std::int32_t kEach = neighbours(N);
    alignas(64) float folded[std::size_t{Rows}][kTile];
    float added[std::size_t{Rows}];
    const bool blocks = kv_block_scaled(tile.values.format);
    for (int r = 0; r < Rows; ++r) {
        const float *p = tile.s + (row + r) * kTile;
        F32x16 zeros = F32x16::zero();
        for (std::int32_t panel = 0; panel < kPanels; ++panel) {
            const std::uint16_t *scales = tile.values.scales[panel] + (blocks ? 2 * group * tile.values.scale_step : 0);
            const F32x16 weight = F32x16::load(p + kPanel * panel);
            (weight * F32x16::load_f16(scales)).store(folded[r] + kPanel * panel);
            if (blocks) zeros = fma(weight, F32x16::load_f16(scales + tile.values.scale_step), zeros);
        }
        added[r] = reduce_add(zeros);
    }
    for (std::int32_t d = low; d < high; d += 16) {
        F32x16 c[std::size_t{Rows}];
        for (int r = 0; r < Rows; ++r) c[r] = F32x16::set(added[r]);
        const std::uint8_t *next = next_key_line(tile, d / 16 * (kTile / kEach), tile.head_dim / kEach);
        for (std::int32_t panel = 0; panel < kPanels; ++panel) {
            const std::uint8_t *from = value_words(tile, kPanel / kEach * panel, kEach) + 4 * d;
            for (std::int32_t t = kPanel * panel; t < kPanel * (panel + 1); t += kEach, from += 4 * tile.head_dim, next += 64) {
                prefetch(next);
                F32x16 x[std::size_t{kEach}];
                expand<N>(from, x);
                for (std::int32_t e = 0; e < kEach; ++e) {
                    for (int r = 0; r < Rows; ++r) c[r] = fma(F32x16::set(folded[r][t + e]), x[e], c[r]);
                }
            }
        }
        for (int r = 0; r < Rows; ++r) {
            float *o = tile.o + (row + r) * tile.width + d;
            fma(F32x16::load(o), F32x16::set(tile.factor[row + r]), c[r]).store(o);
        }
    }
}

// ---- the two products ----------------------------------------------------------------------------------------------

template <Number N>
inline constexpr bool kIsFloat = N == Number::kF32 || N == Number::kF16 || N == Number::kBf16;

inline void score_tiled(const Tile &tile) {
    with_number(tile.keys, [&](auto number) {
        constexpr Number kNumber = decltype(number)::value;
        if constexpr (kIsFloat<kNumber>) {
            for_row_runs<kRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) { score_floats<count(), kNumber>(tile, row); });
        } else if constexpr (kNumber != Number::kF8) {
            for_row_runs<kRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) { score_codes<count(), kNumber>(tile, row); });
        }
    });
}

inline void weigh_tiled(const Tile &tile) {
    with_number(tile.values, [&](auto number) {
        constexpr Number kNumber = decltype(number)::value;
        if constexpr (kIsFloat<kNumber>) {
            for_row_runs<kRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) {
                for (std::int32_t d = 0; d < tile.head_dim; d += 16) weigh_float_column<count(), kNumber>(tile, row, d);
            });
        } else if constexpr (kNumber != Number::kF8) {
            const std::int32_t width = kv_block_scaled(tile.values.format) ? kKvBlock : tile.head_dim;
            for_row_runs<kRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) {
                for (std::int32_t low = 0; low < tile.head_dim; low += width) {
                    const std::int32_t high = low + width < tile.head_dim ? low + width : tile.head_dim;
                    weigh_code_group<count(), kNumber>(tile, row, low, high, low / width);
                }
            });
        }
    });
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
