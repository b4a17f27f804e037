/* backends/model/dtype.c -- names and sizes of element types. */
#include "backends/model/checkpoint.h"

#include <stdio.h>

const char *dtype_name(uint32_t dtype)
{
    static _Thread_local char other[24];
    switch (dtype) {
    case DBRX_F32:    return "F32";
    case DBRX_F16:    return "F16";
    case DBRX_BF16:   return "BF16";
    case DBRX_Q4_0:   return "Q4_0";
    case DBRX_Q4_1:   return "Q4_1";
    case DBRX_Q5_0:   return "Q5_0";
    case DBRX_Q5_1:   return "Q5_1";
    case DBRX_Q8_0:   return "Q8_0";
    case DBRX_Q2_K:   return "Q2_K";
    case DBRX_Q3_K:   return "Q3_K";
    case DBRX_Q4_K:   return "Q4_K";
    case DBRX_Q5_K:   return "Q5_K";
    case DBRX_Q6_K:   return "Q6_K";
    case DBRX_IQ4_NL: return "IQ4_NL";
    case DBRX_IQ4_XS: return "IQ4_XS";
    }
    snprintf(other, sizeof other, "type %u", dtype);
    return other;
}

uint64_t dtype_bytes(uint32_t dtype, uint64_t n)
{
    uint64_t each = dtype == DBRX_F32 ? 4 : dtype == DBRX_F16 || dtype == DBRX_BF16 ? 2 : 0;
    return each && n <= UINT64_MAX / each ? n * each : 0;
}
