/* tests/conformance/checks_stop.c -- should_stop: asked often enough, and whenever it says
 * yes the session is left on a whole token from which one can go on. */
#include "tests/conformance/conformance.h"

#include <string.h>

/* from now on; 0: never */
static void stop_at(struct fx *f, unsigned k)
{
    atomic_store(&f->sut.watch->polls, 0);
    atomic_store(&f->sut.watch->stop_at, k);
}

static int polls(struct fx *f)
{
    for (uint32_t i = 0; i < 4; i++) {
        stop_at(f, 0);
        NEED(feed(&f->sut, f->s, f->tok + i, 1, NULL, NULL) == DBRX_OK, "eval failed");
        unsigned n = atomic_load(&f->sut.watch->polls);
        NEED(n >= f->cfg->n_layers, "%u polls for %u layers", n, f->cfg->n_layers);
    }
    return PASS;
}

static int stop_everywhere(struct fx *f)
{
    const uint32_t old = 3;
    struct rec *r = rec_new(f->cfg, ROOM);
    for (unsigned k = 1; ; k++) {
        NEED(f->sut.be->truncate(f->s, 0, NULL) == DBRX_OK, "truncate failed");
        stop_at(f, 0);
        NEED(feed(&f->sut, f->s, f->tok, old, r, NULL) == DBRX_OK, "eval failed");
        stop_at(f, k);
        dbrx_status st = feed(&f->sut, f->s, f->tok + old, N_TOK - old, r, NULL);
        bool said = atomic_load(&f->sut.watch->polls) >= k;
        uint32_t at = f->sut.be->position(f->s);
        stop_at(f, 0);
        if (!said) {                       /* k is more often than it asks */
            NEED(st == DBRX_OK && k > 1, "eval returned %d and never asked", (int)st);
            return PASS;
        }
        NEED(st == DBRX_STOPPED, "stopped at poll %u: eval returned %d", k, (int)st);
        NEED(!r->broken[0], "stopped at poll %u: %s", k, r->broken);
        NEED(at >= old && at < N_TOK, "stopped at poll %u: position %u", k, at);
        st = feed(&f->sut, f->s, f->tok + at, N_TOK - at, r, NULL);
        NEED(st == DBRX_OK, "going on after poll %u: eval returned %d", k, (int)st);
        if (same_logits(r, f->truth, at, N_TOK, TOL, "going on after a stop") != PASS)
            return FAIL;
    }
}

/* Longer than any backend's pass, so that a stop can leave a part behind.  Only where every
 * expert is chosen: nothing to be close about in a thousand random tokens. */
static int stop_long(struct fx *f)
{
    if (f->cfg->top_k != f->cfg->n_experts)
        return PASS;
    int32_t tok[N_LONG];
    for (int i = 0; i < N_LONG; i++)
        tok[i] = (int32_t)below(&f->rng, f->cfg->n_vocab);
    struct rec *truth = rec_new(f->cfg, N_LONG), *r = rec_new(f->cfg, N_LONG);
    dbrx_session *o = fx_session(&f->ref, N_LONG), *s = fx_session(&f->sut, N_LONG);
    for (uint32_t at = 0, n; at < N_LONG; at += n) {
        n = N_LONG - at < 97 ? N_LONG - at : 97;
        if (feed(&f->ref, o, tok + at, n, truth, NULL) != DBRX_OK)
            give_up("the oracle failed");
    }
    stop_at(f, 0);
    NEED(feed(&f->sut, s, tok, N_LONG, r, NULL) == DBRX_OK, "eval of %d tokens failed", N_LONG);
    if (same_logits(r, truth, 0, N_LONG, TOL, "a long prompt") != PASS)
        return FAIL;
    unsigned total = atomic_load(&f->sut.watch->polls);
    for (unsigned k = 1; k <= total; k = k < 8 ? k + 1 : k + 1 + total / 6) {
        NEED(f->sut.be->truncate(s, 0, NULL) == DBRX_OK, "truncate failed");
        memset(r->logits, 0, (size_t)N_LONG * f->cfg->n_vocab * sizeof *r->logits);
        stop_at(f, k);
        dbrx_status st = feed(&f->sut, s, tok, N_LONG, r, NULL);
        uint32_t at = f->sut.be->position(s);
        stop_at(f, 0);
        NEED(st == DBRX_STOPPED, "stopped at poll %u of %u: eval returned %d", k, total, (int)st);
        NEED(at < N_LONG, "stopped at poll %u of %u: position %u", k, total, at);
        NEED(feed(&f->sut, s, tok + at, N_LONG - at, r, NULL) == DBRX_OK, "going on failed");
        if (same_logits(r, truth, at, N_LONG, TOL, "a long prompt, stopped") != PASS)
            return FAIL;
    }
    return PASS;
}

const struct check checks_stop[] = {
    { "C40", "should_stop is polled at least once per layer", polls, EACH_SHAPE, 0 },
    { "C41", "a stop at any poll leaves a whole prefix to go on from", stop_everywhere,
      EACH_SHAPE, 0 },
    { "C42", "and so it does in the middle of a long prompt", stop_long, EACH_SHAPE, 0 },
    { NULL, NULL, NULL, ONCE, 0 },
};
