// SPDX-License-Identifier: Apache-2.0
// qgemm with fp32 activations: y[t,r] = sum_c x[t,c] w[r,c], w dequantised to fp32 on the way; formats of all kinds.
//
// Bound        m = 1, 2: about 8 instructions per 4 columns of a panel, near the read bandwidth; larger m: m n k multiply-adds over the fp32 peak.
// Partition    a panel of 16 rows is 16 lanes. Columns go in blocks of 256; one or two tokens multiply while dequantising, more tokens
//              multiply a block that was dequantised into the first cache once for all of them, in tiles whose sums stay in registers.
// Order        within a block one sum over the even columns and one over the odd (two chains hide the multiply-add's latency), then the block's sum
//              is added to the total: the error grows with the blocks, not the columns, and no result depends on m, the tile or the thread.
#include "ops/qgemm/qgemm_cpu.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

#if defined(__AVX512F__)
constexpr int kTile = 7; // 14 sums; the rest of 32 registers hides latencies
#else
constexpr int kTile = 3; // 6 sums of two halves in 16 registers
#endif
constexpr std::int64_t kBlockColumns = 256;
constexpr std::int64_t kBlockTokens = 16 * kTile; // totals of a block of tokens live on the stack

// Float weights look like the quantised formats: for_block and bytes of a block.
template <std::int32_t Dtype>
struct Dense {
    static constexpr std::int64_t kBytes = (Dtype == STRATA_DTYPE_F32 ? 4 : 2) * kPanelRows;
    static std::int64_t block_bytes() { return kBlockColumns * kBytes; }

    template <class Sink>
    STRATA_INLINE static void for_block(const unsigned char *block, std::int64_t columns, Sink &&sink) {
        std::int64_t c = 0;
        for (; c + 2 <= columns; c += 2) { // in pairs, so that the sink sees which chain a column is in
            sink(c, 0, load_as_f32(Dtype, block, c * kPanelRows, 16));
            sink(c + 1, 1, load_as_f32(Dtype, block, (c + 1) * kPanelRows, 16));
        }
        if (c < columns) {
            sink(c, 0, load_as_f32(Dtype, block, c * kPanelRows, 16));
        }
    }
};

template <class Format>
struct Quantised {
    static std::int64_t block_bytes() {
        return kBlockColumns / 32 * Format::kCodeBytes + kBlockColumns / 32 / Format::kStepGroups * Format::kTailBytes;
    }

    template <class Sink>
    STRATA_INLINE static void for_block(const unsigned char *block, std::int64_t columns, Sink &&sink) {
        for_each_group<Format>(block, columns / 32,
                               [&](std::int64_t g, const unsigned char *from, const unsigned char *tail, int s) STRATA_INLINE_LAMBDA {
                                   dequantise_group<Format>(from, tail, s, [&](int c, F32x16 w) STRATA_INLINE_LAMBDA { sink(32 * g + c, c % 2, w); });
                               });
    }
};

// x of a tile: [column][token of the tile]; a tile begins at its first token times k.
void pack_tile(const QgemmProblem &p, float *packed, std::int64_t first, std::int64_t size, std::int64_t from, std::int64_t to) {
    for (std::int64_t t = 0; t < size; ++t) {
        const std::int64_t row = (first + t) * p.x.stride[0];
        for (std::int64_t c = from; c < to; c += 16) {
            const auto lanes = static_cast<std::int32_t>(smaller(16, to - c));
            alignas(64) float values[16];
            load_as_f32(p.x.dtype, p.x.data, row + c, lanes).store(values);
            for (std::int64_t i = 0; i < lanes; ++i) {
                packed[(c + i) * size + t] = values[i];
            }
        }
    }
}

// One or two tokens: weights go from the codes into the sums.
template <class Weights, int Tokens>
void multiply_directly(const QgemmProblem &p, const float *x, const unsigned char *panel, F32x16 *totals) {
    F32x16 total[std::size_t{Tokens}];
    for (int t = 0; t < Tokens; ++t) {
        total[t] = F32x16::zero();
    }
    for (std::int64_t begin = 0; begin < p.w.k; begin += kBlockColumns, panel += Weights::block_bytes()) {
        F32x16 chains[2][std::size_t{Tokens}];
        for (int t = 0; t < Tokens; ++t) {
            chains[0][t] = chains[1][t] = F32x16::zero();
        }
        const float *block = x + begin * Tokens;
        Weights::for_block(panel, smaller(kBlockColumns, p.w.k - begin), [&](std::int64_t c, int chain, F32x16 w) STRATA_INLINE_LAMBDA {
            for (int t = 0; t < Tokens; ++t) {
                chains[chain][t] = fma(w, F32x16::set(block[c * Tokens + t]), chains[chain][t]);
            }
        });
        for (int t = 0; t < Tokens; ++t) {
            total[t] = total[t] + (chains[0][t] + chains[1][t]);
        }
    }
    for (int t = 0; t < Tokens; ++t) {
        totals[t] = total[t];
    }
}

// A tile of tokens times a dequantised block.
template <int Tokens>
void multiply_block(const float *weights, const float *x, std::int64_t columns, F32x16 *totals) {
    F32x16 even[std::size_t{Tokens}];
    F32x16 odd[std::size_t{Tokens}];
    for (int t = 0; t < Tokens; ++t) {
        even[t] = odd[t] = F32x16::zero();
    }
    std::int64_t c = 0;
    for (; c + 2 <= columns; c += 2, weights += 32, x += 2 * Tokens) {
        const F32x16 w0 = F32x16::load(weights);
        const F32x16 w1 = F32x16::load(weights + 16);
        STRATA_UNROLL
        for (int t = 0; t < Tokens; ++t) {
            even[t] = fma(w0, F32x16::set(x[t]), even[t]);
            odd[t] = fma(w1, F32x16::set(x[Tokens + t]), odd[t]);
        }
    }
    if (c < columns) {
        const F32x16 w = F32x16::load(weights);
        for (int t = 0; t < Tokens; ++t) {
            even[t] = fma(w, F32x16::set(x[t]), even[t]);
        }
    }
    for (int t = 0; t < Tokens; ++t) {
        totals[t] = totals[t] + (even[t] + odd[t]);
    }
}

