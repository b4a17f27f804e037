/* repl/routing.h -- all that the router decided about a run of tokens.
 *
 * The trace remembers which experts were chosen and how they were weighed; how near the others
 * came takes every router probability, 16 numbers instead of 4, and is computed again when
 * somebody asks: on a session of its own, so that the conversation and its KV cache stay as
 * they are to the last bit.  No terminal, no printf. */
#ifndef DBRX_REPL_ROUTING_H
#define DBRX_REPL_ROUTING_H

#include "repl/session.h"

struct routing {                           /* tokens from .. from + n - 1 of the timeline */
    uint32_t from, n, n_layers, n_experts;
    uint32_t k;                            /* the model's top_k, or the most that steering asks for */
    uint16_t *expert;                      /* [n_layers][n][k] heaviest first; UINT16_MAX: none */
    float    *weight;                      /* [n_layers][n][k] as applied; 0 where there is none */
    float    *prob, *logit;                /* [n_layers][n][n_experts]; NULL: not asked for */
    uint64_t  computed;                    /* (token, layer) pairs that were computed again, and of   */
    uint32_t  differ;                      /* them those where it chose other experts than were used  */
};

/* Of the tokens from .. to - 1, 0 <= from < to <= s->n, those that tok[to - from] means (NULL: all);
 * the others have no expert, and NaN.  expert and weight are the trace's where it knows the token,
 * and without `probs` nothing is computed for such a token (unless steering asks for more than the
 * model's top_k, of which the trace has only those).  All else is computed now; the tokens before
 * come from the KV cache if the backend can copy it, or are computed too.  Computing costs a KV cache
 * of `to` positions while it lasts.  On failure *r is empty; DBRX_STOPPED when the user did not want
 * to wait.  [the conversation's thread] */
dbrx_status routing_read(struct sess *s, const struct dbrx_config *, uint32_t from, uint32_t to,
                         const uint8_t *tok, int probs, struct routing *r, struct dbrx_error *err);
void routing_free(struct routing *);
/* The k that every layer's choice fits into: the model's top_k, or the most that steering asks for. */
uint32_t routing_k(const struct dbrx_config *, const struct dbrx_steer *);

/* The measures have a float's precision.
 * Token i of r at that layer: how many experts it has (k, or fewer when steered). */
uint32_t routing_chosen(const struct routing *, uint32_t layer, uint32_t i,
                        const uint16_t **expert, const float **weight);
/* The least probability of an expert chosen minus the greatest of one left out: how narrow the
 * choice was.  Below 0 when steering forced it; NaN when all were chosen, or none, when the
 * router's output is no number, and without prob. */
double routing_margin(const struct routing *, uint32_t layer, uint32_t i);
/* -sum p log2 p over all experts, in bits: 0 (one sure expert) to log2 n_experts; NaN likewise. */
double routing_entropy(const struct routing *, uint32_t layer, uint32_t i);

#endif
