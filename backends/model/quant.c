/* backends/model/quant.c -- float rows to blocks.  See quant.h.
 *
 * Everywhere the same two steps.  For fixed integers the best real scale (and minimum) is a
 * least-squares solution; for a fixed scale the best integers are the nearest.  Which local
 * optimum that ends in depends on where it starts, so several starts are tried and the one
 * with the least error wins.  Scales that are stored quantised are solved for once more over
 * the whole block. */
#include "backends/model/quant.h"

#include "backends/backend.h"
#include "backends/graph/dequant.h"

#include <math.h>
#include <string.h>

uint16_t f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000)     /* NaN: its upper bits, never an infinity */
        return (uint16_t)(u >> 16 | ((u >> 16 & 0x7f) == 0));
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

uint16_t f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7c00 | (u >> 13 & 0x3ff) | ((u >> 13 & 0x3ff) == 0));
    if (u >= 0x47800000)                   /* 65536 and more; what rounds up to it falls out below */
        return sign | 0x7c00;
    if (u < 0x38800000) {                  /* subnormal: adding 0.5 aligns and rounds the mantissa */
        float x;
        memcpy(&x, &u, 4);
        x += 0.5f;
        memcpy(&u, &x, 4);
        return (uint16_t)(sign | (u - 0x3f000000));
    }
    u += 0xfff + (u >> 13 & 1);
    return (uint16_t)(sign | (u - 0x38000000) >> 13);
}

/* To the nearest integer, |x| < 2^22: by adding and taking away what leaves no fraction bits */
static inline int nearest(float x)
{
    float y = x + 12582912.f;
    uint32_t u;
    memcpy(&u, &y, 4);
    return (int)(u & 0x7fffff) - 0x400000;
}

