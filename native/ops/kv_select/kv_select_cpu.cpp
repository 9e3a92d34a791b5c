// SPDX-License-Identifier: Apache-2.0
// kv_select on the CPU: the slots of the largest scores, ascending, with protected ends; exact, ties to the lower slot.
//
// Shapes   scores [batch, kv_heads, capacity] f32; kept [batch, kv_heads, max_kept] int32 ascending.
// Bound    bytes: 4 per slot, twice (once for the threshold, once to emit); the second read comes from L2.
// Method   scores become signed keys in their own order. A sample gives a key that is almost surely a little below the k-th largest; one sweep
//          packs the keys from there up, a radix select over those few finds the k-th exactly, and an ordered sweep emits. Should the sample have
//          been misleading, the radix select runs over all keys: slower, the same result.
// Split    one chunk a row.
#include "core/thread_pool.h"
#include "ops/kv_select/kv_select.h"
#include "simd/vec.h"

namespace strata::STRATA_ISA_NAMESPACE {

namespace {

constexpr std::int32_t kLanes = 16;
constexpr std::int32_t kSample = 512;
// Below this many slots the keys are few enough to select among all of them.
constexpr std::int32_t kSampledFrom = 4 * kSample;

/// The k-th largest key, and how many keys equal to it belong to the k largest.
struct Threshold {
    std::int32_t key;
    std::int32_t ties;
};

std::int64_t padded(std::int64_t count) { return (count + kLanes - 1) / kLanes * kLanes + kLanes; }

I32x16 keys_at(const float *scores, std::int32_t at, std::int32_t lanes) {
    return order_key(lanes == kLanes ? F32x16::load(scores + at) : F32x16::load_partial(scores + at, lanes));
}

std::int32_t key_of(float score) {
    std::int32_t keys[kLanes];
    order_key(F32x16::set(score)).store(keys);
    return keys[0];
}

std::uint32_t lane_bits_below(std::int32_t lanes) { return (1U << lanes) - 1U; }

/// The digit of a key in one round, in the order of the keys.
std::uint32_t digit(std::int32_t key, std::int32_t shift, std::uint32_t mask) {
    return (static_cast<std::uint32_t>(key) ^ 0x80000000U) >> shift & mask;
}

/// Radix select from the top digit down; `keys` is used up. 1 <= k <= count.
Threshold select_among(std::int32_t *keys, std::int32_t count, std::int32_t k) {
    constexpr struct {
        std::int32_t shift;
        std::uint32_t bins;
    } kRounds[] = {{21, 2048}, {10, 2048}, {0, 1024}};
    std::uint32_t histogram[2048];
    for (const auto &round : kRounds) {
        std::memset(histogram, 0, sizeof histogram);
        for (std::int32_t i = 0; i < count; ++i) {
            ++histogram[digit(keys[i], round.shift, round.bins - 1)];
        }
        std::uint32_t bin = round.bins - 1;
        while (histogram[bin] < static_cast<std::uint32_t>(k)) {
            k -= static_cast<std::int32_t>(histogram[bin]);
            --bin;
        }
        std::int32_t inside = 0;
        for (std::int32_t i = 0; i < count; ++i) {
            const std::int32_t key = keys[i];
            keys[inside] = key;
            inside += digit(key, round.shift, round.bins - 1) == bin ? 1 : 0;
        }
        count = inside;
    }
    return {keys[0], k};
}

/// A key that likely has k keys at or above it, and not many more.
std::int32_t sampled_bound(const float *scores, std::int32_t count, std::int32_t k) {
    std::int32_t sample[kSample];
    const std::int64_t step = count / kSample;
    for (std::int32_t i = 0; i < kSample; ++i) {
        sample[i] = key_of(scores[i * step]);
    }
    const std::int64_t expected = static_cast<std::int64_t>(k) * kSample / count;
    // Four standard deviations of a random sample.
    std::int64_t deviation = 4;
    while (deviation * deviation < 16 * expected) {
        ++deviation;
    }
    const std::int64_t rank = expected + deviation;
    return rank >= kSample ? INT32_MIN : select_among(sample, kSample, static_cast<std::int32_t>(rank)).key;
}

/// Packs the keys at or above `bound`; returns how many.
std::int32_t pack_from(const float *scores, std::int32_t count, std::int32_t bound, std::int32_t *packed) {
    if (bound == INT32_MIN) {
        for (std::int32_t i = 0; i < count; i += kLanes) {
            keys_at(scores, i, count - i < kLanes ? count - i : kLanes).store(packed + i);
        }
        return count;
    }
    const I32x16 below = I32x16::set(bound - 1);
    std::int32_t held = 0;
    for (std::int32_t i = 0; i < count; i += kLanes) {
        const std::int32_t lanes = count - i < kLanes ? count - i : kLanes;
        const I32x16 keys = keys_at(scores, i, lanes);
        std::uint32_t take = lanes_greater(keys, below) & lane_bits_below(lanes);
        if (take == 0) {
            continue;
        }
        std::int32_t values[kLanes];
        keys.store(values);
        for (; take != 0; take &= take - 1) {
            packed[held++] = values[__builtin_ctz(take)];
        }
    }
    return held;
}

Threshold find_threshold(const float *scores, std::int32_t count, std::int32_t k, std::int32_t *packed) {
    std::int32_t bound = count < kSampledFrom ? INT32_MIN : sampled_bound(scores, count, k);
    std::int32_t held = pack_from(scores, count, bound, packed);
    if (held < k) {
        held = pack_from(scores, count, INT32_MIN, packed);
    }
    return select_among(packed, held, k);
}

/// Writes base + i for every key above the threshold and the first `ties` equal to it; returns how many.
std::int32_t emit_above(const float *scores, std::int32_t count, Threshold threshold, std::int32_t base, std::int32_t *kept) {
    const I32x16 key = I32x16::set(threshold.key);
    std::int32_t ties = threshold.ties;
    std::int32_t out = 0;
    for (std::int32_t i = 0; i < count; i += kLanes) {
        const std::int32_t lanes = count - i < kLanes ? count - i : kLanes;
        const I32x16 keys = keys_at(scores, i, lanes);
        const std::uint32_t valid = lane_bits_below(lanes);
        std::uint32_t take = lanes_greater(keys, key) & valid;
        if (ties > 0) {
            std::uint32_t equal = lanes_equal(keys, key) & valid;
            for (; equal != 0 && ties > 0; equal &= equal - 1, --ties) {
                take |= equal & (0U - equal);
            }
        }
        for (; take != 0; take &= take - 1) {
            kept[out++] = base + i + __builtin_ctz(take);
        }
    }
    return out;
}

std::int32_t emit_run(std::int32_t from, std::int32_t count, std::int32_t *kept) {
    for (std::int32_t i = 0; i < count; ++i) {
        kept[i] = from + i;
    }
    return count;
}

void select_row(const KvSelectProblem &p, std::int64_t b, std::int64_t h, std::int32_t *packed) {
    const std::int32_t length = static_cast<const std::int32_t *>(p.lengths.data)[b * p.lengths.stride[0] + h * p.lengths.stride[1]];
    const std::int32_t budget =
        p.budgets.present() ? static_cast<const std::int32_t *>(p.budgets.data)[b * p.budgets.stride[0] + h * p.budgets.stride[1]] : p.budget;
    const KeptSplit split = split_budget(length, budget, p.protect_first, p.protect_last);
    std::int32_t *kept = static_cast<std::int32_t *>(p.kept.data) + b * p.kept.stride[0] + h * p.kept.stride[1];
    std::int32_t out = emit_run(0, split.first, kept);
    if (split.chosen > 0) {
        if (p.scores.present() && split.chosen < split.middle) {
            const float *scores = static_cast<const float *>(p.scores.data) + b * p.scores.stride[0] + h * p.scores.stride[1] + split.first;
            const Threshold threshold = find_threshold(scores, split.middle, split.chosen, packed);
            out += emit_above(scores, split.middle, threshold, split.first, kept + out);
        } else {
            out += emit_run(split.first, split.chosen, kept + out);
        }
    }
    out += emit_run(length - split.last, split.last, kept + out);
    static_cast<std::int32_t *>(p.counts.data)[b * p.counts.stride[0] + h * p.counts.stride[1]] = out;
}

} // namespace

Status kv_select_cpu(Exec &exec, const void *problem) {
    const auto &p = *static_cast<const KvSelectProblem *>(problem);
    exec.impl = IMPL_NAME("kv_select");
    const std::int64_t row = p.scores.present() ? padded(p.max_length) : 0;
    std::int32_t *packed = exec.planner.take<std::int32_t>(exec.pool->threads() * row);
    if (exec.dry_run) {
        return STRATA_OK;
    }
    parallel_for(*exec.pool, p.batch * p.kv_heads,
                 [&](std::int64_t chunk, std::int32_t worker) { select_row(p, chunk / p.kv_heads, chunk % p.kv_heads, packed + worker * row); });
    return STRATA_OK;
}

} // namespace strata::STRATA_ISA_NAMESPACE
