/* backends/model/fingerprint.c -- 32 bytes that tell checkpoints apart: config,
 * tensor table, and the first bytes of some tensors (routers, attention, head).
 * No proof of anything; independent of sharding and of where the files lie. */
#include "backends/model/reader.h"

#include <string.h>

enum { SAMPLE = 256 };                     /* bytes: less than a page each     */

struct lanes { uint64_t h[4]; struct dbrx_error *err; };

/* FNV-1a in four lanes that differ in their start and in a constant added to each byte. */
static void lanes_add(struct lanes *l, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 4; k++)
            l->h[k] = (l->h[k] ^ (unsigned char)(p[i] + 67 * k)) * UINT64_C(0x100000001b3);
}

static dbrx_status add_slot(void *ctx, const struct ckpt_slot *s)
{
    struct lanes *l = ctx;
    const struct dbrx_tensor *t = s->t;
    lanes_add(l, s->name, strlen(s->name) + 1);
    lanes_add(l, &t->dtype, sizeof t->dtype);
    lanes_add(l, t->dim, t->rank * sizeof *t->dim);
    if (!s->sampled)
        return DBRX_OK;
    unsigned char buf[SAMPLE];
    size_t n = t->bytes < SAMPLE ? (size_t)t->bytes : SAMPLE;
    dbrx_status st = ckpt_file_read(t->fd, s->name, buf, n, t->offset, l->err);
    if (st == DBRX_OK)
        lanes_add(l, buf, n);
    return st;
}

dbrx_status ckpt_fingerprint(struct dbrx_model_desc *d, struct dbrx_error *err)
{
    struct lanes l = { { UINT64_C(0xcbf29ce484222325), UINT64_C(0x9e3779b97f4a7c15),
                         UINT64_C(0xc2b2ae3d27d4eb4f), UINT64_C(0x165667b19e3779f9) }, err };
    const struct dbrx_config *c = &d->config;
    /* field by field: a struct that grows must not change old fingerprints */
    const uint32_t u[] = { c->n_layers, c->d_model, c->n_heads, c->n_kv_heads, c->d_ffn,
                           c->n_experts, c->top_k, c->n_vocab, c->max_seq, c->act_fn };
    const float f[] = { c->clip_qkv, c->rope_theta, c->ln_eps, c->moe_norm_p };
    lanes_add(&l, u, sizeof u);
    lanes_add(&l, f, sizeof f);
    dbrx_status st = ckpt_each(d, add_slot, &l);
    memcpy(d->fingerprint, l.h, sizeof l.h);
    return st;
}
