/* repl/comparison.h -- the same tokens through two engines, the figures of how far they lie apart.
 *
 * Piece by piece, so that memory stays bounded whatever the vocabulary and the text's length:
 * side a's logits, residual streams and routes are kept for a piece, side b's compared as they
 * come.  Knows engines and divergence; no conversation, no terminal. */
#ifndef DBRX_REPL_COMPARISON_H
#define DBRX_REPL_COMPARISON_H

#include "repl/divergence.h"
#include "repl/engine.h"

struct comparison {
    struct engine *side[2];                /* a, b: open, each with room for the longest text */
    const struct dbrx_config *config;
    const struct dbrx_host *host;          /* for progress                              */
    const struct dbrx_steer *steer;        /* on both sides, or NULL                    */
    uint32_t step;                         /* tokens an eval at most; comparison_open makes 0 as
                                              many as memory allows, and more that many */
    /* results */
    struct divergence *d;
    double   seconds[2];                   /* that evaluating took, taps and all logits included */
    uint64_t tokens;                       /* evaluated on each side                    */
    uint32_t texts, widest;                /* tokens of the longest eval                */
    struct piece *piece;
};

/* Sides, config, host, steer and step are set, the rest is zero.  top: see div_new.
 * DBRX_OK or DBRX_E_NOMEM; close in any case. */
dbrx_status comparison_open(struct comparison *, uint32_t top, struct dbrx_error *);
/* One text of n > 0 tokens from position 0; the engines' positions are forgotten.  `expected`:
 * tokens of all texts, for progress.  On anything but DBRX_OK err says which side failed, and
 * the text may be counted in part. */
dbrx_status comparison_text(struct comparison *, const int32_t *token, uint32_t n, uint64_t expected,
                            struct dbrx_error *);
void comparison_close(struct comparison *);            /* not the engines */

#endif
