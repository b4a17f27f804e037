/* backends/graph/session.c -- models and sessions of a graph backend: what is
 * allocated when, and the KV cache's way in and out.  No arithmetic. */
#define _DEFAULT_SOURCE                    /* madvise */
#include "backends/graph/graph.h"

#include "backends/graph/dequant.h"
#include "backends/graph/inputs.h"
#include "backends/graph/kv.h"
#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

dbrx_status graph_model_open(const struct dbrx_host *host, const struct dbrx_model_desc *desc,
                             const struct ops *ops, void *ctx, void (*ctx_close)(void *),
                             dbrx_model **out, struct dbrx_error *err)
{
    *out = NULL;
    dbrx_status st = graph_check(desc, err);
    dbrx_model *m = st == DBRX_OK ? calloc(1, sizeof *m) : NULL;
    if (!m) {
        if (ctx_close)
            ctx_close(ctx);
        return st != DBRX_OK ? st : fail(err, DBRX_E_NOMEM, "out of memory");
    }
    const struct dbrx_config *c = &desc->config;
    size_t n = c->n_layers, d = c->d_model;
    m->host = host;
    m->cfg = *c;
    m->embed = desc->embed;
    m->lm_head = desc->lm_head;
    m->w2_layout = desc->w2_layout;
    m->ops = *ops;
    m->ctx = ctx;
    m->ctx_close = ctx_close;
    m->layer = malloc(n * sizeof *m->layer);
    m->norm_1 = malloc((2 * n + 1) * d * sizeof(float));
    if (!m->layer || !m->norm_1) {
        graph_model_close(m);
        return fail(err, DBRX_E_NOMEM, "out of memory");
    }
    m->norm_2 = m->norm_1 + n * d;
    m->norm_f = m->norm_2 + n * d;
    for (size_t l = 0; l < n; l++) {
        const struct dbrx_layer *y = (const void *)((const char *)desc->layer + l * desc->layer_size);
        m->layer[l] = y;
        dequant(m->norm_1 + l * d, y->norm_1.data, y->norm_1.dtype, 0, d);
        dequant(m->norm_2 + l * d, y->norm_2.data, y->norm_2.dtype, 0, d);
    }
    dequant(m->norm_f, desc->norm_f.data, desc->norm_f.dtype, 0, d);
    *out = m;
    return DBRX_OK;
}

void graph_model_close(dbrx_model *m)
{
    if (m->ctx_close)
        m->ctx_close(m->ctx);
    free(m->layer);
    free(m->norm_1);
    free(m);
}

enum { HUGE_PAGE = 2 << 20 };
#ifndef MADV_HUGEPAGE
enum { MADV_HUGEPAGE = -1, MADV_NOHUGEPAGE = -1 };         /* no advice at all              */
#endif
#ifndef MADV_COLLAPSE
enum { MADV_COLLAPSE = 25 };               /* Linux 6.1; before, it is refused              */
#endif

/* n elements, 64-byte aligned, those of many in large pages or in small ones; NULL also when
 * the size overflows */
