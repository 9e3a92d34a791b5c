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
#include "runtime.h"

#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "fiber.h"

namespace simt {

constinit thread_local Thread *self = nullptr;

namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxBlockDepth = 64;
constexpr int kMaxGridSide = 65535;
constexpr int kWarp = 32;
constexpr int kMaxCopies = 256;
// What an sm_80 GPU grants one block at most.
constexpr std::size_t kMaxSharedBytes = 163 * 1024;

/// A copy in a thread's queue, which is in the order of issue and so of groups.
struct QueuedCopy {
    Copy copy;
    uint32_t group;
    bool landed;
};

struct ThreadState {
    Thread view;
    Fiber fiber;
    const char *waits_for; ///< null while runnable
    Site waits_at;
    bool ended;
    uint32_t open_group;
    Site last_copy;
    int first_copy, copies; ///< a ring in `queue`
    QueuedCopy queue[kMaxCopies];
};

struct WarpState {
    const Collective *collective;
    Site site;
    uint32_t arrived;
    uint32_t ended;
    void *arguments[kWarp];
    uint32_t meetings;
    char order[2]; ///< addresses for the race detector, one for even and one for odd meetings
};

/// An array without initial values and without library code that another file could have instrumented.
template <typename T>
class Array {
public:
    Array() = default;
    Array(const Array &) = delete;
    Array &operator=(const Array &) = delete;
    ~Array() { std::free(items_); }

    bool resize(int count) {
        void *items = std::realloc(items_, static_cast<std::size_t>(count) * sizeof(T));
        if (items == nullptr) return false;
        items_ = static_cast<T *>(items);
        return true;
    }
    T &operator[](int i) { return items_[i]; }

private:
    static_assert(std::is_trivially_destructible_v<T>);
    T *items_ = nullptr;
};

class Executor {
public:
    int run(const char *name, Index3 grid, Index3 block, std::size_t shared_bytes, void (*body)(const void *), const void *context);

    void barrier(Site site);
    void meet(const Collective &collective, Site site, void *argument);
    void fence();
    bool defer_copy(const Copy &copy, Site site);
    void commit_copies(Site site);
    bool next_landing(int keep, Copy &copy);
    void count_ldmatrix(int extra_cycles, Site site);
    [[noreturn]] void fail_here(Error error, Site site, const char *what);

    Stats stats;
    Sentence sentence;

private:
    bool check(const char *name, Index3 grid, Index3 block, std::size_t shared_bytes);
    bool make_room(int threads);
    int run_block(Index3 index);
    static void thread_entry();
    void thread_body();

    uint64_t random();
    bool coin() { return (random() >> 40 & 1) != 0; }
    int take_runnable();
    void go_to(int id);
    void wait(const char *what, Site site);
    void wake(int id);
    void let_others_run();
    void release_barrier();
    [[noreturn]] void end_thread();
    [[noreturn]] void fail(Error error);
    [[noreturn]] void fail_deadlock();
    Sentence &complain(Site site);

    ThreadState &me() { return threads_[self->id]; }

    Options options_;
    const char *name_ = "";
    void (*body_)(const void *) = nullptr;
    const void *context_ = nullptr;
    uint64_t random_ = 1;

    Block block_{};
    int thread_count_ = 0;
    int live_ = 0;
    int error_ = kOk;
    Fiber os_thread_;
    FiberStacks stacks_;
    int capacity_ = 0;
    uint32_t round_ = 0;
    Array<ThreadState> threads_;
    Array<WarpState> warps_;
    Array<int> runnable_;
    int runnable_count_ = 0;

    int at_barrier_ = 0;
    int first_at_barrier_ = 0;
    Site barrier_site_{};
    uint32_t barriers_ = 0;