static inline int clamp(int x, int lo, int hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

static void put_half(uint8_t *p, float x)
{
    uint16_t h = f32_to_f16(x);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

/* What a scale becomes when it is stored; 0 when it would be no number */
static float as_half(float x)
{
    float h = f16_to_f32(f32_to_f16(x));
    return isfinite(h) ? h : copysignf(65504, x);
}

/* ---- x ~ d q, lo <= q <= hi ---- */

enum { MAX_N = 32 };                       /* values that share a scale, at most */

/* q for that d, and in *better the best d for those q; the error with *better, less sum(w x^2) */
static inline float fit_scale(const float *x, const float *w, int n, int lo, int hi, float inverse,
                              float *better)
{
    float xq = 0, qq = 0;
    for (int i = 0; i < n; i++) {
        float q = (float)clamp(nearest(x[i] * inverse), lo, hi);
        xq += w[i] * x[i] * q;
        qq += w[i] * q * q;
    }
    *better = qq > 0 ? xq / qq : 0;
    return qq > 0 ? -xq * xq / qq : 0;
}

/* The best d found */
static float find_scale(const float *x, const float *w, int n, int lo, int hi)
{
    enum { STARTS = 9 };
    float top = 0, best = 0, least = 0;
    for (int i = 0; i < n; i++)
        top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    if (fabsf(top) < 1e-30f)
        return 0;
    for (int side = 0; side < 2; side++)   /* the largest value at either end of the range */
        for (int s = 0; s < STARTS; s++) {
            float end = (float)(side ? hi : lo), step = (float)(s - STARTS / 2) * 0.1f * (side ? 1 : -1);
            float d, inverse = (end + step * (hi > 100 ? 1.0f : 2.0f)) / top;
            float err = fit_scale(x, w, n, lo, hi, inverse, &d);
            if (err < least)
                least = err, best = d;
        }
    if (best != 0) {                       /* once more from there */
        float d, err = fit_scale(x, w, n, lo, hi, 1 / best, &d);
        best = err < least ? d : best;
    }
    return best;
}

/* ---- x ~ s q + b, 0 <= q <= hi ---- */

struct line { float s, b; };

/* q for that line, in *better the best line for those q, its offset at most `most`; the error less
 * sum(w x^2) */
static inline float fit_line(const float *x, const float *w, int n, int hi, struct line from, float most,
                             struct line *better)
{
    float sw = 0, sx = 0, sq = 0, sqq = 0, sxq = 0, inverse = from.s > 0 ? 1 / from.s : 0;
    for (int i = 0; i < n; i++) {
        float q = (float)clamp(nearest((x[i] - from.b) * inverse), 0, hi);
        sw += w[i];
        sx += w[i] * x[i];
        sq += w[i] * q;
        sqq += w[i] * q * q;
        sxq += w[i] * x[i] * q;
    }
    float det = sw * sqq - sq * sq;
    *better = from;
    if (det > 1e-6f * sw * sqq) {
        better->s = (sw * sxq - sq * sx) / det;
        better->b = (sqq * sx - sq * sxq) / det;
    }
    if (better->b > most || better->s < 0) {
        better->b = most < better->b ? most : better->b;
        better->s = sqq > 0 ? (sxq - better->b * sq) / sqq : 0;
    }
    float s = better->s, b = better->b;
    return s * s * sqq + b * b * sw + 2 * s * b * sq - 2 * s * sxq - 2 * b * sx;
}

/* The best line found.  most: INFINITY, or 0 where the offset is stored as a minimum to subtract */
static struct line find_line(const float *x, const float *w, int n, int hi, float most)
{
    enum { STARTS = 10 };
    float min = x[0], max = x[0], least = INFINITY;
    struct line best = { 0, 0 }, next;
    for (int i = 1; i < n; i++) {
        min = x[i] < min ? x[i] : min;
        max = x[i] > max ? x[i] : max;
    }
    min = min > most ? most : min;
    if (max - min < 1e-30f)
        return (struct line){ 0, min };
    for (int s = 0; s < STARTS; s++) {
        struct line from = { (max - min) / ((float)hi - 0.6f + 0.18f * (float)s), min };
        float err = fit_line(x, w, n, hi, from, most, &next);
        err = fminf(err, fit_line(x, w, n, hi, next, most, &from));
        if (err < least)
            least = err, best = from;
    }
    return best;
}

/* ---- blocks of 32 ---- */

static void q8_0(const float *x, const float *w, uint8_t *p)
{
    float top = 0, least = INFINITY, best = 0;
    for (int i = 0; i < 32; i++)
        top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    for (int s = 0; s < 3; s++) {          /* with 255 steps there is little to look for */
        float d = as_half(top / (127 + 0.3f * (float)s)), inverse = d > 0 ? 1 / d : 0, err = 0;
        for (int i = 0; i < 32; i++) {
            float e = x[i] - d * (float)clamp(nearest(x[i] * inverse), -127, 127);
            err += w[i] * e * e;
        }
        if (err < least)
            least = err, best = d;
    }
    put_half(p, best);
    for (int i = 0; i < 32; i++)
        p[2 + i] = (uint8_t)clamp(nearest(best != 0 ? x[i] / best : 0), -127, 127);
}

/* value i and i + 16 share a byte; bit 4 of each, if there are 5, goes to high[4] */
static void put_nibbles(uint8_t *q, uint8_t *high, const int v[32])
{
    for (int i = 0; i < 16; i++)
        q[i] = (uint8_t)((v[i] & 15) | (v[i + 16] & 15) << 4);
    for (int i = 0; high && i < 32; i++)
        high[i / 8] = (uint8_t)((i % 8 ? high[i / 8] : 0) | (v[i] >> 4) << i % 8);
}

static void symmetric(const float *x, const float *w, uint8_t *p, int bits)
{
    int v[32], middle = 1 << (bits - 1);
    float d = as_half(find_scale(x, w, 32, -middle, middle - 1)), inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < 32; i++)
        v[i] = clamp(nearest(x[i] * inverse), -middle, middle - 1) + middle;
    put_half(p, d);
    put_nibbles(p + (bits == 5 ? 6 : 2), bits == 5 ? p + 2 : NULL, v);
}

static void affine(const float *x, const float *w, uint8_t *p, int bits)
{
    int v[32], hi = (1 << bits) - 1;
    struct line l = find_line(x, w, 32, hi, INFINITY);
    float s = as_half(l.s), b = as_half(l.b), inverse = s > 0 ? 1 / s : 0;
    for (int i = 0; i < 32; i++)
        v[i] = clamp(nearest((x[i] - b) * inverse), 0, hi);
    put_half(p, s);
    put_half(p + 2, b);
    put_nibbles(p + (bits == 5 ? 8 : 4), bits == 5 ? p + 4 : NULL, v);
}

static void q4_0(const float *x, const float *w, uint8_t *p) { symmetric(x, w, p, 4); }
static void q5_0(const float *x, const float *w, uint8_t *p) { symmetric(x, w, p, 5); }
static void q4_1(const float *x, const float *w, uint8_t *p) { affine(x, w, p, 4); }
static void q5_1(const float *x, const float *w, uint8_t *p) { affine(x, w, p, 5); }

/* ---- Q4_K, Q5_K: eight lines of 32, whose slopes and minima are 6-bit multiples of d and m ---- */

struct k45 { float d, m; int ls[8], lm[8], v[256]; };

static float k45_round(const float *x, const float *w, int hi, struct k45 *k)
{
    float err = 0;
    for (int b = 0; b < 8; b++) {
        float s = k->d * (float)k->ls[b], min = k->m * (float)k->lm[b], inverse = s > 0 ? 1 / s : 0;
        for (int i = 32 * b; i < 32 * b + 32; i++) {
            k->v[i] = clamp(nearest((x[i] + min) * inverse), 0, hi);
            float e = x[i] - (s * (float)k->v[i] - min);
            err += w[i] * e * e;
        }
    }
    return err;
}

/* The best d and m for the integers as they are */
static void k45_solve(const float *x, const float *w, struct k45 *k)
{
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = 0; i < 256; i++) {
        double a = (double)k->ls[i / 32] * k->v[i], b = -k->lm[i / 32], wi = w[i];
        aa += wi * a * a, ab += wi * a * b, bb += wi * b * b;
        ax += wi * a * x[i], bx += wi * b * x[i];
    }
    double det = aa * bb - ab * ab;
    if (det > 1e-9 * aa * bb && aa > 0) {
        double d = (bb * ax - ab * bx) / det, m = (aa * bx - ab * ax) / det;
        if (d > 0 && m >= 0)
            k->d = as_half((float)d), k->m = as_half((float)m);
    } else if (aa > 0 && ax > 0) {
        k->d = as_half((float)((ax - k->m * ab) / aa));
    }
}

