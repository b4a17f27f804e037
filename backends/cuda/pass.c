/* backends/cuda/pass.c -- which kernels run, in which order, on how many blocks.  To be read beside
 * backends/graph/graph.c, which says the same in plain C.  Waits for nothing but a watcher. */
#include "backends/cuda/pass.h"

#include <string.h>

enum { THREADS = 256, WARPS = THREADS / 32, MOST_SHARED = 96 << 10,
       ROUTE_BLOCKS = 32 };                /* of a token's router at most                    */

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

#define LAUNCH(p, kernel, x, y, z, threads, shared, args) \
    gpu_launch((p)->stream, kernel, (uint32_t[3]){ x, y, z }, threads, shared, &(args), sizeof (args))

/* a row as stage_row lays it down, and a sum of each warp */
static size_t row_shared(uint32_t cols)
{
    return ((size_t)(cols / GROUP) * PADDED + WARPS) * sizeof(float);
}

/* Do so many tokens go one by one through kernels that keep a row in shared memory? */
static int few(const dbrx_model *m, uint32_t n)
{
    return n <= FEW && row_shared(m->ld) <= MOST_SHARED && row_shared(m->ffn_ld) <= MOST_SHARED;
}

static void norm(const dbrx_model *m, struct part *p, const float *x, const float *w, uint32_t n)
{
    struct norm_args a = { .x = x, .w = w, .y = p->h, .d = m->cfg.d_model, .ld = m->ld, .eps = m->cfg.ln_eps };
    LAUNCH(p, K_norm, n, 1, 1, THREADS, WARPS * sizeof(float), a);
}

static struct norming norming(const dbrx_model *m, const float *w)
{
    return (struct norming){ .w = w, .d = m->cfg.d_model, .eps = m->cfg.ln_eps };
}

/* A kernel over `pairs` pairs of rows in each of n places, on as many blocks as run at once: a row is
 * staged once a block, and none comes late. */
static void launch_rows(struct part *p, enum gpu_kernel k, uint32_t pairs, uint32_t n, size_t shared, const void *args,
                        size_t size)
{
    const uint32_t beside = gpu_beside(p->stream, k, THREADS, shared), want = ceil_div(pairs, WARPS);
    const uint32_t most = (uint32_t)p->dev->info.processors * (beside < BESIDE ? beside : BESIDE) / n;
    gpu_launch(p->stream, k, (uint32_t[3]){ want < most ? want : most ? most : 1, n, 1 }, THREADS, shared, args, size);
}

/* A product of a few tokens, with what goes before it (norm) and after it (rope) when there are */
static void matvec(struct part *p, const struct linear_args *a)
{
    launch_rows(p, gpu_typed(K_matvec_f32, a->w.type), ceil_div(a->w.rows, PAIR), a->n, row_shared(a->w.cols), a,
                sizeof *a);
}

/* x[n][cols] as bfloat16, where y will be: nobody needs that before the product that follows is done */
static uint16_t *rounded(struct part *p, const float *x, uint32_t n, uint32_t cols)
{
    const uint64_t all = (uint64_t)n * cols;
    const struct convert_args a = { .from = (const unsigned char *)x, .to = (unsigned char *)p->y, .n = all,
                                    .from_type = DBRX_F32, .to_type = DBRX_BF16 };
    LAUNCH(p, K_convert, (uint32_t)(all / THREADS < 8192 ? all / THREADS + 1 : 8192), 1, 1, THREADS, 0, a);
    return (uint16_t *)p->y;
}

