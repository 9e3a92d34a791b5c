// SPDX-License-Identifier: Apache-2.0
// kv_attention: many rows on the tensor cores of sm_90, for K and V as rows of 16-bit numbers or in swizzled pages.
//
//     out[r] = sum over slots of exp2(scale log2(e) (s[r] - max)) v / sum over slots of the same weights,   s = q k
//
// Shapes   an item's 128 rows (tokens times query heads of a group) against tiles of 128 slots; head_dim to 128.
// Bound    tensor cores: 4 * 128 * 128 * head_dim operations a tile, 64 KiB of K and V for them (32 bytes a cycle and multiprocessor).
//
// A block has two warpgroups; each takes 64 rows. K and V have two units of shared memory each, and one meeting a tile:
//
//     meet      K[i] and V[i - 1] are there, K[i - 1] and V[i - 2] are done with
//     compute   s = q K[i]; o += p V[i - 1]           one behind the other on the tensor cores
//     load      K[i + 1] and V[i] into the free places, beside the products
//               p' = softmax(s)                       beside the second
//               o *= what the maxima moved by; p = p' in 16 bits, in the registers of the next left operand
//
// In shared memory 64 channels of 128 rows are a block of 16 KiB whose chunks are exchanged within 128 bytes: what the products read, and
// what 16-byte copies write without bank conflicts.
//
// Index grammar: kk, t, n, d count 16 channels of the score product, 16 slots, 8 slots, 8 channels; lane = 4 g + q of a warp owns rows
// g and g + 8 of the warp's 16 and columns 2q, 2q + 1 of each 8.
#pragma once

#include "ops/kv_attention/kv_attention_rows.cuh"

namespace strata {

constexpr int kGroupThreads = 256;
constexpr int kGroupWarps = kGroupThreads / gpu::kWarpSize;

/// What kv_attention_query.cuh and hide_scores ask of a source, and the copies of its tiles.
template <int Dim, bool Bf16>
struct WarpgroupSource {
    static constexpr int kDim = Dim;
    static constexpr int kSlotWarps = 1;
    static constexpr int kRows = kItemRows;
    static constexpr int kTileSlots = 128;
    static constexpr int kScoreTiles = kTileSlots / 8;
    static constexpr int kHalfBytes = kTileSlots * 128; // 64 channels
    static constexpr int kUnitBytes = Dim / 64 * kHalfBytes;
    static constexpr int kNotes = 3; // tiles whose slots are known: the one computed with, the one loaded, the one looked up
    static constexpr bool kQueryInSmem = true;
    /// Bytes to the rows of a tile's slots; see row_bytes.
    struct Info {
        int64_t key[std::size_t{kTileSlots}];
        int64_t value[std::size_t{kTileSlots}];
    };

    const AttentionParams &p;
    const Work &work;

    GPU_DEVICE bool keys_bf16() const { return Bf16; }
    GPU_DEVICE int key_channel(int kk, int q, int i, int e) const { return kk * 16 + 8 * i + 2 * q + e; }
    static GPU_DEVICE int score_slot(int n, int q, int e) { return n * 8 + 2 * q + e; }

    GPU_DEVICE int32_t entry_of(const Tile &tile, bool there, int in_tile) const {
        return there ? table_entry(p.cache, work.table, gpu::min(tile.first + in_tile, work.length - 1)) : -1;
    }
    /// The place of one slot's row, of K or of V.
    GPU_DEVICE void publish(Info &info, const Tile &tile, bool there, int in_tile, bool of_keys, int32_t entry) const {
        int64_t &place = of_keys ? info.key[in_tile] : info.value[in_tile];
        const int32_t slot = tile.first + in_tile;
        place = kAbsentRow;
        if (!there || !counts(tile, slot)) return;
        const GpuSlot at = slot_at(p.cache, slot, entry, p.fault);
        if (at.page >= 0) place = row_bytes(p, of_keys ? p.cache.keys : p.cache.values, at, work.head);
    }

