/* repl/steer.h -- what is changed about the model's choice of experts, and its history.
 *
 * Owns the arrays of struct dbrx_steer (backends/backend.h has their meaning).  One edit at a
 * time, each checked as a whole against what a router can follow: it is made and can be undone,
 * or it is refused in one sentence and nothing has changed.  Text and JSON are the same edits,
 * shortest form.  Knows no session and no terminal. */
#ifndef DBRX_REPL_STEER_H
#define DBRX_REPL_STEER_H

#include "backends/backend.h"

#include <cjson/cJSON.h>

struct steer;

enum steer_effect {
    STEER_K,                               /* value experts a token at these layers        */
    STEER_BAN,                             /* router logit -infinity, before the softmax   */
    STEER_SKIP,                            /* not chosen, the probabilities untouched      */
    STEER_OMIT,                            /* chosen, then dropped; the others renormalised */
    STEER_ZERO,                            /* chosen, its contribution dropped: scale 0    */
    STEER_FORCE,                           /* always chosen                                */
    STEER_BIAS,                            /* value added to the router logit              */
    STEER_SCALE,                           /* the applied weight times value               */
    STEER_SWAP,                            /* pair[0] computes what pair[1] is chosen for, and back */
    STEER_CLEAR,                           /* nothing of the above (k and swap apart) any more */
    STEER_N_EFFECTS
};
const char *steer_effect_name(enum steer_effect);      /* "ban" */

struct steer_item {
    enum steer_effect effect;
    const char *where;                     /* experts as in sets.h; of STEER_K and _SWAP layers */
    double   value;                        /* of STEER_K, _BIAS, _SCALE                    */
    uint32_t pair[2];                      /* of STEER_SWAP                                */
};

struct steer *steer_new(const struct dbrx_config *);   /* nothing is on; NULL: no memory    */
void steer_free(struct steer *);

/* For a batch; NULL when nothing is on.  Valid until the next change. */
const struct dbrx_steer *steer_block(const struct steer *);
/* Equal for equal effect; 0 when nothing is on. */
uint64_t steer_id(const struct steer *);

/* One edit.  1: made, 0: it was so already, -1: refused, one sentence in err. */
int  steer_apply(struct steer *, const struct steer_item *, char *err, size_t size);
int  steer_off(struct steer *);            /* 1, or 0: nothing was on; -1: no memory        */
int  steer_undo(struct steer *);           /* 1, or 0: nothing to undo                      */

/* What is on: items[n], in the order in which they could be made.  steer_items_free() it;
 * NULL: no memory. */
struct steer_item *steer_items(const struct steer *, size_t *n);
void steer_items_free(struct steer_item *, size_t n);
/* "ban 3,7@0..9", "k 2 @0..3", "bias 3@0 +0.5", "swap 1 2 @5"; free() it; NULL: no memory. */
char *steer_item_text(const struct steer_item *);
/* All of them, "; " between; "" when nothing is on. */
char *steer_text(const struct steer *);

/* That text, or that of docs/steering.md's JSON object, in place of what is on: one edit. */
int    steer_read(struct steer *, const char *text, char *err, size_t size);
cJSON *steer_json(const struct steer *);
int    steer_read_json(struct steer *, const cJSON *, char *err, size_t size);

#endif
