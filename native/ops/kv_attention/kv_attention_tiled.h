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
// short and lie anywhere. Each line in use asks for the one a fixed lead later in its stream, which runs from a panel's keys over its values into the
// next tile's keys. Where tiles take panels in turn (PanelSlots), those are next to the ones in use: a page's translations are needed one after
// another, and only the first is far. Else the beginning of a tile asks for the first line of every 4 KiB of the next one.
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

/// Bytes of a stream from the line in use to the one that is asked for, where all streams are walked side by side: memory's latency at the pace of
/// the products. Panels that fit the first-level cache beside the ones in use are asked for as a whole.
constexpr std::int64_t kLead = 1536;
constexpr std::int64_t kMostLead = 4096; // where they are walked one by one; further ahead, translations are missing
constexpr std::int64_t kShortPanel = 2048;

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

constexpr std::int32_t kApartAStep = 2; // for 32 channels there are eight lines and, of 4-bit keys, four steps

/// The panels of a tile as streams of lines.
struct TileStreams {
    const std::uint8_t *keys[kPanels], *values[kPanels], *next_keys[kPanels];
    std::int64_t key_bytes, value_bytes; // of a panel
    std::int64_t row_bytes;              // of a row of words of values
    std::int64_t lead;                   // bytes of a stream from the line in use to the line asked for
    // Lines of the next tile that are in no stream, its scales. All at once they would be too many to be heard, so they are asked for one by one
    // while the keys are walked.
    const std::uint8_t *const *apart;
    const std::uint8_t *const *end_apart;
};

inline TileStreams streams_of(const Tile &tile) {
    TileStreams t;
    t.key_bytes = tile.head_dim / numbers_in_word(tile.keys) * kLine;
    t.value_bytes = tile.head_dim / numbers_in_word(tile.values) * kLine;
    t.row_bytes = std::int64_t{tile.head_dim} * 4;
    const std::int64_t shorter = t.key_bytes < t.value_bytes ? t.key_bytes : t.value_bytes;
    const std::int64_t alone = kLead * kPanels / columns_for(tile.rows < kRowsAtOnce ? tile.rows : kRowsAtOnce);
    const std::int64_t lead = alone < kMostLead ? alone : kMostLead;
    t.lead = shorter <= kShortPanel || shorter < lead ? shorter : lead;
    for (std::int32_t i = 0; i < kPanels; ++i) {
        t.keys[i] = tile.keys.panels[i];
        t.values[i] = tile.values.panels[i];
        t.next_keys[i] = tile.keys.next_panels[i];
    }
    return t;
}

/// Lists the lines of the next tile's scales, 32 scales each, from `to`; returns the end.
inline const std::uint8_t **list_scales(const TileSource &source, std::int32_t head_dim, bool keys, const std::uint8_t **to) {
    if (source.format == STRATA_KV_PLAIN) return to;
    const bool blocks = kv_block_scaled(source.format);
    const std::int64_t rows = !blocks || keys ? 1 : 2 * ((head_dim + kKvBlock - 1) / kKvBlock); // of block values, scales and zero points
    const std::int64_t numbers = blocks && keys ? 2 * std::int64_t{head_dim} : 1;
    for (std::int32_t i = 0; i < kPanels; i += kKvBlock / kPanel) {
        const std::uint16_t *scales = source.next_scales[i];
        prefetch(reinterpret_cast<const std::uint8_t *>(scales)); // their translation
        for (std::int64_t row = 0; row < rows; ++row, scales += source.scale_step) {
            for (std::int64_t n = 0; n < numbers; n += kKvBlock) *to++ = reinterpret_cast<const std::uint8_t *>(scales + n);
        }
    }
    return to;
}

/// Asks for what no stream brings early enough: the next tile's scales and, where its pages begin with it, the first line of every 4 KiB of them.
inline void prefetch_apart(Tile &tile, TileStreams &t) {
    t.apart = tile.lines_apart;
    t.end_apart = list_scales(tile.values, tile.head_dim, false, list_scales(tile.keys, tile.head_dim, true, tile.lines_apart));
    if (tile.at.in_turn()) return;
    for (std::int32_t i = 0; i < kPanels; ++i) {
        for (std::int64_t at = 0; at < t.key_bytes; at += 4096) prefetch(t.next_keys[i] + at);
        for (std::int64_t at = 0; at < t.value_bytes; at += 4096) prefetch(tile.values.next_panels[i] + at);
    }
}

