/* plugins/contrast/contrast.c -- contrast.so, an instrument: which experts tell two texts apart.
 *
 * Both files go through the model in windows, beside the conversation.  For every expert: the
 * share of A's tokens that use it, of B's, the difference and its interval, for which a window
 * is a cluster (plugins/proportion.h).  The 95% are for one expert; `holds` marks those whose
 * interval excludes 0 even at the level that makes all comparisons of the run right together
 * with 95% (Bonferroni).  Knows nothing of the conversation. */
#include "plugins/fail.h"
#include "plugins/observer.h"
#include "plugins/proportion.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 128, FEW = 10, SHOWN = 20 };

struct contrast {
    const struct dbrx_host *host;
    const struct dbrx_corpus *corpus;
    const struct dbrx_timeline *timeline;
    const struct dbrx_sets *sets;
    uint32_t L, E, k;
};

struct side {                              /* one file                                    */
    const struct contrast *c;
    struct sizes sizes;
    struct share *share;                   /* [L][E]                                      */
    uint32_t *now;                         /* [L][E] tokens of the window that use it     */
    uint32_t window;                       /* tokens of the window                        */
    double most;                           /* tokens, or 0: all                           */
};

struct row { uint32_t layer, expert; double a, b, near; struct interval at95, all; };

static void close_window(struct side *s)
{
    double m = s->window;
    for (size_t i = 0; m > 0 && i < (size_t)s->c->L * s->c->E; i++) {
        double x = s->now[i];
        s->share[i].x += x;
        s->share[i].xx += x * x;
        s->share[i].xm += x * m;
        s->now[i] = 0;
    }
    s->sizes.n += m > 0;
    s->sizes.m += m;
    s->sizes.mm += m * m;
    s->window = 0;
}

static dbrx_status on_token(void *ctx, const struct dbrx_token *t, struct dbrx_error *err)
{
    struct side *s = ctx;
    (void)err;
    if (!t->pos)
        close_window(s);
    if (s->most > 0 && s->sizes.m + s->window >= s->most)
        return DBRX_E_FULL;                /* that was enough */
    for (uint32_t l = 0; l < t->n_layers; l++)
        for (uint32_t i = 0; i < t->top_k && t->expert[l * t->top_k + i] < t->n_experts; i++)
            s->now[l * t->n_experts + t->expert[l * t->top_k + i]]++;
    s->window++;
    return DBRX_OK;
}

static dbrx_status read_side(struct side *s, const struct contrast *c, const char *file, double most,
                             struct dbrx_error *err)
{
    size_t n = (size_t)c->L * c->E;
    *s = (struct side){ .c = c, .most = most, .share = calloc(n, sizeof *s->share), .now = calloc(n, sizeof *s->now) };
    if (!s->share || !s->now)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    dbrx_status st = c->corpus->run(c->host, file, WINDOW, 0, on_token, s, err);
    if (st == DBRX_OK || st == DBRX_E_FULL)
        close_window(s);
    if ((st == DBRX_OK || st == DBRX_E_FULL) && s->sizes.n < 2)
        return fail(err, DBRX_E_INVALID, "%.120s is too short: intervals need at least two windows of %d tokens, it has "
                    "%.0f token%s", file, WINDOW, s->sizes.m, s->sizes.m == 1 ? "" : "s");
    return st == DBRX_E_FULL && most > 0 ? DBRX_OK : st;
}

/* Effective tokens of an expert; those that nobody or everybody uses take the layer's design effect */
static double effective(const struct side *s, uint32_t l, uint32_t e)
{
    double sum = 0, n = 0, own = share_design(&s->share[l * s->c->E + e], &s->sizes);
    for (uint32_t i = 0; i < s->c->E; i++) {
        double d = share_design(&s->share[l * s->c->E + i], &s->sizes);
        sum += d;
        n += d > 0;
    }
    double design = own > 0 ? own : n > 0 ? sum / n : 1;
    return s->sizes.m / design;
}

static int by_evidence(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    return (x->near < y->near) - (x->near > y->near);
}

/* How far the interval's nearer end is from 0; negative: 0 is inside, by so much */
static double nearer(struct interval i)
{
    return i.lo > 0 ? i.lo : i.hi < 0 ? -i.hi : fmax(i.lo, -i.hi);
}

