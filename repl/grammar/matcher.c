/* repl/grammar/matcher.c -- one step of the automaton, and the sets of stacks it is made of.
 *
 * A step moves the stacks that the byte fits past it, then finds all positions that wait
 * for a byte.  Rules that may be empty are known beforehand, so that entering a rule and
 * leaving it without a byte never meet; hence every rule is entered once a step, callers
 * before callees, with everything that may come after it in one set.  A rule called at
 * the end of another returns to where that one would: loops push nothing.  See matcher.h. */
#include "repl/grammar/matcher.h"

#include <stdlib.h>
#include <string.h>

enum {
    N_MEMO = 1 << 12,
    MAX_SETS = 1 << 22, MAX_PAIRS = 1 << 24, MAX_ROWS = 1 << 25,   /* within one mask */
    TAIL = 0,                              /* a call's pos: it returns to all of `below`; elem[0] is no place to return to */
};

static const char no_memory[] = "out of memory";
static const char ambiguous[] = "the grammar is too ambiguous: there are too many ways to read "
                                "what was said so far";

/* Room for n; 0 or -1.  array is a pointer to a pointer. */
static int room(struct matcher *m, void *array, size_t *cap, size_t n, size_t size, size_t max)
{
    void **p = array;
    if (m->failed)
        return -1;
    if (n <= *cap)
        return 0;
    size_t more = n > max ? 0 : 2 * n + 64;
    void *grown = more ? realloc(*p, more * size) : NULL;
    if (!grown) {
        m->failed = more ? no_memory : ambiguous;
        return -1;
    }
    *p = grown;
    *cap = more;
    return 0;
}

static void push(struct matcher *m, struct match_list *l, uint32_t pos, uint32_t below)
{
    if (!room(m, &l->v, &l->cap, l->n + 1, sizeof *l->v, MAX_PAIRS))
        l->v[l->n++] = (struct match_pair){ pos, below };
}

/* One unit of work; non-zero: stop */
static int spend(struct matcher *m)
{
    if (++m->work > m->work_limit && !m->failed)
        m->failed = ambiguous;
    return m->failed != NULL;
}

/* ---- sets ---- */

static size_t set_hash(const struct match_pair *p, size_t n)
{
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ ((uint64_t)p[i].pos << 32 | p[i].below)) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    return (size_t)h;
}

static int grow_slots(struct matcher *m)
{
    size_t mask = m->slot_mask ? 4 * m->slot_mask + 3 : 255;
    uint32_t *slot = calloc(mask + 1, sizeof *slot);
    if (!slot) {
        m->failed = no_memory;
        return -1;
    }
    for (size_t i = 1; i < m->n_set; i++) {            /* set 0 is not looked for */
        size_t h = set_hash(m->pair + m->set[i].at, m->set[i].n) & mask;
        while (slot[h])
            h = (h + 1) & mask;
        slot[h] = (uint32_t)i + 1;
    }
    free(m->slot);
    m->slot = slot;
    m->slot_mask = mask;
    return 0;
}

/* The set of these pairs, which are sorted, each position once.  Stacks that have become
 * too deep are left out: what they stand for is nested too deep. */
static uint32_t intern(struct matcher *m, struct match_pair *p, size_t n)
{
    uint32_t depth = 0;
    size_t keep = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t d = m->set[p[i].below].depth;
        if (d < MATCH_MAX_DEPTH)
            p[keep++] = p[i];
        depth = d < MATCH_MAX_DEPTH && d > depth ? d : depth;
    }
    n = keep;
    if (!n || m->failed || (2 * m->n_set >= m->slot_mask && grow_slots(m)))
        return 0;
    size_t h = set_hash(p, n) & m->slot_mask;
    for (; m->slot[h]; h = (h + 1) & m->slot_mask) {
        const struct match_set *s = &m->set[m->slot[h] - 1];
        if (s->n == n && !memcmp(m->pair + s->at, p, n * sizeof *p))
            return m->slot[h] - 1;
    }
    if (room(m, &m->set, &m->cap_set, m->n_set + 1, sizeof *m->set, MAX_SETS) ||
        room(m, &m->pair, &m->cap_pair, m->n_pair + n, sizeof *m->pair, MAX_PAIRS))
        return 0;
    memcpy(m->pair + m->n_pair, p, n * sizeof *p);
    m->set[m->n_set] = (struct match_set){ (uint32_t)m->n_pair, (uint32_t)n, 0, depth + 1 };
    m->n_pair += n;
    m->slot[h] = (uint32_t)++m->n_set;
    return (uint32_t)m->n_set - 1;
}

