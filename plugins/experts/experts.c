/* plugins/experts/experts.c -- experts.so, an instrument: which experts work how much.
 *
 * For every layer: how many tokens used each expert (load) and with what weight, how evenly
 * (largest load over the mean, coefficient of variation), how undecided the router was
 * (entropy of its softmax), and how often neighbouring tokens share experts.  All of it is
 * sums, so that what happened since a mark is a difference.  A token counts once, see
 * plugins/observer.h; docs/instruments.md has the definitions. */
#include "plugins/fail.h"
#include "plugins/observer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MARKS = 32, MAX_NAME = 40 };

/* Where the sums are in one array of doubles (whole numbers are exact to 2^53) */
enum { TOKENS, GENERATED, STEERED, PAIRS, DECIDED, HEAD }; /* DECIDED: tokens with known probabilities */

struct experts {
    const struct dbrx_host *host;
    const struct dbrx_timeline *timeline;
    const struct dbrx_sets *sets;
    uint32_t L, E, k;
    size_t n;                              /* HEAD + L*(2*E + 2)                         */
    double *sum;                           /* [n], since the last reset                  */
    struct mark { char name[MAX_NAME + 1]; double *sum; } mark[MAX_MARKS];
    uint32_t n_marks;
    uint16_t *last;                        /* [L][k] of the token before                 */
    uint32_t next;                         /* the position it is followed by; 0: none    */
};

/* [E] tokens that used each expert; [E] sum of weights; entropy in bits; shared experts */
static double *used(const struct experts *x, double *sum, uint32_t l) { return sum + HEAD + (size_t)l * (2 * x->E + 2); }
static double *weight(const struct experts *x, double *sum, uint32_t l) { return used(x, sum, l) + x->E; }
static double *entropy(const struct experts *x, double *sum, uint32_t l) { return used(x, sum, l) + 2 * x->E; }
static double *shared(const struct experts *x, double *sum, uint32_t l) { return used(x, sum, l) + 2 * x->E + 1; }

static void observer_close(void *self)
{
    struct experts *x = self;
    for (uint32_t i = 0; i < x->n_marks; i++)
        free(x->mark[i].sum);
    free(x->sum);
    free(x->last);
    free(x);
}

static dbrx_status observer_open(const struct dbrx_host *host, const struct dbrx_config *c, void **self,
                                 struct dbrx_error *err)
{
    struct experts *x = calloc(1, sizeof *x);
    if (!x)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    x->host = host;
    x->timeline = host->get(host, DBRX_TIMELINE);
    x->sets = host->get(host, DBRX_SETS);
    x->L = c->n_layers;
    x->E = c->n_experts;
    x->k = c->top_k;
    x->n = HEAD + (size_t)x->L * (2 * x->E + 2);
    x->sum = calloc(x->n, sizeof *x->sum);
    x->last = calloc((size_t)x->L * x->k, sizeof *x->last);
    if (!x->sum || !x->last || !x->timeline || !x->sets) {
        int lent = x->timeline && x->sets;
        observer_close(x);
        return lent ? fail(err, DBRX_E_NOMEM, "out of memory")
                    : fail(err, DBRX_E_UNSUPPORTED, "the host lends no dbrx.timeline/1 or dbrx.sets/1");
    }
    *self = x;
    return DBRX_OK;
}

static void on_truncate(void *self, uint32_t n_keep)
{
    struct experts *x = self;
    if (x->next > n_keep)                  /* the token before is gone */
        x->next = 0;
}

static double bits(const float *p, uint32_t n)
{
    double h = 0;
    for (uint32_t e = 0; e < n; e++)
        h -= p[e] > 0 ? (double)(p[e] * log2f(p[e])) : 0;
    return h;
}

/* The share of these experts that are among those */
static double overlap(const uint16_t *these, const uint16_t *those, uint32_t k)
{
    uint32_t n = 0, both = 0;
    for (; n < k && these[n] != UINT16_MAX; n++)
        for (uint32_t i = 0; i < k; i++)
            both += these[n] == those[i];
    return n ? (double)both / n : 0;
}