// ---- scores --------------------------------------------------------------------------------------------------------

/// finish(row, panel, sums) for Columns panels from `panel`. Factors [Parts][kFewRows][kMostChannels] from the first row at hand; of block keys
/// [2 blocks] in place of the parts.
template <class Line, int Rows, int Columns, int Parts, bool Blocks, class Finish>
inline void score_panels(const TileStreams &t, std::int32_t panel, const typename Line::Factor *q, Finish &&finish) {
    constexpr int kAtOnce = lines_at_once<Line>(Columns);
    const std::uint8_t *from[std::size_t{Columns}];
    UNROLLED for (int i = 0; i < Columns; ++i) from[i] = t.keys[panel + i];
    typename Line::Sum c[std::size_t{Rows}][std::size_t{Columns}];
    UNROLLED for (auto &row : c) { UNROLLED for (auto &sum : row) sum = Line::Sum::zero(); }
    // What is asked for is of the keys too, then of the values.
    const std::uint8_t *const *apart = panel == 0 ? t.apart : t.end_apart;
    std::int64_t at = 0;
    for (const bool keys : {true, false}) {
        const std::int64_t end = keys ? t.key_bytes - t.lead : t.key_bytes;
        const std::uint8_t *asked[std::size_t{Columns}];
        UNROLLED for (int i = 0; i < Columns; ++i) asked[i] = (keys ? t.keys : t.values)[panel + i] + t.lead - (keys ? 0 : t.key_bytes);
        for (; at < end; at += kLine) {
            UNROLLED for (int i = 0; i < Columns; ++i) prefetch(asked[i] + at);
            for (std::int32_t i = 0; i < kApartAStep && apart != t.end_apart; ++i) prefetch(*apart++);
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
    }
    UNROLLED for (int r = 0; r < Rows; ++r) { UNROLLED for (int i = 0; i < Columns; ++i) finish(r, panel + i, as_floats(c[r][i])); }
}

template <class Line, int Rows, int Parts, bool Blocks, class Finish>
inline void score_lines(const TileStreams &t, const typename Line::Factor *q, Finish &&finish) {
    constexpr int kColumnsHere = columns_for(Rows);
    for (std::int32_t panel = 0; panel < kPanels; panel += kColumnsHere) score_panels<Line, Rows, kColumnsHere, Parts, Blocks>(t, panel, q, finish);
}

/// Query rows as factors. Those of block keys change from tile to tile.
inline void place_factors(Tile &tile, const KvCacheView &cache) {
    const auto channels = static_cast<std::int32_t>((tile.width + 31) / 32 * 32);
    for (FoldedKeys &keys : tile.folded_keys) keys.scales[0] = nullptr;
    for (std::int32_t r = 0; r < tile.rows; ++r) {
        const float *q = tile.q + r * tile.width;
        float *padded = tile.padded_q + r * kRowStep;
        std::memcpy(padded, q, static_cast<std::size_t>(tile.width) * sizeof *q);
        if (tile.width < channels) F32x16::zero().store(padded + tile.width);
        if (kv_token_scaled(cache.key_format)) {
            const Scales ones{{F32x16::set(1.0F), F32x16::set(1.0F)}, {F32x16::zero(), F32x16::zero()}};
            auto fold = fold_of<Number::kI8, 1, 4>(padded, 0, channels, 1, [&](std::int32_t, std::int32_t) { return ones; });
            FoldedSums folded;
            fold.measure();
            fold.round(reinterpret_cast<std::int16_t *>(tile.factors) + r * kRowStep, 0, 0, folded);
            tile.factor_step[r] = folded.steps[0];
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

constexpr std::int32_t kBlocks = kTile / kKvBlock; // of keys

/// A scale and a zero point a channel and 32 slots: sum_d q_d (scale_d c_d + zero_d), the scales in the factors, the zeros one sum a row and block.
/// The fold of the rows from `row` with the scales that stand in line for each panel in `scales`.
template <int Rows, Number N>
inline auto key_fold(const Tile &tile, std::int32_t row, const std::uint16_t *const (&scales)[kPanels]) {
    static constexpr std::uint16_t kNone[kPanel] = {}; // the second half of the last 32 channels, where there are but 16
    const std::uint16_t *const blocks[kBlocks] = {scales[0], scales[kPanels / kBlocks]};
    const std::int32_t channels = tile.head_dim;
    return fold_of<N, Rows, sums_for(kBlocks * Rows)>(tile.padded_q + row * kRowStep, kRowStep, (channels + 31) / 32 * 32, kBlocks,
                                                      [=](std::int32_t block, std::int32_t d) {
                                                          const std::uint16_t *at = blocks[block] + d;
                                                          const std::uint16_t *zeros = at + channels;
                                                          const bool both = d + 16 < channels;
                                                          return load_scales<N>(at, both ? at + 16 : kNone, zeros, both ? zeros + 16 : kNone);
                                                      });
}

inline FoldedKeys &folded_keys(Tile &tile, std::int32_t row) { return tile.folded_keys[row / kRowsAtOnce]; }
inline std::int16_t *key_factors(const Tile &tile, std::int32_t row) { return reinterpret_cast<std::int16_t *>(tile.factors) + row * kRowStep; }

inline bool are_folded(const FoldedKeys &keys, const std::uint16_t *const (&scales)[kPanels]) {
    return keys.scales[0] == scales[0] && keys.scales[1] == scales[kPanels / kBlocks];
}

template <class Fold>
inline void round_keys(const Fold &fold, Tile &tile, std::int32_t row, const std::uint16_t *const (&scales)[kPanels]) {
    FoldedKeys &keys = folded_keys(tile, row);
    fold.round(key_factors(tile, row), kPartStep, kRowStep, keys.sums);
    keys.scales[0] = scales[0];
    keys.scales[1] = scales[kPanels / kBlocks];
}

template <int Rows, Number N>
inline void score_block_codes(Tile &tile, const TileStreams &t, std::int32_t row) {
    if (!are_folded(folded_keys(tile, row), tile.keys.scales)) { // the first tile, mostly: see weigh_codes
        auto fold = key_fold<Rows, N>(tile, row, tile.keys.scales);
        fold.measure();
        round_keys(fold, tile, row, tile.keys.scales);
    }
    const FoldedSums &folded = folded_keys(tile, row).sums;
    score_lines<CodeLine<N>, Rows, 1, true>(t, key_factors(tile, row), [&](int r, std::int32_t panel, F32x16 sum) {
        finish<sums_for(kBlocks * Rows)>(folded, panel * kPanel / kKvBlock * Rows + r, sum).store(tile.s + (row + r) * kTile + kPanel * panel);
    });
}

inline void score_tiled(Tile &tile) {
    TileStreams t = streams_of(tile);
    prefetch_apart(tile, t);
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

/// Word rows of values that vectors of channels take before the next vectors do, while sums wait in memory: eight lines of a panel. With all rows of
/// a long panel in one pass, lines would be used far from the order in which they are asked for.
template <class Line, int Rows>
constexpr std::int32_t rows_a_pass() {
    constexpr std::int32_t kAll = kPanel / Line::kEach;
    constexpr std::int32_t kSome = 8 / columns_for(Rows);
    return std::is_same_v<typename Line::Sum, F32x16> && kSome < kAll ? kSome : kAll; // sums of codes stay in registers: their panels are short
}

/// Columns vectors of channels from `first`, word rows [begin, begin + rows_a_pass) of each panel: sums from those before in `sums` and into it, or
/// at the end o += finish(row, sums). Weights [rows][kTile], sums [Rows][kMostChannels].
template <class Line, int Rows, int Columns, class Finish>
inline void weigh_pass(const Tile &tile, const TileStreams &t, std::int32_t row, std::int64_t first, std::int64_t begin,
                       const typename Line::Factor *weights, float *sums, Finish &&finish) {
    constexpr int kAtOnce = lines_at_once<Line>(Columns);
    constexpr std::int32_t kWordRows = kPanel / Line::kEach;
    constexpr std::int32_t kRowsHere = rows_a_pass<Line, Rows>();
    typename Line::Sum c[std::size_t{Rows}][std::size_t{Columns}];
    const auto place = [&](int r, int n) { return sums + r * kMostChannels + 16 * (first + n); };
    UNROLLED for (int r = 0; r < Rows; ++r) {
        UNROLLED for (int n = 0; n < Columns; ++n) {
            if constexpr (kRowsHere < kWordRows) {
                c[r][n] = begin == 0 ? F32x16::zero() : F32x16::load(place(r, n));
            } else {
                c[r][n] = Line::Sum::zero();
            }
        }
    }
    // Passes follow one another in the order of the lines that they ask for, which past the end of the values are the next tile's keys.
    const std::int64_t ahead = begin * t.row_bytes + first * kRowsHere * kLine + t.lead;
    const bool past = ahead >= t.value_bytes;
    const std::uint8_t *from[kPanels];
    const std::uint8_t *asked[kPanels];
    UNROLLED for (int panel = 0; panel < kPanels; ++panel) {
        from[panel] = t.values[panel] + begin * t.row_bytes + first * kLine;
        asked[panel] = (past ? t.next_keys : t.values)[panel] + ahead - (past ? t.value_bytes : 0);
    }
    for (std::int64_t j = 0, at = 0; j < kRowsHere; ++j, at += t.row_bytes) {
        const auto *factors = weights + (begin + j) * Line::kEach;
        UNROLLED for (int panel = 0; panel < kPanels; ++panel) {
            UNROLLED for (int n = 0; n < Columns; ++n) prefetch(asked[panel] + kLine * (Columns * j + n));
            UNROLLED for (int some = 0; some < Columns; some += kAtOnce) {
                Line x[std::size_t{kAtOnce}];
                UNROLLED for (int i = 0; i < kAtOnce; ++i) x[i].load(from[panel] + at + kLine * (some + i));
                UNROLLED for (int r = 0; r < Rows; ++r) {
                    UNROLLED for (int i = 0; i < kAtOnce; ++i) c[r][some + i] = x[i].add(c[r][some + i], factors + kPanel * panel + r * kTile);
                }
            }
        }
    }
    if constexpr (kRowsHere < kWordRows) {
        if (begin + kRowsHere < kWordRows) {
            UNROLLED for (int r = 0; r < Rows; ++r) { UNROLLED for (int n = 0; n < Columns; ++n) c[r][n].store(place(r, n)); }
            return;
        }
    }
    UNROLLED for (int r = 0; r < Rows; ++r) {
        UNROLLED for (int n = 0; n < Columns; ++n) {
            float *o = tile.o + (row + r) * tile.width + 16 * (first + n);
            (F32x16::load(o) + finish(r, as_floats(c[r][n]))).store(o);
        }
    }
}

/// Channels [low, high), whole vectors, at most MostColumns of them at a time.
template <class Line, int Rows, int MostColumns, class Finish>
inline void weigh_lines(const Tile &tile, const TileStreams &t, std::int32_t row, std::int32_t low, std::int32_t high,
                        const typename Line::Factor *weights, Finish &&finish) {
    constexpr int kColumnsHere = columns_for(Rows) < MostColumns ? columns_for(Rows) : MostColumns;
    alignas(64) float sums[std::size_t{Rows}][kMostChannels];
    for (std::int32_t begin = 0; begin < kPanel / Line::kEach; begin += rows_a_pass<Line, Rows>()) {
        const auto pass = [&](auto columns, std::int64_t v) { weigh_pass<Line, Rows, columns()>(tile, t, row, v, begin, weights, sums[0], finish); };
        std::int64_t v = low / 16;
        for (; v + kColumnsHere <= high / 16; v += kColumnsHere) pass(std::integral_constant<int, kColumnsHere>{}, v);
        if constexpr (kColumnsHere == 4) {
            for (; v + 2 <= high / 16; v += 2) pass(std::integral_constant<int, 2>{}, v);
        }
        if constexpr (kColumnsHere >= 2) {
            for (; v < high / 16; ++v) pass(std::integral_constant<int, 1>{}, v);
        }
    }
}

template <int Rows, Number N>
inline void weigh_floats(const Tile &tile, const TileStreams &t, std::int32_t row) {
    const auto finish = [](int, F32x16 sum) { return sum; };
    if constexpr (N == Number::kBf16 && kBf16Dot) {
        if (tile.pairs) return weigh_lines<PairLine, Rows, 4>(tile, t, row, 0, tile.head_dim, tile.weight_pairs + row * kTile, finish);
    }
    weigh_lines<FloatLine<N>, Rows, 4>(tile, t, row, 0, tile.head_dim, tile.s + row * kTile, finish);
}

/// Codes with a scale a slot, or, with zero points, a slot and group of channels: the weights carry them. Between the two halves of that fold the
/// queries meet the next tile's key scales, which wait for nothing.
template <int Rows, Number N>
inline void weigh_codes(Tile &tile, const TileStreams &t, std::int32_t row) {
    constexpr bool kGroups = N != Number::kI8;
    constexpr int kMostColumns = kGroups ? kKvBlock / 16 : 4;
    const std::int32_t width = kGroups ? kKvBlock : tile.head_dim;
    const std::int64_t step = tile.values.scale_step;
    const std::int32_t groups = (tile.head_dim + width - 1) / width;
    constexpr int kSums = kGroups ? 16 : sums_for(Rows);
    constexpr std::int32_t kAtOnce = kSums / Rows;
    for (std::int32_t first = 0; first < groups; first += kAtOnce) {
        const std::int32_t some = groups - first < kAtOnce ? groups - first : kAtOnce;
        const auto scales_at = [&](std::int32_t group, std::int32_t slot) {
            const std::uint16_t *low = tile.values.scales[slot / kPanel];
            const std::uint16_t *high = tile.values.scales[slot / kPanel + 1];
            if constexpr (kGroups) {
                const std::int64_t at = 2 * (first + group) * step;
                return load_scales<N>(low + at, high + at, low + at + step, high + at + step);
            }
            Scales s{{F32x16::load_f16(low), F32x16::load_f16(high)}, {}};
            for (int i = 0; i < 2; ++i) s.zero[i] = s.scale[i] * F32x16::zero(); // what is not finite, to be seen
            return s;
        };
        auto fold = fold_of<N, Rows, kSums>(tile.s + row * kTile, kTile, kTile, some, scales_at);
        fold.measure();
        alignas(64) std::int16_t words[std::size_t{kSums}][kTile]; // [group][Rows]
        FoldedSums folded;
        const auto round = [&] { fold.round(words[0], Rows * kTile, kTile, folded); };
        if constexpr (kGroups) {
            const auto &next = tile.keys.next_scales;
            const bool ahead = first == 0 && tile.keys.format == tile.values.format && !are_folded(folded_keys(tile, row), next);
            auto keys = key_fold<Rows, N>(tile, row, next);
            if (ahead) keys.measure();
            round();
            if (ahead) round_keys(keys, tile, row, next);
        } else {
            round();
        }
        for (std::int32_t group = 0; group < some; ++group) {
            const std::int32_t low = (first + group) * width;
            const std::int32_t high = low + width < tile.head_dim ? low + width : tile.head_dim;
            weigh_lines<CodeLine<N>, Rows, kMostColumns>(tile, t, row, low, high, words[group * Rows],
                                                         [&](int r, F32x16 sum) { return finish<kSums>(folded, group * Rows + r, sum); });
        }
    }
}

inline void weigh_tiled(Tile &tile) {
    const TileStreams t = streams_of(tile);
    if (tile.pairs) pack_weights(tile);
    with_number(tile.values, [&](auto number) {
        constexpr Number kNumber = decltype(number)::value;
        for_row_runs<kRowsAtOnce>(tile.rows, [&](auto count, std::int32_t row) {
            if constexpr (kNumber == Number::kI8 || kNumber == Number::kU8 || kNumber == Number::kU4) {
                weigh_codes<count(), kNumber>(tile, t, row);
            } else if constexpr (kNumber != Number::kF8) {
                weigh_floats<count(), kNumber>(tile, t, row);
            }
        });
    });
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
