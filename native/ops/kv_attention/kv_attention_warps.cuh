// SPDX-License-Identifier: Apache-2.0
// kv_attention, few rows, codes of one kind in both pools: warps that never wait for one another.
//
// A warp needs only its own quarter of a tile's slots, two runs of 16 that lie in one page each. So it copies them itself, each half of
// its lanes one run: where a run lies is found by the lanes that copy it, steps of a copy differ by constants, and what a block would
// meet for, a warp meets for. Scales of tokens come with their unit, 16 bytes at a time. The pipeline is that of kv_attention_mma.cuh, one
// for each warp. How runs are copied and multiplied with, says the Source: kv_attention_words_warps.cuh, kv_attention_bytes_warps.cuh.
//
// A copy with a size that is no constant costs three more instructions on sm_90, so runs that are there whole go another way.
//
//     slots of lane 4 g + q in a warp's tile      scores of n-tile n, element e: 8 q + 4 e + n; so it weighs slots 8 q ... 8 q + 7
#pragma once

#include "ops/kv_attention/kv_attention_gpu.h"
#include "ops/kv_attention/kv_attention_mma.cuh"
#include "ops/kv_attention/kv_attention_unpack.cuh"

namespace strata {

constexpr int kWarpTile = kWarps * 32; // slots

/// One number a token, in runs of 16 bytes.
inline bool wide_numbers(const View &scales) { return wide_rows(scales) && scales.stride[2] == 1; }

/// Codes alike in both pools, unless a bias of slots would have to be brought as well.
inline bool takes_warps(const KvCacheView &cache) {
    const Codes codes = codes_of(cache.key_format, cache.keys.dtype);
    if (codes < Codes::kInt8 || codes != codes_of(cache.value_format, cache.values.dtype)) return false;
    if (padded_dim(cache.head_dim) > 128 || cache.logit_bias.present()) return false;
    return !token_scaled(codes) || (wide_numbers(cache.key_scales) && wide_numbers(cache.value_scales));
}

/// Shape: see the Sources.
template <class Shape>
SmemLayout warps_layout_of(const KvAttentionProblem &p, bool split) {
    SmemLayout at{};
    at.key_unit = Shape::kKeyUnit;
    at.value_unit = Shape::kValueUnit;
    at.stages = Shape::kStages;
    at.infos = at.queries = Shape::kStages * (Shape::kKeyUnit + Shape::kValueUnit);
    if (p.cache.rotation != 0 && at.queries < turned_bytes(Shape::kDim)) at.queries = turned_bytes(Shape::kDim);
    at.total = at.queries + query_bytes(Shape::kDim, 1, split);
    at.key_codes = at.value_codes = static_cast<std::int32_t>(codes_of(p.cache.key_format, p.cache.keys.dtype));
    at.by_warps = true;
    finish_layout(Shape::kDim, at);
    return at;
}

/// Operands of q that are known to have one term: no question between the products.
template <int Steps>
struct OneTerm : Query<Steps, true> {
    static GPU_DEVICE bool split(bool) { return false; }
};

/// The tiles of a walk in turn. The walk itself is looked at only where a stretch ends.
struct TileCursor {
    Tile tile;
    int32_t index, change; // of tiles; the next one of another stretch

    GPU_DEVICE void seek(const Walk &walk, int32_t to) {
        index = to;
        tile = tile_at(walk, to, kWarpTile);
        change = to < walk.tiles_a ? walk.tiles_a : to < walk.tiles_ab ? walk.tiles_ab : walk.tiles;
    }
    GPU_DEVICE void advance(const Walk &walk) {
        if (++index == change) {
            seek(walk, index);
        } else {
            tile.first += kWarpTile;
        }
    }
};

/// What a warp knows of its runs, whatever the pools look like. Base: who copies and multiplies the same units with all warps of a block.
template <class Base>
struct WarpRuns : Base {
    static constexpr int kSlots = 32; // of a warp
    using Base::p;
    using Base::work;

    int warp, lane, half, in_half;
    // Of the item's head, where the lane begins to copy. Shared memory has what they are made of, but a loop would ask for it each time.
    const unsigned char *keys, *values;
    const uint16_t *key_scales, *value_scales;
    const int32_t *table;
    int32_t last; // slot

    /// The scales are those of a lane that copies eight of a run's tokens.
    GPU_DEVICE WarpRuns(const AttentionParams &params, const Work &of)
        : Base(params, of), warp(gpu::warp_id()), lane(gpu::lane_id()), half(lane >> 4), in_half(lane & 15) {
        const GpuKvCache &cache = p.cache;
        keys = static_cast<const unsigned char *>(cache.keys.data) + work.head * cache.keys.head;
        values = static_cast<const unsigned char *>(cache.values.data) + work.head * cache.values.head;
        key_scales = static_cast<const uint16_t *>(cache.key_scales.data) + work.head * cache.key_scales.head + in_half * 8;
        value_scales = static_cast<const uint16_t *>(cache.value_scales.data) + work.head * cache.value_scales.head + in_half * 8;
        table = work.table;
        last = work.length - 1;
    }

