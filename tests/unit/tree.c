/* tests/unit/tree.c -- branches and saved sessions: random operations against a naive model,
 * files that were damaged, killed or did not fit, on the tiny golden checkpoint. */
#include "backends/model/checkpoint.h"
#include "repl/atomic.h"
#include "repl/save.h"
#include "repl/stops.h"
#include "tests/quiet_host.h"
#include "tests/tap.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <dirent.h>
#include <time.h>
#include <unistd.h>

enum { MAX_POS = 48 };
static char dir[] = "/tmp/dbrx-tree.XXXXXX", file[64];
static struct ckpt *ck;
static struct modules mods;

static const struct dbrx_host host = QUIET_HOST(host_never);

static uint32_t seed = 12345;
static uint32_t roll(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(seed >> 8) * n >> 24);
}

struct world { struct disp *d; struct sess *s; struct tree *t; struct vars vars; };

static struct world world_new(const char *backend)
{
    struct dbrx_error err = { 0 };
    struct world w = { .d = disp_new(&ck->desc, &mods, &host, MAX_POS) };
    w.s = sess_new(w.d, &ck->desc.config, NULL);
    w.t = tree_new(w.s);
    vars_init(&w.vars);
    if (sess_use(w.s, backend, NULL, 0, &err) != DBRX_OK)
        bail("%s", err.text);
    tree_seed(w.t, 1);
    return w;
}

static void world_free(struct world *w)
{
    tree_free(w->t);
    sess_free(w->s);
    disp_free(w->d);
    vars_free(&w->vars);
}

/* n random tokens as a turn, half of them as its reply */
static int say(struct world *w, uint32_t n)
{
    struct dbrx_error err;
    int32_t id[MAX_POS];
    for (uint32_t i = 0; i < n; i++)
        id[i] = (int32_t)roll(3);          /* few, so that branches share beginnings */
    if (sess_append(w->s, id, n, &err) != DBRX_OK)
        return -1;
    sampler_seed(w->s->sampler, roll(1000));
    dbrx_status st = tree_add(w->t, (struct turn){ .reply = w->s->n - n / 2, .finish = SESS_MAX_TOKENS,
                              .settings = strdup("{\"temperature\":\"0.5\"}") }, &err);
    sampler_seed(w->s->sampler, 1000 + roll(1000));    /* as drawing would */
    return st;
}

/* ---- the naive model: every branch a list of tokens and turn ends ---- */

struct naive { char name[48]; int32_t id[MAX_POS]; uint32_t n, end[MAX_POS], turns; };
static struct naive model[300], *now, before[MAX_POS];
static uint32_t n_model, n_before, n_undone;

static int room_for_undone(void)           /* the model knows nothing of branches that make room */
{
    return !n_before || n_undone < 20;
}

/* Something new ends redo: all of it as it was before the first undo becomes a branch */
static void keep_undone(void)
{
    if (n_before) {
        model[n_model] = before[0];
        snprintf(model[n_model++].name, sizeof model->name, "undone-%u", ++n_undone);
    }
    n_before = 0;
}

static void follow(struct world *w)        /* what the shell's tree says now, as a naive branch */
{
    snprintf(now->name, sizeof now->name, "%s", w->t->now->name);
}

static int agree(struct world *w)
{
    for (uint32_t i = 0; i < n_model; i++) {
        const struct branch *b = tree_find(w->t, model[i].name);
        uint32_t n, at = 0;
        const int32_t *id = b ? branch_tokens(w->t, b, &n) : NULL;
        if (!b || n != model[i].n || (n && memcmp(id, model[i].id, n * sizeof *id)) ||
            b->n_turns != model[i].turns || (b == w->t->now) != (&model[i] == now))
            return 0;
        for (uint32_t k = 0; k < b->n_turns; at = b->turn[k++].end)
            if (b->turn[k].begin != at || b->turn[k].end != model[i].end[k])
                return 0;
        if (at != n)
            return 0;
    }
    return w->t->n == n_model;
}

