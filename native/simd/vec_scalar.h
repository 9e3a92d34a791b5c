// SPDX-License-Identifier: Apache-2.0
// simd/vec.h for the x86-64 baseline: arrays and loops.
#pragma once

#include "simd/half.h"

#include <cmath>

namespace strata::STRATA_ISA_NAMESPACE {

#define LANES for (int i = 0; i < 16; ++i)

struct F32x16 {
    float v[16];

    static F32x16 zero() { return set(0.0F); }
    static F32x16 set(float x) {
        F32x16 r;
        LANES r.v[i] = x;
        return r;
    }
    static F32x16 set_pair(const float *p) {
        F32x16 r;
        LANES r.v[i] = p[i % 2];
        return r;
    }
    static F32x16 load(const float *p) {
        F32x16 r;
        LANES r.v[i] = p[i];
        return r;
    }
    static F32x16 load_partial(const float *p, std::int32_t n) {
        F32x16 r;
        LANES r.v[i] = i < n ? p[i] : 0.0F;
        return r;
    }
    static F32x16 load_f16(const std::uint16_t *p) {
        F32x16 r;
        LANES r.v[i] = f16_to_f32(p[i]);
        return r;
    }
    static F32x16 load_f16_partial(const std::uint16_t *p, std::int32_t n) {
        F32x16 r;
        LANES r.v[i] = i < n ? f16_to_f32(p[i]) : 0.0F;
        return r;
    }
    static F32x16 load_bf16(const std::uint16_t *p) {
        F32x16 r;
        LANES r.v[i] = bf16_to_f32(p[i]);
        return r;
    }
    static F32x16 load_bf16_partial(const std::uint16_t *p, std::int32_t n) {
        F32x16 r;
        LANES r.v[i] = i < n ? bf16_to_f32(p[i]) : 0.0F;
        return r;
    }
    void store(float *p) const { LANES p[i] = v[i]; }
    void store_partial(float *p, std::int32_t n) const {
        for (int i = 0; i < n; ++i) p[i] = v[i];
    }
    void store_f16(std::uint16_t *p) const { LANES p[i] = f32_to_f16(v[i]); }
    void store_f16_partial(std::uint16_t *p, std::int32_t n) const {
        for (int i = 0; i < n; ++i) p[i] = f32_to_f16(v[i]);
    }
    void store_bf16(std::uint16_t *p) const { LANES p[i] = f32_to_bf16(v[i]); }
    void store_bf16_partial(std::uint16_t *p, std::int32_t n) const {
        for (int i = 0; i < n; ++i) p[i] = f32_to_bf16(v[i]);
    }
};
inline F32x16 operator+(F32x16 a, F32x16 b) {
    LANES a.v[i] += b.v[i];
    return a;
}
inline F32x16 operator-(F32x16 a, F32x16 b) {
    LANES a.v[i] -= b.v[i];
    return a;
}
inline F32x16 operator*(F32x16 a, F32x16 b) {
    LANES a.v[i] *= b.v[i];
    return a;
}
inline F32x16 operator/(F32x16 a, F32x16 b) {
    LANES a.v[i] /= b.v[i];
    return a;
}
// Two roundings here, one on the vector sets: the tolerances allow for it.
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
    LANES c.v[i] = a.v[i] * b.v[i] + c.v[i];
    return c;
}
inline F32x16 max(F32x16 a, F32x16 b) {
    LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}
