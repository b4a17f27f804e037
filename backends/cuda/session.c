/* backends/cuda/session.c -- a session's memory, all of it reserved when it opens.  No arithmetic. */
#include "backends/cuda/session.h"

#include "backends/graph/check.h"
#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>

enum { TAP_BYTES = 64 << 20, STAGE = 4 << 20 };

struct trace trace_at(void *base, uint32_t layers, uint32_t n, uint32_t slots, uint32_t n_experts)
{
    struct trace t;
    const size_t rows = (size_t)layers * n;
    t.weight = base;
    t.prob = t.weight + rows * slots;
    t.logit = t.prob + rows * n_experts;
    t.expert = (uint16_t *)(t.logit + rows * n_experts);
    t.bytes = (size_t)((char *)(t.expert + rows * slots) - (char *)base);
    return t;
}

/* Slots of a pass: a steering block may give every token all experts, then it takes fewer tokens. */
static size_t max_slots(const dbrx_session *s)
{
    size_t n = (size_t)s->chunk * s->m->cfg.top_k;
    return n < s->m->cfg.n_experts ? s->m->cfg.n_experts : n;
}

static dbrx_status open_part(dbrx_session *s, struct part *p, uint32_t i, struct dbrx_error *err)
{
    dbrx_model *m = s->m;
    const struct dbrx_config *c = &m->cfg;
    const struct share *share = &m->plan.share[i];
    const size_t slots = max_slots(s), n = s->chunk, ld = m->ld, all = (size_t)c->n_layers * c->n_experts;
    p->dev = &m->dev[i];
    p->first = share->first;
    p->end = share->end;
    const size_t layers = p->end - p->first;
    p->kv_layer = (size_t)(plan_kv(c, m->set.kv_type, s->max_pos) / 2);
    /* rows of routes: [layers][n][slots], and [layers][n][n_experts] with n * slots bounded */
    /* route: a token each; down and attend: blocks of a few tokens */
    const size_t blocks = (size_t)FEW * BESIDE * (size_t)p->dev->info.processors, heads = (size_t)FEW * c->n_heads;
    const size_t count = n + (blocks > heads ? blocks : heads);
    const size_t trace = layers * (slots * 6 + n * c->n_experts * 8);
    const struct { size_t bytes; void *out; int host; } want[] = {
        { sizeof *p->step, &p->step, 0 }, { n * sizeof *p->token, &p->token, 0 },
        { c->n_layers + 1, &p->want, 0 },
        { all * sizeof(float), &p->steer.bias, 0 }, { all * sizeof(float), &p->steer.scale, 0 },
        { all * 2, &p->steer.source, 0 }, { c->n_layers * 2, &p->steer.top_k, 0 }, { all, &p->steer.mark, 0 },
        { layers * p->kv_layer, &p->k, 0 }, { layers * p->kv_layer, &p->v, 0 },
        { n * ld * sizeof(float), &p->x, 0 }, { n * ld * sizeof(float), &p->h, 0 },
        { n * m->qkv * sizeof(float), &p->qkv, 0 },
        { slots * m->ffn_ld * sizeof(float), &p->act, 0 }, { slots * ld * sizeof(float), &p->y, 0 },
        { (size_t)FEW * c->n_heads * s->splits * (m->head + 2) * sizeof(float), &p->split, 0 },
        { slots * sizeof *p->order, &p->order, 0 }, { (c->n_experts + 1) * sizeof *p->start, &p->start, 0 },
        { count * sizeof *p->count, &p->count, 0 },
        { trace, &p->trace, 0 }, { trace, &p->trace_host, 1 }, { sizeof *p->bad, &p->bad, 1 },
    };
    dbrx_status st = gpu_stream_open(p->dev->gpu, &p->stream, err);
    for (size_t k = 0; k < sizeof want / sizeof *want && st == DBRX_OK; k++)
        st = held_alloc(&s->held, p->dev->gpu, want[k].host, want[k].bytes ? want[k].bytes : 1, want[k].out, err);
    return st;
}

