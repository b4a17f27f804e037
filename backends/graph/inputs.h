/* backends/graph/inputs.h -- "dbrx.inputs/1": what the weights are multiplied with, handed out. */
#ifndef DBRX_GRAPH_INPUTS_H
#define DBRX_GRAPH_INPUTS_H

#include "backends/graph/graph.h"

/* x[n][cols] goes into the product `kind` of layer l; nothing when nobody watches. */
void inputs_emit(const dbrx_session *, int kind, uint32_t l, uint32_t n, uint32_t cols, const float *x);
/* s->h[n][d_model] goes into the router and, as s->expert[n][k] says, into experts: each one's rows,
 * and what comes of them before w2. */
void inputs_experts(dbrx_session *, uint32_t l, uint32_t n, uint32_t k);

extern const struct dbrx_inputs graph_inputs;

#endif