inline F32x16 min(F32x16 a, F32x16 b) {
    LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
}
inline F32x16 abs(F32x16 a) {
    LANES a.v[i] = std::fabs(a.v[i]);
    return a;
}
inline F32x16 round_nearest(F32x16 a) {
    LANES a.v[i] = std::nearbyint(a.v[i]);
    return a;
}
// The same tree as the vector sets: halves, quarters, ...
inline float reduce_add(F32x16 a) {
    for (int half = 8; half >= 1; half /= 2) {
        for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    }
    return a.v[0];
}
inline float reduce_max(F32x16 a) {
    float m = a.v[0];
    LANES m = a.v[i] > m ? a.v[i] : m;
    return m;
}
inline F32x16 power_below(F32x16 a) {
    LANES {
        std::uint32_t bits;
        std::memcpy(&bits, &a.v[i], sizeof bits);
        bits &= 0x7f800000U;
        std::memcpy(&a.v[i], &bits, sizeof bits);
    }
    return a;
}
inline void transpose(F32x16 (&a)[16]) {
    LANES {
        for (int j = 0; j < i; ++j) {
            const float lane = a[i].v[j];
            a[i].v[j] = a[j].v[i];
            a[j].v[i] = lane;
        }
    }
}
inline F32x16 select(std::uint32_t m, F32x16 a, F32x16 b) {
    F32x16 r;
    LANES r.v[i] = (m >> i & 1) != 0 ? a.v[i] : b.v[i];
    return r;
}
inline void unzip(F32x16 a, F32x16 b, F32x16 &even, F32x16 &odd) {
    for (int i = 0; i < 8; ++i) {
        even.v[i] = a.v[2 * i];
        even.v[8 + i] = b.v[2 * i];
        odd.v[i] = a.v[2 * i + 1];
        odd.v[8 + i] = b.v[2 * i + 1];
    }
}
inline void load_bf16_words(const void *p, F32x16 &even, F32x16 &odd) {
    std::uint16_t halves[32];
    std::memcpy(halves, p, sizeof halves);
    LANES even.v[i] = bf16_to_f32(halves[2 * i]);
    LANES odd.v[i] = bf16_to_f32(halves[2 * i + 1]);
}
inline F32x16 fused(F32x16 a, F32x16 b, F32x16 c) {
    LANES c.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
    return c;
}
inline bool any_greater(F32x16 a, F32x16 b) {
    bool found = false;
    LANES found = found || a.v[i] > b.v[i];
    return found;
}
inline bool any_nan(F32x16 a) {
    bool found = false;
    LANES found = found || a.v[i] != a.v[i];
    return found;
}
inline F32x16 scale_exp(F32x16 p, F32x16 n, F32x16 x) {
    LANES {
        if (x.v[i] > 88.72F) {
            p.v[i] = INFINITY;
        } else if (x.v[i] < -87.33F) {
            p.v[i] = 0.0F;
        } else if (x.v[i] == x.v[i]) {
            const auto whole = static_cast<std::int32_t>(n.v[i]);
            const std::int32_t half = whole / 2; // two steps: 2^128 does not exist
            p.v[i] *= bits_to_f32(static_cast<std::uint32_t>(half + 127) << 23);
            p.v[i] *= bits_to_f32(static_cast<std::uint32_t>(whole - half + 127) << 23);
        } else {
            p.v[i] = x.v[i];
        }
    }
    return p;
}
// p 2^n for whole n; from n = -127 down it is 0.
inline F32x16 scale_by_power(F32x16 p, F32x16 n) {
    LANES {
        const auto whole = n.v[i] == n.v[i] ? static_cast<std::int32_t>(n.v[i]) : 0;
        p.v[i] *= bits_to_f32(static_cast<std::uint32_t>(whole < -127 ? 0 : whole + 127) << 23);
    }
    return p;
}
inline F32x16 flush(F32x16 x) {
    LANES x.v[i] = std::fabs(x.v[i]) < 1.17549435e-38F ? std::copysign(0.0F, x.v[i]) : x.v[i];
    return x;
}

struct Bf16x32 {
    std::uint16_t v[32];
    static Bf16x32 load(const std::uint16_t *p) {
        Bf16x32 r;
        std::memcpy(r.v, p, sizeof r.v);
        return r;
    }
    static Bf16x32 set_pair(const std::uint16_t *p) {
        Bf16x32 r;
        for (int i = 0; i < 32; ++i) r.v[i] = p[i % 2];
        return r;
    }
    static Bf16x32 zip(const std::uint16_t *p, const std::uint16_t *q) {
        Bf16x32 r;
        for (int i = 0; i < 32; ++i) r.v[i] = i % 2 == 0 ? p[i / 2] : q[i / 2];
        return r;
    }
    void store(std::uint16_t *p) const { std::memcpy(p, v, sizeof v); }
};
inline void zip(Bf16x32 p, Bf16x32 q, Bf16x32 &low, Bf16x32 &high) {
    for (int i = 0; i < 16; ++i) {
        low.v[2 * i] = p.v[i];
        low.v[2 * i + 1] = q.v[i];
        high.v[2 * i] = p.v[16 + i];
        high.v[2 * i + 1] = q.v[16 + i];
    }
}
inline void in_order(F32x16 &, F32x16 &) {}
inline Bf16x32 narrow(F32x16 a, F32x16 b) {
    Bf16x32 r;
    flush(a).store_bf16(r.v);
    flush(b).store_bf16(r.v + 16);
    return r;
}
inline F32x16 as_words(Bf16x32 p) {
    F32x16 r;
    std::memcpy(r.v, p.v, sizeof r.v);
    return r;
}
inline Bf16x32 as_pairs(F32x16 x) {
    Bf16x32 r;
    std::memcpy(r.v, x.v, sizeof r.v);
    return r;
}
inline F32x16 even_as_f32(Bf16x32 p) {
    F32x16 r;
    LANES r.v[i] = bf16_to_f32(p.v[2 * i]);
    return r;
}
inline F32x16 odd_as_f32(Bf16x32 p) {
    F32x16 r;
    LANES r.v[i] = bf16_to_f32(p.v[2 * i + 1]);
    return r;
}
inline F32x16 dot(F32x16 sum, Bf16x32 p, Bf16x32 q) {
    const F32x16 odd = flush(fused(flush(odd_as_f32(p)), flush(odd_as_f32(q)), flush(sum)));
    return flush(fused(flush(even_as_f32(p)), flush(even_as_f32(q)), odd));
}

