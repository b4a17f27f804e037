/* repl/ablation.c -- see ablation.h.  A session of each text holds its tokens all the time; in the
 * blocks from `layer` on its KV is that of whatever ran last, before it that of the baseline. */
#include "repl/ablation.h"

#include "plugins/fail.h"
#include "repl/sets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 512 };
static const size_t PIECE_FLOATS = 1u << 24, MOST_BYTES = (size_t)4 << 30;

struct ablation {
    const struct dbrx_config *c;
    const int32_t *token;
    const uint32_t *first;                 /* [n_texts + 1] where texts begin             */
    uint32_t n, n_texts, piece;
    uint32_t at;                           /* where the text that runs begins             */
    struct engine *engine;                 /* [n_texts]                                   */
    struct steer *steer;                   /* the base and, while a run lasts, what is ablated */
    float   *logp;                         /* [n][n_vocab] of the baseline                */
    int32_t *best;                         /* [n] its likeliest next tokens               */
    float   *weight;                       /* [n_layers][n][n_experts] of the baseline, 0: not chosen */
    uint8_t *chosen, *other;               /* [n_layers][n][n_experts] of baseline and run */
    float   *x;                            /* [n][d_model] that enter block x_layer in the baseline, */
    float   *y;                            /* ... and those of block y_layer, while they are made */
    uint32_t x_layer, y_layer;
    int      has_x;
    float   *logits;                       /* [piece][n_vocab]                            */
    uint8_t *want;                         /* [n_layers + 1], for the tap                 */
    int      in_base;                      /* which of the two is being recorded          */
};

static void keep_route(void *ctx, const struct dbrx_route *r)
{
    struct ablation *a = ctx;
    size_t e = a->c->n_experts;
    for (uint32_t t = 0; t < r->n_tokens; t++) {
        size_t at = ((size_t)r->layer * a->n + a->at + r->pos + t) * e;
        uint8_t *to = (a->in_base ? a->chosen : a->other) + at;
        memset(to, 0, e);
        if (a->in_base)
            memset(a->weight + at, 0, e * sizeof *a->weight);
        for (uint32_t j = 0; j < r->top_k; j++) {
            uint16_t id = r->expert[(size_t)t * r->top_k + j];
            to[id] = 1;
            if (a->in_base)
                a->weight[at + id] = r->weight[(size_t)t * r->top_k + j];
        }
    }
}

static void keep_rows(void *ctx, int kind, int32_t layer, uint32_t pos, uint32_t n, const float *x)
{
    struct ablation *a = ctx;
    (void)kind, (void)layer;
    memcpy(a->y + (size_t)(a->at + pos) * a->c->d_model, x, (size_t)n * a->c->d_model * sizeof *x);
}

/* logits[n_vocab] become log-probabilities; the likeliest, the lower id on a tie */
static int32_t log_softmax(float *z, uint32_t n)
{
    uint32_t best = 0;
    double sum = 0;
    for (uint32_t i = 1; i < n; i++)
        best = z[i] > z[best] ? i : best;
    float max = z[best];
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)z[i] - (double)max);
    float norm = (float)((double)max + log(sum));
    for (uint32_t i = 0; i < n; i++)
        z[i] -= norm;
    return (int32_t)best;
}

typedef void rows_fn(struct ablation *, uint32_t at, uint32_t n, void *ctx);   /* at: of all tokens */

/* A text through the blocks from `layer` on, piece by piece, under what a->steer is now.
 * tap: the rows that enter block y_layer are kept.  rows: gets the logits of each piece, or NULL. */
static dbrx_status text_through(struct ablation *a, uint32_t text, uint32_t layer, int tap, rows_fn *rows, void *ctx,
                                struct dbrx_error *err)
{
    struct engine *engine = &a->engine[text];
    const uint32_t length = a->first[text + 1] - a->first[text];
    const struct dbrx_config *c = a->c;
    const struct dbrx_route_sink sink = { .struct_size = sizeof sink, .ctx = a, .emit = keep_route };
    const struct dbrx_tap look = { .struct_size = sizeof look, .ctx = a, .want = a->want, .emit = keep_rows };
    int inner = layer && a->has_x && engine_has_resume(engine);
    dbrx_status st = inner ? DBRX_OK : engine_truncate(engine, 0, err);
    a->at = a->first[text];
    if (tap) {
        memset(a->want, 0, c->n_layers + 1);
        a->want[a->y_layer] = 1 << DBRX_TAP_RESIDUAL;
    }
    for (uint32_t pos = 0, n; pos < length && st == DBRX_OK; pos += n) {
        n = length - pos < a->piece ? length - pos : a->piece;
        struct dbrx_batch b = {
            .struct_size = sizeof b, .n_tokens = n, .token = a->token + a->at + pos, .route = &sink,
            .steer = steer_block(a->steer), .tap = tap ? &look : NULL };
        if (rows) {
            b.want_logits = DBRX_LOGITS_ALL;
            b.logits = a->logits;
            b.logits_len = (size_t)n * c->n_vocab;
        }
        st = inner ? engine_resume(engine, layer, pos, a->x + (size_t)(a->at + pos) * c->d_model, &b, err)
                   : engine_eval(engine, &b, err);
        if (st == DBRX_OK && rows)
            rows(a, a->at + pos, n, ctx);
    }
    return st;
}

