// SPDX-License-Identifier: Apache-2.0
// qgemm with int8 activations: y[t,r] = sum over groups g of 32 columns of  scale[r,g] d[t,g] sum_i code[r,i] q[t,i]  (+ min[r,g] d[t,g] sum_i
// q[t,i]).
//
// Activations  d = max |x| / 127 over 32 columns of a row, q = x * (127 / max |x|) rounded to nearest even. A group whose largest magnitude is below
//              2^-100 counts as zero; one that holds an infinity or NaN makes d NaN, hence the whole output row NaN.
// Bound        m = 1: bytes of W over the read bandwidth; m >= 16: k n m products over the int8 peak, of which the scaling by group leaves 8 in 10.
// Partition    a panel of 16 rows is 16 lanes; a tile is 1 ... 16 tokens whose sums stay in registers over all of k. A group's 8 vectors of codes are
//              unpacked once for the tile; each is multiplied by 4 broadcast activation codes per token. Panels outside, tiles inside: a panel's
//              bytes stay in the first caches, the activations of a block of tokens in the second.
// Order        a token's sum runs over the groups in order, whatever the tile, the chunk or the thread: results do not depend on m or on threads.
#include "ops/qgemm/qgemm_cpu.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

#if defined(__AVX512F__)
constexpr std::int64_t kLargestTile = 16; // 16 sums, 8 vectors of codes, and what remains of 32 registers
#else
constexpr std::int64_t kLargestTile = 4;
#endif
// Bytes of activation codes that stay in the second cache beside a panel.
constexpr std::int64_t kBlockBytes = 768 * 1024;

// How the integer products treat the weight codes.
template <class Format>
struct Product {
    static constexpr bool kSigned = false; // u8 codes, the zero code's share taken off by the first value of the sum
    static constexpr int kZero = Format::kZero;
};
#if !defined(__AVX512VNNI__)
template <>
struct Product<Q8_0> {
    static constexpr bool kSigned = true; // sums of two u8 * s8 products would not fit the 16 bits that these sets add in
    static constexpr int kZero = 0;
};
#endif

// Packed activations: tile by tile; within a tile [group][token].
struct Activations {
    std::int8_t *codes;    // 32 a token and group
    float *scales;         // d
    std::int32_t *offsets; // kHalves: -zero * sum of codes; with kHasMin the bits of d * sum of codes
    std::int64_t groups;
    std::int64_t halves;
};

std::int64_t tile_size(std::int64_t tokens) {
    if (tokens >= 16 && kLargestTile == 16) {
        return 16;
    }
    if (tokens >= 8 && kLargestTile == 16) {
        return 8;
    }
    return smaller(tokens, 4);
}

STRATA_INLINE void quantise_group(const QgemmProblem &p, std::int64_t at, std::int32_t zero, bool has_min, std::int8_t *codes, float *scale,
                                  std::int32_t *offsets, std::int64_t halves, std::int64_t offset_stride) {
    const F32x16 a = load_as_f32(p.x.dtype, p.x.data, at, 16);
    const F32x16 b = load_as_f32(p.x.dtype, p.x.data, at + 16, 16);
    const float largest = reduce_max(max(abs(a), abs(b)));
    const bool finite = !any_nan((a - a) + (b - b)); // infinity - infinity is NaN
    constexpr float kTiny = 7.888609052210118e-31F;  // 2^-100
    const bool empty = !finite || largest < kTiny;
    const F32x16 inverse = F32x16::set(empty ? 0.0F : 127.0F / largest);
    const I32x16 low = empty ? I32x16::zero() : to_i32_nearest(a * inverse);
    const I32x16 high = empty ? I32x16::zero() : to_i32_nearest(b * inverse);
    store_s8(codes, low);
    store_s8(codes + 16, high);
    const float d = finite ? (empty ? 0.0F : largest / 127.0F) : __builtin_nanf("");
    *scale = d;
    if (halves == 2) {
        offsets[0] = -zero * reduce_add(low);
        offsets[offset_stride] = -zero * reduce_add(high);
        return;
    }
    const std::int32_t sum = reduce_add(low + high);
    if (has_min) {
        const float scaled = d * static_cast<float>(sum);
        std::memcpy(offsets, &scaled, sizeof scaled);
    } else {
        *offsets = -zero * sum;
    }
}

