// SPDX-License-Identifier: Apache-2.0
// Pinned memory between pageable host memory and the device. An upload through it returns when the host memory is read,
// not when the stream gets there; a download overlaps its copies.
#pragma once

#include <cstddef>
#include <mutex>

#include "cuda/cuda_check.h"

namespace strata {

class Staging {
public:
    Staging() = default;
    Staging(const Staging &) = delete;
    Staging &operator=(const Staging &) = delete;
    ~Staging();

    Status to_device(void *device, const void *host, std::size_t bytes, cudaStream_t stream);
    Status to_host(void *host, const void *device, std::size_t bytes, cudaStream_t stream);

private:
    static constexpr int kSlots = 8;
    static constexpr std::size_t kSlotBytes = std::size_t{1} << 20;

    struct Slot {
        unsigned char *memory = nullptr;
        cudaEvent_t done = nullptr; ///< the device is through with it
    };

    Status prepare();
    Slot &next() { return slots_[next_++ % kSlots]; }

    std::mutex mutex_;
    unsigned char *memory_ = nullptr;
    Slot slots_[kSlots];
    unsigned next_ = 0;
};

} // namespace strata
