// SPDX-License-Identifier: Apache-2.0
// qgemm on the GPU, quantised weights: y[t,r] = sum over groups of 32 columns of  scale[r,g] d[t,g] sum_i code[r,i] u[t,i]  (+ min[r,g] sum_i
// x[t,i]).
//
// x            A first kernel writes each group of 32 columns of a row as fp16 terms u times a factor d. fp32: d is the power of two that brings the
//              largest magnitude to 2^14 ... 2^15, two terms hold 22 bits or more; bf16: one term, exact; fp16: itself, d = 1; int8 activations: the
//              codes. So codes times terms are exact, and what rounds is what rounds in fp32 arithmetic.
// Shapes       panels of 16 rows are A of m16n8k16, 8 tokens are a tile of B; sums over 32 columns start at zero and are scaled in fp32.
// Bound        m small: bytes of W over the bandwidth (the tensor cores idle); m large: terms * k n m multiply-adds over the fp16 peak.
// Partition    a block has 4 warps; a warp has `Panels` panels and all 8 * `Tiles` tokens of the block, so weights are unpacked once for all tokens.
//              Blocks: panels x tiles of tokens x splits of k. Stages of 64 columns travel by cp.async, 3 or 4 of them in flight; x and the
//              factors are shared by the block, each warp fetches its own panels.
// Order        groups ascending, splits ascending (a second kernel adds them): results repeat bit for bit.
// Index grammar  m, n, k problem; s stage (64 columns), h group in the stage; g = lane / 4, q = lane % 4; nt tile of 8 tokens.
#include "ops/qgemm/qgemm_formats.cuh"
#include "ops/qgemm/qgemm_gpu.h"

