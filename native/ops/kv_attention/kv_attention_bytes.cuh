// SPDX-License-Identifier: Apache-2.0
// kv_attention: K and V as rows of 8-bit codes with a scale a token, in any strides; head_dim a multiple of 16, rows at 16-byte boundaries.
//
// Rows come by 16-byte asynchronous copies and stay codes in shared memory. ldmatrix takes two of them for one number of 16 bits, so lane
// 4 g + q has four neighbouring channels of one slot of K, and with .trans two channels of two neighbouring slots of V: right operands, as
// soon as they are unpacked. A product does not care which channel is which index, so q and o follow:
//
//     K   matrix of 8 slots x 16 bytes     word: slot g, channels 4 q ... 4 q + 3 of the 16      channel (k) of step kk, half i, element e:
//                                          b[0], b[1]: the first two, the last two               16 kk + 4 q + 2 i + e
//     V   the same, transposed             word: channels 2 g, 2 g + 1 of slot 2 q, then those   column g of tile n:
//                                          of slot 2 q + 1; even and odd make two n-tiles        channel 16 (n / 2) + 2 g + n % 2
//
// Chunk c of row r lies at chunk c ^ turn(r), so that the eight rows of a matrix meet different banks. What the table does not give
// (past the end, a bad page, channels past head_dim) is codes of 0 with a scale of 0.
//
// Scales: K's multiply the scores, in fp32; V's multiply the codes, not P: P times a small scale would leave the range of fp16. A scale is
// a load of its own from memory that nothing has touched, so it is asked for with a tile's places and waited for one tile later.
#pragma once

#include "ops/kv_attention/kv_attention_mma.cuh"
#include "ops/kv_attention/kv_attention_unpack.cuh"

namespace strata {

/// Key, Value: Codes that the kernel is made for, or kAnyCodes: the launch's parameters say.
template <int Dim, bool Few, int Key = kAnyCodes, int Value = kAnyCodes>
struct ByteSource {
    static constexpr int kDim = Dim;
    static constexpr int kSlotWarps = Few ? kWarps : 1;
    static constexpr int kRows = Few ? kFewRows : kManyRows;
    static constexpr int kTileSlots = Few ? (Dim > 128 ? 64 : 128) : Dim > 128 ? 32 : 64; // so that two stages and the operands of q fit
    static constexpr int kScoreTiles = kTileSlots / kSlotWarps / 8;
    static constexpr int kTiles = kScoreTiles < 4 ? kScoreTiles : 4; // of one ldmatrix of keys: a group
    static constexpr int kUnitBytes = kTileSlots * Dim;
    static constexpr int64_t kAbsent = -16; // still a multiple of the copies
    static constexpr bool kQueryInSmem = true;

    /// Where a slot lies: bytes to its rows; kAbsent: nothing to read.
    struct Place {
        int64_t key, value;
        float bias;
    };
    /// By slot, but for the factors: what one lane needs of a group lies together.
    struct alignas(16) Info {
        int64_t key[std::size_t{kTileSlots}];
        int64_t value[std::size_t{kTileSlots}];
        float bias[std::size_t{kTileSlots}];
        float key_factor[std::size_t{kTileSlots}];
        uint16_t value_factor[std::size_t{kTileSlots}];
    };

    const AttentionParams &p;
    const Work &work;
    // Scales on their way, for the slot whose place was resolved last, and where they go once the next one is.
    mutable uint16_t key_scale = 0;
    mutable uint16_t value_scale = 0;
    mutable float *key_factor = nullptr;
    mutable uint16_t *value_factor = nullptr;
    mutable bool waiting = false;

    GPU_DEVICE ByteSource(const AttentionParams &params, const Work &of) : p(params), work(of) {}

    GPU_DEVICE Codes key_codes() const { return static_cast<Codes>(Key == kAnyCodes ? p.smem.key_codes : Key); }
    GPU_DEVICE Codes value_codes() const { return static_cast<Codes>(Value == kAnyCodes ? p.smem.value_codes : Value); }

    GPU_DEVICE bool keys_bf16() const { return false; }
    GPU_DEVICE int key_channel(int kk, int q, int i, int e) const { return kk * 16 + 4 * q + 2 * i + e; }
    static GPU_DEVICE int score_slot(int n, int q, int e) { return n * 8 + 2 * q + e; }
    static GPU_DEVICE int value_channel(int n, int column) { return n / 2 * 16 + 2 * column + n % 2; }

    /// Place of a slot's factors: of each group, slots 8 n + 2 q + e by q, n, e.
    static GPU_DEVICE int factor_place(int slot) {
        constexpr int kGroup = 8 * kTiles;
        return slot / kGroup * kGroup + slot % 8 / 2 * 2 * kTiles + slot / 8 % kTiles * 2 + slot % 2;
    }
    /// Writes the scales asked for last. Their tile must be computed with after the next meeting of the block.
    GPU_DEVICE void settle() const {
        if (!waiting) return;
        *key_factor = gpu::f16_to_f32(key_scale);
        *value_factor = value_scale;
        waiting = false;
    }

