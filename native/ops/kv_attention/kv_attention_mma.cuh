// SPDX-License-Identifier: Apache-2.0
// kv_attention on tensor cores: what is the same whatever K and V look like. A Source (kv_attention_rows.cuh, kv_attention_words.cuh)
// brings the tiles and multiplies with them.
//
// A block has four warps and walks the tiles of its item. K and V of a tile are two units of a pipeline: while a unit is computed
// with, the next 2 * stages - 1 are under way.
//
//     few rows    16 rows; a warp has a quarter of each tile's slots and its own max, sum and o; the four meet once, at the end.
//     many rows   64 rows; a warp has 16 of them and all slots of each tile.
//
//     unit     K0 V0 K1 V1 K2 ...          wait for the unit, meet, start the load into the place of the unit before, compute
//
// Index grammar: rt, kk, n, d count 16 rows, 16 channels of the score product, 8 slots, 8 channels of the output;
// lane = 4 g + q owns rows g and g + 8 and columns 2q, 2q + 1 of each 16 x 8 tile. Which slot or channel a column is, says the Source.
#pragma once

#include "ops/kv_attention/kv_attention_query.cuh"

namespace strata {

/// What a row does not see becomes -inf. `views`: of row g of the warp's tile. Each question is asked once for all elements, so that they
/// go through as one run of instructions.
template <class Source>
GPU_DEVICE void hide_scores(const AttentionParams &p, const Tile &tile, const RowView *views, int warp_slot,
                            float (&s)[std::size_t{Source::kScoreTiles}][4]) {
    const int q = gpu::lane_id() & 3;
    const RowView rows[2] = {views[0], views[8]};
    if (gpu::all(sees_all(tile, rows[0], Source::kTileSlots) && sees_all(tile, rows[1], Source::kTileSlots))) return;
    GPU_UNROLL
    for (int n = 0; n < Source::kScoreTiles; ++n) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
            if (!sees(p, tile, rows[i >> 1], tile.first + warp_slot + Source::score_slot(n, q, i & 1))) s[n][i] = -gpu::kInfinity;
        }
    }
}

/// Products to exponents of 2; what a row does not see becomes -inf.
template <class Source>
GPU_DEVICE void mask_scores(const AttentionParams &p, const Tile &tile, const RowView *views, const float *biases, int warp_slot,
                            float (&s)[std::size_t{Source::kScoreTiles}][4]) {
    const int q = gpu::lane_id() & 3;
    const RowView rows[2] = {views[0], views[8]};
    if (p.shaped) {
        GPU_UNROLL
        for (int n = 0; n < Source::kScoreTiles; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int in_tile = warp_slot + Source::score_slot(n, q, i & 1);
                s[n][i] = shaped_score(p, s[n][i], rows[i >> 1], tile.first + in_tile, biases[in_tile]);
            }
        }
    } else {
        GPU_UNROLL
        for (int n = 0; n < Source::kScoreTiles; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) s[n][i] *= p.scale_log2;
        }
    }
    hide_scores<Source>(p, tile, views, warp_slot, s);
}

GPU_DEVICE void wait_for_unit(int stages) {
    if (stages == 1) {
        gpu::cp_async_wait<0>();
    } else if (stages == 2) {
        gpu::cp_async_wait<2>();
    } else {
        gpu::cp_async_wait<4>();
    }
}
constexpr int kMostStages = 3;

/// A place in a ring, `by` steps back.
GPU_DEVICE int back(int place, int by, int count) { return place < by ? place - by + count : place - by; }

/// The units of a block's tiles on their way from global to shared memory. `stage` is a tile's place among p.smem.stages units, `note`
/// that of what is known of its slots, of which one more tile has one.
template <class Source>
struct Pipeline {
    const AttentionParams &p;
    const Walk &walk;
    const Source &source;
    unsigned char *smem;
    int32_t tiles;

