// SPDX-License-Identifier: Apache-2.0
// Packs the levels that BitStack's authors store into bitstack_layout.h, and reads packed levels back in. No value changes.
#include "core/guard.h"
#include "core/op.h"
#include "core/xxh64.h"
#include "ops/bitstack/bitstack_layout.h"

namespace strata {

namespace {

constexpr std::int64_t kMaxExtent = INT32_MAX;
constexpr std::uint32_t kAbiMajor = STRATA_ABI_VERSION >> 16;

std::uint64_t hash_of(const BitStackHeader &header, const unsigned char *payload) {
    const std::uint64_t seed = xxh64(&header, offsetof(BitStackHeader, hash), 0);
    return xxh64(payload, static_cast<std::size_t>(header.bytes) - sizeof header, seed);
}

Status check_bytes(const char *name, std::int64_t got, std::int64_t want, const void *data) {
    if (got != want) {
        return fail(STRATA_E_SHAPE, "bitstack_pack: source.", name, "_bytes is ", got, ", must be ", want,
                    " for this n, k and rank; pass the whole matrix");
    }
    if (data == nullptr) {
        return fail(STRATA_E_ARGUMENT, "bitstack_pack: source.", name, " is NULL, must point to ", want, " bytes; pass the level's data");
    }
    return STRATA_OK;
}

Status check_source(const char *where, const strata_bitstack_source &source, BitStackLayout *layout) {
    TRY(bitstack_layout(where, "source.", source.n, source.k, source.rank, layout));
    if (source.n * source.k % 8 != 0) {
        return fail(STRATA_E_SHAPE, where, ": source.n * source.k is ", source.n * source.k,
                    ", must be a multiple of 8; the signs are stored in whole bytes");
    }
    return STRATA_OK;
}

// U [n][rank] → [panel][rank][16].
void pack_u(const strata_bitstack_source &source, unsigned char *to) {
    const auto *from = static_cast<const unsigned char *>(source.u);
    for (std::int64_t row = 0; row < source.n; ++row) {
        unsigned char *panel = to + row / kBitStackRows * source.rank * kBitStackRows * 2;
        for (std::int64_t r = 0; r < source.rank; ++r) {
            std::memcpy(panel + (r * kBitStackRows + row % kBitStackRows) * 2, from + (row * source.rank + r) * 2, 2);
        }
    }
}

// V^T [rank][k] → [block][rank][64].
void pack_v(const strata_bitstack_source &source, std::int64_t blocks, unsigned char *to) {
    const auto *from = static_cast<const unsigned char *>(source.vt);
    for (std::int64_t block = 0; block < blocks; ++block) {
        const std::int64_t first = block * kBitStackColumns;
        const std::int64_t count = source.k - first < kBitStackColumns ? source.k - first : kBitStackColumns;
        for (std::int64_t r = 0; r < source.rank; ++r) {
            std::memcpy(to + (block * source.rank + r) * kBitStackColumns * 2, from + (r * source.k + first) * 2,
                        static_cast<std::size_t>(count) * 2);
        }
    }
}

// Row-major bits, first element in bit 7, 1 = plus → words of 32 columns of a row, 1 = minus.
void pack_signs(const strata_bitstack_source &source, std::int64_t blocks, unsigned char *to) {
    const auto *from = static_cast<const unsigned char *>(source.signs);
    for (std::int64_t row = 0; row < source.n; ++row) {
        for (std::int64_t first = 0; first < source.k; first += 32) {
            std::uint32_t word = 0;
            for (std::int32_t c = 0; c < 32 && first + c < source.k; ++c) {
                const std::int64_t element = row * source.k + first + c;
                const bool plus = (from[element / 8] >> (7 - element % 8) & 1) != 0;
                word |= static_cast<std::uint32_t>(!plus) << bitstack_bit(c);
            }
            const std::int64_t block = row / kBitStackRows * blocks + first / kBitStackColumns;
            const std::int64_t half = first % kBitStackColumns / 32;
            const std::int64_t at = block * kBitStackBlockBytes + (half * kBitStackRows + row % kBitStackRows) * 4;
            std::memcpy(to + at, &word, sizeof word);
        }
    }
}

Status pack(const strata_bitstack_source *from, void *destination, std::size_t destination_bytes, strata_bitstack_level *level) {
    strata_bitstack_source source;
    BitStackLayout layout;
    TRY(read_args("bitstack_pack", from, &source));
    TRY(check_source("bitstack_pack", source, &layout));
    TRY(check_bytes("signs", source.signs_bytes, source.n * source.k / 8, source.signs));
    TRY(check_bytes("u", source.u_bytes, 2 * source.n * source.rank, source.u));
    TRY(check_bytes("vt", source.vt_bytes, 2 * source.k * source.rank, source.vt));
    if (destination == nullptr || level == nullptr) {
        return fail(STRATA_E_ARGUMENT, "bitstack_pack: ", destination == nullptr ? "destination" : "level",
                    " is NULL, must not be; pass a valid pointer");
    }
    if (reinterpret_cast<std::uintptr_t>(destination) % STRATA_PACKED_HEADER_BYTES != 0) {
        return fail(STRATA_E_ALIGNMENT, "bitstack_pack: destination is not 64-byte aligned, must be; align the memory");
    }
    if (destination_bytes < static_cast<std::size_t>(layout.bytes)) {
        return fail(STRATA_E_WORKSPACE, "bitstack_pack: destination has ", destination_bytes, " bytes, must have ", layout.bytes,
                    "; ask strata_bitstack_packed_bytes");
    }
    auto *to = static_cast<unsigned char *>(destination);
    std::memset(to, 0, static_cast<std::size_t>(layout.bytes));
    pack_u(source, to + layout.u);
    pack_v(source, layout.blocks, to + layout.v);
    pack_signs(source, layout.blocks, to + layout.signs);
    BitStackHeader header{};
    header.magic = kBitStackMagic;
    header.abi_major = kAbiMajor;
    header.layout = kBitStackLayoutId;
    header.n = source.n;
    header.k = source.k;
    header.bytes = layout.bytes;
    header.rank = source.rank;
    header.hash = hash_of(header, to + sizeof header);
    std::memcpy(to, &header, sizeof header);
    *level = strata_bitstack_level{destination, layout.bytes, source.n, source.k, source.rank, kBitStackLayoutId};
    return STRATA_OK;
}

Status bad_format(const char *what) {
    return fail(STRATA_E_FORMAT, "bitstack_open: ", what, ", must be what strata_bitstack_pack of this version wrote; pack the level again");
}

Status open(const void *data, std::size_t bytes, strata_bitstack_level *level) {
    if (data == nullptr || level == nullptr) {
        return fail(STRATA_E_ARGUMENT, "bitstack_open: ", data == nullptr ? "data" : "level", " is NULL, must not be; pass a valid pointer");
    }
    BitStackHeader header;
    if (bytes < sizeof header) {
        return bad_format("the bytes end inside the header");
    }
    std::memcpy(&header, data, sizeof header);
    if (header.magic != kBitStackMagic) {
        return bad_format("the bytes are not a packed level");
    }
    if (header.abi_major != kAbiMajor || header.layout != kBitStackLayoutId) {
        return fail(STRATA_E_FORMAT, "bitstack_open: the level has ABI major ", header.abi_major, " and layout ", header.layout, ", must have ",
                    kAbiMajor, " and ", kBitStackLayoutId, "; pack the level again");
    }
    BitStackLayout layout;
    if (bitstack_layout("bitstack_open", "header.", header.n, header.k, header.rank, &layout) != STRATA_OK || header.bytes != layout.bytes ||
        header.reserved_word != 0 || header.reserved != 0) {
        return bad_format("the header is damaged");
    }
    if (bytes < static_cast<std::size_t>(header.bytes)) {
        return fail(STRATA_E_FORMAT, "bitstack_open: data has ", bytes, " bytes, must have ", header.bytes, "; read the whole level");
    }
    if (hash_of(header, static_cast<const unsigned char *>(data) + sizeof header) != header.hash) {
        return bad_format("the bytes do not have the header's hash");
    }
    *level = strata_bitstack_level{data, header.bytes, header.n, header.k, header.rank, header.layout};
    return STRATA_OK;
}

Status check_extent(const char *where, const char *name, const char *field, std::int64_t value, std::int64_t most) {
    if (value >= 1 && value <= most) {
        return STRATA_OK;
    }
    return fail(STRATA_E_SHAPE, where, ": ", name, field, " is ", value, ", must be 1 to ", most, "; pass the level's real extents");
}

constexpr std::int64_t up_to(std::int64_t value, std::int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

} // namespace

Status bitstack_layout(const char *where, const char *name, std::int64_t n, std::int64_t k, std::int32_t rank, BitStackLayout *layout) {
    TRY(check_extent(where, name, "n", n, kMaxExtent));
    TRY(check_extent(where, name, "k", k, kMaxExtent));
    TRY(check_extent(where, name, "rank", rank, kBitStackMaxRank));
    // With 31-bit extents every product below stays under 2^60.
    layout->panels = up_to(n, kBitStackRows) / kBitStackRows;
    layout->blocks = up_to(k, kBitStackColumns) / kBitStackColumns;
    layout->u = STRATA_PACKED_HEADER_BYTES;
    layout->v = layout->u + up_to(layout->panels * rank * kBitStackRows * 2, 64);
    layout->signs = layout->v + layout->blocks * rank * kBitStackColumns * 2;
    layout->bytes = layout->signs + layout->panels * layout->blocks * kBitStackBlockBytes;
    return STRATA_OK;
}

} // namespace strata

strata_status strata_bitstack_packed_bytes(const strata_bitstack_source *source, std::size_t *bytes) {
    return strata::guard([&]() -> strata::Status {
        strata_bitstack_source known;
        strata::BitStackLayout layout;
        TRY(strata::read_args("bitstack_packed_bytes", source, &known));
        TRY(strata::check_source("bitstack_packed_bytes", known, &layout));
        if (bytes == nullptr) {
            return strata::fail(STRATA_E_ARGUMENT, "bitstack_packed_bytes: bytes is NULL, must point to a size_t; pass its address");
        }
        *bytes = static_cast<std::size_t>(layout.bytes);
        return STRATA_OK;
    });
}

strata_status strata_bitstack_pack(const strata_bitstack_source *source, void *destination, std::size_t destination_bytes,
                                   strata_bitstack_level *level) {
    return strata::guard([&] { return strata::pack(source, destination, destination_bytes, level); });
}

strata_status strata_bitstack_open(const void *data, std::size_t bytes, strata_bitstack_level *level) {
    return strata::guard([&] { return strata::open(data, bytes, level); });
}
