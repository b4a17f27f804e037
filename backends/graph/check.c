/* backends/graph/check.c -- see check.h. */
#include "backends/graph/check.h"

#include "backends/graph/dequant.h"
#include "backends/graph/route.h"
#include "plugins/fail.h"

#include <math.h>
#include <string.h>

static int shaped(const struct dbrx_tensor *t, uint64_t rows, uint64_t cols)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank && i < 4; i++)
        n *= t->dim[i];
    return t->data && t->rank && t->rank <= 4 && n == rows * cols;
}

/* The host has checked the checkpoint; a backend still refuses what it cannot read. */
static dbrx_status check_tensor(const struct dbrx_tensor *t, uint64_t rows, uint64_t cols,
                                const char *name, struct dbrx_error *err)
{
    if (!dequant_knows(t->dtype))
        return fail(err, DBRX_E_UNSUPPORTED, "%s is stored as type %u, which this backend cannot "
                    "read", name, t->dtype);
    if (!shaped(t, rows, cols) || cols % dtype_block(t->dtype))
        return fail(err, DBRX_E_INVALID, "%s has the wrong shape", name);
    return DBRX_OK;
}

dbrx_status graph_check(const struct dbrx_model_desc *desc, struct dbrx_error *err)
{
    const struct dbrx_config *c = &desc->config;
    if (!DBRX_HAS(struct dbrx_model_desc, desc, w2_layout) ||
        !DBRX_HAS(struct dbrx_config, c, act_fn) || desc->layer_size < sizeof(struct dbrx_layer))
        return fail(err, DBRX_E_INVALID, "the model description is too short");
    if (!c->n_layers || !c->d_model || !c->n_heads || !c->n_kv_heads || !c->d_ffn || !c->n_vocab ||
        c->d_model % c->n_heads || c->n_heads % c->n_kv_heads || c->d_model / c->n_heads % 2 ||
        !c->top_k || c->top_k > c->n_experts || c->n_experts > UINT16_MAX || c->act_fn > DBRX_GELU)
        return fail(err, DBRX_E_INVALID, "the model's sizes do not fit together");
    if (desc->w2_layout > DBRX_W2_MODEL_ROWS)
        return fail(err, DBRX_E_UNSUPPORTED, "w2 is stored in an order that this backend does "
                    "not know");
    int by_model = desc->w2_layout == DBRX_W2_MODEL_ROWS;
    uint64_t d = c->d_model, qkv = d + 2 * d / c->n_heads * c->n_kv_heads;
    uint64_t ffn = (uint64_t)c->n_experts * c->d_ffn;
    dbrx_status st = check_tensor(&desc->embed, c->n_vocab, d, "the embedding", err);
    if (st == DBRX_OK)
        st = check_tensor(&desc->lm_head, c->n_vocab, d, "lm_head", err);
    if (st == DBRX_OK)
        st = check_tensor(&desc->norm_f, 1, d, "norm_f", err);
    for (uint32_t l = 0; l < c->n_layers && st == DBRX_OK; l++) {
        const struct dbrx_layer *y =
            (const void *)((const char *)desc->layer + (size_t)l * desc->layer_size);
        const struct { const struct dbrx_tensor *t; uint64_t rows, cols; const char *name; } want[] = {
            { &y->norm_1, 1, d, "norm_1" }, { &y->wqkv, qkv, d, "Wqkv" },
            { &y->wo, d, d, "out_proj" }, { &y->norm_2, 1, d, "norm_2" },
            { &y->router, c->n_experts, d, "the router" },
            { &y->w1, ffn, d, "w1" }, { &y->v1, ffn, d, "v1" },
            { &y->w2, by_model ? c->n_experts * d : ffn, by_model ? c->d_ffn : d, "w2" },
        };
        for (size_t i = 0; i < sizeof want / sizeof *want && st == DBRX_OK; i++) {
            char name[40];
            snprintf(name, sizeof name, "%s of layer %u", want[i].name, l);
            st = check_tensor(want[i].t, want[i].rows, want[i].cols, name, err);
        }
    }
    return st;
}

dbrx_status check_batch(const struct dbrx_config *c, const struct dbrx_batch *b, struct dbrx_error *err)
{
    size_t rows = b->want_logits == DBRX_LOGITS_ALL ? b->n_tokens : b->want_logits != 0;
    if (b->struct_size < sizeof *b)
        return fail(err, DBRX_E_INVALID, "the batch structure is too short");
    if (!b->n_tokens)
        return fail(err, DBRX_E_INVALID, "the batch holds no tokens");
    if (b->want_logits > DBRX_LOGITS_ALL)
        return fail(err, DBRX_E_INVALID, "want_logits is %u", b->want_logits);
    if (rows && (!b->logits || b->logits_len / c->n_vocab < rows))
        return fail(err, DBRX_E_INVALID, "no room for %zu rows of %u logits", rows, c->n_vocab);
    return route_check(c, b->steer, err);
}

