/* repl/finite.h -- logits that are no numbers, and which layer they come from.
 *
 * Weights that hold a NaN or an infinity show at the first logits; then the same tokens go
 * through the backend once more with a look at the residual stream behind every layer. */
#ifndef DBRX_REPL_FINITE_H
#define DBRX_REPL_FINITE_H

#include "repl/dispatch.h"

/* DBRX_OK when logits[n_vocab], which the last of token[n] led to, are numbers.  If not, the
 * backend computes token[n] again and err names the first layer that is not finite; it holds
 * nothing afterwards. */
dbrx_status finite_check(struct disp *, const float *logits, uint32_t n_vocab, const int32_t *token, uint32_t n,
                         struct dbrx_error *err);

#endif
