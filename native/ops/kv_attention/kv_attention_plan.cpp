// SPDX-License-Identifier: Apache-2.0
// kv_attention: the plan on the host.
#include "ops/kv_attention/kv_attention_plan.h"

namespace strata {

namespace {

constexpr bool kFewFirst[] = {true, false};

constexpr std::int64_t ceil_div(std::int64_t x, std::int64_t y) { return (x + y - 1) / y; }
constexpr std::int64_t smaller(std::int64_t x, std::int64_t y) { return x < y ? x : y; }
constexpr std::int64_t larger(std::int64_t x, std::int64_t y) { return x > y ? x : y; }

/// Slots that a row sees without a window: [0, count).
std::int64_t visible(const KvAttentionProblem &p, std::int64_t tokens, std::int64_t length, std::int64_t row) {
    if (!p.causal) return length;
    return larger(0, smaller(length, length - tokens + row / p.group + 1));
}

/// A tile's slots.
struct Span {
    std::int64_t begin, end, sinks;

    std::int64_t parts(std::int64_t chunk) const { return larger(1, ceil_div(end - begin, chunk)); }
};

Span span_of(const KvAttentionProblem &p, std::int64_t tokens, std::int64_t length, std::int64_t row, std::int64_t rows) {
    Span span{0, visible(p, tokens, length, row + rows - 1), 0};
    if (p.window > 0) {
        span.begin = smaller(larger(0, visible(p, tokens, length, row) - p.window), span.end);
        if (span.begin > p.window_sinks) {
            span.sinks = p.window_sinks;
        } else {
            span.begin = 0; // the sinks reach into the windows: one run of slots
        }
    }
    return span;
}

/// body(sequence, head, row, rows, few, span) for every tile; many-row tiles backwards, because with a causal mask the last ones see most.
template <class Body>
void for_each_tile(const KvAttentionProblem &p, const KvAttentionSplit &split, bool few, Body &&body) {
    for (std::int64_t b = 0; b < p.cache.batch; ++b) {
        const std::int64_t tokens = p.first_row(b + 1) - p.first_row(b);
        const std::int64_t rows = tokens * p.group;
        const std::int64_t tile = few ? split.few_rows : split.many_rows;
        if (rows == 0 || few != (rows <= split.few_limit)) continue;
        for (std::int64_t t = ceil_div(rows, tile); t-- > 0;) {
            const std::int64_t row = t * tile;
            const std::int64_t count = smaller(tile, rows - row);
            for (std::int64_t h = 0; h < p.cache.kv_heads; ++h) {
                body(b, h, row, count, span_of(p, tokens, p.cache.length(b, h), row, count));
            }
        }
    }
}

/// Slots of a part of a tile; prefill is never short of tiles, so a batch-invariant plan leaves it whole.
std::int64_t part_slots(const KvAttentionProblem &p, bool few, std::int64_t chunk) { return p.batch_invariant && !few ? INT32_MAX : chunk; }

std::int64_t count_items(const KvAttentionProblem &p, const KvAttentionSplit &split, std::int64_t chunk) {
    std::int64_t items = 0;
    for (const bool few : kFewFirst) {
        for_each_tile(p, split, few, [&](std::int64_t, std::int64_t, std::int64_t, std::int64_t, const Span &span) {
            items += span.parts(part_slots(p, few, chunk));
        });
    }
    return items;
}

/// The least chunk by KvAttentionSplit::share, in units of kPlanSlots.
std::int64_t least_share(const KvAttentionProblem &p, const KvAttentionSplit &split) {
    if (split.share == 0) return 0;
    std::int64_t seen = 0;
    for (const bool few : kFewFirst) {
        for_each_tile(p, split, few,
                      [&](std::int64_t, std::int64_t, std::int64_t, std::int64_t, const Span &span) { seen += span.end - span.begin; });
    }
    return ceil_div(seen, std::int64_t{split.share} * split.target * kPlanSlots);
}

std::int64_t choose_chunk(const KvAttentionProblem &p, const KvAttentionSplit &split) {
    if (p.batch_invariant) return split.fixed;
    const std::int64_t whole = larger(split.least, ceil_div(larger(p.max_length, 1), kPlanSlots) * kPlanSlots);
    const std::int64_t tiles = count_items(p, split, whole);
    const std::int64_t most = tiles < split.target ? split.target : tiles + split.target;
    std::int64_t low = larger(split.least / kPlanSlots, least_share(p, split)); // the answer in units of kPlanSlots lies in low ... high
    std::int64_t high = larger(low, whole / kPlanSlots);
    while (low < high) {
        const std::int64_t middle = (low + high) / 2;
        if (count_items(p, split, middle * kPlanSlots) <= most) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low * kPlanSlots;
}

} // namespace

void build_plan(const KvAttentionProblem &p, const KvAttentionSplit &split, const KvAttentionPlan &plan) {
    const std::int64_t chunk = choose_chunk(p, split);
    KvAttentionPlanHeader header{};
    header.magic = kPlanMagic;
    header.batch = static_cast<std::int32_t>(p.cache.batch);
    header.kv_heads = static_cast<std::int32_t>(p.cache.kv_heads);
    header.tokens = static_cast<std::int32_t>(p.tokens);
    header.group = static_cast<std::int32_t>(p.group);
    header.chunk = static_cast<std::int32_t>(chunk);
    for (const bool few : kFewFirst) {
        for_each_tile(p, split, few, [&](std::int64_t b, std::int64_t h, std::int64_t row, std::int64_t rows, const Span &span) {
            const std::int64_t slots = part_slots(p, few, chunk);
            const std::int64_t parts = span.parts(slots);
            KvAttentionItem item{};
            item.sequence = static_cast<std::int32_t>(b);
            item.head = static_cast<std::int32_t>(h);
            item.row = static_cast<std::int32_t>(row);
            item.rows = static_cast<std::int32_t>(rows);
            if (parts > 1) {
                plan.merges[header.merges++] =
                    KvAttentionMerge{item.sequence, item.head, item.row, item.rows, header.partials, static_cast<std::int32_t>(parts), {}};
            }
            for (std::int64_t part = 0; part < parts; ++part) {
                item.begin = static_cast<std::int32_t>(span.begin + part * slots);
                item.end = static_cast<std::int32_t>(smaller(span.begin + (part + 1) * slots, span.end));
                item.sinks = part == 0 ? static_cast<std::int32_t>(span.sinks) : 0;
                item.partial = parts > 1 ? header.partials : -1;
                header.partials += parts > 1 ? item.rows : 0;
                plan.items[header.items++] = item;
            }
        });
        if (few) header.few_items = header.items;
    }
    *plan.header = header;
}

Status check_plan(const KvAttentionProblem &p, const KvAttentionSplit &split, const KvAttentionPlan &plan, const KvAttentionPlanBounds &bounds) {
    const KvAttentionPlanHeader &header = *plan.header;
    if (header.magic != kPlanMagic || header.batch != p.cache.batch || header.kv_heads != p.cache.kv_heads || header.tokens != p.tokens ||
        header.group != p.group) {
        return fail(STRATA_E_ARGUMENT, "kv_attention: plan is for ", header.batch, " sequences, ", header.kv_heads, " KV heads, ", header.tokens,
                    " tokens and groups of ", header.group, ", must be for ", p.cache.batch, ", ", p.cache.kv_heads, ", ", p.tokens, " and ", p.group,
                    "; make it with strata_kv_attention_plan for this call");
    }
    if (header.items < 0 || header.items > bounds.items || header.few_items < 0 || header.few_items > header.items || header.merges < 0 ||
        header.merges > bounds.merges || header.partials < 0 || header.partials > bounds.partials) {
        return fail(STRATA_E_INDEX, "kv_attention: plan counts ", header.items, " items, ", header.merges, " merges and ", header.partials,
                    " rows of partial results, must be at most ", bounds.items, ", ", bounds.merges, " and ", bounds.partials,
                    "; make it with strata_kv_attention_plan for this call");
    }
    const auto rows_fit = [&](std::int32_t sequence, std::int32_t head, std::int32_t row, std::int32_t rows, std::int32_t most) {
        if (sequence < 0 || sequence >= p.cache.batch || head < 0 || head >= p.cache.kv_heads || row < 0 || rows < 1 || rows > most) return false;
        return std::int64_t{row} + rows <= (p.first_row(sequence + 1) - p.first_row(sequence)) * p.group;
    };
    for (std::int32_t i = 0; i < header.items; ++i) {
        const KvAttentionItem &item = plan.items[i];
        const std::int32_t most = i < header.few_items ? split.few_rows : split.many_rows;
        const bool good = rows_fit(item.sequence, item.head, item.row, item.rows, most) && item.sinks >= 0 && item.sinks <= item.begin &&
                          item.begin <= item.end && item.end <= p.cache.length(item.sequence, item.head) && item.partial >= -1 &&
                          (item.partial < 0 || item.partial <= header.partials - item.rows);
        if (!good) {
            return fail(STRATA_E_INDEX, "kv_attention: plan item ", i, " has rows ", item.row, " + ", item.rows, " and slots ", item.begin, " to ",
                        item.end, ", must lie within its sequence's rows and length; make the plan for the lengths of this call");
        }
    }
    for (std::int32_t i = 0; i < header.merges; ++i) {
        const KvAttentionMerge &merge = plan.merges[i];
        const bool good = rows_fit(merge.sequence, merge.head, merge.row, merge.rows, split.many_rows) && merge.first >= 0 && merge.parts >= 1 &&
                          merge.parts <= (header.partials - merge.first) / merge.rows;
        if (!good) {
            return fail(STRATA_E_INDEX, "kv_attention: plan merge ", i, " has rows ", merge.row, " + ", merge.rows, " and parts ", merge.first, " + ",
                        merge.parts, ", must lie within its sequence's rows and the plan's parts; make the plan for the lengths of this call");
        }
    }
    return STRATA_OK;
}

} // namespace strata
