/* repl/spans.h -- runs of positions with a name each: which backend made which tokens, where
 * a KV cache came from.
 *
 * Ascending, may have gaps.  Knows no backend and no session. */
#ifndef DBRX_REPL_SPANS_H
#define DBRX_REPL_SPANS_H

#include <stdint.h>

struct span  { uint32_t from, end; char name[176]; };   /* positions [from,end) */
struct spans { struct span *list; uint32_t n; };       /* zero-initialise      */

void spans_free(struct spans *);           /* empty again */
/* [from,end), which lies behind what there is; joins a run of the same name.  -1: no memory. */
int  spans_add(struct spans *, uint32_t from, uint32_t end, const char *name);
int  spans_copy(struct spans *to, const struct spans *from);   /* -1: no memory, *to is empty */
void spans_cut(struct spans *, uint32_t n);            /* forgets positions >= n */
/* Positions [at, at+n) vanish, those behind move down. */
void spans_drop(struct spans *, uint32_t at, uint32_t n);
const char *spans_at(const struct spans *, uint32_t pos);      /* its name, or NULL */
/* A label without its threads=N, for people: "cpu-blas isa=plain". */
const char *label_brief(const char *label, char *out, unsigned size);
/* "cpu-blas 64, ref 36": how many of each run lie in [from,end); "" when none. */
void spans_text(const struct spans *, uint32_t from, uint32_t end, char *out, unsigned size);

#endif
