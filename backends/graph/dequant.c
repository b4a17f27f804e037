/* backends/graph/dequant.c -- stored weights to float.  See dequant.h.
 * Knows element types only; not shapes, not what a tensor is for. */
#include "backends/graph/dequant.h"

#include "backends/backend.h"

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 0x3ff, u;
    float f;
    if (exp == 0) {                        /* zero and subnormals: man * 2^-24, exact in float */
        f = (float)man * 0x1p-24f;
        return sign ? -f : f;
    }
    u = sign | (exp == 31 ? 0x7f800000u : (exp + 112) << 23) | man << 13;
    memcpy(&f, &u, 4);
    return f;
}

int dequant_knows(uint32_t dtype)
{
    return dtype == DBRX_F32 || dtype == DBRX_F16 || dtype == DBRX_BF16;
}

/* memcpy, because a checkpoint need not align its tensors */
void dequant(float *dst, const void *src, uint32_t dtype, size_t first, size_t n)
{
    const unsigned char *p = src;
    if (dtype == DBRX_F32) {
        memcpy(dst, p + 4 * first, 4 * n);
        return;
    }
    p += 2 * first;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        dst[i] = dtype == DBRX_F16 ? f16_to_f32(h) : bf16_to_f32(h);
    }
}
