/* naive.c -- a whole dbrx backend in one file, as short as it can be: one thread, one token at
 * a time, every sum in double.  The example of writing-a-backend.md; it passes the conformance
 * test.  Built with nothing but the installed headers:
 *
 *     cc -std=c11 -O2 -shared -fPIC -fvisibility=hidden $(pkg-config --cflags dbrx) \
 *         -o naive.so naive.c -lm */
#include "backends/backend.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dbrx_model {
    const struct dbrx_host *host;
    const struct dbrx_model_desc *desc;    /* outlives the model                         */
};

struct dbrx_session {
    const dbrx_model *m;
    uint32_t pos, max_pos;
    float *k, *v;                          /* [n_layers][max_pos][n_kv_heads * head_dim] */
    float *x, *h, *qkv, *att, *act, *score, *part;     /* of one token                   */
};

__attribute__((format(printf, 3, 4)))
static dbrx_status fail(struct dbrx_error *err, dbrx_status st, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (err) {                             /* the caller's, and it may not want one */
        err->code = st;
        vsnprintf(err->text, sizeof err->text, fmt, ap);
    }
    va_end(ap);
    return st;
}

/* ---- weights ------------------------------------------------------------------- */

/* Element i as a float; the mapping need not be aligned */
static float at(const struct dbrx_tensor *t, size_t i)
{
    const unsigned char *p = t->data;
    uint32_t u = 0;
    uint16_t h;
    float f;
    if (t->dtype == DBRX_F32) {
        memcpy(&f, p + 4 * i, 4);
        return f;
    }
    memcpy(&h, p + 2 * i, 2);
    if (t->dtype == DBRX_BF16) {
        u = (uint32_t)h << 16;
    } else if (h & 0x7c00) {               /* F16; 31 is infinity or NaN */
        uint32_t exp = h >> 10 & 31;
        u = (uint32_t)(h & 0x8000) << 16 | (exp == 31 ? 255 : exp + 112) << 23 | (uint32_t)(h & 0x3ff) << 13;
    } else {                               /* zero and subnormals */
        f = (float)(h & 0x3ff) * 0x1p-24f;
        return h & 0x8000 ? -f : f;
    }
    memcpy(&f, &u, 4);
    return f;
}

/* y[rows] = rows first.. of w[][cols] times x[cols] */
static void product(float *y, const struct dbrx_tensor *w, size_t first, uint32_t rows, uint32_t cols,
                    const float *x)
{
    for (uint32_t r = 0; r < rows; r++) {
        double sum = 0;
        for (uint32_t i = 0; i < cols; i++)
            sum += (double)at(w, (first + r) * cols + i) * x[i];
        y[r] = (float)sum;
    }
}

static const struct dbrx_layer *layer(const dbrx_model *m, uint32_t l)
{
    return (const void *)((const char *)m->desc->layer + (size_t)l * m->desc->layer_size);
}

/* ---- opening --------------------------------------------------------------------- */

static const struct dbrx_option options[] = { { NULL, NULL, NULL } };

static dbrx_status probe(const struct dbrx_host *host, struct dbrx_probe *p, struct dbrx_error *err)
{
    (void)host, (void)err;
    p->score = 1;                          /* it can run, and anything else is better */
    p->mem_total = p->mem_free = 0;
    p->reason[0] = '\0';
    snprintf(p->device, sizeof p->device, "one thread, the shortest code there is");
    return DBRX_OK;
}

static int readable(const struct dbrx_tensor *t)
{
    return t->data && (t->dtype == DBRX_F32 || t->dtype == DBRX_F16 || t->dtype == DBRX_BF16);
}

