/* tests/conformance/checks_resume.c -- dbrx.resume/1: the same positions once more from an
 * inner block on, with other steering or with the same. */
#include "tests/conformance/conformance.h"

#include <string.h>

enum { HELD = N_TOK - 1 };                 /* one token is left to go on with */

static const struct ask with_taps = { .taps = true };

/* the rows that enter block `layer`, as r has them from position `pos` on */
static const float *rows(const struct rec *r, uint32_t layer, uint32_t pos)
{
    return r->resid + ((size_t)layer * r->room + pos) * r->cfg->d_model;
}

/* f's session holding HELD tokens, everything about them recorded */
static struct rec *held(struct fx *f)
{
    struct rec *r = rec_new(f->cfg, ROOM);
    if (f->sut.be->truncate(f->s, 0, NULL) != DBRX_OK || feed(&f->sut, f->s, f->tok, HELD, r, &with_taps) != DBRX_OK)
        return NULL;
    return r;
}

static int at_any_block(struct fx *f)
{
    struct rec *r = held(f);
    NEED(r, "eval failed");
    size_t bytes = (size_t)(f->cfg->n_layers + 1) * r->room * f->cfg->d_model * sizeof(float);
    float *x = fx_alloc(bytes), *copy = fx_alloc(bytes);
    memcpy(x, r->resid, bytes);
    memcpy(copy, r->resid, bytes);
    for (uint32_t l = 0; l < f->cfg->n_layers; l++) {
        memset(r->logits, 0, (size_t)r->room * f->cfg->n_vocab * sizeof *r->logits);
        const struct ask ask = { .taps = true, .layer = l,
                                 .x = x + (size_t)l * r->room * f->cfg->d_model };
        dbrx_status st = feed(&f->sut, f->s, NULL, HELD, r, &ask);
        NEED(st == DBRX_OK, "block %u: resume returned %d", l, (int)st);
        if (routes_as_documented(r, HELD) != PASS ||
            same_logits(r, f->truth, 0, HELD, TOL, "resumed") != PASS ||
            unchanged(f, f->s, HELD, "resume") != PASS)
            return FAIL;
        NEED(distance(r->resid, copy, HELD * f->cfg->d_model) <= TOL && !memcmp(x, copy, bytes),
             "block %u: the rows it was given were written", l);
    }
    return PASS;
}

/* Steering from a block on: what eval makes of it, for these positions and for those that come
 * after; and without it everything is again what it was. */
static int steered(struct fx *f)
{
    const struct dbrx_config *c = f->cfg;
    size_t n = (size_t)c->n_layers * c->n_experts;
    uint32_t compared = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        float *scale = fx_alloc(n * sizeof *scale), *bias = fx_alloc(n * sizeof *bias);
        for (size_t i = 0; i < n; i++) {
            scale[i] = i / c->n_experts >= l && i % 3 == 0 ? 0.25f : 1;
            bias[i] = i / c->n_experts > l && i % 4 == 1 ? -2 : 0;
        }
        struct dbrx_steer steer = { .struct_size = sizeof steer, .bias = bias, .scale = scale };
        struct rec *r = held(f), *want = fed(f, &f->ref, N_TOK, &(struct ask){ .steer = &steer }, NULL);
        NEED(r, "eval failed");
        float *x = fx_alloc(HELD * c->d_model * sizeof *x);
        memcpy(x, rows(r, l, 0), HELD * c->d_model * sizeof *x);
        struct ask ask = { .steer = &steer, .taps = true, .x = x, .layer = l };
        NEED(feed(&f->sut, f->s, NULL, HELD, r, &ask) == DBRX_OK, "block %u: resume failed", l);
        if (rec_margin(want, 0) > TOL && ++compared &&
            same_logits(r, want, 0, HELD, TOL, "resumed under steering") != PASS)
            return FAIL;
        NEED(feed(&f->sut, f->s, f->tok + HELD, 1, r, &(struct ask){ .steer = &steer, .taps = true }) == DBRX_OK &&
             f->sut.be->truncate(f->s, HELD, NULL) == DBRX_OK, "block %u: the next token failed", l);
        uint32_t sure = 0;
        while (sure < N_TOK && rec_margin(want, sure) > TOL)
            sure++;
        if (sure == N_TOK && same_logits(r, want, HELD, N_TOK, TOL, "the token after") != PASS)
            return FAIL;
        ask.steer = NULL;
        NEED(feed(&f->sut, f->s, NULL, HELD, r, &ask) == DBRX_OK, "block %u: resume failed", l);
        if (same_logits(r, f->truth, 0, HELD, TOL, "resumed without steering again") != PASS ||
            unchanged(f, f->s, HELD, "a steered resume taken back") != PASS)
            return FAIL;
    }
    NEED(compared, "every steered run was too close to call");
    return PASS;
}

