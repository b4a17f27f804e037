/* repl/divergence.c -- see divergence.h.  KL, NLL and top-k come from float32 logits through a
 * log-softmax in double; sums are in double throughout. */
#include "repl/divergence.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOP = 64 };

struct divergence *div_new(const struct dbrx_config *c, uint32_t top)
{
    struct divergence *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->n_layers = c->n_layers;
    d->d_model = c->d_model;
    d->n_experts = c->n_experts;
    d->n_vocab = c->n_vocab;
    d->top = top < MAX_TOP ? top : MAX_TOP;
    d->top = d->top < d->n_vocab ? d->top : d->n_vocab;
    d->layer = calloc((size_t)c->n_layers + 1, sizeof *d->layer);
    d->change = malloc(2 * DIV_KEEP * sizeof *d->change);
    d->flip = malloc(2 * DIV_KEEP * sizeof *d->flip);
    d->scratch = malloc(2 * (size_t)d->n_vocab * sizeof *d->scratch);
    if (!d->layer || !d->change || !d->flip || !d->scratch) {
        div_free(d);
        return NULL;
    }
    return d;
}

void div_free(struct divergence *d)
{
    if (!d)
        return;
    free(d->kl);
    free(d->layer);
    free(d->change);
    free(d->flip);
    free(d->scratch);
    free(d);
}

/* ---- lists that keep the widest ---- */

static int wider(double x, double y)       /* for qsort: the larger first */
{
    return (x < y) - (x > y);
}

static int earlier(struct div_place x, struct div_place y)
{
    return x.text != y.text ? (x.text > y.text) - (x.text < y.text) : (x.pos > y.pos) - (x.pos < y.pos);
}

static int change_order(const void *x, const void *y)
{
    const struct div_change *a = x, *b = y;
    int by = wider(a->margin, b->margin);
    return by ? by : earlier(a->at, b->at);
}

static int flip_order(const void *x, const void *y)
{
    const struct div_flip *a = x, *b = y;
    int by = wider(a->margin_a, b->margin_a);
    by = by ? by : earlier(a->at, b->at);
    return by ? by : (a->layer > b->layer) - (a->layer < b->layer);
}

static void keep_change(struct divergence *d, struct div_change c)
{
    if (d->kept_changes == 2 * DIV_KEEP) {
        qsort(d->change, d->kept_changes, sizeof c, change_order);
        d->kept_changes = DIV_KEEP;
    }
    d->change[d->kept_changes++] = c;
    d->n_changes++;
}

static void keep_flip(struct divergence *d, struct div_flip f)
{
    if (d->kept_flips == 2 * DIV_KEEP) {
        qsort(d->flip, d->kept_flips, sizeof f, flip_order);
        d->kept_flips = DIV_KEEP;
    }
    d->flip[d->kept_flips++] = f;
    d->n_flips++;
}

/* ---- logits ---- */

/* ln p[n] of a row; 0, or -1 if a logit is no finite number */
static int log_softmax(const float *logit, uint32_t n, double *out)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(logit[i]))
            return -1;
        max = logit[i] > max ? (double)logit[i] : max;
    }
    for (uint32_t i = 0; i < n; i++)
        sum += exp(logit[i] - max);
    double log_sum = max + log(sum);
    for (uint32_t i = 0; i < n; i++)
        out[i] = logit[i] - log_sum;
    return 0;
}

/* Ids of the k largest, largest first; ties: the lower id */
static void largest(const float *row, uint32_t n, uint32_t k, int32_t *id)
{
    uint32_t have = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (have == k && !(row[i] > row[id[k - 1]]))
            continue;
        uint32_t at = have < k ? have++ : k - 1;
        for (; at && row[i] > row[id[at - 1]]; at--)
            id[at] = id[at - 1];
        id[at] = (int32_t)i;
    }
}