namespace strata {

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / gpu::kWarpSize;
constexpr int kStages(int tiles) { return tiles == 8 ? 3 : 4; } // what shared memory holds
// Panels of a warp: two share the x fragments of many tokens; with two scales a group their sums would not fit the registers.
constexpr int panels_of(int tiles, int halves) { return tiles == 8 && halves == 1 ? 2 : 1; }

// ---- x ---------------------------------------------------------------------------------------------------------------------------------------

struct PrepareParams {
    const void *x;
    uint16_t *terms; // [stage][term][token][64 columns]
    float *factors;  // [group][token]
    float *sums;     // [group][token], or null
    int64_t x_row;   // stride, elements
    int64_t m, m_padded, groups, groups_padded;
    int32_t x_dtype, term_count;
    bool int8;
};

/// Where column c of a group stands in the fragment's order of k.
GPU_DEVICE int fragment_column(int c) { return (c & 16) + (c & 1) * 8 + ((c & 15) >> 2) * 2 + ((c >> 1) & 1); }

struct Prepared {
    float first, second; // terms
    float factor, sum;
};

GPU_DEVICE Prepared prepare_int8(float v, float largest) {
    constexpr float kTiny = 7.888609052210118e-31f; // 2^-100
    if (largest < kTiny) return {0.0f, 0.0f, 0.0f, 0.0f};
    const float code = gpu::round(v * gpu::div(127.0f, largest));
    const float factor = gpu::div(largest, 127.0f);
    return {code, 0.0f, factor, 0.0f};
}

GPU_DEVICE Prepared prepare_float(float v, float largest, bool half) {
    if (half) return {v, 0.0f, 1.0f, 0.0f};
    const int exponent = static_cast<int>(gpu::as_uint(largest) >> 23) - 127; // -127 for denormals and zero
    const int shift = gpu::min(14 - exponent, 126);                           // largest * 2^shift is in 2^14 ... 2^15
    const float scaled = v * gpu::as_float(static_cast<uint32_t>(shift + 127) << 23);
    const float first = gpu::f16_to_f32(gpu::f32_to_f16(scaled));
    return {first, scaled - first, gpu::as_float(static_cast<uint32_t>(127 - shift) << 23), 0.0f};
}

/// One warp: one group of 32 columns of one token, a lane a column.
GPU_KERNEL(256, 4) qgemm_prepare_kernel(PrepareParams p) {
    const int lane = gpu::lane_id();
    const int64_t step = int64_t{gpu::grid_dim_x()} * 8;
    for (int64_t item = int64_t{gpu::block_x()} * 8 + gpu::warp_id(); item < p.m_padded * p.groups_padded; item += step) {
        const int64_t token = item / p.groups_padded;
        const int64_t group = item % p.groups_padded;
        const bool real = token < p.m && group < p.groups;
        const float v = real ? load_element(p.x_dtype, p.x, token * p.x_row + 32 * group + lane) : 0.0f;
        // As integers, because NaN is the largest then.
        const int32_t largest_bits = gpu::warp_reduce_max(static_cast<int32_t>(gpu::as_uint(v) & 0x7fffffffu));
        const float largest = gpu::as_float(static_cast<uint32_t>(largest_bits));
        const bool finite = largest_bits < 0x7f800000;
        Prepared done = p.int8 ? prepare_int8(v, largest) : prepare_float(v, largest, p.x_dtype == STRATA_DTYPE_F16);
        const float sum = gpu::warp_reduce_add(p.int8 ? done.first : v);
        done.sum = p.int8 ? done.factor * sum : sum;
        if (!finite) done = {0.0f, 0.0f, gpu::as_float(0x7fc00000u), gpu::as_float(0x7fc00000u)}; // NaN for the whole row of y
        const int64_t stage = group >> 1;
        uint16_t *to = p.terms + ((stage * p.term_count * p.m_padded + token) * kStageColumns) + (group & 1) * 32 + fragment_column(lane);
        to[0] = gpu::f32_to_f16(done.first);
        if (p.term_count == 2) to[p.m_padded * kStageColumns] = gpu::f32_to_f16(done.second);
        if (lane == 0) {
            p.factors[group * p.m_padded + token] = done.factor;
            if (p.sums != nullptr) p.sums[group * p.m_padded + token] = done.sum;
        }
    }
}

// ---- the product -----------------------------------------------------------------------------------------------------------------------------

struct MultiplyParams {
    QgemmOutput out;
    StageParams stage;
    const unsigned char *panels;
    const uint16_t *terms;
    const float *factors;
    const float *sums;
    int64_t panel_bytes, panel_count;
    int64_t m_padded;
    int64_t stages, stages_per_split;
};

/// Shared memory of one stage, bytes.
template <class Format, int Tiles, int Terms, int Panels>
struct StageLayout {
    static constexpr int kTokens = 8 * Tiles;
    static constexpr int kPanelBytes = 16 * (Format::kCodeChunks + Format::kTailChunks);
    static constexpr int kWeights = 0;
    static constexpr int kX = kWeights + kWarps * Panels * kPanelBytes;
    static constexpr int kXTermBytes = kTokens * kStageColumns * 2;
    static constexpr int kFactors = kX + Terms * kXTermBytes;
    static constexpr int kFactorBytes = 2 * kTokens * 4;
    static constexpr int kSums = kFactors + kFactorBytes;
    static constexpr int kBytes = kSums + (Format::kHasMin ? kFactorBytes : 0);
};

template <class Format, int Tiles, int Terms, int Panels>
GPU_DEVICE void fetch_stage(const MultiplyParams &p, unsigned char *smem, int64_t s, int64_t first_panel, int64_t first_token) {
    using Layout = StageLayout<Format, Tiles, Terms, Panels>;
    const int thread = gpu::thread_x();
    const int lane = thread & 31;
    const int warp = thread >> 5;
    GPU_UNROLL
    for (int w = 0; w < Panels; ++w) {
        const int64_t panel = first_panel + warp * Panels + w;
        const unsigned char *from = p.panels + gpu::min(panel, p.panel_count - 1) * p.panel_bytes;
        unsigned char *to = smem + Layout::kWeights + (warp * Panels + w) * Layout::kPanelBytes;
        for (int c = lane; c < Format::kCodeChunks; c += 32) {
            const int64_t source = Format::code_source(p.stage, s, c);
            gpu::cp_async16(to + 16 * staged_chunk(c), from + gpu::max(source, int64_t{0}), source >= 0);
        }
        if (lane < Format::kTailChunks) {
            const int64_t source = Format::tail_source(p.stage, s, lane);
            gpu::cp_async16(to + 16 * (Format::kCodeChunks + lane), from + gpu::max(source, int64_t{0}), source >= 0);
        }
    }
    // Rows of 128 bytes, chunks xor the token: eight tokens' same chunk lie in eight bank groups.
    for (int c = thread; c < Terms * Layout::kTokens * 8; c += kThreads) {
        const int term = c / (Layout::kTokens * 8);
        const int token = c / 8 % Layout::kTokens;
        const int chunk = c % 8;
        const uint16_t *from = p.terms + ((s * Terms + term) * p.m_padded + first_token + token) * kStageColumns + 8 * chunk;
        gpu::cp_async16(smem + Layout::kX + term * Layout::kXTermBytes + token * 128 + 16 * (chunk ^ (token & 7)), from);
    }
    constexpr int kRows = Format::kHasMin ? 4 : 2; // factors of both groups, then sums of both
    for (int c = thread; c < kRows * 2 * Tiles; c += kThreads) {
        const int row = c / (2 * Tiles);
        const int chunk = c % (2 * Tiles);
        const float *from = (row < 2 ? p.factors : p.sums) + (2 * s + (row & 1)) * p.m_padded + first_token + 4 * chunk;
        gpu::cp_async16(smem + Layout::kFactors + row * Layout::kTokens * 4 + 16 * chunk, from);
    }
}

template <class Format, int Tiles, int Terms, int Panels>
GPU_DEVICE void multiply_stage(const unsigned char *smem, float (&sums)[extent(Panels)][extent(Tiles)][4]) {
    using Layout = StageLayout<Format, Tiles, Terms, Panels>;
    const int lane = gpu::lane_id();
    const int g = lane >> 2;
    const int q = lane & 3;
    const unsigned char *panels = smem + Layout::kWeights + gpu::warp_id() * Panels * Layout::kPanelBytes;
    for (int h = 0; h < 2; ++h) {
        uint32_t a[extent(Panels)][2][4];
        float scale[extent(Panels)][extent(Format::kHalves)][2];
        float min[extent(Panels)][2];
        GPU_UNROLL
        for (int w = 0; w < Panels; ++w) {
            const unsigned char *codes = panels + w * Layout::kPanelBytes;
            const unsigned char *tail = codes + 16 * Format::kCodeChunks;
            Format::fragment(codes, tail, h, g, q, a[w]);
            Format::scales(tail, h, g, scale[w], min[w]);
        }
        GPU_UNROLL
        for (int nt = 0; nt < Tiles; ++nt) {
            uint32_t b[extent(Terms)][4];
            GPU_UNROLL
            for (int term = 0; term < Terms; ++term) {
                const int token = 8 * nt + (lane & 7);
                const int chunk = 4 * h + (lane >> 3);
                gpu::ldmatrix_x4(b[term], smem + Layout::kX + term * Layout::kXTermBytes + token * 128 + 16 * (chunk ^ (token & 7)));
            }
            const auto *factors = reinterpret_cast<const float *>(smem + Layout::kFactors) + h * Layout::kTokens + 8 * nt + 2 * q;
            const auto *totals = reinterpret_cast<const float *>(smem + Layout::kSums) + h * Layout::kTokens + 8 * nt + 2 * q;
            GPU_UNROLL
            for (int w = 0; w < Panels; ++w) {
                float part[extent(Format::kHalves)][4] = {};
                GPU_UNROLL
                for (int step = 0; step < 2; ++step) {
                    GPU_UNROLL
                    for (int term = Terms - 1; term >= 0; --term) { // small terms first
                        gpu::mma_f16(part[Format::kHalves == 2 ? step : 0], a[w][step], b[term][2 * step], b[term][2 * step + 1]);
                    }
                }
                GPU_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int row = i >> 1;
                    const float d = factors[i & 1];
                    float &sum = sums[w][nt][i];
                    if constexpr (Format::kHalves == 2) {
                        sum = gpu::fma(gpu::fma(part[1][i], scale[w][1][row], part[0][i] * scale[w][0][row]), d, sum);
                    } else {
                        sum = gpu::fma(part[0][i], scale[w][0][row] * d, sum);
                    }
                    if constexpr (Format::kHasMin) sum = gpu::fma(min[w][row], totals[i & 1], sum);
                }
            }
        }
    }
}

