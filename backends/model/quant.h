/* backends/model/quant.h -- float rows to stored weights, the inverse of graph/dequant.h.
 *
 * Written from the definitions of GGUF's block types: every block minimises the squared
 * error of what it decodes to, weighted by how much each column matters.  Knows element
 * types only. */
#ifndef DBRX_MODEL_QUANT_H
#define DBRX_MODEL_QUANT_H

#include <stddef.h>
#include <stdint.h>

/* Can quant_row() write this DBRX_* type?  F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K,
 * Q5_K, Q6_K. */
int quant_knows(uint32_t dtype);

/* out = x[n] stored as dtype; n is a whole number of blocks.  weight[n] >= 0: how much an
 * error in each column costs, or NULL: the same everywhere.  Unquantised types round to
 * nearest, ties to even.  x must be finite for the quantised ones.  [any] */
void quant_row(uint32_t dtype, const float *x, size_t n, const float *weight, void *out);

/* Round to nearest, ties to even; NaNs keep what fits of their bits. */
uint16_t f32_to_f16(float);
uint16_t f32_to_bf16(float);

#endif
