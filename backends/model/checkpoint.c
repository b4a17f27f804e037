/* backends/model/checkpoint.c -- opens a checkpoint of either layout: the config, the
 * files, and every tensor in its place with the shape the config asks for.
 * Knows no backend, no tokenizer. */
#define _GNU_SOURCE
#include "backends/model/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- what a DBRX checkpoint holds --------------------------------------- */

enum { MODEL, VOCAB, QKV, EXPERTS, EXPERT_ROWS, FFN, END };
struct part {
    const char *name; size_t at; int dim[2];
    const char *gguf; int gguf_dim[3];
    int sampled;
};

#define IN_DESC(field)  offsetof(struct dbrx_model_desc, field)
#define IN_LAYER(field) offsetof(struct dbrx_layer, field)
#define VECTOR  { MODEL, END }, .gguf_dim = { MODEL, END, END }
#define MATRIX(rows) { rows, MODEL }, .gguf_dim = { rows, MODEL, END }
#define PER_EXPERT(rows, cols) { EXPERT_ROWS, MODEL }, .gguf_dim = { EXPERTS, rows, cols }
static const struct part first_parts[] = {
    { "transformer.wte.weight", IN_DESC(embed), MATRIX(VOCAB), .gguf = "token_embd.weight", .sampled = 1 },
};
static const struct part layer_parts[] = {
    { "norm_attn_norm.norm_1.weight",        IN_LAYER(norm_1), VECTOR, .gguf = "attn_norm.weight" },
    { "norm_attn_norm.attn.Wqkv.weight",     IN_LAYER(wqkv),   MATRIX(QKV), .gguf = "attn_qkv.weight", .sampled = 1 },
    { "norm_attn_norm.attn.out_proj.weight", IN_LAYER(wo),     MATRIX(MODEL), .gguf = "attn_output.weight" },
    { "norm_attn_norm.norm_2.weight",        IN_LAYER(norm_2), VECTOR, .gguf = "attn_output_norm.weight" },
    { "ffn.router.layer.weight",             IN_LAYER(router), MATRIX(EXPERTS), .gguf = "ffn_gate_inp.weight", .sampled = 1 },
    { "ffn.experts.mlp.w1", IN_LAYER(w1), PER_EXPERT(FFN, MODEL), .gguf = "ffn_gate_exps.weight" },
    { "ffn.experts.mlp.v1", IN_LAYER(v1), PER_EXPERT(FFN, MODEL), .gguf = "ffn_up_exps.weight" },
    { "ffn.experts.mlp.w2", IN_LAYER(w2), PER_EXPERT(MODEL, FFN), .gguf = "ffn_down_exps.weight" },
};
static const struct part last_parts[] = {
    { "transformer.norm_f.weight", IN_DESC(norm_f),  VECTOR, .gguf = "output_norm.weight", .sampled = 1 },
    { "lm_head.weight",            IN_DESC(lm_head), MATRIX(VOCAB), .gguf = "output.weight", .sampled = 1 },
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static uint64_t size_of(const struct dbrx_config *c, int which)
{
    switch (which) {
    case VOCAB:       return c->n_vocab;
    case QKV:         return c->d_model + 2ull * c->n_kv_heads * (c->d_model / c->n_heads);
    case EXPERTS:     return c->n_experts;
    case EXPERT_ROWS: return (uint64_t)c->n_experts * c->d_ffn;
    case FFN:         return c->d_ffn;
    default:          return c->d_model;
    }
}

/* dim[most], up to END, as sizes; how many there are */
static uint32_t sizes(const struct dbrx_config *c, const int *dim, uint32_t most, uint64_t *out)
{
    uint32_t n = 0;
    for (; n < most && dim[n] != END; n++)
        out[n] = size_of(c, dim[n]);
    return n;
}

static dbrx_status each_part(const struct dbrx_config *c, const char *prefix, const char *gguf,
                             const struct part *p, size_t n, void *base, ckpt_visit *f, void *ctx)
{
    dbrx_status st = DBRX_OK;
    for (size_t i = 0; i < n && st == DBRX_OK; i++) {
        struct ckpt_slot s = { .sampled = p[i].sampled,
                               .t = (struct dbrx_tensor *)((char *)base + p[i].at) };
        s.rank = sizes(c, p[i].dim, 2, s.want);
        s.gguf_rank = sizes(c, p[i].gguf_dim, 3, s.gguf_want);
        snprintf(s.name, sizeof s.name, "%s%s", prefix, p[i].name);
        snprintf(s.gguf, sizeof s.gguf, "%s%s", gguf, p[i].gguf);
        st = f(ctx, &s);
    }
    return st;
}

dbrx_status ckpt_each(struct dbrx_model_desc *d, ckpt_visit *f, void *ctx)
{
    const struct dbrx_config *c = &d->config;
    struct dbrx_layer *layer = (struct dbrx_layer *)d->layer;  /* ours: writable */
    dbrx_status st = each_part(c, "", "", first_parts, COUNT(first_parts), d, f, ctx);
    for (uint32_t i = 0; i < c->n_layers && st == DBRX_OK; i++) {
        char prefix[40], gguf[20];
        snprintf(prefix, sizeof prefix, "transformer.blocks.%u.", i);
        snprintf(gguf, sizeof gguf, "blk.%u.", i);
        st = each_part(c, prefix, gguf, layer_parts, COUNT(layer_parts), &layer[i], f, ctx);
    }
    return st == DBRX_OK ? each_part(c, "", "", last_parts, COUNT(last_parts), d, f, ctx) : st;
}

/* ---- tensors to their places -------------------------------------------- */

struct placing {
    const struct reader *r;
    const struct st_list *list;
    struct dbrx_error *err;
    uint32_t wanted, missing;
    char     first_missing[96];
};

static const char *shape_text(char out[100], const uint64_t *dim, uint32_t rank)
{
    int n = snprintf(out, 100, "[");
    for (uint32_t i = 0; i < rank; i++)
        n += snprintf(out + n, 100 - (size_t)n, "%s%llu", i ? ", " : "",
                      (unsigned long long)dim[i]);
    snprintf(out + n, 100 - (size_t)n, "]");
    return out;
}

static dbrx_status place_tensor(void *ctx, const struct ckpt_slot *s)
{
    struct placing *p = ctx;
    int gguf = p->r->pub.gguf;
    const char *name = gguf ? s->gguf : s->name;
    const uint64_t *want = gguf ? s->gguf_want : s->want;
    uint32_t rank = gguf ? s->gguf_rank : s->rank;
    struct st_tensor *found = ckpt_find_tensor(p->list, name);
    p->wanted++;
    if (!found) {
        if (!p->missing++)
            snprintf(p->first_missing, sizeof p->first_missing, "%s", name);
        return DBRX_OK;
    }
    const struct dbrx_tensor *t = &found->t;
    if (t->rank != rank || memcmp(t->dim, want, rank * sizeof *t->dim)) {
        char have[100], text[100];
        return ckpt_fail(p->err, DBRX_E_INVALID, "%s: tensor \"%s\" has shape %s, but %s "
                         "for %s", SHOW(p->r->file[found->file].name), name,
                         shape_text(have, t->dim, t->rank),
                         gguf ? "its metadata asks" : "config.json asks",
                         shape_text(text, want, rank));
    }
    *s->t = *t;
    if (rank == 3) {                       /* all experts' rows, one after another */
        s->t->rank = 2;
        s->t->dim[0] = t->dim[0] * t->dim[1];
        s->t->dim[1] = t->dim[2];
        s->t->dim[2] = 0;
    }
    found->t.data = NULL;                  /* placed                           */
    return DBRX_OK;
}

static dbrx_status place_tensors(struct reader *r, struct st_list *list, struct dbrx_error *err)
{
    struct placing p = { .r = r, .list = list, .err = err };
    dbrx_status st = ckpt_each(&r->pub.desc, place_tensor, &p);
    if (st != DBRX_OK)
        return st;
    if (p.missing)
        return ckpt_fail(err, DBRX_E_INVALID, "%s lacks %u of %u tensors, the first \"%s\"",
                         SHOW(r->pub.dir), p.missing, p.wanted, p.first_missing);
    r->pub.n_tensors = p.wanted;
    if (list->n == p.wanted)
        return DBRX_OK;
    size_t i = 0;
    while (!list->v[i].t.data)
        i++;
    const char *name = list->v[i].name, *dot = strrchr(name, '.');
    return ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s: tensor \"%s\" is not part of DBRX%s",
                     SHOW(r->file[list->v[i].file].name), SHOW(name),
                     dot && !strcmp(dot, ".bias") ? ", which has no biases" : "");
}

