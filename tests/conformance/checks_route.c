/* tests/conformance/checks_route.c -- what the routing sink is told. */
#include "tests/conformance/conformance.h"

#include <math.h>
#include <string.h>

/* one call, and in chunks that differ */
static int order(struct fx *f)
{
    struct rec *r = fed(f, &f->sut, N_TOK, NULL, NULL);
    NEED(!r->broken[0], "%s", r->broken);
    for (size_t i = 0; i < f->cfg->n_layers; i++)
        for (uint32_t p = 0; p < N_TOK; p++)
            NEED(r->routed[i * r->room + p] == 1, "layer %zu, position %u: %u routes", i, p,
                 r->routed[i * r->room + p]);
    r = rec_new(f->cfg, ROOM);
    for (uint32_t at = 0, n = 1; at < N_TOK; at += n, n = n % 4 + 1) {
        n = n < N_TOK - at ? n : N_TOK - at;
        NEED(feed(&f->sut, f->s, f->tok + at, n, r, NULL) == DBRX_OK, "eval failed");
    }
    NEED(!r->broken[0], "%s", r->broken);
    return routes_as_documented(r, N_TOK);
}

/* Calls fn for every (layer, position); `at` indexes the [n_experts] rows of rec. */
static int each_route(struct fx *f, const struct rec *r,
                      int (*fn)(struct fx *, const struct rec *, uint32_t l, uint32_t p, size_t at))
{
    NEED(!r->broken[0], "%s", r->broken);
    for (uint32_t l = 0; l < f->cfg->n_layers; l++)
        for (uint32_t p = 0; p < N_TOK; p++)
            if (fn(f, r, l, p, ((size_t)l * r->room + p) * f->cfg->n_experts) != PASS)
                return FAIL;
    return PASS;
}

static int one_sorted(struct fx *f, const struct rec *r, uint32_t l, uint32_t p, size_t at)
{
    uint32_t k = r->top_k[l];
    const uint16_t *e = r->expert + at;
    const float *w = r->weight + at;
    for (uint32_t j = 0; j < k; j++) {
        NEED(e[j] < f->cfg->n_experts, "layer %u, position %u: expert %u", l, p, e[j]);
        NEED(isfinite(w[j]), "layer %u, position %u: weight %g", l, p, w[j]);
        for (uint32_t i = 0; i < j; i++)
            NEED(e[i] != e[j], "layer %u, position %u: expert %u twice", l, p, e[j]);
        NEED(!j || w[j] < w[j - 1] || (w[j] == w[j - 1] && e[j] > e[j - 1]),
             "layer %u, position %u: expert %u (%g) before expert %u (%g)", l, p, e[j - 1],
             w[j - 1], e[j], w[j]);
    }
    return PASS;
}

static int sorted(struct fx *f)
{
    /* steering can make weights equal (0) or negative: still sorted */
    size_t n = (size_t)f->cfg->n_layers * f->cfg->n_experts;
    float *scale = fx_alloc(n * sizeof *scale);
    for (size_t i = 0; i < n; i++)
        scale[i] = (float)below(&f->rng, 3) - 1;
    struct dbrx_steer steer = { .struct_size = sizeof steer, .scale = scale };
    if (each_route(f, fed(f, &f->sut, N_TOK, NULL, NULL), one_sorted) != PASS)
        return FAIL;
    return each_route(f, fed(f, &f->sut, N_TOK, &(struct ask){ .steer = &steer }, NULL),
                      one_sorted);
}

static int one_norm(struct fx *f, const struct rec *r, uint32_t l, uint32_t p, size_t at)
{
    double norm = 0, order_p = f->cfg->moe_norm_p;
    for (uint32_t j = 0; j < f->cfg->top_k; j++) {
        double w = r->weight[at + j], prob = r->prob[at + r->expert[at + j]];
        NEED(order_p > 0 || fabs(w - prob) <= 1e-6,
             "layer %u, position %u: weight %g is not the probability %g", l, p, w, prob);
        norm += pow(w, order_p);
    }
    NEED(!(order_p > 0) || fabs(pow(norm, 1 / order_p) - 1) <= 1e-5,
         "layer %u, position %u: the weights' %g-norm is %g", l, p, order_p,
         pow(norm, 1 / order_p));
    return PASS;
}

static int one_sum(struct fx *f, const struct rec *r, uint32_t l, uint32_t p, size_t at)
{
    double sum = 0;
    for (uint32_t e = 0; e < f->cfg->n_experts; e++) {
        NEED(r->prob[at + e] >= 0, "layer %u, position %u: probability %g", l, p,
             r->prob[at + e]);
        sum += r->prob[at + e];
    }
    NEED(fabs(sum - 1) <= 1e-5, "layer %u, position %u: probabilities sum to %g", l, p, sum);
    return PASS;
}

