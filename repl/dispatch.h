/* repl/dispatch.h -- the narrow boundary between the shell and all computing.
 *
 * Opens, drives and switches backends over one checkpoint.  Above it nobody sees
 * a tensor, below it nobody sees the user.  One thread. */
#ifndef DBRX_REPL_DISPATCH_H
#define DBRX_REPL_DISPATCH_H

#include "backends/backend.h"
#include "repl/engine.h"

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
 * be NULL) the current backend, holding token[n], the n = disp_position() tokens that
 * the old one holds.  Transactional: the new one opens,
 * takes the KV cache over or, with `replay` or when one side cannot, recomputes it;
 * only then does the old one close.  On failure, DBRX_STOPPED included, the old one is
 * untouched and err says why. */
dbrx_status disp_use(struct disp *, const char *name, const char *const *opt, int replay,
                     const int32_t *token, uint32_t n, struct dbrx_error *err);

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
/* Where the current KV came from: "computed", "copied from ref", "recomputed", "loaded". */
const char *disp_kv_origin(const struct disp *);

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
