/* repl/logit_lens.c -- see logit_lens.h.  head() norms what it is given by that vector's own
 * scale; dividing that out again and the frozen one in makes it linear, on any backend. */
#include "repl/logit_lens.h"

#include "plugins/fail.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void keep_rows(void *ctx, int kind, int32_t layer, uint32_t pos, uint32_t n, const float *x)
{
    struct lens *l = ctx;
    size_t d = l->c->d_model;
    (void)pos, (void)n;
    if (kind == DBRX_TAP_RESIDUAL)
        memcpy(l->x + (size_t)(layer + 1) * d, x, d * sizeof *x);
    else
        memcpy(l->part + (size_t)layer * l->c->n_experts * d, x, l->k[layer] * d * sizeof *x);
}

static void keep_route(void *ctx, const struct dbrx_route *r)
{
    struct lens *l = ctx;
    size_t at = (size_t)r->layer * l->c->n_experts;
    l->k[r->layer] = r->top_k;
    memcpy(l->expert + at, r->expert, r->top_k * sizeof *r->expert);
    memcpy(l->weight + at, r->weight, r->top_k * sizeof *r->weight);
}

struct copy { struct engine *to; struct dbrx_error *err; };
static dbrx_status copy_block(void *ctx, const struct dbrx_kv_block *b)
{
    const struct copy *c = ctx;
    return c->to->kv->import_kv(c->to->session, b, c->err);
}

/* The scratch session holds the first `pos` tokens: their KV is copied where that can be */
static dbrx_status fill(struct lens *l, struct sess *s, uint32_t pos, const struct dbrx_steer *steer,
                        struct dbrx_error *err)
{
    dbrx_status st = sess_sync(s, err);
    uint32_t held = disp_position(s->disp);
    if (st == DBRX_OK)
        st = disp_scratch(s->disp, held > pos ? held : pos + 1, &l->engine, err);
    if (st != DBRX_OK || !pos)
        return st;
    if (disp_has_kv(s->disp) && held >= pos) {
        st = disp_export(s->disp, 0, copy_block, &(struct copy){ &l->engine, err }, err);
        if (st == DBRX_OK)
            st = l->engine.kv->commit(l->engine.session, held, err);
        return st == DBRX_OK ? engine_truncate(&l->engine, pos, err) : st;
    }
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = pos, .token = s->token, .steer = steer };
    return engine_eval(&l->engine, &b, err);
}

/* the residual stream after every layer, as logits; in pieces, so that it can be stopped between */
static dbrx_status heads(struct lens *l, struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    for (uint32_t i = 0; i < l->c->n_layers && st == DBRX_OK; i++)
        st = engine_head(&l->engine, l->x + (size_t)i * l->c->d_model, 1, l->logits + (size_t)i * l->c->n_vocab, err);
    return st;
}

dbrx_status lens_open(struct sess *s, const struct dbrx_config *c, uint32_t pos, int parts,
                      const struct dbrx_steer *steer, struct lens **out, struct dbrx_error *err)
{
    size_t d = c->d_model, routes = (size_t)c->n_layers * c->n_experts;
    struct lens *l = calloc(1, sizeof *l);
    uint8_t *want = malloc(c->n_layers + 1);
    *out = NULL;
    if (l) {
        l->c = c;
        l->x = malloc((c->n_layers + 1) * d * sizeof *l->x);
        l->logits = malloc((size_t)(c->n_layers + 1) * c->n_vocab * sizeof *l->logits);
        l->k = calloc(c->n_layers, sizeof *l->k);
        l->expert = calloc(routes, sizeof *l->expert);
        l->weight = calloc(routes, sizeof *l->weight);
        l->part = parts ? malloc(routes * d * sizeof *l->part) : NULL;
        l->v = malloc(d * sizeof *l->v);
        l->z = malloc(c->n_vocab * sizeof *l->z);
    }
    if (!l || !want || !l->x || !l->logits || !l->k || !l->expert || !l->weight || (parts && !l->part) || !l->v || !l->z) {
        free(want);
        lens_close(l);
        return fail(err, DBRX_E_NOMEM, "out of memory");
    }
    memset(want, 1 << DBRX_TAP_RESIDUAL | (parts ? 1 << DBRX_TAP_EXPERT : 0), c->n_layers + 1);
    want[0] = 1 << DBRX_TAP_RESIDUAL;
    const struct dbrx_route_sink sink = { .struct_size = sizeof sink, .ctx = l, .emit = keep_route };
    const struct dbrx_tap tap = { .struct_size = sizeof tap, .ctx = l, .want = want, .emit = keep_rows };
    struct dbrx_batch b = {
        .struct_size = sizeof b, .n_tokens = 1, .token = s->token + pos, .want_logits = DBRX_LOGITS_LAST,
        .logits = l->logits + (size_t)c->n_layers * c->n_vocab, .logits_len = c->n_vocab, .route = &sink,
        .steer = steer, .tap = &tap };
    dbrx_status st = fill(l, s, pos, steer, err);
    if (st == DBRX_OK)
        st = engine_eval(&l->engine, &b, err);
    if (st == DBRX_OK)
        st = heads(l, err);
    free(want);
    if (st == DBRX_OK)
        *out = l;
    else
        lens_close(l);
    return st;
}

