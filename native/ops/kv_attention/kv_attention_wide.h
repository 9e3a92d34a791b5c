// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU for any rows, format and layout: K and V of the tile widened to fp32 scratch, then both products are the same
// register-blocked multiplication. Prefill, where multiply-adds are the limit, and the edges of everything else. Included by kv_attention_cpu.cpp
// alone.
//
//   wide_keys    [slot / 16][channel][16 slots]       wide_values  [channel / 16][slot][16 channels]
//
// Columns of vectors, not rows: a register block walks down one column, and at the stride of a row its lines would fall into a few sets of the
// first-level cache.
#pragma once

#include "ops/kv_attention/kv_attention_tile.h"
#include "simd/half.h"

#include <bit>

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

// ---- stored numbers ------------------------------------------------------------------------------------------------

enum class Number { kF32, kF16, kBf16, kI8, kF8, kU8, kU4 };

constexpr std::int32_t neighbours(Number number) { // numbers in a 4-byte word
    return number == Number::kF32 ? 1 : number == Number::kF16 || number == Number::kBf16 ? 2 : number == Number::kU4 ? 8 : 4;
}

/// body(std::integral_constant<Number, n>) for the numbers of a source.
template <class Body>
inline void with_number(const TileSource &source, Body &&body) {
    switch (source.format) {
    case STRATA_KV_I8: return body(std::integral_constant<Number, Number::kI8>{});
    case STRATA_KV_F8: return body(std::integral_constant<Number, Number::kF8>{});
    case STRATA_KV_I8_BLOCK: return body(std::integral_constant<Number, Number::kU8>{});
    case STRATA_KV_I4_BLOCK: return body(std::integral_constant<Number, Number::kU4>{});
    default: break;
    }
    switch (source.dtype) {
    case STRATA_DTYPE_F32: return body(std::integral_constant<Number, Number::kF32>{});
    case STRATA_DTYPE_F16: return body(std::integral_constant<Number, Number::kF16>{});
    default: return body(std::integral_constant<Number, Number::kBf16>{});
    }
}

/// Sixteen words of a tiled page: neighbour e of lane l goes to lane l of out[e].
template <Number N>
inline void expand(const std::uint8_t *words, F32x16 (&out)[std::size_t{neighbours(N)}]) {
    const auto *halves = reinterpret_cast<const std::uint16_t *>(words);
    if constexpr (N == Number::kF32) {
        out[0] = F32x16::load(reinterpret_cast<const float *>(words));
    } else if constexpr (N == Number::kF16) {
        unzip(F32x16::load_f16(halves), F32x16::load_f16(halves + 16), out[0], out[1]);
    } else if constexpr (N == Number::kBf16) {
        unzip(F32x16::load_bf16(halves), F32x16::load_bf16(halves + 16), out[0], out[1]);
    } else if constexpr (N == Number::kU4) {
        const U8x64 nibbles = U8x64::load(words);
        [&]<int... I>(std::integer_sequence<int, I...>) {
            ((out[I] = nibble_as_f32<2 * I>(nibbles), out[I + 4] = nibble_as_f32<2 * I + 1>(nibbles)), ...);
        }
        (std::make_integer_sequence<int, 4>{});
    } else if constexpr (N == Number::kF8) {
        alignas(64) float lanes[4][16];
        for (int i = 0; i < 64; ++i) lanes[i % 4][i / 4] = f8e4m3_to_f32(words[i]);
        for (int e = 0; e < 4; ++e) out[e] = F32x16::load(lanes[e]);
    } else {
        const F32x16 bias = F32x16::set(N == Number::kI8 ? 128.0F : 0.0F); // signed codes are read as unsigned ones 128 higher
        const U8x64 bytes = N == Number::kI8 ? U8x64::load(words) ^ U8x64::set(0x80) : U8x64::load(words);
        [&]<int... I>(std::integer_sequence<int, I...>) { ((out[I] = byte_as_f32<I>(bytes) - bias), ...); }
        (std::make_integer_sequence<int, 4>{});
    }
}

