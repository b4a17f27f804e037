/* repl/dispatch.c -- opens, drives and switches backends.  See dispatch.h.
 * What it promises: after any failure the current backend is the one it was. */
#include "repl/dispatch.h"

#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>

struct disp {
    const struct dbrx_model_desc *desc;
    const struct modules *modules;
    const struct dbrx_host *host;
    uint32_t max_pos;
    struct engine now;                     /* session NULL: none                       */
    const struct dbrx_steer *steer;        /* or NULL                                  */
    char origin[64];
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

void disp_free(struct disp *d)
{
    if (d)
        engine_close(&d->now);
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

dbrx_status disp_use(struct disp *d, const char *name, const char *const *opt, int replay,
                     const int32_t *token, uint32_t n, struct dbrx_error *err)
{
    struct engine e;
    const char *origin = "computed";
    struct dbrx_error local;
    err = err ? err : &local;
    dbrx_status st = disp_open(d, name, opt, d->max_pos, &e, err);

    if (st == DBRX_OK && n && !replay && e.kv && d->now.kv) {
        st = engine_copy_kv(&d->now, &e, n, d->host, err);
        origin = "copied";
    } else if (st == DBRX_OK && n) {
        struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = token };
        st = steered_eval(d, &e, &b, err);
        origin = "recomputed";
        if (st == DBRX_STOPPED)
            fail(err, st, "interrupted while the conversation was recomputed");
    }
    if (st == DBRX_OK && engine_position(&e) != n)
        st = fail(err, DBRX_E_INVALID, "%s holds %u positions instead of %u after taking the "
                  "conversation over", e.module->info->name, engine_position(&e), n);
    if (st != DBRX_OK) {
        engine_close(&e);
        return st;
    }
    if (!strcmp(origin, "copied"))
        snprintf(d->origin, sizeof d->origin, "copied from %s", disp_name(d));
    else
        snprintf(d->origin, sizeof d->origin, "%s", origin);
    engine_close(&d->now);
    d->now = e;
    return DBRX_OK;
}

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

const char *disp_kv_origin(const struct disp *d)
{
    return d->origin;
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
    if (!n_keep)
        snprintf(d->origin, sizeof d->origin, "computed");
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
    if (st != DBRX_OK) {
        d->now.vt->session_close(fresh);
        return st;
    }
    d->now.vt->session_close(d->now.session);
    d->now.session = fresh;
    snprintf(d->origin, sizeof d->origin, "loaded");
    return DBRX_OK;
}
