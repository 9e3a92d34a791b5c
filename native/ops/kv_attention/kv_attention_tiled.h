// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU for few query rows over whole tiles of tiled pages: decode at the speed of memory. Included by kv_attention_cpu.cpp alone.
//
//   scores   lanes are 16 slots: K words [d / E][16 slots] stream through, each times broadcast factors of q; no sums across lanes
//   values   lanes are 16 channels: V words [64 / E][d], each times broadcast weights of its E slots
//
// Every element of K and V is unpacked once, in registers, and serves all rows. How words multiply: kv_attention_words.h.
//
// Memory order. A tile's keys are walked as four streams side by side, one a panel, a line of each in turn; then its values the same way, some
// vectors of channels a pass. In one stream the address translations and the starts of the hardware's prefetch would follow one another: pages are
// short and lie anywhere. Each stream asks for lines ahead of those it uses, the keys' end for the first values, the values' end for the next tile's
// keys; and the beginning of a tile asks for the first line of every 4 KiB of the next one, whose translations are then there.
//
//   panel 0   K . . . . . . K  V . . V          walked:  K0 K1 K2 K3 line 0, K0 K1 K2 K3 line 1 ...
//   panel 1   K . . . . . . K  V . . V                   V0 row 0, V1 row 0 ... channels 0-63; then channels 64-127 ...
//   ...
#pragma once

#include "ops/kv_attention/kv_attention_pairs.h"
#include "ops/kv_attention/kv_attention_words.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int64_t kLine = 64;
#if defined(__AVX512F__)
constexpr int kRowsAtOnce = 8;
constexpr int kOperandsAtOnce = 8; // unpacked vectors that wait for their factors
/// Panels of scores, or vectors of channels, that rows take together: sixteen sums hide a multiply-add's latency.
constexpr int columns_for(int rows) { return rows <= 4 ? 4 : 2; }
#else
constexpr int kRowsAtOnce = 4; // twice as many registers
constexpr int kOperandsAtOnce = 1;
constexpr int columns_for(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
#endif

/// Lines whose operands are unpacked together, of `columns`.
template <class Line>
constexpr int lines_at_once(int columns) {
    return Line::kOperands * columns <= kOperandsAtOnce ? columns : columns > 2 && Line::kOperands * 2 <= kOperandsAtOnce ? 2 : 1;
}

/// What each of the four streams asks for ahead, together 8 KiB: what memory delivers to a core in two of its latencies.
constexpr std::int64_t kBytesAhead = 2048;

/// Steps of tile.factors: known to the compiler, so that one address serves all rows and parts.
constexpr std::int64_t kRowStep = kMostChannels;
constexpr std::int64_t kPartStep = kFewRows * kRowStep;

/// The whole tile in numbers that this file takes, seen by every row.
inline bool takes_tiled(const Tile &tile, const TileSource &source) {
    return source.layout == STRATA_KV_TILED && source.format != STRATA_KV_F8 && tile.rows <= kFewRows && tile.whole();
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

// ---- where lines lie -----------------------------------------------------------------------------------------------

inline std::int32_t numbers_in_word(const TileSource &source) {
    return source.format == STRATA_KV_I4_BLOCK ? 8 : 4 / static_cast<std::int32_t>(dtype_bytes(source.dtype));
}

inline void prefetch(const std::uint8_t *line) { __builtin_prefetch(line, 0, 3); }

/// The panels of a tile as streams of lines.
struct TileStreams {
    const std::uint8_t *keys[kPanels], *values[kPanels], *next_keys[kPanels];
    std::int64_t key_bytes, value_bytes; // of a panel
    std::int64_t row_bytes;              // of a row of words of values
    // The lines of a panel of values are used in passes of some vectors of channels, in each the rows of words from first to last.
    std::int32_t line_bits, pass_bits; // of a line's number in that order: its place in its row's pass, and its row's too
    std::int64_t ahead;                // bytes of a stream between a line that is asked for and the one in use: whole passes, or all

    /// Where line n of a panel of values lies.
    std::int64_t value_line(std::int64_t n) const {
        const std::int64_t row = (n & ((std::int64_t{1} << pass_bits) - 1)) >> line_bits;
        const std::int64_t vector = (n >> pass_bits << line_bits) + (n & ((std::int64_t{1} << line_bits) - 1));
        return row * row_bytes + vector * kLine;
    }
};

inline TileStreams streams_of(const Tile &tile) {
    TileStreams t;
    const std::int32_t key_words = numbers_in_word(tile.keys);
    const std::int32_t value_words = numbers_in_word(tile.values);
    t.key_bytes = tile.head_dim / key_words * kLine;
    t.value_bytes = tile.head_dim / value_words * kLine;
    t.row_bytes = std::int64_t{tile.head_dim} * 4;
    for (std::int32_t i = 0; i < kPanels; ++i) {
        t.keys[i] = tile.keys.blocks[i] + tile.keys.first_slot[i] / kPanel * t.key_bytes;
        t.values[i] = tile.values.blocks[i] + tile.values.first_slot[i] / kPanel * t.value_bytes;
        t.next_keys[i] = tile.next_keys[i];
    }
    const int columns = columns_for(tile.rows < kRowsAtOnce ? tile.rows : kRowsAtOnce);
    const auto held = static_cast<std::uint32_t>(kv_block_scaled(tile.values.format) && columns > 2 ? 2 : columns); // a group has two vectors
    t.line_bits = std::countr_zero(held);
    t.pass_bits = t.line_bits + std::countr_zero(static_cast<std::uint32_t>(kPanel / value_words));
    const std::int64_t pass = kLine << t.pass_bits;
    const std::int64_t wanted = pass < kBytesAhead ? kBytesAhead : pass;
    t.ahead = wanted < t.value_bytes ? wanted : t.value_bytes;
    return t;
}

/// Asks for all scales of the next tile.
inline void prefetch_scales(const Tile &tile, const TileSource &source, bool keys) {
    if (source.format == STRATA_KV_PLAIN) return;
    const bool blocks = kv_block_scaled(source.format);
    const std::int64_t channels = std::int64_t{tile.head_dim} * 2;                        // of scales and zero points of block keys
    const std::int64_t rows = !blocks || keys ? 1 : (channels + kKvBlock - 1) / kKvBlock; // of block values
    const std::int64_t numbers = blocks && keys ? channels : 1;
    for (std::int32_t i = 0; i < kPanels; i += kKvBlock / kPanel) { // a line holds 32 scales
        for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t n = 0; n < numbers; n += kKvBlock) {
                prefetch(reinterpret_cast<const std::uint8_t *>(source.next_scales[i] + row * source.scale_step + n));
            }
        }
    }
}

