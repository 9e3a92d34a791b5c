// SPDX-License-Identifier: Apache-2.0
// kv_append on the CPU: K rows, turned by their positions, and V rows into the last slots of their sequences, quantised as the cache says.
//
// Shapes   keys, values [tokens, kv_heads, head_dim]; cache pages [page_size, head_dim], see strata_kv_layout.
// Bound    bytes: each element is read once and written once; the angles of a token serve all heads that have it in the same block.
// Split    blocks of 32 slots of a sequence, all heads of it one after another: no two chunks write one word of a page. A tail is read by the first
//          block and written by the last 32 rows, so that where it is not empty one chunk does both. No two rows of a call may name the same slot:
//          who would win is not defined.
// Names    a piece: the new rows of one block and head; row r of it: slot 32 block + r.
#include "core/rope_angles.h"
#include "core/thread_pool.h"
#include "ops/kv_append/kv_append.h"
#include "ops/kv_append/kv_append_pages.h"
#include "ops/kv_append/kv_append_quantize.h"
#include "simd/convert.h"
#include "simd/hadamard.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

// Elements below which waking another thread costs more than it saves.
constexpr std::int64_t kElementsPerChunk = 16384;
constexpr std::int32_t kMaxHeadDim = 512;
constexpr std::int32_t kMaxGroups = kMaxHeadDim / kKvBlock;
constexpr std::int32_t kRows = kKvBlock;

struct Run {
    const KvAppendProblem &p;
    double frequencies[kMaxHeadDim / 2];
};

/// What one thread works with: a block of rows in fp32 and encoded, and the angles of its tokens.
struct Scratch {
    alignas(64) float rows[kRows * kMaxHeadDim];
    alignas(64) std::uint8_t codes[kRows * kMaxHeadDim * 4];
    alignas(64) float cosine[kRows * kMaxHeadDim / 2];
    alignas(64) float sine[kRows * kMaxHeadDim / 2];
    std::int64_t first_angle, angles; // tokens whose angles are there
};

/// New rows first ... end - 1 of a block; `token` is the input row of row `first`.
struct Piece {
    std::int64_t sequence, head, block, token;
    std::int32_t first, end;
    std::int32_t kept_from; // the first row that the tail still needs after this call

    std::int32_t slot(std::int32_t row) const { return static_cast<std::int32_t>(block * kRows) + row; }
};

/// Keys or values of the cache, and their input.
struct Side {
    const View &input, &pool, &scales, &norms;
    std::int32_t format;
    bool keys;

    std::int32_t bits() const { return format == STRATA_KV_PLAIN ? 8 * dtype_bytes(pool.dtype) : format == STRATA_KV_I4_BLOCK ? 4 : 8; }
};

template <class T>
T &element(const View &view, std::int64_t at) {
    return static_cast<T *>(view.data)[at];
}

std::int64_t page_of(const KvCacheView &cache, const Piece &piece, std::int32_t slot) {
    return cache.table_row(piece.sequence, piece.head)[slot / cache.page_size];
}

/// Element of an input row: that of row r of a piece.
std::int64_t input_row(const Piece &piece, const Side &side, std::int32_t r) {
    return (piece.token + r - piece.first) * side.input.stride[0] + piece.head * side.input.stride[1];
}

/// Brings an input row near.
void prefetch_row(const View &input, std::int64_t at) {
    const std::int64_t size = dtype_bytes(input.dtype);
    const auto *row = static_cast<const unsigned char *>(input.data) + at * size;
    for (std::int64_t byte = 0; byte < input.shape[2] * size; byte += 64) __builtin_prefetch(row + byte);
}

std::int32_t row_stride(const KvCacheView &cache) { return (cache.head_dim + 15) / 16 * 16; }

/// Calls body(page, in_page, row, count) for each page that the rows `first` ... `end` - 1 of a piece's block lie in.
template <class Body>
void for_pages(const KvCacheView &cache, const Piece &piece, std::int32_t first, std::int32_t end, Body &&body) {
    while (first < end) {
        const std::int32_t in_page = piece.slot(first) % cache.page_size;
        const std::int32_t count = cache.page_size - in_page < end - first ? cache.page_size - in_page : end - first;
        body(page_of(cache, piece, piece.slot(first)), in_page, first, count);
        first += count;
    }
}

// ---------------------------------------------------------------- rows in fp32

