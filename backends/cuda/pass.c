/* backends/cuda/pass.c -- which kernels run, in which order, on how many blocks.  To be read beside
 * backends/graph/graph.c, which says the same in plain C.  Waits for nothing but a watcher. */
#include "backends/cuda/pass.h"

#include <string.h>

enum { THREADS = 256, WARPS = THREADS / 32, WAVES = 4,         /* blocks of a matvec for each processor */
       MOST_SHARED = 96 << 10 };

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

#define LAUNCH(p, kernel, x, y, z, threads, shared, args) \
    gpu_launch((p)->stream, kernel, (uint32_t[3]){ x, y, z }, threads, shared, &(args), sizeof (args))

/* Blocks for `rows` rows, `each` of them at a time, when `beside` others of the kind run, too */
static uint32_t blocks(const struct part *p, uint32_t rows, uint32_t each, uint32_t beside)
{
    uint32_t want = ceil_div(rows, each), most = (uint32_t)p->dev->info.processors * WAVES / beside;
    most = most ? most : 1;
    return want < most ? want : most;
}

static size_t row_shared(uint32_t cols)
{
    return (size_t)(cols / GROUP) * PADDED * sizeof(float);
}

static int few(uint32_t n, uint32_t cols)
{
    return n <= FEW && row_shared(cols) <= MOST_SHARED;
}

static void linear(const dbrx_model *m, struct part *p, const struct mat *w, const float *x, float *y, uint32_t n, uint32_t ldy, int add)
{
    struct linear_args a = { .w = *w, .x = x, .y = y, .n = n, .ldy = ldy, .add = (uint32_t)add };
    if (few(n, w->cols))
        LAUNCH(p, gpu_typed(K_matvec_f32, w->type), blocks(p, w->rows, WARPS * ROWS, n), n, 1, THREADS,
               row_shared(w->cols), a);
    else
        LAUNCH(p, m->set.fast ? K_tiled_fast : K_tiled, ceil_div(w->rows, TILE), ceil_div(n, TILE), 1, TILE_THREADS, TILE_SHARED, a);
}

static void norm(const dbrx_model *m, struct part *p, const float *x, const float *w, uint32_t n)
{
    struct norm_args a = { .x = x, .w = w, .y = p->h, .d = m->cfg.d_model, .ld = m->ld, .eps = m->cfg.ln_eps };
    LAUNCH(p, K_norm, n, 1, 1, THREADS, WARPS * sizeof(float), a);
}

void pass_begin(dbrx_session *s, struct part *p, const struct pass *q)
{
    const struct pinned *h = s->pinned;
    const struct dbrx_config *c = &s->m->cfg;
    const size_t all = (size_t)c->n_layers * c->n_experts;
    gpu_copy(p->stream, p->step, &h->step, sizeof h->step);
    gpu_copy(p->stream, p->token, h->token, q->n * sizeof *h->token);
    gpu_copy(p->stream, p->want, h->want, c->n_layers + 1);
    gpu_copy(p->stream, p->steer.bias, h->steer.bias, all * sizeof(float));
    gpu_copy(p->stream, p->steer.scale, h->steer.scale, all * sizeof(float));
    gpu_copy(p->stream, p->steer.source, h->steer.source, all * 2);
    gpu_copy(p->stream, p->steer.top_k, h->steer.top_k, c->n_layers * 2);
    gpu_copy(p->stream, p->steer.mark, h->steer.mark, all);
}

void pass_embed(dbrx_session *s, struct part *p, const struct pass *q)
{
    struct embed_args a = { .step = p->step, .w = s->m->embed, .token = p->token, .x = p->x, .tap_x = p->tap_x,
                            .want = p->want };
    LAUNCH(p, K_embed, q->n, 1, 1, 64, 0, a);
}

