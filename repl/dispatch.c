/* repl/dispatch.c -- opens, drives and switches backends.  See dispatch.h.
 * What it promises: after any failure the current backend is the one it was. */
#include "repl/dispatch.h"

#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>

/* a backend at work, or kept for later */
struct engine {
    const struct module *module;
    const struct dbrx_backend *vt;
    const struct dbrx_kv *kv;              /* or NULL                                  */
    dbrx_model   *model;
    dbrx_session *session;
    char        **opt;                     /* "k=v" it was opened with, NULL-ended; owned */
    struct spans  origin;                  /* of its KV: what it did not compute on the way */
    int32_t      *held;                    /* kept: [n_held] tokens that it holds      */
    uint32_t      n_held;
    int           lost;                    /* only to be closed                        */
};

struct disp {
    const struct dbrx_model_desc *desc;
    const struct modules *modules;
    const struct dbrx_host *host;
    uint32_t max_pos;
    struct engine now;                     /* session NULL: none                       */
    struct engine kept[DISP_MAX_KEPT];     /* [n_kept], the latest last                */
    uint32_t n_kept, moved;
    const struct dbrx_steer *steer;        /* or NULL                                  */
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

static void engine_close(struct engine *e)
{
    if (e->session)
        e->vt->session_close(e->session);
    if (e->model)
        e->vt->model_close(e->model);
    for (char **o = e->opt; o && *o; o++)
        free(*o);
    free(e->opt);
    free(e->held);
    spans_free(&e->origin);
    *e = (struct engine){ 0 };
}

void disp_free(struct disp *d)
{
    if (!d)
        return;
    engine_close(&d->now);
    for (uint32_t i = 0; i < d->n_kept; i++)
        engine_close(&d->kept[i]);
    free(d);
}

const struct module *disp_module(const struct disp *d, size_t i)
{
    return i < d->modules->n ? &d->modules->list[i] : NULL;
}

static const struct dbrx_backend *backend_of(const struct module *m)
{
    const struct dbrx_backend *vt = m->info ? m->info->get(DBRX_BACKEND) : NULL;
    return vt && DBRX_HAS(struct dbrx_backend, vt, truncate) ? vt : NULL;
}

int disp_probe(const struct disp *d, size_t i, struct dbrx_probe *p)
{
    const struct dbrx_backend *vt = backend_of(&d->modules->list[i]);
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
    const struct dbrx_backend *vt = backend_of(&d->modules->list[i]);
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

/* ---- opening ---- */

static dbrx_status no_memory(struct dbrx_error *err)
{
    return fail(err, DBRX_E_NOMEM, "out of memory");
}

static dbrx_status engine_open(const struct disp *d, const struct module *m, const char *const *opt,
                               struct engine *e, struct dbrx_error *err)
{
    size_t n = 0;
    *e = (struct engine){ .module = m, .vt = backend_of(m), .kv = m->info->get(DBRX_KV) };
    while (opt && opt[n])
        n++;
    if (!(e->opt = calloc(n + 1, sizeof *e->opt)))
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        if (!(e->opt[i] = strdup(opt[i])))
            return no_memory(err);
    dbrx_status st = e->vt->model_open(d->host, d->desc, opt, &e->model, err);
    return st == DBRX_OK ? e->vt->session_open(e->model, d->max_pos, &e->session, err) : st;
}

static int has_option(const struct engine *e, const char *opt)
{
    for (char **o = e->opt; *o; o++)
        if (!strcmp(*o, opt))
            return 1;
    return 0;
}

/* The index of the kept backend of this module that has all these options, or -1 */
static int find_kept(const struct disp *d, const struct module *m, const char *const *opt)
{
    for (int i = (int)d->n_kept - 1; i >= 0; i--) {
        int fits = d->kept[i].module == m;
        for (size_t k = 0; fits && opt && opt[k]; k++)
            fits = has_option(&d->kept[i], opt[k]);
        if (fits)
            return i;
    }
    return -1;
}

static struct engine take_kept(struct disp *d, uint32_t i)
{
    struct engine e = d->kept[i];
    d->n_kept--;
    memmove(d->kept + i, d->kept + i + 1, (d->n_kept - i) * sizeof e);
    return e;
}

/* ---- the conversation's way over ---- */

enum { KV_STEP = 256 };                    /* positions between two looks at Ctrl-C      */

struct copy {
    const struct disp *d;
    const struct engine *to;
    uint32_t from, n;                      /* positions [from,n) are wanted              */
    uint64_t done;                         /* of all layers                              */
    dbrx_status imported;                  /* import_kv's last word                      */
    struct dbrx_error *err;
};

static dbrx_status copy_block(void *ctx, const struct dbrx_kv_block *b)
{
    struct copy *c = ctx;
    const struct dbrx_config *cfg = &c->d->desc->config;
    struct dbrx_kv_block part = *b;
    if (c->d->host->should_stop(c->d->host))
        return fail(c->err, DBRX_STOPPED, "interrupted while the KV cache was copied");
    if (b->pos < c->from) {                /* what is there already */
        uint32_t skip = c->from - b->pos < b->n ? c->from - b->pos : b->n;
        size_t bytes = (size_t)skip * cfg->n_kv_heads * (cfg->d_model / cfg->n_heads) *
                       (b->dtype == DBRX_F32 ? 4 : 2);
        part.pos += skip;
        part.n -= skip;
        part.k = (const char *)b->k + bytes;
        part.v = (const char *)b->v + bytes;
    }
    c->imported = part.n ? c->to->kv->import_kv(c->to->session, &part, c->err) : DBRX_OK;
    c->done += part.n;
    c->d->host->progress(c->d->host, "KV cache", c->done, (uint64_t)(c->n - c->from) * cfg->n_layers);
    return c->imported;
}

static int can_extend(const struct dbrx_kv *kv)
{
    return kv && DBRX_HAS(struct dbrx_kv, kv, extend) && kv->extend;
}

void disp_steer(struct disp *d, const struct dbrx_steer *steer)
{
    d->steer = steer;
}

/* eval, steered; a module that is older than a kind of steering would pass over it in silence */
static dbrx_status engine_eval(const struct engine *e, const struct dbrx_batch *batch,
                               const struct dbrx_steer *steer, struct dbrx_error *err)
{
    struct dbrx_batch b = *batch;
    b.steer = steer;
    if (steer && steer->source && e->module->info->abi_minor < 1)
        return fail(err, DBRX_E_UNSUPPORTED, "%s was built before experts could be swapped; /steer off "
                    "goes on without", e->module->info->name);
    return e->vt->eval(e->session, &b, err);
}

/* Positions [from,n) of the current backend's KV into e, which holds those before.  *gone: the
 * current one was lost over it. */
static dbrx_status copy_kv(struct disp *d, const struct engine *e, uint32_t from, uint32_t n, int *gone,
                           struct dbrx_error *err)
{
    const struct dbrx_kv *kv = d->now.kv;
    struct copy c = { d, e, from, n, 0, DBRX_OK, err };
    int tail = from && DBRX_HAS(struct dbrx_kv, kv, export_from) && kv->export_from;
    dbrx_status st = tail ? kv->export_from(d->now.session, from, KV_STEP, copy_block, &c, err)
                          : kv->export_kv(d->now.session, KV_STEP, copy_block, &c, err);
    *gone = st == DBRX_E_LOST && c.imported != DBRX_E_LOST;
    if (st != DBRX_OK)
        return st;
    return from ? e->kv->extend(e->session, n, err) : e->kv->commit(e->session, n, err);
}

static dbrx_status recompute(const struct disp *d, const struct engine *e, const int32_t *token, uint32_t from, uint32_t n,
                             struct dbrx_error *err)
{
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n - from, .token = token + from };
    dbrx_status st = engine_eval(e, &b, d->steer, err);
    return st == DBRX_STOPPED ? fail(err, st, "interrupted while the conversation was recomputed") : st;
}

/* Makes e, which holds `have` of them, hold token[n] */
static dbrx_status hand_over(struct disp *d, struct engine *e, int replay, const int32_t *token,
                             uint32_t have, uint32_t n, struct dbrx_error *err)
{
    char origin[72];
    const char *name = e->module->info->name;
    int gone = 0;
    dbrx_status st = e->vt->position(e->session) > have ? e->vt->truncate(e->session, have, err) : DBRX_OK;
    spans_cut(&e->origin, have);
    snprintf(origin, sizeof origin, "recomputed");
    if (st == DBRX_OK && have < n) {
        int copies = !replay && d->now.kv && (have ? can_extend(e->kv) : e->kv != NULL);
        if (copies) {
            st = copy_kv(d, e, have, n, &gone, err);
            if (st == DBRX_OK)
                snprintf(origin, sizeof origin, "copied from %s", disp_name(d));
        }
        if (gone)                          /* it cannot give its KV; the tokens are still here */
            st = e->vt->truncate(e->session, have, err);
        if (st == DBRX_OK && (!copies || gone))
            st = recompute(d, e, token, have, n, err);
    }
    if (st == DBRX_OK && e->vt->position(e->session) != n)
        st = fail(err, DBRX_E_INVALID, "%s holds %u positions instead of %u after taking the "
                  "conversation over", name, e->vt->position(e->session), n);
    if (st == DBRX_OK && spans_add(&e->origin, have, n, origin))
        st = no_memory(err);
    d->now.lost = gone;
    return st;
}

static uint32_t common(const int32_t *a, uint32_t n, const int32_t *b, uint32_t m)
{
    uint32_t i = 0;
    while (i < n && i < m && a[i] == b[i])
        i++;
    return i;
}

/* A kept one that a switch did not reach: still of use as long as it knows what it holds */
static void put_back(struct disp *d, struct engine *e, uint32_t have, dbrx_status st)
{
    if (st == DBRX_E_LOST || e->vt->position(e->session) < have)
        engine_close(e);
    else {
        e->n_held = have < e->n_held ? have : e->n_held;
        d->kept[d->n_kept++] = *e;
    }
}

dbrx_status disp_use(struct disp *d, const char *name, const char *const *opt, int how,
                     const int32_t *token, uint32_t n, struct dbrx_error *err)
{
    const struct module *m;
    struct engine e = { 0 };
    struct dbrx_error local;
    int32_t *held = NULL;
    uint32_t have = 0;
    err = err ? err : &local;
    dbrx_status st = find(d, name, &m, err);
    if (st != DBRX_OK)
        return st;
    int keep = how & DISP_KEEP && d->now.session, kept = find_kept(d, m, opt);
    if (keep && kept < 0 && d->n_kept == DISP_MAX_KEPT)
        return fail(err, DBRX_E_FULL, "%d backends are kept already; /backend NAME --drop closes one",
                    DISP_MAX_KEPT);
    if (kept >= 0) {
        e = take_kept(d, (uint32_t)kept);
        have = how & DISP_REPLAY ? 0 : common(e.held, e.n_held, token, n);
    }
    if (d->now.session)
        n = disp_position(d) < n ? disp_position(d) : n;
    else
        n = have;                          /* the next eval brings the rest */
    have = have < n ? have : n;
    if (keep && !(held = malloc((n + (size_t)1) * sizeof *held)))
        st = no_memory(err);
    if (st == DBRX_OK && kept < 0)
        st = engine_open(d, m, opt, &e, err);
    if (st == DBRX_OK)
        st = hand_over(d, &e, how & DISP_REPLAY, token, have, n, err);
    if (st != DBRX_OK) {
        free(held);
        if (kept >= 0)
            put_back(d, &e, have, st);
        else
            engine_close(&e);
        if (d->now.lost)
            engine_close(&d->now);
        return st;
    }
    free(e.held);
    e.held = NULL;
    if (keep && !d->now.lost) {
        if (n)
            memcpy(held, token, n * sizeof *held);
        d->now.held = held;
        d->now.n_held = n;
        d->kept[d->n_kept++] = d->now;
    } else {
        free(held);
        engine_close(&d->now);
    }
    d->now = e;
    d->moved = n - have;
    return DBRX_OK;
}

/* ---- kept ones ---- */

static void options_text(const struct engine *e, char *out, size_t size)
{
    size_t at = 0;
    *out = '\0';
    for (char **o = e->opt; *o && at < size; o++)
        at += (size_t)snprintf(out + at, size - at, "%s%s", at ? " " : "", *o);
}

const char *disp_kept(const struct disp *d, uint32_t i, char *options, size_t size, uint32_t *n)
{
    if (i >= d->n_kept)
        return NULL;
    const struct engine *e = &d->kept[i];
    options_text(e, options, size);
    *n = e->n_held;
    return e->module->info->name;
}

uint32_t disp_drop(struct disp *d, const char *name)
{
    uint32_t dropped = 0;
    for (uint32_t i = d->n_kept; i-- > 0; )
        if (!name || !strcmp(d->kept[i].module->info->name, name)) {
            struct engine e = take_kept(d, i);
            engine_close(&e);
            dropped++;
        }
    return dropped;
}

const char *disp_name(const struct disp *d)
{
    return d->now.session ? d->now.module->info->name : NULL;
}

void disp_label(const struct disp *d, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "%s", disp_name(d) ? disp_name(d) : "");
    if (d->now.session && d->now.opt[0] && n + 1 < size) {
        out[n++] = ' ';
        options_text(&d->now, out + n, size - n);
    }
}

