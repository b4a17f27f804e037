/* backends/cpu-blas/experts.c -- the chosen experts of a layer for many tokens at once.
 *
 * A pair is one token's visit to one expert.  Pairs are sorted by expert, so that each
 * expert's weights are read once for all its tokens; no token is dropped, no expert is
 * padded to the busiest (dropless, as MegaBlocks has it).  Three ways through: a gemm
 * for many tokens, BLAS where there is none, kernels for few. */
#include "backends/cpu-blas/cpu_blas.h"

#include <string.h>

struct job {
    const struct cpu *c;
    const struct moe *m;
    const struct gemm *g;                  /* or NULL                                        */
    uint32_t *pair;                        /* [slots] t*k + j, by expert                     */
    uint32_t *slot;                        /* [n*k] where a pair is, or NONE                 */
    uint32_t *first, *count;               /* [n_active] slots of each active expert         */
    uint32_t *expert;                      /* [n_active] its id                              */
    uint32_t n_active;
    float *in;                             /* [slots][d_model], or packed blocks of as many bytes */
    float *hidden;                         /* [slots][d_ffn], or blocks of as many bytes     */
    float *out;                            /* [slots][d_model]                               */
    size_t step, parts;                    /* rows or columns an item; items an expert       */
};

enum { NONE = UINT32_MAX, TOKENS_ITEM = 16 };

/* the packed block that begins at a slot */
static uint16_t *packed(const struct job *j, float *blocks, size_t slot, size_t cols)
{
    return (uint16_t *)blocks + slot * cols * j->g->bytes / 2;
}

/* the inputs of one expert, side by side */
static void gather_item(void *arg, unsigned worker, uint32_t a)
{
    const struct job *j = arg;
    const size_t d = j->m->d_model, step = j->g ? j->g->tokens : GEMM_TOKENS;
    (void)worker;
    for (size_t s = 0; s < j->count[a]; s += step) {
        const float *row[GEMM_TOKENS];
        size_t n = min(step, j->count[a] - s), slot = j->first[a] + s;
        for (size_t i = 0; i < n; i++)
            row[i] = j->m->h + j->pair[slot + i] / j->m->k * d;
        if (j->g)
            j->g->pack(packed(j, j->in, slot, d), row, n, d);
        else
            for (size_t i = 0; i < n; i++)
                memcpy(j->in + (slot + i) * d, row[i], d * sizeof *j->in);
    }
}

/* hidden = act(w1 h) * (v1 h) for some rows of one expert */
static void up_item(void *arg, unsigned worker, uint32_t item)
{
    const struct job *j = arg;
    const struct moe *m = j->m;
    const struct dbrx_layer *l = m->layer;
    size_t a = item / j->parts, r = item % j->parts * j->step, n = j->count[a];
    size_t rows = min(j->step, m->d_ffn - r), w = (size_t)j->expert[a] * m->d_ffn + r;
    if (j->g) {
        j->g->up(packed(j, j->hidden, j->first[a], m->d_ffn), m->d_ffn, r,
                 packed(j, j->in, j->first[a], m->d_model), n, tensor_at(&l->w1, w * m->d_model),
                 tensor_at(&l->v1, w * m->d_model), rows, m->d_model);
        return;
    }
    float *gate = j->hidden + (size_t)j->first[a] * m->d_ffn + r;
    const float *x = j->in + (size_t)j->first[a] * m->d_model;
    float *up = j->c->panel + (worker + 1) * j->c->panel_floats - n * rows;
    cpu_product(j->c, worker, gate, m->d_ffn, x, n, &l->w1, w, rows, m->d_model);
    cpu_product(j->c, worker, up, rows, x, n, &l->v1, w, rows, m->d_model);
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
    const struct job *j = arg;
    const struct moe *m = j->m;
    const struct dbrx_tensor *w2 = &m->layer->w2;
    const size_t d = m->d_model, ffn = m->d_ffn;
    const int type = kernels_type(w2->dtype);
    size_t a = item / j->parts, col = item % j->parts * j->step, n = j->count[a];
    size_t cols = min(j->step, d - col), w = (size_t)j->expert[a] * ffn * d + col;
    const float *h = j->hidden + (size_t)j->first[a] * ffn;
    float *out = j->out + (size_t)j->first[a] * d + col;
    float *panel = j->c->panel + worker * j->c->panel_floats;

    if (j->g) {
        j->g->down(out, d, packed(j, j->hidden, j->first[a], ffn), n, ffn, tensor_at(w2, w), d, cols,
                   panel);
        return;
    }
    if (cpu_few(j->c, n)) {
        for (size_t t = 0; t < n; t++) {
            memset(out + t * d, 0, cols * sizeof *out);
            j->c->k->vecmat[type](out + t * d, tensor_at(w2, w), ffn, d, cols, h + t * ffn);
        }
        return;
    }
    for (size_t r = 0, rows; r < ffn; r += rows) {
        rows = min(CPU_PANEL / cols, ffn - r);
        for (size_t i = 0; i < rows; i++)
            j->c->k->widen[type](panel + i * cols, tensor_at(w2, w + (r + i) * d), cols);
        j->c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)cols, (int)rows,
                         1, h + r, (int)ffn, panel, (int)cols, r ? 1 : 0, out, (int)d);
    }
}