/* The logits at the end are those of a fresh computation */
static int fresh(struct world *w, struct world *other)
{
    struct dbrx_error err;
    uint32_t v = ck->desc.config.n_vocab;
    float worst = 0, scale = 0;
    if (!w->s->n)
        return 1;
    sess_truncate(other->s, 0);
    if (sess_sync(other->s, &err) != DBRX_OK || sess_append(other->s, w->s->token, w->s->n, &err) != DBRX_OK ||
        sess_sync(other->s, &err) != DBRX_OK || sess_sync(w->s, &err) != DBRX_OK)
        return 0;
    for (uint32_t i = 0; i < v; i++) {
        float d = fabsf(w->s->logits[i] - other->s->logits[i]);
        worst = !(d <= worst) ? d : worst;
        scale = fmaxf(scale, fabsf(other->s->logits[i]));
    }
    return worst <= 2e-3f * scale && sess_routed(w->s) == w->s->n && disp_position(w->d) == w->s->n;
}

static int step(struct world *w)
{
    struct dbrx_error err = { 0 };
    struct tree *t = w->t;
    uint32_t what = roll(100), n;
    char name[32];
    if (what < 35) {                       /* something new */
        uint32_t len = 1 + roll(5), room = MAX_POS - w->s->n, at = w->s->n;
        if (len > room || !room_for_undone())
            return 1;
        if (say(w, len))
            return 0;
        memcpy(now->id + at, w->s->token + at, len * sizeof *now->id);
        now->n += len;
        now->end[now->turns++] = now->n;
        keep_undone();
    } else if (what < 55) {
        uint32_t k = 1 + roll(3), want = k < now->turns ? k : now->turns;
        if (tree_undo(t, k, &n, &err) != DBRX_OK || n != want)
            return 0;
        if (n) {
            before[n_before++] = *now;
            now->turns -= n;
            now->n = now->turns ? now->end[now->turns - 1] : 0;
        }
    } else if (what < 70) {
        if (tree_redo(t, &n, &err) != DBRX_OK || (n != 0) != (n_before != 0))
            return 0;
        if (n)
            *now = before[--n_before];
    } else if (what < 80) {
        snprintf(name, sizeof name, "b%u", n_model);
        if (n_model - n_undone >= 40 || n_before)     /* redo belongs to a branch; the model knows one only */
            return 1;
        if (tree_fork(t, name, NULL, now->turns, &err) != DBRX_OK)
            return 0;
        model[n_model] = *now;
        now = &model[n_model++];
        n_before = 0;
        follow(w);
    } else if (what < 95) {
        uint32_t to = roll(n_model);
        if (&model[to] == now || n_before)
            return 1;
        if (tree_switch(t, tree_find(t, model[to].name), &err) != DBRX_OK)
            return 0;
        now = &model[to];
        n_before = 0;
        return !t->now->n_steps;
    } else if (n_model - n_undone < 40 && now->n && !n_before) {
        if (tree_fresh(t, &err) != DBRX_OK)
            return 0;
        now = &model[n_model++];
        *now = (struct naive){ 0 };
        n_before = 0;
        follow(w);
    } else if (room_for_undone()) {
        sess_truncate(w->s, w->s->n / 2);  /* somebody cuts the timeline: the turns follow */
        if (tree_settle(t, &err) != DBRX_OK)
            return 0;
        now->n /= 2;
        while (now->turns && (now->turns > 1 ? now->end[now->turns - 2] : 0) >= now->n)
            now->turns--;
        if (now->turns)
            now->end[now->turns - 1] = now->n;
        if (!w->t->now->n_steps)
            keep_undone();
    }
    return 1;
}

static void test_tree(const char *backend)
{
    enum { STEPS = 1500 };
    struct world w = world_new(backend), other = world_new(backend);
    int good = 1, i;
    uint32_t checked = 0;
    n_model = 1;
    now = model;
    *now = (struct naive){ .name = "main" };
    n_before = n_undone = 0;
    for (i = 0; i < STEPS && good; i++) {
        good = step(&w) && agree(&w);
        if (good && (i % 4 == 0 || i > STEPS - 50)) {
            good = fresh(&w, &other);
            checked++;
        }
    }
    ok(good, "%s: %d random operations on %u branches are what a naive model says; %u times the logits "
       "equal a fresh computation", backend, i, n_model, checked);
    world_free(&w);
    world_free(&other);
}

static uint32_t dropped;
static char last_dropped[64];
static void count_dropped(void *ctx, enum tree_change what, const char *name)
{
    (void)ctx;
    dropped += what == TREE_DROPPED;
    snprintf(last_dropped, sizeof last_dropped, "%s", name);
}

