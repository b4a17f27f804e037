/* repl/steer_state.h -- what steer.c (the edits) and steer_text.c (their written forms) share;
 * nobody else includes it. */
#ifndef DBRX_REPL_STEER_STATE_H
#define DBRX_REPL_STEER_STATE_H

#include "repl/steer.h"

enum { STEER_PAST = 64 };                  /* edits that can be undone */

struct steer {
    uint32_t n_layers, n_experts, top_k;
    void  *state;                          /* [bytes]: the arrays below, one behind the other */
    size_t bytes;
    float    *bias, *scale;                /* [n_layers][n_experts]; neutral: 0, 1         */
    uint16_t *k, *source;                  /* [n_layers], 0: the model's; [n_layers][n_experts] */
    uint8_t  *mark;                        /* [n_layers][n_experts]                        */
    struct dbrx_steer block;
    int on;
    uint64_t id;
    void  *was;                            /* [bytes] as it was before the edit being made */
    void  *past[STEER_PAST];               /* [n_past] earlier states, the last one last   */
    size_t n_past;
};

/* An edit: begin (afresh: from nothing), put any number of items, end; failed says whether one
 * of them could not be put.  end's result is steer_apply's. */
void steer_begin(struct steer *, int afresh);
int  steer_put(struct steer *, const struct steer_item *, char *err, size_t size);
int  steer_end(struct steer *, int failed, char *err, size_t size);

#endif