/* ... and all of them */
static dbrx_status through(struct ablation *a, uint32_t layer, int tap, rows_fn *rows, void *ctx,
                           struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    for (uint32_t i = 0; i < a->n_texts && st == DBRX_OK; i++)
        st = text_through(a, i, layer, tap, rows, ctx, err);
    return st;
}

static void base_rows(struct ablation *a, uint32_t at, uint32_t n, void *ctx)
{
    size_t v = a->c->n_vocab;
    (void)ctx;
    memcpy(a->logp + at * v, a->logits, n * v * sizeof *a->logp);
    for (uint32_t t = at; t < at + n; t++)
        a->best[t] = log_softmax(a->logp + t * v, a->c->n_vocab);
}

/* Sees to it that x are the rows that enter `layer` in the baseline, and the session's KV before
 * it the baseline's */
static dbrx_status need_rows(struct ablation *a, uint32_t layer, struct dbrx_error *err)
{
    if ((a->has_x && a->x_layer == layer) || !layer || !engine_has_resume(a->engine))
        return DBRX_OK;
    uint32_t from = a->has_x && a->x_layer < layer ? a->x_layer : 0;
    a->y_layer = layer;
    a->in_base = 1;
    dbrx_status st = through(a, from, 1, NULL, NULL, err);
    float *rows = a->y;
    a->y = a->x;
    a->x = rows;
    a->has_x = st == DBRX_OK;
    a->x_layer = layer;
    return st;
}

dbrx_status ablation_open(struct disp *d, const struct dbrx_config *c, const int32_t *token, const uint32_t *first,
                          uint32_t n_texts, const char *base, struct ablation **out, struct dbrx_error *err)
{
    const uint32_t n = first[n_texts];
    size_t v = c->n_vocab, routes = (size_t)c->n_layers * c->n_experts;
    size_t each = v * sizeof(float) + routes * 6 + 2 * c->d_model * sizeof(float);
    char why[400] = "";
    *out = NULL;
    if (n > MOST_BYTES / each)
        return fail(err, DBRX_E_NOMEM, "the baseline of %u tokens takes more than %zu GB; %zu tokens would fit", n,
                    MOST_BYTES >> 30, MOST_BYTES / each);
    struct ablation *a = calloc(1, sizeof *a);
    if (!a)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    *a = (struct ablation){ .c = c, .token = token, .first = first, .n = n, .n_texts = n_texts };
    a->piece = PIECE_FLOATS / v < PIECE ? (uint32_t)(PIECE_FLOATS / v) : PIECE;
    a->piece = a->piece ? a->piece : 1;
    a->engine = calloc(n_texts, sizeof *a->engine);
    a->steer = steer_new(c);
    a->logp = malloc(n * v * sizeof *a->logp);
    a->best = malloc(n * sizeof *a->best);
    a->weight = calloc(n * routes, sizeof *a->weight);
    a->chosen = calloc(n * routes, 2);
    a->x = malloc((size_t)n * c->d_model * sizeof *a->x);
    a->y = malloc((size_t)n * c->d_model * sizeof *a->y);
    a->logits = malloc((n < a->piece ? n : a->piece) * v * sizeof *a->logits);
    a->want = calloc(c->n_layers + 1, 1);
    dbrx_status st = DBRX_OK;
    if (!a->engine || !a->steer || !a->logp || !a->best || !a->weight || !a->chosen || !a->x || !a->y || !a->logits || !a->want)
        st = fail(err, DBRX_E_NOMEM, "out of memory");
    else if (steer_read(a->steer, base, why, sizeof why) < 0)
        st = fail(err, DBRX_E_INVALID, "%s", why);
    for (uint32_t i = 0; i < n_texts && st == DBRX_OK; i++)
        st = disp_scratch(d, first[i + 1] - first[i], &a->engine[i], err);
    if (st == DBRX_OK) {
        a->other = a->chosen + n * routes;
        a->in_base = 1;
        st = through(a, 0, 0, base_rows, NULL, err);
    }
    if (st == DBRX_OK)
        *out = a;
    else
        ablation_close(a);
    return st;
}