void prepare_angles(const Run &run, const Piece &piece, Scratch &s) {
    const std::int64_t count = piece.end - piece.first;
    if (s.first_angle == piece.token && s.angles >= count) return;
    const std::int64_t pairs = run.p.pairs();
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int32_t position = element<std::int32_t>(run.p.positions, (piece.token + i) * run.p.positions.stride[0]);
        rope_angles(run.frequencies, pairs, position, run.p.rope.magnitude, s.cosine + i * pairs, s.sine + i * pairs);
    }
    s.first_angle = piece.token;
    s.angles = count;
}

float norm_of(const float *row, std::int32_t width) {
    F32x16 sum = F32x16::zero();
    for (std::int32_t i = 0; i < width; i += 16) {
        const F32x16 x = load_as_f32(STRATA_DTYPE_F32, row, i, width - i);
        sum = sum + x * x;
    }
    return std::sqrt(reduce_add(sum));
}

/// Input rows of a piece as the cache stores them, but for their format.
void fetch(const Run &run, const Piece &piece, const Side &side, Scratch &s) {
    const KvCacheView &cache = run.p.cache;
    const std::int64_t pairs = side.keys ? run.p.pairs() : 0;
    if (pairs > 0) prepare_angles(run, piece, s);
    for (std::int32_t r = piece.first; r < piece.end; ++r) {
        float *row = s.rows + r * row_stride(cache);
        const std::int64_t i = r - piece.first;
        const std::int64_t at = input_row(piece, side, r);
        // Rows of a head are far apart, which keeps the processor from seeing what comes next.
        if (piece.head + 1 < cache.kv_heads) prefetch_row(side.input, at + side.input.stride[1]);
        convert(side.input.dtype, side.input.data, at, STRATA_DTYPE_F32, row, 0, cache.head_dim);
        if (pairs > 0) rope_turn(run.p.rope.mode, pairs, s.cosine + i * pairs, s.sine + i * pairs, row);
        if (side.norms.present()) {
            const std::int32_t slot = piece.slot(r);
            const float norm = norm_of(row, cache.head_dim);
            convert(STRATA_DTYPE_F32, &norm, 0, side.norms.dtype, side.norms.data,
                    cache.row(side.norms, page_of(cache, piece, slot), piece.head, slot % cache.page_size), 1);
        }
        if (cache.rotation != 0) hadamard(row, cache.head_dim, cache.rotation);
    }
}

// ---------------------------------------------------------------- formats

/// Encoded bytes of one row in Scratch::codes.
std::int64_t code_bytes(const KvCacheView &cache, const Side &side) {
    if (side.format == STRATA_KV_PLAIN) return std::int64_t{cache.head_dim} * dtype_bytes(side.pool.dtype);
    return side.format == STRATA_KV_I4_BLOCK && side.keys ? cache.head_dim / 2 : cache.head_dim;
}

/// Plain rows, or codes with one scale a row.
void encode_rows(const KvCacheView &cache, const Piece &piece, const Side &side, Scratch &s) {
    const std::int64_t bytes = code_bytes(cache, side);
    for (std::int32_t r = piece.first; r < piece.end; ++r) {
        const float *row = s.rows + r * row_stride(cache);
        std::uint8_t *codes = s.codes + r * bytes;
        if (side.format == STRATA_KV_PLAIN) {
            convert(STRATA_DTYPE_F32, row, 0, side.pool.dtype, codes, 0, cache.head_dim);
            continue;
        }
        const std::int32_t slot = piece.slot(r);
        const std::int64_t at = cache.row(side.scales, page_of(cache, piece, slot), piece.head, slot % cache.page_size);
        element<std::uint16_t>(side.scales, at) =
            side.format == STRATA_KV_F8 ? encode_row<true>(row, cache.head_dim, codes) : encode_row<false>(row, cache.head_dim, codes);
    }
}