const struct spans *disp_kv_spans(const struct disp *d)
{
    return &d->now.origin;
}

const char *disp_kv_origin(const struct disp *d)
{
    const struct spans *o = &d->now.origin;
    return o->n ? o->list[o->n - 1].name : "computed";
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

void disp_needs(const struct disp *d, uint64_t *weights, uint64_t *kv)
{
    const struct dbrx_config *c = &d->desc->config;
    *weights = d->desc->embed.bytes + d->desc->norm_f.bytes + d->desc->lm_head.bytes;
    for (uint32_t l = 0; l < c->n_layers; l++)
        *weights += layer_bytes((const void *)((const char *)d->desc->layer + (size_t)l * d->desc->layer_size));
    *kv = (uint64_t)c->n_layers * d->max_pos * 2 * c->n_kv_heads * (c->d_model / c->n_heads) * sizeof(float);
}

uint32_t disp_max_pos(const struct disp *d)
{
    return d->max_pos;
}

uint32_t disp_position(const struct disp *d)
{
    return d->now.session ? d->now.vt->position(d->now.session) : 0;
}

static dbrx_status none(struct dbrx_error *err)
{
    return fail(err, DBRX_E_INVALID, "no backend is open; /backend NAME opens one");
}

/* a lost handle is closed at once, so that nobody drives it again */
static dbrx_status settle(struct disp *d, dbrx_status st)
{
    if (st == DBRX_E_LOST)
        engine_close(&d->now);
    return st;
}

/* What comes to be at these positions now may be steered otherwise, or come from a file: then
 * kept ones get it, too, whether or not the tokens are the same */
static void forget_kept(struct disp *d, uint32_t n_keep)
{
    for (uint32_t i = 0; i < d->n_kept; i++)
        if (d->kept[i].n_held > n_keep)
            d->kept[i].n_held = n_keep;
}

dbrx_status disp_truncate(struct disp *d, uint32_t n_keep, struct dbrx_error *err)
{
    if (!d->now.session)
        return none(err);
    spans_cut(&d->now.origin, n_keep);
    forget_kept(d, n_keep);
    return settle(d, d->now.vt->truncate(d->now.session, n_keep, err));
}

dbrx_status disp_eval(struct disp *d, const struct dbrx_batch *b, struct dbrx_error *err)
{
    return d->now.session ? settle(d, engine_eval(&d->now, b, d->steer, err)) : none(err);
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
    spans_free(&d->now.origin);
    d->now.origin = origin;
    forget_kept(d, 0);
    return DBRX_OK;
}
