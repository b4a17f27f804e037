/* tests/conformance/model.c -- small random DBRX models in a mapped temporary file.
 * Sizes are chosen to be awkward: odd ffn, heads of 6, one expert, all experts, one KV head,
 * as many KV heads as query heads, vocabularies that divide by nothing. */
#include "tests/conformance/conformance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MIXED = -1 };

const struct shape shapes[] = {
    /* name       L   d   h kv  ffn  E  k  V    clip  theta  p  act       dtype   ties */
    { "plain",    3,  32, 4, 2, 37,  8, 2, 61,  0.8f, 5e5f,  1, DBRX_SILU, DBRX_BF16, false },
    { "one-kv",   2,  24, 4, 1, 37,  5, 1, 50,  0,    1e4f,  0, DBRX_SILU, DBRX_F32,  false },
    { "all-kv",   2,  48, 6, 6, 20, 16, 4, 77,  8,    5e5f,  2, DBRX_GELU, DBRX_F16,  false },
    { "all-exp",  2,  16, 2, 1, 11,  4, 4, 41,  0.3f, 1e4f,  1, DBRX_SILU, MIXED,     false },
    { "ties",     2,  32, 4, 4, 19,  6, 3, 53,  0,    5e5f,  1, DBRX_GELU, MIXED,     true },
    { "wide",     1, 136, 4, 2, 70,  4, 2, 301, 2,    5e5f,  0, DBRX_SILU, MIXED,     false },
    { "least",    1,  10, 5, 5,  1,  1, 1, 7,   0.5f, 1e3f,  2, DBRX_SILU, DBRX_BF16, false },
};
const size_t n_shapes = sizeof shapes / sizeof *shapes;