static dbrx_status model_open(const struct dbrx_host *host, const struct dbrx_model_desc *desc,
                              const char *const *opt, dbrx_model **out, struct dbrx_error *err)
{
    *out = NULL;
    if (opt && *opt)
        return fail(err, DBRX_E_INVALID, "naive has no option \"%.60s\"; it has none", *opt);
    int fine = readable(&desc->embed) && readable(&desc->norm_f) && readable(&desc->lm_head);
    dbrx_model tmp = { host, desc };
    for (uint32_t l = 0; l < desc->config.n_layers; l++) {
        const struct dbrx_layer *y = layer(&tmp, l);
        fine = fine && readable(&y->norm_1) && readable(&y->wqkv) && readable(&y->wo) && readable(&y->norm_2) &&
               readable(&y->router) && readable(&y->w1) && readable(&y->v1) && readable(&y->w2);
    }
    if (!fine)
        return fail(err, DBRX_E_UNSUPPORTED, "naive reads weights in F32, F16 and BF16 only");
    if (!(*out = malloc(sizeof **out)))
        return fail(err, DBRX_E_NOMEM, "out of memory");
    **out = tmp;
    return DBRX_OK;
}

static void model_close(dbrx_model *m)
{
    free(m);
}

static void session_close(dbrx_session *s)
{
    float *const all[] = { s->k, s->v, s->x, s->h, s->qkv, s->att, s->act, s->score, s->part };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(s);
}

static dbrx_status session_open(dbrx_model *m, uint32_t max_pos, dbrx_session **out, struct dbrx_error *err)
{
    const struct dbrx_config *c = &m->desc->config;
    size_t d = c->d_model, kvd = d / c->n_heads * c->n_kv_heads, kv = c->n_layers * kvd;
    *out = NULL;
    if (!max_pos)
        return fail(err, DBRX_E_INVALID, "a session needs room for at least one position");
    dbrx_session *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    s->m = m;
    s->max_pos = max_pos;
    if (kv <= SIZE_MAX / 4 / max_pos) {    /* else NULL: cannot even be addressed */
        s->k = malloc(kv * max_pos * sizeof(float));
        s->v = malloc(kv * max_pos * sizeof(float));
    }
    s->x = malloc(d * sizeof(float));
    s->h = malloc(d * sizeof(float));
    s->qkv = malloc((d + 2 * kvd) * sizeof(float));
    s->att = malloc(d * sizeof(float));
    s->act = malloc(2 * (size_t)c->d_ffn * sizeof(float));
    s->score = malloc(max_pos * sizeof(float));
    s->part = malloc(c->n_experts * d * sizeof(float));
    if (!s->k || !s->v || !s->x || !s->h || !s->qkv || !s->att || !s->act || !s->score || !s->part) {
        session_close(s);
        return fail(err, DBRX_E_NOMEM, "out of memory for a session of %u positions", max_pos);
    }
    *out = s;
    return DBRX_OK;
}

static uint32_t position(const dbrx_session *s)
{
    return s->pos;
}

static dbrx_status truncate_to(dbrx_session *s, uint32_t n_keep, struct dbrx_error *err)
{
    if (n_keep > s->pos)
        return fail(err, DBRX_E_INVALID, "cannot keep %u positions of %u", n_keep, s->pos);
    s->pos = n_keep;
    return DBRX_OK;
}

/* ---- the router ---------------------------------------------------------------------- */

/* What steering says of one expert of one layer */
struct say { float bias, scale; unsigned mark; uint32_t source; };

static struct say steering(const struct dbrx_config *c, const struct dbrx_steer *s, uint32_t l, uint32_t e)
{
    size_t i = (size_t)l * c->n_experts + e;
    struct say say = { 0, 1, 0, e };
    if (s && s->bias)
        say.bias = s->bias[i];
    if (s && s->scale)
        say.scale = s->scale[i];
    if (s && s->mark)
        say.mark = s->mark[i];
    if (s && DBRX_HAS(struct dbrx_steer, s, source) && s->source)
        say.source = s->source[i];
    return say;
}

