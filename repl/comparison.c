/* repl/comparison.c -- see comparison.h. */
#include "repl/comparison.h"

#include "plugins/fail.h"
#include "repl/clock.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_STEP = 512, WARM_UP = 16 };
static const double PIECE_BYTES = 256 << 20;

/* What side a gave for the positions of a piece.  Tap and route of a token: [layer][token]. */
struct piece {
    struct comparison *c;
    const int32_t *token;                  /* of the text                               */
    uint32_t pos, n;                       /* the piece's first position, and how many  */
    uint32_t step;
    int side;                              /* whose turn it is                          */
    float    *logits[2];                   /* [step][n_vocab]                           */
    float    *x;                           /* [n_layers + 1][step][d_model]             */
    float    *prob;                        /* [n_layers][step][n_experts]               */
    uint16_t *expert, *k;                  /* [n_layers][step][n_experts], [n_layers][step] */
    uint8_t  *want;                        /* [n_layers + 1]                            */
    uint8_t  *tapped, *routed;             /* [n_layers + 1][step], [n_layers][step]: a gave it */
};

/* A token's place within [layer][step], or -1: it is not of this piece */
static ptrdiff_t slot(const struct piece *p, uint32_t layer, uint32_t pos)
{
    return pos >= p->pos && pos - p->pos < p->n ? (ptrdiff_t)layer * p->step + pos - p->pos : -1;
}

static void on_tap(void *ctx, int kind, int32_t layer, uint32_t pos, uint32_t n, const float *x)
{
    struct piece *p = ctx;
    const struct dbrx_config *c = p->c->config;
    if (kind != DBRX_TAP_RESIDUAL || layer < -1 || layer >= (int32_t)c->n_layers)
        return;
    for (uint32_t t = 0; t < n; t++, x += c->d_model) {
        ptrdiff_t at = slot(p, (uint32_t)(layer + 1), pos + t);
        if (at < 0)
            continue;
        float *a = p->x + at * c->d_model;
        if (p->side == 0)
            memcpy(a, x, c->d_model * sizeof *a);
        else if (p->tapped[at])
            div_residual(p->c->d, layer, 1, a, x);
        p->tapped[at] = p->side == 0;      /* once each */
    }
}

static void on_route(void *ctx, const struct dbrx_route *r)
{
    struct piece *p = ctx;
    const struct dbrx_config *c = p->c->config;
    if (!r->prob || r->layer >= c->n_layers || r->n_experts != c->n_experts || r->top_k > c->n_experts)
        return;
    for (uint32_t t = 0; t < r->n_tokens; t++) {
        ptrdiff_t at = slot(p, r->layer, r->pos + t);
        const uint16_t *e = r->expert + (size_t)t * r->top_k;
        const float *prob = r->prob + (size_t)t * r->n_experts;
        if (at < 0)
            continue;
        uint16_t *a = p->expert + at * c->n_experts;
        if (p->side == 0) {
            p->k[at] = (uint16_t)r->top_k;
            memcpy(a, e, r->top_k * sizeof *a);
            memcpy(p->prob + at * c->n_experts, prob, c->n_experts * sizeof *prob);
        } else if (p->routed[at]) {
            div_route(p->c->d, (struct div_place){ p->c->texts, r->pos + t }, p->token[r->pos + t],
                      r->layer, p->k[at], a, p->prob + at * c->n_experts, r->top_k, e, prob);
        }
        p->routed[at] = p->side == 0;
    }
}

dbrx_status comparison_open(struct comparison *c, uint32_t top, struct dbrx_error *err)
{
    const struct dbrx_config *m = c->config;
    const size_t L = m->n_layers, V = m->n_vocab, E = m->n_experts, d = m->d_model;
    double per_token = 8.0 * (double)V + 4.0 * (double)((L + 1) * d) + 6.0 * (double)(L * E);
    double fit = PIECE_BYTES / per_token;
    uint32_t most = fit < 1 ? 1 : fit > MAX_STEP ? MAX_STEP : (uint32_t)fit;
    struct piece *p = c->piece = calloc(1, sizeof *p);
    c->d = div_new(m, top);
    if (!p || !c->d)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    c->step = c->step && c->step < most ? c->step : most;
    const size_t n = p->step = c->step;
    p->c = c;
    p->logits[0] = malloc(n * V * sizeof *p->logits[0]);
    p->logits[1] = malloc(n * V * sizeof *p->logits[1]);
    p->x = malloc((L + 1) * n * d * sizeof *p->x);
    p->prob = malloc(L * n * E * sizeof *p->prob);
    p->expert = malloc(L * n * E * sizeof *p->expert);
    p->k = malloc(L * n * sizeof *p->k);
    p->want = malloc(L + 1);
    p->tapped = calloc(L + 1, n);
    p->routed = calloc(L, n);
    if (!p->logits[0] || !p->logits[1] || !p->x || !p->prob || !p->expert || !p->k || !p->want ||
        !p->tapped || !p->routed)
        return fail(err, DBRX_E_NOMEM, "out of memory for %u tokens at a time", c->step);
    memset(p->want, 1 << DBRX_TAP_RESIDUAL, L + 1);
    return DBRX_OK;
}