/* splitmix64 */
static uint64_t next64(uint64_t *s)
{
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double next_random(uint64_t *s)
{
    return (double)(next64(s) >> 11) * 0x1p-53;
}

uint32_t below(uint64_t *s, uint32_t n)
{
    return (uint32_t)(next_random(s) * n);
}

static double normal(uint64_t *s)
{
    return sqrt(-2 * log(1 - next_random(s))) * cos(6.283185307179586 * next_random(s));
}

size_t dtype_size(uint32_t dtype)
{
    return dtype == DBRX_F32 ? 4 : 2;
}

static uint16_t to_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* the test's own conversion, by arithmetic rather than bits: independent of dequant.c */
static uint16_t to_f16(float x)
{
    int e;
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double m = frexp(fabs(x), &e);         /* m in [0.5, 1): x = m * 2^e */
    if (m == 0)
        return sign;
    if (e - 1 < -14)                       /* subnormal: units of 2^-24 */
        return sign | (uint16_t)nearbyint(ldexp(m, e + 24));
    int man = (int)nearbyint(ldexp(m, 11)) - 1024;             /* 1024 carries over */
    int bits = ((e - 1 + 15) << 10) + man;
    return sign | (uint16_t)(bits > 0x7c00 ? 0x7c00 : bits);
}

static float from_f16(uint16_t h)
{
    int e = h >> 10 & 31, man = h & 1023;
    double x = e == 31 ? (man ? NAN : INFINITY)
             : e ? ldexp(1024 + man, e - 25) : ldexp(man, -24);
    return (float)(h & 0x8000 ? -x : x);
}

static float from_bf16(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}

void store(void *at, uint32_t dtype, size_t i, float x)
{
    uint16_t h = dtype == DBRX_F16 ? to_f16(x) : to_bf16(x);
    if (dtype == DBRX_F32)
        memcpy((char *)at + 4 * i, &x, 4);
    else
        memcpy((char *)at + 2 * i, &h, 2);
}

float load(const struct dbrx_tensor *t, size_t i)
{
    float x;
    uint16_t h;
    if (t->dtype == DBRX_F32) {
        memcpy(&x, (const char *)t->data + 4 * i, 4);
        return x;
    }
    memcpy(&h, (const char *)t->data + 2 * i, 2);
    return t->dtype == DBRX_F16 ? from_f16(h) : from_bf16(h);
}

/* ---- building ------------------------------------------------------------------ */

struct builder {
    const struct shape *shape;
    struct random_model *m;
    uint64_t rng;
    size_t used;                           /* bytes so far                                 */
    char *write;                           /* where to, or NULL while only measuring       */
    uint64_t file_at;                      /* offset of byte 0 in the file                 */
    unsigned n_tensors;
};

/* rows x cols, each element mean + spread * normal */
static void add(struct builder *b, struct dbrx_tensor *t, uint64_t rows, uint64_t cols,
                double mean, double spread)
{
    static const uint32_t mixed[] = { DBRX_F32, DBRX_F16, DBRX_BF16 };
    uint32_t dtype = b->shape->dtype == MIXED ? mixed[b->n_tensors++ % 3]
                                              : (uint32_t)b->shape->dtype;
    size_t n = rows * cols, bytes = n * dtype_size(dtype);
    if (b->write) {
        *t = (struct dbrx_tensor){
            .data = b->write + b->used, .bytes = bytes, .offset = b->file_at + b->used,
            .fd = b->m->fd, .dtype = dtype, .rank = rows == 1 ? 1 : 2,
            .dim = { rows == 1 ? cols : rows, rows == 1 ? 0 : cols },
        };
        for (size_t i = 0; i < n; i++)
            store(b->write + b->used, dtype, i, (float)(mean + spread * normal(&b->rng)));
    }
    b->used += bytes;
}

/* Equal rows.  The first layer's router is all zeros: equal in any arithmetic.  Later ones
 * have each even row twice. */
static void make_ties(const struct shape *s, const struct dbrx_tensor *t, uint32_t l)
{
    size_t row = s->d_model * dtype_size(t->dtype);
    char *data = (char *)t->data;
    for (uint32_t e = 0; e < s->experts; e++)
        if (l == 0)
            memset(data + e * row, 0, row);
        else if (e & 1)
            memcpy(data + e * row, data + (e - 1) * row, row);
}

static void add_all(struct builder *b)
{
    const struct shape *s = b->shape;
    uint32_t d = s->d_model, qkv = d + 2 * s->kv_heads * (d / s->heads), ffn = s->experts * s->d_ffn;
    struct dbrx_model_desc *desc = &b->m->desc;
    double unit = 1 / sqrt(d);
    add(b, &desc->embed, s->vocab, d, 0, 1);
    for (uint32_t l = 0; l < s->layers; l++) {
        struct dbrx_layer *y = &b->m->layer[l];
        add(b, &y->norm_1, 1, d, 1, 0.2);
        add(b, &y->wqkv, qkv, d, 0, 1.5 * unit);
        add(b, &y->wo, d, d, 0, 2 * unit);
        add(b, &y->norm_2, 1, d, 1, 0.2);
        add(b, &y->router, s->experts, d, 0, 2 * unit);
        if (b->write && s->ties)
            make_ties(s, &y->router, l);
        add(b, &y->w1, ffn, d, 0, 1.5 * unit);
        add(b, &y->v1, ffn, d, 0, 1.5 * unit);
        add(b, &y->w2, ffn, d, 0, 2 / sqrt(s->d_ffn));
    }
    add(b, &desc->norm_f, 1, d, 1, 0.2);
    add(b, &desc->lm_head, s->vocab, d, 0, unit);
}

void random_model_make(struct random_model *m, const struct shape *s, unsigned seed)
{
    *m = (struct random_model){ .fd = -1 };
    m->layer = calloc(s->layers, sizeof *m->layer);
    struct builder b = { .shape = s, .m = m };
    add_all(&b);

    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = b.used;
    size_t pages = (size + page - 1) / page * page;
    FILE *f = tmpfile();                   /* the data ends where the file's last page does */
    if (!f || (m->fd = dup(fileno(f))) < 0 || ftruncate(m->fd, (off_t)pages))
        give_up("no temporary file for a model of %zu bytes", size);
    fclose(f);
    m->base_len = pages + 2 * page;
    m->base = mmap(NULL, m->base_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->base == MAP_FAILED ||
        mmap(m->base + page, pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd, 0) ==
            MAP_FAILED)
        give_up("cannot map a temporary file");

    struct dbrx_model_desc *desc = &m->desc;
    *desc = (struct dbrx_model_desc){
        .struct_size = sizeof *desc, .layer = m->layer, .layer_size = sizeof *m->layer,
        .w2_layout = DBRX_W2_FFN_ROWS,
        .config = {
            .struct_size = sizeof desc->config, .n_layers = s->layers, .d_model = s->d_model,
            .n_heads = s->heads, .n_kv_heads = s->kv_heads, .d_ffn = s->d_ffn,
            .n_experts = s->experts, .top_k = s->top_k, .n_vocab = s->vocab, .max_seq = 2048,
            .clip_qkv = s->clip, .rope_theta = s->theta, .ln_eps = 1e-5f,
            .moe_norm_p = s->norm_p, .act_fn = s->act,
        },
    };
    for (size_t i = 0; i < sizeof desc->fingerprint; i++)
        desc->fingerprint[i] = (uint8_t)(seed + i);
    b = (struct builder){ .shape = s, .m = m, .rng = seed, .file_at = pages - size,
                          .write = m->base + page + (pages - size) };
    add_all(&b);
    if (mprotect(m->base + page, pages, PROT_READ))
        give_up("cannot make the model read-only");
}

void random_model_free(struct random_model *m)
{
    munmap(m->base, m->base_len);
    close(m->fd);
    free(m->layer);
}

/* through the file: the mapping is shared and read-only, the backend may have read either */
void random_model_poison(struct random_model *m, const struct dbrx_tensor *t, size_t index,
                         bool on)
{
    static unsigned char old[4];
    unsigned char nan[4];
    size_t size = dtype_size(t->dtype);
    off_t at = (off_t)(t->offset + index * size);
    store(nan, DBRX_F32, 0, NAN);
    if (t->dtype != DBRX_F32)              /* 0x7e00 is a NaN as F16, 0x7fc0 as BF16 */
        memcpy(nan, &(uint16_t){ t->dtype == DBRX_F16 ? 0x7e00 : 0x7fc0 }, 2);
    if ((on && pread(m->fd, old, size, at) != (ssize_t)size) ||
        pwrite(m->fd, on ? nan : old, size, at) != (ssize_t)size)
        give_up("cannot write to the temporary file");
}
