/* backends/model/shards.c -- the weights of a Hugging Face directory: one
 * model.safetensors, or shards and the index that says what is where.  Knows no DBRX. */
#define _GNU_SOURCE
#include "backends/model/reader.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX  "model.safetensors.index.json"

struct st_file *ckpt_add_file(struct reader *r, const char *name, struct dbrx_error *err)
{
    struct st_file *file = realloc(r->file, (r->pub.n_shards + 1) * sizeof *file);
    if (!file) {
        ckpt_no_memory(err, name);
        return NULL;
    }
    r->file = file;
    file[r->pub.n_shards] = (struct st_file){ .fd = -1 };
    return &file[r->pub.n_shards++];
}

static dbrx_status open_shard(struct reader *r, int dir, const char *name, struct st_list *list,
                              struct dbrx_error *err)
{
    struct st_file *file = ckpt_add_file(r, name, err);
    if (!file)
        return DBRX_E_NOMEM;
    dbrx_status st = st_open(dir, name, r->pub.n_shards - 1, file, list, err);
    r->pub.file_bytes += file->size;
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

struct st_tensor *ckpt_find_tensor(const struct st_list *list, const char *name)
{
    struct st_tensor key = { .name = (char *)name };
    return list->n ? bsearch(&key, list->v, list->n, sizeof *list->v, by_name) : NULL;
}

dbrx_status ckpt_sort_tensors(const struct reader *r, struct st_list *list,
                              struct dbrx_error *err)
{
    if (list->n)
        qsort(list->v, list->n, sizeof *list->v, by_name);
    for (size_t i = 1; i < list->n; i++)
        if (strcmp(list->v[i - 1].name, list->v[i].name))
            continue;
        else if (list->v[i - 1].file == list->v[i].file)
            return ckpt_fail(err, DBRX_E_INVALID, "%s: tensor \"%s\" is there twice",
                             SHOW(r->file[list->v[i].file].name), SHOW(list->v[i].name));
        else
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
        st = ckpt_sort_tensors(r, list, err);

    /* index and shards must tell the same story, in both directions */
    qsort(place, n, sizeof *place, by_tensor);
    for (size_t i = 0; i < n && st == DBRX_OK; i++) {
        const struct st_tensor *t = ckpt_find_tensor(list, place[i].tensor);
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

int ckpt_has_shards(int dir)
{
    return faccessat(dir, SINGLE, F_OK, 0) == 0 || faccessat(dir, INDEX, F_OK, 0) == 0;
}

/* As the reference: one model.safetensors if there is one, else the index. */
dbrx_status ckpt_open_shards(struct reader *r, int dir, struct st_list *list,
                             struct dbrx_error *err)
{
    int single = faccessat(dir, SINGLE, F_OK, 0) == 0;
    if (!single && faccessat(dir, INDEX, F_OK, 0) == 0)
        return open_indexed(r, dir, list, err);
    if (!single)
        return ckpt_fail(err, DBRX_E_IO, "%s holds neither " SINGLE " nor " INDEX,
                         SHOW(r->pub.dir));
    dbrx_status st = open_shard(r, dir, SINGLE, list, err);
    return st == DBRX_OK ? ckpt_sort_tensors(r, list, err) : st;
}

