/* repl/labels.h -- names for experts, from a file that "dbrx specialists" wrote (see
 * docs/instruments.md): what /experts, heat maps and other views put beside a number.
 * Knows no terminal. */
#ifndef DBRX_REPL_LABELS_H
#define DBRX_REPL_LABELS_H

#include "backends/backend.h"

#include <stddef.h>

struct labels;

/* 0 and *out, or -1 with one sentence in err: no such file, not of this kind, of another model. */
int labels_read(const char *file, const struct dbrx_config *, struct labels **out, char *err, size_t size);
void labels_free(struct labels *);         /* NULL is fine */
/* The topic whose specialist this is, the strongest first; NULL: of none, or labels is NULL. */
const char *labels_get(const struct labels *, uint32_t layer, uint32_t expert);

#endif
