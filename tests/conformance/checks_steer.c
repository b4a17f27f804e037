/* tests/conformance/checks_steer.c -- steering: every effect, in the documented order, and
 * every refusal. */
#include "tests/conformance/conformance.h"

#include <math.h>
#include <string.h>

enum { BIAS = 1, BAN = 2, FORCE = 4, AVOID = 8, OMIT = 16, SCALE = 32, TOP_K = 64, SOURCE = 128 };

struct plan {
    struct dbrx_steer steer;
    uint16_t *top_k, *source;
    float    *bias, *scale;
    uint8_t  *mark;
};

/* no effect, and all arrays NULL in the steering block */
static struct plan *plan_new(const struct fx *f)
{
    size_t n = (size_t)f->cfg->n_layers * f->cfg->n_experts;
    struct plan *p = fx_alloc(sizeof *p);
    p->steer.struct_size = sizeof p->steer;
    p->top_k = fx_alloc(f->cfg->n_layers * sizeof *p->top_k);
    p->bias = fx_alloc(n * sizeof *p->bias);
    p->scale = fx_alloc(n * sizeof *p->scale);
    p->mark = fx_alloc(n);
    p->source = fx_alloc(n * sizeof *p->source);
    for (size_t i = 0; i < n; i++) {
        p->scale[i] = 1;
        p->source[i] = (uint16_t)(i % f->cfg->n_experts);
    }
    return p;
}

static void use_all(struct plan *p)
{
    p->steer.top_k = p->top_k;
    p->steer.bias = p->bias;
    p->steer.scale = p->scale;
    p->steer.mark = p->mark;
    p->steer.source = p->source;
}

/* A random block that uses these effects and is one the model can follow. */
static struct plan *plan_random(struct fx *f, int effects)
{
    static const float scales[] = { 0, 0.5f, 1, 2, -1 };
    const struct dbrx_config *c = f->cfg;
    struct plan *p = plan_new(f);
    bool narrows = effects & (BAN | AVOID) && c->top_k == c->n_experts && c->n_experts > 1;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        if (effects & TOP_K)
            p->top_k[l] = (uint16_t)below(&f->rng, c->n_experts + 1);
        else if (narrows)                  /* or there would be nothing to leave out */
            p->top_k[l] = (uint16_t)(c->n_experts - 1);
        uint32_t k = p->top_k[l] ? p->top_k[l] : c->top_k, forced = 0, closed = 0;
        for (uint32_t e = 0; e < c->n_experts; e++) {
            size_t at = (size_t)l * c->n_experts + e;
            if (effects & BIAS)
                p->bias[at] = (float)(3 * next_random(&f->rng) - 1.5);
            if (effects & FORCE && forced < k && next_random(&f->rng) < 0.3)
                p->mark[at] |= DBRX_STEER_FORCE, forced++;
            else if (effects & BAN && closed < c->n_experts - k && next_random(&f->rng) < 0.4)
                p->bias[at] = -INFINITY, closed++;
            else if (effects & AVOID && closed < c->n_experts - k && next_random(&f->rng) < 0.4)
                p->mark[at] |= DBRX_STEER_SKIP, closed++;
            if (effects & OMIT && next_random(&f->rng) < 0.4)
                p->mark[at] |= DBRX_STEER_OMIT;
            if (effects & SCALE)
                p->scale[at] = scales[below(&f->rng, 5)];
            if (effects & SOURCE) {
                size_t other = (size_t)l * c->n_experts + below(&f->rng, c->n_experts);
                uint16_t was = p->source[at];
                p->source[at] = p->source[other];
                p->source[other] = was;
            }
        }
    }
    p->steer.top_k = effects & TOP_K || narrows ? p->top_k : NULL;
    p->steer.bias = effects & (BIAS | BAN) ? p->bias : NULL;
    p->steer.mark = effects & (FORCE | AVOID | OMIT) ? p->mark : NULL;
    p->steer.scale = effects & SCALE ? p->scale : NULL;
    p->steer.source = effects & SOURCE ? p->source : NULL;
    return p;
}

