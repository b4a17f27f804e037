/* tests/conformance/checks_kv.c -- dbrx.kv/1: a session's KV out of one backend and into
 * another.  What is exported is compared with the oracle's; what is imported, in each of the
 * three types, is imported into the oracle too, and both must go on alike. */
#include "tests/conformance/conformance.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CUT = 12 };                         /* positions moved; the rest is fed afterwards */

static size_t width(const struct dbrx_config *c)
{
    return (size_t)c->n_kv_heads * (c->d_model / c->n_heads);
}

/* ---- exporting: everything into two arrays of floats ------------------------------- */

struct cache {
    const struct dbrx_config *cfg;
    uint32_t n, max_n, dtype, calls;
    float   *k, *v;                        /* [n_layers][n][width]                         */
    uint8_t *seen;                         /* [n_layers][n]                                */
    char     broken[120];
    uint32_t stop_at;                      /* this call returns stop_with; 0: none         */
    dbrx_status stop_with;
};

static struct cache *cache_new(const struct dbrx_config *c, uint32_t n, uint32_t max_n)
{
    struct cache *h = fx_alloc(sizeof *h);
    size_t rows = (size_t)c->n_layers * n;
    *h = (struct cache){
        .cfg = c, .n = n, .max_n = max_n, .dtype = UINT32_MAX, .seen = fx_alloc(rows + 1),
        .k = fx_alloc((rows + 1) * width(c) * sizeof(float)),
        .v = fx_alloc((rows + 1) * width(c) * sizeof(float)),
    };
    return h;
}

static dbrx_status keep(void *ctx, const struct dbrx_kv_block *b)
{
    struct cache *h = ctx;
    size_t w = width(h->cfg);
    if (++h->calls == h->stop_at)
        return h->stop_with;
    if (!DBRX_HAS(struct dbrx_kv_block, b, v) || b->layer >= h->cfg->n_layers || !b->n ||
        b->pos >= h->n || b->n > h->n - b->pos || !b->k || !b->v || (h->max_n && b->n > h->max_n) ||
        (b->dtype != DBRX_F32 && b->dtype != DBRX_F16 && b->dtype != DBRX_BF16) ||
        (h->dtype != UINT32_MAX && b->dtype != h->dtype)) {
        snprintf(h->broken, sizeof h->broken, "a block of layer %u, positions %u + %u, type %u",
                 b->layer, b->pos, b->n, b->dtype);
        return DBRX_OK;
    }
    h->dtype = b->dtype;
    const struct dbrx_tensor k = { .data = b->k, .dtype = b->dtype };
    const struct dbrx_tensor v = { .data = b->v, .dtype = b->dtype };
    size_t at = (size_t)b->layer * h->n + b->pos;
    for (size_t i = 0; i < b->n * w; i++) {
        h->k[at * w + i] = load(&k, i);
        h->v[at * w + i] = load(&v, i);
    }
    for (uint32_t i = 0; i < b->n; i++)
        h->seen[at + i]++;
    return DBRX_OK;
}

static int export_all(struct side *side, dbrx_session *s, struct cache *h)
{
    struct guarded g;
    dbrx_status st = side->kv->export_kv(s, h->max_n, keep, h, guarded_init(&g));
    NEED(st == DBRX_OK, "export_kv returned %d", (int)st);
    NEED(!guarded_fault(&g, st), "export_kv: %s", guarded_fault(&g, st));
    NEED(!h->broken[0], "%s", h->broken);
    for (size_t i = 0; i < (size_t)h->cfg->n_layers * h->n; i++)
        NEED(h->seen[i] == 1, "layer %zu, position %zu: exported %u times", i / h->n, i % h->n,
             h->seen[i]);
    return PASS;
}

/* The oracle's cache of the first n tokens. */
static struct cache *oracle_cache(struct fx *f, uint32_t n)
{
    struct cache *h = cache_new(f->cfg, n, 0);
    dbrx_session *s;
    fed(f, &f->ref, n, NULL, &s);
    if (!f->ref.kv || export_all(&f->ref, s, h) != PASS)
        give_up("the oracle cannot export");
    return h;
}

static double rounding(uint32_t dtype)
{
    return dtype == DBRX_F32 ? TOL : dtype == DBRX_F16 ? 1e-3 : 8e-3;
}

