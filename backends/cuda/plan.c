/* backends/cuda/plan.c -- what goes where: layers over devices, and what of them stays on the host
 * when devices are too small.  Arithmetic on sizes alone; loads nothing. */
#include "backends/cuda/model.h"

#include "backends/cuda/planes.h"
#include "plugins/fail.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 2048, ALIGN = 256, PIECE = 16 << 20, MOST_SPLITS = 64 };

/* bytes of a device that are nobody's: the driver's context, the library's, fragments */
static uint64_t margin(const struct share *s)
{
    const uint64_t most = (uint64_t)400 << 20;
    return s->free / 16 < most ? s->free / 16 : most;
}

static uint64_t aligned(uint64_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

uint64_t mat_bytes(uint32_t type, uint64_t rows, uint64_t padded)
{
    static const struct { uint32_t type, block, size[4]; } types[] = {
#define SIZES(...) __VA_ARGS__
#define TYPE(NAME, name, n, bytes, at, size) { DBRX_##NAME, n, SIZES size },
        CUDA_TYPES(TYPE)
#undef TYPE
    };
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int p = 0; p < 4 && types[i].type == type; p++)
            sum += aligned(rows * (padded / types[i].block) * types[i].size[p]);
    return sum;
}

uint32_t kv_bytes(uint32_t type)
{
    return type == DBRX_F32 ? 4 : type == KV_FP8 ? 1 : 2;
}

uint64_t plan_kv(const struct dbrx_config *c, uint32_t type, uint32_t max_pos)
{
    return 2 * aligned((uint64_t)max_pos * c->n_kv_heads * (c->d_model / c->n_heads) * kv_bytes(type));
}

uint32_t plan_chunk(const struct dbrx_config *c, uint32_t max_pos)
{
    (void)c;
    return max_pos < CHUNK ? max_pos : CHUNK;
}

uint32_t plan_splits(uint32_t max_pos)
{
    uint32_t n = max_pos / 128;            /* no fewer blocks than processors, from a few thousand on */
    return n < 1 ? 1 : n > MOST_SPLITS ? MOST_SPLITS : n;
}

uint64_t plan_scratch(const struct dbrx_config *c, uint32_t max_pos, uint32_t layers)
{
    const uint32_t n = plan_chunk(c, max_pos);
    uint64_t ld = padded(c->d_model), ffn = padded(c->d_ffn), hd = c->d_model / c->n_heads;
    uint64_t slots = (uint64_t)n * c->top_k < c->n_experts ? c->n_experts : (uint64_t)n * c->top_k;
    uint64_t floats = n * (2 * ld + c->d_model + 2 * hd * c->n_kv_heads) + slots * (ffn + ld + 2) +
                      (uint64_t)(n < 64 ? n : 64) * c->n_vocab + 4 * plan_splits(max_pos) * c->n_heads * (hd + 2);
    return 4 * floats + layers * (slots * 6 + (uint64_t)n * c->n_experts * 8 + c->n_experts * 11);
}

size_t plan_piece(const struct dbrx_model_desc *desc, uint64_t *total)
{
    const struct dbrx_config *c = &desc->config;
    const uint64_t row = 4 * (uint64_t)(c->d_model > c->d_ffn ? c->d_model : c->d_ffn);
    uint64_t sum = desc->embed.bytes + desc->norm_f.bytes + desc->lm_head.bytes;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct dbrx_layer *y = (const void *)((const char *)desc->layer + (size_t)l * desc->layer_size);
        sum += y->norm_1.bytes + y->norm_2.bytes + y->router.bytes + y->wqkv.bytes + y->wo.bytes + y->w1.bytes +
               y->v1.bytes + y->w2.bytes;
    }
    *total = sum;
    sum /= 8;                              /* a small model needs no large buffers */
    sum = sum < PIECE ? sum : PIECE;
    return (size_t)(sum < row ? row : sum);
}

/* Does a device hold this?  While weights are loaded, two buffers lie where the KV cache will. */
static int fits(const struct dbrx_model_desc *m, const struct share *s, uint64_t weights, uint64_t kv, uint64_t scratch)
{
    uint64_t total, loading = 2 * plan_piece(m, &total), later = kv + scratch;
    return weights + (later > loading ? later : loading) + margin(s) <= s->free;
}

