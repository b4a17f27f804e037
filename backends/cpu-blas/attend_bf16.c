/* backends/cpu-blas/attend_bf16.c -- attention of many tokens by vdpbf16ps.  See gemm.h.
 *
 * An expert in all but name: keys are its first matrix, exp its activation, values its second.
 * The lanes are 16 query rows, so that maximum and sum of a softmax are plain vector operations
 * and each lane keeps its own causal limit.  Compiled for AVX512-BF16. */
#include "backends/cpu-blas/gemm_bf16.h"

#include "backends/backend.h"
#include "backends/cpu-blas/avx512.h"
#include "backends/cpu-blas/simd_exp.h"
#include "backends/cpu-blas/transpose.h"

#include <math.h>
#include <string.h>

enum { TILE = GEMM_TILE, PAIR = 32 };

/* scores[n][2][16] of positions p .. p + n to probabilities, packed [2][TILE/2][16][2].  A lane
 * sees positions below its reach; all: they all see all n, an even number.  scale: in powers of two.
 * *m, *l as in softmax; returns what they shrink by. */
static inline __attribute__((always_inline)) __m512 softmax(
    const int all, uint16_t *packed, const float *s, size_t n, size_t p, __m512i reach, __m512 scale,
    __m512 *m, __m512 *l)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                           8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512 top = none, sum = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i++) {
        __mmask16 sees = all ? 0xffff : _mm512_cmpgt_epi32_mask(reach, _mm512_set1_epi32((int)(p + i)));
        top = _mm512_mask_max_ps(top, sees, _mm512_loadu_ps(s + i * PAIR), top);   /* lets NaN through */
    }
    top = _mm512_max_ps(_mm512_mul_ps(top, scale), *m);
    /* a lane that has seen nothing yet has no maximum to subtract */
    __m512 base = _mm512_mask_mov_ps(top, _mm512_cmp_ps_mask(top, none, _CMP_EQ_OQ),
                                     _mm512_setzero_ps());
    for (size_t i = 0; i < n; i += 2) {
        __m512 e[2];
        for (size_t k = 0; k < 2; k++) {
            e[k] = v_exp2_fast(_mm512_fmsub_ps(_mm512_loadu_ps(s + (i + k) * PAIR), scale, base));
            if (!all) {
                __mmask16 sees = _mm512_cmpgt_epi32_mask(reach, _mm512_set1_epi32((int)(p + i + k)));
                e[k] = _mm512_maskz_mov_ps(i + k < n ? sees : 0, e[k]);
            }
            sum = _mm512_add_ps(sum, e[k]);
        }
        _mm512_storeu_si512(packed + i * 16, _mm512_permutexvar_epi16(
            order, (__m512i)_mm512_cvtne2ps_pbh(e[1], e[0])));
    }
    __m512 shrink = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(*m, none, _CMP_NEQ_UQ),
                                        v_exp2_fast(_mm512_sub_ps(*m, base)));
    *l = _mm512_fmadd_ps(*l, shrink, sum);
    *m = top;
    return shrink;
}

/* [hd][2][16] of a pair of blocks, over its sums, to the rows of its queries */
static void put(const struct gemm_attend *a, float *o, const float *l, uint32_t first, uint32_t rows)
{
    for (uint32_t v = 0; v < 2; v++)
        for (uint32_t c = 0; c < a->hd; c += 16) {
            __m512i t[16];
            for (uint32_t i = 0; i < 16; i++)
                t[i] = (__m512i)_mm512_div_ps(_mm512_loadu_ps(o + (c + i) * PAIR + v * 16),
                                              _mm512_loadu_ps(l + v * 16));
            transpose(t);
            for (uint32_t i = 0; i < 16 && first + 16 * v + i < rows; i++) {
                uint32_t r = first + 16 * v + i;
                _mm512_storeu_si512(a->out + r / a->group * a->out_stride +
                                    (size_t)(r % a->group) * a->hd + c, t[i]);
            }
        }
}

/* n rows of the cache as BF16: in place, or opened; *stride bytes apart.  n is made even with a row
 * of zeros when opened. */
