/* backends/graph/dequant.c -- stored weights to float.  See dequant.h.
 * Knows element types only; not shapes, not what a tensor is for.
 *
 * A block of 32 has a scale d, or d and a minimum m, as binary16 and a few bits a value.
 * A "K" block of 256 has such scales for its sub-blocks, themselves quantised. */
#include "backends/graph/dequant.h"

#include "backends/backend.h"

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 0x3ff, u;
    float f;
    if (exp == 0) {                        /* zero and subnormals: man * 2^-24, exact in float */
        f = (float)man * 0x1p-24f;
        return sign ? -f : f;
    }
    u = sign | (exp == 31 ? 0x7f800000u : (exp + 112) << 23) | man << 13;
    memcpy(&f, &u, 4);
    return f;
}

/* memcpy, because a checkpoint need not align its tensors; values are little-endian */
static float half_at(const uint8_t *p)
{
    return f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

/* ---- one value a block ---- */

static void f32(float *y, const uint8_t *p)
{
    memcpy(y, p, 4);
}

static void f16(float *y, const uint8_t *p)
{
    *y = half_at(p);
}

static void bf16(float *y, const uint8_t *p)
{
    *y = bf16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

/* ---- blocks of 32: value i of the first half in the low bits of byte i, value i + 16 in
 * the high ones ---- */

static void q8_0(float *y, const uint8_t *p)
{
    float d = half_at(p);
    for (int i = 0; i < 32; i++)
        y[i] = d * (int8_t)p[2 + i];
}

static void q4_0(float *y, const uint8_t *p)
{
    float d = half_at(p);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((p[2 + i] & 15) - 8);
        y[i + 16] = d * (float)((p[2 + i] >> 4) - 8);
    }
}

static void q4_1(float *y, const uint8_t *p)
{
    float d = half_at(p), m = half_at(p + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (p[4 + i] & 15) + m;
        y[i + 16] = d * (p[4 + i] >> 4) + m;
    }
}

/* the fifth bit of value i is bit i of 4 bytes */
static int bit_at(const uint8_t *p, int i)
{
    return p[i / 8] >> i % 8 & 1;
}

static void q5_0(float *y, const uint8_t *p)
{
    float d = half_at(p);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(((p[6 + i] & 15) | bit_at(p + 2, i) << 4) - 16);
        y[i + 16] = d * (float)((p[6 + i] >> 4 | bit_at(p + 2, i + 16) << 4) - 16);
    }
}

static void q5_1(float *y, const uint8_t *p)
{
    float d = half_at(p), m = half_at(p + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((p[8 + i] & 15) | bit_at(p + 4, i) << 4) + m;
        y[i + 16] = d * (float)(p[8 + i] >> 4 | bit_at(p + 4, i + 16) << 4) + m;
    }
}

const int8_t dequant_iq4[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
};

static void iq4_levels(float *y, const uint8_t *q, float d)
{
    for (int i = 0; i < 16; i++) {
        y[i] = d * dequant_iq4[q[i] & 15];
        y[i + 16] = d * dequant_iq4[q[i] >> 4];
    }
}

static void iq4_nl(float *y, const uint8_t *p)
{
    iq4_levels(y, p + 2, half_at(p));
}

/* ---- blocks of 256 ---- */

/* d, 2 bits and 4 low bits of 8 scales, values */
static void iq4_xs(float *y, const uint8_t *p)
{
    float d = half_at(p);
    int high = p[2] | p[3] << 8;
    for (int b = 0; b < 8; b++) {
        int scale = (p[4 + b / 2] >> b % 2 * 4 & 15) | (high >> 2 * b & 3) << 4;
        iq4_levels(y + 32 * b, p + 8 + 16 * b, d * (float)(scale - 32));
    }
}

/* 16 x (4-bit scale, 4-bit minimum), 2-bit values, d, m.  Sub-block b has 16 values; a byte
 * holds one of each of four sub-blocks. */
