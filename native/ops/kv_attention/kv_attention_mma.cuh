// SPDX-License-Identifier: Apache-2.0
// kv_attention on tensor cores: 16-bit K and V, head_dim a multiple of 8 up to 128, rows at 16-byte boundaries.
//
// A block has four warps and walks its range in tiles of 64 slots. K and V rows come by 16-byte asynchronous copies,
// kStages tiles ahead; chunk c of row r lies at chunk c ^ (r & 7), so that neither ldmatrix nor ldmatrix.trans meets
// a bank conflict. What the table does not give (past the end, a bad page, channels past head_dim) is filled with zeros.
//
//     decode   RowWarps 1, SlotWarps 4: 16 rows; a warp has 16 slots of each tile and its own max, sum and o;
//              the four meet once, at the end.
//     prefill  RowWarps 4, SlotWarps 1: 64 rows; a warp has 16 rows and all slots of each tile.
//
// Index grammar: rt, kk, n, d count 16 rows, 16 channels of the score product, 8 or 16 slots, 16 channels of the output;
// lane = 4 g + q owns rows g and g + 8 and columns 2q, 2q + 1 of each 16 x 8 tile.
#pragma once

#include "ops/kv_attention/kv_attention_work.cuh"

namespace strata {

template <int Dim, int Stages>
struct MmaSmem {
    static constexpr int kTileElements = kTileSlots * Dim;
    static constexpr int kStageBytes = 2 * kTileElements * static_cast<int>(sizeof(uint16_t));
    static constexpr std::size_t kRowsAt = std::size_t{Stages * kStageBytes};         // int64 [2][2][kTileSlots]: K and V rows of two tiles
    static constexpr std::size_t kBytes = kRowsAt + 4 * kTileSlots * sizeof(int64_t); // and, at the end, the merge over the stages
    static constexpr int kMergePitch = Dim + 2;                                       // o, max, sum of one row
    static_assert(std::size_t{kWarps} * 16 * kMergePitch * sizeof(float) <= kRowsAt);
    static_assert(kBytes <= gpu::kPortableSmemBytes);
};

template <bool Bf16>
GPU_DEVICE void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (Bf16) {
        gpu::mma_bf16(c, a, b0, b1);
    } else {
        gpu::mma_f16(c, a, b0, b1);
    }
}
template <bool Bf16>
GPU_DEVICE uint32_t pack_pair(float low, float high) {
    return Bf16 ? gpu::pack2_bf16(low, high) : gpu::pack2_f16(low, high);
}
template <bool Bf16>
GPU_DEVICE float low_of(uint32_t pair) {
    return Bf16 ? gpu::bf16_low(pair) : gpu::f16_low(pair);
}
template <bool Bf16>
GPU_DEVICE float high_of(uint32_t pair) {
    return Bf16 ? gpu::bf16_high(pair) : gpu::f16_high(pair);
}

/// Offset of an element of a swizzled tile.
template <int Dim>
GPU_DEVICE int swizzled(int row, int chunk) {
    return row * Dim + (chunk ^ (row & 7)) * 8;
}

/// Where slot `slot` lies: element offsets of its K and V rows, -1 where there is nothing to read.
struct RowPair {
    int64_t key, value;
};
GPU_DEVICE RowPair find_rows(const AttentionParams &p, const Work &work, int32_t slot) {
    if (slot >= work.end) return RowPair{-1, -1};
    const GpuSlot at = find_slot(p.cache, work.table, slot, p.fault);
    if (at.page < 0) return RowPair{-1, -1};
    return RowPair{row_at(p.cache.keys, at, gpu::block_y()), row_at(p.cache.values, at, gpu::block_y())};
}

/// Starts the copies of one tile whose rows were found before.
template <int Dim>
GPU_DEVICE void load_tile(const AttentionParams &p, const int64_t *rows, uint16_t *keys, uint16_t *values) {
    constexpr int kChunks = Dim / 8;
    const auto *from_keys = static_cast<const uint16_t *>(p.cache.keys.data);
    const auto *from_values = static_cast<const uint16_t *>(p.cache.values.data);
    const int chunk = gpu::thread_x() % kChunks;
    const bool inside = chunk * 8 < p.cache.head_dim;
    GPU_UNROLL
    for (int r = gpu::thread_x() / kChunks; r < kTileSlots; r += kThreads / kChunks) {
        const int64_t key = rows[r];
        const int64_t value = rows[kTileSlots + r];
        const bool there = inside && key >= 0;
        gpu::cp_async16(keys + swizzled<Dim>(r, chunk), there ? from_keys + key + chunk * 8 : from_keys, there);
        gpu::cp_async16(values + swizzled<Dim>(r, chunk), there ? from_values + value + chunk * 8 : from_values, there);
    }
}

