/* backends/graph/graph.c -- the forward pass: embedding, n_layers blocks, head.
 * To be read beside DBRX's reference code; the arithmetic is in the ops.
 * Knows no files, threads or vector instructions. */
#include "backends/graph/graph.h"

#include "backends/graph/dequant.h"
#include "backends/graph/inputs.h"
#include "backends/graph/route.h"
#include "plugins/fail.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Angles in float32, as the reference has them: position * theta^(-2i/head_dim). */
static void rope_angles(const struct dbrx_config *c, uint32_t pos, uint32_t n, float (*cs)[2])
{
    uint32_t hd = c->d_model / c->n_heads;
    for (uint32_t i = 0; i < hd / 2; i++) {
        float inv_freq = 1 / powf(c->rope_theta, (float)(2 * i) / (float)hd);
        for (uint32_t t = 0; t < n; t++) {
            float angle = (float)(pos + t) * inv_freq;
            cs[t * (hd / 2) + i][0] = cosf(angle);
            cs[t * (hd / 2) + i][1] = sinf(angle);
        }
    }
}

/* What a pass over some tokens works on: n positions from pos on, through blocks layer.. */
struct pass { const struct dbrx_batch *b; uint32_t layer, pos, n; };

static void emit_tap(const struct pass *p, int kind, int32_t layer, const float *x)
{
    const struct dbrx_tap *tap = p->b->tap;
    if (tap && tap->want[layer + 1] & 1 << kind)
        tap->emit(tap->ctx, kind, layer, p->pos, p->n, x);
}

/* h = the experts' weighted sum is added to x; routes go to the sink */
static dbrx_status moe_block(dbrx_session *s, const struct pass *p, uint32_t l, struct dbrx_error *err)
{
    const dbrx_model *m = s->model;
    const struct dbrx_config *c = &m->cfg;
    const struct dbrx_batch *b = p->b;
    const uint32_t n = p->n;
    const struct dbrx_route_sink *sink = b->route;
    uint32_t k = route_top_k(c, b->steer, l);
    int parts = b->tap && b->tap->want[l + 1] & 1 << DBRX_TAP_EXPERT;

    m->ops.linear(&s->work, s->logit, s->h, &m->layer[l]->router, n, c->n_experts, c->d_model);
    for (uint32_t t = 0; t < n; t++)
        if (route_token(c, b->steer, l, s->logit + (size_t)t * c->n_experts,
                        s->prob + (size_t)t * c->n_experts, s->expert + (size_t)t * k,
                        s->weight + (size_t)t * k))
            return bad_router(l, p->pos + t, err);
    struct moe moe = {
        .layer = m->layer[l], .h = s->h, .x = s->x, .expert = s->expert, .weight = s->weight,
        .part = parts ? s->part : NULL, .n = n, .k = k, .d_model = c->d_model,
        .d_ffn = c->d_ffn, .n_experts = c->n_experts, .act_fn = c->act_fn,
        .w2_layout = m->w2_layout,
    };
    inputs_experts(s, l, n, k);
    m->ops.experts(&s->work, &moe);
    if (sink) {
        struct dbrx_route r = {
            .struct_size = sizeof r, .layer = l, .pos = p->pos, .n_tokens = n, .top_k = k,
            .n_experts = c->n_experts, .expert = s->expert, .weight = s->weight,
            .prob = sink->want & DBRX_ROUTE_PROB ? s->prob : NULL,
            .logit = sink->want & DBRX_ROUTE_LOGIT ? s->logit : NULL,
        };
        sink->emit(sink->ctx, &r);
    }
    if (parts)
        emit_tap(p, DBRX_TAP_EXPERT, (int32_t)l, s->part);
    return DBRX_OK;
}

/* Rows that are no numbers are found where they arise, before all that follows is none either */
static dbrx_status check_rows(const float *x, size_t n, int64_t layer, struct dbrx_error *err)
{
    return all_finite(x, n) ? DBRX_OK
         : layer < 0 ? fail(err, DBRX_E_UNSUPPORTED, "the embedding holds values that are no numbers: the weights are damaged")
         : fail(err, DBRX_E_UNSUPPORTED, "layer %d gives values that are no numbers: its weights are damaged", (int)layer);
}

