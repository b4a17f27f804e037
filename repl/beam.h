/* repl/beam.h -- beam search: the likeliest of several continuations kept side by side, with
 * transformers' definitions of num_beams, length_penalty and early_stopping.
 *
 * Works on one session: each step moves the timeline through all beams, and what two beams in
 * a row do not share is computed again.  That is correct and slow, see docs/sampling.md. */
#ifndef DBRX_REPL_BEAM_H
#define DBRX_REPL_BEAM_H

#include "repl/session.h"

enum beam_stop { BEAM_STOP_FALSE, BEAM_STOP_TRUE, BEAM_STOP_NEVER };   /* early_stopping */

struct beam_params {
    uint32_t num_beams;                    /* above 0                                        */
    double   length_penalty;               /* score: sum of log p / length ^ length_penalty  */
    enum beam_stop early_stopping;
};

/* As sess_generate, but the reply is searched for first and then goes on the timeline token
 * by token.  Of g->sampling the processors count, not what comes from temperature on.
 * Interrupted, the best continuation so far is the reply.  On an error the timeline is as it
 * was.  score: of the reply, may be NULL. */
dbrx_status beam_generate(struct sess *, const struct beam_params *, const struct sess_gen *,
                          enum sess_finish *, double *score, struct dbrx_error *);

#endif