template <class Format, int Tiles, int Terms, int Panels>
GPU_KERNEL(kThreads, Tiles == 8 ? 2 : 3)
qgemm_kernel(MultiplyParams p) {
    using Layout = StageLayout<Format, Tiles, Terms, Panels>;
    constexpr int kDepth = kStages(Tiles);
    GPU_DYNAMIC_SMEM(smem);
    const int64_t first_panel = int64_t{gpu::block_x()} * kWarps * Panels;
    const int64_t first_token = int64_t{gpu::block_y()} * Layout::kTokens;
    const int split = gpu::block_z();
    const int64_t first = split * p.stages_per_split;
    const int64_t end = gpu::min(p.stages, first + p.stages_per_split);

    for (int i = 0; i < kDepth - 1; ++i) {
        if (first + i < end) fetch_stage<Format, Tiles, Terms, Panels>(p, smem + i * Layout::kBytes, first + i, first_panel, first_token);
        gpu::cp_async_commit();
    }
    float sums[extent(Panels)][extent(Tiles)][4] = {};
    int slot = 0;
    for (int64_t s = first; s < end; ++s) {
        gpu::cp_async_wait<kDepth - 2>();
        gpu::sync_threads(); // stage s has arrived for all, and all have left the slot that is filled next
        const int64_t next = s + kDepth - 1;
        const int next_slot = slot == 0 ? kDepth - 1 : slot - 1;
        if (next < end) fetch_stage<Format, Tiles, Terms, Panels>(p, smem + next_slot * Layout::kBytes, next, first_panel, first_token);
        gpu::cp_async_commit();
        multiply_stage<Format, Tiles, Terms, Panels>(smem + slot * Layout::kBytes, sums);
        slot = slot == kDepth - 1 ? 0 : slot + 1;
    }
    gpu::cp_async_wait<0>();

    const int g = gpu::lane_id() >> 2;
    const int q = gpu::lane_id() & 3;
    GPU_UNROLL
    for (int w = 0; w < Panels; ++w) {
        const int64_t row = (first_panel + gpu::warp_id() * Panels + w) * 16 + 2 * g;
        GPU_UNROLL
        for (int nt = 0; nt < Tiles; ++nt) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) put_sum(p.out, split, first_token + 8 * nt + 2 * q + (i & 1), row + (i >> 1), sums[w][nt][i]);
        }
    }
}

