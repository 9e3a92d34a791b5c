// SPDX-License-Identifier: Apache-2.0
// The packed BitStack level: one layout for every CPU instruction set and for the GPU.
//
//   | header 64 | U | V | signs |      each part 64-byte aligned, little-endian; rows filled up to 16, columns to 64
//
//   panel p = rows 16p ... 16p+15,  block b = columns 64b ... 64b+63
//   U      fp16 [panels][rank][16]          rows past n are 0
//   V      fp16 [blocks][rank][64]          columns past k are 0
//   signs  uint32 [panels][blocks][2][16]   word (h, i): row i, columns 32h ... 32h+31 of the block; bits of the padding are 0
//          bit c/2 + 16 (c mod 2) of a word is column c; 1 = the element is subtracted
//
// Two neighbouring columns lie 16 bits apart: one shift brings the signs of a register with two 16-bit numbers, or of an accumulator pair, to their
// places. A word's row is a SIMD lane, and four neighbouring bits, whatever their columns, are an index into a table of 16 signed sums.
#pragma once

#include "core/status.h"

namespace strata {

inline constexpr std::int64_t kBitStackRows = 16;
inline constexpr std::int64_t kBitStackColumns = 64;
inline constexpr std::int64_t kBitStackBlockBytes = kBitStackRows * kBitStackColumns / 8;
inline constexpr std::int32_t kBitStackMaxRank = 32;
inline constexpr std::int32_t kBitStackLayoutId = 1;
inline constexpr std::uint64_t kBitStackMagic = 0x3153425441525453u; // "STRATBS1"

/// What every packed level begins with.
struct BitStackHeader {
    std::uint64_t magic;
    std::uint32_t abi_major;
    std::int32_t layout;
    std::int64_t n;
    std::int64_t k;
    std::int64_t bytes; // header included
    std::int32_t rank;
    std::int32_t reserved_word; // 0
    std::uint64_t reserved;     // 0
    std::uint64_t hash;         // XXH64 of all after the header, seeded by the XXH64 of the header before this field
};
static_assert(sizeof(BitStackHeader) == STRATA_PACKED_HEADER_BYTES);

/// Where the parts of one level are.
struct BitStackLayout {
    std::int64_t panels;
    std::int64_t blocks;
    std::int64_t u; // byte offsets
    std::int64_t v;
    std::int64_t signs;
    std::int64_t bytes;
};

/// Checks n, k and rank and computes the layout; sentences begin with `where` and name the fields `name` + "n" and so on.
Status bitstack_layout(const char *where, const char *name, std::int64_t n, std::int64_t k, std::int32_t rank, BitStackLayout *layout);

/// Column of a sign word's bit, and the other way round.
constexpr std::int32_t bitstack_column(std::int32_t bit) { return 2 * (bit % 16) + bit / 16; }
constexpr std::int32_t bitstack_bit(std::int32_t column) { return column / 2 + 16 * (column % 2); }

} // namespace strata