/* The sizes of one layer's parts */
struct sizes { uint64_t attention, expert, kv; };

static struct sizes layer_sizes(const struct dbrx_model_desc *m, uint32_t l, const struct settings *set)
{
    const struct dbrx_config *c = &m->config;
    const struct dbrx_layer *y = (const void *)((const char *)m->layer + (size_t)l * m->layer_size);
    uint64_t d = c->d_model, ld = padded(c->d_model), ffn = padded(c->d_ffn);
    uint64_t qkv = d + 2 * d / c->n_heads * c->n_kv_heads;
    return (struct sizes){
        .attention = mat_bytes(y->wqkv.dtype, qkv, ld) + mat_bytes(y->wo.dtype, d, ld) +
                     aligned(4 * ld) * (2 + c->n_experts),
        .expert = mat_bytes(y->w1.dtype, c->d_ffn, ld) + mat_bytes(y->v1.dtype, c->d_ffn, ld) +
                  mat_bytes(y->w2.dtype, d, ffn) + 3 * sizeof(struct wt),
        .kv = plan_kv(c, set->kv_type, set->context),
    };
}

/* What every device needs whatever it runs, the first and the last a little more */
static uint64_t fixed(const struct dbrx_model_desc *m, const struct plan *p, uint32_t i)
{
    const struct dbrx_config *c = &m->config;
    uint64_t ld = padded(c->d_model), sum = 0;
    if (i == 0)
        sum += mat_bytes(m->embed.dtype, c->n_vocab, ld);
    if (i + 1 == p->n_shares)
        sum += mat_bytes(m->lm_head.dtype, c->n_vocab, ld) + aligned(4 * ld);
    return sum;
}

/* Layers one after another onto the devices, each as full as it can be.  0 when all found room. */
static int fill(const struct dbrx_model_desc *m, const struct settings *set, struct plan *p, uint32_t n)
{
    const struct dbrx_config *c = &m->config;
    uint32_t l = 0;
    p->n_shares = n;
    for (uint32_t i = 0; i < n; i++) {
        struct share *s = &p->share[i];
        s->first = l;
        s->kv = 0;
        s->weights = fixed(m, p, i);
        while (l < c->n_layers) {
            struct sizes z = layer_sizes(m, l, set);
            uint64_t w = s->weights + z.attention + c->n_experts * z.expert, kv = s->kv + z.kv;
            if (!fits(m, s, w, kv, plan_scratch(c, set->context, l + 1 - s->first)))
                break;
            s->weights = w;
            s->kv = kv;
            p->resident[l++] = (uint16_t)c->n_experts;
        }
        s->end = l;
        s->scratch = plan_scratch(c, set->context, l - s->first);
    }
    return l < c->n_layers;
}

/* Everything does not fit: layers in proportion to the devices, their attention there, and experts
 * as far as they go: each layer as many as its neighbours, so that every layer of a token waits
 * as long as the others. */
static int spread(const struct dbrx_model_desc *m, const struct settings *set, struct plan *p, uint32_t n)
{
    const struct dbrx_config *c = &m->config;
    uint32_t l = 0;
    uint64_t all = 0, sum = 0;
    p->n_shares = n;
    p->host = 0;
    for (uint32_t i = 0; i < n; i++)
        all += p->share[i].free;
    for (uint32_t i = 0; i < n; i++) {
        struct share *s = &p->share[i];
        sum += s->free >> 10;
        s->first = l;
        s->end = l = i + 1 == n ? c->n_layers : (uint32_t)(c->n_layers * sum / ((all >> 10) + 1));
        s->kv = 0;
        s->weights = fixed(m, p, i);
        s->scratch = plan_scratch(c, set->context, s->end - s->first);
        for (uint32_t k = s->first; k < s->end; k++) {
            struct sizes z = layer_sizes(m, k, set);
            s->weights += z.attention;
            s->kv += z.kv;
            p->resident[k] = 0;
        }
        for (uint32_t k = s->first; k < s->end && set->offload == OFFLOAD_LAYERS; k++) {
            struct sizes z = layer_sizes(m, k, set);
            if (fits(m, s, s->weights + c->n_experts * z.expert, s->kv, s->scratch)) {
                s->weights += c->n_experts * z.expert;
                p->resident[k] = (uint16_t)c->n_experts;
            } else {
                p->away[k] = 1;
                s->weights -= z.attention;
                p->host += z.attention + c->n_experts * z.expert;
            }
        }
        for (uint32_t e = 0; e < c->n_experts && set->offload == OFFLOAD_EXPERTS; e++)
            for (uint32_t k = s->first; k < s->end; k++) {
                struct sizes z = layer_sizes(m, k, set);
                int here = p->resident[k] == e && fits(m, s, s->weights + z.expert, s->kv, s->scratch);
                s->weights += here ? z.expert : 0;
                p->resident[k] += (uint16_t)here;
                p->host += here ? 0 : z.expert;
            }
        if (!fits(m, s, s->weights, s->kv, s->scratch))
            return 1;
    }
    return 0;
}

