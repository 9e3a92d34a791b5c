// SPDX-License-Identifier: Apache-2.0
// kv_attention, few rows, codes of one kind in both pools: warps that never wait for one another.
//
// A warp needs only its own quarter of a tile's slots, two runs of 16 that lie in one piece each. So it copies them itself, each half of
// its lanes one run: where a run lies is found by the lanes that copy it, steps of a copy differ by constants, and what a block would
// meet for, a warp meets for. Scales of tokens come with the words, 16 bytes at a time. Units, products and layouts are those of
// kv_attention_words.cuh, the pipeline is that of kv_attention_mma.cuh, one for each warp.
//
// A copy with a size that is no constant costs three more instructions on sm_90, so runs that are there whole go another way.
#pragma once

#include "ops/kv_attention/kv_attention_words.cuh"

namespace strata {

/// Compile-time shape of the kernel, for launcher and kernel.
template <int Dim, Codes C>
struct WarpsShape {
    static constexpr int kTileSlots = kWarps * 32;
    static constexpr int kEach = 1 << word_shift(C);
    static constexpr bool kBlock = C >= Codes::kByte;
    static constexpr int kTokenScales = token_scaled(C) ? kTileSlots * 2 : 0;
    static constexpr int kKeyWords = key_words_bytes(kTileSlots, Dim, kEach);
    static constexpr int kValueWords = kTileSlots * Dim / kEach * 4;
    static constexpr int kKeyUnit = key_unit_bytes(kTileSlots, Dim, kEach, kBlock) + kTokenScales;
    static constexpr int kValueUnit = value_unit_bytes(kTileSlots, Dim, kEach, kBlock) + kTokenScales;
    static constexpr int kStages = Dim == 64 || C == Codes::kNibble ? 3 : 2;
    static constexpr int kUnits = kStages * (kKeyUnit + kValueUnit);
};

/// Operands of q that are known to have one term: no question between the products.
template <int Steps>
struct OneTerm : Query<Steps, true> {
    static GPU_DEVICE bool split(bool) { return false; }
};

/// The tiles of a walk in turn. The walk itself is looked at only where a stretch ends.
template <int Slots>
struct TileCursor {
    Tile tile;
    int32_t index, change; // of tiles; the next one of another stretch

    GPU_DEVICE void seek(const Walk &walk, int32_t to) {
        index = to;
        tile = tile_at(walk, to, Slots);
        change = to < walk.tiles_a ? walk.tiles_a : to < walk.tiles_ab ? walk.tiles_ab : walk.tiles;
    }
    GPU_DEVICE void advance(const Walk &walk) {
        if (++index == change) {
            seek(walk, index);
        } else {
            tile.first += Slots;
        }
    }
};

template <int Dim, Codes C>
struct WarpSource : WordSource<Dim, 4, true, static_cast<int>(C), static_cast<int>(C)> {
    using Base = WordSource<Dim, 4, true, static_cast<int>(C), static_cast<int>(C)>;
    using Shape = WarpsShape<Dim, C>;
    using Base::p;
    using Base::work;
    static constexpr int kShift = word_shift(C);
    static constexpr int kRunRows = Dim >> kShift;     // rows of 64 bytes of a run of keys
    static constexpr int kRunLines = 16 >> kShift;     // rows of Dim words of a run of values
    static constexpr int kChunks = Dim / 4;            // of such a row
    static constexpr int kSteps = kRunRows * 64 / 256; // of 16 lanes, the same for keys and values
    static constexpr int kSlots = 32;                  // of a warp

    int warp, lane, half, in_half;
    // Of the item's head, where the lane begins to copy. Shared memory has what they are made of, but a loop would ask for it each time.
    const unsigned char *keys, *values;
    const uint16_t *key_scales, *value_scales;
    const int32_t *table;
    int32_t last; // slot

