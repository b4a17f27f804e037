/* backends/model/gguf.c -- one GGUF file: its metadata, its table of tensors.
 *
 * The format: magic, version, two counts; key-value pairs; for each tensor its name, shape,
 * type and place; then, aligned, the data.  Metadata has no stated size: it is read through
 * pread into memory that grows, never through the mapping.  Knows nothing of DBRX. */
#define _GNU_SOURCE
#include "backends/model/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_RANK = sizeof ((struct dbrx_tensor *)0)->dim / sizeof(uint64_t),
       MAX_META = 1 << 30, MAX_KEY = 65535, MAX_NAME = 255, FIRST_READ = 1 << 20,
       LEAST_KV = 13, LEAST_TENSOR = 33 };     /* bytes of the shortest one possible */

static const uint8_t value_bytes[] = {
    [GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_STRING] = 0, [GGUF_ARRAY] = 0, [GGUF_U64] = 8,
    [GGUF_I64] = 8, [GGUF_F64] = 8,
};
enum { N_VALUE_TYPES = sizeof value_bytes };

/* ---- a place in the file ---- */

struct cursor {
    struct gguf *g;
    const struct st_file *f;
    size_t at, cap;                        /* read so far: g->n_meta of cap    */
    struct dbrx_error *err;
};

static dbrx_status truncated(const struct cursor *c)
{
    return ckpt_fail(c->err, DBRX_E_INVALID, "%s is truncated or damaged: its metadata does not end "
                     "within its %llu bytes", SHOW(c->f->name), (unsigned long long)c->f->size);
}

/* The n bytes from c->at on are in memory */
static dbrx_status have(struct cursor *c, uint64_t n)
{
    struct gguf *g = c->g;
    if (n > c->f->size - c->at)
        return truncated(c);
    if (c->at + n <= g->n_meta)
        return DBRX_OK;
    if (c->at + n > MAX_META)
        return ckpt_fail(c->err, DBRX_E_UNSUPPORTED, "%s: its metadata is larger than %d MiB",
                         SHOW(c->f->name), MAX_META >> 20);
    size_t want = c->cap ? 2 * c->cap : FIRST_READ;
    while (want < c->at + n)
        want *= 2;
    if (want > c->f->size)
        want = c->f->size;
    unsigned char *more = realloc(g->meta, want);
    if (!more)
        return ckpt_no_memory(c->err, c->f->name);
    g->meta = more;
    c->cap = want;
    dbrx_status st = ckpt_file_read(c->f->fd, c->f->name, more + g->n_meta, want - g->n_meta,
                                    g->n_meta, c->err);
    if (st == DBRX_OK)
        g->n_meta = want;
    return st;
}

static uint64_t little(const unsigned char *p, int bytes)
{
    uint64_t x = 0;
    for (int i = bytes - 1; i >= 0; i--)
        x = x << 8 | p[i];
    return x;
}

static dbrx_status take(struct cursor *c, int bytes, uint64_t *out)
{
    dbrx_status st = have(c, (uint64_t)bytes);
    if (st == DBRX_OK) {
        *out = little(c->g->meta + c->at, bytes);
        c->at += (size_t)bytes;
    }
    return st;
}

/* A string's length; its bytes are in memory at c->at, not yet passed */
static dbrx_status take_length(struct cursor *c, uint64_t *len)
{
    dbrx_status st = take(c, 8, len);
    return st == DBRX_OK ? have(c, *len) : st;
}

/* A name of at most max bytes into out[max + 1] */
static dbrx_status take_name(struct cursor *c, const char *what, size_t max, char *out)
{
    uint64_t len;
    dbrx_status st = take(c, 8, &len);
    if (st == DBRX_OK && (len == 0 || len > max))
        return ckpt_fail(c->err, DBRX_E_INVALID, "%s: byte %zu: %s has %llu bytes; it must have 1 to "
                         "%zu", SHOW(c->f->name), c->at - 8, what, (unsigned long long)len, max);
    if (st == DBRX_OK)
        st = have(c, len);
    if (st != DBRX_OK)
        return st;
    if (memchr(c->g->meta + c->at, 0, len))
        return ckpt_fail(c->err, DBRX_E_INVALID, "%s: byte %zu: %s holds a NUL byte",
                         SHOW(c->f->name), c->at, what);
    memcpy(out, c->g->meta + c->at, len);
    out[len] = '\0';
    c->at += len;
    return DBRX_OK;
}

