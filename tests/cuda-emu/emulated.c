/* tests/cuda-emu/emulated.c -- the cuda backend on an emulated device, built with the sanitizers: every
 * type of weights and of KV through every kernel against the plain graph; devices too small, several
 * of them, memory that runs out at each allocation, a device that is lost at each launch. */
#include "backends/cuda/cuda.h"
#include "backends/cuda/gpu.h"
#include "backends/graph/graph.h"
#include "tests/cuda-emu/blocks.h"
#include "tests/quiet_host.h"
#include "tests/tap.h"

#include <math.h>
#include <string.h>

static const struct dbrx_host host = QUIET_HOST(host_never);
static const struct dbrx_backend *be;

/* ---- a model of random blocks ---- */

enum { D = 256, HEADS = 4, KV = 2, HEAD = D / HEADS, FFN = 256, EXPERTS = 4, TOP_K = 2, VOCAB = 64, LAYERS = 2 };

struct random { struct dbrx_model_desc desc; struct dbrx_layer layer[LAYERS]; void *all[16 * LAYERS]; int n; };

static void make_tensor(struct random *m, struct dbrx_tensor *t, uint32_t type, uint64_t rows, uint64_t cols, double size)
{
    *t = (struct dbrx_tensor){ .data = make_blocks(type, rows * cols, size), .bytes = dtype_bytes(type, rows * cols), .fd = -1,
                               .dtype = type, .rank = 2, .dim = { rows, cols } };
    m->all[m->n++] = (void *)t->data;
}

/* every matrix of `type`; -1: each another one */
static void make(struct random *m, int type)
{
    int k = 0;
#define TYPE (type >= 0 ? (uint32_t)type : scales[k++ % N_TYPES].type)
    *m = (struct random){ .n = 0 };
    m->desc = (struct dbrx_model_desc){
        .struct_size = sizeof m->desc, .layer = m->layer, .layer_size = sizeof *m->layer, .w2_layout = DBRX_W2_MODEL_ROWS,
        .config = { .struct_size = sizeof m->desc.config, .n_layers = LAYERS, .d_model = D, .n_heads = HEADS,
                    .n_kv_heads = KV, .d_ffn = FFN, .n_experts = EXPERTS, .top_k = TOP_K, .n_vocab = VOCAB,
                    .max_seq = 4096, .clip_qkv = 2, .rope_theta = 1e4f, .ln_eps = 1e-5f, .moe_norm_p = 1 },
    };
    make_tensor(m, &m->desc.embed, TYPE, VOCAB, D, 1);
    make_tensor(m, &m->desc.norm_f, DBRX_F32, 1, D, 1);
    make_tensor(m, &m->desc.lm_head, TYPE, VOCAB, D, 0.1);
    for (int l = 0; l < LAYERS; l++) {
        struct dbrx_layer *y = &m->layer[l];
        make_tensor(m, &y->norm_1, DBRX_F32, 1, D, 1);
        make_tensor(m, &y->wqkv, TYPE, D + 2 * KV * HEAD, D, 0.1);
        make_tensor(m, &y->wo, TYPE, D, D, 0.1);
        make_tensor(m, &y->norm_2, DBRX_F32, 1, D, 1);
        make_tensor(m, &y->router, DBRX_F32, EXPERTS, D, 0.3);
        make_tensor(m, &y->w1, TYPE, EXPERTS * FFN, D, 0.1);
        make_tensor(m, &y->v1, TYPE, EXPERTS * FFN, D, 0.1);
        make_tensor(m, &y->w2, TYPE, EXPERTS * D, FFN, 0.1);
    }
}

static void unmake(struct random *m)
{
    for (int i = 0; i < m->n; i++)
        free(m->all[i]);
}

/* ---- what both compute ---- */

enum { MANY = 70, MOST = 140, ROOM = 96 }; /* more than a tile of tokens, and of tensor cores' */
static uint32_t room = ROOM;               /* positions of a session */
static int32_t tokens[4096];