void lens_close(struct lens *l)
{
    if (!l)
        return;
    engine_close(&l->engine);
    void *const all[] = { l->x, l->logits, l->k, l->expert, l->weight, l->part, l->v, l->z, l };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

uint32_t lens_rank(const float *z, uint32_t n, int32_t id, double *prob)
{
    uint32_t rank = 0;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        rank += z[i] > z[id] || (z[i] == z[id] && i < (uint32_t)id);
        sum += exp((double)z[i] - (double)z[id]);
    }
    *prob = 1 / sum;
    return rank;
}

void lens_top(const float *z, uint32_t n, uint32_t k, int32_t *id)
{
    for (uint32_t j = 0; j < k; j++) {
        int32_t best = -1;
        for (uint32_t i = 0; i < n; i++) {
            int below = !j || z[i] < z[id[j - 1]] || (z[i] == z[id[j - 1]] && (int32_t)i > id[j - 1]);
            if (below && (best < 0 || z[i] > z[best]))
                best = (int32_t)i;
        }
        id[j] = best < 0 ? 0 : best;
    }
}

/* ---- shares ---- */

/* sqrt(var + eps) of v[n], as LayerNorm has it */
static double scale_of(const float *v, uint32_t n, float eps)
{
    double mean = 0, var = 0;
    for (uint32_t i = 0; i < n; i++)
        mean += (double)v[i] / n;
    for (uint32_t i = 0; i < n; i++)
        var += ((double)v[i] - mean) * ((double)v[i] - mean) / n;
    return sqrt(var + (double)eps);
}

static double mean_of(const float *z, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)z[i];
    return sum / n;
}

dbrx_status lens_share(struct lens *l, uint32_t layer, int which, const int32_t *id, uint32_t n, double *out,
                       struct dbrx_error *err)
{
    const struct dbrx_config *c = l->c;
    const size_t d = c->d_model;
    const float *before = l->x + layer * d, *after = before + d;
    const float *part = l->part + (size_t)layer * c->n_experts * d;
    const double frozen = scale_of(l->x + c->n_layers * d, c->d_model, c->ln_eps);
    for (size_t i = 0; i < d; i++) {
        double v = which == LENS_EMBEDDING ? (double)l->x[i] : 0;
        if (which >= 0)
            v = (double)part[(size_t)which * d + i];
        if (which == LENS_ATTENTION) {     /* what the layer added, less its experts */
            v = (double)after[i] - (double)before[i];
            for (uint32_t j = 0; j < l->k[layer]; j++)
                v -= (double)part[j * d + i];
        }
        l->v[i] = (float)v;
    }
    dbrx_status st = engine_head(&l->engine, l->v, 1, l->z, err);
    double times = scale_of(l->v, c->d_model, c->ln_eps) / frozen, mean = mean_of(l->z, c->n_vocab);
    for (uint32_t i = 0; i < n && st == DBRX_OK; i++)
        out[i] = ((double)l->z[id[i]] - mean) * times;
    return st;
}

void lens_total(const struct lens *l, const int32_t *id, uint32_t n, double *out)
{
    const float *z = l->logits + (size_t)l->c->n_layers * l->c->n_vocab;
    double mean = mean_of(z, l->c->n_vocab);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (double)z[id[i]] - mean;
}
