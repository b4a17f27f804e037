/* repl/contender.h -- the backends that a comparison or a measurement is about, and the engines
 * that are opened for them beside the conversation's. */
#ifndef DBRX_REPL_CONTENDER_H
#define DBRX_REPL_CONTENDER_H

#include "repl/shell.h"

struct contender {
    const char *name;                      /* NULL: the current backend, as it is       */
    const char *opt[MAX_BACKEND_OPTIONS + 1];          /* "k=v", NULL-ended             */
};
enum { MAX_CONTENDERS = 16 };

/* "NAME:K=V,K=V": both point into `text`, which is cut up.  0, or -1: that is not its form. */
int  contender_parse(char *text, struct contender *);
/* The words of a command line; 0, or -1 after saying that they are too many. */
int  contender_typed(struct shell *, const char *name, const char *const *opt, struct contender *);
/* The current backend, then all others that can run here; how many. */
size_t contender_all(struct shell *, struct contender who[MAX_CONTENDERS]);
const char *contender_name(const struct shell *, const struct contender *);
/* An engine with room for `room` positions.  The current backend's is a session on its model; `fresh`:
 * its model is opened once more, where memory allows. */
dbrx_status contender_open(struct shell *, const struct contender *, uint32_t room, int fresh, struct engine *,
                           struct dbrx_error *);

#endif
