/* backends/cpu-blas/experts.c -- the chosen experts of a layer for many tokens at once.
 *
 * A pair is one token's visit to one expert.  Pairs are sorted by expert, so that each
 * expert's weights are read once for all its tokens; no token is dropped, no expert is
 * padded to the busiest (dropless, as MegaBlocks has it).  A gemm takes both halves of an
 * expert or none, for the hidden activations stay packed; otherwise each goes its own way. */
#include "backends/cpu-blas/cpu_blas.h"

#include "backends/graph/dequant.h"

#include <string.h>

enum { NONE = UINT32_MAX, TOKENS_ITEM = 16, UP_ROWS = 96, DOWN_COLS = 32, PASS = 1024, DIRECT_AHEAD = 12 };

struct job {
    const struct cpu *c;
    const struct moe *m;
    struct cpu_way up, down;
    uint32_t *pair;                        /* [slots] t*k + j, by expert                     */
    uint32_t *slot;                        /* [n*k] where a pair is, or NONE                 */
    uint32_t *first, *count;               /* [n_active] slots of each active expert         */
    uint32_t *expert;                      /* [n_active] its id                              */
    uint32_t n_active;
    char  *in;                             /* [slots] packed inputs; then out is there       */
    char  *hidden;                         /* [slots] floats, or packed by the gemm          */
    char  *packed;                         /* [slots] hidden as `down` wants it              */
    float *out;                            /* [slots][width] of the columns from `pass` on   */
    size_t pass, width;                    /* at most PASS at a time, so that it stays small */
    size_t step, parts;                    /* rows or columns an item; items an expert       */
};

static size_t in_bytes(const struct job *j) { return cpu_packed(j->up, j->m->d_model); }
static size_t packed_bytes(const struct job *j) { return cpu_packed(j->down, j->m->d_ffn); }

static size_t hidden_bytes(const struct job *j)
{
    return j->up.kind == CPU_GEMM ? packed_bytes(j) : sizeof(float) * j->m->d_ffn;
}

/* the inputs of one expert, side by side */
static void gather_item(void *arg, unsigned worker, uint32_t a)
{
    const struct job *j = arg;
    const size_t d = j->m->d_model, step = j->up.tokens;
    (void)worker;
    for (size_t s = 0; s < j->count[a]; s += step) {
        const float *row[GEMM_TOKENS];
        size_t n = min(step, j->count[a] - s), slot = j->first[a] + s;
        for (size_t i = 0; i < n; i++)
            row[i] = j->m->h + j->pair[slot + i] / j->m->k * d;
        cpu_pack(j->c, j->up, j->in + slot * in_bytes(j), row, n, d);
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
    const char *x = j->in + j->first[a] * in_bytes(j);
    void *hidden = j->hidden + j->first[a] * hidden_bytes(j);
    if (j->up.kind == CPU_GEMM) {
        float *panel = cpu_scratch(j->c, worker);
        size_t direct = l->w1.dtype == DBRX_BF16 && l->v1.dtype == DBRX_BF16;
        for (size_t i = 0, some; i < rows; i += some) {
            some = direct ? rows : min(j->up.g->open_rows, rows - i);
            /* a thread takes neighbours */
            size_t ahead = direct ? DIRECT_AHEAD : some;
            struct gemm_rows w1 = cpu_open(j->up.g, panel, &l->w1, w + i, some, m->d_model, ahead);
            struct gemm_rows v1 = cpu_open(j->up.g, panel + some * m->d_model / 2 + 16, &l->v1, w + i,
                                           some, m->d_model, ahead);
            j->up.g->up(hidden, m->d_ffn, r + i, x, n, &w1, &v1, some, m->d_model);
        }
        return;
    }
    float *gate = (float *)hidden + r;
    float *up = cpu_scratch(j->c, worker + 1) - n * rows;
    size_t next = r + rows < m->d_ffn ? w + rows : (size_t)j->expert[min(a + 1, j->n_active - 1)] * m->d_ffn;
    cpu_product(j->c, worker, j->up, gate, m->d_ffn, x, n, &l->w1, w, rows, m->d_model,
                tensor_at(&l->v1, w * m->d_model));
    cpu_product(j->c, worker, j->up, up, rows, x, n, &l->v1, w, rows, m->d_model,
                tensor_at(&l->w1, next * m->d_model));
    for (size_t t = 0; t < n; t++, gate += m->d_ffn, up += rows)
        if (m->act_fn == DBRX_SILU)
            j->c->k->silu_mul(gate, up, rows);
        else
            for (size_t i = 0; i < rows; i++)
                gate[i] = act_plain(m->act_fn, gate[i]) * up[i];
}

static void pack_item(void *arg, unsigned worker, uint32_t slot)
{
    const struct job *j = arg;
    const float *row = (const float *)(const void *)(j->hidden + slot * hidden_bytes(j));
    (void)worker;
    cpu_pack(j->c, j->down, j->packed + slot * packed_bytes(j), &row, 1, j->m->d_ffn);
}

/* out = h w2 for some columns of one expert's w2, stored by rows of ffn */
static void down_floats(const struct job *j, unsigned worker, float *out, const float *h, size_t n,
                        size_t w, size_t cols)
{
    const struct dbrx_tensor *w2 = &j->m->layer->w2;
    const size_t d = j->m->d_model, ffn = j->m->d_ffn, ldo = j->width;
    const int type = kernels_type(w2->dtype), few = cpu_few(j->c, n);
    float *panel = cpu_scratch(j->c, worker);
    for (size_t t = 0; few && t < n; t++)
        memset(out + t * ldo, 0, cols * sizeof *out);
    for (size_t r = 0, rows; few && type >= 0 && r < ffn; r += rows) {
        rows = cpu_few_rows(n, w2->dtype, ffn - r, cols);
        for (size_t t = 0; t < n; t++)
            j->c->k->vecmat[type](out + t * ldo, tensor_at(w2, w + r * d), rows, d, cols,
                                  h + t * ffn + r);
    }
    if (few && type >= 0)
        return;
    for (size_t r = 0, rows; r < ffn; r += rows) {
        rows = min(CPU_PANEL / cols, ffn - r);
        for (size_t i = 0; i < rows; i++)
            if (type >= 0)
                j->c->k->widen[type](panel + i * cols, tensor_at(w2, w + (r + i) * d), cols);
            else
                dequant(panel + i * cols, w2->data, w2->dtype, w + (r + i) * d, cols);
        for (size_t t = 0; few && t < n; t++)
            j->c->k->vecmat[K_F32](out + t * ldo, panel, rows, cols, cols, h + t * ffn + r);
        if (!few)
            j->c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)cols,
                             (int)rows, 1, h + r, (int)ffn, panel, (int)cols, r ? 1 : 0, out,
                             (int)ldo);
    }
}

