/* backends/cpu-blas/cpu_blas.h -- the context that every op of this backend gets, and
 * what its ops share. */
#ifndef DBRX_CPU_BLAS_CTX_H
#define DBRX_CPU_BLAS_CTX_H

#include "backends/cpu-blas/blas.h"
#include "backends/cpu-blas/gemm.h"
#include "backends/cpu-blas/kernels.h"
#include "backends/cpu-blas/pool.h"
#include "backends/graph/ops.h"

enum {
    CPU_FEW   = 4,                         /* up to so many tokens, kernels beat matrices   */
    CPU_PANEL = 128 * 1024,                /* floats of widened weights: half an L2         */
    CPU_NARROW = 64,                       /* up to so many rows, a product goes by tokens  */
    CPU_WIDE  = 256,                       /* rows or columns of a panel at most            */
};

struct cpu {
    const struct kernels *k;
    struct pool *pool;
    struct blas  blas;
    const struct gemm *fast;               /* activations rounded to BF16, or NULL          */
    const struct gemm *exact;              /* BF16 weights at float32's accuracy, or NULL   */
    int    deterministic;                  /* never choose a way by the number of tokens    */
    size_t fast_cols;                      /* `fast` is for products of so many columns on  */
    float *panel;                          /* [threads][panel_floats]: scratch inside a pool job */
    size_t panel_floats;
    size_t slots;                          /* rows of the experts' scratch: (token, expert) pairs,
                                              each expert's filled up to GEMM_TOKENS        */
};

extern const struct ops cpu_ops;

/* Sizes the scratch for this model.  0, or -1 when out of memory. */
int cpu_reserve(struct cpu *, const struct dbrx_config *);

/* y[m][rows] (stride ldy) = x[m][cols] w^T for `rows` rows of w[][cols] from `first` on, at
 * most cpu_panel_rows(cols) of them. */
void cpu_product(const struct cpu *, unsigned worker, float *y, size_t ldy, const float *x,
                 size_t m, const struct dbrx_tensor *w, size_t first, size_t rows, size_t cols);

/* How n tokens times these weights go: a gemm table, or NULL for BLAS and kernels. */
const struct gemm *cpu_gemm(const struct cpu *, uint32_t dtype, size_t n, size_t rows, size_t cols);

void cpu_experts(struct work *, const struct moe *);               /* experts.c */
size_t cpu_scratch(void *ctx, const struct dbrx_config *);

static inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t max(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
static inline size_t round16(size_t n) { return ceil_div(n, 16) * 16; }

/* How many of `rows` rows an item takes when about `items` should come of it: 16 to `most`. */
static inline size_t cpu_share(size_t rows, size_t items, size_t most)
{
    return min(max(round16(ceil_div(rows, items)), 16), most);
}

static inline size_t cpu_panel_rows(size_t cols)
{
    return max(16, min(CPU_WIDE, CPU_PANEL / cols / 16 * 16));
}

static inline const void *tensor_at(const struct dbrx_tensor *w, size_t element)
{
    return (const char *)w->data + element * (w->dtype == DBRX_F32 ? 4 : 2);
}

/* Few enough tokens for the kernels, one by one? */
static inline int cpu_few(const struct cpu *c, size_t n)
{
    return n <= CPU_FEW || c->deterministic;
}

#endif
