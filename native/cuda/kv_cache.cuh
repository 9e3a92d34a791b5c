// SPDX-License-Identifier: Apache-2.0
// The paged KV cache as kernels see it: plain pointers and strides, and indices that are checked before they are followed.
#pragma once

#include "core/kv_cache.h"
#include "cuda/op_gpu.h"

namespace strata {

/// One pool of pages; strides in elements.
struct GpuPool {
    void *data;
    int64_t page, head, slot;
};

struct GpuKvCache {
    GpuPool keys, values, positions; // positions.data is null where the cache has none
    const int32_t *table;
    const int32_t *lengths;
    int64_t table_sequence, table_head, length_sequence, length_head; // strides
    int64_t pages;
    int32_t dtype, head_dim, page_size, page_shift; // page_shift: log2 of page_size, or -1
};

inline GpuPool gpu_pool(const View &view, bool shared_pages) {
    return GpuPool{view.data, view.stride[0], shared_pages ? view.stride[1] : 0, view.stride[2]};
}

inline GpuKvCache gpu_kv_cache(const KvCacheView &view) {
    GpuKvCache cache{};
    cache.keys = gpu_pool(view.keys, view.shared_pages());
    cache.values = gpu_pool(view.values, view.shared_pages());
    if (view.positions.present()) cache.positions = gpu_pool(view.positions, view.shared_pages());
    cache.table = static_cast<const int32_t *>(view.table.data);
    cache.lengths = static_cast<const int32_t *>(view.lengths.data);
    cache.table_sequence = view.table.stride[0];
    cache.table_head = view.table.stride[1];
    cache.length_sequence = view.lengths.stride[0];
    cache.length_head = view.lengths.stride[1];
    cache.pages = view.pages;
    cache.dtype = view.keys.dtype;
    cache.head_dim = view.head_dim;
    cache.page_size = view.page_size;
    cache.page_shift = -1;
    for (int32_t shift = 0; shift <= 8; ++shift) {
        if (view.page_size == 1 << shift) cache.page_shift = shift;
    }
    return cache;
}

/// Where a slot lies; page is -1 where the table names a page outside the pool.
struct GpuSlot {
    int32_t page;
    int32_t in_page;
};

/// Follows one table row. `slot` must lie below the (checked) length.
GPU_DEVICE GpuSlot find_slot(const GpuKvCache &cache, const int32_t *table, int32_t slot, uint32_t *fault) {
    const int32_t index = cache.page_shift >= 0 ? slot >> cache.page_shift : slot / cache.page_size;
    int32_t page = table[index];
    if (page < 0 || page >= cache.pages) {
        raise_fault(fault, kFaultPage);
        page = -1;
    }
    return GpuSlot{page, slot - index * cache.page_size};
}

GPU_DEVICE const int32_t *table_row(const GpuKvCache &cache, int64_t sequence, int64_t head) {
    return cache.table + sequence * cache.table_sequence + head * cache.table_head;
}

/// First element of a slot's row; the slot's page must not be -1.
GPU_DEVICE int64_t row_at(const GpuPool &pool, const GpuSlot &slot, int64_t head) {
    return slot.page * pool.page + head * pool.head + slot.in_page * pool.slot;
}

/// The length of one head, forced into 0 ... most.
GPU_DEVICE int32_t checked_length(const GpuKvCache &cache, int64_t sequence, int64_t head, int64_t most, uint32_t *fault) {
    const int32_t length = cache.lengths[sequence * cache.length_sequence + head * cache.length_head];
    const auto safe = static_cast<int32_t>(gpu::max(int64_t{0}, gpu::min(int64_t{length}, most)));
    if (safe != length) raise_fault(fault, kFaultLength);
    return safe;
}

/// Ragged rows: offsets [batch + 1], or null where all rows belong to the only sequence.
struct GpuRowOffsets {
    const int32_t *data;
    int64_t step;
    int64_t rows;
    int64_t batch;
};

inline GpuRowOffsets gpu_row_offsets(const View &view, std::int64_t rows, std::int64_t batch) {
    return GpuRowOffsets{static_cast<const int32_t *>(view.data), view.stride[0], rows, batch};
}

GPU_DEVICE int64_t row_offset(const GpuRowOffsets &offsets, int64_t sequence) {
    if (offsets.data == nullptr) return sequence == 0 ? 0 : offsets.rows;
    return offsets.data[sequence * offsets.step];
}

/// Rows of one sequence; none, and a fault, where the offsets are not what they must be.
struct GpuRows {
    int64_t first;
    int64_t count;
};

GPU_DEVICE GpuRows rows_of(const GpuRowOffsets &offsets, int64_t sequence, uint32_t *fault) {
    const int64_t first = row_offset(offsets, sequence);
    const int64_t end = row_offset(offsets, sequence + 1);
    if (first < 0 || end < first || end > offsets.rows) {
        raise_fault(fault, kFaultIndex);
        return GpuRows{0, 0};
    }
    if ((sequence == 0 && first != 0) || (sequence == offsets.batch - 1 && end != offsets.rows)) raise_fault(fault, kFaultIndex);
    return GpuRows{first, end - first};
}

/// The sequence that a row belongs to: the last one that begins at or before it.
GPU_DEVICE int64_t sequence_of_row(const GpuRowOffsets &offsets, int64_t row) {
    int64_t low = 0;
    int64_t high = offsets.batch - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (row_offset(offsets, middle) <= row) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

} // namespace strata