/* ---- metadata ---- */

static dbrx_status bad_value(const struct cursor *c, const char *key, const char *what)
{
    return ckpt_fail(c->err, DBRX_E_INVALID, "%s: key \"%s\" %s", SHOW(c->f->name), SHOW(key), what);
}

static dbrx_status skip_values(struct cursor *c, const char *key, uint32_t type, uint64_t n)
{
    uint64_t len, size = value_bytes[type];
    dbrx_status st = DBRX_OK;
    if (type == GGUF_STRING) {
        if (n > c->f->size / 8)
            return truncated(c);
        for (uint64_t i = 0; i < n && st == DBRX_OK; i++)
            if ((st = take_length(c, &len)) == DBRX_OK)
                c->at += len;
        return st;
    }
    if (n > c->f->size / size)
        return truncated(c);
    st = have(c, n * size);
    for (uint64_t i = 0; type == GGUF_BOOL && st == DBRX_OK && i < n; i++)
        if (c->g->meta[c->at + i] > 1)
            return bad_value(c, key, "is a truth value, but neither 0 nor 1");
    if (st == DBRX_OK)
        c->at += n * size;
    return st;
}

/* One pair; its key goes to key[MAX_KEY + 1] */
static dbrx_status take_pair(struct cursor *c, char *key, struct gguf_kv *kv)
{
    uint64_t type, of = 0, n = 1;
    dbrx_status st = take_name(c, "a key", MAX_KEY, key);
    if (st == DBRX_OK)
        st = take(c, 4, &type);
    if (st != DBRX_OK)
        return st;
    if (type >= N_VALUE_TYPES)
        return bad_value(c, key, "has a type that GGUF does not know");
    if (type == GGUF_ARRAY) {
        st = take(c, 4, &of);
        if (st == DBRX_OK)
            st = take(c, 8, &n);
        if (st == DBRX_OK && (of >= N_VALUE_TYPES || of == GGUF_ARRAY))
            return bad_value(c, key, of == GGUF_ARRAY ? "is an array of arrays, which is not supported"
                                                      : "is an array of a type that GGUF does not know");
    }
    if (st != DBRX_OK)
        return st;
    *kv = (struct gguf_kv){ .type = (uint32_t)type, .of = (uint32_t)of, .n = n, .at = c->at };
    return skip_values(c, key, type == GGUF_ARRAY ? kv->of : kv->type, n);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct gguf_kv *)a)->key, ((const struct gguf_kv *)b)->key);
}

static dbrx_status take_pairs(struct cursor *c, uint64_t n)
{
    struct gguf *g = c->g;
    size_t used = 0, cap = 0;
    dbrx_status st = DBRX_OK;
    char *key = malloc(MAX_KEY + 1);
    g->kv = calloc(n + 1, sizeof *g->kv);
    if (!g->kv || !key)
        st = ckpt_no_memory(c->err, c->f->name);
    for (; st == DBRX_OK && g->n_kv < n; g->n_kv++) {
        st = take_pair(c, key, &g->kv[g->n_kv]);
        size_t len = st == DBRX_OK ? strlen(key) + 1 : 0;
        if (used + len > cap) {
            char *more = realloc(g->keys, cap = 2 * cap + len);
            if (!more) {
                st = ckpt_no_memory(c->err, c->f->name);
                break;
            }
            g->keys = more;
        }
        if (st != DBRX_OK)
            break;
        memcpy(g->keys + used, key, len);
        used += len;
    }
    free(key);
    size_t at = 0;
    for (size_t i = 0; i < g->n_kv; i++) { /* only now they stay where they are */
        g->kv[i].key = g->keys + at;
        at += strlen(g->keys + at) + 1;
    }
    if (st != DBRX_OK)
        return st;
    qsort(g->kv, g->n_kv, sizeof *g->kv, by_key);
    for (size_t i = 1; i < g->n_kv; i++)
        if (!strcmp(g->kv[i - 1].key, g->kv[i].key))
            return bad_value(c, g->kv[i].key, "is there twice");
    return DBRX_OK;
}

/* ---- tensors ---- */

#define HERE "%s: tensor \"%s\" "