    static GPU_DEVICE int score_slot(int n, int q, int e) { return 8 * q + 4 * e + n; }

    /// Where the run of the lane's half is.
    struct Run {
        int32_t page, in_page; // -1: nothing to read
        bool whole;            // both runs of the warp are there, with as many channels as the kernel has
    };

    GPU_DEVICE int32_t run_slot(const Tile &tile) const { return tile.first + kSlots * warp + 16 * half; }
    /// The table's entry for the lane's run. Nothing asks for its value before resolve, a tile later.
    GPU_DEVICE int32_t fetch(const Tile &tile, bool there) const { return there ? table_entry(p.cache, table, gpu::min(run_slot(tile), last)) : -1; }
    GPU_DEVICE Run resolve(const Tile &tile, int32_t entry) const {
        const int32_t slot = run_slot(tile);
        Run run{-1, 0, false};
        if (slot < tile.high && slot + 16 > tile.low) {
            const GpuSlot at = slot_at(p.cache, slot, entry, p.fault);
            run.page = at.page;
            run.in_page = at.in_page;
        }
        run.whole = gpu::all(run.page >= 0 && p.cache.head_dim == Base::kDim);
        return run;
    }

    /// Scales of the run's tokens: two lanes of 16 bytes. `from`: of the item's head and the lane.
    GPU_DEVICE void load_token_scales(const GpuPool &pool, const uint16_t *from, const Run &run, unsigned char *to) const {
        if (in_half >= 2) return;
        unsigned char *place = to + (kSlots * warp + 16 * half + 8 * in_half) * 2;
        const uint16_t *at = from + run.page * pool.page + run.in_page;
        if (run.whole) {
            gpu::cp_async16(place, at);
        } else {
            gpu::cp_async16(place, run.page >= 0 ? at : pool.data, run.page >= 0);
        }
    }

    /// Scores of the warp's slots times the scales of their tokens, which are at `scales`, and `scale`.
    GPU_DEVICE void scale_scores(const unsigned char *scales, float scale, float (&s)[4][4]) const {
        const gpu::U4 factors = gpu::load16(scales + (kSlots * warp + 8 * (lane & 3)) * 2);
        GPU_UNROLL
        for (int e = 0; e < 2; ++e) {
            GPU_UNROLL
            for (int j = 0; j < 4; ++j) {
                const uint32_t pair = factors.v[2 * e + (j >> 1)];
                const float factor = ((j & 1) == 0 ? gpu::f16_low(pair) : gpu::f16_high(pair)) * scale;
                s[j][e] *= factor;
                s[j][2 + e] *= factor;
            }
        }
    }

