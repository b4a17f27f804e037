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
    FEW    = 4,                            /* up to so many tokens, kernels beat BLAS        */
    PANEL  = 128 * 1024,                   /* floats of widened weights: half an L2          */
    WIDE   = 256,                          /* rows or columns of a panel at most             */
    TILE   = 256,                          /* positions attended to at a time                */
    BLOCK  = 256,                          /* query rows of one attention item               */
};

static const size_t size_of[K_TYPES] = { 4, 2, 2 };

static size_t min(size_t a, size_t b) { return a < b ? a : b; }
static size_t max(size_t a, size_t b) { return a > b ? a : b; }
static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

static const char *at(const struct dbrx_tensor *w, size_t element)
{
    return (const char *)w->data + element * size_of[kernels_type(w->dtype)];
}

int cpu_reserve(struct cpu *c, const struct dbrx_config *cfg)
{
    size_t group = cfg->n_heads / cfg->n_kv_heads;
    size_t widened = max(PANEL, 16 * (size_t)cfg->d_model) + (size_t)GRAPH_CHUNK * WIDE;
    size_t scores = max(BLOCK, group) * (TILE + 2);
    c->pairs = max((size_t)GRAPH_CHUNK * cfg->top_k, cfg->n_experts);
    c->panel_floats = ceil_div(max(widened, scores), 16) * 16;
    c->panel = aligned_alloc(64, pool_threads(c->pool) * c->panel_floats * sizeof(float));
    return c->panel ? 0 : -1;
}

/* How many of `rows` rows an item takes, when about `items` should come of it. */
static size_t share(size_t rows, size_t items, size_t most)
{
    return min(max(ceil_div(ceil_div(rows, items), 16) * 16, 16), most);
}

static size_t panel_rows(size_t cols)
{
    return max(16, min(WIDE, PANEL / cols / 16 * 16));
}

/* ---- y = x w^T ----------------------------------------------------------- */

/* y[m][rows] (stride ldy) = x[m][cols] w[rows][cols]^T, for at most panel_rows(cols) rows */
static void product(const struct cpu *c, unsigned worker, float *y, size_t ldy, const float *x,
                    size_t m, const void *w, int type, size_t rows, size_t cols)
{
    if (m <= FEW) {
        for (size_t t = 0; t < m; t++)
            c->k->matvec[type](y + t * ldy, w, rows, cols, cols, x + t * cols);
        return;
    }
    float *wide = c->panel + worker * c->panel_floats;
    if (type != K_F32)
        c->k->widen[type](wide, w, rows * cols);
    c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)rows, (int)cols, 1, x,
                  (int)cols, type == K_F32 ? w : wide, (int)cols, 0, y, (int)ldy);
}

struct linear_job {
    const struct cpu *c;
    const struct dbrx_tensor *w;
    float *y;
    const float *x;
    size_t n, rows, cols, step;
};

static void linear_item(void *arg, unsigned worker, uint32_t item)
{
    const struct linear_job *j = arg;
    size_t r = item * j->step;
    product(j->c, worker, j->y + r, j->rows, j->x, j->n, at(j->w, r * j->cols),
            kernels_type(j->w->dtype), min(j->step, j->rows - r), j->cols);
}

static void linear(struct work *wk, float *y, const float *x, const struct dbrx_tensor *w,
                   uint32_t n, uint32_t rows, uint32_t cols)
{
    const struct cpu *c = wk->ctx;
    struct linear_job j = { c, w, y, x, n, rows, cols,
                            share(rows, 4 * pool_threads(c->pool), panel_rows(cols)) };
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
            if (n > FEW)
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
                if (n <= FEW)
                    k->vecmat[K_F32](o_t, val, seen, kv_stride, hd, s);
            }
            if (n > FEW)
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

/* ---- experts ------------------------------------------------------------- */

/* A pair is one token's visit to one expert.  Pairs are sorted by expert, so that each
 * expert's weights are read once for all its tokens. */
struct moe_job {
    const struct cpu *c;
    const struct moe *m;
    uint32_t *pair;                        /* [pairs]: t*k + j, grouped by expert           */
    uint32_t *first;                       /* [active + 1] into pair                        */
    uint32_t *active;                      /* [active] expert ids that have tokens          */
    uint32_t n_active;
    float *in, *hidden, *out;              /* [pairs][d_model], [pairs][d_ffn], [pairs][d_model] */
    size_t step, parts;                    /* rows or columns an item, items an expert      */
};

/* hidden = act(w1 h) * (v1 h) for some rows of one expert */
static void up_item(void *arg, unsigned worker, uint32_t item)
{
    const struct moe_job *j = arg;
    const struct moe *m = j->m;
    const struct dbrx_layer *l = m->layer;
    size_t a = item / j->parts, r = item % j->parts * j->step;
    size_t p = j->first[a], n = j->first[a + 1] - p, rows = min(j->step, m->d_ffn - r);
    size_t w = ((size_t)j->active[a] * m->d_ffn + r) * m->d_model;
    float *gate = j->hidden + p * m->d_ffn + r;
    float *up = j->c->panel + (worker + 1) * j->c->panel_floats - n * rows;
    const float *x = j->in + p * m->d_model;
    product(j->c, worker, gate, m->d_ffn, x, n, at(&l->w1, w), kernels_type(l->w1.dtype), rows,
            m->d_model);
    product(j->c, worker, up, rows, x, n, at(&l->v1, w), kernels_type(l->v1.dtype), rows,
            m->d_model);
    for (size_t t = 0; t < n; t++, gate += m->d_ffn, up += rows)
        if (m->act_fn == DBRX_SILU)
            j->c->k->silu_mul(gate, up, rows);
        else
            for (size_t i = 0; i < rows; i++)
                gate[i] = act_plain(m->act_fn, gate[i]) * up[i];
}

