// SPDX-License-Identifier: Apache-2.0
// bitstack on the GPU: y = x W^T, or W itself, with W rebuilt in registers from signs and factors.
//
// Formula  W[i,j] = sum over levels of sign[i,j] sum_r U[i,r] V[r,j];  y[t,i] = sum_j W[i,j] x[t,j].
// Shapes   x [m, k], y [m, n], W [n, k]; layout of a level: bitstack_layout.h.
// Bound    tensor cores: 2 rank n k operations a level and token tile; n k / 8 bytes of signs a level.
//
//   block    64 rows of W (4 warps, one panel of 16 rows each), up to 32 rows of x, a range of 64-column blocks
//   warp     per column block: for each level  P = U V (mma fp16, fp32 sums), flip signs, add to the tile  W [16][64] in registers;
//            then the tile is already the A operand of  y^T += W x^T  (the C fragment of one product is the A fragment of the next)
//   memory   steps (block, level) flow through kStages buffers of cp.async; U of all levels stays in shared memory
//
// Precision: U and V are exact in fp16. W and x go into the second product as two bf16 terms each (x in bf16 as one), which keeps
// 17 bits; the smallest term of the product of sums, 2^-18 of it, is left out. Range is that of fp32.
#include "cuda/elements.cuh"
#include "cuda/op_gpu.h"
#include "ops/bitstack/bitstack.h"

