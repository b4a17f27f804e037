/* backends/cpu-blas/avx512.c -- the kernels on 16 lanes.  See simd.h.
 * Compiled for that instruction set: to be called where isa.h says so. */
#include "backends/cpu-blas/avx512.h"

#define KERNELS_NAME  "avx512"
#define KERNELS_TABLE kernels_avx512
#include "backends/cpu-blas/simd.h"