static void attention(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l)
{
    const dbrx_model *m = s->m;
    const struct dbrx_config *c = &m->cfg;
    const size_t kv = (l - p->first) * p->kv_layer;
    const uint32_t type = m->set.kv_type;
    struct rope_args r = { .step = p->step, .qkv = p->qkv, .k = p->k + kv, .v = p->v + kv,
                           .inv_freq = p->dev->inv_freq, .heads = c->n_heads, .kv_heads = c->n_kv_heads,
                           .head = m->head, .type = type, .clip = c->clip_qkv };
    LAUNCH(p, K_rope, q->n, 1, 1, THREADS, 0, r);
    struct attend_args a = { .step = p->step, .q = p->qkv, .k = p->k + kv, .v = p->v + kv, .out = p->h,
                             .part = p->split, .ldq = m->qkv, .ldo = m->ld, .heads = c->n_heads,
                             .kv_heads = c->n_kv_heads, .head = m->head, .n = q->n,
                             .splits = q->n <= FEW ? s->splits : 1, .type = type };
    const enum gpu_kernel k = type == DBRX_F32 ? K_attend_f32 : type == DBRX_F16 ? K_attend_f16
                            : type == DBRX_BF16 ? K_attend_bf16 : K_attend_fp8;
    LAUNCH(p, k, ceil_div(q->n * (c->n_heads / c->n_kv_heads), QUERIES), c->n_kv_heads, a.splits, KEYS,
           ATTEND_SHARED(m->head), a);
    if (a.splits > 1)
        LAUNCH(p, K_merge, c->n_heads, q->n, 1, 128, 0, a);
}

static void route(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l, const struct trace *t)
{
    const dbrx_model *m = s->m;
    const uint32_t E = m->cfg.n_experts, at = l - p->first;
    const size_t of = (size_t)l * E, row = (size_t)at * q->n;
    struct route_args a = {
        .step = p->step, .h = p->h, .router = m->layer[l].router, .expert = t->expert + row * q->slots,
        .steer = { p->steer.bias + of, p->steer.scale + of, p->steer.source + of, p->steer.top_k + l,
                   p->steer.mark + of },
        .weight = t->weight + row * q->slots, .prob = t->prob + row * E, .logit = t->logit + row * E,
        .bad = &p->step->bad, .ld = m->ld, .n_experts = E, .top_k = m->cfg.top_k, .layer = l,
        .norm_p = m->cfg.moe_norm_p,
    };
    LAUNCH(p, K_router, q->n, 1, 1, 128, (3 * E + 2 * q->slots) * sizeof(float), a);
}

static void experts(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l, const struct trace *t)
{
    const dbrx_model *m = s->m;
    const struct dbrx_config *c = &m->cfg;
    const struct block *b = &m->layer[l];
    const size_t row = (size_t)(l - p->first) * q->n * q->slots;
    const uint32_t n_slots = q->n * q->slots;
    struct expert_args a = {
        .w1 = b->w1, .v1 = b->v1, .w2 = b->w2, .expert = t->expert + row, .weight = t->weight + row, .h = p->h,
        .act = p->act, .y = p->y, .order = p->order, .start = p->start, .type1 = b->type1, .type3 = b->type3,
        .type2 = b->type2, .slots = q->slots, .d = c->d_model, .ld = m->ld, .ffn = c->d_ffn, .ffn_ld = m->ffn_ld,
        .act_fn = c->act_fn,
    };
    if (few(q->n, m->ld) && few(q->n, m->ffn_ld)) {
        LAUNCH(p, gpu_typed(K_up_f32, b->type1), blocks(p, c->d_ffn, WARPS, n_slots), n_slots, 1, THREADS,
               row_shared(m->ld), a);
        LAUNCH(p, gpu_typed(K_down_f32, b->type2), blocks(p, c->d_model, WARPS * ROWS, n_slots), n_slots, 1, THREADS,
               row_shared(m->ffn_ld), a);
        return;
    }
    struct group_args g = { .expert = a.expert, .weight = a.weight, .order = p->order, .start = p->start,
                            .n_slots = n_slots, .n_experts = c->n_experts };
    LAUNCH(p, K_group_slots, 1, 1, 1, 1024, c->n_experts * sizeof(uint32_t), g);
    /* no expert has more than every token once */
    LAUNCH(p, m->set.fast ? K_up_fast : K_tiled_up, ceil_div(c->d_ffn, TILE), ceil_div(q->n, TILE), c->n_experts, TILE_THREADS, TILE_SHARED, a);
    LAUNCH(p, m->set.fast ? K_down_fast : K_tiled_down, ceil_div(c->d_model, TILE), ceil_div(q->n, TILE), c->n_experts, TILE_THREADS, TILE_SHARED, a);
}

