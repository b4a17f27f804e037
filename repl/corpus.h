/* repl/corpus.h -- other text through the model beside the conversation, for its routing.
 *
 * Works on an engine of its own; the conversation, its KV cache and its trace stay as they
 * are.  No terminal. */
#ifndef DBRX_REPL_CORPUS_H
#define DBRX_REPL_CORPUS_H

#include "plugins/observer.h"
#include "repl/engine.h"
#include "tokenizer/tokenizer.h"

typedef dbrx_status corpus_token(void *ctx, const struct dbrx_token *, struct dbrx_error *);

/* ---- ids ---- */
struct corpus;
/* On an engine with room for `window` > 0 positions, not owned, closed later; want:
 * DBRX_ROUTE_PROB or 0.  DBRX_E_NOMEM. */
dbrx_status corpus_open(struct engine *, const struct dbrx_config *, uint32_t window, uint32_t want,
                        struct corpus **, struct dbrx_error *);
void corpus_steer(struct corpus *, const struct dbrx_steer *);  /* NULL, as at first: not at all */
void corpus_close(struct corpus *);        /* NULL is fine */
/* Evaluates id[n] in pieces of at most a window, each from position 0, and hands out the tokens.  The first status of
 * on_token other than DBRX_OK ends it and comes back. */
dbrx_status corpus_run(struct corpus *, const int32_t *id, size_t n, corpus_token *, void *ctx,
                       struct dbrx_error *);

/* ---- files ---- */
/* The texts of a file, one after the other: of .jsonl the "text" or "prompt" of every line, of
 * any other all of it.  done and total are bytes.  DBRX_E_IO and DBRX_E_INVALID name the place. */
dbrx_status corpus_texts(const char *file,
                         dbrx_status (*text)(void *ctx, const char *text, size_t len, uint64_t done, uint64_t total,
                                             struct dbrx_error *),
                         void *ctx, struct dbrx_error *);

#endif
