// SPDX-License-Identifier: Apache-2.0
// kv_compact on the CPU: row i of each head becomes row kept[i], keys, values and side arrays together.
//
// Shapes   cache pools [pages, heads_in_page, page_size, head_dim]; kept [batch, kv_heads, max_kept] ascending slots.
// Bound    bytes: 2 * 2 * head_dim * element per moved slot (keys and values, read and written).
// Order    kept[i] >= i, so walking forward in place never overwrites a slot that is still to be read.
// Split    one chunk a head; the first pass, before anything is written, makes sure that heads do not touch each other's memory.
#include "core/thread_pool.h"
#include "ops/kv_compact/kv_compact.h"
#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

/// How often each lane (page, head in page) is in use by sources, and whether it is a destination.
struct Lanes {
    std::uint8_t *use;
    std::int64_t heads; // in a page

    std::uint8_t &at(std::int32_t page, std::int64_t head) const { return use[page * heads + (heads == 1 ? 0 : head)]; }
};
constexpr std::uint8_t kUsedOnce = 1;
constexpr std::uint8_t kUsedTwice = 2;
constexpr std::uint8_t kDestination = 4;

std::int64_t pages_of(const KvCacheView &cache, std::int64_t slots) { return (slots + cache.page_size - 1) / cache.page_size; }

void count_sources(const KvCompactProblem &p, const Lanes &lanes) {
    std::memset(lanes.use, 0, static_cast<std::size_t>(p.cache.pages * lanes.heads));
    for (std::int64_t b = 0; b < p.cache.batch; ++b) {
        for (std::int64_t h = 0; h < p.cache.kv_heads; ++h) {
            const std::int32_t *table = p.cache.table_row(b, h);
            const std::int64_t pages = pages_of(p.cache, p.cache.length(b, h));
            for (std::int64_t i = 0; i < pages; ++i) {
                std::uint8_t &use = lanes.at(table[i], h);
                use = use == 0 ? kUsedOnce : kUsedTwice;
            }
        }
    }
}

/// In place, a page that changes must belong to this head alone; pages in front of the first move may be shared.
Status check_own_pages(const KvCompactProblem &p, const Lanes &lanes, std::int64_t b, std::int64_t h) {
    const std::int32_t *kept = p.kept_row(b, h);
    const std::int32_t count = p.count(b, h);
    std::int32_t moved = 0;
    while (moved < count && kept[moved] == moved) {
        ++moved;
    }
    if (moved == count) {
        return STRATA_OK;
    }
    const std::int32_t *table = p.cache.table_row(b, h);
    for (std::int64_t i = moved / p.cache.page_size; i < pages_of(p.cache, count); ++i) {
        if (lanes.at(table[i], h) != kUsedOnce) {
            return fail(STRATA_E_INDEX, "kv_compact: cache.page_table[", b, ",", h, ",", i, "] is page ", table[i],
                        ", must be used by this head alone to be compacted in place; copy the shared page first or pass to_page_table");
        }
    }
    return STRATA_OK;
}

Status check_fresh_pages(const KvCompactProblem &p, const Lanes &lanes, std::int64_t b, std::int64_t h) {
    const std::int32_t *table = p.to_row(b, h);
    for (std::int64_t i = 0; i < pages_of(p.cache, p.count(b, h)); ++i) {
        std::uint8_t &use = lanes.at(table[i], h);
        if (use != 0) {
            return fail(STRATA_E_INDEX, "kv_compact: to_page_table[", b, ",", h, ",", i, "] is page ", table[i], ", which is ",
                        use == kDestination ? "named twice" : "a source page", ", must be a fresh page; take it from the free list");
        }
        use = kDestination;
    }
    return STRATA_OK;
}

Status check_pages(const KvCompactProblem &p, const Lanes &lanes) {
    count_sources(p, lanes);
    for (std::int64_t b = 0; b < p.cache.batch; ++b) {
        for (std::int64_t h = 0; h < p.cache.kv_heads; ++h) {
            TRY(p.in_place() ? check_own_pages(p, lanes, b, h) : check_fresh_pages(p, lanes, b, h));
        }
    }
    return STRATA_OK;
}

void copy_row(const View &pool, std::int64_t to, std::int64_t from, std::int64_t elements) {
    const std::int64_t size = dtype_bytes(pool.dtype);
    auto *base = static_cast<unsigned char *>(pool.data);
    std::memcpy(base + to * size, base + from * size, static_cast<std::size_t>(elements * size));
}

void compact_head(const KvCompactProblem &p, std::int64_t b, std::int64_t h) {
    const KvCacheView &cache = p.cache;
    const std::int32_t *kept = p.kept_row(b, h);
    const std::int32_t *from_table = cache.table_row(b, h);
    const std::int32_t *to_table = p.to_row(b, h);
    const std::int32_t count = p.count(b, h);
    const View *const sides[] = {&cache.positions, &cache.logit_bias, &cache.key_norms, &cache.value_norms};
    for (std::int32_t i = 0; i < count; ++i) {
        if (p.in_place() && kept[i] == i) {
            continue;
        }
        const std::int64_t from_page = from_table[kept[i] / cache.page_size];
        const std::int64_t to_page = to_table[i / cache.page_size];
        const std::int64_t from_slot = kept[i] % cache.page_size;
        const std::int64_t to_slot = i % cache.page_size;
        copy_row(cache.keys, cache.row(cache.keys, to_page, h, to_slot), cache.row(cache.keys, from_page, h, from_slot), cache.head_dim);
        copy_row(cache.values, cache.row(cache.values, to_page, h, to_slot), cache.row(cache.values, from_page, h, from_slot), cache.head_dim);
        for (const View *side : sides) {
            if (side->present()) copy_row(*side, cache.row(*side, to_page, h, to_slot), cache.row(*side, from_page, h, from_slot), 1);
        }
    }
    if (p.new_lengths.present()) {
        static_cast<std::int32_t *>(p.new_lengths.data)[b * p.new_lengths.stride[0] + h * p.new_lengths.stride[1]] = count;
    }
}

} // namespace

Status kv_compact_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvCompactProblem *>(problem);
    exec.impl = IMPL_NAME("kv_compact");
    const Lanes lanes{exec.planner.take<std::uint8_t>(p.cache.pages * p.cache.keys.shape[1]), p.cache.keys.shape[1]};
    if (exec.dry_run) {
        return STRATA_OK;
    }
    TRY(check_pages(p, lanes));
    parallel_for(*exec.pool, p.cache.batch * p.cache.kv_heads,
                 [&](std::int64_t chunk, std::int32_t) { compact_head(p, chunk / p.cache.kv_heads, chunk % p.cache.kv_heads); });
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
