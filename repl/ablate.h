/* repl/ablate.h -- what ablate.c (the command) and sweep.c (all experts in turn) share. */
#ifndef DBRX_REPL_ABLATE_H
#define DBRX_REPL_ABLATE_H

#include "repl/ablation.h"
#include "repl/shell.h"

struct ablate {
    int32_t *token;                        /* [n], owned                                  */
    uint32_t *first;                       /* [n_texts + 1], owned: where texts begin, and n */
    uint32_t n, n_texts;
    const char *source;                    /* where they are from, for people             */
    enum steer_effect how;                 /* what "without" means                        */
    char *base;                            /* the steering that is on, owned              */
    struct ablation *ablation;
};

/* The baseline.  0, or -1 after saying why not. */
int ablate_begin(struct shell *, struct ablate *);
const char *ablate_meaning(enum steer_effect how);     /* for people */
const char *ablate_texts(const struct ablate *, char out[40]);  /* " (N texts)" if there are several; returns out */
/* --sweep; out: the file of its results, or NULL.  0 or -1. */
int ablate_sweep(struct shell *, struct ablate *, const char *out);

#endif
