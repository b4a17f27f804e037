/* backends/cpu-blas/simd.h -- the kernels over an abstract vector.  Included by avx2.c
 * and avx512.c, which first define:
 *   VEC, LANES, v_set, v_add, v_sub, v_mul, v_div, v_max, v_fma (a*b + c), v_sum, v_top (largest lane),
 *   v_load_f32/f16/bf16/i8 (unaligned), v_set_f16 (from its bits), v_store, v_exp2i (2^k for integral k in [-126, 127]), v_round, v_min
 *   v_store_f32/f16/bf16 (unaligned, to the nearest, ties to even, a NaN stays one), v_store_i8 (cut off), MIX (vectors of
 *   a row of V that fit the registers four times), KERNELS_NAME, KERNELS_TABLE.
 * Tails shorter than a vector are done in scalars by the plain table. */
#include "backends/cpu-blas/kernels.h"
#include "backends/cpu-blas/simd_exp.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 4") for

/* Weights of a single token come from memory, and sooner the more strictly in their order: row by
 * row, fetched this far ahead, past L2, for they are used once. */
enum { AHEAD = 3072 };

/* what goes beyond `end` is `jump` away */
INLINE void fetch_ahead(const char *p, size_t bytes, uintptr_t end, uintptr_t jump)
{
    uintptr_t ahead = (uintptr_t)p + AHEAD;
    ahead += ahead < end ? 0 : jump;
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)ahead + i, 0, 0);
}

