/* backends/cuda/weights.cuh -- GROUP consecutive weights of a row, as floats, whatever they are
 * stored as.  The formulas are backends/graph/dequant.c's (the oracle), the places planes.h's. */
#ifndef DBRX_CUDA_WEIGHTS_CUH
#define DBRX_CUDA_WEIGHTS_CUH

#include "backends/cuda/base.cuh"

/* byte i of a run of words; after unrolling, a shift and a mask */
__device__ __forceinline__ uint32_t byte_of(const uint32_t *u, int i)
{
    return u[i / 4] >> 8 * (i % 4) & 255;
}

/* 16 bytes, 32 bytes */
__device__ __forceinline__ void take16(uint32_t *u, const unsigned char *p)
{
    four a = load16(p);
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

__device__ __forceinline__ float iq4_level(uint32_t i)
{
    /* -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113 */
    const uint64_t low = 0xf6eaddcfbfad9881u, high = 0x7159453526190d01u;
    return (float)(int8_t)((i & 8 ? high : low) >> 8 * (i & 7) & 255);
}

/* 16 bytes of two values each: the first sixteen low, the others high */
#define NIBBLES(v, u, f) do { for (int i_ = 0; i_ < 16; i_++) { \
        uint32_t b_ = byte_of(u, i_); \
        { const int i = i_;      const uint32_t q = b_ & 15; v[i] = f; } \
        { const int i = i_ + 16; const uint32_t q = b_ >> 4; v[i] = f; } } } while (0)

template <int TYPE> struct Fmt;
/* v[GROUP] = group g of row `row`; a row has `groups` of them */
#define FORMAT(TYPE) template <> struct Fmt<DBRX_##TYPE> { \
    static __device__ __forceinline__ void load(const wt &w, size_t row, uint32_t groups, uint32_t g, float *v)

/* block b of all, group `sub` of its eight */
#define K_BLOCK const size_t b = row * (groups / 8) + g / 8; const uint32_t sub = g % 8
#define BLOCK   const size_t b = row * groups + g

FORMAT(F32)
{
    BLOCK;
    for (int i = 0; i < GROUP; i += 8)
        kv_get8<DBRX_F32>(w.p[0], b * GROUP + i, v + i);
} };

FORMAT(F16)
{
    BLOCK;
    for (int i = 0; i < GROUP; i += 8)
        kv_get8<DBRX_F16>(w.p[0], b * GROUP + i, v + i);
} };

FORMAT(BF16)
{
    BLOCK;
    for (int i = 0; i < GROUP; i += 8)
        kv_get8<DBRX_BF16>(w.p[0], b * GROUP + i, v + i);
} };

FORMAT(Q8_0)
{
    BLOCK;
    uint32_t u[8];
    take32(u, w.p[0] + 32 * b);
    float d = low_half(load2(w.p[1] + 2 * b));
    for (int i = 0; i < GROUP; i++)
        v[i] = d * (float)(int8_t)byte_of(u, i);
} };

FORMAT(Q4_0)
{
    BLOCK;
    uint32_t u[4];
    take16(u, w.p[0] + 16 * b);
    float d = low_half(load2(w.p[1] + 2 * b));
    NIBBLES(v, u, d * (float)((int)q - 8));
} };

FORMAT(Q4_1)
{
    BLOCK;
    uint32_t u[4], dm = load4(w.p[1] + 4 * b);
    take16(u, w.p[0] + 16 * b);
    float d = low_half(dm), m = high_half(dm);
    NIBBLES(v, u, d * (float)q + m);
} };

FORMAT(Q5_0)
{
    BLOCK;
    uint32_t u[4], high = load4(w.p[1] + 4 * b);
    take16(u, w.p[0] + 16 * b);
    float d = low_half(load2(w.p[2] + 2 * b));
    NIBBLES(v, u, d * (float)((int)(q | (high >> i & 1) << 4) - 16));
} };

FORMAT(Q5_1)
{
    BLOCK;
    uint32_t u[4], high = load4(w.p[1] + 4 * b), dm = load4(w.p[2] + 4 * b);
    take16(u, w.p[0] + 16 * b);
    float d = low_half(dm), m = high_half(dm);
    NIBBLES(v, u, d * (float)(q | (high >> i & 1) << 4) + m);
} };

FORMAT(IQ4_NL)
{
    BLOCK;
    uint32_t u[4];
    take16(u, w.p[0] + 16 * b);
    float d = low_half(load2(w.p[1] + 2 * b));
    NIBBLES(v, u, d * iq4_level(q));
} };