/* ---- the interface ------------------------------------------------------ */

/* The config, then the weights, of a Hugging Face directory */
static dbrx_status open_directory(struct reader *r, int fd, struct st_list *list,
                                  struct dbrx_error *err)
{
    char *name = NULL;
    dbrx_status st = ckpt_has_shards(fd) ? DBRX_OK : ckpt_find_gguf(fd, &name, err);
    if (st == DBRX_OK && name) {
        st = ckpt_open_gguf(r, fd, name, list, err);
        free(name);
        return st;
    }
    if (st == DBRX_OK && faccessat(fd, "config.json", F_OK, 0) != 0 && errno == ENOENT)
        return ckpt_fail(err, DBRX_E_IO, "%s holds neither config.json nor a .gguf file",
                         SHOW(r->pub.dir));
    if (st == DBRX_OK)
        st = ckpt_config_read(fd, &r->pub.desc.config, r->pub.eos, &r->pub.n_eos, err);
    return st == DBRX_OK ? ckpt_open_shards(r, fd, list, err) : st;
}

/* The path of a file: its folder's descriptor, its name */
static dbrx_status open_file(struct reader *r, struct st_list *list, struct dbrx_error *err)
{
    const char *slash = strrchr(r->pub.dir, '/');
    char *folder = slash ? strndup(r->pub.dir, (size_t)(slash + 1 - r->pub.dir)) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    dbrx_status st = fd >= 0 ? ckpt_open_gguf(r, fd, slash ? slash + 1 : r->pub.dir, list, err)
                   : !folder ? ckpt_no_memory(err, r->pub.dir)
                   : ckpt_fail(err, DBRX_E_IO, "%s cannot be opened: %s", SHOW(folder), strerror(errno));
    if (fd >= 0)
        close(fd);
    free(folder);
    return st;
}