    GPU_DEVICE Place resolve(const Tile &tile, int slot, bool there, int32_t entry) const {
        settle(); // where a thread has several slots of the first tiles
        key_scale = value_scale = 0;
        Place place{kAbsent, kAbsent, 0.0f};
        if (!there || slot >= kTileSlots || !counts(tile, tile.first + slot)) return place;
        const GpuSlot at = slot_at(p.cache, tile.first + slot, entry, p.fault);
        if (at.page < 0) return place;
        key_scale = static_cast<const uint16_t *>(p.cache.key_scales.data)[row_at(p.cache.key_scales, at, work.head)];
        value_scale = static_cast<const uint16_t *>(p.cache.value_scales.data)[row_at(p.cache.value_scales, at, work.head)];
        place.key = row_at(p.cache.keys, at, work.head);
        place.value = row_at(p.cache.values, at, work.head);
        place.bias = slot_bias(p, at, work.head);
        return place;
    }
    GPU_DEVICE void publish(Info &info, int slot, const Place &place) const {
        info.key[slot] = place.key;
        info.value[slot] = place.value;
        info.bias[slot] = place.bias;
        key_factor = info.key_factor + factor_place(slot);
        value_factor = info.value_factor + factor_place(slot);
        waiting = true;
        if (p.smem.stages == 1) settle(); // the next tile is this one
    }

    static GPU_DEVICE int turn(int row) { return Dim == 64 ? (row >> 1) & 3 : row & 7; }

    GPU_DEVICE void load(const int64_t *rows, const void *pool, unsigned char *unit) const {
        constexpr int kChunks = Dim / 16;
        constexpr int kStep = kThreads / kChunks; // rows that the block copies at once
        static_assert(kTileSlots % kStep == 0 && kStep % 8 == 0);
        const int first = gpu::thread_x() / kChunks;
        const int chunk = gpu::thread_x() % kChunks;
        const bool inside = chunk * 16 < p.cache.head_dim;
        const auto *from = static_cast<const unsigned char *>(pool) + chunk * 16;
        unsigned char *to = unit + first * Dim + (chunk ^ turn(first)) * 16;
        GPU_UNROLL
        for (int i = 0; i < kTileSlots / kStep; ++i) {
            const int64_t row = rows[first + i * kStep];
            gpu::cp_async16(to + i * kStep * Dim, from + row, inside && row >= 0);
        }
    }
    GPU_DEVICE void load_keys(const Info &info, unsigned char *unit) const { load(info.key, p.cache.keys.data, unit); }
    GPU_DEVICE void load_values(const Info &info, unsigned char *unit) const {
        settle(); // of the same tile, a tile after they were asked for
        load(info.value, p.cache.values.data, unit);
    }
    GPU_DEVICE void clean_values(const Tile &, unsigned char *) const {}

    /// Products of one step with the codes of one n-tile; `rest`: the second term of q, if `split`.
    template <Codes C>
    static GPU_DEVICE void multiply_key_codes(uint32_t codes, const uint32_t (&a)[4], const uint32_t (&rest)[4], bool split, float (&s)[4]) {
        uint32_t b[2];
        unpack_bytes<C, false>(codes, b[0], b[1]);
        gpu::mma_f16(s, a, b[0], b[1]);
        if (split) gpu::mma_f16(s, rest, b[0], b[1]);
    }

    template <Codes C, bool Split, class QueryOperands>
    GPU_DEVICE void multiply_keys(const unsigned char *unit, const QueryOperands &query, int warp_slot,
                                  float (&s)[std::size_t{kScoreTiles}][4]) const {
        const int r = warp_slot + (gpu::lane_id() & (8 * kTiles - 1));
        const unsigned char *row = unit + r * Dim;
        GPU_UNROLL
        for (int kk = 0; kk < Dim / 16; ++kk) {
            uint32_t a[4];
            uint32_t rest[4] = {0, 0, 0, 0};
            query.get(kk, a);
            if constexpr (Split) query.get_rest(kk, rest);
            GPU_UNROLL
            for (int n = 0; n < kScoreTiles; n += kTiles) {
                uint32_t codes[std::size_t{kTiles}];
                const unsigned char *at = row + n * 8 * Dim + (kk ^ turn(r)) * 16;
                if constexpr (kTiles == 4) {
                    gpu::ldmatrix_x4(codes, at);
                } else {
                    gpu::ldmatrix_x2(codes, at);
                }
                GPU_UNROLL
                for (int j = 0; j < kTiles; ++j) multiply_key_codes<C>(codes[j], a, rest, Split, s[n + j]);
            }
        }
    }
    template <Codes C, class QueryOperands>
    GPU_DEVICE void multiply_keys(const unsigned char *unit, const QueryOperands &query, int warp_slot,
                                  float (&s)[std::size_t{kScoreTiles}][4]) const {
        if (p.q_split) {
            multiply_keys<C, true>(unit, query, warp_slot, s);
        } else {
            multiply_keys<C, false>(unit, query, warp_slot, s);
        }
    }

