/* repl/instruments.c -- see instruments.h.
 *
 * The session says how much of the timeline stayed untouched since the last sync; following
 * tells what came after that.  So it does not matter what happened in between: a branch, an
 * interrupt, another backend.  A token in its context is named by a hash of all ids up to
 * it; those that were told are in a set, and come again with DBRX_TOKEN_AGAIN. */
#define _GNU_SOURCE
#include "repl/instruments.h"

#include "plugins/observer.h"
#include "repl/cells.h"
#include "repl/commands.h"
#include "repl/handlers.h"
#include "repl/lend.h"
#include "repl/line.h"
#include "repl/panel.h"
#include "repl/shell.h"
#include "repl/signals.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct bound {                             /* a row of the table of commands, and whose it is */
    struct command row;
    const struct dbrx_command *command;
    struct instrument *by;
};

struct instrument {
    struct lender lender;                  /* first: what the host functions get         */
    struct instruments *all;
    const struct module *module;
    const struct dbrx_observer *vt;        /* NULL: see why                              */
    void *self;                            /* open                                       */
    struct dbrx_host host;                 /* its own: ctx is this                       */
    struct bound *bound;                   /* [n_bound]                                  */
    size_t n_bound;
    int unsaid;                            /* it failed, and nobody has heard yet        */
    char why[252];                         /* it cannot be used, or ""                   */
};

struct instruments {
    struct shell *sh;
    struct instrument *list;               /* [n]                                        */
    size_t n;
    struct told { int32_t id; uint64_t hash; } *told;  /* [n_told] of the timeline       */
    uint32_t n_told, cap_told;
    uint64_t steered;                      /* sess.steer_id when they were told          */
    uint32_t reread;                       /* told before this position under other steering */
    uint32_t unknown;                      /* lowest position told without its route, or n_told */
    struct panel panel;                    /* of those that show something live           */
    double drawn;                          /* when                                       */
    uint64_t *seen;                        /* [cap_seen], a power of two; 0: free         */
    size_t n_seen, cap_seen;
};

/* ---- tokens in their contexts ---- */

static uint64_t hash_after(uint64_t before, int32_t id)
{
    uint64_t h = before ^ ((uint64_t)(uint32_t)id + 0x9e3779b97f4a7c15u);      /* splitmix64 */
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    h ^= h >> 31;
    return h ? h : 1;
}

static uint64_t *seen_at(uint64_t *set, size_t cap, uint64_t hash)
{
    size_t i = hash & (cap - 1);
    while (set[i] && set[i] != hash)
        i = (i + 1) & (cap - 1);
    return &set[i];
}

/* Was this token told before?  It is from now on; without memory it will count again. */
static int seen_before(struct instruments *in, uint64_t hash)
{
    if (2 * (in->n_seen + 1) > in->cap_seen) {
        size_t cap = in->cap_seen ? 2 * in->cap_seen : 1024;
        uint64_t *set = calloc(cap, sizeof *set);
        if (!set)
            return 0;
        for (size_t i = 0; i < in->cap_seen; i++)
            if (in->seen[i])
                *seen_at(set, cap, in->seen[i]) = in->seen[i];
        free(in->seen);
        in->seen = set;
        in->cap_seen = cap;
    }
    uint64_t *s = seen_at(in->seen, in->cap_seen, hash);
    if (*s)
        return 1;
    *s = hash;
    in->n_seen++;
    return 0;
}

/* ---- telling ---- */

static int listens(const struct instrument *i)
{
    return i->self && !i->why[0];
}

/* What a module says, if it says it at all */
static const char *sentence(struct dbrx_error *err)
{
    err->text[sizeof err->text - 1] = '\0';
    return err->text[0] ? err->text : "it does not say why";
}

/* No more of it; its commands say why */
static void give_up(struct instrument *i, struct dbrx_error *err)
{
    snprintf(i->why, sizeof i->why, "%s", sentence(err));
    i->unsaid = 1;
}

static void say_failures(struct instruments *in)
{
    for (size_t i = 0; i < in->n; i++)
        if (in->list[i].unsaid) {
            in->list[i].unsaid = 0;
            render_event(&in->sh->out, "status", NULL, "the instrument %s has failed and is told nothing more: %s",
                         in->list[i].module->info->name, in->list[i].why);
        }
}

static void tell_truncate(struct instruments *in, uint32_t n_keep)
{
    for (size_t i = 0; i < in->n; i++)
        if (listens(&in->list[i]) && in->list[i].vt->on_truncate)
            in->list[i].vt->on_truncate(in->list[i].self, n_keep);
    in->n_told = n_keep;
    in->unknown = in->unknown < n_keep ? in->unknown : n_keep;
}

