/* backends/model/safetensors.c -- one safetensors file: map it, read its
 * header, check every number in it.
 *
 * The format: 8 bytes, little-endian, the header's length; the header, a JSON
 * object of "name": {dtype, shape, data_offsets}; then the data, which the
 * tensors must cover without overlap, gap or rest.  Knows nothing of DBRX. */
#define _GNU_SOURCE
#include "backends/model/reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_RANK = sizeof ((struct dbrx_tensor *)0)->dim / sizeof(uint64_t) };
static const int64_t MAX_NUMBER = (INT64_C(1) << 53) - 1;     /* JSON numbers are doubles */

/* The two names every complaint about a tensor begins with. */
#define HERE "%s: tensor \"%s\" "
#define NAMES(file, tensor) SHOW(file), SHOW(tensor)

static int read_dtype(const char *name, uint32_t *dtype)
{
    static const uint32_t known[] = { DBRX_BF16, DBRX_F16, DBRX_F32 };
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, dtype_name(known[i]))) {
            *dtype = known[i];
            return 1;
        }
    return 0;
}

/* {dtype, shape, data_offsets} to *t; t->offset is still relative to the data. */
static dbrx_status read_entry(const char *file, const cJSON *e, struct dbrx_tensor *t,
                              struct dbrx_error *err)
{
    const char *name = e->string;
    const cJSON *dtype = ckpt_member(e, "dtype"), *shape = ckpt_member(e, "shape");
    const cJSON *range = ckpt_member(e, "data_offsets");
    int64_t x, begin, end;
    uint64_t n = 1;

    if (!cJSON_IsObject(e) || !cJSON_IsString(dtype) || !cJSON_IsArray(shape) ||
        !cJSON_IsArray(range))
        return ckpt_fail(err, DBRX_E_INVALID, HERE "lacks a dtype, shape or data_offsets",
                         NAMES(file, name));
    if (!read_dtype(dtype->valuestring, &t->dtype))
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, HERE "has type %s; BF16, F16 and F32 are "
                         "supported", NAMES(file, name), SHOW(dtype->valuestring));
    for (const cJSON *d = shape->child; d; d = d->next) {
        if (t->rank == MAX_RANK)
            return ckpt_fail(err, DBRX_E_UNSUPPORTED, HERE "has more than %d dimensions",
                             NAMES(file, name), MAX_RANK);
        if (!ckpt_whole(d, 0, MAX_NUMBER, &x))
            return ckpt_fail(err, DBRX_E_INVALID, HERE "has a shape that is not made of whole "
                             "numbers", NAMES(file, name));
        t->dim[t->rank++] = (uint64_t)x;
        if (x && n > (uint64_t)MAX_NUMBER / (uint64_t)x)
            return ckpt_fail(err, DBRX_E_INVALID, HERE "has a shape too large for any file",
                             NAMES(file, name));
        n *= (uint64_t)x;
    }
    const cJSON *first = range->child, *second = first ? first->next : NULL;
    if (!second || second->next || !ckpt_whole(first, 0, MAX_NUMBER, &begin) ||
        !ckpt_whole(second, begin, MAX_NUMBER, &end))
        return ckpt_fail(err, DBRX_E_INVALID, HERE "has data_offsets that are not two whole "
                         "numbers in order", NAMES(file, name));
    t->offset = (uint64_t)begin;
    t->bytes = (uint64_t)(end - begin);
    if (t->bytes != dtype_bytes(t->dtype, n))
        return ckpt_fail(err, DBRX_E_INVALID, HERE "spans %llu bytes, but its shape and type "
                         "need %llu", NAMES(file, name), (unsigned long long)t->bytes,
                         (unsigned long long)dtype_bytes(t->dtype, n));
    return DBRX_OK;
}

static int by_offset(const void *a, const void *b)
{
    const struct dbrx_tensor *x = &((const struct st_tensor *)a)->t;
    const struct dbrx_tensor *y = &((const struct st_tensor *)b)->t;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;     /* empty ones first */
}

/* v[n]: one file's tensors.  Sorted by offset they must tile the data exactly; then
 * offsets become the file's. */
static dbrx_status check_tiling(struct st_file *f, struct st_tensor *v, size_t n,
                                uint64_t data, struct dbrx_error *err)
{
    uint64_t room = f->size - data, at = 0;
    for (size_t i = 0; i < n; i++) {       /* first: it explains most other complaints */
        uint64_t end = v[i].t.offset + v[i].t.bytes;
        if (end > room)
            return ckpt_fail(err, DBRX_E_INVALID, HERE "ends at byte %llu of the data, but the "
                             "file holds %llu: it is truncated", NAMES(f->name, v[i].name),
                             (unsigned long long)end, (unsigned long long)room);
    }
    if (n)
        qsort(v, n, sizeof *v, by_offset);
    for (size_t i = 0; i < n; i++) {
        struct dbrx_tensor *t = &v[i].t;
        if (t->offset < at)                /* at > 0: there is a tensor before */
            return ckpt_fail(err, DBRX_E_INVALID, HERE "overlaps \"%s\"",
                             NAMES(f->name, v[i].name), SHOW(v[i - 1].name));
        if (t->offset > at)
            return ckpt_fail(err, DBRX_E_INVALID, HERE "begins after a gap of %llu bytes, which "
                             "the format forbids", NAMES(f->name, v[i].name),
                             (unsigned long long)(t->offset - at));
        at = t->offset + t->bytes;
        t->offset += data;
        if (t->offset % dtype_bytes(t->dtype, 1))
            return ckpt_fail(err, DBRX_E_UNSUPPORTED, HERE "is not aligned to its elements: "
                             "write the file anew with a current safetensors",
                             NAMES(f->name, v[i].name));
        t->fd = f->fd;
        t->data = (const char *)f->map + t->offset;
    }
    if (at < room)
        return ckpt_fail(err, DBRX_E_INVALID, "%s: %llu bytes at the end belong to no tensor",
                         SHOW(f->name), (unsigned long long)(room - at));
    return DBRX_OK;
}