/* ---- importing: out of pages that cannot be written or read beyond -------------------- */

/* `bytes` that end where a forbidden page begins; read-only once filled */
static void *fenced(const void *src, size_t bytes, size_t *len)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page) / page * page;
    *len = body + page;
    char *p = mmap(NULL, *len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        give_up("out of memory");
    memcpy(p + body - bytes, src, bytes);
    mprotect(p, body, PROT_READ);
    mprotect(p + body, page, PROT_NONE);
    return p + body - bytes;
}

/* Hands rows [pos, pos+n) of one layer over as dtype. */
static dbrx_status import_block(struct side *side, dbrx_session *s, const struct cache *h,
                                uint32_t layer, uint32_t pos, uint32_t n, uint32_t dtype,
                                struct dbrx_error *err)
{
    size_t w = width(h->cfg), at = ((size_t)layer * h->n + pos) * w;
    size_t bytes = n * w * dtype_size(dtype);
    size_t klen, vlen, page = (size_t)sysconf(_SC_PAGESIZE);
    char *tmp = fx_alloc(2 * bytes + 8);
    for (size_t i = 0; i < n * w; i++) {
        store(tmp, dtype, i, h->k[at + i]);
        store(tmp + bytes, dtype, i, h->v[at + i]);
    }
    char *k = fenced(tmp, bytes, &klen), *v = fenced(tmp + bytes, bytes, &vlen);
    const struct dbrx_kv_block b = {
        .struct_size = sizeof b, .layer = layer, .pos = pos, .n = n, .dtype = dtype, .k = k, .v = v,
    };
    dbrx_status st = side->kv->import_kv(s, &b, err);
    munmap((void *)((uintptr_t)(k + bytes) - (klen - page)), klen);
    munmap((void *)((uintptr_t)(v + bytes) - (vlen - page)), vlen);
    return st;
}

/* All of h, layer by layer or backwards, in blocks of `step` (0: whole); committed. */
static int import_all(struct side *side, dbrx_session *s, const struct cache *h, uint32_t step,
                      uint32_t dtype, bool backwards)
{
    step = step ? step : h->n;
    uint32_t per_layer = (h->n + step - 1) / step, blocks = per_layer * h->cfg->n_layers;
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t j = backwards ? blocks - 1 - i : i, pos = j % per_layer * step;
        struct guarded g;
        dbrx_status st = import_block(side, s, h, j / per_layer, pos,
                                      step < h->n - pos ? step : h->n - pos, dtype,
                                      guarded_init(&g));
        NEED(st == DBRX_OK, "import_kv of layer %u, position %u, type %u returned %d",
             j / per_layer, pos, dtype, (int)st);
        NEED(!guarded_fault(&g, st), "import_kv: %s", guarded_fault(&g, st));
        NEED(side->be->position(s) == 0, "position is %u before commit", side->be->position(s));
    }
    NEED(side->kv->commit(s, h->n, NULL) == DBRX_OK, "commit(%u) failed", h->n);
    NEED(side->be->position(s) == h->n, "position is %u after commit(%u)", side->be->position(s),
         h->n);
    return PASS;
}

/* ---- the rules --------------------------------------------------------------------------- */

static int export_blocks(struct fx *f)
{
    static const uint32_t sizes[] = { 0, 1, 3, CUT, CUT + 5 };
    struct cache *first = NULL;
    size_t bytes = (size_t)f->cfg->n_layers * CUT * width(f->cfg) * sizeof(float);
    NEED(feed(&f->sut, f->s, f->tok, CUT, NULL, NULL) == DBRX_OK, "eval failed");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct cache *h = cache_new(f->cfg, CUT, sizes[i]);
        if (export_all(&f->sut, f->s, h) != PASS)
            return FAIL;
        first = first ? first : h;
        NEED(!memcmp(h->k, first->k, bytes) && !memcmp(h->v, first->v, bytes),
             "blocks of %u hold other values", sizes[i]);
    }
    return unchanged(f, f->s, CUT, "export_kv");
}

