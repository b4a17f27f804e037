/* tests/conformance/checks_repro.c -- the same bits: always for the same calls, and wherever
 * dbrx.repro/1 promises it also however tokens are cut into calls, whatever "threads" says and
 * whatever else is going on.  What is not promised is skipped, not assumed. */
#include "tests/conformance/conformance.h"

#include <stdio.h>
#include <string.h>

/* Records are compared by their bits; what the last call alone fills is left out. */
static int same_bits(const struct rec *a, const struct rec *b, uint32_t n, const char *what)
{
    const struct dbrx_config *c = a->cfg;
    size_t v = c->n_vocab, e = c->n_experts, d = c->d_model;
    NEED(!a->broken[0] && !b->broken[0], "%s%s", a->broken, b->broken);
    for (uint32_t i = 0; i < n; i++) {
        NEED(!memcmp(a->logits + i * v, b->logits + i * v, v * sizeof(float)),
             "%s: the logits of position %u have other bits", what, i);
        for (uint32_t l = 0; l < c->n_layers; l++) {
            size_t at = ((size_t)l * a->room + i) * e, row = ((size_t)(l + 1) * a->room + i) * d;
            NEED(!memcmp(a->expert + at, b->expert + at, c->top_k * sizeof *a->expert) &&
                 !memcmp(a->weight + at, b->weight + at, c->top_k * sizeof *a->weight) &&
                 !memcmp(a->prob + at, b->prob + at, e * sizeof *a->prob) &&
                 !memcmp(a->logit + at, b->logit + at, e * sizeof *a->logit),
                 "%s: the route of position %u, layer %u has other bits", what, i, l);
            NEED(!memcmp(a->resid + row, b->resid + row, d * sizeof *a->resid),
                 "%s: the residual of position %u after layer %u has other bits", what, i, l);
        }
    }
    return PASS;
}

/* A fresh session of `side` given f's tokens in calls of `step` (0: random ones), recorded. */
static struct rec *in_steps(struct fx *f, struct side *side, uint32_t step)
{
    struct rec *r = rec_new(f->cfg, ROOM);
    dbrx_session *s = fx_session(side, ROOM);
    for (uint32_t at = 0, n; at < N_TOK; at += n) {
        n = step ? step : 1 + below(&f->rng, 7);
        n = n < N_TOK - at ? n : N_TOK - at;
        if (feed(side, s, f->tok + at, n, r, &(struct ask){ .taps = true }) != DBRX_OK)
            snprintf(r->broken, sizeof r->broken, "eval of %u tokens failed", n);
    }
    return r;
}

static uint32_t promised(const struct fx *f)
{
    const struct dbrx_repro *r = f->sut.info->get(DBRX_REPRO);
    return r ? r->promises(f->sut.model) : 0;
}

#define PROMISED(f, what) do { if (!(promised(f) & (what))) { note("not promised"); return SKIP; } } while (0)

static int twice(struct fx *f)
{
    struct side again;
    NEED(fx_model(&f->sut, &f->rm->desc, &again) == DBRX_OK, "model_open failed");
    for (uint32_t step = N_TOK; step; step = step > 1 ? step / 3 : 0) {
        struct rec *r = in_steps(f, &f->sut, step);
        if (same_bits(r, in_steps(f, &f->sut, step), N_TOK, "another session") != PASS ||
            same_bits(r, in_steps(f, &again, step), N_TOK, "the model opened again") != PASS)
            return FAIL;
    }
    return PASS;
}

static int last_logits(struct fx *f, const int32_t *tok, uint32_t n, uint32_t step, float *out)
{
    dbrx_session *s = fx_session(&f->sut, n);
    for (uint32_t at = 0; at < n; at += step) {
        struct dbrx_batch b = {
            .struct_size = sizeof b, .n_tokens = step < n - at ? step : n - at, .token = tok + at,
            .want_logits = DBRX_LOGITS_LAST, .logits = out, .logits_len = f->cfg->n_vocab,
        };
        NEED(f->sut.be->eval(s, &b, NULL) == DBRX_OK, "eval failed");
    }
    return PASS;
}

static int chunks(struct fx *f)
{
    PROMISED(f, DBRX_REPRO_CHUNKS);
    static const uint32_t steps[] = { 1, 2, 3, 7, 16, 0, 0 };
    struct rec *r = in_steps(f, &f->sut, N_TOK);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        char what[40];
        snprintf(what, sizeof what, "in calls of %u", steps[i]);
        if (same_bits(in_steps(f, &f->sut, steps[i]), r, N_TOK, steps[i] ? what : "in random calls")
            != PASS)
            return FAIL;
    }
    /* ... and longer than any one pass */
    int32_t tok[N_LONG];
    size_t v = f->cfg->n_vocab;
    float *whole = fx_alloc(v * sizeof *whole), *parts = fx_alloc(v * sizeof *parts);
    for (int i = 0; i < N_LONG; i++)
        tok[i] = (int32_t)below(&f->rng, f->cfg->n_vocab);
    if (last_logits(f, tok, N_LONG, N_LONG, whole) != PASS ||
        last_logits(f, tok, N_LONG, 97, parts) != PASS)
        return FAIL;
    NEED(!memcmp(whole, parts, v * sizeof *whole), "%d tokens in one call and in calls of 97", N_LONG);
    return PASS;
}

