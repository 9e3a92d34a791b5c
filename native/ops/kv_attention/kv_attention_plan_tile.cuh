// SPDX-License-Identifier: Apache-2.0
// kv_attention: what both ways to the plan on the device share: parameters, shared memory, sums over the block, a tile, bounds of the chunk.
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

/// A tile's slots: [0, sinks) and [begin, end).
struct PlanTile {
    int32_t sequence, head, row, rows;
    int32_t begin, end, sinks;
};

/// A tile of a small plan, with the numbers of its first item and first row of partial results.
struct PlacedTile {
    PlanTile tile;
    int32_t item, partial, parts;
};

struct PlanSmem {
    int32_t first[2][kPlanThreads]; // number of a sequence's first tile, among the tiles of kPlanThreads sequences; [1]: of many rows
    int64_t warp_sums[kPlanWarps];
    int32_t tokens[kPlanThreads];
    int32_t scans[4][kPlanWarps];
    int32_t rounds[2][kPlanWarps]; // of the search, in turns
    union {
        int32_t slots[kCachedTiles];
        PlacedTile placed[kPlanThreads];
    };
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

/// Turns each of a thread's numbers into the sum of that of the threads before it; the sums of all threads go to `totals`. Everybody must
/// have met since sums[] was last read.
template <std::size_t Count>
GPU_DEVICE void block_scan(int32_t (&sums)[4][kPlanWarps], int32_t (&values)[Count], int32_t (&totals)[Count]) {
    int32_t before[Count];
    GPU_UNROLL
    for (std::size_t i = 0; i < Count; ++i) before[i] = values[i];
    GPU_UNROLL
    for (int by = 1; by < gpu::kWarpSize; by *= 2) {
        GPU_UNROLL
        for (std::size_t i = 0; i < Count; ++i) {
            const int32_t other = gpu::shfl_up(before[i], by);
            if (gpu::lane_id() >= by) before[i] += other;
        }
    }
    if (gpu::lane_id() == gpu::kWarpSize - 1) {
        GPU_UNROLL
        for (std::size_t i = 0; i < Count; ++i) sums[i][gpu::warp_id()] = before[i];
    }
    gpu::sync_threads();
    GPU_UNROLL
    for (std::size_t i = 0; i < Count; ++i) {
        before[i] -= values[i];
        totals[i] = 0;
        GPU_UNROLL
        for (int w = 0; w < kPlanWarps; ++w) {
            if (w < gpu::warp_id()) before[i] += sums[i][w];
            totals[i] += sums[i][w];
        }
        values[i] = before[i];
    }
}

/// The last of first[0 ... count) that is not above a number.
GPU_DEVICE int last_not_above(const int32_t (&first)[kPlanThreads], int count, int32_t number) {
    int low = 0;
    int high = count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (first[middle] <= number) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/// The rows of a sequence's tile, the within-th of its kind: backwards, as on the host.
GPU_DEVICE PlanTile tile_rows_of(const PlanParams &p, int64_t sequence, int32_t tokens, bool few, int32_t within) {
    const int32_t tile_rows = few ? kFewRows : kItemRows;
    const int32_t rows = tokens * p.group;
    const int32_t step = within / p.kv_heads;
    PlanTile tile{};
    tile.sequence = static_cast<int32_t>(sequence);
    tile.head = within - step * p.kv_heads;
    tile.row = ((few ? gpu::ceil_div(rows, kFewRows) : gpu::ceil_div(rows, kItemRows)) - 1 - step) * tile_rows;
    tile.rows = gpu::min(tile_rows, rows - tile.row);
    return tile;
}

/// And its slots, from the length of its sequence and head.
GPU_DEVICE void set_slots(const PlanParams &p, int32_t tokens, int64_t length, PlanTile &tile) {
    const int64_t end = plan_visible(p, tokens, length, tile.row + tile.rows - 1);
    int64_t begin = 0;
    if (p.window > 0) begin = gpu::min(gpu::max(int64_t{0}, plan_visible(p, tokens, length, tile.row) - p.window), end);
    const bool apart = begin > p.window_sinks; // else the sinks reach into the windows: one run of slots
    tile.begin = apart ? static_cast<int32_t>(begin) : 0;
    tile.end = static_cast<int32_t>(end);
    tile.sinks = p.window > 0 && apart ? p.window_sinks : 0;
}

/// Slots of a part of a tile: batch-invariant plans leave tiles of many rows whole.
GPU_DEVICE int32_t part_slots(const PlanParams &p, bool few, int32_t chunk) { return p.batch_invariant && !few ? INT32_MAX : chunk; }
GPU_DEVICE int32_t plan_parts(int32_t slots, int32_t chunk) {
    const uint32_t whole = static_cast<uint32_t>(slots) / static_cast<uint32_t>(chunk);
    return gpu::max(1, static_cast<int32_t>(whole) + (static_cast<int32_t>(whole) * chunk < slots ? 1 : 0));
}

/// x / y rounded up, of numbers that are not negative and usually small.
GPU_DEVICE int64_t ceil_div_wide(int64_t x, int64_t y) {
    const int64_t up = x + y - 1;
    return up <= INT32_MAX ? int64_t{static_cast<uint32_t>(up) / static_cast<uint32_t>(y)} : up / y;
}

/// Where the chunk is looked for, in units of kPlanSlots, and the items it may have.
struct ChunkRange {
    int64_t most;
    int32_t low, high;
};
GPU_DEVICE ChunkRange chunk_range(const PlanParams &p, int64_t tiles, int64_t seen) {
    const int64_t most = tiles < p.split.target ? p.split.target : tiles + p.split.target;
    const int64_t slots = gpu::max(p.max_length, int64_t{1});
    const auto units = [](int64_t of) { return static_cast<int32_t>((of + kPlanSlots - 1) / kPlanSlots); };
    // A chunk has seen / chunk items at least, and no more than one a tile beyond that.
    const int32_t least = p.split.least / kPlanSlots;
    const int32_t enough = most > tiles ? units(ceil_div_wide(seen, most - tiles)) : INT32_MAX;
    const int32_t share = p.split.share == 0 ? 0 : units(ceil_div_wide(seen, int64_t{p.split.share} * p.split.target));
    const int32_t low = gpu::max(gpu::max(least, share), units(ceil_div_wide(seen, most)));
    return ChunkRange{most, low, gpu::max(low, gpu::min(gpu::max(least, units(slots)), enough))};
}

} // namespace strata
