// SPDX-License-Identifier: Apache-2.0
// kv_attention on tensor cores: the operands of q k, from rows of q to the registers of a warp, and the shared memory of a block's two ends.
//
// Index grammar: kk counts 16 channels of the score product; lane = 4 g + q owns rows g and g + 8 of a row tile. Which channel is which index
// of a step, says the Source: it has kDim, kRows, kSlotWarps, kQueryInSmem, keys_bf16() and key_channel(kk, q, i, e).
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

} // namespace strata
