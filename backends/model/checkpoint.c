/* backends/model/checkpoint.c -- opens a checkpoint directory: the config, the
 * shards, and every tensor in its place with the shape the config asks for.
 * Knows no backend, no tokenizer. */
#define _GNU_SOURCE
#include "backends/model/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX  "model.safetensors.index.json"

struct reader {
    struct ckpt        pub;                /* first: ckpt_close casts back     */
    struct dbrx_layer *layer;
    struct st_file    *file;               /* [pub.n_shards]                   */
};

/* ---- what a DBRX checkpoint holds --------------------------------------- */

enum { MODEL, VOCAB, QKV, EXPERTS, EXPERT_ROWS };
struct part { const char *name; size_t at; uint32_t rank; int dim[2]; int sampled; };

#define IN_DESC(field)  offsetof(struct dbrx_model_desc, field)
#define IN_LAYER(field) offsetof(struct dbrx_layer, field)
static const struct part first_parts[] = {
    { "transformer.wte.weight", IN_DESC(embed), 2, { VOCAB, MODEL }, 1 },
};
static const struct part layer_parts[] = {
    { "norm_attn_norm.norm_1.weight",        IN_LAYER(norm_1), 1, { MODEL, 0 },           0 },
    { "norm_attn_norm.attn.Wqkv.weight",     IN_LAYER(wqkv),   2, { QKV, MODEL },         1 },
    { "norm_attn_norm.attn.out_proj.weight", IN_LAYER(wo),     2, { MODEL, MODEL },       0 },
    { "norm_attn_norm.norm_2.weight",        IN_LAYER(norm_2), 1, { MODEL, 0 },           0 },
    { "ffn.router.layer.weight",             IN_LAYER(router), 2, { EXPERTS, MODEL },     1 },
    { "ffn.experts.mlp.w1",                  IN_LAYER(w1),     2, { EXPERT_ROWS, MODEL }, 0 },
    { "ffn.experts.mlp.v1",                  IN_LAYER(v1),     2, { EXPERT_ROWS, MODEL }, 0 },
    { "ffn.experts.mlp.w2",                  IN_LAYER(w2),     2, { EXPERT_ROWS, MODEL }, 0 },
};
static const struct part last_parts[] = {
    { "transformer.norm_f.weight", IN_DESC(norm_f),  1, { MODEL, 0 },     1 },
    { "lm_head.weight",            IN_DESC(lm_head), 2, { VOCAB, MODEL }, 1 },
};
#define COUNT(a) (sizeof(a) / sizeof *(a))

static uint64_t size_of(const struct dbrx_config *c, int which)
{
    switch (which) {
    case VOCAB:       return c->n_vocab;
    case QKV:         return c->d_model + 2ull * c->n_kv_heads * (c->d_model / c->n_heads);
    case EXPERTS:     return c->n_experts;
    case EXPERT_ROWS: return (uint64_t)c->n_experts * c->d_ffn;
    default:          return c->d_model;
    }
}

static dbrx_status each_part(const struct dbrx_config *c, const char *prefix,
                             const struct part *p, size_t n, void *base, ckpt_visit *f,
                             void *ctx)
{
    dbrx_status st = DBRX_OK;
    for (size_t i = 0; i < n && st == DBRX_OK; i++) {
        struct ckpt_slot s = { .rank = p[i].rank, .sampled = p[i].sampled,
                               .want = { size_of(c, p[i].dim[0]), size_of(c, p[i].dim[1]) },
                               .t = (struct dbrx_tensor *)((char *)base + p[i].at) };
        snprintf(s.name, sizeof s.name, "%s%s", prefix, p[i].name);
        st = f(ctx, &s);
    }
    return st;
}

dbrx_status ckpt_each(struct dbrx_model_desc *d, ckpt_visit *f, void *ctx)
{
    const struct dbrx_config *c = &d->config;
    struct dbrx_layer *layer = (struct dbrx_layer *)d->layer;  /* ours: writable */
    dbrx_status st = each_part(c, "", first_parts, COUNT(first_parts), d, f, ctx);
    for (uint32_t i = 0; i < c->n_layers && st == DBRX_OK; i++) {
        char prefix[40];
        snprintf(prefix, sizeof prefix, "transformer.blocks.%u.", i);
        st = each_part(c, prefix, layer_parts, COUNT(layer_parts), &layer[i], f, ctx);
    }
    return st == DBRX_OK ? each_part(c, "", last_parts, COUNT(last_parts), d, f, ctx) : st;
}