#define DEFINE(t, T, size) \
static void matvec_##t(float *y, const void *w, size_t rows, size_t stride, size_t cols, \
                       const float *x, const void *next) \
{ \
    const char *row = w; \
    const uintptr_t end = (uintptr_t)w + rows * stride * size; \
    const uintptr_t jump = next ? (uintptr_t)next - end : 0; \
    for (size_t r = 0, c; r < rows; r++, row += stride * size) { \
        VEC s[4] = { v_set(0), v_set(0), v_set(0), v_set(0) }; \
        for (c = 0; c + 4 * LANES <= cols; c += 4 * LANES) { \
            fetch_ahead(row + c * size, 4 * LANES * size, end, jump); \
            UNROLL (size_t i = 0; i < 4; i++) \
                s[i] = v_fma(v_load_##t(row + (c + i * LANES) * size), v_load_f32(x + c + i * LANES), \
                             s[i]); \
        } \
        for (; c + LANES <= cols; c += LANES) \
            s[0] = v_fma(v_load_##t(row + c * size), v_load_f32(x + c), s[0]); \
        float tail = 0; \
        if (c < cols) \
            kernels_plain.matvec[T](&tail, row + c * size, 1, stride, cols - c, x + c, NULL); \
        y[r] = v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3]))) + tail; \
    } \
} \
static void vecmat_##t(float *y, const void *w, size_t rows, size_t stride, size_t cols, \
                       const float *h) \
{ \
    const char *row = w; \
    for (size_t r = 0, c; r < rows; r++, row += stride * size) { \
        const VEC f = v_set(h[r]); \
        for (c = 0; c + 2 * LANES <= cols; c += 2 * LANES) { \
            fetch_ahead(row + c * size, 2 * LANES * size, 0, 0); \
            UNROLL (size_t i = 0; i < 2; i++) \
                v_store(y + c + i * LANES, v_fma(v_load_##t(row + (c + i * LANES) * size), f, \
                                                 v_load_f32(y + c + i * LANES))); \
        } \
        if (c < cols) \
            kernels_plain.vecmat[T](y + c, row + c * size, 1, stride, cols - c, h + r); \
    } \
} \
static void widen_##t(float *dst, const void *src, size_t n) \
{ \
    size_t i = 0; \
    for (; i + LANES <= n; i += LANES) \
        v_store(dst + i, v_load_##t((const char *)src + i * size)); \
    kernels_plain.widen[T](dst + i, (const char *)src + i * size, n - i); \
} \
static void narrow_##t(void *dst, const float *src, size_t n) \
{ \
    size_t i = 0; \
    for (; i + LANES <= n; i += LANES) \
        v_store_##t((char *)dst + i * size, v_load_f32(src + i)); \
    kernels_plain.narrow[T]((char *)dst + i * size, src + i, n - i); \
}
DEFINE(f32, K_F32, 4)
DEFINE(f16, K_F16, 2)
DEFINE(bf16, K_BF16, 2)

/* ---- Q8_0: a scale and 32 bytes, only in a KV cache ---- */

/* LANES numbers from column c of a row on, and the bytes of n of them */
#define v_at_f32(row, c)  v_load_f32((row) + (c) * 4)
#define v_at_f16(row, c)  v_load_f16((row) + (c) * 2)
#define v_at_bf16(row, c) v_load_bf16((row) + (c) * 2)
#define bytes_f32(n)      ((n) * 4)
#define bytes_f16(n)      ((n) * 2)
#define bytes_bf16(n)     ((n) * 2)
#define bytes_q8_0(n)     ((n) / 32 * 34)

INLINE VEC v_at_q8_0(const char *row, size_t c)
{
    uint16_t scale;
    row += bytes_q8_0(c);
    memcpy(&scale, row, sizeof scale);
    return v_mul(v_load_i8(row + 2 + c % 32), v_set_f16(scale));
}

static void widen_q8_0(float *dst, const void *src, size_t n)
{
    for (size_t i = 0; i < n; i += LANES)
        v_store(dst + i, v_at_q8_0(src, i));
}

/* to the nearest, halves away from 0, as the plain one; which has blocks without a largest number */
static void narrow_q8_0(void *dst, const float *src, size_t n)
{
    char *to = dst;
    for (size_t b = 0; b < n; b += 32, src += 32, to += 34) {
        VEC top = v_set(0), nothing = v_set(0);
        UNROLL (size_t i = 0; i < 32; i += LANES) {
            VEC x = v_load_f32(src + i);
            top = v_max(top, v_max(x, v_sub(v_set(0), x)));
            nothing = v_fma(x, v_set(0), nothing);
        }
        float most = v_top(top), up = 127 / most;
        if (v_sum(nothing) != 0 || !(up < INFINITY)) {
            kernels_plain.narrow[K_Q8_0](to, src, 32);
            continue;
        }
        uint16_t scale = _cvtss_sh(most / 127, _MM_FROUND_TO_NEAREST_INT);
        memcpy(to, &scale, sizeof scale);
        UNROLL (size_t i = 0; i < 32; i += LANES) {
            VEC x = v_mul(v_load_f32(src + i), v_set(up)), almost = v_set(0x1.fffffep-2f);
            VEC half = v_max(v_sub(v_set(0), almost), v_min(almost, v_mul(x, v_set(0x1p30f))));
            v_store_i8(to + 2 + i, v_add(x, half));
        }
    }
}

/* ---- attention of few tokens: a row of K or V is read once for up to four query heads ---- */

/* other heads' rows lie between a head's, which no hardware fetches ahead */
enum { ROWS_AHEAD = 32 };

INLINE void fetch_row(const char *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(p + i, 0, 3);
}

#define ATTENTION(t, T) \
INLINE void scores_some_##t(const size_t group, float *s, size_t lds, const char *k, size_t len, \
                            size_t stride, size_t hd, const float *q) \
{ \
    const size_t full = hd / LANES * LANES; \
    for (size_t r = 0; r < len; r++, k += bytes_##t(stride)) { \
        fetch_row(k + ROWS_AHEAD * bytes_##t(stride), bytes_##t(hd)); \
        VEC a[4] = { v_set(0), v_set(0), v_set(0), v_set(0) }; \
        for (size_t c = 0; c < full; c += LANES) { \
            VEC x = v_at_##t(k, c); \
            UNROLL (size_t g = 0; g < group; g++) \
                a[g] = v_fma(x, v_load_f32(q + g * hd + c), a[g]); \
        } \
        UNROLL (size_t g = 0; g < group; g++) { \
            float tail = 0; \
            if (full < hd) \
                kernels_plain.scores[T](&tail, 1, k + bytes_##t(full), 1, stride, hd - full, \
                                        q + g * hd + full, 1); \
            s[g * lds + r] = v_sum(a[g]) + tail; \
        } \
    } \
} \
static void scores_##t(float *s, size_t lds, const void *k, size_t len, size_t stride, \
                       size_t hd, const float *q, size_t group) \
{ \
    size_t g = 0; \
    for (; g + 4 <= group; g += 4) \
        scores_some_##t(4, s + g * lds, lds, k, len, stride, hd, q + g * hd); \
    for (; g + 2 <= group; g += 2) \
        scores_some_##t(2, s + g * lds, lds, k, len, stride, hd, q + g * hd); \
    if (g < group) \
        scores_some_##t(1, s + g * lds, lds, k, len, stride, hd, q + g * hd); \
} \
INLINE void mix_some_##t(const size_t group, const size_t n, float *o, const char *v, size_t c, \
                         size_t len, size_t stride, size_t hd, const float *p, size_t ldp) \
{ \
    VEC a[4][4]; \
    UNROLL (size_t g = 0; g < group; g++) \
        UNROLL (size_t i = 0; i < n; i++) \
            a[g][i] = v_load_f32(o + g * hd + c + i * LANES); \
    for (size_t r = 0; r < len; r++, v += bytes_##t(stride)) { \
        VEC x[4]; \
        fetch_row(v + ROWS_AHEAD * bytes_##t(stride) + bytes_##t(c), bytes_##t(n * LANES)); \
        UNROLL (size_t i = 0; i < n; i++) \
            x[i] = v_at_##t(v, c + i * LANES); \
        UNROLL (size_t g = 0; g < group; g++) { \
            VEC w = v_set(p[g * ldp + r]); \
            UNROLL (size_t i = 0; i < n; i++) \
                a[g][i] = v_fma(x[i], w, a[g][i]); \
        } \
    } \
    UNROLL (size_t g = 0; g < group; g++) \
        UNROLL (size_t i = 0; i < n; i++) \
            v_store(o + g * hd + c + i * LANES, a[g][i]); \
} \
INLINE void mix_heads_##t(const size_t group, float *o, const char *v, size_t len, size_t stride, \
                          size_t hd, const float *p, size_t ldp) \
{ \
    size_t c = 0; \
    for (; c + MIX * LANES <= hd; c += MIX * LANES) \
        mix_some_##t(group, MIX, o, v, c, len, stride, hd, p, ldp); \
    for (; c + LANES <= hd; c += LANES) \
        mix_some_##t(group, 1, o, v, c, len, stride, hd, p, ldp); \
    for (size_t g = 0; c < hd && g < group; g++) \
        kernels_plain.mix[T](o + g * hd + c, v + bytes_##t(c), len, stride, hd - c, p + g * ldp, ldp, 1); \
} \
static void mix_##t(float *o, const void *v, size_t len, size_t stride, size_t hd, \
                    const float *p, size_t ldp, size_t group) \
{ \
    size_t g = 0; \
    for (; g + 4 <= group; g += 4) \
        mix_heads_##t(4, o + g * hd, v, len, stride, hd, p + g * ldp, ldp); \
    for (; g + 2 <= group; g += 2) \
        mix_heads_##t(2, o + g * hd, v, len, stride, hd, p + g * ldp, ldp); \
    if (g < group) \
        mix_heads_##t(1, o + g * hd, v, len, stride, hd, p + g * ldp, ldp); \
}
ATTENTION(f32, K_F32)
ATTENTION(f16, K_F16)
ATTENTION(bf16, K_BF16)
ATTENTION(q8_0, K_Q8_0)

