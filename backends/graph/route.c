/* backends/graph/route.c -- softmax over all experts, top-k, p-norm, steering.
 * The specification and the only implementation on the CPU: 16 numbers a token
 * need no kernel.  See route.h; the order of effects stands in backend.h. */
#include "backends/graph/route.h"

#include "plugins/fail.h"

#include <math.h>

/* a steering array's entry for (layer, expert), or what stands for "none" */
#define AT(c, s, field, l, e, none) \
    ((s) && (s)->field ? (s)->field[(size_t)(l) * (c)->n_experts + (e)] : (none))

/* whose router logit expert e gets; the field is younger than the structure */
static uint32_t source(const struct dbrx_config *c, const struct dbrx_steer *s, uint32_t l, uint32_t e)
{
    return s && DBRX_HAS(struct dbrx_steer, s, source) ? AT(c, s, source, l, e, e) : e;
}

uint32_t route_top_k(const struct dbrx_config *c, const struct dbrx_steer *s, uint32_t layer)
{
    return s && s->top_k && s->top_k[layer] ? s->top_k[layer] : c->top_k;
}

dbrx_status route_check(const struct dbrx_config *c, const struct dbrx_steer *s,
                        struct dbrx_error *err)
{
    for (uint32_t l = 0; s && l < c->n_layers; l++) {
        uint32_t k = route_top_k(c, s, l), forced = 0, open = 0;
        if (k > c->n_experts)
            return fail(err, DBRX_E_INVALID, "layer %u: top_k %u, but there are %u experts", l, k,
                        c->n_experts);
        for (uint32_t e = 0; e < c->n_experts; e++) {
            float bias = AT(c, s, bias, l, e, 0);
            uint32_t from = source(c, s, l, e), seen = 0;
            for (uint32_t i = 0; i < c->n_experts && from != e; i++)   /* in its place: nothing to ask */
                seen += source(c, s, l, i) == from;
            if (from >= c->n_experts || seen > 1)
                return fail(err, DBRX_E_INVALID, "layer %u: the sources of the experts are no "
                            "permutation", l);
            unsigned mark = AT(c, s, mark, l, e, 0);
            int off = bias == -INFINITY || (mark & DBRX_STEER_SKIP);
            if (isnan(bias) || bias == INFINITY || !isfinite(AT(c, s, scale, l, e, 1)))
                return fail(err, DBRX_E_INVALID, "layer %u, expert %u: bias and scale must be "
                            "finite (bias may be -infinity)", l, e);
            if ((mark & DBRX_STEER_FORCE) && off)
                return fail(err, DBRX_E_INVALID, "layer %u: expert %u is both forced and banned",
                            l, e);
            forced += (mark & DBRX_STEER_FORCE) != 0;
            open += !off;
        }
        if (forced > k)
            return fail(err, DBRX_E_INVALID, "layer %u: %u experts are forced, but top_k is %u",
                        l, forced, k);
        if (open < k)
            return fail(err, DBRX_E_INVALID, "layer %u: %u experts are left to choose from, "
                        "but top_k is %u", l, open, k);
    }
    return DBRX_OK;
}

/* the largest p among those not taken and not ruled out; the lower id wins a tie */
static uint32_t largest(const struct dbrx_config *c, const struct dbrx_steer *s, uint32_t layer,
                        const float *prob, const uint16_t *taken, uint32_t n_taken)
{
    uint32_t best = c->n_experts;
    for (uint32_t e = 0; e < c->n_experts; e++) {
        int out = AT(c, s, bias, layer, e, 0) == -INFINITY ||
                  (AT(c, s, mark, layer, e, 0) & DBRX_STEER_SKIP);
        for (uint32_t j = 0; j < n_taken && !out; j++)
            out = taken[j] == e;
        if (!out && (best == c->n_experts || prob[e] > prob[best]))
            best = e;
    }
    return best;
}

int route_token(const struct dbrx_config *c, const struct dbrx_steer *s, uint32_t layer,
                const float *logit, float *prob, uint16_t *expert, float *weight)
{
    uint32_t n = c->n_experts, k = route_top_k(c, s, layer), chosen = 0;
    float max = -INFINITY, sum = 0, norm = 0;

    for (uint32_t e = 0; e < n; e++) {
        prob[e] = logit[source(c, s, layer, e)] + AT(c, s, bias, layer, e, 0);
        if (isnan(prob[e]) || prob[e] == INFINITY)
            return -1;
        max = prob[e] > max ? prob[e] : max;
    }
    if (max == -INFINITY)
        return -1;
    for (uint32_t e = 0; e < n; e++)
        sum += prob[e] = expf(prob[e] - max);
    for (uint32_t e = 0; e < n; e++)
        prob[e] /= sum;

    for (uint32_t e = 0; e < n; e++)
        if (AT(c, s, mark, layer, e, 0) & DBRX_STEER_FORCE)
            expert[chosen++] = (uint16_t)e;
    for (; chosen < k; chosen++)
        expert[chosen] = (uint16_t)largest(c, s, layer, prob, expert, chosen);

    for (uint32_t j = 0; j < k; j++) {
        int omit = AT(c, s, mark, layer, expert[j], 0) & DBRX_STEER_OMIT;
        weight[j] = omit ? 0 : prob[expert[j]];
        norm += c->moe_norm_p == 1 ? weight[j] : powf(weight[j], c->moe_norm_p);
    }
    if (c->moe_norm_p > 0 && norm > 0)
        for (uint32_t j = 0; j < k; j++)
            weight[j] /= c->moe_norm_p == 1 ? norm : powf(norm, 1 / c->moe_norm_p);
    for (uint32_t j = 0; j < k; j++)
        weight[j] *= AT(c, s, scale, layer, expert[j], 1);

    for (uint32_t i = 1; i < k; i++)       /* heaviest first, as applied; ties: lower id */
        for (uint32_t j = i; j > 0 && (weight[j] > weight[j - 1] ||
                 (weight[j] == weight[j - 1] && expert[j] < expert[j - 1])); j--) {
            float w = weight[j];
            uint16_t e = expert[j];
            weight[j] = weight[j - 1], expert[j] = expert[j - 1];
            weight[j - 1] = w, expert[j - 1] = e;
        }
    return 0;
}
