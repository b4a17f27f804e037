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
    { "isa", "best", "instruction set: amx, avx512bf16, avx512vnni, avx512, avx2, plain" },
    { "precision", "auto", "of activations in prompts: f32, bf16, fast (bf16, quantised experts partly 8 bits), auto: fast if large" },
    { "kv", "auto", "KV cache: f32, f16, bf16, q8_0; auto: f16 for large models, else f32" },
    { "deterministic", "0", "1: a token's result does not depend on what is evaluated beside it" },
    { NULL, NULL, NULL }
};

/* kernels and products of each instruction set, best first */
static const struct level {
    const char *name;
    int (*runs)(void);
    const char *kernels;
    const struct quant *quant;
    const struct gemm *fast, *int8, *int16, *exact, *ffn_rows;
} levels[] = {
#ifdef HAVE_X86_64
    { "amx", isa_amx, "avx512", &quant_vnni, &gemm_bf16, &gemm_int8, &gemm_int16, &gemm_bf16x2,
      &gemm_amx },
    { "avx512bf16", isa_bf16, "avx512", &quant_vnni, &gemm_bf16, &gemm_int8, &gemm_int16, &gemm_bf16x2,
      NULL },
    { "avx512vnni", isa_vnni, "avx512", &quant_vnni, NULL, &gemm_int8_16, &gemm_int16, NULL, NULL },
    { "avx512", isa_avx512, "avx512", &quant_avx2, NULL, NULL, NULL, NULL, NULL },
    { "avx2", isa_avx2, "avx2", &quant_avx2, NULL, NULL, NULL, NULL, NULL },
#endif
    { "plain", NULL, "plain", NULL, NULL, NULL, NULL, NULL, NULL },
};
enum { N_LEVELS = sizeof levels / sizeof *levels };

static const struct level *level_get(const char *name)     /* NULL: the best; NULL if none */
{
    for (int i = 0; i < N_LEVELS; i++)
        if ((!name || !strcmp(name, levels[i].name)) && (!levels[i].runs || levels[i].runs()))
            return &levels[i];
    return NULL;
}

enum precision { FAST_IF_LARGE, FAST, BF16, F32 };
/* so many columns are large: below, a prompt is over at once either way */
enum { LARGE = 512 };

struct settings { unsigned threads; const struct level *level; int precision, deterministic, kv; };

/* The index of value in a list that ends at NULL, or -1 */
static int one_of(const char *const *name, const char *value)
{
    for (int i = 0; name[i]; i++)
        if (!strcmp(name[i], value))
            return i;
    return -1;
}

static dbrx_status parse_one(struct settings *s, const char *name, size_t len, const char *value,
                             struct dbrx_error *err)
{
    if (len == 7 && !strncmp(name, "threads", len)) {
        char *end;
        long n = strtol(value, &end, 10);
        if (end == value || *end || n < 1 || n > MAX_THREADS)
            return fail(err, DBRX_E_INVALID, "threads must be 1 to %d, not \"%.40s\"", MAX_THREADS,
                        value);
        s->threads = (unsigned)n;
    } else if (len == 3 && !strncmp(name, "isa", len)) {
        s->level = level_get(strcmp(value, "best") ? value : NULL);
        if (!s->level)
            return fail(err, DBRX_E_INVALID, "isa=%.40s: this CPU has no such instruction set (amx, "
                        "avx512bf16, avx512vnni, avx512, avx2, plain)", value);
    } else if (len == 9 && !strncmp(name, "precision", len)) {
        static const char *const names[] = { "auto", "fast", "bf16", "f32", NULL };
        if ((s->precision = one_of(names, value)) < 0)
            return fail(err, DBRX_E_INVALID, "precision must be auto, fast, bf16 or f32, not \"%.40s\"",
                        value);
    } else if (len == 2 && !strncmp(name, "kv", len)) {
        static const char *const names[] = { "auto", "f32", "f16", "bf16", "q8_0", NULL };
        if ((s->kv = one_of(names, value)) < 0)
            return fail(err, DBRX_E_INVALID, "kv must be auto, f32, f16, bf16 or q8_0, not \"%.40s\"",
                        value);
    } else if (len == 13 && !strncmp(name, "deterministic", len)) {
        static const char *const names[] = { "0", "1", NULL };
        if ((s->deterministic = one_of(names, value)) < 0)
            return fail(err, DBRX_E_INVALID, "deterministic must be 0 or 1, not \"%.40s\"", value);
    } else {
        return fail(err, DBRX_E_INVALID, "cpu-blas has no option \"%.60s\"; it has threads=N, "
                    "isa=NAME, precision=NAME, kv=TYPE and deterministic=0 or 1", name);
    }
    return DBRX_OK;
}

