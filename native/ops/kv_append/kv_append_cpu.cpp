// SPDX-License-Identifier: Apache-2.0
// kv_append on the CPU: K rows, turned by their positions, and V rows into the last slots of their sequences.
//
// Shapes   keys, values [tokens, kv_heads, head_dim]; cache pages [page_size, head_dim].
// Bound    bytes: each element is read once and written once; the angles of a token serve all its heads.
// Split    chunks of whole tokens. No two rows of a call may name the same slot: who would win is not defined.
#include "core/rope_angles.h"
#include "core/thread_pool.h"
#include "ops/kv_append/kv_append.h"
#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

// Elements below which waking another thread costs more than it saves.
constexpr std::int64_t kElementsPerChunk = 16384;
constexpr std::int32_t kMaxHeadDim = 512;

struct Rotation {
    double frequencies[kMaxHeadDim / 2];
};

void convert(std::int32_t from_dtype, const void *from, std::int64_t from_at, std::int32_t to_dtype, void *to, std::int64_t to_at,
             std::int32_t count) {
    for (std::int32_t i = 0; i < count; i += 16) {
        const std::int32_t lanes = count - i < 16 ? count - i : 16;
        store_from_f32(to_dtype, to, to_at + i, load_as_f32(from_dtype, from, from_at + i, lanes), lanes);
    }
}

std::int64_t row_offset(const KvAppendProblem &p, std::int64_t sequence) {
    if (!p.row_offsets.present()) return sequence == 0 ? 0 : p.tokens;
    return static_cast<const std::int32_t *>(p.row_offsets.data)[sequence * p.row_offsets.stride[0]];
}

// The sequence that a row belongs to: the last one that begins at or before it and is not empty.
std::int64_t sequence_of(const KvAppendProblem &p, std::int64_t token) {
    std::int64_t low = 0;
    std::int64_t high = p.cache.batch - 1;
    while (low < high) {
        const std::int64_t middle = (low + high + 1) / 2;
        if (row_offset(p, middle) <= token) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

void append_token(const KvAppendProblem &p, const Rotation &rotation, std::int64_t token, std::int64_t sequence) {
    const KvCacheView &cache = p.cache;
    const std::int64_t pairs = p.pairs();
    const std::int64_t from_end = row_offset(p, sequence + 1) - token;
    const std::int32_t position = p.positions.present() ? static_cast<const std::int32_t *>(p.positions.data)[token * p.positions.stride[0]] : 0;
    alignas(64) float cosine[kMaxHeadDim / 2];
    alignas(64) float sine[kMaxHeadDim / 2];
    rope_angles(rotation.frequencies, pairs, position, cosine, sine);
    for (std::int64_t head = 0; head < cache.kv_heads; ++head) {
        const std::int64_t slot = cache.length(sequence, head) - from_end;
        const std::int64_t page = cache.table_row(sequence, head)[slot / cache.page_size];
        const std::int64_t in_page = slot % cache.page_size;
        const std::int64_t key = token * p.keys.stride[0] + head * p.keys.stride[1];
        const std::int64_t to = cache.row(cache.keys, page, head, in_page);
        if (pairs > 0) {
            alignas(64) float row[kMaxHeadDim];
            convert(p.keys.dtype, p.keys.data, key, STRATA_DTYPE_F32, row, 0, cache.head_dim);
            rope_turn(p.rope.mode, pairs, cosine, sine, row);
            convert(STRATA_DTYPE_F32, row, 0, cache.keys.dtype, cache.keys.data, to, cache.head_dim);
        } else {
            convert(p.keys.dtype, p.keys.data, key, cache.keys.dtype, cache.keys.data, to, cache.head_dim);
        }
        convert(p.values.dtype, p.values.data, token * p.values.stride[0] + head * p.values.stride[1], cache.values.dtype, cache.values.data,
                cache.row(cache.values, page, head, in_page), cache.head_dim);
        if (cache.positions.present()) {
            static_cast<std::int32_t *>(cache.positions.data)[cache.row(cache.positions, page, head, in_page)] = position;
        }
    }
}

} // namespace

Status kv_append_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvAppendProblem *>(problem);
    exec.impl = IMPL_NAME("kv_append");
    if (exec.dry_run || p.tokens == 0) return STRATA_OK;
    Rotation rotation;
    if (p.pairs() > 0) rope_frequencies(p.rope, rotation.frequencies);
    const std::int64_t tokens_per_chunk = 1 + kElementsPerChunk / (p.cache.kv_heads * p.cache.head_dim);
    const std::int64_t chunks = (p.tokens + tokens_per_chunk - 1) / tokens_per_chunk;
    parallel_for(*exec.pool, chunks, [&](std::int64_t chunk, std::int32_t) {
        const std::int64_t first = chunk * tokens_per_chunk;
        const std::int64_t end = first + tokens_per_chunk < p.tokens ? first + tokens_per_chunk : p.tokens;
        std::int64_t sequence = sequence_of(p, first);
        for (std::int64_t token = first; token < end; ++token) {
            while (token >= row_offset(p, sequence + 1)) ++sequence;
            append_token(p, rotation, token, sequence);
        }
    });
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