/* Going back to what was not overwritten costs one token */
static void test_cost(void)
{
    struct world w = world_new("ref");
    struct dbrx_error err;
    uint32_t n;
    say(&w, 10), say(&w, 10);
    sess_sync(w.s, &err);
    tree_undo(w.t, 1, &n, &err);
    tree_redo(w.t, &n, &err);
    sess_sync(w.s, &err);
    ok(w.s->last.prompt_tokens == 1, "undo and redo recompute one token, not %llu",
       (unsigned long long)w.s->last.prompt_tokens);
    uint64_t end = sampler_state(w.s->sampler), first = w.t->now->turn[1].state;
    tree_undo(w.t, 1, &n, &err);
    int rewound = sampler_state(w.s->sampler) == first;
    tree_redo(w.t, &n, &err);
    ok(rewound && sampler_state(w.s->sampler) == end && end != first, "the random numbers go back and forth with it");
    tree_fork(w.t, "side", NULL, 1, &err);
    ok(w.s->n == 10 && sess_in_step(w.s) == 10, "a fork shares the KV of its beginning");
    int32_t other[] = { 7, 7, 7 };
    sess_append(w.s, other, 3, &err);
    tree_settle(w.t, &err);
    sess_sync(w.s, &err);
    ok(w.s->last.prompt_tokens == 3, "only what differs is computed");
    sess_truncate(w.s, 0);
    tree_settle(w.t, &err);
    sess_append(w.s, other, 3, &err);
    sess_sync(w.s, &err);
    ok(w.s->last.prompt_tokens == 3, "shorter other words are not mistaken for those before (%llu)",
       (unsigned long long)w.s->last.prompt_tokens);
    ok(tree_fork(w.t, "-x", NULL, 0, &err) == DBRX_E_INVALID && tree_fork(w.t, "side", NULL, 0, &err) == DBRX_E_INVALID &&
       tree_drop(w.t, w.t->now, &err) == DBRX_E_INVALID, "bad names, taken names, the branch one is on");
    w.t->changed = count_dropped;
    for (int i = 0; i < 300; i++) {
        sess_append(w.s, other, 1, &err);
        tree_settle(w.t, &err);
        tree_fresh(w.t, &err);
    }
    ok(w.t->n <= 2 * TREE_MAX && tree_find(w.t, "side") && tree_find(w.t, "main") && tree_find(w.t, "new-300"),
       "300 conversations: %u branches, main and the named one are there", w.t->n);
    ok(dropped == 300 - TREE_MAX && !strcmp(last_dropped, "new-236") && !tree_find(w.t, "new-236") &&
       tree_find(w.t, "new-237"), "each that made room was told of (%u, the last is %s)", dropped, last_dropped);
    struct branch *home = NULL;
    for (uint32_t i = 0; i < w.t->n && !home; i++)
        home = w.t->branch[i]->automatic ? w.t->branch[i] : NULL;
    tree_switch(w.t, home, &err);
    int there = 1;
    for (int i = 0; i < 100 && there; i++)
        there = tree_fork(w.t, NULL, "retry", 1, &err) == DBRX_OK && tree_find(w.t, w.t->now->from) == home &&
                tree_switch(w.t, home, &err) == DBRX_OK;
    ok(there && tree_find(w.t, home->name) == home, "the branch one is on never makes room");
    world_free(&w);
}

static void test_shift(void)
{
    struct world w = world_new("ref");
    struct dbrx_error err;
    struct shift gone;
    for (int i = 0; i < 4; i++)
        say(&w, 12);
    int32_t was[MAX_POS];
    memcpy(was, w.s->token, sizeof was);
    int shifted = w.s->n == MAX_POS && tree_shift(w.t, 5, 4, -1, 0, &gone, &err) == DBRX_OK;
    ok(shifted && gone.turns == 2 &&
       gone.tokens == 20 && w.s->n == 28, "a shift drops whole turns, enough of them (%u, %u tokens)", gone.turns, gone.tokens);
    ok(!memcmp(w.s->token, was, 4 * sizeof *was) && !memcmp(w.s->token + 4, was + 24, 24 * sizeof *was) &&
       w.t->now->n_turns == 2 && w.t->now->turn[0].begin == 0 && w.t->now->turn[0].end == 16 &&
       w.t->now->turn[1].begin == 16 && w.t->now->turn[1].end == 28 && w.t->now->turn[0].moved,
       "... keeps the first tokens and the newest turns");
    const struct branch *full = tree_find(w.t, gone.kept_as);
    ok(full && full->n == MAX_POS && !memcmp(full->token, was, sizeof was) && full->n_turns == 4,
       "... and all of it as branch %s", gone.kept_as);
    tree_undo(w.t, 1, &(uint32_t){ 0 }, &err);
    say(&w, 32);
    ok(w.s->n == MAX_POS && tree_shift(w.t, 1, 4, -1, 1, &gone, &err) == DBRX_OK && gone.tokens == 12 &&
       gone.turns == 1 && w.s->n == 36 && tree_last(w.t)->end == 36, "in a reply, the last turn stays");
    sess_append(w.s, was, 12, &err);
    tree_last(w.t)->end = w.s->n;
    ok(tree_shift(w.t, 1, 4, -1, 1, &gone, &err) == DBRX_OK && gone.tokens == 12 && w.t->now->n_turns == 1 &&
       w.s->n == 36 && tree_last(w.t)->end == 36 && tree_last(w.t)->begin == 0, "... or loses its oldest tokens");
    ok(tree_shift(w.t, MAX_POS, 4, -1, 0, &gone, &err) == DBRX_E_FULL && w.s->n == 36, "what can never fit is refused");
    world_free(&w);
}