/* How many tokens of the timeline are those that were told */
static uint32_t same_tokens(const struct instruments *in)
{
    const struct sess *s = in->sh->sess;
    uint32_t n = 0;
    while (n < in->n_told && n < s->n && in->told[n].id == s->token[n])
        n++;
    return n;
}

/* All router probabilities of a position that was just evaluated, or NULL */
static const float *prob_of_token(const struct sess *s, uint32_t pos)
{
    size_t row = (size_t)s->n_layers * s->n_experts;
    if (pos < s->prob_at || pos - s->prob_at >= s->n_prob)
        return NULL;
    const float *p = s->prob + (pos - s->prob_at) * row;
    for (uint32_t l = 0; l < s->n_layers; l++)
        if (p[(size_t)l * s->n_experts] != p[(size_t)l * s->n_experts])
            return NULL;
    return p;
}

static int is_generated(const struct shell *sh, uint32_t pos)
{
    const struct branch *b = sh->tree ? sh->tree->now : NULL;
    uint32_t lo = 0, hi = b ? b->n_turns : 0;
    while (lo < hi) {                      /* the first turn that ends behind pos */
        uint32_t mid = (lo + hi) / 2;
        if (b->turn[mid].end > pos)
            hi = mid;
        else
            lo = mid + 1;
    }
    return b && lo < b->n_turns ? pos >= b->turn[lo].reply : sh->sess->generating;
}

static void tell_token(struct instruments *in, uint32_t pos)
{
    const struct sess *s = in->sh->sess;
    const struct dbrx_config *c = &in->sh->ckpt->desc.config;
    struct dbrx_token t = { .struct_size = sizeof t, .pos = pos, .id = s->token[pos], .n_layers = c->n_layers,
                            .top_k = c->top_k, .n_experts = c->n_experts };
    uint64_t hash = hash_after(pos ? in->told[pos - 1].hash : s->steer_id, t.id);
    in->told[pos] = (struct told){ t.id, hash };
    if (in->unknown == pos && trace_token(s->trace, pos, &t.expert, &t.weight))
        in->unknown = pos + 1;
    else if (pos < in->unknown || !trace_token(s->trace, pos, &t.expert, &t.weight))
        t.expert = NULL, t.weight = NULL;
    t.prob = t.expert ? prob_of_token(s, pos) : NULL;
    t.flags = (pos >= in->reread && is_generated(in->sh, pos) ? DBRX_TOKEN_GENERATED : 0) |
              (s->steer_id ? DBRX_TOKEN_STEERED : 0) | (t.expert && seen_before(in, hash) ? DBRX_TOKEN_AGAIN : 0);
    for (size_t i = 0; i < in->n; i++) {
        struct instrument *to = &in->list[i];
        struct dbrx_error err = { 0 };
        if (!listens(to) || !to->vt->on_token)
            continue;
        if (to->vt->on_token(to->self, &t, &err) != DBRX_OK)
            give_up(to, &err);
    }
    in->n_told = pos + 1;
}

/* ---- live views ---- */

static const double LIVE_EVERY = 0.1;      /* seconds */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What they show now, in lines; *n of them.  free() it; NULL: nothing */
static char *live_text(struct instruments *in, unsigned lines, unsigned *n)
{
    struct render *r = &in->sh->out;
    char *all = NULL;
    size_t size;
    FILE *f = lines ? open_memstream(&all, &size) : NULL;
    *n = 0;
    for (size_t i = 0; f && i < in->n; i++) {
        const struct instrument *of = &in->list[i];
        if (!listens(of) || !DBRX_HAS(struct dbrx_observer, of->vt, live) || !of->vt->live)
            continue;
        struct cells *c = cells_new(of->module->info->name);
        if (c)
            of->vt->live(of->self, cells_rows(c));
        char *text = c ? cells_panel(c, r, lines - *n, render_width(r)) : NULL;
        for (const char *p = text; p && *p; p++)
            *n += *p == '\n';
        fputs(text ? text : "", f);
        free(text);
        cells_free(c);
    }
    if (f && !fclose(f) && *n)
        return all;
    free(all);
    return NULL;
}

void instruments_live_begin(struct instruments *in)
{
    unsigned n;
    char *text = live_text(in, panel_room(&in->sh->out), &n);
    if (text)
        panel_open(&in->panel, &in->sh->out, n);
    if (text)
        panel_draw(&in->panel, &in->sh->out, text);
    free(text);
    in->drawn = now();
}