struct I32x16 {
    std::int32_t v[16];
    static I32x16 zero() { return set(0); }
    static I32x16 set(std::int32_t x) {
        I32x16 r;
        LANES r.v[i] = x;
        return r;
    }
    static I32x16 load(const std::int32_t *p) {
        I32x16 r;
        LANES r.v[i] = p[i];
        return r;
    }
    void store(std::int32_t *p) const { LANES p[i] = v[i]; }
};
inline I32x16 operator+(I32x16 a, I32x16 b) {
    LANES a.v[i] += b.v[i];
    return a;
}
inline I32x16 operator-(I32x16 a, I32x16 b) {
    LANES a.v[i] -= b.v[i];
    return a;
}
inline I32x16 operator*(I32x16 a, I32x16 b) {
    LANES a.v[i] *= b.v[i];
    return a;
}
inline F32x16 to_f32(I32x16 a) {
    F32x16 r;
    LANES r.v[i] = static_cast<float>(a.v[i]);
    return r;
}
inline std::int32_t reduce_add(I32x16 a) {
    std::int32_t sum = 0;
    LANES sum += a.v[i];
    return sum;
}
inline I32x16 to_i32_nearest(F32x16 a) {
    I32x16 r;
    // What 32 bits cannot hold becomes the lowest number, as in hardware.
    LANES r.v[i] = std::fabs(a.v[i]) < 2147483648.0F ? static_cast<std::int32_t>(std::nearbyint(a.v[i])) : INT32_MIN;
    return r;
}
inline I32x16 load_s8(const std::int8_t *p) {
    I32x16 r;
    LANES r.v[i] = p[i];
    return r;
}
inline I32x16 load_u8(const std::uint8_t *p) {
    I32x16 r;
    LANES r.v[i] = p[i];
    return r;
}
inline void store_s8(std::int8_t *p, I32x16 a) { LANES p[i] = static_cast<std::int8_t>(a.v[i]); }

inline I32x16 order_key(F32x16 x) {
    I32x16 r;
    LANES {
        const auto bits = static_cast<std::int32_t>(f32_to_bits(x.v[i] + 0.0F));
        r.v[i] = x.v[i] != x.v[i] ? INT32_MIN : bits < 0 ? bits ^ 0x7fffffff : bits;
    }
    return r;
}
inline std::uint32_t lanes_greater(I32x16 a, I32x16 b) {
    std::uint32_t r = 0;
    LANES r |= (a.v[i] > b.v[i] ? 1U : 0U) << i;
    return r;
}
inline std::uint32_t lanes_equal(I32x16 a, I32x16 b) {
    std::uint32_t r = 0;
    LANES r |= (a.v[i] == b.v[i] ? 1U : 0U) << i;
    return r;
}

