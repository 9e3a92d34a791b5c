// SPDX-License-Identifier: Apache-2.0
// kv_attention: what each key was given: the sum over a sequence's rows of the mean over the group of exp(s - lse), once lse is known.
//
// A block has the keys of one tile of slots and walks the rows of its sequence and KV head, 64 at a time; the scores are made as in
// the attention itself. No two blocks share a slot, so sums have one order and nothing is atomic.
#pragma once

#include "ops/kv_attention/kv_attention_mma.cuh"
#include "ops/kv_attention/kv_attention_plain_tile.cuh"

namespace strata {

/// The sequence and KV head of a block, with all of their rows; rows is set by the walk. Sequences past the grid take turns.
GPU_DEVICE Work probability_work(const AttentionParams &p, int64_t sequence) {
    Work work{};
    const GpuRows rows = rows_of(p.offsets, sequence, p.fault);
    work.sequence = sequence;
    work.head = gpu::block_y();
    work.token = rows.first;
    work.tokens = rows.count;
    work.length = checked_length(p.cache, sequence, work.head, p.max_length, p.fault);
    work.end = work.length;
    work.table = table_row(p.cache, sequence, work.head);
    return work;
}

/// The next `most` rows.
GPU_DEVICE void set_rows(const AttentionParams &p, Work &work, int32_t row, int32_t most) {
    work.row = row;
    work.rows = static_cast<int32_t>(gpu::min(int64_t{most}, work.tokens * p.group - row));
}
/// False where none of the rows sees a slot of the tile.
GPU_DEVICE bool see_some(const AttentionParams &p, const Work &work, const Tile &tile) {
    if (row_view(p, work, work.rows - 1).high <= tile.low) return false;
    return row_view(p, work, 0).low < tile.high || tile.low < p.window_sinks;
}

/// The lse of a row in units of log2, fit to be subtracted.
GPU_DEVICE float known_lse(const AttentionParams &p, const Work &work, int r) {
    const int64_t token = token_of(p, work, r);
    const int64_t head = head_of(p, work, r);
    const float lse = p.known_lse != nullptr ? p.known_lse[token * p.q_heads + head] : p.lse[token * p.lse_token + head * p.lse_head];
    return safe_max(lse * gpu::kLog2e);
}

GPU_DEVICE void write_probability(const AttentionParams &p, const Work &work, int32_t slot, float sum) {
    float *to = p.probability + work.sequence * p.probability_sequence + work.head * p.probability_head + slot;
    const float mean = gpu::div(sum, static_cast<float>(p.group));
    *to = p.store_probability ? mean : *to + mean;
}

template <class Source>
GPU_DEVICE void add_probabilities(const AttentionParams &p, unsigned char *smem) {
    static_assert(Source::kSlotWarps == 1);
    gpu::wait_for_previous();
    constexpr int kScoreTiles = Source::kScoreTiles;
    const int lane = gpu::lane_id();
    const int g = lane >> 2;
    const int q = lane & 3;
    auto &info = *reinterpret_cast<typename Source::Info *>(smem + p.smem.infos);
    auto *turned = p.cache.rotation != 0 ? reinterpret_cast<float *>(smem + p.smem.turned) : nullptr;
    auto *sums = reinterpret_cast<float *>(smem); // [kWarps][kTileSlots], over the keys once they are used

    auto &state = *reinterpret_cast<BlockState *>(smem + p.smem.state);
    for (int64_t sequence = gpu::block_z(); sequence < p.offsets.batch; sequence += gpu::grid_dim_z()) {
        gpu::sync_threads(); // the state and the sums of the sequence before have been read
        if (gpu::thread_x() == 0) state.work = probability_work(p, sequence);
        gpu::sync_threads();
        const Work &work = state.work;
        const int32_t first = gpu::block_x() * Source::kTileSlots;
        if (first >= work.length) continue;
        const Tile tile{first, first, gpu::min(first + Source::kTileSlots, work.length)};
        const Source source(p, work);

        // ---- load: the keys
        if (gpu::thread_x() < Source::kTileSlots) {
            const int32_t slot = gpu::min(first + gpu::thread_x(), work.length - 1);
            source.publish(info, gpu::thread_x(), source.resolve(tile, gpu::thread_x(), true, table_entry(p.cache, work.table, slot)));
        }
        gpu::sync_threads();
        source.load_keys(info, smem);
        gpu::cp_async_commit();
        gpu::cp_async_wait<0>();
        gpu::sync_threads();

        // ---- compute: all rows against them
        float total[std::size_t{kScoreTiles}][2]; // columns 2q, 2q + 1 over the lane's rows
        GPU_UNROLL
        for (int n = 0; n < kScoreTiles; ++n) {
            GPU_UNROLL
            for (int e = 0; e < 2; ++e) total[n][e] = 0.0f;
        }
        const auto rows = static_cast<int32_t>(work.tokens * p.group);
        for (int32_t row = 0; row < rows; row += kManyRows) {
            gpu::sync_threads(); // everybody is done with the rows and operands before
            if (gpu::thread_x() == 0) set_rows(p, state.work, row, kManyRows);
            gpu::sync_threads();
            if (!see_some(p, work, tile)) continue;
            if (gpu::thread_x() < kManyRows) state.rows[gpu::thread_x()] = row_view(p, work, gpu::thread_x());
            Query<Source::kDim / 16, Source::kQueryInSmem> query;
            if (turned != nullptr) stage_query<Source>(p, work, turned);
            load_query(p, work, source, turned, smem, query);
            gpu::sync_threads();
            const int warp_row = gpu::warp_id() * 16;
            if (warp_row >= work.rows) continue; // only the warp's own meetings follow
            float s[std::size_t{kScoreTiles}][4];
            source.scores(tile, info, smem, query, 0, s);
            mask_scores<Source>(p, tile, state.rows + warp_row + g, info.bias, 0, s);
            GPU_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int r = warp_row + g + 8 * i;
                const float lse = known_lse(p, work, gpu::min(r, work.rows - 1));
                GPU_UNROLL
                for (int n = 0; n < kScoreTiles; ++n) {
                    GPU_UNROLL
                    for (int e = 0; e < 2; ++e) total[n][e] += r < work.rows ? gpu::exp2(s[n][2 * i + e] - lse) : 0.0f;
                }
            }
        }

        // ---- store: rows of a warp, then the warps
        gpu::sync_threads();
        GPU_UNROLL
        for (int n = 0; n < kScoreTiles; ++n) {
            GPU_UNROLL
            for (int e = 0; e < 2; ++e) {
                float sum = total[n][e];
                GPU_UNROLL
                for (int mask = 4; mask < gpu::kWarpSize; mask *= 2) sum += gpu::shfl_xor(sum, mask);
                if (g == 0) sums[gpu::warp_id() * Source::kTileSlots + Source::score_slot(n, q, e)] = sum;
            }
        }
        gpu::sync_threads();
        if (gpu::thread_x() < Source::kTileSlots && counts(tile, first + gpu::thread_x())) {
            float sum = 0.0f;
            GPU_UNROLL
            for (int w = 0; w < kWarps; ++w) sum += sums[w * Source::kTileSlots + gpu::thread_x()];
            write_probability(p, work, first + gpu::thread_x(), sum);
        }
    }
}