/* Routes follow from the reported logits, and the output from the routes (by the oracle). */
static int steered(struct fx *f, int effects, int rounds)
{
    int compared = 0;
    for (int i = 0; i < rounds; i++) {
        const struct ask ask = { .steer = &plan_random(f, effects)->steer };
        struct rec *r = fed(f, &f->sut, N_TOK, &ask, NULL), *t = fed(f, &f->ref, N_TOK, &ask, NULL);
        if (routes_as_documented(r, N_TOK) != PASS)
            return FAIL;
        if (rec_margin(t, 0) <= TOL)
            continue;
        compared++;
        if (same_logits(r, t, 0, N_TOK, TOL, "steered") != PASS)
            return FAIL;
    }
    NEED(compared, "every random block was too close to call");
    return PASS;
}

static int bias(struct fx *f)     { return steered(f, BIAS, 4); }
static int ban(struct fx *f)      { return steered(f, BAN, 4); }
static int force(struct fx *f)    { return steered(f, FORCE, 4); }
static int avoid(struct fx *f)    { return steered(f, AVOID, 4); }
static int omit(struct fx *f)     { return steered(f, OMIT, 4); }
static int scale(struct fx *f)    { return steered(f, SCALE, 4); }
static int top_k(struct fx *f)    { return steered(f, TOP_K, 6); }
static int source(struct fx *f)   { return steered(f, SOURCE, 4); }
static int together(struct fx *f)
{
    return steered(f, BIAS | BAN | FORCE | AVOID | OMIT | SCALE | TOP_K | SOURCE, 12);
}

static int nothing(struct fx *f)
{
    struct plan *p = plan_new(f), *q = plan_new(f);
    size_t bytes = (size_t)N_TOK * f->cfg->n_vocab * sizeof(float);
    use_all(q);                            /* arrays that say nothing: the same again */
    p->steer.struct_size = offsetof(struct dbrx_steer, source);        /* a host that is older: what */
    p->steer.source = (const uint16_t *)f->tok;                        /* is beyond is not its to say */
    struct rec *a = fed(f, &f->sut, N_TOK, NULL, NULL);
    struct rec *b = fed(f, &f->sut, N_TOK, &(struct ask){ .steer = &p->steer }, NULL);
    struct rec *c = fed(f, &f->sut, N_TOK, &(struct ask){ .steer = &q->steer }, NULL);
    NEED(!memcmp(a->logits, b->logits, bytes), "logits differ in their bits");
    return same_logits(c, a, 0, N_TOK, TOL, "neutral arrays");
}

static int only_this_call(struct fx *f)
{
    struct plan *p = plan_random(f, SCALE | OMIT | BIAS);
    struct rec *r = rec_new(f->cfg, ROOM);
    NEED(feed(&f->sut, f->s, f->tok, N_TOK, r, &(struct ask){ .steer = &p->steer }) == DBRX_OK,
         "eval failed");
    NEED(f->sut.be->truncate(f->s, 0, NULL) == DBRX_OK, "truncate failed");
    NEED(feed(&f->sut, f->s, f->tok, N_TOK, r, NULL) == DBRX_OK, "eval failed");
    if (routes_as_documented(r, N_TOK) != PASS)
        return FAIL;
    return same_logits(r, f->truth, 0, N_TOK, TOL, "after a steered call");
}