static dbrx_status parse(const char *const *opt, struct settings *s, struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    *s = (struct settings){ pool_physical_cores(), level_get(NULL), FAST_IF_LARGE, 0, 0 };
    for (; opt && *opt && st == DBRX_OK; opt++) {
        size_t len = strcspn(*opt, "=");
        st = parse_one(s, *opt, len, *opt + len + ((*opt)[len] == '='), err);
    }
    return st;
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
        snprintf(p->device, sizeof p->device, "%u cores, %s, OpenBLAS %s", pool_physical_cores(),
                 level_get(NULL)->name, blas.core);
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
    c->k = kernels_get(s.level->kernels);
    c->fast = s.precision == F32 ? NULL : s.level->fast;
    c->int8 = s.precision >= BF16 ? NULL : s.level->int8;
    c->fast_cols = s.precision == FAST_IF_LARGE ? LARGE : 0;
    c->int16 = s.level->int16;
    c->exact = s.level->exact;
    c->tiles = s.level->ffn_rows;
    c->quant = s.level->quant;
    c->deterministic = s.deterministic;
    c->pool = pool_open(s.threads);
    st = blas_open(&c->blas, err);
    if (st == DBRX_OK && (!c->pool || cpu_reserve(c, &desc->config)))
        st = fail(err, DBRX_E_NOMEM, "no memory for %u worker threads", s.threads);
    if (st != DBRX_OK) {
        ctx_close(c);
        return st;
    }
    static const uint32_t kv[] = { DBRX_F16, DBRX_F32, DBRX_F16, DBRX_BF16, DBRX_Q8_0 };
    st = graph_model_open(host, desc, &cpu_ops, c, ctx_close, out, err);
    if (st == DBRX_OK)
        (*out)->kv_dtype = !s.kv && desc->config.d_model < LARGE ? DBRX_F32 : kv[s.kv];
    if (st == DBRX_OK && s.deterministic)
        (*out)->repro = DBRX_REPRO_CHUNKS | DBRX_REPRO_THREADS | DBRX_REPRO_BATCH;
    return st;
}

static const struct dbrx_backend backend = {
    .struct_size = sizeof backend, .options = options, .probe = probe, .model_open = model_open,
    GRAPH_BACKEND
};

static const char *const *values(const char *option)
{
    static const char *const precision[] = { "auto", "f32", "bf16", "fast", NULL }, *const flag[] = { "0", "1", NULL };
    static const char *const kv[] = { "auto", "f32", "f16", "bf16", "q8_0", NULL };
    static const char *isa[N_LEVELS + 2];  /* two threads that fill it fill it alike */
    int n = 0;
    isa[n++] = "best";
    for (int i = 0; i < N_LEVELS; i++)
        if (!levels[i].runs || levels[i].runs())
            isa[n++] = levels[i].name;
    return !strcmp(option, "isa") ? isa : !strcmp(option, "precision") ? precision
         : !strcmp(option, "kv") ? kv : !strcmp(option, "deterministic") ? flag : NULL;
}

static const struct dbrx_choices choices = { .struct_size = sizeof choices, .values = values };

static const void *get(const char *id)
{
    return !strcmp(id, DBRX_CHOICES) ? (const void *)&choices : graph_get(id, &backend);
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "cpu-blas", .version = PACKAGE_VERSION,
    .summary = "CPU: SIMD kernels chosen at run time, all GGUF types", .get = get,
};
