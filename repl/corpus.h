/* repl/corpus.h -- other text through the model beside the conversation, for its routing.
 *
 * Works on a scratch session of the current backend; the conversation, its KV cache and its
 * trace stay as they are.  No terminal; who wants progress or an end is asked for it. */
#ifndef DBRX_REPL_CORPUS_H
#define DBRX_REPL_CORPUS_H

#include "plugins/observer.h"
#include "repl/dispatch.h"
#include "tokenizer/tokenizer.h"

typedef dbrx_status corpus_token(void *ctx, const struct dbrx_token *, struct dbrx_error *);

/* ---- ids ---- */
struct corpus;
/* Pieces of at most `window` > 0 tokens; want: DBRX_ROUTE_PROB or 0. */
dbrx_status corpus_open(struct disp *, const struct dbrx_config *, uint32_t window, uint32_t want,
                        struct corpus **, struct dbrx_error *);
void corpus_close(struct corpus *);        /* NULL is fine */
/* Evaluates id[n] from position 0 in pieces and hands out the tokens.  The first status of
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
