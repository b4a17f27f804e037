/* repl/processors.h -- what changes scores before any filter sees them: bias, penalties and
 * bans, as transformers' LogitsProcessor classes do and in their order.
 *
 * Works on logits (sampling) and on log probabilities (beam search) alike. */
#ifndef DBRX_REPL_PROCESSORS_H
#define DBRX_REPL_PROCESSORS_H

#include "repl/sampler.h"

struct processors {                        /* what a pass works with                        */
    uint32_t  n_vocab;
    const int32_t *banned;                 /* [n_banned], ids that are never drawn          */
    uint32_t  n_banned;
    const uint8_t *mask;                   /* [n_vocab], non-zero: not now, or NULL         */
    uint32_t *count;                       /* [n_vocab], zero before and after              */
    uint8_t  *cut_by;                      /* [n_vocab], the stage, of scores that were cut */
};

/* Changes score[n_vocab]; what is cut becomes -infinity.  cut[stage] counts it. */
void processors_apply(const struct processors *, const struct sampler_params *,
                      const struct sampler_history *, float *score,
                      uint32_t cut[SAMPLER_STAGES]);

#endif
