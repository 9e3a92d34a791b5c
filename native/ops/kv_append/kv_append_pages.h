// SPDX-License-Identifier: Apache-2.0
// Encoded rows into pages of each strata_kv_layout.
//
// An encoded row has its channels one after another: f32, 16-bit, bytes; 4-bit keys as words, 4-bit values a byte each. In tiled pages
//   keys    a word is 4 bytes of such a row: sixteen slots of a tile are a transposed matrix of words
//   values  a word is one channel of E slots: the rows are interleaved
// A word of values of which only some slots are new keeps the others.
#pragma once

#include "core/kv_cache.h"
#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

/// Rows of one page: slots in_page ... in_page + count - 1.
struct PageRows {
    const std::uint8_t *rows; // encoded
    std::int64_t row_bytes;   // from one to the next
    std::int64_t bytes;       // of a row
    unsigned char *page;      // its first byte
    std::int32_t in_page, count;
    std::int32_t page_size, head_dim;
};

inline void place_rows(const PageRows &p, std::int64_t slot_bytes) {
    for (std::int32_t i = 0; i < p.count; ++i) {
        std::memcpy(p.page + (p.in_page + i) * slot_bytes, p.rows + i * p.row_bytes, static_cast<std::size_t>(p.bytes));
    }
}

/// Halves of 64 channels, whose 16-byte chunks are exchanged by the slot's low bits.
inline void place_swizzled(const PageRows &p) {
    constexpr std::int64_t kChunkBytes = 16;
    constexpr std::int64_t kChunks = 8;
    for (std::int32_t i = 0; i < p.count; ++i) {
        const std::int32_t slot = p.in_page + i;
        for (std::int64_t chunk = 0; chunk < p.head_dim / 8; ++chunk) {
            const std::int64_t row = chunk / kChunks * p.page_size + slot;
            std::memcpy(p.page + (row * kChunks + ((chunk % kChunks) ^ (slot & 7))) * kChunkBytes, p.rows + i * p.row_bytes + chunk * kChunkBytes,
                        static_cast<std::size_t>(kChunkBytes));
        }
    }
}

/// Sixteen words that are moved, not numbers.
inline F32x16 load_words(const std::uint8_t *from) {
    alignas(64) float words[16];
    std::memcpy(words, from, sizeof words);
    return F32x16::load(words);
}

inline void store_words(unsigned char *to, F32x16 x) {
    alignas(64) float words[16];
    x.store(words);
    std::memcpy(to, words, sizeof words);
}

/// Words of keys: [tile of 16 slots][word of the row][slot in the tile]. Whole tiles are transposed sixteen words at a time.
inline void place_key_words(const PageRows &p) {
    constexpr std::int32_t kTile = 16;
    constexpr std::int64_t kWord = 4;
    const auto words = static_cast<std::int32_t>(p.bytes / kWord);
    for (std::int32_t i = 0; i < p.count;) {
        const std::int32_t slot = p.in_page + i;
        const std::int32_t column = slot % kTile;
        const std::int32_t count = kTile - column < p.count - i ? kTile - column : p.count - i;
        const std::uint8_t *rows = p.rows + i * p.row_bytes;
        unsigned char *tile = p.page + slot / kTile * (words * kTile * kWord);
        const std::int32_t turned = count == kTile ? words / kTile * kTile : 0;
        for (std::int32_t word = 0; word < turned; word += kTile) {
            F32x16 square[kTile];
            for (std::int32_t r = 0; r < kTile; ++r) square[r] = load_words(rows + r * p.row_bytes + word * kWord);
            transpose(square);
            for (std::int32_t w = 0; w < kTile; ++w) store_words(tile + (word + w) * kTile * kWord, square[w]);
        }
        for (std::int32_t word = turned; word < words; ++word) {
            for (std::int32_t r = 0; r < count; ++r)
                std::memcpy(tile + (word * kTile + column + r) * kWord, rows + r * p.row_bytes + word * kWord, kWord);
        }
        i += count;
    }
}

/// Whole words of values: channel d of kSlots rows. Four bits: two bytes of slots i and i + 4 make one.
template <std::int32_t kSlots>
inline void interleave(const std::uint8_t *__restrict rows, std::int64_t row_bytes, std::int32_t head_dim, unsigned char *__restrict words) {
    for (std::int32_t d = 0; d < head_dim; ++d) {
        std::uint32_t word = 0;
        if constexpr (kSlots == 2) {
            std::uint16_t first;
            std::uint16_t second;
            std::memcpy(&first, rows + d * 2, 2);
            std::memcpy(&second, rows + row_bytes + d * 2, 2);
            word = first | static_cast<std::uint32_t>(second) << 16;
        } else {
            for (std::int32_t i = 0; i < 4; ++i) {
                std::uint32_t byte = rows[i * row_bytes + d];
                if constexpr (kSlots == 8) byte |= static_cast<std::uint32_t>(rows[(i + 4) * row_bytes + d]) << 4;
                word |= byte << (8 * i);
            }
        }
        std::memcpy(words + d * 4, &word, 4);
    }
}

/// One slot's part of its words.
template <std::int32_t kSlots>
inline void scatter(const std::uint8_t *row, std::int32_t neighbour, std::int32_t head_dim, unsigned char *words) {
    for (std::int32_t d = 0; d < head_dim; ++d) {
        if constexpr (kSlots == 2) {
            std::memcpy(words + d * 4 + neighbour * 2, row + d * 2, 2);
        } else if constexpr (kSlots == 4) {
            words[d * 4 + neighbour] = row[d];
        } else {
            unsigned char &byte = words[d * 4 + neighbour % 4];
            byte = static_cast<unsigned char>(neighbour < 4 ? (byte & 0xf0u) | row[d] : (byte & 0x0fu) | row[d] << 4);
        }
    }
}

/// Words of values: [kSlots slots][channel].
template <std::int32_t kSlots>
inline void place_value_words(const PageRows &p) {
    for (std::int32_t i = 0; i < p.count;) {
        const std::int32_t slot = p.in_page + i;
        const std::int32_t neighbour = slot % kSlots;
        unsigned char *words = p.page + static_cast<std::int64_t>(slot / kSlots) * p.head_dim * 4;
        if (neighbour == 0 && p.count - i >= kSlots) {
            interleave<kSlots>(p.rows + i * p.row_bytes, p.row_bytes, p.head_dim, words);
            i += kSlots;
        } else {
            scatter<kSlots>(p.rows + i * p.row_bytes, neighbour, p.head_dim, words);
            ++i;
        }
    }
}

/// Rows of keys or values into one page. `slot_bytes` is a slot's distance in STRATA_KV_ROWS.
inline void place(const PageRows &p, std::int32_t layout, bool keys, std::int32_t bits, std::int64_t slot_bytes) {
    if (layout == STRATA_KV_ROWS || (layout == STRATA_KV_TILED && !keys && bits == 32)) {
        place_rows(p, slot_bytes);
    } else if (layout == STRATA_KV_SWIZZLED) {
        place_swizzled(p);
    } else if (keys) {
        place_key_words(p);
    } else if (bits == 16) {
        place_value_words<2>(p);
    } else if (bits == 8) {
        place_value_words<4>(p);
    } else {
        place_value_words<8>(p);
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
