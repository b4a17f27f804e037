/* backends/cpu-blas/amx.h -- many tokens times BF16 weights on Intel's AMX tiles.
 *
 * A float32 activation is split in two BF16 numbers, hi + lo, exact to 16 bits of
 * mantissa, and both are multiplied: twice the work of plain BF16, still several times
 * the speed of float32, and no accuracy bought.  Weights are read as the file has them.
 * Sums are float32.  Sizes: cols and ffn multiples of 32, rows of 16; tokens any.
 * To be called where isa_amx() says so.  All [any]; each call sets up and releases the tiles of its thread. */
#ifndef DBRX_CPU_AMX_H
#define DBRX_CPU_AMX_H

#include <stddef.h>
#include <stdint.h>

enum { AMX_TOKENS = 32 };                  /* tokens are taken in blocks of so many */

/* Activations as the tiles want them: uint16_t per token block. */
static inline size_t amx_block(size_t cols) { return 2 * AMX_TOKENS * cols; }
/* n <= AMX_TOKENS rows of cols floats (the rest is zero) to one block. */
void amx_pack(uint16_t *block, const float *const *row, size_t n, size_t cols);

/* y[n][rows] (stride ldy) = x[n][cols] w[rows][cols]^T; x: packed blocks. */
void amx_linear(float *y, size_t ldy, const uint16_t *x, size_t n, const void *w, size_t rows,
                size_t cols);

/* Rows first .. first + rows of one expert, h = silu(w1 x) * (v1 x), into h's blocks of
 * amx_block(ffn); w1 and v1 begin at the expert's row `first`. */
void amx_up(uint16_t *h, size_t ffn, size_t first, const uint16_t *x, size_t n,
            const void *w1, const void *v1, size_t rows, size_t cols);

enum { AMX_PANEL = 256 * 1024 };           /* floats of scratch for amx_down */
/* out[n][ldo] = h[n][ffn] w2 for `cols` columns (a multiple of 16, <= 256) of w2, whose rows
 * are ldw apart; h: as amx_up left it.  out has room for whole blocks. */
void amx_down(float *out, size_t ldo, const uint16_t *h, size_t n, size_t ffn, const void *w2,
              size_t ldw, size_t cols, float *panel);

#endif
