/* backends/model/gguf_write.c -- the head of a GGUF file, version 3.  See gguf_write.h. */
#include "backends/model/gguf_write.h"

#include "backends/graph/dtype.h"
#include "backends/model/gguf.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

static void put(struct gguf_head *h, struct gguf_bytes *b, const void *data, size_t n)
{
    if (!h->failed && n > b->cap - b->n) {
        size_t cap = 2 * (b->n + n) + 4096;
        unsigned char *p = realloc(b->p, cap);
        h->failed |= !p;
        b->p = p ? p : b->p;
        b->cap = p ? cap : b->cap;
    }
    if (h->failed || !n)
        return;
    memcpy(b->p + b->n, data, n);
    b->n += n;
}

static void put_int(struct gguf_head *h, struct gguf_bytes *b, uint64_t x, int bytes)
{
    unsigned char le[8];
    for (int i = 0; i < bytes; i++)
        le[i] = (unsigned char)(x >> 8 * i);
    put(h, b, le, (size_t)bytes);
}

static void put_string(struct gguf_head *h, struct gguf_bytes *b, const char *s, size_t len)
{
    put_int(h, b, len, 8);
    put(h, b, s, len);
}

static void put_key(struct gguf_head *h, const char *key, uint32_t type)
{
    h->n_kv++;
    put_string(h, &h->kv, key, strlen(key));
    put_int(h, &h->kv, type, 4);
}

void gguf_put_u32(struct gguf_head *h, const char *key, uint32_t x)
{
    put_key(h, key, GGUF_U32);
    put_int(h, &h->kv, x, 4);
}

void gguf_add_float32(struct gguf_head *h, float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    put_int(h, &h->kv, u, 4);
}

void gguf_put_f32(struct gguf_head *h, const char *key, float x)
{
    put_key(h, key, GGUF_F32);
    gguf_add_float32(h, x);
}

void gguf_put_bool(struct gguf_head *h, const char *key, int x)
{
    put_key(h, key, GGUF_BOOL);
    put_int(h, &h->kv, x != 0, 1);
}

void gguf_put_text(struct gguf_head *h, const char *key, const char *s, size_t len)
{
    put_key(h, key, GGUF_STRING);
    put_string(h, &h->kv, s, len);
}

static void put_array(struct gguf_head *h, const char *key, uint32_t of, uint64_t n)
{
    put_key(h, key, GGUF_ARRAY);
    put_int(h, &h->kv, of, 4);
    put_int(h, &h->kv, n, 8);
}

void gguf_put_texts(struct gguf_head *h, const char *key, uint64_t n)
{
    put_array(h, key, GGUF_STRING, n);
}

void gguf_put_int32s(struct gguf_head *h, const char *key, uint64_t n)
{
    put_array(h, key, GGUF_I32, n);
}

void gguf_put_float32s(struct gguf_head *h, const char *key, uint64_t n)
{
    put_array(h, key, GGUF_F32, n);
}

void gguf_add_text(struct gguf_head *h, const char *s, size_t len)
{
    put_string(h, &h->kv, s, len);
}

void gguf_add_int32(struct gguf_head *h, int32_t x)
{
    put_int(h, &h->kv, (uint32_t)x, 4);
}

void gguf_put_config(struct gguf_head *h, const struct dbrx_config *c, const char *name)
{
    gguf_put_text(h, "general.architecture", "dbrx", 4);
    gguf_put_text(h, "general.name", name, strlen(name));
    gguf_put_u32(h, "general.quantization_version", 2);
    gguf_put_u32(h, "dbrx.block_count", c->n_layers);
    gguf_put_u32(h, "dbrx.context_length", c->max_seq);
    gguf_put_u32(h, "dbrx.embedding_length", c->d_model);
    gguf_put_u32(h, "dbrx.feed_forward_length", c->d_ffn);
    gguf_put_u32(h, "dbrx.attention.head_count", c->n_heads);
    gguf_put_u32(h, "dbrx.attention.head_count_kv", c->n_kv_heads);
    gguf_put_f32(h, "dbrx.rope.freq_base", c->rope_theta);
    gguf_put_f32(h, "dbrx.attention.clamp_kqv", c->clip_qkv > 0 ? c->clip_qkv : FLT_MAX);
    gguf_put_u32(h, "dbrx.expert_count", c->n_experts);
    gguf_put_u32(h, "dbrx.expert_used_count", c->top_k);
    gguf_put_f32(h, "dbrx.attention.layer_norm_epsilon", c->ln_eps);
    gguf_put_u32(h, "dbrx.vocab_size", c->n_vocab);
    if (c->moe_norm_p != 1)
        gguf_put_f32(h, "dbrx.expert_weights_norm_p", c->moe_norm_p);
    if (c->act_fn == DBRX_GELU)
        gguf_put_text(h, "dbrx.feed_forward_activation", "gelu", 4);
}

void gguf_put_tensor(struct gguf_head *h, const char *name, uint32_t rank, const uint64_t *dim,
                     uint32_t dtype)
{
    uint64_t n = 1;
    h->n_tensors++;
    put_string(h, &h->tensors, name, strlen(name));
    put_int(h, &h->tensors, rank, 4);
    for (uint32_t i = 0; i < rank; i++) {
        put_int(h, &h->tensors, dim[rank - 1 - i], 8);
        n *= dim[i];
    }
    put_int(h, &h->tensors, dtype, 4);
    put_int(h, &h->tensors, h->data, 8);
    h->data += (dtype_bytes(dtype, n) + GGUF_ALIGN - 1) / GGUF_ALIGN * GGUF_ALIGN;
}

unsigned char *gguf_head_bytes(struct gguf_head *h, size_t *n)
{
    static const char zeros[GGUF_ALIGN];
    struct gguf_bytes all = { 0 };
    put(h, &all, "GGUF", 4);
    put_int(h, &all, 3, 4);
    put_int(h, &all, h->n_tensors, 8);
    put_int(h, &all, h->n_kv, 8);
    put(h, &all, h->kv.p, h->kv.n);
    put(h, &all, h->tensors.p, h->tensors.n);
    put(h, &all, zeros, (GGUF_ALIGN - all.n % GGUF_ALIGN) % GGUF_ALIGN);
    free(h->kv.p);
    free(h->tensors.p);
    if (h->failed) {
        free(all.p);
        all.p = NULL;
    }
    *n = all.n;
    *h = (struct gguf_head){ 0 };
    return all.p;
}
