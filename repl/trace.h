/* repl/trace.h -- remembers which experts every token of the timeline used.
 *
 * Fed by the routing sink during eval; bounded: (2 + 4) * top_k * n_layers bytes a
 * token (960 at DBRX's size).  Knows no backend and no terminal. */
#ifndef DBRX_REPL_TRACE_H
#define DBRX_REPL_TRACE_H

#include "backends/backend.h"

struct trace;

struct trace *trace_new(const struct dbrx_config *);   /* NULL: out of memory */
void trace_free(struct trace *);

/* Hand this to a batch: routes of positions land here.  Valid as long as the trace.
 * A position routed again is overwritten.  When memory runs out recording goes blind
 * from there on; trace_len says how far it reaches. */
const struct dbrx_route_sink *trace_sink(struct trace *);

uint32_t trace_len(const struct trace *);              /* positions known in all layers */
void trace_truncate(struct trace *, uint32_t n_keep);

/* One token at one layer: expert[k], weight[k], heaviest first; returns k, 0 if unknown.
 * (Steered to more experts than the model's top_k, the heaviest top_k are kept.) */
uint32_t trace_get(const struct trace *, uint32_t pos, uint32_t layer,
                   const uint16_t **expert, const float **weight);
/* ... at all layers: expert[n_layers][top_k], weight[n_layers][top_k], UINT16_MAX in slots not
 * used.  0: not known at every layer. */
int trace_token(const struct trace *, uint32_t pos, const uint16_t **expert, const float **weight);

#endif