/// Asks for the scales and the first line of every 4 KiB of the next tile.
inline void prefetch_translations(const Tile &tile, const TileStreams &t) {
    prefetch_scales(tile, tile.keys, true);
    prefetch_scales(tile, tile.values, false);
    for (std::int32_t i = 0; i < kPanels; ++i) {
        for (std::int64_t at = 0; at < t.key_bytes; at += 4096) prefetch(tile.next_keys[i] + at);
        for (std::int64_t at = 0; at < t.value_bytes; at += 4096) prefetch(tile.next_values[i] + at);
    }
}

// ---- scores --------------------------------------------------------------------------------------------------------

/// finish(row, panel, sums) for Columns panels from `panel`. Factors [Parts][kFewRows][kMostChannels] from the first row at hand; of block keys
/// [2 blocks] in place of the parts.
template <class Line, int Rows, int Columns, int Parts, bool Blocks, class Finish>
inline void score_panels(const TileStreams &t, std::int32_t panel, const typename Line::Factor *q, Finish &&finish) {
    constexpr int kAtOnce = lines_at_once<Line>(Columns);
    const bool last = panel + Columns == kPanels;
    const std::int64_t ahead = t.ahead < t.key_bytes ? t.ahead : t.key_bytes;
    const std::uint8_t *from[std::size_t{Columns}];
    const std::uint8_t *next[kPanels];
    UNROLLED for (int i = 0; i < Columns; ++i) from[i] = t.keys[panel + i];
    UNROLLED for (int i = 0; i < kPanels; ++i) next[i] = last ? t.values[i] : t.keys[panel + Columns + i % Columns];
    typename Line::Sum c[std::size_t{Rows}][std::size_t{Columns}];
    UNROLLED for (auto &row : c) { UNROLLED for (auto &sum : row) sum = Line::Sum::zero(); }
    for (std::int64_t at = 0; at < t.key_bytes; at += kLine) {
        // The streams' own lines are asked for; near their end the first lines of what follows.
        const std::int64_t beyond = at + ahead - t.key_bytes;
        const std::int64_t line = beyond < 0 ? at + ahead : last ? t.value_line(beyond / kLine) : beyond;
        UNROLLED for (int i = 0; i < kPanels; ++i) prefetch((beyond < 0 ? from[i % Columns] : next[i]) + line);
        const auto *factors = q + at / kLine * Line::kEach;
        UNROLLED for (int first = 0; first < Columns; first += kAtOnce) {
            Line x[std::size_t{kAtOnce}];
            UNROLLED for (int i = 0; i < kAtOnce; ++i) x[i].load(from[first + i] + at);
            UNROLLED for (int part = 0; part < Parts; ++part) {
                UNROLLED for (int r = 0; r < Rows; ++r) {
                    UNROLLED for (int i = 0; i < kAtOnce; ++i) {
                        const std::int64_t block = Blocks ? (panel + first + i) / (kPanels / 2) * kPartStep : 0;
                        c[r][first + i] = x[i].add(c[r][first + i], factors + part * kPartStep + r * kRowStep + block);
                    }
                }
            }
        }
    }
    UNROLLED for (int r = 0; r < Rows; ++r) { UNROLLED for (int i = 0; i < Columns; ++i) finish(r, panel + i, as_floats(c[r][i])); }
}

