/* plugins/coactivation/coactivation.c -- coactivation.so, an instrument: which experts go
 * together, in one layer and from one layer to the next.
 *
 * Pairs are held against sets of top_k experts drawn at random with the loads that were seen
 * and nothing else in common: the design of largest entropy with these loads (conditional
 * Poisson sampling; Chen, Dempster & Liu, Biometrika 81, 1994).  Plain independence would not
 * do: in sets of a fixed size one expert leaves less room for the others.  Transitions are held
 * against layers that know nothing of each other. */
#include "plugins/fail.h"
#include "plugins/observer.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 20, MAX_STEPS = 200 };

struct co {
    const struct dbrx_host *host;
    const struct dbrx_timeline *timeline;
    const struct dbrx_sets *sets;
    uint32_t L, E, k;
    double tokens, left_out;               /* left out: steered to another number of experts */
    uint32_t *pair;                        /* [L][E][E] tokens with both a <= b; the diagonal: with it */
    uint32_t *step;                        /* [L-1][E][E] tokens with a at l and b at l+1    */
};

struct cell { uint32_t layer, a, b; double seen, expected, score; };

static void observer_close(void *self)
{
    struct co *x = self;
    free(x->pair);
    free(x->step);
    free(x);
}

static dbrx_status observer_open(const struct dbrx_host *host, const struct dbrx_config *c, void **self,
                                 struct dbrx_error *err)
{
    struct co *x = calloc(1, sizeof *x);
    if (!x)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    *x = (struct co){ .host = host, .timeline = host->get(host, DBRX_TIMELINE), .sets = host->get(host, DBRX_SETS),
                      .L = c->n_layers, .E = c->n_experts, .k = c->top_k };
    size_t n = (size_t)x->L * x->E * x->E;
    x->pair = calloc(n, sizeof *x->pair);
    x->step = calloc(n, sizeof *x->step);
    if (!x->pair || !x->step || !x->timeline || !x->sets) {
        observer_close(x);
        return fail(err, DBRX_E_NOMEM, "out of memory, or the host lends no dbrx.timeline/1 and dbrx.sets/1");
    }
    *self = x;
    return DBRX_OK;
}

static int whole(const struct co *x, const struct dbrx_token *t)
{
    for (size_t i = 0; i < (size_t)x->L * x->k; i++)
        if (t->expert[i] >= x->E)
            return 0;
    return 1;
}

static dbrx_status on_token(void *self, const struct dbrx_token *t, struct dbrx_error *err)
{
    struct co *x = self;
    (void)err;
    if (!t->expert || t->flags & DBRX_TOKEN_AGAIN)
        return DBRX_OK;
    if (!whole(x, t)) {
        x->left_out++;
        return DBRX_OK;
    }
    x->tokens++;
    for (uint32_t l = 0; l < x->L; l++) {
        const uint16_t *e = t->expert + (size_t)l * x->k;
        uint32_t *pair = x->pair + (size_t)l * x->E * x->E, *step = x->step + (size_t)l * x->E * x->E;
        for (uint32_t i = 0; i < x->k; i++) {
            for (uint32_t j = i; j < x->k; j++)
                pair[e[i] < e[j] ? e[i] * x->E + e[j] : e[j] * x->E + e[i]]++;
            for (uint32_t j = 0; j < x->k && l + 1 < x->L; j++)
                step[e[i] * x->E + e[x->k + j]]++;
        }
    }
    return DBRX_OK;
}

/* ---- chance ---- */

/* Sums of products: s[j] over all sets of j of the weights w[n] but the one at `skip` */
static void symmetric(const double *w, uint32_t n, uint32_t skip, uint32_t skip2, uint32_t k, double *s)
{
    memset(s, 0, (k + 1) * sizeof *s);
    s[0] = 1;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = k; i != skip && i != skip2 && j; j--)
            s[j] += s[j - 1] * w[i];
}

/* together[E][E]: the chance of both in a random set of k with loads p[E] that sum to k.
 * work: [2E + k + 1] */
