/* repl/timeline.c -- branches, undo and the shifted context.  See timeline.h. */
#include "repl/timeline.h"

#include "plugins/fail.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static dbrx_status no_memory(struct dbrx_error *err)
{
    return fail(err, DBRX_E_NOMEM, "out of memory");
}

/* ---- one branch ---- */

static void cut_turns(struct branch *b, uint32_t n)
{
    while (b->n_turns > n) {
        struct turn *t = &b->turn[--b->n_turns];
        free(t->settings);
        spans_free(&t->by);
    }
}

static void forget_undone(struct branch *b)
{
    branch_free(b->undone);
    free(b->step);
    b->undone = NULL;
    b->step = NULL;
    b->n_steps = 0;
}

void branch_free(struct branch *b)
{
    if (!b)
        return;
    forget_undone(b);
    cut_turns(b, 0);
    free(b->turn);
    free(b->token);
    free(b->name);
    free(b->from);
    free(b);
}

static int reserve_turns(struct branch *b, uint32_t n)
{
    if (n <= b->cap_turns)
        return 0;
    struct turn *turn = realloc(b->turn, 2 * (size_t)n * sizeof *turn);
    if (!turn)
        return -1;
    b->turn = turn;
    b->cap_turns = 2 * n;
    return 0;
}

/* Turns from[at..n) behind those of b; 0, or -1 with b as it was */
static int copy_turns(struct branch *b, const struct turn *from, uint32_t at, uint32_t n)
{
    uint32_t before = b->n_turns;
    if (reserve_turns(b, before + n - at))
        return -1;
    for (uint32_t i = at; i < n; i++) {
        struct turn *t = &b->turn[b->n_turns];
        *t = from[i];
        t->settings = from[i].settings ? strdup(from[i].settings) : NULL;
        int bad = spans_copy(&t->by, &from[i].by) || (from[i].settings && !t->settings);
        b->n_turns++;
        if (bad) {
            cut_turns(b, before);
            return -1;
        }
    }
    return 0;
}

static int32_t *copy_tokens(const int32_t *token, uint32_t n)
{
    int32_t *copy = malloc((n + (size_t)1) * sizeof *copy);
    if (copy && n)
        memcpy(copy, token, n * sizeof *copy);
    return copy;
}

/* The first n_turns turns of the current branch as a branch of their own */
static struct branch *snapshot(const struct tree *t, uint32_t n_turns)
{
    const struct branch *now = t->now;
    int all = n_turns == now->n_turns;
    struct branch *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->n = all ? t->sess->n : now->turn[n_turns].begin;
    b->seed = all ? t->seed : now->turn[n_turns].seed;
    b->state = all ? sampler_state(t->sess->sampler) : now->turn[n_turns].state;
    b->token = copy_tokens(t->sess->token, b->n);
    if (!b->token || copy_turns(b, now->turn, 0, n_turns)) {
        branch_free(b);
        return NULL;
    }
    return b;
}

/* ---- the tree ---- */

struct tree *tree_new(struct sess *s)
{
    struct tree *t = calloc(1, sizeof *t);
    struct branch *b = calloc(1, sizeof *b);
    if (t && b && (t->branch = calloc(1, sizeof *t->branch)) && (b->name = strdup("main"))) {
        t->sess = s;
        t->now = t->branch[t->n++] = b;
        return t;
    }
    branch_free(b);
    tree_free(t);
    return NULL;
}

void tree_free(struct tree *t)
{
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n; i++)
        branch_free(t->branch[i]);
    free(t->branch);
    free(t);
}

struct branch *tree_find(const struct tree *t, const char *name)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (!strcmp(t->branch[i]->name, name))
            return t->branch[i];
    return NULL;
}

int branch_name_ok(const char *name)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strspn(name, good);
    return n && n <= TREE_NAME && !name[n] && name[0] != '-';
}

