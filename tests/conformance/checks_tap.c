/* tests/conformance/checks_tap.c -- taps on the residual stream and the experts, and head,
 * which turns a hidden vector into logits. */
#include "tests/conformance/conformance.h"

#include <math.h>
#include <string.h>

static const struct ask with_taps = { .taps = true };

static int complete(struct fx *f)
{
    struct rec *r = fed(f, &f->sut, N_TOK, &with_taps, NULL);
    size_t layers = f->cfg->n_layers + 1;
    NEED(!r->broken[0], "%s", r->broken);
    for (size_t kind = 0; kind < 2; kind++)
        for (size_t l = kind; l < layers; l++)     /* the embedding has no experts */
            for (uint32_t p = 0; p < N_TOK; p++)
                NEED(r->tapped[(kind * layers + l) * r->room + p] == 1,
                     "tap of kind %zu, layer %d, position %u: %u times", kind, (int)l - 1, p,
                     r->tapped[(kind * layers + l) * r->room + p]);
    return same_logits(r, f->truth, 0, N_TOK, TOL, "with taps");
}

/* rec refuses what nobody asked for; here each bit alone must come, and alone */
static int as_wanted(struct fx *f)
{
    size_t layers = f->cfg->n_layers + 1;
    for (size_t l = 0; l < layers; l++)
        for (int kind = 0; kind < (l ? 2 : 1); kind++) {
            struct rec *r = rec_new(f->cfg, ROOM);
            memset(r->taps, 0, layers);
            r->taps[l] = (uint8_t)(1 << kind);
            NEED(f->sut.be->truncate(f->s, 0, NULL) == DBRX_OK, "truncate failed");
            NEED(feed(&f->sut, f->s, f->tok, N_TOK, r, &with_taps) == DBRX_OK, "eval failed");
            NEED(!r->broken[0], "%s", r->broken);
            NEED(r->tapped[((size_t)kind * layers + l) * r->room + N_TOK - 1] == 1,
                 "tap of kind %d, layer %d did not come", kind, (int)l - 1);
        }
    return PASS;
}

static int embedding(struct fx *f)
{
    struct rec *r = fed(f, &f->sut, N_TOK, &with_taps, NULL);
    size_t d = f->cfg->d_model;
    for (uint32_t p = 0; p < N_TOK; p++)
        for (size_t i = 0; i < d; i++) {
            float want = load(&f->rm->desc.embed, (size_t)f->tok[p] * d + i);
            NEED(r->resid[p * d + i] == want, "position %u, element %zu: %g, not %g", p, i,
                 r->resid[p * d + i], want);
        }
    return PASS;
}

static int residual(struct fx *f)
{
    struct rec *r = fed(f, &f->sut, N_TOK, &with_taps, NULL);
    size_t d = f->cfg->d_model;
    for (uint32_t l = 0; l <= f->cfg->n_layers; l++) {
        size_t at = (size_t)l * r->room * d;
        double far = distance(r->resid + at, f->truth->resid + at, N_TOK * d);
        NEED(far <= TOL, "after block %d: differs by %.2g", (int)l - 1, far);
    }
    return PASS;
}

/* where expert e's part of (layer, position) lies in r, or NULL */
static const float *part_of(const struct rec *r, uint32_t l, uint32_t p, uint16_t e)
{
    size_t at = ((size_t)l * r->room + p) * r->cfg->n_experts;
    for (uint32_t j = 0; j < r->top_k[l]; j++)
        if (r->expert[at + j] == e)
            return r->part + (at + j) * r->cfg->d_model;
    return NULL;
}

/* largest |part| of a layer: the yardstick for its parts */
static double part_size(const struct rec *r, uint32_t l)
{
    double big = 0;
    size_t row = (size_t)r->cfg->n_experts * r->cfg->d_model;
    for (size_t i = 0; i < N_TOK * row; i++)
        big = fmax(big, fabs(r->part[(size_t)l * r->room * row + i]));
    return big;
}

/* r's parts are `times` those of t, expert by expert, in this layer */
static int parts_scaled(const struct rec *r, const struct rec *t, uint32_t l, double times,
                        const char *what)
{
    size_t d = r->cfg->d_model;
    double size = part_size(t, l);
    for (uint32_t p = 0; p < N_TOK; p++)
        for (uint32_t j = 0; j < t->top_k[l]; j++) {
            uint16_t e = t->expert[((size_t)l * t->room + p) * t->cfg->n_experts + j];
            const float *a = part_of(r, l, p, e), *b = part_of(t, l, p, e);
            NEED(a && b, "%s: layer %u, position %u: expert %u is missing", what, l, p, e);
            for (size_t i = 0; i < d; i++)
                NEED(fabs(a[i] - times * b[i]) <= TOL * size,
                     "%s: layer %u, position %u, expert %u: %g, not %g", what, l, p, e, a[i],
                     times * b[i]);
        }
    return PASS;
}

static int parts(struct fx *f)
{
    struct rec *r = fed(f, &f->sut, N_TOK, &with_taps, NULL);
    for (uint32_t l = 0; l < f->cfg->n_layers; l++)
        if (parts_scaled(r, f->truth, l, 1, "against the oracle") != PASS)
            return FAIL;
    return PASS;
}

