/* repl/specialists.c -- see specialists.h. */
#include "repl/specialists.h"

#include <stdlib.h>
#include <string.h>

struct spec {
    uint32_t n_topics, L, E;
    struct sizes *sizes;                   /* [n_topics][2]                              */
    struct share *share;                   /* [n_topics][2][L][E]                        */
    uint32_t *now;                         /* [L][E] tokens of the open cluster          */
    uint32_t open, topic;                  /* its tokens, its topic                      */
    int held;
};

struct spec *spec_new(uint32_t n_topics, uint32_t n_layers, uint32_t n_experts)
{
    struct spec *s = calloc(1, sizeof *s);
    size_t cells = (size_t)n_layers * n_experts;
    if (!s)
        return NULL;
    *s = (struct spec){ .n_topics = n_topics, .L = n_layers, .E = n_experts,
        .sizes = calloc(2 * (size_t)n_topics, sizeof *s->sizes), .share = calloc(2 * n_topics * cells, sizeof *s->share),
        .now = calloc(cells, sizeof *s->now) };
    if (s->sizes && s->share && s->now)
        return s;
    spec_free(s);
    return NULL;
}

void spec_free(struct spec *s)
{
    if (!s)
        return;
    free(s->sizes);
    free(s->share);
    free(s->now);
    free(s);
}

static struct share *shares(const struct spec *s, uint32_t topic, int held)
{
    return s->share + (2 * (size_t)topic + (size_t)held) * s->L * s->E;
}

void spec_end(struct spec *s)
{
    struct share *to = shares(s, s->topic, s->held);
    struct sizes *z = &s->sizes[2 * s->topic + (uint32_t)s->held];
    double m = s->open;
    if (!s->open)
        return;
    for (size_t i = 0; i < (size_t)s->L * s->E; i++) {
        double x = s->now[i];
        to[i].x += x;
        to[i].xx += x * x;
        to[i].xm += x * m;
        s->now[i] = 0;
    }
    z->n++;
    z->m += m;
    z->mm += m * m;
    s->open = 0;
}

void spec_begin(struct spec *s, uint32_t topic, int held)
{
    spec_end(s);
    s->topic = topic;
    s->held = held;
}

dbrx_status spec_token(void *ctx, const struct dbrx_token *t, struct dbrx_error *err)
{
    struct spec *s = ctx;
    (void)err;
    if (!t->pos)
        spec_end(s);
    for (uint32_t l = 0; l < s->L; l++)
        for (uint32_t i = 0; i < t->top_k && t->expert[l * t->top_k + i] < s->E; i++)
            s->now[l * s->E + t->expert[l * t->top_k + i]]++;
    s->open++;
    return DBRX_OK;
}

struct sizes spec_sizes(const struct spec *s, uint32_t topic, int held)
{
    return s->sizes[2 * topic + (uint32_t)held];
}

/* The topic's share of an expert, or (others) that of all other topics together */
static struct share gather(const struct spec *s, uint32_t topic, int others, int held, size_t cell, struct sizes *z)
{
    struct share sum = { 0 };
    *z = (struct sizes){ 0 };
    for (uint32_t t = 0; t < s->n_topics; t++) {
        const struct share *x = shares(s, t, held) + cell;
        const struct sizes *m = &s->sizes[2 * t + (uint32_t)held];
        if ((t == topic) == others)
            continue;
        sum.x += x->x;
        sum.xx += x->xx;
        sum.xm += x->xm;
        z->n += m->n;
        z->m += m->m;
        z->mm += m->mm;
    }
    return sum;
}

/* Score and interval in one half; an expert used by none or all of the tokens counts each text
 * as one observation, the most that texts can be alike */
static struct interval score(const struct spec *s, uint32_t topic, int held, size_t cell, double level, double *share,
                             double *rest)
{
    struct sizes za, zb;
    struct share a = gather(s, topic, 0, held, cell, &za), b = gather(s, topic, 1, held, cell, &zb);
    double da = share_design(&a, &za), db = share_design(&b, &zb), z = share_quantile(level, za.n + zb.n - 2);
    *share = share_of(&a, &za);
    *rest = share_of(&b, &zb);
    return share_newcombe(*share, share_wilson(*share, da > 0 ? za.m / da : za.n, z),
                          *rest, share_wilson(*rest, db > 0 ? zb.m / db : zb.n, z));
}

struct spec_score spec_score(const struct spec *s, uint32_t topic, uint32_t layer, uint32_t expert, double least)
{
    struct spec_score r;
    size_t cell = (size_t)layer * s->E + expert;
    double family = (double)s->n_topics * s->L * s->E, a, b;
    r.held_out = score(s, topic, 1, cell, 0.95, &a, &b);
    r.held_score = a - b;
    r.found = score(s, topic, 0, cell, 1 - 0.05 / family, &r.share, &r.rest);
    r.score = r.share - r.rest;
    r.is_found = r.score >= least && r.found.lo > 0;
    r.is_replicated = r.held_score >= least / 2 && r.held_out.lo > 0;
    return r;
}