static void push_kl(struct divergence *d, double kl)
{
    if (d->rows == d->kl_cap) {
        size_t cap = d->kl_cap ? 2 * d->kl_cap : 256;
        double *more = realloc(d->kl, cap * sizeof *more);
        if (!more) {
            d->failed = 1;
            return;
        }
        d->kl = more;
        d->kl_cap = cap;
    }
    d->kl[d->rows] = kl;
}

static void one_row(struct divergence *d, struct div_place at, const float *a, const float *b, int32_t next)
{
    uint32_t n = d->n_vocab, common = 0;
    double *la = d->scratch, *lb = la + n, kl = 0, back = 0;
    int32_t top_a[MAX_TOP], top_b[MAX_TOP];
    if (log_softmax(a, n, la) || log_softmax(b, n, lb)) {
        d->bad++;
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        double e = fabs((double)b[i] - a[i]), gap = lb[i] - la[i], pa = exp(la[i]), pb = exp(lb[i]);
        d->err_sum += e;
        d->err2_sum += e * e;
        if (e > d->err_max) {
            d->err_max = e;
            d->err_at = at;
            d->err_id = (int32_t)i;
        }
        /* sum of pa ln(pa/pb) with pb - pa, which sums to nothing, added: each term is >= 0, and
         * two rows that agree to the last digits do not cancel into noise */
        kl += fabs(gap) < 0.5 ? pa * (expm1(gap) - gap) : pb - pa - pa * gap;
        back += fabs(gap) < 0.5 ? pb * (expm1(-gap) + gap) : pa - pb + pb * gap;
    }
    kl = kl > 0 ? kl : 0;
    push_kl(d, kl);
    if (d->failed)
        return;
    d->kl_sum += kl;
    d->kl_back_sum += back > 0 ? back : 0;
    if (kl > d->kl_max) {
        d->kl_max = kl;
        d->kl_at = at;
    }
    largest(a, n, d->top, top_a);
    largest(b, n, d->top, top_b);
    for (uint32_t i = 0; i < d->top; i++)
        for (uint32_t j = 0; j < d->top; j++)
            common += top_a[i] == top_b[j];
    d->overlap_sum += (double)common / d->top;
    d->top1 += top_a[0] == top_b[0];
    if (top_a[0] != top_b[0])
        keep_change(d, (struct div_change){ at, top_a[0], top_b[0], la[top_a[0]] - la[top_b[0]] });
    if (next >= 0) {
        double gap = la[next] - lb[next];
        d->next++;
        d->nll_sum[0] -= la[next];
        d->nll_sum[1] -= lb[next];
        d->gap_sum += gap;
        d->gap2_sum += gap * gap;
    }
    d->rows++;
}

void div_logits(struct divergence *d, struct div_place at, uint32_t n, const float *a, const float *b,
                const int32_t *next)
{
    for (uint32_t i = 0; i < n && !d->failed; i++, at.pos++)
        one_row(d, at, a + (size_t)i * d->n_vocab, b + (size_t)i * d->n_vocab, next[i]);
}

/* ---- layers ---- */

void div_residual(struct divergence *d, int32_t layer, uint32_t n, const float *a, const float *b)
{
    struct div_layer *l = &d->layer[layer + 1];
    for (uint32_t t = 0; t < n; t++) {
        double diff2 = 0, norm2 = 0;
        for (uint32_t i = 0; i < d->d_model; i++, a++, b++) {
            double e = (double)*b - *a;
            diff2 += e * e;
            norm2 += (double)*a * *a;
        }
        double error = diff2 == 0 ? 0 : sqrt(diff2 / norm2);
        if (!(error <= l->worst))          /* NaN, too */
            l->worst = isnan(error) ? INFINITY : error;
        l->diff2 += diff2;
        l->norm2 += norm2;
    }
    l->tokens += n;
}

static int has(const uint16_t *list, uint32_t n, uint16_t e)
{
    for (uint32_t i = 0; i < n; i++)
        if (list[i] == e)
            return 1;
    return 0;
}