/* What else there is, or has been, by number: for the sentence that refuses it */
static const char *other_type(uint32_t type)
{
    static const char *const names[] = {
        [4] = "Q4_2", [5] = "Q4_3", [9] = "Q8_1", [15] = "Q8_K", [16] = "IQ2_XXS", [17] = "IQ2_XS",
        [18] = "IQ3_XXS", [19] = "IQ1_S", [21] = "IQ3_S", [22] = "IQ2_S", [24] = "I8",
        [25] = "I16", [26] = "I32", [27] = "I64", [28] = "F64", [29] = "IQ1_M",
        [31] = "Q4_0_4_4", [32] = "Q4_0_4_8", [33] = "Q4_0_8_8", [34] = "TQ1_0", [35] = "TQ2_0",
        [36] = "IQ4_NL_4_4", [37] = "IQ4_NL_4_8", [38] = "IQ4_NL_8_8", [39] = "MXFP4",
        [40] = "NVFP4",
    };
    return type < sizeof names / sizeof *names && names[type] ? names[type] : dtype_name(type);
}

/* t->offset stays relative to the data */
static dbrx_status take_tensor(struct cursor *c, char *name, struct dbrx_tensor *t)
{
    uint64_t rank, type, n = 1;
    const char *file = c->f->name;
    dbrx_status st = take_name(c, "a tensor's name", MAX_NAME, name);
    if (st == DBRX_OK)
        st = take(c, 4, &rank);
    if (st != DBRX_OK)
        return st;
    if (rank < 1 || rank > MAX_RANK)
        return ckpt_fail(c->err, DBRX_E_INVALID, HERE "has %llu dimensions; 1 to %d are possible",
                         SHOW(file), SHOW(name), (unsigned long long)rank, MAX_RANK);
    t->rank = (uint32_t)rank;
    for (uint32_t i = 0; i < rank && st == DBRX_OK; i++) {   /* the file has the innermost first */
        uint64_t *d = &t->dim[rank - 1 - i];
        st = take(c, 8, d);
        if (st == DBRX_OK && (*d == 0 || *d > INT64_MAX || __builtin_mul_overflow(n, *d, &n)))
            return ckpt_fail(c->err, DBRX_E_INVALID, HERE "has a shape that is empty or too large for "
                             "any file", SHOW(file), SHOW(name));
    }
    if (st == DBRX_OK)
        st = take(c, 4, &type);
    if (st == DBRX_OK)
        st = take(c, 8, &t->offset);
    if (st != DBRX_OK)
        return st;
    t->dtype = (uint32_t)type;
    if (!dtype_block(t->dtype))
        return ckpt_fail(c->err, DBRX_E_UNSUPPORTED, HERE "has type %s, which is not supported; F32, "
                         "F16, BF16, Q8_0, Q4_0/1, Q5_0/1, Q2_K to Q6_K, IQ4_NL and IQ4_XS are",
                         SHOW(file), SHOW(name), other_type(t->dtype));
    if (t->dim[rank - 1] % dtype_block(t->dtype))
        return ckpt_fail(c->err, DBRX_E_INVALID, HERE "has rows of %llu, which is no whole number of "
                         "%s blocks of %u", SHOW(file), SHOW(name),
                         (unsigned long long)t->dim[rank - 1], dtype_name(t->dtype),
                         dtype_block(t->dtype));
    t->bytes = dtype_bytes(t->dtype, n);
    if (!t->bytes)
        return ckpt_fail(c->err, DBRX_E_INVALID, HERE "has a shape too large for any file", SHOW(file),
                         SHOW(name));
    return DBRX_OK;
}

static dbrx_status take_tensors(struct cursor *c, uint64_t n, uint32_t id, struct st_list *list)
{
    struct st_tensor *v = realloc(list->v, (list->n + n + 1) * sizeof *v);
    dbrx_status st = DBRX_OK;
    if (!v)
        return ckpt_no_memory(c->err, c->f->name);
    list->v = v;
    for (uint64_t i = 0; i < n && st == DBRX_OK; i++) {
        char name[MAX_NAME + 1];
        struct st_tensor t = { .file = id };
        st = take_tensor(c, name, &t.t);
        if (st == DBRX_OK && !(t.name = strdup(name)))
            st = ckpt_no_memory(c->err, c->f->name);
        if (st == DBRX_OK)
            v[list->n++] = t;
    }
    return st;
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = (*(struct st_tensor *const *)a)->t.offset, y = (*(struct st_tensor *const *)b)->t.offset;
    return x < y ? -1 : x > y;
}

