// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU: out = softmax(scale q K^T) V over paged K and V, with online softmax in tiles of 64 slots.
//
// Shapes   q, out [tokens, q_heads, head_dim]; K, V pages [page_size, head_dim]; lse [tokens, q_heads].
// Bound    decode: bytes of K and V, each read once for the whole group of query heads; prefill: multiply-adds.
// Split    The rows of one (sequence, KV head) are its tokens times its query heads, head innermost: 48 rows a block.
//          An item is one block against one range of slots. Ranges exist only where blocks are few:
//
//              slots  0 ........ chunk ........ 2 chunk ... length
//              block  | item 0   | item 1       | item 2  |       partial (max, sum, o) each, merged in this order
//
//          Blocks and ranges follow from the shapes and the lengths, never from the number of threads.
#include "core/thread_pool.h"
#include "ops/kv_attention/kv_attention.h"
#include "ops/kv_attention/kv_attention_tile.h"

#include <cmath>

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int64_t kItemsWanted = 64;    // enough for the cores of a large machine
constexpr std::int64_t kSlotsPerRange = 256; // 64 KiB and more of K and V for a partial result of a few KiB

constexpr std::int64_t ceil_div(std::int64_t x, std::int64_t y) { return (x + y - 1) / y; }

/// Rows times ranges that can need a partial result. Ranges are ceil(64 / (kv_heads blocks)) at most and a block has 48
/// rows at most, so their product stays below rows + 64 * 48, and rows below 64 * 48 where there is more than one range.
std::int64_t most_partials(const KvAttentionProblem &p) {
    constexpr std::int64_t kLimit = kItemsWanted * kBlockRows;
    const std::int64_t ranges = ceil_div(p.max_length, kSlotsPerRange);
    const std::int64_t rows = p.tokens * p.q_heads;
    if (ranges <= 1 || rows == 0) return 0;
    const std::int64_t bound = (rows < kLimit ? rows : kLimit) + kLimit;
    return rows < bound && rows * ranges < bound ? rows * ranges : bound;
}

/// What all items share.
struct Run {
    const KvAttentionProblem &p;
    std::int64_t width;        // head_dim in whole vectors, as floats
    std::int64_t *first_block; // [batch + 1]
    float *scratch;            // [threads][Tile::floats(width)]
    float *partial_o;          // [tokens * q_heads][ranges][width]
    float *partial_state;      // [tokens * q_heads][ranges][max, sum]
    std::int64_t blocks = 0;
    std::int64_t ranges = 1; // at most, of any length

    std::int64_t first_row(std::int64_t sequence) const {
        if (!p.row_offsets.present()) return sequence == 0 ? 0 : p.tokens;
        return static_cast<const std::int32_t *>(p.row_offsets.data)[sequence * p.row_offsets.stride[0]];
    }

    /// Slots of one range of a length: whole tiles, so that a tile is never cut.
    std::int64_t range_slots(std::int64_t length) const {
        const std::int64_t wanted = ceil_div(length, kSlotsPerRange);
        const std::int64_t count = wanted < ranges ? wanted : ranges;
        return count <= 1 ? (length > 0 ? length : 1) : ceil_div(ceil_div(length, count), kTile) * kTile;
    }
};

/// Rows [first, first + count) of the (sequence, KV head) that one block has.
struct Block {
    std::int64_t sequence;
    std::int64_t head;
    std::int64_t token;  // the sequence's first row in q
    std::int64_t tokens; // of the sequence
    std::int64_t first;
    std::int32_t count;
    std::int64_t length;
    std::int64_t range_slots;

    std::int64_t ranges() const { return length > range_slots ? ceil_div(length, range_slots) : 1; }
};

