// SPDX-License-Identifier: Apache-2.0
// kv_attention: tiled K and V, of 16, 8 or 4 bits each: words become right operands in registers, with no ldmatrix.
//
// A word has E = 2, 4, 8 numbers: channels of one slot in K, slots of one channel in V. A product does not care which channel or slot
// is which index, so lane 4 g + q takes whole words, and q, P and o follow. T n-tiles make a group of 8 T slots, T = 2 or 4:
//
//     K   column g of tile j is slot T g + j: a lane reads T neighbouring words of row 4 kg + q, which is E channels of T slots
//     P   so a lane has slots 2 T q ... 2 T q + 2 T - 1 of its rows: which are whole words of V
//     V   column g of tile j is channel 32 dd + 4 g + j: a lane reads 4 neighbouring words
//
//         channels (k) of step kk, half i, element e            slots of step t, half i, element e, of a lane's 2 T
//     E 2   16 kk + 8 i + 2 q + e                               4 t + 2 i + e
//     E 4   16 kk + 4 q + 2 i + e                               4 t + 2 i + e
//     E 8   32 (kk / 2) + 8 q + 4 (kk % 2) + i + 2 e            4 t + i + 2 e       (as lop3 parts a word)
//
// In shared memory a row of K has 4 chunks of 16 bytes and chunk c lies at c ^ 2 (row / 2 % 2); a row of V has Dim / 4 and chunk c lies
// at c ^ 2 q, q the lane that the row is for. Both make the lanes of one access meet different banks.
//
// Scales: a token's scale of K multiplies its scores, in fp32. A block's scales of K are folded into q; what that rounds away is a second
// term where q has one anyway (kFoldExactly: always), so that scores are as exact as with keys of as many bits as q. Its middle values are
// one more column of the product, equal in all lanes. Scales of V multiply the codes, not P: P times a small scale would leave the range of
// fp16.
#pragma once

#include "ops/kv_attention/kv_attention_mma.cuh"
#include "ops/kv_attention/kv_attention_unpack.cuh"

namespace strata {

/// Bytes of one tile of a pool: words, then the block formats' scales.
constexpr int key_words_bytes(int slots, int dim, int per_word) { return slots * dim / per_word * 4; }
constexpr int key_unit_bytes(int slots, int dim, int per_word, bool block) {
    return key_words_bytes(slots, dim, per_word) + (block ? slots / kKvBlock * 2 * dim * 2 : 0);
}
constexpr int value_unit_bytes(int slots, int dim, int per_word, bool block) {
    return slots * dim / per_word * 4 + (block ? 2 * (dim / kKvBlock) * slots * 2 : 0);
}

/// Whether q of one term becomes two when a block's scales are folded into it. Else the product is rounded to fp16, which moves a score by
/// what keys of fp16 would, for a third of the instructions less.
constexpr bool kFoldExactly = false;

/// Key, Value: Codes that the kernel is made for, or kAnyCodes: the launch's parameters say.
template <int Dim, int T, bool Few, int Key = kAnyCodes, int Value = kAnyCodes>
struct WordSource {
    static constexpr int kDim = Dim;
    static constexpr int kSlotWarps = Few ? kWarps : 1;
    static constexpr int kRows = Few ? kFewRows : kManyRows;
    static constexpr int kGroupSlots = 8 * T;
    static constexpr int kTileSlots = Few ? kWarps * kGroupSlots : Dim > 128 ? 32 : 64;
    static constexpr int kGroups = kTileSlots / kSlotWarps / kGroupSlots; // of a warp
    static constexpr int kScoreTiles = kGroups * T;
    static constexpr int kBlocks = kTileSlots / 16;
    static constexpr bool kQueryInSmem = true;

    struct Place {
        int32_t page, in_page;
        bool counted; // what belongs to the slot alone may be used
        float bias;
        uint16_t key_factor, value_factor;
    };
    /// Of each 16 slots: bytes of words, elements of scales; -1: nothing to read. Of each slot: what is one number.
    struct alignas(16) Info {
        int64_t key[std::size_t{kBlocks}];
        int64_t value[std::size_t{kBlocks}];
        int64_t key_scale[std::size_t{kBlocks}];
        int64_t value_scale[std::size_t{kBlocks}];
        float bias[std::size_t{kTileSlots}];
        float key_factor[std::size_t{kTileSlots}];
        uint16_t value_factor[std::size_t{kTileSlots}];
    };

