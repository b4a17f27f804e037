/* tests/conformance/checks_eval.c -- eval, position, truncate: the arithmetic against the
 * oracle, the caller's buffers, every refusal, sessions side by side. */
#include "tests/conformance/conformance.h"

#include <limits.h>
#include <string.h>

static int whole(struct fx *f)
{
    struct rec *r = rec_new(f->cfg, ROOM);
    dbrx_status st = feed(&f->sut, f->s, f->tok, N_TOK, r, NULL);
    NEED(st == DBRX_OK, "eval returned %d", (int)st);
    NEED(!r->broken[0], "%s", r->broken);
    NEED(f->sut.be->position(f->s) == N_TOK, "position is %u", f->sut.be->position(f->s));
    return same_logits(r, f->truth, 0, N_TOK, TOL, "one call");
}

static int single(struct fx *f)
{
    struct rec *r = rec_new(f->cfg, ROOM);
    for (uint32_t i = 0; i < N_TOK; i++) {
        dbrx_status st = feed(&f->sut, f->s, f->tok + i, 1, r, NULL);
        NEED(st == DBRX_OK, "eval of token %u returned %d", i, (int)st);
        NEED(f->sut.be->position(f->s) == i + 1, "position is %u after %u tokens",
             f->sut.be->position(f->s), i + 1);
    }
    return same_logits(r, f->truth, 0, N_TOK, TOL, "token by token");
}

static int chunks(struct fx *f)
{
    for (int round = 0; round < 4; round++) {
        struct rec *r = rec_new(f->cfg, ROOM);
        dbrx_session *s = fx_session(&f->sut, ROOM);
        for (uint32_t at = 0, n; at < N_TOK; at += n) {
            n = 1 + below(&f->rng, 7);
            n = n < N_TOK - at ? n : N_TOK - at;
            dbrx_status st = feed(&f->sut, s, f->tok + at, n, r, NULL);
            NEED(st == DBRX_OK, "eval of %u tokens at %u returned %d", n, at, (int)st);
        }
        if (same_logits(r, f->truth, 0, N_TOK, TOL, "random chunks") != PASS)
            return FAIL;
    }
    return PASS;
}

/* LAST gives ALL's last row, NONE needs no buffer, each writes its rows and nothing else. */
static int which_logits(struct fx *f)
{
    size_t v = f->cfg->n_vocab;
    for (uint32_t n = 1; n <= N_TOK; n += 6)
        for (uint32_t want = DBRX_LOGITS_NONE; want <= DBRX_LOGITS_ALL; want++) {
            size_t len = v * (want == DBRX_LOGITS_ALL ? n : want != DBRX_LOGITS_NONE);
            float *buf = canary_new(len + v);  /* a longer buffer than needed is fine */
            struct dbrx_batch b = {
                .struct_size = sizeof b, .n_tokens = n, .token = f->tok, .want_logits = want,
                .logits = want ? buf : NULL, .logits_len = want ? len + v : 0,
            };
            dbrx_status st = f->sut.be->eval(f->s, &b, NULL);
            NEED(st == DBRX_OK, "eval of %u tokens, want_logits %u, returned %d", n, want,
                 (int)st);
            NEED(canary_ok(buf, len) && canary_ok(buf, len + v),
                 "want_logits %u: memory outside the rows was written", want);
            if (want) {
                size_t row = want == DBRX_LOGITS_LAST ? n - 1 : 0;
                double d = distance(buf, f->truth->logits + row * v, len);
                NEED(d <= TOL, "want_logits %u: logits differ by %.2g", want, d);
            }
            f->sut.be->truncate(f->s, 0, NULL);
        }
    return PASS;
}

/* exactly the room that is needed, canaries right behind it */
static int exact_buffer(struct fx *f)
{
    size_t len = (size_t)f->cfg->n_vocab * N_TOK;
    for (int how = 0; how < 2; how++) {
        size_t need = how ? len : f->cfg->n_vocab;
        float *buf = canary_new(need);
        struct dbrx_batch b = {
            .struct_size = sizeof b, .n_tokens = N_TOK, .token = f->tok,
            .want_logits = how ? DBRX_LOGITS_ALL : DBRX_LOGITS_LAST, .logits = buf,
            .logits_len = need,
        };
        NEED(f->sut.be->eval(f->s, &b, NULL) == DBRX_OK, "eval failed");
        NEED(canary_ok(buf, need), "memory outside the logits was written");
        f->sut.be->truncate(f->s, 0, NULL);
    }
    return PASS;
}