/* out = hidden w2 for some columns of one expert */
static void down_item(void *arg, unsigned worker, uint32_t item)
{
    const struct job *j = arg;
    const struct moe *m = j->m;
    const struct dbrx_tensor *w2 = &m->layer->w2;
    const size_t d = m->d_model, ffn = m->d_ffn;
    size_t a = item / j->parts, from = item % j->parts * j->step, col = j->pass + from, n = j->count[a];
    size_t cols = min(j->step, j->width - from), e = j->expert[a], w = e * ffn * d + col;
    const char *h = j->packed + j->first[a] * packed_bytes(j);
    float *out = j->out + j->first[a] * j->width + from;

    if (m->w2_layout == DBRX_W2_MODEL_ROWS) {
        size_t next = (from + cols < j->width ? e : j->expert[min(a + 1, j->n_active - 1)]) * d + col + cols;
        cpu_product(j->c, worker, j->down, out, j->width, h, n, w2, e * d + col, cols, ffn,
                    tensor_at(w2, (from + cols < j->width ? next : next - j->width) * ffn));
    } else if (j->down.kind == CPU_FLOAT) {
        down_floats(j, worker, out, (const float *)(const void *)h, n, w, cols);
    } else {
        float *panel = cpu_scratch(j->c, worker);
        uint16_t *bf16 = (uint16_t *)(panel + GEMM_PANEL);
        size_t step = w2->dtype == DBRX_BF16 ? cols : DOWN_COLS;
        for (size_t c = 0, some; c < cols; c += some) {
            some = min(step, cols - c);
            for (size_t r = 0; r < ffn && w2->dtype != DBRX_BF16; r++)
                j->down.g->open(w2->dtype, bf16 + r * some, tensor_at(w2, w + r * d + c), 1, some);
            int open = w2->dtype != DBRX_BF16;
            j->down.g->down(out + c, j->width, h, n, ffn, open ? bf16 : tensor_at(w2, w + c),
                            open ? some : d, some, panel);
        }
    }
}

