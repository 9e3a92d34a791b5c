// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU for few query rows over whole tiles of tiled pages: decode at the speed of memory. Included by kv_attention_cpu.cpp alone.
//
//   scores   lanes are 16 slots: K words [d / E][16 slots] stream through, each times broadcast channels of q; no sums across lanes
//   values   lanes are 16 channels: V words [64 / E][d], each times broadcast probabilities of its E slots
//
// Every element of K and V is widened once and serves all rows. 16-bit numbers are multiplied in fp32; codes in integers, exactly:
//   q (or p, with the scales of codes folded in) is rounded to 15 bits relative to the largest of its row and block (2^-15), and the product with the
//   codes is the integer dot product of bytes with 15-bit factors (WideDot). What that loses is a tenth of what fp16's own rounding does.
#pragma once

#include "ops/kv_attention/kv_attention_wide.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int32_t kMostTiledRows = 8;
#if defined(__AVX512F__)
constexpr int kSumVectors = 8; // sums that are under way together: enough to hide a multiply-add's latency
constexpr int kRowsAtOnce = 8;
constexpr int kCodeRowsAtOnce = 8;
#else
constexpr int kSumVectors = 6; // twice as many registers
constexpr int kRowsAtOnce = 4;
constexpr int kCodeRowsAtOnce = 2; // four sums, four operands, two factors, their products and two masks
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

constexpr float kWideLimit = 16383.0F;

/// Rounds n numbers (a multiple of 16) to 15 bits relative to the largest: x = unit * integer. A number that is not finite makes unit NaN, and with
/// it all that it multiplies.
struct WideRow {
    float unit;
    float sum; // of the integers

    void pack(const float *x, std::int32_t n, std::uint8_t *to) {
        F32x16 largest = F32x16::zero();
        F32x16 check = F32x16::zero();
        for (std::int32_t i = 0; i < n; i += 16) {
            const F32x16 v = F32x16::load(x + i);
            largest = max(largest, abs(v));
            check = fma(v, F32x16::zero(), check);
        }
        const float most = reduce_max(largest);
        const bool finite = reduce_add(check) == 0.0F;
        const float inverse = finite && most > 0.0F ? kWideLimit / most : 0.0F;
        const bool tiny = !(inverse < __builtin_inff()); // most is a denormal: below anything that matters
        unit = finite ? tiny ? 0.0F : most / kWideLimit : __builtin_nanf("");
        I32x16 total = I32x16::zero();
        for (std::int32_t i = 0; i < n; i += 16)
            total = total + pack_wide(F32x16::load(x + i) * F32x16::set(tiny || !finite ? 0.0F : inverse), to + 2 * i);
        sum = static_cast<float>(reduce_add(total));
    }
};

/// Sixteen words of codes as unsigned bytes, four neighbours at a time; signed codes come 128 higher.
template <Number N>
inline U8x64 four_codes(U8x64 words, int part) {
    if constexpr (N == Number::kU4) return part == 0 ? low_nibbles(words) : high_nibbles(words);
    return N == Number::kI8 ? words ^ U8x64::set(0x80) : words;
}
template <Number N>
inline constexpr int kParts = neighbours(N) / 4;
template <Number N>
inline constexpr float kCodeBias = N == Number::kI8 ? 128.0F : 0.0F;

/// Scores of Columns panels that share the packed queries.
template <int Rows, int Columns, Number N>
inline void score_code_panels(const Tile &tile, std::int32_t row, std::int32_t panel, const std::uint8_t (*packed)[1024], const WideRow *wide,
                              const float *added) {
    const std::int32_t words = tile.head_dim / neighbours(N);
    const std::uint8_t *from[std::size_t{Columns}];
    const std::uint8_t *values[std::size_t{Columns}];
    for (int i = 0; i < Columns; ++i) {
        from[i] = panel_of_keys(tile, panel + i, words);
        values[i] = panel_of_values(tile, panel + i);
    }
    WideDot c[std::size_t{Rows}][std::size_t{Columns}];
    for (std::int32_t j = 0; j < words; ++j) {
        for (int i = 0; i < Columns; ++i) {
            prefetch(values[i] + 64 * j);
            const U8x64 codes = U8x64::load(from[i] + 64 * j);
            for (int part = 0; part < kParts<N>; ++part) {
                const U8x64 four = four_codes<N>(codes, part);
                for (int r = 0; r < Rows; ++r) c[r][i].add(four, packed[r] + (kParts<N> * j + part) * 8);
            }
        }
    }
    for (int i = 0; i < Columns; ++i) {
        const F32x16 scale = kv_token_scaled(tile.keys.format) ? F32x16::load_f16(tile.keys.scales[panel + i]) : F32x16::set(1.0F);
        for (int r = 0; r < Rows; ++r) {
            const F32x16 dot = to_f32(c[r][i].value()) - F32x16::set(kCodeBias<N> * wide[r].sum);
            (fma(dot, F32x16::set(wide[r].unit), F32x16::set(added[r])) * scale).store(tile.s + (row + r) * kTile + kPanel * (panel + i));
        }
    }
}