/* Each sub-block's multiples once more, one up or down where that is better */
static void k45_adjust(const float *x, const float *w, int hi, struct k45 *k)
{
    for (int b = 0; b < 8; b++) {
        const float *xb = x + 32 * b, *wb = w + 32 * b;
        int ls = k->ls[b], lm = k->lm[b];
        float least = INFINITY;
        for (int t = 0; t < 9; t++) {
            int a = clamp(ls + t % 3 - 1, 0, 63), c = clamp(lm + t / 3 - 1, 0, 63);
            float s = k->d * (float)a, min = k->m * (float)c, inverse = s > 0 ? 1 / s : 0, err = 0;
            for (int i = 0; i < 32; i++) {
                float e = xb[i] - (s * (float)clamp(nearest((xb[i] + min) * inverse), 0, hi) - min);
                err += wb[i] * e * e;
            }
            if (err < least)
                least = err, k->ls[b] = a, k->lm[b] = c;
        }
    }
}

static void q45_k(const float *x, const float *w, uint8_t *p, int bits)
{
    int hi = (1 << bits) - 1;
    struct line l[8];
    struct k45 k = { 0 }, best;
    float top_s = 0, top_m = 0;
    for (int b = 0; b < 8; b++) {
        l[b] = find_line(x + 32 * b, w + 32 * b, 32, hi, 0);
        top_s = fmaxf(top_s, l[b].s);
        top_m = fmaxf(top_m, -l[b].b);
    }
    k.d = as_half(top_s / 63);
    k.m = as_half(top_m / 63);
    for (int b = 0; b < 8; b++) {
        k.ls[b] = k.d > 0 ? clamp(nearest(l[b].s / k.d), 0, 63) : 0;
        k.lm[b] = k.m > 0 ? clamp(nearest(-l[b].b / k.m), 0, 63) : 0;
    }
    float least = k45_round(x, w, hi, &k);
    best = k;
    for (int round = 0; round < 3; round++) {
        k45_adjust(x, w, hi, &k);
        k45_round(x, w, hi, &k);
        k45_solve(x, w, &k);
        float err = k45_round(x, w, hi, &k);
        if (err >= least)
            break;
        least = err, best = k;
    }
    put_half(p, best.d);
    put_half(p + 2, best.m);
    uint8_t *s = p + 4, *q = p + (bits == 5 ? 48 : 16);
    for (int b = 0; b < 4; b++) {          /* as dequant_k4_scale takes them apart */
        s[b] = (uint8_t)(best.ls[b] | best.ls[b + 4] >> 4 << 6);
        s[b + 4] = (uint8_t)(best.lm[b] | best.lm[b + 4] >> 4 << 6);
        s[b + 8] = (uint8_t)((best.ls[b + 4] & 15) | (best.lm[b + 4] & 15) << 4);
    }
    for (int i = 0; i < 128; i++)
        q[i] = (uint8_t)((best.v[i / 32 * 64 + i % 32] & 15) | (best.v[i / 32 * 64 + 32 + i % 32] & 15) << 4);
    for (int i = 0; bits == 5 && i < 32; i++) {
        p[16 + i] = 0;
        for (int b = 0; b < 8; b++)
            p[16 + i] |= (uint8_t)(best.v[32 * b + i] >> 4 << b);
    }
}