template <class Line, int Rows, int Parts, bool Blocks, class Finish>
inline void score_lines(const TileStreams &t, const typename Line::Factor *q, Finish &&finish) {
    constexpr int kColumnsHere = columns_for(Rows);
    for (std::int32_t panel = 0; panel < kPanels; panel += kColumnsHere) score_panels<Line, Rows, kColumnsHere, Parts, Blocks>(t, panel, q, finish);
}

/// Query rows as factors, unless they change from tile to tile.
inline void place_factors(Tile &tile, const KvCacheView &cache) {
    for (std::int32_t r = 0; r < tile.rows; ++r) {
        const float *q = tile.q + r * tile.width;
        if (kv_token_scaled(cache.key_format)) {
            auto *words = reinterpret_cast<std::int16_t *>(tile.factors) + r * kRowStep;
            tile.factor_step[r] = narrow_factors<4>(q, tile.width, factor_bits(Number::kI8, tile.width), words).step;
        } else if (tile.pairs) {
            for (std::int32_t part = 0; part < tile.query_parts; ++part) {
                const std::uint16_t *pairs = tile.query_pairs + (part * kBlockRows + r) * tile.depth;
                std::memcpy(reinterpret_cast<std::uint16_t *>(tile.factors) + part * kPartStep + r * kRowStep, pairs,
                            static_cast<std::size_t>(tile.depth) * sizeof *pairs);
            }
        } else {
            std::memcpy(tile.factors + r * kRowStep, q, static_cast<std::size_t>(tile.width) * sizeof *q);
        }
    }
}

template <int Rows, Number N>
inline void score_floats(const Tile &tile, const TileStreams &t, std::int32_t row) {
    const auto place = [&](int r, std::int32_t panel) { return tile.s + (row + r) * kTile + kPanel * panel; };
    if constexpr (N == Number::kBf16 && kBf16Dot) {
        if (tile.pairs) {
            const auto *q = reinterpret_cast<const std::uint16_t *>(tile.factors) + row * kRowStep;
            const F32x16 scale = F32x16::set(tile.scale);
            const auto finish = [&](int r, std::int32_t panel, F32x16 sum) { (sum * scale).store(place(r, panel)); };
            if (tile.query_parts == 1) return score_lines<PairLine, Rows, 1, false>(t, q, finish);
            return score_lines<PairLine, Rows, 2, false>(t, q, finish);
        }
    }
    score_lines<FloatLine<N>, Rows, 1, false>(t, tile.factors + row * kRowStep,
                                              [&](int r, std::int32_t panel, F32x16 sum) { sum.store(place(r, panel)); });
}

/// One scale a token: it joins the finished score.
template <int Rows, Number N>
inline void score_token_codes(const Tile &tile, const TileStreams &t, std::int32_t row) {
    const auto *q = reinterpret_cast<const std::int16_t *>(tile.factors) + row * kRowStep;
    score_lines<CodeLine<N>, Rows, 1, false>(t, q, [&](int r, std::int32_t panel, F32x16 sum) {
        const F32x16 scale = F32x16::load_f16(tile.keys.scales[panel]) * F32x16::set(tile.factor_step[row + r]);
        (sum * scale).store(tile.s + (row + r) * kTile + kPanel * panel);
    });
}

