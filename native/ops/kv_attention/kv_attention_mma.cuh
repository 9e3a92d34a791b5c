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

#include "ops/kv_attention/kv_attention_combine.cuh"

namespace strata {

template <bool Bf16>
GPU_DEVICE void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (Bf16) {
        gpu::mma_bf16(c, a, b0, b1);
    } else {
        gpu::mma_f16(c, a, b0, b1);
    }
}
GPU_DEVICE uint32_t pack_pair(bool bf16, float low, float high) { return bf16 ? gpu::pack2_bf16(low, high) : gpu::pack2_f16(low, high); }
GPU_DEVICE float low_of(bool bf16, uint32_t pair) { return bf16 ? gpu::bf16_low(pair) : gpu::f16_low(pair); }
GPU_DEVICE float high_of(bool bf16, uint32_t pair) { return bf16 ? gpu::bf16_high(pair) : gpu::f16_high(pair); }

/// The left operands of q k: in registers, or in shared memory as each lane's own 16 bytes.
template <int Steps, bool InSmem>
struct Query {
    uint32_t main[static_cast<std::size_t>(Steps)][4];
    uint32_t rest[static_cast<std::size_t>(Steps)][4];

    GPU_DEVICE void get(int kk, uint32_t (&a)[4]) const {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) a[i] = main[kk][i];
    }
    GPU_DEVICE void get_rest(int kk, uint32_t (&a)[4]) const {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) a[i] = rest[kk][i];
    }
};
template <int Steps>
struct Query<Steps, true> {
    const gpu::U4 *main; // of the warp's row tile: [kk][lane]
    int to_rest;

    GPU_DEVICE void read(int at, uint32_t (&a)[4]) const {
        const gpu::U4 words = gpu::load16(main + at * gpu::kWarpSize + gpu::lane_id());
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) a[i] = words.v[i];
    }
    GPU_DEVICE void get(int kk, uint32_t (&a)[4]) const { read(kk, a); }
    GPU_DEVICE void get_rest(int kk, uint32_t (&a)[4]) const { read(kk + to_rest, a); }
    static GPU_DEVICE bool split(bool has_rest) { return has_rest; } // a type that knows may say so
};
/// Bytes of the fragments of `row_tiles` row tiles; in registers they are made one term after the other, in one place.
constexpr int query_bytes(int dim, int row_tiles, bool split) { return row_tiles * dim / 16 * gpu::kWarpSize * 16 * (split ? 2 : 1); }

template <int Dim>
GPU_HOST_DEVICE constexpr int row_pitch() {
    return Dim + 4;
}

/// Shared memory of the end of a block: rows of o of each warp (and, at its start, of q before they are turned), their states, weights.
template <int Dim>
struct EndSmem {
    static constexpr int kRows = kWarps * 16;
    float rows[std::size_t{kRows}][std::size_t{row_pitch<Dim>()}];
    RowState parts[std::size_t{kRows}];
    RowEnd ends[std::size_t{kRows}];
    float weights[std::size_t{kRows}];
};

/// What the threads of a block share from start to end. Kept here, and read when needed, it costs no registers.
struct BlockState {
    Work work;
    Walk walk;
    RowView rows[kWarps * 16];
    float past[std::size_t{kThreads}][4]; // each thread's max and sum of its two rows, at the end of the past
};

constexpr int end_bytes(int dim) {
    return static_cast<int>(dim == 64 ? sizeof(EndSmem<64>) : dim == 128 ? sizeof(EndSmem<128>) : sizeof(EndSmem<256>));
}
/// Bytes of the rows of EndSmem: past them operands may be written while turned rows are read.
constexpr int turned_bytes(int dim) { return kWarps * 16 * (dim + 4) * static_cast<int>(sizeof(float)); }
/// The end of a block uses all of the memory again, but for the state.
inline void finish_layout(int dim, SmemLayout &at) {
    at.state = at.total < end_bytes(dim) ? end_bytes(dim) : at.total;
    at.total = at.state + static_cast<int32_t>(sizeof(BlockState));
}

/// The rows of q, turned, into shared memory.
template <class Source>
GPU_DEVICE void stage_query(const AttentionParams &p, const Work &work, float *rows) {
    constexpr int kPitch = row_pitch<Source::kDim>();
    for (int i = gpu::thread_x(); i < Source::kRows * Source::kDim; i += kThreads) {
        const int r = i / Source::kDim;
        const int channel = i % Source::kDim;
        const bool there = r < work.rows && channel < p.cache.head_dim;
        rows[r * kPitch + channel] =
            there ? load_element(p.q_dtype, p.q, token_of(p, work, r) * p.q_token + head_of(p, work, r) * p.q_head + channel) : 0.0f;
    }
    gpu::sync_threads();
    hadamard_rows(rows, Source::kRows, kPitch, p.cache.head_dim, p.cache.rotation);
    gpu::sync_threads();
}

/// A turned row of shared memory.
struct TurnedRow {
    const float *row;
    bool there;

    GPU_DEVICE float get(int channel, bool inside) const { return there && inside ? row[channel] : 0.0f; }
};
/// A row of q. What is not there is read from where something is, so that no branch keeps loads apart.
template <int32_t DType>
struct QueryRow {
    const void *q;
    int64_t at;
    bool there;