static int pieces(struct fx *f)
{
    struct rec *r = held(f);
    NEED(r, "eval failed");
    uint32_t l = f->cfg->n_layers / 2;
    float *x = fx_alloc(HELD * f->cfg->d_model * sizeof *x);
    memcpy(x, rows(r, l, 0), HELD * f->cfg->d_model * sizeof *x);
    for (uint32_t pos = 0, n; pos < HELD; pos += n) {
        n = pos + 7 < HELD ? 7 : HELD - pos;
        const struct ask ask = { .taps = true, .layer = l, .pos = pos, .x = x + (size_t)pos * f->cfg->d_model };
        NEED(feed(&f->sut, f->s, NULL, n, r, &ask) == DBRX_OK, "resume of %u positions at %u failed", n, pos);
        NEED(f->sut.be->position(f->s) == HELD, "position is %u, not %d", f->sut.be->position(f->s), HELD);
    }
    if (routes_as_documented(r, HELD) != PASS)
        return FAIL;
    return same_logits(r, f->truth, 0, HELD, TOL, "resumed in pieces");
}

static int refusals(struct fx *f)
{
    struct rec *r = held(f);
    NEED(r, "eval failed");
    size_t v = f->cfg->n_vocab;
    uint32_t last = f->cfg->n_layers - 1;
    float *buf = canary_new(v);
    const float *x = rows(r, last, 0);
    const struct dbrx_batch good = { .struct_size = sizeof good, .n_tokens = 2, .logits = buf, .logits_len = v,
                                     .want_logits = DBRX_LOGITS_LAST };
    struct dbrx_batch b = good;
    const struct dbrx_resume *res = f->sut.resume;
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last + 1, 0, x, &b, err));
    REFUSED(DBRX_E_INVALID, res->resume(f->s, UINT32_MAX, 0, x, &b, err));
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last, 0, NULL, &b, err));
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last, HELD - 1, x, &b, err));
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last, HELD + 1, x, &b, err));
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last, UINT32_MAX, x, &b, err));
    b.n_tokens = UINT32_MAX;
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last, 1, x, &b, err));
    b.n_tokens = 0;
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last, 0, x, &b, err));
    b = good;
    b.logits_len = v - 1;
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last, 0, x, &b, err));
    b = good;
    b.struct_size = 8;
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last, 0, x, &b, err));
    b = good;
    uint16_t *k = fx_alloc(f->cfg->n_layers * sizeof *k);
    k[last] = (uint16_t)(f->cfg->n_experts + 1);
    b.steer = &(struct dbrx_steer){ .struct_size = sizeof *b.steer, .top_k = k };
    REFUSED(DBRX_E_INVALID, res->resume(f->s, last, 0, x, &b, err));
    NEED(canary_untouched(buf, v), "logits were written");
    return unchanged(f, f->s, HELD, "what was refused");
}

/* Stopped at any poll: the position stays, and resumed again nothing shows. */
static int stopped(struct fx *f)
{
    struct rec *r = held(f);
    NEED(r, "eval failed");
    float *x = fx_alloc(HELD * f->cfg->d_model * sizeof *x);
    memcpy(x, rows(r, 0, 0), HELD * f->cfg->d_model * sizeof *x);
    struct ask ask = { .taps = true, .x = x };
    unsigned stops = 0;
    for (unsigned at = 1; at < 1000; at++) {
        atomic_store(&f->sut.watch->polls, 0);
        atomic_store(&f->sut.watch->stop_at, at);
        dbrx_status st = feed(&f->sut, f->s, NULL, HELD, r, &ask);
        atomic_store(&f->sut.watch->stop_at, 0);
        NEED(f->sut.be->position(f->s) == HELD, "stopped at poll %u: position is %u, not %d", at,
             f->sut.be->position(f->s), HELD);
        if (st == DBRX_OK && atomic_load(&f->sut.watch->polls) < at)
            break;
        NEED(st == DBRX_STOPPED, "asked to stop at poll %u, resume returned %d", at, (int)st);
        NEED(feed(&f->sut, f->s, NULL, HELD, r, &ask) == DBRX_OK, "the resume after a stop failed");
        if (same_logits(r, f->truth, 0, HELD, TOL, "after a stop") != PASS)
            return FAIL;
        stops++;
    }
    NEED(stops >= f->cfg->n_layers, "it asked only %u times whether to stop, for %u layers", stops, f->cfg->n_layers);
    return unchanged(f, f->s, HELD, "stops");
}

const struct check checks_resume[] = {
    { "C130", "resume at any block gives what eval gave, routes and taps from there on", at_any_block, EACH_SHAPE,
      NEEDS_RESUME },
    { "C131", "resume under other steering: as if evaluated so, the tokens after too", steered, EACH_SHAPE,
      NEEDS_RESUME },
    { "C132", "resume in pieces is resume of all", pieces, EACH_SHAPE, NEEDS_RESUME },
    { "C133", "resume refuses what is not there and changes nothing", refusals, EACH_SHAPE, NEEDS_RESUME },
    { "C134", "resume stops when asked; resumed again nothing is lost", stopped, EACH_SHAPE, NEEDS_RESUME },
    { NULL, NULL, NULL, ONCE, 0 },
};
