/* tests/conformance/record.c -- feed tokens, keep everything the backend says about them,
 * compare.  The sink and the tap check the rules of delivery as they are called; the first
 * breach is kept as a sentence in rec->broken. */
#include "tests/conformance/conformance.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const double TOL = 1e-4;

struct rec *rec_new(const struct dbrx_config *c, uint32_t room)
{
    struct rec *r = fx_alloc(sizeof *r);
    size_t rows = (size_t)c->n_layers * room, e = c->n_experts, d = c->d_model;
    r->cfg = c;
    r->room = room;
    r->logits = fx_alloc((size_t)room * c->n_vocab * sizeof *r->logits);
    r->top_k = fx_alloc(c->n_layers * sizeof *r->top_k);
    r->expert = fx_alloc(rows * e * sizeof *r->expert);
    r->weight = fx_alloc(rows * e * sizeof *r->weight);
    r->prob = fx_alloc(rows * e * sizeof *r->prob);
    r->logit = fx_alloc(rows * e * sizeof *r->logit);
    r->resid = fx_alloc((rows + room) * d * sizeof *r->resid);
    r->part = fx_alloc(rows * e * d * sizeof *r->part);
    r->routed = fx_alloc(rows);
    r->tapped = fx_alloc(2 * (rows + room));
    r->taps = fx_alloc(c->n_layers + 1);
    r->want = DBRX_ROUTE_PROB | DBRX_ROUTE_LOGIT;
    memset(r->taps, 1 << DBRX_TAP_RESIDUAL | 1 << DBRX_TAP_EXPERT, c->n_layers + 1);
    r->taps[0] = 1 << DBRX_TAP_RESIDUAL;   /* the embedding has no experts */
    return r;
}

__attribute__((format(printf, 2, 3)))
static void breach(struct rec *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!r->broken[0])
        vsnprintf(r->broken, sizeof r->broken, fmt, ap);
    va_end(ap);
}

/* Is a run of n positions from pos the next thing to hear about this row of `seen`?
 * Marks it.  below: the same positions one layer down, which come first; NULL: none. */
static bool in_order(struct rec *r, const char *what, int32_t layer, uint32_t pos, uint32_t n,
                     uint8_t *seen, const uint8_t *below)
{
    if (!pthread_equal(pthread_self(), r->caller))
        breach(r, "%s of layer %d came on another thread than eval's", what, layer);
    if (!n || pos < r->start || pos >= r->end || n > r->end - pos) {
        breach(r, "%s of layer %d covers %u positions from %u; the batch was %u to %u", what,
               layer, n, pos, r->start, r->end);
        return false;
    }
    for (uint32_t p = pos; p < pos + n; p++) {
        if (seen[p]++)
            breach(r, "%s of layer %d, position %u came twice", what, layer, p);
        if (p > r->start && !seen[p - 1])
            breach(r, "%s of layer %d: position %u came before %u", what, layer, p, p - 1);
        if (below && !below[p])
            breach(r, "%s of position %u: layer %d came before layer %d", what, p, layer,
                   layer - 1);
    }
    return true;
}

static void on_route(void *ctx, const struct dbrx_route *t)
{
    struct rec *r = ctx;
    const struct dbrx_config *c = r->cfg;
    size_t e = c->n_experts, k = t->top_k;
    if (!DBRX_HAS(struct dbrx_route, t, logit) || t->layer >= c->n_layers ||
        t->n_experts != e || !t->expert || !t->weight) {
        breach(r, "a route with struct_size %u, layer %u, n_experts %u", t->struct_size, t->layer,
               t->n_experts);
        return;
    }
    if (k != r->top_k[t->layer]) {
        breach(r, "a route of layer %u with top_k %zu, not %u", t->layer, k, r->top_k[t->layer]);
        return;
    }
    if (!t->prob == !!(r->want & DBRX_ROUTE_PROB) || !t->logit == !!(r->want & DBRX_ROUTE_LOGIT))
        breach(r, "want is %u, but prob is %s and logit is %s", r->want,
               t->prob ? "given" : "NULL", t->logit ? "given" : "NULL");
    size_t row = (size_t)t->layer * r->room;
    if (!in_order(r, "the route", (int32_t)t->layer, t->pos, t->n_tokens, r->routed + row,
                  t->layer ? r->routed + row - r->room : NULL))
        return;
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        size_t at = (row + t->pos + i) * e;
        memcpy(r->expert + at, t->expert + i * k, k * sizeof *t->expert);
        memcpy(r->weight + at, t->weight + i * k, k * sizeof *t->weight);
        if (t->prob)
            memcpy(r->prob + at, t->prob + i * e, e * sizeof *t->prob);
        if (t->logit)
            memcpy(r->logit + at, t->logit + i * e, e * sizeof *t->logit);
    }
}