/* Stacks of a or of b.  As deep a recursion as stacks are, at most MATCH_MAX_DEPTH. */
static uint32_t set_union(struct matcher *m, uint32_t a, uint32_t b)
{
    if (a == b || !b || spend(m))
        return a;
    if (!a)
        return b;
    if (a > b) {
        uint32_t c = a;
        a = b;
        b = c;
    }
    struct match_union *memo = &m->memo[(a * 0x9e3779b1u ^ b * 0x85ebca6bu) >> 20 & (N_MEMO - 1)];
    if (memo->a == a && memo->b == b)
        return memo->both;
    size_t base = m->merge.n;
    for (uint32_t i = 0, j = 0; (i < m->set[a].n || j < m->set[b].n) && !spend(m); ) {
        /* read anew each time: the pool moves while unions are made */
        struct match_pair none = { UINT32_MAX, 0 };
        struct match_pair x = i < m->set[a].n ? m->pair[m->set[a].at + i] : none;
        struct match_pair y = j < m->set[b].n ? m->pair[m->set[b].at + j] : none;
        i += x.pos <= y.pos;
        j += y.pos <= x.pos;
        if (x.pos == y.pos)
            x.below = set_union(m, x.below, y.below);
        if (x.pos <= y.pos)
            push(m, &m->merge, x.pos, x.below);
        else
            push(m, &m->merge, y.pos, y.below);
    }
    uint32_t both = intern(m, m->merge.v + base, m->merge.n - base);
    m->merge.n = base;
    *memo = (struct match_union){ a, b, both };
    return both;
}

static int by_pos(const void *a, const void *b)
{
    const struct match_pair *x = a, *y = b;
    return x->pos != y->pos ? (x->pos > y->pos) - (x->pos < y->pos)
                            : (x->below > y->below) - (x->below < y->below);
}

/* The set of the pairs in l, in any order */
static uint32_t set_of(struct matcher *m, struct match_list *l)
{
    size_t n = 0;
    if (l->n > 1)
        qsort(l->v, l->n, sizeof *l->v, by_pos);
    for (size_t i = 0; i < l->n; i++) {
        if (n && l->v[n - 1].pos == l->v[i].pos)
            l->v[n - 1].below = set_union(m, l->v[n - 1].below, l->v[i].below);
        else
            l->v[n++] = l->v[i];
    }
    return intern(m, l->v, n);
}

/* ---- one step ---- */

static int call_before(const struct match_call *a, const struct match_call *b)
{
    return a->rank < b->rank;
}

static void call(struct matcher *m, uint32_t rule, uint32_t pos, uint32_t below)
{
    if (room(m, &m->heap, &m->cap_heap, m->n_heap + 1, sizeof *m->heap, MAX_PAIRS))
        return;
    struct match_call c = { m->r->rule[rule].rank, rule, pos, below };
    size_t at = m->n_heap++;
    for (; at && call_before(&c, &m->heap[(at - 1) / 2]); at = (at - 1) / 2)
        m->heap[at] = m->heap[(at - 1) / 2];
    m->heap[at] = c;
}

static struct match_call pop_call(struct matcher *m)
{
    struct match_call top = m->heap[0], c = m->heap[--m->n_heap];
    size_t at = 0;
    for (size_t next; (next = 2 * at + 1) < m->n_heap; at = next) {
        next += next + 1 < m->n_heap && call_before(&m->heap[next + 1], &m->heap[next]);
        if (!call_before(&m->heap[next], &c))
            break;
        m->heap[at] = m->heap[next];
    }
    m->heap[at] = c;
    return top;
}

