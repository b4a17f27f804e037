/* backends/cpu-blas/product.c -- y = x w^T for weights of any type, by the way that suits the
 * type and the number of tokens.
 *
 * Weights stay as stored.  What a way cannot read in place is opened a panel (a few hundred KB)
 * at a time, just before it is needed: as its gemm wants it, as float32 for BLAS and kernels. */
#include "backends/cpu-blas/cpu_blas.h"

#include "backends/graph/dequant.h"

#include <string.h>

enum { BLOCK_ROWS = 96 };                  /* opened at a time: a panel that leaves L2 room */

/* Quantised weights keep 15 bits of the activations: attention's projections are a tenth of the work, and
 * rounding there moves keys and queries for all tokens.  Experts choose int8 for themselves. */
struct cpu_way cpu_way(const struct cpu *c, uint32_t dtype, size_t n, size_t rows, size_t cols)
{
    const int bf16 = dtype == DBRX_BF16, quantised = dtype_block(dtype) > 1;
    const struct gemm *fast = cols < c->fast_cols ? NULL : c->fast;
    const struct gemm *g = bf16 ? fast ? fast : c->exact : c->deterministic ? NULL : quantised ? c->int16 : fast;
    if (g && (n > CPU_FEW || c->deterministic) && cols % 32 == 0 && rows % 16 == 0)
        return (struct cpu_way){ CPU_GEMM, g, g->tokens };
    if (quantised && cpu_by_token(c, n))
        return (struct cpu_way){ CPU_QUANT, NULL, 1 };
    return (struct cpu_way){ CPU_FLOAT, NULL, 1 };
}

size_t cpu_packed(struct cpu_way way, size_t cols)
{
    return way.kind == CPU_GEMM ? way.g->bytes * (cols / 32)
         : way.kind == CPU_QUANT ? quant_bytes(cols) : sizeof(float) * cols;
}

void cpu_pack(const struct cpu *c, struct cpu_way way, void *block, const float *const *row,
              size_t n, size_t cols)
{
    if (way.kind == CPU_GEMM)
        way.g->pack(block, row, n, cols);
    else if (way.kind == CPU_QUANT)
        c->quant->pack(block, row[0], cols);
    else
        memcpy(block, row[0], sizeof(float) * cols);
}

struct gemm_rows cpu_open(const struct gemm *g, void *panel, const struct dbrx_tensor *w, size_t first,
                          size_t rows, size_t cols, size_t ahead)
{
    const void *at = tensor_at(w, first * cols);
    if (w->dtype != DBRX_BF16) {
        g->open(w->dtype, panel, at, rows, cols);
        at = panel;
    }
    return (struct gemm_rows){ at, tensor_at(w, (first + ahead) * cols),
                               (size_t)dtype_bytes(w->dtype, rows * cols) };
}

/* float32 weights by kernels or BLAS */
static void float_product(const struct cpu *c, unsigned worker, float *y, size_t ldy,
                          const float *x, size_t n, const struct dbrx_tensor *w, size_t first,
                          size_t rows, size_t cols, const void *next)
{
    const void *at = tensor_at(w, first * cols);
    int type = kernels_type(w->dtype);
    float *wide = cpu_scratch(c, worker);
    if (type < 0 && c->quant && c->quant->open)
        c->quant->open(w->dtype, wide, at, rows * cols);
    else if (type < 0)
        dequant(wide, w->data, w->dtype, first * cols, rows * cols);
    if (cpu_few(c, n)) {
        const uint32_t dtype = type < 0 ? DBRX_F32 : w->dtype;
        const char *from = type < 0 ? (const void *)wide : at;
        for (size_t r = 0, some; r < rows; r += some) {
            some = cpu_few_rows(n, dtype, rows - r, cols);
            for (size_t t = 0; t < n; t++)
                c->k->matvec[kernels_type(dtype)](y + t * ldy + r, from + dtype_bytes(dtype, r * cols),
                                                  some, cols, cols, x + t * cols,
                                                  n == 1 && type >= 0 ? next : NULL);
        }
        return;
    }
    if (type == K_F16 || type == K_BF16)
        c->k->widen[type](wide, at, rows * cols);
    c->blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)rows, (int)cols, 1, x,
                  (int)cols, type == K_F32 ? at : wide, (int)cols, 0, y, (int)ldy);
}