/// Values of the block formats: 32 channels of a slot share a scale. Ranges go over channels, scales over slots, sixteen at once.
void encode_value_groups(const KvCacheView &cache, const Piece &piece, const Side &side, Scratch &s) {
    const float levels = side.format == STRATA_KV_I8_BLOCK ? 255.0F : 15.0F;
    const std::int32_t stride = row_stride(cache);
    const std::int32_t slot = piece.slot(piece.first);
    const std::int64_t page = page_of(cache, piece, slot);
    for (std::int32_t group = 0; group * kKvBlock < cache.head_dim; ++group) {
        const std::int32_t channel = group * kKvBlock;
        const std::int32_t end = channel + kKvBlock < cache.head_dim ? channel + kKvBlock : cache.head_dim;
        auto *scales = &element<std::uint16_t>(side.scales, cache.row(side.scales, page, piece.head, 2 * group) + slot % cache.page_size);
        for (std::int32_t r = piece.first; r < piece.end; r += 16) {
            const std::int32_t count = piece.end - r < 16 ? piece.end - r : 16;
            alignas(64) float low[16] = {}, high[16] = {}, broken[16] = {};
            for (std::int32_t i = 0; i < count; ++i) {
                BlockRange range;
                for (std::int32_t c = channel; c < end; c += 16) range.add(F32x16::load(s.rows + (r + i) * stride + c));
                low[i] = -reduce_max(F32x16::zero() - range.low);
                high[i] = reduce_max(range.high);
                broken[i] = any_nan(range.broken) ? std::numeric_limits<float>::quiet_NaN() : 0.0F;
            }
            std::uint16_t bits[2][16];
            const BlockScale scale = BlockScale::of({F32x16::load(low), F32x16::load(high), F32x16::load(broken)}, levels, bits[0], bits[1]);
            std::memcpy(scales + (r - piece.first), bits[0], static_cast<std::size_t>(count) * 2);
            std::memcpy(scales + side.scales.stride[2] + (r - piece.first), bits[1], static_cast<std::size_t>(count) * 2);
            alignas(64) float lanes[3][16];
            scale.zero.store(lanes[0]);
            scale.quotient.scale.store(lanes[1]);
            scale.quotient.reciprocal.store(lanes[2]);
            for (std::int32_t i = 0; i < count; ++i) {
                const BlockScale of_row{F32x16::set(lanes[0][i]), {F32x16::set(lanes[1][i]), F32x16::set(lanes[2][i])}};
                for (std::int32_t c = channel; c < end; c += 16) {
                    store_codes(s.codes + (r + i) * cache.head_dim + c, of_row.codes(F32x16::load(s.rows + (r + i) * stride + c), levels), 16);
                }
            }
        }
    }
}

/// A whole block of keys: its 32 slots of a channel share a scale.
void encode_key_block(const KvCacheView &cache, const Piece &piece, const Side &side, Scratch &s) {
    const float levels = side.format == STRATA_KV_I8_BLOCK ? 255.0F : 15.0F;
    const std::int32_t stride = row_stride(cache);
    const std::int64_t in_page = piece.slot(0) % cache.page_size / kRows;
    auto *scales = &element<std::uint16_t>(side.scales, cache.row(side.scales, page_of(cache, piece, piece.slot(0)), piece.head, in_page));
    for (std::int32_t c = 0; c < cache.head_dim; c += 16) {
        BlockRange range;
        for (std::int32_t r = 0; r < kRows; ++r) range.add(F32x16::load(s.rows + r * stride + c));
        const BlockScale scale = BlockScale::of(range, levels, scales + c, scales + cache.head_dim + c);
        for (std::int32_t r = 0; r < kRows; ++r) {
            store_codes(s.codes + r * cache.head_dim + c, scale.codes(F32x16::load(s.rows + r * stride + c), levels), 16);
        }
    }
    if (side.format == STRATA_KV_I8_BLOCK) return;
    // Codes of channels 0-3 and 4-7 are the low and the high nibbles of a word. In place: what is written lies before what is still to be read.
    for (std::int64_t word = 0; word < kRows * cache.head_dim / 8; ++word) {
        std::uint32_t halves[2];
        std::memcpy(halves, s.codes + word * 8, 8);
        halves[0] |= halves[1] << 4;
        std::memcpy(s.codes + word * 4, halves, 4);
    }
}

/// Encoded rows of a piece, `row_bytes` apart, into their pages.
void place_piece(const KvCacheView &cache, const Piece &piece, const Side &side, const std::uint8_t *rows, std::int64_t row_bytes) {
    const std::int64_t size = dtype_bytes(side.pool.dtype);
    for_pages(cache, piece, piece.first, piece.end, [&](std::int64_t page, std::int32_t in_page, std::int32_t row, std::int32_t count) {
        auto *data = static_cast<unsigned char *>(side.pool.data) + cache.row(side.pool, page, piece.head, 0) * size;
        place({rows + (row - piece.first) * row_bytes, row_bytes, code_bytes(cache, side), data, in_page, count, cache.page_size, cache.head_dim},
              cache.layout, side.keys, side.bits(), side.pool.stride[2] * size);
    });
}

