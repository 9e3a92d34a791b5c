// SPDX-License-Identifier: Apache-2.0
// kv_attention on the CPU: out = softmax(s) V over paged K and V, with online softmax in tiles of 64 slots.
//
// Shapes   q, out [tokens, q_heads, head_dim]; K, V pages [page_size, head_dim]; lse [tokens, q_heads].
// Bound    decode: bytes of K and V, each read once for the whole group of query heads; prefill: multiply-adds.
// Split    kv_attention_plan.h: an item is a tile of up to 96 rows of one (sequence, KV head) against one run of slots. Items follow from the shapes
// and
//          the lengths, never from the number of threads; partial results of a tile are merged in the order of its slots.
// Index    r row of the tile, t slot of the tile, d channel.
#include "core/cpu_isa.h"
#include "core/thread_pool.h"
#include "ops/kv_attention/kv_attention_amx.h"
#include "ops/kv_attention/kv_attention_dot.h"
#include "ops/kv_attention/kv_attention_plan.h"
#include "ops/kv_attention/kv_attention_rows.h"
#include "ops/kv_attention/kv_attention_softmax.h"
#include "ops/kv_attention/kv_attention_source.h"
#include "ops/kv_attention/kv_attention_tiled.h"
#include "simd/convert.h"

#include <cmath>
#include <type_traits>

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int64_t kSlotsPerSum = 256; // slots whose probabilities one item sums
static_assert(kCpuSplit.few_rows == kFewRows && kCpuSplit.many_rows == kBlockRows && kSlotsPerSum % kTile == 0);

constexpr std::int64_t ceil_div(std::int64_t x, std::int64_t y) { return (x + y - 1) / y; }
constexpr std::int64_t smaller(std::int64_t x, std::int64_t y) { return x < y ? x : y; }
constexpr std::int64_t larger(std::int64_t x, std::int64_t y) { return x > y ? x : y; }

/// Running sums of a row: exp(s - max) over all slots so far, and over those before the sequence's own new tokens.
struct RowState {
    float max, sum;
    float past_max, past_sum;
};

constexpr std::int32_t kRowsAhead = 8;    // of queries that are asked for before they are read
constexpr std::int64_t kLeastTurn = 8192; // bytes of kTile keys or values: two pages of the machine's

/// What all items share.
struct Run {
    const KvAttentionProblem &p;
    std::int64_t width; // head_dim in whole vectors
    bool pairs;         // tiles of many rows multiply in bf16
    bool few_pairs;     // and those of few rows, which no tile unit takes
    KvAttentionPlan plan;
    float *scratch;     // [threads][Tile::floats(width)]
    float *partial_o;   // [rows of partial results][width]
    RowState *partials; // [rows of partial results]
    float *lse;         // [tokens][q_heads], only if probabilities are wanted
};

/// Rows [row, row + count) of one (sequence, KV head).
struct Block {
    std::int64_t sequence, head;
    std::int64_t token, tokens; // the sequence's first row in q, and how many
    std::int64_t row;
    std::int32_t count;
    std::int64_t length;

    std::int64_t past() const { return length > tokens ? length - tokens : 0; } // slots before the sequence's own new tokens
};

Block find_block(const KvAttentionProblem &p, std::int64_t sequence, std::int64_t head, std::int64_t row, std::int32_t count) {
    const std::int64_t token = p.first_row(sequence);
    return {sequence, head, token, p.first_row(sequence + 1) - token, row, count, p.cache.length(sequence, head)};
}

/// Token and query head of a block's row r, as an index into [tokens][q_heads].
std::int64_t token_of(const Run &run, const Block &block, std::int32_t r) { return block.token + (block.row + r) / run.p.group; }
std::int64_t head_of(const Run &run, const Block &block, std::int32_t r) { return block.head * run.p.group + (block.row + r) % run.p.group; }

/// The slot of row r's own token: a causal row sees up to it.
std::int64_t own_slot(const Run &run, const Block &block, std::int32_t r) { return block.length - block.tokens + (block.row + r) / run.p.group; }

