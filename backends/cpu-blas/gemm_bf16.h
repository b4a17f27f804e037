/* backends/cpu-blas/gemm_bf16.h -- what the files that are compiled for AVX512-BF16 share.
 * Lanes are 16 tokens; x is v <= 2 blocks of them, [v][cols/2][16 tokens][2]; v * rows vectors
 * of sums come out, [rows][v][16]. */
#ifndef DBRX_CPU_GEMM_BF16_H
#define DBRX_CPU_GEMM_BF16_H

#include "backends/cpu-blas/gemm.h"

/* w[rows][cols], rows `stride` bytes apart; rows even. */
void bf16_by_rows(float *sums, const void *w, size_t rows, size_t stride, const uint16_t *x,
                  size_t v, size_t cols);
/* panel[cols/2][rows][2], as bf16_panel lays it; rows a multiple of 4. */
void bf16_by_cols(float *sums, const uint16_t *panel, size_t rows, const uint16_t *x, size_t v,
                  size_t cols);
/* `cols` columns (a multiple of 16) of w[n][ldw], pairs of rows side by side; n even. */
void bf16_panel(uint16_t *panel, const void *w, size_t ldw, size_t n, size_t cols);
/* n <= 16 rows of floats to a block. */
void bf16_pack(void *block, const float *const *row, size_t n, size_t cols);

/* the nearest BF16 of n weights in whole blocks, a multiple of 32 */
void bf16_open(uint32_t dtype, uint16_t *dst, const void *src, size_t n);
void bf16_attend(const struct gemm_attend *, float *scratch);

#endif
