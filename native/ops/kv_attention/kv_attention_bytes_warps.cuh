// SPDX-License-Identifier: Apache-2.0
// kv_attention, few rows: rows of 8-bit codes of one kind, in pages of whole runs of 16 slots, each warp for itself (kv_attention_warps.cuh).
//
// Codes become operands as in kv_attention_bytes.cuh, but which slot is which row of a matrix is chosen so that a lane has eight neighbours,
// whose scales are 16 bytes:
//
//     K   matrix j        row i is slot 4 i + j
//     V   half i, step t  row 2 q + e is slot 8 q + 4 t + 2 i + e
//
// The rows of a matrix must meet different banks, those that are copied at once too. Of slot 16 b4 + ... + b0 of a warp's tile, chunk c lies at
// c ^ (b4 b3 (b2 ^ b0)). Where two rows share the banks, at 64 bytes, it is at c ^ (b4 (b2 ^ b0)) of row (b4 b2 b1 b0 b3).
#pragma once

#include "ops/kv_attention/kv_attention_bytes.cuh"
#include "ops/kv_attention/kv_attention_warps.cuh"

namespace strata {

/// Compile-time shape of the kernel, for launcher and kernel.
template <int Dim>
struct ByteWarpsShape {
    static constexpr int kDim = Dim;
    static constexpr int kRowBytes = kWarpTile * Dim;
    static constexpr int kKeyUnit = kRowBytes + kWarpTile * 2; // and scales
    static constexpr int kValueUnit = kKeyUnit;
    static constexpr int kStages = Dim == 64 ? 3 : 2;
};

template <int Dim, Codes C>
struct ByteWarpSource : WarpRuns<ByteSource<Dim, true, static_cast<int>(C), static_cast<int>(C)>> {
    using Runs = WarpRuns<ByteSource<Dim, true, static_cast<int>(C), static_cast<int>(C)>>;
    using Shape = ByteWarpsShape<Dim>;
    using Run = typename Runs::Run;
    using Runs::half;
    using Runs::in_half;
    using Runs::key_scales;
    using Runs::keys;
    using Runs::kSlots;
    using Runs::lane;
    using Runs::p;
    using Runs::value_scales;
    using Runs::values;
    using Runs::warp;
    static constexpr int kChunks = Dim / 16;
    static constexpr int kSteps = kChunks;                 // of 16 lanes, for a run
    static constexpr int kRowsAtOnce = 8 / kSteps;         // and as many eight rows on
    static constexpr int kTileBytes = kSlots * Dim;        // of a warp
    static constexpr int kNext = Dim > 64 ? Dim : 2 * Dim; // bytes from a slot to its neighbour among eight

    GPU_DEVICE ByteWarpSource(const AttentionParams &params, const Work &of) : Runs(params, of) {
        keys += first_row() * p.cache.keys.slot + chunk() * 16;
        values += first_row() * p.cache.values.slot + chunk() * 16;
    }

    // What the lane copies: rows first_row() + step * kRowsAtOnce of its run.
    GPU_DEVICE int chunk() const { return in_half % kChunks; }
    GPU_DEVICE int first_row() const { return in_half / kChunks % 2 * 8 + in_half / kChunks / 2; }

    /// Where a chunk of a slot of a warp's tile lies.
    static GPU_DEVICE int place(int slot, int chunk) {
        if constexpr (Dim > 64) {
            return slot * Dim + (chunk ^ (slot >> 2) ^ (slot & 1)) * 16;
        } else {
            const int turn = (slot >> 3 & 2) | (((slot >> 2) ^ slot) & 1);
            return ((slot & 16) + (slot & 7) * 2 + (slot >> 3 & 1)) * Dim + (chunk ^ turn) * 16;
        }
    }
    static GPU_DEVICE int slot_of(int row) { return Dim > 64 ? row : (row & 16) + (row & 1) * 8 + (row >> 1 & 7); }