    GPU_DEVICE void load(const int64_t *rows, const void *pool, unsigned char *unit) const {
        constexpr int kChunks = Dim / 8;
        constexpr int kStep = kGroupThreads / kChunks; // rows that the block copies at once
        static_assert(kStep % 8 == 0);                 // so a thread's rows have one exchange
        const int first = gpu::thread_x() / kChunks;
        const int chunk = gpu::thread_x() % kChunks;
        const bool inside = chunk * 8 < p.cache.head_dim;
        const bool swizzled = p.cache.layout == STRATA_KV_SWIZZLED;
        const int64_t half = swizzled ? int64_t{p.cache.page_size} * 128 : 128; // bytes to the chunk 64 channels on
        const auto *from = static_cast<const unsigned char *>(pool) + (chunk >> 3) * half + ((chunk & 7) ^ (swizzled ? first & 7 : 0)) * 16;
        unsigned char *to = unit + (chunk >> 3) * kHalfBytes + first * 128 + ((chunk & 7) ^ (first & 7)) * 16;
        int64_t at[std::size_t{kTileSlots / kStep}]; // all read before the first copy, which the compiler would not move them across
        GPU_UNROLL
        for (int i = 0; i < kTileSlots / kStep; ++i) at[i] = rows[first + i * kStep];
        GPU_UNROLL
        for (int i = 0; i < kTileSlots / kStep; ++i) gpu::cp_async16(to + i * kStep * 128, from + at[i], inside && at[i] >= 0);
    }
};

/// What the threads of a block share from start to end.
struct WarpgroupState {
    Work work;
    Walk walk;
    RowView rows[kItemRows];
    RowEnd ends[kItemRows];
    float past[kGroupThreads][4]; // each thread's max and sum of its two rows, at the end of the past
};

/// Largest product and sum of weights of a thread's two rows.
struct RowPair {
    float max[2];
    float sum[2];
};

/// s = q k of one tile, on its way; a: q as left operands, whose registers are free after the wait.
template <class Source, bool Bf16>
GPU_DEVICE void start_scores(const uint32_t (&a)[std::size_t{Source::kDim / 16}][4], const unsigned char *keys,
                             float (&s)[std::size_t{Source::kScoreTiles}][4]) {
    GPU_UNROLL
    for (int kk = 0; kk < Source::kDim / 16; ++kk) {
        const unsigned char *at = keys + kk / 4 * Source::kHalfBytes + kk % 4 * 32;
        gpu::warpgroup_multiply<Source::kTileSlots, Bf16, true>(s, a[kk], gpu::warpgroup_operand(at, Source::kHalfBytes), kk > 0);
    }
    gpu::warpgroup_commit();
}

/// o += weights v of one tile, on its way.
template <class Source, bool Bf16>
GPU_DEVICE void start_values(const uint32_t (&weights)[std::size_t{Source::kTileSlots / 16}][4], const unsigned char *values,
                             float (&o)[std::size_t{Source::kDim / 8}][4]) {
    GPU_UNROLL
    for (int t = 0; t < Source::kTileSlots / 16; ++t) {
        gpu::warpgroup_multiply<Source::kDim, Bf16, false>(o, weights[t], gpu::warpgroup_operand(values + t * 16 * 128, Source::kHalfBytes), true);
    }
    gpu::warpgroup_commit();
}

/// Products to weights exp2(scale (s - max)), with the rows' new maxima; factor: what sums so far count now. The scale is positive, so the
/// largest score is the largest product, and the difference comes first, so that its weight is 1 and not almost.
template <std::size_t Tiles>
GPU_DEVICE void weigh(float scale_log2, float (&s)[Tiles][4], RowPair &rows, float (&factor)[2]) {
    float high[2] = {-gpu::kInfinity, -gpu::kInfinity};
    GPU_UNROLL
    for (std::size_t n = 0; n < Tiles; ++n) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) high[i >> 1] = gpu::max(high[i >> 1], s[n][i]);
    }
    float base[2];
    GPU_UNROLL
    for (int i = 0; i < 2; ++i) {
        high[i] = gpu::max(high[i], gpu::shfl_xor(high[i], 1));
        high[i] = gpu::max(high[i], gpu::shfl_xor(high[i], 2));
        high[i] = gpu::max(rows.max[i], high[i]);
        base[i] = safe_max(high[i]);
        factor[i] = gpu::exp2((rows.max[i] - base[i]) * scale_log2);
        rows.max[i] = high[i];
        rows.sum[i] *= factor[i];
    }
    GPU_UNROLL
    for (std::size_t n = 0; n < Tiles; ++n) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
            s[n][i] = gpu::exp2((s[n][i] - base[i >> 1]) * scale_log2);
            rows.sum[i >> 1] += s[n][i];
        }
    }
}

/// Weights as left operands: the registers of two neighbouring tiles of scores are those of 16 slots.
template <bool Bf16, std::size_t Tiles>
GPU_DEVICE void pack_weights(const float (&s)[Tiles][4], uint32_t (&weights)[Tiles / 2][4]) {
    GPU_UNROLL
    for (std::size_t t = 0; t < Tiles / 2; ++t) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
            const float(&tile)[4] = s[2 * t + (i < 2 ? 0 : 1)];
            weights[t][i] = pack_pair(Bf16, tile[i % 2 * 2], tile[i % 2 * 2 + 1]);
        }
    }
}