/* s->x, the rows that enter block p->layer, through the blocks from there on: their KV is
 * written, x = what the last block leaves.  `first`: of how many the batch has, for progress. */
static dbrx_status run_blocks(dbrx_session *s, const struct pass *p, uint32_t first, struct dbrx_error *err)
{
    const dbrx_model *m = s->model;
    const struct dbrx_config *c = &m->cfg;
    const struct ops *op = &m->ops;
    const struct dbrx_batch *b = p->b;
    const uint32_t d = c->d_model, hd = d / c->n_heads, kvd = c->n_kv_heads * hd, qkvd = d + 2 * kvd, n = p->n;
    const size_t kv_row = s->kv_row;

    rope_angles(c, p->pos, n, s->cs);
    for (uint32_t l = p->layer; l < c->n_layers; l++) {
        char *k = s->k + l * s->kv_slice, *v = s->v + l * s->kv_slice;
        if (m->host->should_stop(m->host))
            return DBRX_STOPPED;
        if (b->n_tokens > 1)
            m->host->progress(m->host, "prompt", first + (uint64_t)n * l / c->n_layers,
                              b->n_tokens);

        op->layernorm(&s->work, s->h, s->x, m->norm_1 + (size_t)l * d, n, d, c->ln_eps);
        inputs_emit(s, DBRX_INPUT_QKV, l, n, d, s->h);
        op->linear(&s->work, s->qkv, s->h, &m->layer[l]->wqkv, n, qkvd, d);
        op->clip_rope(&s->work, s->qkv, n, qkvd, c->clip_qkv, c->n_heads + c->n_kv_heads, hd,
                      (const float (*)[2])s->cs);
        op->store(&s->work, k + p->pos * kv_row, m->kv_dtype, s->qkv + d, qkvd, n, kvd);
        op->store(&s->work, v + p->pos * kv_row, m->kv_dtype, s->qkv + d + kvd, qkvd, n, kvd);
        op->attention(&s->work, &(struct attn){
            .q = s->qkv, .q_stride = qkvd, .k = k, .v = v, .out = s->h, .n = n, .pos = p->pos,
            .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = hd,
            .kv_dtype = m->kv_dtype });
        inputs_emit(s, DBRX_INPUT_WO, l, n, d, s->h);
        op->linear(&s->work, s->qkv, s->h, &m->layer[l]->wo, n, d, d);
        op->add(&s->work, s->x, s->qkv, n, d);

        op->layernorm(&s->work, s->h, s->x, m->norm_2 + (size_t)l * d, n, d, c->ln_eps);
        dbrx_status st = check_rows(s->x, (size_t)n * d, l, err);
        if (st == DBRX_OK)
            st = moe_block(s, p, l, err);
        if (st == DBRX_OK)
            st = check_rows(s->x, (size_t)n * d, l, err);
        if (st != DBRX_OK)
            return st;
        emit_tap(p, DBRX_TAP_RESIDUAL, (int32_t)l, s->x);
    }
    return DBRX_OK;
}

/* logits[n][n_vocab] = lm_head(LayerNorm(x[n][d_model]) * norm_f) */
static dbrx_status head_rows(dbrx_session *s, const float *x, uint32_t n, float *logits,
                             struct dbrx_error *err)
{
    const dbrx_model *m = s->model;
    const struct dbrx_config *c = &m->cfg;
    m->ops.layernorm(&s->work, s->h, x, m->norm_f, n, c->d_model, c->ln_eps);
    inputs_emit(s, DBRX_INPUT_HEAD, 0, n, c->d_model, s->h);
    m->ops.linear(&s->work, logits, s->h, &m->lm_head, n, c->n_vocab, c->d_model);
    return check_logits(c, logits, n, err); /* no router looks at these */
}