const int32_t *branch_tokens(const struct tree *t, const struct branch *b, uint32_t *n)
{
    *n = b == t->now ? t->sess->n : b->n;
    return b == t->now ? t->sess->token : b->token;
}

uint32_t branch_common(const struct tree *t, const struct branch *a, const struct branch *b)
{
    uint32_t n, m, i = 0;
    const int32_t *x = branch_tokens(t, a, &n), *y = branch_tokens(t, b, &m);
    while (i < n && i < m && x[i] == y[i])
        i++;
    return i;
}

void tree_seed(struct tree *t, uint64_t seed)
{
    t->seed = seed;
    sampler_seed(t->sess->sampler, seed);
}

static void unlink_branch(struct tree *t, uint32_t i)
{
    struct branch *b = t->branch[i];
    memmove(t->branch + i, t->branch + i + 1, (t->n - i - 1) * sizeof *t->branch);
    t->n--;
    for (uint32_t k = 0; k < t->n; k++)    /* a later one of that name is no parent */
        if (t->branch[k]->from && !strcmp(t->branch[k]->from, b->name)) {
            free(t->branch[k]->from);
            t->branch[k]->from = NULL;
        }
    branch_free(b);
}

static uint32_t count(const struct tree *t, int automatic)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n; i++)
        n += t->branch[i]->automatic == automatic;
    return n;
}

static int may_go(const struct tree *t, const struct branch *b)
{
    return b->automatic && b != t->now && strcmp(b->name, "main");     /* older files call it automatic */
}

/* The oldest that the shell kept by itself go, until there are not too many, `spare` (not
 * yet among them) included */
static void make_room(struct tree *t, const struct branch *spare)
{
    for (uint32_t i = 0; i < t->n && count(t, 1) >= TREE_MAX + !spare; )
        if (may_go(t, t->branch[i]) && t->branch[i] != spare) {
            if (t->changed)
                t->changed(t->changed_ctx, TREE_DROPPED, t->branch[i]->name);
            unlink_branch(t, i);
        } else {
            i++;
        }
}

/* "stem-N" with the next N; NULL: no memory */
static char *free_name(const struct tree *t, const char *stem)
{
    unsigned long next = 1;
    size_t len = strlen(stem), size = len + 24;
    for (uint32_t i = 0; i < t->n; i++) {
        const char *name = t->branch[i]->name;
        if (strncmp(name, stem, len) || name[len] != '-')
            continue;
        unsigned long k = strtoul(name + len + 1, NULL, 10);
        if (k >= next && k < 4000000000u)
            next = k + 1;
    }
    char *name = malloc(size);
    if (!name)
        return NULL;
    do
        snprintf(name, size, "%s-%lu", stem, next++);
    while (tree_find(t, name));            /* a typed "new-01" counts as 1 */
    return name;
}

/* Puts b, whose name and from are set here, among the branches; 0, or -1: no memory, and b is
 * still the caller's */
static int join(struct tree *t, struct branch *b, const char *name, const char *stem, const struct branch *from)
{
    struct branch **list = realloc(t->branch, (t->n + (size_t)1) * sizeof *list);
    if (list)
        t->branch = list;
    if (!list || !(b->name = name ? strdup(name) : free_name(t, stem)) || (from && !(b->from = strdup(from->name)))) {
        free(b->name);
        b->name = NULL;
        return -1;
    }
    b->automatic = !name;
    if (b->automatic)
        make_room(t, b);
    t->branch[t->n++] = b;
    return 0;
}