    template <class QueryOperands>
    GPU_DEVICE void scores(const Tile &, const Info &info, const unsigned char *unit, const QueryOperands &query, int warp_slot,
                           float (&s)[std::size_t{kScoreTiles}][4]) const {
        GPU_UNROLL
        for (int n = 0; n < kScoreTiles; ++n) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) s[n][i] = 0.0f;
        }
        if (key_codes() == Codes::kInt8) {
            multiply_keys<Codes::kInt8>(unit, query, warp_slot, s);
        } else {
            multiply_keys<Codes::kFloat8>(unit, query, warp_slot, s);
        }
        const float *factors = info.key_factor + warp_slot + (gpu::lane_id() & 3) * 2 * kTiles;
        GPU_UNROLL
        for (int n = 0; n < kScoreTiles; n += 2) { // two tiles' columns
            const gpu::U4 read = gpu::load16(factors + n / kTiles * 8 * kTiles + n % kTiles * 2);
            GPU_UNROLL
            for (int j = 0; j < 2; ++j) {
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) s[n + j][i] *= gpu::as_float(read.v[2 * j + (i & 1)]);
            }
        }
    }

    /// Products of weights of 16 slots with one chunk of their values: codes of the two halves, and scales of the lane's slots.
    template <Codes C>
    static GPU_DEVICE void multiply_value_codes(uint32_t first, uint32_t second, const uint32_t (&factors)[2], const uint32_t (&a)[4],
                                                float (&even_o)[4], float (&odd_o)[4]) {
        const uint32_t codes[2] = {first, second};
        uint32_t even[2];
        uint32_t odd[2];
        GPU_UNROLL
        for (int i = 0; i < 2; ++i) {
            unpack_columns<C>(codes[i], even[i], odd[i]);
            even[i] = gpu::hmul2(even[i], factors[i]);
            odd[i] = gpu::hmul2(odd[i], factors[i]);
        }
        gpu::mma_f16(even_o, a, even[0], even[1]);
        gpu::mma_f16(odd_o, a, odd[0], odd[1]);
    }

    template <Codes C>
    GPU_DEVICE void multiply_values(const Info &info, const unsigned char *unit, int warp_slot, const float (&s)[std::size_t{kScoreTiles}][4],
                                    float (&o)[std::size_t{Dim / 8}][4]) const {
        const int lane = gpu::lane_id();
        const int r = warp_slot + (lane & 15);
        const unsigned char *row = unit + r * Dim;
        const uint16_t *scales = info.value_factor + warp_slot + (lane & 3) * 2 * kTiles;
        GPU_UNROLL
        for (int n = 0; n < kScoreTiles / 2; ++n) {
            const uint32_t a[4] = {gpu::pack2_f16(s[2 * n][0], s[2 * n][1]), gpu::pack2_f16(s[2 * n][2], s[2 * n][3]),
                                   gpu::pack2_f16(s[2 * n + 1][0], s[2 * n + 1][1]), gpu::pack2_f16(s[2 * n + 1][2], s[2 * n + 1][3])};
            const gpu::U2 factors = gpu::load8(scales + 2 * n / kTiles * 8 * kTiles + 2 * n % kTiles * 2);
            GPU_UNROLL
            for (int d = 0; d < Dim / 32; ++d) {
                uint32_t codes[4]; // slots 0-7 and 8-15 of one chunk, then of the next
                gpu::ldmatrix_x4_trans(codes, row + n * 16 * Dim + ((2 * d + (lane >> 4)) ^ turn(r)) * 16);
                GPU_UNROLL
                for (int c = 0; c < 2; ++c) {
                    multiply_value_codes<C>(codes[2 * c], codes[2 * c + 1], factors.v, a, o[4 * d + 2 * c], o[4 * d + 2 * c + 1]);
                }
            }
        }
    }

    GPU_DEVICE void values(const Info &info, const unsigned char *unit, int warp_slot, const float (&s)[std::size_t{kScoreTiles}][4],
                           float (&o)[std::size_t{Dim / 8}][4]) const {
        if (value_codes() == Codes::kInt8) {
            multiply_values<Codes::kInt8>(info, unit, warp_slot, s, o);
        } else {
            multiply_values<Codes::kFloat8>(info, unit, warp_slot, s, o);
        }
    }
};

template <int Dim, bool Few, int Codes = kAnyCodes>
GPU_KERNEL(kThreads, Dim > 64 ? 2 : 3)
kv_attention_mma_bytes_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(smem);
    attend<ByteSource<Dim, Few, Codes, Codes>>(p, smem);
}

} // namespace strata
