/* repl/dispatch.c -- opens, drives and switches backends.  See dispatch.h.
 * What it promises: after any failure the current backend is the one it was. */
#include "repl/dispatch.h"

#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>

/* a backend that was left and stays open */
struct kept {
    struct engine engine;
    struct spans  origin;                  /* of its KV                                */
    int32_t      *held;                    /* [n_held] tokens that it holds            */
    uint32_t      n_held;
};

struct disp {
    const struct dbrx_model_desc *desc;
    const struct modules *modules;
    const struct dbrx_host *host;
    uint32_t max_pos;
    struct engine now;                     /* session NULL: none                       */
    struct spans origin;                   /* of its KV: what it did not compute on the way */
    const struct dbrx_steer *steer;        /* or NULL                                  */
    struct kept kept[DISP_MAX_KEPT];       /* [n_kept], the latest last                */
    uint32_t n_kept, moved;
    int was_kept;                          /* the current one, before it was gone back to */
};

struct disp *disp_new(const struct dbrx_model_desc *desc, const struct modules *modules,
                      const struct dbrx_host *host, uint32_t max_pos)
{
    struct disp *d = calloc(1, sizeof *d);
    if (d) {
        d->desc = desc;
        d->modules = modules;
        d->host = host;
        d->max_pos = max_pos;
    }
    return d;
}

static void kept_close(struct kept *k)
{
    engine_close(&k->engine);
    spans_free(&k->origin);
    free(k->held);
    *k = (struct kept){ 0 };
}

void disp_free(struct disp *d)
{
    if (!d)
        return;
    engine_close(&d->now);
    spans_free(&d->origin);
    disp_drop(d, NULL);
    free(d);
}

const struct module *disp_module(const struct disp *d, size_t i)
{
    return i < d->modules->n ? &d->modules->list[i] : NULL;
}

int disp_probe(const struct disp *d, size_t i, struct dbrx_probe *p)
{
    const struct dbrx_backend *vt = engine_backend(&d->modules->list[i]);
    struct dbrx_error err;
    *p = (struct dbrx_probe){ .struct_size = sizeof *p };
    if (vt && vt->probe(d->host, p, &err) != DBRX_OK) {
        p->score = 0;
        snprintf(p->reason, sizeof p->reason, "%.127s", err.text);
    }
    return vt != NULL;
}

const struct dbrx_option *disp_options(const struct disp *d, size_t i)
{
    const struct dbrx_backend *vt = engine_backend(&d->modules->list[i]);
    return vt ? vt->options : NULL;
}

/* the module called name, or the one with the highest score */
static dbrx_status find(const struct disp *d, const char *name, const struct module **out,
                        struct dbrx_error *err)
{
    int32_t best = 0;
    *out = NULL;
    for (size_t i = 0; i < d->modules->n; i++) {
        const struct module *m = &d->modules->list[i];
        struct dbrx_probe p;
        if (name) {
            const char *base = strrchr(m->path, '/') + 1;
            size_t n = strlen(name);
            if (strncmp(base, name, n) || strcmp(base + n, ".so"))
                continue;
            if (!m->info)
                return fail(err, DBRX_E_UNSUPPORTED, "%s", m->why);
            if (!disp_probe(d, i, &p))
                return fail(err, DBRX_E_UNSUPPORTED, "%s is a module, but not a backend", name);
            if (p.score <= 0)
                return fail(err, DBRX_E_UNSUPPORTED, "%s cannot run here: %s", name, p.reason);
            *out = m;
        } else if (disp_probe(d, i, &p) && p.score > best) {
            best = p.score;
            *out = m;
        }
    }
    if (*out)
        return DBRX_OK;
    return name ? fail(err, DBRX_E_UNSUPPORTED, "there is no backend \"%.60s\"; /backend lists "
                       "those found", name)
                : fail(err, DBRX_E_UNSUPPORTED, "no backend can run here");
}

dbrx_status disp_open(struct disp *d, const char *name, const char *const *opt, uint32_t max_pos,
                      struct engine *e, struct dbrx_error *err)
{
    const struct module *m;
    *e = (struct engine){ 0 };
    dbrx_status st = find(d, name, &m, err);
    return st == DBRX_OK ? engine_open(e, m, d->host, d->desc, opt, max_pos, err) : st;
}

dbrx_status disp_plan(const struct disp *d, const char *name, const char *const *opt,
                      void (*emit)(void *ctx, const struct dbrx_place *), void *ctx, struct dbrx_error *err)
{
    const struct module *m;
    dbrx_status st = find(d, name, &m, err);
    const struct dbrx_plan *plan = st == DBRX_OK ? m->info->get(DBRX_PLAN) : NULL;
    return plan ? plan->plan(d->host, d->desc, opt, emit, ctx, err) : st;
}