/* x += the weighted outputs of some tokens, in the order of their routes, for a pass's columns */
static void add_item(void *arg, unsigned worker, uint32_t item)
{
    const struct job *j = arg;
    const struct moe *m = j->m;
    const size_t d = m->d_model, w = j->width, end = min(m->n, (size_t)(item + 1) * TOKENS_ITEM);
    (void)worker;
    for (size_t p = (size_t)item * TOKENS_ITEM * m->k; p < end * m->k; p++) {
        float *x = m->x + p / m->k * d + j->pass, *part = m->part ? m->part + p * d + j->pass : NULL;
        if (j->slot[p] == NONE)
            continue;
        const float *out = j->out + j->slot[p] * w;
        j->c->k->vecmat[K_F32](x, out, 1, w, w, &m->weight[p]);
        for (size_t i = 0; part && i < w; i++)
            part[i] = m->weight[p] * out[i];
    }
}

static int takes(const struct gemm *g, uint32_t dtype)
{
    return dtype == DBRX_BF16 ? !g->integer : g->open && (!g->integer || dtype_block(dtype) > 1);
}

/* Both halves of the layer's experts by this gemm? */
static int fits(const struct job *j, const struct gemm *g)
{
    const struct dbrx_layer *l = j->m->layer;
    const int by_ffn = j->m->w2_layout != DBRX_W2_MODEL_ROWS;
    return g && takes(g, l->w1.dtype) && takes(g, l->v1.dtype) && takes(g->hidden, l->w2.dtype) &&
           !(by_ffn && (!g->hidden->down || dtype_block(l->w2.dtype) > 1));
}

/* how the layer's products go */
static void choose(struct job *j)
{
    const struct cpu *c = j->c;
    const struct moe *m = j->m;
    const struct dbrx_layer *l = m->layer;
    const int by_ffn = m->w2_layout != DBRX_W2_MODEL_ROWS, large = m->d_model >= c->fast_cols;
    int bf16 = l->w1.dtype == DBRX_BF16 && l->v1.dtype == DBRX_BF16 && l->w2.dtype == DBRX_BF16;
    const struct gemm *const best[] = { by_ffn && bf16 ? c->tiles : NULL, large ? c->int8 : NULL, c->int16,
                                        large ? c->fast : NULL, c->exact };
    int gemm = (m->n > CPU_FEW || c->deterministic) && m->act_fn == DBRX_SILU && m->d_model % 32 == 0 &&
               m->d_ffn % 32 == 0 && (bf16 || !c->deterministic);
    for (size_t i = 0; gemm && i < sizeof best / sizeof *best; i++)
        if (fits(j, best[i])) {
            j->up = (struct cpu_way){ CPU_GEMM, best[i], best[i]->tokens };
            j->down = (struct cpu_way){ CPU_GEMM, best[i]->hidden, best[i]->tokens };
            return;
        }
    const struct cpu_way floats = { CPU_FLOAT, NULL, 1 }, quant = { CPU_QUANT, NULL, 1 };
    int by_token = cpu_by_token(c, (size_t)m->n * m->k / m->n_experts);
    int up = by_token && dtype_block(l->w1.dtype) > 1 && dtype_block(l->v1.dtype) > 1;
    j->up = up ? quant : floats;
    j->down = by_token && !by_ffn && dtype_block(l->w2.dtype) > 1 ? quant : floats;
}

/* bytes of one slot in all arrays */
static size_t slot_bytes(const struct job *j)
{
    return 2 * sizeof(uint32_t) + max(in_bytes(j), sizeof(float) * min(PASS, j->m->d_model)) +
           hidden_bytes(j) +
           (j->down.kind == CPU_QUANT ? packed_bytes(j) : 0);
}

/* Enough for a chunk by what quantised experts go, and by the fast gemm; other ways take fewer tokens at
 * once. */
size_t cpu_experts_bytes(const struct cpu *c, const struct dbrx_config *cfg)
{
    size_t block = c->tiles ? c->tiles->tokens : c->fast ? c->fast->tokens : GEMM_TOKENS;
    size_t d = cfg->d_model, slots = GRAPH_CHUNK * (size_t)cfg->top_k + block * cfg->n_experts;
    const struct gemm *g = c->int8 && d >= c->fast_cols ? c->int8 : c->int16;
    size_t each = g ? max(64, g->hidden->bytes) : 64;      /* of 32 columns */
    return slots * (8 + max(each * d / 32, 4 * min(PASS, d)) + each * cfg->d_ffn / 32) +
           3 * sizeof(uint32_t) * cfg->n_experts + 64 * 8;
}

