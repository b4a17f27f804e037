/* repl/engine.c -- opening, driving and closing one backend.  See engine.h. */
#include "repl/engine.h"

#include "plugins/fail.h"
#include "repl/mapped.h"

#include <string.h>

const struct dbrx_backend *engine_backend(const struct module *m)
{
    const struct dbrx_backend *vt = m->info ? m->info->get(DBRX_BACKEND) : NULL;
    return vt && DBRX_HAS(struct dbrx_backend, vt, truncate) ? vt : NULL;
}

/* The label is all that others know of the options: each is in it, and none twice, where only one
 * would be in force */
static dbrx_status make_label(char *label, size_t size, const char *name, const char *const *opt,
                              struct dbrx_error *err)
{
    size_t n = (size_t)snprintf(label, size, "%s", name);
    for (const char *const *o = opt; o && *o; o++) {
        size_t len = strcspn(*o, "=");
        for (const char *const *p = opt; p < o; p++)
            if (strcspn(*p, "=") == len && !strncmp(*p, *o, len))
                return fail(err, DBRX_E_INVALID, "the option %.*s is given twice", len < 60 ? (int)len : 60, *o);
        if (n < size)
            n += (size_t)snprintf(label + n, size - n, " %s", *o);
    }
    return n < size ? DBRX_OK : fail(err, DBRX_E_INVALID, "the options of %.60s are longer than %zu characters",
                                     name, size - strlen(name) - 2);
}

dbrx_status engine_open(struct engine *e, const struct module *m, const struct dbrx_host *host,
                        const struct dbrx_model_desc *desc, const char *const *opt,
                        uint32_t max_pos, struct dbrx_error *err)
{
    *e = (struct engine){ .module = m, .vt = engine_backend(m), .kv = m->info->get(DBRX_KV) };
    const struct dbrx_config *c = &desc->config;
    e->layers = c->n_layers;
    e->kv_row = (size_t)c->n_kv_heads * (c->d_model / c->n_heads);
    dbrx_status st = make_label(e->label, sizeof e->label, m->info->name, opt, err);
    if (st == DBRX_OK)
        st = mapped_lost(err);
    if (st == DBRX_OK)
        st = e->vt->model_open(host, desc, opt, &e->model, err);
    if (st == DBRX_OK)
        st = e->vt->session_open(e->model, max_pos, &e->session, err);
    if (st == DBRX_OK)
        st = mapped_lost(err);             /* it may have packed zeros */
    if (st == DBRX_STOPPED)
        fail(err, st, "interrupted while %s was opened", m->info->name);
    if (st != DBRX_OK)
        engine_close(e);
    return st;
}

dbrx_status engine_share(struct engine *e, const struct engine *owner, uint32_t max_pos,
                         struct dbrx_error *err)
{
    *e = *owner;
    e->session = NULL;
    e->shared = 1;
    dbrx_status st = e->vt->session_open(e->model, max_pos, &e->session, err);
    if (st != DBRX_OK)
        engine_close(e);
    return st;
}

void engine_close(struct engine *e)
{
    if (e->session)
        e->vt->session_close(e->session);
    if (e->model && !e->shared)
        e->vt->model_close(e->model);
    *e = (struct engine){ 0 };
}

uint32_t engine_position(const struct engine *e)
{
    return e->session ? e->vt->position(e->session) : 0;
}

/* a lost handle is closed at once, so that nobody drives it again */
static dbrx_status settle(struct engine *e, dbrx_status st)
{
    if (st == DBRX_E_LOST)
        engine_close(e);
    return st;
}

static dbrx_status gone(struct dbrx_error *err)
{
    return fail(err, DBRX_E_LOST, "the backend is gone");
}

/* What came of weights that are gone is no result: back to what was there before */
static dbrx_status sound(struct engine *e, uint32_t before, dbrx_status st, struct dbrx_error *err)
{
    if (st == DBRX_E_LOST || mapped_lost(NULL) == DBRX_OK)
        return st;
    if (engine_position(e) > before)
        st = engine_truncate(e, before, err);
    return st == DBRX_E_LOST ? st : mapped_lost(err);
}

/* A module that is older than a kind of steering would pass over it in silence */
static dbrx_status check_steer(const struct engine *e, const struct dbrx_batch *b, struct dbrx_error *err)
{
    return b->steer && b->steer->source && e->module->info->abi_minor < 1
           ? fail(err, DBRX_E_UNSUPPORTED, "%s was built before experts could be swapped; /steer off goes on "
                  "without", e->module->info->name) : DBRX_OK;
}

dbrx_status engine_eval(struct engine *e, const struct dbrx_batch *b, struct dbrx_error *err)
{
    if (!e->session)
        return gone(err);
    uint32_t before = engine_position(e);
    dbrx_status st = mapped_lost(err);
    if (st == DBRX_OK)
        st = check_steer(e, b, err);
    return st == DBRX_OK ? sound(e, before, settle(e, e->vt->eval(e->session, b, err)), err) : st;
}

dbrx_status engine_truncate(struct engine *e, uint32_t n_keep, struct dbrx_error *err)
{
    return e->session ? settle(e, e->vt->truncate(e->session, n_keep, err))
                      : gone(err);
}