static struct row compare(const struct contrast *c, const struct side *a, const struct side *b, uint32_t l, uint32_t e,
                          double z, double z_all)
{
    size_t i = (size_t)l * c->E + e;
    struct row r = { l, e, share_of(&a->share[i], &a->sizes), share_of(&b->share[i], &b->sizes), 0, { 0, 0 }, { 0, 0 } };
    double na = effective(a, l, e), nb = effective(b, l, e);
    r.at95 = share_newcombe(r.a, share_wilson(r.a, na, z), r.b, share_wilson(r.b, nb, z));
    r.all = share_newcombe(r.a, share_wilson(r.a, na, z_all), r.b, share_wilson(r.b, nb, z_all));
    r.near = nearer(r.at95);
    return r;
}

static const char *base(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

static void hand_over(const struct contrast *c, const struct side *a, const struct side *b, const char *const *file,
                      const struct row *row, size_t n, size_t shown, const struct dbrx_rows *r)
{
    const struct dbrx_column col[] = {
        { "layer", NULL, DBRX_CELL_NUM, 0, 0, 0, { 0 } }, { "expert", NULL, DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "share_a", "A", DBRX_CELL_NUM, 3, 0, 0, { 0 } }, { "share_b", "B", DBRX_CELL_NUM, 3, 0, 0, { 0 } },
        { "difference", "A-B", DBRX_CELL_NUM, 3, 0, 0, { 0 } }, { "low", "from", DBRX_CELL_NUM, 3, 0, 0, { 0 } },
        { "high", "to", DBRX_CELL_NUM, 3, 0, 0, { 0 } }, { "holds", NULL, DBRX_CELL_TEXT, 0, 0, 0, { 0 } },
        { "label", "", DBRX_CELL_TEXT, 0, 0, 0, { 0 } } };
    char text[400];
    size_t holding = 0;
    for (size_t i = 0; i < n; i++)
        holding += nearer(row[i].all) > 0;
    snprintf(text, sizeof text, "share of tokens that use an expert: A %.60s (%.0f tokens, %.0f windows), B %.60s (%.0f, "
             "%.0f), difference and its 95%% interval", base(file[0]), a->sizes.m, a->sizes.n, base(file[1]), b->sizes.m,
             b->sizes.n);
    r->table(r->ctx, "contrast", text, col, sizeof col / sizeof *col);
    r->fact(r->ctx, "tokens_a", a->sizes.m);
    r->fact(r->ctx, "tokens_b", b->sizes.m);
    r->fact(r->ctx, "windows_a", a->sizes.n);
    r->fact(r->ctx, "windows_b", b->sizes.n);
    r->fact(r->ctx, "comparisons", (double)n);
    r->fact(r->ctx, "holding", (double)holding);
    for (size_t i = 0; i < n && i < shown; i++) {
        const char *label = c->timeline->label(c->host, row[i].layer, row[i].expert);
        r->num(r->ctx, row[i].layer);
        r->num(r->ctx, row[i].expert);
        r->num(r->ctx, row[i].a);
        r->num(r->ctx, row[i].b);
        r->num(r->ctx, row[i].a - row[i].b);
        r->num(r->ctx, row[i].at95.lo);
        r->num(r->ctx, row[i].at95.hi);
        r->text(r->ctx, nearer(row[i].all) > 0 ? "yes" : "");
        r->text(r->ctx, label ? label : "");
        r->end_row(r->ctx);
    }
    snprintf(text, sizeof text, "%zu comparisons: about %.0f of such intervals miss 0 by chance alone; `holds` (%zu) is for "
             "those that exclude 0 with 95%% for all of them together.  An interval says how far the difference may "
             "move with other windows of such texts, not with texts of another kind.", n, ceil(0.05 * (double)n), holding);
    r->note(r->ctx, text);
    if (a->sizes.n < FEW || b->sizes.n < FEW) {
        snprintf(text, sizeof text, "With fewer than %d windows of %d tokens the intervals are rough.", FEW, WINDOW);
        r->note(r->ctx, text);
    }
}

static dbrx_status whole(const char *text, const char *what, double *n, struct dbrx_error *err)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (end == text || *end || errno || v < 1)
        return fail(err, DBRX_E_INVALID, "%s wants a whole number above 0, not \"%.60s\"", what, text);
    *n = (double)v;
    return DBRX_OK;
}