static void test_stops(void)
{
    struct stops s;
    char err[200], text[64] = "";
    size_t safe, n = 0;
    ok(!stops_parse(&s, " and\\n", err, sizeof err) && s.n == 1 && s.len[0] == 5 && !memcmp(s.text[0], " and\n", 5), "one stop string, as it is");
    ok(!stops_parse(&s, "\"a b\" 'c\\''", err, sizeof err) && s.n == 2 && s.len[0] == 3 && !memcmp(s.text[1], "c'", 2), "two, quoted");
    ok(stops_parse(&s, "\"a\" b", err, sizeof err) && stops_parse(&s, "\"a", err, sizeof err) &&
       stops_parse(&s, "\"\"", err, sizeof err), "misuse: %s", err);
    stops_parse(&s, "\"abcd\" \"bx\"", err, sizeof err);
    int hit = 0;
    size_t shown[9];
    for (const char *p = "zabcabxq"; *p && !hit; p++) {
        text[n++] = *p;
        hit = stops_find(&s, text, n, n - 1, &safe);
        shown[n] = safe;
    }
    ok(hit && n == 7 && safe == 5 && shown[1] == 1 && shown[2] == 1 && shown[4] == 1 && shown[5] == 4 && shown[6] == 4,
       "held back as long as it may become one, found where it begins");
    ok(stops_find(&s, "zzabxabcd", 9, 0, &safe) && safe == 3, "the first of several");
}

/* ---- files ---- */

static int write_file(struct world *w, int kv, char *err)
{
    struct save_source from = { w->t, &w->vars, &ck->desc, "tiny", disp_name(w->d), kv, NULL };
    return save_write(file, &from, err, 300);
}

static int read_here(struct world *w, int tokens_only, char *err)
{
    struct saved s;
    struct dbrx_error e = { 0 };
    if (save_read(file, &ck->desc, "nano", MAX_POS, &w->vars, tokens_only, &s, err, 300))
        return -1;
    dbrx_status st = tree_adopt(w->t, s.branch, s.n, s.now, &e);
    if (st == DBRX_OK) {
        s.n = 0;
        if (s.n_kv)
            sess_import(w->s, s.n_kv, save_next_kv, &s, &e);
    }
    saved_free(&s);
    snprintf(err, 300, "%s", e.text);
    return st == DBRX_OK ? 0 : -1;
}

/* All of a tree as text, for comparing */
static char *picture(const struct world *w, const struct tree *t)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    (void)w;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct branch *b = t->branch[i];
        uint32_t n;
        const int32_t *id = branch_tokens(t, b, &n);
        fprintf(f, "%s<%s%s%s\n", b->name, b->from ? b->from : "", b->automatic ? "a" : "", b == t->now ? "*" : "");
        fprintf(f, "%llu %llu\n", (unsigned long long)(b == t->now ? t->seed : b->seed),
                (unsigned long long)(b == t->now ? sampler_state(t->sess->sampler) : b->state));
        for (uint32_t k = 0; k < n; k++)
            fprintf(f, " %d", id[k]);
        for (uint32_t k = 0; k < b->n_turns; k++)
            fprintf(f, "\n%u %u %u %d %llu %llu %s %d%d", b->turn[k].begin, b->turn[k].reply, b->turn[k].end, b->turn[k].finish,
                    (unsigned long long)b->turn[k].seed, (unsigned long long)b->turn[k].state,
                    b->turn[k].settings ? b->turn[k].settings : "-", b->turn[k].chat, b->turn[k].moved);
        fprintf(f, "\n");
    }
    fclose(f);
    return text;
}