static uint32_t top_k(const struct dbrx_config *c, const struct dbrx_steer *s, uint32_t l)
{
    return s && s->top_k && s->top_k[l] ? s->top_k[l] : c->top_k;
}

static int closed(struct say s)
{
    return s.bias == -INFINITY || (s.mark & DBRX_STEER_SKIP);
}

/* Can it be followed?  All of it is asked before anything is computed. */
static dbrx_status check_steering(const struct dbrx_config *c, const struct dbrx_steer *s, struct dbrx_error *err)
{
    for (uint32_t l = 0; s && l < c->n_layers; l++) {
        uint32_t k = top_k(c, s, l), forced = 0, open = 0, bad = k > c->n_experts;
        for (uint32_t e = 0; e < c->n_experts; e++) {
            struct say y = steering(c, s, l, e);
            bad |= isnan(y.bias) || y.bias == INFINITY || !isfinite(y.scale) || y.source >= c->n_experts;
            bad |= (y.mark & DBRX_STEER_FORCE) && closed(y);
            for (uint32_t i = 0; i < e; i++)
                bad |= steering(c, s, l, i).source == y.source;
            forced += (y.mark & DBRX_STEER_FORCE) != 0;
            open += !closed(y);
        }
        if (bad || forced > k || open < k)
            return fail(err, DBRX_E_INVALID, "the steering of layer %u cannot be followed", l);
    }
    return DBRX_OK;
}


/* logit[n_experts] to prob, and the chosen ones, heaviest first; -1: no numbers */
static int route(const struct dbrx_config *c, const struct dbrx_steer *s, uint32_t l, const float *logit,
                 float *prob, uint16_t *expert, float *weight)
{
    uint32_t k = top_k(c, s, l), n = 0;
    double sum = 0, norm = 0, max = -INFINITY;
    for (uint32_t e = 0; e < c->n_experts; e++) {
        struct say y = steering(c, s, l, e);
        prob[e] = logit[y.source] + y.bias;
        if (isnan(prob[e]) || prob[e] == INFINITY)
            return -1;
        max = prob[e] > max ? prob[e] : max;
    }
    if (max == -INFINITY)
        return -1;
    for (uint32_t e = 0; e < c->n_experts; e++)
        sum += exp(prob[e] - max);
    for (uint32_t e = 0; e < c->n_experts; e++)
        prob[e] = (float)(exp(prob[e] - max) / sum);
    for (uint32_t e = 0; e < c->n_experts; e++)
        if (steering(c, s, l, e).mark & DBRX_STEER_FORCE)
            expert[n++] = (uint16_t)e;
    for (; n < k; n++) {                   /* the largest that is left; ties: the lower id */
        uint32_t best = c->n_experts;
        for (uint32_t e = 0; e < c->n_experts; e++) {
            int out = closed(steering(c, s, l, e));
            for (uint32_t j = 0; j < n; j++)
                out |= expert[j] == e;
            if (!out && (best == c->n_experts || prob[e] > prob[best]))
                best = e;
        }
        expert[n] = (uint16_t)best;
    }
    for (uint32_t j = 0; j < k; j++) {
        weight[j] = steering(c, s, l, expert[j]).mark & DBRX_STEER_OMIT ? 0 : prob[expert[j]];
        norm += pow(weight[j], c->moe_norm_p);
    }
    for (uint32_t j = 0; j < k; j++) {
        if (c->moe_norm_p > 0 && norm > 0)
            weight[j] = (float)(weight[j] / pow(norm, 1 / c->moe_norm_p));
        weight[j] *= steering(c, s, l, expert[j]).scale;
    }
    for (uint32_t i = 1; i < k; i++)
        for (uint32_t j = i; j && (weight[j] > weight[j - 1] ||
                                   (weight[j] == weight[j - 1] && expert[j] < expert[j - 1])); j--) {
            float w = weight[j];
            uint16_t e = expert[j];
            weight[j] = weight[j - 1], weight[j - 1] = w;
            expert[j] = expert[j - 1], expert[j - 1] = e;
        }
    return 0;
}