static int longer_batch(struct fx *f)
{
    struct { struct dbrx_batch b; unsigned char more[64]; } w;
    float *buf = canary_new(f->cfg->n_vocab);
    memset(&w, 0x5a, sizeof w);
    w.b = (struct dbrx_batch){
        .struct_size = sizeof w, .n_tokens = N_TOK, .token = f->tok,
        .want_logits = DBRX_LOGITS_LAST, .logits = buf, .logits_len = f->cfg->n_vocab,
    };
    NEED(f->sut.be->eval(f->s, &w.b, NULL) == DBRX_OK, "eval failed");
    double d = distance(buf, f->truth->logits + (size_t)(N_TOK - 1) * f->cfg->n_vocab,
                        f->cfg->n_vocab);
    NEED(d <= TOL, "logits differ by %.2g", d);
    return PASS;
}

/* Each kind of bad batch, on a session with something in it, refused with a sentence;
 * afterwards the session is what it was. */
static int bad_batches(struct fx *f)
{
    const uint32_t at = 5, n = 3;
    size_t v = f->cfg->n_vocab;
    float *buf = canary_new(n * v);
    struct dbrx_batch good = {
        .struct_size = sizeof good, .n_tokens = n, .token = f->tok,
        .want_logits = DBRX_LOGITS_ALL, .logits = buf, .logits_len = n * v,
    };
    struct { const char *name; struct dbrx_batch b; } bad[6];
    for (int i = 0; i < 6; i++)
        bad[i].b = good;
    bad[0].name = "no tokens",          bad[0].b.n_tokens = 0;
    bad[1].name = "token NULL",         bad[1].b.token = NULL;
    bad[2].name = "logits_len short",   bad[2].b.logits_len = n * v - 1;
    bad[3].name = "logits_len for one", bad[3].b.logits_len = v;
    bad[4].name = "logits NULL",        bad[4].b.logits = NULL;
    bad[5].name = "want_logits 3",      bad[5].b.want_logits = 3;
    NEED(feed(&f->sut, f->s, f->tok, at, NULL, NULL) == DBRX_OK, "eval failed");
    for (int i = 0; i < 6; i++) {
        note("%s", bad[i].name);
        REFUSED(DBRX_E_INVALID, f->sut.be->eval(f->s, &bad[i].b, err));
        NEED(canary_untouched(buf, n * v), "%s: logits were written", bad[i].name);
        if (unchanged(f, f->s, at, bad[i].name) != PASS)
            return FAIL;
    }
    return PASS;
}

static int bad_tokens(struct fx *f)
{
    const uint32_t at = 4, n = 5;
    const int32_t bad[] = { -1, (int32_t)f->cfg->n_vocab, INT32_MAX, INT32_MIN };
    size_t len = (size_t)f->cfg->n_vocab * n;
    float *buf = canary_new(len);
    NEED(feed(&f->sut, f->s, f->tok, at, NULL, NULL) == DBRX_OK, "eval failed");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (uint32_t where = 0; where < n; where += 2) {
            int32_t tok[5];
            memcpy(tok, f->tok + at, sizeof tok);
            tok[where] = bad[i];
            struct dbrx_batch b = {
                .struct_size = sizeof b, .n_tokens = n, .token = tok, .logits = buf,
                .want_logits = DBRX_LOGITS_ALL, .logits_len = len,
            };
            REFUSED(DBRX_E_INVALID, f->sut.be->eval(f->s, &b, err));
            NEED(canary_untouched(buf, len), "logits were written for token %d", bad[i]);
            if (unchanged(f, f->s, at, "a bad token") != PASS)
                return FAIL;
        }
    return PASS;
}

