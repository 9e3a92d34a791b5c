// SPDX-License-Identifier: Apache-2.0
// Fibers: the switch, the stacks, and what the sanitizers are told. Compiled without -fsanitize=thread in every build;
// STRATA_SIMT_TSAN says that the rest is compiled with it.
#include "fiber.h"

#include <cstdlib>
#include <sys/mman.h>

#if !defined(__x86_64__)
#error "the simt device switches fibers by x86-64 code; build with STRATA_SIMT=OFF on other machines"
#endif

#if defined(STRATA_SIMT_TSAN)
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_release(void *address);
void __tsan_acquire(void *address);
void __tsan_ignore_thread_begin(void);
void __tsan_ignore_thread_end(void);
}
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what the ABI asks a function to keep, changes the stack and returns on the new one.
extern "C" void simt_switch_stack(void **save, void *load);
asm(R"(
    .text
    .p2align 4
    .globl simt_switch_stack
    .hidden simt_switch_stack
    .type simt_switch_stack, @function
simt_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch_stack, .-simt_switch_stack
)");

namespace simt {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = 256 * 1024; // redzones make frames several times larger
#else
constexpr std::size_t kStackBytes = 64 * 1024;
#endif
constexpr std::size_t kGuardBytes = 4096;
constexpr int kSavedRegisters = 6;

#if defined(STRATA_SIMT_TSAN)
constexpr unsigned kSwitchWithoutOrdering = 1;
// Making a fiber known costs a millisecond, so they are kept. Of this many blocks in succession no two share one, which
// would order them and hide their races.
constexpr int kRounds = 3;
#else
constexpr int kRounds = 1;
#endif

std::size_t stack_offset(int slot) { return static_cast<std::size_t>(slot) * (kStackBytes + kGuardBytes); }

void begin_switch([[maybe_unused]] Fiber &from, [[maybe_unused]] Fiber &to, [[maybe_unused]] bool from_ends) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.sanitizer_stack, to.stack, to.stack_bytes);
#endif
#if defined(STRATA_SIMT_TSAN)
    __tsan_switch_to_fiber(*to.sanitizer_fiber, kSwitchWithoutOrdering);
#endif
}

} // namespace

FiberStacks::~FiberStacks() { release(); }

void FiberStacks::release() {
    if (base_ == nullptr) return;
#if defined(STRATA_SIMT_TSAN)
    for (int i = 0; i < kRounds * count_; ++i)
        if (sanitizer_fibers_[i] != nullptr) __tsan_destroy_fiber(sanitizer_fibers_[i]);
#endif
    std::free(sanitizer_fibers_);
    munmap(base_, mapped_);
    base_ = nullptr;
    count_ = 0;
}

bool FiberStacks::reserve(int count) {
    if (count <= count_) return true;
    release();
    const int slots = kRounds * count;
    mapped_ = stack_offset(slots);
    sanitizer_fibers_ = static_cast<void **>(std::calloc(static_cast<std::size_t>(slots), sizeof(void *)));
    if (sanitizer_fibers_ == nullptr) return false;
    void *mapping = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        std::free(sanitizer_fibers_);
        return false;
    }
    base_ = static_cast<unsigned char *>(mapping);
    count_ = count;
    for (int i = 0; i < slots; ++i) {
        if (mprotect(base_ + stack_offset(i), kGuardBytes, PROT_NONE) != 0) {
            release();
            return false;
        }
    }
    return true;
}

void FiberStacks::prepare(Fiber &fiber, int index, uint32_t round, void (*entry)()) {
    const int slot = static_cast<int>(round % kRounds) * count_ + index;
    fiber.stack = base_ + stack_offset(slot) + kGuardBytes;
    fiber.stack_bytes = kStackBytes;
    fiber.sanitizer_stack = nullptr;
    fiber.sanitizer_fiber = &sanitizer_fibers_[slot];
#if defined(__SANITIZE_ADDRESS__)
    // Frames that never returned left their redzones behind.
    __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
#endif
#if defined(STRATA_SIMT_TSAN)
    if (*fiber.sanitizer_fiber == nullptr) *fiber.sanitizer_fiber = __tsan_create_fiber(0);
#endif
    // The switch pops the registers and returns into entry, which finds the stack as after a call from address 0.
    void **top = reinterpret_cast<void **>(fiber.stack + kStackBytes - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
}

void FiberStacks::abandon([[maybe_unused]] Fiber &fiber, [[maybe_unused]] Fiber &os_thread, [[maybe_unused]] void *order) {
#if defined(STRATA_SIMT_TSAN)
    // In the fiber's name, because it will not come to say so itself. It is not kept: it is still inside its functions.
    __tsan_switch_to_fiber(*fiber.sanitizer_fiber, kSwitchWithoutOrdering);
    __tsan_release(order);
    __tsan_switch_to_fiber(*os_thread.sanitizer_fiber, kSwitchWithoutOrdering);
    __tsan_destroy_fiber(*fiber.sanitizer_fiber);
    *fiber.sanitizer_fiber = nullptr;
#endif
}

void adopt_os_thread([[maybe_unused]] Fiber &os_thread) {
#if defined(STRATA_SIMT_TSAN)
    static thread_local void *current = nullptr;
    current = __tsan_get_current_fiber();
    os_thread.sanitizer_fiber = &current;
#endif
}

void switch_fiber(Fiber &from, Fiber &to) {
    begin_switch(from, to, false);
    simt_switch_stack(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.sanitizer_stack, nullptr, nullptr);
#endif
}

void leave_fiber(Fiber &from, Fiber &to) {
    begin_switch(from, to, true);
    simt_switch_stack(&from.stack_pointer, to.stack_pointer);
    __builtin_unreachable();
}

void enter_fiber([[maybe_unused]] Fiber &os_thread) {
#if defined(__SANITIZE_ADDRESS__)
    const void *previous = nullptr;
    std::size_t previous_bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &previous, &previous_bytes);
    // The first fiber of a block is entered from the OS thread; the others from fibers, whose stacks are known.
    if (os_thread.stack == nullptr) {
        os_thread.stack = static_cast<unsigned char *>(const_cast<void *>(previous));
        os_thread.stack_bytes = previous_bytes;
    }
#endif
}

#if defined(STRATA_SIMT_TSAN)
void race_release(void *address) { __tsan_release(address); }
void race_acquire(void *address) { __tsan_acquire(address); }
void race_ignore_begin() { __tsan_ignore_thread_begin(); }
void race_ignore_end() { __tsan_ignore_thread_end(); }
#else
void race_release(void *) {}
void race_acquire(void *) {}
void race_ignore_begin() {}
void race_ignore_end() {}
#endif

} // namespace simt