/// The slots of 64 from `first` that row r sees, within [low, high).
std::uint64_t seen_slots(const Run &run, const Block &block, std::int32_t r, std::int64_t first, std::int64_t low, std::int64_t high) {
    const std::int64_t visible = run.p.causal ? larger(0, own_slot(run, block, r) + 1) : block.length;
    std::uint64_t seen = bit_run(low - first, smaller(high, visible) - first);
    if (run.p.window > 0) {
        const std::int64_t start = larger(0, smaller(visible, block.length) - run.p.window);
        seen &= ~bit_run(smaller(run.p.window_sinks, start) - first, start - first);
    }
    return seen;
}

/// The normalised Walsh-Hadamard transform of each n channels; its own inverse.
void rotate(float *x, std::int32_t channels, std::int32_t n) {
    const float norm = 1.0F / std::sqrt(static_cast<float>(n));
    for (std::int32_t first = 0; first < channels; first += n) {
        float *y = x + first;
        for (std::int32_t h = 1; h < n; h *= 2) {
            for (std::int32_t i = 0; i < n; i += 2 * h) {
                for (std::int32_t j = i; j < i + h; ++j) {
                    const float a = y[j];
                    const float b = y[j + h];
                    y[j] = a + b;
                    y[j + h] = a - b;
                }
            }
        }
        for (std::int32_t j = 0; j < n; ++j) y[j] *= norm;
    }
}

void load_queries(const Run &run, const Block &block, Tile &tile) {
    const View &q = run.p.q;
    const F32x16 scale = F32x16::set(run.p.scale);
    const bool few = block.count <= kFewRows;
    tile.pairs = few ? run.few_pairs : run.pairs;
    tile.query_parts = q.dtype == STRATA_DTYPE_BF16 && run.p.cache.rotation == 0 ? 1 : 2;
    tile.scale = run.p.scale;
    const auto from = [&](std::int32_t r) { return token_of(run, block, r) * q.stride[0] + head_of(run, block, r) * q.stride[1]; };
    for (std::int32_t r = 0; r < block.count; ++r) {
        prefetch_bytes(bytes_at(q, from(r + kRowsAhead < block.count ? r + kRowsAhead : r)), run.p.cache.head_dim * dtype_bytes(q.dtype));
        if (tile.pairs && !few && tile.query_parts == 1) {
            place_query(tile, r, static_cast<const std::uint16_t *>(q.data) + from(r));
            continue;
        }
        float *row = tile.q + r * run.width;
        F32x16::zero().store(row + run.width - 16); // channels past head_dim
        convert(q.dtype, q.data, from(r), STRATA_DTYPE_F32, row, 0, run.p.cache.head_dim);
        if (run.p.cache.rotation != 0) rotate(row, run.p.cache.head_dim, run.p.cache.rotation);
        if (tile.pairs) pack_query(tile, r);
        if (tile.pairs && !few) continue; // scores take the scale
        for (std::int64_t d = 0; d < run.width; d += 16) (F32x16::load(row + d) * scale).store(row + d);
    }
    std::memset(tile.o, 0, static_cast<std::size_t>(block.count * run.width) * sizeof *tile.o);
    for (std::int32_t r = 0; r < block.count; ++r) {
        tile.max[r] = -__builtin_inff();
        F32x16::zero().store(tile.lane_sums[r]);
    }
    tile.rows = block.count;
    if (few) place_factors(tile, run.p.cache);
}

// ---- one tile ------------------------------------------------------------------------------------------------------

void score(Tile &tile) {
    if (takes_rows(tile)) return score_rows(tile);
    if (takes_tiled(tile, tile.keys)) return score_tiled(tile);
    if constexpr (kTileProducts) {
        if (tile.unit != nullptr) return score_amx(tile);
    } else if constexpr (kBf16Dot) {
        if (tile.pairs) return score_dot(tile);
    }
    widen_keys(tile);
    multiply_keys(tile);
}

