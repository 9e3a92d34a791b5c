// SPDX-License-Identifier: Apache-2.0
// Checks of strata_tensor arguments.
#include "core/tensor_check.h"

#include "core/op.h"

namespace strata {

const char *dtype_name(std::int32_t dtype) {
    switch (dtype) {
    case STRATA_DTYPE_NONE: return "none";
    case STRATA_DTYPE_F32: return "f32";
    case STRATA_DTYPE_F16: return "f16";
    case STRATA_DTYPE_BF16: return "bf16";
    case STRATA_DTYPE_I32: return "i32";
    case STRATA_DTYPE_I8: return "i8";
    case STRATA_DTYPE_U8: return "u8";
    case STRATA_DTYPE_F8E4M3: return "f8e4m3";
    default: return "unknown";
    }
}

namespace {

void append_types(Text &text, DtypeSet types) {
    const char *separator = "";
    for (std::int32_t dtype = STRATA_DTYPE_F32; dtype <= STRATA_DTYPE_F8E4M3; ++dtype) {
        if ((types & dtype_bit(dtype)) != 0) {
            text << separator << dtype_name(dtype);
            separator = " or ";
        }
    }
}

// Offset of the last element in elements, so that every address can be computed in 64 bits.
bool last_offset(const View &view, std::int64_t *offset) {
    *offset = 0;
    for (std::int32_t i = 0; i < view.ndim; ++i) {
        std::int64_t span = 0;
        if (__builtin_mul_overflow(view.shape[i] - 1, view.stride[i], &span) || __builtin_add_overflow(*offset, span, offset)) {
            return false;
        }
    }
    std::int64_t bytes = 0;
    return !__builtin_mul_overflow(*offset + 1, static_cast<std::int64_t>(dtype_bytes(view.dtype)), &bytes);
}

// Dimensions from the smallest stride up: each must step over everything below it.
bool overlaps_itself(const View &view) {
    bool used[STRATA_MAX_DIMS] = {};
    std::int64_t covered = 1;
    for (std::int32_t round = 0; round < view.ndim; ++round) {
        std::int32_t next = -1;
        for (std::int32_t i = 0; i < view.ndim; ++i) {
            if (!used[i] && view.shape[i] > 1 && (next < 0 || view.stride[i] < view.stride[next])) {
                next = i;
            }
        }
        if (next < 0) {
            return false;
        }
        used[next] = true;
        if (view.stride[next] < covered) {
            return true;
        }
        covered = (view.shape[next] - 1) * view.stride[next] + covered;
    }
    return false;
}

bool absent(const strata_tensor &tensor) { return tensor.data == nullptr && tensor.ndim == 0; }

} // namespace

Status check_tensor(const CheckMode &mode, const char *name, const strata_tensor &tensor, std::int32_t ndim, DtypeSet types, Access access,
                    View *view) {
    if (tensor.ndim != ndim) {
        return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".ndim is ", tensor.ndim, ", must be ", ndim,
                    "; describe the tensor with all its dimensions");
    }
    if (tensor.dtype < 0 || tensor.dtype > STRATA_DTYPE_F8E4M3 || (types & dtype_bit(tensor.dtype)) == 0) {
        Text wanted;
        append_types(wanted, types);
        return fail(STRATA_E_DTYPE, mode.op, ": ", name, ".dtype is ", dtype_name(tensor.dtype), " (", tensor.dtype, "), must be ", wanted.c_str(),
                    "; convert it first");
    }
    *view = View{};
    view->data = tensor.data;
    view->dtype = tensor.dtype;
    view->ndim = ndim;
    bool all_zero = true;
    std::int64_t elements = 1;
    for (std::int32_t i = 0; i < ndim; ++i) {
        if (tensor.shape[i] < 0 || tensor.shape[i] > (std::int64_t{1} << 46)) {
            return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".shape[", i, "] is ", tensor.shape[i], ", must be 0 to 2^46; pass the real extent");
        }
        view->shape[i] = tensor.shape[i];
        all_zero = all_zero && tensor.stride[i] == 0;
        if (tensor.shape[i] != 0 && __builtin_mul_overflow(elements, tensor.shape[i], &elements)) {
            return fail(STRATA_E_SHAPE, mode.op, ": ", name,
                        " has more elements than 64 bits count, must have at most 2^63 - 1; pass the real extents");
        }
    }
    std::int64_t dense = 1;
    for (std::int32_t i = ndim - 1; i >= 0; --i) {
        view->stride[i] = all_zero ? dense : tensor.stride[i];
        if (view->stride[i] < 0) {
            return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".stride[", i, "] is ", view->stride[i],
                        ", must not be negative; pass a view that runs forward");
        }
        dense *= tensor.shape[i] > 0 ? tensor.shape[i] : 1;
    }
    if (view->stride[ndim - 1] != 1 && view->shape[ndim - 1] > 1) {
        return fail(STRATA_E_SHAPE, mode.op, ": ", name, ".stride[", ndim - 1, "] is ", view->stride[ndim - 1],
                    ", must be 1 (the last dimension is dense); copy the tensor into dense rows");
    }
    if (view->elements() == 0) {
        return STRATA_OK;
    }
    std::int64_t last = 0;
    if (!last_offset(*view, &last)) {
        return fail(STRATA_E_SHAPE, mode.op, ": ", name, " spans more than 2^63 - 1 bytes, must be addressable; pass the real strides");
    }
    if (access == Access::kWrite && overlaps_itself(*view)) {
        return fail(STRATA_E_SHAPE, mode.op, ": ", name,
                    " has strides that put two elements at one address, must not when it is written; pass its real strides");
    }
    if (mode.data) {
        if (tensor.data == nullptr) {
            return fail(STRATA_E_ARGUMENT, mode.op, ": ", name, ".data is NULL, must point to ", view->elements(),
                        " elements; pass the tensor's memory");
        }
        // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): every type of the set has a size
        if (reinterpret_cast<std::uintptr_t>(tensor.data) % static_cast<std::uintptr_t>(dtype_bytes(tensor.dtype)) != 0) {
            return fail(STRATA_E_ALIGNMENT, mode.op, ": ", name, ".data is not aligned to its element, must be a multiple of ",
                        dtype_bytes(tensor.dtype), " bytes; align the memory");
        }
    }
    return STRATA_OK;
}

