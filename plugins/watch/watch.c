/* plugins/watch/watch.c -- watch.so, an instrument: what the experts do while a reply is written.
 *
 * A row an expert, a column a layer: how much the last tokens used it, each token counting
 * DECAY as much as the one after it.  With --layer the columns are the last tokens instead, and
 * the weights are those at that layer.  It is the host that draws. */
#include "plugins/fail.h"
#include "plugins/observer.h"

#include <stdlib.h>
#include <string.h>

enum { TOKENS = 48, NO_LAYER = -1 };
static const double DECAY = 0.8;

struct watch {
    const struct dbrx_host *host;
    const struct dbrx_timeline *timeline;
    const struct dbrx_sets *sets;
    uint32_t L, E;
    int on;
    long layer;                            /* or NO_LAYER                                 */
    double *use;                           /* [E][L] recent use, 0 to 1                   */
    float (*last)[TOKENS];                 /* [L*E] weights of the last tokens, newest last */
    uint32_t n;                            /* of them                                     */
};

static void observer_close(void *self)
{
    struct watch *w = self;
    free(w->use);
    free(w->last);
    free(w);
}

static dbrx_status observer_open(const struct dbrx_host *host, const struct dbrx_config *c, void **self,
                                 struct dbrx_error *err)
{
    struct watch *w = calloc(1, sizeof *w);
    if (!w)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    *w = (struct watch){ .host = host, .timeline = host->get(host, DBRX_TIMELINE), .sets = host->get(host, DBRX_SETS),
                         .L = c->n_layers, .E = c->n_experts, .layer = NO_LAYER };
    w->use = calloc((size_t)w->L * w->E, sizeof *w->use);
    w->last = calloc((size_t)w->L * w->E, sizeof *w->last);
    if (!w->use || !w->last || !w->timeline || !w->sets) {
        observer_close(w);
        return fail(err, DBRX_E_NOMEM, "out of memory, or the host lends no dbrx.timeline/1 and dbrx.sets/1");
    }
    *self = w;
    return DBRX_OK;
}

static void forget(struct watch *w)
{
    memset(w->use, 0, (size_t)w->L * w->E * sizeof *w->use);
    memset(w->last, 0, (size_t)w->L * w->E * sizeof *w->last);
    w->n = 0;
}

static void on_truncate(void *self, uint32_t n_keep)
{
    if (!n_keep)
        forget(self);
}

static dbrx_status on_token(void *self, const struct dbrx_token *t, struct dbrx_error *err)
{
    struct watch *w = self;
    (void)err;
    if (!w->on || !t->expert)
        return DBRX_OK;
    for (size_t i = 0; i < (size_t)w->L * w->E; i++) {
        w->use[i] *= DECAY;
        memmove(w->last[i], w->last[i] + 1, (TOKENS - 1) * sizeof **w->last);
        w->last[i][TOKENS - 1] = 0;
    }
    for (uint32_t l = 0; l < w->L; l++)
        for (uint32_t i = 0; i < t->top_k && t->expert[l * t->top_k + i] < w->E; i++) {
            uint32_t e = t->expert[l * t->top_k + i];
            w->use[e * w->L + l] += 1 - DECAY;
            w->last[l * w->E + e][TOKENS - 1] = t->weight[l * t->top_k + i];
        }
    w->n += w->n < TOKENS;
    return DBRX_OK;
}

static void live(void *self, const struct dbrx_rows *r)
{
    struct watch *w = self;
    if (!w->on)
        return;
    const struct dbrx_column col[] = {
        { "expert", "", DBRX_CELL_TEXT, 0, 0, 0, { 0 } },
        { w->layer < 0 ? "layers" : "tokens", NULL, DBRX_CELL_HEAT, w->layer < 0, 0, 1, { 0 } } };
    char text[80];
    double row[TOKENS];
    if (w->layer < 0)
        snprintf(text, sizeof text, "experts (down) by layers: use by the last tokens");
    else
        snprintf(text, sizeof text, "experts (down) at layer %ld: weights for the last %d tokens", w->layer, TOKENS);
    r->table(r->ctx, "watch", text, col, 2);
    for (uint32_t e = 0; e < w->E; e++) {
        snprintf(text, sizeof text, "e%u", e);
        r->text(r->ctx, text);
        for (uint32_t i = 0; w->layer >= 0 && i < TOKENS; i++)
            row[i] = (double)w->last[(size_t)w->layer * w->E + e][i];
        if (w->layer < 0)
            r->nums(r->ctx, w->use + (size_t)e * w->L, w->L);
        else
            r->nums(r->ctx, row, TOKENS);
        r->end_row(r->ctx);
    }
}

static dbrx_status pick_layer(struct watch *w, const char *text, struct dbrx_error *err)
{
    uint8_t *in = calloc(w->L, 1);
    uint32_t n = 0;
    dbrx_status st = in ? w->sets->layers(w->host, text, in, err) : fail(err, DBRX_E_NOMEM, "out of memory");
    for (uint32_t l = 0; st == DBRX_OK && l < w->L; l++)
        if (in[l] && !n++)
            w->layer = l;
    if (st == DBRX_OK && n != 1)
        st = fail(err, DBRX_E_INVALID, "it shows one layer, \"%.60s\" has %u", text, n);
    free(in);
    return st;
}

static dbrx_status run(void *self, int argc, const char *const *argv, const struct dbrx_rows *r, struct dbrx_error *err)
{
    static const struct dbrx_column col[] = { { "watch", "", DBRX_CELL_TEXT, 0, 0, 0, { 0 } } };
    struct watch *w = self;
    int on = argc && !strcmp(argv[0], "on"), off = argc == 1 && !strcmp(argv[0], "off"), was = w->on;
    char text[120];
    if (on && argc == 1)
        w->layer = NO_LAYER;
    else if (on && argc == 3 && !strcmp(argv[1], "--layer")) {
        dbrx_status st = pick_layer(w, argv[2], err);
        if (st != DBRX_OK)
            return st;
    } else if (argc && !off)
        return fail(err, DBRX_E_INVALID, "it is on or off, not \"%.60s\"", argv[argc - 1]);
    w->on = argc ? on : w->on;
    if (w->on && !was)
        forget(w);
    if (!w->on)
        snprintf(text, sizeof text, "watch is off");
    else if (w->layer < 0)
        snprintf(text, sizeof text, "watch is on: all layers, below the replies to come");
    else
        snprintf(text, sizeof text, "watch is on: layer %ld, below the replies to come", w->layer);
    r->table(r->ctx, "watch", NULL, col, 1);
    r->text(r->ctx, text);
    r->end_row(r->ctx);
    return DBRX_OK;
}

static const char *const words[] = { "on", "off", "--layer", NULL };
static const struct dbrx_command command = {
    .struct_size = sizeof command, .name = "watch", .usage = "[on|off] [--layer L]",
    .brief = "show the experts at work while a reply is written",
    .help = "At a terminal, a heat map in the lines at the bottom, while a reply is written above: experts by layers, "
            "or with --layer experts by the last tokens.  It goes away when the reply is complete.",
    .example = "/watch on", .words = words, .run = run };
static const struct dbrx_command *const commands[] = { &command, NULL };
static const struct dbrx_observer observer = {
    .struct_size = sizeof observer, .commands = commands, .open = observer_open, .close = observer_close,
    .on_truncate = on_truncate, .on_token = on_token, .live = live };

static const void *get(const char *id)
{
    return strcmp(id, DBRX_OBSERVER) ? NULL : &observer;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "watch", .version = "1", .summary = "the experts at work while a reply is written", .get = get };
