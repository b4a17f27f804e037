/* backends/cuda/model.c -- a checkpoint onto devices, as the plan says: read from the file into one of
 * two pinned buffers while the other is on its way, then from blocks to planes on the device.
 * Knows no forward pass. */
#include "backends/cuda/model.h"

#include "backends/cuda/planes.h"
#include "backends/graph/dequant.h"
#include "plugins/fail.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ = 16 << 20, ALIGN = 256, THREADS = 256 };

static const struct layout { uint32_t type, block, bytes, at[4], size[4]; } layouts[] = {
#define FIELDS(...) __VA_ARGS__
#define TYPE(NAME, name, n, bytes, at, size) { DBRX_##NAME, n, bytes, FIELDS at, FIELDS size },
    CUDA_TYPES(TYPE)
#undef TYPE
};

static const struct layout *layout_of(uint32_t type)
{
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i].type == type)
            return &layouts[i];
    return NULL;
}

enum gpu_kernel gpu_typed(enum gpu_kernel of_f32, uint32_t dtype)
{
    return (enum gpu_kernel)(of_f32 + (layout_of(dtype) - layouts) * (K_matvec_f16 - K_matvec_f32));
}

/* ---- memory ---- */

dbrx_status held_alloc(struct held **list, struct gpu *gpu, int host, size_t bytes, void *out, struct dbrx_error *err)
{
    struct held *h = malloc(sizeof *h);
    if (!h)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    dbrx_status st = host ? gpu_alloc_host(gpu, &h->p, bytes, err) : gpu_alloc(gpu, &h->p, bytes, err);
    if (st != DBRX_OK) {
        free(h);
        return st;
    }
    h->gpu = gpu;
    h->host = host;
    h->next = *list;
    *list = h;
    memcpy(out, &h->p, sizeof h->p);
    return DBRX_OK;
}

void held_free(struct held *h)
{
    for (struct held *next; h; h = next) {
        next = h->next;
        (h->host ? gpu_free_host : gpu_free)(h->gpu, h->p);
        free(h);
    }
}

/* The planes of a matrix that begins at p */
static struct wt planes_at(unsigned char *p, const struct layout *y, uint64_t rows, uint64_t padded)
{
    struct wt w = { { NULL } };
    for (int i = 0; i < 4 && y->size[i]; i++) {
        w.p[i] = p;
        p += (rows * (padded / y->block) * y->size[i] + ALIGN - 1) / ALIGN * ALIGN;
    }
    return w;
}

/* ---- loading ---- */

struct loader {
    dbrx_model *m;
    struct device *dev;
    struct gpu_stream *stream;
    unsigned char *host[2], *raw[2];       /* pinned, and on the device                      */
    size_t piece;                          /* bytes of each                                  */
    int turn;
    uint64_t done, total;
    struct dbrx_error *err;
};

static void loader_close(struct loader *u)
{
    gpu_stream_close(u->stream);           /* waits */
    for (int i = 0; i < 2 && u->dev; i++) {
        gpu_free_host(u->dev->gpu, u->host[i]);
        gpu_free(u->dev->gpu, u->raw[i]);
    }
    u->stream = NULL;
}

static dbrx_status loader_open(struct loader *u, struct device *dev)
{
    void *p[4] = { NULL };
    dbrx_status st = gpu_stream_open(dev->gpu, &u->stream, u->err);
    u->dev = dev;
    for (int i = 0; i < 4 && st == DBRX_OK; i++)
        st = i < 2 ? gpu_alloc_host(dev->gpu, &p[i], u->piece, u->err) : gpu_alloc(dev->gpu, &p[i], u->piece, u->err);
    for (int i = 0; i < 2; i++)
        u->host[i] = p[i], u->raw[i] = p[2 + i];
    return st;
}

