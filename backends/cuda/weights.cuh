/* backends/cuda/weights.cuh -- GROUP consecutive weights of a row, whatever they are stored as: what a
 * lane reads of them (fetch), and what that means (quad, scales).  Reading is apart from decoding so
 * that many reads can be on their way at once.  The formulas are backends/graph/dequant.c's (the
 * oracle), the places planes.h's.
 *
 * Element i is (q[i] - BIAS) * UNIT * scale[i / 16] - min[i / 16].  An H100 has fewer than five
 * instructions for each weight of four bits that memory can bring, and converting one and taking its
 * zero away is three: so up to seven bits of a weight become the high bits of a float between 1 and
 * 2 by one byte permutation, and BIAS (1 and the zero) goes against the sum of the activations. */
#ifndef DBRX_CUDA_WEIGHTS_CUH
#define DBRX_CUDA_WEIGHTS_CUH

#include "backends/cuda/base.cuh"

/* Weights are read once: they need not stay in any cache. */
__device__ __forceinline__ uint32_t once2(const unsigned char *p) { return __ldcs((const uint16_t *)p); }
__device__ __forceinline__ uint32_t once4(const unsigned char *p) { return __ldcs((const uint32_t *)p); }

/* 16 bytes, 32 bytes */
__device__ __forceinline__ void take16(uint32_t *u, const unsigned char *p)
{
    uint4 a = __ldcs((const uint4 *)p);
    u[0] = a.x, u[1] = a.y, u[2] = a.z, u[3] = a.w;
}

__device__ __forceinline__ void take32(uint32_t *u, const unsigned char *p)
{
    take16(u, p);
    take16(u + 4, p + 16);
}

/* the two halves of a word, as half precision */
__device__ __forceinline__ float low_half(uint32_t u) { return half_float((uint16_t)u); }
__device__ __forceinline__ float high_half(uint32_t u) { return half_float((uint16_t)(u >> 16)); }

/* q[4] = 1 + value / 2^BITS, of four bytes with values of so many bits */
template <int BITS> __device__ __forceinline__ void bits_float(uint32_t u, float *q)
{
    const uint32_t high = u << (7 - BITS) | 0x80808080;
    q[0] = __uint_as_float(__byte_perm(high, 0x3f000000, 0x7044));
    q[1] = __uint_as_float(__byte_perm(high, 0x3f000000, 0x7144));
    q[2] = __uint_as_float(__byte_perm(high, 0x3f000000, 0x7244));
    q[3] = __uint_as_float(__byte_perm(high, 0x3f000000, 0x7344));
}

/* q[4] = four bytes, 128 less than they are: the low bits of floats from 2^23 on */
__device__ __forceinline__ void bytes_float(uint32_t u, float *q)
{
    const float base = 8388608.0f + 128.0f;
    q[0] = __uint_as_float(__byte_perm(u, 0x4b000000, 0x7650)) - base;
    q[1] = __uint_as_float(__byte_perm(u, 0x4b000000, 0x7651)) - base;
    q[2] = __uint_as_float(__byte_perm(u, 0x4b000000, 0x7652)) - base;
    q[3] = __uint_as_float(__byte_perm(u, 0x4b000000, 0x7653)) - base;
}

/* word i of eight: of sixteen bytes that hold two values each, the first sixteen low, the others high */
__device__ __forceinline__ uint32_t nibbles(const uint32_t *u, int i)
{
    return (i < 4 ? u[i] : u[i - 4] >> 4) & 0x0f0f0f0f;
}

/* bit i of 32 to bit 4 of byte i % 4, for the four from 4 i on */
__device__ __forceinline__ uint32_t fifth_bits(uint32_t high, int i)
{
    uint32_t four_bits = high >> 4 * i & 15;
    return (four_bits * 0x00204081 & 0x01010101) << 4;
}

/* four of IQ4's levels, 128 more than they are, by the nibbles in four bytes:
 * -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113 */
__device__ __forceinline__ uint32_t iq4_levels(uint32_t n)
{
    uint32_t pairs = (n | n >> 4) & 0x00ff00ff, index = (pairs | pairs >> 8) & 0xffff;
    uint32_t low = __byte_perm(0x3f2d1801, 0x766a5d4f, index & 0x7777);
    uint32_t high = __byte_perm(0xa6998d81, 0xf1d9c5b5, index & 0x7777);
    return __byte_perm(low, high, 0x3210 | (index >> 1 & 0x4444));
}