/* out = hidden w2 for some columns of one expert */
static void down_item(void *arg, unsigned worker, uint32_t item)
{
    const struct moe_job *j = arg;
    const struct moe *m = j->m;
    const struct dbrx_tensor *w2 = &m->layer->w2;
    const int type = kernels_type(w2->dtype);
    size_t a = item / j->parts, col = item % j->parts * j->step;
    size_t p = j->first[a], n = j->first[a + 1] - p, cols = min(j->step, m->d_model - col);
    size_t w = (size_t)j->active[a] * m->d_ffn * m->d_model + col;
    const float *h = j->hidden + p * m->d_ffn;
    float *out = j->out + p * m->d_model + col;
    float *wide = j->c->panel + worker * j->c->panel_floats;

    if (n <= FEW) {
        for (size_t t = 0; t < n; t++) {
            memset(out + t * m->d_model, 0, cols * sizeof *out);
            j->c->k->vecmat[type](out + t * m->d_model, at(w2, w), m->d_ffn, m->d_model, cols,
                                  h + t * m->d_ffn);
        }
        return;
    }
    for (size_t r = 0, rows; r < m->d_ffn; r += rows) {
        rows = min(PANEL / cols, m->d_ffn - r);
        for (size_t i = 0; i < rows; i++)
            j->c->k->widen[type](wide + i * cols, at(w2, w + (r + i) * m->d_model), cols);
        j->c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)cols, (int)rows,
                         1, h + r, (int)m->d_ffn, wide, (int)cols, r ? 1 : 0, out,
                         (int)m->d_model);
    }
}

static size_t align16(size_t floats)
{
    return ceil_div(floats, 16) * 16;
}

static size_t scratch(void *ctx, const struct dbrx_config *c)
{
    const struct cpu *cpu = ctx;
    return 4 * (align16(cpu->pairs) + 2 * align16(c->n_experts + 1) +
                2 * align16(cpu->pairs * c->d_model) + align16(cpu->pairs * c->d_ffn));
}

/* the tokens of m, whose pairs all fit the scratch */
static void experts_some(const struct cpu *c, struct work *wk, const struct moe *m)
{
    size_t d = m->d_model, items = 4 * pool_threads(c->pool), n_pairs = 0;
    struct moe_job j = { .c = c, .m = m, .pair = wk->scratch };
    j.first = j.pair + align16(c->pairs);
    j.active = j.first + align16(m->n_experts + 1);
    j.in = (float *)(j.active + align16(m->n_experts + 1));
    j.hidden = j.in + align16(c->pairs * d);
    j.out = j.hidden + align16(c->pairs * m->d_ffn);

    for (uint32_t e = 0; e < m->n_experts; e++) {
        size_t before = n_pairs;
        for (uint32_t p = 0; p < m->n * m->k; p++)
            if (m->expert[p] == e && m->weight[p] != 0) {
                memcpy(j.in + n_pairs * d, m->h + p / m->k * d, d * sizeof *j.in);
                j.pair[n_pairs++] = p;
            }
        if (n_pairs > before) {
            j.first[j.n_active] = (uint32_t)before;
            j.active[j.n_active++] = e;
        }
    }
    j.first[j.n_active] = (uint32_t)n_pairs;
    if (m->part)
        memset(m->part, 0, (size_t)m->n * m->k * d * sizeof *m->part);
    if (!n_pairs)
        return;

    items = ceil_div(items, j.n_active);
    j.step = share(m->d_ffn, items, panel_rows(d));
    j.parts = ceil_div(m->d_ffn, j.step);
    pool_run(c->pool, (uint32_t)(j.n_active * j.parts), up_item, &j);
    j.step = share(d, items, n_pairs <= FEW ? d : WIDE);
    j.parts = ceil_div(d, j.step);
    pool_run(c->pool, (uint32_t)(j.n_active * j.parts), down_item, &j);

    for (size_t i = 0; i < n_pairs; i++) {
        size_t p = j.pair[i];
        float *x = m->x + p / m->k * d, *part = m->part ? m->part + p * d : NULL;
        for (size_t c0 = 0; c0 < d; c0++) {
            float y = m->weight[p] * j.out[i * d + c0];
            x[c0] += y;
            if (part)
                part[c0] = y;
        }
    }
}

static void experts(struct work *wk, const struct moe *m)
{
    const struct cpu *c = wk->ctx;
    struct moe some = *m;
    size_t step = c->pairs / m->k;
    for (size_t t = 0; t < m->n; t += step) {
        some.n = (uint32_t)min(step, m->n - t);
        some.h = m->h + t * m->d_model;
        some.x = m->x + t * m->d_model;
        some.expert = m->expert + t * m->k;
        some.weight = m->weight + t * m->k;
        some.part = m->part ? m->part + t * m->k * m->d_model : NULL;
        experts_some(c, wk, &some);
    }
}

const struct ops cpu_ops = {
    .linear = linear, .layernorm = layernorm, .clip_rope = clip_rope,
    .attention = attention, .experts = experts, .scratch = scratch,
};
