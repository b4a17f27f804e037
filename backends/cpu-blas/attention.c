/* backends/cpu-blas/attention.c -- grouped-query causal attention, memory linear in context. */
#include "backends/cpu-blas/cpu_blas.h"

#include <math.h>
#include <string.h>

enum {
    TILE  = 256,                           /* positions attended to at a time               */
    BLOCK = 256,                           /* query rows of one attention item              */
};

size_t cpu_attention_floats(const struct dbrx_config *cfg)
{
    return max(BLOCK, cfg->n_heads / cfg->n_kv_heads) * (TILE + 2);
}

struct attn_job {
    const struct cpu *c;
    const struct attn *a;
    uint32_t tokens, blocks;               /* tokens an item, items a KV head */
};

/* One KV head, a block of tokens, all query heads of the group: TILE positions at a
 * time with a running maximum and sum a row (Milakov, Gimelshein 2018; as in
 * FlashAttention), so that the keys are read once and memory does not grow. */
static void attention_item(void *arg, unsigned worker, uint32_t item)
{
    const struct attn_job *j = arg;
    const struct attn *a = j->a;
    const struct kernels *k = j->c->k;
    const uint32_t hd = a->head_dim, group = a->n_heads / a->n_kv_heads;
    const uint32_t kv = item / j->blocks, t0 = item % j->blocks * j->tokens;
    const uint32_t n = (uint32_t)min(j->tokens, a->n - t0), end = a->pos + t0 + n;
    const size_t kv_stride = (size_t)a->n_kv_heads * hd, o_stride = (size_t)a->n_heads * hd;
    const float scale = 1 / sqrtf((float)hd);
    float *score = j->c->panel + worker * j->c->panel_floats;   /* [n][TILE], a head at a time */
    float *top = score + (size_t)n * TILE, *sum = top + group * n;  /* [group][n] */
    const float *q0 = a->q + t0 * a->q_stride + (size_t)kv * group * hd;
    float *o0 = a->out + t0 * o_stride + (size_t)kv * group * hd;

    for (uint32_t r = 0; r < group * n; r++)
        top[r] = -INFINITY, sum[r] = 0;
    for (uint32_t t = 0; t < n; t++)
        memset(o0 + t * o_stride, 0, (size_t)group * hd * sizeof *o0);
    for (uint32_t p = 0; p < end; p += TILE) {
        const uint32_t len = (uint32_t)min(TILE, end - p);
        const float *key = a->k + p * kv_stride + (size_t)kv * hd;
        const float *val = a->v + p * kv_stride + (size_t)kv * hd;
        for (uint32_t g = 0; g < group; g++) {
            const float *q = q0 + (size_t)g * hd;
            float *o = o0 + (size_t)g * hd;
            if (!cpu_few(j->c, n))
                j->c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)len,
                                 (int)hd, 1, q, (int)a->q_stride, key, (int)kv_stride, 0, score,
                                 TILE);
            else
                for (uint32_t t = 0; t < n; t++)
                    k->matvec[K_F32](score + (size_t)t * TILE, key, len, kv_stride, hd,
                                     q + t * a->q_stride);
            for (uint32_t t = 0; t < n; t++) {
                float *s = score + (size_t)t * TILE, *o_t = o + t * o_stride;
                float *m = top + g * n + t, *l = sum + g * n + t;
                uint32_t reach = a->pos + t0 + t + 1;           /* causal: positions it may see */
                uint32_t seen = reach <= p ? 0 : (uint32_t)min(len, reach - p);
                for (uint32_t i = 0; i < seen; i++)
                    s[i] *= scale;
                if (seen) {
                    float m_new = k->max(s, seen);
                    m_new = m_new > *m ? m_new : *m;
                    float shrink = expf(*m - m_new);
                    for (uint32_t i = 0; i < hd && shrink != 1; i++)
                        o_t[i] *= shrink;
                    *l = *l * shrink + k->exp_sum(s, seen, m_new);
                    *m = m_new;
                }
                memset(s + seen, 0, (len - seen) * sizeof *s);
                if (cpu_few(j->c, n))
                    k->vecmat[K_F32](o_t, val, seen, kv_stride, hd, s);
            }
            if (!cpu_few(j->c, n))
                j->c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)hd,
                                 (int)len, 1, score, TILE, val, (int)kv_stride, 1, o,
                                 (int)o_stride);
        }
    }
    for (uint32_t g = 0; g < group; g++)
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t i = 0; i < hd; i++)
                o0[t * o_stride + (size_t)g * hd + i] /= sum[g * n + t];
}

void cpu_attention(struct work *wk, const struct attn *a)
{
    const struct cpu *c = wk->ctx;
    uint32_t group = a->n_heads / a->n_kv_heads;
    uint32_t tokens = (uint32_t)max(1, BLOCK / group);
    tokens = (uint32_t)min(tokens, ceil_div(a->n, ceil_div(2 * pool_threads(c->pool),
                                                           a->n_kv_heads)));
    struct attn_job j = { c, a, tokens, (uint32_t)ceil_div(a->n, tokens) };
    pool_run(c->pool, a->n_kv_heads * j.blocks, attention_item, &j);
}