static int same_picture(const struct world *a, const struct world *b)
{
    char *x = picture(a, a->t), *y = picture(b, b->t);
    int same = !strcmp(x, y);
    if (!same)
        diag("--- %s--- %s", x, y);
    free(x);
    free(y);
    return same;
}

static void grow(struct world *w)
{
    struct dbrx_error err;
    say(w, 9), say(w, 8);
    tree_fork(w->t, "one", NULL, 1, &err);
    say(w, 5);
    tree_fork(w->t, NULL, "retry", 2, &err);
    say(w, 7);
    tree_fresh(w->t, &err);
    say(w, 3);
    tree_switch(w->t, tree_find(w->t, "one"), &err);
    sess_sync(w->s, &err);
}

static void test_round_trip(const char *from, const char *to)
{
    for (int kv = 0; kv < 2; kv++) {
        struct world a = world_new(from), b = world_new(to);
        char err[300] = "";
        struct dbrx_error e;
        grow(&a);
        vars_set(&a.vars, VAR_TEMPERATURE, "0.25", FROM_SESSION, err, sizeof err);
        ok(!write_file(&a, kv, err) && !read_here(&b, 0, err) && same_picture(&a, &b),
           "%s to %s%s: branches, turns, seeds come back (%s)", from, to, kv ? ", with KV" : "", err);
        ok(!strcmp(disp_kv_origin(b.d), kv ? "loaded" : "computed") && sess_in_step(b.s) == (kv ? b.s->n : 0),
           "... kv: %s", disp_kv_origin(b.d));
        sess_sync(b.s, &e);
        int close = b.s->last.prompt_tokens == (kv ? 1 : b.s->n);
        for (uint32_t i = 0; i < ck->desc.config.n_vocab; i++)
            close &= fabsf(a.s->logits[i] - b.s->logits[i]) < 0.02f;
        ok(close, "... and the logits");
        ok(sess_retrace(b.s, &e) == DBRX_OK && sess_routed(b.s) == b.s->n, "... and the routes, when asked for");
        world_free(&a);
        world_free(&b);
    }
}

static char *slurp(size_t *n)
{
    FILE *f = fopen(file, "rb");
    char *p = malloc(1 << 20);
    *n = fread(p, 1, 1 << 20, f);
    fclose(f);
    return p;
}

static void spill(const char *p, size_t n)
{
    FILE *f = fopen(file, "wb");
    fwrite(p, 1, n, f);
    fclose(f);
}