static int full(struct fx *f)
{
    const uint32_t room = 7;
    size_t v = f->cfg->n_vocab;
    dbrx_session *s = fx_session(&f->sut, room);
    struct rec *r = rec_new(f->cfg, ROOM);
    float *buf = canary_new(v);
    struct dbrx_batch b = {
        .struct_size = sizeof b, .n_tokens = room + 1, .token = f->tok, .logits = buf,
        .want_logits = DBRX_LOGITS_LAST, .logits_len = v,
    };
    REFUSED(DBRX_E_FULL, f->sut.be->eval(s, &b, err));
    if (unchanged(f, s, 0, "a batch too long for an empty session") != PASS)
        return FAIL;
    NEED(feed(&f->sut, s, f->tok, room - 1, r, NULL) == DBRX_OK, "eval failed");
    b.token = f->tok + room - 1, b.n_tokens = 2;
    REFUSED(DBRX_E_FULL, f->sut.be->eval(s, &b, err));
    if (unchanged(f, s, room - 1, "a batch of which one token fits") != PASS)
        return FAIL;
    NEED(feed(&f->sut, s, f->tok + room - 1, 1, r, NULL) == DBRX_OK, "the last position fails");
    b.n_tokens = 1;
    REFUSED(DBRX_E_FULL, f->sut.be->eval(s, &b, err));
    NEED(canary_untouched(buf, v), "logits were written");
    NEED(f->sut.be->position(s) == room, "position is %u", f->sut.be->position(s));
    NEED(f->sut.be->truncate(s, 3, NULL) == DBRX_OK, "truncate failed");
    NEED(feed(&f->sut, s, f->tok + 3, room - 3, r, NULL) == DBRX_OK, "no room after truncate");
    return same_logits(r, f->truth, 0, room, TOL, "to the last position");
}

static int one_position(struct fx *f)
{
    dbrx_session *s = fx_session(&f->sut, 1);
    struct rec *r = rec_new(f->cfg, ROOM);
    NEED(feed(&f->sut, s, f->tok, 1, r, NULL) == DBRX_OK, "eval failed");
    return same_logits(r, f->truth, 0, 1, TOL, "the only position");
}

static int truncate_replay(struct fx *f)
{
    struct rec *r = rec_new(f->cfg, ROOM);
    static const uint32_t keep[] = { N_TOK, N_TOK - 1, 13, 12, 5, 1, 0 };
    NEED(feed(&f->sut, f->s, f->tok, N_TOK, r, NULL) == DBRX_OK, "eval failed");
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
        /* something else first, so that what is forgotten was really there */
        for (uint32_t j = keep[i]; j < N_TOK; j++) {
            int32_t other = (f->tok[j] + 1) % (int32_t)f->cfg->n_vocab;
            NEED(f->sut.be->truncate(f->s, j, NULL) == DBRX_OK, "truncate(%u) failed", j);
            NEED(f->sut.be->position(f->s) == j, "position is %u after truncate(%u)",
                 f->sut.be->position(f->s), j);
            NEED(feed(&f->sut, f->s, &other, 1, NULL, NULL) == DBRX_OK, "eval failed");
        }
        NEED(f->sut.be->truncate(f->s, keep[i], NULL) == DBRX_OK, "truncate failed");
        if (keep[i] < N_TOK)
            NEED(feed(&f->sut, f->s, f->tok + keep[i], N_TOK - keep[i], r, NULL) == DBRX_OK,
                 "replay failed");
        if (same_logits(r, f->truth, 0, N_TOK, TOL, "replayed") != PASS)
            return FAIL;
    }
    return PASS;
}

static int truncate_beyond(struct fx *f)
{
    REFUSED(DBRX_E_INVALID, f->sut.be->truncate(f->s, 1, err));
    NEED(f->sut.be->truncate(f->s, 0, NULL) == DBRX_OK, "truncate(0) of an empty session failed");
    NEED(feed(&f->sut, f->s, f->tok, 6, NULL, NULL) == DBRX_OK, "eval failed");
    REFUSED(DBRX_E_INVALID, f->sut.be->truncate(f->s, 7, err));
    REFUSED(DBRX_E_INVALID, f->sut.be->truncate(f->s, UINT32_MAX, err));
    NEED(f->sut.be->truncate(f->s, 6, NULL) == DBRX_OK, "truncate(position) failed");
    return unchanged(f, f->s, 6, "truncate beyond position");
}

