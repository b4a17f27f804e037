/* repl/measure.h -- how fast engines are: prompt and generation, against the machine's limits.
 *
 * Runs are interleaved (every engine once, then again), the machine's bandwidth and peak probed
 * beside each.  Which experts' weights a token moves is counted from the routes, not guessed, and
 * the KV cache in the type it is kept in.
 * Knows engines and the machine; no conversation, no terminal. */
#ifndef DBRX_REPL_MEASURE_H
#define DBRX_REPL_MEASURE_H

#include "repl/engine.h"
#include "repl/machine.h"

enum { MEASURE_MAX_REPS = 1000 };

enum measure_figure {
    MEASURE_PROMPT,                        /* prompt tokens a second                    */
    MEASURE_GEN,                           /* generated tokens a second                 */
    MEASURE_MOVED,                         /* bytes read a second, generating: each tensor of the
                                              weights once a token, as stored, and the KV cache
                                              up to the token once                      */
    MEASURE_MOVED_SHARE,                   /* ... of the read bandwidth probed beside it */
    MEASURE_FLOPS,                         /* multiplications and additions a second, prompt */
    MEASURE_FLOPS_SHARE,                   /* ... of the peak probed beside it          */
    MEASURE_SWITCH,                        /* seconds in which it takes over the first engine's
                                              conversation, depth + prompt + gen tokens, through
                                              dbrx.kv/1; none when one cannot           */
    MEASURE_N
};

struct measured {                          /* one engine                                */
    struct engine *engine;                 /* open, room for depth + prompt + gen positions */
    double load_s;                         /* filled by the caller who opened it        */
    double memory;                         /* bytes of its own, the mapped checkpoint not counted: as
                                              load_s; what the warm-up takes is added    */
    double experts;                        /* distinct experts a token and layer moved, generating: mean */
    double bytes_token, kv_token;          /* of weights, of KV that a generated token reads: mean */
    double *sample[MEASURE_N];             /* [n], in the order taken                   */
    uint32_t n;
};

struct measurement {
    const struct dbrx_model_desc *desc;
    const struct dbrx_host *host;
    const struct dbrx_steer *steer;        /* or NULL                                   */
    struct machine *machine;
    uint32_t prompt, gen, depth, reps;     /* tokens evaluated at once; one by one; in front of
                                              both, not timed; samples                  */
    struct measured *m;                    /* [n_m]; the first is whose conversation is taken over */
    size_t   n_m;
    double  *bandwidth, *flops;            /* [n_probes]                                */
    uint32_t n_probes;
};

/* A warm-up of each, then reps samples of each.  The fields above samples are set; zero m's
 * samples.  On DBRX_STOPPED and errors the samples taken so far stay.  err names the engine. */
dbrx_status measurement_run(struct measurement *, struct dbrx_error *);
void measurement_free(struct measurement *);           /* the samples; not engines, machine, m */

struct spread { double median, low, high, min, max; };  /* low, high: quartiles        */
/* Of n samples; NaN for none.  v stays as it is. */
struct spread spread_of(const double *v, uint32_t n);

#endif
