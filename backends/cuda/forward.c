/* backends/cuda/forward.c -- eval, resume and head: batches cut into passes, single tokens replayed as a
 * graph, and what a pass leaves handed to the host.  Which kernels a pass is made of: pass.c. */
#include "backends/cuda/pass.h"

#include "backends/graph/check.h"
#include "backends/graph/route.h"
#include "plugins/fail.h"

#include <math.h>
#include <sched.h>
#include <string.h>

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* ---- before a pass ---- */

/* The steering block, as the kernels want it: nothing missing */
static void fill_steering(const struct dbrx_config *c, const struct dbrx_steer *s, struct steering *to)
{
    for (uint32_t l = 0; l < c->n_layers; l++) {
        to->top_k[l] = (uint16_t)route_top_k(c, s, l);
        for (uint32_t e = 0; e < c->n_experts; e++) {
            size_t i = (size_t)l * c->n_experts + e;
            to->bias[i] = s->bias ? s->bias[i] : 0;
            to->scale[i] = s->scale ? s->scale[i] : 1;
            to->mark[i] = s->mark ? s->mark[i] : 0;
            to->source[i] = DBRX_HAS(struct dbrx_steer, s, source) && s->source ? s->source[i] : (uint16_t)e;
        }
    }
}

/* Whatever of the batch holds for all of its passes.  *slots: experts of a token at most; *most:
 * tokens of a pass. */
static dbrx_status prepare(dbrx_session *s, const struct dbrx_batch *b, uint32_t *slots, uint32_t *most,
                           struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->cfg;
    struct pinned *h = s->pinned;
    int taps = 0;
    *slots = c->top_k;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        uint32_t k = route_top_k(c, b->steer, l);
        *slots = k > *slots ? k : *slots;
    }
    for (uint32_t l = 0; l <= c->n_layers; l++) {
        h->want[l] = b->tap ? b->tap->want[l] : 0;
        taps |= h->want[l];
    }
    dbrx_status st = taps ? session_taps(s, err) : DBRX_OK;
    if (b->steer)
        fill_steering(c, b->steer, &h->steer);
    h->step.slots = *slots;
    h->step.steered = b->steer != NULL;
    h->step.taps = taps != 0;
    *most = least(s->chunk, (uint32_t)((uint64_t)s->chunk * c->top_k / *slots));
    *most = *most ? *most : 1;
    *most = taps ? least(*most, s->tap_chunk) : *most;
    *most = s->watch ? least(*most, WATCH_ROWS) : *most;
    return st;
}

/* ---- running ---- */

static struct part *last_part(dbrx_session *s)
{
    return &s->part[s->m->plan.n_shares - 1];
}

/* Waits for every device; the first that failed tells. */
static dbrx_status sync_all(dbrx_session *s, struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    for (uint32_t i = 0; i < s->m->plan.n_shares; i++) {
        dbrx_status one = gpu_sync(s->part[i].stream, st == DBRX_OK ? err : NULL);
        st = st == DBRX_OK ? one : st;
    }
    return session_done(s, st);
}

/* The residual stream from the device before */
static void hand_over(dbrx_session *s, uint32_t i, uint32_t n)
{
    struct part *p = &s->part[i];
    gpu_follow(p->stream, s->part[i - 1].stream);
    gpu_copy(p->stream, p->x, s->part[i - 1].x, (size_t)n * s->m->ld * sizeof(float));
}

/* Layer by layer, no further ahead of the devices than two layers. */
static dbrx_status run_layers(dbrx_session *s, const struct pass *q, uint32_t first, struct dbrx_error *err)
{
    const struct dbrx_host *host = s->m->host;
    const uint32_t layers = s->m->cfg.n_layers;
    dbrx_status st = DBRX_OK;
    for (uint32_t i = 0; i < s->m->plan.n_shares; i++) {
        struct part *p = &s->part[i];
        pass_begin(s, p, q);
        if (i == 0 && q->b->token)
            pass_embed(s, p, q);
        if (q->b->token ? i > 0 : q->layer < p->first)         /* resume's rows are where they begin */
            hand_over(s, i, q->n);
        for (uint32_t l = p->first > q->layer ? p->first : q->layer, k = 0; l < p->end; l++, k++) {
            if (host->should_stop(host))
                st = DBRX_STOPPED;
            if (st == DBRX_OK && q->b->n_tokens > 1)
                host->progress(host, "prompt", first + (uint64_t)q->n * l / layers, q->b->n_tokens);
            if (st == DBRX_OK)
                st = pass_layer(s, p, q, l, err);
            if (st != DBRX_OK) {
                dbrx_status end = sync_all(s, err);
                return end != DBRX_OK ? end : st;
            }
            if (k >= 2)
                gpu_wait(p->stream, (int)(k - 2) % 4);
            gpu_mark(p->stream, (int)k % 4);
        }
        pass_end(s, p, q, q->b->route && q->b->route->want);
    }
    return DBRX_OK;
}

