// SPDX-License-Identifier: Apache-2.0
// kv_score on the CPU: scores of cached keys from the attention of the last `window` queries, reduced as it is computed.
//
//   p[r,j] = exp(scale q_r k_j - lse_r), j <= length - window + r;   statistic over r;   pooling over j and reduction over heads, in either order.
//
// Shapes   q [batch, window, q_heads, head_dim]; keys by page table; scores [batch, kv_heads, capacity] f32.
// Bound    compute: 2 * q_heads * window * length * head_dim flops; K is read once per KV head (twice without lse).
// Passes   1 pack the queries channel by channel;  2 without lse: log-sum-exp of every row, in a few splits of the keys;
//          3 statistics, 32 keys against all rows of a KV head at a time;  4 pooling and what reduction is left.
// Memory   nothing grows with window * length: packed queries, a tile per worker, and one float per (plane, key).
// Split    chunks of keys and rows whose sizes depend on the shapes alone.
#include "core/thread_pool.h"
#include "ops/kv_score/kv_score_tile.h"

#include <cmath>

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int32_t kKeysPerChunk = 256;
constexpr std::int32_t kRowsPerChunk = 512;
constexpr std::int32_t kKeysPerSplit = 2048; // of the log-sum-exp pass, until there are kMaxSplits
constexpr std::int32_t kMaxSplits = 8;
constexpr std::int32_t kColumnsPerChunk = 1024;
constexpr std::int32_t kMaxPoolWidth = 127;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }
std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

/// Running maximum of a row and the sum of exp(x - maximum).
struct RowSum {
    float maximum;
    float sum;
};

struct Run {
    const KvScoreProblem &p;
    std::int64_t rows;   // of a pair, rounded up to packed groups
    std::int32_t splits; // of the log-sum-exp pass
    std::int64_t split_keys;
    float *queries;  // [pairs][rows / 8][head_dim][8]
    float *offsets;  // [pairs][rows]
    RowSum *partial; // [pairs][splits][rows], without lse
    Planes planes;
    float *tiles; // [workers][tile_floats]
    std::int64_t tile_floats;

    TileScratch tile(std::int32_t worker) const {
        float *keys = tiles + worker * tile_floats;
        float *products = keys + round_up(p.cache.head_dim, 16) * kTileKeys;
        float *first = products + kBlockRows * kTileKeys;
        return {keys, products, first, first + static_cast<std::int64_t>(p.group) * kTileKeys};
    }
    PairView pair(std::int64_t index) const {
        const std::int64_t sequence = index / p.cache.kv_heads;
        const std::int64_t head = index % p.cache.kv_heads;
        return {sequence, head, p.cache.length(sequence, head), queries + index * rows * p.cache.head_dim, offsets + index * rows};
    }
    std::int32_t columns(std::int64_t sequence, std::int64_t head) const {
        const std::int32_t length = p.cache.length(sequence, head);
        return length > p.exclude_last ? length - p.exclude_last : 0;
    }
    const float *plane(std::int64_t sequence, std::int64_t index) const {
        return planes.data + sequence * planes.sequence_stride + index * planes.plane_stride;
    }
};

// ---- 1: queries ---------------------------------------------------------------------------------------------------------------------

void pack_rows(const Run &run, std::int64_t index, std::int32_t first_row, std::int32_t last_row) {
    const KvScoreProblem &p = run.p;
    const PairView pair = run.pair(index);
    const std::int32_t head_dim = p.cache.head_dim;
    for (std::int32_t r = first_row; r < last_row; ++r) {
        float *packed = run.queries + (index * run.rows + r - r % kPackedRows) * head_dim + r % kPackedRows;
        const std::int64_t i = r % p.window;
        const std::int64_t q_head = pair.head * p.group + r / p.window;
        const std::int64_t from = pair.sequence * p.q.stride[0] + i * p.q.stride[1] + q_head * p.q.stride[2];
        for (std::int32_t c = 0; c < head_dim; c += 16) {
            const std::int32_t lanes = head_dim - c < 16 ? head_dim - c : 16;
            float scaled[16];
            const F32x16 query = r < p.rows() ? load_as_f32(p.q.dtype, p.q.data, from + c, lanes) : F32x16::zero();
            (query * F32x16::set(p.scale)).store(scaled);
            for (std::int32_t l = 0; l < lanes; ++l) {
                packed[(c + l) * kPackedRows] = scaled[l];
            }
        }
        if (p.lse.present() && r < p.rows()) {
            const float lse =
                static_cast<const float *>(p.lse.data)[pair.sequence * p.lse.stride[0] + i * p.lse.stride[1] + q_head * p.lse.stride[2]];
            run.offsets[index * run.rows + r] = visible(p, pair, static_cast<std::int32_t>(i), 0) > 0 ? lse : 0.0F;
        }
    }
}