/* ---- the shards --------------------------------------------------------- */

static dbrx_status open_shard(struct reader *r, int dir, const char *name, struct st_list *list,
                              struct dbrx_error *err)
{
    struct st_file *file = realloc(r->file, (r->pub.n_shards + 1) * sizeof *file);
    if (!file)
        return ckpt_no_memory(err, name);
    r->file = file;
    uint32_t id = r->pub.n_shards++;
    dbrx_status st = st_open(dir, name, id, &file[id], list, err);
    r->pub.file_bytes += file[id].size;
    return st;
}

/* The index's weight_map, sorted by tensor name. */
struct place { const char *tensor, *file; };
static int by_tensor(const void *a, const void *b)
{
    return strcmp(((const struct place *)a)->tensor, ((const struct place *)b)->tensor);
}
static int by_file(const void *a, const void *b)
{
    return strcmp(((const struct place *)a)->file, ((const struct place *)b)->file);
}
static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

static struct st_tensor *find_tensor(const struct st_list *list, const char *name)
{
    struct st_tensor key = { .name = (char *)name };
    return list->n ? bsearch(&key, list->v, list->n, sizeof *list->v, by_name) : NULL;
}

/* Sorts the tensors of all shards by name; a name must be there once. */
static dbrx_status sort_tensors(const struct reader *r, struct st_list *list,
                                struct dbrx_error *err)
{
    if (list->n)
        qsort(list->v, list->n, sizeof *list->v, by_name);
    for (size_t i = 1; i < list->n; i++)
        if (!strcmp(list->v[i - 1].name, list->v[i].name))
            return ckpt_fail(err, DBRX_E_INVALID, "tensor \"%s\" is in both %s and %s",
                             SHOW(list->v[i].name), SHOW(r->file[list->v[i - 1].file].name),
                             SHOW(r->file[list->v[i].file].name));
    return DBRX_OK;
}

static dbrx_status read_places(const cJSON *map, struct place *place, struct dbrx_error *err)
{
    size_t n = 0;
    for (const cJSON *i = map->child; i; i = i->next) {
        const char *file = cJSON_IsString(i) ? i->valuestring : "";
        if (!*file)
            return ckpt_fail(err, DBRX_E_INVALID, INDEX ": tensor \"%s\" has no file name",
                             SHOW(i->string));
        if (strchr(file, '/') || !strcmp(file, ".") || !strcmp(file, ".."))
            return ckpt_fail(err, DBRX_E_INVALID, INDEX ": tensor \"%s\" lies in \"%s\", which "
                             "is not a plain file name", SHOW(i->string), SHOW(file));
        place[n++] = (struct place){ i->string, file };
    }
    return DBRX_OK;
}

static dbrx_status open_indexed(struct reader *r, int dir, struct st_list *list,
                                struct dbrx_error *err)
{
    cJSON *index = NULL;
    struct place *place = NULL;
    size_t n = 0;
    dbrx_status st = ckpt_json_load(dir, INDEX, 0, &index, err);
    if (st != DBRX_OK)
        return st;
    const cJSON *map = ckpt_member(index, "weight_map");
    if (!cJSON_IsObject(map) || !map->child) {
        st = ckpt_fail(err, DBRX_E_INVALID, INDEX " has no weight_map");
        goto out;
    }
    n = (size_t)cJSON_GetArraySize(map);
    place = calloc(n, sizeof *place);
    if (!place) {
        st = ckpt_no_memory(err, INDEX);
        goto out;
    }
    st = read_places(map, place, err);
    if (st != DBRX_OK)
        goto out;
    qsort(place, n, sizeof *place, by_file);
    for (size_t i = 0; i < n && st == DBRX_OK; i++)
        if (!i || strcmp(place[i].file, place[i - 1].file))
            st = open_shard(r, dir, place[i].file, list, err);
    if (st == DBRX_OK)
        st = sort_tensors(r, list, err);