static int threads(struct fx *f)
{
    PROMISED(f, DBRX_REPRO_THREADS);
    const struct dbrx_option *o = f->sut.be->options;
    while (o->name && strcmp(o->name, "threads"))
        o++;
    if (!o->name) {
        note("there is no option threads");
        return SKIP;
    }
    struct rec *one = NULL, *first = NULL;
    for (int n = 1; n <= 4; n++) {
        char value[16], what[24];
        const char *opt[40] = { NULL };
        struct side base = f->sut, side;
        int k = 0;
        for (const char *const *given = f->sut.opt; given && *given && k < 36; given++)
            if (strncmp(*given, "threads=", 8))
                opt[k++] = *given;
        snprintf(value, sizeof value, "threads=%d", n);
        snprintf(what, sizeof what, "with %d threads", n);
        opt[k] = value;
        base.opt = opt;
        NEED(fx_model(&base, &f->rm->desc, &side) == DBRX_OK, "%s: model_open failed", value);
        struct rec *all = in_steps(f, &side, N_TOK), *single = in_steps(f, &side, 1);
        first = first ? first : all;
        one = one ? one : single;
        if (same_bits(all, first, N_TOK, what) != PASS || same_bits(single, one, N_TOK, what) != PASS)
            return FAIL;
    }
    return PASS;
}

struct other { struct fx *f; dbrx_session *s; atomic_bool stop; };

static void *disturb(void *arg)
{
    struct other *o = arg;
    while (!atomic_load(&o->stop)) {
        o->f->sut.be->truncate(o->s, 0, NULL);
        feed(&o->f->sut, o->s, o->f->tok + 3, N_TOK - 3, NULL, NULL);
    }
    return NULL;
}

static int batch(struct fx *f)
{
    PROMISED(f, DBRX_REPRO_BATCH);
    const uint32_t keep = 9;
    struct rec *r = in_steps(f, &f->sut, N_TOK);
    for (int round = 0; round < 4; round++) {          /* others follow in the same call */
        int32_t tok[N_TOK];
        struct rec *q = rec_new(f->cfg, ROOM);
        memcpy(tok, f->tok, sizeof tok);
        for (uint32_t i = keep; i < N_TOK; i++)
            tok[i] = (int32_t)below(&f->rng, f->cfg->n_vocab);
        dbrx_session *s = fx_session(&f->sut, ROOM);
        NEED(feed(&f->sut, s, tok, N_TOK, q, &(struct ask){ .taps = true }) == DBRX_OK, "eval failed");
        if (same_bits(q, r, keep, "with other tokens behind") != PASS)
            return FAIL;
    }
    struct other o = { .f = f, .s = fx_session(&f->sut, ROOM) };
    pthread_t t;
    if (pthread_create(&t, NULL, disturb, &o))
        give_up("no thread");
    struct rec *busy = in_steps(f, &f->sut, N_TOK);
    atomic_store(&o.stop, true);
    pthread_join(t, NULL);
    return same_bits(busy, r, N_TOK, "beside a busy session");
}

static int choices(struct fx *f)
{
    const struct dbrx_choices *c = f->sut.info->get(DBRX_CHOICES);
    if (!c) {
        note("not offered");
        return SKIP;
    }
    NEED(!c->values("no-such-option") && !c->values(""), "values of an option that does not exist");
    for (const struct dbrx_option *o = f->sut.be->options; o->name; o++)
        for (const char *const *v = c->values(o->name); v && *v; v++) {
            char text[256];
            const char *const opt[] = { text, NULL };
            struct side base = f->sut, side;
            base.opt = opt;
            snprintf(text, sizeof text, "%s=%s", o->name, *v);
            NEED(fx_model(&base, &f->rm->desc, &side) == DBRX_OK, "%s is refused", text);
        }
    return PASS;
}

const struct check checks_repro[] = {
    { "C120", "the same calls give the same bits, in another session and another model", twice,
      EACH_SHAPE, 0 },
    { "C121", "bits do not depend on how tokens are cut into calls", chunks, EACH_SHAPE, 0 },
    { "C122", "bits do not depend on the number of threads", threads, EACH_SHAPE, 0 },
    { "C123", "bits do not depend on what else is in the batch or runs beside it", batch,
      EACH_SHAPE, 0 },
    { "C124", "every value that " DBRX_CHOICES " lists is accepted", choices, ONCE, 0 },
    { NULL, NULL, NULL, ONCE, 0 },
};