void weigh(Tile &tile) {
    if (takes_rows(tile)) return weigh_value_rows(tile);
    if (takes_tiled(tile, tile.values)) return weigh_tiled(tile);
    if constexpr (kTileProducts) {
        if (tile.unit != nullptr) return weigh_amx(tile);
    } else if constexpr (kBf16Dot) {
        if (tile.pairs) return weigh_dot(tile);
    }
    widen_values(tile);
    weigh_values(tile);
}

/// The side array's bias of a tile's slots.
const float *load_bias(const KvCacheView &cache, const TileSlots &at, float *bias) {
    if (!cache.logit_bias.present()) return nullptr;
    const std::int32_t *table = cache.table_row(at.sequence, at.head);
    for (std::int32_t t = 0; t < kTile; ++t) {
        const std::int64_t slot = at.slot(t);
        const std::int64_t page = slot / cache.page_size;
        bias[t] = static_cast<const float *>(cache.logit_bias.data)[cache.row(cache.logit_bias, table[page], at.head, slot - page * cache.page_size)];
    }
    return bias;
}

ScoreTerms terms_of(const Run &run, const Block &block) {
    ScoreTerms terms{};
    terms.softcap = run.p.softcap;
    terms.alibi = run.p.alibi_slopes.present();
    for (std::int32_t r = 0; terms.alibi && r < block.count; ++r) {
        terms.slope[r] = static_cast<const float *>(run.p.alibi_slopes.data)[head_of(run, block, r) * run.p.alibi_slopes.stride[0]];
        terms.at[r] = own_slot(run, block, r);
    }
    return terms;
}

/// tile.seen: the rows of a token see the same.
void find_seen(const Run &run, const Block &block, std::int64_t first, std::int64_t low, std::int64_t high, Tile &tile) {
    tile.seen_by_all = ~std::uint64_t{0};
    const std::int64_t group = run.p.group;
    for (std::int64_t r = 0, next = group - block.row % group; r < block.count; r = next, next += group) {
        const std::uint64_t seen = seen_slots(run, block, static_cast<std::int32_t>(r), first, low, high);
        tile.seen_by_all &= seen;
        for (std::int64_t i = r; i < smaller(next, block.count); ++i) tile.seen[i] = seen;
    }
}

/// Whether every row of the block sees all of the kRun slots from `first`, within [low, high).
bool sees_run(const Run &run, const Block &block, std::int64_t first, std::int64_t low, std::int64_t high) {
    for (std::int64_t slot = first; slot < first + kRun; slot += kTile) {
        for (std::int32_t r = 0; r < block.count; ++r) {
            if (seen_slots(run, block, r, slot, low, high) != ~std::uint64_t{0}) return false;
        }
    }
    return true;
}

/// Whether tiles of few rows had better take panels in turn: where kTile slots are long enough for a stream to run on through them. The tiles of
/// codes are short, and scales of blocks would be folded in twice as often.
bool takes_turns(const KvCacheView &cache) {
    const bool plain = cache.key_format == STRATA_KV_PLAIN && cache.value_format == STRATA_KV_PLAIN;
    return plain && kTile * cache.head_dim * smaller(dtype_bytes(cache.keys.dtype), dtype_bytes(cache.values.dtype)) >= kLeastTurn;
}