static dbrx_status on_token(void *self, const struct dbrx_token *t, struct dbrx_error *err)
{
    struct experts *x = self;
    (void)err;
    if (!t->expert) {
        x->next = 0;
        return DBRX_OK;
    }
    int pair = x->next && x->next == t->pos;
    if (!(t->flags & DBRX_TOKEN_AGAIN)) {
        x->sum[TOKENS]++;
        x->sum[GENERATED] += (t->flags & DBRX_TOKEN_GENERATED) != 0;
        x->sum[STEERED] += (t->flags & DBRX_TOKEN_STEERED) != 0;
        x->sum[PAIRS] += pair;
        x->sum[DECIDED] += t->prob != NULL;
        for (uint32_t l = 0; l < x->L; l++) {
            const uint16_t *e = t->expert + (size_t)l * x->k;
            for (uint32_t i = 0; i < x->k && e[i] < x->E; i++) {
                used(x, x->sum, l)[e[i]]++;
                weight(x, x->sum, l)[e[i]] += (double)t->weight[(size_t)l * x->k + i];
            }
            *entropy(x, x->sum, l) += t->prob ? bits(t->prob + (size_t)l * x->E, x->E) : 0;
            *shared(x, x->sum, l) += pair ? overlap(e, x->last + (size_t)l * x->k, x->k) : 0;
        }
    }
    memcpy(x->last, t->expert, (size_t)x->L * x->k * sizeof *x->last);
    x->next = t->pos + 1;
    return DBRX_OK;
}

/* ---- rows ---- */

static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

/* The load all experts of a layer had if they shared its work evenly: every token counts with the
 * number of experts that it was given */
static double even(const struct experts *x, double *sum, uint32_t l)
{
    double all = 0;
    for (uint32_t e = 0; e < x->E; e++)
        all += used(x, sum, l)[e];
    return ratio(all, sum[TOKENS]) / x->E;
}

/* "31 tokens since m, 24 of them generated, 12 steered; load: ... (even: 0.25)" */
static void head_line(const struct experts *x, double *sum, const uint8_t *in, const char *mark, char *out, size_t size)
{
    char steered[60] = "", to[40] = "";
    double lo = INFINITY, hi = 0;
    for (uint32_t l = 0; l < x->L; l++)
        if (in[l]) {
            lo = fmin(lo, even(x, sum, l));
            hi = fmax(hi, even(x, sum, l));
        }
    if (sum[STEERED] > 0)
        snprintf(steered, sizeof steered, ", %.0f steered", sum[STEERED]);
    if (hi - lo > 1e-9)
        snprintf(to, sizeof to, " to %.3g, by layer", hi);
    snprintf(out, size, "%.0f tokens%s%.40s, %.0f of them generated%s; load: the share of them that uses an expert "
             "(even: %.3g%s)", sum[TOKENS], mark ? " since " : "", mark ? mark : "", sum[GENERATED], steered, lo, to);
}

static void layer_table(const struct experts *x, double *sum, const char *title, const struct dbrx_rows *r)
{
    const struct dbrx_column col[] = {
        { "layer", "L", DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "load", "load", DBRX_CELL_HEAT, 0, 0, 0, { 0 } },
        { "max_over_mean", "max", DBRX_CELL_NUM, 2, 0, 0, { 0 } },
        { "cv", "cv", DBRX_CELL_NUM, 2, 0, 0, { 0 } },
        { "entropy", "bits", DBRX_CELL_NUM, 2, 0, 0, { 0 } },
        { "consistency", "same", DBRX_CELL_NUM, 2, 0, 0, { 0 } },
        { "dead", "dead", DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "most", "most", DBRX_CELL_TEXT, 0, 0, 0, { 0 } } };
    r->table(r->ctx, "layers", title, col, sizeof col / sizeof *col);
    r->fact(r->ctx, "tokens", sum[TOKENS]);
    r->fact(r->ctx, "generated", sum[GENERATED]);
    r->fact(r->ctx, "steered", sum[STEERED]);
    r->fact(r->ctx, "pairs", sum[PAIRS]);
    r->fact(r->ctx, "with_probabilities", sum[DECIDED]);
    for (uint32_t l = 0; l < x->L; l++) {
        double load[UINT8_MAX + 1], mean = even(x, sum, l), var = 0;
        uint32_t most = 0, dead = 0, E = x->E <= UINT8_MAX + 1 ? x->E : UINT8_MAX + 1;
        for (uint32_t e = 0; e < E; e++) {
            load[e] = ratio(used(x, sum, l)[e], sum[TOKENS]);
            most = load[e] > load[most] ? e : most;
            dead += !(load[e] > 0);
        }
        for (uint32_t e = 0; e < E; e++)
            var += (load[e] - mean) * (load[e] - mean) / E;
        char text[40];
        const char *label = x->timeline->label(x->host, l, most);
        snprintf(text, sizeof text, label ? "e%u %.9s" : "e%u", most, label);  /* 80 columns are full with that */
        r->num(r->ctx, l);
        r->nums(r->ctx, load, E);
        r->num(r->ctx, ratio(load[most], mean));
        r->num(r->ctx, ratio(sqrt(var), mean));
        r->num(r->ctx, ratio(*entropy(x, sum, l), sum[DECIDED]));
        r->num(r->ctx, ratio(*shared(x, sum, l), sum[PAIRS]));
        r->num(r->ctx, dead);
        r->text(r->ctx, text);
        r->end_row(r->ctx);
    }
}

