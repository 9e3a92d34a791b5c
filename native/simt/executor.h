// SPDX-License-Identifier: Apache-2.0
// The executor's state and its parts: runtime.cpp launches and schedules, meetings.cpp is what threads do together.
//
// Only files that are never compiled with -fsanitize=thread include this.
#pragma once

#include "fiber.h"
#include "runtime.h"

#include <cstdlib>
#include <type_traits>

namespace simt {

constexpr int kWarp = 32;
constexpr int kMaxCopies = 256;

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

/// This OS thread's executor.
Executor &executor();

bool same(Site a, Site b);

} // namespace simt
