/* repl/trace.c -- the routing of every token of the timeline.  See trace.h. */
#include "repl/trace.h"

#include <stdlib.h>
#include <string.h>

struct trace {
    struct dbrx_route_sink sink;
    uint32_t n_layers, k;                  /* k slots a layer: the model's top_k           */
    uint32_t cap;                          /* positions there is room for                  */
    uint32_t *len;                         /* [n_layers] positions known, from 0           */
    uint16_t *expert;                      /* [cap][n_layers][k]                           */
    float    *weight;                      /* [cap][n_layers][k]                           */
};

static int reserve(struct trace *t, uint32_t n)
{
    if (n <= t->cap)
        return 0;
    size_t cap = t->cap ? 2 * (size_t)t->cap : 64, slots = (size_t)t->n_layers * t->k;
    if (cap < n)
        cap = n;
    uint16_t *expert = realloc(t->expert, cap * slots * sizeof *expert);
    if (expert)
        t->expert = expert;
    float *weight = realloc(t->weight, cap * slots * sizeof *weight);
    if (weight)
        t->weight = weight;
    if (!expert || !weight)
        return -1;
    t->cap = (uint32_t)cap;
    return 0;
}

static void emit(void *ctx, const struct dbrx_route *r)
{
    struct trace *t = ctx;
    /* a gap means that recording went blind earlier */
    if (r->layer >= t->n_layers || r->pos > t->len[r->layer] || reserve(t, r->pos + r->n_tokens))
        return;
    uint32_t k = r->top_k < t->k ? r->top_k : t->k;
    for (uint32_t i = 0; i < r->n_tokens; i++) {
        size_t at = ((size_t)(r->pos + i) * t->n_layers + r->layer) * t->k;
        memset(t->weight + at, 0, t->k * sizeof *t->weight);
        memset(t->expert + at, 0xff, t->k * sizeof *t->expert);    /* fewer than k: unused */
        memcpy(t->weight + at, r->weight + (size_t)i * r->top_k, k * sizeof *t->weight);
        memcpy(t->expert + at, r->expert + (size_t)i * r->top_k, k * sizeof *t->expert);
    }
    t->len[r->layer] = r->pos + r->n_tokens;
}

struct trace *trace_new(const struct dbrx_config *c)
{
    struct trace *t = calloc(1, sizeof *t);
    if (!t || !(t->len = calloc(c->n_layers, sizeof *t->len))) {
        free(t);
        return NULL;
    }
    t->n_layers = c->n_layers;
    t->k = c->top_k;
    t->sink = (struct dbrx_route_sink){ .struct_size = sizeof t->sink, .ctx = t, .emit = emit };
    return t;
}

void trace_free(struct trace *t)
{
    if (!t)
        return;
    free(t->len);
    free(t->expert);
    free(t->weight);
    free(t);
}

const struct dbrx_route_sink *trace_sink(struct trace *t)
{
    return &t->sink;
}

uint32_t trace_len(const struct trace *t)
{
    uint32_t n = t->len[0];
    for (uint32_t l = 1; l < t->n_layers; l++)
        n = t->len[l] < n ? t->len[l] : n;
    return n;
}

void trace_truncate(struct trace *t, uint32_t n_keep)
{
    for (uint32_t l = 0; l < t->n_layers; l++)
        if (t->len[l] > n_keep)
            t->len[l] = n_keep;
}

uint32_t trace_get(const struct trace *t, uint32_t pos, uint32_t layer,
                   const uint16_t **expert, const float **weight)
{
    if (layer >= t->n_layers || pos >= t->len[layer])
        return 0;
    size_t at = ((size_t)pos * t->n_layers + layer) * t->k;
    uint32_t k = 0;
    *expert = t->expert + at;
    *weight = t->weight + at;
    while (k < t->k && (*expert)[k] != UINT16_MAX)
        k++;
    return k;
}

int trace_token(const struct trace *t, uint32_t pos, const uint16_t **expert, const float **weight)
{
    if (pos >= trace_len(t))
        return 0;
    *expert = t->expert + (size_t)pos * t->n_layers * t->k;
    *weight = t->weight + (size_t)pos * t->n_layers * t->k;
    return 1;
}
