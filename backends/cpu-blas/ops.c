/* backends/cpu-blas/ops.c -- what goes token by token, on threads; the table of this
 * backend's ops and the memory they share.  Same contracts as ops_plain, float32 sums. */
#include "backends/cpu-blas/cpu_blas.h"

#include <stdlib.h>

int cpu_reserve(struct cpu *c, const struct dbrx_config *cfg)
{
    size_t cols = max(cfg->d_model, cfg->d_ffn);
    size_t widened = max(CPU_PANEL, 64 * cols) + (size_t)GRAPH_CHUNK * CPU_WIDE;
    c->panel_floats = round16(max(max(widened, cpu_attention_floats(cfg)),
                                  2 * GEMM_PANEL + 16 * (size_t)cfg->d_ffn));
    c->panel = aligned_alloc(64, pool_threads(c->pool) * c->panel_floats * sizeof(float));
    /* a chunk's tokens packed for cpu_linear, at most 4 bytes a column or quant_bytes */
    c->scratch = max(max(cpu_experts_bytes(c, cfg), cpu_attention_bytes(cfg)),
                     GRAPH_CHUNK * max(4 * (size_t)cfg->d_model, quant_bytes(cfg->d_model)));
    return c->panel ? 0 : -1;
}

static size_t scratch(void *ctx, const struct dbrx_config *cfg)
{
    (void)cfg;
    return ((const struct cpu *)ctx)->scratch;
}

/* ---- token by token ------------------------------------------------------ */

struct token_job {
    const struct cpu *c;
    float *y;
    const float *x, *w;
    const float (*cs)[2];
    uint32_t n, d, step, n_rot, head_dim;
    float eps, clip;
};

static void layernorm_item(void *arg, unsigned worker, uint32_t item)
{
    const struct token_job *j = arg;
    uint32_t end = (uint32_t)min(j->n, (size_t)(item + 1) * j->step);
    (void)worker;
    for (uint32_t t = item * j->step; t < end; t++)
        j->c->k->layernorm(j->y + (size_t)t * j->d, j->x + (size_t)t * j->d, j->w, j->d, j->eps);
}

static void layernorm(struct work *wk, float *y, const float *x, const float *w,
                      uint32_t n, uint32_t d, float eps)
{
    const struct cpu *c = wk->ctx;
    struct token_job j = { .c = c, .y = y, .x = x, .w = w, .n = n, .d = d, .eps = eps,
                           .step = 16 };
    pool_run(c->pool, (uint32_t)ceil_div(n, j.step), layernorm_item, &j);
}

static void clip_rope_item(void *arg, unsigned worker, uint32_t item)
{
    const struct token_job *j = arg;
    uint32_t end = (uint32_t)min(j->n, (size_t)(item + 1) * j->step);
    (void)worker;
    for (uint32_t t = item * j->step; t < end; t++)
        j->c->k->clip_rope(j->y + (size_t)t * j->d, j->d, j->clip, j->n_rot, j->head_dim,
                           j->cs + (size_t)t * (j->head_dim / 2));
}

static void clip_rope(struct work *wk, float *x, uint32_t n, uint32_t stride, float clip,
                      uint32_t n_rot, uint32_t head_dim, const float (*cs)[2])
{
    const struct cpu *c = wk->ctx;
    struct token_job j = { .c = c, .y = x, .cs = cs, .n = n, .d = stride, .clip = clip,
                           .n_rot = n_rot, .head_dim = head_dim, .step = 16 };
    pool_run(c->pool, (uint32_t)ceil_div(n, j.step), clip_rope_item, &j);
}

static void add_item(void *arg, unsigned worker, uint32_t item)
{
    const struct token_job *j = arg;
    const float one = 1;
    size_t first = (size_t)item * j->step, n = min(j->step, j->n - first) * j->d;
    (void)worker;
    j->c->k->vecmat[K_F32](j->y + first * j->d, j->x + first * j->d, 1, n, n, &one);
}

static void add(struct work *wk, float *x, const float *y, uint32_t n, uint32_t d)
{
    const struct cpu *c = wk->ctx;
    struct token_job j = { .c = c, .y = x, .x = y, .n = n, .d = d, .step = 16 };
    pool_run(c->pool, (uint32_t)ceil_div(n, j.step), add_item, &j);
}

/* ---- the KV cache ------------------------------------------------------------------------- */

struct store_job {
    const struct cpu *c;
    char *dst;
    const float *x;
    size_t stride, row;
    uint32_t n, width, dtype, step;
};

static void store_item(void *arg, unsigned worker, uint32_t item)
{
    const struct store_job *j = arg;
    const int type = kernels_kv_type(j->dtype);
    uint32_t end = (uint32_t)min(j->n, (size_t)(item + 1) * j->step);
    (void)worker;
    for (uint32_t t = item * j->step; t < end; t++)
        j->c->k->narrow[type](j->dst + t * j->row, j->x + t * j->stride, j->width);
}

static void store(struct work *wk, void *dst, uint32_t dtype, const float *x, size_t stride,
                  uint32_t n, uint32_t width)
{
    const struct cpu *c = wk->ctx;
    struct store_job j = { .c = c, .dst = dst, .x = x, .stride = stride, .n = n, .width = width,
                           .row = (size_t)dtype_bytes(dtype, width), .dtype = dtype, .step = 16 };
    pool_run(c->pool, (uint32_t)ceil_div(n, j.step), store_item, &j);
}

const struct ops cpu_ops = {
    .linear = cpu_linear, .layernorm = layernorm, .clip_rope = clip_rope,
    .store = store, .attention = cpu_attention, .add = add, .experts = cpu_experts, .scratch = scratch,
};
