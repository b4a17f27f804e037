/* repl/batch.h -- dbrx --prompts: many prompts from a file of JSON Lines, one result a line. */
#ifndef DBRX_REPL_BATCH_H
#define DBRX_REPL_BATCH_H

#include <stdio.h>

struct shell;

/* Prompts from `in` ("-": stdin), results to `out` (NULL: stdout).  What `out` holds already
 * is not drawn again.  0, or -1: some line failed, and said so. */
int batch_run(struct shell *, const char *in, const char *out);
/* How many lines a regular file has, which is at its beginning before and after; else 0. */
unsigned long batch_lines(FILE *);

#endif