// ---- 2: log-sum-exp -----------------------------------------------------------------------------------------------------------------

void add_tile(const float *products, std::int32_t rows, RowSum *state) {
    for (std::int32_t r = 0; r < rows; ++r) {
        const F32x16 left = F32x16::load(products + r * kTileKeys);
        const F32x16 right = F32x16::load(products + r * kTileKeys + 16);
        const float largest = reduce_max(max(left, right));
        if (largest == -__builtin_inff()) {
            continue;
        }
        if (!(largest <= state[r].maximum)) {
            float shrink[16];
            exp(F32x16::set(state[r].maximum - largest)).store(shrink);
            state[r].sum *= shrink[0];
            state[r].maximum = largest;
        }
        const F32x16 maximum = F32x16::set(state[r].maximum);
        state[r].sum += reduce_add(exp(left - maximum) + exp(right - maximum));
    }
}

void sum_rows(const Run &run, std::int64_t index, std::int32_t split, std::int32_t first_row, std::int32_t last_row, const TileScratch &scratch) {
    const KvScoreProblem &p = run.p;
    const PairView pair = run.pair(index);
    RowSum *state = run.partial + (index * run.splits + split) * run.rows;
    for (std::int32_t r = first_row; r < last_row; ++r) {
        state[r] = {-__builtin_inff(), 0.0F};
    }
    const bool one_head = first_row / p.window == (last_row - 1) / p.window;
    const std::int64_t seen = visible(p, pair, one_head ? (last_row - 1) % p.window : p.window - 1, 0);
    const std::int64_t end = smaller(seen, smaller(pair.length, (split + 1) * run.split_keys));
    for (std::int64_t key = split * run.split_keys; key < end; key += kTileKeys) {
        load_tile(p, pair, key, static_cast<std::int32_t>(smaller(kTileKeys, pair.length - key)), scratch.keys);
        for (std::int32_t r = first_row; r < last_row; r += kBlockRows) {
            const auto block = static_cast<std::int32_t>(smaller(kBlockRows, last_row - r));
            multiply_block(p, pair, r, block, key, scratch);
            add_tile(scratch.products, block, state + r);
        }
    }
}

void merge_splits(const Run &run, std::int64_t index, std::int32_t first_row, std::int32_t last_row) {
    const RowSum *partial = run.partial + index * run.splits * run.rows;
    for (std::int32_t r = first_row; r < last_row; ++r) {
        float maximum = -__builtin_inff();
        for (std::int32_t s = 0; s < run.splits; ++s) {
            const float other = partial[s * run.rows + r].maximum;
            maximum = other <= maximum ? maximum : other;
        }
        double sum = 0.0;
        for (std::int32_t s = 0; s < run.splits; ++s) {
            const RowSum &part = partial[s * run.rows + r];
            sum +=
                part.sum == 0.0F ? 0.0 : static_cast<double>(part.sum) * std::exp(static_cast<double>(part.maximum) - static_cast<double>(maximum));
        }
        run.offsets[index * run.rows + r] = sum == 0.0 ? 0.0F : static_cast<float>(static_cast<double>(maximum) + std::log(sum));
    }
}

// ---- 3: statistics ------------------------------------------------------------------------------------------------------------------

void store_tile(const Run &run, const PairView &pair, std::int64_t key, std::int32_t count, const TileScratch &scratch) {
    const KvScoreProblem &p = run.p;
    const bool early = p.reduces_early();
    for (std::int32_t v = 0; v < count; v += 16) {
        const std::int32_t lanes = count - v < 16 ? count - v : 16;
        F32x16 reduced = F32x16::zero();
        for (std::int32_t g = 0; g < p.group; ++g) {
            const std::int64_t at = static_cast<std::int64_t>(g) * kTileKeys + v;
            const F32x16 value = finish_statistic(p, scratch.first + at, scratch.second + at);
            if (!early) {
                float *to = run.planes.data + pair.sequence * run.planes.sequence_stride + (pair.head * p.group + g) * run.planes.plane_stride;
                value.store_partial(to + key + v, lanes);
            }
            reduced = g == 0 ? value : p.heads == STRATA_HEADS_GROUP_MAX ? max(reduced, value) : reduced + value;
        }
        if (early) {
            if (p.heads == STRATA_HEADS_GROUP_MEAN) {
                reduced = reduced / F32x16::set(static_cast<float>(p.group));
            }
            float *to = run.planes.data + pair.sequence * run.planes.sequence_stride + pair.head * run.planes.plane_stride;
            reduced.store_partial(to + key + v, lanes);
        }
    }
}

