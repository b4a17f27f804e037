/* bench/mkmodel.c -- a GGUF file of random weights of a named shape, for measuring.
 *
 *   make bench/mkmodel && bench/mkmodel --shape tiny|mini|9b|18b|dbrx --type T [--seed N] OUT.gguf
 *
 * Streamed: a few MB of random blocks are made for each tensor, which is filled from random
 * places of them (shape.h).  There is no tokenizer inside: the model takes ids. */
#define _GNU_SOURCE
#include "backends/graph/dtype.h"
#include "backends/model/checkpoint.h"
#include "backends/model/gguf_write.h"
#include "bench/shape.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { POOL = 1 << 20 };                   /* values */

struct job {
    uint32_t type;
    struct gguf_head head;
    FILE *f;
    uint64_t done, total;
    unsigned char *pool;                   /* [POOL] of `type`, and of F32 */
    float *ones;
};

static dbrx_status add(void *ctx, const struct ckpt_slot *s)
{
    struct job *j = ctx;
    uint32_t type = shape_type(s, j->type);
    if (type == UINT32_MAX) {
        fprintf(stderr, "mkmodel: rows of %s are no whole number of %s blocks\n", s->gguf, dtype_name(j->type));
        return DBRX_E_INVALID;
    }
    gguf_put_tensor(&j->head, s->gguf, s->gguf_rank, s->gguf_want, type);
    return DBRX_OK;
}

static dbrx_status write_tensor(void *ctx, const struct ckpt_slot *s)
{
    static const char zeros[GGUF_ALIGN];
    struct job *j = ctx;
    uint32_t type = shape_type(s, j->type);
    uint64_t n = 1;
    for (uint32_t i = 0; i < s->gguf_rank; i++)
        n *= s->gguf_want[i];
    size_t block = dtype_block(type), bytes = dtype_block_bytes(type);
    int norm = s->gguf_rank == 1;
    if (!norm)
        shape_fill(j->pool, POOL, type, shape_sd(s));
    for (uint64_t left = n; left; ) {
        uint64_t len = left < POOL / 2 ? left : POOL / 2, at = shape_random() % (POOL / 2 / block);
        const void *from = norm ? (const void *)j->ones : j->pool + at * bytes;
        if (fwrite(from, bytes, len / block, j->f) != len / block)
            return DBRX_E_IO;
        left -= len;
    }
    uint64_t size = dtype_bytes(type, n), pad = (GGUF_ALIGN - size % GGUF_ALIGN) % GGUF_ALIGN;
    if (fwrite(zeros, 1, pad, j->f) != pad)
        return DBRX_E_IO;
    j->done += size + pad;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%.1f of %.1f GB ", (double)j->done / 1e9, (double)j->total / 1e9);
    return DBRX_OK;
}

static int usage(void)
{
    fputs("usage: mkmodel --shape " SHAPES " --type T [--seed N] OUT.gguf\nT: " SHAPE_TYPES "\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct job j = { .type = UINT32_MAX };
    struct dbrx_model_desc d = { .struct_size = sizeof d };
    const char *out = NULL, *shape = NULL;
    char name[64];
    for (int i = 1; i < argc; i++) {
        int more = i + 1 < argc;
        if (!strcmp(argv[i], "--shape") && more)
            shape = argv[++i];
        else if (!strcmp(argv[i], "--type") && more)
            j.type = dtype_named(argv[++i]);
        else if (!strcmp(argv[i], "--seed") && more)
            shape_seed(strtoull(argv[++i], NULL, 10));
        else if (argv[i][0] != '-' && !out)
            out = argv[i];
        else
            return usage();
    }
    if (!out || !shape || j.type == UINT32_MAX || !shape_named(shape, &d.config))
        return usage();
    struct dbrx_config *c = &d.config;
    d.layer = calloc(c->n_layers, sizeof *d.layer);
    j.pool = malloc(POOL * sizeof(float));
    j.ones = malloc(POOL / 2 * sizeof(float));
    if (!d.layer || !j.pool || !j.ones) {
        fputs("mkmodel: out of memory\n", stderr);
        return 1;
    }
    for (size_t i = 0; i < POOL / 2; i++)
        j.ones[i] = 1;
    snprintf(name, sizeof name, "random %s", shape);
    gguf_put_config(&j.head, c, name);
    gguf_put_text(&j.head, "tokenizer.ggml.model", "no_vocab", 8);
    if (ckpt_each(&d, add, &j) != DBRX_OK)
        return 1;
    j.total = j.head.data;
    size_t n;
    static char buf[4 << 20];
    unsigned char *head = gguf_head_bytes(&j.head, &n);
    j.f = fopen(out, "wb");
    if (j.f)                               /* large pages in the page cache, as dbrx quantize leaves */
        setvbuf(j.f, buf, _IOFBF, sizeof buf);
    int failed = !head || !j.f || fwrite(head, 1, n, j.f) != n || ckpt_each(&d, write_tensor, &j) != DBRX_OK;
    failed |= j.f && fclose(j.f) != 0;
    if (failed)
        fprintf(stderr, "\nmkmodel: %s: %s\n", out, strerror(errno));
    else if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
    return failed;
}