/// The same without tensor cores: tiles of 32 slots, rows 8 at a time.
GPU_KERNEL(kThreads, 2) kv_attention_plain_probability_kernel(AttentionParams p) {
    gpu::wait_for_previous();
    GPU_DYNAMIC_SMEM(bytes);
    auto &smem = *reinterpret_cast<PlainSmem *>(bytes);
    auto *queries = reinterpret_cast<float *>(bytes + sizeof(PlainSmem));
    float *keys = queries + kPlainRows * p.cache.head_dim;
    const int lane = gpu::lane_id();
    for (int64_t sequence = gpu::block_z(); sequence < p.offsets.batch; sequence += gpu::grid_dim_z()) {
        Work work = probability_work(p, sequence);
        const int32_t first = gpu::block_x() * kPlainSlots;
        if (first >= work.length) continue;
        const Tile tile{first, first, gpu::min(first + kPlainSlots, work.length)};
        plain_keys(p, work, tile, smem, keys);
        float total = 0.0f;
        const auto rows = static_cast<int32_t>(work.tokens * p.group);
        for (int32_t row = 0; row < rows; row += kPlainRows) {
            set_rows(p, work, row, kPlainRows);
            if (!see_some(p, work, tile)) continue;
            plain_queries(p, work, queries);
            if (gpu::thread_x() < kPlainRows) smem.views[gpu::thread_x()] = row_view(p, work, gpu::thread_x());
            gpu::sync_threads();
            GPU_UNROLL
            for (int i = 0; i < kRowsPerWarp; ++i) {
                const int r = gpu::warp_id() * kRowsPerWarp + i;
                const float s = plain_score(p, smem, queries, keys, tile, r);
                if (r < work.rows) total += gpu::exp2(s - known_lse(p, work, r));
            }
            gpu::sync_threads(); // before the next rows replace these
        }
        smem.p[gpu::warp_id()][lane] = total;
        gpu::sync_threads();
        if (gpu::warp_id() == 0 && counts(tile, first + lane)) {
            float sum = 0.0f;
            GPU_UNROLL
            for (int w = 0; w < kWarps; ++w) sum += smem.p[w][lane];
            write_probability(p, work, first + lane, sum);
        }
    }
}

} // namespace strata
