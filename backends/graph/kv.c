/* backends/graph/kv.c -- see kv.h.  Plain C, the specification of faster ones. */
#include "backends/graph/kv.h"

#include "backends/backend.h"

#include <math.h>
#include <string.h>

/* rounded at bit 16; a NaN stays one */
static uint16_t to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if (f != f)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static uint16_t to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint32_t sign = u >> 16 & 0x8000, abs = u & 0x7fffffff;
    if (abs > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (abs >> 13 & 0x3ff));
    if (abs >= 0x477ff000)                 /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (abs < 0x38800000)                  /* below 2^-14: multiples of 2^-24 */
        return (uint16_t)(sign | (uint32_t)lrintf(fabsf(f) * 0x1p24f));
    return (uint16_t)(sign | (abs - 0x38000000 + 0xfff + (abs >> 13 & 1)) >> 13);
}

/* a binary16 scale and 32 bytes; as GGUF defines it, the largest becomes +-127 */
static void to_q8_0(unsigned char *p, const float *x)
{
    float top = 0;
    for (int i = 0; i < 32; i++)
        top = fabsf(x[i]) > top || x[i] != x[i] ? fabsf(x[i]) : top;
    uint16_t d = to_f16(top / 127);
    memcpy(p, &d, 2);
    for (int i = 0; i < 32; i++)
        p[2 + i] = (unsigned char)(signed char)(top > 0 ? roundf(x[i] * (127 / top)) : 0);
}

void kv_store(void *dst, uint32_t dtype, const float *x, size_t n)
{
    if (dtype == DBRX_F32)
        memcpy(dst, x, n * sizeof *x);
    else if (dtype == DBRX_Q8_0)
        for (size_t i = 0; i < n; i += 32)
            to_q8_0((unsigned char *)dst + i / 32 * 34, x + i);
    else
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)dst)[i] = dtype == DBRX_F16 ? to_f16(x[i]) : to_bf16(x[i]);
}