static void silu_mul(float *g, const float *u, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(g + i, v_mul(v_silu(v_load_f32(g + i)), v_load_f32(u + i)));
    kernels_plain.silu_mul(g + i, u + i, n - i);
}

static float exp_sum(float *p, size_t n, float max)
{
    VEC s = v_set(0);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        VEC e = v_exp(v_sub(v_load_f32(p + i), v_set(max)));
        v_store(p + i, e);
        s = v_add(s, e);
    }
    return v_sum(s) + kernels_plain.exp_sum(p + i, n - i, max);
}

static float max_of(const float *p, size_t n)
{
    size_t i = LANES;
    if (n < LANES)
        return kernels_plain.max(p, n);
    VEC m = v_load_f32(p);
    for (; i + LANES <= n; i += LANES)
        m = v_max(m, v_load_f32(p + i));
    return v_top(v_max(m, v_load_f32(p + n - LANES)));
}

static void layernorm(float *y, const float *x, const float *w, size_t n, float eps)
{
    size_t full = n / LANES * LANES;
    VEC s = v_set(0), q = v_set(0);
    float mean = 0, var = 0;
    for (size_t i = 0; i < full; i += LANES)
        s = v_add(s, v_load_f32(x + i));
    for (size_t i = full; i < n; i++)
        mean += x[i];
    mean = (mean + v_sum(s)) / (float)n;
    for (size_t i = 0; i < full; i += LANES) {
        VEC d = v_sub(v_load_f32(x + i), v_set(mean));
        q = v_fma(d, d, q);
    }
    for (size_t i = full; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean);
    float scale = 1 / __builtin_sqrtf((var + v_sum(q)) / (float)n + eps);
    for (size_t i = 0; i < full; i += LANES)
        v_store(y + i, v_mul(v_mul(v_sub(v_load_f32(x + i), v_set(mean)), v_set(scale)),
                             v_load_f32(w + i)));
    for (size_t i = full; i < n; i++)
        y[i] = (x[i] - mean) * scale * w[i];
}