struct said { float logits[MOST][VOCAB]; double margin; };

static void on_route(void *ctx, const struct dbrx_route *r)
{
    struct said *s = ctx;
    for (uint32_t t = 0; t < r->n_tokens; t++) {
        float p[EXPERTS];
        memcpy(p, r->prob + (size_t)t * EXPERTS, sizeof p);
        for (int i = 1; i < EXPERTS; i++)
            for (int j = i; j && p[j] > p[j - 1]; j--) {
                float x = p[j];
                p[j] = p[j - 1];
                p[j - 1] = x;
            }
        if (r->pos + t < MANY)
            s->margin = fmin(s->margin, p[TOP_K - 1] - p[TOP_K]);
    }
}

/* `all` tokens, `step` at a time: many, a few or one */
static dbrx_status speak(const struct dbrx_backend *b, dbrx_model *m, uint32_t step, uint32_t all, struct said *out)
{
    struct dbrx_error err = { 0 };
    dbrx_session *s;
    dbrx_status st = b->session_open(m, room, &s, &err);
    const struct dbrx_route_sink sink = { .struct_size = sizeof sink, .want = DBRX_ROUTE_PROB, .ctx = out, .emit = on_route };
    out->margin = 1;
    for (uint32_t at = 0, n; st == DBRX_OK && at < all; at += n) {
        n = step < all - at ? step : all - at;
        const struct dbrx_batch batch = { .struct_size = sizeof batch, .n_tokens = n, .token = tokens + at,
            .want_logits = DBRX_LOGITS_ALL, .logits = out->logits[at], .logits_len = (size_t)n * VOCAB, .route = &sink };
        st = b->eval(s, &batch, &err);
    }
    if (st != DBRX_OK)
        diag("%s", err.text);
    else
        b->session_close(s);
    return st;
}

static double distance(const float *a, const float *b, size_t n)
{
    double far = 0, big = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        far = d <= far || far != far ? far : d;        /* a NaN stays */
        big = fabs(b[i]) > big ? fabs(b[i]) : big;
    }
    return far / big;
}

static dbrx_model *open_model(struct random *m, const char *const *opt)
{
    struct dbrx_error err = { 0 };
    dbrx_model *model;
    if (be->model_open(&host, &m->desc, opt, &model, &err) != DBRX_OK)
        bail("model_open: %s", err.text);
    return model;
}

static const struct dbrx_backend plain = { .struct_size = sizeof plain, GRAPH_BACKEND };

static void oracle(struct random *m, uint32_t all, struct said *out)
{
    struct dbrx_error err = { 0 };
    dbrx_model *model;
    if (graph_model_open(&host, &m->desc, &ops_plain, NULL, NULL, &model, &err) != DBRX_OK ||
        speak(&plain, model, all, all, out) != DBRX_OK)
        bail("the oracle: %s", err.text);
    graph_model_close(model);
}

static void test_types(void)
{
    for (int k = -1; k < N_TYPES; k++) {
        struct random m;
        static struct said want, got;
        double worst = 0;
        const uint32_t many = k < 0 ? MANY : 9;        /* a second tile once: it is no matter of types */
        make(&m, k < 0 ? -1 : (int)scales[k].type);
        oracle(&m, many, &want);
        dbrx_model *model = open_model(&m, NULL);
        const struct { uint32_t step, all; } calls[] = { { many, many }, { 3, 6 }, { 1, k < 0 ? 5 : 2 } };
        for (int i = 0; i < 3; i++) {
            if (speak(be, model, calls[i].step, calls[i].all, &got) != DBRX_OK)
                bail("eval failed");
            worst = fmax(worst, distance(got.logits[0], want.logits[0], calls[i].all * VOCAB));
        }
        be->model_close(model);
        unmake(&m);
        ok(worst < 1e-4, "%s: many tokens, few and single ones give the oracle's logits (worst %.1e, least margin %.1e)",
           k < 0 ? "each matrix of another type" : dtype_name(scales[k].type), worst, want.margin);
    }
}