void gather_tile(const Run &run, const PairView &pair, std::int64_t key, std::int32_t count, const TileScratch &scratch) {
    const KvScoreProblem &p = run.p;
    load_tile(p, pair, key, count, scratch.keys);
    std::memset(scratch.first, 0, static_cast<std::size_t>(p.group) * kTileKeys * sizeof(float) * 2); // and second, behind it
    for (std::int32_t row = 0; row < p.rows(); row += kBlockRows) {
        const auto block = static_cast<std::int32_t>(smaller(kBlockRows, p.rows() - row));
        multiply_block(p, pair, row, block, key, scratch);
        for (std::int32_t r = row; r < row + block;) {
            const std::int32_t g = r / p.window;
            const std::int32_t i = r % p.window;
            const auto rows = static_cast<std::int32_t>(smaller(p.window - i, row + block - r));
            const std::int64_t seen = visible(p, pair, i, key);
            const auto blind = static_cast<std::int32_t>(smaller(rows, seen > 0 ? 0 : 1 - seen));
            add_rows(p, scratch.products + (r - row) * kTileKeys, pair.offsets + r, rows, blind, i,
                     scratch.first + static_cast<std::int64_t>(g) * kTileKeys, scratch.second + static_cast<std::int64_t>(g) * kTileKeys);
            r += rows;
        }
    }
    store_tile(run, pair, key, count, scratch);
}

// ---- 4: pooling ---------------------------------------------------------------------------------------------------------------------

/// Columns begin ... begin + count - 1 of a plane; `neutral` where the plane has none.
void copy_padded(const float *plane, std::int64_t columns, std::int64_t begin, std::int64_t count, float neutral, float *padded) {
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t j = begin + i;
        padded[i] = j >= 0 && j < columns ? plane[j] : neutral;
    }
}

/// Sixteen pooled columns; the first of them has its window at `padded`.
F32x16 pooled(const KvScoreProblem &p, const float *padded) {
    F32x16 value = F32x16::load(padded);
    for (std::int32_t t = 1; t < p.pool_width; ++t) {
        const F32x16 other = F32x16::load(padded + t);
        value = p.pool == STRATA_POOL_MAX ? max(value, other) : value + other;
    }
    return p.pool == STRATA_POOL_AVERAGE ? value / F32x16::set(static_cast<float>(p.pool_width)) : value;
}

void pool_columns(const Run &run, std::int64_t index, std::int64_t begin) {
    const KvScoreProblem &p = run.p;
    const std::int64_t b = index / p.cache.kv_heads;
    const std::int64_t h = index % p.cache.kv_heads;
    const std::int64_t columns = run.columns(b, h);
    const std::int64_t count = smaller(kColumnsPerChunk, columns - begin);
    if (count <= 0) {
        return;
    }
    const bool layer = p.heads == STRATA_HEADS_LAYER_MEAN;
    const std::int64_t half = p.pool_width / 2;
    const float neutral = p.pool == STRATA_POOL_MAX ? -__builtin_inff() : 0.0F;
    float padded[kColumnsPerChunk + kMaxPoolWidth + 16];
    float reduced[kColumnsPerChunk + 16] = {};
    const std::int64_t window = count + 2 * half;

    if (p.reduces_early()) {
        if (layer) { // heads of another length have no attention where they have no slot
            for (std::int64_t i = 0; i < window; ++i) {
                const std::int64_t j = begin - half + i;
                float sum = 0.0F;
                for (std::int64_t other = 0; other < p.cache.kv_heads; ++other) {
                    sum += j >= 0 && j < run.columns(b, other) ? run.plane(b, other)[j] : 0.0F;
                }
                padded[i] = j >= 0 && j < columns ? sum / static_cast<float>(p.q_heads) : neutral;
            }
        } else {
            copy_padded(run.plane(b, h), columns, begin - half, window, neutral, padded);
        }
        for (std::int64_t i = 0; i < count; i += 16) {
            pooled(p, padded + i).store(reduced + i);
        }
    } else {
        const std::int64_t first = layer ? 0 : h * p.group;
        const std::int64_t heads = layer ? p.q_heads : p.group;
        for (std::int64_t q_head = first; q_head < first + heads; ++q_head) {
            const std::int64_t own = run.columns(b, q_head / p.group);
            copy_padded(run.plane(b, q_head), own, begin - half, window, neutral, padded);
            for (std::int64_t i = 0; i < smaller(count, own - begin); i += 16) {
                F32x16 value = pooled(p, padded + i);
                if (own - begin - i < 16) { // a shorter head adds nothing past its end
                    float lanes[16];
                    value.store(lanes);
                    value = F32x16::load_partial(lanes, static_cast<std::int32_t>(own - begin - i));
                }
                const F32x16 held = F32x16::load(reduced + i);
                const bool maximum = p.heads == STRATA_HEADS_GROUP_MAX;
                (q_head == first ? value : maximum ? max(held, value) : held + value).store(reduced + i);
            }
        }
        if (p.heads != STRATA_HEADS_GROUP_MAX) {
            const F32x16 divisor = F32x16::set(static_cast<float>(heads));
            for (std::int64_t i = 0; i < count; i += 16) {
                (F32x16::load(reduced + i) / divisor).store(reduced + i);
            }
        }
    }
    float *scores = static_cast<float *>(p.scores.data) + b * p.scores.stride[0] + h * p.scores.stride[1] + begin;
    std::memcpy(scores, reduced, static_cast<std::size_t>(count) * sizeof(float));
}

