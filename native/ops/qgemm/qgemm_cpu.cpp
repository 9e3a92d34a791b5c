// SPDX-License-Identifier: Apache-2.0
// qgemm on the CPU: y[m,n] = x[m,k] dequantise(W)[n,k]^T. Chooses the form; see qgemm_exact_cpu.cpp and qgemm_int8_cpu.cpp.
#include "ops/qgemm/qgemm_cpu.h"

namespace strata::STRATA_ISA_NAMESPACE {

Status qgemm_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const QgemmProblem *>(problem);
    exec.impl = p.int8_activations ? IMPL_NAME("qgemm.int8") : IMPL_NAME("qgemm");
    return p.int8_activations ? qgemm_int8_cpu(exec, p) : qgemm_exact_cpu(exec, p);
}

} // namespace strata::STRATA_ISA_NAMESPACE
