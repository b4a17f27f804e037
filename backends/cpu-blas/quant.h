/* backends/cpu-blas/quant.h -- products of quantised weights with few tokens, one table per
 * instruction set that has them.
 *
 * Activations are stored once a product as 16-bit integers with one scale (for instructions that
 * multiply bytes in two bytes hi, lo), so that integer dot products lose nothing: the result is the
 * plain one's to about 15 bits.  Sums of 2 or 4 products are exact, the rest is float32.  A token's result does not
 * depend on its company.  Types: every GGUF type that dequant.h knows, whole blocks.
 * All [any]. */
#ifndef DBRX_CPU_QUANT_H
#define DBRX_CPU_QUANT_H

#include <stddef.h>
#include <stdint.h>

/* X(enumerator after DBRX_, name) for each type */
#define EACH_QUANT(X) \
    X(Q8_0, q8_0) X(Q4_0, q4_0) X(Q4_1, q4_1) X(Q5_0, q5_0) X(Q5_1, q5_1) X(IQ4_NL, iq4_nl) \
    X(Q2_K, q2_k) X(Q3_K, q3_k) X(Q4_K, q4_k) X(Q5_K, q5_k) X(Q6_K, q6_k) X(IQ4_XS, iq4_xs)

struct quant {
    /* x[n] to quant_bytes(n) bytes at dst, 64-byte aligned; n a multiple of 32 */
    void (*pack)(void *dst, const float *x, size_t n);
    /* y[rows] = w x, rows of w as the file has them; x: packed.  next: what this thread reads
     * after them, to be fetched in time; NULL: what lies behind them. */
    void (*matvec)(uint32_t dtype, float *y, const void *w, size_t rows, size_t cols,
                   const void *x, const void *next);
    /* dst[n] = n weights, whole blocks, for products of many tokens by BLAS.  NULL: none, tokens
     * go one by one. */
    void (*open)(uint32_t dtype, float *dst, const void *src, size_t n);
};

extern const struct quant quant_vnni, quant_avx2;

enum { QUANT_GROUP = 640 };                /* bytes of 256 packed activations */
static inline size_t quant_bytes(size_t n) { return 64 + (n + 255) / 256 * QUANT_GROUP; }

#endif