static void q4_k(const float *x, const float *w, uint8_t *p) { q45_k(x, w, p, 4); }
static void q5_k(const float *x, const float *w, uint8_t *p) { q45_k(x, w, p, 5); }

/* ---- Q6_K: sixteen scales of 16 values, 8-bit multiples of d ---- */

struct k6 { float d; int ls[16], v[256]; };

static float k6_round(const float *x, const float *w, struct k6 *k)
{
    float err = 0;
    for (int b = 0; b < 16; b++) {
        float s = k->d * (float)k->ls[b], inverse = s != 0 ? 1 / s : 0;
        for (int i = 16 * b; i < 16 * b + 16; i++) {
            k->v[i] = clamp(nearest(x[i] * inverse), -32, 31);
            float e = x[i] - s * (float)k->v[i];
            err += w[i] * e * e;
        }
    }
    return err;
}

static void q6_k(const float *x, const float *w, uint8_t *p)
{
    float scale[16], top = 0, least;
    struct k6 k, best;
    for (int b = 0; b < 16; b++) {
        scale[b] = find_scale(x + 16 * b, w + 16 * b, 16, -32, 31);
        top = fabsf(scale[b]) > fabsf(top) ? scale[b] : top;
    }
    k.d = as_half(top / -128);
    for (int b = 0; b < 16; b++)
        k.ls[b] = k.d != 0 ? clamp(nearest(scale[b] / k.d), -128, 127) : 0;
    least = k6_round(x, w, &k);
    best = k;
    for (int round = 0; round < 2; round++) {
        double aa = 0, ax = 0;
        for (int i = 0; i < 256; i++) {
            double a = (double)k.ls[i / 16] * k.v[i];
            aa += w[i] * a * a, ax += w[i] * a * x[i];
        }
        k.d = aa > 0 ? as_half((float)(ax / aa)) : 0;
        float err = k6_round(x, w, &k);
        if (err >= least)
            break;
        least = err, best = k;
    }
    for (int i = 0; i < 64; i++)           /* four runs of 32 a half: see dequant.c */
        for (int half = 0; half < 2; half++) {
            const int *v = best.v + 128 * half;
            p[64 * half + i] = (uint8_t)(((v[i] + 32) & 15) | ((v[i + 64] + 32) & 15) << 4);
            if (i < 32)
                p[128 + 32 * half + i] = (uint8_t)((v[i] + 32) >> 4 | (v[i + 32] + 32) >> 4 << 2 |
                                                   (v[i + 64] + 32) >> 4 << 4 | (v[i + 96] + 32) >> 4 << 6);
        }
    for (int b = 0; b < 16; b++)
        p[192 + b] = (uint8_t)(int8_t)best.ls[b];
    put_half(p + 208, best.d);
}

/* ---- unquantised ---- */

static void f32(const float *x, const float *w, uint8_t *p)
{
    (void)w;
    memcpy(p, x, 4);
}

static void f16(const float *x, const float *w, uint8_t *p)
{
    (void)w;
    put_half(p, *x);
}

static void bf16(const float *x, const float *w, uint8_t *p)
{
    uint16_t h = f32_to_bf16(*x);
    (void)w;
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static void (*const blocks[])(const float *x, const float *w, uint8_t *p) = {
    [DBRX_F32] = f32, [DBRX_F16] = f16, [DBRX_BF16] = bf16, [DBRX_Q8_0] = q8_0, [DBRX_Q4_0] = q4_0,
    [DBRX_Q4_1] = q4_1, [DBRX_Q5_0] = q5_0, [DBRX_Q5_1] = q5_1, [DBRX_Q4_K] = q4_k,
    [DBRX_Q5_K] = q5_k, [DBRX_Q6_K] = q6_k,
};

int quant_knows(uint32_t dtype)
{
    return dtype < sizeof blocks / sizeof *blocks && blocks[dtype];
}

void quant_row(uint32_t dtype, const float *x, size_t n, const float *weight, void *out)
{
    static const float ones[DTYPE_MAX_BLOCK] = {
#define ONES8  1, 1, 1, 1, 1, 1, 1, 1
#define ONES64 ONES8, ONES8, ONES8, ONES8, ONES8, ONES8, ONES8, ONES8
        ONES64, ONES64, ONES64, ONES64
    };
    size_t block = dtype_block(dtype), bytes = dtype_block_bytes(dtype);
    for (size_t i = 0; i < n; i += block)
        blocks[dtype](x + i, weight ? weight + i : ones, (uint8_t *)out + i / block * bytes);
}