void disp_steer(struct disp *d, const struct dbrx_steer *steer)
{
    d->steer = steer;
}

const struct dbrx_steer *disp_steered(const struct disp *d)
{
    return d->steer;
}

static dbrx_status steered_eval(const struct disp *d, struct engine *e, const struct dbrx_batch *batch,
                                struct dbrx_error *err)
{
    struct dbrx_batch b = *batch;
    b.steer = d->steer;
    return engine_eval(e, &b, err);
}

/* ---- switching ---- */

static dbrx_status no_memory(struct dbrx_error *err)
{
    return fail(err, DBRX_E_NOMEM, "out of memory");
}

/* Is "k=v" a word of the label? */
static int has_option(const char *label, const char *opt)
{
    size_t n = strlen(opt);
    for (const char *p = label; (p = strchr(p, ' ')); )
        if (!strncmp(++p, opt, n) && (!p[n] || p[n] == ' '))
            return 1;
    return 0;
}

/* The kept backend of this module that has all these options, taken out into *k; or 0 */
static int take_kept(struct disp *d, const struct module *m, const char *const *opt, struct kept *k)
{
    for (uint32_t i = d->n_kept; i-- > 0; ) {
        int fits = d->kept[i].engine.module == m;
        for (size_t o = 0; fits && opt && opt[o]; o++)
            fits = has_option(d->kept[i].engine.label, opt[o]);
        if (!fits)
            continue;
        *k = d->kept[i];
        d->n_kept--;
        memmove(d->kept + i, d->kept + i + 1, (d->n_kept - i) * sizeof *k);
        return 1;
    }
    return 0;
}

/* Makes k, which holds `have` of them, hold token[n].  *lost: the current one was, over it. */
static dbrx_status hand_over(struct disp *d, struct kept *k, int replay, const int32_t *token,
                             uint32_t have, uint32_t n, int *lost, struct dbrx_error *err)
{
    struct engine *e = &k->engine;
    char origin[sizeof ((struct span *)0)->name] = "recomputed";
    const char *name = e->module->info->name;
    dbrx_status st = engine_position(e) > have ? engine_truncate(e, have, err) : DBRX_OK;
    spans_cut(&k->origin, have);
    if (st == DBRX_OK && have < n) {
        int copies = !replay && d->now.kv && (have ? engine_can_extend(e) : e->kv != NULL);
        if (copies) {
            st = engine_copy_kv(&d->now, e, n, d->host, lost, err);
            if (st == DBRX_OK)
                snprintf(origin, sizeof origin, "copied from %s", d->now.label);
        }
        if (*lost)                         /* it cannot give its KV; the tokens are still here */
            st = engine_truncate(e, have, err);
        if (st == DBRX_OK && (!copies || *lost)) {
            struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n - have, .token = token + have };
            st = steered_eval(d, e, &b, err);
            if (st == DBRX_STOPPED)
                fail(err, st, "interrupted while the conversation was recomputed");
        }
    }
    if (st == DBRX_OK && engine_position(e) != n)
        st = fail(err, DBRX_E_INVALID, "%s holds %u positions instead of %u after taking the "
                  "conversation over", name, engine_position(e), n);
    return st == DBRX_OK && spans_add(&k->origin, have, n, origin) ? no_memory(err) : st;
}

static uint32_t common(const int32_t *a, uint32_t n, const int32_t *b, uint32_t m)
{
    uint32_t i = 0;
    while (i < n && i < m && a[i] == b[i])
        i++;
    return i;
}