/// Channels d ... d + lanes - 1 of a row.
template <Number N>
inline F32x16 load_channels(const void *row, std::int32_t d, std::int32_t lanes) {
    if constexpr (N == Number::kF32) {
        return load_as_f32(STRATA_DTYPE_F32, row, d, lanes);
    } else if constexpr (N == Number::kF16) {
        return load_as_f32(STRATA_DTYPE_F16, row, d, lanes);
    } else if constexpr (N == Number::kBf16) {
        return load_as_f32(STRATA_DTYPE_BF16, row, d, lanes);
    } else {
        alignas(64) float wide[16] = {};
        const auto *codes = static_cast<const std::uint8_t *>(row) + d;
        for (std::int32_t i = 0; i < lanes; ++i) {
            wide[i] = N == Number::kF8 ? f8e4m3_to_f32(codes[i]) : static_cast<float>(static_cast<std::int8_t>(codes[i]));
        }
        return F32x16::load(wide);
    }
}

/// Where a swizzled page holds channels d ... d + 7 of a slot.
inline const std::uint16_t *swizzled_chunk(const TileSource &source, std::int32_t panel, std::int32_t t, std::int32_t d) {
    const std::int32_t slot = source.first_slot[panel] + t;
    const auto *block = reinterpret_cast<const std::uint16_t *>(source.panels[panel]) + (d / 64 * source.page_size + slot) * 64;
    return block + (d % 64 / 8 ^ (slot & 7)) * 8;
}

/// Channels d ... d + 15 from a swizzled page: two chunks.
template <Number N>
inline F32x16 load_swizzled(const TileSource &source, std::int32_t panel, std::int32_t t, std::int32_t d) {
    std::uint16_t halves[16];
    std::memcpy(halves, swizzled_chunk(source, panel, t, d), 16);
    std::memcpy(halves + 8, swizzled_chunk(source, panel, t, d + 8), 16);
    return N == Number::kF16 ? F32x16::load_f16(halves) : F32x16::load_bf16(halves);
}

// ---- widening ------------------------------------------------------------------------------------------------------

template <Number N>
inline void widen_key_rows(const Tile &tile, std::int32_t panel) {
    const TileSource &keys = tile.keys;
    const bool scaled = keys.format != STRATA_KV_PLAIN;
    const F32x16 scale = scaled ? F32x16::load_f16(keys.scales[panel]) : F32x16::set(1.0F);
    for (std::int32_t d = 0; d < tile.head_dim; d += 16) {
        const std::int32_t lanes = tile.head_dim - d < 16 ? tile.head_dim - d : 16;
        F32x16 block[16];
        for (int t = 0; t < 16; ++t) {
            block[t] =
                keys.layout == STRATA_KV_SWIZZLED ? load_swizzled<N>(keys, panel, t, d) : load_channels<N>(keys.rows[kPanel * panel + t], d, lanes);
        }
        transpose(block);
        for (int i = 0; i < 16; ++i) (scaled ? block[i] * scale : block[i]).store(tile.wide_keys + (tile.width * panel + d + i) * 16);
    }
}

template <Number N>
inline void widen_key_panel(const Tile &tile, std::int32_t panel) {
    constexpr std::int32_t kEach = neighbours(N);
    const TileSource &keys = tile.keys;
    const std::int32_t words = tile.head_dim / kEach;
    const std::uint8_t *from = keys.panels[panel];
    const std::uint16_t *scales = keys.scales[panel];
    const F32x16 token = kv_token_scaled(keys.format) ? F32x16::load_f16(scales) : F32x16::set(1.0F);
    for (std::int32_t j = 0; j < words; ++j) {
        F32x16 x[std::size_t{kEach}];
        expand<N>(from + 64 * j, x);
        for (std::int32_t e = 0; e < kEach; ++e) {
            const std::int32_t d = j * kEach + e;
            if (kv_block_scaled(keys.format)) {
                x[e] = fma(x[e], F32x16::set(f16_to_f32(scales[d])), F32x16::set(f16_to_f32(scales[tile.head_dim + d])));
            } else if (kv_token_scaled(keys.format)) {
                x[e] = x[e] * token;
            }
            x[e].store(tile.wide_keys + (tile.width * panel + d) * 16);
        }
    }
}

