// SPDX-License-Identifier: Apache-2.0
// The executor's scheduler: runs the threads of one block as fibers until all have ended or one of them fails.
//
//   launch -> for each block: prepare one fiber a thread, switch to one of them
//   fiber  -> runs to a meeting point (barrier, collective), registers there and switches to another runnable fiber;
//             the last to arrive makes the others runnable; the last to end switches back to the launch
//   fail   -> writes the sentence and switches back to the launch, which forgets the other fibers
//
// Compiled without -fsanitize=thread in every build: fibers share this state without ordering memory, as a GPU's
// scheduler does. What orders memory is said by race_release and race_acquire and by nothing else.
#include "executor.h"

#include <cstring>

namespace simt {

constinit thread_local Thread *self = nullptr;

namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxBlockDepth = 64;
constexpr int kMaxGridSide = 65535;
// What an sm_90 GPU grants one block at most.
constexpr std::size_t kMaxSharedBytes = 227 * 1024;

} // namespace

Executor &executor() {
    static thread_local Executor instance;
    return instance;
}

// ---- launching -----------------------------------------------------------------------------------------------------

bool Executor::check(const char *name, Index3 grid, Index3 block, std::size_t shared_bytes) {
    sentence.clear();
    sentence.kernel(name) << ": ";
    const int64_t threads = int64_t{block.x} * block.y * block.z;
    if (self != nullptr) {
        sentence << "is launched inside a kernel; launch it from the host";
    } else if (block.x < 1 || block.y < 1 || block.z < 1 || block.x > kMaxThreads || block.y > kMaxThreads || block.z > kMaxBlockDepth ||
               threads > kMaxThreads || threads % kWarp != 0) {
        sentence << "block is " << block << ", must have a multiple of 32 threads, 1024 at most, depth 64 at most; "
                 << "choose another block size";
    } else if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > kMaxGridSide || grid.z > kMaxGridSide ||
               int64_t{grid.x} * grid.y > INT32_MAX / grid.z) {
        sentence << "grid is " << grid << ", must be at least 1 and at most 65535 in y and z, 2147483647 in all; "
                 << "put the largest extent first and loop over the rest";
    } else if (shared_bytes > kMaxSharedBytes) {
        sentence << "asks for " << uint64_t{shared_bytes} << " bytes of shared memory, a block gets " << uint64_t{kMaxSharedBytes}
                 << " at most; use smaller tiles or fewer stages";
    } else {
        return true;
    }
    return false;
}

bool Executor::make_room(int threads) {
    if (threads <= capacity_) return true;
    if (!threads_.resize(threads) || !warps_.resize(threads / kWarp) || !runnable_.resize(threads)) return false;
    if (!stacks_.reserve(threads)) return false;
    capacity_ = threads;
    return true;
}

int Executor::run(const char *name, Index3 grid, Index3 block, std::size_t shared_bytes, void (*body)(const void *), const void *context) {
    if (!check(name, grid, block, shared_bytes)) return kBadLaunch;
    const int block_count = grid.x * grid.y * grid.z;
    thread_count_ = block.x * block.y * block.z;
    Array<int> order;
    if (!order.resize(block_count) || !make_room(thread_count_)) {
        sentence << "no memory for the stacks of " << thread_count_ << " threads; use smaller blocks or free memory";
        return kOutOfMemory;
    }
    options_ = options();
    // Equal launches of one process differ, equal processes do not; the sentence of a failure names the launch's own
    // seed.
    options_.seed += stats.launches;
    random_ = options_.seed * 0x9E3779B97F4A7C15u | 1u;
    ++stats.launches;
    name_ = name;
    body_ = body;
    context_ = context;
    block_.threads = block;
    block_.blocks = grid;
    block_.shared_bytes = shared_bytes;
    os_thread_ = Fiber{};
    adopt_os_thread(os_thread_);

    for (int i = 0; i < block_count; ++i) order[i] = options_.order == Order::kHighestFirst ? block_count - 1 - i : i;
    for (int i = block_count; options_.order == Order::kRandom && i > 1; --i) {
        const int j = static_cast<int>(random() % static_cast<uint64_t>(i));
        const int swapped = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swapped;
    }

    race_release(&start_order_);
    int error = kOk;
    for (int i = 0; i < block_count && error == kOk; ++i) {
        const int b = order[i];
        error = run_block({b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y});
    }
    race_acquire(&end_order_);
    if (error == kOk) sentence.clear();
    return error;
}

