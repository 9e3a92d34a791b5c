// SPDX-License-Identifier: Apache-2.0
// kv_attention, few rows: tiled pages of codes of one kind, each warp for itself (kv_attention_warps.cuh). Units, products and layouts are those
// of kv_attention_words.cuh.
#pragma once

#include "ops/kv_attention/kv_attention_warps.cuh"
#include "ops/kv_attention/kv_attention_words.cuh"

namespace strata {

/// Compile-time shape of the kernel, for launcher and kernel.
template <int Dim, Codes C>
struct WordWarpsShape {
    static constexpr int kDim = Dim;
    static constexpr int kEach = 1 << word_shift(C);
    static constexpr bool kBlock = C >= Codes::kByte;
    static constexpr int kTokenScales = token_scaled(C) ? kWarpTile * 2 : 0;
    static constexpr int kKeyWords = key_words_bytes(kWarpTile, Dim, kEach);
    static constexpr int kValueWords = kWarpTile * Dim / kEach * 4;
    static constexpr int kKeyUnit = key_unit_bytes(kWarpTile, Dim, kEach, kBlock) + kTokenScales;
    static constexpr int kValueUnit = value_unit_bytes(kWarpTile, Dim, kEach, kBlock) + kTokenScales;
    static constexpr int kStages = Dim == 64 || C == Codes::kNibble ? 3 : 2;
};

template <int Dim, Codes C>
struct WordWarpSource : WarpRuns<WordSource<Dim, 4, true, static_cast<int>(C), static_cast<int>(C)>> {
    using Runs = WarpRuns<WordSource<Dim, 4, true, static_cast<int>(C), static_cast<int>(C)>>;
    using Shape = WordWarpsShape<Dim, C>;
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
    using Runs::work;
    static constexpr int kShift = word_shift(C);
    static constexpr int kRunRows = Dim >> kShift;     // rows of 64 bytes of a run of keys
    static constexpr int kRunLines = 16 >> kShift;     // rows of Dim words of a run of values
    static constexpr int kChunks = Dim / 4;            // of such a row
    static constexpr int kSteps = kRunRows * 64 / 256; // of 16 lanes, the same for keys and values

    GPU_DEVICE WordWarpSource(const AttentionParams &params, const Work &of) : Runs(params, of) {
        keys += in_half * 16;
        values += in_half * 16;
        if constexpr (Shape::kBlock) {
            key_scales += (lane - in_half) * 8;
            value_scales += (lane >> 2) * p.cache.value_scales.slot + ((lane & 3) - in_half) * 8;
        }
    }

    /// Of the block of 32 slots, as whichever half is there has it.
    GPU_DEVICE GpuSlot block_of(const Run &run) const {
        const int32_t page = gpu::max(run.page, gpu::shfl_xor(run.page, 16));
        const int32_t in_page = gpu::max(run.in_page, gpu::shfl_xor(run.in_page, 16));
        return GpuSlot{page, in_page / kKvBlock * kKvBlock};
    }

    GPU_DEVICE void load_keys(const Run &run, unsigned char *unit) const {
        const GpuKvCache &cache = p.cache;
        const int row = in_half >> 2;
        unsigned char *to = unit + ((2 * warp + half) * kRunRows + row) * 64 + ((in_half & 3) ^ (row & 2)) * 16;
        if (run.whole) {
            const unsigned char *from = keys + run.page * cache.keys.page + (run.in_page >> 4) * (kRunRows * 64);
            GPU_UNROLL
            for (int step = 0; step < kSteps; ++step) gpu::cp_async16(to + step * 256, from + step * 256);
        } else {
            const int used = cache.head_dim >> kShift;
            GPU_UNROLL_BY(1)
            for (int step = 0; step < kSteps; ++step) {
                const bool there = run.page >= 0 && step * 4 + row < used;
                const int64_t at = run.page * cache.keys.page + (run.in_page >> 4) * used * 64 + step * 256;
                gpu::cp_async16(to + step * 256, there ? keys + at : cache.keys.data, there);
            }
        }
        if constexpr (token_scaled(C)) {
            this->load_token_scales(cache.key_scales, key_scales, run, unit + Shape::kKeyWords);
        } else {
            constexpr int kParts = Dim / 8; // chunks of scales, and of zero points
            unsigned char *scales_to = unit + Shape::kKeyWords + warp * (2 * Dim * 2) + lane * 16;
            if (run.whole) {
                const uint16_t *from = key_scales + run.page * cache.key_scales.page + run.in_page / kKvBlock * cache.key_scales.slot;
                if (lane < 2 * kParts) gpu::cp_async16(scales_to, from);
            } else {
                const GpuSlot block = block_of(run);
                const int skipped = kParts * 8 - cache.head_dim; // channels of each part
                const bool there = block.page >= 0 && lane % kParts * 8 < cache.head_dim;
                const int64_t at = block.page * cache.key_scales.page + block.in_page / kKvBlock * cache.key_scales.slot - lane / kParts * skipped;
                if (lane < 2 * kParts) gpu::cp_async16(scales_to, there ? key_scales + at : cache.key_scales.data, there);
            }
        }
    }