static double log_ratio(float p, float q)  /* a probability can be too small for a float */
{
    return log((double)fmaxf(p, FLT_MIN)) - log((double)fmaxf(q, FLT_MIN));
}

void div_route(struct divergence *d, struct div_place at, int32_t token, uint32_t layer,
               uint32_t ka, const uint16_t *a, const float *prob_a,
               uint32_t kb, const uint16_t *b, const float *prob_b)
{
    struct div_layer *l = &d->layer[layer + 1];
    struct div_flip f = { at, token, (uint16_t)layer, 0, 0, 0, 0, 0 };
    int lost = -1, won = -1;
    uint32_t gained = 0;
    for (uint32_t e = 0; e < d->n_experts; e++)
        l->router = fmax(l->router, fabs((double)prob_b[e] - prob_a[e]));
    for (uint32_t i = 0; i < ka; i++)
        if (!has(b, kb, a[i])) {
            f.n++;
            if (lost < 0 || prob_a[a[i]] > prob_a[lost])
                lost = a[i];
        }
    for (uint32_t i = 0; i < kb; i++)
        if (!has(a, ka, b[i])) {
            gained++;
            if (won < 0 || prob_a[b[i]] < prob_a[won])
                won = b[i];
        }
    l->routed++;
    if (lost < 0 && won < 0) {
        l->reordered += memcmp(a, b, ka * sizeof *a) != 0;
        return;
    }
    /* a side that chose fewer has nothing to set against: what it did not choose */
    f.n = (uint16_t)(gained > f.n ? gained : f.n);
    f.out = lost < 0 ? UINT16_MAX : (uint16_t)lost;
    f.in = won < 0 ? UINT16_MAX : (uint16_t)won;
    if (lost >= 0 && won >= 0) {
        f.margin_a = log_ratio(prob_a[lost], prob_a[won]);
        f.margin_b = log_ratio(prob_b[won], prob_b[lost]);
    } else {
        f.margin_a = f.margin_b = INFINITY;
    }
    l->flips++;
    keep_flip(d, f);
}

/* ---- figures ---- */

static int ascending(const void *x, const void *y)
{
    return -wider(*(const double *)x, *(const double *)y);
}

int div_end(struct divergence *d)
{
    if (d->failed)
        return -1;
    if (d->rows)
        qsort(d->kl, d->rows, sizeof *d->kl, ascending);
    qsort(d->change, d->kept_changes, sizeof *d->change, change_order);
    qsort(d->flip, d->kept_flips, sizeof *d->flip, flip_order);
    d->kept_changes = d->kept_changes < DIV_KEEP ? d->kept_changes : DIV_KEEP;
    d->kept_flips = d->kept_flips < DIV_KEEP ? d->kept_flips : DIV_KEEP;
    return 0;
}

double div_kl(const struct divergence *d, double quantile)
{
    if (!d->rows)
        return NAN;
    size_t rank = (size_t)ceil(quantile * (double)d->rows);
    return d->kl[rank ? rank - 1 : 0];
}

double div_perplexity(const struct divergence *d, int side)
{
    return d->next ? exp(d->nll_sum[side] / (double)d->next) : NAN;
}

double div_nll_gap(const struct divergence *d, double *error)
{
    double n = (double)d->next, mean = d->gap_sum / n, var = d->gap2_sum / n - mean * mean;
    *error = d->next > 1 ? sqrt((var > 0 ? var : 0) / (n - 1)) : NAN;
    return d->next ? mean : NAN;
}

double div_layer_error(const struct divergence *d, uint32_t layer)
{
    const struct div_layer *l = &d->layer[layer];
    double error = l->diff2 == 0 ? 0 : sqrt(l->diff2 / l->norm2);
    return !l->tokens ? NAN : isnan(error) ? INFINITY : error;
}

int div_first_layer(const struct divergence *d, double tolerance)
{
    for (uint32_t l = 0; l <= d->n_layers; l++)
        if (div_layer_error(d, l) > tolerance)
            return (int)l;
    return -1;
}