/// K of the tile. Lanes past the tile's slots hold anything; channels past head_dim up to a whole vector are zero or meet a zero of
/// q.
inline void widen_keys(const Tile &tile) {
    with_number(tile.keys, [&](auto number) {
        constexpr Number kNumber = decltype(number)::value;
        for (std::int32_t panel = 0; kPanel * panel < tile.slots; ++panel) {
            if (tile.keys.layout == STRATA_KV_TILED) {
                widen_key_panel<kNumber>(tile, panel);
            } else {
                widen_key_rows<kNumber>(tile, panel);
            }
        }
    });
}

/// Scales and zero points of the values of one panel, [group][slot]; tokens have one group.
struct ValueScales {
    alignas(64) float scale[16][kPanel];
    alignas(64) float zero[16][kPanel];

    void load(const TileSource &values, std::int32_t panel, std::int32_t head_dim) {
        const bool blocks = kv_block_scaled(values.format);
        const std::int32_t groups = blocks ? (head_dim + kKvBlock - 1) / kKvBlock : 1;
        for (std::int32_t g = 0; g < groups; ++g) {
            const std::uint16_t *from = values.scales[panel] + (blocks ? 2 * g * values.scale_step : 0);
            F32x16::load_f16(from).store(scale[g]);
            (blocks ? F32x16::load_f16(from + values.scale_step) : F32x16::zero()).store(zero[g]);
        }
    }
};

template <Number N>
inline void widen_value_rows(const Tile &tile, std::int32_t panel, const ValueScales &scales) {
    const TileSource &values = tile.values;
    const std::int32_t left = tile.slots - kPanel * panel;
    for (std::int32_t t = 0; t < kPanel && t < left; ++t) {
        float *to = tile.wide_values + (kPanel * panel + t) * 16;
        for (std::int32_t d = 0; d < tile.head_dim; d += 16) {
            const std::int32_t lanes = tile.head_dim - d < 16 ? tile.head_dim - d : 16;
            const F32x16 x = values.layout == STRATA_KV_SWIZZLED ? load_swizzled<N>(values, panel, t, d)
                                                                 : load_channels<N>(values.rows[kPanel * panel + t], d, lanes);
            (values.format != STRATA_KV_PLAIN ? x * F32x16::set(scales.scale[0][t]) : x).store(to + d * kTile);
        }
    }
}

template <Number N>
inline void widen_value_panel(const Tile &tile, std::int32_t panel, const ValueScales &scales) {
    constexpr std::int32_t kEach = neighbours(N);
    const TileSource &values = tile.values;
    const std::uint8_t *from = values.panels[panel];
    for (std::int32_t w = 0; w < kPanel / kEach; ++w) {
        for (std::int32_t d = 0; d < tile.head_dim; d += 16) {
            F32x16 x[std::size_t{kEach}];
            expand<N>(from + (std::int64_t{w} * tile.head_dim + d) * 4, x);
            const std::int32_t group = kv_block_scaled(values.format) ? d / kKvBlock : 0;
            for (std::int32_t e = 0; e < kEach; ++e) {
                const std::int32_t t = w * kEach + e;
                if (values.format != STRATA_KV_PLAIN) x[e] = fma(x[e], F32x16::set(scales.scale[group][t]), F32x16::set(scales.zero[group][t]));
                x[e].store(tile.wide_values + d * kTile + (kPanel * panel + t) * 16);
            }
        }
    }
}