/// A scale and a zero point a channel and 32 slots: sum_d q_d (scale_d c_d + zero_d), the scales in the factors, the zeros one sum a row and block.
template <int Rows, Number N>
inline void score_block_codes(const Tile &tile, const TileStreams &t, std::int32_t row) {
    constexpr std::int32_t kBlocks = kTile / kKvBlock;
    auto *words = reinterpret_cast<std::int16_t *>(tile.factors);
    float step[std::size_t{kBlocks}][std::size_t{Rows}];
    float added[std::size_t{kBlocks}][std::size_t{Rows}];
    for (std::int32_t block = 0; block < kBlocks; ++block) {
        const std::uint16_t *scales = tile.keys.scales[block * (kPanels / kBlocks)];
        for (int r = 0; r < Rows; ++r) {
            alignas(64) float folded[kMostChannels];
            const float *q = tile.q + (row + r) * tile.width;
            F32x16 zeros = F32x16::zero();
            for (std::int32_t d = 0; d < tile.head_dim; d += 16) {
                const F32x16 query = F32x16::load(q + d);
                (query * F32x16::load_f16(scales + d)).store(folded + d);
                zeros = fma(query, F32x16::load_f16(scales + tile.head_dim + d), zeros);
            }
            const Narrowed narrowed =
                narrow_factors<neighbours(N)>(folded, tile.head_dim, factor_bits(N, tile.head_dim), words + block * kPartStep + r * kRowStep);
            step[block][r] = narrowed.step;
            added[block][r] = reduce_add(zeros) + middle_code(N) * narrowed.lost;
        }
    }
    score_lines<CodeLine<N>, Rows, 1, true>(t, words, [&](int r, std::int32_t panel, F32x16 sum) {
        const std::int32_t block = panel * kPanel / kKvBlock;
        fma(sum, F32x16::set(step[block][r]), F32x16::set(added[block][r])).store(tile.s + (row + r) * kTile + kPanel * panel);
    });
}

inline void score_tiled(const Tile &tile) {
    const TileStreams t = streams_of(tile);
    prefetch_translations(tile, t);
    with_number(tile.keys, [&](auto number) {
        constexpr Number kNumber = decltype(number)::value;
        for_row_runs<kRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) {
            if constexpr (kNumber == Number::kI8) {
                score_token_codes<count(), kNumber>(tile, t, row);
            } else if constexpr (kNumber == Number::kU8 || kNumber == Number::kU4) {
                score_block_codes<count(), kNumber>(tile, t, row);
            } else if constexpr (kNumber != Number::kF8) {
                score_floats<count(), kNumber>(tile, t, row);
            }
        });
    });
}

// ---- values --------------------------------------------------------------------------------------------------------

/// o = o factor + finish(row, sums) for Columns vectors of channels from `first`; weights [rows][kTile].
template <class Line, int Rows, int Columns, class Finish>
inline void weigh_pass(const Tile &tile, const TileStreams &t, std::int32_t row, std::int64_t first, const typename Line::Factor *weights,
                       Finish &&finish) {
    constexpr int kAtOnce = lines_at_once<Line>(Columns);
    constexpr std::int32_t kWordRows = kPanel / Line::kEach;
    const std::int64_t beyond = kWordRows * kLine * first + t.ahead - t.value_bytes; // from 0 on in the next tile's keys
    const std::int64_t ahead_step = beyond < 0 ? t.row_bytes : kLine * Columns;
    const std::uint8_t *from[kPanels];
    const std::uint8_t *ahead[kPanels];
    UNROLLED for (int panel = 0; panel < kPanels; ++panel) {
        from[panel] = t.values[panel] + kLine * first;
        ahead[panel] = beyond < 0 ? from[panel] + t.ahead / kWordRows : t.next_keys[panel] + beyond;
    }
    typename Line::Sum c[std::size_t{Rows}][std::size_t{Columns}];
    UNROLLED for (auto &sums : c) { UNROLLED for (auto &sum : sums) sum = Line::Sum::zero(); }
    for (std::int64_t j = 0, at = 0, ahead_at = 0; j < kWordRows; ++j, at += t.row_bytes, ahead_at += ahead_step) {
        const auto *factors = weights + j * Line::kEach;
        UNROLLED for (int panel = 0; panel < kPanels; ++panel) {
            UNROLLED for (int n = 0; n < Columns; ++n) prefetch(ahead[panel] + ahead_at + kLine * n);
            UNROLLED for (int some = 0; some < Columns; some += kAtOnce) {
                Line x[std::size_t{kAtOnce}];
                UNROLLED for (int i = 0; i < kAtOnce; ++i) x[i].load(from[panel] + at + kLine * (some + i));
                UNROLLED for (int r = 0; r < Rows; ++r) {
                    UNROLLED for (int i = 0; i < kAtOnce; ++i) c[r][some + i] = x[i].add(c[r][some + i], factors + kPanel * panel + r * kTile);
                }
            }
        }
    }
    UNROLLED for (int r = 0; r < Rows; ++r) {
        const F32x16 factor = F32x16::set(tile.factor[row + r]);
        UNROLLED for (int i = 0; i < Columns; ++i) {
            float *o = tile.o + (row + r) * tile.width + 16 * (first + i);
            fma(F32x16::load(o), factor, finish(r, as_floats(c[r][i]))).store(o);
        }
    }
}

