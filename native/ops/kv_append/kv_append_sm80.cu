// SPDX-License-Identifier: Apache-2.0
// kv_append on the GPU: K rows, turned by their positions, and V rows into the last slots of their sequences, quantised as the cache says.
//
// Shapes   keys, values [tokens, kv_heads, head_dim]; cache pages [page_size, head_dim], see strata_kv_layout.
// Bound    bytes: each element is read once and written once.
// Split    one block takes the new rows of 32 slots of one head, keys or values: through shared memory in fp32, from where columns (a key's block, a
//          word of values) are as near as rows. No two blocks write one word of a page. A tail is read by the first block of slots and overwritten by
//          the last 32 rows, so that where it is not empty one block of threads does both, in turn.
// Names    a piece: rows first ... end - 1 of block `block`; row r of it: slot 32 block + r.
#include "ops/kv_append/kv_append.h"
#include "ops/kv_append/kv_append_gpu.cuh"

namespace strata {

namespace {

struct Piece {
    int64_t tail;                  // row of key_tail
    int32_t sequence, head, token; // token: the input row of row `first`
    int32_t block, first, end;
    int32_t kept_from; // the first slot that the tail still needs after this call
};

// ---------------------------------------------------------------- rows in fp32; a warp has rows warp, warp + kAppendWarps, ...

/// Rows from ... to - 1 of the tile; `words`: 16-bit rows are read in pairs.
GPU_DEVICE void load_rows(const AppendSmem &smem, int head_dim, int32_t dtype, const void *data, int64_t at, int64_t row_step, bool words, int from,
                          int to) {
    const int warp = gpu::warp_id();
    const bool pairs = words && dtype != STRATA_DTYPE_F32;
    const int units = pairs ? head_dim / 2 : head_dim;
    for (int unit = gpu::lane_id(); unit < units; unit += gpu::kWarpSize) {
        uint32_t held[kRowsOfWarp]; // all of them in flight
        GPU_UNROLL
        for (int i = 0; i < kRowsOfWarp; ++i) {
            const int row = warp + i * kAppendWarps;
            held[i] = 0;
            if (row < from || row >= to) continue;
            const int64_t first = at + (row - from) * row_step;
            if (pairs) {
                held[i] = *reinterpret_cast<const uint32_t *>(static_cast<const uint16_t *>(data) + first + 2 * unit);
            } else if (dtype == STRATA_DTYPE_F32) {
                held[i] = static_cast<const uint32_t *>(data)[first + unit];
            } else {
                held[i] = static_cast<const uint16_t *>(data)[first + unit];
            }
        }
        GPU_UNROLL
        for (int i = 0; i < kRowsOfWarp; ++i) {
            const int row = warp + i * kAppendWarps;
            if (row < from || row >= to) continue;
            float *const x = smem.tile + row * smem.stride;
            const bool half = dtype == STRATA_DTYPE_F16;
            if (pairs) {
                x[2 * unit] = half ? gpu::f16_low(held[i]) : gpu::bf16_low(held[i]);
                x[2 * unit + 1] = half ? gpu::f16_high(held[i]) : gpu::bf16_high(held[i]);
            } else if (dtype == STRATA_DTYPE_F32) {
                x[unit] = gpu::as_float(held[i]);
            } else {
                x[unit] = half ? gpu::f16_low(held[i]) : gpu::bf16_low(held[i]);
            }
        }
    }
    gpu::sync_warp();
}

GPU_DEVICE void turn_row(const AppendParams &p, const AppendSmem &smem, int pairs, int64_t token, float *x) {
    const int32_t position = pairs > 0 ? p.positions[token * p.position_step] : 0;
    for (int pair = gpu::lane_id(); pair < pairs; pair += gpu::kWarpSize) {
        const int first = rope_first_channel(p.rope, pair);
        const int second = first + rope_partner_distance(p.rope);
        float sine;
        float cosine;
        rope_angle(p.rope, position, smem.frequencies[pair], sine, cosine);
        const float a = x[first];
        const float b = x[second];
        x[first] = a * cosine - b * sine;
        x[second] = a * sine + b * cosine;
    }
    gpu::sync_warp();
}

/// The normalised n-point Walsh-Hadamard transform of each n channels.
GPU_DEVICE void hadamard_row(int head_dim, int n, float *x) {
    const float scale = n == 16 ? 0.25f : n == 32 ? 0.17677669529663687f : n == 64 ? 0.125f : n == 128 ? 0.08838834764831845f : 0.0625f;
    for (int h = 1; h < n; h *= 2) {
        const float factor = 2 * h == n ? scale : 1.0f;
        for (int i = gpu::lane_id(); i < head_dim / 2; i += gpu::kWarpSize) {
            const int first = ((i & ~(h - 1)) << 1) | (i & (h - 1));
            const float a = x[first];
            const float b = x[first + h];
            x[first] = (a + b) * factor;
            x[first + h] = (a - b) * factor;
        }
        gpu::sync_warp();
    }
}

GPU_DEVICE float row_norm(int head_dim, const float *x) {
    float sum = 0.0f;
    for (int channel = gpu::lane_id(); channel < head_dim; channel += gpu::kWarpSize) sum += x[channel] * x[channel];
    return gpu::sqrt(gpu::warp_reduce_add(sum));
}

/// Turned, measured and rotated: as the cache stores them, but for their format.
GPU_DEVICE void prepare_rows(const AppendParams &p, const AppendSmem &smem, const AppendSide &side, const Piece &piece) {
    const int head_dim = p.cache.head_dim;
    for (int row = gpu::warp_id(); row < piece.end; row += kAppendWarps) {
        if (row < piece.first) continue;
        float *const x = smem.tile + row * smem.stride;
        turn_row(p, smem, side.pairs, piece.token + row - piece.first, x);
        if (side.norms.data != nullptr) {
            const GpuSlot slot = smem.slots[row];
            const float norm = row_norm(head_dim, x);
            if (gpu::lane_id() == 0 && slot.page >= 0) store_element(side.norm_dtype, side.norms.data, row_at(side.norms, slot, piece.head), norm);
        }
        if (p.rotation != 0) hadamard_row(head_dim, p.rotation, x);
    }
}

// ---------------------------------------------------------------- scales

template <class Codes>
GPU_DEVICE void row_scales(const Codes &codes, const AppendSide &side, int head_dim, const Piece &piece) {
    for (int row = gpu::warp_id(); row < piece.end; row += kAppendWarps) {
        if (row < piece.first) continue;
        float largest = 0.0f;
        bool broken = false;
        for (int channel = gpu::lane_id(); channel < head_dim; channel += gpu::kWarpSize) {
            const float x = gpu::abs(codes.value(row, channel));
            broken = broken || !(x < gpu::kInfinity);
            largest = gpu::max(largest, x);
        }
        largest = gpu::warp_reduce_max(largest);
        broken = gpu::any(broken);
        const GpuSlot slot = codes.smem.slots[row];
        if (gpu::lane_id() != 0) continue;
        const uint16_t scale = broken ? kNanF16 : round_scale(gpu::div(largest, Codes::kTop));
        keep_scale(codes.smem, row, scale, 0);
        if (slot.page >= 0) static_cast<uint16_t *>(side.scales.data)[row_at(side.scales, slot, piece.head)] = scale;
    }
}

/// The range of numbers that a thread walks over, and their scale.
template <class Codes>
struct Range {
    float low = gpu::kInfinity;
    float high = -gpu::kInfinity;
    bool broken = false;