static void live_draw(struct instruments *in)
{
    unsigned n;
    if (in->panel.lines && signals_suspended()) {
        int was = line_give_back();
        panel_close(&in->panel);           /* stops here, until fg */
        if (was)
            line_quiet();
        instruments_live_begin(in);
    }
    if (!in->panel.lines || now() - in->drawn < LIVE_EVERY)
        return;
    char *text = live_text(in, in->panel.lines, &n);
    panel_draw(&in->panel, &in->sh->out, text ? text : "");
    free(text);
    in->drawn = now();
}

void instruments_live_end(struct instruments *in)
{
    panel_close(&in->panel);
}

void instruments_follow(void *ctx)
{
    struct instruments *in = ctx;
    const struct sess *s = in->sh->sess;
    uint32_t n = s->n, same = s->low < in->n_told ? s->low : in->n_told;   /* untouched since the last time */
    if (in->unknown < same && in->unknown < sess_routed(s))    /* now it is known */
        same = in->unknown;
    if (in->steered != s->steer_id) {      /* other experts: all of it was computed again */
        in->reread = same_tokens(in);
        same = 0;
    }
    in->reread = in->reread < n ? in->reread : n;
    in->steered = s->steer_id;
    if (same < in->n_told)
        tell_truncate(in, same);
    if (n > in->cap_told) {
        size_t cap = 2 * (size_t)n;
        struct told *told = realloc(in->told, cap * sizeof *told);
        if (!told)
            return;                        /* the next time, perhaps */
        in->told = told;
        in->cap_told = (uint32_t)cap;
    }
    for (uint32_t pos = same; pos < n; pos++)
        tell_token(in, pos);
    if (!s->generating)
        say_failures(in);
    live_draw(in);
}

/* All statistics begin anew, whoever asked for it */
static void reset(struct lender *l)
{
    struct instruments *in = ((struct instrument *)l)->all;    /* its first member */
    for (size_t k = 0; k < in->n; k++) {
        const struct instrument *i = &in->list[k];
        if (listens(i) && DBRX_HAS(struct dbrx_observer, i->vt, on_reset) && i->vt->on_reset)
            i->vt->on_reset(i->self);
    }
    if (in->n_seen)
        memset(in->seen, 0, in->cap_seen * sizeof *in->seen);
    in->n_seen = 0;
}

/* ---- commands ---- */

static int run_command(struct shell *sh, const struct args *a)
{
    const struct bound *b = (const struct bound *)a->command;  /* its first member */
    struct instrument *by = b->by;
    struct render *r = &sh->out;
    struct dbrx_error err = { 0 };
    char why[200];
    int argc = 0, failed = 0;
    if (!by->self || by->why[0]) {
        by->unsaid = 0;
        return render_error(r, "/%s does not work: the instrument %s %s: %s", b->row.name, by->module->info->name,
                            by->self ? "has failed" : "could not be opened", by->why);
    }
    if (b->command->flags & DBRX_COMMAND_TIMELINE && (sess_routed(sh->sess) < sh->sess->n || by->all->n_told != sh->sess->n) &&
        catch_up(sh, "not all of the conversation has been looked at"))
        return -1;
    while (a->list[argc])
        argc++;
    struct cells *cells = cells_new(by->module->info->name);
    if (!cells)
        return render_error(r, "out of memory");
    render_busy(r, 1);
    dbrx_status st = b->command->run(by->self, argc, a->list, cells_rows(cells), &err);
    render_busy(r, 0);
    if (st == DBRX_E_INVALID) {
        char usage[USAGE_LEN];
        command_usage(&b->row, 1, usage, sizeof usage);
        failed = render_error(r, "/%s: %s; usage: %s", b->row.name, err.text[0] ? sentence(&err) : "it does not take that", usage);
    } else if (st != DBRX_OK) {
        failed = st == DBRX_STOPPED ? render_error(r, "interrupted") : render_error(r, "/%s: %s", b->row.name, sentence(&err));
    } else if (cells_show(cells, r, why, sizeof why)) {
        failed = render_error(r, "/%s: %s", b->row.name, why);
    }
    if (!failed && cells_complaint(cells))
        render_event(r, "status", NULL, "the instrument %s handed over rows that are wrong: %s",
                     by->module->info->name, cells_complaint(cells));
    cells_free(cells);
    return failed;
}

static int complete_command(const struct dbrx_command *c)
{
    return DBRX_HAS(struct dbrx_command, c, run) && c->name && c->usage && c->brief && c->help && c->example && c->run &&
           c->name[0] >= 'a' && c->name[0] <= 'z' &&
           !c->name[strspn(c->name, "abcdefghijklmnopqrstuvwxyz0123456789-")] && strlen(c->name) < 40;
}

