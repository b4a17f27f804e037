/* backends/cuda/cuda.c -- options, probe and the backend's tables.  The work is in model.c (loading),
 * session.c and forward.c. */
#include "backends/cuda/cuda.h"

#include "backends/cuda/session.h"
#include "backends/graph/check.h"
#include "plugins/fail.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct dbrx_option options[] = {
    { "gpus", "as many as it takes", "devices by number: 0 or 0+1 or 0,1" },
    { "precision", "auto", "of activations in prompts: f32, fast (BF16), or fast for large models" },
    { "kv", "auto", "KV cache: f32, f16, bf16, fp8; auto: f16 for large models, else f32" },
    { "offload", "experts", "what stays on the host if it must: experts, layers, none" },
    { "context", "the model's", "positions to leave room for when layers are placed" },
    { "deterministic", "0", "1: a token's result does not depend on what is evaluated beside it" },
    { NULL, NULL, NULL }
};
static const char *const kv_names[] = { "auto", "f32", "f16", "bf16", "fp8", NULL };
static const char *const offload_names[] = { "experts", "layers", "none", NULL };
static const char *const precision_names[] = { "auto", "f32", "fast", NULL };
static const char *const flag_names[] = { "0", "1", NULL };

enum { LARGE = 512 };                      /* columns: below, a prompt is over and a KV cache small either way */

static int one_of(const char *const *name, const char *value)
{
    for (int i = 0; name[i]; i++)
        if (!strcmp(name[i], value))
            return i;
    return -1;
}

static dbrx_status parse_gpus(struct settings *s, const char *value, struct dbrx_error *err)
{
    const char *p = value;
    s->n_gpus = 0;
    do {
        char *end;
        long n = strtol(p, &end, 10);
        int twice = 0;
        for (int i = 0; i < s->n_gpus; i++)
            twice |= s->gpu[i] == n;
        if (end == p || (*end && *end != ',' && *end != '+') || n < 0 || n > 1023 || twice || s->n_gpus == MAX_DEVICES ||
            *p == ' ' || *p == '+')
            return fail(err, DBRX_E_INVALID, "gpus must be numbers of devices, each once, with commas between them, not "
                        "\"%.40s\"", value);
        s->gpu[s->n_gpus++] = (int)n;
        p = *end ? end + 1 : NULL;
    } while (p);
    return DBRX_OK;
}

static dbrx_status parse(const struct dbrx_config *c, const char *const *opt, struct settings *s, struct dbrx_error *err)
{
    static const uint32_t types[] = { DBRX_F16, DBRX_F32, DBRX_F16, DBRX_BF16, KV_FP8 };
    dbrx_status st = DBRX_OK;
    int kv = 0, precision = 0;
    *s = (struct settings){ .offload = OFFLOAD_EXPERTS, .context = c->max_seq ? c->max_seq : 2048 };
    for (; opt && *opt && st == DBRX_OK; opt++) {
        const size_t n = strcspn(*opt, "=");
        const char *value = *opt + n + ((*opt)[n] == '=');
        if (n == 4 && !strncmp(*opt, "gpus", n)) {
            st = parse_gpus(s, value, err);
        } else if (n == 2 && !strncmp(*opt, "kv", n)) {
            if ((kv = one_of(kv_names, value)) < 0)
                st = fail(err, DBRX_E_INVALID, "kv must be auto, f32, f16, bf16 or fp8, not \"%.40s\"", value);
        } else if (n == 9 && !strncmp(*opt, "precision", n)) {
            if ((precision = one_of(precision_names, value)) < 0)
                st = fail(err, DBRX_E_INVALID, "precision must be auto, f32 or fast, not \"%.40s\"", value);
        } else if (n == 7 && !strncmp(*opt, "offload", n)) {
            if ((s->offload = one_of(offload_names, value)) < 0)
                st = fail(err, DBRX_E_INVALID, "offload must be experts, layers or none, not \"%.40s\"", value);
        } else if (n == 7 && !strncmp(*opt, "context", n)) {
            char *end;
            errno = 0;
            unsigned long long positions = strtoull(value, &end, 10);
            if (end == value || *end || errno || *value == '-' || !positions || positions > UINT32_MAX)
                st = fail(err, DBRX_E_INVALID, "context must be a number of positions, not \"%.40s\"", value);
            s->context = (uint32_t)positions;
        } else if (n == 13 && !strncmp(*opt, "deterministic", n)) {
            if ((s->deterministic = one_of(flag_names, value)) < 0)
                st = fail(err, DBRX_E_INVALID, "deterministic must be 0 or 1, not \"%.40s\"", value);
        } else if (!gpu_option(*opt)) {
            st = fail(err, DBRX_E_INVALID, "cuda has no option \"%.60s\"; it has gpus=LIST, precision=NAME, kv=TYPE, "
                      "offload=WHAT, context=N and deterministic=0 or 1", *opt);
        }
    }
    s->fast = precision == 2 || (!precision && c->d_model >= LARGE);
    s->kv_type = kv > 0 ? types[kv] : !kv && c->d_model < LARGE ? DBRX_F32 : DBRX_F16;
    return st;
}

