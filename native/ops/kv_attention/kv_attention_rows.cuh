// SPDX-License-Identifier: Apache-2.0
// kv_attention: K and V as rows of 16-bit numbers, in any strides or in swizzled pages; head_dim a multiple of 8, rows at 16-byte boundaries.
//
// K and V rows come by 16-byte asynchronous copies; chunk c of row r lies at chunk c ^ (r & 7), so that neither ldmatrix nor
// ldmatrix.trans meets a bank conflict. What the table does not give (past the end, a bad page, channels past head_dim) is zeros.
// A swizzled page has that order within each half block of 64 channels already: its chunks are taken from where they are.
#pragma once

#include "ops/kv_attention/kv_attention_mma.cuh"

namespace strata {

constexpr int64_t kAbsentRow = -16; // nothing to read; still a multiple of the copies

/// Bytes to the row of a slot, in a swizzled page to that of the first half block.
GPU_DEVICE int64_t row_bytes(const AttentionParams &p, const GpuPool &pool, const GpuSlot &at, int64_t head) {
    if (p.cache.layout == STRATA_KV_ROWS) return row_at(pool, at, head) * 2;
    return (block_at(pool, at.page, head) + at.in_page * 64) * 2;
}

template <int Dim, bool Bf16, bool Few>
struct RowSource {
    static constexpr int kDim = Dim;
    static constexpr int kSlotWarps = Few ? kWarps : 1;
    static constexpr int kRows = Few ? kFewRows : kManyRows;
    static constexpr int kTileSlots = Few || Dim <= 128 ? 64 : 48; // so that two units and the operands of q fit
    static constexpr int kWarpSlots = kTileSlots / kSlotWarps;
    static constexpr int kScoreTiles = kWarpSlots / 8;
    static constexpr int kUnitBytes = kTileSlots * Dim * 2;
    static constexpr bool kQueryInSmem = Dim > 128; // o alone has half of the registers then

    /// Where a slot lies: see row_bytes.
    struct Place {
        int64_t key, value;
        float bias;
    };
    struct Info {
        int64_t key[std::size_t{kTileSlots}];
        int64_t value[std::size_t{kTileSlots}];
        float bias[std::size_t{kTileSlots}];
    };

    const AttentionParams &p;
    const Work &work;
    int32_t half; // elements from a chunk to the one 64 channels on
    bool swizzled_pages;

    GPU_DEVICE RowSource(const AttentionParams &params, const Work &of)
        : p(params), work(of), half(params.cache.layout == STRATA_KV_SWIZZLED ? params.cache.page_size * 64 : 64),
          swizzled_pages(params.cache.layout == STRATA_KV_SWIZZLED) {}

    GPU_DEVICE bool keys_bf16() const { return Bf16; }
    GPU_DEVICE int key_channel(int kk, int q, int i, int e) const { return kk * 16 + 8 * i + 2 * q + e; }
    static GPU_DEVICE int score_slot(int n, int q, int e) { return n * 8 + 2 * q + e; }
    static GPU_DEVICE int value_channel(int n, int column) { return n * 8 + column; }

    GPU_DEVICE Place resolve(const Tile &tile, int slot, bool there, int32_t entry) const {
        if (!there || slot >= kTileSlots || !counts(tile, tile.first + slot)) return Place{kAbsentRow, kAbsentRow, 0.0f};
        const GpuSlot at = slot_at(p.cache, tile.first + slot, entry, p.fault);
        if (at.page < 0) return Place{kAbsentRow, kAbsentRow, 0.0f};
        return Place{row_bytes(p, p.cache.keys, at, work.head), row_bytes(p, p.cache.values, at, work.head), slot_bias(p, at, work.head)};
    }
    GPU_DEVICE void publish(Info &info, int slot, const Place &place) const {
        info.key[slot] = place.key;
        info.value[slot] = place.value;
        info.bias[slot] = place.bias;
    }

    /// Offset of an element of a tile.
    static GPU_DEVICE int swizzled(int row, int chunk) { return row * Dim + (chunk ^ (row & 7)) * 8; }