dbrx_status ckpt_open(const char *dir, struct ckpt **out, struct dbrx_error *err)
{
    struct st_list list = { 0 };
    dbrx_status st = DBRX_E_NOMEM;
    int fd = -1;
    struct reader *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r || !(r->pub.dir = strdup(dir))) {
        ckpt_no_memory(err, dir);
        goto out;
    }
    struct dbrx_model_desc *d = &r->pub.desc;
    d->struct_size = sizeof *d;
    d->layer_size = sizeof(struct dbrx_layer);
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    st = fd >= 0 ? open_directory(r, fd, &list, err)
       : errno == ENOTDIR ? open_file(r, &list, err)
       : ckpt_fail(err, DBRX_E_IO, "%s cannot be opened: %s", SHOW(dir), strerror(errno));
    if (st != DBRX_OK)
        goto out;
    d->w2_layout = r->pub.gguf ? DBRX_W2_MODEL_ROWS : DBRX_W2_FFN_ROWS;
    d->layer = r->layer = calloc(d->config.n_layers, sizeof *r->layer);
    st = r->layer ? place_tensors(r, &list, err) : ckpt_no_memory(err, dir);
    if (st == DBRX_OK)
        st = ckpt_fingerprint(d, err);
    if (st == DBRX_OK)
        r->pub.dtype = d->layer[0].w1.dtype;
out:
    if (fd >= 0)
        close(fd);
    st_list_free(&list);
    if (st == DBRX_OK)
        *out = &r->pub;
    else
        ckpt_close(r ? &r->pub : NULL);
    return st;
}

void ckpt_close(struct ckpt *c)
{
    struct reader *r = (struct reader *)c;
    if (!r)
        return;
    for (uint32_t i = 0; i < c->n_shards; i++)
        st_close(&r->file[i]);
    ckpt_free_gguf(r);
    free(r->file);
    free(r->layer);
    free(c->dir);
    free(r);
}

const char *ckpt_file(const struct ckpt *c, uint32_t i, char **map, size_t *size, int *fd)
{
    const struct st_file *f = &((const struct reader *)c)->file[i];
    *map = f->map;
    *size = f->map ? f->size : 0;
    *fd = f->fd;
    return f->name;
}

static uint64_t elements(const struct dbrx_tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

static dbrx_status add_elements(void *sum, const struct ckpt_slot *s)
{
    *(uint64_t *)sum += elements(s->t);
    return DBRX_OK;
}

uint64_t ckpt_params_total(const struct ckpt *c)
{
    uint64_t n = 0;
    ckpt_each((struct dbrx_model_desc *)&c->desc, add_elements, &n);
    return n;
}

uint64_t ckpt_params_active(const struct ckpt *c)
{
    const struct dbrx_config *g = &c->desc.config;
    uint64_t idle = (uint64_t)(g->n_experts - g->top_k) * g->d_ffn * g->d_model * 3;
    return ckpt_params_total(c) - idle * g->n_layers;
}
