/* backends/graph/route.h -- from router logits to experts and weights. */
#ifndef DBRX_GRAPH_ROUTE_H
#define DBRX_GRAPH_ROUTE_H

#include "backends/backend.h"

/* Is this steering block one the model can follow?  DBRX_E_INVALID and a sentence if not.
 * NULL steer is fine. */
dbrx_status route_check(const struct dbrx_config *, const struct dbrx_steer *, struct dbrx_error *);

/* How many experts a token gets at this layer. */
uint32_t route_top_k(const struct dbrx_config *, const struct dbrx_steer *, uint32_t layer);

/* One token at one layer, in the order of effects that backend.h gives.
 * logit[n_experts] in; prob[n_experts], expert[top_k] and weight[top_k] out.
 * Returns 0, or -1 when a logit is NaN or +infinity (outputs then undefined). */
int route_token(const struct dbrx_config *, const struct dbrx_steer *, uint32_t layer,
                const float *logit, float *prob, uint16_t *expert, float *weight);

#endif