dbrx_status cuda_session_open(dbrx_model *m, uint32_t max_pos, dbrx_session **out, struct dbrx_error *err)
{
    const struct dbrx_config *c = &m->cfg;
    const size_t all = (size_t)c->n_layers * c->n_experts;
    struct dbrx_error why;
    *out = NULL;
    if (!max_pos)
        return fail(err, DBRX_E_INVALID, "a session needs room for at least one position");
    if (plan_kv(c, m->set.kv_type, max_pos) > SIZE_MAX / c->n_layers / 2)
        return fail(err, DBRX_E_NOMEM, "a KV cache of %u positions cannot be addressed", max_pos);
    dbrx_session *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    s->m = m;
    s->max_pos = max_pos;
    s->chunk = m->set.deterministic ? 1 : plan_chunk(c, max_pos);
    s->splits = plan_splits(max_pos);
    s->part = calloc(m->plan.n_shares, sizeof *s->part);
    s->pinned = calloc(1, sizeof *s->pinned);
    dbrx_status st = s->part && s->pinned ? DBRX_OK : fail(&why, DBRX_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < m->plan.n_shares && st == DBRX_OK; i++)
        st = open_part(s, &s->part[i], i, &why);
    struct gpu *first = m->dev[0].gpu, *last = m->dev[m->plan.n_shares - 1].gpu;
    const uint32_t rows = s->chunk < HEAD_ROWS ? s->chunk : HEAD_ROWS;
    const size_t logits = (size_t)rows * c->n_vocab * sizeof(float);
    /* a row of a tap, all slots, or a position of the KV cache must fit */
    size_t stage = (size_t)c->n_experts * m->ld * sizeof(float), kv = (size_t)c->n_kv_heads * m->head * 4;
    s->stage_bytes = (stage > kv ? stage : kv) > STAGE ? (stage > kv ? stage : kv) : STAGE;
    const struct { struct gpu *gpu; size_t bytes; void *out; int host; } want[] = {
        { last, logits, &s->logits, 0 }, { last, logits, &s->logits_host, 1 },
        { first, s->stage_bytes, &s->stage, 1 },
        { first, s->chunk * sizeof(int32_t), &s->pinned->token, 1 }, { first, c->n_layers + 1, &s->pinned->want, 1 },
        { first, all * sizeof(float), &s->pinned->steer.bias, 1 },
        { first, all * sizeof(float), &s->pinned->steer.scale, 1 },
        { first, all * 2, &s->pinned->steer.source, 1 }, { first, c->n_layers * 2, &s->pinned->steer.top_k, 1 },
        { first, all, &s->pinned->steer.mark, 1 },
    };
    for (size_t k = 0; k < sizeof want / sizeof *want && st == DBRX_OK; k++)
        st = held_alloc(&s->held, want[k].gpu, want[k].host, want[k].bytes, want[k].out, &why);
    if (st != DBRX_OK) {
        cuda_session_close(s);
        return st != DBRX_E_NOMEM ? fail(err, st, "%s", why.text)
             : fail(err, st, "out of memory for a session of %u positions: its KV cache takes %.0f MB; %.120s", max_pos,
                    (double)plan_kv(c, m->set.kv_type, max_pos) * c->n_layers / 1e6, why.text);
    }
    *out = s;
    return DBRX_OK;
}

dbrx_status session_taps(dbrx_session *s, struct dbrx_error *err)
{
    const dbrx_model *m = s->m;
    const struct dbrx_config *c = &m->cfg;
    dbrx_status st = DBRX_OK;
    if (s->tap_chunk)
        return DBRX_OK;
    const size_t row = (size_t)m->ld * sizeof(float);
    size_t n = TAP_BYTES / ((c->n_layers + 1 + (size_t)c->n_layers * c->n_experts) * row);
    n = n < 1 ? 1 : n > s->chunk ? s->chunk : n;
    for (uint32_t i = 0; i < m->plan.n_shares && st == DBRX_OK; i++) {
        struct part *p = &s->part[i];
        size_t layers = p->end - p->first;
        st = held_alloc(&s->held, p->dev->gpu, 0, (layers + 1) * n * row, &p->tap_x, err);
        if (st == DBRX_OK)
            st = held_alloc(&s->held, p->dev->gpu, 0, (layers + !layers) * n * c->n_experts * row, &p->tap_part, err);
    }
    if (st == DBRX_OK)
        st = held_alloc(&s->held, m->dev[0].gpu, 1, n * c->n_experts * row, &s->tap_host, err);
    session_drop_graphs(s);                /* they know nothing of these buffers */
    s->tap_chunk = st == DBRX_OK ? (uint32_t)n : 0;
    return st;
}

void session_drop_graphs(dbrx_session *s)
{
    for (uint32_t i = 0; s->part && i < s->m->plan.n_shares; i++)
        for (int k = 0; k < 2; k++) {
            gpu_graph_close(s->part[i].graph[k]);
            s->part[i].graph[k] = NULL;
        }
}

dbrx_status session_done(dbrx_session *s, dbrx_status st)
{
    s->lost |= st == DBRX_E_LOST;
    return st;
}

void cuda_session_close(dbrx_session *s)
{
    session_drop_graphs(s);
    for (uint32_t i = 0; s->part && i < s->m->plan.n_shares; i++)
        gpu_stream_close(s->part[i].stream);
    held_free(s->held);
    free(s->watched);
    free(s->part);
    free(s->pinned);
    free(s);
}

uint32_t cuda_position(const dbrx_session *s)
{
    return s->pos;
}

dbrx_status cuda_truncate(dbrx_session *s, uint32_t n_keep, struct dbrx_error *err)
{
    dbrx_status st = check_keep(n_keep, s->pos, err);
    s->pos = st == DBRX_OK ? n_keep : s->pos;
    return st;
}
