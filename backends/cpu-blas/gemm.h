/* backends/cpu-blas/gemm.h -- many tokens times weights that are BF16 or opened a panel at a time.
 *
 * One table per way of doing it.  Activations are packed once for all rows of weights; what
 * a table rounds them to is its name:
 *   bf16    nearest BF16 number, as GPUs that serve this model do (vdpbf16ps)
 *   bf16x2  two BF16 numbers, hi + lo, exact to 16 bits of mantissa: half the speed
 *   amx     the same two, on Intel's tiles
 *   int16   15 bits in two bytes and a scale for each 32 columns of a token; quantised weights exactly
 *           (vpdpbusd)
 *   int8    the same with 8 bits, for the way up alone, which then leaves its hidden values to bf16;
 *   int8_16 or to int16
 * Sums are float32 in the order of the columns, whatever tokens are beside: a token's result
 * does not depend on its company.  Sizes: cols and ffn multiples of 32, rows of 16; any tokens.
 * All [any]. */
#ifndef DBRX_CPU_GEMM_H
#define DBRX_CPU_GEMM_H

#include <stddef.h>
#include <stdint.h>

enum {
    GEMM_QUERIES = 128,                    /* rows of queries of one attend, at most        */
    GEMM_TOKENS = 32,                      /* tokens of a packed block, at most             */
    GEMM_PANEL  = 256 * 1024,              /* floats of scratch for down                    */
};

/* Attention of n tokens to one KV head: `group` query heads each, token t to positions below
 * reach + t, all of which the cache holds.  n * group <= GEMM_QUERIES. */
struct gemm_attend {
    const float *q;                        /* [n][q_stride]: [group][hd] used               */
    float *out;                            /* [n][out_stride]: likewise                     */
    size_t q_stride, out_stride;
    const void *k, *v;                     /* [positions][hd] of dtype, `stride` bytes apart */
    size_t stride;
    uint32_t n, group, hd, reach, dtype;   /* hd a multiple of 32                           */
};
enum { GEMM_TILE = 256 };                  /* positions attended to at a time               */

/* Rows of weights as a gemm reads them, and what is wanted soon of memory, asked for meanwhile. */
struct gemm_rows {
    const void *at;                        /* BF16, or what `open` made of rows of another type */
    const char *next;
    size_t bytes;                          /* from next on; 0: nothing                      */
};

struct gemm {
    const char *name;
    size_t tokens;                         /* of a packed block                             */
    size_t bytes;                          /* of 32 packed activations of one token         */
    size_t open_rows;                      /* opened at a time for up, a multiple of which a part
                                              of an expert is: a panel that leaves L2 room  */
    int integer;                           /* takes quantised weights only                  */
    const struct gemm *hidden;             /* whose packed blocks up leaves, to go on with  */
    /* n <= tokens rows of cols floats (the rest is zero) to a block: gemm_block(g, cols) bytes. */
    void (*pack)(void *block, const float *const *row, size_t n, size_t cols);
    /* y[n][rows] (stride ldy) = x[n][cols] w[rows][cols]^T; x: packed blocks.  NULL: only up. */
    void (*linear)(float *y, size_t ldy, const void *x, size_t n, const struct gemm_rows *w,
                   size_t rows, size_t cols);
    /* Rows first .. first + rows of one expert, h = silu(w1 x) * (v1 x), into h's packed
     * blocks of ffn columns, `hidden`'s; w1 and v1 begin at the expert's row `first`. */
    void (*up)(void *h, size_t ffn, size_t first, const void *x, size_t n,
               const struct gemm_rows *w1, const struct gemm_rows *v1, size_t rows, size_t cols);
    /* out[n][ldo] = h[n][ffn] w2 for `cols` columns (a multiple of 16, <= 256) of BF16 w2, whose
     * rows are ldw apart; h: as up left it.  out has room for whole blocks.  NULL: only w2
     * whose rows are the model's, by linear. */
    void (*down)(float *out, size_t ldo, const void *h, size_t n, size_t ffn, const void *w2,
                 size_t ldw, size_t cols, float *panel);
    /* rows of cols weights as linear wants them, in at most 2 bytes a weight and 64 more; of any
     * type that dequant.h knows, or of the quantised ones.  NULL: only BF16 is multiplied. */
    void (*open)(uint32_t dtype, void *panel, const void *src, size_t rows, size_t cols);
    /* scratch: gemm_attend_floats(hd).  NULL: none. */
    void (*attend)(const struct gemm_attend *, float *scratch);
};

extern const struct gemm gemm_bf16, gemm_bf16x2, gemm_amx, gemm_int8, gemm_int8_16, gemm_int16;

/* Of attend's scratch: packed queries, opened keys and values, the values' panel, scores, packed
 * probabilities, sums of a tile, what is mixed so far, its maximum and sum. */
static inline size_t gemm_attend_floats(size_t hd)
{
    return GEMM_QUERIES * hd / 2 + 3 * GEMM_TILE * hd / 2 + GEMM_TILE * 32 + GEMM_TILE * 16 + hd * 32 +
           GEMM_QUERIES * (hd + 2);
}

static inline size_t gemm_block(const struct gemm *g, size_t cols)     /* bytes */
{
    return g->tokens * g->bytes * cols / 32;
}

/* What is asked for ahead, spread over the kernels of a product: each takes `steps` steps along the
 * columns and asks for `pace` bytes at every one. */
struct gemm_ahead { const char *at, *end; size_t pace, steps; };

static inline struct gemm_ahead gemm_ahead(const struct gemm_rows *w, size_t kernels, size_t steps)
{
    return (struct gemm_ahead){ w->next, w->next + w->bytes, (w->bytes + kernels * steps - 1) / (kernels * steps), steps };
}

/* from where on the next kernel asks; *pace 0 when all is asked for */
static inline const char *gemm_ask(struct gemm_ahead *a, size_t *pace)
{
    const char *at = a->at;
    *pace = at < a->end ? a->pace : 0;
    a->at += *pace * a->steps;
    return at;
}

#endif