    /// `from`: of the item's head and the lane.
    GPU_DEVICE void load_rows(const GpuPool &pool, const unsigned char *from, const Run &run, unsigned char *unit) const {
        static_assert(kRowsAtOnce <= 2); // so that a step moves no bit of a turn but the lowest
        const int at = warp * kTileBytes + place(16 * half + first_row(), chunk());
        const auto target = [&](int step) {
            const int row = step * kRowsAtOnce;
            return unit + (at ^ (((row >> 2) ^ row) % 2 * 16)) + row * kNext;
        };
        const unsigned char *page = from + run.page * pool.page;
        if (run.whole && pool.slot == Dim) {
            const unsigned char *row = page + run.in_page * Dim;
            GPU_UNROLL
            for (int step = 0; step < kSteps; ++step) gpu::cp_async16(target(step), row + step * kRowsAtOnce * Dim);
        } else if (run.whole) {
            const unsigned char *row = page + run.in_page * pool.slot;
            GPU_UNROLL
            for (int step = 0; step < kSteps; ++step) {
                gpu::cp_async16(target(step), row);
                row += pool.slot * kRowsAtOnce;
            }
        } else {
            const bool there = run.page >= 0 && chunk() * 16 < p.cache.head_dim;
            GPU_UNROLL_BY(1)
            for (int step = 0; step < kSteps; ++step) {
                gpu::cp_async16(target(step), there ? page + (run.in_page + step * kRowsAtOnce) * pool.slot : pool.data, there);
            }
        }
    }
    GPU_DEVICE void load_keys(const Run &run, unsigned char *unit) const {
        load_rows(p.cache.keys, keys, run, unit);
        this->load_token_scales(p.cache.key_scales, key_scales, run, unit + Shape::kRowBytes);
    }
    GPU_DEVICE void load_values(const Run &run, unsigned char *unit) const {
        load_rows(p.cache.values, values, run, unit);
        this->load_token_scales(p.cache.value_scales, value_scales, run, unit + Shape::kRowBytes);
    }

    /// Of the warp's slots those that do not count may hold anything: numbers that could be NaN, and scales, become 0.
    GPU_DEVICE void clean(const Tile &tile, unsigned char *unit) const {
        if constexpr (C == Codes::kFloat8) {
            for (int i = lane; i < kSlots * kChunks; i += gpu::kWarpSize) {
                const int32_t slot = slot_of(i / kChunks);
                if (!counts(tile, tile.first + kSlots * warp + slot)) gpu::store16(unit + warp * kTileBytes + i * 16, gpu::U4{{0, 0, 0, 0}});
            }
        }
        this->clean_scales(tile, unit + Shape::kRowBytes, 1);
        gpu::sync_warp();
    }

    /// Products of q and the warp's keys, times `scale`.
    template <class QueryOperands>
    GPU_DEVICE void products(const Tile &, const unsigned char *unit, const QueryOperands &query, float scale, float (&s)[4][4]) const {
        GPU_UNROLL
        for (int j = 0; j < 4; ++j) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) s[j][i] = 0.0f;
        }
        const bool split = query.split(p.q_split);
        const int first = place(4 * (lane & 7) + (lane >> 3), 0);
        const unsigned char *rows = unit + warp * kTileBytes;
        GPU_UNROLL
        for (int kk = 0; kk < kChunks; ++kk) {
            uint32_t a[4];
            uint32_t rest[4] = {0, 0, 0, 0};
            uint32_t codes[4];
            query.get(kk, a);
            if (split) query.get_rest(kk, rest);
            gpu::ldmatrix_x4(codes, rows + (first ^ (kk * 16)));
            GPU_UNROLL
            for (int j = 0; j < 4; ++j) this->template multiply_key_codes<C>(codes[j], a, rest, split, s[j]);
        }
        this->scale_scores(unit + Shape::kRowBytes, scale, s);
    }

    GPU_DEVICE void weigh(const unsigned char *unit, const float (&s)[4][4], float (&o)[std::size_t{Dim / 8}][4]) const {
        uint32_t factors[4];
        load_slot_pairs<false, 4>(unit + Shape::kRowBytes + (kSlots * warp + 8 * (lane & 3)) * 2, factors);
        const int row = lane & 7;
        const int first = place(8 * (row >> 1) + 2 * (lane >> 3 & 1) + (row & 1), lane >> 4);
        const unsigned char *rows = unit + warp * kTileBytes;
        GPU_UNROLL
        for (int t = 0; t < 2; ++t) {
            const uint32_t a[4] = {gpu::pack2_f16(s[0][t], s[1][t]), gpu::pack2_f16(s[0][2 + t], s[1][2 + t]), gpu::pack2_f16(s[2][t], s[3][t]),
                                   gpu::pack2_f16(s[2][2 + t], s[3][2 + t])};
            const uint32_t scales[2] = {factors[2 * t], factors[2 * t + 1]};
            GPU_UNROLL
            for (int d = 0; d < Dim / 32; ++d) {
                // Four slots on a turn's lowest bit is the other: the same place in a row is that of the pair's other chunk.
                uint32_t codes[4];
                gpu::ldmatrix_x4_trans(codes, rows + (first ^ (d * 32)) + t * 4 * kNext);
                GPU_UNROLL
                for (int c = 0; c < 2; ++c) {
                    const int n = 4 * d + 2 * (c ^ t);
                    this->template multiply_value_codes<C>(codes[2 * c], codes[2 * c + 1], scales, a, o[n], o[n + 1]);
                }
            }
        }
    }
};

template <int Dim, int Codec>
GPU_KERNEL(kThreads, 3)
kv_attention_mma_bytes_warps_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(smem);
    attend_by_warps<ByteWarpSource<Dim, static_cast<Codes>(Codec)>>(p, smem);
}

} // namespace strata
