// SPDX-License-Identifier: Apache-2.0
// The CPU context's threads. Work is cut into chunks by the problem, never by the number of threads, so results do not depend on it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace strata {

class ThreadPool {
public:
    using Body = void (*)(void *argument, std::int64_t chunk, std::int32_t worker);

    /// `threads` workers in all, the calling thread included.
    explicit ThreadPool(std::int32_t threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    std::int32_t threads() const { return threads_; }

    /// Calls body(argument, chunk, worker) once for each chunk in 0 ... chunks-1; worker is 0 ... threads-1. Returns when all are done.
    /// Callers on several threads take turns.
    void run(std::int64_t chunks, Body body, void *argument);

private:
    void work(std::int32_t worker);
    void take_chunks(std::int32_t worker);
    void wait_for_work(std::uint32_t seen);

    const std::int32_t threads_;
    std::vector<std::thread> workers_;
    std::mutex turn_; // one job at a time

    Body body_ = nullptr;
    void *argument_ = nullptr;
    std::int64_t chunks_ = 0;
    alignas(64) std::atomic<std::int64_t> next_{0};
    alignas(64) std::atomic<std::uint32_t> job_{0}; // counts jobs; workers wait for it to change
    alignas(64) std::atomic<std::int32_t> busy_{0}; // workers that have not finished the job
    std::atomic<bool> stop_{false};
};

/// body(chunk, worker) for each chunk, on the pool.
template <class Callable>
void parallel_for(ThreadPool &pool, std::int64_t chunks, Callable &&body) {
    auto call = [](void *argument, std::int64_t chunk, std::int32_t worker) {
        (*static_cast<std::remove_reference_t<Callable> *>(argument))(chunk, worker);
    };
    pool.run(chunks, call, const_cast<void *>(static_cast<const void *>(&body)));
}

} // namespace strata
