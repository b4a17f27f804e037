/* repl/sampler.c -- from logits to the next token.  See sampler.h. */
#include "repl/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cand { float logit; int32_t id; };

struct sampler {
    uint32_t n_vocab;
    uint64_t state;
    uint8_t *banned;                       /* [n_vocab] or NULL  */
    const uint8_t *mask;                   /* [n_vocab] or NULL; not owned */
    struct cand *cand;                     /* [n_vocab]          */
    double *p;                             /* [n_vocab]          */
};

struct sampler *sampler_new(uint32_t n_vocab, const uint8_t *banned)
{
    struct sampler *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->n_vocab = n_vocab;
    s->cand = malloc(n_vocab * sizeof *s->cand);
    s->p = malloc(n_vocab * sizeof *s->p);
    s->banned = banned ? malloc(n_vocab) : NULL;
    if (!s->cand || !s->p || (banned && !s->banned)) {
        sampler_free(s);
        return NULL;
    }
    if (banned)
        memcpy(s->banned, banned, n_vocab);
    return s;
}

void sampler_free(struct sampler *s)
{
    if (!s)
        return;
    free(s->banned);
    free(s->cand);
    free(s->p);
    free(s);
}

void sampler_seed(struct sampler *s, uint64_t seed)
{
    s->state = seed;
}

uint64_t sampler_state(const struct sampler *s)
{
    return s->state;
}

void sampler_mask(struct sampler *s, const uint8_t *banned)
{
    s->mask = banned;
}

static double draw(struct sampler *s)
{
    uint64_t z = s->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* does a come before b? */
static int before(struct cand a, struct cand b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* h[at..n) is a heap (the candidate that comes last on top) but for its root: repair it */
static void sift(struct cand *h, size_t at, size_t n)
{
    struct cand x = h[at];
    for (size_t c; (c = 2 * at + 1) < n; at = c) {
        c += c + 1 < n && before(h[c], h[c + 1]);
        if (!before(x, h[c]))
            break;
        h[at] = h[c];
    }
    h[at] = x;
}

static int compare(const void *a, const void *b)
{
    return before(*(const struct cand *)a, *(const struct cand *)b) ? -1 : 1;
}

/* The k best candidates, sorted, into s->cand; returns how many there are.  k >= n_vocab
 * sorts everything; a small k costs one pass over the logits and a heap of k. */
static size_t best(struct sampler *s, const float *logits, size_t k)
{
    struct cand *h = s->cand;
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        struct cand c = { logits[i], (int32_t)i };
        if (n == k && !(c.logit > h[0].logit))         /* the common case first; NaN fails too */
            continue;
        if ((s->banned && s->banned[i]) || (s->mask && s->mask[i]) || isnan(c.logit) ||
            c.logit == -INFINITY)
            continue;
        if (n < k) {
            h[n++] = c;
            for (size_t j = n == k ? n / 2 : 0; j-- > 0;)      /* full: make it a heap */
                sift(h, j, n);
        } else {
            h[0] = c;
            sift(h, 0, n);
        }
    }
    qsort(h, n, sizeof *h, compare);
    return n;
}

int32_t sampler_draw(struct sampler *s, const struct sampler_params *p, const float *logits)
{
    int greedy = !(p->temperature > 0);
    size_t k = greedy ? 1 : p->top_k && p->top_k < s->n_vocab ? p->top_k : s->n_vocab;
    size_t n = best(s, logits, k);
    if (!n)
        return -1;
    if (greedy || s->cand[0].logit == INFINITY)
        return s->cand[0].id;

    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += s->p[i] = exp(((double)s->cand[i].logit - s->cand[0].logit) / p->temperature);
    if (p->top_p < 1) {                    /* the smallest set of mass >= top_p, never empty */
        double mass = s->p[0];
        size_t keep = 1;
        while (keep < n && mass < p->top_p * sum)
            mass += s->p[keep++];
        n = keep;
        sum = mass;
    }
    if (p->min_p > 0) {
        size_t keep = 1;
        for (sum = s->p[0]; keep < n && s->p[keep] >= p->min_p * s->p[0]; keep++)
            sum += s->p[keep];
        n = keep;
    }
    double u = draw(s) * sum;
    size_t i = 0;
    for (; i + 1 < n && u >= s->p[i]; i++)
        u -= s->p[i];
    return s->cand[i].id;
}

const char *sampler_stage_name(enum sampler_stage stage)
{
    static const char *const name[] = { "vocabulary", "greedy", "top_k", "top_p", "min_p" };
    return name[stage];
}

void sampler_explain(struct sampler *s, const struct sampler_params *p, const struct sampler_history *h,
                     const float *logits, struct sampler_report *r)
{
    uint8_t *banned = s->banned;
    (void)h;                               /* no filter here looks back */
    s->banned = NULL;
    size_t n = best(s, logits, s->n_vocab), at[SAMPLER_STAGES], i;
    s->banned = banned;
    double sum = 0, kept = 0, mass = 0, scale = p->temperature > 0 ? (double)p->temperature : 1;
    double top = n ? (double)s->cand[0].logit : 0;
    for (i = 0; i < n; i++)
        sum += exp((double)s->cand[i].logit - top);
    /* s->p: what it is drawn with, not yet normalised; 0 for what cannot be drawn */
    for (i = 0; i < n; i++) {
        s->p[i] = banned && banned[s->cand[i].id] ? 0 : exp(((double)s->cand[i].logit - top) / scale);
        kept += s->p[i];
    }
    for (int k = 0; k < SAMPLER_STAGES; k++)
        at[k] = r->left[k] = 0;
    double limit = kept, first = 0;
    uint32_t seen = 0, rank = 0;
    int top_k = p->temperature > 0 && p->top_k;
    if (top_k)                             /* top_p is of the mass that top_k leaves */
        for (limit = 0, i = 0; i < n && seen < p->top_k; i++)
            seen += s->p[i] > 0, limit += s->p[i];
    kept = 0;
    for (i = 0; i < n; i++) {
        enum sampler_stage cut = SAMPLER_STAGES;
        double q = s->p[i];
        if (!(q > 0)) {
            cut = SAMPLER_VOCABULARY;
        } else {
            first = rank ? first : q;
            cut = !(p->temperature > 0) ? (rank ? SAMPLER_GREEDY : SAMPLER_STAGES)
                : top_k && rank >= p->top_k ? SAMPLER_TOP_K
                : p->top_p < 1 && rank && mass >= (double)p->top_p * limit ? SAMPLER_TOP_P
                : p->min_p > 0 && q < (double)p->min_p * first ? SAMPLER_MIN_P : SAMPLER_STAGES;
            rank++;
            mass += q;
        }
        at[cut < SAMPLER_STAGES ? cut : 0] += cut < SAMPLER_STAGES;
        kept += cut == SAMPLER_STAGES ? q : 0;
        if (i < r->n)
            r->top[i] = (struct sampler_candidate){ s->cand[i].id, s->cand[i].logit,
                exp((double)s->cand[i].logit - top) / sum, cut == SAMPLER_STAGES ? q : 0, cut };
    }
    r->n = n < r->n ? (uint32_t)n : r->n;
    for (i = 0; i < r->n; i++)
        r->top[i].after /= kept > 0 ? kept : 1;
    size_t left = n;
    for (int k = 0; k < SAMPLER_STAGES; k++)
        r->left[k] = (uint32_t)(left -= at[k]);
}