// Groups [from, to) of the tile of `size` tokens that begins at token `first` of the batch.
template <class Format>
void quantise_tile(const QgemmProblem &p, const Activations &x, std::int64_t batch, std::int64_t first, std::int64_t size, std::int64_t from,
                   std::int64_t to) {
    for (std::int64_t t = 0; t < size; ++t) {
        const std::int64_t row = (batch + first + t) * p.x.stride[0];
        for (std::int64_t g = from; g < to; ++g) {
            const std::int64_t at = first * x.groups + g * size + t;
            const std::int64_t offset = first * x.groups * Format::kHalves + (g * Format::kHalves) * size + t;
            quantise_group(p, row + g * 32, Product<Format>::kZero, Format::kHasMin, x.codes + 32 * at, x.scales + at, x.offsets + offset,
                           Format::kHalves, size);
        }
    }
}

template <bool Signed>
STRATA_INLINE I32x16 dot(I32x16 sum, U8x64 codes, const std::int8_t *four) {
    if constexpr (Signed) {
        return dot_s8s8(sum, codes, four);
    } else {
        return dot_u8s8(sum, codes, four);
    }
}

template <class Format>
STRATA_INLINE void load_codes(const unsigned char *from, const unsigned char *tail, int s, U8x64 (&u)[8]) {
    if constexpr (Product<Format>::kSigned) {
        for (int v = 0; v < 8; ++v) {
            u[v] = U8x64::load(from + 64 * v);
        }
    } else {
        Format::codes(from, tail, s, u);
    }
}

template <class Format, int Tokens>
void multiply_tile(const QgemmProblem &p, const Activations &x, const unsigned char *panel, std::int64_t panel_index, std::int64_t batch,
                   std::int64_t first) {
    F32x16 sums[std::size_t{Tokens}];
    for (int t = 0; t < Tokens; ++t) {
        sums[t] = F32x16::zero();
    }
    const std::int8_t *codes = x.codes + 32 * first * x.groups;
    const float *scales = x.scales + first * x.groups;
    const std::int32_t *offsets = x.offsets + first * x.groups * Format::kHalves;
    for_each_group<Format>(panel, x.groups, [&](std::int64_t, const unsigned char *from, const unsigned char *tail, int s) STRATA_INLINE_LAMBDA {
        if constexpr (Tokens <= 2) { // one thread alone does not reach the memory's speed without it
            for (int line = 0; line < Format::kCodeBytes; line += 64) {
                __builtin_prefetch(from + 4096 + line);
            }
        }
        constexpr bool kSigned = Product<Format>::kSigned;
        U8x64 u[8];
        load_codes<Format>(from, tail, s, u);
        const auto factors = Format::factors(tail, s);
        STRATA_UNROLL
        for (int t = 0; t < Tokens; ++t) {
            const std::int8_t *q = codes + 32 * t;
            const bool has_offset = !Format::kHasMin && !kSigned;
            I32x16 low = has_offset ? I32x16::set(offsets[t]) : I32x16::zero();
            I32x16 high = has_offset && Format::kHalves == 2 ? I32x16::set(offsets[Tokens + t]) : I32x16::zero();
            STRATA_UNROLL
            for (int v = 0; v < 4; ++v) {
                low = dot<kSigned>(low, u[v], q + 4 * v);
                high = dot<kSigned>(high, u[4 + v], q + 16 + 4 * v);
            }
            const F32x16 d = F32x16::set(scales[t]);
            if constexpr (Format::kHalves == 2) {
                const F32x16 both = fma(to_f32(high), factors.scale[1], to_f32(low) * factors.scale[0]);
                sums[t] = fma(both, d, sums[t]);
            } else {
                sums[t] = fma(to_f32(low + high), factors.scale[0] * d, sums[t]);
            }
            if constexpr (Format::kHasMin) {
                float scaled;
                std::memcpy(&scaled, offsets + t, sizeof scaled);
                sums[t] = fma(factors.min, F32x16::set(scaled), sums[t]);
            }
        }
        codes += 32 * Tokens;
        scales += Tokens;
        offsets += Format::kHalves * Tokens;
    });
    for (int t = 0; t < Tokens; ++t) {
        store_rows(p, batch + first + t, panel_index, sums[t]);
    }
}

