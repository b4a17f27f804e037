/* repl/grammar/constraint.c -- the trie, the masks, and the place in the text.  See constraint.h. */
#include "repl/grammar/constraint.h"

#include "plugins/fail.h"
#include "repl/grammar/matcher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the vocabulary ---- */

/* Nodes in the order of a walk from the root; the root itself is not among them. */
struct trie {
    const struct tok *tok;                 /* not owned                                  */
    uint32_t n_vocab;
    uint32_t n_node;
    uint8_t  *byte, *depth;                /* [n_node] bytes above it, up to 255         */
    uint32_t *skip;                        /* [n_node] the next node that is not below   */
    uint32_t *first;                       /* [n_node + 1] id[first[i]] .. id[first[i + 1]) end here */
    int32_t  *id;                          /* sorted by their bytes                      */
};

struct word { const unsigned char *s; uint32_t len; int32_t id; };

static int by_bytes(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->len < y->len ? x->len : y->len);
    return c ? c : x->len != y->len ? (x->len > y->len) - (x->len < y->len)
                                    : (x->id > y->id) - (x->id < y->id);
}

static uint32_t common(const struct word *a, const struct word *b)
{
    uint32_t n = 0;
    while (n < a->len && n < b->len && a->s[n] == b->s[n])
        n++;
    return n;
}

/* Fills the arrays, which are large enough, from sorted words */
static void build(struct trie *t, const struct word *w, uint32_t n)
{
    uint32_t path[TRIE_MAX_TOKEN], depth = 0;          /* the nodes from the root to here */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t same = i ? common(&w[i - 1], &w[i]) : 0;
        for (; depth > same; depth--)
            t->skip[path[depth - 1]] = t->n_node;
        for (; depth < w[i].len; depth++) {
            path[depth] = t->n_node;
            t->byte[t->n_node] = w[i].s[depth];
            t->depth[t->n_node] = (uint8_t)depth;
            t->first[t->n_node++] = i;
        }
        t->id[i] = w[i].id;
        t->first[t->n_node] = i + 1;       /* of the next node, unless that is set anew */
    }
    for (; depth; depth--)
        t->skip[path[depth - 1]] = t->n_node;
    t->first[t->n_node] = n;
}

struct trie *trie_new(const struct tok *tok, uint32_t n_vocab)
{
    struct trie *t = calloc(1, sizeof *t);
    struct word *w = malloc((n_vocab + (size_t)1) * sizeof *w);
    uint64_t nodes = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; w && i < n_vocab; i++) {
        size_t len;
        const char *s = tok_bytes(tok, (int32_t)i, &len);
        if (s && len && len <= TRIE_MAX_TOKEN && !tok_is_special(tok, (int32_t)i))
            w[n++] = (struct word){ (const unsigned char *)s, (uint32_t)len, (int32_t)i };
    }
    if (t && w) {
        qsort(w, n, sizeof *w, by_bytes);
        for (uint32_t i = 0; i < n; i++)
            nodes += w[i].len - (i ? common(&w[i - 1], &w[i]) : 0);
        t->tok = tok;
        t->n_vocab = n_vocab;
        if (nodes < UINT32_MAX) {
            t->byte = malloc(nodes + 1);
            t->depth = malloc(nodes + 1);
            t->skip = malloc((nodes + 1) * sizeof *t->skip);
            t->first = malloc((nodes + 1) * sizeof *t->first);
            t->id = malloc((n + (size_t)1) * sizeof *t->id);
        }
    }
    if (!t || !w || !t->byte || !t->depth || !t->skip || !t->first || !t->id) {
        trie_free(t);
        t = NULL;
    } else {
        build(t, w, n);
    }
    free(w);
    return t;
}

void trie_free(struct trie *t)
{
    if (!t)
        return;
    free(t->byte);
    free(t->depth);
    free(t->skip);
    free(t->first);
    free(t->id);
    free(t);
}

/* ---- a grammar over it ---- */

enum {
    MAX_MASKS = 256, MASKS_BYTES = 16 << 20,           /* kept by state */
    KEEP_BYTES = 64 << 20,                 /* of states; made anew when they take more */
};

struct constraint {
    struct rules rules;
    struct matcher m;
    const struct trie *trie;
    int32_t *eos;                          /* [n_eos]                                    */
    uint32_t n_eos;
    uint32_t state;
    char  *said;                           /* [n_said], to find the state again          */
    size_t n_said, cap_said;
    struct mask { uint32_t state; int any; uint8_t *banned; } mask[MAX_MASKS];
    size_t keep_bytes;
    uint32_t n_mask, max_mask, next_mask;  /* kept, room for, overwritten next           */
};

struct constraint *constraint_new(struct rules *rules, const struct trie *trie, const int32_t *eos,
                                  uint32_t n_eos)
{
    struct constraint *c = calloc(1, sizeof *c);
    if (!c) {
        rules_free(rules);
        return NULL;
    }
    c->rules = *rules;
    *rules = (struct rules){ 0 };
    c->trie = trie;
    c->n_eos = n_eos;
    c->keep_bytes = KEEP_BYTES;
    c->max_mask = MASKS_BYTES / (trie->n_vocab + 1);
    c->max_mask = c->max_mask < 8 ? 8 : c->max_mask > MAX_MASKS ? MAX_MASKS : c->max_mask;
    c->eos = malloc((n_eos + 1) * sizeof *c->eos);
    if (!c->eos || matcher_init(&c->m, &c->rules)) {
        constraint_free(c);
        return NULL;
    }
    if (n_eos)
        memcpy(c->eos, eos, n_eos * sizeof *eos);
    c->state = c->m.start;
    return c;
}

