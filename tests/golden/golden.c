/* tests/golden/golden.c -- does a backend compute what Databricks' own code computed?
 *
 *     golden FILE.so CHECKPOINT_DIR [--logits REL] [option=value...]
 * REL above the usual 1e-4 (activations or KV stored in fewer bits) loosens the rest with it.
 *
 * Opens the checkpoint, feeds the token sequences of its golden.json in one call, token by
 * token and in random chunks, and compares logits, router probabilities, experts, weights
 * and greedy continuations.  Knows the two layouts golden.json comes in: everything
 * ("logits", the tiny checkpoints) and the five best logits ("top5", nano).  Knows nothing
 * of the contract beyond what a plain caller needs; that is tests/conformance. */
#define _GNU_SOURCE
#include "backends/backend.h"
#include "backends/model/checkpoint.h"
#include "plugins/loader.h"
#include "tests/quiet_host.h"
#include "tests/tap.h"

#include <cJSON.h>
#include <math.h>
#include <string.h>

static double REL = 1e-4;                  /* logits: of the largest |logit|               */
static double MARGIN = 1e-4;         /* experts must agree beyond this gap in p      */
static double WEIGHT = 1e-5;         /* weights and probabilities, absolute          */
static double GREEDY = 1e-3;         /* greedy tokens must agree beyond this gap     */

static const struct dbrx_backend *be;
static struct ckpt *ck;
static dbrx_model *model;

static const struct dbrx_host host = QUIET_HOST(host_never);

/* ---- golden.json ----------------------------------------------------------- */

/* The numbers below a JSON value, in order, whatever the nesting. */
static size_t count(const cJSON *j)
{
    size_t n = cJSON_IsNumber(j) ? 1 : 0;
    for (const cJSON *c = j ? j->child : NULL; c; c = c->next)
        n += count(c);
    return n;
}

static double *fill(const cJSON *j, double *at)
{
    if (cJSON_IsNumber(j))
        *at++ = j->valuedouble;
    for (const cJSON *c = j->child; c; c = c->next)
        at = fill(c, at);
    return at;
}

/* obj[key] as a flat array that must hold `want` numbers; want 0: any number of them */
static double *flat(const cJSON *obj, const char *key, size_t want, size_t *got)
{
    const cJSON *j = cJSON_GetObjectItemCaseSensitive(obj, key);
    size_t n = count(j);
    if (!j || (want && n != want))
        bail("golden.json: \"%s\" holds %zu numbers, not %zu", key, n, want);
    double *a = calloc(n + 1, sizeof *a);
    fill(j, a);
    if (got)
        *got = n;
    return a;
}

static cJSON *read_golden(const char *dir)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/golden.json", dir);
    FILE *f = fopen(path, "rb");
    if (!f)
        bail("%s cannot be opened", path);
    size_t n = 0, cap = 1 << 20;
    char *text = malloc(cap + 1);
    for (size_t got; (got = fread(text + n, 1, cap - n, f)) > 0; ) {
        n += got;
        if (n == cap)
            text = realloc(text, (cap *= 2) + 1);
    }
    fclose(f);
    text[n] = '\0';
    cJSON *j = cJSON_Parse(text);
    free(text);
    if (!j)
        bail("%s is no JSON", path);
    return j;
}

/* ---- one run of a backend, and what it said --------------------------------- */

struct run {
    uint32_t n;                            /* tokens fed                                   */
    float *logits;                         /* [n][n_vocab]                                 */
    float *prob, *weight;                  /* [n_layers][n][n_experts], [n_layers][n][top_k] */
    uint16_t *expert;                      /* [n_layers][n][top_k]                         */
    size_t routed;                         /* (layer, position) pairs seen                 */
};

static void on_route(void *ctx, const struct dbrx_route *r)
{
    struct run *run = ctx;
    for (uint32_t t = 0; t < r->n_tokens; t++) {
        size_t at = (size_t)r->layer * run->n + r->pos + t, k = r->top_k, e = r->n_experts;
        if (r->layer >= ck->desc.config.n_layers || r->pos + t >= run->n || !r->prob)
            return;
        memcpy(run->prob + at * e, r->prob + t * e, e * sizeof *r->prob);
        memcpy(run->weight + at * k, r->weight + t * k, k * sizeof *r->weight);
        memcpy(run->expert + at * k, r->expert + t * k, k * sizeof *r->expert);
        run->routed++;
    }
}

enum chunking { WHOLE, SINGLE, RANDOM };
static const char *const chunk_name[] = { "in one call", "token by token", "in random chunks" };

