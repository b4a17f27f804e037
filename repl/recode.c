/* repl/recode.c -- see recode.h. */
#define _GNU_SOURCE
#include "repl/recode.h"

#include "backends/graph/dequant.h"
#include "backends/model/quant.h"
#include "repl/mapped.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TILE = 64,                          /* rows a thread makes at a time             */
       CHUNK = 16 << 20 };                 /* bytes written at a time, about            */

static dbrx_status count_slot(void *n, const struct ckpt_slot *s)
{
    (void)s;
    ++*(size_t *)n;
    return DBRX_OK;
}

static dbrx_status list_slot(void *ctx, const struct ckpt_slot *s)
{
    struct recode *r = ctx;
    r->v[r->n++] = (struct recode_tensor){ .slot = *s, .type = s->t->dtype };
    return DBRX_OK;
}

int recode_list(struct recode *r)
{
    struct dbrx_model_desc *d = (struct dbrx_model_desc *)&r->in->desc;
    size_t n = 0;
    ckpt_each(d, count_slot, &n);
    r->n = 0;
    r->v = calloc(n, sizeof *r->v);
    if (!r->v)
        return -1;
    ckpt_each(d, list_slot, r);
    return 0;
}

void recode_free(struct recode *r)
{
    free(r->v);
    r->v = NULL;
}

static int is_down(const struct recode_tensor *t)
{
    return strstr(t->slot.gguf, "ffn_down_exps") != NULL;
}

void recode_shape(const struct recode *r, const struct recode_tensor *t, uint64_t *rows, uint64_t *cols)
{
    const struct dbrx_config *c = &r->in->desc.config;
    const struct ckpt_slot *s = &t->slot;
    *rows = s->rank == 1 ? 1 : s->want[0];
    *cols = s->rank == 1 ? s->want[0] : s->want[1];
    if (is_down(t) && r->to_gguf) {
        *rows = (uint64_t)c->n_experts * c->d_model;
        *cols = c->d_ffn;
    }
}

uint64_t recode_bytes(const struct recode *r, const struct recode_tensor *t)
{
    uint64_t rows, cols;
    recode_shape(r, t, &rows, &cols);
    return dtype_bytes(t->type, rows * cols);
}

/* ---- rows ---- */

struct part {                              /* rows first .. first + n of one tensor, by several threads */
    const struct recode *r;
    const struct recode_tensor *t;
    uint64_t first, n, cols, per_weight;
    size_t row_bytes;
    unsigned char *out;                    /* [n][row_bytes]                            */
    uint64_t turned;                       /* rows of one expert when w2 changes its order; or 0 */
    _Atomic uint64_t next;                 /* the next tile's first row, from 0          */
    _Atomic int failed;                    /* no memory                                  */
    _Atomic int bad;                       /* a value that is no number                  */
    pthread_mutex_t lock;                  /* of the sums                                */
    double error, power;
};

/* x[n][cols] = the tile's rows, of one expert when they are turned */
static void fetch(const struct part *p, uint64_t row, uint64_t n, float *x, float *line)
{
    const struct dbrx_tensor *src = p->t->slot.t;
    if (!p->turned) {
        dequant(x, src->data, src->dtype, row * p->cols, n * p->cols);
        return;
    }
    uint64_t expert = row / p->turned, at = row % p->turned;
    for (uint64_t c = 0; c < p->cols; c++) {
        dequant(line, src->data, src->dtype, (expert * p->cols + c) * p->turned + at, n);
        for (uint64_t i = 0; i < n; i++)
            x[i * p->cols + c] = line[i];
    }
}

static void encode(struct part *p, uint64_t row, uint64_t n, const float *x, float *back)
{
    double error = 0, power = 0;
    int quantised = dtype_block(p->t->type) > 1;
    for (uint64_t i = 0; i < n; i++) {
        const float *from = x + i * p->cols;
        unsigned char *to = p->out + (row - p->first + i) * p->row_bytes;
        const float *weight = p->t->weight ? p->t->weight + (row + i) / p->per_weight * p->cols : NULL;
        for (uint64_t c = 0; quantised && c < p->cols; c++)
            if (!isfinite(from[c]))
                p->bad = 1;
        quant_row(p->t->type, from, p->cols, weight, to);
        if (!quantised)
            continue;
        dequant(back, to, p->t->type, 0, p->cols);
        for (uint64_t c = 0; c < p->cols; c++) {
            error += ((double)from[c] - back[c]) * ((double)from[c] - back[c]);
            power += (double)from[c] * from[c];
        }
    }
    pthread_mutex_lock(&p->lock);
    p->error += error;
    p->power += power;
    pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg)
{
    struct part *p = arg;
    float *x = malloc((TILE + 1) * p->cols * sizeof *x), line[TILE];
    uint64_t i;
    if (!x)
        p->failed = 1;
    while (x && (i = atomic_fetch_add(&p->next, TILE)) < p->n) {
        uint64_t row = p->first + i, left = p->n - i < TILE ? p->n - i : TILE;
        for (uint64_t n; left; row += n, left -= n) {
            n = p->turned && p->turned - row % p->turned < left ? p->turned - row % p->turned : left;
            fetch(p, row, n, x, line);
            encode(p, row, n, x, x + TILE * p->cols);
        }
    }
    free(x);
    return NULL;
}

