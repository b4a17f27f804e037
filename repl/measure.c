/* repl/measure.c -- see measure.h. */
#include "repl/measure.h"

#include "plugins/fail.h"
#include "repl/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- statistics ---- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Between the nearest two of sorted v[n] */
static double quantile(const double *v, uint32_t n, double q)
{
    double at = q * (n - 1);
    uint32_t i = (uint32_t)at;
    return i + 1 < n ? v[i] + (at - i) * (v[i + 1] - v[i]) : v[i];
}

struct spread spread_of(const double *v, uint32_t n)
{
    struct spread s = { NAN, NAN, NAN, NAN, NAN };
    double *sorted = n ? malloc(n * sizeof *sorted) : NULL;
    if (!sorted)
        return s;
    memcpy(sorted, v, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, ascending);
    s = (struct spread){ quantile(sorted, n, 0.5), quantile(sorted, n, 0.25), quantile(sorted, n, 0.75),
                         sorted[0], sorted[n - 1] };
    free(sorted);
    return s;
}

/* ---- what an eval moves and computes, from its routes ---- */

struct work {
    const struct dbrx_model_desc *desc;
    uint8_t *seen;                         /* [n_layers][n_experts], in this eval       */
    uint64_t distinct;                     /* experts seen, over layers                 */
    double   uses;                         /* (token, layer, expert): times it was applied */
    double   expert_bytes;                 /* of those seen                             */
};

static const struct dbrx_layer *layer_of(const struct dbrx_model_desc *d, uint32_t l)
{
    return (const void *)((const char *)d->layer + (size_t)l * d->layer_size);
}

static void on_route(void *ctx, const struct dbrx_route *r)
{
    struct work *w = ctx;
    const struct dbrx_config *c = &w->desc->config;
    if (r->layer >= c->n_layers || r->n_experts != c->n_experts)
        return;
    const struct dbrx_layer *y = layer_of(w->desc, r->layer);
    double bytes = (double)(y->w1.bytes + y->v1.bytes + y->w2.bytes) / c->n_experts;
    for (size_t i = 0; i < (size_t)r->n_tokens * r->top_k; i++) {
        uint8_t *seen = &w->seen[(size_t)r->layer * c->n_experts + r->expert[i]];
        w->uses++;
        if (!*seen) {
            w->distinct++;
            w->expert_bytes += bytes;
        }
        *seen = 1;
    }
}

static void work_reset(struct work *w)
{
    memset(w->seen, 0, (size_t)w->desc->config.n_layers * w->desc->config.n_experts);
    w->distinct = 0;
    w->uses = w->expert_bytes = 0;
}

static double elements(const struct dbrx_tensor *t)
{
    double n = 1;
    for (uint32_t i = 0; i < t->rank && i < 4; i++)
        n *= (double)t->dim[i];
    return n;
}

/* Weights of an eval of one token, as stored: a row of the embedding, all of what is not an
 * expert, and the experts that were seen */
static double work_bytes(const struct work *w)
{
    const struct dbrx_model_desc *d = w->desc;
    double sum = (double)d->embed.bytes / d->config.n_vocab + (double)d->norm_f.bytes +
                 (double)d->lm_head.bytes + w->expert_bytes;
    for (uint32_t l = 0; l < d->config.n_layers; l++) {
        const struct dbrx_layer *y = layer_of(d, l);
        sum += (double)(y->norm_1.bytes + y->wqkv.bytes + y->wo.bytes + y->norm_2.bytes + y->router.bytes);
    }
    return sum;
}

/* Operations of an eval of n tokens at `pos` that wants one row of logits: two for each weight of
 * each matrix product, 4 d for each position a token attends to; norms and softmax are not counted */
static double work_flops(const struct work *w, uint32_t pos, uint32_t n)
{
    const struct dbrx_model_desc *d = w->desc;
    const struct dbrx_config *c = &d->config;
    double attended = (double)n * pos + 0.5 * (double)n * (n + 1.0);
    double sum = 2 * elements(&d->lm_head) + 2 * w->uses * 3 * (double)c->d_model * c->d_ffn;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct dbrx_layer *y = layer_of(d, l);
        sum += 2.0 * n * (elements(&y->wqkv) + elements(&y->wo) + elements(&y->router)) +
               4 * attended * c->d_model;
    }
    return sum;
}

/* ---- one engine, once ---- */

struct bench {
    struct measurement *b;
    struct work work;
    int32_t *token;                        /* [depth + prompt + gen]                    */
    float *logits;                         /* [n_vocab]                                 */
};

/* Seconds, or below 0: st and err say why */
static double timed(struct bench *t, struct engine *e, uint32_t pos, uint32_t n, dbrx_status *st,
                    struct dbrx_error *err)
{
    const struct dbrx_route_sink sink = { .struct_size = sizeof sink, .ctx = &t->work, .emit = on_route };
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = t->token + pos,
                            .want_logits = DBRX_LOGITS_LAST, .logits = t->logits,
                            .logits_len = t->b->desc->config.n_vocab, .route = &sink, .steer = t->b->steer };
    work_reset(&t->work);
    double t0 = clock_seconds();
    *st = engine_eval(e, &b, err);
    return *st == DBRX_OK ? clock_seconds() - t0 : -1;
}

/* The conversation of `from` into a fresh session of m's model: seconds, or NaN where that cannot be */
static double take_over(struct bench *t, const struct engine *from, const struct measured *m,
                        dbrx_status *st, struct dbrx_error *err)
{
    uint32_t n = engine_position(from);
    struct engine fresh;
    if (!from->kv || !m->engine->kv || !n)
        return NAN;
    double t0 = clock_seconds();
    *st = engine_share(&fresh, m->engine, n, err);
    if (*st == DBRX_OK)
        *st = engine_copy_kv(from, &fresh, n, t->b->host, NULL, err);
    double seconds = clock_seconds() - t0;
    engine_close(&fresh);
    return seconds;
}

