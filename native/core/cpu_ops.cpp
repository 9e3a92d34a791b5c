// SPDX-License-Identifier: Apache-2.0
// The table of one instruction set's ops; compiled once per set, like every <op>_cpu.cpp.
#include "core/backend.h"

namespace strata::STRATA_ISA_NAMESPACE {

#define OP(name, Type) Status name##_cpu(Exec &exec, const void *problem);
#include "ops/ops.def"
#undef OP

extern const OpFunction ops[kOpCount];
const OpFunction ops[kOpCount] = {
#define OP(name, Type) name##_cpu,
#include "ops/ops.def"
#undef OP
};

} // namespace strata::STRATA_ISA_NAMESPACE
