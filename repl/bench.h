/* repl/bench.h -- backends measured, and shown: what /bench and "dbrx bench" share.  The figures
 * come from measure.h. */
#ifndef DBRX_REPL_BENCH_H
#define DBRX_REPL_BENCH_H

#include "repl/contender.h"

struct bench_ask {
    uint32_t prompt, gen, depth, reps;     /* see measure.h                             */
    int csv;                               /* instead of text                           */
    struct contender who[MAX_CONTENDERS];
    size_t n;
};
enum { BENCH_PROMPT = 256, BENCH_GEN = 64, BENCH_REPS = 5 };

/* Opens, measures, shows.  0, or -1 after saying why not; of what was interrupted the samples so far
 * are shown. */
int bench_run(struct shell *, const struct bench_ask *);

#endif