Block find_block(const Run &run, std::int64_t block, std::int64_t head) {
    std::int64_t low = 0;
    std::int64_t high = run.p.cache.batch - 1;
    while (low < high) { // the last sequence whose blocks begin at or before this one
        const std::int64_t middle = (low + high + 1) / 2;
        if (run.first_block[middle] <= block) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Block found{};
    found.sequence = low;
    found.head = head;
    found.token = run.first_row(low);
    found.tokens = run.first_row(low + 1) - found.token;
    found.first = (block - run.first_block[low]) * kBlockRows;
    const std::int64_t left = found.tokens * run.p.group - found.first;
    found.count = static_cast<std::int32_t>(left < kBlockRows ? left : kBlockRows);
    found.length = run.p.cache.length(low, head);
    found.range_slots = run.range_slots(found.length);
    return found;
}

/// Token and query head of a block's row r, as an index into [tokens][q_heads].
std::int64_t token_of(const Run &run, const Block &block, std::int32_t r) { return block.token + (block.first + r) / run.p.group; }
std::int64_t head_of(const Run &run, const Block &block, std::int32_t r) { return block.head * run.p.group + (block.first + r) % run.p.group; }

/// Slots that row r of the block sees.
std::int64_t visible(const Run &run, const Block &block, std::int32_t r) {
    if (!run.p.causal) return block.length;
    const std::int64_t last = block.length - block.tokens + (block.first + r) / run.p.group;
    return last < 0 ? 0 : last + 1;
}

void load_queries(const Run &run, const Block &block, Tile &tile) {
    const View &q = run.p.q;
    const F32x16 scale = F32x16::set(run.p.scale);
    for (std::int32_t r = 0; r < block.count; ++r) {
        const std::int64_t at = token_of(run, block, r) * q.stride[0] + head_of(run, block, r) * q.stride[1];
        for (std::int64_t d = 0; d < run.width; d += 16) {
            const std::int64_t left = run.p.cache.head_dim - d;
            const F32x16 x = load_as_f32(q.dtype, q.data, at + d, static_cast<std::int32_t>(left < 16 ? left : 16));
            (x * scale).store(tile.q + r * run.width + d);
            F32x16::zero().store(tile.o + r * run.width + d);
        }
    }
    for (std::int32_t r = 0; r < kBlockRows; ++r) {
        tile.max[r] = -__builtin_inff();
        tile.sum[r] = 0.0F;
    }
    tile.rows = block.count;
}

/// Where the rows of slots [first, first + tile.slots) lie, and of the keys up to `end` that come next.
void find_rows(const KvCacheView &cache, const Block &block, std::int64_t first, std::int64_t end, Tile &tile) {
    const std::int32_t *table = cache.table_row(block.sequence, block.head);
    const std::int64_t bytes = dtype_bytes(cache.keys.dtype);
    const auto *keys = static_cast<const unsigned char *>(cache.keys.data);
    const auto *values = static_cast<const unsigned char *>(cache.values.data);
    const auto wanted = static_cast<std::int32_t>(end - first < kTile + kAhead ? end - first : kTile + kAhead);
    std::int64_t page = first / cache.page_size;
    std::int64_t in_page = first - page * cache.page_size;
    std::int32_t t = 0;
    for (; t < wanted; ++page, in_page = 0) {
        const unsigned char *key = keys + cache.row(cache.keys, table[page], block.head, in_page) * bytes;
        const unsigned char *value = values + cache.row(cache.values, table[page], block.head, in_page) * bytes;
        for (; t < wanted && in_page < cache.page_size; ++t, ++in_page) {
            tile.key_rows[t] = key;
            if (t < kTile) tile.value_rows[t] = value;
            key += cache.keys.stride[2] * bytes;
            value += cache.values.stride[2] * bytes;
        }
    }
    for (; t < kTile + kAhead; ++t) {
        tile.key_rows[t] = tile.key_rows[t - 1];
        if (t < kTile) tile.value_rows[t] = tile.value_rows[t - 1];
    }
}

/// out = o / sum, lse = max + ln sum; a row that saw nothing is 0 and -inf.
void finish_row(const Run &run, std::int64_t token, std::int64_t head, const float *o, float max, float sum) {
    const View &out = run.p.out;
    const std::int64_t at = token * out.stride[0] + head * out.stride[1];
    const F32x16 divisor = F32x16::set(sum == 0.0F ? 1.0F : sum);
    for (std::int64_t d = 0; d < run.p.cache.head_dim; d += 16) {
        const std::int64_t left = run.p.cache.head_dim - d;
        store_from_f32(out.dtype, out.data, at + d, F32x16::load(o + d) / divisor, static_cast<std::int32_t>(left < 16 ? left : 16));
    }
    if (run.p.lse.present()) {
        auto *lse = static_cast<float *>(run.p.lse.data) + token * run.p.lse.stride[0] + head * run.p.lse.stride[1];
        *lse = sum == 0.0F ? -__builtin_inff() : max + std::log(sum);
    }
}

std::int64_t partial_index(const Run &run, const Block &block, std::int32_t r, std::int64_t range) {
    return (token_of(run, block, r) * run.p.q_heads + head_of(run, block, r)) * run.ranges + range;
}

void finish_item(const Run &run, const Block &block, std::int64_t range, const Tile &tile) {
    for (std::int32_t r = 0; r < block.count; ++r) {
        const float *o = tile.o + r * run.width;
        if (block.ranges() == 1) {
            finish_row(run, token_of(run, block, r), head_of(run, block, r), o, tile.max[r], tile.sum[r]);
            continue;
        }
        const std::int64_t at = partial_index(run, block, r, range);
        std::memcpy(run.partial_o + at * run.width, o, static_cast<std::size_t>(run.width) * sizeof(float));
        run.partial_state[2 * at] = tile.max[r];
        run.partial_state[2 * at + 1] = tile.sum[r];
    }
}

template <std::int32_t Dtype>
void run_item(const Run &run, const Block &block, std::int64_t range, float *scratch) {
    if (range >= block.ranges()) return;
    Tile tile;
    tile.place(scratch, run.width);
    load_queries(run, block, tile);
    const std::int64_t seen = visible(run, block, block.count - 1);
    const std::int64_t limit = (range + 1) * block.range_slots;
    const std::int64_t end = seen < limit ? seen : limit;
    for (std::int64_t first = range * block.range_slots; first < end; first += kTile) {
        tile.slots = static_cast<std::int32_t>(end - first < kTile ? end - first : kTile);
        for (std::int32_t r = 0; r < block.count; ++r) {
            const std::int64_t ahead = visible(run, block, r) - first;
            tile.counts[r] = ahead < 0 ? 0 : ahead < tile.slots ? static_cast<std::int32_t>(ahead) : tile.slots;
        }
        find_rows(run.p.cache, block, first, end, tile);
        attend<Dtype>(tile, run.p.cache.head_dim);
    }
    finish_item(run, block, range, tile);
}

/// Adds the partial results of a block's rows in the order of their ranges.
void merge_block(const Run &run, const Block &block, float *scratch) {
    const std::int64_t ranges = block.ranges();
    if (ranges == 1) return;
    for (std::int32_t r = 0; r < block.count; ++r) {
        const std::int64_t at = partial_index(run, block, r, 0);
        const float *state = run.partial_state + 2 * at;
        float max = state[0];
        for (std::int64_t i = 1; i < ranges; ++i) max = state[2 * i] > max ? state[2 * i] : max;
        const float base = max == -__builtin_inff() ? 0.0F : max;
        float weights[kItemsWanted];
        float sum = 0.0F;
        for (std::int64_t i = 0; i < ranges; ++i) {
            weights[i] = reduce_max(exp(F32x16::set(state[2 * i] - base)));
            sum += state[2 * i + 1] * weights[i];
        }
        for (std::int64_t d = 0; d < run.width; d += 16) {
            F32x16 o = F32x16::zero();
            for (std::int64_t i = 0; i < ranges; ++i) {
                o = fma(F32x16::load(run.partial_o + (at + i) * run.width + d), F32x16::set(weights[i]), o);
            }
            o.store(scratch + d);
        }
        finish_row(run, token_of(run, block, r), head_of(run, block, r), scratch, max, sum);
    }
}

void count_blocks(Run &run) {
    const KvAttentionProblem &p = run.p;
    run.first_block[0] = 0;
    for (std::int64_t b = 0; b < p.cache.batch; ++b) {
        const std::int64_t rows = (run.first_row(b + 1) - run.first_row(b)) * p.group;
        run.first_block[b + 1] = run.first_block[b] + ceil_div(rows, kBlockRows);
    }
    run.blocks = run.first_block[p.cache.batch];
    if (run.blocks == 0) return;
    const std::int64_t wanted = ceil_div(kItemsWanted, run.blocks * p.cache.kv_heads);
    const std::int64_t most = ceil_div(p.max_length, kSlotsPerRange);
    run.ranges = most < 1 ? 1 : wanted < most ? wanted : most;
}

template <std::int32_t Dtype>
void run_all(const Run &run, ThreadPool &pool) {
    const std::int64_t kv_heads = run.p.cache.kv_heads;
    const std::int64_t floats = Tile::floats(run.width);
    // Backwards: with a causal mask the last blocks see most, and long items must not come last.
    parallel_for(pool, run.blocks * kv_heads * run.ranges, [&](std::int64_t item, std::int32_t worker) {
        const std::int64_t place = item / run.ranges;
        const Block block = find_block(run, run.blocks - 1 - place / kv_heads, place % kv_heads);
        run_item<Dtype>(run, block, item % run.ranges, run.scratch + worker * floats);
    });
    if (run.ranges == 1) return;
    parallel_for(pool, run.blocks * kv_heads, [&](std::int64_t place, std::int32_t worker) {
        merge_block(run, find_block(run, place / kv_heads, place % kv_heads), run.scratch + worker * floats);
    });
}

} // namespace

Status kv_attention_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvAttentionProblem *>(problem);
    exec.impl = IMPL_NAME("kv_attention");
    Run run{p, ceil_div(p.cache.head_dim, 16) * 16, nullptr, nullptr, nullptr, nullptr};
    const std::int64_t partials = most_partials(p);
    run.first_block = exec.planner.take<std::int64_t>(p.cache.batch + 1);
    run.scratch = exec.planner.take<float>(exec.pool->threads() * Tile::floats(run.width));
    run.partial_o = exec.planner.take<float>(partials * run.width);
    run.partial_state = exec.planner.take<float>(partials * 2);
    if (exec.dry_run) return STRATA_OK;
    count_blocks(run);
    switch (p.cache.keys.dtype) {
    case STRATA_DTYPE_F32: run_all<STRATA_DTYPE_F32>(run, *exec.pool); break;
    case STRATA_DTYPE_F16: run_all<STRATA_DTYPE_F16>(run, *exec.pool); break;
    default: run_all<STRATA_DTYPE_BF16>(run, *exec.pool); break;
    }
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
