// SPDX-License-Identifier: Apache-2.0
// kv_select on the GPU: the slots of the largest scores, ascending, with protected ends; exact, ties to the lower slot.
//
// Shapes   scores [batch, kv_heads, capacity] f32; kept [batch, kv_heads, max_kept] int32 ascending.
// Bound    latency: 4 bytes a slot are read once where the row fits in shared memory, else five times from L2.
// Method   scores become unsigned keys in their own order; three radix rounds of 11, 11 and 10 bits narrow the k-th largest key down; each warp then
//          counts what it keeps of its own stretch of the row, and, knowing what the warps before it keep, emits in order.
// Split    one block a row (grid-stride). Counts are integers, so the order of the atomics does not matter.
#include "cuda/op_gpu.h"
#include "ops/kv_select/kv_select.h"

namespace strata {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / gpu::kWarpSize;
constexpr int kBins = 2048;
constexpr int kRounds = 3;
/// Keys that shared memory holds next to the histogram: two blocks an SM still fit.
constexpr int kCachedKeys = 20480;

struct SelectSmem {
    uint32_t histogram[kBins];
    int32_t above[kWarps]; // what each warp keeps above the threshold
    int32_t equal[kWarps]; // keys equal to it
    uint32_t prefix;       // digits of the k-th key found so far
    int32_t remaining;     // its rank among the keys with that prefix
    uint32_t padding[6];
};

struct SelectParams {
    const float *scores; // null: every score is equal
    const int32_t *lengths;
    const int32_t *budgets; // null: `budget` for all
    int32_t *kept;
    int32_t *counts;
    uint32_t *fault;
    int64_t scores_b, scores_h, lengths_b, lengths_h, budgets_b, budgets_h, kept_b, kept_h, counts_b, counts_h; // strides
    int64_t rows;
    int32_t kv_heads, max_kept, max_length, budget, protect_first, protect_last;
    int32_t cached; // keys that the launch's shared memory has room for
};

/// Unsigned integers in the order of the floats: -0 as +0, every NaN 0, below -infinity.
GPU_DEVICE uint32_t order_key(float score) {
    const uint32_t bits = gpu::as_uint(score + 0.0f);
    const uint32_t key = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return score != score ? 0u : key;
}

/// The keys of a row's middle: from shared memory if it holds them, else from global memory.
struct Row {
    const float *scores;
    const uint32_t *cache;
    int32_t count;
    bool cached;