namespace strata {

namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * gpu::kWarpSize;
constexpr int kRows = 16;                  // of a panel, of a warp
constexpr int kBlockRows = kWarps * kRows; // of a block
constexpr int kColumns = 64;               // of a step
constexpr int kTiles = kColumns / 8;       // n8 tiles of a step
constexpr int kRowBytes = kColumns * 2;    // of V and x in shared memory: 8 chunks of 16 bytes
constexpr int kStages = 3;                 // one in use, two on their way
constexpr int kSignBytes = static_cast<int>(kBitStackBlockBytes);
constexpr int kMaxSplits = 32;

// Registers of mma operands and sums, one set a tile or step.
template <int Count>
using Sums = float[static_cast<std::size_t>(Count)][4];
template <int Count>
using OperandsA = uint32_t[static_cast<std::size_t>(Count)][4];
template <int Count>
using OperandsB = uint32_t[static_cast<std::size_t>(Count)][2];

struct LevelParams {
    const uint16_t *u;
    const uint16_t *v;
    const uint32_t *signs;
    int32_t rank;
};

struct BitStackParams {
    LevelParams levels[STRATA_MAX_LEVELS];
    int32_t level_count;
    int32_t row_tiles, splits;
    int32_t x_terms; // 1: x is bf16; 2: high and low part
    int64_t n, k, m;
    int64_t panels, blocks, blocks_per_split;
    const uint16_t *x; // bf16 [x_terms][m_padded][blocks * 64]
    int64_t m_padded;
    void *y;
    int64_t y_row;
    int32_t y_dtype;
    float *partial;    // [tile][split][4 * TokenTiles][kThreads]
    uint32_t *tickets; // [tile], zero before the first block ends
};

// Shared memory: ticket | stages of V and signs | x buffers | U of all levels.
template <int RankSteps, int TokenTiles>
struct Smem {
    static constexpr int kVBytes = 16 * RankSteps * kRowBytes;
    static constexpr int kStageBytes = kVBytes + kWarps * kSignBytes;
    static constexpr int kXBytes = 8 * TokenTiles * kRowBytes; // of one term
    static constexpr int kUBytes = 16 * RankSteps * kRows * 2; // of one level and panel
    static constexpr int kStagesAt = 128;
    static constexpr int kXAt = kStagesAt + kStages * kStageBytes;
    GPU_HOST_DEVICE static constexpr int u_at(int x_terms) { return kXAt + kStages * x_terms * kXBytes; }
    GPU_HOST_DEVICE static constexpr int bytes(int x_terms, int levels) { return u_at(x_terms) + kWarps * levels * kUBytes; }
};

// Place of 16-byte chunk `chunk` of row `row`: eight rows of one chunk column then lie in eight different bank groups.
GPU_DEVICE int swizzled(int row, int chunk) { return row * kRowBytes + ((chunk ^ (row & 7)) << 4); }
GPU_DEVICE int swizzled_u(int rank, int chunk) { return rank * kRows * 2 + ((chunk ^ (rank >> 2 & 1)) << 4); }

// What a thread needs to know about its block.
struct Place {
    int64_t panel; // of warp 0
    int64_t token; // first row of x
    int64_t first; // column blocks first ... end - 1
    int64_t end;
    int thread, lane, warp;
};

// Starts the copies of one step; x comes with the first level of its block.
template <int RankSteps, int TokenTiles>
GPU_DEVICE void load_step(const BitStackParams &p, const Place &at, int64_t block, int level, int stage, int x_buffer, unsigned char *smem) {
    using Layout = Smem<RankSteps, TokenTiles>;
    const LevelParams &from = p.levels[level];
    unsigned char *v = smem + Layout::kStagesAt + stage * Layout::kStageBytes;
    GPU_UNROLL
    for (int i = 0; i < RankSteps; ++i) {
        const int c = at.thread + i * kThreads;
        const int r = c >> 3;
        const bool there = r < from.rank;
        gpu::cp_async16(v + swizzled(r, c & 7), from.v + (there ? (block * from.rank + r) * kColumns + 8 * (c & 7) : 0), there);
    }
    if (at.thread < kWarps * 8) {
        const int64_t panel = at.panel + (at.thread >> 3);
        const bool there = panel < p.panels;
        const int64_t word = there ? (panel * p.blocks + block) * (kSignBytes / 4) + 4 * (at.thread & 7) : 0;
        gpu::cp_async16(v + Layout::kVBytes + at.thread * 16, from.signs + word, there);
    }
    if constexpr (TokenTiles > 0) {
        if (level == 0) {
            unsigned char *x = smem + Layout::kXAt + x_buffer * p.x_terms * Layout::kXBytes;
            for (int c = at.thread; c < p.x_terms * TokenTiles * 64; c += kThreads) {
                const int term = c / (TokenTiles * 64);
                const int row = c / 8 % (TokenTiles * 8);
                const int64_t source = ((term * p.m_padded + at.token + row) * p.blocks + block) * kColumns + 8 * (c & 7);
                gpu::cp_async16(x + term * Layout::kXBytes + swizzled(row, c & 7), p.x + source);
            }
        }
    }
}

// Starts the copy of U of this warp's panel, all levels; ranks that a level lacks become zero.
template <int RankSteps, int TokenTiles>
GPU_DEVICE void load_u(const BitStackParams &p, const Place &at, unsigned char *u) {
    const int64_t panel = at.panel + at.warp;
    for (int level = 0; level < p.level_count; ++level) {
        const LevelParams &from = p.levels[level];
        GPU_UNROLL
        for (int i = 0; i < RankSteps; ++i) {
            const int r = i * 16 + (at.lane >> 1);
            const bool there = r < from.rank && panel < p.panels;
            const int64_t source = there ? (panel * from.rank + r) * kRows + 8 * (at.lane & 1) : 0;
            gpu::cp_async16(u + level * Smem<RankSteps, TokenTiles>::kUBytes + swizzled_u(r, at.lane & 1), from.u + source, there);
        }
    }
}

// value, negated if bit 31 of `sign` is set.
GPU_DEVICE float flip(float value, uint32_t sign) {
    return gpu::as_float(gpu::lop3<(gpu::kLopA & gpu::kLopB) ^ gpu::kLopC>(sign, 0x80000000u, gpu::as_uint(value)));
}

// w += sign o (U V) of one level: 16 rows by 64 columns of this warp.
template <int RankSteps, int TokenTiles>
GPU_DEVICE void add_level(const Place &at, const unsigned char *u, const unsigned char *v, Sums<kTiles> &w) {
    const int l = at.lane;
    OperandsA<RankSteps> a;
    GPU_UNROLL
    for (int s = 0; s < RankSteps; ++s) {
        gpu::ldmatrix_x4_trans(a[s], u + swizzled_u(16 * s + (l & 7) + 8 * (l >> 4), l >> 3 & 1));
    }
    const auto *words = reinterpret_cast<const uint32_t *>(v + Smem<RankSteps, TokenTiles>::kVBytes + at.warp * kSignBytes);
    GPU_UNROLL
    for (int half = 0; half < 2; ++half) {
        // Bit of column 8t + 2q + e of a word: 4t + q + 16e. Shifted by 3 - q it no longer depends on the lane.
        const uint32_t upper = words[half * kRows + (l >> 2)] << (3 - (l & 3));
        const uint32_t lower = words[half * kRows + (l >> 2) + 8] << (3 - (l & 3));
        GPU_UNROLL
        for (int pair = 0; pair < 2; ++pair) {
            float c[2][4] = {};
            GPU_UNROLL
            for (int s = 0; s < RankSteps; ++s) {
                uint32_t b[4];
                gpu::ldmatrix_x4_trans(b, v + swizzled(16 * s + (l & 15), 4 * half + 2 * pair + (l >> 4)));
                gpu::mma_f16(c[0], a[s], b[0], b[1]);
                gpu::mma_f16(c[1], a[s], b[2], b[3]);
            }
            GPU_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int t = 2 * pair + i;
                float(&to)[4] = w[4 * half + t];
                to[0] += flip(c[i][0], upper << (28 - 4 * t));
                to[1] += flip(c[i][1], upper << (12 - 4 * t));
                to[2] += flip(c[i][2], lower << (28 - 4 * t));
                to[3] += flip(c[i][3], lower << (12 - 4 * t));
            }
        }
    }
}