dbrx_status check_tokens(const struct dbrx_config *c, const struct dbrx_batch *b, uint32_t pos, uint32_t max_pos,
                         struct dbrx_error *err)
{
    if (!b->token)
        return fail(err, DBRX_E_INVALID, "the batch holds no tokens");
    for (uint32_t t = 0; t < b->n_tokens; t++)
        if (b->token[t] < 0 || (uint32_t)b->token[t] >= c->n_vocab)
            return fail(err, DBRX_E_INVALID, "token id %d is outside the vocabulary of %u",
                        b->token[t], c->n_vocab);
    if (b->n_tokens > max_pos - pos)
        return fail(err, DBRX_E_FULL, "%u tokens do not fit: %u of %u positions are taken",
                    b->n_tokens, pos, max_pos);
    return DBRX_OK;
}

dbrx_status check_resume(const struct dbrx_config *c, const struct dbrx_batch *b, uint32_t layer, uint32_t pos,
                         const float *x, uint32_t have, struct dbrx_error *err)
{
    if (layer >= c->n_layers || !x)
        return fail(err, DBRX_E_INVALID, "block %u of %u cannot be resumed%s", layer, c->n_layers,
                    x ? "" : " without its input");
    if (pos > have || b->n_tokens > have - pos)
        return fail(err, DBRX_E_INVALID, "%u positions from %u on cannot be resumed: the session holds %u",
                    b->n_tokens, pos, have);
    return DBRX_OK;
}

dbrx_status check_head(const float *x, uint32_t n, const float *logits, struct dbrx_error *err)
{
    return x && logits && n ? DBRX_OK
         : fail(err, DBRX_E_INVALID, "head needs at least one row and a place for its logits");
}

int all_finite(const float *x, size_t n)
{
    enum { SOME = 32 };                    /* at a time, by vectors */
    size_t i = 0;
    for (; i + SOME <= n; i += SOME) {
        uint32_t u[SOME], bad = 0;
        memcpy(u, x + i, sizeof u);
        for (int k = 0; k < SOME; k++)
            bad |= (u[k] & 0x7f800000) == 0x7f800000;
        if (bad)
            return 0;
    }
    for (; i < n; i++)
        if (!isfinite(x[i]))
            return 0;
    return 1;
}

dbrx_status check_logits(const struct dbrx_config *c, const float *logits, size_t n, struct dbrx_error *err)
{
    if (all_finite(logits, n * c->n_vocab))
        return DBRX_OK;
    for (size_t i = 0; i < n * c->n_vocab; i++)
        if (!isfinite(logits[i]))
            return fail(err, DBRX_E_UNSUPPORTED, "the logit of token %zu is no number: the weights "
                        "of the head, or of the norm before it, are damaged", i % c->n_vocab);
    return DBRX_OK;
}

dbrx_status bad_router(uint32_t layer, uint32_t pos, struct dbrx_error *err)
{
    return fail(err, DBRX_E_UNSUPPORTED, "the router of layer %u gave a value that is no number at position %u: "
                "the weights are damaged", layer, pos);
}

dbrx_status check_export(uint32_t from, uint32_t have, struct dbrx_error *err)
{
    return from > have ? fail(err, DBRX_E_INVALID, "cannot export from position %u of %u", from, have) : DBRX_OK;
}

dbrx_status check_import(const struct dbrx_config *c, const struct dbrx_kv_block *b, uint32_t have, uint32_t max_pos,
                         struct dbrx_error *err)
{
    if (b->pos < have)
        return fail(err, DBRX_E_INVALID, "position %u is taken: KV is imported behind the %u there "
                    "are", b->pos, have);
    if (b->layer >= c->n_layers || dtype_block(b->dtype) != 1 || (b->n && (!b->k || !b->v)))
        return fail(err, DBRX_E_INVALID, "KV block of layer %u, type %u does not fit this model",
                    b->layer, b->dtype);
    if (b->n > max_pos || b->pos > max_pos - b->n)
        return fail(err, DBRX_E_FULL, "KV block ends at position %llu of %u",
                    (unsigned long long)b->pos + b->n, max_pos);
    return DBRX_OK;
}

dbrx_status check_extend(uint32_t n_pos, uint32_t have, uint32_t max_pos, struct dbrx_error *err)
{
    if (n_pos < have || n_pos > max_pos)
        return fail(err, DBRX_E_INVALID, "cannot make it %u positions: it holds %u of %u", n_pos, have, max_pos);
    return DBRX_OK;
}

dbrx_status check_commit(uint32_t n_pos, uint32_t have, uint32_t max_pos, struct dbrx_error *err)
{
    return have ? fail(err, DBRX_E_INVALID, "cannot commit %u positions on top of %u", n_pos, have)
                : check_extend(n_pos, have, max_pos, err);
}

dbrx_status check_keep(uint32_t n_keep, uint32_t have, struct dbrx_error *err)
{
    return n_keep > have ? fail(err, DBRX_E_INVALID, "cannot keep %u positions of %u", n_keep, have) : DBRX_OK;
}