struct size { char text[24]; };
static struct size size_text(uint64_t bytes)
{
    struct size s;
    snprintf(s.text, sizeof s.text, bytes < 1000000000 ? "%.1f MB" : "%.1f GB",
             (double)bytes / (bytes < 1000000000 ? 1e6 : 1e9));
    return s;
}

static dbrx_status no_room(const struct dbrx_model_desc *m, const struct settings *set, const struct plan *p,
                           uint32_t n, struct dbrx_error *err)
{
    uint64_t weights = mat_bytes(m->embed.dtype, m->config.n_vocab, padded(m->config.d_model)) +
                       mat_bytes(m->lm_head.dtype, m->config.n_vocab, padded(m->config.d_model));
    uint64_t kv = 0, room = 0;
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        struct sizes z = layer_sizes(m, l, set);
        weights += z.attention + m->config.n_experts * z.expert;
        kv += z.kv;
    }
    for (uint32_t i = 0; i < n; i++)
        room += p->share[i].free;
    return fail(err, DBRX_E_NOMEM, "%s of weights and %s of KV cache for %u positions do not fit into the "
                "%s that are free on %u device%s: try a quantised model, context=N, kv=fp8%s", size_text(weights).text,
                size_text(kv).text, set->context, size_text(room).text, n, n == 1 ? "" : "s",
                set->offload == OFFLOAD_NONE ? " or offload=experts" : "");
}

dbrx_status plan_make(const struct dbrx_model_desc *m, const struct settings *set, struct plan *p,
                      struct dbrx_error *err)
{
    int count, st;
    uint32_t n = 0;
    struct gpu_info g = { .total = 0 };
    *p = (struct plan){ .n_shares = 0 };
    if ((st = gpu_count(&count, err)) != DBRX_OK)
        return st;
    p->resident = calloc(m->config.n_layers, sizeof *p->resident);
    p->away = calloc(m->config.n_layers, sizeof *p->away);
    if (!p->resident || !p->away)
        return fail(err, DBRX_E_NOMEM, "out of memory");
    for (int i = 0; i < (set->n_gpus ? set->n_gpus : count) && n < MAX_DEVICES; i++) {
        int id = set->n_gpus ? set->gpu[i] : i;
        if (id >= count)
            return fail(err, DBRX_E_INVALID, "gpus: there is no device %d, the last one is %d", id, count - 1);
        if ((st = gpu_describe(id, &g, err)) != DBRX_OK)
            return st;
        if (*g.reason && set->n_gpus)      /* what was asked for; those that were not are passed over */
            return fail(err, DBRX_E_UNSUPPORTED, "%s", g.reason);
        if (!*g.reason)
            p->share[n++] = (struct share){ .device = id, .total = g.total, .free = g.free };
    }
    if (!n)
        return fail(err, DBRX_E_UNSUPPORTED, "%s", g.reason);
    for (uint32_t k = 1; k <= n; k++)      /* as few devices as can hold it */
        if (!fill(m, set, p, k))
            return DBRX_OK;
    if (set->offload != OFFLOAD_NONE && !spread(m, set, p, n))
        return DBRX_OK;
    return no_room(m, set, p, n, err);
}

void plan_free(struct plan *p)
{
    free(p->resident);
    free(p->away);
}
