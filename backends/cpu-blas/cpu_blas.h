/* backends/cpu-blas/cpu_blas.h -- the context that every op of this backend gets, and
 * what its ops share. */
#ifndef DBRX_CPU_BLAS_CTX_H
#define DBRX_CPU_BLAS_CTX_H

#include "backends/cpu-blas/blas.h"
#include "backends/cpu-blas/gemm.h"
#include "backends/cpu-blas/kernels.h"
#include "backends/cpu-blas/pool.h"
#include "backends/cpu-blas/quant.h"
#include "backends/graph/dtype.h"
#include "backends/graph/ops.h"

enum {
    CPU_FEW    = 4,                        /* up to so many tokens, kernels beat matrices   */
    CPU_OPEN   = 8,                        /* from so many on, BLAS and opened weights do    */
    CPU_NARROW = 64,                       /* up to so many rows, a product goes by tokens  */
    CPU_PANEL  = 128 * 1024,               /* floats of widened weights: half an L2         */
    CPU_L1     = 16 * 1024,                /* bytes of weights that surely stay there       */
    CPU_WIDE   = 256,                      /* rows or columns of a panel at most            */
};

struct cpu {
    const struct kernels *k;
    struct pool *pool;
    struct blas  blas;
    const struct quant *quant;             /* quantised weights, few tokens, or NULL        */
    const struct gemm *fast;               /* activations rounded to BF16, or NULL          */
    const struct gemm *int8;               /* of quantised experts, the way up, or NULL     */
    const struct gemm *exact;              /* BF16 weights at float32's accuracy, or NULL   */
    const struct gemm *int16;              /* quantised weights likewise, or NULL           */
    const struct gemm *tiles;              /* better than both where all weights are BF16 in
                                              Hugging Face's order, or NULL                 */
    size_t fast_cols;                      /* both are for products of so many columns on   */
    int    deterministic;                  /* never choose a way by the number of tokens    */
    float *panel;                          /* [threads][panel_floats]: scratch inside a pool job */
    size_t panel_floats;
    size_t scratch;                        /* bytes of a session's scratch                  */
};

extern const struct ops cpu_ops;

/* Sizes the scratch for this model.  0, or -1 when out of memory. */
int cpu_reserve(struct cpu *, const struct dbrx_config *);

/* ---- product.c: y = x w^T, whatever w is stored as ---- */

/* How tokens and weights meet, and what the tokens are packed to for it. */
enum cpu_kind { CPU_GEMM, CPU_QUANT, CPU_FLOAT };
struct cpu_way {
    enum cpu_kind kind;
    const struct gemm *g;                  /* of CPU_GEMM                                   */
    size_t tokens;                         /* packed together                               */
};

struct cpu_way cpu_way(const struct cpu *, uint32_t dtype, size_t n, size_t rows, size_t cols);
/* Bytes of a packed token; blocks of way.tokens of them, a multiple of 64 together. */
size_t cpu_packed(struct cpu_way, size_t cols);
/* n <= way.tokens rows of cols floats to one block. */
void cpu_pack(const struct cpu *, struct cpu_way, void *block, const float *const *row, size_t n,
              size_t cols);
/* y[n][rows] (stride ldy) = x[n][cols] w^T for `rows` rows of w[][cols] from `first` on, at
 * most cpu_panel_rows(cols) of them.  x: packed tokens.  next: what this thread reads after them, or
 * NULL: what lies behind. */
void cpu_product(const struct cpu *, unsigned worker, struct cpu_way, float *y, size_t ldy,
                 const void *x, size_t n, const struct dbrx_tensor *w, size_t first, size_t rows,
                 size_t cols, const void *next);
/* `rows` rows of w from `first` on as the gemm wants them: where they are, or made in `panel`; those
 * `ahead` rows on are next. */
struct gemm_rows cpu_open(const struct gemm *, void *panel, const struct dbrx_tensor *w, size_t first,
                          size_t rows, size_t cols, size_t ahead);
void cpu_linear(struct work *, float *y, const float *x, const struct dbrx_tensor *w, uint32_t n,
                uint32_t rows, uint32_t cols);

void cpu_experts(struct work *, const struct moe *);               /* experts.c */
size_t cpu_experts_bytes(const struct cpu *, const struct dbrx_config *);
void cpu_attention(struct work *, const struct attn *);            /* attention.c */
size_t cpu_attention_bytes(const struct dbrx_config *);            /* of the session's scratch */
size_t cpu_attention_floats(const struct dbrx_config *);           /* of a worker's panel */

static inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t max(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
static inline size_t round16(size_t n) { return ceil_div(n, 16) * 16; }
static inline size_t round64(size_t n) { return ceil_div(n, 64) * 64; }

/* How many of `rows` rows an item takes when about `items` should come of it: whole kernels of
 * twelve and sixteen if it can be, 16 at least, `most` at most. */
static inline size_t cpu_share(size_t rows, size_t items, size_t most)
{
    size_t step = min(max(ceil_div(ceil_div(rows, items), 48) * 48, 48), most);
    return step < 48 ? step : step / 48 * 48;
}

static inline size_t cpu_panel_rows(size_t cols)
{
    return max(16, min(CPU_WIDE, CPU_PANEL / cols / 16 * 16));
}

/* a whole number of blocks from the start */
static inline const void *tensor_at(const struct dbrx_tensor *w, size_t element)
{
    return (const char *)w->data + element / dtype_block(w->dtype) * dtype_block_bytes(w->dtype);
}

static inline float *cpu_scratch(const struct cpu *c, unsigned worker)
{
    return c->panel + worker * c->panel_floats;
}

/* Of `rows` rows, as many as the first of n tokens leaves in L1 for the others: the kernels of single
 * tokens fetch weights past L2. */
static inline size_t cpu_few_rows(size_t n, uint32_t dtype, size_t rows, size_t cols)
{
    return n == 1 ? rows : min(rows, max(1, CPU_L1 / (size_t)dtype_bytes(dtype, cols)));
}

/* n tokens of a product with quantised weights one by one?  Else opened for BLAS, which pays from
 * CPU_OPEN tokens on. */
static inline int cpu_by_token(const struct cpu *c, size_t n)
{
    return c->quant && (c->deterministic || !c->quant->open || n < CPU_OPEN);
}

/* Few enough tokens for the kernels, one by one? */
static inline int cpu_few(const struct cpu *c, size_t n)
{
    return n <= CPU_FEW || c->deterministic;
}

#endif