/* Every expert omitted everywhere: all weights 0, and what is left is attention. */
static int all_omitted(struct fx *f)
{
    const struct dbrx_config *c = f->cfg;
    struct plan *p = plan_new(f);
    memset(p->mark, DBRX_STEER_OMIT, (size_t)c->n_layers * c->n_experts);
    p->steer.mark = p->mark;
    const struct ask ask = { .steer = &p->steer };
    struct rec *r = fed(f, &f->sut, N_TOK, &ask, NULL), *t = fed(f, &f->ref, N_TOK, &ask, NULL);
    if (routes_as_documented(r, N_TOK) != PASS)
        return FAIL;
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (uint32_t i = 0; i < N_TOK; i++)
            for (uint32_t j = 0; j < c->top_k; j++)
                NEED(r->weight[((size_t)l * r->room + i) * c->n_experts + j] == 0,
                     "layer %u, position %u: a weight is not 0", l, i);
    return same_logits(r, t, 0, N_TOK, TOL, "all omitted");
}

/* The first expert out of the question, the last one certain, all others without a chance:
 * still one of these comes next, not the first. */
static int last_resort(struct fx *f)
{
    const struct dbrx_config *c = f->cfg;
    for (int how = 0; how < 2 && c->n_experts > 2; how++) {
        struct plan *p = plan_new(f);
        use_all(p);
        for (uint32_t l = 0; l < c->n_layers; l++) {
            size_t row = (size_t)l * c->n_experts;
            p->top_k[l] = 2;
            for (uint32_t e = 0; e + 1 < c->n_experts; e++)
                p->bias[row + e] = -1000;  /* a probability of 0 in float32 */
            if (how)
                p->mark[row] = DBRX_STEER_SKIP;
            else
                p->bias[row] = -INFINITY;
        }
        const struct ask ask = { .steer = &p->steer };
        struct rec *r = fed(f, &f->sut, N_TOK, &ask, NULL);
        NEED(!r->broken[0], "%s", r->broken);
        for (uint32_t l = 0; l < c->n_layers; l++)
            for (uint32_t i = 0; i < N_TOK; i++) {
                const uint16_t *e = r->expert + ((size_t)l * r->room + i) * c->n_experts;
                NEED(e[0] == c->n_experts - 1 && e[1] == 1,
                     "layer %u, position %u: experts %u and %u, not %u and 1", l, i, e[0], e[1],
                     c->n_experts - 1);
            }
    }
    return PASS;
}

/* ---- refusals ----------------------------------------------------------------------- */

static int refused(struct fx *f, struct plan *p, const char *what)
{
    const uint32_t at = 3;
    size_t v = f->cfg->n_vocab;
    float *buf = canary_new(v);
    struct dbrx_batch b = {
        .struct_size = sizeof b, .n_tokens = 4, .token = f->tok + at, .steer = &p->steer,
        .want_logits = DBRX_LOGITS_LAST, .logits = buf, .logits_len = v,
    };
    use_all(p);
    if (!f->sut.be->position(f->s))
        NEED(feed(&f->sut, f->s, f->tok, at, NULL, NULL) == DBRX_OK, "eval failed");
    note("%s", what);
    struct guarded g;
    for (int null = 0; null < 2; null++) {
        dbrx_status st = f->sut.be->eval(f->s, &b, null ? NULL : guarded_init(&g));
        NEED(st == DBRX_E_INVALID, "%s: eval returned %d", what, (int)st);
        const char *fault = null ? NULL : guarded_fault(&g, st);
        NEED(!fault, "%s: %s", what, fault);
    }
    NEED(canary_untouched(buf, v), "%s: logits were written", what);
    return unchanged(f, f->s, at, what);
}

