// SPDX-License-Identifier: Apache-2.0
// What the GPU files of qgemm share.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/op_gpu.h"
#include "ops/qgemm/qgemm.h"

namespace strata {

/// Rows of x that one round of launches covers: bounds the scratch.
inline constexpr std::int64_t kGpuBatch = 2048;

/// A template's number as an array's extent.
constexpr std::size_t extent(int n) { return static_cast<std::size_t>(n); }

/// Where a multiply kernel puts its sums: y itself, or, when k is split over blocks, partial sums [split][token][row].
struct QgemmOutput {
    void *y;
    float *partials; // null: not split
    int64_t y_row;   // stride, elements
    int64_t m, n;    // of this batch
    int32_t y_dtype;
};

GPU_DEVICE void put_sum(const QgemmOutput &out, int split, int64_t token, int64_t row, float sum) {
    if (token >= out.m || row >= out.n) return;
    if (out.partials != nullptr) {
        out.partials[(split * out.m + token) * out.n + row] = sum;
    } else {
        store_element(out.y_dtype, out.y, token * out.y_row + row, sum);
    }
}

/// How many blocks share a column range of k, so that `blocks` of them fill the device: each at least `least` of `steps`.
inline std::int32_t split_count(std::int64_t blocks, std::int64_t steps, std::int64_t least, std::int64_t wanted_blocks) {
    constexpr std::int64_t kMostSplits = 16;
    std::int64_t splits = wanted_blocks / blocks;
    splits = splits < steps / least ? splits : steps / least;
    splits = splits < kMostSplits ? splits : kMostSplits;
    if (splits <= 1) return 1;
    const std::int64_t steps_each = (steps + splits - 1) / splits;
    return static_cast<std::int32_t>((steps + steps_each - 1) / steps_each); // no split is empty
}

/// Adds the partial sums in the order of the splits and writes y.
Status reduce_partials(Exec &exec, const QgemmOutput &out, std::int32_t splits);

/// Float weights.
Status qgemm_dense_gpu(Exec &exec, const QgemmProblem &p);

} // namespace strata
