// SPDX-License-Identifier: Apache-2.0
// Checks of strata_tensor arguments that produce sentences, and the checked view that kernels get.
#pragma once

#include "core/status.h"

namespace strata {

struct CheckMode;

/// Element types as a set, for the dtype check.
using DtypeSet = std::uint32_t;
constexpr DtypeSet dtype_bit(std::int32_t dtype) { return 1u << dtype; }
inline constexpr DtypeSet kFloats = dtype_bit(STRATA_DTYPE_F32) | dtype_bit(STRATA_DTYPE_F16) | dtype_bit(STRATA_DTYPE_BF16);
inline constexpr DtypeSet kF32 = dtype_bit(STRATA_DTYPE_F32);
inline constexpr DtypeSet kI32 = dtype_bit(STRATA_DTYPE_I32);

/// Bytes of one element; 0 for an unknown type.
constexpr std::int32_t dtype_bytes(std::int32_t dtype) {
    switch (dtype) {
    case STRATA_DTYPE_F32:
    case STRATA_DTYPE_I32: return 4;
    case STRATA_DTYPE_F16:
    case STRATA_DTYPE_BF16: return 2;
    case STRATA_DTYPE_I8:
    case STRATA_DTYPE_U8:
    case STRATA_DTYPE_F8E4M3: return 1;
    default: return 0;
    }
}
const char *dtype_name(std::int32_t dtype);

/// A checked tensor: known type, strides filled in, every element's offset inside int64. Plain data: it travels into kernels by value.
struct View {
    void *data;
    std::int32_t dtype; // NONE: the tensor is absent
    std::int32_t ndim;
    std::int64_t shape[STRATA_MAX_DIMS];
    std::int64_t stride[STRATA_MAX_DIMS];

    bool present() const { return dtype != STRATA_DTYPE_NONE; }
    std::int64_t elements() const {
        std::int64_t count = present() ? 1 : 0;
        for (std::int32_t i = 0; i < ndim; ++i) {
            count *= shape[i];
        }
        return count;
    }
};

enum class Access : std::int32_t { kRead, kWrite };

/// Checks one tensor: `name` is the field as the caller knows it. kWrite also refuses views whose elements overlap.
Status check_tensor(const CheckMode &mode, const char *name, const strata_tensor &tensor, std::int32_t ndim, DtypeSet types, Access access,
                    View *view);

/// The same for a tensor that may be absent (ndim 0 and data NULL).
Status check_optional_tensor(const CheckMode &mode, const char *name, const strata_tensor &tensor, std::int32_t ndim, DtypeSet types, Access access,
                             View *view);

/// `got` must equal `want`: "op: x.shape[1] is 4095, must equal w.k = 4096; <cure>".
Status check_equal(const CheckMode &mode, const char *got_name, std::int64_t got, const char *want_name, std::int64_t want, const char *cure);

/// `value` must lie in low ... high.
Status check_range(const CheckMode &mode, const char *name, std::int64_t value, std::int64_t low, std::int64_t high, const char *cure);

/// `output` must not share memory with `input` unless both start at the same address with the same strides (in place). Only with mode.data.
Status check_no_partial_overlap(const CheckMode &mode, const char *output_name, const View &output, const char *input_name, const View &input,
                                bool in_place_allowed);

} // namespace strata