/* v[n]: this file's tensors.  Each aligned, in the file, and no two in one place; then
 * offsets become the file's. */
static dbrx_status place(struct cursor *c, struct st_tensor *v, size_t n, uint64_t alignment)
{
    const char *file = c->f->name;
    uint64_t data = (c->at + alignment - 1) / alignment * alignment, size = c->f->size;
    uint64_t room = data < size ? size - data : 0, end = 0;
    struct st_tensor **order = malloc((n + 1) * sizeof *order);
    dbrx_status st = order ? DBRX_OK : ckpt_no_memory(c->err, file);
    for (size_t i = 0; i < n && st == DBRX_OK; i++) {
        struct dbrx_tensor *t = &v[i].t;
        order[i] = &v[i];
        if (t->offset > room || t->bytes > room - t->offset)
            st = ckpt_fail(c->err, DBRX_E_INVALID, HERE "lies at bytes %llu to %llu of the data, but "
                           "the file holds %llu: it is truncated", SHOW(file), SHOW(v[i].name),
                           (unsigned long long)t->offset,
                           (unsigned long long)(t->offset + t->bytes), (unsigned long long)room);
        else if (t->offset % alignment)
            st = ckpt_fail(c->err, DBRX_E_INVALID, HERE "lies at byte %llu, which is no multiple of "
                           "the alignment %llu", SHOW(file), SHOW(v[i].name),
                           (unsigned long long)t->offset, (unsigned long long)alignment);
    }
    if (st == DBRX_OK)
        qsort(order, n, sizeof *order, by_offset);
    for (size_t i = 0; i < n && st == DBRX_OK; i++) {
        struct dbrx_tensor *t = &order[i]->t;
        if (t->offset < end)
            st = ckpt_fail(c->err, DBRX_E_INVALID, HERE "overlaps \"%s\"", SHOW(file),
                           SHOW(order[i]->name), SHOW(order[i - 1]->name));
        end = t->offset + t->bytes;
        t->offset += data;
        t->fd = c->f->fd;
        t->data = (const char *)c->f->map + t->offset;
    }
    free(order);
    return st;
}

/* ---- the file ---- */

int gguf_is(int fd)
{
    char magic[4];
    return pread(fd, magic, 4, 0) == 4 && !memcmp(magic, "GGUF", 4);
}

static dbrx_status read_all(struct cursor *c, uint32_t id, struct st_list *list)
{
    struct gguf *g = c->g;
    const char *file = c->f->name;
    uint64_t magic, version, n_tensors, n_kv;
    int64_t alignment = 32;
    size_t first = list->n;
    if (c->f->size < 24 || !gguf_is(c->f->fd))
        return ckpt_fail(c->err, DBRX_E_INVALID, "%s is no GGUF file: it does not begin with \"GGUF\"",
                         SHOW(file));
    dbrx_status st = take(c, 4, &magic);
    if (st == DBRX_OK)
        st = take(c, 4, &version);
    if (st == DBRX_OK && version && version % 65536 == 0)
        return ckpt_fail(c->err, DBRX_E_UNSUPPORTED, "%s is a big-endian GGUF file, which is not "
                         "supported", SHOW(file));
    if (st == DBRX_OK && version != 2 && version != 3)
        return ckpt_fail(c->err, DBRX_E_UNSUPPORTED, "%s: GGUF version %u is not supported; 2 and 3 "
                         "are", SHOW(file), (unsigned)version);
    if (st == DBRX_OK)
        st = take(c, 8, &n_tensors);
    if (st == DBRX_OK)
        st = take(c, 8, &n_kv);
    if (st != DBRX_OK)
        return st;
    g->version = (uint32_t)version;
    if (n_kv > c->f->size / LEAST_KV || n_tensors > c->f->size / LEAST_TENSOR)
        return ckpt_fail(c->err, DBRX_E_INVALID, "%s is truncated or damaged: it says it has %llu keys "
                         "and %llu tensors, and has %llu bytes", SHOW(file),
                         (unsigned long long)n_kv, (unsigned long long)n_tensors,
                         (unsigned long long)c->f->size);
    st = take_pairs(c, n_kv);
    if (st == DBRX_OK)
        st = gguf_whole(g, file, "general.alignment", 1, 1 << 20, &alignment, c->err);
    if (st == DBRX_OK && (alignment % 8 || alignment & (alignment - 1)))
        return ckpt_fail(c->err, DBRX_E_INVALID, "%s: general.alignment is %lld; it must be a power of "
                         "two from 8 on", SHOW(file), (long long)alignment);
    if (st == DBRX_OK)
        st = take_tensors(c, n_tensors, id, list);
    if (st == DBRX_OK)
        st = place(c, list->v + first, list->n - first, (uint64_t)alignment);
    return st;
}