/* Damage with the checksum as it was, and with one that fits: then the fields must stand it */
static void test_damage(const char *backend)
{
    enum { TIMES = 6000 };
    struct world w = world_new(backend), mine = world_new(backend), untouched = world_new(backend);
    struct saved s;
    char err[300];
    size_t n;
    grow(&w);
    uint32_t at_first = seed;
    say(&mine, 6);
    seed = at_first;
    say(&untouched, 6);
    write_file(&w, 1, err);
    char *good = slurp(&n), *p = malloc(n + 64);
    int refused = 0, taken = 0, crc_missed = 0, changed = 0;
    for (int i = 0; i < TIMES; i++) {
        size_t len = n, json = (size_t)(strstr(good + SAVE_HEAD, "}]") - good);
        int sealed = i % 2;
        memcpy(p, good, n);
        switch (roll(4)) {
        case 0:
            len = roll((uint32_t)n);
            break;
        case 1:                            /* a digit or a letter of the description */
            for (uint32_t k = 1 + roll(3); k--; )
                p[SAVE_HEAD + roll((uint32_t)(json - SAVE_HEAD))] = "0123456789-e\"{}[]:,at"[roll(21)];
            break;
        case 2:
            for (uint32_t k = 1 + roll(4); k--; )
                p[roll((uint32_t)n)] ^= (char)(1u << roll(8));
            break;
        default:                           /* the numbers of the head */
            p[8 + roll(24)] = (char)roll(256);
        }
        if (sealed && len > SAVE_HEAD + SAVE_TAIL) {
            uint32_t crc = crc32c(0, p, len - SAVE_TAIL);
            memcpy(p + len - SAVE_TAIL, &crc, SAVE_TAIL);
        }
        spill(p, len);
        if (save_read(file, &ck->desc, "nano", MAX_POS, &mine.vars, 0, &s, err, sizeof err)) {
            refused++;
            changed += !strstr(err, "was not loaded: ");
            continue;
        }
        taken++;
        crc_missed += !sealed && (len != n || memcmp(p, good, n));
        saved_free(&s);
        if (i % 8 == 1) {                  /* and all the way in */
            struct world in = world_new(backend);
            struct dbrx_error e;
            read_here(&in, 0, err);
            sess_sync(in.s, &e);
            world_free(&in);
        }
    }
    ok(!crc_missed && refused > TIMES / 2 && taken, "%d damaged files: %d refused, %d with a new checksum and no harm done",
       TIMES, refused, taken);
    ok(!changed && same_picture(&mine, &untouched), "... each with a sentence, the session as it was");
    spill(good, n);
    ((uint8_t *)ck->desc.fingerprint)[0] ^= 1;
    ok(read_here(&mine, 0, err) && strstr(err, "another checkpoint") && same_picture(&mine, &untouched), "another checkpoint: %s", err);
    ok(!read_here(&mine, 1, err) && tree_find(mine.t, "kept-1") && !sess_in_step(mine.s), "... but for its tokens; what was here is kept");
    ((uint8_t *)ck->desc.fingerprint)[0] ^= 1;
    ok(save_read(dir, &ck->desc, "nano", MAX_POS, &w.vars, 0, &s, err, sizeof err) && save_read("/nowhere/x", &ck->desc, "nano", MAX_POS, &w.vars, 0,
       &s, err, sizeof err) && save_read("/dev/zero", &ck->desc, "nano", MAX_POS, &w.vars, 0, &s, err, sizeof err) &&
       save_read(file, &ck->desc, "nano", 8, &w.vars, 0, &s, err, sizeof err) && strstr(err, "--ctx 14"), "no file, no room: %s", err);
    free(good);
    free(p);
    world_free(&w);
    world_free(&mine);
    world_free(&untouched);
}

/* The good file with one thing changed in its description, whole otherwise; is it refused? */
static int refused(const char *good, size_t n, const char *what, const char *instead, struct world *w)
{
    uint64_t json;
    char err[300] = "", *p = malloc(n + 400);
    struct saved s;
    memcpy(&json, good + 16, 8);
    char *text = strndup(good + SAVE_HEAD, json), *at = strstr(text, what);
    if (!at)
        bail("the description has no %s", what);
    size_t ahead = (size_t)(at - text), cut = strlen(what), add = strlen(instead), len = n - cut + add;
    memcpy(p, good, SAVE_HEAD + ahead);
    memcpy(p + SAVE_HEAD + ahead, instead, add);
    memcpy(p + SAVE_HEAD + ahead + add, good + SAVE_HEAD + ahead + cut, n - SAVE_HEAD - ahead - cut);
    json = json - cut + add;
    memcpy(p + 16, &json, 8);
    uint32_t crc = crc32c(0, p, len - SAVE_TAIL);
    memcpy(p + len - SAVE_TAIL, &crc, SAVE_TAIL);
    spill(p, len);
    int no = save_read(file, &ck->desc, "nano", MAX_POS, &w->vars, 0, &s, err, sizeof err);
    if (no)
        diag("%s", strrchr(err, ':'));
    saved_free(&s);
    free(text);
    free(p);
    return no != 0;
}

/* The good file with a number changed at `at` from the beginning of its tokens; the KV's verdict too */
static int refused_at(const char *good, size_t n, size_t at, uint32_t value, struct world *w)
{
    uint64_t json;
    char err[300] = "", *p = malloc(n);
    struct saved s;
    struct dbrx_kv_block b;
    struct dbrx_error e;
    dbrx_status st = DBRX_OK;
    memcpy(p, good, n);
    memcpy(&json, p + 16, 8);
    memcpy(p + SAVE_HEAD + json + at, &value, 4);
    uint32_t crc = crc32c(0, p, n - SAVE_TAIL);
    memcpy(p + n - SAVE_TAIL, &crc, SAVE_TAIL);
    spill(p, n);
    int no = save_read(file, &ck->desc, "nano", MAX_POS, &w->vars, 0, &s, err, sizeof err) != 0;
    while (!no && (st = save_next_kv(&s, &b, &e)) == DBRX_OK)
        ;
    saved_free(&s);
    free(p);
    return no || st < 0;
}