static void *alloc_pages(size_t n, size_t size, int advice)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - HUGE_PAGE)
        return NULL;
    if (bytes < 2 * HUGE_PAGE)
        return aligned_alloc(64, (bytes + 64) / 64 * 64);
    void *p = aligned_alloc(HUGE_PAGE, (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (p)
        (void)madvise(p, bytes, advice);
    return p;
}

static void *alloc(size_t n, size_t size)
{
    return alloc_pages(n, size, MADV_HUGEPAGE);
}

/* A KV cache that is filled at once, by a switch, mostly waits for its pages, so that these should be
 * large; but a large one for each slice is more than all that a short conversation has in them.  So
 * they are small, but for those that will be seven eighths full. */
static void slice_grow(char *slice, size_t bytes, size_t from, size_t end)
{
    const size_t most = HUGE_PAGE - HUGE_PAGE / 8, skip = -(uintptr_t)slice % HUGE_PAGE;
    size_t p = skip, n = 0;
    if (from >= skip + most)               /* the first that was not full enough before */
        p += (from - skip - most) / HUGE_PAGE * HUGE_PAGE + HUGE_PAGE;
    while (p + (n + 1) * HUGE_PAGE <= bytes && p + n * HUGE_PAGE + most <= end)
        n++;
    if (!n)
        return;
    (void)madvise(slice + p, n * HUGE_PAGE, MADV_HUGEPAGE);
    if (p < from)                          /* what is there in small pages moves */
        (void)madvise(slice + p, HUGE_PAGE, MADV_COLLAPSE);
}

void graph_kv_grow(dbrx_session *s, uint32_t layer, uint32_t pos, uint32_t end)
{
    char *const cache[] = { s->k, s->v };
    for (int i = 0; i < 2; i++)
        slice_grow(cache[i] + layer * s->kv_slice, s->kv_slice, pos * s->kv_row, end * s->kv_row);
}

dbrx_status graph_session_open(dbrx_model *m, uint32_t max_pos, dbrx_session **out,
                               struct dbrx_error *err)
{
    const struct dbrx_config *c = &m->cfg;
    size_t d = c->d_model, hd = d / c->n_heads, kvd = c->n_kv_heads * hd, n = GRAPH_CHUNK;
    size_t row = d > c->d_ffn ? d : c->d_ffn, kv_row = (size_t)dtype_bytes(m->kv_dtype, kvd), slice;
    *out = NULL;
    row = row > max_pos + hd ? row : max_pos + hd;
    if (hd % dtype_block(m->kv_dtype))
        return fail(err, DBRX_E_UNSUPPORTED, "a head of %zu numbers is no whole number of %s "
                    "blocks: choose another type for the KV cache", hd, dtype_name(m->kv_dtype));
    if (!max_pos)
        return fail(err, DBRX_E_INVALID, "a session needs room for at least one position");
    if (__builtin_mul_overflow(kv_row, max_pos, &slice) || slice > SIZE_MAX / 2 / c->n_layers)
        return fail(err, DBRX_E_NOMEM, "a KV cache of %u positions cannot be addressed", max_pos);
    if (slice >= HUGE_PAGE)                /* its pages are its own */
        slice = (slice + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    dbrx_session *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    s->model = m;
    s->max_pos = max_pos;
    s->kv_row = kv_row;
    s->kv_slice = slice;
    s->k = alloc_pages(c->n_layers, slice, MADV_NOHUGEPAGE);
    s->v = alloc_pages(c->n_layers, slice, MADV_NOHUGEPAGE);
    s->x = alloc(n * d, sizeof *s->x);
    s->h = alloc(n * d, sizeof *s->h);
    s->qkv = alloc(n * (d + 2 * kvd), sizeof *s->qkv);
    s->cs = alloc(n * hd / 2, sizeof *s->cs);
    s->logit = alloc(n * c->n_experts, sizeof *s->logit);
    s->prob = alloc(n * c->n_experts, sizeof *s->prob);
    s->weight = alloc(n * c->n_experts, sizeof *s->weight);
    s->expert = alloc(n * c->n_experts, sizeof *s->expert);
    s->work.ctx = m->ctx;
    s->work.row = alloc(row, sizeof *s->work.row);
    s->work.scratch = alloc(m->ops.scratch ? m->ops.scratch(m->ctx, c) : 0, 1);
    if (!s->k || !s->v || !s->x || !s->h || !s->qkv || !s->cs || !s->logit || !s->prob ||
        !s->weight || !s->expert || !s->work.row || !s->work.scratch) {
        graph_session_close(s);
        return fail(err, DBRX_E_NOMEM, "out of memory for a session of %u positions "
                    "(its KV cache takes %zu MB)", max_pos, (size_t)((double)slice * c->n_layers * 2e-6));
    }
    *out = s;
    return DBRX_OK;
}

void graph_session_close(dbrx_session *s)
{
    void *const all[] = { s->k, s->v, s->x, s->h, s->qkv, s->cs, s->logit, s->prob, s->weight,
                          s->expert, s->part, s->watched, s->work.row, s->work.scratch, s };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

uint32_t graph_position(const dbrx_session *s)
{
    return s->pos;
}

dbrx_status graph_truncate(dbrx_session *s, uint32_t n_keep, struct dbrx_error *err)
{
    dbrx_status st = check_keep(n_keep, s->pos, err);
    s->pos = st == DBRX_OK ? n_keep : s->pos;
    return st;
}

static size_t kv_width(const struct dbrx_config *c)
{
    return (size_t)c->n_kv_heads * (c->d_model / c->n_heads);
}

static dbrx_status export_from(dbrx_session *s, uint32_t from, uint32_t max_n,
                               dbrx_status (*emit)(void *, const struct dbrx_kv_block *),
                               void *ctx, struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->model->cfg;
    size_t w = kv_width(c);
    if (check_export(from, s->pos, err) != DBRX_OK)
        return DBRX_E_INVALID;
    const uint32_t own = s->model->kv_dtype;
    const int open = dtype_block(own) > 1; /* no type of a block: floats, through the scratch */
    if (!max_n || (open && max_n > GRAPH_CHUNK))
        max_n = open ? GRAPH_CHUNK : s->max_pos;
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (uint32_t pos = from; pos < s->pos; pos += max_n) {
            uint32_t n = s->pos - pos < max_n ? s->pos - pos : max_n;
            size_t at = l * s->kv_slice + pos * s->kv_row;
            if (open) {
                dequant(s->x, s->k + at, own, 0, n * w);
                dequant(s->h, s->v + at, own, 0, n * w);
            }
            struct dbrx_kv_block b = {
                .struct_size = sizeof b, .layer = l, .pos = pos, .dtype = open ? DBRX_F32 : own,
                .n = n, .k = open ? (void *)s->x : s->k + at, .v = open ? (void *)s->h : s->v + at,
            };
            dbrx_status st = emit(ctx, &b);
            if (st != DBRX_OK)
                return st;
            if (s->pos - pos <= max_n)
                break;                     /* pos + max_n might wrap */
        }
    return DBRX_OK;
}

static dbrx_status export_kv(dbrx_session *s, uint32_t max_n,
                             dbrx_status (*emit)(void *, const struct dbrx_kv_block *), void *ctx,
                             struct dbrx_error *err)
{
    return export_from(s, 0, max_n, emit, ctx, err);
}

/* dst[n][w] in this session's type = src[n][w] of a block's; a copy where they are the same */
static void import_rows(dbrx_session *s, char *dst, const void *src, uint32_t dtype, size_t n,
                        size_t w)
{
    const uint32_t own = s->model->kv_dtype;
    if (own == dtype)
        memcpy(dst, src, (size_t)dtype_bytes(own, n * w));
    for (size_t t = 0; own != dtype && t < n; t++) {
        dequant(s->x, src, dtype, t * w, w);
        kv_store(dst + t * dtype_bytes(own, w), own, s->x, w);
    }
}

static dbrx_status import_kv(dbrx_session *s, const struct dbrx_kv_block *b,
                             struct dbrx_error *err)
{
    const struct dbrx_config *c = &s->model->cfg;
    size_t w = kv_width(c);
    dbrx_status st = check_import(c, b, s->pos, s->max_pos, err);
    if (st != DBRX_OK)
        return st;
    size_t at = b->layer * s->kv_slice + b->pos * s->kv_row;
    if (s->coming < b->pos + b->n)         /* the first layer's pieces show how far the others' go */
        s->coming = b->pos + b->n;
    if (b->pos <= s->pos)
        graph_kv_grow(s, b->layer, b->pos, s->coming);
    import_rows(s, s->k + at, b->k, b->dtype, b->n, w);
    import_rows(s, s->v + at, b->v, b->dtype, b->n, w);
    return DBRX_OK;
}

static dbrx_status extend(dbrx_session *s, uint32_t n_pos, struct dbrx_error *err)
{
    dbrx_status st = check_extend(n_pos, s->pos, s->max_pos, err);
    s->pos = st == DBRX_OK ? n_pos : s->pos;
    s->coming = 0;
    return st;
}

static dbrx_status commit(dbrx_session *s, uint32_t n_pos, struct dbrx_error *err)
{
    dbrx_status st = check_commit(n_pos, s->pos, s->max_pos, err);
    s->pos = st == DBRX_OK ? n_pos : s->pos;
    s->coming = 0;
    return st;
}

const struct dbrx_kv graph_kv = {
    .struct_size = sizeof graph_kv, .export_kv = export_kv, .import_kv = import_kv,
    .commit = commit, .export_from = export_from, .extend = extend,
};

static uint32_t promises(const dbrx_model *m)
{
    return m->repro;
}

static const struct dbrx_repro repro = { .struct_size = sizeof repro, .promises = promises };

const void *graph_get(const char *id, const struct dbrx_backend *backend)
{
    return !strcmp(id, DBRX_BACKEND) ? (const void *)backend
         : !strcmp(id, DBRX_KV)      ? (const void *)&graph_kv
         : !strcmp(id, DBRX_INPUTS)  ? (const void *)&graph_inputs
         : !strcmp(id, DBRX_RESUME)  ? (const void *)&graph_resume
         : !strcmp(id, DBRX_HEAD)    ? (const void *)&graph_head
         : !strcmp(id, DBRX_REPRO)   ? (const void *)&repro : NULL;
}