/// body() with the tile's scores ready, for every tile of the slots [low, high) that no tile unit takes; in the order of the slots if `ordered`.
template <class Body>
void for_each_tile(const Run &run, const Block &block, Tile &tile, ScoreTerms &terms, std::int64_t low, std::int64_t high, bool ordered,
                   Body &&body) {
    const KvCacheView &cache = run.p.cache;
    const bool pipeline = !ordered && tile.unit != nullptr && !terms.any() && !cache.logit_bias.present();
    const bool in_turn = !ordered && block.count <= kFewRows && takes_turns(cache);
    // Tiles begin where panels and blocks do, and end where the keys' tail begins.
    const std::int64_t step = kv_block_scaled(cache.key_format) ? kKvBlock : cache.layout == STRATA_KV_ROWS ? 1 : kPanel;
    const std::int64_t paged = cache.paged_keys(static_cast<std::int32_t>(block.length));
    const auto end_of = [&](std::int64_t slot) { return slot < paged && paged < high ? paged : high; };
    const auto starting = [&](std::int64_t slot) {
        return PanelSlots{slot, in_turn && sees_run(run, block, slot, low, end_of(slot)) ? kTile : kPanel};
    };
    std::uint16_t row_scales[2 * kTile];
    float bias[kTile];
    std::int64_t base = low / step * step; // of the tile, or of the four in turn
    TileSlots at{block.sequence, block.head, starting(base), {}, 0, 0};
    for (; at.here.first < high; at.here = at.next) {
        const std::int64_t first = at.here.first;
        const bool whole_run = at.here.in_turn();
        at.end = end_of(first);
        at.slots = static_cast<std::int32_t>(smaller(kTile, at.end - first));
        tile.at = at.here;
        tile.slots = at.slots;
        if (whole_run) {
            std::memset(tile.seen, 0xff, static_cast<std::size_t>(block.count) * sizeof *tile.seen);
            tile.seen_by_all = ~std::uint64_t{0};
        } else {
            find_seen(run, block, first, low, at.end, tile);
        }
        if (whole_run && first + kPanel < base + kTile) {
            at.next = {first + kPanel, kTile};
        } else {
            base += whole_run ? kRun : at.slots;
            at.next = starting(base);
        }
        find_tile(cache, at, row_scales, tile);
        if constexpr (kTileProducts) {
            if (pipeline && tile.whole()) {
                advance_pipeline(tile);
                continue;
            }
            if (pipeline) drain_pipeline(tile);
        }
        score(tile);
        terms.bias = load_bias(cache, at, bias);
        if (terms.any()) add_terms(tile, terms);
        body();
    }
    if constexpr (kTileProducts) {
        if (pipeline) drain_pipeline(tile);
    }
}

// ---- results -------------------------------------------------------------------------------------------------------

float log_of(float max, float sum) { return sum == 0.0F ? -__builtin_inff() : max + std::log(sum); }

float *row_number(const View &view, std::int64_t token, std::int64_t head) {
    return static_cast<float *>(view.data) + token * view.stride[0] + head * view.stride[1];
}

/// out = o / sum, lse = max + ln sum; a row that saw nothing is 0 and -inf. o may be changed.
void finish_row(const Run &run, std::int64_t token, std::int64_t head, float *o, RowState state) {
    const View &out = run.p.out;
    if (run.p.past_lse.present()) *row_number(run.p.past_lse, token, head) = log_of(state.past_max, state.past_sum);
    F32x16 factor = F32x16::set(1.0F);
    if (run.p.sink_logits.present()) {
        const float sink = static_cast<const float *>(run.p.sink_logits.data)[head * run.p.sink_logits.stride[0]];
        const float max = sink > state.max ? sink : state.max;
        const float base = max == -__builtin_inff() ? 0.0F : max;
        const float old = reduce_max(exp(F32x16::set(state.max - base)));
        factor = F32x16::set(old);
        state = {max, state.sum * old + reduce_max(exp(F32x16::set(sink - base))), 0.0F, 0.0F};
    }
    const F32x16 divisor = F32x16::set(state.sum == 0.0F ? 1.0F : state.sum);
    for (std::int64_t d = 0; d < run.width; d += 16) (F32x16::load(o + d) * factor / divisor).store(o + d);
    if (run.p.cache.rotation != 0) rotate(o, run.p.cache.head_dim, run.p.cache.rotation);
    convert(STRATA_DTYPE_F32, o, 0, out.dtype, out.data, token * out.stride[0] + head * out.stride[1], run.p.cache.head_dim);
    if (!run.p.lse.present() && run.lse == nullptr) return;
    const float lse = log_of(state.max, state.sum);
    if (run.p.lse.present()) *row_number(run.p.lse, token, head) = lse;
    if (run.lse != nullptr) run.lse[token * run.p.q_heads + head] = lse;
}