// ---------------------------------------------------------------- pieces

/// Keys of a block format go to the tail; the row that completes a block brings all of it into the page, as rounded to the tail's type.
void append_to_tail(const Run &run, Piece piece, const Side &side, Scratch &s) {
    const KvCacheView &cache = run.p.cache;
    const View &tail = cache.key_tail;
    const std::int64_t base = cache.tail(piece.sequence, piece.head) * tail.stride[0];
    for (std::int32_t r = piece.first; r < piece.end; ++r) {
        float *row = s.rows + r * row_stride(cache);
        convert(STRATA_DTYPE_F32, row, 0, tail.dtype, s.codes, 0, cache.head_dim);
        convert(tail.dtype, s.codes, 0, STRATA_DTYPE_F32, row, 0, cache.head_dim);
        if (piece.slot(r) < piece.kept_from) continue;
        std::memcpy(static_cast<unsigned char *>(tail.data) + (base + r * tail.stride[1]) * dtype_bytes(tail.dtype), s.codes,
                    static_cast<std::size_t>(cache.head_dim * dtype_bytes(tail.dtype)));
    }
    if (piece.end < kRows) return;
    for (std::int32_t r = 0; r < piece.first; ++r) {
        convert(tail.dtype, tail.data, base + r * tail.stride[1], STRATA_DTYPE_F32, s.rows + r * row_stride(cache), 0, cache.head_dim);
    }
    encode_key_block(cache, piece, side, s);
    piece.first = 0;
    place_piece(cache, piece, side, s.codes, code_bytes(cache, side));
}

void append_side(const Run &run, const Piece &piece, const Side &side, Scratch &s) {
    const KvCacheView &cache = run.p.cache;
    const bool as_given = (!side.keys || run.p.pairs() == 0) && cache.rotation == 0 && !side.norms.present();
    if (as_given && side.pool.dtype == side.input.dtype) {
        const std::int64_t size = dtype_bytes(side.input.dtype);
        const auto *rows = static_cast<const std::uint8_t *>(side.input.data) + input_row(piece, side, piece.first) * size;
        return place_piece(cache, piece, side, rows, side.input.stride[0] * size);
    }
    fetch(run, piece, side, s);
    if (side.keys && kv_block_scaled(side.format)) return append_to_tail(run, piece, side, s);
    if (kv_block_scaled(side.format)) {
        encode_value_groups(cache, piece, side, s);
    } else {
        encode_rows(cache, piece, side, s);
    }
    const std::int64_t bytes = code_bytes(cache, side);
    place_piece(cache, piece, side, s.codes + piece.first * bytes, bytes);
}

void append_piece(const Run &run, const Piece &piece, Scratch &s) {
    const KvAppendProblem &p = run.p;
    const KvCacheView &cache = p.cache;
    append_side(run, piece, {p.keys, cache.keys, cache.key_scales, cache.key_norms, cache.key_format, true}, s);
    append_side(run, piece, {p.values, cache.values, cache.value_scales, cache.value_norms, cache.value_format, false}, s);
    if (!cache.positions.present() && !cache.logit_bias.present()) return;
    for (std::int32_t r = piece.first; r < piece.end; ++r) {
        const std::int32_t slot = piece.slot(r);
        const std::int64_t page = page_of(cache, piece, slot);
        const std::int32_t in_page = slot % cache.page_size;
        if (cache.positions.present()) {
            element<std::int32_t>(cache.positions, cache.row(cache.positions, page, piece.head, in_page)) =
                element<std::int32_t>(p.positions, (piece.token + r - piece.first) * p.positions.stride[0]);
        }
        if (cache.logit_bias.present()) element<float>(cache.logit_bias, cache.row(cache.logit_bias, page, piece.head, in_page)) = 0.0F;
    }
}

// ---------------------------------------------------------------- units

std::int64_t row_offset(const KvAppendProblem &p, std::int64_t sequence) {
    if (!p.row_offsets.present()) return sequence == 0 ? 0 : p.tokens;
    return element<std::int32_t>(p.row_offsets, sequence * p.row_offsets.stride[0]);
}

