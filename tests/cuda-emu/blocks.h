/* tests/cuda-emu/blocks.h -- random weights of every type that the cuda backend knows: bytes as they
 * come, but for the scales, which are small numbers.  Knows nothing of kernels. */
#ifndef TESTS_BLOCKS_H
#define TESTS_BLOCKS_H

#include "backends/graph/dtype.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rng = 1;
static uint32_t next(void)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33);
}

static double uniform(void)                /* [-1, 1) */
{
    return next() / 1073741824.0 - 1;
}

/* where a block has its scales, as half precision */
static const struct { uint32_t type; int at[2]; } scales[] = {
    { DBRX_Q8_0, { 0, -1 } }, { DBRX_Q4_0, { 0, -1 } }, { DBRX_Q4_1, { 0, 2 } }, { DBRX_Q5_0, { 0, -1 } },
    { DBRX_Q5_1, { 0, 2 } }, { DBRX_IQ4_NL, { 0, -1 } }, { DBRX_Q2_K, { 80, 82 } }, { DBRX_Q3_K, { 108, -1 } },
    { DBRX_Q4_K, { 0, 2 } }, { DBRX_Q5_K, { 0, 2 } }, { DBRX_Q6_K, { 208, -1 } }, { DBRX_IQ4_XS, { 0, -1 } },
    { DBRX_F32, { -1, -1 } }, { DBRX_F16, { -1, -1 } }, { DBRX_BF16, { -1, -1 } },
};
enum { N_TYPES = sizeof scales / sizeof *scales };

/* n elements, whole blocks, to be freed; floats within +-size, quantised as they come */
static unsigned char *make_blocks(uint32_t type, uint64_t n, double size)
{
    size_t bytes = (size_t)dtype_bytes(type, n), block = dtype_block_bytes(type);
    unsigned char *p = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)next();
    for (uint64_t i = 0; dtype_block(type) == 1 && i < n; i++) {
        float f = (float)(size * uniform());
        uint32_t u;
        memcpy(&u, &f, 4);
        uint16_t half = (uint16_t)(0x2000 + next() % 0x1000 + (next() & 1) * 0x8000), bf16 = (uint16_t)(u >> 16);
        memcpy(p + i * block, type == DBRX_F32 ? (void *)&f : type == DBRX_F16 ? (void *)&half : (void *)&bf16, block);
    }
    for (int k = 0; k < N_TYPES; k++)
        for (size_t b = 0; scales[k].type == type && scales[k].at[0] >= 0 && b < bytes / block; b++)
            for (int i = 0; i < 2; i++)
                if (scales[k].at[i] >= 0) {        /* 2^-9 or so: small numbers, both signs */
                    uint16_t h = (uint16_t)(0x1400 + next() % 0x400 + (next() & 1) * 0x8000);
                    memcpy(p + b * block + scales[k].at[i], &h, 2);
                }
    return p;
}

#endif