/* ---- optional tables ---- */

static const struct dbrx_resume *resume_of(const struct engine *e)
{
    return e->session ? e->module->info->get(DBRX_RESUME) : NULL;
}

int engine_has_resume(const struct engine *e)
{
    return resume_of(e) != NULL;
}

dbrx_status engine_resume(struct engine *e, uint32_t layer, uint32_t pos, const float *x,
                          const struct dbrx_batch *b, struct dbrx_error *err)
{
    const struct dbrx_resume *r = resume_of(e);
    if (!r)
        return e->session ? fail(err, DBRX_E_UNSUPPORTED, "%s cannot resume inner blocks", e->module->info->name)
                          : gone(err);
    uint32_t before = engine_position(e);
    dbrx_status st = check_steer(e, b, err);
    return st == DBRX_OK ? sound(e, before, settle(e, r->resume(e->session, layer, pos, x, b, err)), err) : st;
}

dbrx_status engine_head(struct engine *e, const float *x, uint32_t n, float *logits, struct dbrx_error *err)
{
    const struct dbrx_head *h = e->session ? e->module->info->get(DBRX_HEAD) : NULL;
    if (!h)
        return e->session ? fail(err, DBRX_E_UNSUPPORTED, "%s cannot turn hidden vectors into logits",
                                 e->module->info->name) : gone(err);
    return sound(e, engine_position(e), settle(e, h->head(e->session, x, n, logits, err)), err);
}

/* ---- KV ---- */

enum { KV_STEP = 256 };                    /* positions between two looks at Ctrl-C      */

struct copy {
    const struct engine *to;
    const struct dbrx_host *host;
    size_t row;                            /* elements of one position                   */
    uint32_t have;                         /* positions that are there already           */
    uint64_t done, total;
    dbrx_status imported;                  /* import_kv's last word                      */
    struct dbrx_error *err;
};

static dbrx_status copy_block(void *ctx, const struct dbrx_kv_block *b)
{
    struct copy *c = ctx;
    struct dbrx_kv_block part = *b;
    if (c->host->should_stop(c->host))
        return fail(c->err, DBRX_STOPPED, "interrupted while the KV cache was copied");
    if (b->pos < c->have) {
        uint32_t skip = c->have - b->pos < b->n ? c->have - b->pos : b->n;
        size_t bytes = skip * c->row * (b->dtype == DBRX_F32 ? 4 : 2);
        part.pos += skip;
        part.n -= skip;
        part.k = (const char *)b->k + bytes;
        part.v = (const char *)b->v + bytes;
    }
    c->imported = part.n ? c->to->kv->import_kv(c->to->session, &part, c->err) : DBRX_OK;
    c->host->progress(c->host, "KV cache", c->done += part.n, c->total);
    return c->imported;
}

int engine_can_extend(const struct engine *e)
{
    return e->kv && DBRX_HAS(struct dbrx_kv, e->kv, extend) && e->kv->extend;
}

unsigned engine_kv_width(const char *label)
{
    static const struct { const char *type; unsigned bytes; } known[] = {
        { "f32", 128 }, { "f16", 64 }, { "bf16", 64 }, { "q8_0", 34 } };
    const char *opt = label ? strstr(label, " kv=") : NULL;
    for (size_t i = 0; opt && i < sizeof known / sizeof *known; i++)
        if (strcspn(opt + 4, " ") == strlen(known[i].type) && !strncmp(opt + 4, known[i].type, strlen(known[i].type)))
            return known[i].bytes;
    return 0;
}

static dbrx_status see_type(void *ctx, const struct dbrx_kv_block *b)
{
    *(unsigned *)ctx = b->dtype == DBRX_F32 ? 128 : 64;
    return DBRX_STOPPED;                   /* that is all */
}

double engine_kv_bytes(const struct engine *e)
{
    struct dbrx_error err;
    unsigned width = engine_kv_width(e->label);
    if (!width && e->kv && engine_position(e))
        e->kv->export_kv(e->session, 1, see_type, &width, &err);
    return 2.0 * e->layers * (double)e->kv_row * (width ? width : 128) / 32;
}

dbrx_status engine_copy_kv(const struct engine *from, const struct engine *to, uint32_t n,
                           const struct dbrx_host *host, int *lost, struct dbrx_error *err)
{
    const struct dbrx_kv *kv = from->kv;
    uint32_t have = engine_position(to);
    struct copy c = { .to = to, .host = host, .row = from->kv_row, .have = have, .err = err,
                      .total = (uint64_t)(n - have) * from->layers };
    int tail = have && DBRX_HAS(struct dbrx_kv, kv, export_from) && kv->export_from;
    dbrx_status st = tail ? kv->export_from(from->session, have, KV_STEP, copy_block, &c, err)
                          : kv->export_kv(from->session, KV_STEP, copy_block, &c, err);
    if (lost)
        *lost = st == DBRX_E_LOST && c.imported != DBRX_E_LOST;
    if (st != DBRX_OK)
        return st;
    return have ? to->kv->extend(to->session, n, err) : to->kv->commit(to->session, n, err);
}