static const char *open_rows(const struct gemm_attend *a, const void *cache, size_t p, size_t n,
                             uint16_t *to, size_t *stride)
{
    const char *at = (const char *)cache + p * a->stride;
    *stride = a->stride;
    if (a->dtype == DBRX_BF16 && n % 2 == 0)
        return at;
    for (size_t i = 0; i < n; i++)
        bf16_open(a->dtype, to + i * a->hd, at + i * a->stride, a->hd);
    memset(to + n * a->hd, 0, n % 2 * 2 * a->hd);
    *stride = 2 * (size_t)a->hd;
    return (const char *)to;
}

void bf16_attend(const struct gemm_attend *a, float *scratch)
{
    const size_t hd = a->hd, rows = (size_t)a->n * a->group, pairs = (rows + PAIR - 1) / PAIR;
    const size_t end = a->reach + a->n - 1;
    const __m512 scale = _mm512_set1_ps(1.44269504f / sqrtf((float)hd));       /* e^x = 2^(x log2 e) */
    uint16_t *q = (uint16_t *)scratch, *k_open = q + GEMM_QUERIES * hd, *v_open = k_open + TILE * hd;
    uint16_t *panel = v_open + TILE * hd;
    float *score = (float *)(panel + TILE * hd);
    uint16_t *prob = (uint16_t *)(score + TILE * PAIR);
    float *mixed = score + TILE * PAIR + TILE * PAIR / 2, *o = mixed + hd * PAIR;
    float *m = o + GEMM_QUERIES * hd, *l = m + GEMM_QUERIES;

    for (size_t b = 0; b < 2 * pairs; b++) {
        const float *row[16];
        size_t n = 0;
        for (; n < 16 && b * 16 + n < rows; n++) {
            size_t r = b * 16 + n;
            row[n] = a->q + r / a->group * a->q_stride + r % a->group * hd;
        }
        bf16_pack(q + b * 16 * hd, row, n, hd);
    }
    memset(o, 0, PAIR * pairs * hd * sizeof *o);
    for (size_t i = 0; i < PAIR * pairs; i++)
        m[i] = -INFINITY, l[i] = 0;
    for (size_t p = 0; p < end; p += TILE) {
        size_t n = end - p < TILE ? end - p : TILE, even = n + n % 2, k_stride, v_stride;
        const char *key = open_rows(a, a->k, p, n, k_open, &k_stride);
        const char *value = open_rows(a, a->v, p, n, v_open, &v_stride);
        bf16_panel(panel, value, v_stride / 2, even, hd);
        for (size_t b = 0; b < pairs; b++) {
            float *mix = o + b * PAIR * hd;
            size_t last = b * PAIR + PAIR - 1 < rows ? b * PAIR + PAIR - 1 : rows - 1;
            size_t reach = a->reach + last / a->group;     /* of its last query */
            if (reach <= p)
                continue;
            size_t some = reach - p < n ? reach - p : n, padded = some + some % 2;
            bf16_by_rows(score, key, padded, k_stride, q + b * PAIR * hd, 2, hd);
            __m512 shrink[2];
            for (size_t v = 0; v < 2; v++) {
                int limit[16];
                for (size_t i = 0; i < 16; i++)
                    limit[i] = (int)(a->reach + (b * PAIR + v * 16 + i) / a->group);
                __m512 top = _mm512_loadu_ps(m + b * PAIR + v * 16);
                __m512 sum = _mm512_loadu_ps(l + b * PAIR + v * 16);
                uint16_t *to = prob + v * 16 * padded;
                __m512i reach_of = _mm512_loadu_si512(limit);
                shrink[v] = (size_t)limit[0] >= p + some && some == padded
                    ? softmax(1, to, score + v * 16, some, p, reach_of, scale, &top, &sum)
                    : softmax(0, to, score + v * 16, some, p, reach_of, scale, &top, &sum);
                _mm512_storeu_ps(m + b * PAIR + v * 16, top);
                _mm512_storeu_ps(l + b * PAIR + v * 16, sum);
            }
            bf16_by_cols(mixed, panel, hd, prob, 2, padded);
            for (size_t c = 0; c < hd; c++)
                for (size_t v = 0; v < 2; v++) {
                    float *to = mix + c * PAIR + v * 16;
                    _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), shrink[v],
                                     _mm512_loadu_ps(mixed + c * PAIR + v * 16)));
                }
        }
    }
    for (size_t b = 0; b < pairs; b++)
        put(a, o + b * PAIR * hd, l + b * PAIR, (uint32_t)(b * PAIR), (uint32_t)rows);
}