static void q2_k(float *y, const uint8_t *p)
{
    float d = half_at(p + 80), m = half_at(p + 82);
    for (int b = 0; b < 16; b++) {
        const uint8_t *q = p + 16 + b / 8 * 32 + b % 2 * 16;
        float scale = d * (p[b] & 15), min = m * (p[b] >> 4);
        for (int i = 0; i < 16; i++)
            y[16 * b + i] = scale * (float)(q[i] >> b % 8 / 2 * 2 & 3) - min;
    }
}

/* the third bits, 2-bit values, 16 scales of 6 bits, d */
static void q3_k(float *y, const uint8_t *p)
{
    const uint8_t *s = p + 96;
    float d = half_at(p + 108);
    for (int b = 0; b < 16; b++) {
        const uint8_t *q = p + 32 + b / 8 * 32 + b % 2 * 16, *high = p + b % 2 * 16;
        int scale = (s[b % 8] >> b / 8 * 4 & 15) | (s[8 + b % 4] >> b / 4 * 2 & 3) << 4;
        float each = d * (float)(scale - 32);
        for (int i = 0; i < 16; i++)
            y[16 * b + i] = each * (float)((q[i] >> b % 8 / 2 * 2 & 3) - (high[i] >> b / 2 & 1 ? 0 : 4));
    }
}

/* d, m, 8 x (6-bit scale, 6-bit minimum), values: 32 of one sub-block in the low halves of
 * bytes, 32 of the next in the high ones.  Q5_K: the fifth bits before them. */
static void q45_k(float *y, const uint8_t *p, const uint8_t *high)
{
    float d = half_at(p), m = half_at(p + 2);
    const uint8_t *q = high ? p + 48 : p + 16;
    for (int b = 0; b < 8; b++) {
        uint8_t s, t;
        dequant_k4_scale(p + 4, b, &s, &t);
        float scale = d * s, min = m * t;
        for (int i = 0; i < 32; i++)
            y[32 * b + i] = scale * (float)((q[b / 2 * 32 + i] >> b % 2 * 4 & 15) |
                                            (high ? (high[i] >> b & 1) << 4 : 0)) - min;
    }
}

static void q4_k(float *y, const uint8_t *p)
{
    q45_k(y, p, NULL);
}

static void q5_k(float *y, const uint8_t *p)
{
    q45_k(y, p, p + 16);
}

/* 4 low bits, 2 high bits, 16 signed 8-bit scales, d; a half has four runs of 32 values */
static void q6_k(float *y, const uint8_t *p)
{
    float d = half_at(p + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, run = i % 128 / 32, l = i % 32;
        int low = p[64 * half + run % 2 * 32 + l] >> run / 2 * 4 & 15;
        int high = p[128 + 32 * half + l] >> 2 * run & 3;
        y[i] = d * (int8_t)p[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}

/* ---- the table ---- */

static void (*const blocks[])(float *y, const uint8_t *p) = {
    [DBRX_F32] = f32, [DBRX_F16] = f16, [DBRX_BF16] = bf16, [DBRX_Q8_0] = q8_0,
    [DBRX_Q4_0] = q4_0, [DBRX_Q4_1] = q4_1, [DBRX_Q5_0] = q5_0, [DBRX_Q5_1] = q5_1,
    [DBRX_Q2_K] = q2_k, [DBRX_Q3_K] = q3_k, [DBRX_Q4_K] = q4_k, [DBRX_Q5_K] = q5_k,
    [DBRX_Q6_K] = q6_k, [DBRX_IQ4_NL] = iq4_nl, [DBRX_IQ4_XS] = iq4_xs,
};

void dequant(float *dst, const void *src, uint32_t dtype, size_t first, size_t n)
{
    size_t block = dtype_block(dtype), bytes = dtype_block_bytes(dtype);
    const uint8_t *p = (const uint8_t *)src + first / block * bytes;
    if (dtype == DBRX_F32) {
        memcpy(dst, p, 4 * n);
        return;
    }
    for (size_t skip = first % block; n; p += bytes, skip = 0) {
        float part[DTYPE_MAX_BLOCK];
        size_t len = block - skip < n ? block - skip : n;
        blocks[dtype](len == block ? dst : part, p);
        if (len < block)
            memcpy(dst, part + skip, len * sizeof *dst);
        dst += len;
        n -= len;
    }
}