dbrx_status disp_use(struct disp *d, const char *name, const char *const *opt, int how,
                     const int32_t *token, uint32_t n, struct dbrx_error *err)
{
    const struct module *m;
    struct kept k = { 0 };
    struct dbrx_error local;
    int32_t *held = NULL;
    int lost = 0;
    err = err ? err : &local;
    dbrx_status st = find(d, name, &m, err);
    if (st != DBRX_OK)
        return st;
    int keep = how & DISP_KEEP && d->now.session, again = take_kept(d, m, opt, &k);
    uint32_t have = again && !(how & DISP_REPLAY) ? common(k.held, k.n_held, token, n) : 0;
    if (!d->now.session)
        n = have;                          /* the next eval brings the rest */
    n = d->now.session && disp_position(d) < n ? disp_position(d) : n;
    have = have < n ? have : n;
    if (keep && d->n_kept == DISP_MAX_KEPT)
        st = fail(err, DBRX_E_FULL, "%d backends are kept already; /backend NAME --drop closes one",
                  DISP_MAX_KEPT);
    else if (keep && !(held = malloc((n + (size_t)1) * sizeof *held)))
        st = no_memory(err);
    if (st == DBRX_OK && !again)
        st = engine_open(&k.engine, m, d->host, d->desc, opt, d->max_pos, err);
    if (st == DBRX_OK)
        st = hand_over(d, &k, how & DISP_REPLAY, token, have, n, &lost, err);
    keep = keep && (st != DBRX_OK || strcmp(k.engine.label, d->now.label));
    if (lost)
        engine_close(&d->now);
    if (st != DBRX_OK) {
        free(held);
        /* a kept one is still of use as long as it knows what it holds */
        if (again && st != DBRX_E_LOST && engine_position(&k.engine) >= have) {
            k.n_held = have < k.n_held ? have : k.n_held;
            d->kept[d->n_kept++] = k;
        } else {
            kept_close(&k);
        }
        return st;
    }
    if (held && n)
        memcpy(held, token, n * sizeof *held);
    struct kept old = { d->now, d->origin, held, n };
    if (keep && !lost)
        d->kept[d->n_kept++] = old;
    else
        kept_close(&old);
    free(k.held);
    d->now = k.engine;
    d->origin = k.origin;
    d->moved = n - have;
    d->was_kept = again;
    return DBRX_OK;
}

/* ---- kept ones ---- */

const char *disp_kept(const struct disp *d, uint32_t i, uint32_t *n)
{
    if (i >= d->n_kept)
        return NULL;
    *n = d->kept[i].n_held;
    return d->kept[i].engine.label;
}

uint32_t disp_drop(struct disp *d, const char *name)
{
    uint32_t dropped = 0, left = 0;
    for (uint32_t i = 0; i < d->n_kept; i++)
        if (!name || !strcmp(d->kept[i].engine.module->info->name, name)) {
            kept_close(&d->kept[i]);
            dropped++;
        } else {
            d->kept[left++] = d->kept[i];
        }
    d->n_kept = left;
    return dropped;
}

/* What comes to be at these positions now may be steered otherwise, or come from a file: then
 * kept ones get it, too, whether or not the tokens are the same */
void disp_forget(struct disp *d, uint32_t n_keep)
{
    for (uint32_t i = 0; i < d->n_kept; i++)
        if (d->kept[i].n_held > n_keep)
            d->kept[i].n_held = n_keep;
}

/* ---- the current one ---- */

static dbrx_status none(struct dbrx_error *err)
{
    return fail(err, DBRX_E_INVALID, "no backend is open; /backend NAME opens one");
}

dbrx_status disp_scratch(struct disp *d, uint32_t max_pos, struct engine *e, struct dbrx_error *err)
{
    *e = (struct engine){ 0 };
    return d->now.session ? engine_share(e, &d->now, max_pos, err) : none(err);
}

const char *disp_name(const struct disp *d)
{
    return d->now.session ? d->now.module->info->name : NULL;
}

const char *disp_label(const struct disp *d)
{
    return d->now.session ? d->now.label : NULL;
}

const struct spans *disp_kv_spans(const struct disp *d)
{
    return &d->origin;
}

const char *disp_kv_origin(const struct disp *d)
{
    return !d->now.session ? "none" : d->origin.n ? d->origin.list[d->origin.n - 1].name : "computed";
}

void disp_kv_brief(const struct disp *d, uint32_t n, char *out, size_t size)
{
    static const char *const how[] = { "copied", "recomputed", "loaded", "computed" };
    const struct spans *o = &d->origin;
    uint32_t count[4] = { 0 };
    size_t at = 0;
    int alike = o->n && !o->list[0].from;  /* one word, and all of it */
    count[3] = n;
    for (uint32_t i = 0; i < o->n && o->list[i].from < n; i++) {
        const struct span *p = &o->list[i];
        uint32_t end = p->end < n ? p->end : n;
        alike &= !strcmp(p->name, o->list[0].name) && (!i || p->from == p[-1].end);
        for (int h = 0; h < 3; h++)
            if (!strncmp(p->name, how[h], strlen(how[h]))) {
                count[h] += end - p->from;
                count[3] -= end - p->from;
            }
    }
    if (d->now.session && !n) {
        snprintf(out, size, "empty");
        return;
    }
    if (!d->now.session || count[3] == n || (alike && !count[3])) {
        snprintf(out, size, "%s", !d->now.session ? "none" : count[3] == n ? how[3] : o->list[0].name);
        return;
    }
    for (int h = 0; h < 4; h++)
        if (count[h] && at < size)
            at += (size_t)snprintf(out + at, size - at, "%s%u %s", at ? ", " : "", count[h], how[h]);
}

