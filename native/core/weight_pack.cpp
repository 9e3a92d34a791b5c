// SPDX-License-Identifier: Apache-2.0
// Packs GGUF blocks, int4 codes and floats into panels of 16 rows (the layout is drawn in weight.h). Bits move, values never change.
#include "core/weight.h"

#include <algorithm>

namespace strata {

namespace {

constexpr std::int64_t kGroup = 32;
constexpr std::int64_t kVector = 64; // 16 rows of 4 bytes
constexpr std::int64_t kHalfRow = 2 * kPanelRows;

using Byte = unsigned char;

// The place of row `row`'s four bytes in vector `vector`.
Byte *word(Byte *codes, std::int64_t vector, std::int64_t row) { return codes + vector * kVector + row * 4; }

// 32 codes of 4 bits whose byte i holds column i below and column 16 + i above: the order of the panel, too.
void put_nibble_pairs(const Byte *pairs, Byte *codes, std::int64_t row) {
    for (std::int64_t vector = 0; vector < 4; ++vector) {
        std::memcpy(word(codes, vector, row), pairs + 4 * vector, 4);
    }
}

void put_nibbles(const Byte (&values)[kGroup], Byte *codes, std::int64_t row) {
    Byte pairs[16];
    for (std::size_t i = 0; i < 16; ++i) {
        pairs[i] = static_cast<Byte>(values[i] | (values[16 + i] << 4));
    }
    put_nibble_pairs(pairs, codes, row);
}

void put_bytes(const Byte *values, Byte *codes, std::int64_t row) {
    for (std::int64_t vector = 0; vector < 8; ++vector) {
        std::memcpy(word(codes, vector, row), values + 4 * vector, 4);
    }
}

// Row `row` of one 2-byte x16 or 1-byte x16 piece of a tail.
void put_half(const Byte *half, Byte *piece, std::int64_t row) { std::memcpy(piece + 2 * row, half, 2); }

struct Step {
    Byte *codes;
    Byte *tail;
    std::int64_t groups; // of 32 columns, in this step
};

// One row of one step, `column` being its first column. Each function knows one source format.
using PackStep = void (*)(const strata_weight_source &source, std::int64_t source_row, std::int64_t column, const Step &step, std::int64_t row);

const Byte *blocks(const strata_weight_source &source, std::int64_t source_row, std::int64_t column) {
    const FormatInfo &info = *format_info(source.format);
    return static_cast<const Byte *>(source.data) + (source_row * (source.k / info.block) + column / info.block) * info.source_bytes;
}

void pack_q4_0(const strata_weight_source &source, std::int64_t source_row, std::int64_t column, const Step &step, std::int64_t row) {
    const Byte *block = blocks(source, source_row, column);
    for (std::int64_t g = 0; g < step.groups; ++g, block += 18) {
        put_nibble_pairs(block + 2, step.codes + g * 256, row);
        put_half(block, step.tail + g * kHalfRow, row);
    }
}

void pack_q4_1(const strata_weight_source &source, std::int64_t source_row, std::int64_t column, const Step &step, std::int64_t row) {
    const Byte *block = blocks(source, source_row, column);
    put_nibble_pairs(block + 4, step.codes, row);
    put_half(block, step.tail, row);
    put_half(block + 2, step.tail + kHalfRow, row);
}

void pack_q8_0(const strata_weight_source &source, std::int64_t source_row, std::int64_t column, const Step &step, std::int64_t row) {
    const Byte *block = blocks(source, source_row, column);
    for (std::int64_t g = 0; g < step.groups; ++g, block += 34) {
        put_bytes(block + 2, step.codes + g * 512, row);
        put_half(block, step.tail + g * kHalfRow, row);
    }
}

void pack_q4_k(const strata_weight_source &source, std::int64_t source_row, std::int64_t column, const Step &step, std::int64_t row) {
    const Byte *block = blocks(source, source_row, column);
    const Byte *c = block + 4; // 8 scales and 8 mins of 6 bits in 12 bytes
    put_half(block, step.tail, row);
    put_half(block + 2, step.tail + kHalfRow, row);
    for (std::int64_t g = 0; g < 8; ++g) {
        const unsigned scale = g < 4 ? c[g] & 63u : (c[g + 4] & 15u) | ((static_cast<unsigned>(c[g - 4]) >> 6) << 4);
        const unsigned min = g < 4 ? c[g + 4] & 63u : (static_cast<unsigned>(c[g + 4]) >> 4) | ((static_cast<unsigned>(c[g]) >> 6) << 4);
        Byte *pair = step.tail + 64 + g * 2 * kPanelRows;
        pair[row] = static_cast<Byte>(scale);
        pair[kPanelRows + row] = static_cast<Byte>(min);
        const Byte *source_codes = block + 16 + (g / 2) * 32;
        Byte values[kGroup];
        for (std::int64_t i = 0; i < kGroup; ++i) {
            values[i] = static_cast<Byte>(g % 2 == 0 ? source_codes[i] & 15 : source_codes[i] >> 4);
        }
        put_nibbles(values, step.codes + g * 256, row);
    }
}

void pack_q6_k(const strata_weight_source &source, std::int64_t source_row, std::int64_t column, const Step &step, std::int64_t row) {
    const Byte *block = blocks(source, source_row, column);
    const Byte *scales = block + 192;
    for (std::int64_t g = 0; g < 8; ++g) {
        const Byte *low = block + (g / 4) * 64 + (g % 2) * 32;
        const Byte *high = block + 128 + (g / 4) * 32;
        const bool upper_nibble = (g % 4) >= 2;
        Byte nibbles[kGroup];
        Byte *planes = step.tail + g * 2 * kVector;
        for (std::int64_t i = 0; i < kGroup; ++i) {
            nibbles[i] = static_cast<Byte>(upper_nibble ? low[i] >> 4 : low[i] & 15);
            const unsigned two = (static_cast<unsigned>(high[i]) >> (2 * (g % 4))) & 3u;
            const std::int64_t j = (i % 16) / 4;
            Byte &to = word(planes, i / 16, row)[i % 4];
            to = static_cast<Byte>(to | (two << (2 * j)));
        }
        put_nibbles(nibbles, step.codes + g * 256, row);
        Byte *pair = step.tail + 16 * kVector + g * 2 * kPanelRows;
        pair[row] = scales[2 * g];
        pair[kPanelRows + row] = scales[2 * g + 1];
    }
    put_half(block + 208, step.tail + 16 * kVector + 16 * kPanelRows, row);
}

void pack_i4(const strata_weight_source &source, std::int64_t source_row, std::int64_t column, const Step &step, std::int64_t row) {
    const Byte *from = static_cast<const Byte *>(source.data) + (source_row * source.k + column) / 2;
    for (std::int64_t g = 0; g < step.groups; ++g, from += 16) {
        Byte values[kGroup];
        for (std::int64_t i = 0; i < 16; ++i) {
            values[2 * i] = static_cast<Byte>(from[i] & 15);
            values[2 * i + 1] = static_cast<Byte>(from[i] >> 4);
        }
        put_nibbles(values, step.codes + g * 256, row);
    }
    const std::int64_t scale_groups = step.groups * kGroup / source.group;
    const Byte *scales = static_cast<const Byte *>(source.scales) + 2 * (source_row * (source.k / source.group) + column / source.group);
    for (std::int64_t i = 0; i < scale_groups; ++i) {
        put_half(scales + 2 * i, step.tail + i * kHalfRow, row);
    }
}

PackStep step_packer(std::int32_t format) {
    switch (format) {
    case STRATA_FORMAT_Q4_0: return pack_q4_0;
    case STRATA_FORMAT_Q4_1: return pack_q4_1;
    case STRATA_FORMAT_Q8_0: return pack_q8_0;
    case STRATA_FORMAT_Q4_K: return pack_q4_k;
    case STRATA_FORMAT_Q6_K: return pack_q6_k;
    default: return pack_i4;
    }
}

template <class Element>
void pack_floats(const strata_weight_source &source, std::int64_t first_row, std::int64_t rows, Byte *panel) {
    for (std::int64_t row = 0; row < rows; ++row) {
        const auto *from = static_cast<const Byte *>(source.data) + (first_row + row) * source.k * static_cast<std::int64_t>(sizeof(Element));
        Byte *to = panel + row * static_cast<std::int64_t>(sizeof(Element));
        for (std::int64_t i = 0; i < source.k; ++i, from += sizeof(Element), to += kPanelRows * static_cast<std::int64_t>(sizeof(Element))) {
            std::memcpy(to, from, sizeof(Element));
        }
    }
}

void pack_quantised(const strata_weight_source &source, std::int64_t first_row, std::int64_t rows, Byte *panel) {
    const FormatInfo &info = *format_info(source.format);
    const PackStep pack_step = step_packer(source.format);
    const std::int64_t step_groups = groups_per_step(info, source.format, source.group);
    const std::int64_t groups = source.k / kGroup;
    for (std::int64_t g = 0; g < groups; g += step_groups) {
        Step step{panel, nullptr, std::min(step_groups, groups - g)};
        step.tail = panel + step.groups * info.code_bytes;
        for (std::int64_t row = 0; row < rows; ++row) {
            pack_step(source, first_row + row, g * kGroup, step, row);
        }
        panel = step.tail + info.tail_bytes;
    }
}

} // namespace

void pack_panels(const strata_weight_source &source, std::int64_t panel_bytes, unsigned char *panels) {
    for (std::int64_t first = 0; first < source.n; first += kPanelRows) {
        Byte *panel = panels + first / kPanelRows * panel_bytes;
        const std::int64_t rows = std::min(kPanelRows, source.n - first);
        std::memset(panel, 0, static_cast<std::size_t>(panel_bytes)); // rows past n and the fill between pieces are zeros
        if (!is_float_format(source.format)) {
            pack_quantised(source, first, rows, panel);
        } else if (source.format == STRATA_FORMAT_F32) {
            pack_floats<std::uint32_t>(source, first, rows, panel);
        } else {
            pack_floats<std::uint16_t>(source, first, rows, panel);
        }
    }
}

} // namespace strata
