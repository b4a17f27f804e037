/* plugins/example/example.c -- example.so: an instrument to begin with.  It counts how often
 * each expert was a token's first choice, and /first shows that, layers down, experts across.
 * docs/writing-an-instrument.md goes through it part by part. */
#include "plugins/observer.h"

#include <stdlib.h>
#include <string.h>

struct example {
    uint32_t n_layers, n_experts;
    double   first[];                      /* [n_layers][n_experts] tokens */
};

static dbrx_status example_open(const struct dbrx_host *host, const struct dbrx_config *c, void **self,
                                struct dbrx_error *err)
{
    struct example *x = calloc(1, sizeof *x + (size_t)c->n_layers * c->n_experts * sizeof *x->first);
    (void)host, (void)err;
    if (!x)
        return DBRX_E_NOMEM;               /* err->text may say more */
    x->n_layers = c->n_layers;
    x->n_experts = c->n_experts;
    *self = x;
    return DBRX_OK;
}

static dbrx_status on_token(void *self, const struct dbrx_token *t, struct dbrx_error *err)
{
    struct example *x = self;
    (void)err;
    if (t->expert && !(t->flags & DBRX_TOKEN_AGAIN))       /* known, and not counted already */
        for (uint32_t l = 0; l < x->n_layers; l++)
            x->first[l * x->n_experts + t->expert[l * t->top_k]]++;
    return DBRX_OK;
}

static void on_reset(void *self)
{
    struct example *x = self;
    memset(x->first, 0, (size_t)x->n_layers * x->n_experts * sizeof *x->first);
}

static dbrx_status run(void *self, int argc, const char *const *argv, const struct dbrx_rows *r,
                       struct dbrx_error *err)
{
    static const struct dbrx_column col[] = { { .name = "layer", .kind = DBRX_CELL_NUM },
                                              { .name = "first", .kind = DBRX_CELL_HEAT } };
    const struct example *x = self;
    (void)argv, (void)err;
    if (argc)
        return DBRX_E_INVALID;             /* the host says the usage */
    r->table(r->ctx, "first", "first choices: layers down, experts across", col, 2);
    for (uint32_t l = 0; l < x->n_layers; l++) {
        r->num(r->ctx, l);
        r->nums(r->ctx, x->first + l * x->n_experts, x->n_experts);
        r->end_row(r->ctx);
    }
    return DBRX_OK;
}

static const struct dbrx_command first = {
    .struct_size = sizeof first, .name = "first", .usage = "", .brief = "which experts are first choice",
    .help = "", .example = "/first", .flags = DBRX_COMMAND_TIMELINE, .run = run };
static const struct dbrx_observer observer = {
    .struct_size = sizeof observer, .commands = (const struct dbrx_command *const[]){ &first, NULL },
    .open = example_open, .close = free, .on_token = on_token, .on_reset = on_reset };

static const void *get(const char *id) { return strcmp(id, DBRX_OBSERVER) ? NULL : &observer; }
DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "example", .version = "1", .summary = "first choices: an example", .get = get };
