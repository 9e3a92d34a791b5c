// SPDX-License-Identifier: Apache-2.0
// What threads of a block do together: barriers, collectives, asynchronous copies, and the complaints when they do not
// agree. Compiled without -fsanitize=thread in every build.
#include "executor.h"

#include <cstring>

namespace simt {
namespace {

constexpr const char *kBarrierName = "sync_threads";

} // namespace

bool same(Site a, Site b) { return a.line() == b.line() && (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0); }

// ---- meeting points ------------------------------------------------------------------------------------------------

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

} // namespace simt
