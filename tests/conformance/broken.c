/* tests/conformance/broken.c -- a backend that breaks one rule on request: the test of the
 * conformance test.  It is ref.so but for `break=NAME` in its options; negative.sh knows
 * which check must notice which NAME.  Without the option it keeps every rule. */
#include "backends/graph/graph.h"

#include "plugins/fail.h"

#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char broken[32];                    /* the rule broken by the last model opened     */

static int more_threads;                   /* ... was asked for more than one              */

static int is(const char *name)
{
    return !strcmp(broken, name);
}

static const struct dbrx_option options[] = {
    { "break", "none", "the rule to break" }, { "threads", "1", "has no effect" },
    { NULL, NULL, NULL },
};

static dbrx_status probe(const struct dbrx_host *host, struct dbrx_probe *p,
                         struct dbrx_error *err)
{
    (void)host, (void)err;
    p->score = 1;
    p->mem_total = p->mem_free = 0;
    p->reason[0] = '\0';
    snprintf(p->device, sizeof p->device, "whatever");
    return DBRX_OK;
}

/* "experts-N": w1 and v1 of layer N change places; "router-N": it gets the next layer's router */
static void break_layer(struct dbrx_model_desc *d)
{
    static struct dbrx_layer layer[64];
    unsigned n, experts = sscanf(broken, "experts-%u", &n) == 1;
    uint32_t all = d->config.n_layers;
    if ((!experts && sscanf(broken, "router-%u", &n) != 1) || n >= all || all > 64)
        return;
    memcpy(layer, d->layer, all * sizeof *layer);
    if (experts) {
        struct dbrx_tensor w1 = layer[n].w1;
        layer[n].w1 = layer[n].v1;
        layer[n].v1 = w1;
    } else {
        layer[n].router = d->layer[(n + 1) % all].router;
    }
    d->layer = layer;
}

static const struct dbrx_host *true_host;
static int deaf(const struct dbrx_host *h)
{
    (void)h;
    return 0;
}

static dbrx_status model_open(const struct dbrx_host *host, const struct dbrx_model_desc *desc,
                              const char *const *opt, dbrx_model **out, struct dbrx_error *err)
{
    static struct dbrx_host deafened;
    *out = NULL;
    more_threads = 0;
    if (getenv("DBRX_TEST_BREAK"))         /* for those who cannot give options */
        snprintf(broken, sizeof broken, "%s", getenv("DBRX_TEST_BREAK"));
    for (; opt && *opt; opt++)
        if (!strncmp(*opt, "break=", 6))
            snprintf(broken, sizeof broken, "%s", *opt + 6);
        else if (!strncmp(*opt, "threads=", 8) && (*opt)[8] >= '0' && (*opt)[8] <= '9')
            more_threads = atoi(*opt + 8) > 1;
        else if (!is("option"))
            return fail(err, DBRX_E_INVALID, "no option \"%.60s\"%s", *opt,
                        is("newline") ? "\n" : "");
    true_host = host;
    deafened = *host;
    deafened.should_stop = deaf;
    while (is("slow")) {                   /* takes as long as it may */
        host->progress(host, "loading", 1, 3);
        if (host->should_stop(host))
            return DBRX_STOPPED;
        usleep(1000);
    }
    if (is("descriptor"))
        (void)!open("/dev/null", O_RDONLY);
    if (is("leak"))
        memset(malloc(200), 1, 200);
    if (is("signal"))
        signal(SIGUSR1, SIG_IGN);
    if (is("locale"))
        setlocale(LC_ALL, "C.UTF-8");
    struct dbrx_model_desc d = *desc;
    if (is("fd") && d.embed.fd < 0)
        return fail(err, DBRX_E_IO, "no file");
    if (is("w2"))
        d.w2_layout = DBRX_W2_FFN_ROWS;
    break_layer(&d);
    struct ops ops = ops_plain;
    return graph_model_open(is("deaf") ? &deafened : host, &d, &ops, NULL, NULL, out, err);
}