void comparison_close(struct comparison *c)
{
    struct piece *p = c->piece;
    div_free(c->d);
    if (p) {
        free(p->logits[0]);
        free(p->logits[1]);
        free(p->x);
        free(p->prob);
        free(p->expert);
        free(p->k);
        free(p->want);
        free(p->tapped);
        free(p->routed);
    }
    free(p);
    c->piece = NULL;
    c->d = NULL;
}

/* err becomes "NAME: what it said" */
static dbrx_status blame(const char *label, dbrx_status st, struct dbrx_error *err)
{
    char text[sizeof err->text];
    snprintf(text, sizeof text, "%.40s: %.*s", label, (int)sizeof text - 48, err->text);
    return st < 0 ? fail(err, st, "%s", text) : st;
}

/* One side's turn at the piece */
static dbrx_status eval_piece(struct comparison *c, int side, const int32_t *token, uint32_t n,
                              int warm_up, struct dbrx_error *err)
{
    struct piece *p = c->piece;
    struct engine *e = c->side[side];
    const struct dbrx_route_sink sink = { .struct_size = sizeof sink, .want = DBRX_ROUTE_PROB,
                                          .ctx = p, .emit = on_route };
    const struct dbrx_tap tap = { .struct_size = sizeof tap, .ctx = p, .want = p->want, .emit = on_tap };
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = token, .steer = c->steer };
    char label[sizeof e->label];
    snprintf(label, sizeof label, "%s", e->label);     /* a lost engine has none */
    if (!warm_up) {
        b.want_logits = DBRX_LOGITS_ALL;
        b.logits = p->logits[side];
        b.logits_len = (size_t)p->step * c->config->n_vocab;
        b.route = &sink;
        b.tap = &tap;
    }
    p->side = side;
    double t0 = clock_seconds();
    dbrx_status st = engine_eval(e, &b, err);
    c->seconds[side] += warm_up ? 0 : clock_seconds() - t0;
    return blame(label, st, err);
}

static dbrx_status rewind_side(struct comparison *c, int side, struct dbrx_error *err)
{
    struct engine *e = c->side[side];
    return !e->session || engine_position(e) ? engine_truncate(e, 0, err) : DBRX_OK;
}

dbrx_status comparison_text(struct comparison *c, const int32_t *token, uint32_t n, uint64_t expected,
                            struct dbrx_error *err)
{
    struct piece *p = c->piece;
    struct dbrx_error local;
    dbrx_status st = DBRX_OK;
    int32_t next[MAX_STEP];
    err = err ? err : &local;
    for (int side = 0; side < 2 && st == DBRX_OK; side++) {
        st = rewind_side(c, side, err);
        if (st == DBRX_OK && !c->texts) {  /* neither side's time has the weights' way from the disk */
            st = eval_piece(c, side, token, n < WARM_UP ? n : WARM_UP, 1, err);
            if (st == DBRX_OK)
                st = rewind_side(c, side, err);
        }
    }
    p->token = token;
    for (p->pos = 0; p->pos < n && st == DBRX_OK; p->pos += p->n) {
        p->n = n - p->pos < p->step ? n - p->pos : p->step;
        memset(p->tapped, 0, (size_t)(c->config->n_layers + 1) * p->step);
        memset(p->routed, 0, (size_t)c->config->n_layers * p->step);
        c->host->progress(c->host, "comparing", c->tokens, expected);
        for (int side = 0; side < 2 && st == DBRX_OK; side++)
            st = eval_piece(c, side, token + p->pos, p->n, 0, err);
        if (st != DBRX_OK)
            break;
        for (uint32_t i = 0; i < p->n; i++)
            next[i] = p->pos + i + 1 < n ? token[p->pos + i + 1] : -1;
        div_logits(c->d, (struct div_place){ c->texts, p->pos }, p->n, p->logits[0], p->logits[1], next);
        c->tokens += p->n;
        c->widest = p->n > c->widest ? p->n : c->widest;
        if (c->host->should_stop(c->host))
            st = DBRX_STOPPED;
    }
    c->texts += st == DBRX_OK;
    return st == DBRX_OK && c->d->failed ? fail(err, DBRX_E_NOMEM, "out of memory") : st;
}
