// SPDX-License-Identifier: Apache-2.0
// Scratch memory: the size query is a dry run of the run, so the two cannot disagree.
#pragma once

#include <cstddef>
#include <cstdint>

namespace strata {

/// Hands out 64-byte aligned pieces of a workspace. With a null base it only counts.
class Planner {
public:
    static constexpr std::size_t kAlignment = 64;

    explicit Planner(void *base) : base_(static_cast<unsigned char *>(base)) {}

    /// The next `count` elements; nullptr while counting. Overflow marks the plan as impossible.
    template <class T>
    T *take(std::int64_t count) {
        std::size_t bytes = 0;
        if (count < 0 || __builtin_mul_overflow(static_cast<std::size_t>(count), sizeof(T), &bytes) ||
            __builtin_add_overflow(bytes, kAlignment - 1, &bytes)) {
            overflow_ = true;
            return nullptr;
        }
        bytes &= ~(kAlignment - 1);
        const std::size_t at = used_;
        if (__builtin_add_overflow(used_, bytes, &used_)) {
            overflow_ = true;
            return nullptr;
        }
        return base_ == nullptr ? nullptr : reinterpret_cast<T *>(base_ + at);
    }

    std::size_t bytes() const { return used_; }
    bool overflow() const { return overflow_; }

private:
    unsigned char *base_;
    std::size_t used_ = 0;
    bool overflow_ = false;
};

} // namespace strata