/* Tensor cores round activations and weights: close, and not the same.  More tokens than a tile has,
 * then a few more, that see a cache which others left.  That the kernels do nothing but round is
 * rounded.c's; here they are put together. */
static void test_fast(void)
{
    const uint64_t before = rng;
    room = MOST;
    for (int k = 0; k < N_TYPES; k++) {
        struct random m;
        static struct said want, got, exact;
        /* with scales of six bits these random weights reach 8, and attention is all or nothing */
        const double rough = scales[k].type >= DBRX_Q4_K && scales[k].type <= DBRX_IQ4_XS ? 4e-2 : 1e-2;
        static const struct { const char *opt; double most, exact; } kv[] = {
            { "kv=f32", 0, 1e-5 }, { "kv=f16", 0, 1e-3 }, { "kv=bf16", 0, 5e-3 }, { "kv=fp8", 1.2e-1, 8e-2 } };
        const double most = rough > kv[k % 4].most ? rough : kv[k % 4].most;
        make(&m, (int)scales[k].type);
        m.desc.config.top_k = EXPERTS;     /* nothing to choose: nothing is close */
        m.desc.config.n_layers = 1;        /* it takes long enough */
        const uint32_t all = scales[k].type == DBRX_Q4_0 ? MOST : 20, rest = all == MOST ? 130 : 15;
        oracle(&m, all, &want);
        dbrx_model *fast = open_model(&m, (const char *const[]){ "precision=fast", kv[k % 4].opt, NULL });
        if (speak(be, fast, rest, all, &got) != DBRX_OK || speak(be, fast, 1, 3, &exact) != DBRX_OK)
            bail("eval failed");
        double far = distance(got.logits[0], want.logits[0], all * VOCAB);
        ok(far > 1e-6 && far < most && distance(exact.logits[0], want.logits[0], 3 * VOCAB) < kv[k % 4].exact,
           "%s, precision=fast, %s: a prompt %.1e from the oracle, single tokens as exact as ever (%.1e)",
           dtype_name(scales[k].type), kv[k % 4].opt, far, distance(exact.logits[0], want.logits[0], 3 * VOCAB));
        be->model_close(fast);
        unmake(&m);
    }
    room = ROOM;
    rng = before;                          /* others' models are what they were */
}

static void test_kv(void)
{
    static const struct { const char *opt; double far; } types[] = {
        { "kv=f32", 1e-4 }, { "kv=f16", 2e-3 }, { "kv=bf16", 2e-2 }, { "kv=fp8", 2e-1 } };
    struct random m;
    static struct said want, got, one;
    make(&m, DBRX_Q8_0);
    oracle(&m, MANY, &want);
    for (int i = 0; i < 4; i++) {
        dbrx_model *model = open_model(&m, (const char *const[]){ types[i].opt, NULL });
        if (speak(be, model, 8, 8, &got) != DBRX_OK || speak(be, model, 1, 8, &one) != DBRX_OK)
            bail("eval failed");
        double far = distance(got.logits[0], want.logits[0], VOCAB * 8), two = distance(one.logits[0], got.logits[0], VOCAB * 8);
        ok(far < types[i].far && two < 1e-3 && (i == 0 || far > 1e-7), "%s: %.1e from the oracle, %.1e from itself", types[i].opt, far, two);
        be->model_close(model);
    }
    unmake(&m);
}