// Two numbers as bf16 pairs: `high` rounded, `low` what is left.
GPU_DEVICE void split_pair(float first, float second, uint32_t &high, uint32_t &low) {
    high = gpu::pack2_bf16(first, second);
    low = gpu::pack2_bf16(first - gpu::bf16_low(high), second - gpu::bf16_high(high));
}

// B fragments of one k16 step of x: n8 tiles of 8 rows, [8 TokenTiles][64] bf16 in shared memory.
template <int TokenTiles>
GPU_DEVICE void load_x(const unsigned char *x, int lane, int step, OperandsB<TokenTiles> &b) {
    if constexpr (TokenTiles == 1) {
        gpu::ldmatrix_x2(b[0], x + swizzled(lane & 7, 2 * step + (lane >> 3 & 1)));
    } else {
        GPU_UNROLL
        for (int t = 0; t < TokenTiles; t += 2) {
            uint32_t r[4];
            gpu::ldmatrix_x4(r, x + swizzled(8 * t + (lane & 7) + 8 * (lane >> 4), 2 * step + (lane >> 3 & 1)));
            b[t][0] = r[0];
            b[t][1] = r[1];
            b[t + 1][0] = r[2];
            b[t + 1][1] = r[3];
        }
    }
}

// y^T += W x^T over 64 columns.
template <int TokenTiles>
GPU_DEVICE void multiply(const unsigned char *x, int x_terms, int x_bytes, int lane, const Sums<kTiles> &w, Sums<TokenTiles> &y) {
    GPU_UNROLL
    for (int step = 0; step < kTiles / 2; ++step) {
        uint32_t high[4], low[4];
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
            const float(&from)[4] = w[2 * step + (i >> 1)];
            split_pair(from[2 * (i & 1)], from[2 * (i & 1) + 1], high[i], low[i]);
        }
        OperandsB<TokenTiles> b;
        load_x<TokenTiles>(x, lane, step, b);
        GPU_UNROLL
        for (int t = 0; t < TokenTiles; ++t) {
            gpu::mma_bf16(y[t], low, b[t][0], b[t][1]);
            gpu::mma_bf16(y[t], high, b[t][0], b[t][1]);
        }
        if (x_terms == 2) {
            load_x<TokenTiles>(x + x_bytes, lane, step, b);
            GPU_UNROLL
            for (int t = 0; t < TokenTiles; ++t) gpu::mma_bf16(y[t], high, b[t][0], b[t][1]);
        }
    }
}

// W of one block of columns to memory.
GPU_DEVICE void store_weight(const BitStackParams &p, const Place &at, int64_t block, const Sums<kTiles> &w) {
    GPU_UNROLL
    for (int t = 0; t < kTiles; ++t) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
            const int64_t row = (at.panel + at.warp) * kRows + (at.lane >> 2) + 8 * (i >> 1);
            const int64_t column = block * kColumns + 8 * t + 2 * (at.lane & 3) + (i & 1);
            if (row < p.n && column < p.k) store_element(p.y_dtype, p.y, row * p.y_row + column, w[t][i]);
        }
    }
}