/* One layer's experts scaled by 0 and by 2: so are its parts, what comes before stays, and
 * the residual after it differs by just those parts. */
static int parts_add_up(struct fx *f)
{
    const struct dbrx_config *c = f->cfg;
    size_t n = (size_t)c->n_layers * c->n_experts, d = c->d_model;
    struct rec *r = fed(f, &f->sut, N_TOK, &with_taps, NULL);
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (int times = 0; times <= 2; times += 2) {
            float *scale = fx_alloc(n * sizeof *scale);
            for (size_t i = 0; i < n; i++)
                scale[i] = i / c->n_experts == l ? (float)times : 1;
            struct dbrx_steer steer = { .struct_size = sizeof steer, .scale = scale };
            struct rec *q = fed(f, &f->sut, N_TOK,
                                &(struct ask){ .steer = &steer, .taps = true }, NULL);
            NEED(!q->broken[0], "%s", q->broken);
            if (parts_scaled(q, r, l, times, times ? "scale 2" : "scale 0") != PASS)
                return FAIL;
            double big = 0;
            size_t row = (size_t)(l + 1) * r->room * d;
            for (size_t i = 0; i < N_TOK * d; i++)
                big = fmax(big, fabs(r->resid[row + i]));
            for (uint32_t p = 0; p < N_TOK; p++)
                for (size_t i = 0; i < d; i++) {
                    double sum = 0, got = (double)q->resid[row + p * d + i] -
                                          r->resid[row + p * d + i];
                    for (uint32_t j = 0; j < r->top_k[l]; j++)
                        sum += r->part[(((size_t)l * r->room + p) * c->n_experts + j) * d + i];
                    NEED(fabs(got - (times - 1) * sum) <= TOL * big,
                         "layer %u, position %u: scale %d moves the residual by %g, its parts "
                         "say %g", l, p, times, got, (times - 1) * sum);
                }
        }
    return PASS;
}

static int head_is_logits(struct fx *f)
{
    struct rec *r = fed(f, &f->sut, N_TOK, &with_taps, NULL);
    size_t v = f->cfg->n_vocab, d = f->cfg->d_model;
    float *buf = canary_new(N_TOK * v);
    struct guarded g;
    dbrx_status st = f->sut.head->head(f->s, r->resid + (size_t)f->cfg->n_layers * r->room * d,
                                       N_TOK, buf, guarded_init(&g));
    NEED(st == DBRX_OK, "head returned %d", (int)st);
    NEED(!guarded_fault(&g, st), "%s", guarded_fault(&g, st));
    NEED(canary_ok(buf, N_TOK * v), "memory outside the logits was written");
    double far = distance(buf, f->truth->logits, N_TOK * v);
    NEED(far <= TOL, "logits differ by %.2g", far);
    return PASS;
}

/* The logit lens on an inner layer, more rows than any pass takes, in mid-conversation. */
static int head_lens(struct fx *f)
{
    size_t v = f->cfg->n_vocab, d = f->cfg->d_model, n = N_LONG;
    float *x = fx_alloc(n * d * sizeof *x), *buf = canary_new(n * v);
    float *want = fx_alloc(n * v * sizeof *want);
    for (size_t i = 0; i < n * d; i++)
        x[i] = (float)(4 * next_random(&f->rng) - 2);
    float *copy = fx_alloc(n * d * sizeof *copy);
    memcpy(copy, x, n * d * sizeof *x);
    NEED(feed(&f->sut, f->s, f->tok, 5, NULL, NULL) == DBRX_OK, "eval failed");
    NEED(f->sut.head->head(f->s, x, (uint32_t)n, buf, NULL) == DBRX_OK, "head failed");
    NEED(canary_ok(buf, n * v), "memory outside the logits was written");
    NEED(!memcmp(copy, x, n * d * sizeof *x), "head wrote to its input");
    if (!f->ref.head || f->ref.head->head(fx_session(&f->ref, 1), x, (uint32_t)n, want, NULL))
        give_up("the oracle has no head");
    double far = distance(buf, want, n * v);
    NEED(far <= TOL, "logits differ by %.2g", far);
    return unchanged(f, f->s, 5, "head");
}

const struct check checks_tap[] = {
    { "C80", "taps: each layer and position once, ascending; results stay the same", complete,
      EACH_SHAPE, 0 },
    { "C81", "taps: what was asked for, and nothing else", as_wanted, EACH_SHAPE, 0 },
    { "C82", "tap of layer -1 is the embedding's row", embedding, EACH_SHAPE, 0 },
    { "C83", "tap RESIDUAL is the oracle's stream after each block", residual, EACH_SHAPE, 0 },
    { "C84", "tap EXPERT is the oracle's w_e * out_e, in route order", parts, EACH_SHAPE, 0 },
    { "C85", "tap EXPERT scales with the weight and adds up to what the experts add", parts_add_up,
      EACH_SHAPE, 0 },
    { "C86", "head of the last residual is the logits", head_is_logits, EACH_SHAPE, NEEDS_HEAD },
    { "C87", "head of any vectors is the oracle's and disturbs nothing", head_lens, EACH_SHAPE,
      NEEDS_HEAD },
    { NULL, NULL, NULL, ONCE, 0 },
};