static dbrx_status session_open(dbrx_model *m, uint32_t max_pos, dbrx_session **out,
                                struct dbrx_error *err)
{
    return graph_session_open(m, max_pos + (is("full") || (is("zero") && !max_pos)), out, err);
}

/* ---- what the caller's sink is told ---------------------------------------------- */

struct pass { const struct dbrx_route_sink *to; };

static void emit_route(void *ctx, const struct dbrx_route *true_route)
{
    struct pass *p = ctx;
    struct dbrx_route r = *true_route;
    size_t n = (size_t)r.n_tokens * r.top_k;
    uint16_t *e = malloc((n + 1) * sizeof *e);
    float *w = malloc((n + 1) * sizeof *w);
    memcpy(e, r.expert, n * sizeof *e);
    memcpy(w, r.weight, n * sizeof *w);
    r.expert = e;
    r.weight = w;
    for (size_t i = 0; i < n; i++)
        if (is("order")) {
            size_t row = i / r.top_k * r.top_k;
            e[i] = true_route->expert[row + r.top_k - 1 - (i - row)];
            w[i] = true_route->weight[row + r.top_k - 1 - (i - row)];
        } else if (is("weight")) {
            w[i] = true_route->prob[i / r.top_k * r.n_experts + e[i]];
        }
    if (is("want"))
        r.prob = true_route->prob;
    else if (!(p->to->want & DBRX_ROUTE_PROB))
        r.prob = NULL;
    if (is("layers"))
        r.layer = r.layer ? 0 : r.layer;
    if (is("pos"))
        r.pos = 0;
    p->to->emit(p->to->ctx, &r);
    free(e), free(w);
}

static dbrx_status eval(dbrx_session *s, const struct dbrx_batch *true_batch,
                        struct dbrx_error *err)
{
    static float stale;                    /* shared by all sessions */
    struct dbrx_batch b = *true_batch;
    struct dbrx_steer steer;
    struct dbrx_route_sink sink;
    struct dbrx_error scratch;
    struct pass pass = { b.route };
    if (is("null-error"))
        err->code = 0;
    if (is("long-batch") && b.struct_size != sizeof b)
        return fail(err, DBRX_E_INVALID, "unknown batch");
    if (is("prints"))
        printf("evaluating %u tokens\n", b.n_tokens);
    if (is("writes"))
        (void)!write(2, "warning\n", 8);
    if (b.steer) {
        memcpy(&steer, b.steer, b.steer->struct_size < sizeof steer ? b.steer->struct_size : sizeof steer);
        b.steer = &steer;
        steer.bias = is("bias") ? NULL : steer.bias;
        steer.mark = is("mark") ? NULL : steer.mark;
        steer.scale = is("scale") ? NULL : steer.scale;
        steer.top_k = is("top-k") ? NULL : steer.top_k;
        if (is("source"))
            steer.struct_size = offsetof(struct dbrx_steer, source);
    }
    if (b.route) {
        sink = *b.route;
        sink.want |= is("want") || is("weight") ? DBRX_ROUTE_PROB : 0;
        sink.ctx = &pass;
        sink.emit = emit_route;
        b.route = &sink;
    }
    int32_t tok[2048];
    for (uint32_t i = 0; is("token") && b.token && i < b.n_tokens && i < 2048; i++) {
        tok[i] = b.token[i] < 0 ? 0 : b.token[i];
        b.token = i + 1 == b.n_tokens ? tok : b.token;
    }
    if (is("room") && b.logits)
        b.logits_len += s->model->cfg.n_vocab;
    uint32_t old = s->pos;
    if (is("partial") && s->pos < s->max_pos && b.n_tokens > s->max_pos - s->pos) {
        struct dbrx_batch first = b;       /* takes what fits, then says it is full */
        first.n_tokens = s->max_pos - s->pos;
        graph_eval(s, &first, NULL);
    }
    dbrx_status st = graph_eval(s, &b, is("error-code") ? &scratch : err);
    if (st == DBRX_E_UNSUPPORTED && is("nan"))
        st = DBRX_OK;
    if (st < 0 && is("error-code") && err) {
        *err = scratch;
        err->code = 0;
    }
    if (st == DBRX_OK && is("error-on-ok") && err)
        err->code = 0;
    if (st == DBRX_STOPPED && is("stop-position") && s->pos < s->max_pos)
        s->pos++;
    if (st == DBRX_STOPPED && is("stop-loses"))
        s->pos = 0;
    if (st < 0 && is("error-moves") && s->pos < s->max_pos && s->pos)
        s->pos--;
    if (st == DBRX_OK && b.want_logits && b.logits) {
        size_t v = s->model->cfg.n_vocab;
        size_t rows = b.want_logits == DBRX_LOGITS_ALL ? b.n_tokens : 1;
        if (is("overrun"))
            b.logits[rows * v] = 0;
        if (is("underrun"))
            b.logits[-1] = 0;
        if (is("noise"))
            b.logits[rows * v - 1] += 0.01f;
        if (is("shared"))
            b.logits[0] += stale;
        static unsigned long calls;
        if ((is("moody") && ++calls % 16 == 0) || (is("cut") && b.n_tokens > 1) ||
            (is("threaded") && more_threads) || (is("crowded") && b.token[b.n_tokens - 1] % 2))
            b.logits[0] = b.logits[0] * (1 + 1e-6f) + 1e-7f;
        if (is("chunked") && old && b.n_tokens > 2)
            b.logits[0] += 0.1f;
    }
    stale = s->pos > 4;
    return st;
}