/* One token as one graph a device, recorded the first time: with its logits or without. */
static dbrx_status run_token(dbrx_session *s, const struct pass *q, struct dbrx_error *err)
{
    const dbrx_model *m = s->m;
    const struct dbrx_host *host = m->host;
    const int head = q->b->want_logits != DBRX_LOGITS_NONE;
    int stop = 0;
    for (uint32_t i = 0; i < m->plan.n_shares; i++) {
        struct part *p = &s->part[i];
        if (!p->graph[head]) {
            gpu_record_begin(p->stream);
            pass_begin(s, p, q);
            if (i == 0)
                pass_embed(s, p, q);
            for (uint32_t l = p->first; l < p->end; l++)
                (void)pass_layer(s, p, q, l, err);             /* nobody watches: it cannot fail */
            pass_end(s, p, q, 1);
            if (head && i + 1 == m->plan.n_shares)
                pass_head(s, p, p->x, 1);
            p->graph[head] = gpu_record_end(p->stream);
        }
        if (i > 0)
            hand_over(s, i, 1);
        if (p->graph[head])
            gpu_replay(p->stream, p->graph[head]);
    }
    for (uint32_t l = 0; l < m->cfg.n_layers || !gpu_idle(last_part(s)->stream); l++) {
        stop |= host->should_stop(host);
        if (l >= m->cfg.n_layers)
            sched_yield();
    }
    dbrx_status st = sync_all(s, err);
    return st == DBRX_OK && stop ? DBRX_STOPPED : st;
}

/* ---- after a pass ---- */

/* Rows of `from` values become rows of `to` <= from, in place */
static void narrow(void *rows, size_t size, size_t n, size_t from, size_t to)
{
    for (size_t t = 1; t < n && from != to; t++)
        memmove((char *)rows + t * to * size, (char *)rows + t * from * size, to * size);
}

static dbrx_status emit_tap(dbrx_session *s, struct part *p, const struct pass *q, int kind, int32_t l, uint32_t k,
                            struct dbrx_error *err)
{
    const dbrx_model *m = s->m;
    const struct dbrx_tap *tap = q->b->tap;
    if (!tap || !(tap->want[l + 1] & 1 << kind))
        return DBRX_OK;
    const size_t at = (size_t)(l - (int32_t)p->first + 1), parts = kind == DBRX_TAP_EXPERT ? q->slots : 1;
    const float *from = kind == DBRX_TAP_RESIDUAL ? p->tap_x + at * s->tap_chunk * m->ld
                      : p->tap_part + (at - 1) * s->tap_chunk * m->cfg.n_experts * m->ld;
    gpu_copy(p->stream, s->tap_host, from, (size_t)q->n * parts * m->ld * sizeof(float));
    dbrx_status st = session_done(s, gpu_sync(p->stream, err));
    if (st != DBRX_OK)
        return st;
    narrow(s->tap_host, sizeof(float) * m->ld, q->n, parts, kind == DBRX_TAP_EXPERT ? k : 1);
    narrow(s->tap_host, sizeof(float), (size_t)q->n * (kind == DBRX_TAP_EXPERT ? k : 1), m->ld, m->cfg.d_model);
    tap->emit(tap->ctx, kind, l, q->pos, q->n, s->tap_host);
    return DBRX_OK;
}

