// SPDX-License-Identifier: Apache-2.0
// The ceilings of one GPU, each as the best a plain kernel reaches: memory, cache, tensor cores, fp32, exponentials, launches.
// Prints one JSON object a line: {"name": "read", "value": 3.2e12, "unit": "B/s"}. Data are random: zeros can run faster.
//
//   nvcc -O3 -std=c++17 -gencode arch=compute_90,code=sm_90 -o probes probes.cu && ./probes
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include <cuda_runtime.h>

namespace {

void check(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "probes: %s answers %s (%s), must succeed; look at nvidia-smi\n", what, cudaGetErrorName(error), cudaGetErrorString(error));
    std::exit(3);
}
#define CHECK(call) check((call), #call)

constexpr int kThreads = 256;
constexpr int kReps = 9;
constexpr std::size_t kLarge = std::size_t{2} << 30; // far beyond any cache
constexpr std::size_t kHot = std::size_t{16} << 20;  // stays in half an L2

__device__ std::uint32_t scrambled(std::uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

__global__ void fill(uint4 *data, std::size_t count) {
    for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count; i += std::size_t{gridDim.x} * blockDim.x) {
        const auto seed = static_cast<std::uint32_t>(4 * i);
        data[i] = make_uint4(scrambled(seed), scrambled(seed + 1), scrambled(seed + 2), scrambled(seed + 3));
    }
}

constexpr int kFlight = 8; // independent loads of 16 bytes a thread
constexpr std::size_t kTile = std::size_t{kThreads} * kFlight;
static_assert(kLarge / sizeof(uint4) % kTile == 0 && kHot / sizeof(uint4) % kTile == 0, "ranges are whole tiles");

// `passes` walks the same range again.
__global__ void __launch_bounds__(kThreads) read_sum(const uint4 *data, std::size_t tiles, int passes, std::uint32_t *out) {
    std::uint32_t sum = 0;
    for (int pass = 0; pass < passes; ++pass) {
        for (std::size_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            const uint4 *from = data + tile * kTile + threadIdx.x;
            uint4 v[kFlight];
#pragma unroll
            for (int i = 0; i < kFlight; ++i) v[i] = __ldcg(from + i * kThreads);
#pragma unroll
            for (int i = 0; i < kFlight; ++i) sum += v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
        }
    }
    if (sum == 0x12345678u) *out = sum; // never by more than chance: keeps the loads alive
}

enum class Mma { f16, bf16, s8 };

template <Mma Kind>
__device__ void multiply(std::uint32_t (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    if constexpr (Kind == Mma::s8) {
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        float f[4] = {__uint_as_float(c[0]), __uint_as_float(c[1]), __uint_as_float(c[2]), __uint_as_float(c[3])};
        if constexpr (Kind == Mma::f16) {
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
        } else {
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
        }
        for (int i = 0; i < 4; ++i) c[i] = __float_as_uint(f[i]);
    }
}

constexpr int kChains = 8; // independent accumulators a warp: more than the pipe is deep
constexpr int kLoops = 4096;

// Operands are random bits with the top exponent bit cleared, so that products stay finite.
template <Mma Kind>
__global__ void __launch_bounds__(kThreads) mma_loop(std::uint32_t seed, std::uint32_t *out) {
    const std::uint32_t mask = Kind == Mma::s8 ? 0xffffffffu : 0xbfffbfffu;
    const std::uint32_t id = seed + blockIdx.x * kThreads + threadIdx.x;
    std::uint32_t a[4], b[kChains][2], c[kChains][4] = {};
    for (int i = 0; i < 4; ++i) a[i] = scrambled(id * 64 + i) & mask;
    for (int j = 0; j < kChains; ++j)
        for (int i = 0; i < 2; ++i) b[j][i] = scrambled(id * 64 + 8 + 2 * j + i) & mask;
    for (int loop = 0; loop < kLoops; ++loop) {
#pragma unroll
        for (int j = 0; j < kChains; ++j) multiply<Kind>(c[j], a, b[j]);
    }
    std::uint32_t all = 0;
    for (int j = 0; j < kChains; ++j)
        for (int i = 0; i < 4; ++i) all ^= c[j][i];
    if (all == 0x12345678u) *out = all;
}

__global__ void __launch_bounds__(kThreads) fma_loop(float seed, float *out) {
    float x[kChains];
    for (int j = 0; j < kChains; ++j) x[j] = seed + static_cast<float>(threadIdx.x + j);
    for (int loop = 0; loop < kLoops; ++loop) {
#pragma unroll
        for (int j = 0; j < kChains; ++j) x[j] = fmaf(x[j], 0.999f, 0.25f);
    }
    float all = 0;
    for (int j = 0; j < kChains; ++j) all += x[j];
    if (all == 0.125f) *out = all;
}

__global__ void __launch_bounds__(kThreads) ex2_loop(float seed, float *out) {
    float x[kChains];
    for (int j = 0; j < kChains; ++j) x[j] = -seed / static_cast<float>(threadIdx.x + j + 1);
    for (int loop = 0; loop < kLoops; ++loop) {
#pragma unroll
        for (int j = 0; j < kChains; ++j) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x[j]));
    }
    float all = 0;
    for (int j = 0; j < kChains; ++j) all += x[j];
    if (all == 0.125f) *out = all;
}

