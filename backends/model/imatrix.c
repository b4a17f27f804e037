/* backends/model/imatrix.c -- see imatrix.h. */
#define _GNU_SOURCE
#include "backends/model/imatrix.h"

#include "backends/model/gguf.h"
#include "backends/model/gguf_write.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUMS   ".in_sum2"
#define COUNTS ".counts"

struct imatrix_entry *imatrix_add(struct imatrix *m, const char *name, uint32_t n_matrices, uint32_t cols)
{
    struct imatrix_entry *v = realloc(m->v, (m->n + 1) * sizeof *v);
    if (!v)
        return NULL;
    m->v = v;
    struct imatrix_entry *e = &v[m->n++];
    *e = (struct imatrix_entry){ strdup(name), n_matrices, cols,
                                 calloc((size_t)n_matrices * cols, sizeof(float)),
                                 calloc(n_matrices, sizeof(float)) };
    return e->name && e->sum && e->count ? e : NULL;
}

const struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *name)
{
    for (size_t i = 0; i < m->n; i++)
        if (!strcmp(m->v[i].name, name))
            return &m->v[i];
    return NULL;
}

void imatrix_free(struct imatrix *m)
{
    for (size_t i = 0; m && i < m->n; i++) {
        free(m->v[i].name);
        free(m->v[i].sum);
        free(m->v[i].count);
    }
    free(m ? m->v : NULL);
    free(m);
}

static const char *stem(const char *name, const char *end, char out[256])
{
    size_t n = strlen(name), k = strlen(end);
    if (n <= k || n - k > 255 || strcmp(name + n - k, end))
        return NULL;
    memcpy(out, name, n - k);
    out[n - k] = '\0';
    return out;
}

/* Copied out of the file with pread, and checked: weights must be sane */
static dbrx_status copy(const char *path, const struct st_tensor *t, float *to, struct dbrx_error *err)
{
    dbrx_status st = ckpt_file_read(t->t.fd, path, to, t->t.bytes, t->t.offset, err);
    for (uint64_t i = 0; st == DBRX_OK && i < t->t.bytes / 4; i++)
        if (!(to[i] >= 0) || !isfinite(to[i]))
            st = ckpt_fail(err, DBRX_E_INVALID, "%s: tensor \"%s\" holds a value that is no sum of squares",
                           SHOW(path), SHOW(t->name));
    return st;
}

static dbrx_status read_entries(const char *path, const struct st_list *list, struct imatrix *m,
                                struct dbrx_error *err)
{
    char name[256], other[280];
    dbrx_status st = DBRX_OK;
    for (size_t i = 0; i < list->n && st == DBRX_OK; i++) {
        const struct st_tensor *sum = &list->v[i], *count = NULL;
        if (!stem(sum->name, SUMS, name))
            continue;
        snprintf(other, sizeof other, "%s" COUNTS, name);
        for (size_t k = 0; k < list->n; k++)
            if (!strcmp(list->v[k].name, other))
                count = &list->v[k];
        uint64_t cols = sum->t.dim[sum->t.rank - 1], n = sum->t.bytes / 4 / cols;
        if (sum->t.dtype != DBRX_F32 || !count || count->t.dtype != DBRX_F32 || count->t.bytes / 4 != n ||
            cols > UINT32_MAX || n > UINT32_MAX || imatrix_find(m, name))
            return ckpt_fail(err, DBRX_E_INVALID, "%s: \"%s\" has no fitting " COUNTS ", or is there twice",
                             SHOW(path), SHOW(sum->name));
        struct imatrix_entry *e = imatrix_add(m, name, (uint32_t)n, (uint32_t)cols);
        st = e ? copy(path, sum, e->sum, err) : ckpt_no_memory(err, path);
        if (st == DBRX_OK)
            st = copy(path, count, e->count, err);
    }
    if (st == DBRX_OK && !m->n)
        st = ckpt_fail(err, DBRX_E_INVALID, "%s is no importance matrix: it has no tensor *" SUMS, SHOW(path));
    return st;
}

dbrx_status imatrix_open(const char *path, struct imatrix **out, struct dbrx_error *err)
{
    struct st_file f = { .fd = -1 };
    struct gguf g = { 0 };
    struct st_list list = { 0 };
    struct imatrix *m = calloc(1, sizeof *m);
    dbrx_status st = m ? gguf_open(AT_FDCWD, path, 0, &f, &g, &list, err) : ckpt_no_memory(err, path);
    if (st == DBRX_OK)
        st = read_entries(path, &list, m, err);
    st_list_free(&list);
    gguf_free(&g);
    st_close(&f);
    if (st != DBRX_OK) {
        imatrix_free(m);
        m = NULL;
    }
    *out = m;
    return st;
}

static unsigned char *append(unsigned char *at, const float *x, size_t n)
{
    memcpy(at, x, n * sizeof *x);
    at += n * sizeof *x;
    size_t pad = (GGUF_ALIGN - n * sizeof *x % GGUF_ALIGN) % GGUF_ALIGN;
    memset(at, 0, pad);
    return at + pad;
}

unsigned char *imatrix_bytes(const struct imatrix *m, const char *from, uint32_t chunks, uint32_t chunk_size,
                             size_t *n)
{
    struct gguf_head h = { 0 };
    char name[300];
    gguf_put_text(&h, "general.type", "imatrix", 7);
    gguf_put_texts(&h, "imatrix.datasets", 1);
    gguf_add_text(&h, from, strlen(from));
    gguf_put_u32(&h, "imatrix.chunk_count", chunks);
    gguf_put_u32(&h, "imatrix.chunk_size", chunk_size);
    for (size_t i = 0; i < m->n; i++) {
        const struct imatrix_entry *e = &m->v[i];
        const uint64_t sums[2] = { e->n_matrices, e->cols }, counts[2] = { e->n_matrices, 1 };
        snprintf(name, sizeof name, "%s" SUMS, e->name);
        gguf_put_tensor(&h, name, 2, sums, DBRX_F32);
        snprintf(name, sizeof name, "%s" COUNTS, e->name);
        gguf_put_tensor(&h, name, 2, counts, DBRX_F32);
    }
    uint64_t data = h.data;
    size_t head;
    unsigned char *p = gguf_head_bytes(&h, &head), *all = p ? realloc(p, head + data) : NULL;
    if (!all) {
        free(p);
        return NULL;
    }
    unsigned char *at = all + head;
    for (size_t i = 0; i < m->n; i++) {
        at = append(at, m->v[i].sum, (size_t)m->v[i].n_matrices * m->v[i].cols);
        at = append(at, m->v[i].count, m->v[i].n_matrices);
    }
    *n = head + data;
    return all;
}