struct U8x64 {
    std::uint8_t v[64];
    static U8x64 load(const void *p) {
        U8x64 r;
        std::memcpy(r.v, p, 64);
        return r;
    }
    static U8x64 set(std::uint8_t x) {
        U8x64 r;
        std::memset(r.v, x, 64);
        return r;
    }
};
inline U8x64 operator^(U8x64 a, U8x64 b) {
    for (int i = 0; i < 64; ++i) a.v[i] = static_cast<std::uint8_t>(a.v[i] ^ b.v[i]);
    return a;
}
inline U8x64 operator|(U8x64 a, U8x64 b) {
    for (int i = 0; i < 64; ++i) a.v[i] = static_cast<std::uint8_t>(a.v[i] | b.v[i]);
    return a;
}
inline U8x64 operator&(U8x64 a, U8x64 b) {
    for (int i = 0; i < 64; ++i) a.v[i] = static_cast<std::uint8_t>(a.v[i] & b.v[i]);
    return a;
}
inline U8x64 low_nibbles(U8x64 a) {
    for (auto &x : a.v) x = x & 15u;
    return a;
}
inline U8x64 high_nibbles(U8x64 a) {
    for (auto &x : a.v) x = static_cast<std::uint8_t>(x >> 4);
    return a;
}
template <int Bits>
inline U8x64 shift_right(U8x64 a) {
    for (auto &x : a.v) x = static_cast<std::uint8_t>(x >> Bits);
    return a;
}
template <int Bits>
inline U8x64 shift_left(U8x64 a) {
    for (auto &x : a.v) x = static_cast<std::uint8_t>(x << Bits);
    return a;
}
inline I32x16 byte_of_lane(U8x64 a, int b) {
    I32x16 r;
    LANES r.v[i] = a.v[4 * i + b];
    return r;
}
template <int Byte>
inline F32x16 byte_as_f32(U8x64 a) {
    F32x16 r;
    LANES r.v[i] = a.v[4 * i + Byte];
    return r;
}
template <int Nibble>
inline F32x16 nibble_as_f32(U8x64 a) {
    F32x16 r;
    LANES r.v[i] = static_cast<float>((a.v[4 * i + Nibble / 2] >> (4 * (Nibble % 2))) & 15);
    return r;
}

struct I16x32 {
    std::int16_t v[32];
    static I16x32 set_pair(const std::int16_t *p) {
        I16x32 r;
        for (int i = 0; i < 32; ++i) r.v[i] = p[i % 2];
        return r;
    }
    void store(std::int16_t *p) const { std::memcpy(p, v, sizeof v); }
};
inline I32x16 dot(I32x16 sum, I16x32 a, I16x32 b) {
    LANES sum.v[i] += a.v[2 * i] * b.v[2 * i] + a.v[2 * i + 1] * b.v[2 * i + 1];
    return sum;
}
template <int Byte>
inline I16x32 signed_bytes(U8x64 a) {
    I16x32 r;
    for (int i = 0; i < 32; ++i) r.v[i] = static_cast<std::int8_t>(a.v[2 * i + Byte]);
    return r;
}
template <int Nibble>
inline I16x32 signed_nibbles(U8x64 a) {
    I16x32 r;
    for (int i = 0; i < 32; ++i) r.v[i] = static_cast<std::int16_t>(((a.v[2 * i + Nibble / 2] >> (4 * (Nibble % 2)) & 15) ^ 8) - 8);
    return r;
}
template <int Each>
inline I16x32 as_factors(F32x16 a, F32x16 b, F32x16 scale) {
    static_assert(Each == 4 || Each == 8);
    const I32x16 x = to_i32_nearest(a * scale);
    const I32x16 y = to_i32_nearest(b * scale);
    I16x32 r;
    for (int i = 0; i < 32; ++i) {
        const int number = i / Each * Each + 2 * i % Each + (i % Each >= Each / 2 ? 1 : 0);
        r.v[i] = static_cast<std::int16_t>(number < 16 ? x.v[number] : y.v[number - 16]);
    }
    return r;
}

inline I32x16 dot_u8s8(I32x16 sum, U8x64 u, const std::int8_t *s4) {
    LANES for (int b = 0; b < 4; ++b) sum.v[i] += static_cast<std::int32_t>(u.v[4 * i + b]) * s4[b];
    return sum;
}
inline I32x16 dot_s8s8(I32x16 sum, U8x64 a, const std::int8_t *s4) {
    LANES for (int b = 0; b < 4; ++b) sum.v[i] += static_cast<std::int32_t>(static_cast<std::int8_t>(a.v[4 * i + b])) * s4[b];
    return sum;
}
#undef LANES

} // namespace strata::STRATA_ISA_NAMESPACE