int Executor::run_block(Index3 index) {
    ++stats.blocks;
    block_.index = index;
    block_.shared = nullptr;
    // Exactly the bytes asked for, so that a sanitizer sees the first byte past them; all ones, which reads as NaN.
    race_ignore_begin();
    void *shared = nullptr;
    const bool got = block_.shared_bytes == 0 || posix_memalign(&shared, 1024, block_.shared_bytes) == 0;
    if (got && shared != nullptr) std::memset(shared, 0xff, block_.shared_bytes);
    race_ignore_end();
    if (!got) {
        sentence << "no memory for " << uint64_t{block_.shared_bytes} << " bytes of shared memory; free memory";
        return kOutOfMemory;
    }
    block_.shared = static_cast<unsigned char *>(shared);

    for (int i = 0; i < thread_count_; ++i) {
        ThreadState &thread = threads_[i];
        const Index3 size = block_.threads;
        thread.fiber = Fiber{};
        thread.view = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, i, &block_};
        thread.waits_for = nullptr;
        thread.ended = false;
        thread.open_group = 0;
        thread.first_copy = thread.copies = 0;
        stacks_.prepare(thread.fiber, i, round_, thread_entry);
        runnable_[i] = i;
    }
    for (int w = 0; w < thread_count_ / kWarp; ++w) warps_[w] = WarpState{};
    runnable_count_ = live_ = thread_count_;
    at_barrier_ = 0;
    barriers_ = 0;
    error_ = kOk;

    self = &threads_[take_runnable()].view;
    switch_fiber(os_thread_, me().fiber);
    self = nullptr;

    ++round_;
    for (int i = 0; i < thread_count_; ++i)
        if (!threads_[i].ended) stacks_.abandon(threads_[i].fiber, os_thread_, &end_order_);
    race_ignore_begin();
    std::free(shared);
    race_ignore_end();
    return error_;
}

void Executor::thread_entry() {
    Executor &executor = simt::executor();
    enter_fiber(executor.os_thread_);
    executor.thread_body();
}

void Executor::thread_body() {
    race_acquire(&start_order_);
    body_(context_);
    race_release(&end_order_);
    end_thread();
}

void Executor::end_thread() {
    ThreadState &thread = me();
    const int id = self->id;
    WarpState &warp = warps_[id / kWarp];
    if (thread.copies > 0) {
        complain(thread.last_copy) << "cp_async of thread " << id << " is in flight when the thread ends; wait for it by "
                                   << "cp_async_wait<0>() before the kernel returns";
        fail(kAsyncInFlight);
    }
    if (warp.arrived != 0) {
        complain(warp.site) << warp.collective->name << " waits for thread " << id << " of the same warp, which has ended; "
                            << "let all lanes reach every collective";
        fail(kDivergence);
    }
    warp.ended |= 1u << (id % kWarp);
    thread.ended = true;
    --live_;
    if (at_barrier_ > 0 && at_barrier_ == live_) release_barrier();
    if (live_ == 0) leave_fiber(thread.fiber, os_thread_);
    const int next = take_runnable();
    if (next < 0) fail_deadlock();
    self = &threads_[next].view;
    ++stats.switches;
    leave_fiber(thread.fiber, threads_[next].fiber);
}

// ---- scheduling ----------------------------------------------------------------------------------------------------

uint64_t Executor::random() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_ * 0x2545F4914F6CDD1Du >> 8;
}

int Executor::take_runnable() {
    if (runnable_count_ == 0) return -1;
    int slot = 0;
    if (options_.order == Order::kRandom) {
        slot = static_cast<int>(random() % static_cast<uint64_t>(runnable_count_));
    } else {
        const int sign = options_.order == Order::kLowestFirst ? 1 : -1;
        for (int i = 1; i < runnable_count_; ++i)
            if (sign * runnable_[i] < sign * runnable_[slot]) slot = i;
    }
    const int id = runnable_[slot];
    runnable_[slot] = runnable_[--runnable_count_];
    return id;
}

void Executor::go_to(int id) {
    if (id == self->id) return;
    ThreadState &from = me();
    self = &threads_[id].view;
    ++stats.switches;
    switch_fiber(from.fiber, threads_[id].fiber);
}

void Executor::wait(const char *what, Site site) {
    me().waits_for = what;
    me().waits_at = site;
    const int next = take_runnable();
    if (next < 0) fail_deadlock();
    go_to(next);
}

void Executor::wake(int id) {
    threads_[id].waits_for = nullptr;
    runnable_[runnable_count_++] = id;
}

/// Keeps the last thread to arrive from always being the first to go on.
void Executor::let_others_run() {
    if (options_.order == Order::kRandom && coin()) return;
    runnable_[runnable_count_++] = self->id;
    go_to(take_runnable());
}

// ---- the interface -------------------------------------------------------------------------------------------------

Stats stats() { return executor().stats; }
void reset_stats() { executor().stats = Stats{}; }
const char *last_error() { return executor().sentence.text(); }

int launch(const char *name, Index3 grid, Index3 block, std::size_t shared_bytes, void (*body)(const void *), const void *context) {
    return executor().run(name, grid, block, shared_bytes, body, context);
}

void fail(Error error, Site site, const char *what) { executor().fail_here(error, site, what); }
void barrier(Site site) { executor().barrier(site); }
void fence() { executor().fence(); }
void meet(const Collective &collective, Site site, void *argument) { executor().meet(collective, site, argument); }
bool defer_copy(const Copy &copy, Site site) { return executor().defer_copy(copy, site); }
void commit_copies(Site site) { executor().commit_copies(site); }
bool next_landing(int keep, Copy &copy) { return executor().next_landing(keep, copy); }
void count_ldmatrix(int extra_cycles, Site site) { executor().count_ldmatrix(extra_cycles, site); }

} // namespace simt