/* a context long enough to be cut into parts for a single token */
static void test_split(void)
{
    enum { LONG = 600, CONTEXT = 1100 };
    struct dbrx_error err = { 0 };
    struct random m;
    float got[VOCAB], want[VOCAB];
    dbrx_session *s, *o;
    dbrx_model *p;
    make(&m, DBRX_Q4_0);
    m.desc.config.n_layers = 1;
    dbrx_model *model = open_model(&m, NULL);
    if (graph_model_open(&host, &m.desc, &ops_plain, NULL, NULL, &p, &err) != DBRX_OK ||
        graph_session_open(p, CONTEXT, &o, &err) != DBRX_OK || be->session_open(model, CONTEXT, &s, &err) != DBRX_OK)
        bail("%s", err.text);
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = LONG, .token = tokens };
    struct dbrx_batch c = { .struct_size = sizeof c, .n_tokens = 1, .token = tokens + LONG, .want_logits = DBRX_LOGITS_LAST,
                            .logits = got, .logits_len = VOCAB };
    int fine = be->eval(s, &b, &err) == DBRX_OK && be->eval(s, &c, &err) == DBRX_OK;
    c.logits = want;
    fine = fine && graph_eval(o, &b, &err) == DBRX_OK && graph_eval(o, &c, &err) == DBRX_OK;
    ok(fine && distance(got, want, VOCAB) < 1e-4, "position %d, its attention in parts: %.1e from the oracle", LONG,
       distance(got, want, VOCAB));
    be->session_close(s);
    graph_session_close(o);
    be->model_close(model);
    graph_model_close(p);
    unmake(&m);
}

/* ---- devices ---- */

static void reset(void)
{
    static const char *const all[] = { "emu-devices=1", "emu-memory=0", "emu-fail-alloc=0", "emu-fail-launch=0", "emu-fail-open=0" };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        gpu_option(all[i]);
}

static uint64_t in_use(int device)
{
    struct gpu_info g = { .total = 0 };
    gpu_describe(device, &g, NULL);
    return g.total - g.free;
}

static void test_places(void)
{
    /* memory: of what one device would need */
    static const struct { const char *name; double memory; const char *opt[4]; } ways[] = {
        { "two devices", 0.8, { "emu-devices=2" } },
        { "experts on the host", 0.8, { NULL } },
        { "layers on the host", 0.8, { "offload=layers" } },
        { "the second device alone", 4, { "emu-devices=2", "gpus=1" } },
        { "two devices and the host", 0.65, { "emu-devices=2" } },
    };
    struct random m;
    static struct said want, got, one;
    make(&m, DBRX_Q4_K);
    m.desc.config.max_seq = ROOM;
    dbrx_model *model = open_model(&m, NULL);
    dbrx_session *s;
    if (speak(be, model, 9, 9, &want) != DBRX_OK || be->session_open(model, ROOM, &s, NULL) != DBRX_OK)
        bail("eval failed");
    const double need = (double)in_use(0);
    be->session_close(s);
    be->model_close(model);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct dbrx_error err = { 0 };
        reset();
        char memory[40];
        snprintf(memory, sizeof memory, "emu-memory=%.0f", ways[i].memory * need);
        gpu_option(memory);
        dbrx_status st = be->model_open(&host, &m.desc, ways[i].opt, &model, &err);
        uint64_t used[2] = { in_use(0), in_use(1) };
        int fine = st == DBRX_OK && speak(be, model, 9, 9, &got) == DBRX_OK && speak(be, model, 1, 4, &one) == DBRX_OK;
        if (st != DBRX_OK)
            diag("%s", err.text);
        else
            be->model_close(model);
        ok(fine && !memcmp(got.logits, want.logits, 9 * sizeof *got.logits) &&
           distance(one.logits[0], want.logits[0], 4 * VOCAB) < 1e-4,
           "%s: the same bits as on one (%.1f and %.1f MB there)", ways[i].name, (double)used[0] / 1e6, (double)used[1] / 1e6);
        ok(!in_use(0) && !in_use(1), "... and nothing is left behind");
    }
    reset();
    static const struct { const char *opt[4], *says; dbrx_status st; } no[] = {
        { { "emu-memory=600000", "offload=none" }, "do not fit into", DBRX_E_NOMEM },
        { { "emu-memory=100000", "context=9" }, "do not fit into", DBRX_E_NOMEM },
        { { "gpus=1" }, "there is no device 1", DBRX_E_INVALID },
        { { "gpus=0,0" }, "each once", DBRX_E_INVALID },
        { { "gpus=" }, "numbers of devices", DBRX_E_INVALID },
        { { "emu-fail-open=1" }, "in use by another process", DBRX_E_IO },
    };
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        struct dbrx_error err = { 0 };
        reset();
        dbrx_status st = be->model_open(&host, &m.desc, no[i].opt, &model, &err);
        ok(st == no[i].st && strstr(err.text, no[i].says) && !in_use(0), "%s: %s", no[i].opt[0], err.text);
    }
    reset();
    unmake(&m);
}