    GPU_DEVICE void load_values(const Run &run, unsigned char *unit) const {
        const GpuKvCache &cache = p.cache;
        constexpr int kLineSteps = kChunks / 16; // steps of a row
        constexpr int kLaneShift = 3 - kShift;   // log2 of a lane's rows: see kv_attention_words.cuh
        unsigned char *to = unit + (2 * warp + half) * kRunLines * Dim * 4;
        const auto place = [&](int step) {
            const int line = step / kLineSteps;
            const int chunk = (step % kLineSteps * 16 + in_half) ^ (4 * half) ^ (2 * (line >> kLaneShift));
            return to + (line * kChunks + chunk) * 16;
        };
        if (run.whole) {
            const unsigned char *from = values + run.page * cache.values.page + (run.in_page >> 4) * (kRunLines * Dim * 4);
            GPU_UNROLL
            for (int step = 0; step < kSteps; ++step) gpu::cp_async16(place(step), from + step * 256);
        } else {
            GPU_UNROLL_BY(1)
            for (int step = 0; step < kSteps; ++step) {
                const int line = (run.in_page >> kShift) + step / kLineSteps;
                const bool there = run.page >= 0 && (step % kLineSteps * 16 + in_half) * 4 < cache.head_dim;
                const int64_t at = run.page * cache.values.page + line * cache.head_dim * 4 + step % kLineSteps * 256;
                gpu::cp_async16(place(step), there ? values + at : cache.values.data, there);
            }
        }
        if constexpr (token_scaled(C)) {
            this->load_token_scales(cache.value_scales, value_scales, run, unit + Shape::kValueWords);
        } else {
            // Four chunks of slots of each row of scales or zero points. Those of slots that are not there are cleaned.
            constexpr int kScaleRows = 2 * (Dim / kKvBlock);
            const int row = lane >> 2;
            unsigned char *scales_to = unit + Shape::kValueWords + (row * kWarpTile + kSlots * warp) * 2 + (lane & 3) * 16;
            if (run.whole) {
                const uint16_t *from = value_scales + run.page * cache.value_scales.page + run.in_page / kKvBlock * kKvBlock;
                if (row < kScaleRows) gpu::cp_async16(scales_to, from);
            } else {
                const GpuSlot block = block_of(run);
                const bool there = block.page >= 0 && row / 2 * kKvBlock < cache.head_dim;
                const uint16_t *from = value_scales + block.page * cache.value_scales.page + block.in_page;
                if (row < kScaleRows) gpu::cp_async16(scales_to, there ? from : cache.value_scales.data, there);
            }
        }
    }

    /// Of the warp's slots those that do not count may hold anything: numbers that could be NaN, and scales, become 0.
    GPU_DEVICE void clean(const Tile &tile, unsigned char *unit) const {
        const int32_t first = kSlots * warp;
        if constexpr (C == Codes::kFloat8) {
            auto *words = reinterpret_cast<uint32_t *>(unit);
            for (int i = first / 4 * Dim + lane; i < (first + kSlots) / 4 * Dim; i += gpu::kWarpSize) {
                const int32_t slot = tile.first + i / Dim * 4;
                uint32_t kept = 0;
                for (int e = 0; e < 4; ++e) kept |= counts(tile, slot + e) ? 0xffu << (8 * e) : 0u;
                words[i] &= kept;
            }
        }
        this->clean_scales(tile, unit + Shape::kValueWords, Shape::kBlock ? 2 * (Dim / kKvBlock) : 1);
        gpu::sync_warp();
    }

    /// Products of q and the warp's keys, times `scale`.
    template <class QueryOperands>
    GPU_DEVICE void products(const Tile &tile, const unsigned char *unit, const QueryOperands &query, float scale, float (&s)[4][4]) const {
        const int g = lane >> 2;
        const int q = lane & 3;
        const unsigned char *words = unit + ((2 * warp + (g >> 2)) * kRunRows + q) * 64 + ((g & 3) ^ (q & 2)) * 16;
        GPU_UNROLL
        for (int j = 0; j < 4; ++j) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) s[j][i] = 0.0f;
        }
        if constexpr (token_scaled(C)) {
            this->template scores_bytes<C>(words, query, s);
            this->scale_scores(unit + Shape::kKeyWords, scale, s);
        } else {
            float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f}; // what all slots of a row get
            if (tile.first + kSlots * warp >= paged_keys(p.cache, work.length)) {
                this->template scores_tail<C == Codes::kNibble>(tile, tile.first + kSlots * warp, query, s);
            } else {
                this->template scores_block<C>(words, unit + Shape::kKeyWords + warp * (2 * Dim * 2), query, s, zero);
            }
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) {
                const float added = zero[i] * scale;
                GPU_UNROLL
                for (int j = 0; j < 4; ++j) s[j][i] = gpu::fma(s[j][i], scale, added);
            }
        }
    }

    GPU_DEVICE void weigh(const unsigned char *unit, const float (&s)[4][4], float (&o)[std::size_t{Dim / 8}][4]) const {
        const int g = lane >> 2;
        const int q = lane & 3;
        const int slot = kSlots * warp + 8 * q;
        const unsigned char *scales = unit + Shape::kValueWords + slot * 2;
        uint32_t token[4] = {0, 0, 0, 0};
        if constexpr (token_scaled(C)) load_slot_pairs<false, 4>(scales, token);
        this->template multiply_values<C>(unit + (slot >> kShift) * Dim * 4 + (g ^ (2 * q)) * 16, scales, token, s, o);
    }
};

/// Blocks that a multiprocessor is to hold: three, where that many registers do without spills.
template <int Dim, int Codec>
constexpr int warps_blocks() {
    if (Codec == static_cast<int>(Codes::kByte)) return 2;
    return Dim == 128 && Codec == static_cast<int>(Codes::kNibble) && !gpu::kTargetsHopper ? 2 : 3;
}

template <int Dim, int Codec>
GPU_KERNEL(kThreads, (warps_blocks<Dim, Codec>()))
kv_attention_mma_warps_kernel(AttentionParams p) {
    GPU_DYNAMIC_SMEM(smem);
    attend_by_warps<WordWarpSource<Dim, static_cast<Codes>(Codec)>>(p, smem);
}

} // namespace strata
