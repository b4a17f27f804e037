/* repl/idset.h -- a set of strings: the ids of prompts that were seen, or are done. */
#ifndef DBRX_REPL_IDSET_H
#define DBRX_REPL_IDSET_H

#include <stddef.h>

struct idset { char **slot; size_t n, size; };         /* zero-initialise; size: a power of two */

int  idset_has(const struct idset *, const char *id);
int  idset_add(struct idset *, const char *id);        /* 0; 1: it was there; -1: no memory */
void idset_free(struct idset *);

#endif
