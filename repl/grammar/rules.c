/* repl/grammar/rules.c -- building rules, and what must be known of them before they are walked:
 * which match nothing, which can begin which.  No recursion: a rule can be a chain of
 * any length.  See rules.h. */
#include "repl/grammar/rules.h"

#include <stdlib.h>
#include <string.h>

void rules_free(struct rules *r)
{
    free(r->elem);
    free(r->alt);
    free(r->rule);
    free(r->set);
    free(r->slot);
    free(r->cls_set);
    *r = (struct rules){ 0 };
}

/* Room for one more and n at all; 0 or -1 */
static int room(struct rules *r, void *array, size_t *cap, size_t n, size_t size)
{
    void **p = array;
    if (r->failed)
        return -1;
    if (n <= *cap)
        return 0;
    if (n > RULES_MAX_ELEMENTS) {
        r->failed = RULES_TOO_LARGE;
        return -1;
    }
    size_t more = 2 * n + 16;
    void *grown = realloc(*p, more * size);
    if (!grown) {
        r->failed = RULES_NOMEM;
        return -1;
    }
    *p = grown;
    *cap = more;
    return 0;
}

uint32_t rules_add(struct rules *r, uint32_t tag)
{
    if (room(r, &r->rule, &r->cap_rule, r->n_rule + 1, sizeof *r->rule))
        return RULES_NONE;
    r->rule[r->n_rule] = (struct rule){ .first = RULES_NONE, .last = RULES_NONE, .tag = tag };
    return (uint32_t)r->n_rule++;
}

void rules_alt(struct rules *r, uint32_t rule, const uint32_t *elem, size_t n)
{
    if (!r->n_elem) {                      /* root and EL_ACCEPT stand in front */
        if (room(r, &r->elem, &r->cap_elem, 2, sizeof *r->elem))
            return;
        r->n_elem = 2;
    }
    if (room(r, &r->elem, &r->cap_elem, r->n_elem + n + 1, sizeof *r->elem) ||
        room(r, &r->alt, &r->cap_alt, r->n_alt + 1, sizeof *r->alt))
        return;
    struct rule *to = &r->rule[rule];
    uint32_t i = (uint32_t)r->n_alt++;
    r->alt[i] = (struct rule_alt){ (uint32_t)r->n_elem, rule, RULES_NONE };
    if (to->last == RULES_NONE)
        to->first = i;
    else
        r->alt[to->last].next = i;
    to->last = i;
    if (n)
        memcpy(r->elem + r->n_elem, elem, n * sizeof *elem);
    r->n_elem += n;
    r->elem[r->n_elem++] = el(EL_END, 0);
}

/* ---- bytes ---- */

