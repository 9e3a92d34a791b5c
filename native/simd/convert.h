// SPDX-License-Identifier: Apache-2.0
// Rows from one float type to another: through fp32 and rounded to nearest even, or copied as they are where the types agree.
#pragma once

#include "simd/vec.h"

#include <strata/strata.h>

namespace strata::STRATA_ISA_NAMESPACE {

template <std::int32_t kFrom, std::int32_t kTo>
inline void convert_as(const void *from, std::int64_t from_at, void *to, std::int64_t to_at, std::int32_t count) {
    std::int32_t i = 0;
    for (; i + 16 <= count; i += 16) store_from_f32(kTo, to, to_at + i, load_as_f32(kFrom, from, from_at + i, 16), 16);
    if (i < count) store_from_f32(kTo, to, to_at + i, load_as_f32(kFrom, from, from_at + i, count - i), count - i);
}

template <std::int32_t kFrom>
inline void convert_from(const void *from, std::int64_t from_at, std::int32_t to_dtype, void *to, std::int64_t to_at, std::int32_t count) {
    if (to_dtype == kFrom) {
        constexpr std::int64_t kSize = kFrom == STRATA_DTYPE_F32 ? 4 : 2;
        std::memcpy(static_cast<unsigned char *>(to) + to_at * kSize, static_cast<const unsigned char *>(from) + from_at * kSize,
                    static_cast<std::size_t>(count * kSize));
    } else if (to_dtype == STRATA_DTYPE_F32) {
        convert_as<kFrom, STRATA_DTYPE_F32>(from, from_at, to, to_at, count);
    } else if (to_dtype == STRATA_DTYPE_F16) {
        convert_as<kFrom, STRATA_DTYPE_F16>(from, from_at, to, to_at, count);
    } else {
        convert_as<kFrom, STRATA_DTYPE_BF16>(from, from_at, to, to_at, count);
    }
}

/// `count` elements from one place to another.
inline void convert(std::int32_t from_dtype, const void *from, std::int64_t from_at, std::int32_t to_dtype, void *to, std::int64_t to_at,
                    std::int32_t count) {
    if (from_dtype == STRATA_DTYPE_F32) {
        convert_from<STRATA_DTYPE_F32>(from, from_at, to_dtype, to, to_at, count);
    } else if (from_dtype == STRATA_DTYPE_F16) {
        convert_from<STRATA_DTYPE_F16>(from, from_at, to_dtype, to, to_at, count);
    } else {
        convert_from<STRATA_DTYPE_BF16>(from, from_at, to_dtype, to, to_at, count);
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