static uint32_t position(const dbrx_session *s)
{
    return graph_position(s) + (is("position") && s->pos == 7);
}

static dbrx_status cut(dbrx_session *s, uint32_t n_keep, struct dbrx_error *err)
{
    if (is("truncate"))
        return DBRX_OK;
    if (is("truncate-beyond") && n_keep > s->pos)
        return DBRX_OK;
    if (is("truncate-off") && n_keep + 1 < s->pos)
        n_keep++;
    return graph_truncate(s, n_keep, err);
}

/* ---- dbrx.kv/1, dbrx.head/1 ---------------------------------------------------------- */

struct relay { dbrx_status (*emit)(void *, const struct dbrx_kv_block *); void *ctx; };

static dbrx_status emit_kv(void *ctx, const struct dbrx_kv_block *b)
{
    struct relay *r = ctx;
    struct dbrx_kv_block swapped = *b;
    if (is("kv-swapped"))
        swapped.k = b->v, swapped.v = b->k;
    dbrx_status st = r->emit(r->ctx, &swapped);
    return is("kv-deaf") ? DBRX_OK : is("kv-status") && st ? DBRX_E_INVALID : st;
}

static dbrx_status export_kv(dbrx_session *s, uint32_t max_n,
                             dbrx_status (*emit)(void *, const struct dbrx_kv_block *), void *ctx,
                             struct dbrx_error *err)
{
    struct relay r = { emit, ctx };
    uint32_t pos = s->pos;
    s->pos -= is("kv-short") && s->pos;
    dbrx_status st = graph_kv.export_kv(s, is("kv-blocks") ? 0 : max_n, emit_kv, &r, err);
    s->pos = pos;
    return st;
}

static dbrx_status import_kv(dbrx_session *s, const struct dbrx_kv_block *b,
                             struct dbrx_error *err)
{
    struct dbrx_kv_block c = *b;
    if (is("kv-dtype") && c.dtype != DBRX_F32)
        c.dtype = DBRX_F16;                /* takes BF16 for F16 */
    if (is("kv-beyond") && c.pos + c.n > s->max_pos)
        return DBRX_OK;
    uint32_t pos = s->pos;
    if (is("kv-not-empty"))
        s->pos = 0;
    dbrx_status st = graph_kv.import_kv(s, &c, err);
    s->pos = is("kv-early") && st == DBRX_OK ? c.pos + c.n : pos;
    return st;
}

