/* repl/engine.h -- a backend at work: a model of the checkpoint and one session on it.
 *
 * dispatch drives the conversation with one; whoever needs a timeline of its own beside the
 * conversation (a comparison, a measurement, an experiment) opens another with disp_open or
 * disp_scratch and closes it again.  Knows no conversation.  One thread an engine. */
#ifndef DBRX_REPL_ENGINE_H
#define DBRX_REPL_ENGINE_H

#include "backends/backend.h"
#include "plugins/loader.h"

struct engine {                            /* zero: none                                */
    const struct module *module;
    const struct dbrx_backend *vt;
    const struct dbrx_kv *kv;              /* or NULL                                   */
    dbrx_model   *model;
    dbrx_session *session;                 /* NULL: none is open, or it was lost        */
    uint32_t layers;                       /* of the model                              */
    size_t   kv_row;                       /* elements of one position's K in one layer */
    int  shared;                           /* the model is another engine's             */
    char label[160];                       /* "cpu-blas isa=plain": name and options    */
};

/* The backend table of a module, or NULL: it is none, or too old. */
const struct dbrx_backend *engine_backend(const struct module *);

/* The module's backend with the options opt ("k=v", NULL-ended, may be NULL) and a session of
 * max_pos positions.  The same option twice is DBRX_E_INVALID.  On failure *e is zero.  All pointers outlive the engine. */
dbrx_status engine_open(struct engine *e, const struct module *, const struct dbrx_host *,
                        const struct dbrx_model_desc *, const char *const *opt, uint32_t max_pos,
                        struct dbrx_error *);
/* A second session on the model of `owner`, which is closed later. */
dbrx_status engine_share(struct engine *e, const struct engine *owner, uint32_t max_pos,
                         struct dbrx_error *);
void engine_close(struct engine *);        /* zero is fine */

/* Contracts of backend.h.  After DBRX_E_LOST the engine is closed: session is NULL, and so it
 * is for those who come later, DBRX_E_LOST again. */
uint32_t    engine_position(const struct engine *);    /* 0 when closed */
dbrx_status engine_eval(struct engine *, const struct dbrx_batch *, struct dbrx_error *);
dbrx_status engine_truncate(struct engine *, uint32_t n_keep, struct dbrx_error *);
/* dbrx.resume/1 and dbrx.head/1; DBRX_E_UNSUPPORTED when the backend has no such table. */
int         engine_has_resume(const struct engine *);
dbrx_status engine_resume(struct engine *, uint32_t layer, uint32_t pos, const float *x,
                          const struct dbrx_batch *, struct dbrx_error *);
dbrx_status engine_head(struct engine *, const float *x, uint32_t n, float *logits, struct dbrx_error *);

/* The KV cache of `from`, which holds n positions, into the session of `to`, through dbrx.kv/1;
 * both have one.  What `to` holds stays, the rest is put behind it: unless that is nothing, it
 * has to be able to extend.  The host's should_stop ends it with DBRX_STOPPED.  *lost (may be
 * NULL) becomes 1 if it was `from` that said DBRX_E_LOST: only to be closed. */
dbrx_status engine_copy_kv(const struct engine *from, const struct engine *to, uint32_t n,
                           const struct dbrx_host *, int *lost, struct dbrx_error *);
int engine_can_extend(const struct engine *);
/* Bytes of 32 elements of a KV cache in the type that an option kv= of the label names; 0: none does. */
unsigned engine_kv_width(const char *label);   /* NULL is fine */
/* Bytes of one position's K and V in all layers, in that type; else in the one that the backend
 * exports (which it can once it holds a position); else as float32. */
double engine_kv_bytes(const struct engine *);

#endif