/* ---- one token through one layer ------------------------------------------------------- */

/* out = LayerNorm(x) * w, without bias */
static void layernorm(float *out, const float *x, const struct dbrx_tensor *w, uint32_t d, float eps)
{
    double mean = 0, var = 0;
    for (uint32_t i = 0; i < d; i++)
        mean += x[i] / (double)d;
    for (uint32_t i = 0; i < d; i++)
        var += (x[i] - mean) * (x[i] - mean) / d;
    for (uint32_t i = 0; i < d; i++)
        out[i] = (float)((x[i] - mean) / sqrt(var + eps) * at(w, i));
}

/* x += attention: grouped queries, keys after clip and RoPE */
static void attend(dbrx_session *s, const struct dbrx_layer *y, uint32_t l)
{
    const struct dbrx_config *c = &s->m->desc->config;
    uint32_t d = c->d_model, hd = d / c->n_heads, kvd = c->n_kv_heads * hd, half = hd / 2;
    float *k = s->k + (size_t)l * s->max_pos * kvd, *v = s->v + (size_t)l * s->max_pos * kvd;
    layernorm(s->h, s->x, &y->norm_1, d, c->ln_eps);
    product(s->qkv, &y->wqkv, 0, d + 2 * kvd, d, s->h);
    for (uint32_t i = 0; i < d + 2 * kvd && c->clip_qkv > 0; i++)      /* fminf would hide a NaN */
        s->qkv[i] = s->qkv[i] > c->clip_qkv ? c->clip_qkv : s->qkv[i] < -c->clip_qkv ? -c->clip_qkv : s->qkv[i];
    for (uint32_t head = 0; head < c->n_heads + c->n_kv_heads; head++)
        for (uint32_t i = 0; i < half; i++) {
            float *a = s->qkv + head * hd + i, *b = a + half, u = *a, w = *b;
            float angle = (float)s->pos * (1 / powf(c->rope_theta, (float)(2 * i) / (float)hd));
            *a = u * cosf(angle) - w * sinf(angle);
            *b = w * cosf(angle) + u * sinf(angle);
        }
    memcpy(k + (size_t)s->pos * kvd, s->qkv + d, kvd * sizeof *k);
    memcpy(v + (size_t)s->pos * kvd, s->qkv + d + kvd, kvd * sizeof *v);
    for (uint32_t head = 0; head < c->n_heads; head++) {
        size_t of = head / (c->n_heads / c->n_kv_heads) * (size_t)hd;
        double max = -INFINITY, sum = 0;
        for (uint32_t j = 0; j <= s->pos; j++) {
            double dot = 0;
            for (uint32_t i = 0; i < hd; i++)
                dot += (double)s->qkv[head * hd + i] * k[(size_t)j * kvd + of + i];
            s->score[j] = (float)(dot / sqrt(hd));
            max = s->score[j] > max ? s->score[j] : max;
        }
        for (uint32_t j = 0; j <= s->pos; j++)
            sum += s->score[j] = (float)exp(s->score[j] - max);
        for (uint32_t i = 0; i < hd; i++) {
            double mix = 0;
            for (uint32_t j = 0; j <= s->pos; j++)
                mix += (double)s->score[j] * v[(size_t)j * kvd + of + i];
            s->att[head * hd + i] = (float)(mix / sum);
        }
    }
    product(s->h, &y->wo, 0, d, d, s->att);
    for (uint32_t i = 0; i < d; i++)
        s->x[i] += s->h[i];
}

static float activation(uint32_t fn, float x)
{
    return fn == DBRX_GELU ? 0.5f * x * (1 + erff(x * 0.70710678f)) : x / (1 + expf(-x));
}