template <int TokenTiles>
GPU_DEVICE void store_result(const BitStackParams &p, const Place &at, const Sums<TokenTiles> &y) {
    GPU_UNROLL
    for (int t = 0; t < TokenTiles; ++t) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
            const int64_t row = (at.panel + at.warp) * kRows + (at.lane >> 2) + 8 * (i >> 1);
            const int64_t token = at.token + 8 * t + 2 * (at.lane & 3) + (i & 1);
            if (row < p.n && token < p.m) store_element(p.y_dtype, p.y, token * p.y_row + row, y[t][i]);
        }
    }
}

// Adds the shares of all splits in their order, in the block that ends last. False in all others.
template <int TokenTiles>
GPU_DEVICE bool combine(const BitStackParams &p, const Place &at, int64_t tile, unsigned char *smem, Sums<TokenTiles> &y) {
    float *shares = p.partial + tile * p.splits * (4 * TokenTiles * kThreads) + at.thread;
    float *mine = shares + int64_t{gpu::block_y()} * (4 * TokenTiles * kThreads);
    GPU_UNROLL
    for (int i = 0; i < 4 * TokenTiles; ++i) mine[i * kThreads] = y[i / 4][i % 4];
    auto *ticket = reinterpret_cast<uint32_t *>(smem);
    gpu::threadfence();
    gpu::sync_threads();
    if (at.thread == 0) *ticket = gpu::atomic_inc(p.tickets + tile, static_cast<uint32_t>(p.splits - 1));
    gpu::sync_threads();
    if (*ticket != static_cast<uint32_t>(p.splits - 1)) return false;
    gpu::threadfence();
    GPU_UNROLL
    for (int i = 0; i < 4 * TokenTiles; ++i) y[i / 4][i % 4] = 0.0f;
    for (int split = 0; split < p.splits; ++split) {
        GPU_UNROLL
        for (int i = 0; i < 4 * TokenTiles; ++i) y[i / 4][i % 4] += shares[(split * 4 * TokenTiles + i) * kThreads];
    }
    return true;
}

// TokenTiles 0: decode.
template <int RankSteps, int TokenTiles>
GPU_KERNEL(kThreads, 2)
bitstack_kernel(BitStackParams p) {
    using Layout = Smem<RankSteps, TokenTiles>;
    GPU_DYNAMIC_SMEM(smem);
    const int64_t tile = gpu::block_x();
    Place at{};
    at.thread = gpu::thread_x();
    at.lane = gpu::lane_id();
    at.warp = gpu::warp_id();
    at.panel = tile % p.row_tiles * kWarps;
    at.token = tile / p.row_tiles * (8 * TokenTiles);
    at.first = gpu::block_y() * p.blocks_per_split;
    at.end = gpu::min(at.first + p.blocks_per_split, p.blocks);
    unsigned char *const u = smem + Layout::u_at(p.x_terms) + at.warp * p.level_count * Layout::kUBytes;
    const int64_t steps = (at.end - at.first) * p.level_count;

    // Load: U with the first step, kStages - 1 steps ahead of the work.
    load_u<RankSteps, TokenTiles>(p, at, u);
    int64_t next_block = at.first;
    int next_level = 0, next_stage = 0, next_x = 0;
    const auto load_next = [&] {
        if (next_block < at.end) {
            load_step<RankSteps, TokenTiles>(p, at, next_block, next_level, next_stage, next_x, smem);
            next_stage = next_stage + 1 == kStages ? 0 : next_stage + 1;
            if (++next_level == p.level_count) {
                next_level = 0;
                next_x = next_x + 1 == kStages ? 0 : next_x + 1;
                ++next_block;
            }
        }
        gpu::cp_async_commit();
    };
    GPU_UNROLL
    for (int i = 0; i < kStages - 1; ++i) load_next();

    // Compute: levels of a block into w, then w times x.
    Sums<kTiles> w = {};
    Sums<(TokenTiles > 0 ? TokenTiles : 1)> y = {};
    int64_t block = at.first;
    int level = 0, stage = 0, x_buffer = 0;
    for (int64_t step = 0; step < steps; ++step) {
        gpu::cp_async_wait<kStages - 2>();
        gpu::sync_threads(); // this step has landed for all, and all have left the buffer that the next copy fills
        load_next();
        add_level<RankSteps, TokenTiles>(at, u + level * Layout::kUBytes, smem + Layout::kStagesAt + stage * Layout::kStageBytes, w);
        stage = stage + 1 == kStages ? 0 : stage + 1;
        if (++level < p.level_count) continue;
        level = 0;
        if constexpr (TokenTiles == 0) {
            store_weight(p, at, block, w);
        } else {
            multiply<TokenTiles>(smem + Layout::kXAt + x_buffer * p.x_terms * Layout::kXBytes, p.x_terms, Layout::kXBytes, at.lane, w, y);
            x_buffer = x_buffer + 1 == kStages ? 0 : x_buffer + 1;
        }
        ++block;
        GPU_UNROLL
        for (int t = 0; t < kTiles; ++t) {
            GPU_UNROLL
            for (int i = 0; i < 4; ++i) w[t][i] = 0.0f;
        }
    }

    // Combine and store.
    if constexpr (TokenTiles > 0) {
        if (p.splits > 1 && !combine<TokenTiles>(p, at, tile, smem, y)) return;
        store_result<TokenTiles>(p, at, y);
    }
}