/* no memory at the first allocation, the second, ... : a sentence, and nothing is left behind */
static void test_no_memory(void)
{
    struct random m;
    static struct said got;
    int said = 1, clean = 1, at = 1, opened = 0;
    make(&m, DBRX_Q8_0);
    m.desc.config.n_layers = 1;
    for (; at < 500; at++) {
        struct dbrx_error err = { 0 };
        char opt[40];
        dbrx_model *model = NULL;
        dbrx_session *s = NULL;
        snprintf(opt, sizeof opt, "emu-fail-alloc=%d", at);
        dbrx_status st = be->model_open(&host, &m.desc, (const char *const[]){ opt, NULL }, &model, &err);
        if (st == DBRX_OK) {
            opened++;
            st = be->session_open(model, ROOM, &s, &err);
            clean &= st == DBRX_OK || !s;
        } else {
            clean &= !model;
        }
        said &= st == DBRX_OK || (st == DBRX_E_NOMEM && err.text[0]);
        if (s)
            be->session_close(s);
        if (model)
            be->model_close(model);
        clean &= !in_use(0);
        if (st == DBRX_OK)
            break;
    }
    reset();
    ok(said && opened > 10 && at > 40 && at < 500, "no memory at any of %d allocations: DBRX_E_NOMEM and a sentence", at - 1);
    ok(clean, "... and nothing is left behind");
    dbrx_model *model = open_model(&m, NULL);
    ok(speak(be, model, 9, 9, &got) == DBRX_OK, "... and the next one works");
    be->model_close(model);
    unmake(&m);
}

/* the device is lost at a launch: the session says so, then and ever after, and closes */
static void test_lost(void)
{
    struct random m;
    int fine = 1, lost = 0;
    make(&m, DBRX_F16);
    dbrx_model *model = open_model(&m, NULL);
    for (int at = 1; at < 60; at += 2)
        for (uint32_t n = 1; n <= 9; n += 8) {
            struct dbrx_error err = { 0 };
            float logits[VOCAB];
            char opt[40];
            dbrx_session *s;
            if (be->session_open(model, ROOM, &s, &err) != DBRX_OK)
                bail("%s", err.text);
            struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = tokens, .want_logits = DBRX_LOGITS_LAST,
                                    .logits = logits, .logits_len = VOCAB };
            snprintf(opt, sizeof opt, "emu-fail-launch=%d", at);
            gpu_option(opt);
            dbrx_status st = be->eval(s, &b, &err);
            fine &= st == DBRX_OK || (st == DBRX_E_LOST && strstr(err.text, "stopped working"));
            if (st == DBRX_E_LOST) {
                lost++;
                reset();
                fine &= be->eval(s, &b, &err) == DBRX_E_LOST && strstr(err.text, "lost earlier");
            }
            reset();
            be->session_close(s);
        }
    ok(fine && lost > 10, "a device lost at one of its launches (%d tried) is said, and stays lost", lost);
    be->model_close(model);
    unmake(&m);
}

int main(void)
{
    be = cuda_get(DBRX_BACKEND);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        tokens[i] = (int32_t)(next() % VOCAB);
    test_types();
    test_fast();
    test_kv();
    test_split();
    test_places();
    test_no_memory();
    test_lost();
    return done();
}
