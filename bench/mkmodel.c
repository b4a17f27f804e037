/* bench/mkmodel.c -- a GGUF file of random weights of a named shape, for measuring.
 *
 *   make bench/mkmodel && bench/mkmodel --shape mini|9b|18b|dbrx --type T [--seed N] OUT.gguf
 *
 * Streamed: a few MB of random blocks are made, scaled so that a row's product with a vector
 * of unit elements is of size one (activations stay finite and routing varied), and every
 * tensor is filled from random places of them.  Router and norms are F32, as quantised files
 * have them.  There is no tokenizer inside: the model takes ids. */
#define _GNU_SOURCE
#include "backends/graph/dequant.h"
#include "backends/model/checkpoint.h"
#include "backends/model/gguf_write.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* 9b: llm-foundry's; 18b: between that and DBRX, about 18 billion parameters */
static const struct { const char *name; struct dbrx_config c; } shapes[] = {
    { "mini", { .n_layers = 8, .d_model = 1024, .n_heads = 8, .n_kv_heads = 2, .d_ffn = 1792, .max_seq = 32768 } },
    { "9b", { .n_layers = 24, .d_model = 2048, .n_heads = 16, .n_kv_heads = 8, .d_ffn = 3584, .max_seq = 32768 } },
    { "18b", { .n_layers = 32, .d_model = 2560, .n_heads = 20, .n_kv_heads = 4, .d_ffn = 4480, .max_seq = 32768 } },
    { "dbrx", { .n_layers = 40, .d_model = 6144, .n_heads = 48, .n_kv_heads = 8, .d_ffn = 10752, .max_seq = 32768 } },
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* Where a block has its scale and its minimum, both binary16; -1: none */
static const struct { uint32_t type; int scale, min; } places[] = {
    { DBRX_Q8_0, 0, -1 }, { DBRX_Q4_0, 0, -1 }, { DBRX_Q4_1, 0, 2 }, { DBRX_Q5_0, 0, -1 },
    { DBRX_Q5_1, 0, 2 }, { DBRX_Q2_K, 80, 82 }, { DBRX_Q3_K, 108, -1 }, { DBRX_Q4_K, 0, 2 },
    { DBRX_Q5_K, 0, 2 }, { DBRX_Q6_K, 208, -1 }, { DBRX_IQ4_NL, 0, -1 }, { DBRX_IQ4_XS, 0, -1 },
};
enum { N_PLACES = sizeof places / sizeof *places, POOL = 1 << 20 };    /* values of the pool */

static uint64_t rng;
static uint64_t next(void)                 /* splitmix64 */
{
    uint64_t z = rng += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static float normal(void)                  /* the sum of four uniforms, of variance 1 */
{
    uint64_t a = next();
    double s = 0;
    for (int i = 0; i < 4; i++)
        s += (double)(a >> 16 * i & 0xffff) / 65536 - 0.5;
    return (float)(s * sqrt(3));
}

static uint16_t half(double x)             /* binary16 of a positive number, cut */
{
    int e;
    double m = frexp(x, &e);               /* x = m 2^e, m in [0.5, 1) */
    if (e < -13)
        return (uint16_t)ldexp(x, 24);
    return (uint16_t)(((e + 14) << 10) + (int)(m * 2048) - 1024);
}

static void set_halves(unsigned char *pool, uint32_t type, size_t n, double scale, double min)
{
    for (int i = 0; i < N_PLACES; i++)
        for (size_t b = 0; places[i].type == type && b < n; b++) {
            unsigned char *p = pool + b * dtype_block_bytes(type);
            uint16_t h = half(scale), l = half(min);
            memcpy(p + places[i].scale, &h, 2);
            if (places[i].min >= 0)        /* Q4_1 and Q5_1 add it, "K" types subtract it */
                l |= type == DBRX_Q4_1 || type == DBRX_Q5_1 ? 0x8000 : 0,
                memcpy(p + places[i].min, &l, 2);
        }
}

/* the mean and the standard deviation */
static void moments(const unsigned char *pool, uint32_t type, double *mean, double *sd)
{
    enum { N = 1 << 16 };
    static float x[N];
    double s = 0, ss = 0;
    dequant(x, pool, type, 0, N);
    for (int i = 0; i < N; i++)
        s += x[i], ss += (double)x[i] * x[i];
    *mean = s / N;
    *sd = sqrt(ss / N - *mean * *mean);
}

/* POOL values of standard deviation sd about mean 0, as type */
static void fill_pool(unsigned char *pool, uint32_t type, double sd)
{
    size_t blocks = POOL / dtype_block(type), bytes = blocks * dtype_block_bytes(type);
    if (dtype_block(type) == 1) {
        for (size_t i = 0; i < POOL; i++) {
            float x = normal() * (float)sd;
            uint32_t u;
            memcpy(&u, &x, 4);
            uint16_t b = (uint16_t)(u >> 16), h = (uint16_t)(half(fabs((double)x)) | (u >> 16 & 0x8000));
            memcpy(pool + i * dtype_block_bytes(type), type == DBRX_F32 ? (void *)&x
                   : type == DBRX_BF16 ? (void *)&b : (void *)&h, dtype_block_bytes(type));
        }
        return;
    }
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t r = next();
        memcpy(pool + i, &r, bytes - i < 8 ? bytes - i : 8);
    }
    double mean, all, without, spread;
    set_halves(pool, type, blocks, 1, 0);  /* what the scale alone gives, then the minimum's share */
    moments(pool, type, &without, &spread);
    set_halves(pool, type, blocks, 1, 1);
    moments(pool, type, &mean, &all);
    double min = mean != without ? fabs(without / (without - mean)) : 0;
    set_halves(pool, type, blocks, 1, min);
    moments(pool, type, &mean, &all);
    set_halves(pool, type, blocks, sd / all, min * sd / all);
}

struct job {
    uint32_t type;
    struct gguf_head head;
    FILE *f;
    uint64_t done, total;
    unsigned char *pool;                   /* [POOL] of `type`, and of F32 */
    float *ones;
};

static uint32_t type_of(const struct job *j, const struct ckpt_slot *s)
{
    int f32 = s->gguf_rank == 1 || strstr(s->gguf, "ffn_gate_inp");
    return f32 ? DBRX_F32 : s->gguf_want[s->gguf_rank - 1] % dtype_block(j->type) == 0 ? j->type : UINT32_MAX;
}

static dbrx_status add(void *ctx, const struct ckpt_slot *s)
{
    struct job *j = ctx;
    uint32_t type = type_of(j, s);
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
    uint32_t type = type_of(j, s);
    uint64_t n = 1, cols = s->gguf_want[s->gguf_rank - 1];
    for (uint32_t i = 0; i < s->gguf_rank; i++)
        n *= s->gguf_want[i];
    size_t block = dtype_block(type), bytes = dtype_block_bytes(type);
    int norm = s->gguf_rank == 1;
    /* LayerNorm hands on elements of size one; the embedding may be as large as that.  The router
     * and the head are sharper, so that choices differ from token to token. */
    double sd = !strcmp(s->gguf, "token_embd.weight") ? 1 : 1 / sqrt((double)cols);
    if (strstr(s->gguf, "ffn_gate_inp") || !strcmp(s->gguf, "output.weight"))
        sd *= 3;
    if (!norm)
        fill_pool(j->pool, type, sd);
    for (uint64_t left = n; left; ) {
        uint64_t len = left < POOL / 2 ? left : POOL / 2, at = next() % (POOL / 2 / block);
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
    fputs("usage: mkmodel --shape mini|9b|18b|dbrx --type T [--seed N] OUT.gguf\n"
          "T: f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs\n", stderr);
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
            rng = strtoull(argv[++i], NULL, 10);
        else if (argv[i][0] != '-' && !out)
            out = argv[i];
        else
            return usage();
    }
    for (int i = 0; shape && i < N_SHAPES; i++)
        if (!strcasecmp(shape, shapes[i].name))
            d.config = shapes[i].c;
    if (!out || j.type == UINT32_MAX || !d.config.n_layers)
        return usage();
    struct dbrx_config *c = &d.config;
    c->n_experts = 16, c->top_k = 4, c->n_vocab = 100352;
    c->clip_qkv = 8, c->rope_theta = 500000, c->ln_eps = 1e-5f, c->moe_norm_p = 1;
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