/// Two neighbouring channels of a row of q; zeros outside.
GPU_DEVICE void load_query_pair(const AttentionParams &p, const Work &work, int r, int channel, float &low, float &high) {
    low = 0.0f;
    high = 0.0f;
    if (r >= work.rows || channel >= p.cache.head_dim) return; // head_dim is even here
    const int64_t at = token_of(p, work, r) * p.q_token + head_of(p, work, r) * p.q_head + channel;
    low = load_element(p.q_dtype, p.q, at);
    high = load_element(p.q_dtype, p.q, at + 1);
}

template <int Dim, bool Bf16, int RowWarps, int SlotWarps, int Stages>
GPU_KERNEL(kThreads, 2)
kv_attention_kernel(AttentionParams p) {
    static_assert(RowWarps * SlotWarps == kWarps);
    using Smem = MmaSmem<Dim, Stages>;
    constexpr int kWarpSlots = kTileSlots / SlotWarps;
    constexpr int kSteps = Dim / 16;
    GPU_DYNAMIC_SMEM(smem);
    auto *rows = reinterpret_cast<int64_t *>(smem + Smem::kRowsAt);
    const int thread = gpu::thread_x();
    const int lane = gpu::lane_id();
    const int g = lane >> 2;
    const int q = lane & 3;
    const int row_tile = gpu::warp_id() / SlotWarps;
    const int slot_tile = gpu::warp_id() % SlotWarps;
    const Work work = find_work(p);
    if (work.rows == 0) return;
    const int tiles = gpu::ceil_div(work.end - work.begin, kTileSlots);
    const auto keys_of = [&](int tile) { return reinterpret_cast<uint16_t *>(smem + tile % Stages * Smem::kStageBytes); };
    const auto publish = [&](int tile, const RowPair &pair) {
        if (thread >= kTileSlots) return;
        rows[tile % 2 * 2 * kTileSlots + thread] = pair.key;
        rows[tile % 2 * 2 * kTileSlots + kTileSlots + thread] = pair.value;
    };
    const auto find = [&](int tile) {
        return thread < kTileSlots && tile < tiles ? find_rows(p, work, work.begin + tile * kTileSlots + thread) : RowPair{-1, -1};
    };
    const auto load = [&](int tile) {
        if (tile < tiles) load_tile<Dim>(p, rows + tile % 2 * 2 * kTileSlots, keys_of(tile), keys_of(tile) + Smem::kTileElements);
        gpu::cp_async_commit();
    };

    // ---- load: the first tiles on their way, q into registers
    for (int tile = 0; tile < Stages - 1; ++tile) {
        publish(tile, find(tile));
        gpu::sync_threads();
        load(tile);
    }
    publish(Stages - 1, find(Stages - 1));
    uint32_t query[std::size_t{kSteps}][4];
    uint32_t query_rest[std::size_t{kSteps}][4];
    GPU_UNROLL
    for (int kk = 0; kk < kSteps; ++kk) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
            float low;
            float high;
            load_query_pair(p, work, row_tile * 16 + g + 8 * (i & 1), kk * 16 + 2 * q + 8 * (i >> 1), low, high);
            query[kk][i] = pack_pair<Bf16>(low, high);
            query_rest[kk][i] = pack_pair<Bf16>(low - low_of<Bf16>(query[kk][i]), high - high_of<Bf16>(query[kk][i]));
        }
    }
    int32_t sees[2]; // slots that rows g and g + 8 see
    GPU_UNROLL
    for (int i = 0; i < 2; ++i) {
        const int r = row_tile * 16 + g + 8 * i;
        sees[i] = r < work.rows ? gpu::min(visible_slots(p, work, work.row + r), work.end) : 0;
    }
    float o[std::size_t{2 * kSteps}][4];
    GPU_UNROLL
    for (int n = 0; n < 2 * kSteps; ++n) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) o[n][i] = 0.0f;
    }
    float max[2] = {-gpu::kInfinity, -gpu::kInfinity};
    float sum[2] = {0.0f, 0.0f};

    for (int tile = 0; tile < tiles; ++tile) {
        gpu::cp_async_wait<Stages - 2>();
        gpu::sync_threads(); // this tile is there, the rows of the next load are published, and the stage it goes to is free
        load(tile + Stages - 1);
        const RowPair next = find(tile + Stages); // its table entry arrives while we compute
        const uint16_t *keys = keys_of(tile);
        const uint16_t *values = keys + Smem::kTileElements;

        // ---- compute: scores
        float s[std::size_t{kWarpSlots / 8}][4];
        GPU_UNROLL
        for (int n = 0; n < kWarpSlots / 8; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) s[n][i] = 0.0f;
        }
        GPU_UNROLL
        for (int kk = 0; kk < kSteps; ++kk) {
            GPU_UNROLL
            for (int n = 0; n < kWarpSlots / 16; ++n) {
                uint32_t b[4];
                const int r = slot_tile * kWarpSlots + n * 16 + (lane & 7) + 8 * (lane >> 4);
                gpu::ldmatrix_x4(b, keys + swizzled<Dim>(r, kk * 2 + ((lane >> 3) & 1)));
                multiply_tile<Bf16>(s[2 * n], query[kk], b[0], b[1]);
                multiply_tile<Bf16>(s[2 * n + 1], query[kk], b[2], b[3]);
                if (p.q_split) {
                    multiply_tile<Bf16>(s[2 * n], query_rest[kk], b[0], b[1]);
                    multiply_tile<Bf16>(s[2 * n + 1], query_rest[kk], b[2], b[3]);
                }
            }
        }

        // ---- compute: softmax, in units of log2
        const int32_t first = work.begin + tile * kTileSlots + slot_tile * kWarpSlots + 2 * q;
        float high[2] = {max[0], max[1]};
        GPU_UNROLL
        for (int n = 0; n < kWarpSlots / 8; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) {
                s[n][i] = first + n * 8 + (i & 1) < sees[i >> 1] ? s[n][i] * p.scale_log2 : -gpu::kInfinity;
                high[i >> 1] = gpu::max(high[i >> 1], s[n][i]);
            }
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
        for (int n = 0; n < kWarpSlots / 8; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) {
                s[n][i] = gpu::exp2(s[n][i] - base[i >> 1]);
                sum[i >> 1] += s[n][i];
            }
        }
        if (gpu::any(factor[0] != 1.0f || factor[1] != 1.0f)) { // after the first tiles the maxima rarely move
            GPU_UNROLL
            for (int n = 0; n < 2 * kSteps; ++n) {
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) o[n][i] *= factor[i >> 1];
            }
        }

        // ---- compute: values; the scores' registers are the left operand as they are
        GPU_UNROLL
        for (int n = 0; n < kWarpSlots / 16; ++n) {
            const uint32_t a[4] = {pack_pair<Bf16>(s[2 * n][0], s[2 * n][1]), pack_pair<Bf16>(s[2 * n][2], s[2 * n][3]),
                                   pack_pair<Bf16>(s[2 * n + 1][0], s[2 * n + 1][1]), pack_pair<Bf16>(s[2 * n + 1][2], s[2 * n + 1][3])};
            GPU_UNROLL
            for (int d = 0; d < kSteps; ++d) {
                uint32_t b[4];
                const int r = slot_tile * kWarpSlots + n * 16 + (lane & 15);
                gpu::ldmatrix_x4_trans(b, values + swizzled<Dim>(r, d * 2 + (lane >> 4)));
                multiply_tile<Bf16>(o[2 * d], a, b[0], b[1]);
                multiply_tile<Bf16>(o[2 * d + 1], a, b[2], b[3]);
            }
        }
        publish(tile + Stages, next);
    }

    // ---- combine: the warps of a row tile meet in shared memory
    gpu::cp_async_wait<0>();
    gpu::sync_threads();
    auto *merge = reinterpret_cast<float *>(smem);
    float *mine = merge + gpu::warp_id() * 16 * Smem::kMergePitch;
    GPU_UNROLL
    for (int n = 0; n < 2 * kSteps; ++n) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) mine[(g + 8 * (i >> 1)) * Smem::kMergePitch + n * 8 + 2 * q + (i & 1)] = o[n][i];
    }
    GPU_UNROLL
    for (int i = 0; i < 2; ++i) {
        sum[i] += gpu::shfl_xor(sum[i], 1);
        sum[i] += gpu::shfl_xor(sum[i], 2);
        if (q == 0) {
            mine[(g + 8 * i) * Smem::kMergePitch + Dim] = max[i];
            mine[(g + 8 * i) * Smem::kMergePitch + Dim + 1] = sum[i];
        }
    }
    gpu::sync_threads();

    // ---- store
    for (int i = thread; i < work.rows * Dim; i += kThreads) {
        const int r = i / Dim;
        const int channel = i % Dim;
        if (channel >= p.cache.head_dim) continue;
        const float *part = merge + (r / 16 * SlotWarps * 16 + r % 16) * Smem::kMergePitch;
        float highest = -gpu::kInfinity;
        GPU_UNROLL
        for (int w = 0; w < SlotWarps; ++w) highest = gpu::max(highest, part[w * 16 * Smem::kMergePitch + Dim]);
        float total = 0.0f;
        float value = 0.0f;
        GPU_UNROLL
        for (int w = 0; w < SlotWarps; ++w) {
            const float *from = part + w * 16 * Smem::kMergePitch;
            const float weight = gpu::exp2(from[Dim] - safe_max(highest));
            total = gpu::fma(from[Dim + 1], weight, total);
            value = gpu::fma(from[channel], weight, value);
        }
        emit(p, work, r, channel, value, highest, total);
    }
}

} // namespace strata