/* Its commands into the table; what is wrong with them goes into why.  0, or -1: no memory */
static int add_commands(struct instrument *i)
{
    const struct dbrx_command *const *c = i->vt->commands;
    size_t n = 0;
    while (c && c[n])
        n++;
    if (n && !(i->bound = calloc(n, sizeof *i->bound)))
        return -1;
    for (size_t k = 0; k < n; k++) {
        if (!complete_command(c[k])) {
            snprintf(i->why, sizeof i->why, "its table of commands is incomplete");
            return 0;
        }
        struct bound *b = &i->bound[i->n_bound];
        *b = (struct bound){ { c[k]->name, "instruments",
            { { c[k]->flags & DBRX_COMMAND_FILES ? ARG_FILE_WORDS : ARG_WORDS, c[k]->usage, 0 } },
            c[k]->brief, c[k]->help, c[k]->example, run_command }, c[k], i };
        if (command_add(&b->row, c[k]->words))
            snprintf(i->why, sizeof i->why, "there is a command /%s already", c[k]->name);
        else
            i->n_bound++;
    }
    return 0;
}

struct instruments *instruments_find(const struct modules *ms)
{
    struct instruments *in = calloc(1, sizeof *in);
    if (!in || !(in->list = calloc(ms->n + 1, sizeof *in->list))) {
        free(in);
        return NULL;
    }
    for (size_t k = 0; k < ms->n; k++) {
        const struct module *m = &ms->list[k];
        const struct dbrx_observer *vt = m->info ? m->info->get(DBRX_OBSERVER) : NULL;
        if (!vt)
            continue;
        struct instrument *i = &in->list[in->n];
        *i = (struct instrument){ .all = in, .module = m };
        in->n++;
        if (!DBRX_HAS(struct dbrx_observer, vt, on_token) || !vt->open || !vt->close)
            snprintf(i->why, sizeof i->why, "its observer table is incomplete");
        else
            i->vt = vt;
        if (i->vt && add_commands(i)) {
            instruments_free(in);
            return NULL;
        }
    }
    return in;
}

void instruments_open(struct instruments *in, struct shell *sh)
{
    in->sh = sh;
    for (size_t k = 0; k < in->n; k++) {
        struct instrument *i = &in->list[k];
        struct dbrx_error err = { 0 };
        if (i->why[0])
            continue;
        i->lender = (struct lender){ sh, i->module->info->name, reset };
        i->host = lend_host(&i->lender);
        if (i->vt->open(&i->host, &sh->ckpt->desc.config, &i->self, &err) != DBRX_OK) {
            i->self = NULL;
            snprintf(i->why, sizeof i->why, "%s", sentence(&err));
        } else if (i->vt->want & DBRX_ROUTE_PROB) {
            sh->sess->want_prob = 1;
        }
    }
    sh->sess->synced = instruments_follow;
    sh->sess->synced_ctx = in;
}

void instruments_free(struct instruments *in)
{
    for (size_t k = 0; in && k < in->n; k++) {
        struct instrument *i = &in->list[k];
        if (i->self)
            i->vt->close(i->self);
        for (size_t b = 0; b < i->n_bound; b++)
            command_remove(&i->bound[b].row);
        free(i->bound);
    }
    if (in) {
        free(in->list);
        free(in->told);
        free(in->seen);
    }
    free(in);
}

/* ---- /instruments ---- */

int handle_instruments(struct shell *sh, const struct args *a)
{
    static const struct column col[] = {
        { "name", "instrument", 0, 0, NULL }, { "commands", "commands", 0, 0, NULL }, { "state", "state", 0, 0, NULL },
        { "summary", "", 0, 0, NULL }, { 0 } };
    static const struct rows rows = { "rows", "instruments", "rows", col, 0 };
    const struct instruments *in = sh->instruments;
    cJSON *list = cJSON_CreateArray();
    (void)a;
    for (size_t k = 0; k < in->n; k++) {
        const struct instrument *i = &in->list[k];
        char commands[200] = "";
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        for (size_t b = 0, n = 0; b < i->n_bound && n < sizeof commands; b++)
            n += (size_t)snprintf(commands + n, sizeof commands - n, "%s/%s", b ? " " : "", i->bound[b].row.name);
        field_string(row, "name", i->module->info->name);
        field_string(row, "commands", commands);
        field_string(row, "state", listens(i) ? "on" : i->self ? "failed" : "not usable");
        field_string(row, "summary", i->why[0] ? i->why : i->module->info->summary);
        field_string(row, "version", i->module->info->version);
        field_string(row, "path", i->module->path);
    }
    render_rows(&sh->out, &rows, NULL, NULL, list);
    return 0;
}