/* Routes and taps of a pass that is done, layer by layer; a router's NaN is the pass's failure. */
static dbrx_status deliver(dbrx_session *s, const struct pass *q, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->cfg;
    const struct dbrx_route_sink *sink = q->b->route;
    dbrx_status st = DBRX_OK;
    uint32_t bad = UINT32_MAX;
    for (uint32_t i = 0; i < s->m->plan.n_shares; i++)
        bad = least(bad, s->part[i].end > q->layer ? *s->part[i].bad : UINT32_MAX);
    if (bad != UINT32_MAX)
        return bad_router(bad / q->n, q->pos + bad % q->n, err);
    if (q->b->token)                       /* resume gave these rows itself */
        st = emit_tap(s, &s->part[0], q, DBRX_TAP_RESIDUAL, -1, 0, err);
    for (uint32_t i = 0; i < s->m->plan.n_shares; i++) {
        struct part *p = &s->part[i];
        const struct trace t = trace_at(p->trace_host, p->end - p->first, q->n, q->slots, c->n_experts);
        for (uint32_t l = p->first > q->layer ? p->first : q->layer; l < p->end && st == DBRX_OK; l++) {
            const uint32_t k = route_top_k(c, q->b->steer, l);
            const size_t row = (size_t)(l - p->first) * q->n;
            uint16_t *expert = t.expert + row * q->slots;
            float *weight = t.weight + row * q->slots;
            narrow(expert, sizeof *expert, q->n, q->slots, k);
            narrow(weight, sizeof *weight, q->n, q->slots, k);
            const struct dbrx_route r = {
                .struct_size = sizeof r, .layer = l, .pos = q->pos, .n_tokens = q->n, .top_k = k,
                .n_experts = c->n_experts, .expert = expert, .weight = weight,
                .prob = sink && sink->want & DBRX_ROUTE_PROB ? t.prob + row * c->n_experts : NULL,
                .logit = sink && sink->want & DBRX_ROUTE_LOGIT ? t.logit + row * c->n_experts : NULL,
            };
            if (sink)
                sink->emit(sink->ctx, &r);
            st = emit_tap(s, p, q, DBRX_TAP_EXPERT, (int32_t)l, k, err);
            if (st == DBRX_OK)
                st = emit_tap(s, p, q, DBRX_TAP_RESIDUAL, (int32_t)l, k, err);
        }
    }
    return st;
}

/* logits[n] of n rows of x on the last device */
static dbrx_status head_rows(dbrx_session *s, const float *x, uint32_t n, float *logits, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->cfg;
    struct part *p = last_part(s);
    dbrx_status st = DBRX_OK;
    for (uint32_t at = 0, step; at < n && st == DBRX_OK; at += step) {
        step = least(n - at, least(s->chunk, HEAD_ROWS));
        pass_head(s, p, x + (size_t)at * s->m->ld, step);
        if (s->watch)
            st = watch_rows(s, p, DBRX_INPUT_HEAD, 0, p->h, s->m->ld, step, c->d_model, err);
        if (st == DBRX_OK)
            st = session_done(s, gpu_sync(p->stream, err));
        if (st != DBRX_OK)
            return st;
        memcpy(logits + (size_t)at * c->n_vocab, s->logits_host, (size_t)step * c->n_vocab * sizeof *logits);
        st = check_logits(c, logits + (size_t)at * c->n_vocab, step, err);
    }
    return st;
}

static dbrx_status lost(struct dbrx_error *err)
{
    return fail(err, DBRX_E_LOST, "the device was lost earlier; switch to another backend, or open this one again");
}

