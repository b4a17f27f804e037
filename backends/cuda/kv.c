/* backends/cuda/kv.c -- "dbrx.kv/1": the KV cache's way out and in, piece by piece through pinned
 * memory; other element types are turned into this session's own on the device. */
#include "backends/cuda/session.h"

#include "backends/graph/check.h"

enum { THREADS = 256 };

static size_t kv_width(const dbrx_model *m)
{
    return (size_t)m->cfg.n_kv_heads * m->head;
}

static void convert(struct part *p, const void *from, uint32_t from_type, void *to, uint32_t to_type, size_t n)
{
    struct convert_args a = { .from = from, .to = to, .n = n, .from_type = from_type, .to_type = to_type };
    size_t blocks = (n + THREADS - 1) / THREADS;
    gpu_launch(p->stream, K_convert, (uint32_t[3]){ blocks < 1024 ? (uint32_t)blocks : 1024, 1, 1 }, THREADS, 0, &a,
               sizeof a);
}

/* `n` positions from `pos` of one layer's keys or values, to pinned memory */
static void fetch(dbrx_session *s, struct part *p, const unsigned char *layer, uint32_t pos, uint32_t n, uint32_t as,
                  unsigned char *to)
{
    const uint32_t own = s->m->set.kv_type;
    const size_t w = kv_width(s->m), size = n * w * kv_bytes(as);
    const unsigned char *from = layer + pos * w * kv_bytes(own);
    if (own != as)
        convert(p, from, own, p->y, as, n * w);
    gpu_copy(p->stream, to, own == as ? (const void *)from : p->y, size);
}

/* Positions that go together: two of the pinned buffer's halves, and the scratch for another type */
static uint32_t together(const dbrx_session *s, uint32_t type, uint32_t max_n)
{
    const dbrx_model *m = s->m;
    const size_t row = kv_width(m) * kv_bytes(type), scratch = (size_t)s->chunk * m->cfg.top_k * m->ld * sizeof(float);
    size_t n = s->stage_bytes / 2 / row;
    n = n < scratch / row ? n : scratch / row;
    return (uint32_t)(max_n && max_n < n ? max_n : n ? n : 1);
}

static dbrx_status export_from(dbrx_session *s, uint32_t from, uint32_t max_n,
                               dbrx_status (*emit)(void *, const struct dbrx_kv_block *), void *ctx,
                               struct dbrx_error *err)
{
    const dbrx_model *m = s->m;
    const uint32_t as = m->set.kv_type == KV_FP8 ? DBRX_F16 : m->set.kv_type;
    const uint32_t step = together(s, as, max_n);
    dbrx_status st = check_export(from, s->pos, err);
    for (uint32_t i = 0; i < m->plan.n_shares && st == DBRX_OK; i++)
        for (uint32_t l = s->part[i].first; l < s->part[i].end && st == DBRX_OK; l++) {
            struct part *p = &s->part[i];
            size_t at = (l - p->first) * p->kv_layer;
            for (uint32_t pos = from, n; pos < s->pos && st == DBRX_OK; pos += n) {
                unsigned char *v = s->stage + s->stage_bytes / 2;
                n = s->pos - pos < step ? s->pos - pos : step;
                fetch(s, p, p->k + at, pos, n, as, s->stage);
                fetch(s, p, p->v + at, pos, n, as, v);
                struct dbrx_kv_block b = { .struct_size = sizeof b, .layer = l, .pos = pos, .n = n, .dtype = as,
                                           .k = s->stage, .v = v };
                st = session_done(s, gpu_sync(p->stream, err));
                st = st == DBRX_OK ? emit(ctx, &b) : st;
            }
        }
    return st;
}

static dbrx_status export_kv(dbrx_session *s, uint32_t max_n,
                             dbrx_status (*emit)(void *, const struct dbrx_kv_block *), void *ctx,
                             struct dbrx_error *err)
{
    return export_from(s, 0, max_n, emit, ctx, err);
}

static void store(dbrx_session *s, struct part *p, unsigned char *layer, uint32_t pos, const void *src, uint32_t type,
                  uint32_t n)
{
    const uint32_t own = s->m->set.kv_type;
    const size_t w = kv_width(s->m);
    unsigned char *to = layer + pos * w * kv_bytes(own);
    if (own == type) {
        gpu_copy(p->stream, to, src, n * w * kv_bytes(own));
        return;
    }
    gpu_copy(p->stream, p->y, src, n * w * kv_bytes(type));
    convert(p, p->y, type, to, own, n * w);
}

static dbrx_status import_kv(dbrx_session *s, const struct dbrx_kv_block *b, struct dbrx_error *err)
{
    const dbrx_model *m = s->m;
    dbrx_status st = check_import(&m->cfg, b, s->pos, s->max_pos, err);
    if (st != DBRX_OK)
        return st;
    struct part *p = s->part;
    while (p->end <= b->layer)
        p++;
    const size_t at = (b->layer - p->first) * p->kv_layer, row = kv_width(m) * kv_bytes(b->dtype);
    const uint32_t step = together(s, b->dtype, 0);
    for (uint32_t done = 0, n; done < b->n; done += n) {
        n = b->n - done < step ? b->n - done : step;
        store(s, p, p->k + at, b->pos + done, (const char *)b->k + done * row, b->dtype, n);
        store(s, p, p->v + at, b->pos + done, (const char *)b->v + done * row, b->dtype, n);
    }
    return session_done(s, gpu_sync(p->stream, err));
}

static dbrx_status extend(dbrx_session *s, uint32_t n_pos, struct dbrx_error *err)
{
    dbrx_status st = check_extend(n_pos, s->pos, s->max_pos, err);
    s->pos = st == DBRX_OK ? n_pos : s->pos;
    return st;
}

static dbrx_status commit(dbrx_session *s, uint32_t n_pos, struct dbrx_error *err)
{
    dbrx_status st = check_commit(n_pos, s->pos, s->max_pos, err);
    s->pos = st == DBRX_OK ? n_pos : s->pos;
    return st;
}

const struct dbrx_kv cuda_kv = {
    .struct_size = sizeof cuda_kv, .export_kv = export_kv, .import_kv = import_kv, .commit = commit,
    .export_from = export_from, .extend = extend,
};
