/* backends/graph/kv.h -- floats to the element types that a KV cache may have: F32, F16, BF16
 * and Q8_0.  The way back is dequant.h. */
#ifndef DBRX_GRAPH_KV_H
#define DBRX_GRAPH_KV_H

#include <stddef.h>
#include <stdint.h>

/* dst = x[n] as dtype, to the nearest, ties to even; n whole blocks.  [any] */
void kv_store(void *dst, uint32_t dtype, const float *x, size_t n);

#endif