    GPU_DEVICE typename Source::Info &info(int note) const { return reinterpret_cast<typename Source::Info *>(smem + p.smem.infos)[note]; }
    GPU_DEVICE unsigned char *keys(int stage) const { return smem + stage * p.smem.key_unit; }
    GPU_DEVICE unsigned char *values(int stage) const { return smem + p.smem.stages * p.smem.key_unit + stage * p.smem.value_unit; }
    /// The table's entry for a slot of a tile. Nothing asks for its value before resolve, a tile later.
    GPU_DEVICE int32_t fetch(const Tile &tile, bool there, int in_tile) const {
        if (!there || in_tile >= Source::kTileSlots) return -1;
        return table_entry(p.cache, source.work.table, gpu::min(tile.first + in_tile, source.work.length - 1));
    }
    GPU_DEVICE void publish(int note, int in_tile, const typename Source::Place &place) const {
        if (in_tile < Source::kTileSlots) source.publish(info(note), in_tile, place);
    }
    GPU_DEVICE void load_keys(int32_t tile, int stage, int note) const {
        if (tile < tiles) source.load_keys(info(note), keys(stage));
        gpu::cp_async_commit();
    }
    GPU_DEVICE void load_values(int32_t tile, int stage, int note) const {
        if (tile < tiles) source.load_values(info(note), values(stage));
        gpu::cp_async_commit();
    }
    /// All units but the last on their way.
    GPU_DEVICE void start() const {
        for (int i = gpu::thread_x(); i < gpu::min(tiles, p.smem.stages) * Source::kTileSlots; i += kThreads) {
            const int number = i / Source::kTileSlots;
            const int in_tile = i % Source::kTileSlots;
            const Tile tile = tile_at(walk, number, Source::kTileSlots);
            publish(number, in_tile, source.resolve(tile, in_tile, true, fetch(tile, true, in_tile)));
        }
        gpu::sync_threads();
        for (int i = 0; i < p.smem.stages; ++i) {
            load_keys(i, i, i);
            if (i + 1 < p.smem.stages) load_values(i, i, i);
        }
    }
    /// Waits until the oldest unit is there and everybody is done with the one before it.
    GPU_DEVICE void wait() const {
        wait_for_unit(p.smem.stages);
        gpu::sync_threads();
    }
};