/* join, if that name is one; takes b, also on failure */
static dbrx_status enroll(struct tree *t, struct branch *b, const char *name, const char *stem,
                          const struct branch *from, struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    if (name && !branch_name_ok(name))
        st = fail(err, DBRX_E_INVALID, "\"%.60s\" is no name for a branch: letters, digits, . _ and -, "
                  "at most %d", name, TREE_NAME);
    else if (name && tree_find(t, name))
        st = fail(err, DBRX_E_INVALID, "there is a branch \"%s\" already; /switch %s goes there",
                  name, name);
    else if (name && count(t, 0) > TREE_MAX)      /* "main" is one more */
        st = fail(err, DBRX_E_FULL, "there are %d named branches, and no room for more; "
                  "/branch --drop NAME makes some", TREE_MAX);
    else if (!b || join(t, b, name, stem, from))
        st = no_memory(err);
    if (st != DBRX_OK)
        branch_free(b);
    return st;
}

/* What b could redo becomes a branch; then there is nothing to redo */
static dbrx_status keep_undone(struct tree *t, struct branch *b, struct dbrx_error *err)
{
    struct branch *whole = b->undone;
    if (whole && join(t, whole, NULL, "undone", b))
        return no_memory(err);
    b->undone = NULL;
    forget_undone(b);
    if (whole && t->changed)
        t->changed(t->changed_ctx, TREE_KEPT_UNDONE, whole->name);
    return DBRX_OK;
}

dbrx_status tree_keep_undone(struct tree *t, struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    for (uint32_t i = t->n; st == DBRX_OK && i-- > 0; )    /* new ones are added behind */
        if (i < t->n)                      /* older ones may have made room */
            st = keep_undone(t, t->branch[i], err);
    return st;
}

dbrx_status tree_switch(struct tree *t, struct branch *b, struct dbrx_error *err)
{
    struct branch *was = t->now;
    struct sess *s = t->sess;
    if (b == was)
        return DBRX_OK;
    uint32_t n = s->n;
    int32_t *token = copy_tokens(s->token, n);
    if (!token)
        return no_memory(err);
    dbrx_status st = sess_replace(s, b->token, b->n, err);
    if (st != DBRX_OK) {
        free(token);
        return st;
    }
    was->token = token;
    was->n = n;
    was->seed = t->seed;
    was->state = sampler_state(s->sampler);
    free(b->token);
    b->token = NULL;
    t->seed = b->seed;
    sampler_seed(s->sampler, b->state);
    t->now = b;
    return DBRX_OK;
}

dbrx_status tree_fork(struct tree *t, const char *name, const char *stem, uint32_t n_turns,
                      struct dbrx_error *err)
{
    struct branch *b = snapshot(t, n_turns);
    dbrx_status st = enroll(t, b, name, stem, t->now, err);
    if (st == DBRX_OK && (st = tree_switch(t, b, err)) != DBRX_OK)
        unlink_branch(t, t->n - 1);
    return st;
}

dbrx_status tree_fresh(struct tree *t, struct dbrx_error *err)
{
    if (!t->sess->n && !t->now->undone)
        return DBRX_OK;
    struct branch *b = calloc(1, sizeof *b);
    dbrx_status st = enroll(t, b, NULL, "new", NULL, err);
    if (st == DBRX_OK && (st = tree_switch(t, b, err)) != DBRX_OK)
        unlink_branch(t, t->n - 1);
    return st;
}

dbrx_status tree_drop(struct tree *t, struct branch *b, struct dbrx_error *err)
{
    if (b == t->now)
        return fail(err, DBRX_E_INVALID, "\"%s\" is the branch you are on; /switch to another first",
                    b->name);
    for (uint32_t i = 0; i < t->n; i++)
        if (t->branch[i] == b) {
            unlink_branch(t, i);
            break;
        }
    return DBRX_OK;
}

/* ---- turns of the current branch ---- */

struct turn *tree_last(const struct tree *t)
{
    return t->now->n_turns ? &t->now->turn[t->now->n_turns - 1] : NULL;
}

