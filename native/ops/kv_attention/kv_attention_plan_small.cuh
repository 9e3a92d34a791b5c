// SPDX-License-Identifier: Apache-2.0
// kv_attention: the plan on the device for no more sequences and tiles than the block has threads, which is every small batch's decode step.
//
// Such a plan is made while everybody waits for it, and its time is the latency of each step, so that steps are few: a thread finds its
// tile once and keeps it, sums that belong together share their meetings, and items are written by all threads.
#pragma once

#include "ops/kv_attention/kv_attention_plan_tile.cuh"

namespace strata {

static_assert(gpu_split(1).few_rows == kFewRows && gpu_split(1).many_rows == kItemRows);

/// The smallest chunk with no more items than wanted; `slots`: of the thread's tile, or -1.
GPU_DEVICE int32_t choose_small_chunk(const PlanParams &p, PlanSmem &smem, int32_t tiles, int32_t slots) {
    if (p.batch_invariant) return p.split.fixed;
    const ChunkRange range = chunk_range(p, tiles, block_sum(smem, gpu::max(slots, 0)));
    int32_t low = range.low;
    int32_t high = range.high;
    for (int round = 0; low < high; round ^= 1) {
        const int32_t middle = low + (high - low) / 2;
        const int32_t mine = gpu::warp_reduce_add(slots < 0 ? 0 : plan_parts(slots, middle * kPlanSlots));
        if (gpu::lane_id() == 0) smem.rounds[round][gpu::warp_id()] = mine;
        gpu::sync_threads();
        int64_t items = 0;
        GPU_UNROLL
        for (int w = 0; w < kPlanWarps; ++w) items += smem.rounds[round][w];
        if (items <= range.most) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low * kPlanSlots;
}

/// 32 bytes of the plan; the plan of a caller may begin at any word.
template <class Record>
GPU_DEVICE void write_record(Record *to, const Record &record, bool wide) {
    static_assert(sizeof(Record) == 2 * sizeof(gpu::U4));
    if (wide) {
        struct alignas(16) Halves {
            gpu::U4 half[2];
        };
        Halves halves;
        __builtin_memcpy(&halves, &record, sizeof(record));
        gpu::store16(to, halves.half[0]);
        gpu::store16(reinterpret_cast<gpu::U4 *>(to) + 1, halves.half[1]);
    } else {
        *to = record;
    }
}

/// The counts of a plan's header.
struct PlanCounts {
    int64_t items, few_items, merges, partials;
    int32_t chunk;
};

/// Writes items and merges; false, and nothing written, where there are too many sequences or tiles.
GPU_DEVICE bool plan_small(const PlanParams &p, PlanSmem &smem, PlanCounts &counts) {
    if (p.offsets.batch > kPlanThreads) return false;
    const int thread = gpu::thread_x();
    const auto batch = static_cast<int32_t>(p.offsets.batch);

    // ---- tiles: in a decode step each sequence and head has one, so that their lengths can be under way while the offsets are
    const int32_t guess = thread / p.kv_heads;
    const int32_t guess_head = thread - guess * p.kv_heads;
    const int32_t guess_length = guess < batch ? length_entry(p.cache, guess, guess_head) : 0;
    const int64_t tokens = thread < batch ? rows_of(p.offsets, thread, p.fault).count : 0;
    const auto rows = static_cast<int32_t>(tokens * p.group); // an item's rows are int32
    const bool few_sequence = rows <= p.split.few_limit;
    const int32_t tiles = gpu::min((few_sequence ? gpu::ceil_div(rows, kFewRows) : gpu::ceil_div(rows, kItemRows)) * p.kv_heads, kPlanThreads + 1);
    int32_t first[2] = {few_sequence ? tiles : 0, few_sequence ? 0 : tiles};
    int32_t of_kind[2];
    block_scan(smem.scans, first, of_kind);
    const int32_t all = of_kind[0] + of_kind[1];
    if (all > kPlanThreads) return false;
    smem.first[0][thread] = first[0];
    smem.first[1][thread] = first[1];
    smem.tokens[thread] = static_cast<int32_t>(tokens);
    gpu::sync_threads();
    const bool there = thread < all;
    const bool few = thread < of_kind[0];
    PlacedTile mine{};
    if (there) {
        const int32_t number = few ? thread : thread - of_kind[0];
        const int sequence = last_not_above(smem.first[few ? 0 : 1], batch, number);
        const int32_t of_tokens = smem.tokens[sequence];
        mine.tile = tile_rows_of(p, sequence, of_tokens, few, number - smem.first[few ? 0 : 1][sequence]);
        const bool guessed = sequence == guess && mine.tile.head == guess_head;
        const int32_t length = guessed ? guess_length : length_entry(p.cache, sequence, mine.tile.head);
        set_slots(p, of_tokens, checked_length(length, p.max_length, p.fault), mine.tile);
    }
    const int32_t slots = mine.tile.end - mine.tile.begin;

    // ---- items: how many, and where each tile's begin
    counts.chunk = choose_small_chunk(p, smem, all, there ? slots : -1);
    const int32_t part = part_slots(p, few, counts.chunk);
    mine.parts = there ? plan_parts(slots, part) : 0;
    const bool several = mine.parts > 1;
    int32_t places[4] = {mine.parts, several ? 1 : 0, several ? mine.parts * mine.tile.rows : 0, few ? mine.parts : 0};
    int32_t totals[4];
    block_scan(smem.scans, places, totals);
    mine.item = places[0];
    mine.partial = several ? places[2] : -1;
    smem.placed[thread] = mine;
    smem.first[0][thread] = mine.item;
    counts.items = totals[0];
    counts.merges = totals[1];
    counts.partials = totals[2];
    counts.few_items = totals[3];
    const bool wide = reinterpret_cast<uintptr_t>(p.plan.items) % sizeof(gpu::U4) == 0;
    if (several && places[1] < p.most_merges) {
        const KvAttentionMerge merge{mine.tile.sequence, mine.tile.head, mine.tile.row, mine.tile.rows, mine.partial, mine.parts, {}};
        write_record(p.plan.merges + places[1], merge, wide);
    }
    gpu::sync_threads();

    // ---- store: an item a thread; where offsets fall, which is a fault, there may be more than there is room for
    const auto items = static_cast<int32_t>(gpu::min(counts.items, p.most_items));
    for (int32_t number = thread; number < items; number += kPlanThreads) {
        const PlacedTile &of = smem.placed[last_not_above(smem.first[0], all, number)];
        const int32_t index = number - of.item;
        const int32_t step = part_slots(p, number < counts.few_items, counts.chunk);
        const int64_t begin = of.tile.begin + int64_t{index} * step;
        const KvAttentionItem item{of.tile.sequence,
                                   of.tile.head,
                                   of.tile.row,
                                   of.tile.rows,
                                   static_cast<int32_t>(begin),
                                   static_cast<int32_t>(gpu::min(begin + step, int64_t{of.tile.end})),
                                   index == 0 ? of.tile.sinks : 0,
                                   of.parts > 1 ? of.partial + index * of.tile.rows : -1};
        write_record(p.plan.items + number, item, wide);
    }
    return true;
}

} // namespace strata