static dbrx_session *feed(struct run *r, const int32_t *tok, uint32_t n, uint32_t room,
                          enum chunking how)
{
    const struct dbrx_config *c = &ck->desc.config;
    struct dbrx_error err = { .code = 0 };
    dbrx_session *s;
    *r = (struct run){
        .n = n,
        .logits = calloc((size_t)n * c->n_vocab, sizeof(float)),
        .prob = calloc((size_t)c->n_layers * n * c->n_experts, sizeof(float)),
        .weight = calloc((size_t)c->n_layers * n * c->top_k, sizeof(float)),
        .expert = calloc((size_t)c->n_layers * n * c->top_k, sizeof(uint16_t)),
    };
    if (be->session_open(model, room, &s, &err) != DBRX_OK)
        bail("session_open: %s", err.text);
    const struct dbrx_route_sink sink = {
        .struct_size = sizeof sink, .want = DBRX_ROUTE_PROB, .ctx = r, .emit = on_route,
    };
    for (uint32_t at = 0, step; at < n; at += step) {
        step = how == WHOLE ? n : how == SINGLE ? 1 : 1 + (uint32_t)rand() % 5;
        step = step < n - at ? step : n - at;
        struct dbrx_batch b = {
            .struct_size = sizeof b, .n_tokens = step, .token = tok + at,
            .want_logits = how == SINGLE ? DBRX_LOGITS_LAST : DBRX_LOGITS_ALL,
            .logits = r->logits + (size_t)at * c->n_vocab,
            .logits_len = (size_t)step * c->n_vocab, .route = &sink,
        };
        if (be->eval(s, &b, &err) != DBRX_OK)
            bail("eval: %s", err.text);
    }
    return s;
}

static void forget(struct run *r, dbrx_session *s)
{
    be->session_close(s);
    free(r->logits), free(r->prob), free(r->weight), free(r->expert);
}

static uint32_t argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* ---- the full layout: logits, probabilities, experts, weights, 12 greedy tokens ---- */

/* the larger, where a NaN on either side is the largest of all */
static double worse(double a, double b)
{
    return isnan(a) || a >= b ? a : b;
}