// ---- splits ----------------------------------------------------------------------------------------------------------------------------------

struct ReduceParams {
    QgemmOutput out;
    int32_t splits;
};

GPU_KERNEL(256, 4) qgemm_reduce_kernel(ReduceParams p) {
    const int64_t count = p.out.m * p.out.n;
    const int64_t step = int64_t{gpu::grid_dim_x()} * 256;
    for (int64_t i = int64_t{gpu::block_x()} * 256 + gpu::thread_x(); i < count; i += step) {
        float sum = p.out.partials[i];
        for (int split = 1; split < p.splits; ++split) sum += p.out.partials[split * count + i];
        store_element(p.out.y_dtype, p.out.y, i / p.out.n * p.out.y_row + i % p.out.n, sum);
    }
}

// ---- launches --------------------------------------------------------------------------------------------------------------------------------

/// How one batch of tokens is cut.
struct Plan {
    std::int64_t batch;  // most tokens of a batch
    std::int32_t tiles;  // of 8 tokens, of a block
    std::int32_t panels; // of a warp
    std::int32_t terms;
    std::int64_t blocks; // over the panels
    std::int64_t stages;
    std::int32_t splits;
};

Plan make_plan(const Exec &exec, const QgemmProblem &p) {
    Plan plan{};
    plan.batch = p.m < kGpuBatch ? p.m : kGpuBatch;
    plan.tiles = plan.batch <= 8 ? 1 : plan.batch <= 32 ? 4 : 8;
    plan.panels = panels_of(plan.tiles, p.w.format == STRATA_FORMAT_Q6_K ? 2 : 1);
    plan.terms = !p.int8_activations && p.x.dtype == STRATA_DTYPE_F32 ? 2 : 1;
    plan.blocks = (p.w.panel_count + kWarps * plan.panels - 1) / (kWarps * plan.panels);
    plan.stages = (p.w.k + kStageColumns - 1) / kStageColumns;
    const std::int64_t token_blocks = (plan.batch + 8 * plan.tiles - 1) / (8 * plan.tiles);
    // Small batches wait for memory: several blocks on each multiprocessor keep more of it under way.
    const std::int64_t wanted = std::int64_t{exec.multiprocessors} * (plan.tiles == 1 ? 4 : 2);
    plan.splits = split_count(plan.blocks * (token_blocks > 0 ? token_blocks : 1), plan.stages, kStages(plan.tiles), wanted);
    return plan;
}