Run plan(Exec &exec, const KvScoreProblem &p) {
    Run run{p, round_up(p.rows(), kPackedRows), 1, 0, nullptr, nullptr, nullptr, {}, nullptr, 0};
    run.splits = static_cast<std::int32_t>(smaller(kMaxSplits, 1 + p.max_length / kKeysPerSplit));
    run.split_keys = round_up(ceil_div(p.max_length, run.splits), kTileKeys);
    run.queries = exec.planner.take<float>(product(p.pairs(), run.rows, p.cache.head_dim));
    run.offsets = exec.planner.take<float>(product(p.pairs(), run.rows, 1));
    run.partial = p.lse.present() ? nullptr : exec.planner.take<RowSum>(product(p.pairs(), run.splits, run.rows));
    if (p.writes_scores()) {
        run.planes = {static_cast<float *>(p.scores.data), p.scores.stride[0], p.scores.stride[1]};
    } else {
        const std::int64_t row = round_up(p.max_columns(), 16);
        const std::int64_t planes = p.reduces_early() ? p.cache.kv_heads : p.q_heads;
        run.planes = {exec.planner.take<float>(product(p.batch(), planes, row)), planes * row, row};
    }
    run.tile_floats = (round_up(p.cache.head_dim, 16) + kBlockRows + 2 * static_cast<std::int64_t>(p.group)) * kTileKeys;
    run.tiles = exec.planner.take<float>(exec.pool->threads() * run.tile_floats);
    return run;
}

} // namespace

Status kv_score_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvScoreProblem *>(problem);
    exec.impl = IMPL_NAME("kv_score");
    const Run run = plan(exec, p);
    if (exec.dry_run) {
        return STRATA_OK;
    }
    const std::int64_t row_chunks = ceil_div(p.rows(), kRowsPerChunk);
    const auto rows_of = [&](std::int64_t chunk, std::int64_t rows, auto &&body) {
        const std::int64_t first = chunk % row_chunks * kRowsPerChunk;
        body(chunk / row_chunks, static_cast<std::int32_t>(first), static_cast<std::int32_t>(smaller(rows, first + kRowsPerChunk)));
    };
    parallel_for(*exec.pool, p.pairs() * row_chunks, [&](std::int64_t chunk, std::int32_t) {
        rows_of(chunk, run.rows, [&](std::int64_t index, std::int32_t first, std::int32_t last) { pack_rows(run, index, first, last); });
    });
    if (!p.lse.present()) {
        parallel_for(*exec.pool, p.pairs() * run.splits * row_chunks, [&](std::int64_t chunk, std::int32_t worker) {
            rows_of(chunk, p.rows(), [&](std::int64_t part, std::int32_t first, std::int32_t last) {
                sum_rows(run, part / run.splits, static_cast<std::int32_t>(part % run.splits), first, last, run.tile(worker));
            });
        });
        parallel_for(*exec.pool, p.pairs() * row_chunks, [&](std::int64_t chunk, std::int32_t) {
            rows_of(chunk, p.rows(), [&](std::int64_t index, std::int32_t first, std::int32_t last) { merge_splits(run, index, first, last); });
        });
    }
    const std::int64_t key_chunks = ceil_div(p.max_columns(), kKeysPerChunk);
    parallel_for(*exec.pool, p.pairs() * key_chunks, [&](std::int64_t chunk, std::int32_t worker) {
        const PairView pair = run.pair(chunk / key_chunks);
        const std::int64_t begin = chunk % key_chunks * kKeysPerChunk;
        const std::int64_t end = smaller(begin + kKeysPerChunk, run.columns(pair.sequence, pair.head));
        for (std::int64_t key = begin; key < end; key += kTileKeys) {
            gather_tile(run, pair, key, static_cast<std::int32_t>(smaller(kTileKeys, end - key)), run.tile(worker));
        }
    });
    if (!p.writes_scores()) {
        const std::int64_t column_chunks = ceil_div(p.max_columns(), kColumnsPerChunk);
        parallel_for(*exec.pool, p.pairs() * column_chunks,
                     [&](std::int64_t chunk, std::int32_t) { pool_columns(run, chunk / column_chunks, chunk % column_chunks * kColumnsPerChunk); });
    }
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
