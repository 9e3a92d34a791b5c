// SPDX-License-Identifier: Apache-2.0
// Stackful fibers on x86-64 that address and thread sanitizers understand.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

/// One flow of control: a stack and where it stopped.
struct Fiber {
    void *stack_pointer = nullptr;
    unsigned char *stack = nullptr; ///< lowest usable byte; null for the OS thread's own stack until it is known
    std::size_t stack_bytes = 0;
    void *sanitizer_stack = nullptr;
    void **sanitizer_fiber = nullptr;
};

/// Equal stacks in one mapping, each with a page below it that must not be touched.
class FiberStacks {
public:
    FiberStacks() = default;
    FiberStacks(const FiberStacks &) = delete;
    FiberStacks &operator=(const FiberStacks &) = delete;
    ~FiberStacks();

    /// Makes room for `count` fibers at a time; false when the system has no memory for them. None may be running.
    bool reserve(int count);
    /// Lets the fiber begin `entry` on its stack when it is switched to. `entry` never returns. `round` counts the blocks:
    /// the race detector takes what runs on one stack in successive rounds for one thread, so it gets several in turn.
    void prepare(Fiber &fiber, int index, uint32_t round, void (*entry)());
    /// Ends a prepared fiber that did not run to its end; its accesses become visible to who acquires `order`.
    void abandon(Fiber &fiber, Fiber &os_thread, void *order);

private:
    void release();

    unsigned char *base_ = nullptr;
    std::size_t mapped_ = 0;
    int count_ = 0;
    void **sanitizer_fibers_ = nullptr; ///< one for each stack, made when first needed
};

/// Describes the OS thread that calls, so that fibers can switch back to it.
void adopt_os_thread(Fiber &os_thread);

/// Goes on in `to`; returns when somebody switches back to `from`.
void switch_fiber(Fiber &from, Fiber &to);
/// As switch_fiber for a `from` that is never continued.
[[noreturn]] void leave_fiber(Fiber &from, Fiber &to);
/// The first thing that a fiber's entry calls; `os_thread` learns its stack from it.
void enter_fiber(Fiber &os_thread);

// Marks for the race detector; nothing in other builds.
void race_release(void *address);
void race_acquire(void *address);
void race_ignore_begin();
void race_ignore_end();

} // namespace simt