static int export_empty(struct fx *f)
{
    struct cache *h = cache_new(f->cfg, 1, 0);
    NEED(f->sut.kv->export_kv(f->s, 0, keep, h, NULL) == DBRX_OK, "export_kv failed");
    NEED(!h->calls, "an empty session emits %u blocks", h->calls);
    return PASS;
}

static int export_values(struct fx *f)
{
    struct cache *h = cache_new(f->cfg, CUT, 0), *o = oracle_cache(f, CUT);
    size_t n = (size_t)f->cfg->n_layers * CUT * width(f->cfg);
    NEED(feed(&f->sut, f->s, f->tok, CUT, NULL, NULL) == DBRX_OK, "eval failed");
    if (export_all(&f->sut, f->s, h) != PASS)
        return FAIL;
    double k = distance(h->k, o->k, n), v = distance(h->v, o->v, n);
    NEED(k <= rounding(h->dtype), "keys differ by %.2g from the oracle's", k);
    NEED(v <= rounding(h->dtype), "values differ by %.2g from the oracle's", v);
    return PASS;
}

static int emit_stops(struct fx *f)
{
    static const dbrx_status answers[] = { DBRX_STOPPED, 7, DBRX_E_NOMEM, DBRX_E_INVALID };
    NEED(feed(&f->sut, f->s, f->tok, CUT, NULL, NULL) == DBRX_OK, "eval failed");
    for (size_t i = 0; i < 4; i++)
        for (uint32_t at = 1; at <= 4 * f->cfg->n_layers; at++) {
            struct cache *h = cache_new(f->cfg, CUT, 3);       /* 4 blocks a layer, at least */
            h->stop_at = at;
            h->stop_with = answers[i];
            dbrx_status st = f->sut.kv->export_kv(f->s, 3, keep, h, NULL);
            NEED(st == answers[i], "emit's %d came back as %d", (int)answers[i], (int)st);
            NEED(h->calls == at, "%u calls after call %u returned %d", h->calls - at, at,
                 (int)answers[i]);
        }
    return unchanged(f, f->s, CUT, "a stopped export");
}

/* From one session of the backend to another, as it exports: as if never moved. */
static int own_type(struct fx *f)
{
    static const uint32_t steps[] = { 1, 3, 0 };
    struct cache *h = cache_new(f->cfg, CUT, 0);
    NEED(feed(&f->sut, f->s, f->tok, CUT, NULL, NULL) == DBRX_OK, "eval failed");
    if (export_all(&f->sut, f->s, h) != PASS)
        return FAIL;
    for (int i = 0; i < 3; i++) {
        struct rec *r = rec_new(f->cfg, ROOM);
        dbrx_session *s = fx_session(&f->sut, ROOM);
        if (import_all(&f->sut, s, h, steps[i], h->dtype, i == 1) != PASS)
            return FAIL;
        NEED(feed(&f->sut, s, f->tok + CUT, N_TOK - CUT, r, NULL) == DBRX_OK, "eval failed");
        if (same_logits(r, f->truth, CUT, N_TOK, 5 * rounding(h->dtype), "moved") != PASS)
            return FAIL;
    }
    return PASS;
}

/* The oracle's cache, rounded to dtype, into both; they go on alike. */
static int from_oracle(struct fx *f, uint32_t dtype)
{
    struct cache *h = oracle_cache(f, CUT);
    dbrx_session *o = fx_session(&f->ref, ROOM);
    struct rec *want = rec_new(f->cfg, ROOM), *got = rec_new(f->cfg, ROOM);
    if (import_all(&f->ref, o, h, 0, dtype, false) != PASS ||
        feed(&f->ref, o, f->tok + CUT, N_TOK - CUT, want, NULL) != DBRX_OK)
        give_up("the oracle cannot import");
    if (import_all(&f->sut, f->s, h, 5, dtype, true) != PASS)
        return FAIL;
    NEED(feed(&f->sut, f->s, f->tok + CUT, N_TOK - CUT, got, NULL) == DBRX_OK, "eval failed");
    return same_logits(got, want, CUT, N_TOK, TOL, "imported");
}

static int from_f32(struct fx *f)  { return from_oracle(f, DBRX_F32); }
static int from_f16(struct fx *f)  { return from_oracle(f, DBRX_F16); }
static int from_bf16(struct fx *f) { return from_oracle(f, DBRX_BF16); }

