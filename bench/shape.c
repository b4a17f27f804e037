/* bench/shape.c -- see shape.h. */
#define _GNU_SOURCE
#include "bench/shape.h"

#include "backends/graph/dequant.h"
#include "plugins/fail.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

/* tiny: for tests; 9b: llm-foundry's; 18b: between that and DBRX, about 18 billion parameters */
static const struct { const char *name; struct dbrx_config c; } shapes[] = {
    { "tiny", { .n_layers = 2, .d_model = 256, .n_heads = 4, .n_kv_heads = 2, .d_ffn = 512, .n_vocab = 1024 } },
    { "mini", { .n_layers = 8, .d_model = 1024, .n_heads = 8, .n_kv_heads = 2, .d_ffn = 1792 } },
    { "9b", { .n_layers = 24, .d_model = 2048, .n_heads = 16, .n_kv_heads = 8, .d_ffn = 3584 } },
    { "18b", { .n_layers = 32, .d_model = 2560, .n_heads = 20, .n_kv_heads = 4, .d_ffn = 4480 } },
    { "dbrx", { .n_layers = 40, .d_model = 6144, .n_heads = 48, .n_kv_heads = 8, .d_ffn = 10752 } },
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

int shape_named(const char *name, struct dbrx_config *c)
{
    for (int i = 0; i < N_SHAPES; i++)
        if (!strcasecmp(name, shapes[i].name)) {
            *c = shapes[i].c;
            c->struct_size = sizeof *c;
            c->n_vocab = c->n_vocab ? c->n_vocab : 100352;
            c->n_experts = 16, c->top_k = 4, c->max_seq = 32768;
            c->clip_qkv = 8, c->rope_theta = 500000, c->ln_eps = 1e-5f, c->moe_norm_p = 1;
            return 1;
        }
    return 0;
}

uint32_t shape_type(const struct ckpt_slot *s, uint32_t type)
{
    int f32 = s->gguf_rank == 1 || strstr(s->gguf, "ffn_gate_inp");
    return f32 ? DBRX_F32 : s->gguf_want[s->gguf_rank - 1] % dtype_block(type) == 0 ? type : UINT32_MAX;
}

double shape_sd(const struct ckpt_slot *s)
{
    if (s->gguf_rank == 1)
        return 0;
    double sd = !strcmp(s->gguf, "token_embd.weight") ? 1 : 1 / sqrt((double)s->gguf_want[s->gguf_rank - 1]);
    return strstr(s->gguf, "ffn_gate_inp") || !strcmp(s->gguf, "output.weight") ? 3 * sd : sd;
}

/* Where a block has its scale and its minimum, both binary16; -1: none */
static const struct { uint32_t type; int scale, min; } places[] = {
    { DBRX_Q8_0, 0, -1 }, { DBRX_Q4_0, 0, -1 }, { DBRX_Q4_1, 0, 2 }, { DBRX_Q5_0, 0, -1 },
    { DBRX_Q5_1, 0, 2 }, { DBRX_Q2_K, 80, 82 }, { DBRX_Q3_K, 108, -1 }, { DBRX_Q4_K, 0, 2 },
    { DBRX_Q5_K, 0, 2 }, { DBRX_Q6_K, 208, -1 }, { DBRX_IQ4_NL, 0, -1 }, { DBRX_IQ4_XS, 0, -1 },
};
enum { N_PLACES = sizeof places / sizeof *places };

static uint64_t rng;

void shape_seed(uint64_t seed)
{
    rng = seed;
}

uint64_t shape_random(void)                /* splitmix64 */
{
    uint64_t z = rng += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static float normal(void)                  /* the sum of four uniforms, of variance 1 */
{
    uint64_t a = shape_random();
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

void shape_fill(unsigned char *pool, size_t n, uint32_t type, double sd)
{
    size_t blocks = n / dtype_block(type), bytes = blocks * dtype_block_bytes(type);
    if (dtype_block(type) == 1) {
        for (size_t i = 0; i < n; i++) {
            float x = sd > 0 ? normal() * (float)sd : 1;
            uint32_t u;
            memcpy(&u, &x, 4);
            uint16_t b = (uint16_t)(u >> 16), h = (uint16_t)(half(fabs((double)x)) | (u >> 16 & 0x8000));
            memcpy(pool + i * dtype_block_bytes(type), type == DBRX_F32 ? (void *)&x
                   : type == DBRX_BF16 ? (void *)&b : (void *)&h, dtype_block_bytes(type));
        }
        return;
    }
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t r = shape_random();
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

/* ---- a model without a file ---- */

enum { HALF = 8 << 20, POOLS = 16 };       /* bytes at least; the maps of 132B in 16 bits stay below Linux's 65,530 */

struct shape_model {
    struct dbrx_model_desc desc;
    uint32_t type;
    struct dbrx_error *err;
    struct dbrx_layer *layer;
    struct pool { uint32_t type; double sd; int fd; size_t unit, half; } pool[POOLS];
    int n_pools;
    struct map { struct map *next; void *p; size_t n; } *maps;
};

/* The pool of values of one type and size: two halves of whole pages that hold whole blocks */
static struct pool *pool_of(struct shape_model *m, uint32_t type, double sd)
{
    for (int i = 0; i < m->n_pools; i++)
        if (m->pool[i].type == type && memcmp(&m->pool[i].sd, &sd, sizeof sd) == 0)
            return &m->pool[i];
    if (m->n_pools == POOLS)
        return NULL;
    struct pool *p = &m->pool[m->n_pools++];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), block = dtype_block_bytes(type);
    *p = (struct pool){ type, sd, memfd_create("random weights", MFD_CLOEXEC), page, 0 };
    while (p->unit % block)
        p->unit += page;
    p->half = (HALF + p->unit - 1) / p->unit * p->unit;
    void *at = MAP_FAILED;
    if (p->fd >= 0 && ftruncate(p->fd, (off_t)(2 * p->half)) == 0)
        at = mmap(NULL, 2 * p->half, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
    if (at == MAP_FAILED)
        return NULL;
    shape_fill(at, 2 * p->half / block * dtype_block(type), type, sd);
    munmap(at, 2 * p->half);
    return p;
}

/* `bytes` of address space, piece by piece a random half of the pool */
static void *map_pool(struct shape_model *m, const struct pool *p, size_t bytes)
{
    struct map *map = malloc(sizeof *map);
    char *at = map ? mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) : MAP_FAILED;
    if (at == MAP_FAILED) {
        free(map);
        return NULL;
    }
    *map = (struct map){ m->maps, at, bytes };
    m->maps = map;
    for (size_t done = 0; done < bytes; done += p->half) {
        off_t from = (off_t)(shape_random() % (p->half / p->unit) * p->unit);
        if (mmap(at + done, bytes - done < p->half ? bytes - done : p->half, PROT_READ, MAP_SHARED | MAP_FIXED, p->fd,
                 from) == MAP_FAILED)
            return NULL;
    }
    return at;
}

static dbrx_status make_tensor(void *ctx, const struct ckpt_slot *s)
{
    struct shape_model *m = ctx;
    struct dbrx_tensor *t = s->t;
    uint64_t n = 1;
    *t = (struct dbrx_tensor){ .fd = -1, .dtype = shape_type(s, m->type), .rank = s->gguf_rank };
    if (t->dtype == UINT32_MAX)
        return fail(m->err, DBRX_E_INVALID, "rows of %s are no whole number of %s blocks", s->gguf, dtype_name(m->type));
    for (uint32_t i = 0; i < s->gguf_rank; i++)
        n *= t->dim[i] = s->gguf_want[i];
    t->bytes = dtype_bytes(t->dtype, n);
    struct pool *p = pool_of(m, t->dtype, shape_sd(s));
    t->data = p ? map_pool(m, p, t->bytes) : NULL;
    return t->data ? DBRX_OK : fail(m->err, DBRX_E_NOMEM, "%s cannot be mapped: %s", s->gguf, strerror(errno));
}

dbrx_status shape_open(const char *shape, const char *type, struct shape_model **out,
                       const struct dbrx_model_desc **desc, struct dbrx_error *err)
{
    struct shape_model *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    m->err = err;
    m->type = dtype_named(type);
    m->desc = (struct dbrx_model_desc){ .struct_size = sizeof m->desc, .layer_size = sizeof *m->layer,
                                        .w2_layout = DBRX_W2_MODEL_ROWS };
    dbrx_status st = DBRX_OK;
    if (!shape_named(shape, &m->desc.config) || m->type == UINT32_MAX)
        st = fail(err, DBRX_E_INVALID, "no shape \"%s\" (" SHAPES "), or no type \"%s\" (" SHAPE_TYPES ")", shape, type);
    if (st == DBRX_OK && !(m->desc.layer = m->layer = calloc(m->desc.config.n_layers, sizeof *m->layer)))
        st = fail(err, DBRX_E_NOMEM, "out of memory");
    if (st == DBRX_OK)
        st = ckpt_each(&m->desc, make_tensor, m);
    if (st != DBRX_OK) {
        shape_close(m);
        return st;
    }
    *desc = &m->desc;
    *out = m;
    return DBRX_OK;
}

void shape_close(struct shape_model *m)
{
    if (!m)
        return;
    for (struct map *map = m->maps, *next; map; map = next) {
        next = map->next;
        munmap(map->p, map->n);
        free(map);
    }
    for (int i = 0; i < m->n_pools; i++)
        if (m->pool[i].fd >= 0)
            close(m->pool[i].fd);
    free(m->layer);
    free(m);
}