static void run_part(struct part *p, unsigned threads)
{
    enum { MAX = 64 };
    pthread_t other[MAX];
    unsigned n = 0;
    while (n + 1 < threads && n < MAX && !pthread_create(&other[n], NULL, work, p))
        n++;
    work(p);
    while (n)
        pthread_join(other[--n], NULL);
}

/* What was read of the file need not stay in our memory */
static void forget(const void *data, uint64_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)data + page - 1) / page * page, to = ((uintptr_t)data + bytes) / page * page;
    if (to > from)
        madvise((void *)from, to - from, MADV_DONTNEED);
}

/* ---- tensors ---- */

static int write_tensor(struct recode *r, struct recode_tensor *t, unsigned threads, uint64_t done, uint64_t total)
{
    const struct dbrx_config *c = &r->in->desc.config;
    const struct dbrx_tensor *src = t->slot.t;
    uint64_t rows, cols, at = 0, bytes = recode_bytes(r, t);
    recode_shape(r, t, &rows, &cols);
    struct part p = { .r = r, .t = t, .cols = cols, .row_bytes = dtype_bytes(t->type, cols),
                      .lock = PTHREAD_MUTEX_INITIALIZER };
    if (is_down(t) && r->to_gguf != r->in->gguf)
        p.turned = r->to_gguf ? c->d_model : c->d_ffn;
    p.per_weight = t->n_weights ? rows / t->n_weights : rows;
    int same = t->type == src->dtype && !p.turned, ended = 0;
    uint64_t step = CHUNK / p.row_bytes > TILE * threads ? CHUNK / p.row_bytes : TILE * threads;
    /* rows are done with one by one, or, when they are turned, an expert at a time */
    uint64_t unit = p.turned ? p.turned : 1, unit_bytes = dtype_bytes(src->dtype, unit * cols), forgotten = 0;
    p.out = same ? NULL : malloc((step < rows ? step : rows) * p.row_bytes);
    if (!same && !p.out) {
        snprintf(r->why, sizeof r->why, "out of memory");
        return -1;
    }
    for (; at < rows && !ended; at += p.n) {
        p.first = at;
        p.n = rows - at < step ? rows - at : step;
        p.next = 0;
        const void *out = p.out;
        if (same)
            mapped_touch(out = (const char *)src->data + at * p.row_bytes, p.n * p.row_bytes);
        else
            run_part(&p, threads);
        struct dbrx_error gone;
        if (mapped_lost(&gone) != DBRX_OK) {
            snprintf(r->why, sizeof r->why, "%.*s", (int)strcspn(gone.text, ";"), gone.text);
            free(p.out);
            return -1;
        }
        if (p.failed || p.bad) {
            snprintf(r->why, sizeof r->why, p.bad ? "%s holds a value that is no number: it cannot be quantised"
                     : "out of memory for %s", t->slot.gguf);
            free(p.out);
            return -1;
        }
        ended = r->write(r->ctx, out, p.n * p.row_bytes) ||
                r->step(r->ctx, done + (at + p.n) * p.row_bytes, total);
        forget((const char *)src->data + forgotten * unit_bytes, ((at + p.n) / unit - forgotten) * unit_bytes);
        forgotten = (at + p.n) / unit;
    }
    static const char zeros[64];
    size_t pad = r->align > 1 ? (r->align - bytes % r->align) % r->align : 0;
    if (!ended && pad)
        ended = r->write(r->ctx, zeros, pad);
    t->error = p.error;
    t->power = p.power;
    free(p.out);
    return ended;
}

int recode_run(struct recode *r, unsigned threads)
{
    uint64_t total = 0, done = 0;
    int ended = 0;
    for (size_t i = 0; i < r->n; i++)
        total += recode_bytes(r, &r->v[i]);
    for (size_t i = 0; i < r->n && !ended; i++) {
        ended = write_tensor(r, &r->v[i], threads, done, total);
        done += recode_bytes(r, &r->v[i]);
    }
    return ended;
}