    /* index and shards must tell the same story, in both directions */
    qsort(place, n, sizeof *place, by_tensor);
    for (size_t i = 0; i < n && st == DBRX_OK; i++) {
        const struct st_tensor *t = find_tensor(list, place[i].tensor);
        if (!t)
            st = ckpt_fail(err, DBRX_E_INVALID, INDEX ": tensor \"%s\" should be in %s and is not",
                           SHOW(place[i].tensor), SHOW(place[i].file));
        else if (strcmp(r->file[t->file].name, place[i].file))
            st = ckpt_fail(err, DBRX_E_INVALID, INDEX ": tensor \"%s\" should be in %s, but is in "
                           "%s", SHOW(place[i].tensor), SHOW(place[i].file),
                           SHOW(r->file[t->file].name));
    }
    for (size_t i = 0; i < list->n && st == DBRX_OK; i++) {
        struct place key = { list->v[i].name, NULL };
        if (!bsearch(&key, place, n, sizeof *place, by_tensor))
            st = ckpt_fail(err, DBRX_E_INVALID, "%s: tensor \"%s\" is not in " INDEX,
                           SHOW(r->file[list->v[i].file].name), SHOW(list->v[i].name));
    }
out:
    free(place);
    cJSON_Delete(index);
    return st;
}

/* As the reference: one model.safetensors if there is one, else the index. */
static dbrx_status open_shards(struct reader *r, int dir, struct st_list *list,
                               struct dbrx_error *err)
{
    int single = faccessat(dir, SINGLE, F_OK, 0) == 0;
    if (!single && faccessat(dir, INDEX, F_OK, 0) == 0)
        return open_indexed(r, dir, list, err);
    if (!single)
        return ckpt_fail(err, DBRX_E_IO, "%s holds neither " SINGLE " nor " INDEX,
                         SHOW(r->pub.dir));
    dbrx_status st = open_shard(r, dir, SINGLE, list, err);
    return st == DBRX_OK ? sort_tensors(r, list, err) : st;
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
    struct st_tensor *found = find_tensor(p->list, s->name);
    p->wanted++;
    if (!found) {
        if (!p->missing++)
            snprintf(p->first_missing, sizeof p->first_missing, "%s", s->name);
        return DBRX_OK;
    }
    const struct dbrx_tensor *t = &found->t;
    if (t->rank != s->rank || memcmp(t->dim, s->want, s->rank * sizeof *t->dim)) {
        char have[100], want[100];
        return ckpt_fail(p->err, DBRX_E_INVALID, "%s: tensor \"%s\" has shape %s, but config.json "
                         "asks for %s", SHOW(p->r->file[found->file].name), s->name,
                         shape_text(have, t->dim, t->rank), shape_text(want, s->want, s->rank));
    }
    *s->t = *t;
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
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        st = errno == ENOTDIR
            ? ckpt_fail(err, DBRX_E_INVALID, "%s is not a checkpoint directory (a Hugging Face "
                        "one, with config.json and *.safetensors)", SHOW(dir))
            : ckpt_fail(err, DBRX_E_IO, "%s cannot be opened: %s", SHOW(dir), strerror(errno));
        goto out;
    }
    if (faccessat(fd, "config.json", F_OK, 0) != 0 && errno == ENOENT) {
        st = ckpt_fail(err, DBRX_E_IO, "%s holds no config.json", SHOW(dir));
        goto out;
    }
    struct dbrx_model_desc *d = &r->pub.desc;
    st = ckpt_config_read(fd, &d->config, r->pub.eos, &r->pub.n_eos, err);
    if (st != DBRX_OK)
        goto out;
    d->struct_size = sizeof *d;
    d->layer_size = sizeof(struct dbrx_layer);
    d->w2_layout = DBRX_W2_FFN_ROWS;
    d->layer = r->layer = calloc(d->config.n_layers, sizeof *r->layer);
    if (!r->layer) {
        st = ckpt_no_memory(err, dir);
        goto out;
    }
    st = open_shards(r, fd, &list, err);
    if (st == DBRX_OK)
        st = place_tensors(r, &list, err);
    if (st == DBRX_OK)
        st = ckpt_fingerprint(d, err);
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
    free(r->file);
    free(r->layer);
    free(c->dir);
    free(r);
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