    const AttentionParams &p;
    const Work &work;

    GPU_DEVICE WordSource(const AttentionParams &params, const Work &of) : p(params), work(of) {}

    // Parameters of the launch, if not of the template, cost no registers between their uses.
    GPU_DEVICE Codes key_codes() const { return static_cast<Codes>(Key == kAnyCodes ? p.smem.key_codes : Key); }
    GPU_DEVICE Codes value_codes() const { return static_cast<Codes>(Value == kAnyCodes ? p.smem.value_codes : Value); }

    GPU_DEVICE bool keys_bf16() const { return key_codes() == Codes::kBfloat; }
    GPU_DEVICE int key_channel(int kk, int q, int i, int e) const {
        const int per_word = 1 << word_shift(key_codes());
        if (per_word == 2) return 16 * kk + 8 * i + 2 * q + e;
        if (per_word == 4) return 16 * kk + 4 * q + 2 * i + e;
        return 32 * (kk >> 1) + 8 * q + 4 * (kk & 1) + i + 2 * e;
    }
    static GPU_DEVICE int score_slot(int n, int q, int e) { return n / T * kGroupSlots + T * (2 * q + e) + n % T; }
    static GPU_DEVICE int value_channel(int n, int column) { return n / 4 * 32 + 4 * column + n % 4; }

    GPU_DEVICE Place resolve(const Tile &tile, int in_tile, bool there, int32_t entry) const {
        Place place{-1, 0, false, 0.0f, 0, 0};
        const int32_t slot = tile.first + in_tile;
        const int32_t block = slot & ~15;
        if (!there || in_tile >= kTileSlots || block >= tile.high || block + 16 <= tile.low) return place;
        const GpuSlot at = slot_at(p.cache, slot, entry, p.fault);
        place.page = at.page;
        place.in_page = at.in_page;
        place.counted = at.page >= 0 && counts(tile, slot);
        const GpuSlot read{gpu::max(at.page, 0), at.in_page}; // some row of the pool, so that no branch waits for the scales
        place.bias = slot_bias(p, at, work.head);
        if (token_scaled(key_codes())) {
            place.key_factor = static_cast<const uint16_t *>(p.cache.key_scales.data)[row_at(p.cache.key_scales, read, work.head)];
        }
        if (token_scaled(value_codes())) {
            place.value_factor = static_cast<const uint16_t *>(p.cache.value_scales.data)[row_at(p.cache.value_scales, read, work.head)];
        }
        return place;
    }
    GPU_DEVICE void publish(Info &info, int in_tile, const Place &place) const {
        info.bias[in_tile] = place.counted ? place.bias : 0.0f;
        info.key_factor[in_tile] = place.counted ? gpu::f16_to_f32(place.key_factor) : 0.0f;
        info.value_factor[in_tile] = place.counted ? place.value_factor : uint16_t{0};
        if (in_tile % 16 != 0) return;
        const int block = in_tile / 16;
        const GpuKvCache &cache = p.cache;
        const bool there = place.page >= 0;
        const int64_t key_bytes = key_codes() <= Codes::kBfloat ? 2 : 1;
        const int64_t value_bytes = value_codes() <= Codes::kBfloat ? 2 : 1;
        const int32_t key_row = place.in_page / 16 * (cache.head_dim >> word_shift(key_codes())) * 64;
        const int32_t value_row = (place.in_page >> word_shift(value_codes())) * cache.head_dim * 4;
        info.key[block] = there ? block_at(cache.keys, place.page, work.head) * key_bytes + key_row : -1;
        info.value[block] = there ? block_at(cache.values, place.page, work.head) * value_bytes + value_row : -1;
        info.key_scale[block] = row_at(cache.key_scales, GpuSlot{place.page, place.in_page / kKvBlock}, work.head);
        info.value_scale[block] = block_at(cache.value_scales, place.page, work.head) + place.in_page;
    }

