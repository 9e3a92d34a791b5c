// SPDX-License-Identifier: Apache-2.0
// How the work of kv_attention is cut: tiles of query rows, each against parts of its slots.
//
//   rows of one (sequence, head):  token 0: G query heads | token 1: G | ...      a tile is few_rows or many_rows of them
//   slots that a tile sees:        [0, sinks) and [begin, end);  a part takes `chunk` slots of the latter, the first part the sinks as well
//                                  (row by row less: row r sees [0, visible) without [min(window_sinks, start), start), start = max(0, visible -
//                                  window))
//
//              slots  0 ........ chunk ........ 2 chunk ... end
//              tile   | item 0   | item 1       | item 2  |       several items: a partial result each, merged in this order
//
// chunk is the smallest multiple of 64 for which the items stay within what fills the machine, so that a long sequence
// among short ones is cut and a crowd of short ones is not; on GPUs no part is shorter than half of what fills one place of the machine. A
// batch-invariant plan takes a fixed chunk for tiles of few_rows and cuts no others. The same words are written by build_plan on the host and by a
// kernel on the GPU; they are int32, so that they can be copied anywhere.
#pragma once

#include "ops/kv_attention/kv_attention.h"

namespace strata {

inline constexpr std::int32_t kPlanMagic = 0x4b565031; // "KVP1"
inline constexpr std::int32_t kPlanSlots = 64;         // a part is a multiple of it

/// What a device wants. Counts of a device are fixed numbers: results must not depend on threads.
struct KvAttentionSplit {
    std::int32_t few_limit; // a sequence of at most this many rows a head is cut into tiles of few_rows, others of many_rows
    std::int32_t few_rows;
    std::int32_t many_rows;
    std::int32_t target; // items that fill the device
    std::int32_t least;  // a part has at least this many slots
    std::int32_t fixed;  // slots of a part in batch-invariant runs
    std::int32_t share;  // a part has at least this many times less than all slots over target: shorter ones balance nothing; 0: may be shorter
};
/// 64 items feed the cores of a large machine; 256 slots are 64 KiB and more of K and V for a partial result of a few KiB.
inline constexpr KvAttentionSplit kCpuSplit{8, 8, 96, 64, 256, 2048, 0};
/// Two blocks a multiprocessor; below 128 slots one more block costs more than it saves.
constexpr KvAttentionSplit gpu_split(std::int32_t multiprocessors) { return {63, 16, 128, 2 * multiprocessors, 128, 1024, 2}; }

struct KvAttentionPlanHeader {
    std::int32_t magic;
    std::int32_t batch, kv_heads, tokens, group; // of the problem it was made for
    std::int32_t few_items;                      // items [0, few_items) have tiles of few_rows, [few_items, items) of many_rows
    std::int32_t items;
    std::int32_t merges;
    std::int32_t partials; // rows of partial results
    std::int32_t chunk;    // slots of a part; batch-invariant: of few-row tiles
    std::int32_t reserved[6];
};

struct KvAttentionItem {
    std::int32_t sequence, head;
    std::int32_t row, rows;  // of the (sequence, head)
    std::int32_t begin, end; // slots
    std::int32_t sinks;      // slots [0, sinks) are seen as well; sinks <= begin
    std::int32_t partial;    // first of the `rows` rows of partial results that it writes; -1: the tile has no other item
};

/// A tile with several items: part i of row r is the row first + i * rows + r of the partial results.
struct KvAttentionMerge {
    std::int32_t sequence, head;
    std::int32_t row, rows;
    std::int32_t first, parts;
    std::int32_t reserved[2];
};

/// Bounds that depend on shapes alone and grow with every extent.
struct KvAttentionPlanBounds {
    std::int64_t items, merges, partials; // partials: rows

    std::int64_t words() const {
        return static_cast<std::int64_t>((sizeof(KvAttentionPlanHeader) + static_cast<std::size_t>(items) * sizeof(KvAttentionItem) +
                                          static_cast<std::size_t>(merges) * sizeof(KvAttentionMerge)) /
                                         sizeof(std::int32_t));
    }
};
inline KvAttentionPlanBounds plan_bounds(const KvAttentionProblem &p, const KvAttentionSplit &split) {
    const auto ceil_div = [](std::int64_t x, std::int64_t y) { return (x + y - 1) / y; };
    const auto smaller = [](std::int64_t x, std::int64_t y) { return x < y ? x : y; };
    const std::int64_t rows = p.tokens * p.group;
    const std::int64_t least_rows = smaller(split.few_rows, split.many_rows);
    const std::int64_t most_rows = split.few_rows + split.many_rows - least_rows;
    const std::int64_t tiles = smaller(rows, rows / least_rows + p.cache.batch) * p.cache.kv_heads;
    const std::int64_t parts = ceil_div(p.max_length, p.batch_invariant ? split.fixed : split.least);
    if (parts <= 1) return {tiles, 0, 0};
    if (p.batch_invariant) {
        const std::int64_t few_tiles = smaller(rows, p.cache.batch * ceil_div(split.few_limit, split.few_rows)) * p.cache.kv_heads;
        const std::int64_t few_rows = smaller(rows, p.cache.batch * split.few_limit) * p.cache.kv_heads;
        return {tiles + few_tiles * parts, few_tiles, few_rows * parts};
    }
    // Beside one item a tile there are at most `target` more, so at most `target` tiles have several, of 2 target items in all.
    return {smaller(tiles * parts, tiles + split.target), smaller(tiles, split.target),
            smaller(rows * p.cache.kv_heads * parts, 2 * split.target * most_rows)};
}

/// The parts of a plan in memory of plan_bounds().words() words.
struct KvAttentionPlan {
    KvAttentionPlanHeader *header;
    KvAttentionItem *items;
    KvAttentionMerge *merges;
};
inline KvAttentionPlan plan_at(void *words, const KvAttentionPlanBounds &bounds) {
    auto *header = static_cast<KvAttentionPlanHeader *>(words);
    auto *items = reinterpret_cast<KvAttentionItem *>(header + 1);
    return {header, items, reinterpret_cast<KvAttentionMerge *>(items + bounds.items)};
}

/// Writes the plan from lengths and offsets in host memory that have been checked.
void build_plan(const KvAttentionProblem &problem, const KvAttentionSplit &split, const KvAttentionPlan &plan);

/// Checks a caller's plan in host memory: made for this problem, nothing out of range.
Status check_plan(const KvAttentionProblem &problem, const KvAttentionSplit &split, const KvAttentionPlan &plan, const KvAttentionPlanBounds &bounds);

} // namespace strata