    // Addresses for the race detector.
    char barrier_order_[2] = {}, start_order_ = 0, end_order_ = 0, fence_order_ = 0;
};

Executor &executor() {
    static thread_local Executor instance;
    return instance;
}

bool same(Site a, Site b) { return a.line() == b.line() && (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0); }

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
    const bool got = block_.shared_bytes == 0 || posix_memalign(&shared, 128, block_.shared_bytes) == 0;
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

// ---- meeting points ------------------------------------------------------------------------------------------------

constexpr const char *kBarrierName = "sync_threads";

void Executor::barrier(Site site) {
    const int id = self->id;
    if (at_barrier_ == 0) {
        barrier_site_ = site;
        first_at_barrier_ = id;
    } else if (!same(site, barrier_site_)) {
        complain(site) << "sync_threads is reached by thread " << id << " while thread " << first_at_barrier_ << " waits at " << barrier_site_
                       << "; let all threads of the block pass the same barriers";
        fail(kDivergence);
    }
    char *const order = &barrier_order_[barriers_ & 1];
    race_release(order);
    if (++at_barrier_ == live_) {
        release_barrier();
        let_others_run();
    } else {
        wait(kBarrierName, site);
    }
    race_acquire(order);
}

void Executor::release_barrier() {
    at_barrier_ = 0;
    ++barriers_;
    for (int i = 0; i < thread_count_; ++i)
        if (threads_[i].waits_for == kBarrierName) wake(i);
}

void Executor::meet(const Collective &collective, Site site, void *argument) {
    const int id = self->id;
    const int lane = id % kWarp;
    WarpState &warp = warps_[id / kWarp];
    if (warp.ended != 0) {
        complain(site) << collective.name << " is reached by thread " << id << ", but thread " << id - lane + __builtin_ctz(warp.ended)
                       << " of the same warp has ended; "
                       << "let all lanes reach every collective";
        fail(kDivergence);
    }
    if (warp.arrived == 0) {
        warp.collective = &collective;
        warp.site = site;
    } else if (warp.collective != &collective || !same(site, warp.site)) {
        complain(site) << "lanes disagree: thread " << id << " is at " << collective.name << " while thread "
                       << id - lane + __builtin_ctz(warp.arrived) << " waits at " << warp.collective->name << " of " << warp.site
                       << "; let all lanes of the warp reach the same collective";
        fail(kDivergence);
    }
    char *const order = &warp.order[warp.meetings & 1];
    if (collective.orders_memory) race_release(order);
    warp.arguments[lane] = argument;
    warp.arrived |= 1u << lane;
    if (warp.arrived == 0xffffffffu) {
        collective.operation(warp.arguments, site);
        warp.arrived = 0;
        ++warp.meetings;
        for (int i = 0; i < kWarp; ++i)
            if (i != lane) wake(id - lane + i);
        let_others_run();
    } else {
        wait(collective.name, site);
    }
    if (collective.orders_memory) race_acquire(order);
}

void Executor::fence() {
    race_release(&fence_order_);
    race_acquire(&fence_order_);
}

// ---- asynchronous copies -------------------------------------------------------------------------------------------

bool Executor::defer_copy(const Copy &copy, Site site) {
    ThreadState &thread = me();
    if (thread.copies == kMaxCopies) {
        complain(site) << "thread " << self->id << " has " << kMaxCopies << " copies (cp_async) that it did not wait for, the "
                       << "executor keeps no more; wait for older groups first";
        fail(kAsyncOverflow);
    }
    const bool at_once = options_.async == AsyncMode::kAtIssue || (options_.async == AsyncMode::kRandom && coin());
    thread.queue[(thread.first_copy + thread.copies++) % kMaxCopies] = {copy, thread.open_group, at_once};
    thread.last_copy = site;
    return !at_once;
}

void Executor::commit_copies(Site) { ++me().open_group; }

bool Executor::next_landing(int keep, Copy &copy) {
    ThreadState &thread = me();
    while (thread.copies > 0) {
        const QueuedCopy &oldest = thread.queue[thread.first_copy];
        if (int64_t{oldest.group} + keep >= int64_t{thread.open_group}) return false;
        thread.first_copy = (thread.first_copy + 1) % kMaxCopies;
        --thread.copies;
        if (!oldest.landed) {
            copy = oldest.copy;
            return true;
        }
    }
    return false;
}

// ---- complaints ----------------------------------------------------------------------------------------------------

/// Starts a sentence: kernel, line.
Sentence &Executor::complain(Site site) {
    sentence.clear();
    return sentence.kernel(name_) << " at " << site << ": ";
}

void Executor::fail(Error error) {
    sentence << " (block " << block_.index << "; seed " << options_.seed << ")";
    error_ = error;
    leave_fiber(me().fiber, os_thread_);
}

void Executor::fail_here(Error error, Site site, const char *what) {
    complain(site) << "thread " << self->id << " " << what;
    fail(error);
}

void Executor::fail_deadlock() {
    int shown = 0;
    sentence.clear();
    sentence.kernel(name_) << ": no thread can go on;";
    for (int i = 0; i < thread_count_ && shown < 4; ++i) {
        const ThreadState &thread = threads_[i];
        if (thread.waits_for == nullptr) continue;
        // One thread of each kind of waiting says enough.
        bool told = false;
        for (int j = 0; j < i && !told; ++j) told = threads_[j].waits_for == thread.waits_for && same(threads_[j].waits_at, thread.waits_at);
        if (told) continue;
        sentence << (shown == 0 ? " thread " : ", thread ") << i << " waits at " << thread.waits_for << " of " << thread.waits_at;
        ++shown;
    }
    sentence << ", " << thread_count_ - live_ << " of " << thread_count_
             << " threads have ended; let all threads reach the same barriers and collectives";
    fail(kDeadlock);
}

void Executor::count_ldmatrix(int extra_cycles, Site site) {
    ++stats.ldmatrix_phases;
    stats.ldmatrix_bank_conflicts += static_cast<uint64_t>(extra_cycles);
    if (extra_cycles == 0 || !options_.bank_conflict_is_error) return;
    complain(site) << "ldmatrix takes " << extra_cycles + 1 << " cycles for the rows of one 8x8 matrix, must take 1; "
                   << "swizzle or pad the rows so that they lie in different banks";
    fail(kBankConflict);
}

} // namespace

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
