/* repl/recode.h -- streams a checkpoint's tensors out again: in either layout, as other types.
 *
 * Never holds more than a few tens of MB.  Values go through float32, which is exact between
 * equal unquantised types; rows whose type and order stay the same are copied as they are.
 * Knows neither files nor options. */
#ifndef DBRX_REPL_RECODE_H
#define DBRX_REPL_RECODE_H

#include "backends/model/checkpoint.h"

/* One tensor on its way. */
struct recode_tensor {
    struct ckpt_slot slot;
    uint32_t type;                         /* in: what it becomes                       */
    const float *weight;                   /* in: [n_weights][columns] how much an error costs,
                                              for as many equal parts of the rows; or NULL */
    uint32_t n_weights;
    double   error, power;                 /* out: sums of squares, of quantised types: of the
                                              difference, of the values before           */
};

struct recode {
    const struct ckpt *in;
    int to_gguf;                           /* else Hugging Face's order                 */
    struct recode_tensor *v;               /* [n], in ckpt_each's order                 */
    size_t n;
    void *ctx;
    /* Bytes of the tensors, in order; align > 1: each padded to that.  Non-zero ends it. */
    int (*write)(void *ctx, const void *, size_t);
    size_t align;
    /* Called often; non-zero ends it. */
    int (*step)(void *ctx, uint64_t done, uint64_t total);
    char why[200];                         /* a sentence, when something failed         */
};

/* Fills v and n, every type as it is; weights NULL.  0, or -1: out of memory. */
int  recode_list(struct recode *);
void recode_free(struct recode *);

/* Rows and columns of a tensor in the order it is written in. */
void recode_shape(const struct recode *, const struct recode_tensor *, uint64_t *rows, uint64_t *cols);
uint64_t recode_bytes(const struct recode *, const struct recode_tensor *);   /* not padded */

/* Writes all of it, on `threads` threads.  0; 1: step or write ended it; -1: see why. */
int  recode_run(struct recode *, unsigned threads);

#endif
