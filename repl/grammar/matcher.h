/* repl/grammar/matcher.h -- follows a grammar byte by byte: a pushdown automaton whose states are
 * sets of stacks.
 *
 * A stack is a position in the rules over what comes after it returns.  A set of stacks
 * is stored as pairs (position, set of the stacks below), sorted, each position once, and
 * equal sets are one set: ambiguity costs no more than the product of what differs, and
 * the automaton's steps can be remembered.  States are made as they are reached; a state
 * is a row of `rows`, and stays valid until matcher_reset. */
#ifndef DBRX_REPL_MATCHER_H
#define DBRX_REPL_MATCHER_H

#include "repl/grammar/rules.h"

enum { MATCH_DEAD = 0 };                   /* the state that nothing leaves              */
#define MATCH_UNKNOWN UINT32_MAX

struct matcher {
    const struct rules *r;                 /* not owned                                  */
    uint32_t *rows;                        /* a row: its set, then [n_cls] next states   */
    size_t n_rows, cap_rows;
    uint32_t start;                        /* the state before the first byte            */
    const char *failed;                    /* why nothing more can be computed, or NULL  */
    uint64_t work, work_limit;             /* steps taken, and how many may be           */

    struct match_pair { uint32_t pos, below; } *pair;  /* of all sets, end to end        */
    struct match_set { uint32_t at, n, row, depth; } *set; /* set 0: empty; row 0: none yet */
    uint32_t *slot;                        /* [slot_mask + 1], set + 1 by its hash       */
    size_t n_pair, cap_pair, n_set, cap_set, slot_mask;
    struct match_union { uint32_t a, b, both; } *memo;     /* unions made lately         */

    /* scratch of one step */
    struct match_list { struct match_pair *v; size_t n, cap; } todo, out, group, merge;
    struct match_call { uint32_t rank, rule, pos, below; } *heap;  /* rules to enter, lowest rank on top */
    size_t n_heap, cap_heap;
    struct match_seen { uint64_t key; uint32_t stamp; } *seen;     /* [seen_mask + 1]     */
    size_t seen_mask, n_seen;
    uint32_t stamp;
};

/* How much one mask or one token may cost before the grammar counts as too ambiguous. */
enum { MATCH_MAX_WORK = 1 << 25, MATCH_MAX_DEPTH = 2000 };

int  matcher_init(struct matcher *, const struct rules *);       /* 0, or -1: out of memory */
void matcher_free(struct matcher *);
/* Forgets all states, which are void now; 0 or -1. */
int  matcher_reset(struct matcher *);
size_t matcher_bytes(const struct matcher *);          /* memory that states take */

uint32_t matcher_step(struct matcher *, uint32_t state, unsigned cls);

/* The state after one more byte.  MATCH_DEAD also when `failed` says that it cannot be known. */
static inline uint32_t matcher_next(struct matcher *m, uint32_t state, unsigned char byte)
{
    unsigned cls = m->r->cls[byte];
    uint32_t next = m->rows[state + 1 + cls];
    return next != MATCH_UNKNOWN ? next : matcher_step(m, state, cls);
}

int matcher_can_end(const struct matcher *, uint32_t state);
int matcher_can_go_on(const struct matcher *, uint32_t state);

#endif
