// SPDX-License-Identifier: Apache-2.0
// Workers spin briefly for the next job, because a decode step issues hundreds a millisecond apart or less, then sleep on a futex,
// because a spinning pool takes the machine from everybody else.
#include "core/thread_pool.h"

#include <immintrin.h>

namespace strata {

namespace {
constexpr int kSpins = 4000; // about 20-50 microseconds of pause instructions
}

ThreadPool::ThreadPool(std::int32_t threads) : threads_(threads < 1 ? 1 : threads) {
    workers_.reserve(static_cast<std::size_t>(threads_ - 1));
    for (std::int32_t i = 1; i < threads_; ++i) {
        workers_.emplace_back([this, i] { work(i); });
    }
}

ThreadPool::~ThreadPool() {
    stop_.store(true, std::memory_order_relaxed);
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
    for (std::thread &worker : workers_) {
        worker.join();
    }
}

void ThreadPool::run(std::int64_t chunks, Body body, void *argument) {
    if (chunks <= 0) {
        return;
    }
    if (threads_ == 1 || chunks == 1) {
        for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
            body(argument, chunk, 0);
        }
        return;
    }
    const std::lock_guard<std::mutex> lock(turn_);
    body_ = body;
    argument_ = argument;
    chunks_ = chunks;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(threads_ - 1, std::memory_order_relaxed);
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
    take_chunks(0);
    for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin) {
        if (spin < kSpins) {
            _mm_pause();
        } else {
            std::this_thread::yield(); // a worker was descheduled: let it run
        }
    }
}

void ThreadPool::take_chunks(std::int32_t worker) {
    for (;;) {
        const std::int64_t chunk = next_.fetch_add(1, std::memory_order_relaxed);
        if (chunk >= chunks_) {
            return;
        }
        body_(argument_, chunk, worker);
    }
}

void ThreadPool::wait_for_work(std::uint32_t seen) {
    for (int spin = 0; spin < kSpins; ++spin) {
        if (job_.load(std::memory_order_acquire) != seen) {
            return;
        }
        _mm_pause();
    }
    job_.wait(seen, std::memory_order_acquire);
}

void ThreadPool::work(std::int32_t worker) {
    std::uint32_t seen = 0;
    for (;;) {
        wait_for_work(seen);
        const std::uint32_t job = job_.load(std::memory_order_acquire);
        if (job == seen) {
            continue;
        }
        seen = job;
        if (stop_.load(std::memory_order_relaxed)) {
            return;
        }
        take_chunks(worker);
        busy_.fetch_sub(1, std::memory_order_release);
    }
}

} // namespace strata
