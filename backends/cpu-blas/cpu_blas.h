/* backends/cpu-blas/cpu_blas.h -- the context that every op of this backend gets. */
#ifndef DBRX_CPU_BLAS_CTX_H
#define DBRX_CPU_BLAS_CTX_H

#include "backends/cpu-blas/blas.h"
#include "backends/cpu-blas/kernels.h"
#include "backends/cpu-blas/pool.h"
#include "backends/graph/ops.h"

struct cpu {
    const struct kernels *k;
    struct pool *pool;
    struct blas  blas;
    float *panel;                          /* [threads][panel_floats]: scratch inside a pool job */
    size_t panel_floats;
    size_t pairs;                          /* (token, expert) pairs the experts op takes at a time */
};

extern const struct ops cpu_ops;

/* Sizes the per-thread scratch for this model.  DBRX_OK or -1 when out of memory. */
int cpu_reserve(struct cpu *, const struct dbrx_config *);

#endif