static int interleaved(struct fx *f)
{
    dbrx_session *t = fx_session(&f->sut, ROOM);
    struct rec *r = rec_new(f->cfg, ROOM), *q = rec_new(f->cfg, ROOM);
    for (uint32_t i = 0; i < N_TOK; i += 2) {
        NEED(feed(&f->sut, f->s, f->tok + i, 2, r, NULL) == DBRX_OK, "eval failed");
        if (i % 4 == 0) {                  /* the other one lags and is cut back */
            uint32_t at = f->sut.be->position(t);
            int32_t noise[2] = { f->tok[N_TOK - 1], f->tok[0] };
            NEED(feed(&f->sut, t, noise, 2, q, NULL) == DBRX_OK, "eval failed");
            NEED(f->sut.be->truncate(t, at, NULL) == DBRX_OK, "truncate failed");
            NEED(feed(&f->sut, t, f->tok + at, 1, q, NULL) == DBRX_OK, "eval failed");
        }
    }
    if (same_logits(r, f->truth, 0, N_TOK, TOL, "the first of two sessions") != PASS)
        return FAIL;
    return same_logits(q, f->truth, 0, N_TOK / 4, TOL, "the second of two sessions");
}

struct job { struct fx *f; dbrx_session *s; struct rec *r; dbrx_status st; };

static void *work(void *arg)
{
    struct job *j = arg;
    for (int round = 0; round < 5 && j->st == DBRX_OK; round++) {
        j->f->sut.be->truncate(j->s, 0, NULL);
        j->st = feed(&j->f->sut, j->s, j->f->tok, 8, j->r, NULL);
        for (uint32_t i = 8; i < N_TOK && j->st == DBRX_OK; i++)
            j->st = feed(&j->f->sut, j->s, j->f->tok + i, 1, j->r, NULL);
    }
    return NULL;
}

static int two_threads(struct fx *f)
{
    struct job job[2];
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        job[i] = (struct job){ f, fx_session(&f->sut, ROOM), rec_new(f->cfg, ROOM), DBRX_OK };
    for (int i = 0; i < 2; i++)
        if (pthread_create(&thread[i], NULL, work, &job[i]))
            give_up("no thread");
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 2; i++) {
        NEED(job[i].st == DBRX_OK, "eval returned %d", (int)job[i].st);
        NEED(!job[i].r->broken[0], "%s", job[i].r->broken);
        if (same_logits(job[i].r, f->truth, 0, N_TOK, TOL, "one of two threads") != PASS)
            return FAIL;
    }
    return PASS;
}

const struct check checks_eval[] = {
    { "C20", "logits are the oracle's: the prompt in one call", whole, EACH_SHAPE, 0 },
    { "C21", "logits are the oracle's: token by token", single, EACH_SHAPE, 0 },
    { "C22", "logits are the oracle's: in random chunks", chunks, EACH_SHAPE, 0 },
    { "C23", "want_logits NONE, LAST and ALL agree and write their rows only", which_logits,
      EACH_SHAPE, 0 },
    { "C24", "nothing beyond a buffer of exactly logits_len floats is written", exact_buffer,
      EACH_SHAPE, 0 },
    { "C25", "a newer host's longer batch is read by its size", longer_batch, EACH_SHAPE, 0 },
    { "C26", "a malformed batch is DBRX_E_INVALID and changes nothing", bad_batches,
      EACH_SHAPE, 0 },
    { "C27", "a token id outside the vocabulary is DBRX_E_INVALID and changes nothing", bad_tokens,
      EACH_SHAPE, 0 },
    { "C28", "max_pos positions fit, one more is DBRX_E_FULL and changes nothing", full,
      EACH_SHAPE, 0 },
    { "C29", "a session of one position works", one_position, EACH_SHAPE, 0 },
    { "C30", "truncate and replay give the same logits", truncate_replay, EACH_SHAPE, 0 },
    { "C31", "truncate beyond position is DBRX_E_INVALID, nothing else fails", truncate_beyond,
      EACH_SHAPE, 0 },
    { "C32", "two sessions of a model do not see each other", interleaved, EACH_SHAPE, 0 },
    { "C33", "two sessions may run at once on two threads", two_threads, EACH_SHAPE, 0 },
    { NULL, NULL, NULL, ONCE, 0 },
};
