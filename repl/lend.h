/* repl/lend.h -- what the shell lends to an instrument: dbrx_host, and the tables that its
 * get() knows (plugins/observer.h): the timeline's tokens, sets, other text through the model. */
#ifndef DBRX_REPL_LEND_H
#define DBRX_REPL_LEND_H

#include "plugins/observer.h"

struct shell;

struct lender {
    struct shell *sh;
    const char *name;                      /* the instrument's                           */
    void (*reset)(struct lender *);        /* all statistics begin anew                  */
};

/* The host for it; ctx is the lender, which outlives it. */
struct dbrx_host lend_host(struct lender *);

#endif