struct SplitXParams {
    const void *x;
    int64_t x_row, m, k;
    int64_t m_padded, chunks, work; // chunks of a padded row; work: all of them, or all tickets
    uint16_t *to;                   // [x_terms][m_padded][8 * chunks]
    uint32_t *tickets;
    int64_t ticket_count;
    int32_t dtype, x_terms;
    bool wide;
};

// x as bf16 terms, padded with zeros to whole tiles; also sets the tickets to zero.
GPU_KERNEL(kThreads, 8) split_x_kernel(SplitXParams p) {
    const int64_t stride = int64_t{gpu::grid_dim_x()} * kThreads;
    for (int64_t item = int64_t{gpu::block_x()} * kThreads + gpu::thread_x(); item < p.work; item += stride) {
        if (item < p.ticket_count) p.tickets[item] = 0;
        const int64_t row = item / p.chunks;
        if (row >= p.m_padded) continue;
        const int64_t column = item % p.chunks * kChunk;
        const int64_t left = row < p.m ? p.k - column : 0;
        float v[kChunk];
        load_chunk(p.dtype, p.x, row * p.x_row + column, static_cast<int>(gpu::max(int64_t{0}, gpu::min(int64_t{kChunk}, left))), p.wide, v);
        gpu::U4 high, low;
        GPU_UNROLL
        for (int i = 0; i < kChunk / 2; ++i) split_pair(v[2 * i], v[2 * i + 1], high.v[i], low.v[i]);
        uint16_t *to = p.to + item * kChunk;
        gpu::store16(to, high);
        if (p.x_terms == 2) gpu::store16(to + p.m_padded * p.chunks * kChunk, low);
    }
}

using Launch = int (*)(const BitStackParams &params, gpu::Dim3 grid, void *stream);

template <int RankSteps, int TokenTiles>
int launch(const BitStackParams &params, gpu::Dim3 grid, void *stream) {
    const auto bytes = static_cast<std::size_t>(Smem<RankSteps, TokenTiles>::bytes(params.x_terms, params.level_count));
    return GPU_LAUNCH((bitstack_kernel<RankSteps, TokenTiles>), grid, kThreads, bytes, stream, params);
}

// [rank steps - 1][token tiles 0, 1, 2, 4]
constexpr Launch kLaunches[2][4] = {
    {launch<1, 0>, launch<1, 1>, launch<1, 2>, launch<1, 4>},
    {launch<2, 0>, launch<2, 1>, launch<2, 2>, launch<2, 4>},
};
constexpr std::int32_t kTokenTiles[4] = {0, 1, 2, 4};

// Index into kTokenTiles: the smallest tile that holds m, or the largest that shared memory takes beside U of all levels.
int choose_tokens(const BitStackProblem &p, std::int32_t x_terms) {
    if (!p.x.present()) return 0;
    if (p.m <= 8) return 1;
    const bool fits = p.max_rank <= 16 || Smem<2, 4>::bytes(x_terms, p.level_count) <= static_cast<int>(gpu::kPortableSmemBytes);
    return p.m <= 16 || !fits ? 2 : 3;
}
static_assert(Smem<1, 4>::bytes(2, STRATA_MAX_LEVELS) <= static_cast<int>(gpu::kPortableSmemBytes));
static_assert(Smem<2, 2>::bytes(2, STRATA_MAX_LEVELS) <= static_cast<int>(gpu::kPortableSmemBytes));

} // namespace