    GPU_DEVICE uint32_t key(int32_t i) const { return cached ? cache[i] : order_key(scores[i]); }
};

GPU_DEVICE void fill_cache(const Row &row, uint32_t *cache) {
    if (row.cached) {
        for (int32_t i = gpu::thread_x(); i < row.count; i += kThreads) cache[i] = order_key(row.scores[i]);
    }
}

/// Finds the bin that holds the k-th largest of the histogram: one warp, 64 bins a lane, counting down from the top.
GPU_DEVICE void find_bin(SelectSmem &smem, int shift) {
    constexpr int kLaneBins = kBins / gpu::kWarpSize;
    const int lane = gpu::lane_id();
    const int top = kBins - 1 - lane * kLaneBins; // this lane's highest bin
    uint32_t own = 0;
    for (int i = 0; i < kLaneBins; ++i) own += smem.histogram[top - i];
    uint32_t through = own; // of the lanes up to this one
    GPU_UNROLL
    for (int by = 1; by < gpu::kWarpSize; by *= 2) {
        const uint32_t other = gpu::shfl_up(through, by);
        through += lane >= by ? other : 0u;
    }
    const uint32_t rank = static_cast<uint32_t>(smem.remaining);
    const uint32_t before = through - own;
    gpu::sync_warp(); // all have read the rank
    if (before < rank && rank <= through) {
        uint32_t left = rank - before;
        int bin = top;
        while (smem.histogram[bin] < left) {
            left -= smem.histogram[bin];
            --bin;
        }
        smem.prefix |= static_cast<uint32_t>(bin) << shift;
        smem.remaining = static_cast<int32_t>(left);
    }
}

/// The k-th largest key of the row, 1 <= k <= count, into smem.prefix; how many keys equal to it are among the k largest, into smem.remaining.
GPU_DEVICE void find_threshold(const Row &row, int32_t k, SelectSmem &smem) {
    const int thread = gpu::thread_x();
    if (thread == 0) {
        smem.prefix = 0;
        smem.remaining = k;
    }
    for (int round = 0; round < kRounds; ++round) {
        const int shift = round == 0 ? 21 : round == 1 ? 10 : 0;
        const int bits = round == 2 ? 10 : 11;
        for (int i = thread; i < kBins; i += kThreads) smem.histogram[i] = 0;
        gpu::sync_threads();
        const uint32_t prefix = smem.prefix;
        for (int32_t i = thread; i < row.count; i += kThreads) {
            const uint32_t key = row.key(i);
            const bool inside = round == 0 || key >> (shift + bits) == prefix >> (shift + bits);
            if (inside) gpu::atomic_add(&smem.histogram[key >> shift & ((1u << bits) - 1u)], 1u);
        }
        gpu::sync_threads();
        if (gpu::warp_id() == 0) find_bin(smem, shift);
        gpu::sync_threads();
    }
}

/// Writes base + i for every key above the threshold and the first ties equal to it, in order of i.
GPU_DEVICE void emit(const Row &row, SelectSmem &smem, int32_t base, int32_t *kept) {
    const uint32_t threshold = smem.prefix;
    const int32_t ties = smem.remaining;
    const int warp = gpu::warp_id();
    const int lane = gpu::lane_id();
    // Each warp's stretch is a whole number of warps' widths.
    const int32_t stretch = gpu::ceil_div(gpu::ceil_div(row.count, kWarps), gpu::kWarpSize) * gpu::kWarpSize;
    const int32_t begin = gpu::min(warp * stretch, row.count);
    const int32_t end = gpu::min(begin + stretch, row.count);

    int32_t above = 0;
    int32_t equal = 0;
    for (int32_t at = begin; at < end; at += gpu::kWarpSize) {
        const bool valid = at + lane < end;
        const uint32_t key = valid ? row.key(at + lane) : 0u;
        above += gpu::popc(gpu::ballot(valid && key > threshold));
        equal += gpu::popc(gpu::ballot(valid && key == threshold));
    }
    if (lane == 0) {
        smem.above[warp] = above;
        smem.equal[warp] = equal;
    }
    gpu::sync_threads();
    int32_t out = 0;       // slots kept before this warp's stretch
    int32_t equal_out = 0; // ties before it, taken or not
    for (int i = 0; i < warp; ++i) {
        out += smem.above[i];
        equal_out += smem.equal[i];
    }
    out += gpu::min(equal_out, ties);

    const uint32_t below = (1u << lane) - 1u;
    for (int32_t at = begin; at < end; at += gpu::kWarpSize) {
        const bool valid = at + lane < end;
        const uint32_t key = valid ? row.key(at + lane) : 0u;
        const uint32_t equal_lanes = gpu::ballot(valid && key == threshold);
        const bool tie = valid && key == threshold && equal_out + gpu::popc(equal_lanes & below) < ties;
        const uint32_t taken = gpu::ballot((valid && key > threshold) || tie);
        if ((taken >> lane & 1u) != 0) kept[out + gpu::popc(taken & below)] = base + at + lane;
        out += gpu::popc(taken);
        equal_out += gpu::popc(equal_lanes);
    }
}

GPU_DEVICE void emit_run(int32_t from, int32_t count, int32_t *kept) {
    for (int32_t i = gpu::thread_x(); i < count; i += kThreads) kept[i] = from + i;
}

GPU_KERNEL(kThreads, 2) kv_select_kernel(SelectParams p) {
    GPU_DYNAMIC_SMEM(raw);
    SelectSmem &smem = *reinterpret_cast<SelectSmem *>(raw);
    uint32_t *cache = reinterpret_cast<uint32_t *>(raw + sizeof(SelectSmem));
    for (int64_t index = gpu::block_x(); index < p.rows; index += gpu::grid_dim_x()) {
        const int64_t b = index / p.kv_heads;
        const int64_t h = index % p.kv_heads;
        const int32_t told = p.lengths[b * p.lengths_b + h * p.lengths_h];
        const int32_t asked = p.budgets != nullptr ? p.budgets[b * p.budgets_b + h * p.budgets_h] : p.budget;
        const int32_t length = gpu::max(0, gpu::min(told, p.max_length));
        const int32_t budget = gpu::max(0, gpu::min(gpu::min(asked, length), p.max_kept));
        if (gpu::thread_x() == 0 && (told != length || asked < 0 || gpu::min(asked, length) > p.max_kept)) raise_fault(p.fault, kFaultLength);

        const KeptSplit split = split_budget(length, budget, p.protect_first, p.protect_last);
        int32_t *kept = p.kept + b * p.kept_b + h * p.kept_h;
        emit_run(0, split.first, kept);
        if (p.scores != nullptr && split.chosen > 0 && split.chosen < split.middle) {
            const Row row{p.scores + b * p.scores_b + h * p.scores_h + split.first, cache, split.middle, split.middle <= p.cached};
            fill_cache(row, cache);
            find_threshold(row, split.chosen, smem);
            emit(row, smem, split.first, kept + split.first);
            gpu::sync_threads(); // the next row writes the shared memory again
        } else {
            emit_run(split.first, split.chosen, kept + split.first);
        }
        emit_run(length - split.last, split.last, kept + split.first + split.chosen);
        if (gpu::thread_x() == 0) p.counts[b * p.counts_b + h * p.counts_h] = split.count();
    }
}

} // namespace