void cpu_product(const struct cpu *c, unsigned worker, struct cpu_way way, float *y, size_t ldy,
                 const void *x, size_t n, const struct dbrx_tensor *w, size_t first, size_t rows,
                 size_t cols, const void *next)
{
    if (way.kind == CPU_FLOAT) {
        float_product(c, worker, y, ldy, x, n, w, first, rows, cols, next);
    } else if (way.kind == CPU_QUANT) {
        for (size_t r = 0, some; r < rows; r += some) {
            some = cpu_few_rows(n, w->dtype, rows - r, cols);
            for (size_t t = 0; t < n; t++)
                c->quant->matvec(w->dtype, y + t * ldy + r, tensor_at(w, (first + r) * cols), some,
                                 cols, (const char *)x + t * cpu_packed(way, cols), n == 1 ? next : NULL);
        }
    } else {
        size_t step = w->dtype == DBRX_BF16 ? rows : BLOCK_ROWS;
        for (size_t r = 0, some; r < rows; r += some) {
            some = min(step, rows - r);
            size_t ahead = min(some, BLOCK_ROWS);
            struct gemm_rows open = cpu_open(way.g, cpu_scratch(c, worker), w, first + r, some, cols, ahead);
            way.g->linear(y + r, ldy, x, n, &open, some, cols);
        }
    }
}

/* ---- the op ------------------------------------------------------------------------------- */

struct linear_job {
    const struct cpu *c;
    struct cpu_way way;
    const struct dbrx_tensor *w;
    float *y;
    const float *x;
    char *packed;                          /* x, as `way` wants it                          */
    size_t n, rows, cols, step;
};

static void pack_item(void *arg, unsigned worker, uint32_t item)
{
    const struct linear_job *j = arg;
    const float *row[GEMM_TOKENS];
    size_t t = item * j->way.tokens, n = min(j->way.tokens, j->n - t);
    (void)worker;
    for (size_t i = 0; i < n; i++)
        row[i] = j->x + (t + i) * j->cols;
    cpu_pack(j->c, j->way, j->packed + t * cpu_packed(j->way, j->cols), row, n, j->cols);
}

static void linear_item(void *arg, unsigned worker, uint32_t item)
{
    const struct linear_job *j = arg;
    size_t r = item * j->step, rows = min(j->step, j->rows - r);
    cpu_product(j->c, worker, j->way, j->y + r, j->rows,
                j->way.kind == CPU_FLOAT ? (const char *)j->x : j->packed, j->n, j->w, r, rows,
                j->cols, NULL);
}

/* few rows, as the router's: shared out by tokens, and each for itself in float32 -- a tie
 * must not tip with the company that a token is in */
static void tokens_item(void *arg, unsigned worker, uint32_t item)
{
    const struct linear_job *j = arg;
    size_t first = item * j->step, n = min(j->step, j->n - first);
    for (size_t t = first; t < first + n; t++)
        float_product(j->c, worker, j->y + t * j->rows, j->rows, j->x + t * j->cols, 1, j->w, 0,
                      j->rows, j->cols, NULL);
}

void cpu_linear(struct work *wk, float *y, const float *x, const struct dbrx_tensor *w,
                uint32_t n, uint32_t rows, uint32_t cols)
{
    const struct cpu *c = wk->ctx;
    struct linear_job j = {
        .c = c, .w = w, .y = y, .x = x, .n = n, .rows = rows, .cols = cols, .packed = wk->scratch,
        .way = cpu_way(c, w->dtype, n, rows, cols),
        .step = cpu_share(rows, 8 * pool_threads(c->pool), cpu_panel_rows(cols)),
    };
    if (rows <= min(CPU_NARROW, cpu_panel_rows(cols))) {
        j.step = 16;
        pool_run(c->pool, (uint32_t)ceil_div(n, j.step), tokens_item, &j);
        return;
    }
    if (j.way.kind != CPU_FLOAT)
        pool_run(c->pool, (uint32_t)ceil_div(n, j.way.tokens), pack_item, &j);
    pool_run(c->pool, (uint32_t)ceil_div(rows, j.step), linear_item, &j);
}