void run_item(const Run &run, const KvAttentionItem &item, float *scratch) {
    const Block block = find_block(run.p, item.sequence, item.head, item.row, item.rows);
    Tile tile;
    tile.place(scratch, run.width, run.p.cache.head_dim);
    load_queries(run, block, tile);
    ScoreTerms terms = terms_of(run, block);
    RowState past[kBlockRows];
    const auto attend = [&](std::int64_t low, std::int64_t high) {
        for_each_tile(run, block, tile, terms, low, high, false, [&] {
            advance_softmax(tile);
            weigh(tile);
        });
    };
    // In the order of the slots, with a look at the sums where the past ends.
    const std::int64_t border = run.p.past_lse.present() ? block.past() : 0;
    const auto before = [&](std::int64_t slot) { return smaller(slot, border); };
    const auto after = [&](std::int64_t slot) { return larger(slot, border); };
    with_tile_unit(tile, [&] {
        attend(0, before(item.sinks));
        attend(before(item.begin), before(item.end));
        for (std::int32_t r = 0; r < block.count; ++r) past[r] = {0.0F, 0.0F, tile.max[r], tile.sum(r)};
        if (item.sinks > border) attend(border, item.sinks);
        attend(after(item.begin), after(item.end));
    });
    for (std::int32_t r = 0; r < block.count; ++r) {
        const RowState state{tile.max[r], tile.sum(r), past[r].past_max, past[r].past_sum};
        float *o = tile.o + r * run.width;
        if (item.partial < 0) {
            finish_row(run, token_of(run, block, r), head_of(run, block, r), o, state);
            continue;
        }
        const std::int64_t at = std::int64_t{item.partial} + r;
        std::memcpy(run.partial_o + at * run.width, o, static_cast<std::size_t>(run.width) * sizeof(float));
        run.partials[at] = state;
    }
}

/// Adds the parts of a row in their order: o into `sum_o`, and what its sums come to.
RowState merge_row(const Run &run, const KvAttentionMerge &merge, std::int32_t r, float *sum_o) {
    const auto part = [&](std::int32_t i) { return merge.first + std::int64_t{i} * merge.rows + r; };
    RowState all{-__builtin_inff(), 0.0F, -__builtin_inff(), 0.0F};
    for (std::int32_t i = 0; i < merge.parts; ++i) {
        const RowState &one = run.partials[part(i)];
        all.max = one.max > all.max ? one.max : all.max;
        all.past_max = one.past_max > all.past_max ? one.past_max : all.past_max;
    }
    const float base = all.max == -__builtin_inff() ? 0.0F : all.max;
    const float past_base = all.past_max == -__builtin_inff() ? 0.0F : all.past_max;
    for (std::int64_t d = 0; d < run.width; d += 16) F32x16::zero().store(sum_o + d);
    for (std::int32_t i = 0; i < merge.parts; ++i) {
        const RowState &one = run.partials[part(i)];
        const F32x16 weight = exp(F32x16::set(one.max - base));
        all.sum += one.sum * reduce_max(weight);
        all.past_sum += one.past_sum * reduce_max(exp(F32x16::set(one.past_max - past_base)));
        const float *o = run.partial_o + part(i) * run.width;
        for (std::int64_t d = 0; d < run.width; d += 16) fma(F32x16::load(o + d), weight, F32x16::load(sum_o + d)).store(sum_o + d);
    }
    return all;
}

void run_merge(const Run &run, const KvAttentionMerge &merge, float *scratch) {
    const Block block = find_block(run.p, merge.sequence, merge.head, merge.row, merge.rows);
    for (std::int32_t r = 0; r < merge.rows; ++r) {
        const RowState state = merge_row(run, merge, r, scratch);
        finish_row(run, token_of(run, block, r), head_of(run, block, r), scratch, state);
    }
}