/// The end of a block: its warps meet, and its rows leave. A warp's rows g and g + 8 have these maxima, and each lane its part of the sums.
template <class Source>
GPU_DEVICE void finish_block(const AttentionParams &p, BlockState &state, const float (&max)[2], float (&sum)[2],
                             const float (&o)[std::size_t{Source::kDim / 8}][4], unsigned char *smem) {
    constexpr int kColumns = Source::kDim / 8;
    constexpr int kSlotWarps = Source::kSlotWarps;
    const int lane = gpu::lane_id();
    const int g = lane >> 2;
    const int q = lane & 3;
    const Work &work = state.work;
    const Walk &walk = state.walk;
    const bool turned = p.cache.rotation != 0;
    float *past = state.past[gpu::thread_x()];
    auto &end = *reinterpret_cast<EndSmem<Source::kDim> *>(smem);
    if (walk.border == walk.tiles) {
        GPU_UNROLL
        for (int i = 0; i < 2; ++i) {
            past[i] = max[i];
            past[2 + i] = sum[i];
        }
    }

    // ---- combine: the warps of a row tile meet in shared memory
    gpu::cp_async_wait<0>();
    gpu::sync_threads();
    GPU_UNROLL
    for (int n = 0; n < kColumns; ++n) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) end.rows[gpu::warp_id() * 16 + g + 8 * (i >> 1)][Source::value_channel(n, 2 * q + (i & 1))] = o[n][i];
    }
    GPU_UNROLL
    for (int i = 0; i < 2; ++i) {
        sum[i] += gpu::shfl_xor(sum[i], 1);
        sum[i] += gpu::shfl_xor(sum[i], 2);
        float past_sum = past[2 + i];
        past_sum += gpu::shfl_xor(past_sum, 1);
        past_sum += gpu::shfl_xor(past_sum, 2);
        if (q == 0) end.parts[gpu::warp_id() * 16 + g + 8 * i] = RowState{max[i], sum[i], past[i], past_sum};
    }
    gpu::sync_threads();
    const int thread = gpu::thread_x();
    if (thread < Source::kRows) {
        RowState row{-gpu::kInfinity, 0.0f, -gpu::kInfinity, 0.0f};
        const int first = thread / 16 * kSlotWarps * 16 + thread % 16;
        GPU_UNROLL
        for (int w = 0; w < kSlotWarps; ++w) {
            row.max = gpu::max(row.max, end.parts[first + 16 * w].max);
            row.past_max = gpu::max(row.past_max, end.parts[first + 16 * w].past_max);
        }
        GPU_UNROLL
        for (int w = 0; w < kSlotWarps; ++w) {
            const RowState &part = end.parts[first + 16 * w];
            const float weight = gpu::exp2(part.max - safe_max(row.max));
            end.weights[first + 16 * w] = weight;
            row.sum = gpu::fma(part.sum, weight, row.sum);
            row.past_sum = gpu::fma(part.past_sum, gpu::exp2(part.past_max - safe_max(row.past_max)), row.past_sum);
        }
        if (thread < work.rows) end.ends[thread] = end_row(p, work, thread, row);
    }
    gpu::sync_threads();

    // ---- store; a warp takes whole rows
    for (int r = gpu::warp_id(); r < (turned ? Source::kRows : work.rows); r += kWarps) {
        const int first = r / 16 * kSlotWarps * 16 + r % 16;
        for (int channel = lane * kEmitted; channel < Source::kDim; channel += gpu::kWarpSize * kEmitted) {
            float values[std::size_t{kEmitted}] = {};
            GPU_UNROLL
            for (int w = 0; w < kSlotWarps; ++w) {
                const gpu::U4 words = gpu::load16(end.rows[first + 16 * w] + channel);
                GPU_UNROLL
                for (int j = 0; j < kEmitted; ++j) values[j] = gpu::fma(gpu::as_float(words.v[j]), end.weights[first + 16 * w], values[j]);
            }
            if (turned) {
                gpu::store16(end.rows[first] + channel,
                             gpu::U4{{gpu::as_uint(values[0]), gpu::as_uint(values[1]), gpu::as_uint(values[2]), gpu::as_uint(values[3])}});
            } else {
                emit_some(p, work, r, channel, values, end.ends[r]);
            }
        }
    }
    if (!turned) return;
    gpu::sync_threads();
    hadamard_rows(end.rows[0], Source::kRows, row_pitch<Source::kDim>(), p.cache.head_dim, p.cache.rotation);
    gpu::sync_threads();
    for (int r = gpu::warp_id(); r < work.rows; r += kWarps) {
        for (int channel = lane; channel < p.cache.head_dim; channel += gpu::kWarpSize) emit(p, work, r, channel, end.rows[r][channel], end.ends[r]);
    }
}