/* x += the weighted outputs of some tokens, in the order of their routes */
static void add_item(void *arg, unsigned worker, uint32_t item)
{
    const struct job *j = arg;
    const struct moe *m = j->m;
    const size_t d = m->d_model, end = min(m->n, (size_t)(item + 1) * TOKENS_ITEM);
    (void)worker;
    for (size_t p = (size_t)item * TOKENS_ITEM * m->k; p < end * m->k; p++) {
        float *x = m->x + p / m->k * d, *part = m->part ? m->part + p * d : NULL;
        if (j->slot[p] == NONE)
            continue;
        const float *out = j->out + j->slot[p] * d;
        for (size_t i = 0; i < d; i++)
            x[i] += m->weight[p] * out[i];
        for (size_t i = 0; part && i < d; i++)
            part[i] = m->weight[p] * out[i];
    }
}

/* [slots] indices twice, three lists of experts, in, hidden, out */
size_t cpu_scratch(void *ctx, const struct dbrx_config *cfg)
{
    const struct cpu *c = ctx;
    size_t experts = 2 * round16(c->slots) + 3 * round16(cfg->n_experts) +
                     2 * round16(c->slots * cfg->d_model) + round16(c->slots * cfg->d_ffn);
    size_t linear = GRAPH_CHUNK * (size_t)cfg->d_model;
    return max(experts, linear) * sizeof(float);
}

/* how all of the layer's products go; their formats must agree */
static const struct gemm *way(const struct cpu *c, const struct moe *m)
{
    const struct dbrx_layer *l = m->layer;
    const struct gemm *g = cpu_gemm(c, l->w1.dtype, m->n, m->d_ffn, m->d_model);
    return m->act_fn == DBRX_SILU && m->d_ffn % 32 == 0 &&
           g == cpu_gemm(c, l->v1.dtype, m->n, m->d_ffn, m->d_model) &&
           g == cpu_gemm(c, l->w2.dtype, m->n, m->d_model, max(m->d_ffn, m->d_model)) ? g : NULL;
}

/* the tokens of m, whose pairs all fit the slots */
static void experts_some(const struct cpu *c, struct work *wk, const struct moe *m)
{
    const size_t d = m->d_model;
    struct job j = { .c = c, .m = m, .g = way(c, m), .pair = wk->scratch };
    j.slot = j.pair + round16(c->slots);
    j.first = j.slot + round16(c->slots);
    j.count = j.first + round16(m->n_experts);
    j.expert = j.count + round16(m->n_experts);
    j.in = (float *)(j.expert + round16(m->n_experts));
    j.hidden = j.in + round16(c->slots * d);
    j.out = j.hidden + round16(c->slots * m->d_ffn);

    uint32_t slot = 0, most = 0;
    for (uint32_t p = 0; p < m->n * m->k; p++)
        j.slot[p] = NONE;
    for (uint32_t e = 0; e < m->n_experts; e++) {
        uint32_t n = 0;
        for (uint32_t p = 0; p < m->n * m->k; p++)
            if (m->expert[p] == e && m->weight[p] != 0) {
                j.slot[p] = slot + n;
                j.pair[slot + n++] = p;
            }
        if (!n)
            continue;
        j.first[j.n_active] = slot;
        j.count[j.n_active] = n;
        j.expert[j.n_active++] = e;
        slot += j.g ? (uint32_t)(ceil_div(n, j.g->tokens) * j.g->tokens) : n;
        most = n > most ? n : most;
    }
    if (m->part)
        memset(m->part, 0, (size_t)m->n * m->k * d * sizeof *m->part);
    if (!j.n_active)
        return;

    size_t items = ceil_div(4 * pool_threads(c->pool), j.n_active);
    pool_run(c->pool, j.n_active, gather_item, &j);
    j.step = cpu_share(m->d_ffn, items, cpu_panel_rows(d));
    j.parts = ceil_div(m->d_ffn, j.step);
    pool_run(c->pool, (uint32_t)(j.n_active * j.parts), up_item, &j);
    j.step = cpu_share(d, items, !j.g && cpu_few(c, most) ? d : CPU_WIDE);
    j.parts = ceil_div(d, j.step);
    pool_run(c->pool, (uint32_t)(j.n_active * j.parts), down_item, &j);
    pool_run(c->pool, (uint32_t)ceil_div(m->n, TOKENS_ITEM), add_item, &j);
}

void cpu_experts(struct work *wk, const struct moe *m)
{
    const struct cpu *c = wk->ctx;
    struct moe some = *m;
    size_t step = (c->slots - (size_t)GEMM_TOKENS * m->n_experts) / m->k;
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
