/* backends/graph/dtype.c -- the table of element types.  Sizes are the GGUF
 * specification's. */
#include "backends/graph/dtype.h"

#include "backends/backend.h"

#include <stdio.h>
#include <strings.h>

static const struct { const char *name; uint16_t block, bytes; } types[] = {
    [DBRX_F32]    = { "F32",    1,   4 },
    [DBRX_F16]    = { "F16",    1,   2 },
    [DBRX_BF16]   = { "BF16",   1,   2 },
    [DBRX_Q8_0]   = { "Q8_0",   32,  34 },
    [DBRX_Q4_0]   = { "Q4_0",   32,  18 },
    [DBRX_Q4_1]   = { "Q4_1",   32,  20 },
    [DBRX_Q5_0]   = { "Q5_0",   32,  22 },
    [DBRX_Q5_1]   = { "Q5_1",   32,  24 },
    [DBRX_Q2_K]   = { "Q2_K",   256, 84 },
    [DBRX_Q3_K]   = { "Q3_K",   256, 110 },
    [DBRX_Q4_K]   = { "Q4_K",   256, 144 },
    [DBRX_Q5_K]   = { "Q5_K",   256, 176 },
    [DBRX_Q6_K]   = { "Q6_K",   256, 210 },
    [DBRX_IQ4_NL] = { "IQ4_NL", 32,  18 },
    [DBRX_IQ4_XS] = { "IQ4_XS", 256, 136 },
};
enum { N_TYPES = sizeof types / sizeof *types };

uint32_t dtype_block(uint32_t dtype)
{
    return dtype < N_TYPES ? types[dtype].block : 0;
}

uint32_t dtype_block_bytes(uint32_t dtype)
{
    return dtype < N_TYPES ? types[dtype].bytes : 0;
}

uint64_t dtype_bytes(uint32_t dtype, uint64_t n)
{
    uint32_t block = dtype_block(dtype);
    uint64_t bytes;
    return block && n % block == 0 &&
           !__builtin_mul_overflow(n / block, dtype_block_bytes(dtype), &bytes) ? bytes : 0;
}

const char *dtype_name(uint32_t dtype)
{
    static _Thread_local char other[24];
    if (dtype_block(dtype))
        return types[dtype].name;
    snprintf(other, sizeof other, "type %u", dtype);
    return other;
}

uint32_t dtype_named(const char *name)
{
    for (uint32_t i = 0; i < N_TYPES; i++)
        if (types[i].name && !strcasecmp(types[i].name, name))
            return i;
    return UINT32_MAX;
}