    /// Rows of scales of the warp's slots become 0 where those do not count: they may be anything.
    GPU_DEVICE void clean_scales(const Tile &tile, unsigned char *unit_scales, int rows) const {
        auto *scales = reinterpret_cast<uint16_t *>(unit_scales);
        const int32_t slot = kSlots * warp + lane;
        if (counts(tile, tile.first + slot)) return;
        for (int row = 0; row < rows; ++row) scales[row * kWarpTile + slot] = 0;
    }
};

/// The walk of a warp, as attend of kv_attention_mma.cuh walks a block's.
template <class Source>
GPU_DEVICE void attend_by_warps(const AttentionParams &p, unsigned char *smem) {
    using Shape = typename Source::Shape;
    constexpr int kDim = Source::kDim;
    constexpr int kStages = Shape::kStages;
    constexpr int kColumns = kDim / 8;
    gpu::let_next_start();
    auto &state = *reinterpret_cast<BlockState *>(smem + p.smem.state);
    gpu::wait_for_previous();
    if (gpu::thread_x() == 0) {
        state.work = find_work(p, gpu::block_x(), gpu::block_y(), Source::kRows);
        if (state.work.rows > 0) state.walk = make_walk(p, state.work, kWarpTile);
    }
    gpu::sync_threads();
    const Work &work = state.work;
    const Walk &walk = state.walk;
    if (work.rows == 0) return;
    if (gpu::thread_x() < Source::kRows) state.rows[gpu::thread_x()] = row_view(p, work, gpu::thread_x());
    const Source source(p, work);
    auto &end = *reinterpret_cast<EndSmem<kDim> *>(smem);
    const int32_t tiles = walk.tiles;
    const auto keys_at = [&](int stage) { return smem + stage * Shape::kKeyUnit; };
    const auto values_at = [&](int stage) { return smem + kStages * Shape::kKeyUnit + stage * Shape::kValueUnit; };

    // ---- load: all units but the last on their way, q to operands
    TileCursor ahead; // the tile whose keys are loaded next
    typename Source::Run run{-1, 0, false};
    ahead.seek(walk, 0);
    const auto start = [&] {
        int32_t entries[std::size_t{kStages}];
        GPU_UNROLL
        for (int i = 0; i < kStages; ++i) entries[i] = source.fetch(tile_at(walk, i, kWarpTile), i < tiles);
        GPU_UNROLL
        for (int i = 0; i < kStages; ++i) {
            if (i < tiles) {
                run = source.resolve(ahead.tile, entries[i]);
                source.load_keys(run, keys_at(i));
            }
            gpu::cp_async_commit();
            if (i + 1 < kStages) {
                if (i < tiles) source.load_values(run, values_at(i));
                gpu::cp_async_commit();
            }
            ahead.advance(walk);
        }
    };
    Query<kDim / 16, true> query;
    const bool turned = p.cache.rotation != 0;
    if (turned) {
        stage_query<Source>(p, work, end.rows[0]);
    } else {
        start();
    }
    load_query(p, work, source, turned ? end.rows[0] : nullptr, smem, query);
    gpu::sync_threads();
    if (turned) start();

    float o[std::size_t{kColumns}][4];
    GPU_UNROLL
    for (int n = 0; n < kColumns; ++n) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) o[n][i] = 0.0f;
    }
    float max[2] = {-gpu::kInfinity, -gpu::kInfinity};
    float base[2] = {0.0f, 0.0f};
    float sum[2] = {0.0f, 0.0f};
    float *past = state.past[gpu::thread_x()];
    past[0] = past[1] = -gpu::kInfinity;
    past[2] = past[3] = 0.0f;
    const RowView *views = state.rows + (source.lane >> 2);
    // Slots that all rows see.
    const RowView mine = state.rows[source.lane & 15];
    const int32_t seen_low = gpu::warp_reduce_max(gpu::max(mine.low, 0));
    const int32_t seen_high = gpu::warp_reduce_min(mine.high);
    const float scale = p.shaped ? 1.0f : p.scale_log2;
    TileCursor now;
    now.seek(walk, 0);
    int32_t entry = source.fetch(ahead.tile, ahead.index < tiles);
    int stage = 0;

    for (int32_t index = 0; index < tiles; ++index) {
        if (index == walk.border) {
            GPU_UNROLL
            for (int i = 0; i < 2; ++i) {
                past[i] = max[i];
                past[2 + i] = sum[i];
            }
        }
        gpu::cp_async_wait<2 * kStages - 2>();
        gpu::sync_warp();
        if (index + kStages - 1 < tiles) source.load_values(run, values_at(back(stage, 1, kStages)));
        gpu::cp_async_commit();

        // ---- compute: scores, as exponents of 2
        const Tile tile = now.tile;
        const int32_t first = tile.first + Source::kSlots * source.warp;
        const int32_t last = first + Source::kSlots;
        float s[4][4];
        if (p.q_split) {
            source.products(tile, keys_at(stage), query, scale, s);
        } else {
            source.products(tile, keys_at(stage), OneTerm<kDim / 16>{query}, scale, s);
        }
        if (p.shaped) {
            GPU_UNROLL
            for (int n = 0; n < 4; ++n) {
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const RowView &row = views[i >> 1 << 3];
                    s[n][i] = shaped_score(p, s[n][i], row, first + Source::score_slot(n, source.lane & 3, i & 1), 0.0f);
                }
            }
        }
        if (first < gpu::max(tile.low, seen_low) || last > gpu::min(tile.high, seen_high)) {
            const RowView rows[2] = {views[0], views[8]};
            GPU_UNROLL
            for (int n = 0; n < 4; ++n) {
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) {
                    if (!sees(p, tile, rows[i >> 1], first + Source::score_slot(n, source.lane & 3, i & 1))) s[n][i] = -gpu::kInfinity;
                }
            }
        }

        // ---- compute: softmax. Maxima rarely move after the first tiles: only then do lanes compare theirs.
        float high[2] = {max[0], max[1]};
        GPU_UNROLL
        for (int n = 0; n < 4; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) high[i >> 1] = gpu::max(high[i >> 1], s[n][i]);
        }
        if (gpu::any(high[0] > max[0] || high[1] > max[1])) {
            float factor[2];
            GPU_UNROLL
            for (int i = 0; i < 2; ++i) {
                high[i] = gpu::max(high[i], gpu::shfl_xor(high[i], 1));
                high[i] = gpu::max(high[i], gpu::shfl_xor(high[i], 2));
                base[i] = safe_max(high[i]);
                factor[i] = gpu::exp2(max[i] - base[i]);
                max[i] = high[i];
                sum[i] *= factor[i];
            }
            GPU_UNROLL
            for (int n = 0; n < kColumns; ++n) {
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) o[n][i] *= factor[i >> 1];
            }
        }
        GPU_UNROLL
        for (int n = 0; n < 4; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) {
                s[n][i] = gpu::exp2(s[n][i] - base[i >> 1]);
                sum[i >> 1] += s[n][i];
            }
        }

        // ---- compute: values; the scores' registers are the left operand as they are
        gpu::cp_async_wait<2 * kStages - 2>();
        gpu::sync_warp();
        if (index + kStages < tiles) {
            run = source.resolve(ahead.tile, entry);
            source.load_keys(run, keys_at(stage));
            ahead.advance(walk);
            entry = source.fetch(ahead.tile, ahead.index < tiles);
        }
        gpu::cp_async_commit();
        if (first < tile.low || last > tile.high) source.clean(tile, values_at(stage));
        source.weigh(values_at(stage), s, o);
        now.advance(walk);
        stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    finish_block<Source>(p, state, max, sum, o, smem);
}

} // namespace strata