static double worst_logit(const float *got, const double *want, size_t n)
{
    double worst = 0, big = 0;
    for (size_t i = 0; i < n; i++) {
        worst = worse(worst, fabs(got[i] - want[i]));
        big = fmax(big, fabs(want[i]));
    }
    return worst / big;
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* the gap in probability between the last chosen and the first not chosen */
static double margin(const double *prob, uint32_t n, uint32_t k)
{
    double p[256];
    if (k >= n || n > 256)
        return INFINITY;
    memcpy(p, prob, n * sizeof *p);
    qsort(p, n, sizeof *p, descending);
    return p[k - 1] - p[k];
}

static void compare_routes(const struct run *r, const cJSON *j, const char *name)
{
    const struct dbrx_config *c = &ck->desc.config;
    size_t rows = (size_t)c->n_layers * r->n, e = c->n_experts, k = c->top_k;
    double *prob = flat(j, "router_prob", rows * e, NULL);
    double *weight = flat(j, "weight", rows * k, NULL);
    double *expert = flat(j, "expert", rows * k, NULL);
    double worst_p = 0, worst_w = 0, least = INFINITY;
    size_t wrong = 0;
    for (size_t i = 0; i < rows; i++) {
        for (size_t x = 0; x < e; x++)
            worst_p = worse(worst_p, fabs(r->prob[i * e + x] - prob[i * e + x]));
        double gap = margin(prob + i * e, c->n_experts, c->top_k);
        least = fmin(least, gap);
        for (size_t a = 0; a < k && gap > MARGIN; a++) {
            size_t b = 0;                  /* as sets: near-equal weights may swap places */
            while (b < k && r->expert[i * k + b] != expert[i * k + a])
                b++;
            wrong += b == k;
            if (b < k)
                worst_w = worse(worst_w, fabs(r->weight[i * k + b] - weight[i * k + a]));
        }
    }
    diag("%s: worst probability %.1e, worst weight %.1e, least margin %.1e", name, worst_p,
         worst_w, least);
    ok(r->routed == rows && worst_p <= WEIGHT, "%s: router probabilities to %g", name, WEIGHT);
    ok(!wrong, "%s: the same experts wherever the margin exceeds %g", name, MARGIN);
    ok(worst_w <= WEIGHT, "%s: weights to %g", name, WEIGHT);
    free(prob), free(weight), free(expert);
}

static void full_case(const cJSON *j, const int32_t *tok, uint32_t n, const char *name)
{
    const struct dbrx_config *c = &ck->desc.config;
    size_t n_greedy;
    double *want = flat(j, "logits", (size_t)n * c->n_vocab, NULL);
    double *greedy = flat(j, "greedy", 0, &n_greedy);
    for (enum chunking how = WHOLE; how <= RANDOM; how++) {
        struct run r;
        char label[128];
        dbrx_session *s = feed(&r, tok, n, n + (uint32_t)n_greedy + 1, how);
        snprintf(label, sizeof label, "%s %s", name, chunk_name[how]);
        double worst = worst_logit(r.logits, want, (size_t)n * c->n_vocab);
        diag("%s: worst logit %.2e of the largest", label, worst);
        ok(worst <= REL, "%s: logits to %g of the largest", label, REL);
        compare_routes(&r, j, label);

        float *row = r.logits + (size_t)(n - 1) * c->n_vocab;
        size_t agree = 0;
        for (; agree < n_greedy; agree++) {
            int32_t t = (int32_t)argmax(row, c->n_vocab);
            struct dbrx_batch b = {
                .struct_size = sizeof b, .n_tokens = 1, .token = &t,
                .want_logits = DBRX_LOGITS_LAST, .logits = row, .logits_len = c->n_vocab,
            };
            if (t != (int32_t)greedy[agree] || be->eval(s, &b, NULL) != DBRX_OK)
                break;
        }
        if (n_greedy)
            ok(agree == n_greedy, "%s: %zu greedy tokens", label, n_greedy);
        forget(&r, s);
    }
    free(want), free(greedy);
}

/* ---- nano's layout: five best logits after the prompt, greedy tokens with margins ---- */

static void top5_case(const cJSON *j, const int32_t *tok, uint32_t n, const char *name)
{
    const struct dbrx_config *c = &ck->desc.config;
    size_t n_greedy;
    double *top = flat(j, "top5", 10, NULL);
    double *greedy = flat(j, "greedy", 0, &n_greedy);
    double *gap = flat(j, "greedy_margin", n_greedy, NULL);
    int32_t *all = calloc(n + n_greedy, sizeof *all);
    memcpy(all, tok, n * sizeof *all);
    for (size_t i = 0; i < n_greedy; i++)
        all[n + i] = (int32_t)greedy[i];
    struct run r;                          /* the golden tokens are fed, all in one call */
    dbrx_session *s = feed(&r, all, n + (uint32_t)n_greedy, n + (uint32_t)n_greedy, WHOLE);
    const float *row = r.logits + (size_t)(n - 1) * c->n_vocab;
    double worst = 0;
    for (int i = 0; i < 5; i++)            /* written to five decimals */
        worst = worse(worst, fabs(row[(int)top[2 * i]] - top[2 * i + 1]) / fabs(top[1]));
    diag("%s: worst of the five logits %.2e of the largest", name, worst);
    ok(worst <= REL + 5e-6 / fabs(top[1]), "%s: the five best logits", name);
    size_t wrong = 0, sure = 0;
    for (size_t i = 0; i < n_greedy; i++, row += c->n_vocab)
        if (gap[i] > GREEDY) {
            sure++;
            wrong += argmax(row, c->n_vocab) != (uint32_t)greedy[i];
        }
    ok(!wrong, "%s: %zu of %zu greedy tokens (margin above %g)", name, sure, n_greedy, GREEDY);
    forget(&r, s);
    free(top), free(greedy), free(gap), free(all);
}

int main(int argc, char **argv)
{
    const char *opt[16] = { NULL };
    const struct dbrx_module_info *mod;
    struct dbrx_error err = { .code = 0 };
    int n_opt = 0;
    if (argc < 3)
        bail("usage: golden FILE.so CHECKPOINT_DIR [--logits REL] [option=value...]");
    for (int i = 3; i < argc; i++)
        if (!strcmp(argv[i], "--logits") && i + 1 < argc)
            REL = atof(argv[++i]);
        else if (n_opt < 15)
            opt[n_opt++] = argv[i];
    if (REL > MARGIN)
        MARGIN = WEIGHT = GREEDY = REL;
    char *path = realpath(argv[1], NULL);  /* dlopen would search for a name without a slash */
    if (module_open(path ? path : argv[1], &mod, &err) != DBRX_OK)
        bail("%s", err.text);
    free(path);
    if (!(be = mod->get(DBRX_BACKEND)))
        bail("%s is no backend", argv[1]);
    if (ckpt_open(argv[2], &ck, &err) != DBRX_OK)
        bail("%s", err.text);
    struct dbrx_probe p = { .struct_size = sizeof p };
    if (be->probe(&host, &p, &err) != DBRX_OK || p.score <= 0) {
        skip("%s cannot run here: %s", mod->name, p.reason);
        ckpt_close(ck);
        return done();
    }
    cJSON *golden = read_golden(argv[2]);
    if (be->model_open(&host, &ck->desc, opt, &model, &err) != DBRX_OK)
        bail("model_open: %s", err.text);
    srand(1);

    const char *slash = strrchr(argv[2], '/');
    int i = 0;
    const cJSON *j;
    cJSON_ArrayForEach(j, cJSON_GetObjectItemCaseSensitive(golden, "cases")) {
        char name[64];
        size_t n;
        double *num = flat(j, "tokens", 0, &n);
        int32_t *tok = calloc(n + 1, sizeof *tok);
        for (size_t t = 0; t < n; t++)
            tok[t] = (int32_t)num[t];
        snprintf(name, sizeof name, "%s %s case %d", mod->name, slash ? slash + 1 : argv[2], i++);
        (cJSON_HasObjectItem(j, "top5") ? top5_case : full_case)(j, tok, (uint32_t)n, name);
        free(num), free(tok);
    }
    if (!i)
        bail("golden.json has no cases");
    be->model_close(model);
    ckpt_close(ck);
    cJSON_Delete(golden);
    return done();
}
