/* repl/routing.c -- see routing.h. */
#include "repl/routing.h"

#include "plugins/fail.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t at(const struct routing *r, uint32_t layer, uint32_t i)
{
    return (size_t)layer * r->n + i;
}

/* ---- what comes back from the backend ---- */

struct collect { struct routing *r; uint64_t pairs; };

static void emit(void *ctx, const struct dbrx_route *e)
{
    struct collect *c = ctx;
    struct routing *r = c->r;
    if (!e->prob || !e->logit || e->n_experts != r->n_experts || e->layer >= r->n_layers)
        return;                            /* shows in the count */
    for (uint32_t i = 0; i < e->n_tokens; i++) {
        uint32_t pos = e->pos + i, k = e->top_k < r->k ? e->top_k : r->k;
        if (pos < r->from || pos - r->from >= r->n)
            continue;
        size_t to = at(r, e->layer, pos - r->from);
        memcpy(r->prob + to * r->n_experts, e->prob + (size_t)i * e->n_experts, e->n_experts * sizeof *e->prob);
        memcpy(r->logit + to * r->n_experts, e->logit + (size_t)i * e->n_experts,
               e->n_experts * sizeof *e->logit);
        memcpy(r->expert + to * r->k, e->expert + (size_t)i * e->top_k, k * sizeof *e->expert);
        memcpy(r->weight + to * r->k, e->weight + (size_t)i * e->top_k, k * sizeof *e->weight);
        c->pairs++;
    }
}

/* ---- the scratch session ---- */

struct prefix { struct engine *to; uint32_t n; struct dbrx_error *err; };

/* The part of a block that lies before position n */
static dbrx_status copy_block(void *ctx, const struct dbrx_kv_block *b)
{
    struct prefix *p = ctx;
    struct dbrx_kv_block part = *b;
    if (b->pos >= p->n)
        return DBRX_OK;
    if (part.n > p->n - b->pos)
        part.n = p->n - b->pos;
    return p->to->kv->import_kv(p->to->session, &part, p->err);
}

static dbrx_status compute(struct sess *s, struct routing *r, struct dbrx_error *err)
{
    struct engine e;
    struct collect c = { r, 0 };
    uint32_t end = r->from + r->n, have = sess_in_step(s), keep = have < r->from ? have : r->from;
    dbrx_status st = disp_scratch(s->disp, end, &e, err);
    if (st != DBRX_OK)
        return st;
    if (keep && disp_has_kv(s->disp)) {
        struct prefix p = { &e, keep, err };
        st = disp_export(s->disp, 0, copy_block, &p, err);
        if (st == DBRX_OK)
            st = e.kv->commit(e.session, keep, err);
    } else {
        keep = 0;
    }
    struct dbrx_route_sink sink = { .struct_size = sizeof sink, .want = DBRX_ROUTE_PROB | DBRX_ROUTE_LOGIT,
                                    .ctx = &c, .emit = emit };
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = end - keep, .token = s->token + keep,
                            .want_logits = DBRX_LOGITS_NONE, .route = &sink, .steer = disp_steered(s->disp) };
    if (st == DBRX_OK)
        st = engine_eval(&e, &b, err);
    engine_close(&e);
    if (st == DBRX_OK && c.pairs != (uint64_t)r->n * r->n_layers)
        st = fail(err, DBRX_E_UNSUPPORTED, "%s does not report the router's probabilities", disp_name(s->disp));
    return st;
}

/* ---- what was used ---- */

static int same_choice(const uint16_t *a, const uint16_t *b, uint32_t k)
{
    for (uint32_t i = 0; i < k; i++) {     /* as sets: two near-equal weights may swap places */
        uint32_t j = 0;
        while (j < k && a[i] != b[j])
            j++;
        if (j == k)
            return 0;
    }
    return 1;
}

/* kept: the experts a layer that the trace has room for */
static void take_trace(const struct sess *s, uint32_t kept, struct routing *r)
{
    uint32_t known = sess_routed(s);
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (uint32_t i = 0; i < r->n && r->from + i < known; i++) {
            const uint16_t *expert;
            const float *weight;
            uint16_t *mine = r->expert + at(r, l, i) * r->k;
            if (kept < r->k && mine[kept] != UINT16_MAX)
                continue;                  /* steered to more: the trace has only some of them */
            uint32_t k = trace_get(s->trace, r->from + i, l, &expert, &weight);
            r->differ += !same_choice(mine, expert, kept);
            for (uint32_t j = 0; j < r->k; j++) {
                mine[j] = j < k ? expert[j] : UINT16_MAX;
                r->weight[at(r, l, i) * r->k + j] = j < k ? weight[j] : 0;
            }
        }
}