int disp_was_kept(const struct disp *d)
{
    return d->was_kept;
}

uint32_t disp_moved(const struct disp *d)
{
    return d->moved;
}

uint32_t disp_promises(const struct disp *d)
{
    const struct dbrx_repro *r = d->now.session ? d->now.module->info->get(DBRX_REPRO) : NULL;
    return r ? r->promises(d->now.model) : 0;
}

static uint64_t layer_bytes(const struct dbrx_layer *y)
{
    return y->norm_1.bytes + y->wqkv.bytes + y->wo.bytes + y->norm_2.bytes + y->router.bytes + y->w1.bytes +
           y->v1.bytes + y->w2.bytes;
}

int disp_needs(const struct disp *d, const char *label, uint64_t *weights, uint64_t *kv)
{
    unsigned width = engine_kv_width(label);
    const struct dbrx_config *c = &d->desc->config;
    *weights = d->desc->embed.bytes + d->desc->norm_f.bytes + d->desc->lm_head.bytes;
    for (uint32_t l = 0; l < c->n_layers; l++)
        *weights += layer_bytes((const void *)((const char *)d->desc->layer + (size_t)l * d->desc->layer_size));
    *kv = (uint64_t)c->n_layers * d->max_pos * 2 * c->n_kv_heads * (c->d_model / c->n_heads) * (width ? width : 128) / 32;
    return width != 0;
}

uint32_t disp_max_pos(const struct disp *d)
{
    return d->max_pos;
}

uint32_t disp_position(const struct disp *d)
{
    return engine_position(&d->now);
}

/* a lost handle is closed at once, so that nobody drives it again */
static dbrx_status settle(struct disp *d, dbrx_status st)
{
    if (st == DBRX_E_LOST)
        engine_close(&d->now);
    return st;
}

dbrx_status disp_truncate(struct disp *d, uint32_t n_keep, struct dbrx_error *err)
{
    if (!d->now.session)
        return none(err);
    spans_cut(&d->origin, n_keep);
    disp_forget(d, n_keep);
    return engine_truncate(&d->now, n_keep, err);
}

dbrx_status disp_eval(struct disp *d, const struct dbrx_batch *b, struct dbrx_error *err)
{
    return d->now.session ? steered_eval(d, &d->now, b, err) : none(err);
}

/* ---- KV to and from files ---- */

int disp_has_kv(const struct disp *d)
{
    return d->now.kv != NULL;
}

static dbrx_status no_kv(const struct disp *d, struct dbrx_error *err)
{
    return d->now.session ? fail(err, DBRX_E_UNSUPPORTED, "%s can neither give nor take a KV cache",
                                 disp_name(d)) : none(err);
}

dbrx_status disp_export(struct disp *d, uint32_t max_n,
                        dbrx_status (*emit)(void *, const struct dbrx_kv_block *), void *ctx,
                        struct dbrx_error *err)
{
    return d->now.kv ? settle(d, d->now.kv->export_kv(d->now.session, max_n, emit, ctx, err))
                     : no_kv(d, err);
}

dbrx_status disp_import(struct disp *d, uint32_t n,
                        dbrx_status (*next)(void *, struct dbrx_kv_block *, struct dbrx_error *),
                        void *ctx, struct dbrx_error *err)
{
    dbrx_session *fresh;
    struct dbrx_kv_block b;
    if (!d->now.kv)
        return no_kv(d, err);
    dbrx_status st = d->now.vt->session_open(d->now.model, d->max_pos, &fresh, err);
    if (st != DBRX_OK)
        return st;
    while ((st = next(ctx, &b, err)) == DBRX_OK)
        if ((st = d->now.kv->import_kv(fresh, &b, err)) != DBRX_OK)
            break;
    if (st == DBRX_STOPPED)                /* all blocks are in */
        st = d->now.kv->commit(fresh, n, err);
    if (st == DBRX_OK && d->now.vt->position(fresh) != n)
        st = fail(err, DBRX_E_INVALID, "%s holds %u positions instead of %u after taking the KV "
                  "cache over", disp_name(d), d->now.vt->position(fresh), n);
    struct spans origin = { 0 };
    if (st == DBRX_OK && spans_add(&origin, 0, n, "loaded"))
        st = no_memory(err);
    if (st != DBRX_OK) {
        d->now.vt->session_close(fresh);
        return st;
    }
    d->now.vt->session_close(d->now.session);
    d->now.session = fresh;
    spans_free(&d->origin);
    d->origin = origin;
    disp_forget(d, 0);
    return DBRX_OK;
}
