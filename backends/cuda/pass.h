/* backends/cuda/pass.h -- the kernels of a forward pass, queued in order on a device. */
#ifndef DBRX_CUDA_PASS_H
#define DBRX_CUDA_PASS_H

#include "backends/cuda/session.h"

/* Tokens that go through the layers together */
struct pass {
    const struct dbrx_batch *b;
    uint32_t layer, pos, n, slots;         /* from block `layer` on; experts of a token at most */
};

/* What the pass begins with, to a part's device: step, tokens, steering, taps. */
void pass_begin(dbrx_session *, struct part *, const struct pass *);
void pass_embed(dbrx_session *, struct part *, const struct pass *);
dbrx_status pass_layer(dbrx_session *, struct part *, const struct pass *, uint32_t l, struct dbrx_error *);
/* Routes (`all`: probabilities and logits, too) to pinned memory */
void pass_end(dbrx_session *, struct part *, const struct pass *, int all);
/* s->logits[n] of n <= HEAD_ROWS rows of x on the last device; to pinned memory */
void pass_head(dbrx_session *, struct part *, const float *x, uint32_t n);

/* watch.c: what goes into a product, for whoever watches; waits for the device. */
dbrx_status watch_rows(dbrx_session *, struct part *, int kind, uint32_t l, const float *x, uint32_t ld, uint32_t n,
                       uint32_t cols, struct dbrx_error *);
dbrx_status watch_experts(dbrx_session *, struct part *, const struct pass *, uint32_t l, const struct trace *,
                          struct dbrx_error *);
enum { WATCH_ROWS = 64 };                  /* tokens of a pass that is watched */

#endif