static void test_hostile(void)
{
    static const char *const edit[][2] = {
        { "\"begin\":0", "\"begin\":1" }, { "\"reply\":5", "\"reply\":10" }, { "\"end\":9", "\"end\":8" },
        { "\"end\":9", "\"end\":4000000000" }, { "\"end\":9", "\"end\":-9" }, { "\"end\":9", "\"end\":9.5" },
        { "\"end\":9", "\"end\":1e999" }, { "\"end\":9", "\"end\":\"9\"" }, { "\"end\":9", "\"e\":9" },
        { "\"finish\":\"length\"", "\"finish\":\"why\"" }, { "\"finish\":\"length\"", "\"finish\":7" },
        { "\"seed\":1", "\"seed\":1e17" }, { "\"state\":\"0", "\"state\":\"x" }, { "\"state\":\"0", "\"state\":\"00" },
        { "\"chat\":false", "\"chat\":0" }, { "\"moved\":false", "\"moved\":null" },
        { "\"settings\":{\"temperature\":\"0.5\"}", "\"settings\":[]" }, { "\"temperature\":\"0.5\"", "\"temperature\":5" },
        { "\"name\":\"one\"", "\"name\":\"main\"" }, { "\"name\":\"one\"", "\"name\":\"../x\"" },
        { "\"name\":\"one\"", "\"name\":\"\"" }, { "\"from\":\"main\"", "\"from\":\"\\u001b[2J\"" },
        { "\"from\":\"main\"", "\"from\":7" }, { "\"automatic\":true", "\"automatic\":1" },
        { "\"tokens\":17", "\"tokens\":18" }, { "\"tokens\":17", "\"tokens\":16" }, { "\"tokens\":17", "\"tokens\":4294967296" },
        { "\"current\":1", "\"current\":4" }, { "\"current\":1", "\"current\":-1" }, { "\"branches\":", "\"twigs\":" },
        { "\"turns\":[", "\"turns\":7,\"x\":[" }, { "\"fingerprint\":\"", "\"fingerprint\":\"0" },
        { "\"settings\":{\"top_p\":\"0.5\"}", "\"settings\":{\"top_p\":\"5\"}" },
        { "\"settings\":{\"top_p\":\"0.5\"}", "\"settings\":{\"top_p\":0.5}" },
        { "\"settings\":{\"top_p\":\"0.5\"}", "\"x\":0" }, { "\"positions\":14", "\"positions\":15" },
        { "\"layers\":", "\"layers\":1" }, { "\"kv_heads\":", "\"kv_heads\":1" }, { "\"kv\":", "\"vk\":" } };
    enum { N = sizeof edit / sizeof *edit };
    struct world w = world_new("ref"), old = world_new("ref");
    char err[300];
    size_t n;
    struct dbrx_error e;
    grow(&w);
    vars_set(&w.vars, VAR_TOP_P, "0.5", FROM_SESSION, err, sizeof err);
    write_file(&w, 1, err);
    char *good = slurp(&n);
    for (size_t i = 0; i < N; i++)
        ok(refused(good, n, edit[i][0], edit[i][1], &w), "%s instead of %s is refused", edit[i][1], edit[i][0]);
    ok(!refused(good, n, "\"top_p\":", "\"of_tomorrow\":", &w), "a setting that is not known here is no obstacle");
    uint64_t tokens;
    memcpy(&tokens, good + 24, 8);
    ok(refused_at(good, n, 4, ck->desc.config.n_vocab, &w) && refused_at(good, n, 4 * tokens - 4, UINT32_MAX, &w) &&
       !refused_at(good, n, 4, ck->desc.config.n_vocab - 1, &w), "token ids outside the vocabulary are refused");
    size_t kv = 4 * tokens;
    ok(refused_at(good, n, kv, 99, &w) && refused_at(good, n, kv, 1, &w) && refused_at(good, n, kv + 4, 1, &w) &&
       refused_at(good, n, kv + 8, 13, &w) && refused_at(good, n, kv + 8, 15, &w) && refused_at(good, n, kv + 8, 0, &w) &&
       refused_at(good, n, kv + 8, SAVE_KV_STEP + 1, &w) && refused_at(good, n, kv + 12, 2, &w) && !refused_at(good, n, kv, 0, &w),
       "KV of another layer, place, length or type is refused");
    size_t row = ck->desc.config.d_model / ck->desc.config.n_heads * ck->desc.config.n_kv_heads;
    size_t last = SAVE_KV_HEAD + 2 * 14 * row * sizeof(float), less = n - SAVE_TAIL - last;
    char *gap = malloc(n);
    memcpy(gap, good, less);
    uint32_t crc = crc32c(0, gap, less);
    memcpy(gap + less, &crc, SAVE_TAIL);
    spill(gap, less + SAVE_TAIL);
    say(&old, 20);
    sess_sync(old.s, &e);
    ok(!read_here(&old, 0, err) && strstr(err, "gaps") && !strcmp(disp_kv_origin(old.d), "computed") &&
       sess_sync(old.s, &e) == DBRX_OK && old.s->n == 14, "KV with a layer missing is computed instead: %s", err);
    free(gap);
    spill(good, n);
    world_free(&old);
    old = world_new("ref");
    say(&old, 20);
    sess_sync(old.s, &e);
    ok(!read_here(&old, 0, err) && sess_in_step(old.s) == 14 && sess_routed(old.s) == 0 && sess_retrace(old.s, &e) == DBRX_OK &&
       sess_routed(old.s) == 14, "routes of what was here before are not taken for those of what was loaded");
    free(good);
    world_free(&w);
    world_free(&old);
}

