// SPDX-License-Identifier: Apache-2.0
// One tile of kv_score on the CPU: 32 keys, turned so that a vector holds one channel of sixteen keys, against blocks of query rows.
#pragma once

#include "ops/kv_score/kv_score.h"
#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

constexpr std::int32_t kTileKeys = 32;  // two vectors; with head_dim 128 the turned tile is 16 KiB, half an L1
constexpr std::int32_t kPackedRows = 8; // query rows are packed channel by channel in groups of eight
constexpr std::int32_t kBlockRows = 64; // rows whose products stay in L1 between the two steps

#if defined(__AVX512F__)
constexpr std::int32_t kMostMicroRows = 8; // 16 sums, 2 keys, 1 query of 32 registers
constexpr std::int32_t kMicroVectors = 2;
#else
constexpr std::int32_t kMostMicroRows = 4; // 8 half vectors of sums, 2 of keys, 1 query of 16 registers
constexpr std::int32_t kMicroVectors = 1;
#endif

/// A worker's memory for one tile.
struct TileScratch {
    float *keys;     // [head_dim rounded up to 16][kTileKeys]
    float *products; // [kBlockRows][kTileKeys]
    float *first;    // [group][kTileKeys]: sum, maximum or mean of each head's column so far
    float *second;   // [group][kTileKeys]: squared deviations from the mean
};

/// What the passes know about one pair (sequence, KV head).
struct PairView {
    std::int64_t sequence;
    std::int64_t head;
    std::int32_t length;
    const float *queries; // packed: channel c of row r at [r / 8][c][r % 8]
    const float *offsets; // [rows]: log-sum-exp; 0 for rows that see nothing
};

/// Slots from `first_key` on that window row i sees; may be negative, or more than a tile.
inline std::int64_t visible(const KvScoreProblem &p, const PairView &pair, std::int32_t i, std::int64_t first_key) {
    return static_cast<std::int64_t>(pair.length) - p.window + i + 1 - first_key;
}

/// Sixteen channels of sixteen keys, turned into `to`. One element type a call, so that nothing is asked inside.
template <class Element, F32x16 (*Load)(const Element *)>
inline void turn_block(const void *keys, const std::int64_t *rows, std::int32_t channel, float *to) {
    F32x16 block[16];
#pragma GCC unroll 16
    for (std::int32_t j = 0; j < 16; ++j) {
        block[j] = Load(static_cast<const Element *>(keys) + rows[j] + channel);
    }
    transpose(block);
#pragma GCC unroll 16
    for (std::int32_t i = 0; i < 16; ++i) {
        block[i].store(to + i * kTileKeys);
    }
}

/// The same at the edges: `count` keys, fewer than sixteen channels; zeros beyond.
inline void turn_edge(const KvCacheView &cache, const std::int64_t *rows, std::int32_t count, std::int32_t channel, float *to) {
    const std::int32_t lanes = cache.head_dim - channel < 16 ? cache.head_dim - channel : 16;
    F32x16 block[16];
    for (std::int32_t j = 0; j < 16; ++j) {
        block[j] = j < count ? load_as_f32(cache.keys.dtype, cache.keys.data, rows[j] + channel, lanes) : F32x16::zero();
    }
    transpose(block);
    for (std::int32_t i = 0; i < 16; ++i) {
        block[i].store(to + i * kTileKeys);
    }
}

/// Reads `count` keys from slot `first_key` on, turned; the other columns of the tile are zero.
inline void load_tile(const KvScoreProblem &p, const PairView &pair, std::int64_t first_key, std::int32_t count, float *keys) {
    const KvCacheView &cache = p.cache;
    const std::int32_t *table = cache.table_row(pair.sequence, pair.head);
    std::int64_t rows[kTileKeys];
    for (std::int32_t j = 0; j < count; ++j) {
        const std::int64_t slot = first_key + j;
        rows[j] = cache.row(cache.keys, table[slot / cache.page_size], pair.head, slot % cache.page_size);
    }
    for (std::int32_t j = 0; j < kTileKeys; j += 16) {
        for (std::int32_t c = 0; c < cache.head_dim; c += 16) {
            float *to = keys + static_cast<std::int64_t>(c) * kTileKeys + j;
            if (count - j < 16 || cache.head_dim - c < 16) {
                turn_edge(cache, rows + j, count - j, c, to);
            } else if (cache.keys.dtype == STRATA_DTYPE_F32) {
                turn_block<float, F32x16::load>(cache.keys.data, rows + j, c, to);
            } else if (cache.keys.dtype == STRATA_DTYPE_F16) {
                turn_block<std::uint16_t, F32x16::load_f16>(cache.keys.data, rows + j, c, to);
            } else {
                turn_block<std::uint16_t, F32x16::load_bf16>(cache.keys.data, rows + j, c, to);
            }
        }
    }
}

