// SPDX-License-Identifier: Apache-2.0
// The executor behind the `simt` device: runs a kernel's blocks one after the other on the calling thread, every CUDA
// thread a fiber, with a random but repeatable schedule, and reports wrong programs instead of crashing.
//
// Environment (read once; set_options overrides):
//   STRATA_SIMT_SEED   = n                       seed of the schedule and of the random copies (default 1)
//   STRATA_SIMT_ASYNC  = issue | wait | random   when an asynchronous copy really copies (default random)
//   STRATA_SIMT_ORDER  = random | lowest | highest   which runnable thread goes on (default random)
//   STRATA_SIMT_ARCHITECTURE = 80 | 90           the GPU it stands for, whose kernels it runs (default 90)
//   STRATA_SIMT_BANKS  = count | error           what a bank conflict of ldmatrix does (default count)
//
// A launch that fails leaves its kernel at once, returns a code and keeps one sentence for last_error(). Nothing here
// ends the process or prints.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace simt {

/// A line of a kernel's source.
using Site = std::source_location;

struct Index3 {
    int x, y, z;
};

/// What the kernel's intrinsics read about the block that runs.
struct Block {
    Index3 index;
    Index3 threads;
    Index3 blocks;
    unsigned char *shared;
    std::size_t shared_bytes;
};

/// What the kernel's intrinsics read about the thread that runs.
struct Thread {
    Index3 index;
    int id;
    Block *block;
};

/// The fiber that runs on this OS thread; null outside a kernel.
extern constinit thread_local Thread *self;

enum class AsyncMode { kAtIssue, kAtWait, kRandom };
enum class Order { kRandom, kLowestFirst, kHighestFirst };

struct Options {
    uint64_t seed = 1;
    AsyncMode async = AsyncMode::kRandom;
    Order order = Order::kRandom;
    bool bank_conflict_is_error = false;
    int architecture = 90;
};

/// What the launches of this OS thread did since reset_stats().
struct Stats {
    uint64_t launches = 0;
    uint64_t blocks = 0;
    uint64_t switches = 0;
    uint64_t ldmatrix_phases = 0;         ///< 8x8 matrices read
    uint64_t ldmatrix_bank_conflicts = 0; ///< extra shared-memory cycles they cost
};

/// Codes of launch(); each comes with a sentence.
enum Error : int {
    kOk = 0,
    kBadLaunch = 1,     ///< sizes that no GPU takes
    kOutOfMemory = 2,   ///< stacks or shared memory could not be had
    kDeadlock = 3,      ///< nobody can run
    kDivergence = 4,    ///< threads met at different barriers or collectives
    kMisaligned = 5,    ///< an access that needs alignment has none
    kAsyncInFlight = 6, ///< a thread ended before its copies landed
    kAsyncOverflow = 7, ///< more outstanding copies than the executor keeps
    kBankConflict = 8,  ///< only where the options make it an error
    kBadArgument = 9,   ///< an intrinsic was given a value that it does not take
};

Options options();
void set_options(const Options &options);
Stats stats();
void reset_stats();

/// The sentence of the last failed launch on this OS thread; empty before the first one.
const char *last_error();

/// Runs body(context) once for every thread of the grid. `name` is for messages.
int launch(const char *name, Index3 grid, Index3 block, std::size_t shared_bytes, void (*body)(const void *), const void *context);

// ---- for the intrinsics ---------------------------------------------------------------------------------------------

/// Leaves the kernel with an error; `what` says the operation and the complaint. Does not return.
[[noreturn]] void fail(Error error, Site site, const char *what);

/// Waits for all threads of the block that have not ended.
void barrier(Site site);

/// Orders memory accesses for the race detector; on one OS thread nothing else is to do.
void fence();

/// An operation of a whole warp: the last lane to arrive runs `operation` over the 32 arguments.
struct Collective {
    const char *name;
    void (*operation)(void **arguments, Site site);
    bool orders_memory;
};

/// Waits until all 32 lanes brought an argument to the same collective at the same line, and it is done.
void meet(const Collective &collective, Site site, void *argument);

/// A copy that was asked for and has not landed.
struct Copy {
    void *to;
    const void *from; ///< null: write zeros
    int bytes;
};

/// Keeps a copy for later; false when this one is to land at once.
bool defer_copy(const Copy &copy, Site site);
/// Closes the thread's group of copies.
void commit_copies(Site site);
/// Takes one copy of all but the newest `keep` groups; false when none is left.
bool next_landing(int keep, Copy &copy);

/// Argument of the ldmatrix collectives.
struct MatrixArgument {
    uint32_t *registers;
    const void *row;
};
/// Argument of the mma collectives; c is float[4] or int32_t[4].
struct MmaArgument {
    void *c;
    const uint32_t *a;
    uint32_t b0, b1;
};
/// Argument of the warpgroup products, a warp's share: d is float[tiles][4].
struct WarpgroupArgument {
    float *d;
    const uint32_t *a;
    const unsigned char *b;
    int apart;
    bool add;
};
/// Byte of element (row, column) of a right operand in shared memory; its 16-byte chunks are exchanged within 128 bytes.
inline const unsigned char *operand_at(const unsigned char *b, int apart, int row, int column) {
    const auto at = reinterpret_cast<uintptr_t>(b) + static_cast<uintptr_t>(column / 64 * apart + row * 128 + column % 64 * 2);
    return reinterpret_cast<const unsigned char *>(at ^ (at >> 7 & 7) << 4);
}
/// Argument of shuffles (parameter: lane, mask or distance) and votes; the result replaces the value.
struct ExchangeArgument {
    uint32_t value;
    int parameter;
};

extern const Collective kSyncWarp, kLdmatrixX1, kLdmatrixX2, kLdmatrixX4, kLdmatrixX1Trans, kLdmatrixX2Trans, kLdmatrixX4Trans, kMmaF16, kMmaBf16,
    kMmaS8, kWarpgroupStart, kShuffle, kShuffleXor, kShuffleUp, kShuffleDown, kBallot, kAny, kAll;

/// The product of a warp's 16 rows: [columns / 64 - 1][bf16][b's rows are columns of d].
extern const Collective kWarpgroupMultiply[2][2][2];

} // namespace simt