    GPU_DEVICE void load(const int64_t *rows, const void *pool, unsigned char *unit) const {
        constexpr int kChunks = Dim / 8;
        constexpr int kStep = kThreads / kChunks; // rows that the block copies at once
        static_assert(kTileSlots % kStep == 0 && (kStep == 4 || kStep % 8 == 0));
        const int first = gpu::thread_x() / kChunks;
        const int chunk = gpu::thread_x() % kChunks;
        const bool inside = chunk * 8 < p.cache.head_dim;
        // Tiles start at multiples of 32, so row r has the exchange r & 7 here and in a swizzled page. A thread's rows have one, or two in turns.
        const auto *from = static_cast<const unsigned char *>(pool) + (chunk >> 3) * half * 2;
        const unsigned char *chunks[2];
        unsigned char *to[2];
        GPU_UNROLL
        for (int i = 0; i < 2; ++i) {
            const int r = first + i * kStep;
            chunks[i] = from + ((chunk & 7) ^ (swizzled_pages ? r & 7 : 0)) * 16;
            to[i] = unit + swizzled(r, chunk) * 2;
        }
        GPU_UNROLL
        for (int i = 0; i < kTileSlots / kStep; ++i) {
            const int64_t row = rows[first + i * kStep];
            gpu::cp_async16(to[i % 2] + i / 2 * 2 * kStep * Dim * 2, chunks[i % 2] + row, inside && row >= 0);
        }
    }
    GPU_DEVICE void load_keys(const Info &info, unsigned char *unit) const { load(info.key, p.cache.keys.data, unit); }
    GPU_DEVICE void load_values(const Info &info, unsigned char *unit) const { load(info.value, p.cache.values.data, unit); }
    GPU_DEVICE void clean_values(const Tile &, unsigned char *) const {}

    template <class QueryOperands>
    GPU_DEVICE void scores(const Tile &, const Info &, const unsigned char *unit, const QueryOperands &query, int warp_slot,
                           float (&s)[std::size_t{kScoreTiles}][4]) const {
        const auto *keys = reinterpret_cast<const uint16_t *>(unit);
        const int lane = gpu::lane_id();
        GPU_UNROLL
        for (int n = 0; n < kScoreTiles; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) s[n][i] = 0.0f;
        }
        GPU_UNROLL
        for (int kk = 0; kk < Dim / 16; ++kk) {
            uint32_t a[4];
            uint32_t rest[4] = {0, 0, 0, 0};
            query.get(kk, a);
            if (p.q_split) query.get_rest(kk, rest);
            GPU_UNROLL
            for (int n = 0; n < kScoreTiles / 2; ++n) {
                uint32_t b[4];
                const int r = warp_slot + n * 16 + (lane & 7) + 8 * (lane >> 4);
                gpu::ldmatrix_x4(b, keys + swizzled(r, kk * 2 + ((lane >> 3) & 1)));
                multiply_tile<Bf16>(s[2 * n], a, b[0], b[1]);
                multiply_tile<Bf16>(s[2 * n + 1], a, b[2], b[3]);
                if (p.q_split) {
                    multiply_tile<Bf16>(s[2 * n], rest, b[0], b[1]);
                    multiply_tile<Bf16>(s[2 * n + 1], rest, b[2], b[3]);
                }
            }
        }
    }

    GPU_DEVICE void values(const Info &, const unsigned char *unit, int warp_slot, const float (&s)[std::size_t{kScoreTiles}][4],
                           float (&o)[std::size_t{Dim / 8}][4]) const {
        const auto *values = reinterpret_cast<const uint16_t *>(unit);
        const int lane = gpu::lane_id();
        GPU_UNROLL
        for (int n = 0; n < kScoreTiles / 2; ++n) {
            const uint32_t a[4] = {pack_pair(Bf16, s[2 * n][0], s[2 * n][1]), pack_pair(Bf16, s[2 * n][2], s[2 * n][3]),
                                   pack_pair(Bf16, s[2 * n + 1][0], s[2 * n + 1][1]), pack_pair(Bf16, s[2 * n + 1][2], s[2 * n + 1][3])};
            GPU_UNROLL
            for (int d = 0; d < Dim / 16; ++d) {
                uint32_t b[4];
                const int r = warp_slot + n * 16 + (lane & 15);
                gpu::ldmatrix_x4_trans(b, values + swizzled(r, d * 2 + (lane >> 4)));
                multiply_tile<Bf16>(o[2 * d], a, b[0], b[1]);
                multiply_tile<Bf16>(o[2 * d + 1], a, b[2], b[3]);
            }
        }
    }
};

template <int Dim, bool Bf16, bool Few>
GPU_KERNEL(kThreads, 2)
kv_attention_mma_rows_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(smem);
    attend<RowSource<Dim, Bf16, Few>>(p, smem);
}

} // namespace strata