/* Was this pair met in this step already? */
static int seen(struct matcher *m, uint32_t pos, uint32_t below)
{
    if (2 * m->n_seen >= m->seen_mask) {
        size_t mask = m->seen_mask ? 4 * m->seen_mask + 3 : 255;
        struct match_seen *table = calloc(mask + 1, sizeof *table);
        if (!table) {
            m->failed = no_memory;
            return 1;
        }
        for (size_t i = 0; m->seen_mask && i <= m->seen_mask; i++) {
            if (m->seen[i].stamp != m->stamp)
                continue;
            size_t h = (size_t)(m->seen[i].key * 0x9e3779b97f4a7c15u >> 32) & mask;
            while (table[h].stamp)
                h = (h + 1) & mask;
            table[h] = m->seen[i];
        }
        free(m->seen);
        m->seen = table;
        m->seen_mask = mask;
    }
    uint64_t key = (uint64_t)pos << 32 | below;
    size_t h = (size_t)(key * 0x9e3779b97f4a7c15u >> 32) & m->seen_mask;
    for (; m->seen[h].stamp == m->stamp; h = (h + 1) & m->seen_mask)
        if (m->seen[h].key == key)
            return 1;
    m->seen[h] = (struct match_seen){ key, m->stamp };
    m->n_seen++;
    return 0;
}

/* From pos on: what waits for a byte goes to `out`, rules on the way are called.  `rank`
 * is that of the rule being entered, which does not end without a byte here; UINT32_MAX
 * when a byte was taken: then the end goes on with what is below. */
static void scan(struct matcher *m, uint32_t pos, uint32_t below, uint32_t rank)
{
    const struct rules *r = m->r;
    for (; !spend(m); pos++) {
        uint32_t e = r->elem[pos], rule = el_arg(e);
        const struct match_set *s = &m->set[below];
        switch (el_kind(e)) {
        case EL_BYTES:
        case EL_ACCEPT:
            push(m, &m->out, pos, below);
            return;
        case EL_END:
            for (uint32_t i = 0; rank == UINT32_MAX && i < s->n; i++)
                push(m, &m->todo, m->pair[s->at + i].pos, m->pair[s->at + i].below);
            return;
        default:
            if (el_kind(r->elem[pos + 1]) != EL_END)
                call(m, rule, pos + 1, below);
            else if (r->rule[rule].rank != rank)       /* not a loop's way back to itself */
                call(m, rule, TAIL, below);
            if (!r->rule[rule].nullable)
                return;
        }
    }
}

/* Enters the rule of the lowest rank, with all that may come after it */
static void enter(struct matcher *m)
{
    struct match_call c = pop_call(m);
    uint32_t below = c.below;
    int single = !m->n_heap || m->heap[0].rank != c.rank;
    if (!single || c.pos != TAIL) {
        m->group.n = 0;
        for (;;) {
            const struct match_set *s = &m->set[c.below];
            if (c.pos != TAIL)
                push(m, &m->group, c.pos, c.below);
            for (uint32_t i = 0; c.pos == TAIL && i < s->n; i++)
                push(m, &m->group, m->pair[s->at + i].pos, m->pair[s->at + i].below);
            if (!m->n_heap || m->heap[0].rank != c.rank || spend(m))
                break;
            c = pop_call(m);
        }
        below = set_of(m, &m->group);
    }
    if (!below)                            /* nested too deep */
        return;
    for (uint32_t a = m->r->rule[c.rule].first; a != RULES_NONE; a = m->r->alt[a].next)
        scan(m, m->r->alt[a].at, below, c.rank);
}

