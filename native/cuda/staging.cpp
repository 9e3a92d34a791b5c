// SPDX-License-Identifier: Apache-2.0
// Pinned staging: a ring of slots, each with an event that says when the device is through with it.
#include "cuda/staging.h"

#include <cstring>

namespace strata {

Staging::~Staging() {
    for (Slot &slot : slots_)
        if (slot.done != nullptr) cudaEventDestroy(slot.done);
    if (memory_ != nullptr) cudaFreeHost(memory_);
}

Status Staging::prepare() {
    if (memory_ == nullptr) {
        void *memory = nullptr;
        TRY(cuda_status("copy", cudaHostAlloc(&memory, kSlots * kSlotBytes, cudaHostAllocDefault)));
        memory_ = static_cast<unsigned char *>(memory);
    }
    for (int i = 0; i < kSlots; ++i) {
        if (slots_[i].done != nullptr) continue;
        TRY(cuda_status("copy", cudaEventCreateWithFlags(&slots_[i].done, cudaEventDisableTiming)));
        slots_[i].memory = memory_ + static_cast<std::size_t>(i) * kSlotBytes;
    }
    return STRATA_OK;
}

Status Staging::to_device(void *device, const void *host, std::size_t bytes, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    TRY(prepare());
    for (std::size_t at = 0; at < bytes; at += kSlotBytes) {
        const std::size_t part = bytes - at < kSlotBytes ? bytes - at : kSlotBytes;
        Slot &slot = next();
        TRY(cuda_status("copy", cudaEventSynchronize(slot.done)));
        std::memcpy(slot.memory, static_cast<const unsigned char *>(host) + at, part);
        TRY(cuda_status("copy", cudaMemcpyAsync(static_cast<unsigned char *>(device) + at, slot.memory, part, cudaMemcpyHostToDevice, stream)));
        TRY(cuda_status("copy", cudaEventRecord(slot.done, stream)));
    }
    return STRATA_OK;
}

Status Staging::to_host(void *host, const void *device, std::size_t bytes, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    TRY(prepare());
    const std::size_t parts = (bytes + kSlotBytes - 1) / kSlotBytes;
    const auto part_bytes = [&](std::size_t i) { return i + 1 < parts ? kSlotBytes : bytes - i * kSlotBytes; };
    Slot *flying[kSlots] = {};
    // Part i is asked for while part i - kSlots, which had the same slot, is taken out.
    for (std::size_t i = 0; i < parts + kSlots; ++i) {
        Slot *&slot = flying[i % kSlots];
        if (slot != nullptr) {
            const std::size_t done = i - kSlots;
            TRY(cuda_status("copy", cudaEventSynchronize(slot->done)));
            std::memcpy(static_cast<unsigned char *>(host) + done * kSlotBytes, slot->memory, part_bytes(done));
            slot = nullptr;
        }
        if (i >= parts) continue;
        slot = &next();
        TRY(cuda_status("copy", cudaEventSynchronize(slot->done)));
        TRY(cuda_status("copy", cudaMemcpyAsync(slot->memory, static_cast<const unsigned char *>(device) + i * kSlotBytes, part_bytes(i),
                                                cudaMemcpyDeviceToHost, stream)));
        TRY(cuda_status("copy", cudaEventRecord(slot->done, stream)));
    }
    return STRATA_OK;
}

} // namespace strata