template <class Format, int Tiles, int Terms>
int launch_multiply(const Exec &exec, const Plan &plan, const MultiplyParams &params) {
    constexpr int kPanels = panels_of(Tiles, Format::kHalves);
    using Layout = StageLayout<Format, Tiles, Terms, kPanels>;
    constexpr std::size_t kSmem = std::size_t{kStages(Tiles)} * Layout::kBytes;
    static_assert(Layout::kBytes % 16 == 0 && kSmem <= gpu::kPortableSmemBytes);
    const int token_blocks = static_cast<int>(params.m_padded / Layout::kTokens);
    const gpu::Dim3 grid(static_cast<int>(plan.blocks), token_blocks, plan.splits);
    return GPU_LAUNCH((qgemm_kernel<Format, Tiles, Terms, kPanels>), grid, kThreads, kSmem, exec.stream, params);
}

template <class Format>
int launch_format(const Exec &exec, const Plan &plan, const MultiplyParams &params) {
    if (plan.terms == 2) {
        switch (plan.tiles) {
        case 1: return launch_multiply<Format, 1, 2>(exec, plan, params);
        case 4: return launch_multiply<Format, 4, 2>(exec, plan, params);
        default: return launch_multiply<Format, 8, 2>(exec, plan, params);
        }
    }
    switch (plan.tiles) {
    case 1: return launch_multiply<Format, 1, 1>(exec, plan, params);
    case 4: return launch_multiply<Format, 4, 1>(exec, plan, params);
    default: return launch_multiply<Format, 8, 1>(exec, plan, params);
    }
}

int launch_any(const Exec &exec, const Plan &plan, std::int32_t format, const MultiplyParams &params) {
    switch (format) {
    case STRATA_FORMAT_Q4_1: return launch_format<GpuQ4_1>(exec, plan, params);
    case STRATA_FORMAT_Q8_0: return launch_format<GpuQ8_0>(exec, plan, params);
    case STRATA_FORMAT_Q4_K: return launch_format<GpuQ4_K>(exec, plan, params);
    case STRATA_FORMAT_Q6_K: return launch_format<GpuQ6_K>(exec, plan, params);
    default: return launch_format<GpuSymmetric>(exec, plan, params); // Q4_0, I4
    }
}