static dbrx_status run(void *self, int argc, const char *const *argv, const struct dbrx_rows *r, struct dbrx_error *err)
{
    struct contrast *c = self;
    const char *file[2] = { NULL, NULL }, *layers = "*";
    double most = 0, shown = SHOWN;
    dbrx_status st = DBRX_OK;
    int n_files = 0;
    for (int i = 0; i < argc && st == DBRX_OK; i++) {
        int option = !strcmp(argv[i], "--layer") || !strcmp(argv[i], "--tokens") || !strcmp(argv[i], "--top");
        if (option && i + 1 == argc)
            return fail(err, DBRX_E_INVALID, "%s needs a value", argv[i]);
        if (!strcmp(argv[i], "--layer"))
            layers = argv[++i];
        else if (option) {
            double *to = !strcmp(argv[i], "--tokens") ? &most : &shown;
            st = whole(argv[i + 1], argv[i], to, err);
            i++;
        } else if (n_files == 2 || !strncmp(argv[i], "--", 2))
            return fail(err, DBRX_E_INVALID, "it does not take \"%.60s\"", argv[i]);
        else
            file[n_files++] = argv[i];
    }
    if (st == DBRX_OK && n_files < 2)
        st = fail(err, DBRX_E_INVALID, "it needs two files");
    if (st != DBRX_OK)
        return st;
    struct side a = { 0 }, b = { 0 };
    uint8_t *in = calloc(c->L, 1);
    struct row *row = calloc((size_t)c->L * c->E, sizeof *row);
    size_t n = 0, total = 0;
    st = in && row ? c->sets->layers(c->host, layers, in, err) : fail(err, DBRX_E_NOMEM, "out of memory");
    if (st == DBRX_OK && (st = read_side(&a, c, file[0], most, err)) == DBRX_OK &&
        (st = read_side(&b, c, file[1], most, err)) == DBRX_OK) {
        for (uint32_t l = 0; l < c->L; l++)
            total += in[l] ? c->E : 0;
        double df = a.sizes.n + b.sizes.n - 2, z = share_quantile(0.95, df);
        double z_all = share_quantile(1 - 0.05 / (double)total, df);
        for (uint32_t l = 0; l < c->L; l++)
            for (uint32_t e = 0; in[l] && e < c->E; e++)
                row[n++] = compare(c, &a, &b, l, e, z, z_all);
        qsort(row, n, sizeof *row, by_evidence);
        hand_over(c, &a, &b, file, row, n, shown < (double)n ? (size_t)shown : n, r);
    }
    free(a.share);
    free(a.now);
    free(b.share);
    free(b.now);
    free(in);
    free(row);
    return st;
}

static dbrx_status observer_open(const struct dbrx_host *host, const struct dbrx_config *m, void **self,
                                 struct dbrx_error *err)
{
    struct contrast *c = calloc(1, sizeof *c);
    if (!c)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    *c = (struct contrast){ host, host->get(host, DBRX_CORPUS), host->get(host, DBRX_TIMELINE),
                            host->get(host, DBRX_SETS), m->n_layers, m->n_experts, m->top_k };
    if (!c->corpus || !c->timeline || !c->sets) {
        free(c);
        return fail(err, DBRX_E_UNSUPPORTED, "the host lends no dbrx.corpus/1, dbrx.timeline/1 or dbrx.sets/1");
    }
    *self = c;
    return DBRX_OK;
}

static const char *const words[] = { "--layer", "--tokens", "--top", NULL };
static const struct dbrx_command command = {
    .struct_size = sizeof command, .name = "contrast", .usage = "FILE_A FILE_B [--layer L] [--tokens N] [--top N]",
    .brief = "which experts tell two texts apart",
    .help = "Sends both files through the model, beside the conversation, and lists the experts by how surely the "
            "share of tokens that use them differs: A, B, A-B and a 95% interval.  Windows of 128 tokens are its "
            "unit, because tokens of one text are alike.  `holds` allows for the number of comparisons.  A file "
            "ending in .jsonl has a text a line (\"text\" or \"prompt\").  --tokens stops after N tokens of each, "
            "--top lists N experts (20).",
    .example = "/contrast stories.txt code.txt --layer 2", .words = words, .flags = DBRX_COMMAND_FILES, .run = run };
static const struct dbrx_command *const commands[] = { &command, NULL };
static const struct dbrx_observer observer = { .struct_size = sizeof observer, .commands = commands,
                                               .open = observer_open, .close = free };

static const void *get(const char *id)
{
    return strcmp(id, DBRX_OBSERVER) ? NULL : &observer;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "contrast", .version = "1", .summary = "experts that tell two texts apart", .get = get };
