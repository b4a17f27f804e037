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

/* ask[r->n]: the tokens that are computed */
struct collect { struct routing *r; const uint8_t *ask; };

static void emit(void *ctx, const struct dbrx_route *e)
{
    struct collect *c = ctx;
    struct routing *r = c->r;
    if ((r->prob && (!e->prob || !e->logit)) || e->n_experts != r->n_experts || e->layer >= r->n_layers)
        return;                            /* shows in the count */
    for (uint32_t i = 0; i < e->n_tokens; i++) {
        uint32_t pos = e->pos + i, k = e->top_k < r->k ? e->top_k : r->k;
        if (pos < r->from || pos - r->from >= r->n || !c->ask[pos - r->from])
            continue;
        size_t to = at(r, e->layer, pos - r->from), all = r->n_experts * sizeof *e->prob;
        if (r->prob) {
            memcpy(r->prob + to * r->n_experts, e->prob + (size_t)i * e->n_experts, all);
            memcpy(r->logit + to * r->n_experts, e->logit + (size_t)i * e->n_experts, all);
        }
        memcpy(r->expert + to * r->k, e->expert + (size_t)i * e->top_k, k * sizeof *e->expert);
        memcpy(r->weight + to * r->k, e->weight + (size_t)i * e->top_k, k * sizeof *e->weight);
        r->computed++;
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

/* Where the last run of asked tokens below position `end` begins, an asked one being the last
 * before `end`; a gap that is cheaper to compute than to part for belongs to it. */
static uint32_t run_begin(const struct collect *c, uint32_t end)
{
    enum { GAP = 32 };
    uint32_t from = c->r->from, begin = end - 1;
    for (uint32_t pos = end - 1; pos > from && begin - (pos - 1) <= GAP; pos--)
        if (c->ask[pos - 1 - from])
            begin = pos - 1;
    return begin;
}

/* The asked tokens, a run at a time and the last run first: what is before a run is the
 * conversation's own KV, as far as that goes, and is cut back to where the next one begins. */
static dbrx_status compute(struct sess *s, struct collect *c, struct dbrx_error *err)
{
    struct routing *r = c->r;
    struct engine e;
    uint32_t end = r->from + r->n, have = disp_has_kv(s->disp) ? sess_in_step(s) : 0, asked = 0;
    for (uint32_t i = 0; i < r->n; i++)
        asked += c->ask[i] != 0;
    while (end > r->from && !c->ask[end - 1 - r->from])
        end--;
    if (!asked)
        return DBRX_OK;
    dbrx_status st = disp_scratch(s->disp, end, &e, err);
    if (st != DBRX_OK)
        return st;
    uint32_t begin = run_begin(c, end);
    have = have < begin ? have : begin;
    if (have) {
        struct prefix p = { &e, have, err };
        st = disp_export(s->disp, 0, copy_block, &p, err);
        if (st == DBRX_OK)
            st = e.kv->commit(e.session, have, err);
    }
    struct dbrx_route_sink sink = { .struct_size = sizeof sink, .ctx = c, .emit = emit,
                                    .want = r->prob ? DBRX_ROUTE_PROB | DBRX_ROUTE_LOGIT : 0 };
    while (st == DBRX_OK && end > r->from) {
        begin = run_begin(c, end);
        begin = begin < have ? begin : have;
        struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = end - begin, .token = s->token + begin,
                                .want_logits = DBRX_LOGITS_NONE, .route = &sink, .steer = disp_steered(s->disp) };
        if (begin < engine_position(&e))
            st = engine_truncate(&e, begin, err);
        if (st == DBRX_OK)
            st = engine_eval(&e, &b, err);
        for (end = begin; end > r->from && !c->ask[end - 1 - r->from]; end--)
            ;
    }
    engine_close(&e);
    if (st == DBRX_OK && r->computed != (uint64_t)asked * r->n_layers)
        st = fail(err, DBRX_E_UNSUPPORTED, "%s does not report the router's %s", disp_name(s->disp),
                  r->prob ? "probabilities" : "choices");
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

/* kept: the experts a layer that the trace has room for; known: tokens of the timeline it has;
 * ask: those just computed; tok: those meant */
static void take_trace(const struct sess *s, uint32_t kept, uint32_t known, const uint8_t *ask, const uint8_t *tok,
                       struct routing *r)
{
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (uint32_t i = 0; i < r->n && r->from + i < known; i++) {
            const uint16_t *expert;
            const float *weight;
            uint16_t *mine = r->expert + at(r, l, i) * r->k;
            if ((tok && !tok[i]) || (kept < r->k && mine[kept] != UINT16_MAX))
                continue;                  /* steered to more: the trace has only some of them */
            uint32_t k = trace_get(s->trace, r->from + i, l, &expert, &weight);
            r->differ += ask[i] && !same_choice(mine, expert, kept);
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
    size_t rows = (size_t)r->n * r->n_layers, all = rows * r->n_experts * sizeof *r->prob;
    r->expert = malloc(rows * r->k * sizeof *r->expert);
    r->weight = calloc(rows * r->k, sizeof *r->weight);
    r->prob = probs ? malloc(all) : NULL;
    r->logit = probs ? malloc(all) : NULL;
    if (r->expert && r->weight && !probs == !r->prob && !probs == !r->logit) {
        memset(r->expert, 0xff, rows * r->k * sizeof *r->expert);
        if (probs) {                       /* NaN */
            memset(r->prob, 0xff, all);
            memset(r->logit, 0xff, all);
        }
        return DBRX_OK;
    }
    routing_free(r);
    return fail(err, DBRX_E_NOMEM, "out of memory for the routing of %u tokens", to - from);
}

dbrx_status routing_read(struct sess *s, const struct dbrx_config *c, uint32_t from, uint32_t to,
                         const uint8_t *tok, int probs, struct routing *r, struct dbrx_error *err)
{
    uint8_t *ask = malloc(to - from);
    dbrx_status st = ask ? make(r, c, from, to, probs, disp_steered(s->disp), err)
                         : fail(err, DBRX_E_NOMEM, "out of memory for the routing of %u tokens", to - from);
    if (st == DBRX_OK) {
        struct collect job = { r, ask };
        uint32_t known = sess_routed(s);
        for (uint32_t i = 0; i < r->n; i++)
            ask[i] = (!tok || tok[i]) && (probs || r->k > c->top_k || from + i >= known);
        if ((st = compute(s, &job, err)) == DBRX_OK)
            take_trace(s, c->top_k, known, ask, tok, r);
        else
            routing_free(r);
    }
    free(ask);
    return st;
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