static void on_tap(void *ctx, int kind, int32_t layer, uint32_t pos, uint32_t n, const float *x)
{
    struct rec *r = ctx;
    const struct dbrx_config *c = r->cfg;
    size_t d = c->d_model;
    if (layer < -1 || layer >= (int32_t)c->n_layers || (kind != DBRX_TAP_RESIDUAL &&
        (kind != DBRX_TAP_EXPERT || layer < 0)) || !(r->taps[layer + 1] & 1 << kind)) {
        breach(r, "a tap of kind %d at layer %d, which nobody asked for", kind, layer);
        return;
    }
    size_t row = (size_t)(layer + 1) * r->room, rows = (size_t)(c->n_layers + 1) * r->room;
    uint8_t *seen = r->tapped + (size_t)kind * rows + row;
    bool sure = layer >= 0 && r->taps[layer] & 1 << kind;      /* the layer below is asked for */
    if (!in_order(r, kind ? "the expert tap" : "the residual tap", layer, pos, n, seen,
                  sure ? seen - r->room : NULL))
        return;
    if (kind == DBRX_TAP_RESIDUAL) {
        memcpy(r->resid + (row + pos) * d, x, n * d * sizeof *x);
        return;
    }
    size_t k = r->top_k[layer];
    for (uint32_t i = 0; i < n; i++)
        memcpy(r->part + ((size_t)layer * r->room + pos + i) * c->n_experts * d, x + i * k * d,
               k * d * sizeof *x);
}

/* ---- the error structure ---------------------------------------------------------- */

struct dbrx_error *guarded_init(struct guarded *g)
{
    memset(g, 0xa5, sizeof *g);
    return &g->err;
}

const char *guarded_fault(const struct guarded *g, dbrx_status st)
{
    const unsigned char *b = (const unsigned char *)&g->err;
    bool written = false;
    for (size_t i = 0; i < sizeof g->before; i++)
        if (g->before[i] != 0xa5 || g->after[i] != 0xa5)
            return "memory around the error structure was written";
    for (size_t i = 0; i < sizeof g->err; i++)
        written |= b[i] != 0xa5;
    if (st >= 0)
        return written ? "the error structure was written, but nothing failed" : NULL;
    if (g->err.code != st)
        return "the error's code is not the status returned";
    if (!memchr(g->err.text, '\0', sizeof g->err.text))
        return "the error's text does not end";
    if (!g->err.text[0])
        return "the error's text is empty";
    return strpbrk(g->err.text, "\r\n") ? "the error's text has a line break" : NULL;
}

/* ---- feeding ------------------------------------------------------------------------ */