    GPU_DEVICE void add(float x) {
        low = gpu::min(low, x);
        high = gpu::max(high, x);
        broken = broken || !(gpu::abs(x) < gpu::kInfinity);
    }
    GPU_DEVICE void keep(const AppendSmem &smem, int at, uint16_t *scale, uint16_t *zero) const {
        *zero = broken ? uint16_t{0} : round_scale(low + 0.0f); // -0 + 0 is 0
        *scale = broken ? kNanF16 : round_scale(gpu::div(gpu::max(high - gpu::f16_to_f32(*zero), 0.0f), Codes::kTop) + 0.0f);
        keep_scale(smem, at, *scale, *zero);
    }
};

/// Keys: a thread takes a channel of the 32 rows. Values: 32 channels of a row, neighbouring threads neighbouring rows.
template <class Codes>
GPU_DEVICE void block_scales(const Codes &codes, const AppendSide &side, int head_dim, const Piece &piece) {
    auto *const scales = static_cast<uint16_t *>(side.scales.data);
    if (codes.keys) {
        const GpuSlot slot = codes.smem.slots[0];
        if (slot.page < 0) return;
        uint16_t *const to = scales + slot.page * side.scales.page + piece.head * side.scales.head + slot.in_page / kKvBlock * side.scales.slot;
        for (int channel = gpu::thread_x(); channel < head_dim; channel += kAppendThreads) {
            Range<Codes> range;
            for (int row = 0; row < kAppendRows; ++row) range.add(codes.value(row, channel));
            range.keep(codes.smem, channel, to + channel, to + head_dim + channel);
        }
        return;
    }
    const int row = gpu::thread_x() % kAppendRows;
    const GpuSlot slot = codes.smem.slots[row];
    if (row < piece.first || row >= piece.end || slot.page < 0) return;
    for (int group = gpu::thread_x() / kAppendRows; group * kKvBlock < head_dim; group += kAppendThreads / kAppendRows) {
        Range<Codes> range;
        for (int channel = group * kKvBlock; channel < gpu::min((group + 1) * kKvBlock, head_dim); ++channel) range.add(codes.value(row, channel));
        uint16_t *const to = scales + slot.page * side.scales.page + piece.head * side.scales.head + 2 * group * side.scales.slot + slot.in_page;
        range.keep(codes.smem, group * kAppendRows + row, to, to + side.scales.slot);
    }
}

// ---------------------------------------------------------------- pieces

/// Rows of the tile into their pages.
template <int Format, int Bits>
GPU_DEVICE void encode(const AppendParams &p, const AppendSmem &smem, const AppendSide &side, bool keys, const Piece &piece, int first) {
    using Codes = Encoder<Format, Bits>;
    const Codes codes{smem, keys, side.dtype};
    const int head_dim = p.cache.head_dim;
    if constexpr (Codes::kRowScales) row_scales(codes, side, head_dim, piece);
    gpu::sync_threads();
    if constexpr (Codes::kBlockScales) {
        block_scales(codes, side, head_dim, piece);
        gpu::sync_threads();
    }
    if (p.layout == STRATA_KV_ROWS) {
        store_rows(codes, side, head_dim, piece.head, first, piece.end);
    } else if (p.layout == STRATA_KV_TILED && keys) {
        store_key_tiles(codes, side, head_dim, piece.head, first, piece.end);
    } else if (p.layout == STRATA_KV_TILED) {
        store_value_tiles(codes, side, head_dim, piece.head, first, piece.end);
    } else if constexpr (Bits == 16) {
        store_swizzled(codes, side, head_dim, p.cache.page_size, piece.head, first, piece.end);
    }
}

/// Rounds rows to the tail's type, stores those that the tail needs, and fetches the others where the block is complete.
GPU_DEVICE void exchange_tail(const AppendParams &p, const AppendSmem &smem, const Piece &piece) {
    const int head_dim = p.cache.head_dim;
    const int64_t base = piece.tail * p.tail_row;
    for (int row = gpu::warp_id(); row < piece.end; row += kAppendWarps) {
        if (row < piece.first) continue;
        const bool kept = piece.block * kAppendRows + row >= piece.kept_from && smem.slots[row].page >= 0;
        float *const x = smem.tile + row * smem.stride;
        for (int channel = gpu::lane_id(); channel < head_dim; channel += gpu::kWarpSize) {
            const float value = x[channel];
            if (kept) store_element(p.tail_dtype, p.tail, base + row * p.tail_slot + channel, value);
            if (p.tail_dtype != STRATA_DTYPE_F32) {
                x[channel] = p.tail_dtype == STRATA_DTYPE_F16 ? gpu::f16_to_f32(gpu::f32_to_f16(value)) : gpu::bf16_to_f32(gpu::f32_to_bf16(value));
            }
        }
    }
    if (piece.end == kAppendRows) load_rows(smem, head_dim, p.tail_dtype, p.tail, base, p.tail_slot, false, 0, piece.first);
}

GPU_DEVICE void append_piece(const AppendParams &p, const AppendSmem &smem, bool keys, const Piece &piece) {
    const AppendSide &side = p.sides[keys ? 0 : 1];
    const bool tailed = keys && kv_block_scaled(side.format);
    const bool complete = tailed && piece.end == kAppendRows;
    const int thread = gpu::thread_x();
    gpu::sync_threads(); // the tile of the piece before is done with
    if (thread < kAppendRows) {
        GpuSlot slot{-1, 0};
        if (thread >= (complete ? 0 : piece.first) && thread < piece.end) {
            slot = find_slot(p.cache, table_row(p.cache, piece.sequence, piece.head), piece.block * kAppendRows + thread, p.fault);
        }
        smem.slots[thread] = slot;
        if (keys && thread >= piece.first && slot.page >= 0) {
            if (p.cache.positions.data != nullptr) {
                static_cast<int32_t *>(p.cache.positions.data)[row_at(p.cache.positions, slot, piece.head)] =
                    p.positions[(piece.token + thread - piece.first) * p.position_step];
            }
            if (p.bias.data != nullptr) static_cast<float *>(p.bias.data)[row_at(p.bias, slot, piece.head)] = 0.0f;
        }
    }
    for (int pair = thread; pair < side.pairs; pair += kAppendThreads) smem.frequencies[pair] = rope_frequency(p.rope, pair);
    gpu::sync_threads();
    load_rows(smem, p.cache.head_dim, p.input_dtype, side.input, int64_t{piece.token} * side.input_token + int64_t{piece.head} * side.input_head,
              side.input_token, side.input_words, piece.first, piece.end);
    prepare_rows(p, smem, side, piece);
    if (tailed) exchange_tail(p, smem, piece);
    if (tailed && !complete) return;
    const int first = tailed ? 0 : piece.first;
    switch (side.format) {
    case STRATA_KV_I8: return encode<STRATA_KV_I8, 8>(p, smem, side, keys, piece, first);
    case STRATA_KV_F8: return encode<STRATA_KV_F8, 8>(p, smem, side, keys, piece, first);
    case STRATA_KV_I8_BLOCK: return encode<STRATA_KV_I8_BLOCK, 8>(p, smem, side, keys, piece, first);
    case STRATA_KV_I4_BLOCK: return encode<STRATA_KV_I4_BLOCK, 4>(p, smem, side, keys, piece, first);
    default: break;
    }
    if (side.dtype == STRATA_DTYPE_F32) return encode<STRATA_KV_PLAIN, 32>(p, smem, side, keys, piece, first);
    encode<STRATA_KV_PLAIN, 16>(p, smem, side, keys, piece, first);
}

/// Units are numbered through the batch; those of a sequence are as many as its rows can have blocks, wherever they begin, and one or two more.
GPU_DEVICE int64_t first_unit(const GpuRowOffsets &offsets, int64_t sequence) { return row_offset(offsets, sequence) / kAppendRows + 2 * sequence; }

GPU_DEVICE int64_t sequence_of_unit(const GpuRowOffsets &offsets, int64_t unit) {
    int64_t low = 0;
    int64_t high = offsets.batch - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (first_unit(offsets, middle) <= unit) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

GPU_DEVICE int64_t checked_tail(const AppendParams &p, int64_t sequence, int64_t head) {
    if (p.tail_table == nullptr) return sequence * p.kv_heads + head;
    const int32_t tail = p.tail_table[sequence * p.tail_sequence + head * p.tail_head];
    if (tail >= 0 && tail < p.tails) return tail;
    raise_fault(p.fault, kFaultIndex);
    return -1;
}

GPU_KERNEL(kAppendThreads, 5) append_kernel(AppendParams p) {
    GPU_DYNAMIC_SMEM(raw);
    const AppendSmem smem = AppendSmem::of(raw, p.cache.head_dim);
    for (int64_t item = gpu::block_x(); item < p.items; item += gpu::grid_dim_x()) {
        const bool keys = item % 2 == 0;
        const int64_t head = item / 2 % p.kv_heads;
        const int64_t unit = item / 2 / p.kv_heads;
        const int64_t sequence = sequence_of_unit(p.offsets, unit);
        const GpuRows rows = rows_of(p.offsets, sequence, p.fault);
        const int32_t length = checked_length(p.cache, sequence, head, p.capacity, p.fault);
        if (rows.count > length) raise_fault(p.fault, kFaultLength);
        const bool tailed = keys && kv_block_scaled(p.sides[0].format);
        const int64_t tail = tailed ? checked_tail(p, sequence, head) : 0;
        const int64_t ordinal = unit - first_unit(p.offsets, sequence);
        if (rows.count == 0 || rows.count > length || tail < 0 || ordinal < 0) continue;

        const auto start = static_cast<int32_t>(length - rows.count);
        const int32_t last = (length - 1) / kAppendRows;
        for (int turn = 0; turn < (ordinal == 0 ? 3 : 1); ++turn) {
            const int64_t block = turn == 0 ? start / kAppendRows + ordinal : last - 2 + turn;
            const bool in_turn = tailed && start % kAppendRows != 0 && block > start / kAppendRows && block >= last - 1;
            if (block > last || in_turn != (turn > 0)) continue;
            const auto slot = static_cast<int32_t>(block * kAppendRows);
            const int32_t first = gpu::max(start, slot);
            const int32_t end = gpu::min(length, slot + kAppendRows);
            append_piece(p, smem, keys,
                         Piece{tail, static_cast<int32_t>(sequence), static_cast<int32_t>(head), static_cast<int32_t>(rows.first) + first - start,
                               static_cast<int32_t>(block), first - slot, end - slot, length - kAppendRows});
        }
    }
}

// ---------------------------------------------------------------- launch

/// Whether every row of a view begins at a multiple of `bytes`, and `width` bytes are whole words.
bool in_words(const View &view, std::int64_t width) {
    constexpr std::int64_t kWord = 4;
    const std::int64_t size = dtype_bytes(view.dtype);
    bool ok = reinterpret_cast<std::uintptr_t>(view.data) % kWord == 0 && width * size % kWord == 0;
    for (std::int32_t i = 0; i + 1 < view.ndim; ++i) ok = ok && (view.shape[i] <= 1 || view.stride[i] * size % kWord == 0);
    return ok;
}

AppendSide side_of(const KvCacheView &cache, const View &input, const View &pool, const View &scales, const View &norms, std::int32_t format,
                   std::int32_t pairs) {
    AppendSide side{};
    side.input = input.data;
    side.input_token = input.stride[0];
    side.input_head = input.stride[1];
    side.pool = gpu_pool(pool, cache.shared_pages());
    if (scales.present()) side.scales = gpu_pool(scales, cache.shared_pages());
    if (norms.present()) side.norms = gpu_pool(norms, cache.shared_pages());
    side.format = format;
    side.dtype = pool.dtype;
    side.norm_dtype = norms.dtype;
    side.pairs = pairs;
    side.input_words = in_words(input, input.shape[2]);
    side.aligned_words = in_words(pool, pool.shape[3]);
    return side;
}

} // namespace

Status kv_append_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvAppendProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("kv_append");
    if (exec.dry_run || p.tokens == 0) return STRATA_OK;
    const KvCacheView &cache = p.cache;
    AppendParams params{};
    params.cache = gpu_kv_cache(cache);
    params.sides[0] = side_of(cache, p.keys, cache.keys, cache.key_scales, cache.key_norms, cache.key_format, static_cast<std::int32_t>(p.pairs()));
    params.sides[1] = side_of(cache, p.values, cache.values, cache.value_scales, cache.value_norms, cache.value_format, 0);
    if (cache.logit_bias.present()) params.bias = gpu_pool(cache.logit_bias, cache.shared_pages());
    params.positions = static_cast<const std::int32_t *>(p.positions.data);
    params.position_step = p.positions.stride[0];
    params.tail = cache.key_tail.data;
    params.tail_table = static_cast<const std::int32_t *>(cache.tail_table.data);
    params.tail_row = cache.key_tail.stride[0];
    params.tail_slot = cache.key_tail.stride[1];
    params.tail_sequence = cache.tail_table.stride[0];
    params.tail_head = cache.tail_table.stride[1];
    params.tails = cache.key_tail.shape[0];
    params.tail_dtype = cache.key_tail.dtype;
    params.items = 2 * cache.kv_heads * (p.tokens / kAppendRows + 2 * cache.batch);
    params.capacity = cache.capacity();
    params.offsets = gpu_row_offsets(p.row_offsets, p.tokens, cache.batch);
    params.rope = rope_table(p.rope, p.factors);
    params.fault = exec.fault;
    params.kv_heads = static_cast<std::int32_t>(cache.kv_heads);
    params.input_dtype = p.keys.dtype;
    params.layout = cache.layout;
    params.rotation = cache.rotation;
    const auto grid = static_cast<int>(params.items < INT32_MAX ? params.items : INT32_MAX);
    return launched("kv_append", GPU_LAUNCH(append_kernel, grid, kAppendThreads, AppendSmem::bytes(cache.head_dim), exec.stream, params));
}

} // namespace strata
