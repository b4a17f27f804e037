/* backends/cpu-blas/kernels.h -- the inner loops, one table per instruction set.
 *
 * kernels_plain is the specification; avx2 and avx512 do the same sums in another
 * order (float32 accumulation) and are tested against it; kernels_get hands out
 * only what this CPU can run.  Pointers need no alignment.
 * All [any]. */
#ifndef DBRX_CPU_KERNELS_H
#define DBRX_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* of weights; and of a KV cache, which may have blocks of 32, too: there, widths, strides and hd are
 * whole blocks */
enum ktype { K_F32, K_F16, K_BF16, K_TYPES, K_Q8_0 = K_TYPES, KV_TYPES };

struct kernels {
    const char *name;                      /* "plain", "avx2", "avx512" */
    /* y[rows] = w x, row r of w at w + r*stride elements, x[cols].  next: what this thread reads
     * after them, to be fetched in time; NULL: what lies behind them. */
    void (*matvec[K_TYPES])(float *y, const void *w, size_t rows, size_t stride, size_t cols,
                            const float *x, const void *next);
    /* y[cols] += h w: the sum over r of h[r] times row r */
    void (*vecmat[K_TYPES])(float *y, const void *w, size_t rows, size_t stride, size_t cols,
                            const float *h);
    /* dst[n] = src[n] */
    void (*widen[KV_TYPES])(float *dst, const void *src, size_t n);
    /* dst[n] of the type = src[n], to the nearest, ties to even */
    void (*narrow[KV_TYPES])(void *dst, const float *src, size_t n);
    /* s[g][r] = q[g][hd] . k[r][hd] for `group` query heads and len rows of k, `stride` elements
     * apart; rows of s are lds apart */
    void (*scores[KV_TYPES])(float *s, size_t lds, const void *k, size_t len, size_t stride,
                            size_t hd, const float *q, size_t group);
    /* o[g][hd] += the sum over r of p[g][r] v[r][hd]; rows of p are ldp apart */
    void (*mix[KV_TYPES])(float *o, const void *v, size_t len, size_t stride, size_t hd,
                          const float *p, size_t ldp, size_t group);
    /* g[n] = silu(g) * u */
    void (*silu_mul)(float *g, const float *u, size_t n);
    /* p[n] = exp(p - max); returns their sum */
    float (*exp_sum)(float *p, size_t n, float max);
    /* max of p[n], n > 0 */
    float (*max)(const float *p, size_t n);
    /* y[n] = (x - mean) / sqrt(var + eps) * w */
    void (*layernorm)(float *y, const float *x, const float *w, size_t n, float eps);
    /* x[n] within +-clip (0: as it is), then n_rot heads turned: pairs (i, i + hd/2) by cs[hd/2] */
    void (*clip_rope)(float *x, size_t n, float clip, size_t n_rot, size_t hd, const float (*cs)[2]);
};

extern const struct kernels kernels_plain, kernels_avx2, kernels_avx512;

/* By name, or the best for NULL; NULL if it is unknown or cannot run here. */
const struct kernels *kernels_get(const char *name);

/* K_* of a DBRX_* dtype of weights, or -1; of a KV cache. */
int kernels_type(uint32_t dtype);
int kernels_kv_type(uint32_t dtype);

#endif