/// Channels [low, high), whole vectors.
template <class Line, int Rows, class Finish>
inline void weigh_lines(const Tile &tile, const TileStreams &t, std::int32_t row, std::int32_t low, std::int32_t high,
                        const typename Line::Factor *weights, Finish &&finish) {
    constexpr int kColumnsHere = columns_for(Rows);
    std::int64_t v = low / 16;
    for (; v + kColumnsHere <= high / 16; v += kColumnsHere) weigh_pass<Line, Rows, kColumnsHere>(tile, t, row, v, weights, finish);
    if constexpr (kColumnsHere == 4) {
        for (; v + 2 <= high / 16; v += 2) weigh_pass<Line, Rows, 2>(tile, t, row, v, weights, finish);
    }
    if constexpr (kColumnsHere >= 2) {
        for (; v < high / 16; ++v) weigh_pass<Line, Rows, 1>(tile, t, row, v, weights, finish);
    }
}

template <int Rows, Number N>
inline void weigh_floats(const Tile &tile, const TileStreams &t, std::int32_t row) {
    const auto finish = [](int, F32x16 sum) { return sum; };
    if constexpr (N == Number::kBf16 && kBf16Dot) {
        if (tile.pairs) return weigh_lines<PairLine, Rows>(tile, t, row, 0, tile.head_dim, tile.weight_pairs + row * kTile, finish);
    }
    weigh_lines<FloatLine<N>, Rows>(tile, t, row, 0, tile.head_dim, tile.s + row * kTile, finish);
}

/// The channels of one group, whose weights carry the group's scales; its zero points are one sum a row.
template <int Rows, Number N>
inline void weigh_code_group(const Tile &tile, const TileStreams &t, std::int32_t row, std::int32_t low, std::int32_t high, std::int32_t group) {
    alignas(64) std::int16_t words[std::size_t{Rows}][kTile];
    float step[std::size_t{Rows}];
    float added[std::size_t{Rows}];
    const bool blocks = kv_block_scaled(tile.values.format);
    for (int r = 0; r < Rows; ++r) {
        alignas(64) float folded[kTile];
        const float *p = tile.s + (row + r) * kTile;
        F32x16 zeros = F32x16::zero();
        for (std::int32_t panel = 0; panel < kPanels; ++panel) {
            const std::uint16_t *scales = tile.values.scales[panel] + (blocks ? 2 * group * tile.values.scale_step : 0);
            const F32x16 weight = F32x16::load(p + kPanel * panel);
            (weight * F32x16::load_f16(scales)).store(folded + kPanel * panel);
            if (blocks) zeros = fma(weight, F32x16::load_f16(scales + tile.values.scale_step), zeros);
        }
        const Narrowed narrowed = narrow_factors<neighbours(N)>(folded, kTile, factor_bits(N, kTile), words[r]);
        step[r] = narrowed.step;
        added[r] = reduce_add(zeros) + middle_code(N) * narrowed.lost;
    }
    weigh_lines<CodeLine<N>, Rows>(tile, t, row, low, high, words[0],
                                   [&](int r, F32x16 sum) { return fma(sum, F32x16::set(step[r]), F32x16::set(added[r])); });
}

inline void weigh_tiled(Tile &tile) {
    const TileStreams t = streams_of(tile);
    prefetch_scales(tile, tile.keys, true); // once more: requests without a translation may have been dropped
    prefetch_scales(tile, tile.values, false);
    if (tile.pairs) pack_weights(tile);
    with_number(tile.values, [&](auto number) {
        constexpr Number kNumber = decltype(number)::value;
        for_row_runs<kRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) {
            if constexpr (kNumber == Number::kI8 || kNumber == Number::kU8 || kNumber == Number::kU4) {
                const std::int32_t width = kv_block_scaled(tile.values.format) ? kKvBlock : tile.head_dim;
                for (std::int32_t low = 0; low < tile.head_dim; low += width) {
                    const std::int32_t high = low + width < tile.head_dim ? low + width : tile.head_dim;
                    weigh_code_group<count(), kNumber>(tile, t, row, low, high, low / width);
                }
            } else if constexpr (kNumber != Number::kF8) {
                weigh_floats<count(), kNumber>(tile, t, row);
            }
        });
    });
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