/// Units are numbered through the batch; those of a sequence are as many as its rows can have blocks, wherever they begin, and one or two more.
std::int64_t first_unit(const KvAppendProblem &p, std::int64_t sequence) { return row_offset(p, sequence) / kRows + 2 * sequence; }

std::int64_t sequence_of_unit(const KvAppendProblem &p, std::int64_t unit) {
    std::int64_t low = 0;
    std::int64_t high = p.cache.batch - 1;
    while (low < high) {
        const std::int64_t middle = (low + high + 1) / 2;
        if (first_unit(p, middle) <= unit) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

void append_unit(const Run &run, std::int64_t unit, Scratch &s) {
    const KvAppendProblem &p = run.p;
    const std::int64_t sequence = sequence_of_unit(p, unit);
    const std::int64_t ordinal = unit - first_unit(p, sequence);
    const std::int64_t rows_end = row_offset(p, sequence + 1);
    const std::int64_t rows = rows_end - row_offset(p, sequence);
    s.angles = 0;
    // A tail that is not empty is read by the first block and overwritten by the last 32 rows: unit 0 takes those blocks too, after the first.
    for (std::int64_t turn = 0; turn < (ordinal == 0 ? 3 : 1) && rows > 0; ++turn) {
        for (std::int64_t head = 0; head < p.cache.kv_heads; ++head) {
            const std::int64_t end = p.cache.length(sequence, head);
            const std::int64_t start = end - rows;
            const std::int64_t last = (end - 1) / kRows;
            const std::int64_t block = turn == 0 ? start / kRows + ordinal : last - 2 + turn;
            const bool in_turn = kv_block_scaled(p.cache.key_format) && start % kRows != 0 && block > start / kRows && block >= last - 1;
            if (block > last || in_turn != (turn > 0)) continue;
            const std::int64_t slot = block * kRows;
            const std::int64_t first = start > slot ? start : slot;
            const std::int64_t stop = end < slot + kRows ? end : slot + kRows;
            append_piece(run,
                         {sequence, head, block, rows_end - (end - first), static_cast<std::int32_t>(first - slot),
                          static_cast<std::int32_t>(stop - slot), static_cast<std::int32_t>(end - kRows)},
                         s);
        }
    }
}

/// No two tails of a call may be one: `seen` has a byte for each.
Status check_tails(const KvCacheView &cache, std::uint8_t *seen) {
    std::memset(seen, 0, static_cast<std::size_t>(cache.key_tail.shape[0]));
    for (std::int64_t b = 0; b < cache.batch; ++b) {
        for (std::int64_t h = 0; h < cache.kv_heads; ++h) {
            std::uint8_t &used = seen[cache.tail(b, h)];
            if (used != 0) {
                return fail(STRATA_E_INDEX, "kv_append: cache.tail_table[", b, ",", h, "] is ", cache.tail(b, h),
                            ", which another sequence or head has too, must be its own; give every sequence and head a row of key_tail");
            }
            used = 1;
        }
    }
    return STRATA_OK;
}

} // namespace

Status kv_append_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvAppendProblem *>(problem);
    exec.impl = IMPL_NAME("kv_append");
    auto *const seen = p.cache.tail_table.present() ? exec.planner.take<std::uint8_t>(p.cache.key_tail.shape[0]) : nullptr;
    if (exec.dry_run || p.tokens == 0) return STRATA_OK;
    if (seen != nullptr) TRY(check_tails(p.cache, seen));
    Run run{p, {}};
    if (p.pairs() > 0) rope_frequencies(p.rope, static_cast<const float *>(p.factors.data), p.factors.stride[0], run.frequencies);
    const std::int64_t units = p.tokens / kRows + 2 * p.cache.batch;
    const std::int64_t units_per_chunk = 1 + kElementsPerChunk * units / (p.tokens * p.cache.kv_heads * p.cache.head_dim);
    const std::int64_t chunks = (units + units_per_chunk - 1) / units_per_chunk;
    parallel_for(*exec.pool, chunks, [&](std::int64_t chunk, std::int32_t) {
        Scratch scratch;
        const std::int64_t first = chunk * units_per_chunk;
        const std::int64_t end = first + units_per_chunk < units ? first + units_per_chunk : units;
        for (std::int64_t unit = first; unit < end; ++unit) append_unit(run, unit, scratch);
    });
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
