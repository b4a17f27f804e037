/* bench/speed.h -- what programs that measure backends share: the clock, a session's evaluations, the
 * bytes and the arithmetic of them.  Each program includes it once; what goes wrong ends it. */
#ifndef BENCH_SPEED_H
#define BENCH_SPEED_H

#include "backends/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", SPEED_NAME, what);
    exit(1);
}

static const struct dbrx_backend *vt;
static dbrx_session *session;
static const struct dbrx_model_desc *desc;
static float *logits;                      /* [n_vocab] */

static void eval(const int32_t *ids, uint32_t n)
{
    struct dbrx_error err;
    struct dbrx_batch b = { .struct_size = sizeof b, .n_tokens = n, .token = ids,
                            .want_logits = DBRX_LOGITS_LAST, .logits = logits,
                            .logits_len = desc->config.n_vocab };
    if (vt->eval(session, &b, &err) != DBRX_OK)
        die(err.text);
}

static void empty_to(uint32_t pos)
{
    struct dbrx_error err;
    if (vt->position(session) > pos && vt->truncate(session, pos, &err) != DBRX_OK)
        die(err.text);
}

/* Bytes of weights and of KV, of kv_size bytes a number, that a token at this position reads */
static double bytes_read(double depth, double kv_size)
{
    const struct dbrx_config *c = &desc->config;
    double sum = (double)desc->lm_head.bytes, share = (double)c->top_k / c->n_experts;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct dbrx_layer *y = (const void *)((const char *)desc->layer + l * desc->layer_size);
        sum += (double)(y->wqkv.bytes + y->wo.bytes + y->router.bytes);
        sum += share * (double)(y->w1.bytes + y->v1.bytes + y->w2.bytes);
    }
    return sum + depth * 2 * kv_size * c->n_layers * c->n_kv_heads * (c->d_model / c->n_heads);
}

#endif