template <int Dim, bool Bf16>
GPU_KERNEL(kGroupThreads, 1)
kv_attention_warpgroup_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(smem);
    using Source = WarpgroupSource<Dim, Bf16>;
    const int thread = gpu::thread_x();
    const int g = gpu::lane_id() >> 2;
    const int q = gpu::lane_id() & 3;
    auto &state = *reinterpret_cast<WarpgroupState *>(smem + p.smem.state);
    gpu::let_next_start();
    gpu::wait_for_previous();
    if (thread == 0) {
        state.work = find_work(p, gpu::block_x(), 0, kItemRows);
        if (state.work.rows > 0) state.walk = make_walk(p, state.work, Source::kTileSlots);
    }
    gpu::sync_threads();
    const Work &work = state.work;
    const Walk &walk = state.walk;
    if (work.rows == 0) return;
    const int32_t tiles = walk.tiles;
    const Source source{p, work};
    auto *infos = reinterpret_cast<typename Source::Info *>(smem + p.smem.infos);
    constexpr int kValues = 2 * Source::kUnitBytes; // where the units of V begin
    const int in_tile = thread % Source::kTileSlots;
    const bool of_keys = thread < Source::kTileSlots; // in the loop a half of the threads looks up K, the other V

    // ---- load: the slots of two tiles, the first keys on their way, q to operands
    {
        const int number = thread / Source::kTileSlots;
        const Tile tile = tile_at(walk, number, Source::kTileSlots);
        const bool there = number < tiles;
        const int32_t entry = source.entry_of(tile, there, in_tile);
        source.publish(infos[number], tile, there, in_tile, true, entry);
        source.publish(infos[number], tile, there, in_tile, false, entry);
        if (thread < kItemRows) state.rows[thread] = row_view(p, work, thread);
    }
    Tile ahead = tile_at(walk, 2, Source::kTileSlots);
    int32_t entry = source.entry_of(ahead, 2 < tiles, in_tile);
    gpu::sync_threads();
    if (tiles > 0) source.load(infos[0].key, p.cache.keys.data, smem);
    gpu::cp_async_commit();
    Query<Dim / 16, true> query;
    load_query(p, work, source, nullptr, smem, query);
    const RowView *views = state.rows + gpu::warp_id() * 16 + g;
    // What all rows of the warp see: later rows see no less at the end and no more at the beginning.
    const int32_t low = gpu::max(state.rows[gpu::warp_id() * 16 + 15].low, 0);
    const int32_t high = state.rows[gpu::warp_id() * 16].high;

    float o[std::size_t{Dim / 8}][4];
    GPU_UNROLL
    for (int d = 0; d < Dim / 8; ++d) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) o[d][i] = 0.0f;
    }
    float s[std::size_t{Source::kScoreTiles}][4];
    uint32_t weights[std::size_t{Source::kScoreTiles / 2}][4];
    float factor[2] = {1.0f, 1.0f};
    RowPair rows{{-gpu::kInfinity, -gpu::kInfinity}, {0.0f, 0.0f}};
    float *past = state.past[thread];
    past[0] = past[1] = -gpu::kInfinity;
    past[2] = past[3] = 0.0f;
    int note = 0;

    const auto keep_past = [&] {
        GPU_UNROLL
        for (int i = 0; i < 2; ++i) {
            past[i] = rows.max[i];
            past[2 + i] = rows.sum[i];
        }
    };
    // All copies are there for the products, and everybody is done with the tile before.
    const auto meet = [&] {
        gpu::cp_async_wait<0>();
        gpu::publish_to_warpgroups();
        gpu::sync_threads();
    };
    // One tile; `first`: there are no values to multiply with yet.
    const auto step = [&](int32_t index, auto first) {
        constexpr bool kFirst = decltype(first)::value;
        const int next = note + 1 == Source::kNotes ? 0 : note + 1;
        const int after = next + 1 == Source::kNotes ? 0 : next + 1;
        unsigned char *const even = smem + (index & 1) * Source::kUnitBytes;
        unsigned char *const odd = smem + ((index & 1) ^ 1) * Source::kUnitBytes;

        // ---- compute
        meet();
        uint32_t a[std::size_t{Dim / 16}][4];
        GPU_UNROLL
        for (int kk = 0; kk < Dim / 16; ++kk) query.get(kk, a[kk]);
        gpu::warpgroup_hold(a);
        if constexpr (!kFirst) gpu::warpgroup_hold(weights);
        gpu::warpgroup_start();
        start_scores<Source, Bf16>(a, even, s);
        if constexpr (!kFirst) start_values<Source, Bf16>(weights, odd + kValues, o);

        // ---- load
        if (index + 1 < tiles) source.load(infos[next].key, p.cache.keys.data, odd);
        source.load(infos[note].value, p.cache.values.data, even + kValues);
        gpu::cp_async_commit();
        const Tile tile = tile_at(walk, index, Source::kTileSlots);
        source.publish(infos[after], ahead, index + 2 < tiles, in_tile, of_keys, entry);
        ahead = tile_at(walk, index + 3, Source::kTileSlots);
        entry = source.entry_of(ahead, index + 3 < tiles, in_tile);

        // ---- compute
        if (index == walk.border) keep_past();
        gpu::warpgroup_wait<kFirst ? 0 : 1>();
        gpu::warpgroup_hold(s);
        const bool whole = tile.low <= tile.first && low <= tile.first && tile.first + Source::kTileSlots <= gpu::min(tile.high, high);
        if (!whole) hide_scores<Source>(p, tile, views, 0, s);
        weigh(p.scale_log2, s, rows, factor);
        if constexpr (!kFirst) {
            // After the first tiles the maxima rarely move. The sums are asked as well (they are never below 0), because the vote then comes
            // after all weights and the wait, which does not pass it, leaves them beside the products.
            const bool moved = gpu::any(factor[0] != 1.0f || factor[1] != 1.0f || rows.sum[0] + rows.sum[1] < 0.0f);
            gpu::warpgroup_wait<0>();
            gpu::warpgroup_hold(o);
            if (moved) {
                GPU_UNROLL
                for (int d = 0; d < Dim / 8; ++d) {
                    GPU_UNROLL
                    for (int i = 0; i < 4; ++i) o[d][i] *= factor[i >> 1];
                }
            }
        }
        pack_weights<Bf16>(s, weights);
        note = next;
    };
    if (tiles > 0) {
        step(0, std::true_type{});
        for (int32_t index = 1; index < tiles; ++index) step(index, std::false_type{});
        meet();
        gpu::warpgroup_hold(weights);
        gpu::warpgroup_start();
        start_values<Source, Bf16>(weights, smem + kValues + ((tiles - 1) & 1) * Source::kUnitBytes, o);
        gpu::warpgroup_wait<0>();
        gpu::warpgroup_hold(o);
    }
    if (walk.border == tiles) keep_past();

    // ---- store: rows meet in the memory of the units, threads take 4 channels of a row
    gpu::sync_threads();
    constexpr int kPitch = Dim + 8; // words; a half warp's pairs meet different banks
    auto *turned = reinterpret_cast<float *>(smem);
    GPU_UNROLL
    for (int i = 0; i < 2; ++i) {
        const int r = gpu::warp_id() * 16 + g + 8 * i;
        GPU_UNROLL
        for (int d = 0; d < Dim / 8; ++d) {
            gpu::store8(turned + r * kPitch + 8 * d + 2 * q, gpu::U2{{gpu::as_uint(o[d][2 * i]), gpu::as_uint(o[d][2 * i + 1])}});
        }
        float sum = rows.sum[i];
        sum += gpu::shfl_xor(sum, 1);
        sum += gpu::shfl_xor(sum, 2);
        float past_sum = past[2 + i];
        past_sum += gpu::shfl_xor(past_sum, 1);
        past_sum += gpu::shfl_xor(past_sum, 2);
        if (q == 0 && r < work.rows) state.ends[r] = end_row(p, work, r, RowState{rows.max[i] * p.scale_log2, sum, past[i] * p.scale_log2, past_sum});
    }
    gpu::sync_threads();
    for (int i = thread; i < work.rows * (Dim / kEmitted); i += kGroupThreads) {
        const int r = i / (Dim / kEmitted);
        const int channel = i % (Dim / kEmitted) * kEmitted;
        const gpu::U4 words = gpu::load16(turned + r * kPitch + channel);
        float v[std::size_t{kEmitted}];
        GPU_UNROLL
        for (int j = 0; j < kEmitted; ++j) v[j] = gpu::as_float(words.v[j]);
        emit_some(p, work, r, channel, v, state.ends[r]);
    }
}

} // namespace strata