/* Rows first .. first+n of the batch through blocks q->layer .. and the head; *done: the blocks are */
static dbrx_status run_pass(dbrx_session *s, const struct pass *q, uint32_t first, int *done, struct dbrx_error *err)
{
    const struct dbrx_batch *b = q->b;
    const struct dbrx_config *c = &s->m->cfg;
    const int token = q->n == 1 && b->n_tokens == 1 && !q->layer && !s->watch && q->slots == c->top_k && b->token;
    const int all = b->want_logits == DBRX_LOGITS_ALL;
    const int want = all || (b->want_logits == DBRX_LOGITS_LAST && first + q->n == b->n_tokens);
    s->pinned->step.pos = q->pos;
    s->pinned->step.n = q->n;
    s->pinned->step.bad = UINT32_MAX;
    dbrx_status st = token ? run_token(s, q, err) : run_layers(s, q, first, err);
    if (st == DBRX_OK && !token)
        st = sync_all(s, err);
    if (st == DBRX_OK)
        st = deliver(s, q, err);
    if (st != DBRX_OK)
        return st;
    *done = 1;
    float *logits = all ? b->logits + (size_t)first * c->n_vocab : b->logits;
    if (token && want) {
        memcpy(logits, s->logits_host, c->n_vocab * sizeof *logits);
        return check_logits(c, logits, 1, err);
    }
    const float *x = last_part(s)->x;
    return !want ? DBRX_OK : head_rows(s, all ? x : x + (size_t)(q->n - 1) * s->m->ld, all ? q->n : 1, logits, err);
}

dbrx_status cuda_eval(dbrx_session *s, const struct dbrx_batch *b, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->cfg;
    const uint32_t start = s->pos;
    uint32_t slots = 0, most = 1;
    if (s->lost)
        return lost(err);
    dbrx_status st = check_batch(c, b, err);
    if (st == DBRX_OK)
        st = check_tokens(c, b, s->pos, s->max_pos, err);
    if (st == DBRX_OK)
        st = prepare(s, b, &slots, &most, err);
    for (uint32_t first = 0, n; st == DBRX_OK && first < b->n_tokens; first += n) {
        int done = 0;
        n = least(b->n_tokens - first, most);
        memcpy(s->pinned->token, b->token + first, n * sizeof *b->token);
        st = run_pass(s, &(struct pass){ b, 0, s->pos, n, slots }, first, &done, err);
        s->pos += done ? n : 0;
    }
    if (st < 0)
        s->pos = start;                    /* an error leaves none of the batch */
    return st;
}

/* x[n][d_model] of the host becomes rows of a device's */
static void upload_rows(dbrx_session *s, struct part *p, const float *x, uint32_t n)
{
    const uint32_t d = s->m->cfg.d_model, ld = s->m->ld;
    if (d == ld)
        gpu_copy(p->stream, p->x, x, (size_t)n * d * sizeof *x);
    for (uint32_t t = 0; t < n && d != ld; t++)        /* the padding stays as it is: zeros */
        gpu_copy(p->stream, p->x + (size_t)t * ld, x + (size_t)t * d, d * sizeof *x);
}

static dbrx_status resume(dbrx_session *s, uint32_t layer, uint32_t pos, const float *x, const struct dbrx_batch *b,
                          struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->cfg;
    uint32_t slots = 0, most = 1;
    if (s->lost)
        return lost(err);
    dbrx_status st = check_batch(c, b, err);
    if (st == DBRX_OK)
        st = check_resume(c, b, layer, pos, x, s->pos, err);
    if (st == DBRX_OK)
        st = prepare(s, b, &slots, &most, err);
    struct part *p = s->part;
    while (st == DBRX_OK && p->end <= layer)
        p++;
    for (uint32_t first = 0, n; st == DBRX_OK && first < b->n_tokens; first += n) {
        struct dbrx_batch rows = *b;
        int done = 0;
        rows.token = NULL;                 /* the rows are given */
        n = least(b->n_tokens - first, most);
        upload_rows(s, p, x + (size_t)first * c->d_model, n);
        st = run_pass(s, &(struct pass){ &rows, layer, pos + first, n, slots }, first, &done, err);
    }
    return st;
}

const struct dbrx_resume cuda_resume = { .struct_size = sizeof cuda_resume, .resume = resume };

static dbrx_status head(dbrx_session *s, const float *x, uint32_t n, float *logits, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->cfg;
    struct part *p = last_part(s);
    if (s->lost)
        return lost(err);
    dbrx_status st = check_head(x, n, logits, err);
    for (uint32_t at = 0, step; at < n && st == DBRX_OK; at += step) {
        step = least(n - at, s->chunk);
        upload_rows(s, p, x + (size_t)at * c->d_model, step);
        st = head_rows(s, p->x, step, logits + (size_t)at * c->n_vocab, err);
    }
    return st;
}

const struct dbrx_head cuda_head = { .struct_size = sizeof cuda_head, .head = head };