static dbrx_status read_at(const struct dbrx_tensor *t, uint64_t at, unsigned char *to, size_t n, struct dbrx_error *err)
{
    if (t->fd < 0) {
        memcpy(to, (const char *)t->data + at, n);
        return DBRX_OK;
    }
    while (n) {
        ssize_t got = pread(t->fd, to, n < READ ? n : READ, (off_t)(t->offset + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fail(err, DBRX_E_IO, got ? "the checkpoint cannot be read: %s"
                        : "the checkpoint became shorter while it was read%s", got ? strerror(errno) : "");
        to += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return DBRX_OK;
}

/* `rows` rows of cols elements of t from `row` on become w, on the device or in pinned memory that it
 * sees; turned: rows become columns. */
static dbrx_status load(struct loader *u, const struct dbrx_tensor *t, uint64_t row, uint32_t rows, uint32_t cols,
                        uint32_t width, const struct wt *w, int turned)
{
    const struct layout *y = layout_of(t->dtype);
    const uint64_t row_bytes = (uint64_t)cols / y->block * y->bytes;
    const uint32_t step = (uint32_t)(u->piece / row_bytes);
    dbrx_status st = DBRX_OK;
    for (uint32_t at = 0, n; at < rows; at += n, u->turn ^= 1) {
        n = rows - at < step ? rows - at : step;
        size_t bytes = (size_t)(n * row_bytes);
        if (u->m->host->should_stop(u->m->host))
            return DBRX_STOPPED;
        gpu_wait(u->stream, u->turn);      /* until this pair of buffers is free again */
        st = read_at(t, (row + at) * row_bytes, u->host[u->turn], bytes, u->err);
        if (st != DBRX_OK)
            return st;
        struct repack_args a = { .raw = u->raw[u->turn], .n = n, .cols = cols, .padded = width,
                                 .block = y->block, .bytes = y->bytes, .first = at };
        uint32_t planes = 0;
        for (; planes < 4 && y->size[planes]; planes++) {
            a.to[planes] = (unsigned char *)w->p[planes];
            a.at[planes] = y->at[planes];
            a.size[planes] = y->size[planes];
        }
        gpu_copy(u->stream, u->raw[u->turn], u->host[u->turn], bytes);
        uint64_t blocks = (bytes + THREADS - 1) / THREADS;
        gpu_launch(u->stream, turned ? K_transpose : K_repack,
                   (uint32_t[3]){ blocks < 4096 ? (uint32_t)blocks : 4096, turned ? 1 : planes, 1 }, THREADS, 0, &a,
                   sizeof a);
        gpu_mark(u->stream, u->turn);
        u->done += bytes;
        u->m->host->progress(u->m->host, "loading", u->done < u->total ? u->done : u->total, u->total);
    }
    return st;
}

/* A matrix of its own, or all of t, kept `away` (in pinned memory) or on the device */
static dbrx_status load_mat(struct loader *u, const struct dbrx_tensor *t, uint32_t rows, uint32_t cols, int away,
                            struct mat *out)
{
    void *p = NULL;
    uint32_t width = padded(cols);
    dbrx_status st = held_alloc(&u->m->held, u->dev->gpu, away, mat_bytes(t->dtype, rows, width), &p, u->err);
    if (st != DBRX_OK)
        return st;
    *out = (struct mat){ planes_at(p, layout_of(t->dtype), rows, width), t->dtype, rows, width };
    return load(u, t, 0, rows, cols, width, &out->w, 0);
}

/* A small tensor as padded rows of floats */
static dbrx_status load_floats(struct loader *u, const struct dbrx_tensor *t, uint32_t rows, uint32_t cols, float **out)
{
    void *p = NULL;
    size_t width = padded(cols), n = rows * width;
    float *x = calloc(n, sizeof *x);
    dbrx_status st = x ? held_alloc(&u->m->held, u->dev->gpu, 0, n * sizeof *x, &p, u->err)
                       : fail(u->err, DBRX_E_NOMEM, "out of memory");
    if (st == DBRX_OK) {
        for (uint32_t r = 0; r < rows; r++)
            dequant(x + r * width, t->data, t->dtype, (size_t)r * cols, cols);
        gpu_copy(u->stream, p, x, n * sizeof *x);
        st = gpu_sync(u->stream, u->err);
        *out = p;
        u->done += t->bytes;
    }
    free(x);
    return st;
}

/* All experts' matrices of one kind: the first `resident` of them on the device, the others in pinned
 * memory; *table, on the device, says where each is. */
static dbrx_status load_experts(struct loader *u, const struct dbrx_tensor *t, uint32_t rows, uint32_t cols,
                                uint32_t resident, int turned, struct wt **table)
{
    const uint32_t n = u->m->cfg.n_experts, width = padded(turned ? rows : cols), high = turned ? cols : rows;
    const struct layout *y = layout_of(t->dtype);
    const uint64_t each = mat_bytes(t->dtype, high, width);
    void *on = NULL, *away = NULL, *where = NULL;
    struct wt *w = calloc(n, sizeof *w);
    dbrx_status st = w ? held_alloc(&u->m->held, u->dev->gpu, 0, n * sizeof *w, &where, u->err)
                       : fail(u->err, DBRX_E_NOMEM, "out of memory");
    if (st == DBRX_OK && resident)
        st = held_alloc(&u->m->held, u->dev->gpu, 0, resident * each, &on, u->err);
    if (st == DBRX_OK && resident < n)
        st = held_alloc(&u->m->held, u->dev->gpu, 1, (n - resident) * each, &away, u->err);
    for (uint32_t e = 0; e < n && st == DBRX_OK; e++) {
        unsigned char *p = e < resident ? (unsigned char *)on + e * each : (unsigned char *)away + (e - resident) * each;
        w[e] = planes_at(p, y, high, width);
        st = load(u, t, (uint64_t)e * rows, rows, cols, width, &w[e], turned);
    }
    if (st == DBRX_OK) {
        gpu_copy(u->stream, where, w, n * sizeof *w);
        st = gpu_sync(u->stream, u->err);
        *table = where;
    }
    free(w);
    return st;
}

static dbrx_status load_layer(struct loader *u, const struct dbrx_model_desc *desc, uint32_t l)
{
    const struct dbrx_layer *y = (const void *)((const char *)desc->layer + (size_t)l * desc->layer_size);
    dbrx_model *m = u->m;
    const struct dbrx_config *c = &m->cfg;
    struct block *b = &m->layer[l];
    const uint32_t d = c->d_model, ffn = c->d_ffn, resident = m->plan.resident[l];
    const int away = m->plan.away[l], by_ffn = desc->w2_layout == DBRX_W2_FFN_ROWS;
    dbrx_status st;
    *b = (struct block){ .dev = u->dev, .type1 = y->w1.dtype, .type3 = y->v1.dtype, .type2 = y->w2.dtype };
    if (by_ffn && layout_of(y->w2.dtype)->block > 1)
        return fail(u->err, DBRX_E_UNSUPPORTED, "w2 of layer %u is quantised along the wrong side: convert the "
                    "checkpoint to GGUF", l);
    if ((st = load_floats(u, &y->norm_1, 1, d, &b->norm_1)) != DBRX_OK ||
        (st = load_floats(u, &y->norm_2, 1, d, &b->norm_2)) != DBRX_OK ||
        (st = load_floats(u, &y->router, c->n_experts, d, &b->router)) != DBRX_OK ||
        (st = load_mat(u, &y->wqkv, m->qkv, d, away, &b->wqkv)) != DBRX_OK ||
        (st = load_mat(u, &y->wo, d, d, away, &b->wo)) != DBRX_OK ||
        (st = load_experts(u, &y->w1, ffn, d, resident, 0, &b->w1)) != DBRX_OK ||
        (st = load_experts(u, &y->v1, ffn, d, resident, 0, &b->v1)) != DBRX_OK)
        return st;
    return by_ffn ? load_experts(u, &y->w2, ffn, d, resident, 1, &b->w2)
                  : load_experts(u, &y->w2, d, ffn, resident, 0, &b->w2);
}

/* One device's layers, and what the first and the last have besides */
static dbrx_status load_share(struct loader *u, const struct dbrx_model_desc *desc, uint32_t i)
{
    dbrx_model *m = u->m;
    const struct dbrx_config *c = &m->cfg;
    const struct share *s = &m->plan.share[i];
    struct device *dev = &m->dev[i];
    dbrx_status st = gpu_open(s->device, &dev->gpu, u->err);
    if (st == DBRX_OK)
        st = loader_open(u, dev);
    if (st == DBRX_OK)
        st = gpu_describe(s->device, &dev->info, u->err);
    float freq[MAX_HEAD / 2];
    for (uint32_t k = 0; k < m->head / 2; k++)     /* as the reference has them, in float32 */
        freq[k] = 1 / powf(c->rope_theta, (float)(2 * k) / (float)m->head);
    void *p = NULL;
    if (st == DBRX_OK && (st = held_alloc(&m->held, dev->gpu, 0, sizeof freq, &p, u->err)) == DBRX_OK) {
        dev->inv_freq = p;
        gpu_copy(u->stream, p, freq, m->head / 2 * sizeof *freq);
        st = gpu_sync(u->stream, u->err);
    }
    if (st == DBRX_OK && i == 0)
        st = load_mat(u, &desc->embed, c->n_vocab, c->d_model, 0, &m->embed);
    for (uint32_t l = s->first; l < s->end && st == DBRX_OK; l++)
        st = load_layer(u, desc, l);
    if (st == DBRX_OK && i + 1 == m->plan.n_shares &&
        (st = load_floats(u, &desc->norm_f, 1, c->d_model, &m->norm_f)) == DBRX_OK)
        st = load_mat(u, &desc->lm_head, c->n_vocab, c->d_model, 0, &m->lm_head);
    if (st == DBRX_OK)
        st = gpu_sync(u->stream, u->err);
    loader_close(u);
    return st;
}

dbrx_status cuda_model_open(const struct dbrx_host *host, const struct dbrx_model_desc *desc,
                            const struct settings *set, dbrx_model **out, struct dbrx_error *err)
{
    const struct dbrx_config *c = &desc->config;
    dbrx_status st = DBRX_OK;
    *out = NULL;
    if (c->n_experts > MAX_EXPERTS || c->d_model / c->n_heads > MAX_HEAD)
        return fail(err, DBRX_E_UNSUPPORTED, "this backend is made for %d experts and heads of %d numbers at most",
                    MAX_EXPERTS, MAX_HEAD);
    dbrx_model *m = calloc(1, sizeof *m);
    if (!m)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    m->host = host;
    m->cfg = *c;
    m->set = *set;
    m->ld = padded(c->d_model);
    m->ffn_ld = padded(c->d_ffn);
    m->head = c->d_model / c->n_heads;
    m->qkv = c->d_model + 2 * c->n_kv_heads * m->head;
    if ((st = plan_make(desc, &m->set, &m->plan, err)) != DBRX_OK) {
        cuda_model_close(m);
        return st;
    }
    m->dev = calloc(m->plan.n_shares, sizeof *m->dev);
    m->layer = calloc(c->n_layers, sizeof *m->layer);
    struct loader u = { .m = m, .err = err };
    u.piece = plan_piece(desc, &u.total);
    if (!m->dev || !m->layer)
        st = fail(err, DBRX_E_NOMEM, "out of memory");
    for (uint32_t i = 0; i < m->plan.n_shares && st == DBRX_OK; i++)
        st = load_share(&u, desc, i);
    if (st != DBRX_OK) {
        cuda_model_close(m);
        return st;
    }
    *out = m;
    return DBRX_OK;
}

void cuda_model_close(dbrx_model *m)
{
    held_free(m->held);
    for (uint32_t i = 0; m->dev && i < m->plan.n_shares; i++)
        gpu_close(m->dev[i].gpu);
    plan_free(&m->plan);
    free(m->dev);
    free(m->layer);
    free(m);
}
