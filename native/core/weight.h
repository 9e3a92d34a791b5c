// SPDX-License-Identifier: Apache-2.0
// The packed weight: one layout for every CPU instruction set and for the GPU, and the checked view that kernels get.
//
//   64-byte header, then panels of 16 rows (the last one filled up with zero weights), each one contiguous stream, 64-byte aligned.
//   Quantised panels are runs of steps; a step is up to `groups_per_step` groups of 32 columns:
//
//       | codes of group 0 | codes of group 1 | ... | tail: what turns the codes into weights |
//
//   codes, 4 bits  256 bytes a group: vector j = 0..3 of 64 bytes, four bytes a row; byte b of row r: low nibble = column 4j+b, high = 16+4j+b
//   codes, 8 bits  512 bytes a group: vector j = 0..7, byte b of row r = column 4j+b
//   tails (x16: one value a row, rows in order)
//       Q4_0, I4   fp16 x16 scale of the step's first group of `group` columns, fp16 x16 of the second
//       Q8_0       the same
//       Q4_1       fp16 x16 d, fp16 x16 m
//       Q4_K       fp16 x16 d, fp16 x16 dmin, then for each of 8 groups: u8 x16 sc, u8 x16 m
//       Q6_K       upper 2 bits: for each of 8 groups two vectors, byte b of row r, bits 2j..2j+1 = column 4j+b (first vector), 16+4j+b (second);
//                  then for each 16 columns: s8 x16 sc; then fp16 x16 d and 32 bytes of zeros
//   An odd last group of Q4_0, I4 or Q8_0 makes a step of its own with the same tail.
//   Floats: [k][16 rows], the panel filled up to 64 bytes.
#pragma once

#include "core/op.h"

namespace strata {

inline constexpr std::int64_t kPanelRows = 16;
inline constexpr std::int32_t kPanelLayout = 1;

/// Sizes of one format.
struct FormatInfo {
    const char *name;
    std::int64_t block;           // columns that k must be a multiple of (I4: the group, see weight_block)
    std::int64_t source_bytes;    // bytes of a block in the source; I4: of its codes, per 32 columns
    std::int32_t groups_per_step; // groups of 32 columns (I4: for a group of 32); 0 for floats
    std::int32_t code_bytes;      // of 32 columns by 16 rows; floats: bytes of one element
    std::int32_t tail_bytes;      // after the codes of a step
};

/// Null for an unknown format.
const FormatInfo *format_info(std::int32_t format);
inline bool is_float_format(std::int32_t format) { return format >= STRATA_FORMAT_F32 && format <= STRATA_FORMAT_BF16; }

/// What every packed weight begins with. Little-endian, as all of it.
struct PackedHeader {
    std::uint64_t magic; // kPackedMagic
    std::uint32_t abi_major;
    std::int32_t format;
    std::int32_t group;
    std::int32_t layout;
    std::int64_t n;
    std::int64_t k;
    std::int64_t bytes;     // header included
    std::uint64_t reserved; // 0
    std::uint64_t hash;     // XXH64 of all after the header, seeded by the XXH64 of the header before this field
};
static_assert(sizeof(PackedHeader) == STRATA_PACKED_HEADER_BYTES);
inline constexpr std::uint64_t kPackedMagic = 0x3157415441525453u; // "STRATAW1"

/// A checked weight. Plain data: it travels into kernels by value.
struct WeightView {
    const unsigned char *panels; // behind the header
    std::int64_t n;
    std::int64_t k;
    std::int64_t panel_count;
    std::int64_t panel_bytes;
    std::int32_t format;
    std::int32_t group;
    std::int32_t groups_per_step; // of 32 columns; 0 for floats
    std::int32_t code_bytes;      // of 32 columns by 16 rows; floats: of one element
    std::int32_t tail_bytes;      // of a step
};

/// Groups of 32 columns in a step of this format and group.
std::int32_t groups_per_step(const FormatInfo &info, std::int32_t format, std::int32_t group);

/// Checks format, group, n and k, and computes the sizes; the sentences begin with `op` and name the fields `name`.n and so on.
Status measure_weight(const char *op, const char *name, std::int32_t format, std::int32_t group, std::int64_t n, std::int64_t k,
                      std::int64_t *panel_bytes, std::int64_t *packed_bytes);

/// Checks a packed weight of an op. Where the memory is the host's, the header is compared with the fields.
Status check_weight(const CheckMode &mode, const char *name, const strata_weight &weight, WeightView *view);

/// Fills the panels behind the header from checked sources.
void pack_panels(const strata_weight_source &source, std::int64_t panel_bytes, unsigned char *panels);

} // namespace strata