dbrx_status feed(struct side *side, dbrx_session *s, const int32_t *tok, uint32_t n,
                 struct rec *r, const struct ask *ask)
{
    static const struct ask plain = { .taps = false };
    struct guarded g;
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = tok };
    struct dbrx_route_sink sink = { .struct_size = sizeof sink, .ctx = r, .emit = on_route };
    struct dbrx_tap tap = { .struct_size = sizeof tap, .ctx = r, .emit = on_tap };
    ask = ask ? ask : &plain;
    b.steer = ask->steer;
    if (!r)
        return side->be->eval(s, &b, NULL);
    const struct dbrx_config *c = r->cfg;
    r->start = ask->x ? ask->pos : side->be->position(s);
    r->end = r->start + n;
    r->caller = pthread_self();
    r->steer = ask->steer;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        uint16_t k = r->steer && r->steer->top_k ? r->steer->top_k[l] : 0;
        r->top_k[l] = k ? k : c->top_k;
    }
    uint32_t gone = ask->x ? n : r->room - r->start, row = c->n_layers + 1;
    for (uint32_t i = ask->layer; i < c->n_layers; i++)        /* forget what lay beyond */
        memset(r->routed + (size_t)i * r->room + r->start, 0, gone);
    for (uint32_t i = 0; i < 2 * row; i++)
        if (!ask->x || i % row > ask->layer)
            memset(r->tapped + (size_t)i * r->room + r->start, 0, gone);
    b.want_logits = DBRX_LOGITS_ALL;
    b.logits = r->logits + (size_t)r->start * c->n_vocab;
    b.logits_len = (size_t)n * c->n_vocab;
    sink.want = r->want;
    tap.want = r->taps;
    b.route = ask->no_route ? NULL : &sink;
    b.tap = ask->taps ? &tap : NULL;
    if (ask->x)
        b.token = NULL;                    /* nobody's business */
    dbrx_status st = ask->x ? side->resume->resume(s, ask->layer, ask->pos, ask->x, &b, guarded_init(&g))
                            : side->be->eval(s, &b, guarded_init(&g));
    const char *fault = guarded_fault(&g, st);
    if (fault)
        breach(r, "eval returned %d: %s", (int)st, fault);
    return st;
}

struct rec *fed(struct fx *f, struct side *side, uint32_t n, const struct ask *ask,
                dbrx_session **out)
{
    struct rec *r = rec_new(f->cfg, ROOM);
    dbrx_session *s = fx_session(side, ROOM);
    dbrx_status st = feed(side, s, f->tok, n, r, ask);
    if (st != DBRX_OK)
        breach(r, "eval of %u tokens returned %d", n, (int)st);
    if (out)
        *out = s;
    return r;
}

/* ---- comparing ------------------------------------------------------------------------ */

double distance(const float *a, const float *b, size_t n)
{
    double worst = 0, big = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (isnan(d))
            return INFINITY;
        worst = fmax(worst, d);
        big = fmax(big, fabs(b[i]));
    }
    return worst == 0 ? 0 : worst / big;
}

int same_logits(const struct rec *got, const struct rec *want, uint32_t from, uint32_t to,
                double tol, const char *what)
{
    size_t v = got->cfg->n_vocab;
    uint32_t sure = 0;                     /* a close decision also clouds what follows */
    while (sure < to && rec_margin(want, sure) > TOL)
        sure++;
    NEED(sure > from, "%s: the oracle's routing is too close to call, nothing compared", what);
    double d = distance(got->logits + from * v, want->logits + from * v, (sure - from) * v);
    NEED(d <= tol, "%s: logits differ by %.2g of the largest (allowed: %g)", what, d, tol);
    return PASS;
}

int unchanged(struct fx *f, dbrx_session *s, uint32_t pos, const char *after)
{
    uint32_t at = f->sut.be->position(s);
    NEED(at == pos, "after %s: position is %u, not %u", after, at, pos);
    struct rec *r = rec_new(f->cfg, ROOM);
    dbrx_status st = feed(&f->sut, s, f->tok + pos, 1, r, NULL);
    NEED(st == DBRX_OK, "after %s: eval returned %d", after, (int)st);
    if (same_logits(r, f->truth, pos, pos + 1, TOL, after) != PASS)
        return FAIL;
    st = f->sut.be->truncate(s, pos, NULL);
    NEED(st == DBRX_OK, "after %s: truncate returned %d", after, (int)st);
    return PASS;
}

enum { CANARY = 64 };                      /* floats */

float *canary_new(size_t n)
{
    float *p = fx_alloc((n + 2 * CANARY) * sizeof *p);
    memset(p, 0xa5, (n + 2 * CANARY) * sizeof *p);
    return p + CANARY;
}

static bool all_a5(const void *p, size_t bytes)
{
    const unsigned char *b = p;
    while (bytes && b[bytes - 1] == 0xa5)
        bytes--;
    return !bytes;
}

bool canary_ok(const float *p, size_t n)
{
    return all_a5(p - CANARY, CANARY * sizeof *p) && all_a5(p + n, CANARY * sizeof *p);
}

bool canary_untouched(const float *p, size_t n)
{
    return all_a5(p - CANARY, (n + 2 * CANARY) * sizeof *p);
}