/* part[d_model] = weight * w2(act(w1 h) * (v1 h)) of expert e */
static void expert_term(dbrx_session *s, const struct dbrx_layer *y, uint32_t e, float weight, float *part)
{
    const struct dbrx_config *c = &s->m->desc->config;
    uint32_t d = c->d_model, ffn = c->d_ffn;
    float *gate = s->act, *up = s->act + ffn;
    product(gate, &y->w1, (size_t)e * ffn, ffn, d, s->h);
    product(up, &y->v1, (size_t)e * ffn, ffn, d, s->h);
    for (uint32_t r = 0; r < ffn; r++)
        gate[r] = activation(c->act_fn, gate[r]) * up[r];
    for (uint32_t i = 0; i < d; i++) {
        double sum = 0;
        for (uint32_t r = 0; r < ffn; r++)
            sum += (double)gate[r] * at(&y->w2, s->m->desc->w2_layout == DBRX_W2_MODEL_ROWS
                                        ? ((size_t)e * d + i) * ffn + r : ((size_t)e * ffn + r) * d + i);
        part[i] = (float)(weight * sum);
    }
}

/* x += the chosen experts' terms; the route goes to the sink */
static dbrx_status mix_experts(dbrx_session *s, const struct dbrx_layer *y, uint32_t l, const struct dbrx_batch *b,
                               struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->desc->config;
    uint32_t d = c->d_model, k = top_k(c, b->steer, l), n = c->n_experts;
    float logit[n], prob[n], weight[n];    /* a few numbers */
    uint16_t expert[n];
    layernorm(s->h, s->x, &y->norm_2, d, c->ln_eps);
    product(logit, &y->router, 0, n, d, s->h);
    if (route(c, b->steer, l, logit, prob, expert, weight))
        return fail(err, DBRX_E_UNSUPPORTED, "the router of layer %u gives no numbers: the weights are damaged", l);
    for (uint32_t j = 0; j < k; j++) {
        float *part = s->part + (size_t)j * d;
        memset(part, 0, d * sizeof *part);
        if (weight[j] != 0)
            expert_term(s, y, expert[j], weight[j], part);
    }
    for (uint32_t i = 0; i < d; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < k; j++)
            sum += s->part[(size_t)j * d + i];
        s->x[i] += (float)sum;
    }
    if (b->route) {
        struct dbrx_route r = {
            .struct_size = sizeof r, .layer = l, .pos = s->pos, .n_tokens = 1, .top_k = k, .n_experts = n,
            .expert = expert, .weight = weight, .prob = b->route->want & DBRX_ROUTE_PROB ? prob : NULL,
            .logit = b->route->want & DBRX_ROUTE_LOGIT ? logit : NULL,
        };
        b->route->emit(b->route->ctx, &r);
    }
    if (b->tap && b->tap->want[l + 1] & 1 << DBRX_TAP_EXPERT)
        b->tap->emit(b->tap->ctx, DBRX_TAP_EXPERT, (int32_t)l, s->pos, 1, s->part);
    return DBRX_OK;
}

static void tap(const dbrx_session *s, const struct dbrx_batch *b, int32_t l)
{
    if (b->tap && b->tap->want[l + 1] & 1 << DBRX_TAP_RESIDUAL)
        b->tap->emit(b->tap->ctx, DBRX_TAP_RESIDUAL, l, s->pos, 1, s->x);
}