static void *take(char **at, size_t bytes)
{
    void *p = *at;
    *at += round64(bytes);
    return p;
}

/* the tokens of m, whose pairs all fit the slots */
static void experts_some(struct job *j, void *scratch, size_t slots)
{
    const struct cpu *c = j->c;
    const struct moe *m = j->m;
    const size_t d = m->d_model;
    char *at = scratch;
    j->first = take(&at, m->n_experts * sizeof *j->first);
    j->count = take(&at, m->n_experts * sizeof *j->count);
    j->expert = take(&at, m->n_experts * sizeof *j->expert);
    j->pair = take(&at, slots * sizeof *j->pair);
    j->slot = take(&at, slots * sizeof *j->slot);
    j->in = take(&at, slots * max(in_bytes(j), min(PASS, d) * sizeof *j->out));
    j->out = (float *)(void *)j->in;
    j->hidden = take(&at, slots * hidden_bytes(j));
    j->packed = j->down.kind == CPU_QUANT ? take(&at, slots * packed_bytes(j)) : j->hidden;

    uint32_t slot = 0, most = 0;
    j->n_active = 0;
    for (uint32_t p = 0; p < m->n * m->k; p++)
        j->slot[p] = NONE;
    for (uint32_t e = 0; e < m->n_experts; e++) {
        uint32_t n = 0;
        for (uint32_t p = 0; p < m->n * m->k; p++)
            if (m->expert[p] == e && m->weight[p] != 0) {
                j->slot[p] = slot + n;
                j->pair[slot + n++] = p;
            }
        if (!n)
            continue;
        j->first[j->n_active] = slot;
        j->count[j->n_active] = n;
        j->expert[j->n_active++] = e;
        slot += (uint32_t)(ceil_div(n, j->up.tokens) * j->up.tokens);
        most = n > most ? n : most;
    }
    if (m->part)
        memset(m->part, 0, (size_t)m->n * m->k * d * sizeof *m->part);
    if (!j->n_active)
        return;

    size_t items = ceil_div(8 * pool_threads(c->pool), j->n_active);
    pool_run(c->pool, j->n_active, gather_item, j);
    j->step = cpu_share(m->d_ffn, items, cpu_panel_rows(d));
    if (j->up.kind == CPU_GEMM)            /* whole panels, as any gemm opens them */
        j->step = max(UP_ROWS, j->step / UP_ROWS * UP_ROWS);
    j->parts = ceil_div(m->d_ffn, j->step);
    pool_run(c->pool, (uint32_t)(j->n_active * j->parts), up_item, j);
    if (j->down.kind == CPU_QUANT)
        pool_run(c->pool, slot, pack_item, j);
    int rows = m->w2_layout == DBRX_W2_MODEL_ROWS, whole = !rows && j->down.kind == CPU_FLOAT && cpu_few(c, most);
    size_t room = slots * min(PASS, d) / slot / PASS * PASS;       /* few tokens: all columns at once */
    for (j->pass = 0; j->pass < d; j->pass += j->width) {
        j->width = min(max(PASS, room), d - j->pass);
        j->step = whole ? j->width : cpu_share(j->width, items, rows ? cpu_panel_rows(m->d_ffn) : CPU_WIDE);
        j->parts = ceil_div(j->width, j->step);
        pool_run(c->pool, (uint32_t)(j->n_active * j->parts), down_item, j);
        pool_run(c->pool, (uint32_t)ceil_div(m->n, TOKENS_ITEM), add_item, j);
    }
}

void cpu_experts(struct work *wk, const struct moe *m)
{
    const struct cpu *c = wk->ctx;
    struct moe some = *m;
    struct job j = { .c = c, .m = &some };
    choose(&j);
    size_t slots = (c->scratch - 3 * sizeof(uint32_t) * m->n_experts - 64 * 8) / slot_bytes(&j);
    size_t pad = j.up.kind == CPU_GEMM ? j.up.tokens * m->n_experts : 0;
    size_t step = max(1, (slots - pad) / m->k);
    for (size_t t = 0; t < m->n; t += step) {
        some.n = (uint32_t)min(step, m->n - t);
        some.h = m->h + t * m->d_model;
        some.x = m->x + t * m->d_model;
        some.expert = m->expert + t * m->k;
        some.weight = m->weight + t * m->k;
        some.part = m->part ? m->part + t * m->k * m->d_model : NULL;
        experts_some(&j, wk->scratch, slots);
    }
}