/* "2 x NVIDIA A (8.0), NVIDIA B (9.0)": all of them, neighbours of one kind together */
static void name_devices(const struct gpu_info *g, int n, char *out, size_t size)
{
    size_t at = 0;
    for (int i = 0, same; i < n && at < size; i += same) {
        for (same = 1; i + same < n && !strcmp(g[i].name, g[i + same].name); same++)
            ;
        at += (size_t)snprintf(out + at, size - at, "%s", at ? ", " : "");
        if (same > 1 && at < size)
            at += (size_t)snprintf(out + at, size - at, "%d x ", same);
        if (at < size)
            at += (size_t)snprintf(out + at, size - at, "%s (%d.%d)", g[i].name, g[i].major, g[i].minor);
    }
}

static dbrx_status probe(const struct dbrx_host *host, struct dbrx_probe *p, struct dbrx_error *err)
{
    struct dbrx_error why = { .code = DBRX_OK };
    struct gpu_info g[MAX_DEVICES];
    int count = 0, n = 0;
    (void)host, (void)err;
    p->score = 0;
    p->mem_total = p->mem_free = 0;
    p->device[0] = p->reason[0] = '\0';
    dbrx_status st = gpu_count(&count, &why);
    for (int i = 0; i < count && n < MAX_DEVICES && st == DBRX_OK; i++) {
        st = gpu_describe(i, &g[n], &why);
        if (st == DBRX_OK && *g[n].reason) {
            fail(&why, DBRX_E_UNSUPPORTED, "%s", g[n].reason);
        } else if (st == DBRX_OK) {
            p->mem_total += g[n].total;
            p->mem_free += g[n].free;
            n++;
        }
    }
    if (st != DBRX_OK || !n) {             /* of several that cannot be used, why the last */
        snprintf(p->reason, sizeof p->reason, "%.127s", why.text);
        return DBRX_OK;
    }
    p->score = 200;
    name_devices(g, n, p->device, sizeof p->device);
    return DBRX_OK;
}

static dbrx_status model_open(const struct dbrx_host *host, const struct dbrx_model_desc *desc, const char *const *opt,
                              dbrx_model **out, struct dbrx_error *err)
{
    struct settings s;
    *out = NULL;
    dbrx_status st = graph_check(desc, err);
    if (st == DBRX_OK)
        st = parse(&desc->config, opt, &s, err);
    return st == DBRX_OK ? cuda_model_open(host, desc, &s, out, err) : st;
}

static const struct dbrx_backend backend = {
    .struct_size = sizeof backend, .options = options, .probe = probe, .model_open = model_open,
    .model_close = cuda_model_close, .session_open = cuda_session_open, .session_close = cuda_session_close,
    .eval = cuda_eval, .position = cuda_position, .truncate = cuda_truncate,
};

static dbrx_status plan(const struct dbrx_host *host, const struct dbrx_model_desc *desc, const char *const *opt,
                        void (*emit)(void *ctx, const struct dbrx_place *), void *ctx, struct dbrx_error *err)
{
    struct settings s;
    struct plan p = { .n_shares = 0 };
    (void)host;
    dbrx_status st = graph_check(desc, err);
    if (st == DBRX_OK)
        st = parse(&desc->config, opt, &s, err);
    if (st == DBRX_OK)
        st = plan_make(desc, &s, &p, err);
    for (uint32_t i = 0; i < p.n_shares && st == DBRX_OK; i++) {
        const struct share *h = &p.share[i];
        struct gpu_info g;
        char name[96];
        if ((st = gpu_describe(h->device, &g, err)) != DBRX_OK)
            break;
        snprintf(name, sizeof name, "device %d, %s", h->device, g.name);
        emit(ctx, &(struct dbrx_place){ sizeof(struct dbrx_place), name, h->first, h->end, h->weights, h->kv, h->scratch,
                                        h->free });
    }
    if (st == DBRX_OK && p.host)
        emit(ctx, &(struct dbrx_place){ sizeof(struct dbrx_place), "pinned host memory", 0, 0, p.host, 0, 0, 0 });
    plan_free(&p);
    return st;
}

static const struct dbrx_plan planning = { .struct_size = sizeof planning, .plan = plan };

static const char *const *values(const char *option)
{
    return !strcmp(option, "kv") ? kv_names : !strcmp(option, "offload") ? offload_names
         : !strcmp(option, "precision") ? precision_names : !strcmp(option, "deterministic") ? flag_names : NULL;
}

static const struct dbrx_choices choices = { .struct_size = sizeof choices, .values = values };

static uint32_t promises(const dbrx_model *m)
{
    return m->set.deterministic ? DBRX_REPRO_CHUNKS | DBRX_REPRO_BATCH : 0;
}

static const struct dbrx_repro repro = { .struct_size = sizeof repro, .promises = promises };

const void *cuda_get(const char *id)
{
    return !strcmp(id, DBRX_BACKEND) ? (const void *)&backend
         : !strcmp(id, DBRX_KV)      ? (const void *)&cuda_kv
         : !strcmp(id, DBRX_HEAD)    ? (const void *)&cuda_head
         : !strcmp(id, DBRX_RESUME)  ? (const void *)&cuda_resume
         : !strcmp(id, DBRX_INPUTS)  ? (const void *)&cuda_inputs
         : !strcmp(id, DBRX_REPRO)   ? (const void *)&repro
         : !strcmp(id, DBRX_PLAN)    ? (const void *)&planning
         : !strcmp(id, DBRX_CHOICES) ? (const void *)&choices : NULL;
}