Status kv_select_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvSelectProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("kv_select");
    const std::int64_t rows = p.batch * p.kv_heads;
    if (exec.dry_run || rows == 0) return STRATA_OK;
    SelectParams params{};
    params.scores = static_cast<const float *>(p.scores.data);
    params.lengths = static_cast<const std::int32_t *>(p.lengths.data);
    params.budgets = static_cast<const std::int32_t *>(p.budgets.data);
    params.kept = static_cast<std::int32_t *>(p.kept.data);
    params.counts = static_cast<std::int32_t *>(p.counts.data);
    params.fault = exec.fault;
    params.scores_b = p.scores.stride[0];
    params.scores_h = p.scores.stride[1];
    params.lengths_b = p.lengths.stride[0];
    params.lengths_h = p.lengths.stride[1];
    params.budgets_b = p.budgets.stride[0];
    params.budgets_h = p.budgets.stride[1];
    params.kept_b = p.kept.stride[0];
    params.kept_h = p.kept.stride[1];
    params.counts_b = p.counts.stride[0];
    params.counts_h = p.counts.stride[1];
    params.rows = rows;
    params.kv_heads = static_cast<std::int32_t>(p.kv_heads);
    params.max_kept = p.max_kept;
    params.max_length = p.max_length;
    params.budget = p.budget;
    params.protect_first = p.protect_first;
    params.protect_last = p.protect_last;
    params.cached = !p.scores.present() ? 0 : p.max_length < kCachedKeys ? p.max_length : kCachedKeys;
    constexpr std::int64_t kMostBlocks = std::int64_t{1} << 20;
    const auto grid = static_cast<int>(rows < kMostBlocks ? rows : kMostBlocks);
    const std::size_t smem = sizeof(SelectSmem) + static_cast<std::size_t>(params.cached) * sizeof(std::uint32_t);
    return launched("kv_select", GPU_LAUNCH(kv_select_kernel, grid, kThreads, smem, exec.stream, params));
}

} // namespace strata
