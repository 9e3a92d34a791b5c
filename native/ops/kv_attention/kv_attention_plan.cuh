// SPDX-License-Identifier: Apache-2.0
// kv_attention: the plan on the device: the words that build_plan writes on the host, from lengths and offsets that only the GPU knows.
//
// One block, which takes a small plan (kv_attention_plan_small.cuh) or, here, one of any size: its threads take sequences, then the tiles
// of these sequences: first[] says which numbers a sequence's tiles have. The slots of up to kCachedTiles tiles stay in shared memory, so
// that the search for the chunk costs a pass over it a step.
#pragma once

#include "ops/kv_attention/kv_attention_plan_small.cuh"

namespace strata {

/// body(there, tile) by all threads together, one tile each, for the tiles of sequences with few or with many rows, in the plan's order.
template <class Body>
GPU_DEVICE void for_each_tile(const PlanParams &p, PlanSmem &smem, bool few, Body &&body) {
    const int thread = gpu::thread_x();
    const int32_t tile_rows = few ? kFewRows : kItemRows;
    for (int64_t base = 0; base < p.offsets.batch; base += kPlanThreads) {
        const int64_t mine = base + thread;
        const int64_t tokens = mine < p.offsets.batch ? rows_of(p.offsets, mine, p.fault).count : 0;
        const auto rows = static_cast<int32_t>(tokens * p.group); // an item's rows are int32
        const bool taken = rows > 0 && few == (rows <= p.split.few_limit);
        int32_t first[1] = {taken ? gpu::ceil_div(rows, tile_rows) * p.kv_heads : 0};
        int32_t totals[1];
        block_scan(smem.scans, first, totals);
        const int32_t total = totals[0];
        smem.first[0][thread] = first[0];
        smem.tokens[thread] = static_cast<int32_t>(tokens);
        gpu::sync_threads();
        for (int32_t start = 0; start < total; start += kPlanThreads) {
            const int32_t number = start + thread;
            PlanTile tile{};
            if (number < total) {
                const int low = last_not_above(smem.first[0], kPlanThreads, number);
                tile = tile_rows_of(p, base + low, smem.tokens[low], few, number - smem.first[0][low]);
                set_slots(p, smem.tokens[low], checked_length(p.cache, tile.sequence, tile.head, p.max_length, p.fault), tile);
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
    const ChunkRange range = chunk_range(p, tiles, seen);
    int32_t low = range.low;
    int32_t high = range.high;
    while (low < high) {
        const int32_t middle = static_cast<int32_t>((int64_t{low} + high) / 2);
        if (count_items(p, smem, tiles, middle * kPlanSlots) <= range.most) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low * kPlanSlots;
}

/// Writes items and merges.
GPU_DEVICE void plan_large(const PlanParams &p, PlanSmem &smem, PlanCounts &counts) {
    const int32_t chunk = choose_chunk(p, smem);
    counts = PlanCounts{0, 0, 0, 0, chunk};
    int32_t slots = 0;
    const auto write = [&](bool there, const PlanTile &tile) {
        const int32_t parts = there ? plan_parts(tile.end - tile.begin, slots) : 0;
        const bool several = parts > 1;
        int32_t places[3] = {parts, several ? 1 : 0, several ? parts * tile.rows : 0};
        int32_t totals[3];
        gpu::sync_threads(); // the sums of the scan before have been read
        block_scan(smem.scans, places, totals);
        int64_t item = counts.items + places[0];
        const int64_t merge = counts.merges + places[1];
        int64_t partial = counts.partials + places[2];
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
        counts.items += totals[0];
        counts.merges += totals[1];
        counts.partials += totals[2];
    };
    GPU_UNROLL_BY(1)
    for (int kind = 0; kind < 2; ++kind) {
        slots = part_slots(p, kind == 0, chunk);
        for_each_tile(p, smem, kind == 0, write);
        if (kind == 0) counts.few_items = counts.items;
    }
}

GPU_KERNEL(kPlanThreads, 1) kv_attention_plan_kernel(PlanParams p) {
    GPU_DYNAMIC_SMEM(bytes);
    auto &smem = *reinterpret_cast<PlanSmem *>(bytes);
    gpu::let_next_start();
    PlanCounts counts{};
    if (!plan_small(p, smem, counts)) {
        gpu::sync_threads();
        plan_large(p, smem, counts);
    }
    if (gpu::thread_x() == kPlanThreads - 1) { // of a small plan, the thread with the least to do
        KvAttentionPlanHeader header{};
        header.magic = kPlanMagic;
        header.batch = static_cast<int32_t>(p.offsets.batch);
        header.kv_heads = p.kv_heads;
        header.tokens = static_cast<int32_t>(p.offsets.rows);
        header.group = p.group;
        header.few_items = static_cast<int32_t>(gpu::min(counts.few_items, p.most_items));
        header.items = static_cast<int32_t>(gpu::min(counts.items, p.most_items));
        header.merges = static_cast<int32_t>(gpu::min(counts.merges, p.most_merges));
        header.partials = static_cast<int32_t>(gpu::min(counts.partials, p.most_partials));
        header.chunk = counts.chunk;
        *p.plan.header = header;
    }
}

} // namespace strata