static void tiled(const dbrx_model *m, struct part *p, struct linear_args *a)
{
    if (m->set.fast) {
        a->x16 = rounded(p, a->x, a->n, a->w.cols);
        LAUNCH(p, gpu_typed(K_fast_f32, a->w.type), ceil_div(a->n, FAST), ceil_div(a->w.rows, FAST), 1, FAST_THREADS,
               FAST_SHARED, *a);
    } else {
        LAUNCH(p, K_tiled, ceil_div(a->w.rows, TILE), ceil_div(a->n, TILE), 1, TILE_THREADS, TILE_SHARED, *a);
    }
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

/* x -> norm -> qkv, clipped and rotated; keys and values to the cache */
static dbrx_status project(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l, struct dbrx_error *err)
{
    const dbrx_model *m = s->m;
    const struct dbrx_config *c = &m->cfg;
    const struct block *b = &m->layer[l];
    const size_t kv = (l - p->first) * p->kv_layer;
    dbrx_status st = DBRX_OK;
    struct linear_args a = {
        .w = b->wqkv, .x = p->x, .y = p->qkv, .n = q->n, .ldy = m->qkv, .norm = norming(m, b->norm_1),
        .rope = { .step = p->step, .qkv = p->qkv, .k = p->k + kv, .v = p->v + kv, .inv_freq = p->dev->inv_freq,
                  .heads = c->n_heads, .kv_heads = c->n_kv_heads, .head = m->head, .type = m->set.kv_type,
                  .clip = c->clip_qkv },
    };
    if (!few(m, q->n) || s->watch)
        norm(m, p, p->x, b->norm_1, q->n);
    if (s->watch)
        st = watch_rows(s, p, DBRX_INPUT_QKV, l, p->h, m->ld, q->n, c->d_model, err);
    if (few(m, q->n)) {
        matvec(p, &a);
        return st;
    }
    a.x = p->h;
    tiled(m, p, &a);
    LAUNCH(p, K_rope, q->n, 1, 1, THREADS, 0, a.rope);
    return st;
}

static void attention(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l)
{
    const dbrx_model *m = s->m;
    const struct dbrx_config *c = &m->cfg;
    const size_t kv = (l - p->first) * p->kv_layer;
    const uint32_t type = m->set.kv_type;
    struct attend_args a = { .step = p->step, .q = p->qkv, .k = p->k + kv, .v = p->v + kv, .out = p->h,
                             .part = p->split, .count = p->count, .ldq = m->qkv, .ldo = m->ld, .heads = c->n_heads,
                             .kv_heads = c->n_kv_heads, .head = m->head, .n = q->n,
                             .splits = q->n <= FEW ? s->splits : 1, .type = type };
    if (m->set.fast && q->n > FEW && m->head % 16 == 0 && m->head <= FLASH_HEAD) {
        const enum gpu_kernel f = type == DBRX_F32 ? K_flash_f32 : type == DBRX_F16 ? K_flash_f16
                                : type == DBRX_BF16 ? K_flash_bf16 : K_flash_fp8;
        LAUNCH(p, f, ceil_div(q->n * (c->n_heads / c->n_kv_heads), FLASH), c->n_kv_heads, 1, FLASH_THREADS, FLASH_SHARED, a);
        return;
    }
    const enum gpu_kernel k = type == DBRX_F32 ? K_attend_f32 : type == DBRX_F16 ? K_attend_f16
                            : type == DBRX_BF16 ? K_attend_bf16 : K_attend_fp8;
    LAUNCH(p, k, ceil_div(q->n * (c->n_heads / c->n_kv_heads), QUERIES), c->n_kv_heads, a.splits, KEYS,
           ATTEND_SHARED(m->head), a);
}

static void out_proj(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l)
{
    struct linear_args a = { .w = s->m->layer[l].wo, .x = p->h, .y = p->x, .n = q->n, .ldy = s->m->ld, .add = 1 };
    if (few(s->m, q->n))
        matvec(p, &a);
    else
        tiled(s->m, p, &a);
}

/* x -> norm -> h, and which experts see it */
static void route(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l, const struct trace *t)
{
    const dbrx_model *m = s->m;
    const uint32_t E = m->cfg.n_experts, at = l - p->first;
    const size_t of = (size_t)l * E, row = (size_t)at * q->n;
    struct route_args a = {
        .step = p->step, .x = p->x, .router = m->layer[l].router, .norm = norming(m, m->layer[l].norm_2), .h = p->h,
        .count = p->count, .expert = t->expert + row * q->slots,
        .steer = { p->steer.bias + of, p->steer.scale + of, p->steer.source + of, p->steer.top_k + l,
                   p->steer.mark + of },
        .weight = t->weight + row * q->slots, .prob = t->prob + row * E, .logit = t->logit + row * E,
        .bad = &p->step->bad, .ld = m->ld, .n_experts = E, .top_k = m->cfg.top_k, .layer = l,
        .norm_p = m->cfg.moe_norm_p,
    };
    LAUNCH(p, K_router, q->n > FEW ? 1 : E < ROUTE_BLOCKS ? E : ROUTE_BLOCKS, q->n, 1, THREADS,
           row_shared(m->ld) + (3 * E + 2 * q->slots) * sizeof(float), a);
}

static void experts(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l, const struct trace *t)
{
    const dbrx_model *m = s->m;
    const struct dbrx_config *c = &m->cfg;
    const struct block *b = &m->layer[l];
    const uint32_t at = l - p->first, n_slots = q->n * q->slots;
    const size_t row = (size_t)at * n_slots;
    struct expert_args a = {
        .w1 = b->w1, .v1 = b->v1, .w2 = b->w2, .expert = t->expert + row, .weight = t->weight + row, .h = p->h,
        .act = p->act, .y = p->y, .order = p->order, .start = p->start, .type1 = b->type1, .type3 = b->type3,
        .type2 = b->type2, .slots = q->slots, .d = c->d_model, .ld = m->ld, .ffn = c->d_ffn, .ffn_ld = m->ffn_ld,
        .act_fn = c->act_fn, .count = p->count,
        .combine = { .step = p->step, .x = p->x, .y = p->y, .weight = t->weight + row, .want = p->want + l + 1,
                     .tap_x = p->tap_x + (size_t)(at + 1) * s->tap_chunk * m->ld,
                     .tap_part = p->tap_part + (size_t)at * s->tap_chunk * c->n_experts * m->ld, .slots = q->slots,
                     .d = c->d_model, .ld = m->ld },
    };
    if (few(m, q->n)) {
        launch_rows(p, gpu_typed(K_up_f32, b->type1), c->d_ffn, n_slots, row_shared(m->ld), &a, sizeof a);
        launch_rows(p, gpu_typed(K_down_f32, b->type2), ceil_div(c->d_model, PAIR), n_slots, row_shared(m->ffn_ld), &a,
                    sizeof a);
        return;
    }
    struct group_args g = { .expert = a.expert, .weight = a.weight, .order = p->order, .start = p->start,
                            .n_slots = n_slots, .n_experts = c->n_experts };
    LAUNCH(p, K_group_slots, 1, 1, 1, 1024, c->n_experts * sizeof(uint32_t), g);
    /* no expert has more than every token once.  Tensor cores leave act rounded, in the same place: not
     * for who watches it, nor where rows end in zeros that must stay. */
    if (m->set.fast && !s->watch && b->type1 == b->type3 && c->d_ffn == m->ffn_ld) {
        a.h16 = rounded(p, p->h, q->n, m->ld);
        a.act16 = (uint16_t *)p->act;
        LAUNCH(p, gpu_typed(K_fast_up_f32, b->type1), ceil_div(q->n, FAST), ceil_div(c->d_ffn, FAST / 2), c->n_experts,
               FAST_THREADS, FAST_SHARED, a);
        LAUNCH(p, gpu_typed(K_fast_down_f32, b->type2), ceil_div(q->n, FAST), ceil_div(c->d_model, FAST), c->n_experts,
               FAST_THREADS, FAST_SHARED, a);
    } else {
        LAUNCH(p, K_tiled_up, ceil_div(c->d_ffn, TILE), ceil_div(q->n, TILE), c->n_experts, TILE_THREADS, TILE_SHARED, a);
        LAUNCH(p, K_tiled_down, ceil_div(c->d_model, TILE), ceil_div(q->n, TILE), c->n_experts, TILE_THREADS, TILE_SHARED, a);
    }
    LAUNCH(p, K_combine, ceil_div(c->d_model, THREADS), q->n, 1, THREADS, 0, a.combine);
}

dbrx_status pass_layer(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l, struct dbrx_error *err)
{
    const struct trace t = trace_at(p->trace, p->end - p->first, q->n, q->slots, s->m->cfg.n_experts);
    dbrx_status st = project(s, p, q, l, err);
    attention(s, p, q, l);
    if (s->watch && st == DBRX_OK)
        st = watch_rows(s, p, DBRX_INPUT_WO, l, p->h, s->m->ld, q->n, s->m->cfg.d_model, err);
    out_proj(s, p, q, l);
    route(s, p, q, l, &t);
    experts(s, p, q, l, &t);
    if (s->watch && st == DBRX_OK)
        st = watch_experts(s, p, q, l, &t, err);
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
    struct linear_args a = { .w = m->lm_head, .x = x, .y = s->logits, .n = n, .ldy = m->cfg.n_vocab,
                             .norm = norming(m, m->norm_f) };
    if (!few(m, n) || s->watch)            /* who watches reads h */
        norm(m, p, x, m->norm_f, n);
    if (few(m, n)) {
        matvec(p, &a);
    } else {
        a.x = p->h;
        tiled(m, p, &a);
    }
    gpu_copy(p->stream, s->logits_host, s->logits, (size_t)n * m->cfg.n_vocab * sizeof(float));
}