    GPU_DEVICE WarpSource(const AttentionParams &params, const Work &of)
        : Base(params, of), warp(gpu::warp_id()), lane(gpu::lane_id()), half(lane >> 4), in_half(lane & 15) {
        const GpuKvCache &cache = p.cache;
        keys = static_cast<const unsigned char *>(cache.keys.data) + work.head * cache.keys.head + in_half * 16;
        values = static_cast<const unsigned char *>(cache.values.data) + work.head * cache.values.head + in_half * 16;
        const int64_t value_scale = Shape::kBlock ? (lane >> 2) * cache.value_scales.slot + (lane & 3) * 8 : in_half * 8;
        key_scales = static_cast<const uint16_t *>(cache.key_scales.data) + work.head * cache.key_scales.head + (Shape::kBlock ? lane : in_half) * 8;
        value_scales = static_cast<const uint16_t *>(cache.value_scales.data) + work.head * cache.value_scales.head + value_scale;
        table = work.table;
        last = work.length - 1;
    }

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
        run.whole = gpu::all(run.page >= 0 && p.cache.head_dim == Dim);
        return run;
    }
    /// Of the block of 32 slots, as whichever half is there has it.
    GPU_DEVICE GpuSlot block_of(const Run &run) const {
        const int32_t page = gpu::max(run.page, gpu::shfl_xor(run.page, 16));
        const int32_t in_page = gpu::max(run.in_page, gpu::shfl_xor(run.in_page, 16));
        return GpuSlot{page, in_page / kKvBlock * kKvBlock};
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

    GPU_DEVICE void load_keys(const Run &run, unsigned char *unit) const {
        const GpuKvCache &cache = p.cache;
        const int row = in_half >> 2;
        unsigned char *to = unit + ((2 * warp + half) * kRunRows + row) * 64 + ((in_half & 3) ^ (row & 2)) * 16;
        if (run.whole) {
            const unsigned char *from = keys + run.page * cache.keys.page + (run.in_page >> 4) * (kRunRows * 64);
            GPU_UNROLL
            for (int step = 0; step < kSteps; ++step) gpu::cp_async16(to + step * 256, from + step * 256);
        } else {
            const int used = cache.head_dim >> kShift;
            GPU_UNROLL_BY(1)
            for (int step = 0; step < kSteps; ++step) {
                const bool there = run.page >= 0 && step * 4 + row < used;
                const int64_t at = run.page * cache.keys.page + (run.in_page >> 4) * used * 64 + step * 256;
                gpu::cp_async16(to + step * 256, there ? keys + at : cache.keys.data, there);
            }
        }
        if constexpr (token_scaled(C)) {
            load_token_scales(cache.key_scales, key_scales, run, unit + Shape::kKeyWords);
        } else {
            constexpr int kParts = Dim / 8; // chunks of scales, and of zero points
            unsigned char *scales_to = unit + Shape::kKeyWords + warp * (2 * Dim * 2) + lane * 16;
            if (run.whole) {
                const uint16_t *from = key_scales + run.page * cache.key_scales.page + run.in_page / kKvBlock * cache.key_scales.slot;
                if (lane < 2 * kParts) gpu::cp_async16(scales_to, from);
            } else {
                const GpuSlot block = block_of(run);
                const int skipped = kParts * 8 - cache.head_dim; // channels of each part
                const bool there = block.page >= 0 && lane % kParts * 8 < cache.head_dim;
                const int64_t at = block.page * cache.key_scales.page + block.in_page / kKvBlock * cache.key_scales.slot - lane / kParts * skipped;
                if (lane < 2 * kParts) gpu::cp_async16(scales_to, there ? key_scales + at : cache.key_scales.data, there);
            }
        }
    }

    GPU_DEVICE void load_values(const Run &run, unsigned char *unit) const {
        const GpuKvCache &cache = p.cache;
        constexpr int kLineSteps = kChunks / 16; // steps of a row
        constexpr int kLaneShift = 3 - kShift;   // log2 of a lane's rows: see kv_attention_words.cuh
        unsigned char *to = unit + (2 * warp + half) * kRunLines * Dim * 4;
        const auto place = [&](int step) {
            const int line = step / kLineSteps;
            const int chunk = (step % kLineSteps * 16 + in_half) ^ (4 * half) ^ (2 * (line >> kLaneShift));
            return to + (line * kChunks + chunk) * 16;
        };
        if (run.whole) {
            const unsigned char *from = values + run.page * cache.values.page + (run.in_page >> 4) * (kRunLines * Dim * 4);
            GPU_UNROLL
            for (int step = 0; step < kSteps; ++step) gpu::cp_async16(place(step), from + step * 256);
        } else {
            GPU_UNROLL_BY(1)
            for (int step = 0; step < kSteps; ++step) {
                const int line = (run.in_page >> kShift) + step / kLineSteps;
                const bool there = run.page >= 0 && (step % kLineSteps * 16 + in_half) * 4 < cache.head_dim;
                const int64_t at = run.page * cache.values.page + line * cache.head_dim * 4 + step % kLineSteps * 256;
                gpu::cp_async16(place(step), there ? values + at : cache.values.data, there);
            }
        }
        if constexpr (token_scaled(C)) {
            load_token_scales(cache.value_scales, value_scales, run, unit + Shape::kValueWords);
        } else {
            // Four chunks of slots of each row of scales or zero points. Those of slots that are not there are cleaned.
            constexpr int kScaleRows = 2 * (Dim / kKvBlock);
            const int row = lane >> 2;
            unsigned char *scales_to = unit + Shape::kValueWords + (row * Shape::kTileSlots + kSlots * warp) * 2 + (lane & 3) * 16;
            if (run.whole) {
                const uint16_t *from = value_scales + run.page * cache.value_scales.page + run.in_page / kKvBlock * kKvBlock;
                if (row < kScaleRows) gpu::cp_async16(scales_to, from);
            } else {
                const GpuSlot block = block_of(run);
                const bool there = block.page >= 0 && row / 2 * kKvBlock < cache.head_dim;
                const uint16_t *from = value_scales + block.page * cache.value_scales.page + block.in_page;
                if (row < kScaleRows) gpu::cp_async16(scales_to, there ? from : cache.value_scales.data, there);
            }
        }
    }

    /// Of the warp's slots those that do not count may hold anything: numbers that could be NaN, and scales, become 0.
    GPU_DEVICE void clean(const Tile &tile, unsigned char *unit) const {
        const int32_t first = kSlots * warp;
        if constexpr (C == Codes::kFloat8) {
            auto *words = reinterpret_cast<uint32_t *>(unit);
            for (int i = first / 4 * Dim + lane; i < (first + kSlots) / 4 * Dim; i += gpu::kWarpSize) {
                const int32_t slot = tile.first + i / Dim * 4;
                uint32_t kept = 0;
                for (int e = 0; e < 4; ++e) kept |= counts(tile, slot + e) ? 0xffu << (8 * e) : 0u;
                words[i] &= kept;
            }
        }
        auto *scales = reinterpret_cast<uint16_t *>(unit + Shape::kValueWords);
        constexpr int kScaleRows = Shape::kBlock ? 2 * (Dim / kKvBlock) : 1;
        if (!counts(tile, tile.first + first + lane)) {
            for (int row = 0; row < kScaleRows; ++row) scales[row * Shape::kTileSlots + first + lane] = 0;
        }
        gpu::sync_warp();
    }

    /// Products of q and the warp's keys, times `scale`.
    template <class QueryOperands>
    GPU_DEVICE void products(const Tile &tile, const unsigned char *unit, const QueryOperands &query, float scale, float (&s)[4][4]) const {
        const int g = lane >> 2;
        const int q = lane & 3;
        const unsigned char *words = unit + ((2 * warp + (g >> 2)) * kRunRows + q) * 64 + ((g & 3) ^ (q & 2)) * 16;
        GPU_UNROLL
        for (int j = 0; j < 4; ++j) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) s[j][i] = 0.0f;
        }
        if constexpr (token_scaled(C)) {
            const gpu::U4 factors = gpu::load16(unit + Shape::kKeyWords + (kSlots * warp + 8 * q) * 2);
            this->template scores_bytes<C>(words, query, s);
            GPU_UNROLL
            for (int e = 0; e < 2; ++e) {
                GPU_UNROLL
                for (int j = 0; j < 4; ++j) { // slot 8 q + 4 e + j: score_slot
                    const uint32_t pair = factors.v[2 * e + (j >> 1)];
                    const float factor = ((j & 1) == 0 ? gpu::f16_low(pair) : gpu::f16_high(pair)) * scale;
                    s[j][e] *= factor;
                    s[j][2 + e] *= factor;
                }
            }
        } else {
            float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f}; // what all slots of a row get
            if (tile.first + kSlots * warp >= paged_keys(p.cache, work.length)) {
                this->template scores_tail<C == Codes::kNibble>(tile, tile.first + kSlots * warp, query, s);
            } else {
                this->template scores_block<C>(words, unit + Shape::kKeyWords + warp * (2 * Dim * 2), query, s, zero);
            }
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) {
                const float added = zero[i] * scale;
                GPU_UNROLL
                for (int j = 0; j < 4; ++j) s[j][i] = gpu::fma(s[j][i], scale, added);
            }
        }
    }

    GPU_DEVICE void weigh(const unsigned char *unit, const float (&s)[4][4], float (&o)[std::size_t{Dim / 8}][4]) const {
        const int g = lane >> 2;
        const int q = lane & 3;
        const int slot = kSlots * warp + 8 * q;
        const unsigned char *scales = unit + Shape::kValueWords + slot * 2;
        uint32_t token[4] = {0, 0, 0, 0};
        if constexpr (token_scaled(C)) load_slot_pairs<false, 4>(scales, token);
        this->template multiply_values<C>(unit + (slot >> kShift) * Dim * 4 + (g ^ (2 * q)) * 16, scales, token, s, o);
    }
};

