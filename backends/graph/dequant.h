/* backends/graph/dequant.h -- stored weights to float, one plain-C loop per type. */
#ifndef DBRX_GRAPH_DEQUANT_H
#define DBRX_GRAPH_DEQUANT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Can dequant() read this DBRX_* type? */
int dequant_knows(uint32_t dtype);

/* dst[n] = elements first .. first+n of the array at src, stored as dtype. */
void dequant(float *dst, const void *src, uint32_t dtype, size_t first, size_t n);

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