/// Probabilities of the slots [first, first + kSlotsPerSum) of one (sequence, head): K once more, all rows of the sequence in their order.
void run_probabilities(const Run &run, std::int64_t sequence, std::int64_t head, std::int64_t first, float *scratch) {
    const KvAttentionProblem &p = run.p;
    const std::int64_t rows = find_block(p, sequence, head, 0, 0).tokens * p.group;
    const std::int64_t end = smaller(first + kSlotsPerSum, p.cache.length(sequence, head));
    if (first >= end) return;
    alignas(64) float sums[kSlotsPerSum + kTile] = {};
    Tile tile;
    tile.place(scratch, run.width, p.cache.head_dim);
    for (std::int64_t row = 0; row < rows; row += kBlockRows) {
        const Block block = find_block(p, sequence, head, row, static_cast<std::int32_t>(smaller(kBlockRows, rows - row)));
        load_queries(run, block, tile);
        ScoreTerms terms = terms_of(run, block);
        float lse[kBlockRows];
        for (std::int32_t r = 0; r < block.count; ++r) lse[r] = run.lse[token_of(run, block, r) * p.q_heads + head_of(run, block, r)];
        with_tile_unit(tile, [&] {
            for_each_tile(run, block, tile, terms, first, end, true, [&] { add_probabilities(tile, lse, sums + (tile.at.first - first)); });
        });
    }
    float *to = static_cast<float *>(p.key_probability.data) + sequence * p.key_probability.stride[0] + head * p.key_probability.stride[1];
    for (std::int64_t slot = first; slot < end; ++slot) {
        const float mean = sums[slot - first] / static_cast<float>(p.group);
        to[slot] = p.store_probability ? mean : to[slot] + mean;
    }
}

void run_all(const Run &run, ThreadPool &pool) {
    const std::int64_t floats = Tile::floats(run.width);
    const KvAttentionPlanHeader &header = *run.plan.header;
    // Tiles of many rows first: the short ones fill the gaps at the end.
    parallel_for(pool, header.items, [&](std::int64_t i, std::int32_t worker) {
        run_item(run, run.plan.items[(i + header.few_items) % header.items], run.scratch + worker * floats);
    });
    parallel_for(pool, header.merges,
                 [&](std::int64_t i, std::int32_t worker) { run_merge(run, run.plan.merges[i], run.scratch + worker * floats); });
    if (run.lse == nullptr) return;
    const std::int64_t sums = ceil_div(run.p.max_length, kSlotsPerSum);
    parallel_for(pool, run.p.cache.batch * run.p.cache.kv_heads * sums, [&](std::int64_t i, std::int32_t worker) {
        const std::int64_t place = i / sums;
        run_probabilities(run, place / run.p.cache.kv_heads, place % run.p.cache.kv_heads, i % sums * kSlotsPerSum, run.scratch + worker * floats);
    });
}

} // namespace

Status kv_attention_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvAttentionProblem *>(problem);
    exec.impl = IMPL_NAME("kv_attention");
    const KvAttentionPlanBounds bounds = plan_bounds(p, kCpuSplit);
    Run run{p,
            ceil_div(p.cache.head_dim, 16) * 16,
            (kTileProducts || (kBf16Dot && bf16_dot_is_fast())) && holds_pairs(p.cache),
            kBf16Dot && bf16_dot_is_fast() && holds_pairs(p.cache),
            {},
            nullptr,
            nullptr,
            nullptr,
            nullptr};
    auto *words = exec.planner.take<std::int32_t>(bounds.words());
    run.scratch = exec.planner.take<float>(exec.pool->threads() * Tile::floats(run.width));
    run.partial_o = exec.planner.take<float>(bounds.partials * run.width);
    run.partials = exec.planner.take<RowState>(bounds.partials);
    if (p.key_probability.present()) run.lse = exec.planner.take<float>(p.tokens * p.q_heads);
    if (exec.dry_run) return STRATA_OK;
    if (p.plan.present()) {
        if (p.plan.shape[0] < bounds.words()) {
            return fail(STRATA_E_SHAPE, "kv_attention: plan.shape[0] is ", p.plan.shape[0], ", must be at least ", bounds.words(),
                        "; ask strata_kv_attention_plan_words");
        }
        run.plan = plan_at(p.plan.data, bounds);
        TRY(check_plan(p, kCpuSplit, run.plan, bounds));
    } else {
        run.plan = plan_at(words, bounds);
        build_plan(p, kCpuSplit, run.plan);
    }
    run_all(run, *exec.pool);
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