    GPU_DEVICE float get(int channel, bool inside) const {
        const float value = load_element(DType, q, at + (inside ? channel : 0));
        return there && inside ? value : 0.0f;
    }
};

/// Fragment words of one step: rows g, g + 8; channels by the Source. `second`: what rounding to the type of the products leaves.
template <class Source, class Row>
GPU_DEVICE void query_fragment(const AttentionParams &p, const Source &source, const Row (&rows)[2], int kk, bool second, uint32_t (&words)[4]) {
    const int q = gpu::lane_id() & 3;
    const bool bf16 = source.keys_bf16();
    float v[4][2];
    GPU_UNROLL
    for (int i = 0; i < 4; ++i) {
        GPU_UNROLL
        for (int e = 0; e < 2; ++e) {
            const int channel = source.key_channel(kk, q, i >> 1, e);
            v[i][e] = rows[i & 1].get(channel, channel < p.cache.head_dim);
        }
    }
    GPU_UNROLL
    for (int i = 0; i < 4; ++i) {
        const uint32_t main = pack_pair(bf16, v[i][0], v[i][1]);
        const uint32_t rest = pack_pair(bf16, v[i][0] - low_of(bf16, main), v[i][1] - high_of(bf16, main));
        words[i] = second ? rest : main;
    }
}

/// One term of the operands of the warp's row tile, from its rows g and g + 8; warps of one tile share the steps.
template <class Source, class Row>
GPU_DEVICE void make_fragments(const AttentionParams &p, const Source &source, const Row (&rows)[2], bool second, gpu::U4 *fragments) {
    const int row_tile = gpu::warp_id() / Source::kSlotWarps;
    for (int kk = gpu::warp_id() % Source::kSlotWarps; kk < Source::kDim / 16; kk += Source::kSlotWarps) {
        gpu::U4 words;
        query_fragment(p, source, rows, kk, second, words.v);
        gpu::store16(fragments + (row_tile * (Source::kDim / 16) + kk) * gpu::kWarpSize + gpu::lane_id(), words);
    }
}

template <int32_t DType, class Source>
GPU_DEVICE void make_fragments_of(const AttentionParams &p, const Work &work, const Source &source, bool second, gpu::U4 *fragments) {
    const int first = gpu::warp_id() / Source::kSlotWarps * 16 + (gpu::lane_id() >> 2);
    QueryRow<DType> rows[2];
    GPU_UNROLL
    for (int i = 0; i < 2; ++i) {
        const int r = first + 8 * i;
        const int read = gpu::min(r, work.rows - 1);
        rows[i] = QueryRow<DType>{p.q, token_of(p, work, read) * p.q_token + head_of(p, work, read) * p.q_head, r < work.rows};
    }
    make_fragments(p, source, rows, second, fragments);
}

/// The operands of the warp's row tile, from turned rows or, where that is null, from q. They are made in shared memory, with little
/// code, because a short run waits for instructions more than for numbers. All threads; they must meet before reading.
template <class Source>
GPU_DEVICE void load_query(const AttentionParams &p, const Work &work, const Source &source, const float *turned, unsigned char *smem,
                           Query<Source::kDim / 16, Source::kQueryInSmem> &query) {
    constexpr int kSteps = Source::kDim / 16;
    constexpr int kTerm = Source::kRows / 16 * kSteps;
    const int row_tile = gpu::warp_id() / Source::kSlotWarps;
    auto *fragments = reinterpret_cast<gpu::U4 *>(smem + p.smem.queries);
    if constexpr (Source::kQueryInSmem) {
        query.main = fragments + row_tile * kSteps * gpu::kWarpSize;
        query.to_rest = kTerm;
    }
    for (int term = 0; term < (p.q_split ? 2 : 1); ++term) {
        gpu::U4 *to = fragments + (Source::kQueryInSmem ? term * kTerm * gpu::kWarpSize : 0);
        if (turned != nullptr) {
            const int first = row_tile * 16 + (gpu::lane_id() >> 2);
            const float *row = turned + first * row_pitch<Source::kDim>();
            const TurnedRow rows[2] = {{row, first < work.rows}, {row + 8 * row_pitch<Source::kDim>(), first + 8 < work.rows}};
            make_fragments(p, source, rows, term == 1, to);
        } else if (p.q_dtype == STRATA_DTYPE_F32) {
            make_fragments_of<STRATA_DTYPE_F32>(p, work, source, term == 1, to);
        } else if (p.q_dtype == STRATA_DTYPE_F16) {
            make_fragments_of<STRATA_DTYPE_F16>(p, work, source, term == 1, to);
        } else {
            make_fragments_of<STRATA_DTYPE_BF16>(p, work, source, term == 1, to);
        }
        if constexpr (!Source::kQueryInSmem) {
            gpu::sync_threads();
            GPU_UNROLL
            for (int kk = 0; kk < kSteps; ++kk) {
                const gpu::U4 words = gpu::load16(fragments + (row_tile * kSteps + kk) * gpu::kWarpSize + gpu::lane_id());
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) {
                    if (term == 0) {
                        query.main[kk][i] = words.v[i];
                    } else {
                        query.rest[kk][i] = words.v[i];
                    }
                }
            }
            gpu::sync_threads();
        }
    }
}

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