/// V of the tile.
inline void widen_values(const Tile &tile) {
    with_number(tile.values, [&](auto number) {
        constexpr Number kNumber = decltype(number)::value;
        ValueScales scales;
        for (std::int32_t panel = 0; kPanel * panel < tile.slots; ++panel) {
            if (tile.values.format != STRATA_KV_PLAIN) scales.load(tile.values, panel, tile.head_dim);
            if (tile.values.layout == STRATA_KV_TILED) {
                widen_value_panel<kNumber>(tile, panel, scales);
            } else {
                widen_value_rows<kNumber>(tile, panel, scales);
            }
        }
    });
}

// ---- products ------------------------------------------------------------------------------------------------------

constexpr std::int32_t kRows = 6; // rows of a register block
#if defined(__AVX512F__)
constexpr std::int32_t kColumns = 4; // vectors of a register block: 24 sums, 4 operands and a broadcast in 32 registers
#else
constexpr std::int32_t kColumns = 1; // 12 sums, 2 operands and a broadcast in 16 registers
#endif
static_assert(kBlockRows % kRows == 0 && kTile % (16 * kColumns) == 0);

/// Sums that are to live in registers: every index must become a constant before registers are assigned, and no loop with others may touch them.
template <int Rows, int Columns>
struct Sums {
    F32x16 v[std::size_t{Rows}][std::size_t{Columns}];

    void clear() {
        UNROLLED for (auto &row : v) { UNROLLED for (F32x16 &sum : row) sum = F32x16::zero(); }
    }
};

/// The right operand of a product, one row an index: widened scratch, or rows where they lie in the cache.
struct ScratchColumns {
    const float *base;
    std::int64_t rows;
    F32x16 load(std::int64_t row, std::int64_t vector) const { return F32x16::load(base + (vector * rows + row) * 16); }
};

/// c[r][v] += sum over low <= i < high of a[r][i] * b(i)[first + v].
template <int Rows, int Columns, class B>
inline void multiply(const float *a, std::int64_t a_stride, const B &b, std::int64_t first, std::int32_t low, std::int32_t high,
                     Sums<Rows, Columns> &c) {
    for (std::int32_t i = low; i < high; ++i) {
        F32x16 operand[std::size_t{Columns}];
        UNROLLED for (int v = 0; v < Columns; ++v) operand[v] = b.load(i, first + v);
        UNROLLED for (int r = 0; r < Rows; ++r) {
            const F32x16 factor = F32x16::set(a[r * a_stride + i]);
            UNROLLED for (int v = 0; v < Columns; ++v) c.v[r][v] = fma(factor, operand[v], c.v[r][v]);
        }
    }
}

/// body(std::integral_constant<int, rows>, first row) for the tile's rows, kRows at a time.
template <class Body>
inline void for_row_blocks(const Tile &tile, Body &&body) {
    for (std::int32_t row = 0; row < tile.rows; row += kRows) {
        with_rows(tile.rows - row < kRows ? tile.rows - row : kRows, [&](auto count) {
            if constexpr (count() <= kRows) body(count, row);
        });
    }
}

/// The slots that some of the rows see.
inline std::uint64_t seen_by_any(const Tile &tile, std::int32_t row, std::int32_t rows) {
    std::uint64_t seen = 0;
    for (std::int32_t r = row; r < row + rows; ++r) seen |= tile.seen[r];
    return seen;
}

/// s = q K^T from widened keys.
inline void multiply_keys(const Tile &tile) {
    const ScratchColumns keys{tile.wide_keys, tile.width};
    const auto depth = static_cast<std::int32_t>(tile.width);
    for (std::int32_t v = 0; 16 * v < tile.slots; v += kColumns) { // outside: the columns stay in the first-level cache for all rows
        for_row_blocks(tile, [&](auto count, std::int32_t row) {
            if ((seen_by_any(tile, row, count()) & bit_run(16 * v, 16 * (v + kColumns))) == 0) return; // beyond the causal edge
            constexpr int kHere = count();
            Sums<kHere, kColumns> c;
            c.clear();
            multiply(tile.q + row * tile.width, tile.width, keys, v, 0, depth, c);
            UNROLLED for (int r = 0; r < kHere; ++r) {
                UNROLLED for (int i = 0; i < kColumns; ++i) c.v[r][i].store(tile.s + (row + r) * kTile + 16 * (v + i));
            }
        });
    }
}