Status bitstack_gpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const BitStackProblem *>(problem);
    exec.impl = GPU_IMPL_NAME("bitstack");
    const bool decode = !p.x.present();
    const std::int32_t x_terms = p.x.dtype == STRATA_DTYPE_BF16 ? 1 : 2;
    const int choice = choose_tokens(p, x_terms);
    const std::int64_t tokens = 8 * kTokenTiles[choice];
    const std::int64_t token_tiles = decode ? 1 : (p.m + tokens - 1) / tokens;
    const std::int64_t row_tiles = (p.panels + kWarps - 1) / kWarps;
    if (token_tiles * row_tiles > INT32_MAX) {
        return fail(STRATA_E_SHAPE, "bitstack: x.shape[0] is ", p.m, ", must need at most 2^31 - 1 blocks of ", tokens, " by ", kBlockRows,
                    "; split the rows of x");
    }
    // Splits over k until two blocks stand on every multiprocessor; each keeps four steps so that the pipeline pays.
    const std::int64_t tiles = token_tiles * row_tiles;
    std::int64_t splits = tiles == 0 ? 1 : (2 * exec.multiprocessors + tiles - 1) / tiles;
    splits = splits < kMaxSplits ? splits : kMaxSplits;
    const std::int64_t blocks_per_split = (p.blocks + splits - 1) / splits > 4 ? (p.blocks + splits - 1) / splits : 4;
    splits = (p.blocks + blocks_per_split - 1) / blocks_per_split;

    BitStackParams params{};
    params.m_padded = token_tiles * tokens;
    auto *x = exec.planner.take<std::uint16_t>(x_terms * params.m_padded * p.blocks * kColumns);
    params.partial = exec.planner.take<float>(decode || splits == 1 ? 0 : tiles * splits * tokens / 2 * kThreads);
    params.tickets = exec.planner.take<std::uint32_t>(decode || splits == 1 ? 0 : tiles);
    if (exec.dry_run || (!decode && p.m == 0)) return STRATA_OK;

    for (std::int32_t i = 0; i < p.level_count; ++i) {
        params.levels[i] = LevelParams{p.levels[i].u, p.levels[i].v, p.levels[i].signs, p.levels[i].rank};
    }
    params.level_count = p.level_count;
    params.row_tiles = static_cast<std::int32_t>(row_tiles);
    params.splits = static_cast<std::int32_t>(splits);
    params.x_terms = x_terms;
    params.n = p.n;
    params.k = p.k;
    params.m = p.m;
    params.panels = p.panels;
    params.blocks = p.blocks;
    params.blocks_per_split = blocks_per_split;
    params.x = x;
    params.y = p.y.data;
    params.y_row = p.y.stride[0];
    params.y_dtype = p.y.dtype;
    if (!decode) {
        SplitXParams split{};
        split.x = p.x.data;
        split.x_row = p.x.stride[0];
        split.m = p.m;
        split.k = p.k;
        split.m_padded = params.m_padded;
        split.chunks = p.blocks * (kColumns / kChunk);
        split.to = x;
        split.tickets = params.tickets;
        split.ticket_count = splits > 1 ? tiles : 0;
        split.work = split.m_padded * split.chunks > split.ticket_count ? split.m_padded * split.chunks : split.ticket_count;
        split.dtype = p.x.dtype;
        split.x_terms = x_terms;
        split.wide = wide_rows(p.x);
        const int grid = grid_blocks(split.work, kThreads, exec.multiprocessors);
        TRY(launched("bitstack", GPU_LAUNCH(split_x_kernel, grid, kThreads, 0, exec.stream, split)));
    }
    const gpu::Dim3 grid(static_cast<int>(tiles), static_cast<int>(splits));
    return launched("bitstack", kLaunches[p.max_rank > 16 ? 1 : 0][choice](params, grid, exec.stream));
}

} // namespace strata