/// The walk of a warp, as attend of kv_attention_mma.cuh walks a block's.
template <int Dim, Codes C>
GPU_DEVICE void attend_by_warps(const AttentionParams &p, unsigned char *smem) {
    using Source = WarpSource<Dim, C>;
    using Shape = WarpsShape<Dim, C>;
    constexpr int kStages = Shape::kStages;
    constexpr int kColumns = Dim / 8;
    gpu::let_next_start();
    auto &state = *reinterpret_cast<BlockState *>(smem + p.smem.state);
    gpu::wait_for_previous();
    if (gpu::thread_x() == 0) {
        state.work = find_work(p, gpu::block_x(), gpu::block_y(), Source::kRows);
        if (state.work.rows > 0) state.walk = make_walk(p, state.work, Shape::kTileSlots);
    }
    gpu::sync_threads();
    const Work &work = state.work;
    const Walk &walk = state.walk;
    if (work.rows == 0) return;
    if (gpu::thread_x() < Source::kRows) state.rows[gpu::thread_x()] = row_view(p, work, gpu::thread_x());
    const Source source(p, work);
    auto &end = *reinterpret_cast<EndSmem<Dim> *>(smem);
    const int32_t tiles = walk.tiles;
    const auto keys_at = [&](int stage) { return smem + stage * Shape::kKeyUnit; };
    const auto values_at = [&](int stage) { return smem + kStages * Shape::kKeyUnit + stage * Shape::kValueUnit; };

    // ---- load: all units but the last on their way, q to operands
    TileCursor<Shape::kTileSlots> ahead; // the tile whose keys are loaded next
    typename Source::Run run{-1, 0, false};
    ahead.seek(walk, 0);
    const auto start = [&] {
        int32_t entries[std::size_t{kStages}];
        GPU_UNROLL
        for (int i = 0; i < kStages; ++i) entries[i] = source.fetch(tile_at(walk, i, Shape::kTileSlots), i < tiles);
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
    Query<Dim / 16, true> query;
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
    TileCursor<Shape::kTileSlots> now;
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
            source.products(tile, keys_at(stage), OneTerm<Dim / 16>{query}, scale, s);
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

template <int Dim, int Codec>
GPU_KERNEL(kThreads, Codec == static_cast<int>(Codes::kByte) ? 2 : 3)
kv_attention_mma_warps_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(smem);
    attend_by_warps<Dim, static_cast<Codes>(Codec)>(p, smem);
}

} // namespace strata
