/* backends/cpu-blas/ops.c -- DBRX's operations on threads, BLAS for many tokens and
 * SIMD kernels for few.  Same contracts as ops_plain, float32 sums.
 *
 * Weights stay as stored.  A panel of them (a few hundred KB) is widened to float32
 * just before BLAS needs it; one token's products read them in place. */
#include "backends/cpu-blas/cpu_blas.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    TILE  = 256,                           /* positions attended to at a time               */
    BLOCK = 256,                           /* query rows of one attention item              */
};

int cpu_reserve(struct cpu *c, const struct dbrx_config *cfg)
{
    size_t group = cfg->n_heads / cfg->n_kv_heads;
    size_t widened = max(CPU_PANEL, 16 * (size_t)cfg->d_model) + (size_t)GRAPH_CHUNK * CPU_WIDE;
    size_t scores = max(BLOCK, group) * (TILE + 2);
    c->panel_floats = round16(max(max(widened, scores), GEMM_PANEL));
    c->panel = aligned_alloc(64, pool_threads(c->pool) * c->panel_floats * sizeof(float));
    c->slots = max((size_t)GRAPH_CHUNK * cfg->top_k, cfg->n_experts) +
               (size_t)GEMM_TOKENS * cfg->n_experts;
    return c->panel ? 0 : -1;
}

/* ---- y = x w^T ----------------------------------------------------------- */

void cpu_product(const struct cpu *c, unsigned worker, float *y, size_t ldy, const float *x,
                 size_t m, const struct dbrx_tensor *w, size_t first, size_t rows, size_t cols)
{
    int type = kernels_type(w->dtype);
    const void *at = tensor_at(w, first * cols);
    if (cpu_few(c, m)) {
        for (size_t t = 0; t < m; t++)
            c->k->matvec[type](y + t * ldy, at, rows, cols, cols, x + t * cols);
        return;
    }
    float *wide = c->panel + worker * c->panel_floats;
    if (type != K_F32)
        c->k->widen[type](wide, at, rows * cols);
    c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)rows, (int)cols, 1, x,
                  (int)cols, type == K_F32 ? at : wide, (int)cols, 0, y, (int)ldy);
}

const struct gemm *cpu_gemm(const struct cpu *c, uint32_t dtype, size_t n, size_t rows, size_t cols)
{
    if ((n <= CPU_FEW && !c->deterministic) || cols % 32 || rows % 16 || dtype != DBRX_BF16)
        return NULL;
    return c->fast && cols >= c->fast_cols ? c->fast : c->exact;
}

struct linear_job {
    const struct cpu *c;
    const struct gemm *g;                  /* or NULL                                     */
    const struct dbrx_tensor *w;
    float *y;
    const float *x;
    uint16_t *packed;                      /* x for g                                     */
    size_t n, rows, cols, step;
};

static void pack_item(void *arg, unsigned worker, uint32_t item)
{
    const struct linear_job *j = arg;
    const float *row[GEMM_TOKENS];
    size_t t = item * j->g->tokens, n = min(j->g->tokens, j->n - t);
    (void)worker;
    for (size_t i = 0; i < n; i++)
        row[i] = j->x + (t + i) * j->cols;
    j->g->pack(j->packed + item * gemm_block(j->g, j->cols), row, n, j->cols);
}

static void linear_item(void *arg, unsigned worker, uint32_t item)
{
    const struct linear_job *j = arg;
    size_t r = item * j->step, rows = min(j->step, j->rows - r);
    if (j->g)
        j->g->linear(j->y + r, j->rows, j->packed, j->n, tensor_at(j->w, r * j->cols), rows,
                     j->cols);
    else
        cpu_product(j->c, worker, j->y + r, j->rows, j->x, j->n, j->w, r, rows, j->cols);
}

/* few rows, as the router's: shared out by tokens, and each for itself in float32 -- a tie
 * must not tip with the company that a token is in */
static void tokens_item(void *arg, unsigned worker, uint32_t item)
{
    const struct linear_job *j = arg;
    size_t first = item * j->step, n = min(j->step, j->n - first);
    (void)worker;
    for (size_t t = first; t < first + n; t++)
        j->c->k->matvec[kernels_type(j->w->dtype)](j->y + t * j->rows, j->w->data, j->rows, j->cols,
                                                   j->cols, j->x + t * j->cols);
}