static dbrx_status sample(struct bench *t, struct measured *m, int keep, struct dbrx_error *err)
{
    struct measurement *b = t->b;
    struct engine *e = m->engine;
    double bandwidth = 0, peak = 0, prompt = 0, flops = 0, gen = 0, bytes = 0, kv = 0, distinct = 0, moved = 0;
    dbrx_status st = engine_truncate(e, b->depth < engine_position(e) ? b->depth : engine_position(e), err);
    uint32_t pos = engine_position(e);
    if (st == DBRX_OK && pos < b->depth)
        timed(t, e, pos, b->depth - pos, &st, err);
    if (st == DBRX_OK && keep) {
        b->bandwidth[b->n_probes] = bandwidth = machine_bandwidth(b->machine);
        b->flops[b->n_probes++] = peak = machine_flops(b->machine);
    }
    if (st == DBRX_OK && b->prompt) {
        prompt = timed(t, e, b->depth, b->prompt, &st, err);
        flops = work_flops(&t->work, b->depth, b->prompt);
    }
    for (uint32_t i = 0; i < b->gen && st == DBRX_OK; i++) {
        gen += timed(t, e, b->depth + b->prompt + i, 1, &st, err);
        bytes += work_bytes(&t->work);
        distinct += (double)t->work.distinct;
    }
    kv = (b->depth + b->prompt + (b->gen + 1) / 2.0) * b->gen * (st == DBRX_OK ? engine_kv_bytes(e) : 0);
    double taken = st == DBRX_OK ? take_over(t, b->m[0].engine, m, &st, err) : 0;
    if (st != DBRX_OK || !keep)
        return st;
    moved = (bytes + kv) / gen;
    const double v[MEASURE_N] = {
        [MEASURE_PROMPT] = b->prompt / prompt, [MEASURE_GEN] = b->gen / gen,
        [MEASURE_MOVED] = moved, [MEASURE_MOVED_SHARE] = bandwidth > 0 ? moved / bandwidth : NAN,
        [MEASURE_FLOPS] = flops / prompt, [MEASURE_FLOPS_SHARE] = peak > 0 ? flops / prompt / peak : NAN,
        [MEASURE_SWITCH] = taken };
    for (int i = 0; i < MEASURE_N; i++)
        m->sample[i][m->n] = v[i];
    m->n++;
    m->bytes_token = bytes / b->gen;
    m->kv_token = kv / b->gen;
    m->experts = distinct / b->gen / b->desc->config.n_layers;
    return DBRX_OK;
}

/* ---- all of them ---- */

static dbrx_status prepare(struct bench *t, struct dbrx_error *err)
{
    struct measurement *b = t->b;
    const struct dbrx_config *c = &b->desc->config;
    uint32_t n = b->depth + b->prompt + b->gen;
    int fine = 1;
    t->work.desc = b->desc;
    t->work.seen = malloc((size_t)c->n_layers * c->n_experts);
    t->token = malloc(n * sizeof *t->token);
    t->logits = malloc(c->n_vocab * sizeof *t->logits);
    b->bandwidth = calloc(b->reps * b->n_m, sizeof *b->bandwidth);
    b->flops = calloc(b->reps * b->n_m, sizeof *b->flops);
    for (size_t i = 0; i < b->n_m; i++)
        for (int f = 0; f < MEASURE_N; f++)
            fine &= (b->m[i].sample[f] = calloc(b->reps, sizeof *b->m[i].sample[f])) != NULL;
    if (!fine || !t->work.seen || !t->token || !t->logits || !b->bandwidth || !b->flops)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++)       /* the same tokens whenever and wherever it runs */
        t->token[i] = (int32_t)((i * 2654435761u >> 7) % c->n_vocab);
    return DBRX_OK;
}

dbrx_status measurement_run(struct measurement *b, struct dbrx_error *err)
{
    struct bench t = { .b = b };
    struct dbrx_error local;
    err = err ? err : &local;
    uint64_t done = 0, total = ((uint64_t)b->reps + 1) * b->n_m;
    dbrx_status st = prepare(&t, err);
    for (uint32_t rep = 0; rep <= b->reps && st == DBRX_OK; rep++)         /* the first warms up */
        for (size_t i = 0; i < b->n_m && st == DBRX_OK; i++) {
            char label[sizeof b->m[i].engine->label], text[sizeof err->text];
            snprintf(label, sizeof label, "%s", b->m[i].engine->label);
            b->host->progress(b->host, "measuring", done++, total);
            double before = machine_own_memory();
            st = sample(&t, &b->m[i], rep > 0, err);
            b->m[i].memory += rep ? 0 : machine_own_memory() - before;
            if (st == DBRX_OK && b->host->should_stop(b->host))
                st = DBRX_STOPPED;
            if (st < 0) {
                snprintf(text, sizeof text, "%.40s: %.*s", label, (int)sizeof text - 48, err->text);
                fail(err, st, "%s", text);
            }
        }
    free(t.work.seen);
    free(t.token);
    free(t.logits);
    return st;
}

void measurement_free(struct measurement *b)
{
    for (size_t i = 0; i < b->n_m; i++)
        for (int f = 0; f < MEASURE_N; f++) {
            free(b->m[i].sample[f]);
            b->m[i].sample[f] = NULL;
        }
    free(b->bandwidth);
    free(b->flops);
    b->bandwidth = b->flops = NULL;
}