FORMAT(IQ4_XS)
{
    K_BLOCK;
    uint32_t u[4], head = load4(w.p[1] + 8 * b), low = load4(w.p[1] + 8 * b + 4);
    take16(u, w.p[0] + 128 * b + 16 * sub);
    int scale = (int)((low >> 4 * sub & 15) | (head >> 16 >> 2 * sub & 3) << 4);
    float d = low_half(head) * (float)(scale - 32);
    NIBBLES(v, u, d * iq4_level(q));
} };

FORMAT(Q2_K)
{
    K_BLOCK;
    uint32_t u[8], s = load2(w.p[1] + 16 * b + 2 * sub), dm = load4(w.p[2] + 4 * b);
    take32(u, w.p[0] + 64 * b + 32 * (sub / 4));
    float d = low_half(dm), m = high_half(dm);
    for (int i = 0; i < GROUP; i++) {
        uint32_t both = s >> 8 * (i / 16) & 255;
        v[i] = d * (float)(both & 15) * (float)(byte_of(u, i) >> 2 * (sub % 4) & 3) - m * (float)(both >> 4);
    }
} };

FORMAT(Q3_K)
{
    K_BLOCK;
    const unsigned char *s = w.p[2] + 12 * b;
    uint32_t u[8], h[8];
    take32(u, w.p[0] + 64 * b + 32 * (sub / 4));
    take32(h, w.p[1] + 32 * b);
    float d = low_half(load2(w.p[3] + 2 * b));
    for (int i = 0; i < GROUP; i++) {
        uint32_t k = 2 * sub + i / 16;
        int scale = (s[k % 8] >> k / 8 * 4 & 15) | (s[8 + k % 4] >> k / 4 * 2 & 3) << 4;
        int q = (int)(byte_of(u, i) >> 2 * (sub % 4) & 3) - (byte_of(h, i) >> sub & 1 ? 0 : 4);
        v[i] = d * (float)(scale - 32) * (float)q;
    }
} };

/* Scale and minimum of sub-block j, 6 bits each, out of d, m and twelve bytes (Q4_K, Q5_K) */
__device__ __forceinline__ void k4_scale(const unsigned char *head, uint32_t j, float *scale, float *min)
{
    four u = load16(head);
    uint32_t at = 8 * (j % 4), s = u.y >> at, m = u.z >> at, t = u.w >> at;
    if (j < 4) {
        s &= 63;
        m &= 63;
    } else {
        s = (t & 15) | (s >> 6 & 3) << 4;
        m = (t >> 4 & 15) | (m >> 6 & 3) << 4;
    }
    *scale = low_half(u.x) * (float)s;
    *min = high_half(u.x) * (float)m;
}

FORMAT(Q4_K)
{
    K_BLOCK;
    uint32_t u[8];
    float d, m;
    take32(u, w.p[0] + 128 * b + 32 * (sub / 2));
    k4_scale(w.p[1] + 16 * b, sub, &d, &m);
    for (int i = 0; i < GROUP; i++)
        v[i] = d * (float)(byte_of(u, i) >> 4 * (sub % 2) & 15) - m;
} };

FORMAT(Q5_K)
{
    K_BLOCK;
    uint32_t u[8], h[8];
    float d, m;
    take32(u, w.p[0] + 128 * b + 32 * (sub / 2));
    take32(h, w.p[2] + 32 * b);
    k4_scale(w.p[1] + 16 * b, sub, &d, &m);
    for (int i = 0; i < GROUP; i++)
        v[i] = d * (float)((byte_of(u, i) >> 4 * (sub % 2) & 15) | (byte_of(h, i) >> sub & 1) << 4) - m;
} };

FORMAT(Q6_K)
{
    K_BLOCK;
    const uint32_t half = sub / 4, run = sub % 4;
    uint32_t u[8], h[8];
    take32(u, w.p[0] + 128 * b + 64 * half + 32 * (run % 2));
    take32(h, w.p[1] + 64 * b + 32 * half);
    float d = low_half(load2(w.p[3] + 2 * b));
    uint32_t s = load2(w.p[2] + 16 * b + 2 * sub);
    for (int i = 0; i < GROUP; i++) {
        int q = (int)((byte_of(u, i) >> run / 2 * 4 & 15) | (byte_of(h, i) >> 2 * run & 3) << 4) - 32;
        v[i] = d * (float)(int8_t)(s >> 8 * (i / 16) & 255) * (float)q;
    }
} };

#undef FORMAT
#undef BLOCK
#undef K_BLOCK

/* The same where the type is known at run time only; one copy of it is enough. */
__device__ __noinline__ void load_any(const wt &w, uint32_t type, size_t row, uint32_t groups, uint32_t g, float *v)
{
    switch (type) {
#define CASE(NAME, ...) case DBRX_##NAME: Fmt<DBRX_##NAME>::load(w, row, groups, g, v); break;
    CUDA_TYPES(CASE)
#undef CASE
    }
}

#endif