dbrx_status tree_add(struct tree *t, struct turn turn, struct dbrx_error *err)
{
    struct branch *b = t->now;
    const struct turn *last = tree_last(t);
    turn.begin = last ? last->end : 0;
    turn.end = t->sess->n;
    turn.seed = t->seed;
    turn.state = sampler_state(t->sess->sampler);
    if (reserve_turns(b, b->n_turns + 1)) {
        free(turn.settings);
        return no_memory(err);
    }
    dbrx_status st = keep_undone(t, b, err);
    if (st != DBRX_OK) {
        free(turn.settings);
        return st;
    }
    b->turn[b->n_turns++] = turn;
    t->said++;
    return DBRX_OK;
}

dbrx_status tree_settle(struct tree *t, struct dbrx_error *err)
{
    struct branch *b = t->now;
    struct turn *last;
    uint32_t n = t->sess->n;
    if ((last = tree_last(t)) && last->end > n) {
        dbrx_status st = keep_undone(t, b, err);
        if (st != DBRX_OK)
            return st;
    }
    while ((last = tree_last(t)) && last->begin >= n)
        cut_turns(b, b->n_turns - 1);
    if (last && last->end > n) {
        last->end = n;
        last->reply = last->reply < n ? last->reply : n;
        spans_cut(&last->by, n);
    }
    if (last ? last->end == n : !n)
        return DBRX_OK;
    return tree_add(t, (struct turn){ .reply = n, .finish = SESS_NO_REPLY, .chat = last && last->chat },
                    err);
}

dbrx_status tree_undo(struct tree *t, uint32_t n, uint32_t *undone, struct dbrx_error *err)
{
    struct branch *b = t->now;
    uint32_t left = n < b->n_turns ? b->n_turns - n : 0;
    *undone = b->n_turns - left;
    if (!*undone)
        return DBRX_OK;
    struct branch *whole = b->undone ? b->undone : snapshot(t, b->n_turns);
    uint32_t *step = realloc(b->step, (b->n_steps + (size_t)1) * sizeof *step);
    if (step)
        b->step = step;
    if (!whole || !step) {
        if (!b->undone)
            branch_free(whole);
        return no_memory(err);
    }
    b->undone = whole;
    b->step[b->n_steps++] = b->n_turns;
    t->seed = b->turn[left].seed;
    sampler_seed(t->sess->sampler, b->turn[left].state);
    sess_truncate(t->sess, b->turn[left].begin);
    cut_turns(b, left);
    return DBRX_OK;
}

dbrx_status tree_redo(struct tree *t, uint32_t *redone, struct dbrx_error *err)
{
    struct branch *b = t->now, *whole = b->undone;
    *redone = 0;
    if (!b->n_steps)
        return DBRX_OK;
    uint32_t had = b->n_turns, want = b->step[b->n_steps - 1], end = whole->turn[want - 1].end;
    if (copy_turns(b, whole->turn, had, want))
        return no_memory(err);
    dbrx_status st = sess_append(t->sess, whole->token + t->sess->n, end - t->sess->n, err);
    if (st != DBRX_OK) {
        cut_turns(b, had);
        return st;
    }
    int all = want == whole->n_turns;
    t->seed = all ? whole->seed : whole->turn[want].seed;
    sampler_seed(t->sess->sampler, all ? whole->state : whole->turn[want].state);
    *redone = want - had;
    if (!--b->n_steps)
        forget_undone(b);
    return DBRX_OK;
}

/* ---- a full context ---- */

