/* backends/graph/dequant.h -- stored weights to float, one plain-C loop per type.
 *
 * The oracle of every faster kernel.  Source of the formulas: the GGUF specification
 * and the definitions of ggml's block types, which tests/data/gguf/vectors.txt records. */
#ifndef DBRX_GRAPH_DEQUANT_H
#define DBRX_GRAPH_DEQUANT_H

#include "backends/graph/dtype.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Can dequant() read this DBRX_* type? */
static inline int dequant_knows(uint32_t dtype)
{
    return dtype_block(dtype) != 0;
}

/* dst[n] = elements first .. first+n of the array at src, stored as dtype.  Any first and
 * n; whole blocks are fastest.  src need not be aligned.  [any] */
void dequant(float *dst, const void *src, uint32_t dtype, size_t first, size_t n);

/* IQ4_NL's and IQ4_XS's sixteen levels. */
extern const int8_t dequant_iq4[16];

/* The 6-bit scale and minimum of sub-block j < 8, as Q4_K and Q5_K pack them into 12 bytes. */
static inline void dequant_k4_scale(const uint8_t s[12], int j, uint8_t *scale, uint8_t *min)
{
    *scale = (uint8_t)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4);
    *min = (uint8_t)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4);
}

/* One element. */
static inline float bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
float f16_to_f32(uint16_t h);              /* IEEE 754 binary16 */

#endif