void multiply_block_by(std::int64_t tokens, const float *weights, const float *x, std::int64_t columns, F32x16 *totals) {
    switch (tokens) {
#if defined(__AVX512F__)
    case 7: return multiply_block<7>(weights, x, columns, totals);
    case 6: return multiply_block<6>(weights, x, columns, totals);
    case 5: return multiply_block<5>(weights, x, columns, totals);
    case 4: return multiply_block<4>(weights, x, columns, totals);
#endif
    case 3: return multiply_block<3>(weights, x, columns, totals);
    case 2: return multiply_block<2>(weights, x, columns, totals);
    default: return multiply_block<1>(weights, x, columns, totals);
    }
}

// Tokens [first, end) of the batch, at most kBlockTokens.
template <class Weights>
void multiply_panel(const QgemmProblem &p, const float *x, std::int64_t panel_index, std::int64_t batch, std::int64_t first, std::int64_t end) {
    const unsigned char *panel = p.w.panels + panel_index * p.w.panel_bytes;
    const std::int64_t tokens = end - first;
    F32x16 totals[kBlockTokens];
    if (tokens == 1) {
        multiply_directly<Weights, 1>(p, x + first * p.w.k, panel, totals);
    } else if (tokens == 2) {
        multiply_directly<Weights, 2>(p, x + first * p.w.k, panel, totals);
    } else {
        alignas(64) float weights[kBlockColumns * kPanelRows];
        for (std::int64_t t = 0; t < tokens; ++t) {
            totals[t] = F32x16::zero();
        }
        for (std::int64_t begin = 0; begin < p.w.k; begin += kBlockColumns, panel += Weights::block_bytes()) {
            const std::int64_t columns = smaller(kBlockColumns, p.w.k - begin);
            Weights::for_block(panel, columns, [&](std::int64_t c, int, F32x16 w) STRATA_INLINE_LAMBDA { w.store(weights + c * kPanelRows); });
            for (std::int64_t t = 0; t < tokens; t += kTile) {
                const std::int64_t size = smaller(kTile, tokens - t);
                multiply_block_by(size, weights, x + (first + t) * p.w.k + begin * size, columns, totals + t);
            }
        }
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
        store_rows(p, batch + first + t, panel_index, totals[t]);
    }
}

template <class Weights>
Status run(Exec &exec, const QgemmProblem &p) {
    float *x = exec.planner.take<float>(smaller(p.m, kBatchTokens) * p.w.k);
    if (exec.dry_run) {
        return STRATA_OK;
    }
    for (std::int64_t batch = 0; batch < p.m; batch += kBatchTokens) {
        const std::int64_t tokens = smaller(p.m - batch, kBatchTokens);
        const std::int64_t columns = larger(16, kPackElements / smaller(tokens, kTile) / 16 * 16);
        const std::int64_t column_chunks = divide_up(p.w.k, columns);
        parallel_for(*exec.pool, divide_up(tokens, kTile) * column_chunks, [&](std::int64_t chunk, std::int32_t) {
            const std::int64_t first = chunk / column_chunks * kTile;
            const std::int64_t from = chunk % column_chunks * columns;
            pack_tile(p, x + first * p.w.k, batch + first, smaller(kTile, tokens - first), from, smaller(p.w.k, from + columns));
        });
        const WorkGrid grid(tokens, kBlockTokens, p.w.panel_count, p.w.panel_bytes, p.w.k);
        parallel_for(*exec.pool, grid.chunks(), [&](std::int64_t chunk, std::int32_t) {
            const std::int64_t first = chunk / grid.panel_blocks * kBlockTokens;
            const std::int64_t end = smaller(tokens, first + kBlockTokens);
            const std::int64_t panel = chunk % grid.panel_blocks * grid.panels_per_block;
            const std::int64_t panel_end = smaller(p.w.panel_count, panel + grid.panels_per_block);
            for (std::int64_t i = panel; i < panel_end; ++i) {
                multiply_panel<Weights>(p, x, i, batch, first, end);
            }
        });
    }
    return STRATA_OK;
}

} // namespace

Status qgemm_exact_cpu(Exec &exec, const QgemmProblem &p) {
    switch (p.w.format) {
    case STRATA_FORMAT_F32: return run<Dense<STRATA_DTYPE_F32>>(exec, p);
    case STRATA_FORMAT_F16: return run<Dense<STRATA_DTYPE_F16>>(exec, p);
    case STRATA_FORMAT_BF16: return run<Dense<STRATA_DTYPE_BF16>>(exec, p);
    case STRATA_FORMAT_Q4_1: return run<Quantised<Q4_1>>(exec, p);
    case STRATA_FORMAT_Q8_0: return run<Quantised<Q8_0>>(exec, p);
    case STRATA_FORMAT_Q4_K: return run<Quantised<Q4_K>>(exec, p);
    case STRATA_FORMAT_Q6_K: return run<Quantised<Q6_K>>(exec, p);
    default: break; // Q4_0 and I4
    }
    switch (p.w.groups_per_step) {
    case 2: return run<Quantised<SymmetricNibbles<1>>>(exec, p);
    case 4: return run<Quantised<SymmetricNibbles<2>>>(exec, p);
    default: return run<Quantised<SymmetricNibbles<4>>>(exec, p);
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