dbrx_status tree_shift(struct tree *t, uint32_t need, uint32_t keep, int32_t end, int in_reply,
                       struct shift *out, struct dbrx_error *err)
{
    struct branch *b = t->now;
    struct sess *s = t->sess;
    uint32_t max = disp_max_pos(s->disp), n = s->n, k = 0, whole = b->n_turns - (in_reply && b->n_turns);
    keep = keep < n ? keep : n;
    if (need > max - keep)
        return fail(err, DBRX_E_FULL, "%u tokens do not fit into the context of %u, whatever is dropped",
                    need, max);
    uint32_t room = need < max / 4 ? max / 4 : need;   /* more than asked for, or the next token
                                                          would shift it all again */
    room = room < max - keep ? room : max - keep;
    uint32_t drop = n > max - room ? n - (max - room) : 0, to = keep;
    while (k < whole && to - keep < drop) {
        if (b->turn[k].end > keep)
            to = b->turn[k].end;
        k++;
    }
    if (to - keep < drop)                  /* in the middle of the last turn */
        to = keep + drop;
    else if (to < n && s->token[to] == end)
        to++;
    dbrx_status st = keep_undone(t, b, err);
    if (st != DBRX_OK)
        return st;
    struct branch *old = snapshot(t, b->n_turns);
    if ((st = enroll(t, old, NULL, "full", NULL, err)) != DBRX_OK)
        return st;
    drop = to - keep;
    memmove(s->token + keep, s->token + to, (n - to) * sizeof *s->token);
    sess_truncate(s, n - drop);
    s->has_logits = 0;
    for (uint32_t i = 0; i < k; i++) {
        free(b->turn[i].settings);
        spans_free(&b->turn[i].by);
    }
    b->n_turns -= k;
    memmove(b->turn, b->turn + k, b->n_turns * sizeof *b->turn);
    for (uint32_t i = 0; i < b->n_turns; i++) {
        struct turn *u = &b->turn[i];
        u->moved = 1;
        u->begin = i ? u->begin - drop : 0;
        u->reply = u->reply > to ? u->reply - drop : keep;
        u->end -= drop;
        spans_drop(&u->by, keep, drop);
    }
    *out = (struct shift){ k, drop, old->name };
    return b->n_turns ? DBRX_OK : tree_settle(t, err);
}

/* ---- a loaded tree ---- */

/* A name that is free among all, instead of one that a new branch has too */
static void rename_branch(struct tree *t, struct branch *b)
{
    char *name = free_name(t, "kept");
    if (!name)
        return;                            /* out of memory: two of a name are better than none */
    free(b->name);
    b->name = name;
    b->automatic = 1;
}

/* Is b empty, or the beginning of one of in[n]? */
static int is_in(const struct tree *t, const struct branch *b, struct branch **in, uint32_t n)
{
    int found = !b->n;
    for (uint32_t k = 0; k < n && !found; k++)
        found = branch_common(t, b, in[k]) == b->n;
    return found;
}

dbrx_status tree_adopt(struct tree *t, struct branch **in, uint32_t n, uint32_t now,
                       struct dbrx_error *err)
{
    struct branch **was = t->branch, **all = malloc((t->n + (size_t)n) * sizeof *all), *open = t->now;
    uint32_t n_was = t->n, at = 0;
    if (!all)
        return no_memory(err);
    for (uint32_t i = 0; i < n_was; i++)   /* the old ones first: they make room */
        if (was[i] != open)
            all[at++] = was[i];
    memcpy(all + at, in, n * sizeof *all);
    all[at + n] = open;                    /* ... but for what is being talked about */
    t->branch = all;
    t->n = n + n_was;
    dbrx_status st = count(t, 0) > 2 * (TREE_MAX + 1)
                   ? fail(err, DBRX_E_FULL, "its branches and those here are too many together; "
                          "/branch --drop NAME makes room") : tree_switch(t, in[now], err);
    if (st != DBRX_OK) {
        free(all);
        t->branch = was;
        t->n = n_was;
        return st;
    }
    free(was);
    for (uint32_t i = t->n; i-- > 0; ) {
        struct branch *b = all[i];
        if (i >= at && i < at + n)
            continue;
        free(b->from);                     /* may mean another one by now */
        b->from = NULL;
        for (uint32_t k = 0; k < n; k++)
            if (!strcmp(in[k]->name, b->name))
                rename_branch(t, b);
        if (!b->undone && is_in(t, b, in, n))          /* what the new ones say as well is no loss */
            unlink_branch(t, i);
    }
    make_room(t, NULL);
    return DBRX_OK;
}