/* The state of everything in `todo` */
static uint32_t settle(struct matcher *m)
{
    m->out.n = m->n_heap = m->n_seen = m->merge.n = 0;
    if (!++m->stamp) {                     /* the stamps went round: none of the old ones counts */
        memset(m->seen, 0, m->seen ? (m->seen_mask + 1) * sizeof *m->seen : 0);
        m->stamp = 1;
    }
    while (m->todo.n && !m->failed) {
        struct match_pair p = m->todo.v[--m->todo.n];
        if (!seen(m, p.pos, p.below))
            scan(m, p.pos, p.below, UINT32_MAX);
    }
    while (m->n_heap && !m->failed)
        enter(m);
    uint32_t set = set_of(m, &m->out);
    if (!set || m->failed)
        return MATCH_DEAD;
    if (m->set[set].row)
        return m->set[set].row;
    size_t size = 1 + m->r->n_cls;
    if (room(m, &m->rows, &m->cap_rows, m->n_rows + size, sizeof *m->rows, MAX_ROWS))
        return MATCH_DEAD;
    uint32_t row = (uint32_t)m->n_rows;
    m->rows[row] = set;
    for (size_t i = 1; i < size; i++)
        m->rows[row + i] = MATCH_UNKNOWN;
    m->n_rows += size;
    m->set[set].row = row;
    return row;
}

uint32_t matcher_step(struct matcher *m, uint32_t state, unsigned cls)
{
    if (m->failed)
        return MATCH_DEAD;
    const struct match_set *s = &m->set[m->rows[state]];
    m->todo.n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        struct match_pair p = m->pair[s->at + i];
        uint32_t e = m->r->elem[p.pos];
        if (el_kind(e) == EL_BYTES && m->r->cls_set[el_arg(e)].w[cls / 64] >> cls % 64 & 1)
            push(m, &m->todo, p.pos + 1, p.below);
    }
    uint32_t next = settle(m);
    if (!m->failed)
        m->rows[state + 1 + cls] = next;
    return next;
}

int matcher_can_end(const struct matcher *m, uint32_t state)
{
    const struct match_set *s = &m->set[m->rows[state]];
    return s->n && m->pair[s->at].pos == 1;            /* elem[1] is EL_ACCEPT */
}

int matcher_can_go_on(const struct matcher *m, uint32_t state)
{
    const struct match_set *s = &m->set[m->rows[state]];
    return s->n && m->pair[s->at + s->n - 1].pos != 1;
}

/* ---- all of it ---- */

int matcher_reset(struct matcher *m)
{
    m->failed = NULL;
    m->work = 0;
    m->work_limit = MATCH_MAX_WORK;
    m->n_set = m->n_pair = m->n_rows = 0;
    memset(m->memo, 0, N_MEMO * sizeof *m->memo);
    if (m->slot)
        memset(m->slot, 0, (m->slot_mask + 1) * sizeof *m->slot);
    /* the empty set is set 0, and its row is row 0: no way leads out of it */
    size_t size = 1 + m->r->n_cls;
    if (room(m, &m->set, &m->cap_set, 1, sizeof *m->set, MAX_SETS) ||
        room(m, &m->rows, &m->cap_rows, size, sizeof *m->rows, MAX_ROWS))
        return -1;
    m->set[m->n_set++] = (struct match_set){ 0 };
    memset(m->rows, 0, size * sizeof *m->rows);        /* MATCH_DEAD is 0, too */
    m->n_rows = size;
    m->todo.n = 0;
    push(m, &m->todo, 0, 0);
    m->start = settle(m);
    return m->failed ? -1 : 0;
}

int matcher_init(struct matcher *m, const struct rules *r)
{
    *m = (struct matcher){ .r = r, .memo = malloc(N_MEMO * sizeof *m->memo) };
    if (m->memo && !matcher_reset(m))
        return 0;
    matcher_free(m);
    return -1;
}

void matcher_free(struct matcher *m)
{
    free(m->rows);
    free(m->pair);
    free(m->set);
    free(m->slot);
    free(m->memo);
    free(m->todo.v);
    free(m->out.v);
    free(m->group.v);
    free(m->merge.v);
    free(m->heap);
    free(m->seen);
    *m = (struct matcher){ 0 };
}

size_t matcher_bytes(const struct matcher *m)
{
    return m->n_pair * sizeof *m->pair + m->n_set * (sizeof *m->set + 2 * sizeof *m->slot) +
           m->n_rows * sizeof *m->rows;
}
