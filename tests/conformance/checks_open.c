/* tests/conformance/checks_open.c -- opening and closing models and sessions. */
#include "tests/conformance/conformance.h"

#include <dirent.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The backend opens this desc and computes truth from it. */
static int works(struct fx *f, const struct dbrx_model_desc *desc, const char *what)
{
    struct side v;
    dbrx_status st = fx_model(&f->sut, desc, &v);
    NEED(st == DBRX_OK, "%s: model_open returned %d", what, (int)st);
    return same_logits(fed(f, &v, N_TOK, NULL, NULL), f->truth, 0, N_TOK, TOL, what);
}

static struct dbrx_model_desc *copy_desc(struct fx *f)
{
    struct dbrx_model_desc *d = fx_alloc(sizeof *d + 64);
    memcpy(d, &f->rm->desc, sizeof *d);
    return d;
}

/* A host with longer structures: more fields behind desc and behind each layer. */
static int newer_host(struct fx *f)
{
    struct dbrx_model_desc *d = copy_desc(f);
    size_t stride = sizeof(struct dbrx_layer) + 40;
    char *layers = fx_alloc(stride * f->cfg->n_layers);
    memset(layers, 0x5a, stride * f->cfg->n_layers);
    for (uint32_t l = 0; l < f->cfg->n_layers; l++)
        memcpy(layers + l * stride, &f->rm->layer[l], sizeof(struct dbrx_layer));
    d->struct_size += 64;
    d->layer = (const void *)layers;
    d->layer_size = (uint32_t)stride;
    return works(f, d, "with longer structures");
}

static struct dbrx_layer *copy_layers(struct fx *f, struct dbrx_model_desc *d)
{
    struct dbrx_layer *y = fx_alloc(f->cfg->n_layers * sizeof *y);
    memcpy(y, f->rm->layer, f->cfg->n_layers * sizeof *y);
    d->layer = y;
    return y;
}

static int no_file(struct fx *f)
{
    struct dbrx_model_desc *d = copy_desc(f);
    struct dbrx_layer *y = copy_layers(f, d);
    d->embed.fd = d->norm_f.fd = d->lm_head.fd = -1;
    for (uint32_t l = 0; l < f->cfg->n_layers; l++)
        for (struct dbrx_tensor *t = &y[l].norm_1; t <= &y[l].w2; t++)
            t->fd = -1;
    return works(f, d, "without a file");
}

/* GGUF's layout: each expert's w2 transposed.  Right, or refused; never silently wrong. */
static int w2_model_rows(struct fx *f)
{
    const struct dbrx_config *c = f->cfg;
    struct dbrx_model_desc *d = copy_desc(f);
    struct dbrx_layer *y = copy_layers(f, d);
    struct side v;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct dbrx_tensor *t = &f->rm->layer[l].w2;
        void *data = fx_alloc(t->bytes);
        for (size_t e = 0; e < c->n_experts; e++)
            for (size_t i = 0; i < c->d_ffn; i++)
                for (size_t j = 0; j < c->d_model; j++)
                    store(data, t->dtype, (e * c->d_model + j) * c->d_ffn + i,
                          load(t, (e * c->d_ffn + i) * c->d_model + j));
        y[l].w2.data = data;
        y[l].w2.fd = -1;
        y[l].w2.dim[0] = (uint64_t)c->n_experts * c->d_model;
        y[l].w2.dim[1] = c->d_ffn;
    }
    d->w2_layout = DBRX_W2_MODEL_ROWS;
    dbrx_status st = fx_model(&f->sut, d, &v);
    NEED(st == DBRX_OK || st == DBRX_E_UNSUPPORTED, "model_open returned %d", (int)st);
    return st != DBRX_OK ? PASS : same_logits(fed(f, &v, N_TOK, NULL, NULL), f->truth, 0, N_TOK,
                                              TOL, "w2 by model rows");
}

static int unknown_dtype(struct fx *f)
{
    for (int which = 0; which < 3; which++) {
        struct dbrx_model_desc *d = copy_desc(f);
        struct dbrx_layer *y = copy_layers(f, d);
        struct side v;
        *(which == 0 ? &d->embed.dtype : which == 1 ? &y[0].w1.dtype : &y[0].norm_2.dtype) = 99;
        dbrx_status st = fx_model(&f->sut, d, &v);
        NEED(st == DBRX_E_UNSUPPORTED, "tensor %d of type 99: model_open returned %d", which,
             (int)st);
    }
    return PASS;
}

static int empty_session(struct fx *f)
{
    dbrx_session *s = NULL;
    REFUSED(DBRX_E_INVALID, f->sut.be->session_open(f->sut.model, 0, &s, err));
    NEED(!s, "a session came back all the same");
    NEED(f->sut.be->position(f->s) == 0, "a new session is at position %u",
         f->sut.be->position(f->s));
    return PASS;
}