static dbrx_status commit(dbrx_session *s, uint32_t n_pos, struct dbrx_error *err)
{
    return graph_kv.commit(s, n_pos - (is("kv-commit") && n_pos), err);
}

static dbrx_status head(dbrx_session *s, const float *x, uint32_t n, float *logits,
                        struct dbrx_error *err)
{
    if (is("head-rows") && n > 1000)
        n = 1000;
    dbrx_status st = graph_head.head(s, x, n, logits, err);
    if (is("head-moves") && s->pos)
        s->pos--;
    return st;
}

static dbrx_status export_from(dbrx_session *s, uint32_t from, uint32_t max_n,
                               dbrx_status (*emit)(void *, const struct dbrx_kv_block *), void *ctx,
                               struct dbrx_error *err)
{
    return graph_kv.export_from(s, is("kv-from") && from < s->pos ? from + 1 : from, max_n, emit, ctx, err);
}

static dbrx_status extend(dbrx_session *s, uint32_t n_pos, struct dbrx_error *err)
{
    return is("kv-extend") ? DBRX_OK : graph_kv.extend(s, n_pos, err);
}

static uint32_t promises(const dbrx_model *m)
{
    (void)m;
    return DBRX_REPRO_CHUNKS | DBRX_REPRO_THREADS | DBRX_REPRO_BATCH;
}

static const char *const *values(const char *option)
{
    static const char *const few[] = { "1", NULL, NULL };
    static const char *const wrong[] = { "1", "many", NULL };
    return strcmp(option, "threads") ? NULL : is("choices") ? wrong : few;
}

static dbrx_status resume(dbrx_session *s, uint32_t layer, uint32_t pos, const float *x,
                          const struct dbrx_batch *true_batch, struct dbrx_error *err)
{
    struct dbrx_batch b = *true_batch;
    if (is("resume-steer"))
        b.steer = NULL;
    if (is("resume-block") && layer)
        layer--;
    if (is("resume-beyond") && b.n_tokens > s->pos - pos)
        b.n_tokens = s->pos - pos;
    dbrx_status st = graph_resume.resume(s, layer, pos, x, &b, err);
    if (is("resume-kv") && st == DBRX_OK && b.steer) {
        b = (struct dbrx_batch){ .struct_size = sizeof b, .n_tokens = b.n_tokens };
        graph_resume.resume(s, layer, pos, x, &b, NULL);       /* the KV as if unsteered */
    }
    if (is("resume-moves") && s->pos)
        s->pos--;
    return st == DBRX_STOPPED && is("resume-stop") ? DBRX_OK : st;
}

static const struct dbrx_resume resumes = { .struct_size = sizeof resumes, .resume = resume };
static const struct dbrx_kv kv = {
    .struct_size = sizeof kv, .export_kv = export_kv, .import_kv = import_kv, .commit = commit,
    .export_from = export_from, .extend = extend,
};
static const struct dbrx_repro repro = { .struct_size = sizeof repro, .promises = promises };
static const struct dbrx_choices choices = { .struct_size = sizeof choices, .values = values };
static const struct dbrx_head heads = { .struct_size = sizeof heads, .head = head };
static const struct dbrx_backend backend = {
    .struct_size = sizeof backend, .options = options, .probe = probe,
    .model_open = model_open, .model_close = graph_model_close,
    .session_open = session_open, .session_close = graph_session_close,
    .eval = eval, .position = position, .truncate = cut,
};

static const void *get(const char *id)
{
    return !strcmp(id, DBRX_BACKEND) ? (const void *)&backend
         : !strcmp(id, DBRX_KV)      ? (const void *)&kv
         : !strcmp(id, DBRX_RESUME)  ? (const void *)&resumes
         : !strcmp(id, DBRX_HEAD)    ? (const void *)&heads
         : !strcmp(id, DBRX_REPRO)   ? (const void *)&repro
         : !strcmp(id, DBRX_CHOICES) ? (const void *)&choices : NULL;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "broken", .version = "0", .summary = "breaks a rule on request", .get = get,
};
