/* repl/dispatch.h -- the narrow boundary between the shell and all computing.
 *
 * Opens, drives and switches backends over one checkpoint.  Above it nobody sees
 * a tensor, below it nobody sees the user.  One thread. */
#ifndef DBRX_REPL_DISPATCH_H
#define DBRX_REPL_DISPATCH_H

#include "backends/backend.h"
#include "repl/engine.h"
#include "repl/spans.h"

struct disp;

/* All pointers outlive the disp.  max_pos: positions every session reserves. */
struct disp *disp_new(const struct dbrx_model_desc *, const struct modules *,
                      const struct dbrx_host *, uint32_t max_pos);      /* NULL: out of memory */
void disp_free(struct disp *);

/* The backends found: index 0.. until NULL comes back, files that could not be loaded
 * included.  probe fills *p (score 0 and a reason when it cannot run); returns 0 for
 * a module that is no backend. */
const struct module *disp_module(const struct disp *, size_t i);
int disp_probe(const struct disp *, size_t i, struct dbrx_probe *p);
/* That backend's options, ending at name == NULL; NULL if it is no backend. */
const struct dbrx_option *disp_options(const struct disp *, size_t i);

/* Makes `name` (NULL: the highest score) with the options opt ("k=v", NULL-ended, may
 * be NULL) the current backend.  token[n] is the timeline; what the old one holds of it, its
 * disp_position() tokens, the new one holds afterwards.  Transactional: the new one opens,
 * takes the KV cache over or, with DISP_REPLAY or when one side cannot, recomputes it;
 * only then does the old one close.  On failure, DBRX_STOPPED included, the old one is
 * untouched and err says why.  (Should the old one itself be lost while it gives its KV, the
 * tokens are recomputed.)
 *
 * DISP_KEEP: the old one stays open, with its KV.  A later disp_use of it whose options are
 * among those it has goes back to it: what it holds of the timeline stays, the rest is copied
 * behind it or recomputed.  What would be kept twice, with the same options, closes. */
enum { DISP_REPLAY = 1, DISP_KEEP = 2, DISP_MAX_KEPT = 8 };
dbrx_status disp_use(struct disp *, const char *name, const char *const *opt, int how,
                     const int32_t *token, uint32_t n, struct dbrx_error *err);

/* Where the backend would put the model, place by place, before it is opened (dbrx.plan/1).  Nothing from
 * one that has no plan; and an error is left to its opening, which says it again. */
dbrx_status disp_plan(const struct disp *, const char *name, const char *const *opt,
                      void (*emit)(void *ctx, const struct dbrx_place *), void *ctx, struct dbrx_error *err);

/* The i-th kept backend as disp_label has it, and how many positions it holds; NULL past the end. */
const char *disp_kept(const struct disp *, uint32_t i, uint32_t *n);
uint32_t    disp_drop(struct disp *, const char *name);        /* closes those kept; how many */
/* What kept ones hold beyond n_keep is not what will be there: other steering, or KV from a file.
 * disp_truncate and disp_import see to it themselves. */
void        disp_forget(struct disp *, uint32_t n_keep);
/* What steers every evaluation from now on, recomputing for a switch included; NULL: nothing.
 * Not owned, may change under us; what was computed before stays as it is. */
void disp_steer(struct disp *, const struct dbrx_steer *);
const struct dbrx_steer *disp_steered(const struct disp *);    /* that, for what goes on beside */
/* Engines beside the current one, over the same checkpoint; close them with engine_close.
 * disp_open: backend `name` (NULL: the highest score) with options of its own.
 * disp_scratch: a second session on the current backend's model, which costs a KV cache of
 * max_pos positions and no weights; to be closed before the next disp_use.
 * On failure *e is zero and the current one untouched. */
dbrx_status disp_open(struct disp *, const char *name, const char *const *opt, uint32_t max_pos,
                      struct engine *e, struct dbrx_error *);
dbrx_status disp_scratch(struct disp *, uint32_t max_pos, struct engine *e, struct dbrx_error *);

const char *disp_name(const struct disp *);            /* "cpu-blas", or NULL before the first */
const char *disp_label(const struct disp *);           /* ... with its options: "cpu-blas isa=plain" */
/* Where the current KV came from: positions that were "copied from ref", "recomputed" by a
 * switch or "loaded"; what no span covers was computed on the way.  Names are labels: options
 * belong to them.  kv_origin is the last one's word, or "computed"; "none" without a backend.
 * kv_brief is that of the first n positions, those that are the conversation's (sess_in_step), where
 * it is so for all of them, "17 copied, 25 computed", or "empty". */
const struct spans *disp_kv_spans(const struct disp *);
const char *disp_kv_origin(const struct disp *);
void        disp_kv_brief(const struct disp *, uint32_t n, char *out, size_t size);
uint32_t    disp_moved(const struct disp *);           /* positions that the last switch copied or recomputed */
int         disp_was_kept(const struct disp *);        /* did the last switch go back to one kept open? */
/* Bytes: of the weights, which CPU backends read where they are mapped, and of one session's
 * KV in the type that an option kv= of the label names; 1.  Where none does (label NULL,
 * too), as float32, the most that it can be; 0. */
int         disp_needs(const struct disp *, const char *label, uint64_t *weights, uint64_t *kv);
uint32_t    disp_promises(const struct disp *);        /* DBRX_REPRO_* of the current one */

/* The current session, contracts of backend.h.  After DBRX_E_LOST the backend is gone:
 * disp_name is NULL until the next disp_use. */
uint32_t    disp_max_pos(const struct disp *);
uint32_t    disp_position(const struct disp *);
dbrx_status disp_truncate(struct disp *, uint32_t n_keep, struct dbrx_error *);
dbrx_status disp_eval(struct disp *, const struct dbrx_batch *, struct dbrx_error *);

/* The KV cache of the current session, out to a file and back in; DBRX_E_UNSUPPORTED when
 * the backend has no dbrx.kv/1.  Import is transactional: next(ctx, &block) fills a block and
 * says DBRX_OK, or ends with DBRX_STOPPED; then a session with n positions replaces the
 * current one.  On anything else the current one is untouched. */
int         disp_has_kv(const struct disp *);
dbrx_status disp_export(struct disp *, uint32_t max_n,
                        dbrx_status (*emit)(void *ctx, const struct dbrx_kv_block *), void *ctx,
                        struct dbrx_error *);
dbrx_status disp_import(struct disp *, uint32_t n,
                        dbrx_status (*next)(void *ctx, struct dbrx_kv_block *, struct dbrx_error *),
                        void *ctx, struct dbrx_error *);

#endif