static unsigned count_fds(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

static size_t heap_in_use(void)
{
#if defined __GLIBC__ && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    return mallinfo2().uordblks + mallinfo2().hblkhd;
#else
    return 0;
#endif
}

static size_t resident(void)
{
    unsigned long size = 0, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%lu %lu", &size, &pages) != 2)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static int one_life(struct fx *f)
{
    dbrx_model *m;
    dbrx_session *s, *t;
    struct side *u = &f->sut;
    dbrx_status st = u->be->model_open(&u->watch->host, &f->rm->desc, u->opt, &m, NULL);
    NEED(st == DBRX_OK, "model_open returned %d", (int)st);
    NEED(u->be->session_open(m, 8, &s, NULL) == DBRX_OK, "the first session cannot be opened");
    NEED(u->be->session_open(m, 8, &t, NULL) == DBRX_OK, "the second session cannot be opened");
    NEED(feed(u, s, f->tok, 4, NULL, NULL) == DBRX_OK, "eval failed");
    u->be->session_close(s);
    u->be->session_close(t);
    u->be->model_close(m);
    return PASS;
}

static int fifty_lives(struct fx *f)
{
    enum { WARM_UP = 3, LIVES = 50 };
    unsigned fds = 0;
    size_t heap = 0, rss = 0;
    for (int i = 0; i < WARM_UP + LIVES; i++) {
        if (i == WARM_UP)
            fds = count_fds(), heap = heap_in_use(), rss = resident();
        if (one_life(f) != PASS)
            return FAIL;
    }
    NEED(count_fds() <= fds, "%u descriptors became %u", fds, count_fds());
    NEED(heap_in_use() < heap + 64 * LIVES, "the heap grew by %zu bytes in %d lives",
         heap_in_use() - heap, LIVES);
    NEED(resident() < rss + (64 << 20), "resident memory grew by %zu bytes in %d lives",
         resident() - rss, LIVES);
    return PASS;
}

/* A damaged checkpoint: one NaN.  eval fails with a sentence and the session is as before. */
static int damaged(struct fx *f)
{
    const struct dbrx_config *c = f->cfg;
    const struct dbrx_layer *last = &f->rm->layer[c->n_layers - 1];
    size_t chosen = f->truth->expert[((size_t)(c->n_layers - 1) * f->truth->room) * c->n_experts];
    const struct { const char *name; const struct dbrx_tensor *t; size_t at; } where[] = {
        { "the embedding", &f->rm->desc.embed, (size_t)f->tok[0] * c->d_model },
        { "norm_1", &f->rm->layer[0].norm_1, 1 },
        { "Wqkv", &f->rm->layer[0].wqkv, 0 },
        { "Wqkv (v)", &last->wqkv, (size_t)last->wqkv.dim[0] * c->d_model - 1 },
        { "out_proj", &last->wo, 3 },
        { "the router", &last->router, 2 },
        { "w1", &last->w1, chosen * c->d_ffn * c->d_model },
        { "w2", &last->w2, chosen * c->d_ffn * c->d_model + 1 },
        { "norm_f", &f->rm->desc.norm_f, 0 },
        { "lm_head", &f->rm->desc.lm_head, 5 },
    };
    for (size_t i = 0; i < sizeof where / sizeof *where; i++) {
        struct side v;
        struct rec *r = rec_new(c, ROOM);
        random_model_poison(f->rm, where[i].t, where[i].at, true);
        dbrx_status st = fx_model(&f->sut, &f->rm->desc, &v);
        dbrx_session *s = st == DBRX_OK ? fx_session(&v, ROOM) : NULL;
        dbrx_status ev = s ? feed(&v, s, f->tok, 1, r, NULL) : st;
        random_model_poison(f->rm, where[i].t, where[i].at, false);
        NEED(ev < 0, "a NaN in %s: eval returned %d", where[i].name, (int)ev);
        NEED(!r->broken[0], "a NaN in %s: %s", where[i].name, r->broken);
        NEED(!s || ev == DBRX_E_LOST || v.be->position(s) == 0,
             "a NaN in %s: position is %u after the error", where[i].name, v.be->position(s));
    }
    return PASS;
}

const struct check checks_open[] = {
    { "C11", "a newer host's longer structures are read by their sizes and stride", newer_host,
      EACH_SHAPE, 0 },
    { "C12", "fd is -1 when the data has no file", no_file, EACH_SHAPE, 0 },
    { "C13", "w2 by model rows is computed right or refused as unsupported", w2_model_rows,
      EACH_SHAPE, 0 },
    { "C14", "a tensor of unknown type is refused as unsupported", unknown_dtype, EACH_SHAPE, 0 },
    { "C15", "a session needs max_pos > 0 and begins at position 0", empty_session, EACH_SHAPE, 0 },
    { "C16", "opening and closing fifty times keeps nothing", fifty_lives, EACH_SHAPE, 0 },
    { "C17", "a NaN in the weights makes eval fail, not crash or lie", damaged, EACH_SHAPE, 0 },
    { NULL, NULL, NULL, ONCE, 0 },
};
