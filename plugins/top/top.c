/* plugins/top/top.c -- top.so, an instrument: the tokens that an expert likes best, in context.
 *
 * For every expert of every layer the KEPT tokens with the highest router probability (of those
 * that it was chosen for), over all that was said or read since the start or a reset.
 * The words around them come from a log of the last LOG tokens; what has left the log is
 * forgotten with its score. */
#include "plugins/fail.h"
#include "plugins/observer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT = 32, SHOWN = 10, LOG = 1 << 20, BEFORE = 8, AFTER = 3, TEXT = 64 };

struct hit { float prob; uint32_t steered; uint64_t at; }; /* at: in the log, from 1; 0: none */

struct top {
    const struct dbrx_host *host;
    const struct dbrx_timeline *timeline;
    const struct dbrx_sets *sets;
    uint32_t L, E;
    struct hit *hit;                       /* [L][E][KEPT], best first                    */
    float *least;                          /* [L][E] the prob of the last of them: few tokens get past it */
    int32_t *log;                          /* [LOG] ids, -1 where a text begins           */
    uint64_t n;                            /* written to the log ever                     */
    uint32_t next;                         /* the position that would go on, 0: none      */
};

static void observer_close(void *self)
{
    struct top *x = self;
    free(x->hit);
    free(x->least);
    free(x->log);
    free(x);
}

static dbrx_status observer_open(const struct dbrx_host *host, const struct dbrx_config *c, void **self,
                                 struct dbrx_error *err)
{
    struct top *x = calloc(1, sizeof *x);
    if (!x)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    *x = (struct top){ .host = host, .timeline = host->get(host, DBRX_TIMELINE), .sets = host->get(host, DBRX_SETS),
                       .L = c->n_layers, .E = c->n_experts };
    x->hit = calloc((size_t)x->L * x->E * KEPT, sizeof *x->hit);
    x->least = calloc((size_t)x->L * x->E, sizeof *x->least);
    x->log = malloc(LOG * sizeof *x->log);
    if (!x->hit || !x->least || !x->log || !x->timeline || !x->sets) {
        observer_close(x);
        return fail(err, DBRX_E_NOMEM, "out of memory, or the host lends no dbrx.timeline/1 and dbrx.sets/1");
    }
    *self = x;
    return DBRX_OK;
}

static void on_truncate(void *self, uint32_t n_keep)
{
    struct top *x = self;
    (void)n_keep;
    x->next = 0;
}

static int in_log(const struct top *x, uint64_t at)
{
    return at && at <= x->n && x->n - at < LOG;
}

static int32_t logged(const struct top *x, uint64_t at)
{
    return in_log(x, at) ? x->log[at % LOG] : -1;
}

static void write_log(struct top *x, int32_t id)
{
    x->n++;
    x->log[x->n % LOG] = id;
}

/* The words before a token that goes on somewhere else than the last one */
static void write_context(struct top *x, uint32_t pos)
{
    write_log(x, -1);
    for (uint32_t i = pos < BEFORE ? 0 : pos - BEFORE; i < pos; i++)
        write_log(x, x->timeline->token(x->host, i));
}

static void offer(const struct top *x, size_t expert, struct hit h)
{
    struct hit *list = x->hit + expert * KEPT;
    int i = KEPT - 1;
    if (x->n < LOG && x->least[expert] > h.prob)       /* the rule, and without a look at the list */
        return;
    if (in_log(x, list[i].at) && list[i].prob >= h.prob)
        return;
    for (; i && (!in_log(x, list[i - 1].at) || list[i - 1].prob < h.prob); i--)
        list[i] = list[i - 1];
    list[i] = h;
    x->least[expert] = list[KEPT - 1].prob;
}

static dbrx_status on_token(void *self, const struct dbrx_token *t, struct dbrx_error *err)
{
    struct top *x = self;
    (void)err;
    if (!x->next || x->next != t->pos)
        write_context(x, t->pos);
    write_log(x, t->id);
    x->next = t->pos + 1;
    if (!t->expert || !t->prob || t->flags & DBRX_TOKEN_AGAIN)
        return DBRX_OK;
    for (uint32_t l = 0; l < x->L; l++)
        for (uint32_t i = 0; i < t->top_k; i++) {
            uint32_t e = t->expert[l * t->top_k + i];
            if (e < x->E)
                offer(x, (size_t)l * x->E + e, (struct hit){ t->prob[l * x->E + e], t->flags & DBRX_TOKEN_STEERED, x->n });
        }
    return DBRX_OK;
}