static void random_sets(const double *p, uint32_t E, uint32_t k, double *together, double *work)
{
    double *w = work, *now = work + E, *s = work + 2 * E;
    for (uint32_t e = 0; e < E; e++)       /* odds; almost always and almost never stay finite */
        w[e] = p[e] / (1 - p[e] + 1e-9);
    for (int step = 0; step < MAX_STEPS; step++) {
        double worst = 0, scale = 0;
        symmetric(w, E, E, E, k, s);
        double all = s[k];
        for (uint32_t e = 0; e < E; e++) {
            symmetric(w, E, e, E, k, s);
            now[e] = w[e] * s[k - 1] / all;
            worst = fmax(worst, fabs(now[e] - p[e]));
        }
        for (uint32_t e = 0; e < E; e++) {
            w[e] *= now[e] > 0 ? p[e] / now[e] : 0;
            scale = fmax(scale, w[e]);
        }
        for (uint32_t e = 0; e < E; e++)   /* only ratios matter */
            w[e] /= scale;
        if (worst < 1e-9)
            break;
    }
    symmetric(w, E, E, E, k, s);
    double all = s[k];
    for (uint32_t a = 0; a < E; a++)
        for (uint32_t b = 0; b < E; b++) {
            symmetric(w, E, a, b, k, s);
            together[a * E + b] = a == b ? p[a] : k > 1 ? w[a] * w[b] * s[k - 2] / all : 0;
        }
}

/* ---- rows ---- */