static int import_not_empty(struct fx *f)
{
    struct cache *h = oracle_cache(f, CUT);
    NEED(feed(&f->sut, f->s, f->tok, 2, NULL, NULL) == DBRX_OK, "eval failed");
    REFUSED(DBRX_E_INVALID, import_block(&f->sut, f->s, h, 0, 0, 1, DBRX_F32, err));
    return unchanged(f, f->s, 2, "a refused import");
}

static int import_beyond(struct fx *f)
{
    struct cache *h = oracle_cache(f, CUT);
    dbrx_session *s = fx_session(&f->sut, CUT - 2);
    REFUSED(DBRX_E_FULL, import_block(&f->sut, s, h, 0, 0, CUT, DBRX_F32, err));
    REFUSED(DBRX_E_FULL, import_block(&f->sut, s, h, 0, CUT - 2, 1, DBRX_F16, err));
    REFUSED(DBRX_E_FULL, import_block(&f->sut, s, h, 0, CUT - 3, 2, DBRX_BF16, err));
    struct dbrx_kv_block b = {
        .struct_size = sizeof b, .pos = UINT32_MAX, .n = 2, .dtype = DBRX_F32, .k = h->k, .v = h->v,
    };
    REFUSED(DBRX_E_FULL, f->sut.kv->import_kv(s, &b, err));
    NEED(f->sut.kv->commit(s, CUT - 1, NULL) < 0, "commit beyond max_pos succeeded");
    return unchanged(f, s, 0, "refused imports");
}

static int import_malformed(struct fx *f)
{
    struct cache *h = oracle_cache(f, CUT);
    struct dbrx_kv_block b = {
        .struct_size = sizeof b, .layer = f->cfg->n_layers, .n = 1, .dtype = DBRX_F32, .k = h->k,
        .v = h->v,
    };
    NEED(f->sut.kv->import_kv(f->s, &b, NULL) < 0, "a layer that does not exist was imported");
    b.layer = 0;
    static const uint32_t others[] = { DBRX_Q4_0, DBRX_Q8_0, 99 };
    for (int i = 0; i < 3; i++) {
        b.dtype = others[i];
        NEED(f->sut.kv->import_kv(f->s, &b, NULL) < 0, "KV of type %u was imported", b.dtype);
    }
    return unchanged(f, f->s, 0, "malformed imports");
}

static int cut_after_import(struct fx *f)
{
    struct rec *r = rec_new(f->cfg, ROOM);
    if (import_all(&f->sut, f->s, oracle_cache(f, CUT), 4, DBRX_F32, false) != PASS)
        return FAIL;
    NEED(f->sut.be->truncate(f->s, CUT - 5, NULL) == DBRX_OK, "truncate failed");
    NEED(feed(&f->sut, f->s, f->tok + CUT - 5, N_TOK - CUT + 5, r, NULL) == DBRX_OK,
         "eval failed");
    if (same_logits(r, f->truth, CUT - 5, N_TOK, TOL, "cut after import") != PASS)
        return FAIL;
    NEED(f->sut.be->truncate(f->s, 0, NULL) == DBRX_OK, "truncate failed");
    NEED(feed(&f->sut, f->s, f->tok, N_TOK, r, NULL) == DBRX_OK, "eval failed");
    return same_logits(r, f->truth, 0, N_TOK, TOL, "replayed after import");
}