static size_t set_hash(const struct byte_set *s)
{
    uint64_t h = 0;
    for (int i = 0; i < 4; i++)
        h = (h ^ s->w[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
    return (size_t)h;
}

static int grow_slots(struct rules *r)
{
    size_t mask = r->slot_mask ? 2 * r->slot_mask + 1 : 63;
    uint32_t *slot = calloc(mask + 1, sizeof *slot);
    if (!slot) {
        r->failed = RULES_NOMEM;
        return -1;
    }
    for (size_t i = 0; i < r->n_set; i++) {
        size_t h = set_hash(&r->set[i]) & mask;
        while (slot[h])
            h = (h + 1) & mask;
        slot[h] = (uint32_t)i + 1;
    }
    free(r->slot);
    r->slot = slot;
    r->slot_mask = mask;
    return 0;
}

static uint32_t bytes_element(struct rules *r, const struct byte_set *s)
{
    if (r->failed || (2 * r->n_set >= r->slot_mask && grow_slots(r)))
        return 0;
    size_t h = set_hash(s) & r->slot_mask;
    for (; r->slot[h]; h = (h + 1) & r->slot_mask)
        if (!memcmp(&r->set[r->slot[h] - 1], s, sizeof *s))
            return el(EL_BYTES, r->slot[h] - 1);
    if (r->n_set == RULES_MAX_SETS) {
        r->failed = RULES_TOO_LARGE;
        return 0;
    }
    if (room(r, &r->set, &r->cap_set, r->n_set + 1, sizeof *r->set))
        return 0;
    r->set[r->n_set++] = *s;
    r->slot[h] = (uint32_t)r->n_set;
    return el(EL_BYTES, (uint32_t)r->n_set - 1);
}

static void set_range(struct byte_set *s, unsigned lo, unsigned hi)
{
    for (unsigned b = lo; b <= hi; b++)
        s->w[b / 64] |= UINT64_C(1) << b % 64;
}

uint32_t rules_byte(struct rules *r, unsigned byte)
{
    struct byte_set s = { { 0 } };
    set_range(&s, byte, byte);
    return bytes_element(r, &s);
}

/* The UTF-8 of lo..hi as alternatives of `rule`.  A range is cut until all its characters
 * are as long and each byte takes all values between its first and its last. */
static void utf8_alternatives(struct rules *r, uint32_t rule, uint32_t lo, uint32_t hi)
{
    static const uint32_t longest[] = { 0x7f, 0x7ff, 0xffff };
    for (int i = 0; i < 3; i++)
        if (lo <= longest[i] && longest[i] < hi) {
            utf8_alternatives(r, rule, lo, longest[i]);
            lo = longest[i] + 1;
        }
    unsigned char a[4], b[4];
    size_t n = char_encode(lo, a);
    for (size_t i = 1; i < n; i++) {
        uint32_t m = (UINT32_C(1) << 6 * i) - 1;
        if ((lo & ~m) == (hi & ~m))
            continue;
        if (lo & m) {
            utf8_alternatives(r, rule, lo, lo | m);
            utf8_alternatives(r, rule, (lo | m) + 1, hi);
            return;
        }
        if ((hi & m) != m) {
            utf8_alternatives(r, rule, lo, (hi & ~m) - 1);
            utf8_alternatives(r, rule, hi & ~m, hi);
            return;
        }
    }
    uint32_t elem[4];
    char_encode(hi, b);
    for (size_t i = 0; i < n; i++) {
        struct byte_set s = { { 0 } };
        set_range(&s, a[i], b[i]);
        elem[i] = bytes_element(r, &s);
    }
    rules_alt(r, rule, elem, n);
}

uint32_t rules_class(struct rules *r, const struct charset *c, uint32_t tag)
{
    struct byte_set ascii = { { 0 } };
    int any = 0;
    size_t i = 0;
    if (c->failed)
        r->failed = RULES_NOMEM;
    for (; i < c->n && c->range[i].lo < 0x80; i++) {
        set_range(&ascii, c->range[i].lo, c->range[i].hi < 0x7f ? c->range[i].hi : 0x7f);
        any = 1;
    }
    uint32_t e = any ? bytes_element(r, &ascii) : 0;
    if (any && (!c->n || c->range[c->n - 1].hi < 0x80))
        return e;
    uint32_t rule = rules_add(r, tag);
    if (rule == RULES_NONE)
        return 0;
    if (any)
        rules_alt(r, rule, &e, 1);
    for (i -= i && c->range[i - 1].hi > 0x7f; i < c->n; i++)
        utf8_alternatives(r, rule, c->range[i].lo < 0x80 ? 0x80 : c->range[i].lo, c->range[i].hi);
    return el(EL_RULE, rule);
}

uint32_t rules_repeat(struct rules *r, uint32_t x, uint32_t min, uint32_t max, uint32_t tag)
{
    /* the part that may be missing: x r | (nothing), or a chain of them */
    uint32_t rest = RULES_NONE, count = max == RULES_NONE ? 1 : max - min;
    for (uint32_t i = 0; i < count && !r->failed; i++) {
        uint32_t rule = rules_add(r, tag);
        uint32_t pair[2] = { x, el(EL_RULE, max == RULES_NONE ? rule : rest) };
        if (rule == RULES_NONE)
            return 0;
        r->rule[rule].star = max == RULES_NONE;
        rules_alt(r, rule, pair, max != RULES_NONE && rest == RULES_NONE ? 1 : 2);
        rules_alt(r, rule, NULL, 0);
        rest = rule;
    }
    if (!min && rest != RULES_NONE)
        return el(EL_RULE, rest);
    uint32_t all = rules_add(r, tag), *seq = r->failed ? NULL : malloc((min + 1) * sizeof *seq);
    if (!seq) {
        r->failed = r->failed ? r->failed : RULES_NOMEM;
        return 0;
    }
    for (uint32_t i = 0; i < min; i++)
        seq[i] = x;
    seq[min] = el(EL_RULE, rest);
    rules_alt(r, all, seq, min + (rest != RULES_NONE));
    free(seq);
    return el(EL_RULE, all);
}

/* ---- what must be known ---- */

/* Scratch for the passes over all rules. */
struct pass {
    struct rules *r;
    uint32_t *head;                        /* [n_rule] first element that calls it, or 0  */
    uint32_t *link;                        /* [n_elem] the next that calls the same       */
    uint32_t *owner;                       /* [n_elem] its alternative                    */
    uint32_t *count;                       /* [n_alt] elements, or [n_rule] rules, to go  */
    uint32_t *queue;                       /* [n_rule] rules whose turn has come          */
    size_t n_queue;
};

static void pass_free(struct pass *p)
{
    free(p->head);
    free(p->link);
    free(p->owner);
    free(p->count);
    free(p->queue);
}

static int pass_new(struct rules *r, struct pass *p)
{
    size_t most = r->n_alt > r->n_rule ? r->n_alt : r->n_rule;
    *p = (struct pass){ .r = r };
    p->head = calloc(r->n_rule + 1, sizeof *p->head);
    p->link = calloc(r->n_elem + 1, sizeof *p->link);
    p->owner = calloc(r->n_elem + 1, sizeof *p->owner);
    p->count = calloc(most + 1, sizeof *p->count);
    p->queue = malloc((r->n_rule + 1) * sizeof *p->queue);
    if (p->head && p->link && p->owner && p->count && p->queue)
        return 0;
    pass_free(p);
    r->failed = RULES_NOMEM;
    return -1;
}

/* An alternative without unmet elements gives its rule the property */
static void settle(struct pass *p, uint32_t alt, int productive)
{
    uint32_t rule = p->r->alt[alt].rule;
    uint8_t *yes = productive ? &p->r->rule[rule].productive : &p->r->rule[rule].nullable;
    if (!p->count[alt] && !*yes) {
        *yes = 1;
        p->queue[p->n_queue++] = rule;
    }
}

/* Finds the rules that are `productive` (some text matches) or `nullable` (no text does):
 * those with an alternative all of whose elements are. */
static int saturate(struct rules *r, int productive)
{
    struct pass p;
    if (pass_new(r, &p))
        return -1;
    for (uint32_t a = 0; a < r->n_alt; a++)
        for (uint32_t i = r->alt[a].at; el_kind(r->elem[i]) != EL_END; i++) {
            if (el_kind(r->elem[i]) == EL_RULE) {
                uint32_t *head = &p.head[el_arg(r->elem[i])];
                p.owner[i] = a;
                p.link[i] = *head;
                *head = i;
            }
            p.count[a] += el_kind(r->elem[i]) == EL_RULE || !productive;
        }
    for (uint32_t a = 0; a < r->n_alt; a++)
        settle(&p, a, productive);
    while (p.n_queue)
        for (uint32_t i = p.head[p.queue[--p.n_queue]]; i; i = p.link[i]) {
            p.count[p.owner[i]]--;
            settle(&p, p.owner[i], productive);
        }
    pass_free(&p);
    return 0;
}

/* Alternatives with a rule that no text matches are not there */
static void drop_dead(struct rules *r)
{
    for (size_t i = 0; i < r->n_rule; i++)
        for (uint32_t *link = &r->rule[i].first; *link != RULES_NONE; ) {
            struct rule_alt *a = &r->alt[*link];
            int live = 1;
            for (const uint32_t *e = r->elem + a->at; el_kind(*e) != EL_END; e++)
                live &= el_kind(*e) != EL_RULE || r->rule[el_arg(*e)].productive;
            if (live)
                link = &a->next;
            else
                *link = a->next;
        }
}

/* Calls each() for every rule that `rule` can begin with */
static void begins(struct pass *p, uint32_t rule, void (*each)(struct pass *, uint32_t, uint32_t))
{
    const struct rules *r = p->r;
    for (uint32_t a = r->rule[rule].first; a != RULES_NONE; a = r->alt[a].next)
        for (const uint32_t *e = r->elem + r->alt[a].at; el_kind(*e) == EL_RULE; e++) {
            uint32_t q = el_arg(*e);
            /* a loop around what may be empty is no recursion: it pushes nothing */
            if (q != rule || !r->rule[rule].star || el_kind(e[1]) != EL_END)
                each(p, rule, q);
            if (!r->rule[q].nullable)
                break;
        }
}

static void count_edge(struct pass *p, uint32_t from, uint32_t to)
{
    (void)from;
    p->count[to]++;
}

static void take_edge(struct pass *p, uint32_t from, uint32_t to)
{
    (void)from;
    if (!--p->count[to])
        p->queue[p->n_queue++] = to;
}

static void note_edge(struct pass *p, uint32_t from, uint32_t to)
{
    if (p->count[from] && p->count[to])
        p->head[to] = from;
}

/* Rules in an order in which each comes before those that it can begin with; where there
 * is none, a rule on a circle goes to *culprit. */
static int rank_rules(struct rules *r, uint32_t *culprit)
{
    struct pass p;
    size_t done = 0;
    if (pass_new(r, &p))
        return RULES_FAILED;
    for (uint32_t i = 0; i < r->n_rule; i++)
        begins(&p, i, count_edge);
    for (uint32_t i = 0; i < r->n_rule; i++)
        if (!p.count[i])
            p.queue[p.n_queue++] = i;
    for (; done < p.n_queue; done++) {
        r->rule[p.queue[done]].rank = (uint32_t)done;
        begins(&p, p.queue[done], take_edge);
    }
    if (done < r->n_rule) {                /* who is left has one that is left before it */
        uint32_t at = 0;
        for (uint32_t i = 0; i < r->n_rule; i++)
            begins(&p, i, note_edge);
        while (!p.count[at])
            at++;
        for (size_t i = 0; i < r->n_rule; i++)
            at = p.head[at];
        *culprit = at;
    }
    pass_free(&p);
    return done < r->n_rule ? RULES_LEFT_RECURSIVE : RULES_OK;
}

/* Splits the bytes into classes: two bytes part when a set has one and not the other. */
static int classify(struct rules *r)
{
    r->n_cls = 1;
    for (size_t s = 0; s < r->n_set && r->n_cls < 256; s++) {
        uint16_t inside[256] = { 0 }, outside[256] = { 0 };    /* what an old class becomes, + 1 */
        unsigned n = 0;
        for (unsigned b = 0; b < 256; b++) {
            uint16_t *to = (r->set[s].w[b / 64] >> b % 64 & 1 ? inside : outside) + r->cls[b];
            if (!*to)
                *to = (uint16_t)++n;
            r->cls[b] = (uint8_t)(*to - 1);
        }
        r->n_cls = n;
    }
    r->cls_set = calloc(r->n_set + 1, sizeof *r->cls_set);
    if (!r->cls_set) {
        r->failed = RULES_NOMEM;
        return -1;
    }
    for (size_t s = 0; s < r->n_set; s++)
        for (unsigned b = 0; b < 256; b++)
            if (r->set[s].w[b / 64] >> b % 64 & 1)
                r->cls_set[s].w[r->cls[b] / 64] |= UINT64_C(1) << r->cls[b] % 64;
    return 0;
}

int rules_finish(struct rules *r, uint32_t root, uint32_t *culprit)
{
    if (r->failed || saturate(r, 1))
        return RULES_FAILED;
    *culprit = root;
    if (!r->rule[root].productive)
        return RULES_NEVER_ENDS;
    drop_dead(r);
    if (saturate(r, 0) || classify(r))
        return RULES_FAILED;
    r->elem[0] = el(EL_RULE, root);
    r->elem[1] = el(EL_ACCEPT, 0);
    return rank_rules(r, culprit);
}
