/* backends/cuda/watch.c -- "dbrx.inputs/1": what goes into the products, read from the device between
 * two kernels.  Slow, and only there while somebody watches. */
#include "backends/cuda/pass.h"

#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>

/* to[n][cols] of the host = x[n][ld] of the device */
static dbrx_status fetch(dbrx_session *s, struct part *p, const float *x, uint32_t ld, uint32_t n, uint32_t cols,
                         float *to, struct dbrx_error *err)
{
    const uint32_t step = (uint32_t)(s->stage_bytes / (ld * sizeof *x));
    dbrx_status st = step ? DBRX_OK : fail(err, DBRX_E_UNSUPPORTED, "rows of %u numbers are too long to watch", ld);
    for (uint32_t at = 0, k; at < n && st == DBRX_OK; at += k) {
        k = n - at < step ? n - at : step;
        gpu_copy(p->stream, s->stage, x + (size_t)at * ld, (size_t)k * ld * sizeof *x);
        st = session_done(s, gpu_sync(p->stream, err));
        for (uint32_t t = 0; t < k && st == DBRX_OK; t++)
            memcpy(to + (size_t)(at + t) * cols, s->stage + (size_t)t * ld * sizeof *x, cols * sizeof *x);
    }
    return st;
}

dbrx_status watch_rows(dbrx_session *s, struct part *p, int kind, uint32_t l, const float *x, uint32_t ld, uint32_t n,
                       uint32_t cols, struct dbrx_error *err)
{
    dbrx_status st = fetch(s, p, x, ld, n, cols, s->watched, err);
    if (st == DBRX_OK)
        s->watch(s->watch_ctx, kind, l, 0, n, cols, s->watched);
    return st;
}

dbrx_status watch_experts(dbrx_session *s, struct part *p, const struct pass *q, uint32_t l, const struct trace *t,
                          struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->cfg;
    const uint32_t d = c->d_model, ffn = c->d_ffn, slots = q->n * q->slots;
    const size_t row = (size_t)(l - p->first) * slots;
    float *h = s->watched, *act = h + (size_t)q->n * d, *rows = act + (size_t)slots * ffn;
    float *weight = rows + (size_t)q->n * (d > ffn ? d : ffn);
    uint16_t *expert = (uint16_t *)(weight + slots);
    dbrx_status st = fetch(s, p, p->h, s->m->ld, q->n, d, h, err);
    if (st == DBRX_OK) {
        s->watch(s->watch_ctx, DBRX_INPUT_ROUTER, l, 0, q->n, d, h);
        st = fetch(s, p, p->act, s->m->ffn_ld, slots, ffn, act, err);
    }
    if (st == DBRX_OK) {
        gpu_copy(p->stream, weight, t->weight + row, slots * sizeof *weight);
        gpu_copy(p->stream, expert, t->expert + row, slots * sizeof *expert);
        st = session_done(s, gpu_sync(p->stream, err));
    }
    for (uint32_t e = 0; e < c->n_experts && st == DBRX_OK; e++)
        for (int second = 0; second < 2; second++) {
            const uint32_t cols = second ? ffn : d;
            uint32_t n = 0;
            for (uint32_t i = 0; i < slots; i++)
                if (expert[i] == e && weight[i] != 0)
                    memcpy(rows + (size_t)n++ * cols, second ? act + (size_t)i * ffn : h + (size_t)(i / q->slots) * d,
                           cols * sizeof *rows);
            if (n)
                s->watch(s->watch_ctx, second ? DBRX_INPUT_W2 : DBRX_INPUT_EXPERT, l, e, n, cols, rows);
        }
    return st;
}

static dbrx_status watch(dbrx_session *s, dbrx_input_watch *emit, void *ctx, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->m->cfg;
    const size_t n = WATCH_ROWS, slots = n * c->n_experts, widest = c->d_model > c->d_ffn ? c->d_model : c->d_ffn;
    if (emit && !s->watched)
        s->watched = malloc((n * (c->d_model + widest) + slots * (c->d_ffn + 2)) * sizeof *s->watched);
    if (emit && !s->watched)
        return fail(err, DBRX_E_NOMEM, "out of memory for the inputs of a layer");
    s->watch = emit;
    s->watch_ctx = ctx;
    return DBRX_OK;
}

const struct dbrx_inputs cuda_inputs = { .struct_size = sizeof cuda_inputs, .watch = watch };