/* The text of the tokens from..to of the log, as far as they belong to the text of `at` */
static void context(const struct top *x, uint64_t at, int before, int after, char *out, size_t size)
{
    uint64_t from = at, to = at;
    size_t n = 0;
    while (at - from < (uint64_t)before && from > 1 && logged(x, from - 1) >= 0)
        from--;
    while (to - at < (uint64_t)after && to < x->n && logged(x, to + 1) >= 0)
        to++;
    out[0] = '\0';
    for (uint64_t i = from; i <= to && n < size; i++) {
        char text[TEXT];
        x->timeline->text(x->host, logged(x, i), text, sizeof text);
        n += (size_t)snprintf(out + n, size - n, i == at ? "[%s]" : "%s", text);
    }
}

static dbrx_status show(struct top *x, const uint8_t *in, long shown, const struct dbrx_rows *r, struct dbrx_error *err)
{
    const struct dbrx_column col[] = {
        { "layer", NULL, DBRX_CELL_NUM, 0, 0, 0, { 0 } }, { "expert", NULL, DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "prob", NULL, DBRX_CELL_NUM, 3, 0, 0, { 0 } }, { "id", NULL, DBRX_CELL_NUM, 0, 0, 0, { 0 } },
        { "steered", "", DBRX_CELL_TEXT, 0, 0, 0, { 0 } }, { "context", NULL, DBRX_CELL_TEXT, 0, 0, 0, { 0 } } };
    size_t any = 0, steered = 0;
    r->table(r->ctx, "top", "tokens by router probability, each in [] with the words around it", col,
             sizeof col / sizeof *col);
    for (size_t i = 0; i < (size_t)x->L * x->E; i++)
        for (long k = 0; in[i] && k < shown && k < KEPT && in_log(x, x->hit[i * KEPT + (size_t)k].at); k++, any++) {
            const struct hit *h = &x->hit[i * KEPT + (size_t)k];
            char text[(BEFORE + AFTER + 1) * TEXT];
            context(x, h->at, BEFORE, AFTER, text, sizeof text);
            r->num(r->ctx, (double)(i / x->E));
            r->num(r->ctx, (double)(i % x->E));
            r->num(r->ctx, (double)h->prob);
            r->num(r->ctx, logged(x, h->at));
            r->text(r->ctx, h->steered ? "*" : "");
            r->text(r->ctx, text);
            steered += h->steered != 0;
            r->end_row(r->ctx);
        }
    if (steered)
        r->note(r->ctx, "* The choice of experts was steered when this token was evaluated.");
    return any ? DBRX_OK : fail(err, DBRX_E_UNSUPPORTED, "none of the tokens so far used that; say more, or see /experts");
}

static void on_reset(void *self)
{
    struct top *x = self;
    memset(x->hit, 0, (size_t)x->L * x->E * KEPT * sizeof *x->hit);
    memset(x->least, 0, (size_t)x->L * x->E * sizeof *x->least);
}

static dbrx_status run(void *self, int argc, const char *const *argv, const struct dbrx_rows *r, struct dbrx_error *err)
{
    struct top *x = self;
    char *end = NULL;
    errno = 0;
    long shown = argc == 2 ? strtol(argv[1], &end, 10) : SHOWN;
    if (argc < 1 || argc > 2)
        return fail(err, DBRX_E_INVALID, "it needs an expert at a layer, as 3@2");
    if (end && (end == argv[1] || *end || errno || shown < 1 || shown > KEPT))
        return fail(err, DBRX_E_INVALID, "N is a whole number from 1 to %d, not \"%.60s\"", KEPT, argv[1]);
    uint8_t *in = calloc((size_t)x->L * x->E, 1);
    dbrx_status st = in ? x->sets->experts(x->host, argv[0], in, err) : fail(err, DBRX_E_NOMEM, "out of memory");
    st = st == DBRX_OK ? show(x, in, shown, r, err) : st;
    free(in);
    return st;
}

static const struct dbrx_command command = {
    .struct_size = sizeof command, .name = "top", .usage = "E@L [N]",
    .brief = "the tokens that an expert likes best",
    .help = "The N (10, at most 32) tokens for which expert E at layer L had the highest router probability, of all "
            "since the start or /experts reset, with the words around them.  E and L may be lists and ranges.",
    .example = "/top 3@2", .flags = DBRX_COMMAND_TIMELINE, .run = run };
static const struct dbrx_command *const commands[] = { &command, NULL };
static const struct dbrx_observer observer = {
    .struct_size = sizeof observer, .want = DBRX_ROUTE_PROB, .commands = commands, .open = observer_open,
    .close = observer_close, .on_truncate = on_truncate, .on_token = on_token, .on_reset = on_reset };

static const void *get(const char *id)
{
    return strcmp(id, DBRX_OBSERVER) ? NULL : &observer;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "top", .version = "1", .summary = "tokens in context that an expert likes best", .get = get };