void constraint_free(struct constraint *c)
{
    if (!c)
        return;
    matcher_free(&c->m);
    rules_free(&c->rules);
    for (uint32_t i = 0; i < MAX_MASKS; i++)
        free(c->mask[i].banned);
    free(c->eos);
    free(c->said);
    free(c);
}

/* To where the text so far leads */
static int retrace(struct constraint *c)
{
    c->state = c->m.start;
    for (size_t i = 0; i < c->n_said; i++, c->m.work = 0)
        c->state = matcher_next(&c->m, c->state, (unsigned char)c->said[i]);
    return c->m.failed ? -1 : 0;
}

/* Makes the states anew; the text so far leads to the same one. */
static int forget(struct constraint *c)
{
    c->n_mask = c->next_mask = 0;
    return matcher_reset(&c->m) || retrace(c) ? -1 : 0;
}

size_t constraint_said(const struct constraint *c)
{
    return c->n_said;
}

void constraint_rewind(struct constraint *c, size_t said)
{
    c->n_said = said < c->n_said ? said : c->n_said;
    if (c->m.failed || matcher_bytes(&c->m) > c->keep_bytes)
        forget(c);
    else
        retrace(c);
}

void constraint_restart(struct constraint *c)
{
    constraint_rewind(c, 0);
}

void constraint_keep(struct constraint *c, size_t bytes)
{
    c->keep_bytes = bytes;
}

int constraint_complete(const struct constraint *c)
{
    return matcher_can_end(&c->m, c->state) && !matcher_can_go_on(&c->m, c->state);
}

/* Walks the vocabulary from the current state; non-zero if any token fits */
static int walk(struct constraint *c, uint8_t *banned)
{
    const struct trie *t = c->trie;
    struct matcher *m = &c->m;
    uint32_t at[TRIE_MAX_TOKEN + 1];       /* the state above a node, by its depth */
    int any = 0;
    at[0] = c->state;
    memset(banned, 1, t->n_vocab);
    for (uint32_t i = 0; i < t->n_node; ) {
        unsigned depth = t->depth[i];
        uint32_t s = matcher_next(m, at[depth], t->byte[i]);
        if (s == MATCH_DEAD) {
            i = t->skip[i];
            continue;
        }
        at[depth + 1] = s;
        for (uint32_t j = t->first[i]; j < t->first[i + 1]; j++) {
            banned[t->id[j]] = 0;
            any = 1;
        }
        i++;
    }
    if (matcher_can_end(m, c->state))
        for (uint32_t i = 0; i < c->n_eos; i++)
            if ((uint32_t)c->eos[i] < t->n_vocab) {
                banned[c->eos[i]] = 0;
                any = 1;
            }
    return any;
}

static dbrx_status no_state(const struct constraint *c, struct dbrx_error *err)
{
    return fail(err, DBRX_E_UNSUPPORTED, "%s", c->m.failed);
}

/* The mask of the current state, made if it is not there; NULL: out of memory */
static struct mask *find_mask(struct constraint *c)
{
    for (uint32_t i = 0; i < c->n_mask; i++)
        if (c->mask[i].state == c->state)
            return &c->mask[i];
    struct mask *mask = &c->mask[c->next_mask];
    if (!mask->banned && !(mask->banned = malloc(c->trie->n_vocab + (size_t)1)))
        return NULL;
    c->next_mask = (c->next_mask + 1) % c->max_mask;
    c->n_mask += c->n_mask < c->max_mask;
    mask->state = MATCH_UNKNOWN;           /* of use only when the walk came to its end */
    mask->any = walk(c, mask->banned);
    if (!c->m.failed)
        mask->state = c->state;
    return mask;
}

dbrx_status constraint_mask(struct constraint *c, const uint8_t **banned, struct dbrx_error *err)
{
    *banned = NULL;
    c->m.work = 0;
    if (c->m.failed || (matcher_bytes(&c->m) > c->keep_bytes && forget(c)))
        return no_state(c, err);
    struct mask *mask = find_mask(c);
    if (!mask)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    if (c->m.failed)
        return no_state(c, err);
    if (!mask->any)
        return fail(err, DBRX_E_UNSUPPORTED, "no token of this vocabulary can go on as the grammar "
                    "wants after the %zu bytes of the reply so far", c->n_said);
    *banned = mask->banned;
    return DBRX_OK;
}

dbrx_status constraint_accept(struct constraint *c, int32_t id, struct dbrx_error *err)
{
    for (uint32_t i = 0; i < c->n_eos; i++)
        if (c->eos[i] == id)
            return DBRX_OK;
    size_t len;
    const char *s = tok_bytes(c->trie->tok, id, &len);
    uint32_t state = c->state;
    c->m.work = 0;
    for (size_t i = 0; s && i < len && state; i++)
        state = matcher_next(&c->m, state, (unsigned char)s[i]);
    if (c->m.failed)
        return no_state(c, err);
    if (!s || !state)
        return fail(err, DBRX_E_INVALID, "token %d does not fit the grammar", id);
    if (c->n_said + len > c->cap_said) {
        size_t cap = 2 * (c->n_said + len);
        char *said = realloc(c->said, cap);
        if (!said)
            return fail(err, DBRX_E_NOMEM, "out of memory");
        c->said = said;
        c->cap_said = cap;
    }
    memcpy(c->said + c->n_said, s, len);
    c->n_said += len;
    c->state = state;
    return DBRX_OK;
}
