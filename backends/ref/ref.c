/* backends/ref/ref.c -- ref.so: the graph over its plain-C ops.  One thread,
 * slow, exact: the oracle that every other backend is tested against. */
#include "config.h"

#include "backends/graph/graph.h"

#include "plugins/fail.h"

static const struct dbrx_option options[] = { { NULL, NULL, NULL } };

static dbrx_status probe(const struct dbrx_host *host, struct dbrx_probe *p,
                         struct dbrx_error *err)
{
    (void)host, (void)err;
    p->score = 1;
    p->mem_total = p->mem_free = 0;
    p->reason[0] = '\0';
    snprintf(p->device, sizeof p->device, "1 thread, plain C, double-precision sums");
    return DBRX_OK;
}

static dbrx_status model_open(const struct dbrx_host *host, const struct dbrx_model_desc *desc,
                              const char *const *opt, dbrx_model **out, struct dbrx_error *err)
{
    *out = NULL;
    if (opt && *opt)
        return fail(err, DBRX_E_INVALID, "ref has no option \"%.60s\"; it has none", *opt);
    dbrx_status st = graph_model_open(host, desc, &ops_plain, NULL, NULL, out, err);
    if (st == DBRX_OK)                     /* each token's sums are its own, in one order */
        (*out)->repro = DBRX_REPRO_CHUNKS | DBRX_REPRO_THREADS | DBRX_REPRO_BATCH;
    return st;
}

static const struct dbrx_backend backend = {
    .struct_size = sizeof backend, .options = options, .probe = probe, .model_open = model_open,
    GRAPH_BACKEND
};

static const void *get(const char *id)
{
    return graph_get(id, &backend);
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "ref", .version = PACKAGE_VERSION, .summary = "plain C, exact and slow: the reference",
    .get = get,
};
