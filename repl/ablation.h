/* repl/ablation.h -- what some tokens lose without some experts: the same tokens with and without.
 *
 * A baseline is computed once; each run computes the blocks from the first ablated layer on
 * again (dbrx.resume/1; all of them where the backend has no such table) and compares, token by
 * token, in bits.  In the same pieces with the same operations: where nothing is different the
 * difference is exactly 0.  Works on scratch sessions; knows no conversation and no terminal. */
#ifndef DBRX_REPL_ABLATION_H
#define DBRX_REPL_ABLATION_H

#include "repl/dispatch.h"
#include "repl/steer.h"

struct ablation;

/* token[n], n = first[n_texts] <= 2^31: texts, each its own context, of which number i > 0 begins at first[i] and
 * none is empty.  Both outlive it.  base: the text of the steering that is on in both runs.
 * DBRX_E_NOMEM: the sentence says how many tokens would fit. */
dbrx_status ablation_open(struct disp *, const struct dbrx_config *, const int32_t *token, const uint32_t *first,
                          uint32_t n_texts, const char *base, struct ablation **, struct dbrx_error *);
void ablation_close(struct ablation *);    /* NULL is fine */

struct ablation_sums {
    double   delta;                        /* of all but each text's last: log2 p without - with of the token that came */
    double   kl, kl_max;                   /* of n tokens: KL(with || without)                */
    uint32_t changed;                      /* tokens after which another one is likeliest     */
    uint32_t used;                         /* tokens that an ablated expert contributed to    */
    uint64_t routed, shifted;              /* choices of later layers; those of other experts */
};
struct ablation_token { double delta, kl; int32_t was, now; };     /* likeliest next ones; delta NaN: no next */

/* in: [n_layers][n_experts], not empty; how: STEER_ZERO, _BAN, _SKIP or _OMIT.  each [n] and
 * shift [n_layers] (tokens with other experts there) may be NULL.  DBRX_STOPPED: nothing came of
 * it, a later run is as good as any. */
dbrx_status ablation_run(struct ablation *, const uint8_t *in, enum steer_effect how, struct ablation_sums *,
                         struct ablation_token *each, uint32_t *shift, struct dbrx_error *);

#endif
