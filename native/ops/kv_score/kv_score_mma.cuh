// SPDX-License-Identifier: Apache-2.0
// kv_score's two passes over 16-bit keys, on tensor cores.
//
//   A block holds a tile of keys in registers, as B operands of mma, for as long as it lasts: each of its four warps a quarter of the columns. The
//   rows (every head's window, 16 to a tile) stream through shared memory past them, double buffered:
//
//        keys  [128 or 64][D]  --ldmatrix-->  registers            p[16 rows][8 columns] per mma, in registers:
//        rows  stage, stage    --ldmatrix-->  A operands  --mma-->   column sums down the rows   (statistics)
//                                                                     row sums across the columns (log-sum-exp)
//
//   Queries of another type than the keys come as two or three parts whose sum is the query; their products add up in the same accumulators.
//   A row of D channels is 16-byte chunks; chunk c of row r lies at c ^ (r & 7), so that ldmatrix meets no bank twice.
#pragma once

#include "ops/kv_score/kv_score_gpu.cuh"

namespace strata {

template <int D>
struct KeyTile {
    static constexpr int kNTiles = D <= 128 ? 4 : 2; // 8-column tiles a warp: 64 registers of keys with D = 128, 128 with D = 512
    static constexpr int kWarpKeys = 8 * kNTiles;
    static constexpr int kKeys = kScoreWarps * kWarpKeys;
    static constexpr int kSteps = D / 16;
    static constexpr int kChunks = D / 8;
    static constexpr int kRowBytes = 2 * D;
    static constexpr int kKeyBytes = kKeys * kRowBytes;
};

constexpr int kOffsetBytes = kScoreThreads * static_cast<int>(sizeof(int64_t));

/// Rows of a stage: two stages fit where the keys lay, unless one tile of rows does not.
template <int D>
constexpr int stage_rows(int parts) {
    const int fitting = KeyTile<D>::kKeyBytes / 2 / (KeyTile<D>::kRowBytes * parts) / kTileRows * kTileRows;
    return fitting < kTileRows ? kTileRows : fitting;
}

template <int D>
constexpr int mma_smem_bytes(int parts) {
    const int stages = 2 * stage_rows<D>(parts) * parts * KeyTile<D>::kRowBytes;
    return kOffsetBytes + (stages > KeyTile<D>::kKeyBytes ? stages : KeyTile<D>::kKeyBytes);
}

/// Eight channels of a key, zeros past the head's last; for keys whose rows are not aligned to 16 bytes.
GPU_DEVICE gpu::U4 gather_chunk(const ScoreParams &p, int64_t offset, int channel) {
    gpu::U4 chunk{};
    const uint16_t *from = static_cast<const uint16_t *>(p.keys) + offset + channel;
    GPU_UNROLL
    for (int i = 0; i < 8; ++i) {
        const uint32_t bits = offset >= 0 && channel + i < p.head_dim ? from[i] : 0u;
        chunk.v[i / 2] |= bits << (i % 2 * 16);
    }
    return chunk;
}

/// The warp's columns of a key tile as mma operands: fragment[step][pair of n tiles].
template <int D>
GPU_DEVICE void load_keys(const ScoreParams &p, const ScorePair &pair, int32_t first_key, unsigned char *smem,
                          uint32_t (&fragment)[KeyTile<D>::kSteps][KeyTile<D>::kNTiles / 2][4]) {
    using Tile = KeyTile<D>;
    int64_t *offsets = reinterpret_cast<int64_t *>(smem);
    unsigned char *rows = smem + kOffsetBytes;
    const int thread = gpu::thread_x();
    if (thread < Tile::kKeys) offsets[thread] = key_offset(p, pair, first_key + thread);
    gpu::sync_threads();
    for (int i = thread; i < Tile::kKeys * Tile::kChunks; i += kScoreThreads) {
        const int row = i / Tile::kChunks;
        const int chunk = i % Tile::kChunks;
        const int64_t offset = offsets[row];
        unsigned char *to = rows + row * Tile::kRowBytes + (chunk ^ (row & 7)) * 16;
        if (p.wide) {
            const bool there = offset >= 0 && chunk * 8 < p.head_dim;
            gpu::cp_async16(to, static_cast<const uint16_t *>(p.keys) + (there ? offset + chunk * 8 : 0), there);
        } else {
            gpu::store16(to, gather_chunk(p, offset, chunk * 8));
        }
    }
    gpu::cp_async_commit();
    gpu::cp_async_wait<0>();
    gpu::sync_threads();
    const int lane = gpu::lane_id();
    GPU_UNROLL
    for (int step = 0; step < Tile::kSteps; ++step) {
        GPU_UNROLL
        for (int n = 0; n < Tile::kNTiles / 2; ++n) {
            const int row = gpu::warp_id() * Tile::kWarpKeys + n * 16 + (lane & 7) + 8 * (lane >> 4);
            const int chunk = step * 2 + ((lane >> 3) & 1);
            gpu::ldmatrix_x4(fragment[step][n], rows + row * Tile::kRowBytes + (chunk ^ (row & 7)) * 16);
        }
    }
    gpu::sync_threads(); // the stages of rows go where the keys lay
}

/// Starts copying rows first ... first + count - 1, all parts, into a stage.
template <int D>
GPU_DEVICE void fetch_rows(const ScoreParams &p, int64_t pair, int32_t first, int32_t count, unsigned char *stage) {
    using Tile = KeyTile<D>;
    const uint16_t *from = static_cast<const uint16_t *>(p.queries) + (pair * p.rows + first) * p.parts * D;
    const int chunks = count * p.parts * Tile::kChunks;
    for (int i = gpu::thread_x(); i < chunks; i += kScoreThreads) {
        const int line = i / Tile::kChunks;
        const int chunk = i % Tile::kChunks;
        const int row = line / p.parts;
        gpu::cp_async16(stage + line * Tile::kRowBytes + (chunk ^ (row & 7)) * 16, from + int64_t{i} * 8);
    }
}

/// Calls body(row, i, blind, products) for each tile of rows from first_row to last_row: `i` is the tile's first window row, `blind` says that none
/// of its rows sees any key of the tile (then there are no products). products[n][4] is the warp's C operand of n tile n.
template <bool Bf16, int D, class Body>
GPU_DEVICE void for_each_row_tile(const ScoreParams &p, const ScorePair &pair, int32_t first_key, int32_t first_row, int32_t last_row,
                                  const uint32_t (&fragment)[KeyTile<D>::kSteps][KeyTile<D>::kNTiles / 2][4], unsigned char *smem, Body &&body) {
    using Tile = KeyTile<D>;
    const int lane = gpu::lane_id();
    const int stage_bytes = p.stage_rows * p.parts * Tile::kRowBytes;
    unsigned char *stages = smem + kOffsetBytes;
    fetch_rows<D>(p, pair.index, first_row, gpu::min(p.stage_rows, last_row - first_row), stages);
    gpu::cp_async_commit();
    int current = 0;
    for (int32_t at = first_row; at < last_row; at += p.stage_rows) {
        const int32_t next = at + p.stage_rows;
        if (next < last_row) fetch_rows<D>(p, pair.index, next, gpu::min(p.stage_rows, last_row - next), stages + (current ^ 1) * stage_bytes);
        gpu::cp_async_commit();
        gpu::cp_async_wait<1>();
        gpu::sync_threads();
        const unsigned char *stage = stages + current * stage_bytes;
        const int32_t end = gpu::min(next, last_row);
        for (int32_t row = at; row < end; row += kTileRows) {
            const int32_t i = row % p.head_rows;
            const bool blind = tile_is_blind(p, pair, i, first_key);
            float products[Tile::kNTiles][4];
            GPU_UNROLL
            for (int n = 0; n < Tile::kNTiles; ++n) {
                GPU_UNROLL
                for (int c = 0; c < 4; ++c) products[n][c] = 0.0f;
            }
            for (int part = 0; part < p.parts && !blind; ++part) {
                const int own = row - at + (lane & 15);
                const unsigned char *line = stage + (own * p.parts + part) * Tile::kRowBytes;
                GPU_UNROLL
                for (int step = 0; step < Tile::kSteps; ++step) {
                    uint32_t a[4];
                    gpu::ldmatrix_x4(a, line + ((step * 2 + (lane >> 4)) ^ (own & 7)) * 16);
                    GPU_UNROLL
                    for (int n = 0; n < Tile::kNTiles; ++n) {
                        const uint32_t(&b)[4] = fragment[step][n / 2];
                        if (Bf16) {
                            gpu::mma_bf16(products[n], a, b[n % 2 * 2], b[n % 2 * 2 + 1]);
                        } else {
                            gpu::mma_f16(products[n], a, b[n % 2 * 2], b[n % 2 * 2 + 1]);
                        }
                    }
                }
            }
            body(row, i, blind, products);
        }
        gpu::sync_threads();
        current ^= 1;
    }
}

/// The finished statistic of one column of a head, in the lanes of group 0: the lanes of a column meet by xor 4, 8, 16.
template <std::size_t Columns>
GPU_DEVICE float finish_column(const ScoreParams &p, const ColumnStats<Columns> &stats, int c) {
    float value = stats.sum[c];
    if (p.statistic == STRATA_SCORE_MEAN_VARIANCE) {
        const int first = gpu::lane_id() >> 2; // this lane has rows first, first + 8, ...
        const int count = p.window > first ? (p.window - first + 7) / 8 : 0;
        Moments moments = moments_of(static_cast<float>(count), value, stats.shift[c], stats.squares[c]);
        GPU_UNROLL
        for (int mask = 4; mask <= 16; mask *= 2) {
            const Moments other{gpu::shfl_xor(moments.count, mask), gpu::shfl_xor(moments.mean, mask), gpu::shfl_xor(moments.squares, mask)};
            moments = merge(moments, other);
        }
        return variance_score(p, moments);
    }
    GPU_UNROLL
    for (int mask = 4; mask <= 16; mask *= 2) {
        const float other = gpu::shfl_xor(value, mask);
        value = p.statistic != STRATA_SCORE_MAX ? value + other : other > value || other != other ? other : value;
    }
    return p.statistic == STRATA_SCORE_MEAN ? gpu::div(value, static_cast<float>(p.window)) : value;
}

/// Statistics of one tile of keys over every row of its KV head.
template <bool Bf16, int D>
GPU_KERNEL(kScoreThreads, 2)
kv_score_mma_kernel(ScoreParams p) {
    GPU_DYNAMIC_SMEM(smem);
    using Tile = KeyTile<D>;
    constexpr std::size_t kColumns = 2 * Tile::kNTiles; // of a lane
    const ScorePair pair = score_pair(p, gpu::block_x() / p.key_tiles);
    const int32_t first_key = gpu::block_x() % p.key_tiles * Tile::kKeys;
    if (first_key >= pair.columns) return; // the whole block
    uint32_t fragment[Tile::kSteps][Tile::kNTiles / 2][4];
    load_keys<D>(p, pair, first_key, smem, fragment);

    const int lane = gpu::lane_id();
    const int32_t own_key = first_key + gpu::warp_id() * Tile::kWarpKeys + 2 * (lane & 3);
    ColumnStats<kColumns> stats{};
    float reduced[kColumns];
    GPU_UNROLL
    for (int c = 0; c < static_cast<int>(kColumns); ++c) reduced[c] = 0.0f;
    for_each_row_tile<Bf16, D>(
        p, pair, first_key, 0, p.rows, fragment, smem, [&](int32_t row, int32_t i, bool blind, const float(&products)[Tile::kNTiles][4]) {
            if (i == 0) stats.reset();
            GPU_UNROLL
            for (int half = 0; half < 2; ++half) {
                const int32_t own = i + (lane >> 2) + 8 * half;
                if (blind || own >= p.window) continue;
                const int64_t at = pair.index * p.rows + row + (lane >> 2) + 8 * half;
                const float factor = p.factors[at];
                const float lse = p.lse[at];
                const int32_t seen = seen_slots(p, pair, own);
                GPU_UNROLL
                for (int c = 0; c < static_cast<int>(kColumns); ++c) {
                    const int32_t key = own_key + c / 2 * 8 + c % 2;
                    const float weight = key < seen ? gpu::exp2(gpu::fma(products[c / 2][half * 2 + c % 2], factor, -lse)) : 0.0f;
                    stats.add(p.statistic, c, weight, own < 8);
                }
            }
            if (i + kTileRows < p.head_rows) return;
            const int32_t g = row / p.head_rows;
            GPU_UNROLL
            for (int c = 0; c < static_cast<int>(kColumns); ++c) {
                const float value = finish_column(p, stats, c);
                reduced[c] = reduce_heads(p, g, reduced[c], value);
                if (lane < 4) store_score(p, pair, own_key + c / 2 * 8 + c % 2, g, value, reduced[c]);
            }
        });
}

/// Maximum and sum of exp2 of a chunk of rows over a split of the keys, kept apart for each warp's columns.
template <bool Bf16, int D>
GPU_KERNEL(kScoreThreads, 2)
kv_score_lse_mma_kernel(ScoreParams p) {
    GPU_DYNAMIC_SMEM(smem);
    using Tile = KeyTile<D>;
    const int64_t block = gpu::block_x();
    const int32_t chunk = static_cast<int32_t>(block % p.row_chunks);
    const int32_t split = static_cast<int32_t>(block / p.row_chunks % p.splits);
    const ScorePair pair = score_pair(p, block / p.row_chunks / p.splits);
    const int32_t first_row = chunk * kRowsPerChunk;
    const int32_t last_row = gpu::min(first_row + kRowsPerChunk, p.rows);
    const int32_t begin = split * p.split_keys;
    const int32_t end = gpu::min(begin + p.split_keys, pair.length);
    const int lane = gpu::lane_id();
    const int warp = gpu::warp_id();
    for (int32_t first_key = begin; first_key < end; first_key += Tile::kKeys) {
        uint32_t fragment[Tile::kSteps][Tile::kNTiles / 2][4];
        load_keys<D>(p, pair, first_key, smem, fragment);
        const int32_t own_key = first_key + warp * Tile::kWarpKeys + 2 * (lane & 3);
        const bool first = first_key == begin;
        for_each_row_tile<Bf16, D>(p, pair, first_key, first_row, last_row, fragment, smem,
                                   [&](int32_t row, int32_t i, bool blind, const float(&products)[Tile::kNTiles][4]) {
                                       if (blind && !first) return;
                                       GPU_UNROLL
                                       for (int half = 0; half < 2; ++half) {
                                           const int32_t own = i + (lane >> 2) + 8 * half;
                                           const int32_t own_row = row + (lane >> 2) + 8 * half;
                                           const float factor = p.factors[pair.index * p.rows + own_row];
                                           const int32_t seen = blind || own >= p.window ? 0 : seen_slots(p, pair, own);
                                           float logit[2 * Tile::kNTiles];
                                           float maximum = kNothing;
                                           GPU_UNROLL
                                           for (int c = 0; c < 2 * Tile::kNTiles; ++c) {
                                               const int32_t key = own_key + c / 2 * 8 + c % 2;
                                               logit[c] = key < seen ? products[c / 2][half * 2 + c % 2] * factor : kNothing;
                                               maximum = gpu::max(maximum, logit[c]);
                                           }
                                           maximum = gpu::max(maximum, gpu::shfl_xor(maximum, 1));
                                           maximum = gpu::max(maximum, gpu::shfl_xor(maximum, 2));
                                           const float base = maximum == kNothing ? 0.0f : maximum;
                                           float sum = 0.0f;
                                           GPU_UNROLL
                                           for (int c = 0; c < 2 * Tile::kNTiles; ++c) sum += gpu::exp2(logit[c] - base);
                                           sum += gpu::shfl_xor(sum, 1);
                                           sum += gpu::shfl_xor(sum, 2);
                                           if ((lane & 3) == 0) merge_row(row_state(p, pair.index, split, warp, own_row), maximum, sum, first);
                                       }
                                   });
    }
}

} // namespace strata