Status check_optional_tensor(const CheckMode &mode, const char *name, const strata_tensor &tensor, std::int32_t ndim, DtypeSet types, Access access,
                             View *view) {
    if (absent(tensor)) {
        *view = View{};
        return STRATA_OK;
    }
    return check_tensor(mode, name, tensor, ndim, types, access, view);
}

Status check_equal(const CheckMode &mode, const char *got_name, std::int64_t got, const char *want_name, std::int64_t want, const char *cure) {
    if (got == want) {
        return STRATA_OK;
    }
    return fail(STRATA_E_SHAPE, mode.op, ": ", got_name, " is ", got, ", must equal ", want_name, " = ", want, "; ", cure);
}

Status check_range(const CheckMode &mode, const char *name, std::int64_t value, std::int64_t low, std::int64_t high, const char *cure) {
    if (value >= low && value <= high) {
        return STRATA_OK;
    }
    return fail(STRATA_E_ARGUMENT, mode.op, ": ", name, " is ", value, ", must be ", low, " to ", high, "; ", cure);
}

Status check_no_partial_overlap(const CheckMode &mode, const char *output_name, const View &output, const char *input_name, const View &input,
                                bool in_place_allowed) {
    if (!mode.data || output.elements() == 0 || input.elements() == 0) {
        return STRATA_OK;
    }
    std::int64_t output_last = 0;
    std::int64_t input_last = 0;
    (void)last_offset(output, &output_last); // both were checked before
    (void)last_offset(input, &input_last);
    const auto output_begin = reinterpret_cast<std::uintptr_t>(output.data);
    const auto input_begin = reinterpret_cast<std::uintptr_t>(input.data);
    const auto output_end = output_begin + static_cast<std::uintptr_t>((output_last + 1) * dtype_bytes(output.dtype));
    const auto input_end = input_begin + static_cast<std::uintptr_t>((input_last + 1) * dtype_bytes(input.dtype));
    if (output_end <= input_begin || input_end <= output_begin) {
        return STRATA_OK;
    }
    bool same = in_place_allowed && output_begin == input_begin && output.dtype == input.dtype && output.ndim == input.ndim;
    for (std::int32_t i = 0; same && i < output.ndim; ++i) {
        same = output.stride[i] == input.stride[i] || output.shape[i] <= 1;
    }
    if (same) {
        return STRATA_OK;
    }
    return fail(STRATA_E_ARGUMENT, mode.op, ": ", output_name, " overlaps ", input_name, ", must be ",
                in_place_allowed ? "the same view or separate memory" : "separate memory", "; give the output memory of its own");
}

} // namespace strata
