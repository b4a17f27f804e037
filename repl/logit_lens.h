/* repl/logit_lens.h -- what the model would say after each layer, and who made it say so.
 *
 * One token once more on a scratch session, with taps on the residual stream (and on each chosen
 * expert); head turns any of it into logits (nostalgebraist, 2020).  Knows no terminal; the
 * conversation stays as it is. */
#ifndef DBRX_REPL_LOGIT_LENS_H
#define DBRX_REPL_LOGIT_LENS_H

#include "repl/session.h"

struct lens {
    const struct dbrx_config *c;
    struct engine engine;
    float *x;                              /* [n_layers + 1][d_model] the residual stream; 0: the embedding */
    float *logits;                         /* [n_layers + 1][n_vocab] of its rows, by head; the last are the model's */
    uint32_t *k;                           /* [n_layers] experts chosen                   */
    uint16_t *expert;                      /* [n_layers][n_experts]: k used               */
    float *weight;                         /* like expert, as applied                     */
    float *part;                           /* [n_layers][n_experts][d_model]: weight * out, or NULL */
    float *v, *z;                          /* [d_model], [n_vocab]: room                  */
};

/* The token at `pos` of the timeline, which is synced first.  parts: the experts' contributions
 * too.  DBRX_E_UNSUPPORTED: the backend has no head. */
dbrx_status lens_open(struct sess *, const struct dbrx_config *, uint32_t pos, int parts,
                      const struct dbrx_steer *, struct lens **, struct dbrx_error *);
void lens_close(struct lens *);            /* NULL is fine */

/* How many tokens of logits[n_vocab] are likelier than id (0: none), and its probability. */
uint32_t lens_rank(const float *logits, uint32_t n_vocab, int32_t id, double *prob);
/* The k likeliest, likeliest first, ties by lower id. */
void lens_top(const float *logits, uint32_t n_vocab, uint32_t k, int32_t *id);

/* Direct logit attribution.  The final LayerNorm's scale is held at what it is for this token;
 * then logits are linear in what was added to the residual stream, and each addend has its share:
 *   share(v) = lm_head((v - mean v) / scale * norm_f), less its mean over the vocabulary
 * (which no probability depends on).  Over all addends the shares sum up to the model's logits,
 * less their mean.  out[n] for the tokens id[n]. */
enum { LENS_EMBEDDING = -2, LENS_ATTENTION = -1 };     /* which >= 0: the which-th expert of the layer */
dbrx_status lens_share(struct lens *, uint32_t layer, int which, const int32_t *id, uint32_t n, double *out,
                       struct dbrx_error *);
/* The model's logits of these tokens, less the mean over the vocabulary. */
void lens_total(const struct lens *, const int32_t *id, uint32_t n, double *out);

#endif