template <int Rows, Number N>
inline void score_codes(const Tile &tile, std::int32_t row) {
    constexpr int kColumnsHere = Rows <= 4 && kSumVectors >= 2 * Rows ? 2 : 1; // both panels lie in one block of 32 slots
    const bool blocks = kv_block_scaled(tile.keys.format);
    alignas(64) std::uint8_t packed[std::size_t{Rows}][1024];
    alignas(64) float folded[512];
    WideRow wide[std::size_t{Rows}] = {};
    float added[std::size_t{Rows}] = {};
    for (std::int32_t panel = 0; panel < kPanels; panel += kColumnsHere) {
        const bool fresh = panel == 0 || (blocks && panel * kPanel % kKvBlock == 0);
        for (int r = 0; fresh && r < Rows; ++r) {
            const float *q = tile.q + (row + r) * tile.width;
            if (!blocks) {
                wide[r].pack(q, tile.head_dim, packed[r]);
                continue;
            }
            // Scale and zero point of a channel join q: sum_d q_d (scale_d c_d + zero_d).
            const std::uint16_t *scales = tile.keys.scales[panel];
            F32x16 zeros = F32x16::zero();
            for (std::int32_t d = 0; d < tile.head_dim; d += 16) {
                const F32x16 query = F32x16::load(q + d);
                (query * F32x16::load_f16(scales + d)).store(folded + d);
                zeros = fma(query, F32x16::load_f16(scales + tile.head_dim + d), zeros);
            }
            wide[r].pack(folded, tile.head_dim, packed[r]);
            added[r] = reduce_add(zeros);
        }
        score_code_panels<Rows, kColumnsHere, N>(tile, row, panel, packed, wide, added);
    }
}

/// The columns of one group of channels [low, high), whose probabilities carry the group's scales.
template <int Rows, Number N>
inline void weigh_code_group(const Tile &tile, std::int32_t row, std::int32_t low, std::int32_t high, std::int32_t group) {
    constexpr std::int32_t kEach = neighbours(N);
    alignas(64) std::uint8_t packed[std::size_t{Rows}][2 * kTile];
    alignas(64) float folded[kTile];
    WideRow wide[std::size_t{Rows}] = {};
    float added[std::size_t{Rows}];
    const bool blocks = kv_block_scaled(tile.values.format);
    for (int r = 0; r < Rows; ++r) {
        const float *p = tile.s + (row + r) * kTile;
        F32x16 zeros = F32x16::zero();
        for (std::int32_t panel = 0; panel < kPanels; ++panel) {
            const std::uint16_t *scales = tile.values.scales[panel] + (blocks ? 2 * group * tile.values.scale_step : 0);
            const F32x16 weight = F32x16::load(p + kPanel * panel);
            (weight * F32x16::load_f16(scales)).store(folded + kPanel * panel);
            if (blocks) zeros = fma(weight, F32x16::load_f16(scales + tile.values.scale_step), zeros);
        }
        wide[r].pack(folded, kTile, packed[r]);
        added[r] = reduce_add(zeros) - kCodeBias<N> * wide[r].sum * wide[r].unit;
    }
    for (std::int32_t d = low; d < high; d += 16) {
        WideDot c[std::size_t{Rows}];
        const std::uint8_t *next = next_key_line(tile, d / 16 * (kTile / kEach), tile.head_dim / kEach);
        for (std::int32_t panel = 0; panel < kPanels; ++panel) {
            const std::uint8_t *from = value_words(tile, kPanel / kEach * panel, kEach) + 4 * d;
            for (std::int32_t t = kPanel * panel; t < kPanel * (panel + 1); t += kEach, from += 4 * tile.head_dim, next += 64) {
                prefetch(next);
                const U8x64 codes = U8x64::load(from);
                for (int part = 0; part < kParts<N>; ++part) {
                    const U8x64 four = four_codes<N>(codes, part);
                    for (int r = 0; r < Rows; ++r) c[r].add(four, packed[r] + 2 * (t + 4 * part));
                }
            }
        }
        for (int r = 0; r < Rows; ++r) {
            float *o = tile.o + (row + r) * tile.width + d;
            const F32x16 part = fma(to_f32(c[r].value()), F32x16::set(wide[r].unit), F32x16::set(added[r]));
            fma(F32x16::load(o), F32x16::set(tile.factor[row + r]), part).store(o);
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
            for_row_runs<kCodeRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) { score_codes<count(), kNumber>(tile, row); });
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
            for_row_runs<kCodeRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) {
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