    GPU_DEVICE void load_keys(const Info &info, unsigned char *unit) const {
        const int shift = word_shift(key_codes());
        const int row_bits = (Dim == 256 ? 8 : Dim == 128 ? 7 : 6) - shift;
        const int rows = 1 << row_bits;
        const int used = p.cache.head_dim >> shift;
        const auto *from = static_cast<const unsigned char *>(p.cache.keys.data);
        GPU_UNROLL_BY(4)
        for (int step = 0; step < kBlocks * rows * 4 / kThreads; ++step) { // whole steps, for all formats
            const int i = step * kThreads + gpu::thread_x();
            const int w = (i >> 2) & (rows - 1);
            const int block = i >> 2 >> row_bits;
            const int chunk = i & 3;
            const bool there = info.key[block] >= 0 && w < used;
            gpu::cp_async16(unit + (block * rows + w) * 64 + (chunk ^ (w & 2)) * 16, there ? from + info.key[block] + w * 64 + chunk * 16 : from,
                            there);
        }
        if (key_codes() < Codes::kByte) return;
        const auto *scales = static_cast<const uint16_t *>(p.cache.key_scales.data);
        auto *to = reinterpret_cast<uint16_t *>(unit + key_words_bytes(kTileSlots, Dim, 1 << shift));
        constexpr int kChunks = Dim / 8;
        for (int i = gpu::thread_x(); i < kTileSlots / kKvBlock * 2 * kChunks; i += kThreads) {
            const int channel = i % kChunks * 8;
            const int part = i / kChunks % 2;
            const int block = i / kChunks / 2 * 2; // of 16
            // The half of a block that is there names it, whichever it is.
            const bool second = info.key[block] < 0;
            const bool there = (!second || info.key[block + 1] >= 0) && channel < p.cache.head_dim;
            const int64_t at = info.key_scale[second ? block + 1 : block] + part * p.cache.head_dim + channel;
            gpu::cp_async16(to + i * 8, there ? scales + at : scales, there);
        }
    }

    GPU_DEVICE void load_values(const Info &info, unsigned char *unit) const {
        const int shift = word_shift(value_codes());
        constexpr int kChunks = Dim / 4;
        // Rows of a lane: 2 T / E; the lane is the row's number over that.
        const int lane_shift = (T == 4 ? 3 : 2) - shift;
        const auto *from = static_cast<const unsigned char *>(p.cache.values.data);
        GPU_UNROLL_BY(4)
        for (int step = 0; step < (kTileSlots >> shift) * kChunks / kThreads; ++step) {
            const int i = step * kThreads + gpu::thread_x();
            const int chunk = i % kChunks;
            const int row = i / kChunks;
            const int block = (row << shift) / 16;
            const int in_block = row - (block << (4 - shift));
            const bool there = info.value[block] >= 0 && chunk * 4 < p.cache.head_dim;
            gpu::cp_async16(unit + (row * kChunks + (chunk ^ (2 * ((row >> lane_shift) & 3)))) * 16,
                            there ? from + info.value[block] + (in_block * p.cache.head_dim + chunk * 4) * 4 : from, there);
        }
        if (value_codes() < Codes::kByte) return;
        const auto *scales = static_cast<const uint16_t *>(p.cache.value_scales.data);
        auto *to = reinterpret_cast<uint16_t *>(unit + (kTileSlots >> shift) * Dim * 4);
        for (int i = gpu::thread_x(); i < 2 * (Dim / kKvBlock) * (kTileSlots / 8); i += kThreads) {
            const int row = i / (kTileSlots / 8);
            const int slot = i % (kTileSlots / 8) * 8;
            const bool there = info.value[slot / 16] >= 0 && row / 2 * kKvBlock < p.cache.head_dim;
            gpu::cp_async16(to + row * kTileSlots + slot,
                            there ? scales + info.value_scale[slot / 16] + row * p.cache.value_scales.slot + slot % 16 : scales, there);
        }
    }

