// SPDX-License-Identifier: Apache-2.0
// What one run of an op may use: scratch, stream, threads, fault word.
#pragma once

#include "core/planner.h"
#include "core/status.h"

namespace strata {

class ThreadPool;

/// Bits of the device fault word. Kernels OR them in; strata_stream_sync reads, clears and reports them.
enum Fault : std::uint32_t {
    kFaultPage = 1,   // a page index outside the pool
    kFaultLength = 2, // a length outside the table, or a count outside its row
    kFaultIndex = 4,  // a token id, slot or row offset out of range
};

/// One run, or its dry run. An op's device function first takes all its scratch from the planner, then returns if `dry_run`:
///     float *partial = exec.planner.take<float>(count);
///     if (exec.dry_run) return STRATA_OK;
struct Exec {
    Planner planner;
    bool dry_run;                     // size query: pointers are null, nothing may run
    void *stream = nullptr;           // cudaStream_t on CUDA; null elsewhere
    ThreadPool *pool = nullptr;       // CPU only
    std::uint32_t *fault = nullptr;   // GPU and simt: device address of the fault word
    std::int32_t multiprocessors = 1; // GPU and simt: for grid sizes
    std::int32_t architecture = 0;    // GPU: compute capability times ten; simt: of the GPU that it stands for
    const char *impl = "";            // set by the device function: "qgemm/avx512vnni"
};

/// An op on one device. `problem` is the op's checked problem struct.
using OpFunction = Status (*)(Exec &exec, const void *problem);

} // namespace strata