__global__ void nothing() {}

/// Median seconds of a launch on the stream.
double seconds(cudaStream_t stream, const std::function<void()> &launch) {
    cudaEvent_t start, end;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&end));
    std::vector<float> times;
    for (int rep = 0; rep < kReps + 2; ++rep) {
        CHECK(cudaEventRecord(start, stream));
        launch();
        CHECK(cudaGetLastError());
        CHECK(cudaEventRecord(end, stream));
        CHECK(cudaEventSynchronize(end));
        float milliseconds = 0;
        CHECK(cudaEventElapsedTime(&milliseconds, start, end));
        if (rep >= 2) times.push_back(milliseconds); // two to warm up
    }
    std::sort(times.begin(), times.end());
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(end));
    return 1e-3 * times[times.size() / 2];
}

void report(const char *name, double value, const char *unit) {
    std::printf("{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"}\n", name, value, unit);
    std::fflush(stdout);
}

/// Seconds of one replay of a graph of `nodes` empty kernels in a row.
double graph_seconds(cudaStream_t stream, int nodes) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < nodes; ++i) nothing<<<1, 32, 0, stream>>>();
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiateWithFlags(&executable, graph, 0));
    const double time = seconds(stream, [&] { CHECK(cudaGraphLaunch(executable, stream)); });
    CHECK(cudaGraphExecDestroy(executable));
    CHECK(cudaGraphDestroy(graph));
    return time;
}

} // namespace

int main() {
    cudaDeviceProp device{};
    CHECK(cudaGetDeviceProperties(&device, 0));
    const int processors = device.multiProcessorCount;
    report("multiprocessors", processors, "");
    report("l2", device.l2CacheSize, "B");
    report("memory", static_cast<double>(device.totalGlobalMem), "B");

    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    uint4 *data = nullptr, *other = nullptr;
    std::uint32_t *out = nullptr;
    CHECK(cudaMalloc(&data, kLarge));
    CHECK(cudaMalloc(&other, kLarge));
    CHECK(cudaMalloc(&out, 256));
    fill<<<processors * 8, kThreads, 0, stream>>>(data, kLarge / sizeof(uint4));
    fill<<<processors * 8, kThreads, 0, stream>>>(other, kLarge / sizeof(uint4));
    CHECK(cudaGetLastError());
    CHECK(cudaStreamSynchronize(stream));

    report("copy", 2.0 * kLarge / seconds(stream, [&] { CHECK(cudaMemcpyAsync(other, data, kLarge, cudaMemcpyDeviceToDevice, stream)); }), "B/s");
    double read = 0;
    for (const int blocks : {4, 8, 16}) // what fills the chip depends on the chip
        read = std::max(read, kLarge / seconds(stream, [&] {
                                  read_sum<<<processors * blocks, kThreads, 0, stream>>>(data, kLarge / sizeof(uint4) / kTile, 1, out);
                              }));
    report("read", read, "B/s");
    constexpr int kPasses = 64;
    report("read_l2",
           double{kPasses} * kHot /
               seconds(stream, [&] { read_sum<<<processors * 8, kThreads, 0, stream>>>(data, kHot / sizeof(uint4) / kTile, kPasses, out); }),
           "B/s");

    const int blocks = processors * 4;
    const double products = double(blocks) * (kThreads / 32) * kChains * kLoops;
    const double scalars = double(blocks) * kThreads * kChains * kLoops;
    report("mma_f16", products * 2 * 16 * 8 * 16 / seconds(stream, [&] { mma_loop<Mma::f16><<<blocks, kThreads, 0, stream>>>(1, out); }), "FLOP/s");
    report("mma_bf16", products * 2 * 16 * 8 * 16 / seconds(stream, [&] { mma_loop<Mma::bf16><<<blocks, kThreads, 0, stream>>>(1, out); }), "FLOP/s");
    report("mma_s8", products * 2 * 16 * 8 * 32 / seconds(stream, [&] { mma_loop<Mma::s8><<<blocks, kThreads, 0, stream>>>(1, out); }), "OP/s");
    float *floats = reinterpret_cast<float *>(out);
    report("fma_f32", scalars * 2 / seconds(stream, [&] { fma_loop<<<blocks, kThreads, 0, stream>>>(0.5f, floats); }), "FLOP/s");
    report("ex2", scalars / seconds(stream, [&] { ex2_loop<<<blocks, kThreads, 0, stream>>>(0.5f, floats); }), "1/s");

    const double one = graph_seconds(stream, 1), many = graph_seconds(stream, 32);
    report("graph_of_1", 1e6 * one, "us");
    report("graph_of_32", 1e6 * many, "us");
    report("graph_node", 1e6 * (many - one) / 31, "us");
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaFree(data));
    CHECK(cudaFree(other));
    CHECK(cudaFree(out));
    CHECK(cudaStreamDestroy(stream));
    return 0;
}