    /// Slots of a page that do not count may hold anything: numbers that could be NaN, and scales, become 0. Scales of tokens are 0 already.
    GPU_DEVICE void clean_values(const Tile &tile, unsigned char *unit) const {
        if (tile.low <= tile.first && tile.first + kTileSlots <= tile.high) return;
        const int shift = word_shift(value_codes());
        if (value_codes() == Codes::kHalf || value_codes() == Codes::kBfloat || value_codes() == Codes::kFloat8) {
            auto *words = reinterpret_cast<uint32_t *>(unit);
            const int bits = 32 >> shift;
            for (int i = gpu::thread_x(); i < (kTileSlots >> shift) * Dim; i += kThreads) {
                const int32_t slot = tile.first + (i / Dim << shift);
                uint32_t kept = 0;
                for (int e = 0; e < 1 << shift; ++e) kept |= counts(tile, slot + e) ? ((1u << bits) - 1u) << (bits * e) : 0u;
                words[i] &= kept;
            }
        } else if (value_codes() >= Codes::kByte) {
            auto *scales = reinterpret_cast<uint16_t *>(unit + (kTileSlots >> shift) * Dim * 4);
            for (int i = gpu::thread_x(); i < 2 * (Dim / kKvBlock) * kTileSlots; i += kThreads) {
                if (!counts(tile, tile.first + i % kTileSlots)) scales[i] = 0;
            }
        }
        gpu::sync_threads();
    }

    /// Products of one step with T n-tiles; `rest`: the second term of q.
    template <bool Bf16, class QueryOperands>
    GPU_DEVICE void multiply_step(const QueryOperands &query, int kk, const uint32_t (&a)[4], const uint32_t (&b0)[std::size_t{T}],
                                  const uint32_t (&b1)[std::size_t{T}], float (&s)[std::size_t{T}][4]) const {
        GPU_UNROLL
        for (int j = 0; j < T; ++j) multiply_tile<Bf16>(s[j], a, b0[j], b1[j]);
        if (!query.split(p.q_split)) return;
        uint32_t rest[4];
        query.get_rest(kk, rest);
        GPU_UNROLL
        for (int j = 0; j < T; ++j) multiply_tile<Bf16>(s[j], rest, b0[j], b1[j]);
    }

    /// T neighbouring words of shared memory.
    static GPU_DEVICE void load_words(const unsigned char *at, uint32_t (&words)[std::size_t{T}]) {
        if constexpr (T == 4) {
            const gpu::U4 read = gpu::load16(at);
            GPU_UNROLL
            for (int j = 0; j < T; ++j) words[j] = read.v[j];
        } else {
            const gpu::U2 read = gpu::load8(at);
            GPU_UNROLL
            for (int j = 0; j < T; ++j) words[j] = read.v[j];
        }
    }

    template <bool Bf16, class QueryOperands>
    GPU_DEVICE void scores_halves(const unsigned char *words, const QueryOperands &query, float (&s)[std::size_t{T}][4]) const {
        GPU_UNROLL
        for (int kk = 0; kk < Dim / 16; ++kk) {
            uint32_t a[4];
            uint32_t b0[std::size_t{T}];
            uint32_t b1[std::size_t{T}];
            query.get(kk, a);
            load_words(words + kk * 512, b0);
            load_words(words + kk * 512 + 256, b1);
            multiply_step<Bf16>(query, kk, a, b0, b1, s);
        }
    }

    /// Codes of which a token has one scale, or none yet.
    template <Codes C, class QueryOperands>
    GPU_DEVICE void scores_bytes(const unsigned char *words, const QueryOperands &query, float (&s)[std::size_t{T}][4]) const {
        GPU_UNROLL
        for (int kk = 0; kk < Dim / 16; ++kk) {
            uint32_t a[4];
            uint32_t codes[std::size_t{T}];
            uint32_t b0[std::size_t{T}];
            uint32_t b1[std::size_t{T}];
            query.get(kk, a);
            load_words(words + kk * 256, codes);
            GPU_UNROLL
            for (int j = 0; j < T; ++j) unpack_bytes<C, false>(codes[j], b0[j], b1[j]);
            multiply_step<false>(query, kk, a, b0, b1, s);
        }
    }

