/* backends/graph/inputs.c -- see inputs.h.  An expert's intermediate values are inside the op that
 * runs it; for whoever watches, its first two products are computed once more. */
#include "backends/graph/inputs.h"

#include "backends/graph/dtype.h"
#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>

void inputs_emit(const dbrx_session *s, int kind, uint32_t l, uint32_t n, uint32_t cols, const float *x)
{
    if (s->watch)
        s->watch(s->watch_ctx, kind, l, 0, n, cols, x);
}

/* Rows e*rows .. of all experts' matrix as a matrix of its own */
static struct dbrx_tensor slice(const struct dbrx_tensor *t, uint32_t e, uint32_t rows, uint32_t cols)
{
    struct dbrx_tensor w = *t;
    uint64_t bytes = dtype_bytes(t->dtype, (uint64_t)rows * cols);
    w.data = (const char *)t->data + e * bytes;
    w.offset += e * bytes;
    w.bytes = bytes;
    w.rank = 2;
    w.dim[0] = rows;
    w.dim[1] = cols;
    return w;
}

void inputs_experts(dbrx_session *s, uint32_t l, uint32_t n, uint32_t k)
{
    const dbrx_model *m = s->model;
    const uint32_t d = m->cfg.d_model, ffn = m->cfg.d_ffn;
    if (!s->watch)
        return;
    inputs_emit(s, DBRX_INPUT_ROUTER, l, n, d, s->h);
    float *gate = s->watched + (size_t)GRAPH_CHUNK * d, *up = gate + (size_t)GRAPH_CHUNK * ffn;
    for (uint32_t e = 0; e < m->cfg.n_experts; e++) {
        uint32_t rows = 0;
        for (uint32_t i = 0; i < n * k; i++)
            if (s->expert[i] == e && s->weight[i] != 0)
                memcpy(s->watched + (size_t)rows++ * d, s->h + (size_t)(i / k) * d, d * sizeof *s->h);
        if (!rows)
            continue;
        struct dbrx_tensor w1 = slice(&m->layer[l]->w1, e, ffn, d), v1 = slice(&m->layer[l]->v1, e, ffn, d);
        s->watch(s->watch_ctx, DBRX_INPUT_EXPERT, l, e, rows, d, s->watched);
        m->ops.linear(&s->work, gate, s->watched, &w1, rows, ffn, d);
        m->ops.linear(&s->work, up, s->watched, &v1, rows, ffn, d);
        for (size_t i = 0; i < (size_t)rows * ffn; i++)
            gate[i] = act_plain(m->cfg.act_fn, gate[i]) * up[i];
        s->watch(s->watch_ctx, DBRX_INPUT_W2, l, e, rows, ffn, gate);
    }
}

static dbrx_status watch(dbrx_session *s, dbrx_input_watch *emit, void *ctx, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->model->cfg;
    if (emit && !s->watched)
        s->watched = malloc((size_t)GRAPH_CHUNK * (c->d_model + 2 * (size_t)c->d_ffn) * sizeof *s->watched);
    if (emit && !s->watched)
        return fail(err, DBRX_E_NOMEM, "out of memory for the inputs of a layer");
    s->watch = emit;
    s->watch_ctx = ctx;
    return DBRX_OK;
}

const struct dbrx_inputs graph_inputs = { .struct_size = sizeof graph_inputs, .watch = watch };