static int one_tie(struct fx *f, const struct rec *r, uint32_t l, uint32_t p, size_t at)
{
    const float *prob = r->prob + at;
    bool taken[64] = { false };
    for (uint32_t j = 0; j < f->cfg->top_k; j++)
        taken[r->expert[at + j]] = true;
    for (uint32_t a = 0; a < f->cfg->n_experts; a++)
        for (uint32_t b = 0; b < f->cfg->n_experts; b++)
            NEED(!taken[a] || taken[b] || prob[a] > prob[b] || (prob[a] == prob[b] && a < b),
                 "layer %u, position %u: expert %u (%g) chosen over %u (%g)", l, p, a, prob[a], b,
                 prob[b]);
    return PASS;
}

static int norms(struct fx *f)
{
    return each_route(f, fed(f, &f->sut, N_TOK, NULL, NULL), one_norm);
}

static int sums(struct fx *f)
{
    return each_route(f, fed(f, &f->sut, N_TOK, NULL, NULL), one_sum);
}

static int ties(struct fx *f)
{
    struct rec *r = fed(f, &f->sut, N_TOK, NULL, NULL);
    if (each_route(f, r, one_tie) != PASS)
        return FAIL;
    for (uint32_t p = 0; f->shape->ties && p < N_TOK; p++)     /* layer 0: a router of zeros */
        for (uint32_t j = 0; j < f->cfg->top_k; j++)
            NEED(r->expert[(size_t)p * f->cfg->n_experts + j] == j,
                 "a router of zeros at position %u: expert %u in place %u", p,
                 r->expert[(size_t)p * f->cfg->n_experts + j], j);
    return PASS;
}

static int documented(struct fx *f)
{
    return routes_as_documented(fed(f, &f->sut, N_TOK, NULL, NULL), N_TOK);
}

static int like_oracle(struct fx *f)
{
    const struct rec *r = fed(f, &f->sut, N_TOK, NULL, NULL), *t = f->truth;
    for (uint32_t l = 0; l < f->cfg->n_layers; l++)
        for (uint32_t p = 0; p < N_TOK; p++) {
            size_t at = ((size_t)l * r->room + p) * f->cfg->n_experts;
            for (uint32_t j = 0; j < f->cfg->top_k; j++) {
                uint32_t i = 0;
                while (i < f->cfg->top_k && r->expert[at + i] != t->expert[at + j])
                    i++;
                NEED(i < f->cfg->top_k, "layer %u, position %u: expert %u is missing", l, p,
                     t->expert[at + j]);
                NEED(fabs(r->weight[at + i] - t->weight[at + j]) <= TOL,
                     "layer %u, position %u, expert %u: weight %g, not %g", l, p,
                     t->expert[at + j], r->weight[at + i], t->weight[at + j]);
            }
        }
    return PASS;
}

static int wanted(struct fx *f)
{
    for (uint32_t want = 0; want < 4; want++) {
        struct rec *r = rec_new(f->cfg, ROOM);
        dbrx_session *s = fx_session(&f->sut, ROOM);
        r->want = want;
        NEED(feed(&f->sut, s, f->tok, N_TOK, r, NULL) == DBRX_OK, "eval failed");
        NEED(!r->broken[0], "%s", r->broken);
        NEED(distance(r->logits, f->truth->logits, (size_t)N_TOK * f->cfg->n_vocab) <= TOL,
             "want %u changes the logits", want);
    }
    return PASS;
}

static int no_sink(struct fx *f)
{
    struct rec *r = fed(f, &f->sut, N_TOK, &(struct ask){ .no_route = true }, NULL);
    NEED(!r->broken[0], "%s", r->broken);
    return same_logits(r, f->truth, 0, N_TOK, TOL, "without a sink");
}

const struct check checks_route[] = {
    { "C50", "routes: each layer and position once, ascending, on eval's thread", order,
      EACH_SHAPE, 0 },
    { "C51", "experts come heaviest first, ties with the lower id first", sorted, EACH_SHAPE, 0 },
    { "C52", "weights are normalised as moe_norm_p says", norms, EACH_SHAPE, 0 },
    { "C53", "probabilities over all experts sum to one", sums, EACH_SHAPE, 0 },
    { "C54", "the chosen are the largest probabilities, ties to the lower id", ties,
      EACH_SHAPE, 0 },
    { "C55", "probabilities and weights follow from the router logits", documented,
      EACH_SHAPE, 0 },
    { "C56", "experts and weights are the oracle's", like_oracle, EACH_SHAPE, 0 },
    { "C57", "prob and logit are NULL unless wanted", wanted, EACH_SHAPE, 0 },
    { "C58", "without a sink eval computes the same", no_sink, EACH_SHAPE, 0 },
    { NULL, NULL, NULL, ONCE, 0 },
};