bool has_min(std::int32_t format) { return format == STRATA_FORMAT_Q4_1 || format == STRATA_FORMAT_Q4_K; }

} // namespace

Status reduce_partials(Exec &exec, const QgemmOutput &out, std::int32_t splits) {
    const ReduceParams params{out, splits};
    const int grid = grid_blocks(out.m * out.n, 256, exec.multiprocessors);
    return launched("qgemm", GPU_LAUNCH(qgemm_reduce_kernel, grid, 256, 0, exec.stream, params));
}

Status qgemm_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const QgemmProblem *>(problem);
    if (is_float_format(p.w.format)) return qgemm_dense_gpu(exec, p);
    exec.impl = p.int8_activations ? GPU_IMPL_NAME("qgemm.int8") : GPU_IMPL_NAME("qgemm");
    const Plan plan = make_plan(exec, p);
    const std::int64_t tile = 8 * plan.tiles;
    const std::int64_t padded = (plan.batch + tile - 1) / tile * tile;
    auto *terms = exec.planner.take<std::uint16_t>(plan.stages * plan.terms * padded * kStageColumns);
    auto *factors = exec.planner.take<float>(plan.stages * 2 * padded);
    float *sums = has_min(p.w.format) ? exec.planner.take<float>(plan.stages * 2 * padded) : nullptr;
    float *partials = plan.splits > 1 ? exec.planner.take<float>(plan.splits * plan.batch * p.w.n) : nullptr;
    if (exec.dry_run || p.m == 0) return STRATA_OK;
    for (std::int64_t first = 0; first < p.m; first += plan.batch) {
        const std::int64_t m = p.m - first < plan.batch ? p.m - first : plan.batch;
        const std::int64_t m_padded = (m + tile - 1) / tile * tile;
        PrepareParams prepare{};
        prepare.x = static_cast<const unsigned char *>(p.x.data) + first * p.x.stride[0] * dtype_bytes(p.x.dtype);
        prepare.terms = terms;
        prepare.factors = factors;
        prepare.sums = sums;
        prepare.x_row = p.x.stride[0];
        prepare.m = m;
        prepare.m_padded = m_padded;
        prepare.groups = p.w.k / 32;
        prepare.groups_padded = plan.stages * 2;
        prepare.x_dtype = p.x.dtype;
        prepare.term_count = plan.terms;
        prepare.int8 = p.int8_activations;
        const int prepare_grid = grid_blocks(m_padded * prepare.groups_padded, 8, exec.multiprocessors);
        TRY(launched("qgemm", GPU_LAUNCH(qgemm_prepare_kernel, prepare_grid, 256, 0, exec.stream, prepare)));
        MultiplyParams params{};
        params.out = {
            static_cast<unsigned char *>(p.y.data) + first * p.y.stride[0] * dtype_bytes(p.y.dtype), partials, p.y.stride[0], m, p.w.n, p.y.dtype};
        params.stage = {p.w.k / 32, p.w.format == STRATA_FORMAT_I4 ? p.w.group / 32 : 1};
        params.panels = p.w.panels;
        params.terms = terms;
        params.factors = factors;
        params.sums = sums;
        params.panel_bytes = p.w.panel_bytes;
        params.panel_count = p.w.panel_count;
        params.m_padded = m_padded;
        params.stages = plan.stages;
        params.stages_per_split = (plan.stages + plan.splits - 1) / plan.splits;
        TRY(launched("qgemm", launch_any(exec, plan, p.w.format, params)));
        if (plan.splits > 1) TRY(reduce_partials(exec, params.out, plan.splits));
    }
    return STRATA_OK;
}

} // namespace strata