/* A batch that can be run, and room for what its tap wants */
static dbrx_status prepare(dbrx_session *s, const struct dbrx_batch *b, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->model->cfg;
    dbrx_status st = check_batch(c, b, err);
    for (uint32_t l = 0; st == DBRX_OK && b->tap && !s->part && l < c->n_layers; l++)
        if (b->tap->want[l + 1] & 1 << DBRX_TAP_EXPERT) {
            s->part = malloc((size_t)GRAPH_CHUNK * c->n_experts * c->d_model * sizeof(float));
            if (!s->part)
                st = fail(err, DBRX_E_NOMEM, "out of memory for the expert tap");
        }
    return st;
}

/* Rows first .. first+n of the batch have left the last block: their logits, where wanted */
static dbrx_status chunk_logits(dbrx_session *s, const struct dbrx_batch *b, uint32_t first, uint32_t n,
                                struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->model->cfg;
    if (b->want_logits == DBRX_LOGITS_ALL)
        return head_rows(s, s->x, n, b->logits + (size_t)first * c->n_vocab, err);
    if (b->want_logits == DBRX_LOGITS_LAST && first + n == b->n_tokens)
        return head_rows(s, s->x + (size_t)(n - 1) * c->d_model, 1, b->logits, err);
    return DBRX_OK;
}

dbrx_status graph_eval(dbrx_session *s, const struct dbrx_batch *b, struct dbrx_error *err)
{
    const dbrx_model *m = s->model;
    const size_t d = m->cfg.d_model;
    uint32_t start = s->pos;
    dbrx_status st = prepare(s, b, err);
    if (st == DBRX_OK)
        st = check_tokens(&m->cfg, b, s->pos, s->max_pos, err);
    for (uint32_t l = 0; st == DBRX_OK && l < m->cfg.n_layers; l++)
        graph_kv_grow(s, l, start, start + b->n_tokens);
    for (uint32_t first = 0, n; st == DBRX_OK && first < b->n_tokens; first += n) {
        n = b->n_tokens - first < GRAPH_CHUNK ? b->n_tokens - first : GRAPH_CHUNK;
        struct pass p = { b, 0, s->pos, n };
        for (uint32_t t = 0; t < n; t++)
            dequant(s->x + t * d, m->embed.data, m->embed.dtype, (size_t)b->token[first + t] * d, d);
        emit_tap(&p, DBRX_TAP_RESIDUAL, -1, s->x);
        if ((st = check_rows(s->x, n * d, -1, err)) == DBRX_OK && (st = run_blocks(s, &p, first, err)) == DBRX_OK) {
            s->pos += n;                   /* a whole chunk more */
            st = chunk_logits(s, b, first, n, err);
        }
    }
    if (st < 0)
        s->pos = start;                    /* an error leaves none of the batch */
    return st;
}

static dbrx_status resume(dbrx_session *s, uint32_t layer, uint32_t pos, const float *x,
                          const struct dbrx_batch *b, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->model->cfg;
    dbrx_status st = prepare(s, b, err);
    if (st == DBRX_OK)
        st = check_resume(c, b, layer, pos, x, s->pos, err);
    for (uint32_t first = 0, n; st == DBRX_OK && first < b->n_tokens; first += n) {
        n = b->n_tokens - first < GRAPH_CHUNK ? b->n_tokens - first : GRAPH_CHUNK;
        struct pass p = { b, layer, pos + first, n };
        memcpy(s->x, x + (size_t)first * c->d_model, (size_t)n * c->d_model * sizeof *x);
        if ((st = run_blocks(s, &p, first, err)) == DBRX_OK)
            st = chunk_logits(s, b, first, n, err);
    }
    return st;
}

const struct dbrx_resume graph_resume = { .struct_size = sizeof graph_resume, .resume = resume };

static dbrx_status head(dbrx_session *s, const float *x, uint32_t n, float *logits,
                        struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->model->cfg;
    dbrx_status st = check_head(x, n, logits, err);
    for (uint32_t first = 0, step; first < n && st == DBRX_OK; first += step) {
        step = n - first < GRAPH_CHUNK ? n - first : GRAPH_CHUNK;
        st = head_rows(s, x + (size_t)first * c->d_model, step,
                       logits + (size_t)first * c->n_vocab, err);
    }
    return st;
}

const struct dbrx_head graph_head = { .struct_size = sizeof graph_head, .head = head };