template <int TYPE> struct Fmt;
/* BITS of a q as bits_float makes it and the ZERO among its values, or 0 and 0 for q as it is; SCALES
 * of a group, 0 for none; whether it has MINS; then the members of what is read. */
#define FORMAT(TYPE, BITS_, ZERO, SCALES_, MINS_, ...) template <> struct Fmt<DBRX_##TYPE> { \
    enum { BITS = BITS_, SCALES = SCALES_, MINS = MINS_, SUMS = BITS_ || MINS_ }; \
    static constexpr float UNIT = 1 << BITS, BIAS = BITS_ ? 1 + (ZERO) / (float)(1 << BITS_) : 0; \
    struct raw { __VA_ARGS__; };
#define FETCH static __device__ __forceinline__ \
    void fetch(raw &r, const wt &w, size_t row, uint32_t groups, uint32_t g)
/* q[4] = elements 4 i .. of group g, unscaled */
#define QUAD static __device__ __forceinline__ void quad(const raw &r, [[maybe_unused]] uint32_t g, int i, float *q)
#define SCALE static __device__ __forceinline__ \
    void scales([[maybe_unused]] const raw &r, [[maybe_unused]] uint32_t g, [[maybe_unused]] float *scale, \
                [[maybe_unused]] float *min)

/* block b of all; of types with eight groups a block, group `sub` of it */
#define BLOCK   const size_t b = row * groups + g
#define K_BLOCK const size_t b = row * (groups / 8) + g / 8; const uint32_t sub = g % 8

FORMAT(F32, 0, 0, 0, 0, uint32_t u[GROUP])
    FETCH
    {
        BLOCK;
        for (int i = 0; i < GROUP; i += 8)
            take32(r.u + i, w.p[0] + (b * GROUP + i) * 4);
    }
    QUAD
    {
        for (int j = 0; j < 4; j++)
            q[j] = __uint_as_float(r.u[4 * i + j]);
    }
    SCALE {}
};

#define HALVES(TYPE, convert) FORMAT(TYPE, 0, 0, 0, 0, uint32_t u[GROUP / 2]) \
    FETCH \
    { \
        BLOCK; \
        take32(r.u, w.p[0] + 64 * b); \
        take32(r.u + 8, w.p[0] + 64 * b + 32); \
    } \
    QUAD \
    { \
        for (int j = 0; j < 4; j++) \
            q[j] = convert((uint16_t)(r.u[2 * i + j / 2] >> 16 * (j % 2))); \
    } \
    SCALE {} \
};
HALVES(F16, half_float)
HALVES(BF16, bf16_float)
#undef HALVES

FORMAT(Q8_0, 0, 0, 1, 0, uint32_t u[8], d)
    FETCH
    {
        BLOCK;
        take32(r.u, w.p[0] + 32 * b);
        r.d = once2(w.p[1] + 2 * b);
    }
    QUAD { bytes_float(r.u[i] ^ 0x80808080, q); }
    SCALE { scale[0] = low_half(r.d); }
};

FORMAT(Q4_0, 4, 8, 1, 0, uint32_t u[4], d)
    FETCH
    {
        BLOCK;
        take16(r.u, w.p[0] + 16 * b);
        r.d = once2(w.p[1] + 2 * b);
    }
    QUAD { bits_float<BITS>(nibbles(r.u, i), q); }
    SCALE { scale[0] = low_half(r.d); }
};

FORMAT(Q4_1, 4, 0, 1, 1, uint32_t u[4], dm)
    FETCH
    {
        BLOCK;
        take16(r.u, w.p[0] + 16 * b);
        r.dm = once4(w.p[1] + 4 * b);
    }
    QUAD { bits_float<BITS>(nibbles(r.u, i), q); }
    SCALE { scale[0] = low_half(r.dm), min[0] = -high_half(r.dm); }
};