dbrx_status pass_layer(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l, struct dbrx_error *err)
{
    const dbrx_model *m = s->m;
    const struct dbrx_config *c = &m->cfg;
    const struct block *b = &m->layer[l];
    const uint32_t n = q->n, at = l - p->first;
    const struct trace t = trace_at(p->trace, p->end - p->first, n, q->slots, c->n_experts);
    dbrx_status st = DBRX_OK;
    norm(m, p, p->x, b->norm_1, n);
    if (s->watch)
        st = watch_rows(s, p, DBRX_INPUT_QKV, l, p->h, m->ld, n, c->d_model, err);
    linear(m, p, &b->wqkv, p->h, p->qkv, n, m->qkv, 0);
    attention(s, p, q, l);
    if (s->watch && st == DBRX_OK)
        st = watch_rows(s, p, DBRX_INPUT_WO, l, p->h, m->ld, n, c->d_model, err);
    linear(m, p, &b->wo, p->h, p->x, n, m->ld, 1);
    norm(m, p, p->x, b->norm_2, n);
    route(s, p, q, l, &t);
    experts(s, p, q, l, &t);
    if (s->watch && st == DBRX_OK)
        st = watch_experts(s, p, q, l, &t, err);
    struct combine_args a = {
        .step = p->step, .x = p->x, .y = p->y, .weight = t.weight + (size_t)at * n * q->slots, .want = p->want + l + 1,
        .tap_x = p->tap_x + (size_t)(at + 1) * s->tap_chunk * m->ld,
        .tap_part = p->tap_part + (size_t)at * s->tap_chunk * c->n_experts * m->ld, .slots = q->slots,
        .d = c->d_model, .ld = m->ld,
    };
    LAUNCH(p, K_combine, ceil_div(c->d_model, THREADS), n, 1, THREADS, 0, a);
    return st;
}

void pass_end(dbrx_session *s, struct part *p, const struct pass *q, int all)
{
    const struct trace t = trace_at(p->trace, p->end - p->first, q->n, q->slots, s->m->cfg.n_experts);
    const struct trace h = trace_at(p->trace_host, p->end - p->first, q->n, q->slots, s->m->cfg.n_experts);
    const size_t rows = (size_t)(p->end - p->first) * q->n * q->slots;
    gpu_copy(p->stream, p->bad, &p->step->bad, sizeof *p->bad);
    if (all) {
        gpu_copy(p->stream, p->trace_host, p->trace, t.bytes);
    } else {
        gpu_copy(p->stream, h.weight, t.weight, rows * sizeof *t.weight);
        gpu_copy(p->stream, h.expert, t.expert, rows * sizeof *t.expert);
    }
}

void pass_head(dbrx_session *s, struct part *p, const float *x, uint32_t n)
{
    const dbrx_model *m = s->m;
    norm(m, p, x, m->norm_f, n);
    linear(m, p, &m->lm_head, p->h, s->logits, n, m->cfg.n_vocab, 0);
    gpu_copy(p->stream, s->logits_host, s->logits, (size_t)n * m->cfg.n_vocab * sizeof(float));
}
