// SPDX-License-Identifier: Apache-2.0
// kv_attention: the plan on the device: the words that build_plan writes on the host, from lengths and offsets that only the GPU knows.
//
// One block. Its threads take sequences, then the tiles of these sequences: first[] says which numbers a sequence's tiles have.
// The slots of up to kCachedTiles tiles stay in shared memory, so that the search for the chunk costs a pass over it a step.
#pragma once

#include "ops/kv_attention/kv_attention_work.cuh"

namespace strata {

constexpr int kPlanThreads = 256;
constexpr int kPlanWarps = kPlanThreads / gpu::kWarpSize;
constexpr int kCachedTiles = 4096; // 16 KiB; above that a plan is a small part of the work it plans

struct PlanParams {
    GpuKvCache cache;
    GpuRowOffsets offsets;
    KvAttentionPlan plan;
    KvAttentionSplit split;
    uint32_t *fault;
    int64_t max_length, most_items, most_merges, most_partials;
    int32_t kv_heads, group, window, window_sinks;
    bool causal, batch_invariant;
};

struct PlanSmem {
    int64_t first[kPlanThreads]; // number of a sequence's first tile, among the tiles of kPlanThreads sequences
    int64_t warp_sums[kPlanWarps];
    int32_t tokens[kPlanThreads];
    int32_t scans[3][kPlanWarps];
    int32_t slots[kCachedTiles];
};

/// A tile's slots: [0, sinks) and [begin, end).
struct PlanTile {
    int32_t sequence, head, row, rows;
    int32_t begin, end, sinks;
};

GPU_DEVICE int64_t plan_visible(const PlanParams &p, int64_t tokens, int64_t length, int32_t row) {
    return p.causal ? gpu::max(int64_t{0}, gpu::min(length, length - tokens + row / p.group + 1)) : length;
}

/// Adds one number of every thread; every thread gets the sum.
GPU_DEVICE int64_t block_sum(PlanSmem &smem, int64_t value) {
    constexpr int kLowBits = 24; // 32 of them stay below 2^32
    const uint32_t low = gpu::warp_reduce_add(static_cast<uint32_t>(value & ((1 << kLowBits) - 1)));
    const uint32_t high = gpu::warp_reduce_add(static_cast<uint32_t>(value >> kLowBits));
    gpu::sync_threads();
    if (gpu::lane_id() == 0) smem.warp_sums[gpu::warp_id()] = (int64_t{high} << kLowBits) + low;
    gpu::sync_threads();
    int64_t total = 0;
    GPU_UNROLL
    for (int w = 0; w < kPlanWarps; ++w) total += smem.warp_sums[w];
    return total;
}

/// The sum of the threads before this one, and of all of them.
GPU_DEVICE int32_t block_scan(int32_t (&sums)[kPlanWarps], int32_t value, int32_t &total) {
    int32_t before = value;
    GPU_UNROLL
    for (int by = 1; by < gpu::kWarpSize; by *= 2) {
        const int32_t other = gpu::shfl_up(before, by);
        if (gpu::lane_id() >= by) before += other;
    }
    gpu::sync_threads();
    if (gpu::lane_id() == gpu::kWarpSize - 1) sums[gpu::warp_id()] = before;
    gpu::sync_threads();
    before -= value;
    total = 0;
    GPU_UNROLL
    for (int w = 0; w < kPlanWarps; ++w) {
        if (w < gpu::warp_id()) before += sums[w];
        total += sums[w];
    }
    return before;
}

/// body(there, tile) by all threads together, one tile each, for the tiles of sequences with few or with many rows, in the plan's order.
template <class Body>
GPU_DEVICE void for_each_tile(const PlanParams &p, PlanSmem &smem, bool few, Body &&body) {
    const int thread = gpu::thread_x();
    const int32_t tile_rows = few ? p.split.few_rows : p.split.many_rows;
    for (int64_t base = 0; base < p.offsets.batch; base += kPlanThreads) {
        const int64_t mine = base + thread;
        const int64_t tokens = mine < p.offsets.batch ? rows_of(p.offsets, mine, p.fault).count : 0;
        const auto rows = static_cast<int32_t>(tokens * p.group); // an item's rows are int32
        const bool taken = rows > 0 && few == (rows <= p.split.few_limit);
        int32_t total = 0;
        const int32_t tiles = taken ? gpu::ceil_div(rows, tile_rows) * p.kv_heads : 0;
        const int32_t first = block_scan(smem.scans[0], tiles, total);
        smem.first[thread] = first;
        smem.tokens[thread] = static_cast<int32_t>(tokens);
        gpu::sync_threads();
        for (int32_t start = 0; start < total; start += kPlanThreads) {
            const int32_t number = start + thread;
            PlanTile tile{};
            if (number < total) {
                int low = 0;
                int high = kPlanThreads - 1;
                while (low < high) {
                    const int middle = (low + high + 1) / 2;
                    if (smem.first[middle] <= number) {
                        low = middle;
                    } else {
                        high = middle - 1;
                    }
                }
                const int32_t of_tokens = smem.tokens[low];
                const int32_t of_rows = of_tokens * p.group;
                const auto within = static_cast<int32_t>(number - smem.first[low]);
                const int32_t last = gpu::ceil_div(of_rows, tile_rows) - 1;
                const int32_t row = (last - within / p.kv_heads) * tile_rows; // backwards, as on the host
                const int32_t count = gpu::min(tile_rows, of_rows - row);
                tile.sequence = static_cast<int32_t>(base + low);
                tile.head = within % p.kv_heads;
                tile.row = row;
                tile.rows = count;
                const int64_t length = checked_length(p.cache, tile.sequence, tile.head, p.max_length, p.fault);
                const int64_t end = plan_visible(p, of_tokens, length, row + count - 1);
                const int64_t left = plan_visible(p, of_tokens, length, row) - p.window;
                const int64_t begin = p.window > 0 ? gpu::min(gpu::max(int64_t{0}, left), end) : 0;
                const bool apart = begin > p.window_sinks; // else the sinks reach into the windows: one run of slots
                tile.begin = apart ? static_cast<int32_t>(begin) : 0;
                tile.end = static_cast<int32_t>(end);
                tile.sinks = p.window > 0 && apart ? p.window_sinks : 0;
            }
            body(number < total, tile);
        }
        gpu::sync_threads();
    }
}

/// The same for both kinds, few rows first; one body, because the kernel is short and waits for its code.
template <class Body>
GPU_DEVICE void for_all_tiles(const PlanParams &p, PlanSmem &smem, Body &&body) {
    GPU_UNROLL_BY(1)
    for (int kind = 0; kind < 2; ++kind) for_each_tile(p, smem, kind == 0, body);
}

/// Slots of a part of a tile: batch-invariant plans leave tiles of many rows whole.
GPU_DEVICE int32_t part_slots(const PlanParams &p, bool few, int32_t chunk) { return p.batch_invariant && !few ? INT32_MAX : chunk; }
GPU_DEVICE int32_t plan_parts(int32_t slots, int32_t chunk) { return gpu::max(1, slots / chunk + (slots % chunk != 0 ? 1 : 0)); }

/// Items for a chunk of that many slots, of all tiles.
GPU_DEVICE int64_t count_items(const PlanParams &p, PlanSmem &smem, int64_t tiles, int32_t chunk) {
    int64_t mine = 0;
    if (tiles <= kCachedTiles) {
        for (int i = gpu::thread_x(); i < tiles; i += kPlanThreads) mine += plan_parts(smem.slots[i], chunk);
    } else {
        const auto add = [&](bool there, const PlanTile &tile) {
            if (there) mine += plan_parts(tile.end - tile.begin, chunk);
        };
        for_all_tiles(p, smem, add);
    }
    return block_sum(smem, mine);
}

GPU_DEVICE int32_t choose_chunk(const PlanParams &p, PlanSmem &smem) {
    if (p.batch_invariant) return p.split.fixed;
    int64_t tiles = 0;
    int64_t mine = 0;
    const auto keep = [&](bool there, const PlanTile &tile) {
        const int64_t number = tiles + gpu::thread_x(); // a step's absent tiles are its last ones
        if (there && number < kCachedTiles) smem.slots[number] = tile.end - tile.begin;
        if (there) mine += tile.end - tile.begin;
        tiles += block_sum(smem, there ? 1 : 0);
    };
    for_all_tiles(p, smem, keep);
    const int64_t seen = block_sum(smem, mine);
    const int64_t most = tiles < p.split.target ? p.split.target : tiles + p.split.target;
    const int64_t slots = gpu::max(p.max_length, int64_t{1});
    const auto units = [](int64_t of) { return static_cast<int32_t>((of + kPlanSlots - 1) / kPlanSlots); };
    // A chunk has seen / chunk items at least, and no more than one a tile beyond that.
    const int32_t least = p.split.least / kPlanSlots;
    const int32_t enough = most > tiles ? units((seen + most - tiles - 1) / (most - tiles)) : INT32_MAX;
    int32_t low = gpu::max(least, units((seen + most - 1) / most));
    int32_t high = gpu::max(low, gpu::min(gpu::max(least, units(slots)), enough));
    while (low < high) {
        const int32_t middle = static_cast<int32_t>((int64_t{low} + high) / 2);
        if (count_items(p, smem, tiles, middle * kPlanSlots) <= most) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low * kPlanSlots;
}

GPU_KERNEL(kPlanThreads, 1) kv_attention_plan_kernel(PlanParams p) {
    GPU_DYNAMIC_SMEM(bytes);
    auto &smem = *reinterpret_cast<PlanSmem *>(bytes);
    gpu::let_next_start();
    const int32_t chunk = choose_chunk(p, smem);
    int64_t items = 0;
    int64_t merges = 0;
    int64_t partials = 0;
    int64_t few_items = 0;
    int32_t slots = 0;
    const auto write = [&](bool there, const PlanTile &tile) {
        const int32_t parts = there ? plan_parts(tile.end - tile.begin, slots) : 0;
        const bool several = parts > 1;
        int32_t all_parts = 0;
        int32_t all_several = 0;
        int32_t all_partials = 0;
        int64_t item = items + block_scan(smem.scans[0], parts, all_parts);
        const int64_t merge = merges + block_scan(smem.scans[1], several ? 1 : 0, all_several);
        int64_t partial = partials + block_scan(smem.scans[2], several ? parts * tile.rows : 0, all_partials);
        if (several && merge < p.most_merges) {
            p.plan.merges[merge] = KvAttentionMerge{tile.sequence, tile.head, tile.row, tile.rows, static_cast<int32_t>(partial), parts, {}};
        }
        for (int32_t part = 0; part < parts; ++part, ++item) {
            if (item >= p.most_items) continue; // offsets that fall: a fault has been raised
            const int64_t begin = tile.begin + int64_t{part} * slots;
            p.plan.items[item] = KvAttentionItem{tile.sequence,
                                                 tile.head,
                                                 tile.row,
                                                 tile.rows,
                                                 static_cast<int32_t>(begin),
                                                 static_cast<int32_t>(gpu::min(begin + slots, int64_t{tile.end})),
                                                 part == 0 ? tile.sinks : 0,
                                                 several ? static_cast<int32_t>(partial) : -1};
            partial += tile.rows;
        }
        items += all_parts;
        merges += all_several;
        partials += all_partials;
    };
    GPU_UNROLL_BY(1)
    for (int kind = 0; kind < 2; ++kind) {
        slots = part_slots(p, kind == 0, chunk);
        for_each_tile(p, smem, kind == 0, write);
        if (kind == 0) few_items = items;
    }
    if (gpu::thread_x() == 0) {
        KvAttentionPlanHeader header{};
        header.magic = kPlanMagic;
        header.batch = static_cast<int32_t>(p.offsets.batch);
        header.kv_heads = p.kv_heads;
        header.tokens = static_cast<int32_t>(p.offsets.rows);
        header.group = p.group;
        header.few_items = static_cast<int32_t>(gpu::min(few_items, p.most_items));
        header.items = static_cast<int32_t>(gpu::min(items, p.most_items));
        header.merges = static_cast<int32_t>(gpu::min(merges, p.most_merges));
        header.partials = static_cast<int32_t>(gpu::min(partials, p.most_partials));
        header.chunk = chunk;
        *p.plan.header = header;
    }
}

} // namespace strata
