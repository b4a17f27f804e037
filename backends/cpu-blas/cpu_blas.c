/* backends/cpu-blas/cpu_blas.c -- cpu-blas.so: the graph over OpenBLAS, SIMD kernels
 * and threads.  Options and the module's table; the work is in ops.c. */
#include "config.h"

#include "backends/cpu-blas/cpu_blas.h"
#include "backends/cpu-blas/isa.h"
#include "backends/graph/graph.h"
#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_THREADS = 1024 };

static const struct dbrx_option options[] = {
    { "threads", "physical cores", "worker threads, 1 to 1024" },
    { "isa", "best", "instruction set: amx, avx512, avx2 or plain" },
    { NULL, NULL, NULL }
};

struct settings { unsigned threads; const char *isa; int amx; };

static dbrx_status parse(const char *const *opt, struct settings *s, struct dbrx_error *err)
{
    *s = (struct settings){ pool_physical_cores(), NULL, isa_amx() };
    for (; opt && *opt; opt++) {
        if (!strncmp(*opt, "threads=", 8)) {
            char *end;
            long n = strtol(*opt + 8, &end, 10);
            if (end == *opt + 8 || *end || n < 1 || n > MAX_THREADS)
                return fail(err, DBRX_E_INVALID, "threads must be 1 to %d, not \"%.40s\"",
                            MAX_THREADS, *opt + 8);
            s->threads = (unsigned)n;
        } else if (!strncmp(*opt, "isa=", 4)) {
            const char *isa = *opt + 4;
            s->amx = isa_amx() && (!strcmp(isa, "best") || !strcmp(isa, "amx"));
            s->isa = s->amx || !strcmp(isa, "best") ? NULL : isa;
            if (!kernels_get(s->isa))
                return fail(err, DBRX_E_INVALID, "isa=%.40s: this CPU has no such instruction "
                            "set (amx, avx512, avx2, plain)", isa);
        } else {
            return fail(err, DBRX_E_INVALID, "cpu-blas has no option \"%.60s\"; it has threads=N "
                        "and isa=NAME", *opt);
        }
    }
    return DBRX_OK;
}

static dbrx_status probe(const struct dbrx_host *host, struct dbrx_probe *p,
                         struct dbrx_error *err)
{
    struct blas blas;
    struct dbrx_error why;
    (void)host, (void)err;
    p->mem_total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    p->mem_free = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    p->score = blas_open(&blas, &why) == DBRX_OK ? 100 : 0;
    p->reason[0] = p->device[0] = '\0';
    if (p->score)
        snprintf(p->device, sizeof p->device, "%u cores, %s%s, OpenBLAS %s",
                 pool_physical_cores(), kernels_get(NULL)->name, isa_amx() ? "+amx" : "",
                 blas.core);
    else
        snprintf(p->reason, sizeof p->reason, "%.127s", why.text);
    return DBRX_OK;
}

static void ctx_close(void *ctx)
{
    struct cpu *c = ctx;
    pool_close(c->pool);
    free(c->panel);
    free(c);
}

static dbrx_status model_open(const struct dbrx_host *host, const struct dbrx_model_desc *desc,
                              const char *const *opt, dbrx_model **out, struct dbrx_error *err)
{
    struct settings s;
    *out = NULL;
    dbrx_status st = parse(opt, &s, err);
    if (st == DBRX_OK)
        st = graph_check(desc, err);
    if (st != DBRX_OK)
        return st;
    struct cpu *c = calloc(1, sizeof *c);
    if (!c)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    c->k = kernels_get(s.isa);
    c->amx = s.amx;
    c->pool = pool_open(s.threads);
    st = blas_open(&c->blas, err);
    if (st == DBRX_OK && (!c->pool || cpu_reserve(c, &desc->config)))
        st = fail(err, DBRX_E_NOMEM, "no memory for %u worker threads", s.threads);
    if (st != DBRX_OK) {
        ctx_close(c);
        return st;
    }
    return graph_model_open(host, desc, &cpu_ops, c, ctx_close, out, err);
}

static const struct dbrx_backend backend = {
    .struct_size = sizeof backend, .options = options, .probe = probe, .model_open = model_open,
    GRAPH_BACKEND
};

static const char *const *values(const char *option)
{
    static const char *const isa[][6] = { { "best", "plain" }, { "best", "plain", "avx2" },
        { "best", "plain", "avx2", "avx512" }, { "best", "plain", "avx2", "avx512", "amx" } };
    if (strcmp(option, "isa"))
        return NULL;
    return isa[!kernels_get("avx2") ? 0 : !kernels_get("avx512") ? 1 : isa_amx() ? 3 : 2];
}

static const struct dbrx_choices choices = { .struct_size = sizeof choices, .values = values };

static const void *get(const char *id)
{
    return !strcmp(id, DBRX_CHOICES) ? (const void *)&choices : graph_get(id, &backend);
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "cpu-blas", .version = PACKAGE_VERSION,
    .summary = "CPU: OpenBLAS for prompts, SIMD kernels for tokens", .get = get,
};