template <class Format>
void multiply_panel(const QgemmProblem &p, const Activations &x, std::int64_t panel_index, std::int64_t batch, std::int64_t first, std::int64_t end) {
    const unsigned char *panel = p.w.panels + panel_index * p.w.panel_bytes;
    while (first < end) {
        const std::int64_t size = tile_size(end - first);
        switch (size) {
#if defined(__AVX512F__)
        case 16: multiply_tile<Format, 16>(p, x, panel, panel_index, batch, first); break;
        case 8: multiply_tile<Format, 8>(p, x, panel, panel_index, batch, first); break;
#endif
        case 4: multiply_tile<Format, 4>(p, x, panel, panel_index, batch, first); break;
        case 3: multiply_tile<Format, 3>(p, x, panel, panel_index, batch, first); break;
        case 2: multiply_tile<Format, 2>(p, x, panel, panel_index, batch, first); break;
        default: multiply_tile<Format, 1>(p, x, panel, panel_index, batch, first); break;
        }
        first += size;
    }
}

template <class Format>
Status run(Exec &exec, const QgemmProblem &p) {
    const std::int64_t capacity = smaller(p.m, kBatchTokens);
    Activations x{};
    x.groups = p.w.k / 32;
    x.codes = exec.planner.take<std::int8_t>(capacity * p.w.k);
    x.scales = exec.planner.take<float>(capacity * x.groups);
    x.offsets = exec.planner.take<std::int32_t>(capacity * x.groups * Format::kHalves);
    if (exec.dry_run) {
        return STRATA_OK;
    }
    const std::int64_t block = larger(kLargestTile, kBlockBytes / p.w.k / kLargestTile * kLargestTile);
    for (std::int64_t batch = 0; batch < p.m; batch += kBatchTokens) {
        const std::int64_t tokens = smaller(p.m - batch, kBatchTokens);
        const std::int64_t groups_per_chunk = larger(1, kPackElements / 32 / smaller(tokens, kLargestTile));
        const std::int64_t group_chunks = divide_up(x.groups, groups_per_chunk);
        const std::int64_t largest_tiles = divide_up(tokens, kLargestTile);
        parallel_for(*exec.pool, largest_tiles * group_chunks, [&](std::int64_t chunk, std::int32_t) {
            const std::int64_t from = chunk % group_chunks * groups_per_chunk;
            const std::int64_t to = smaller(x.groups, from + groups_per_chunk);
            std::int64_t first = chunk / group_chunks * kLargestTile;
            const std::int64_t end = smaller(tokens, first + kLargestTile);
            for (std::int64_t size = 0; first < end; first += size) {
                size = tile_size(end - first);
                quantise_tile<Format>(p, x, batch, first, size, from, to);
            }
        });
        const WorkGrid grid(tokens, block, p.w.panel_count, p.w.panel_bytes, p.w.k);
        parallel_for(*exec.pool, grid.chunks(), [&](std::int64_t chunk, std::int32_t) {
            const std::int64_t first = chunk / grid.panel_blocks * grid.tokens_per_block;
            const std::int64_t end = smaller(tokens, first + grid.tokens_per_block);
            const std::int64_t panel = chunk % grid.panel_blocks * grid.panels_per_block;
            const std::int64_t panel_end = smaller(p.w.panel_count, panel + grid.panels_per_block);
            for (std::int64_t i = panel; i < panel_end; ++i) {
                multiply_panel<Format>(p, x, i, batch, first, end);
            }
        });
    }
    return STRATA_OK;
}

} // namespace

Status qgemm_int8_cpu(Exec &exec, const QgemmProblem &p) {
    switch (p.w.format) {
    case STRATA_FORMAT_Q4_1: return run<Q4_1>(exec, p);
    case STRATA_FORMAT_Q8_0: return run<Q8_0>(exec, p);
    case STRATA_FORMAT_Q4_K: return run<Q4_K>(exec, p);
    case STRATA_FORMAT_Q6_K: return run<Q6_K>(exec, p);
    default: break; // Q4_0 and I4
    }
    switch (p.w.groups_per_step) {
    case 2: return run<SymmetricNibbles<1>>(exec, p);
    case 4: return run<SymmetricNibbles<2>>(exec, p);
    default: return run<SymmetricNibbles<4>>(exec, p);
    }
}

} // namespace strata::STRATA_ISA_NAMESPACE