FORMAT(Q5_0, 5, 16, 1, 0, uint32_t u[4], high, d)
    FETCH
    {
        BLOCK;
        take16(r.u, w.p[0] + 16 * b);
        r.high = once4(w.p[1] + 4 * b);
        r.d = once2(w.p[2] + 2 * b);
    }
    QUAD { bits_float<BITS>(nibbles(r.u, i) | fifth_bits(r.high, i), q); }
    SCALE { scale[0] = low_half(r.d); }
};

FORMAT(Q5_1, 5, 0, 1, 1, uint32_t u[4], high, dm)
    FETCH
    {
        BLOCK;
        take16(r.u, w.p[0] + 16 * b);
        r.high = once4(w.p[1] + 4 * b);
        r.dm = once4(w.p[2] + 4 * b);
    }
    QUAD { bits_float<BITS>(nibbles(r.u, i) | fifth_bits(r.high, i), q); }
    SCALE { scale[0] = low_half(r.dm), min[0] = -high_half(r.dm); }
};

FORMAT(IQ4_NL, 0, 0, 1, 0, uint32_t u[4], d)
    FETCH
    {
        BLOCK;
        take16(r.u, w.p[0] + 16 * b);
        r.d = once2(w.p[1] + 2 * b);
    }
    QUAD { bytes_float(iq4_levels(nibbles(r.u, i)), q); }
    SCALE { scale[0] = low_half(r.d); }
};

FORMAT(IQ4_XS, 0, 0, 1, 0, uint32_t u[4], head, low)
    FETCH
    {
        K_BLOCK;
        take16(r.u, w.p[0] + 128 * b + 16 * sub);
        r.head = once4(w.p[1] + 8 * b);
        r.low = once4(w.p[1] + 8 * b + 4);
    }
    QUAD { bytes_float(iq4_levels(nibbles(r.u, i)), q); }
    SCALE
    {
        const uint32_t sub = g % 8;
        int six = (int)((r.low >> 4 * sub & 15) | (r.head >> 16 >> 2 * sub & 3) << 4);
        scale[0] = low_half(r.head) * (float)(six - 32);
    }
};

FORMAT(Q2_K, 2, 0, 2, 1, uint32_t u[8], s, dm)
    FETCH
    {
        K_BLOCK;
        take32(r.u, w.p[0] + 64 * b + 32 * (sub / 4));
        r.s = once2(w.p[1] + 16 * b + 2 * sub);
        r.dm = once4(w.p[2] + 4 * b);
    }
    QUAD { bits_float<BITS>(r.u[i] >> 2 * (g % 4) & 0x03030303, q); }
    SCALE
    {
        for (int k = 0; k < 2; k++) {
            scale[k] = low_half(r.dm) * (float)(r.s >> 8 * k & 15);
            min[k] = high_half(r.dm) * (float)(r.s >> (8 * k + 4) & 15);
        }
    }
};

FORMAT(Q3_K, 3, 4, 2, 0, uint32_t u[8], h[8], s[3], d)
    FETCH
    {
        K_BLOCK;
        take32(r.u, w.p[0] + 64 * b + 32 * (sub / 4));
        take32(r.h, w.p[1] + 32 * b);
        for (int i = 0; i < 3; i++)
            r.s[i] = once4(w.p[2] + 12 * b + 4 * i);
        r.d = once2(w.p[3] + 2 * b);
    }
    QUAD { bits_float<BITS>((r.u[i] >> 2 * (g % 4) & 0x03030303) | (r.h[i] >> g % 8 & 0x01010101) << 2, q); }
    SCALE
    {
        for (uint32_t k = 0; k < 2; k++) {             /* scale 2 sub + k of sixteen, in six bits */
            uint32_t j = 2 * (g % 8) + k, low = j & 4 ? r.s[1] : r.s[0];
            int six = (int)((low >> (8 * (j % 4) + j / 8 * 4) & 15) | (r.s[2] >> (8 * (j % 4) + j / 4 * 2) & 3) << 4);
            scale[k] = low_half(r.d) * (float)(six - 32);
        }
    }
};