/// products[i][j] = sum over channels of query row i times key j, channels in ascending order for every row and key.
template <std::int32_t Rows>
inline void multiply_rows(const float *queries, const float *keys, std::int32_t head_dim, float *products) {
    constexpr std::int32_t kMicroRows = Rows < kMostMicroRows ? Rows : kMostMicroRows;
    for (std::int32_t row = 0; row < Rows; row += kMicroRows) {
        for (std::int32_t column = 0; column < kTileKeys; column += 16 * kMicroVectors) {
            F32x16 sums[static_cast<std::size_t>(kMicroRows)][kMicroVectors];
            for (auto &sum : sums) {
                for (auto &vector : sum) {
                    vector = F32x16::zero();
                }
            }
            for (std::int32_t c = 0; c < head_dim; ++c) {
                F32x16 key[kMicroVectors];
                for (std::int32_t v = 0; v < kMicroVectors; ++v) {
                    key[v] = F32x16::load(keys + static_cast<std::int64_t>(c) * kTileKeys + column + 16 * v);
                }
                for (std::int32_t i = 0; i < kMicroRows; ++i) {
                    const F32x16 query = F32x16::set(queries[c * kPackedRows + row + i]);
                    for (std::int32_t v = 0; v < kMicroVectors; ++v) {
                        sums[i][v] = fma(query, key[v], sums[i][v]);
                    }
                }
            }
            for (std::int32_t i = 0; i < kMicroRows; ++i) {
                for (std::int32_t v = 0; v < kMicroVectors; ++v) {
                    sums[i][v].store(products + (row + i) * kTileKeys + column + 16 * v);
                }
            }
        }
    }
}

/// Products of rows first_row ... first_row + rows - 1 (first_row a multiple of 8) with the tile; -infinity where a row does not see a key.
inline void multiply_block(const KvScoreProblem &p, const PairView &pair, std::int32_t first_row, std::int32_t rows, std::int64_t first_key,
                           const TileScratch &scratch) {
    const std::int32_t head_dim = p.cache.head_dim;
    for (std::int32_t r = 0; r < rows; r += kPackedRows) {
        std::int64_t most = 0; // columns that some row of the eight sees
        bool masked = false;
        const std::int32_t held = rows - r < kPackedRows ? rows - r : kPackedRows;
        for (std::int32_t i = 0; i < held; ++i) {
            const std::int64_t seen = visible(p, pair, (first_row + r + i) % p.window, first_key);
            most = seen > most ? seen : most;
            masked = masked || seen < kTileKeys;
        }
        float *products = scratch.products + r * kTileKeys;
        const float *queries = pair.queries + static_cast<std::int64_t>(first_row + r) * head_dim;
        if (most > 0 && held <= kPackedRows / 2) {
            multiply_rows<kPackedRows / 2>(queries, scratch.keys, head_dim, products);
        } else if (most > 0) {
            multiply_rows<kPackedRows>(queries, scratch.keys, head_dim, products);
        }
        for (std::int32_t i = 0; masked && i < held; ++i) {
            const std::int64_t seen = visible(p, pair, (first_row + r + i) % p.window, first_key);
            for (std::int64_t j = seen > 0 ? seen : 0; j < kTileKeys; ++j) {
                products[i * kTileKeys + j] = -__builtin_inff();
            }
        }
    }
}

inline F32x16 probability(const float *product, const float *offset) { return exp(F32x16::load(product) - F32x16::set(*offset)); }

/// Adds rows of one query head to its columns' statistics. `before` rows of the head are in them already; the first `blind` of the new rows see
/// nothing of the tile and count as zeros.
inline void add_rows(const KvScoreProblem &p, float *products, const float *offsets, std::int32_t rows, std::int32_t blind, std::int32_t before,
                     float *first, float *second) {
    for (std::int32_t v = 0; v < kTileKeys; v += 16) {
        const F32x16 held = F32x16::load(first + v);
        if (p.statistic == STRATA_SCORE_MAX) {
            F32x16 most = held;
            for (std::int32_t r = blind; r < rows; ++r) {
                most = max(most, probability(products + r * kTileKeys + v, offsets + r));
            }
            most.store(first + v);
            continue;
        }
        // Sums of a block, then of blocks: long windows keep their last bits.
        F32x16 sum = F32x16::zero();
        for (std::int32_t r = blind; r < rows; ++r) {
            const F32x16 weight = probability(products + r * kTileKeys + v, offsets + r);
            weight.store(products + r * kTileKeys + v);
            sum = sum + weight;
        }
        if (p.statistic != STRATA_SCORE_MEAN_VARIANCE) {
            (held + sum).store(first + v);
            continue;
        }
        // Deviations from the block's own mean, then two means merged (Chan, Golub, LeVeque): nothing cancels when all rows agree.
        const F32x16 mean = sum / F32x16::set(static_cast<float>(rows));
        F32x16 squares = F32x16::set(static_cast<float>(blind)) * (mean * mean);
        for (std::int32_t r = blind; r < rows; ++r) {
            const F32x16 deviation = F32x16::load(products + r * kTileKeys + v) - mean;
            squares = fma(deviation, deviation, squares);
        }
        const float all = static_cast<float>(before + rows);
        const F32x16 apart = mean - held;
        const F32x16 share = F32x16::set(static_cast<float>(rows) / all);
        const F32x16 weight = F32x16::set(static_cast<float>(before) * (static_cast<float>(rows) / all));
        fma(apart, share, held).store(first + v);
        (F32x16::load(second + v) + fma(apart * apart, weight, squares)).store(second + v);
    }
}

/// The statistic of sixteen columns of one query head, from what add_rows gathered over the whole window.
inline F32x16 finish_statistic(const KvScoreProblem &p, const float *first, const float *second) {
    const F32x16 value = F32x16::load(first);
    switch (p.statistic) {
    case STRATA_SCORE_MEAN: return value / F32x16::set(static_cast<float>(p.window));
    case STRATA_SCORE_MEAN_VARIANCE: {
        const float degrees = p.window > 1 ? static_cast<float>(p.window - 1) : 1.0F;
        return fma(F32x16::set(p.gamma), F32x16::load(second) / F32x16::set(degrees), value);
    }
    default: return value;
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