    /// Codes with a scale and a zero point a channel: q times the scale, and q times the middle values in every column of one more tile.
    template <Codes C, class QueryOperands>
    GPU_DEVICE void fold_step(const QueryOperands &query, int kk, const uint32_t (&scales)[2], const uint32_t (&zeros)[2],
                              const uint32_t (&b0)[std::size_t{T}], const uint32_t (&b1)[std::size_t{T}], float (&s)[std::size_t{T}][4],
                              float (&zero)[4]) const {
        constexpr uint32_t kMiddle = C == Codes::kByte ? 0x58005800u : 0x48004800u; // 128, 8
        uint32_t a[4];
        uint32_t folded[4];
        query.get(kk, a);
        const uint32_t middle[2] = {gpu::hfma2(scales[0], kMiddle, zeros[0]), gpu::hfma2(scales[1], kMiddle, zeros[1])};
        gpu::mma_f16(zero, a, middle[0], middle[1]);
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) folded[i] = gpu::hmul2(a[i], scales[i >> 1]);
        GPU_UNROLL
        for (int j = 0; j < T; ++j) gpu::mma_f16(s[j], folded, b0[j], b1[j]);
        uint32_t rest[4] = {0, 0, 0, 0};
        const bool split = query.split(p.q_split);
        if (split) {
            query.get_rest(kk, rest);
            gpu::mma_f16(zero, rest, middle[0], middle[1]);
        }
        if (!kFoldExactly && !split) return;
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) { // what folding rounded away, and the second term of q
            const uint32_t left = gpu::hfma2(a[i], scales[i >> 1], folded[i] ^ 0x80008000u);
            rest[i] = split ? gpu::hfma2(rest[i], scales[i >> 1], left) : left;
        }
        GPU_UNROLL
        for (int j = 0; j < T; ++j) gpu::mma_f16(s[j], rest, b0[j], b1[j]);
    }

    template <Codes C, class QueryOperands>
    GPU_DEVICE void scores_block(const unsigned char *words, const unsigned char *scales, const QueryOperands &query, float (&s)[std::size_t{T}][4],
                                 float (&zero)[4]) const {
        constexpr bool kNibbles = C == Codes::kNibble;
        constexpr int kSteps = kNibbles ? 2 : 1; // of 16 channels, of one row of words
        const int q = gpu::lane_id() & 3;
        GPU_UNROLL
        for (int kg = 0; kg < Dim / 16 / kSteps; ++kg) {
            uint32_t codes[std::size_t{T}];
            uint32_t parts[std::size_t{T}][4];
            load_words(words + kg * 256, codes);
            GPU_UNROLL
            for (int j = 0; j < T; ++j) {
                if constexpr (kNibbles) {
                    unpack_nibbles<true>(codes[j], parts[j]);
                } else {
                    unpack_bytes<C, true>(codes[j], parts[j][0], parts[j][1]);
                }
            }
            uint32_t scale_pairs[4];
            uint32_t zero_pairs[4];
            const unsigned char *at = scales + (kg * 4 + q) * 8 * kSteps;
            load_pairs<kNibbles>(at, scale_pairs);
            load_pairs<kNibbles>(at + Dim * 2, zero_pairs);
            GPU_UNROLL
            for (int t = 0; t < kSteps; ++t) {
                uint32_t b0[std::size_t{T}];
                uint32_t b1[std::size_t{T}];
                GPU_UNROLL
                for (int j = 0; j < T; ++j) {
                    b0[j] = parts[j][2 * t];
                    b1[j] = parts[j][2 * t + 1];
                }
                const uint32_t step_scales[2] = {scale_pairs[2 * t], scale_pairs[2 * t + 1]};
                const uint32_t step_zeros[2] = {zero_pairs[2 * t], zero_pairs[2 * t + 1]};
                fold_step<C>(query, kg * kSteps + t, step_scales, step_zeros, b0, b1, s, zero);
            }
        }
    }

    /// Keys that are not in pages yet: rows of the tail, from global memory straight into operands.
    template <bool Nibbles, class QueryOperands>
    GPU_DEVICE void scores_tail(const Tile &tile, int32_t first, const QueryOperands &query, float (&s)[std::size_t{T}][4]) const {
        const int g = gpu::lane_id() >> 2;
        const int q = gpu::lane_id() & 3;
        const int64_t tail = find_tail(p.cache, work.sequence, work.head, p.fault);
        const int32_t steps = Nibbles ? gpu::ceil_div(p.cache.head_dim, 32) * 2 : p.cache.head_dim / 16;
        for (int kk = 0; kk < steps; ++kk) {
            uint32_t a[4];
            uint32_t b0[std::size_t{T}];
            uint32_t b1[std::size_t{T}];
            query.get(kk, a);
            const int channel = Nibbles ? 32 * (kk >> 1) + 8 * q + 4 * (kk & 1) : 16 * kk + 4 * q;
            GPU_UNROLL
            for (int j = 0; j < T; ++j) {
                const int32_t slot = first + T * g + j;
                const bool there = tail >= 0 && counts(tile, slot) && channel < p.cache.head_dim;
                float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                if (there) load_four(p.cache.tail_dtype, p.cache.tails, tail * p.cache.tail_stride + slot % kKvBlock * p.cache.tail_row + channel, v);
                b0[j] = gpu::pack2_f16(v[0], v[Nibbles ? 2 : 1]);
                b1[j] = gpu::pack2_f16(v[Nibbles ? 1 : 2], v[3]);
            }
            multiply_step<false>(query, kk, a, b0, b1, s);
        }
    }

    template <class QueryOperands>
    GPU_DEVICE void scores(const Tile &tile, const Info &info, const unsigned char *unit, const QueryOperands &query, int warp_slot,
                           float (&s)[std::size_t{kScoreTiles}][4]) const {
        const int g = gpu::lane_id() >> 2;
        const int q = gpu::lane_id() & 3;
        const int shift = word_shift(key_codes());
        const int rows = Dim >> shift;
        GPU_UNROLL
        for (int group = 0; group < kGroups; ++group) {
            const int slot = warp_slot + group * kGroupSlots;
            // T = 4: 16 bytes of chunk g % 4 of block g / 4; T = 2: 8 bytes of chunk g / 2.
            const int block = slot / 16 + (T == 4 ? g >> 2 : 0);
            const int chunk = T == 4 ? g & 3 : g >> 1;
            const unsigned char *words = unit + (block * rows + q) * 64 + (chunk ^ (q & 2)) * 16 + (T == 4 ? 0 : (g & 1) * 8);
            const unsigned char *scales = unit + key_words_bytes(kTileSlots, Dim, 1 << shift) + slot / kKvBlock * 2 * Dim * 2;
            float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f}; // what all slots of a row get
            float part[std::size_t{T}][4];
            GPU_UNROLL
            for (int j = 0; j < T; ++j) {
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) part[j][i] = 0.0f;
            }
            const bool in_tail = tile.first + slot >= paged_keys(p.cache, work.length) && key_codes() >= Codes::kByte;
            switch (key_codes()) {
            case Codes::kHalf: scores_halves<false>(words, query, part); break;
            case Codes::kBfloat: scores_halves<true>(words, query, part); break;
            case Codes::kInt8: scores_bytes<Codes::kInt8>(words, query, part); break;
            case Codes::kFloat8: scores_bytes<Codes::kFloat8>(words, query, part); break;
            case Codes::kByte:
                if (in_tail) {
                    scores_tail<false>(tile, tile.first + slot, query, part);
                } else {
                    scores_block<Codes::kByte>(words, scales, query, part, zero);
                }
                break;
            default:
                if (in_tail) {
                    scores_tail<true>(tile, tile.first + slot, query, part);
                } else {
                    scores_block<Codes::kNibble>(words, scales, query, part, zero);
                }
            }
            const bool factors = token_scaled(key_codes());
            GPU_UNROLL
            for (int j = 0; j < T; ++j) {
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const float factor = factors ? info.key_factor[slot + score_slot(j, q, i & 1)] : 1.0f;
                    s[group * T + j][i] = (part[j][i] + zero[i]) * factor;
                }
            }
        }
    }

    /// Products of the weights of one group with its values; words of C in shared memory, from those of the lane's first row and channel on.
    template <Codes C>
    GPU_DEVICE void multiply_values(const unsigned char *words, const unsigned char *scales, const uint32_t (&token)[4],
                                    const float (&s)[std::size_t{T}][4], float (&o)[std::size_t{Dim / 8}][4]) const {
        constexpr int kShift = word_shift(C);
        constexpr bool kBf16 = C == Codes::kBfloat;
        constexpr int kRowBytes = Dim * 4;
        uint32_t a[std::size_t{T / 2}][4];
        GPU_UNROLL
        for (int t = 0; t < T / 2; ++t) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int low = kShift == 3 ? 4 * t + (i >> 1) : 4 * t + 2 * (i >> 1);
                const int high = low + (kShift == 3 ? 2 : 1);
                a[t][i] = pack_pair(kBf16, s[low % T][low / T + 2 * (i & 1)], s[high % T][high / T + 2 * (i & 1)]);
            }
        }
        GPU_UNROLL
        for (int dd = 0; dd < Dim / 32; ++dd) {
            uint32_t factors[4] = {0, 0, 0, 0};
            uint32_t zeros[4] = {0, 0, 0, 0};
            if constexpr (C >= Codes::kByte) {
                load_slot_pairs<C == Codes::kNibble, T>(scales + 2 * dd * kTileSlots * 2, factors);
                load_slot_pairs<C == Codes::kNibble, T>(scales + (2 * dd + 1) * kTileSlots * 2, zeros);
            }
            // A word of each of 4 n-tiles at a time: two of 16 bits make a step, one of 8 a step, one of 4 two steps.
            constexpr int kWords = kShift == 1 ? T : 2 * T >> kShift;
            GPU_UNROLL
            for (int x = 0; x < kWords; x += kShift == 1 ? 2 : 1) {
                const gpu::U4 read = gpu::load16(words + x * kRowBytes + dd * 128);
                if constexpr (kShift == 1) {
                    const gpu::U4 next = gpu::load16(words + (x + 1) * kRowBytes + dd * 128);
                    GPU_UNROLL
                    for (int j = 0; j < 4; ++j) multiply_tile<kBf16>(o[4 * dd + j], a[x / 2], read.v[j], next.v[j]);
                } else {
                    constexpr int kPairs = kShift == 2 ? 2 : 4;
                    GPU_UNROLL
                    for (int j = 0; j < 4; ++j) {
                        uint32_t b[4];
                        if constexpr (kShift == 2) {
                            unpack_bytes<C, false>(read.v[j], b[0], b[1]);
                        } else {
                            unpack_nibbles<false>(read.v[j], b);
                        }
                        GPU_UNROLL
                        for (int k = 0; k < kPairs; ++k) {
                            const int pair = x * 2 + k;
                            b[k] = C >= Codes::kByte ? gpu::hfma2(b[k], factors[pair], zeros[pair]) : gpu::hmul2(b[k], token[pair]);
                        }
                        GPU_UNROLL
                        for (int k = 0; k < kPairs; k += 2) gpu::mma_f16(o[4 * dd + j], a[x + k / 2], b[k], b[k + 1]);
                    }
                }
            }
        }
    }

    GPU_DEVICE void values(const Info &info, const unsigned char *unit, int warp_slot, const float (&s)[std::size_t{kScoreTiles}][4],
                           float (&o)[std::size_t{Dim / 8}][4]) const {
        const int g = gpu::lane_id() >> 2;
        const int q = gpu::lane_id() & 3;
        const int shift = word_shift(value_codes());
        GPU_UNROLL
        for (int group = 0; group < kGroups; ++group) {
            const int slot = warp_slot + group * kGroupSlots + 2 * T * q; // the lane's first
            const unsigned char *words = unit + (slot >> shift) * Dim * 4 + (g ^ (2 * q)) * 16;
            const unsigned char *scales = unit + (kTileSlots >> shift) * Dim * 4 + slot * 2;
            uint32_t token[4] = {0, 0, 0, 0};
            if (token_scaled(value_codes())) {
                load_slot_pairs<false, T>(reinterpret_cast<const unsigned char *>(info.value_factor + slot), token);
            }
            float part[std::size_t{T}][4];
            GPU_UNROLL
            for (int j = 0; j < T; ++j) {
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) part[j][i] = s[group * T + j][i];
            }
            switch (value_codes()) {
            case Codes::kHalf: multiply_values<Codes::kHalf>(words, scales, token, part, o); break;
            case Codes::kBfloat: multiply_values<Codes::kBfloat>(words, scales, token, part, o); break;
            case Codes::kInt8: multiply_values<Codes::kInt8>(words, scales, token, part, o); break;
            case Codes::kFloat8: multiply_values<Codes::kFloat8>(words, scales, token, part, o); break;
            case Codes::kByte: multiply_values<Codes::kByte>(words, scales, token, part, o); break;
            default:
                if constexpr (T == 4) multiply_values<Codes::kNibble>(words, scales, token, part, o);
            }
        }
    }
};

template <int Dim, int T, bool Few, int Codes = kAnyCodes>
GPU_KERNEL(kThreads, Dim > 64 ? 2 : 3)
kv_attention_mma_words_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(smem);
    attend<WordSource<Dim, T, Few, Codes, Codes>>(p, smem);
}

} // namespace strata
