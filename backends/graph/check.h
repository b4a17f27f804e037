/* backends/graph/check.h -- what a backend refuses, and the sentences it does so in: the same for every
 * one of this house, whether it runs the graph or has a loop of its own.  Nothing is changed here. */
#ifndef DBRX_GRAPH_CHECK_H
#define DBRX_GRAPH_CHECK_H

#include "backends/backend.h"

/* Are the sizes and tensors such that a forward pass can run on them?  Call it before anything
 * divides by them. */
dbrx_status graph_check(const struct dbrx_model_desc *, struct dbrx_error *);

/* Everything that can be wrong with a batch but its tokens; the tokens, and their room; what
 * dbrx.resume/1 asks of a session that holds `have` positions. */
dbrx_status check_batch(const struct dbrx_config *, const struct dbrx_batch *, struct dbrx_error *);
dbrx_status check_tokens(const struct dbrx_config *, const struct dbrx_batch *, uint32_t pos,
                         uint32_t max_pos, struct dbrx_error *);
dbrx_status check_resume(const struct dbrx_config *, const struct dbrx_batch *, uint32_t layer,
                         uint32_t pos, const float *x, uint32_t have, struct dbrx_error *);
dbrx_status check_head(const float *x, uint32_t n, const float *logits, struct dbrx_error *);
/* No infinity, no NaN among them? */
int all_finite(const float *x, size_t n);
/* logits[n][n_vocab], computed: DBRX_E_UNSUPPORTED when one is no number */
dbrx_status check_logits(const struct dbrx_config *, const float *logits, size_t n, struct dbrx_error *);
/* ... and when the router of a layer gave one */
dbrx_status bad_router(uint32_t layer, uint32_t pos, struct dbrx_error *);

/* dbrx.kv/1 and truncate, of a session that holds `have` of max_pos positions */
dbrx_status check_export(uint32_t from, uint32_t have, struct dbrx_error *);
dbrx_status check_import(const struct dbrx_config *, const struct dbrx_kv_block *, uint32_t have,
                         uint32_t max_pos, struct dbrx_error *);
dbrx_status check_extend(uint32_t n_pos, uint32_t have, uint32_t max_pos, struct dbrx_error *);
dbrx_status check_commit(uint32_t n_pos, uint32_t have, uint32_t max_pos, struct dbrx_error *);
dbrx_status check_keep(uint32_t n_keep, uint32_t have, struct dbrx_error *);

#endif