/// o += sums.
template <int Rows, int Columns>
inline void join(const Tile &tile, std::int32_t row, std::int64_t first, const Sums<Rows, Columns> &sums) {
    UNROLLED for (int r = 0; r < Rows; ++r) {
        UNROLLED for (int v = 0; v < Columns; ++v) {
            float *o = tile.o + (row + r) * tile.width + 16 * (first + v);
            (F32x16::load(o) + sums.v[r][v]).store(o);
        }
    }
}

/// o += sums + what the slots `rest` weigh, each for the rows that see it: weight(r, t) value(t, v). A copy of the sums, which may leave registers
/// here.
template <int Rows, int Columns, class Weight, class Value>
inline void join_with(const Tile &tile, std::int32_t row, std::int64_t first, Sums<Rows, Columns> sums, std::uint64_t rest, Weight &&weight,
                      Value &&value) {
    for (; rest != 0; rest &= rest - 1) {
        const std::int32_t t = std::countr_zero(rest);
        for (int r = 0; r < Rows; ++r) {
            if ((tile.seen[row + r] >> t & 1) == 0) continue;
            const F32x16 factor = F32x16::set(weight(r, t));
            for (int v = 0; v < Columns; ++v) sums.v[r][v] = fma(factor, value(t, v), sums.v[r][v]);
        }
    }
    join(tile, row, first, sums);
}

/// o += p V for some rows and columns. A value that a row does not see must not even meet a zero: what all rows see is one product, the
/// rest is added to its sums row by row.
template <int Rows, int Columns, class B>
inline void weigh_columns(const Tile &tile, std::int32_t row, std::int64_t first, const B &values) {
    const float *p = tile.s + row * kTile;
    const std::uint64_t any = seen_by_any(tile, row, Rows);
    if (any == 0) return;
    std::uint64_t common = tile.seen[row];
    for (int r = 1; r < Rows; ++r) common &= tile.seen[row + r];
    // The first run of what all see: nearly always all of it.
    const std::int32_t low = common == 0 ? 0 : std::countr_zero(common);
    const std::int32_t high = common == 0 ? low : low + std::countr_one(common >> low);
    const std::uint64_t rest = any & ~bit_run(low, high);
    Sums<Rows, Columns> c;
    c.clear();
    multiply(p, kTile, values, first, low, high, c);
    if (rest == 0) return join(tile, row, first, c);
    join_with(
        tile, row, first, c, rest, [&](int r, std::int32_t t) { return p[r * kTile + t]; },
        [&](std::int32_t t, int v) { return values.load(t, first + v); });
}

template <int Rows, class B>
inline void weigh_rows(const Tile &tile, std::int32_t row, const B &values) {
    constexpr int kWide = Rows <= kRows ? kColumns : kColumns / 2 > 0 ? kColumns / 2 : 1;
    const std::int64_t vectors = tile.width / 16;
    std::int64_t v = 0;
    for (; v + kWide <= vectors; v += kWide) weigh_columns<Rows, kWide>(tile, row, v, values);
    if constexpr (kWide > 1) {
        for (; v < vectors; ++v) weigh_columns<Rows, 1>(tile, row, v, values);
    }
}

inline void weigh_values(const Tile &tile) {
    const ScratchColumns values{tile.wide_values, kTile};
    const std::int64_t vectors = tile.width / 16;
    std::int64_t v = 0;
    for (; v + kColumns <= vectors; v += kColumns) {
        for_row_blocks(tile, [&](auto count, std::int32_t row) { weigh_columns<count(), kColumns>(tile, row, v, values); });
    }
    for (; kColumns > 1 && v < vectors; ++v) {
        for_row_blocks(tile, [&](auto count, std::int32_t row) { weigh_columns<count(), 1>(tile, row, v, values); });
    }
}

} // namespace

} // namespace strata::STRATA_ISA_NAMESPACE
