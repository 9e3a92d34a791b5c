// SPDX-License-Identifier: Apache-2.0
// kv_compact on the GPU: row i of each head becomes row kept[i], keys, values and side arrays together.
//
// Shapes   cache pools [pages, heads_in_page, page_size, head_dim]; kept [batch, kv_heads, max_kept] ascending slots.
// Bound    bytes: 2 * 2 * head_dim * element per moved slot (keys and values, read and written).
// Split    in place, one block a head walks forward: it reads a batch of rows, waits, and stores it. kept[i] >= i, so what a batch overwrites lies in
//          front of every row that is still to be read. Into fresh pages the batches are independent and spread over blocks.
//          A thread moves kCopies units of a batch; a unit is 16 bytes, or less where rows are not aligned to that.
#include "cuda/op_gpu.h"
#include "ops/kv_compact/kv_compact.h"

namespace strata {

namespace {

constexpr int kThreads = 256;
constexpr int kCopies = 4; // loads a thread has in flight: 16 KiB a block
constexpr int kUnits = kThreads * kCopies;

struct CompactPool {
    unsigned char *data;
    int64_t page, head, slot; // strides in units
};

/// An array with one number of 2 or 4 bytes a slot; data is null where the cache has none.
struct CompactSide {
    unsigned char *data;
    int64_t page, head; // strides in bytes
    int32_t size;
};
constexpr int kSides = 4; // positions, logit_bias, key_norms, value_norms

struct CompactParams {
    CompactPool keys, values;
    CompactSide sides[kSides];
    const int32_t *table, *to_table, *kept, *lengths, *counts;
    int32_t *new_lengths; // null: none
    int64_t table_b, table_h, to_b, to_h, kept_b, kept_h, lengths_b, lengths_h, counts_b, counts_h, new_b, new_h;
    uint32_t *fault;
    int64_t pages, max_kept, capacity, to_capacity;            // capacities: slots of a table row
    int32_t kv_heads, page_size, row_units, batch_rows, parts; // parts: blocks a head
    bool in_place, shared_pages;
};

template <int Bytes>
struct Unit;
template <>
struct Unit<16> {
    using Type = gpu::U4;
};
template <>
struct Unit<4> {
    using Type = uint32_t;
};
template <>
struct Unit<2> {
    using Type = uint16_t;
};

GPU_DEVICE gpu::U4 load_unit(const gpu::U4 *p) { return gpu::load16(p); }
GPU_DEVICE void store_unit(gpu::U4 *p, const gpu::U4 &value) { gpu::store16(p, value); }
template <class T>
GPU_DEVICE T load_unit(const T *p) {
    return *p;
}
template <class T>
GPU_DEVICE void store_unit(T *p, const T &value) {
    *p = value;
}

/// One head of one sequence, its bounds made safe.
struct Head {
    int64_t sequence, head;
    const int32_t *table;
    const int32_t *to_table;
    const int32_t *kept;
    int64_t in_page;
    int32_t length;
    int32_t count;
};

/// Where a row comes from and goes to; from_page is -1 for a row that stays.
struct Move {
    int32_t from_page, from_slot, to_page, to_slot;
};

struct CompactSmem {
    Move moves[kThreads];
};

GPU_DEVICE Head head_of(const CompactParams &p, int64_t index) {
    const int64_t b = index / p.kv_heads;
    const int64_t h = index % p.kv_heads;
    const int32_t length = p.lengths[b * p.lengths_b + h * p.lengths_h];
    const int32_t count = p.counts[b * p.counts_b + h * p.counts_h];
    Head head{};
    head.sequence = b;
    head.head = h;
    head.table = p.table + b * p.table_b + h * p.table_h;
    head.to_table = p.to_table + b * p.to_b + h * p.to_h;
    head.kept = p.kept + b * p.kept_b + h * p.kept_h;
    head.in_page = p.shared_pages ? h : 0;
    head.length = static_cast<int32_t>(gpu::max(int64_t{0}, gpu::min(int64_t{length}, p.capacity)));
    const int64_t most = gpu::min(gpu::min(p.max_kept, p.to_capacity), int64_t{head.length});
    head.count = static_cast<int32_t>(gpu::max(int64_t{0}, gpu::min(int64_t{count}, most)));
    if (gpu::thread_x() == 0 && (head.length != length || head.count != count)) raise_fault(p.fault, kFaultLength);
    return head;
}

GPU_DEVICE void write_length(const CompactParams &p, const Head &head) { p.new_lengths[head.sequence * p.new_b + head.head * p.new_h] = head.count; }

/// The move of row i. A bad index makes the row stay, and the fault word says so.
GPU_DEVICE Move find_move(const CompactParams &p, const Head &head, int32_t i) {
    Move move{-1, 0, -1, 0};
    const int32_t from = head.kept[i];
    const int32_t before = i > 0 ? head.kept[i - 1] : -1;
    if (from <= before || from >= head.length || from < i) {
        raise_fault(p.fault, kFaultIndex);
        return move;
    }
    if (p.in_place && from == i) return move;
    const int32_t from_page = head.table[from / p.page_size];
    const int32_t to_page = head.to_table[i / p.page_size];
    if (from_page < 0 || from_page >= p.pages || to_page < 0 || to_page >= p.pages) {
        raise_fault(p.fault, kFaultPage);
        return move;
    }
    return {from_page, from % p.page_size, to_page, i % p.page_size};
}

template <int Bytes>
GPU_DEVICE typename Unit<Bytes>::Type *unit_at(const CompactPool &pool, int64_t page, int64_t head, int32_t slot, int32_t unit) {
    return reinterpret_cast<typename Unit<Bytes>::Type *>(pool.data) + page * pool.page + head * pool.head + slot * pool.slot + unit;
}

/// Rows first ... first + rows - 1 of a head: read everything, wait, store everything.
template <int Bytes>
GPU_DEVICE void move_batch(const CompactParams &p, const Head &head, int32_t first, int32_t rows, CompactSmem &smem) {
    using T = typename Unit<Bytes>::Type;
    const int thread = gpu::thread_x();
    if (thread < rows) smem.moves[thread] = find_move(p, head, first + thread);
    gpu::sync_threads();

    const int32_t units = rows * p.row_units * 2; // of each row keys, then values
    T held[kCopies];
    T *to[kCopies];
    GPU_UNROLL
    for (int c = 0; c < kCopies; ++c) {
        to[c] = nullptr;
        const int32_t unit = c * kThreads + thread;
        if (unit >= units) continue;
        const int32_t row = unit / (2 * p.row_units);
        const int32_t at = unit % (2 * p.row_units);
        const bool value = at >= p.row_units;
        const int32_t in_row = value ? at - p.row_units : at;
        const CompactPool &pool = value ? p.values : p.keys;
        const Move move = smem.moves[row];
        if (move.from_page < 0) continue;
        held[c] = load_unit(unit_at<Bytes>(pool, move.from_page, head.in_page, move.from_slot, in_row));
        to[c] = unit_at<Bytes>(pool, move.to_page, head.in_page, move.to_slot, in_row);
    }
    uint32_t number[kSides];
    unsigned char *number_to[kSides];
    GPU_UNROLL
    for (int i = 0; i < kSides; ++i) {
        number[i] = 0;
        number_to[i] = nullptr;
        const CompactSide side = p.sides[i];
        if (side.data == nullptr || thread >= rows || smem.moves[thread].from_page < 0) continue;
        const Move move = smem.moves[thread];
        unsigned char *const own = side.data + head.in_page * side.head;
        const unsigned char *const from = own + move.from_page * side.page + move.from_slot * side.size;
        number[i] = side.size == 4 ? *reinterpret_cast<const uint32_t *>(from) : *reinterpret_cast<const uint16_t *>(from);
        number_to[i] = own + move.to_page * side.page + move.to_slot * side.size;
    }
    gpu::sync_threads();

    GPU_UNROLL
    for (int c = 0; c < kCopies; ++c) {
        if (to[c] != nullptr) store_unit(to[c], held[c]);
    }
    GPU_UNROLL
    for (int i = 0; i < kSides; ++i) {
        if (number_to[i] == nullptr) continue;
        if (p.sides[i].size == 4) {
            *reinterpret_cast<uint32_t *>(number_to[i]) = number[i];
        } else {
            *reinterpret_cast<uint16_t *>(number_to[i]) = static_cast<uint16_t>(number[i]);
        }
    }
}

template <int Bytes>
GPU_KERNEL(kThreads, 4)
kv_compact_kernel(CompactParams p) {
    GPU_DYNAMIC_SMEM(raw);
    CompactSmem &smem = *reinterpret_cast<CompactSmem *>(raw);
    const int32_t part = gpu::block_x() % p.parts;
    const Head head = head_of(p, gpu::block_x() / p.parts);
    for (int32_t first = part * p.batch_rows; first < head.count; first += p.parts * p.batch_rows) {
        move_batch<Bytes>(p, head, first, gpu::min(p.batch_rows, head.count - first), smem);
    }
    gpu::sync_threads(); // new_lengths may be the lengths or the counts that all threads have read
    if (p.parts == 1 && p.new_lengths != nullptr && gpu::thread_x() == 0) write_length(p, head);
}

/// After a compaction of several blocks a head, all of which read the lengths.
GPU_KERNEL(gpu::kWarpSize, 1) kv_compact_lengths_kernel(CompactParams p) {
    const Head head = head_of(p, gpu::block_x());
    gpu::sync_threads();
    if (gpu::thread_x() == 0) write_length(p, head);
}

bool aligned(const View &view, std::int64_t bytes) {
    const std::int64_t size = dtype_bytes(view.dtype);
    bool ok = reinterpret_cast<std::uintptr_t>(view.data) % static_cast<std::uintptr_t>(bytes) == 0 && view.shape[3] * size % bytes == 0;
    for (std::int32_t i = 0; i < 3; ++i) {
        ok = ok && (view.shape[i] <= 1 || view.stride[i] * size % bytes == 0);
    }
    return ok;
}

CompactPool pool_of(const View &view, std::int64_t unit_bytes) {
    const std::int64_t size = dtype_bytes(view.dtype);
    const auto in_units = [&](std::int32_t i) { return view.shape[i] <= 1 ? 0 : view.stride[i] * size / unit_bytes; };
    return {static_cast<unsigned char *>(view.data), in_units(0), in_units(1), in_units(2)};
}

CompactSide side_of(const View &view) {
    const std::int64_t size = dtype_bytes(view.dtype);
    return {static_cast<unsigned char *>(view.data), view.stride[0] * size, view.stride[1] * size, static_cast<std::int32_t>(size)};
}

template <int Bytes>
Status launch(Exec &exec, const CompactParams &params, int heads) {
    return launched("kv_compact", GPU_LAUNCH(kv_compact_kernel<Bytes>, heads * params.parts, kThreads, sizeof(CompactSmem), exec.stream, params));
}

/// Blocks a head: the batches of a head depend on each other in place, and may fill the GPU otherwise.
std::int32_t parts_of(const CompactParams &params, std::int64_t heads, std::int32_t multiprocessors) {
    if (params.in_place) return 1;
    const std::int64_t batches = (params.max_kept + params.batch_rows - 1) / params.batch_rows;
    const std::int64_t fill = (std::int64_t{8} * multiprocessors + heads - 1) / heads;
    const std::int64_t parts = batches < fill ? batches : fill;
    return parts < 1 ? 1 : static_cast<std::int32_t>(parts);
}

} // namespace

Status kv_compact_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvCompactProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("kv_compact");
    const KvCacheView &cache = p.cache;
    const std::int64_t heads = cache.batch * cache.kv_heads;
    if (heads > INT32_MAX) {
        return fail(STRATA_E_SHAPE, "kv_compact: batch * kv_heads is ", heads, ", must be at most 2147483647 on a GPU; split the batch");
    }
    if (exec.dry_run || heads == 0) return STRATA_OK;
    CompactParams params{};
    const std::int64_t unit = aligned(cache.keys, 16) && aligned(cache.values, 16) ? 16 : dtype_bytes(cache.keys.dtype);
    params.keys = pool_of(cache.keys, unit);
    params.values = pool_of(cache.values, unit);
    const View *const sides[kSides] = {&cache.positions, &cache.logit_bias, &cache.key_norms, &cache.value_norms};
    for (int i = 0; i < kSides; ++i) params.sides[i] = side_of(*sides[i]);
    params.table = static_cast<const std::int32_t *>(cache.table.data);
    params.table_b = cache.table.stride[0];
    params.table_h = cache.table.stride[1];
    const View &to = p.in_place() ? cache.table : p.to_table;
    params.to_table = static_cast<const std::int32_t *>(to.data);
    params.to_b = to.stride[0];
    params.to_h = to.stride[1];
    params.kept = static_cast<const std::int32_t *>(p.kept.data);
    params.kept_b = p.kept.stride[0];
    params.kept_h = p.kept.stride[1];
    params.lengths = static_cast<const std::int32_t *>(cache.lengths.data);
    params.lengths_b = cache.lengths.stride[0];
    params.lengths_h = cache.lengths.stride[1];
    params.counts = static_cast<const std::int32_t *>(p.counts.data);
    params.counts_b = p.counts.stride[0];
    params.counts_h = p.counts.stride[1];
    params.new_lengths = static_cast<std::int32_t *>(p.new_lengths.data);
    params.new_b = p.new_lengths.stride[0];
    params.new_h = p.new_lengths.stride[1];
    params.fault = exec.fault;
    params.pages = cache.pages;
    params.max_kept = p.max_kept;
    params.capacity = cache.capacity();
    params.to_capacity = p.destination_capacity();
    params.kv_heads = static_cast<std::int32_t>(cache.kv_heads);
    params.page_size = cache.page_size;
    params.row_units = static_cast<std::int32_t>(cache.head_dim * dtype_bytes(cache.keys.dtype) / unit);
    params.in_place = p.in_place();
    params.shared_pages = cache.shared_pages();
    const std::int32_t batch_rows = kUnits / (2 * params.row_units);
    params.batch_rows = batch_rows < kThreads ? batch_rows : kThreads;
    params.parts = parts_of(params, heads, exec.multiprocessors);
    const auto blocks = static_cast<int>(heads);
    TRY(unit == 16 ? launch<16>(exec, params, blocks) : unit == 4 ? launch<4>(exec, params, blocks) : launch<2>(exec, params, blocks));
    if (params.parts == 1 || params.new_lengths == nullptr) return STRATA_OK;
    return launched("kv_compact", GPU_LAUNCH(kv_compact_lengths_kernel, blocks, gpu::kWarpSize, 0, exec.stream, params));
}

} // namespace strata