template <class Source>
GPU_DEVICE void attend(const AttentionParams &p, unsigned char *smem) {
    constexpr int kScoreTiles = Source::kScoreTiles;
    constexpr int kColumns = Source::kDim / 8;
    constexpr int kSlotWarps = Source::kSlotWarps;
    gpu::let_next_start();
    const int lane = gpu::lane_id();
    const int g = lane >> 2;
    const int row_tile = gpu::warp_id() / kSlotWarps;
    const int warp_slot = gpu::warp_id() % kSlotWarps * (Source::kTileSlots / kSlotWarps);
    auto &state = *reinterpret_cast<BlockState *>(smem + p.smem.state);
    gpu::wait_for_previous();
    if (gpu::thread_x() == 0) {
        state.work = find_work(p, gpu::block_x(), gpu::block_y(), Source::kRows);
        if (state.work.rows > 0) state.walk = make_walk(p, state.work, Source::kTileSlots);
    }
    gpu::sync_threads();
    const Work &work = state.work;
    const Walk &walk = state.walk;
    if (work.rows == 0) return;
    if (gpu::thread_x() < Source::kRows) state.rows[gpu::thread_x()] = row_view(p, work, gpu::thread_x());
    const RowView *views = state.rows + row_tile * 16 + g; // its rows are there after the first meeting
    const Source source(p, work);
    const Pipeline<Source> pipeline{p, walk, source, smem, walk.tiles};
    auto &end = *reinterpret_cast<EndSmem<Source::kDim> *>(smem);

    // ---- load: the first tiles on their way, q to operands (turned rows need the pipeline's memory, so they go first)
    Query<Source::kDim / 16, Source::kQueryInSmem> query;
    const bool turned = p.cache.rotation != 0;
    if (turned) {
        stage_query<Source>(p, work, end.rows[0]);
    } else {
        pipeline.start();
    }
    load_query(p, work, source, turned ? end.rows[0] : nullptr, smem, query);
    if (turned) {
        gpu::sync_threads();
        pipeline.start();
    }
    float o[std::size_t{kColumns}][4];
    GPU_UNROLL
    for (int n = 0; n < kColumns; ++n) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) o[n][i] = 0.0f;
    }
    float max[2] = {-gpu::kInfinity, -gpu::kInfinity};
    float sum[2] = {0.0f, 0.0f};
    float *past = state.past[gpu::thread_x()];
    past[0] = past[1] = -gpu::kInfinity;
    past[2] = past[3] = 0.0f;
    const int stages = p.smem.stages;
    const int32_t tiles = walk.tiles;
    Tile ahead = tile_at(walk, stages, Source::kTileSlots); // the tile whose slots are looked up: the one after those under way
    int32_t entry = pipeline.fetch(ahead, stages < tiles, gpu::thread_x());
    int stage = 0;
    int note = 0;

    for (int32_t index = 0; index < tiles; ++index) {
        if (index == walk.border) {
            GPU_UNROLL
            for (int i = 0; i < 2; ++i) {
                past[i] = max[i];
                past[2 + i] = sum[i];
            }
        }
        const Tile tile = tile_at(walk, index, Source::kTileSlots);
        typename Source::Info &info = pipeline.info(note);
        pipeline.wait();
        pipeline.load_values(index + stages - 1, back(stage, 1, stages), back(note, 2, stages + 1));
        const typename Source::Place next = source.resolve(ahead, gpu::thread_x(), index + stages < tiles, entry);
        ahead = tile_at(walk, index + stages + 1, Source::kTileSlots);
        entry = pipeline.fetch(ahead, index + stages + 1 < tiles, gpu::thread_x());

        // ---- compute: scores
        float s[std::size_t{kScoreTiles}][4];
        source.scores(tile, info, pipeline.keys(stage), query, warp_slot, s);
        mask_scores<Source>(p, tile, views, info.bias, warp_slot, s);

        // ---- compute: softmax, in units of log2
        float high[2] = {max[0], max[1]};
        GPU_UNROLL
        for (int n = 0; n < kScoreTiles; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) high[i >> 1] = gpu::max(high[i >> 1], s[n][i]);
        }
        float factor[2];
        float base[2];
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
        for (int n = 0; n < kScoreTiles; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) {
                s[n][i] = gpu::exp2(s[n][i] - base[i >> 1]);
                sum[i >> 1] += s[n][i];
            }
        }
        if (gpu::any(factor[0] != 1.0f || factor[1] != 1.0f)) { // after the first tiles the maxima rarely move
            GPU_UNROLL
            for (int n = 0; n < kColumns; ++n) {
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) o[n][i] *= factor[i >> 1];
            }
        }
        if (index + stages < tiles) pipeline.publish(back(note, 1, stages + 1), gpu::thread_x(), next);

        // ---- compute: values; the scores' registers are the left operand as they are
        pipeline.wait();
        pipeline.load_keys(index + stages, stage, back(note, 1, stages + 1));
        source.clean_values(tile, pipeline.values(stage));
        source.values(info, pipeline.values(stage), warp_slot, s, o);
        stage = stage + 1 == stages ? 0 : stage + 1;
        note = note == stages ? 0 : note + 1;
    }
    finish_block<Source>(p, state, max, sum, o, smem);
}

} // namespace strata