static dbrx_status one_token(dbrx_session *s, const struct dbrx_batch *b, uint32_t i, float *logits,
                             struct dbrx_error *err)
{
    const dbrx_model *m = s->m;
    const struct dbrx_config *c = &m->desc->config;
    for (uint32_t j = 0; j < c->d_model; j++)
        s->x[j] = at(&m->desc->embed, (size_t)b->token[i] * c->d_model + j);
    tap(s, b, -1);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        if (m->host->should_stop(m->host))
            return DBRX_STOPPED;           /* position() has not moved: only whole tokens count */
        if (b->n_tokens > 1)
            m->host->progress(m->host, "prompt", i, b->n_tokens);
        attend(s, layer(m, l), l);
        dbrx_status st = mix_experts(s, layer(m, l), l, b, err);
        if (st != DBRX_OK)
            return st;
        tap(s, b, (int32_t)l);
    }
    if (logits) {
        layernorm(s->h, s->x, &m->desc->norm_f, c->d_model, c->ln_eps);
        product(logits, &m->desc->lm_head, 0, c->n_vocab, c->d_model, s->h);
        for (uint32_t v = 0; v < c->n_vocab; v++)
            if (!isfinite(logits[v]))
                return fail(err, DBRX_E_UNSUPPORTED, "the logit of token %u is no number: the weights are damaged", v);
    }
    s->pos++;
    return DBRX_OK;
}

/* ---- eval ------------------------------------------------------------------------------ */

static dbrx_status eval(dbrx_session *s, const struct dbrx_batch *b, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->desc->config;
    size_t rows = b->want_logits == DBRX_LOGITS_ALL ? b->n_tokens : b->want_logits == DBRX_LOGITS_LAST;
    uint32_t start = s->pos;
    if (b->struct_size < sizeof *b || !b->n_tokens || !b->token || b->want_logits > DBRX_LOGITS_ALL)
        return fail(err, DBRX_E_INVALID, "this is no batch of tokens");
    if (rows && (!b->logits || b->logits_len / c->n_vocab < rows))
        return fail(err, DBRX_E_INVALID, "no room for %zu rows of %u logits", rows, c->n_vocab);
    for (uint32_t i = 0; i < b->n_tokens; i++)
        if (b->token[i] < 0 || (uint32_t)b->token[i] >= c->n_vocab)
            return fail(err, DBRX_E_INVALID, "token id %d is outside the vocabulary of %u", b->token[i], c->n_vocab);
    if (b->n_tokens > s->max_pos - s->pos)
        return fail(err, DBRX_E_FULL, "%u tokens do not fit: %u of %u positions are taken", b->n_tokens, s->pos,
                    s->max_pos);
    dbrx_status st = check_steering(c, b->steer, err);
    for (uint32_t i = 0; i < b->n_tokens && st == DBRX_OK; i++) {
        size_t row = b->want_logits == DBRX_LOGITS_ALL ? i : 0;
        int wanted = rows == b->n_tokens || (rows && i + 1 == b->n_tokens);
        st = one_token(s, b, i, wanted ? b->logits + row * c->n_vocab : NULL, err);
    }
    if (st < 0)
        s->pos = start;                    /* an error leaves none of the batch, a stop what is whole */
    return st;
}

/* ---- the module -------------------------------------------------------------------------- */

static const struct dbrx_backend backend = {
    .struct_size = sizeof backend, .options = options, .probe = probe, .model_open = model_open,
    .model_close = model_close, .session_open = session_open, .session_close = session_close, .eval = eval,
    .position = position, .truncate = truncate_to,
};

/* One token after the other, each alone: nothing can depend on what is beside it */
static uint32_t promises(const dbrx_model *m)
{
    (void)m;
    return DBRX_REPRO_CHUNKS | DBRX_REPRO_THREADS | DBRX_REPRO_BATCH;
}

static const struct dbrx_repro repro = { .struct_size = sizeof repro, .promises = promises };

static const void *get(const char *id)
{
    return !strcmp(id, DBRX_BACKEND) ? (const void *)&backend
         : !strcmp(id, DBRX_REPRO)   ? (const void *)&repro : NULL;
}

DBRX_EXPORT const struct dbrx_module_info dbrx_module = {
    .struct_size = sizeof dbrx_module, .abi_major = DBRX_ABI_MAJOR, .abi_minor = DBRX_ABI_MINOR,
    .name = "naive", .version = "1", .summary = "a whole backend in one file", .get = get,
};