static void expert_table(const struct experts *x, double *sum, const uint8_t *in, const char *title,
                         const struct dbrx_rows *r)
{
    const struct dbrx_column col[] = {
        { "layer", "layer", DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "expert", "expert", DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "load", "load", DBRX_CELL_HEAT, 0, 0, 0, { 0 } },
        { "tokens", "tokens", DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "share", "share", DBRX_CELL_NUM, 3, 0, 0, { 0 } },
        { "mean_weight", "weight", DBRX_CELL_NUM, 3, 0, 0, { 0 } },
        { "label", "", DBRX_CELL_TEXT, 0, 0, 0, { 0 } } };
    r->table(r->ctx, "experts", title, col, sizeof col / sizeof *col);
    r->fact(r->ctx, "tokens", sum[TOKENS]);
    r->fact(r->ctx, "generated", sum[GENERATED]);
    r->fact(r->ctx, "steered", sum[STEERED]);
    for (uint32_t l = 0; l < x->L; l++)
        for (uint32_t e = 0; in[l] && e < x->E; e++) {
            double n = used(x, sum, l)[e];
            const char *label = x->timeline->label(x->host, l, e);
            r->num(r->ctx, l);
            r->num(r->ctx, e);
            r->num(r->ctx, ratio(n, sum[TOKENS]));
            r->num(r->ctx, n);
            r->num(r->ctx, ratio(n, sum[TOKENS]));
            r->num(r->ctx, ratio(weight(x, sum, l)[e], n));
            r->text(r->ctx, label ? label : "");
            r->end_row(r->ctx);
        }
}

/* ---- /experts ---- */

static struct mark *find_mark(struct experts *x, const char *name)
{
    for (uint32_t i = 0; i < x->n_marks; i++)
        if (!strcmp(x->mark[i].name, name))
            return &x->mark[i];
    return NULL;
}

static void one_line(const struct dbrx_rows *r, const char *table, const char *name, const char *text)
{
    const struct dbrx_column col[] = { { "name", "", DBRX_CELL_TEXT, 0, 0, 0, { 0 } },
                                       { "text", "", DBRX_CELL_TEXT, 0, 0, 0, { 0 } } };
    r->table(r->ctx, table, NULL, col, 2);
    r->text(r->ctx, name);
    r->text(r->ctx, text);
    r->end_row(r->ctx);
}

static dbrx_status set_mark(struct experts *x, const char *name, const struct dbrx_rows *r, struct dbrx_error *err)
{
    struct mark *m = find_mark(x, name);
    if (strlen(name) > MAX_NAME || !*name || *name == '-')
        return fail(err, DBRX_E_INVALID, "\"%.60s\" is no name for a mark (at most %d characters, none of - first)",
                    name, MAX_NAME);
    if (!m && x->n_marks == MAX_MARKS)
        return fail(err, DBRX_E_FULL, "there are %d marks already; /experts reset forgets them", MAX_MARKS);
    double *copy = malloc(x->n * sizeof *copy);
    char text[80];
    if (!copy)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    memcpy(copy, x->sum, x->n * sizeof *copy);
    m = m ? m : &x->mark[x->n_marks++];
    free(m->sum);
    m->sum = copy;
    memcpy(m->name, name, strlen(name) + 1);
    snprintf(text, sizeof text, "marked after %.0f tokens", x->sum[TOKENS]);
    one_line(r, "mark", name, text);
    return DBRX_OK;
}

static void on_reset(void *self)
{
    struct experts *x = self;
    memset(x->sum, 0, x->n * sizeof *x->sum);
    for (uint32_t i = 0; i < x->n_marks; i++) {
        free(x->mark[i].sum);
        x->mark[i] = (struct mark){ { 0 }, NULL };
    }
    x->n_marks = 0;
    x->next = 0;
}