static void linear(struct work *wk, float *y, const float *x, const struct dbrx_tensor *w,
                   uint32_t n, uint32_t rows, uint32_t cols)
{
    const struct cpu *c = wk->ctx;
    struct linear_job j = {
        .c = c, .w = w, .y = y, .x = x, .n = n, .rows = rows, .cols = cols, .packed = wk->scratch,
        .g = cpu_gemm(c, w->dtype, n, rows, cols),
        .step = cpu_share(rows, 4 * pool_threads(c->pool), cpu_panel_rows(cols)),
    };
    if (rows <= CPU_NARROW) {
        j.step = 16;
        pool_run(c->pool, (uint32_t)ceil_div(n, j.step), tokens_item, &j);
        return;
    }
    if (j.g)
        pool_run(c->pool, (uint32_t)ceil_div(n, j.g->tokens), pack_item, &j);
    pool_run(c->pool, (uint32_t)ceil_div(rows, j.step), linear_item, &j);
}

/* ---- token by token ------------------------------------------------------ */

struct token_job {
    const struct cpu *c;
    float *y;
    const float *x, *w;
    const float (*cs)[2];
    uint32_t n, d, step, n_rot, head_dim;
    float eps, clip;
};

static void layernorm_item(void *arg, unsigned worker, uint32_t item)
{
    const struct token_job *j = arg;
    uint32_t end = (uint32_t)min(j->n, (size_t)(item + 1) * j->step);
    (void)worker;
    for (uint32_t t = item * j->step; t < end; t++)
        j->c->k->layernorm(j->y + (size_t)t * j->d, j->x + (size_t)t * j->d, j->w, j->d, j->eps);
}

static void layernorm(struct work *wk, float *y, const float *x, const float *w,
                      uint32_t n, uint32_t d, float eps)
{
    const struct cpu *c = wk->ctx;
    struct token_job j = { .c = c, .y = y, .x = x, .w = w, .n = n, .d = d, .eps = eps,
                           .step = 16 };
    pool_run(c->pool, (uint32_t)ceil_div(n, j.step), layernorm_item, &j);
}

static void clip_rope_item(void *arg, unsigned worker, uint32_t item)
{
    const struct token_job *j = arg;
    uint32_t t = item * j->step;
    (void)worker;
    ops_plain.clip_rope(NULL, j->y + (size_t)t * j->d, (uint32_t)min(j->step, j->n - t), j->d,
                        j->clip, j->n_rot, j->head_dim, j->cs + (size_t)t * (j->head_dim / 2));
}

static void clip_rope(struct work *wk, float *x, uint32_t n, uint32_t stride, float clip,
                      uint32_t n_rot, uint32_t head_dim, const float (*cs)[2])
{
    const struct cpu *c = wk->ctx;
    struct token_job j = { .c = c, .y = x, .cs = cs, .n = n, .d = stride, .clip = clip,
                           .n_rot = n_rot, .head_dim = head_dim, .step = 16 };
    pool_run(c->pool, (uint32_t)ceil_div(n, j.step), clip_rope_item, &j);
}

/* ---- attention ----------------------------------------------------------- */

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

static void attention(struct work *wk, const struct attn *a)
{
    const struct cpu *c = wk->ctx;
    uint32_t group = a->n_heads / a->n_kv_heads;
    uint32_t tokens = (uint32_t)max(1, BLOCK / group);
    tokens = (uint32_t)min(tokens, ceil_div(a->n, ceil_div(2 * pool_threads(c->pool),
                                                           a->n_kv_heads)));
    struct attn_job j = { c, a, tokens, (uint32_t)ceil_div(a->n, tokens) };
    pool_run(c->pool, a->n_kv_heads * j.blocks, attention_item, &j);
}

const struct ops cpu_ops = {
    .linear = linear, .layernorm = layernorm, .clip_rope = clip_rope,
    .attention = attention, .experts = cpu_experts, .scratch = cpu_scratch,
};