/* Each layer in turn holds what cannot be followed. */
static int refusals(struct fx *f)
{
    const uint32_t n = f->cfg->n_experts, k = f->cfg->top_k;
    for (uint32_t l = 0; l < f->cfg->n_layers; l++) {
        size_t row = (size_t)l * n, last = row + n - 1;
        static const struct { const char *what; float bias, scale; } odd[] = {
            { "a bias of NaN", NAN, 1 }, { "a bias of +infinity", INFINITY, 1 },
            { "a scale of NaN", 0, NAN }, { "a scale of +infinity", 0, INFINITY },
        };
        for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
            struct plan *p = plan_new(f);
            p->bias[last] = odd[i].bias;
            p->scale[last] = odd[i].scale;
            if (refused(f, p, odd[i].what) != PASS)
                return FAIL;
        }
        struct plan *p = plan_new(f);
        p->top_k[l] = (uint16_t)(n + 1);
        if (refused(f, p, "a top_k above n_experts") != PASS)
            return FAIL;
        p = plan_new(f);
        for (uint32_t e = 0; e < n - k + 1; e++)
            p->mark[row + e] = DBRX_STEER_SKIP;
        if (refused(f, p, "too many skipped") != PASS)
            return FAIL;
        p = plan_new(f);
        for (uint32_t e = 0; e < n - k + 1; e++)
            p->bias[row + e] = -INFINITY;
        if (refused(f, p, "too many banned") != PASS)
            return FAIL;
        p = plan_new(f);
        p->source[last] = (uint16_t)n;
        if (refused(f, p, "a source that is no expert") != PASS)
            return FAIL;
        p = plan_new(f);
        p->source[last] = p->source[row];
        if (n > 1 && refused(f, p, "two experts of one source") != PASS)
            return FAIL;
        p = plan_new(f);
        p->top_k[l] = (uint16_t)n;
        p->mark[last] = DBRX_STEER_SKIP;
        if (refused(f, p, "top_k of all experts, one of them skipped") != PASS)
            return FAIL;
        p = plan_new(f);
        p->top_k[l] = (uint16_t)(n - 1);
        p->mark[last] = DBRX_STEER_FORCE | DBRX_STEER_SKIP;
        if (n > 1 && refused(f, p, "an expert forced and skipped") != PASS)
            return FAIL;
        p = plan_new(f);
        p->top_k[l] = (uint16_t)(n - 1);
        p->mark[last] = DBRX_STEER_FORCE;
        p->bias[last] = -INFINITY;
        if (n > 1 && refused(f, p, "an expert forced and banned") != PASS)
            return FAIL;
        p = plan_new(f);
        p->top_k[l] = (uint16_t)(n - 1);
        for (uint32_t e = 0; e < n; e++)
            p->mark[row + e] = DBRX_STEER_FORCE;
        if (n > 1 && refused(f, p, "more forced than top_k") != PASS)
            return FAIL;
    }
    return PASS;
}

const struct check checks_steer[] = {
    { "C60", "a steering block of NULLs gives the same bits as none", nothing, EACH_SHAPE, 0 },
    { "C61", "steering: bias is added before the softmax", bias, EACH_SHAPE, 0 },
    { "C62", "steering: a bias of -infinity bans before the softmax", ban, EACH_SHAPE, 0 },
    { "C63", "steering: FORCE experts are chosen first", force, EACH_SHAPE, 0 },
    { "C64", "steering: SKIP experts are not chosen, probabilities untouched", avoid,
      EACH_SHAPE, 0 },
    { "C65", "steering: OMIT experts are dropped before normalising", omit, EACH_SHAPE, 0 },
    { "C66", "steering: scale multiplies the applied weight, nothing is re-routed", scale,
      EACH_SHAPE, 0 },
    { "C67", "steering: top_k per layer, up to all experts; 0 is the model's", top_k,
      EACH_SHAPE, 0 },
    { "C68", "steering: all effects together, in the documented order", together, EACH_SHAPE, 0 },
    { "C69", "steering that cannot be followed is DBRX_E_INVALID and changes nothing", refusals,
      EACH_SHAPE, 0 },
    { "C70", "steering holds for its call only", only_this_call, EACH_SHAPE, 0 },
    { "C71", "with every expert omitted a layer's experts add nothing", all_omitted,
      EACH_SHAPE, 0 },
    { "C72", "a banned or skipped expert is not chosen even among probabilities of 0",
      last_resort, EACH_SHAPE, 0 },
    { "C73", "steering: each expert gets its source's router logit", source, EACH_SHAPE, 0 },
    { NULL, NULL, NULL, ONCE, 0 },
};