enum { TURNED = 64 };                      /* pairs at a time */

static void clip_rope(float *x, size_t n, float clip, size_t n_rot, size_t hd, const float (*cs)[2])
{
    const size_t half = hd / 2;
    size_t i = 0;
    for (; clip > 0 && i + LANES <= n; i += LANES)         /* this order lets NaN through */
        v_store(x + i, v_max(v_set(-clip), v_min(v_set(clip), v_load_f32(x + i))));
    kernels_plain.clip_rope(x + i, clip > 0 ? n - i : 0, clip, 0, 0, NULL);
    for (size_t p = 0, len; p < half; p += len) {
        float c[TURNED], s[TURNED];
        len = half - p < TURNED ? half - p : TURNED;
        for (i = 0; i < len; i++)
            c[i] = cs[p + i][0], s[i] = cs[p + i][1];
        for (size_t h = 0; h < n_rot; h++) {
            float *a = x + h * hd + p, *b = a + half;
            for (i = 0; i + LANES <= len; i += LANES) {
                VEC u = v_load_f32(a + i), v = v_load_f32(b + i), co = v_load_f32(c + i), si = v_load_f32(s + i);
                v_store(a + i, v_sub(v_mul(u, co), v_mul(v, si)));
                v_store(b + i, v_fma(v, co, v_mul(u, si)));
            }
            for (; i < len; i++) {
                float u = a[i], v = b[i];
                a[i] = u * c[i] - v * s[i];
                b[i] = v * c[i] + u * s[i];
            }
        }
    }
}

const struct kernels KERNELS_TABLE = {
    KERNELS_NAME, { matvec_f32, matvec_f16, matvec_bf16 },
    { vecmat_f32, vecmat_f16, vecmat_bf16 }, { widen_f32, widen_f16, widen_bf16, widen_q8_0 },
    { narrow_f32, narrow_f16, narrow_bf16, narrow_q8_0 },
    { scores_f32, scores_f16, scores_bf16, scores_q8_0 },
    { mix_f32, mix_f16, mix_bf16, mix_q8_0 }, silu_mul, exp_sum, max_of, layernorm, clip_rope,
};
