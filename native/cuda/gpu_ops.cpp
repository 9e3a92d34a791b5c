// SPDX-License-Identifier: Apache-2.0
// The table of the GPU's ops, for both back ends that compile them.
#include "cuda/gpu_ops.h"

namespace strata {

// Weak: an op whose folder has no GPU file is answered by `missing`.
#define OP(name, Type) [[gnu::weak]] Status name##_gpu(Exec &exec, const void *problem);
#include "ops/ops.def"
#undef OP

namespace {

constexpr const char *kNames[kOpCount] = {
#define OP(name, Type) #name,
#include "ops/ops.def"
#undef OP
};

template <OpId Id>
Status missing(Exec &, const void *) {
    return fail(STRATA_E_UNSUPPORTED, kNames[static_cast<std::int32_t>(Id)],
                ": no GPU kernel is built in, must be to run here; use the cpu device for this op");
}

} // namespace

const OpFunction *gpu_ops() {
    static const OpFunction ops[kOpCount] = {
#define OP(name, Type) name##_gpu != nullptr ? name##_gpu : missing<OpId::name>,
#include "ops/ops.def"
#undef OP
    };
    return ops;
}

Status report_fault(std::uint32_t bits) {
    if (bits == 0) return STRATA_OK;
    const char *what = (bits & kFaultPage) != 0     ? "a page index outside the pool"
                       : (bits & kFaultLength) != 0 ? "a length outside its table or a count outside its row"
                                                    : "a token id, slot or row offset out of range";
    return fail(STRATA_E_DEVICE_FAULT, "stream_sync: a kernel met ", what, " in device memory (fault bits ", bits,
                "), must be in range and was taken as zeros; check page tables, lengths, offsets and ids before they go to the device");
}

} // namespace strata
