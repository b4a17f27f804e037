/* backends/cpu-blas/blas.h -- OpenBLAS, opened with a kernel that fits the CPU. */
#ifndef DBRX_CPU_BLAS_H
#define DBRX_CPU_BLAS_H

#include "plugins/abi.h"

#include <cblas.h>

struct blas {
    __typeof__(&cblas_sgemm) sgemm;        /* one thread a call; [any] */
    const char *core;                      /* "SkylakeX": the kernel set OpenBLAS runs */
};

/* [any] Opens the library once for the process; DBRX_E_UNSUPPORTED if it is not there. */
dbrx_status blas_open(struct blas *, struct dbrx_error *);

#endif