/* Appends the header's tensors to list, unchecked against the data. */
static dbrx_status read_entries(const char *file, const cJSON *head, uint32_t id,
                                struct st_list *list, struct dbrx_error *err)
{
    size_t n = (size_t)cJSON_GetArraySize(head);
    struct st_tensor *v = realloc(list->v, (list->n + n + 1) * sizeof *v);
    if (!v)
        return ckpt_no_memory(err, file);
    list->v = v;
    for (const cJSON *e = head->child; e; e = e->next) {
        if (!strcmp(e->string, "__metadata__")) {
            if (!cJSON_IsObject(e))
                return ckpt_fail(err, DBRX_E_INVALID, "%s: __metadata__ is not an object",
                                 SHOW(file));
            continue;
        }
        struct st_tensor t = { .file = id };
        dbrx_status st = read_entry(file, e, &t.t, err);
        if (st != DBRX_OK)
            return st;
        t.name = strdup(e->string);
        if (!t.name)
            return ckpt_no_memory(err, file);
        list->v[list->n++] = t;
    }
    return DBRX_OK;
}

dbrx_status st_map(int dir, const char *name, struct st_file *f, struct dbrx_error *err)
{
    *f = (struct st_file){ .name = strdup(name), .fd = -1 };
    if (!f->name)
        return ckpt_no_memory(err, name);
    dbrx_status st = ckpt_file_open(dir, name, &f->fd, &f->size, err);
    if (st != DBRX_OK || !f->size)         /* an empty file has no mapping */
        return st;
    f->map = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (f->map == MAP_FAILED) {
        f->map = NULL;
        return ckpt_fail(err, errno == ENOMEM ? DBRX_E_NOMEM : DBRX_E_IO,
                         "%s cannot be mapped: %s", SHOW(name), strerror(errno));
    }
#ifdef MADV_HUGEPAGE
    /* A file that is not in memory yet comes in large pages then, where its file system has them:
     * reading weights at the memory's speed needs few translations of addresses. */
    (void)madvise(f->map, f->size, MADV_HUGEPAGE);
#endif
    return DBRX_OK;
}

dbrx_status st_open(int dir, const char *name, uint32_t id, struct st_file *f,
                    struct st_list *list, struct dbrx_error *err)
{
    unsigned char le[8];
    uint64_t len = 0;
    char *text = NULL;
    cJSON *head = NULL;
    size_t first = list->n;
    dbrx_status st;

    st = st_map(dir, name, f, err);
    if (st != DBRX_OK)
        return st;
    if (f->size < sizeof le)
        return ckpt_fail(err, DBRX_E_INVALID, "%s is too short to be a safetensors file "
                         "(%llu bytes)", SHOW(name), (unsigned long long)f->size);
    st = ckpt_file_read(f->fd, name, le, sizeof le, 0, err);
    if (st != DBRX_OK)
        return st;
    for (int i = 7; i >= 0; i--)
        len = len << 8 | le[i];
    if (len > f->size - sizeof le)
        return ckpt_fail(err, DBRX_E_INVALID, "%s is truncated or no safetensors file: it says "
                         "its header has %llu bytes, and has %llu in all", SHOW(name),
                         (unsigned long long)len, (unsigned long long)f->size);
    if (len > JSON_MAX)
        return ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s: a header of %llu bytes is larger than "
                         "%d MiB", SHOW(name), (unsigned long long)len, JSON_MAX >> 20);

    text = malloc(len + 1);
    if (!text)
        return ckpt_no_memory(err, name);
    st = ckpt_file_read(f->fd, name, text, len, sizeof le, err);
    if (st == DBRX_OK && (len < 2 || text[0] != '{'))
        st = ckpt_fail(err, DBRX_E_INVALID, "%s is not a safetensors file: its header does not "
                       "begin with {", SHOW(name));
    if (st == DBRX_OK)
        st = ckpt_json_parse(name, text, len, &head, err);
    if (st == DBRX_OK)
        st = read_entries(name, head, id, list, err);
    if (st == DBRX_OK)
        st = check_tiling(f, list->v + first, list->n - first, sizeof le + len, err);
    cJSON_Delete(head);
    free(text);
    return st;
}

void st_close(struct st_file *f)
{
    if (f->map)
        munmap(f->map, f->size);
    if (f->fd >= 0)
        close(f->fd);
    free(f->name);
    *f = (struct st_file){ .fd = -1 };
}

void st_list_free(struct st_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->v[i].name);
    free(list->v);
    *list = (struct st_list){ 0 };
}