/* Scale and minimum of sub-block j, 6 bits each, out of d, m and twelve bytes (Q4_K, Q5_K) */
__device__ __forceinline__ void k4_scale(const uint32_t *head, uint32_t j, float *scale, float *min)
{
    uint32_t at = 8 * (j % 4), s = head[1] >> at, m = head[2] >> at, t = head[3] >> at;
    if (j < 4) {
        s &= 63;
        m &= 63;
    } else {
        s = (t & 15) | (s >> 6 & 3) << 4;
        m = (t >> 4 & 15) | (m >> 6 & 3) << 4;
    }
    *scale = low_half(head[0]) * (float)s;
    *min = high_half(head[0]) * (float)m;
}

FORMAT(Q4_K, 4, 0, 1, 1, uint32_t u[8], head[4])
    FETCH
    {
        K_BLOCK;
        take32(r.u, w.p[0] + 128 * b + 32 * (sub / 2));
        take16(r.head, w.p[1] + 16 * b);
    }
    QUAD { bits_float<BITS>(r.u[i] >> 4 * (g % 2) & 0x0f0f0f0f, q); }
    SCALE { k4_scale(r.head, g % 8, scale, min); }
};

FORMAT(Q5_K, 5, 0, 1, 1, uint32_t u[8], h[8], head[4])
    FETCH
    {
        K_BLOCK;
        take32(r.u, w.p[0] + 128 * b + 32 * (sub / 2));
        take32(r.h, w.p[2] + 32 * b);
        take16(r.head, w.p[1] + 16 * b);
    }
    QUAD { bits_float<BITS>((r.u[i] >> 4 * (g % 2) & 0x0f0f0f0f) | (r.h[i] >> g % 8 & 0x01010101) << 4, q); }
    SCALE { k4_scale(r.head, g % 8, scale, min); }
};

FORMAT(Q6_K, 6, 32, 2, 0, uint32_t u[8], h[8], s, d)
    FETCH
    {
        K_BLOCK;
        take32(r.u, w.p[0] + 128 * b + 64 * (sub / 4) + 32 * (sub % 2));
        take32(r.h, w.p[1] + 64 * b + 32 * (sub / 4));
        r.s = once2(w.p[2] + 16 * b + 2 * sub);
        r.d = once2(w.p[3] + 2 * b);
    }
    QUAD
    {
        const uint32_t run = g % 4;
        bits_float<BITS>((r.u[i] >> run / 2 * 4 & 0x0f0f0f0f) | (r.h[i] >> 2 * run & 0x03030303) << 4, q);
    }
    SCALE
    {
        for (int k = 0; k < 2; k++)
            scale[k] = low_half(r.d) * (float)(int8_t)(r.s >> 8 * k & 255);
    }
};

#undef FORMAT
#undef FETCH
#undef QUAD
#undef SCALE
#undef BLOCK
#undef K_BLOCK

/* v[4] = elements 4 i .. of what was read, as they are meant */
template <int TYPE> __device__ __forceinline__
void values(const typename Fmt<TYPE>::raw &r, uint32_t g, int i, const float *scale, const float *min, float *v)
{
    typedef Fmt<TYPE> F;
    F::quad(r, g, i, v);
    if (F::SCALES == 0)
        return;
    const int half = F::SCALES == 2 ? i / 4 : 0;
    const float unit = F::UNIT * scale[half], zero = F::BIAS * unit;
    for (int j = 0; j < 4; j++)            /* nothing is rounded before the minimum is taken away */
        v[j] = v[j] * unit - zero - (F::MINS > 0 ? min[half] : 0);
}

/* v[GROUP] = group g of row `row`; a row has `groups` of them */
template <int TYPE> __device__ __forceinline__ void load(const wt &w, size_t row, uint32_t groups, uint32_t g, float *v)
{
    typename Fmt<TYPE>::raw r;
    float scale[2], min[2];
    Fmt<TYPE>::fetch(r, w, row, groups, g);
    Fmt<TYPE>::scales(r, g, scale, min);
    for (int i = 0; i < GROUP / 4; i++)
        values<TYPE>(r, g, i, scale, min, v + 4 * i);
}

/* The same where the type is known at run time only; one copy of it is enough. */
__device__ __noinline__ void load_any(const wt &w, uint32_t type, size_t row, uint32_t groups, uint32_t g, float *v)
{
    switch (type) {
#define CASE(NAME, ...) case DBRX_##NAME: load<DBRX_##NAME>(w, row, groups, g, v); break;
    CUDA_TYPES(CASE)
#undef CASE
    }
}

#endif
