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
    GpuPool logit_bias, key_scales, value_scales;   // slot of a block format's key scales: the block; of its value scales: the row of the group
    const int32_t *tail_table;                      // null: the tail of (sequence, head) is sequence * kv_heads + head
    void *tails;                                    // null where key_format needs none; [tails][kKvBlock][head_dim]
    int64_t tail_sequence, tail_head, tail_stride, tail_row, tail_count;
    int32_t value_dtype, tail_dtype, key_format, value_format, layout, rotation;
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
    cache.value_dtype = view.values.dtype;
    cache.key_format = view.key_format;
    cache.value_format = view.value_format;
    cache.layout = view.layout;
    cache.rotation = view.rotation;
    if (view.logit_bias.present()) cache.logit_bias = gpu_pool(view.logit_bias, view.shared_pages());
    if (view.key_scales.present()) cache.key_scales = gpu_pool(view.key_scales, view.shared_pages());
    if (view.value_scales.present()) cache.value_scales = gpu_pool(view.value_scales, view.shared_pages());
    if (view.key_tail.present()) {
        cache.tails = view.key_tail.data;
        cache.tail_stride = view.key_tail.stride[0];
        cache.tail_row = view.key_tail.stride[1];
        cache.tail_count = view.key_tail.shape[0];
        cache.tail_dtype = view.key_tail.dtype;
        cache.tail_sequence = view.kv_heads;
        cache.tail_head = 1;
    }
    if (view.tail_table.present()) {
        cache.tail_table = static_cast<const int32_t *>(view.tail_table.data);
        cache.tail_sequence = view.tail_table.stride[0];
        cache.tail_head = view.tail_table.stride[1];
    }
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

GPU_DEVICE int32_t page_index(const GpuKvCache &cache, int32_t slot) {
    return cache.page_shift >= 0 ? slot >> cache.page_shift : slot / cache.page_size;
}
/// What a table row says of a slot, which must lie below the (checked) length.
GPU_DEVICE int32_t table_entry(const GpuKvCache &cache, const int32_t *table, int32_t slot) { return table[page_index(cache, slot)]; }
/// The place of a slot by its table entry.
GPU_DEVICE GpuSlot slot_at(const GpuKvCache &cache, int32_t slot, int32_t entry, uint32_t *fault) {
    const bool good = entry >= 0 && entry < cache.pages;
    if (!good) raise_fault(fault, kFaultPage);
    return GpuSlot{good ? entry : -1, slot - page_index(cache, slot) * cache.page_size};
}
/// Both at once.
GPU_DEVICE GpuSlot find_slot(const GpuKvCache &cache, const int32_t *table, int32_t slot, uint32_t *fault) {
    return slot_at(cache, slot, table_entry(cache, table, slot), fault);
}

GPU_DEVICE const int32_t *table_row(const GpuKvCache &cache, int64_t sequence, int64_t head) {
    return cache.table + sequence * cache.table_sequence + head * cache.table_head;
}

/// First element of a slot's row; the slot's page must not be -1.
GPU_DEVICE int64_t row_at(const GpuPool &pool, const GpuSlot &slot, int64_t head) {
    return slot.page * pool.page + head * pool.head + slot.in_page * pool.slot;
}

/// Element (or byte, of 4-bit codes) where the block of a page and head starts.
GPU_DEVICE int64_t block_at(const GpuPool &pool, int32_t page, int64_t head) { return page * pool.page + head * pool.head; }

/// Bits of a number of a pool.
GPU_HOST_DEVICE constexpr int32_t number_bits(int32_t format, int32_t dtype) {
    if (format == STRATA_KV_I4_BLOCK) return 4;
    if (format != STRATA_KV_PLAIN) return 8;
    return dtype == STRATA_DTYPE_F32 ? 32 : 16;
}

// Where a number lies inside the block of a page and head. Tiled: the 4-byte word; `per_word` numbers are in one.
GPU_HOST_DEVICE constexpr int32_t tiled_key_word(int32_t slot, int32_t channel, int32_t head_dim, int32_t per_word) {
    return ((slot / 16) * (head_dim / per_word) + channel / per_word) * 16 + slot % 16;
}
GPU_HOST_DEVICE constexpr int32_t tiled_value_word(int32_t slot, int32_t channel, int32_t head_dim, int32_t per_word) {
    return slot / per_word * head_dim + channel;
}
GPU_HOST_DEVICE constexpr int32_t swizzled_element(int32_t slot, int32_t channel, int32_t page_size) {
    return (channel / 64 * page_size + slot) * 64 + ((channel % 64 / 8) ^ (slot & 7)) * 8 + channel % 8;
}

/// The row of key_tail that belongs to a sequence and head; -1, and a fault, where there is no such tail.
GPU_DEVICE int64_t find_tail(const GpuKvCache &cache, int64_t sequence, int64_t head, uint32_t *fault) {
    const int64_t at = sequence * cache.tail_sequence + head * cache.tail_head;
    const int64_t tail = cache.tail_table == nullptr ? at : cache.tail_table[at];
    if (tail >= 0 && tail < cache.tail_count) return tail;
    raise_fault(fault, kFaultIndex);
    return -1;
}

/// Slots whose keys are in pages, of the `held` ones; the others are in the tail.
GPU_DEVICE int32_t paged_keys(const GpuKvCache &cache, int32_t held) { return cache.tails == nullptr ? held : held / kKvBlock * kKvBlock; }

GPU_DEVICE int32_t length_entry(const GpuKvCache &cache, int64_t sequence, int64_t head) {
    return cache.lengths[sequence * cache.length_sequence + head * cache.length_head];
}
/// A length forced into 0 ... most.
GPU_DEVICE int32_t checked_length(int32_t length, int64_t most, uint32_t *fault) {
    const auto safe = static_cast<int32_t>(gpu::max(int64_t{0}, gpu::min(int64_t{length}, most)));
    if (safe != length) raise_fault(fault, kFaultLength);
    return safe;
}
GPU_DEVICE int32_t checked_length(const GpuKvCache &cache, int64_t sequence, int64_t head, int64_t most, uint32_t *fault) {
    return checked_length(length_entry(cache, sequence, head), most, fault);
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