static void reset(struct experts *x, const struct dbrx_rows *r)
{
    char text[100];
    snprintf(text, sizeof text, "forgot %.0f tokens and %u mark%s; all instruments count from here", x->sum[TOKENS],
             x->n_marks, x->n_marks == 1 ? "" : "s");
    x->timeline->reset(x->host);
    one_line(r, "reset", "reset", text);
}

/* The sums since a mark, or all of them; free() it */
static dbrx_status since(struct experts *x, const char *name, double **sum, struct dbrx_error *err)
{
    const struct mark *m = name ? find_mark(x, name) : NULL;
    if (name && !m)
        return fail(err, DBRX_E_INVALID, "there is no mark \"%.60s\"; /experts mark %.60s sets it", name, name);
    if (!(*sum = malloc(x->n * sizeof **sum)))
        return fail(err, DBRX_E_NOMEM, "out of memory");
    for (size_t i = 0; i < x->n; i++)
        (*sum)[i] = x->sum[i] - (m ? m->sum[i] : 0);
    return DBRX_OK;
}

static dbrx_status show(struct experts *x, double *sum, const char *mark, const char *layers, const struct dbrx_rows *r,
                        struct dbrx_error *err)
{
    char title[300];
    uint8_t *in = calloc(x->L, 1);
    dbrx_status st = in ? x->sets->layers(x->host, layers ? layers : "*", in, err) : fail(err, DBRX_E_NOMEM, "out of memory");
    if (st == DBRX_OK)
        head_line(x, sum, in, mark, title, sizeof title);
    if (st == DBRX_OK && !(sum[TOKENS] > 0))
        st = fail(err, DBRX_E_UNSUPPORTED, "no token has been counted%s%.40s; type a prompt first",
                  mark ? " since the mark " : " yet", mark ? mark : "");
    else if (st == DBRX_OK && layers)
        expert_table(x, sum, in, title, r);
    else if (st == DBRX_OK)
        layer_table(x, sum, title, r);
    free(in);
    return st;
}

static dbrx_status run(void *self, int argc, const char *const *argv, const struct dbrx_rows *r,
                       struct dbrx_error *err)
{
    struct experts *x = self;
    const char *layers = NULL, *mark = NULL;
    double *sum;
    if (argc == 2 && !strcmp(argv[0], "mark"))
        return set_mark(x, argv[1], r, err);
    if (argc == 1 && !strcmp(argv[0], "reset")) {
        reset(x, r);
        return DBRX_OK;
    }
    for (int i = 0; i < argc; i += 2) {
        const char **to = !strcmp(argv[i], "--layer") ? &layers : !strcmp(argv[i], "--since") ? &mark : NULL;
        if (!to)
            return fail(err, DBRX_E_INVALID, "it does not take \"%.60s\"", argv[i]);
        if (i + 1 == argc)
            return fail(err, DBRX_E_INVALID, "%s needs a value", argv[i]);
        *to = argv[i + 1];
    }
    dbrx_status st = since(x, mark, &sum, err);
    if (st != DBRX_OK)
        return st;
    st = show(x, sum, mark, layers, r, err);
    free(sum);
    return st;
}

static const char *const words[] = { "--layer", "--since", "mark", "reset", NULL };
static const struct dbrx_command command = {
    .struct_size = sizeof command, .name = "experts", .usage = "[--layer L] [--since MARK] | mark NAME | reset",
    .brief = "how much each expert works, and how evenly",
    .help = "For every layer: load (the share of tokens that use an expert) of all experts, the largest over the "
            "mean (max), coefficient of variation (cv), the router's entropy in bits, the share of experts that "
            "neighbouring tokens have in common (same), experts that nobody used (dead), and the busiest one, with its label if /set labels has one.  "
            "--layer gives each expert of some layers.  All tokens since the start count, each once in its "
            "context, until `reset`, which has all instruments begin anew; `mark NAME` remembers this moment "
            "for --since.",
    .example = "/experts --layer 0..2", .words = words, .flags = DBRX_COMMAND_TIMELINE, .run = run };
static const struct dbrx_command *const commands[] = { &command, NULL };

static const struct dbrx_observer observer = {
    .struct_size = sizeof observer, .want = DBRX_ROUTE_PROB, .commands = commands, .open = observer_open, .close = observer_close,
    .on_truncate = on_truncate, .on_token = on_token, .on_reset = on_reset };

static const void *get(const char *id)
{
    return strcmp(id, DBRX_OBSERVER) ? NULL : &observer;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "experts", .version = "1", .summary = "load, weight, entropy and consistency of the experts", .get = get };