uint32_t routing_k(const struct dbrx_config *c, const struct dbrx_steer *steer)
{
    uint32_t k = c->top_k;
    for (uint32_t l = 0; steer && steer->top_k && l < c->n_layers; l++)
        k = steer->top_k[l] > k ? steer->top_k[l] : k;
    return k;
}

static dbrx_status make(struct routing *r, const struct dbrx_config *c, uint32_t from, uint32_t to, int probs,
                        const struct dbrx_steer *steer, struct dbrx_error *err)
{
    *r = (struct routing){ .from = from, .n = to - from, .n_layers = c->n_layers,
                           .n_experts = c->n_experts, .k = routing_k(c, steer) };
    size_t rows = (size_t)r->n * r->n_layers;
    r->expert = malloc(rows * r->k * sizeof *r->expert);
    r->weight = calloc(rows * r->k, sizeof *r->weight);
    r->prob = probs ? malloc(rows * r->n_experts * sizeof *r->prob) : NULL;
    r->logit = probs ? malloc(rows * r->n_experts * sizeof *r->logit) : NULL;
    if (r->expert && r->weight && !probs == !r->prob && !probs == !r->logit) {
        memset(r->expert, 0xff, rows * r->k * sizeof *r->expert);
        return DBRX_OK;
    }
    routing_free(r);
    return fail(err, DBRX_E_NOMEM, "out of memory for the routing of %u tokens", to - from);
}

dbrx_status routing_read(struct sess *s, const struct dbrx_config *c, uint32_t from, uint32_t to,
                         struct routing *r, struct dbrx_error *err)
{
    dbrx_status st = make(r, c, from, to, 1, disp_steered(s->disp), err);
    if (st != DBRX_OK)
        return st;
    if ((st = compute(s, r, err)) == DBRX_OK)
        take_trace(s, c->top_k, r);
    else
        routing_free(r);
    return st;
}

dbrx_status routing_recall(struct sess *s, const struct dbrx_config *c, uint32_t from, uint32_t to,
                           struct routing *r, struct dbrx_error *err)
{
    dbrx_status st = make(r, c, from, to, 0, NULL, err);
    if (st != DBRX_OK)
        return st;
    take_trace(s, c->top_k, r);
    r->differ = 0;
    return DBRX_OK;
}

void routing_free(struct routing *r)
{
    free(r->expert);
    free(r->weight);
    free(r->prob);
    free(r->logit);
    *r = (struct routing){ 0 };
}

/* ---- measures ---- */

uint32_t routing_chosen(const struct routing *r, uint32_t layer, uint32_t i,
                        const uint16_t **expert, const float **weight)
{
    uint32_t k = 0;
    *expert = r->expert + at(r, layer, i) * r->k;
    *weight = r->weight + at(r, layer, i) * r->k;
    while (k < r->k && (*expert)[k] != UINT16_MAX)
        k++;
    return k;
}

double routing_margin(const struct routing *r, uint32_t layer, uint32_t i)
{
    const uint16_t *expert;
    const float *weight, *p = r->prob ? r->prob + at(r, layer, i) * r->n_experts : NULL;
    uint32_t k = routing_chosen(r, layer, i, &expert, &weight);
    double least = INFINITY, most = -INFINITY;
    for (uint32_t e = 0; e < r->n_experts && p; e++) {
        uint32_t j = 0;
        if (isnan(p[e]))
            return NAN;
        while (j < k && expert[j] != e)
            j++;
        if (j < k)
            least = p[e] < least ? (double)p[e] : least;
        else
            most = p[e] > most ? (double)p[e] : most;
    }
    return isfinite(least) && isfinite(most) ? (double)(float)(least - most) : NAN;
}

double routing_entropy(const struct routing *r, uint32_t layer, uint32_t i)
{
    const float *p = r->prob ? r->prob + at(r, layer, i) * r->n_experts : NULL;
    double bits = p ? 0 : NAN;
    for (uint32_t e = 0; e < r->n_experts && p; e++)
        bits -= p[e] > 0 ? (double)p[e] * log2((double)p[e]) : p[e] < 0 || isnan(p[e]) ? NAN : 0;
    return bits > 0 || isnan(bits) ? (double)(float)bits : 0;
}