static unsigned files_in_dir(void)
{
    unsigned n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d)); )
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void test_crash(void)
{
    struct world a = world_new("ref"), b = world_new("ref");
    char err[300];
    struct saved s;
    int whole = 1, news = 0, killed = 0;
    struct rlimit was, small = { 3000, 3000 };
    say(&a, 20);
    grow(&b);
    write_file(&a, 0, err);
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int failed = write_file(&b, 1, err);
    setrlimit(RLIMIT_FSIZE, &was);
    ok(failed && strstr(err, "File too large") && !save_read(file, &ck->desc, "nano", MAX_POS, &a.vars, 0, &s, err, 300) && s.n == 1,
       "a full disk leaves the old file whole");
    saved_free(&s);
    ok(files_in_dir() == 1, "... and nothing beside it");
    struct stat st;
    stat(file, &st);
    ok((st.st_mode & 0777) == 0600, "the file is its owner's alone");
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (int i = 0; i < 4; i++)
        write_file(i % 2 ? &b : &a, i % 2, err);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    double us = 1e6 * (double)(t1.tv_sec - t0.tv_sec) + 1e-3 * (double)(t1.tv_nsec - t0.tv_nsec);
    for (int i = 0; i < 150 && whole; i++) {
        int status;
        pid_t pid = fork();
        if (!pid) {
            for (int k = i; ; k++)         /* old, new, old, new, or new, old */
                write_file(k % 2 ? &b : &a, k % 2, err);
        }
        usleep(500 + roll((uint32_t)us));
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        killed += WIFSIGNALED(status);
        whole = !save_read(file, &ck->desc, "nano", MAX_POS, &a.vars, 0, &s, err, 300);
        news += whole && s.n > 1;
        saved_free(&s);
    }
    ok(whole && killed == 150 && news > 0 && news < 150, "killed %d times while saving: the file is always whole (%d new)", killed, news);
    world_free(&a);
    world_free(&b);
}

int main(void)
{
    struct dbrx_error err = { 0 };
    char path[4096];
    snprintf(path, sizeof path, "%s/tests/data/tiny-bf16", getenv("srcdir"));
    if (ckpt_open(path, &ck, &err) != DBRX_OK || modules_scan(&mods, getenv("MODULES"), &err) != DBRX_OK || !mkdtemp(dir))
        bail("%s", err.text);
    snprintf(file, sizeof file, "%s/s", dir);
    ok(crc32c(0, "123456789", 9) == 0xe3069283u && crc32c(crc32c(0, "1234", 4), "56789", 5) == 0xe3069283u, "CRC-32C's check value");
    test_tree("ref");
    test_tree("cpu-blas");
    test_cost();
    test_shift();
    test_stops();
    test_round_trip("ref", "cpu-blas");
    test_round_trip("cpu-blas", "ref");
    test_damage("ref");
    test_hostile();
    test_crash();
    char command[80];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (system(command))
        diag("%s stays", dir);
    modules_free(&mods);
    ckpt_close(ck);
    return done();
}