dbrx_status gguf_open(int dir, const char *name, uint32_t id, struct st_file *f, struct gguf *g,
                      struct st_list *list, struct dbrx_error *err)
{
    struct cursor c = { .g = g, .f = f, .err = err };
    *g = (struct gguf){ 0 };
    dbrx_status st = st_map(dir, name, f, err);
    if (st == DBRX_OK)
        st = read_all(&c, id, list);
    if (st == DBRX_OK && c.at < g->n_meta) {       /* give back what was read beyond it */
        unsigned char *less = realloc(g->meta, c.at);
        g->meta = less ? less : g->meta;
        g->n_meta = c.at;
    }
    return st;
}

void gguf_free(struct gguf *g)
{
    free(g->meta);
    free(g->kv);
    free(g->keys);
    *g = (struct gguf){ 0 };
}

/* ---- looking things up ---- */

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    struct gguf_kv want = { .key = (char *)key };
    return g->n_kv ? bsearch(&want, g->kv, g->n_kv, sizeof *g->kv, by_key) : NULL;
}

int64_t gguf_integer(const struct gguf *g, const struct gguf_kv *kv, uint64_t i)
{
    uint32_t type = kv->type == GGUF_ARRAY ? kv->of : kv->type;
    uint64_t x = little(g->meta + kv->at + i * value_bytes[type], value_bytes[type]);
    switch (type) {
    case GGUF_I8:  return (int8_t)x;
    case GGUF_I16: return (int16_t)x;
    case GGUF_I32: return (int32_t)x;
    default:       return (int64_t)x;
    }
}

dbrx_status gguf_whole(const struct gguf *g, const char *file, const char *key, int64_t lo,
                       int64_t hi, int64_t *out, struct dbrx_error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return DBRX_OK;
    int whole = kv->type <= GGUF_I32 || kv->type == GGUF_U64 || kv->type == GGUF_I64;
    int64_t x = whole ? gguf_integer(g, kv, 0) : 0;
    if (!whole || x < lo || x > hi)        /* a U64 above INT64_MAX is negative here */
        return ckpt_fail(err, DBRX_E_INVALID, "%s: %s must be a whole number from %lld to %lld",
                         SHOW(file), key, (long long)lo, (long long)hi);
    *out = x;
    return DBRX_OK;
}

dbrx_status gguf_number(const struct gguf *g, const char *file, const char *key, double *out,
                        struct dbrx_error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    double x = NAN;
    if (!kv)
        return DBRX_OK;
    if (kv->type == GGUF_F32) {
        uint32_t u = (uint32_t)little(g->meta + kv->at, 4);
        float f;
        memcpy(&f, &u, 4);
        x = f;
    } else if (kv->type == GGUF_F64) {
        uint64_t u = little(g->meta + kv->at, 8);
        memcpy(&x, &u, 8);
    }
    if (!isfinite(x))
        return ckpt_fail(err, DBRX_E_INVALID, "%s: %s must be a finite floating-point number",
                         SHOW(file), key);
    *out = x;
    return DBRX_OK;
}

const char *gguf_string(const struct gguf *g, size_t at, size_t *len)
{
    *len = (size_t)little(g->meta + at, 8);
    return (const char *)g->meta + at + 8;
}

const char *gguf_text(const struct gguf *g, const char *key, size_t *len)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    *len = 0;
    return kv && kv->type == GGUF_STRING ? gguf_string(g, kv->at, len) : NULL;
}

size_t *gguf_strings(const struct gguf *g, const struct gguf_kv *kv)
{
    size_t *at = malloc((kv->n + 1) * sizeof *at), len;
    for (uint64_t i = 0, next = kv->at; at && i < kv->n; i++, next += 8 + len) {
        at[i] = next;
        gguf_string(g, next, &len);
    }
    return at;
}