/* The first part computed here, the rest imported behind it. */
static int extended(struct fx *f)
{
    const struct dbrx_kv *kv = f->sut.kv;
    if (!DBRX_HAS(struct dbrx_kv, kv, extend) || !kv->extend) {
        note("not offered");
        return SKIP;
    }
    const uint32_t have = 5;
    struct cache *h = oracle_cache(f, CUT);
    struct rec *r = rec_new(f->cfg, ROOM);
    NEED(feed(&f->sut, f->s, f->tok, have, NULL, NULL) == DBRX_OK, "eval failed");
    for (uint32_t l = 0; l < f->cfg->n_layers; l++)
        NEED(import_block(&f->sut, f->s, h, l, have, CUT - have, DBRX_F32, NULL) == DBRX_OK,
             "import_kv behind position %u failed", have);
    REFUSED(DBRX_E_INVALID, import_block(&f->sut, f->s, h, 0, have - 1, 2, DBRX_F32, err));
    REFUSED(DBRX_E_INVALID, kv->extend(f->s, have - 1, err));
    REFUSED(DBRX_E_INVALID, kv->extend(f->s, ROOM + 1, err));
    NEED(f->sut.be->position(f->s) == have, "position is %u before extend", f->sut.be->position(f->s));
    NEED(kv->extend(f->s, CUT, NULL) == DBRX_OK, "extend failed");
    NEED(f->sut.be->position(f->s) == CUT, "position is %u after extend", f->sut.be->position(f->s));
    NEED(feed(&f->sut, f->s, f->tok + CUT, N_TOK - CUT, r, NULL) == DBRX_OK, "eval failed");
    return same_logits(r, f->truth, CUT, N_TOK, 5 * rounding(h->dtype), "extended");
}

static int from_the_middle(struct fx *f)
{
    const struct dbrx_kv *kv = f->sut.kv;
    if (!DBRX_HAS(struct dbrx_kv, kv, export_from) || !kv->export_from) {
        note("not offered");
        return SKIP;
    }
    struct cache *all = cache_new(f->cfg, CUT, 0), *h = cache_new(f->cfg, CUT, 3);
    size_t w = width(f->cfg), n = (size_t)f->cfg->n_layers * CUT;
    NEED(feed(&f->sut, f->s, f->tok, CUT, NULL, NULL) == DBRX_OK, "eval failed");
    if (export_all(&f->sut, f->s, all) != PASS)
        return FAIL;
    NEED(kv->export_from(f->s, 5, 3, keep, h, NULL) == DBRX_OK && !h->broken[0], "%s", h->broken);
    for (size_t i = 0; i < n; i++)
        NEED(h->seen[i] == (i % CUT >= 5), "position %zu was exported %u times", i % CUT, h->seen[i]);
    for (size_t i = 0; i < n * w; i++)
        NEED(i / w % CUT < 5 || (h->k[i] == all->k[i] && h->v[i] == all->v[i]), "other values");
    NEED(kv->export_from(f->s, CUT, 0, keep, h, NULL) == DBRX_OK, "from the end: failed");
    REFUSED(DBRX_E_INVALID, kv->export_from(f->s, CUT + 1, 0, keep, h, err));
    return unchanged(f, f->s, CUT, "export_from");
}

const struct check checks_kv[] = {
    { "C90", "export_kv covers every layer and position once, in blocks of at most max_n",
      export_blocks, EACH_SHAPE, NEEDS_KV },
    { "C91", "export_kv of an empty session emits nothing", export_empty, EACH_SHAPE, NEEDS_KV },
    { "C92", "what is exported is the oracle's: k after clip and RoPE", export_values, EACH_SHAPE,
      NEEDS_KV },
    { "C93", "emit's first non-zero status stops export_kv and is returned", emit_stops, EACH_SHAPE,
      NEEDS_KV },
    { "C94", "moved in the exporter's type, in any blocks and order, it goes on the same", own_type,
      EACH_SHAPE, NEEDS_KV },
    { "C95", "import of F32, position 0 until commit", from_f32, EACH_SHAPE, NEEDS_KV },
    { "C96", "import of F16", from_f16, EACH_SHAPE, NEEDS_KV },
    { "C97", "import of BF16", from_bf16, EACH_SHAPE, NEEDS_KV },
    { "C98", "import into a session that is not empty is DBRX_E_INVALID", import_not_empty,
      EACH_SHAPE, NEEDS_KV },
    { "C99", "import beyond max_pos is DBRX_E_FULL", import_beyond, EACH_SHAPE, NEEDS_KV },
    { "C100", "import of an unknown layer or type is refused", import_malformed, EACH_SHAPE,
      NEEDS_KV },
    { "C101", "truncate and replay work on imported positions", cut_after_import, EACH_SHAPE,
      NEEDS_KV },
    { "C102", "extend makes imports behind position() count", extended, EACH_SHAPE, NEEDS_KV },
    { "C103", "export_from covers what lies behind, once", from_the_middle, EACH_SHAPE, NEEDS_KV },
    { NULL, NULL, NULL, ONCE, 0 },
};
