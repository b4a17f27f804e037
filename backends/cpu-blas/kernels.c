/* backends/cpu-blas/kernels.c -- the plain-C kernels and the choice among tables.
 * See kernels.h. */
#include "config.h"

#include "backends/cpu-blas/kernels.h"

#include "backends/backend.h"
#include "backends/cpu-blas/isa.h"
#include "backends/graph/dequant.h"
#include "backends/graph/kv.h"
#include "backends/graph/ops.h"

#include <math.h>
#include <string.h>

static const uint32_t dtype_of[KV_TYPES] = { DBRX_F32, DBRX_F16, DBRX_BF16, DBRX_Q8_0 };

static float element(const void *w, enum ktype type, size_t i)
{
    float f;
    dequant(&f, w, dtype_of[type], i, 1);
    return f;
}

static void matvec(float *y, const void *w, size_t rows, size_t stride, size_t cols,
                   const float *x, enum ktype type)
{
    for (size_t r = 0; r < rows; r++) {
        double s = 0;
        for (size_t c = 0; c < cols; c++)
            s += (double)element(w, type, r * stride + c) * x[c];
        y[r] = (float)s;
    }
}

static void vecmat(float *y, const void *w, size_t rows, size_t stride, size_t cols,
                   const float *h, enum ktype type)
{
    for (size_t c = 0; c < cols; c++) {
        double s = y[c];
        for (size_t r = 0; r < rows; r++)
            s += (double)element(w, type, r * stride + c) * h[r];
        y[c] = (float)s;
    }
}

#define PLAIN_WEIGHTS(t, T) \
    static void matvec_##t(float *y, const void *w, size_t rows, size_t stride, size_t cols, \
                           const float *x, const void *next) \
        { (void)next, matvec(y, w, rows, stride, cols, x, T); } \
    static void vecmat_##t(float *y, const void *w, size_t rows, size_t stride, size_t cols, \
                           const float *h) { vecmat(y, w, rows, stride, cols, h, T); }
PLAIN_WEIGHTS(f32, K_F32)
PLAIN_WEIGHTS(f16, K_F16)
PLAIN_WEIGHTS(bf16, K_BF16)

#define PLAIN_KV(t, T) \
    static void widen_##t(float *dst, const void *src, size_t n) \
        { dequant(dst, src, dtype_of[T], 0, n); } \
    static void narrow_##t(void *dst, const float *src, size_t n) \
        { kv_store(dst, dtype_of[T], src, n); } \
    static void scores_##t(float *s, size_t lds, const void *k, size_t len, size_t stride, \
                           size_t hd, const float *q, size_t group) \
    { \
        for (size_t g = 0; g < group; g++) \
            matvec(s + g * lds, k, len, stride, hd, q + g * hd, T); \
    } \
    static void mix_##t(float *o, const void *v, size_t len, size_t stride, size_t hd, \
                        const float *p, size_t ldp, size_t group) \
    { \
        for (size_t g = 0; g < group; g++) \
            vecmat(o + g * hd, v, len, stride, hd, p + g * ldp, T); \
    }
PLAIN_KV(f32, K_F32)
PLAIN_KV(f16, K_F16)
PLAIN_KV(bf16, K_BF16)
PLAIN_KV(q8_0, K_Q8_0)

static void silu_mul(float *g, const float *u, size_t n)
{
    for (size_t i = 0; i < n; i++)
        g[i] = g[i] / (1 + expf(-g[i])) * u[i];
}

static float exp_sum(float *p, size_t n, float max)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += p[i] = expf(p[i] - max);
    return (float)s;
}

static float max_of(const float *p, size_t n)
{
    float m = p[0];
    for (size_t i = 1; i < n; i++)
        m = p[i] > m ? p[i] : m;
    return m;
}

static void layernorm(float *y, const float *x, const float *w, size_t n, float eps)
{
    double mean = 0, var = 0;
    for (size_t i = 0; i < n; i++)
        mean += x[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(var / (double)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)((x[i] - mean) * scale * w[i]);
}

static void clip_rope(float *x, size_t n, float clip, size_t n_rot, size_t hd, const float (*cs)[2])
{
    ops_plain.clip_rope(NULL, x, 1, (uint32_t)n, clip, (uint32_t)n_rot, (uint32_t)hd, cs);
}

const struct kernels kernels_plain = {
    "plain", { matvec_f32, matvec_f16, matvec_bf16 }, { vecmat_f32, vecmat_f16, vecmat_bf16 },
    { widen_f32, widen_f16, widen_bf16, widen_q8_0 },
    { narrow_f32, narrow_f16, narrow_bf16, narrow_q8_0 },
    { scores_f32, scores_f16, scores_bf16, scores_q8_0 }, { mix_f32, mix_f16, mix_bf16, mix_q8_0 },
    silu_mul, exp_sum, max_of, layernorm, clip_rope,
};

const struct kernels *kernels_get(const char *name)
{
    const struct kernels *table[3] = { &kernels_plain };
    int n = 1;
#ifdef HAVE_X86_64
    if (isa_avx2())
        table[n++] = &kernels_avx2;
    if (isa_avx512())
        table[n++] = &kernels_avx512;
#endif
    while (n-- > 0)                        /* the best is the last */
        if (!name || !strcmp(name, table[n]->name))
            return table[n];
    return NULL;
}

int kernels_type(uint32_t dtype)
{
    for (int t = 0; t < K_TYPES; t++)
        if (dtype_of[t] == dtype)
            return t;
    return -1;
}

int kernels_kv_type(uint32_t dtype)
{
    return dtype == DBRX_Q8_0 ? K_Q8_0 : kernels_type(dtype);
}
