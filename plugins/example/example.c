/* plugins/example/example.c -- example.so: an instrument to begin with.
 *
 * Counts how often each expert was the first choice, and says for every layer which was first
 * most often.  docs/writing-an-instrument.md explains it line by line. */
#include "plugins/observer.h"

#include <stdlib.h>
#include <string.h>

struct example {
    uint32_t n_layers, n_experts;
    uint64_t tokens, *first;               /* first: [n_layers][n_experts] */
};

static void example_close(void *self)
{
    struct example *x = self;
    free(x->first);
    free(x);
}

static dbrx_status example_open(const struct dbrx_host *host, const struct dbrx_config *c, void **self,
                                struct dbrx_error *err)
{
    struct example *x = calloc(1, sizeof *x);
    (void)host, (void)err;                 /* an err left empty means: it does not say why */
    if (!x || !(x->first = calloc((size_t)c->n_layers * c->n_experts, sizeof *x->first)))
        return free(x), DBRX_E_NOMEM;
    x->n_layers = c->n_layers;
    x->n_experts = c->n_experts;
    *self = x;
    return DBRX_OK;
}

static dbrx_status on_token(void *self, const struct dbrx_token *t, struct dbrx_error *err)
{
    struct example *x = self;
    (void)err;
    if (!t->expert || t->flags & DBRX_TOKEN_AGAIN)     /* not known, or counted already */
        return DBRX_OK;
    x->tokens++;
    for (uint32_t l = 0; l < x->n_layers; l++)
        if (t->expert[l * t->top_k] < x->n_experts)
            x->first[l * x->n_experts + t->expert[l * t->top_k]]++;
    return DBRX_OK;
}

static dbrx_status run(void *self, int argc, const char *const *argv, const struct dbrx_rows *r,
                       struct dbrx_error *err)
{
    static const struct dbrx_column col[] = {
        { .name = "layer", .kind = DBRX_CELL_NUM }, { .name = "expert", .kind = DBRX_CELL_NUM },
        { .name = "tokens", .kind = DBRX_CELL_NUM } };
    struct example *x = self;
    (void)argc, (void)argv, (void)err;
    r->table(r->ctx, "first", "the expert that was first choice most often", col, 3);
    r->fact(r->ctx, "tokens", (double)x->tokens);
    for (uint32_t l = 0; l < x->n_layers; l++) {
        const uint64_t *n = x->first + (size_t)l * x->n_experts;
        uint32_t best = 0;
        for (uint32_t e = 1; e < x->n_experts; e++)
            best = n[e] > n[best] ? e : best;
        r->num(r->ctx, l);
        r->num(r->ctx, best);
        r->num(r->ctx, (double)n[best]);
        r->end_row(r->ctx);
    }
    return DBRX_OK;
}

static const struct dbrx_command first = {
    .struct_size = sizeof first, .name = "first", .usage = "", .brief = "which expert is first choice most often",
    .help = "", .example = "/first", .flags = DBRX_COMMAND_TIMELINE, .run = run };
static const struct dbrx_command *const commands[] = { &first, NULL };
static const struct dbrx_observer observer = {
    .struct_size = sizeof observer, .commands = commands,
    .open = example_open, .close = example_close, .on_token = on_token };

static const void *get(const char *id)
{
    return strcmp(id, DBRX_OBSERVER) ? NULL : &observer;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "example", .version = "1", .summary = "first choices: an example", .get = get };