static int by_score(const void *a, const void *b)
{
    const struct cell *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

/* The score is the log-likelihood ratio of the count against chance (Dunning, Computational Linguistics
 * 19, 1993): it counts evidence, where lift and z are largest for what was seen once */
static struct cell cell(uint32_t l, uint32_t a, uint32_t b, double tokens, double seen, double expected)
{
    double not_seen = tokens - seen, not_expected = tokens - expected, g = 0;
    if (expected > 0 && seen > 0)
        g += 2 * seen * log(seen / expected);
    if (not_expected > 0 && not_seen > 0)
        g += 2 * not_seen * log(not_seen / not_expected);
    return (struct cell){ l, a, b, seen, expected, fmax(g, 0) };
}

/* All pairs of a layer; returns how many */
static size_t pairs(const struct co *x, uint32_t l, struct cell *out, double *work)
{
    const uint32_t *pair = x->pair + (size_t)l * x->E * x->E;
    double *p = work, *together = work + x->E;
    size_t n = 0;
    for (uint32_t e = 0; e < x->E; e++)
        p[e] = pair[e * x->E + e] / x->tokens;
    random_sets(p, x->E, x->k, together, together + (size_t)x->E * x->E);
    for (uint32_t a = 0; a < x->E; a++)
        for (uint32_t b = a + 1; b < x->E; b++)
            out[n++] = cell(l, a, b, x->tokens, pair[a * x->E + b], together[a * x->E + b] * x->tokens);
    return n;
}

static size_t transitions(const struct co *x, uint32_t l, struct cell *out)
{
    const uint32_t *now = x->pair + (size_t)l * x->E * x->E, *then = now + (size_t)x->E * x->E;
    size_t n = 0;
    for (uint32_t a = 0; l + 1 < x->L && a < x->E; a++)
        for (uint32_t b = 0; b < x->E; b++)
            out[n++] = cell(l, a, b, x->tokens, x->step[((size_t)l * x->E + a) * x->E + b],
                            (double)now[a * x->E + a] * then[b * x->E + b] / x->tokens);
    return n;
}

/* Enough for two digits of the smallest that is shown */
static uint32_t decimals(const struct cell *c, size_t n)
{
    double least = 1;
    for (size_t i = 0; i < n; i++)
        least = c[i].expected > 0 && c[i].expected < least ? c[i].expected : least;
    return (uint32_t)fmin(6, 1 - floor(log10(least)));
}

static void hand_over(const struct co *x, int steps, const struct cell *c, size_t n, const struct dbrx_rows *r)
{
    const struct dbrx_column col[] = {
        { "layer", NULL, DBRX_CELL_NUM, 0, 0, 0, { 0 } }, { "a", steps ? "from" : "a", DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "b", steps ? "to" : "b", DBRX_CELL_NUM, 0, 0, 0, { 0 } }, { "tokens", NULL, DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "expected", "by chance", DBRX_CELL_NUM, decimals(c, n), 0, 0, { 0 } }, { "lift", NULL, DBRX_CELL_NUM, 2, 0, 0, { 0 } },
        { "score", NULL, DBRX_CELL_NUM, 1, 0, 0, { 0 } } };
    char title[300];
    snprintf(title, sizeof title, steps ? "%.0f tokens: those that use an expert and then another one in the next layer, "
             "against layers that are independent" : "%.0f tokens: those that use both experts of a layer, against random "
             "sets of %u with the same loads", x->tokens, x->k);
    r->table(r->ctx, steps ? "transitions" : "pairs", title, col, sizeof col / sizeof *col);
    r->fact(r->ctx, "tokens", x->tokens);
    r->fact(r->ctx, "left_out", x->left_out);
    for (size_t i = 0; i < n; i++) {
        r->num(r->ctx, c[i].layer);
        r->num(r->ctx, c[i].a);
        r->num(r->ctx, c[i].b);
        r->num(r->ctx, c[i].seen);
        r->num(r->ctx, c[i].expected);
        r->num(r->ctx, c[i].expected > 0 ? c[i].seen / c[i].expected : (double)NAN);
        r->num(r->ctx, c[i].score);
        r->end_row(r->ctx);
    }
    r->note(r->ctx, "Lift: times as often as by chance.  Sorted by score, the log-likelihood ratio against "
            "chance: what was seen often counts more; neighbouring tokens are alike, so it is an order and no test.");
    if (x->left_out > 0)
        r->note(r->ctx, "Tokens steered to another number of experts are left out.");
}

static void on_reset(void *self)
{
    struct co *x = self;
    size_t n = (size_t)x->L * x->E * x->E;
    memset(x->pair, 0, n * sizeof *x->pair);
    memset(x->step, 0, n * sizeof *x->step);
    x->tokens = x->left_out = 0;
}

static dbrx_status run(struct co *x, int steps, int argc, const char *const *argv, const struct dbrx_rows *r,
                       struct dbrx_error *err)
{
    const char *layers = "*";
    long shown = SHOWN;
    for (int i = 0; i < argc; i++) {
        char *end;
        errno = 0;
        if (!strcmp(argv[i], "--layer") && i + 1 < argc) {
            layers = argv[++i];
        } else if ((shown = strtol(argv[i], &end, 10)) < 1 || *end || errno) {
            return fail(err, DBRX_E_INVALID, "it does not take \"%.60s\"", argv[i]);
        }
    }
    if (!(x->tokens > 0))
        return fail(err, DBRX_E_UNSUPPORTED, "no token has been counted yet; type a prompt first");
    size_t E = x->E, n = 0;
    uint8_t *in = calloc(x->L, 1);
    struct cell *c = calloc(x->L * E * E, sizeof *c);
    double *work = calloc(E + E * E + 2 * E + x->k + 1, sizeof *work);
    dbrx_status st = in && c && work ? x->sets->layers(x->host, layers, in, err) : fail(err, DBRX_E_NOMEM, "out of memory");
    for (uint32_t l = 0; st == DBRX_OK && l < x->L; l++)
        if (in[l])
            n += steps ? transitions(x, l, c + n) : pairs(x, l, c + n, work);
    if (st == DBRX_OK && !n)
        st = fail(err, DBRX_E_UNSUPPORTED, "layer %u is the last: there is none for its experts to go on to", x->L - 1);
    if (st == DBRX_OK) {
        qsort(c, n, sizeof *c, by_score);
        hand_over(x, steps, c, (size_t)shown < n ? (size_t)shown : n, r);
    }
    free(in);
    free(c);
    free(work);
    return st;
}

static dbrx_status run_pairs(void *self, int argc, const char *const *argv, const struct dbrx_rows *r, struct dbrx_error *err)
{
    return run(self, 0, argc, argv, r, err);
}

static dbrx_status run_steps(void *self, int argc, const char *const *argv, const struct dbrx_rows *r, struct dbrx_error *err)
{
    return run(self, 1, argc, argv, r, err);
}

static const char *const words[] = { "--layer", NULL };
static const struct dbrx_command pairs_command = {
    .struct_size = sizeof pairs_command, .name = "coactivation", .usage = "[N] [--layer L]",
    .brief = "which experts of a layer go together",
    .help = "The N (20) pairs that are used by the same tokens more or less often than chance has it: random sets of "
            "as many experts as a token uses, with the loads that were seen.  Counts all tokens since the start, "
            "each once in its context, until /experts reset.",
    .example = "/coactivation 10 --layer 3", .words = words, .flags = DBRX_COMMAND_TIMELINE, .run = run_pairs };
static const struct dbrx_command steps_command = {
    .struct_size = sizeof steps_command, .name = "transitions", .usage = "[N] [--layer L]",
    .brief = "which expert follows which in the next layer",
    .help = "The N (20) pairs of an expert at layer L and one at the next that tokens use more or less often than if "
            "layers knew nothing of each other.",
    .example = "/transitions --layer 0..1", .words = words, .flags = DBRX_COMMAND_TIMELINE, .run = run_steps };
static const struct dbrx_command *const commands[] = { &pairs_command, &steps_command, NULL };
static const struct dbrx_observer observer = { .struct_size = sizeof observer, .commands = commands,
    .open = observer_open, .close = observer_close, .on_token = on_token, .on_reset = on_reset };

static const void *get(const char *id)
{
    return strcmp(id, DBRX_OBSERVER) ? NULL : &observer;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "coactivation", .version = "1", .summary = "pairs of experts against chance, within and between layers",
    .get = get };
