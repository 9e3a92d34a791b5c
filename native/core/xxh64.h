// SPDX-License-Identifier: Apache-2.0
// XXH64, the 64-bit hash of Yann Collet's public specification: tells a damaged packed weight from a sound one.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace strata {

namespace xxh64_detail {

inline constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87u;
inline constexpr std::uint64_t kPrime2 = 0xC2B2AE3D27D4EB4Fu;
inline constexpr std::uint64_t kPrime3 = 0x165667B19E3779F9u;
inline constexpr std::uint64_t kPrime4 = 0x85EBCA77C2B2AE63u;
inline constexpr std::uint64_t kPrime5 = 0x27D4EB2F165667C5u;

template <class Word>
Word read(const unsigned char *from) {
    Word word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

inline std::uint64_t round(std::uint64_t lane, std::uint64_t input) { return std::rotl(lane + input * kPrime2, 31) * kPrime1; }
inline std::uint64_t merge(std::uint64_t hash, std::uint64_t lane) { return (hash ^ round(0, lane)) * kPrime1 + kPrime4; }

} // namespace xxh64_detail

/// The hash of `size` bytes.
inline std::uint64_t xxh64(const void *data, std::size_t size, std::uint64_t seed) {
    using namespace xxh64_detail;
    const auto *at = static_cast<const unsigned char *>(data);
    const unsigned char *const end = at + size;
    std::uint64_t hash = seed + kPrime5;
    if (size >= 32) {
        std::uint64_t lanes[4] = {seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1};
        for (; end - at >= 32; at += 32) {
            for (int i = 0; i < 4; ++i) {
                lanes[i] = round(lanes[i], read<std::uint64_t>(at + 8 * i));
            }
        }
        hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) + std::rotl(lanes[3], 18);
        for (const std::uint64_t lane : lanes) {
            hash = merge(hash, lane);
        }
    }
    hash += size;
    for (; end - at >= 8; at += 8) {
        hash = std::rotl(hash ^ round(0, read<std::uint64_t>(at)), 27) * kPrime1 + kPrime4;
    }
    if (end - at >= 4) {
        hash = std::rotl(hash ^ (read<std::uint32_t>(at) * kPrime1), 23) * kPrime2 + kPrime3;
        at += 4;
    }
    for (; at != end; ++at) {
        hash = std::rotl(hash ^ (*at * kPrime5), 11) * kPrime1;
    }
    hash = (hash ^ (hash >> 33)) * kPrime2;
    hash = (hash ^ (hash >> 29)) * kPrime3;
    return hash ^ (hash >> 32);
}

} // namespace strata