void ablation_close(struct ablation *a)
{
    if (!a)
        return;
    for (uint32_t i = 0; a->engine && i < a->n_texts; i++)
        engine_close(&a->engine[i]);
    free(a->engine);
    steer_free(a->steer);
    free(a->logp);
    free(a->best);
    free(a->weight);
    free(a->chosen);
    free(a->x);
    free(a->y);
    free(a->logits);
    free(a->want);
    free(a);
}

/* ---- one run ---- */

struct run { struct ablation_sums *sums; struct ablation_token *each; uint32_t text; };    /* text: the one that is on */

/* KL(p || q) in bits of log-probabilities; exactly 0 where they are the same */
static double divergence(const float *p, const float *q, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        if (p[i] != q[i])
            sum += exp((double)p[i]) * ((double)p[i] - (double)q[i]);
    return sum > 0 ? sum / log(2) : 0;     /* below it is rounding */
}

static void run_rows(struct ablation *a, uint32_t at, uint32_t n, void *ctx)
{
    struct run *r = ctx;
    const size_t v = a->c->n_vocab;
    for (uint32_t t = at; t < at + n; t++) {
        float *q = a->logits + (t - at) * v;
        const float *p = a->logp + t * v;
        int last = t + 1 == a->first[r->text + 1];
        struct ablation_token one = { .was = a->best[t], .now = log_softmax(q, a->c->n_vocab) };
        one.kl = divergence(p, q, a->c->n_vocab);
        one.delta = last ? (double)NAN : ((double)q[a->token[t + 1]] - (double)p[a->token[t + 1]]) / log(2);
        r->sums->delta += last ? 0 : one.delta;
        r->sums->kl += one.kl;
        r->sums->kl_max = one.kl > r->sums->kl_max ? one.kl : r->sums->kl_max;
        r->sums->changed += one.was != one.now;
        if (r->each)
            r->each[t] = one;
        r->text += (uint32_t)last;
    }
}

/* What the routes of the layers behind the first ablated one say */
static void compare_routes(const struct ablation *a, const uint8_t *in, uint32_t first, struct ablation_sums *s,
                           uint32_t *shift)
{
    const size_t e = a->c->n_experts;
    for (uint32_t l = 0; shift && l < a->c->n_layers; l++)
        shift[l] = 0;
    for (uint32_t l = first + 1; l < a->c->n_layers; l++)
        for (uint32_t t = 0; t < a->n; t++) {
            size_t at = ((size_t)l * a->n + t) * e;
            int other = memcmp(a->chosen + at, a->other + at, e) != 0;
            s->routed++;
            s->shifted += (uint64_t)other;
            if (shift)
                shift[l] += (uint32_t)other;
        }
    for (uint32_t t = 0; t < a->n; t++) {
        int used = 0;
        for (size_t i = 0; i < a->c->n_layers * e; i++)
            used |= in[i] && a->weight[(i / e * a->n + t) * e + i % e] != 0;
        s->used += (uint32_t)used;
    }
}

dbrx_status ablation_run(struct ablation *a, const uint8_t *in, enum steer_effect how, struct ablation_sums *s,
                         struct ablation_token *each, uint32_t *shift, struct dbrx_error *err)
{
    const struct dbrx_config *c = a->c;
    const uint8_t *at = memchr(in, 1, (size_t)c->n_layers * c->n_experts);
    uint32_t first = (uint32_t)(at - in) / c->n_experts;
    char why[400] = "";
    *s = (struct ablation_sums){ 0 };
    dbrx_status st = need_rows(a, first, err);
    if (st != DBRX_OK)
        return st;
    char *where = set_experts_text(in, c->n_layers, c->n_experts);
    int edit = where ? steer_apply(a->steer, &(struct steer_item){ .effect = how, .where = where }, why, sizeof why) : -1;
    free(where);
    if (edit < 0)
        return fail(err, DBRX_E_INVALID, "%s", *why ? why : "out of memory");
    struct run r = { s, each, 0 };
    a->in_base = 0;
    st = through(a, first, 0, run_rows, &r, err);
    if (edit)
        steer_undo(a->steer);
    if (!first || !engine_has_resume(a->engine))
        a->has_x = 0;                      /* that went through the blocks before x, too */
    if (st == DBRX_OK)
        compare_routes(a, in, first, s, shift);
    return st;
}
