/* backends/cpu-blas/pool.h -- worker threads that take numbered items from a counter.
 * Knows nothing of what the items are. */
#ifndef DBRX_CPU_POOL_H
#define DBRX_CPU_POOL_H

#include <stddef.h>
#include <stdint.h>

struct pool;

/* threads >= 1, the caller of pool_run included; NULL when threads cannot be made. */
struct pool *pool_open(unsigned threads);
void pool_close(struct pool *);
unsigned pool_threads(const struct pool *);

/* [any] Calls fn(arg, worker, item) once for every item in 0..n, worker in 0..threads,
 * no worker twice at once; returns when all are done.  Jobs of several callers follow
 * one another.  fn must not call pool_run. */
void pool_run(struct pool *, uint32_t n, void (*fn)(void *arg, unsigned worker, uint32_t item),
              void *arg);

/* Cores this process may use, hyper-threads of one core counted once. */
unsigned pool_physical_cores(void);

#endif
