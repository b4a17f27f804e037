/* tests/conformance/routing.c -- backend.h's order of effects once more, in double, from the
 * router logits a backend reports: an implementation to compare with, sharing nothing with
 * backends/graph/route.c. */
#include "tests/conformance/conformance.h"

#include <math.h>

/* p of a and b differ, but by less than float32 arithmetic can be held to */
static bool hangs_by_a_thread(double a, double b, double za, double zb)
{
    return za != zb && fabs(a - b) <= 1e-5 * fmax(a, b) + 1e-30;
}

void expected_routing(const struct dbrx_config *c, const struct dbrx_steer *s, uint32_t layer,
                      const float *logit, struct routing *out)
{
    size_t row = (size_t)layer * c->n_experts;
    uint32_t n = c->n_experts;
    const float *bias = s && s->bias ? s->bias + row : NULL;
    const float *scale = s && s->scale ? s->scale + row : NULL;
    const uint8_t *mark = s && s->mark ? s->mark + row : NULL;
    const uint16_t *source = s && s->source ? s->source + row : NULL;
    double z[64], max = -INFINITY, sum = 0, norm = 0;
    bool taken[64] = { false }, open[64];

    *out = (struct routing){ .k = s && s->top_k && s->top_k[layer] ? s->top_k[layer] : c->top_k };
    for (uint32_t e = 0; e < n; e++) {
        z[e] = (double)logit[source ? source[e] : e] + (bias ? bias[e] : 0);
        open[e] = z[e] != -INFINITY && !(mark && mark[e] & DBRX_STEER_SKIP);
        max = fmax(max, z[e]);
    }
    for (uint32_t e = 0; e < n; e++)
        sum += out->prob[e] = exp(z[e] - max);
    for (uint32_t e = 0; e < n; e++)
        out->prob[e] /= sum;

    uint32_t k = 0;
    for (uint32_t e = 0; e < n; e++)
        if (mark && mark[e] & DBRX_STEER_FORCE)
            out->expert[k++] = (uint16_t)e, taken[e] = true;
    while (k < out->k) {
        uint32_t best = n;
        for (uint32_t e = 0; e < n; e++)
            if (open[e] && !taken[e] && (best == n || z[e] > z[best]))
                best = e;
        if (best == n)
            return;                        /* the caller asked for the impossible */
        out->expert[k++] = (uint16_t)best, taken[best] = true;
    }
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++)
            out->close |= taken[a] && !taken[b] && open[b] &&
                          !(mark && mark[a] & DBRX_STEER_FORCE) &&
                          hangs_by_a_thread(out->prob[a], out->prob[b], z[a], z[b]);

    for (uint32_t j = 0; j < k; j++) {
        bool omit = mark && mark[out->expert[j]] & DBRX_STEER_OMIT;
        out->weight[j] = omit ? 0 : out->prob[out->expert[j]];
        norm += pow(out->weight[j], c->moe_norm_p > 0 ? c->moe_norm_p : 1);
    }
    for (uint32_t j = 0; j < k; j++) {
        if (c->moe_norm_p > 0 && norm > 0)
            out->weight[j] /= pow(norm, 1 / (double)c->moe_norm_p);
        out->weight[j] *= scale ? scale[out->expert[j]] : 1;
    }
}

double rec_margin(const struct rec *r, uint32_t pos)
{
    const struct dbrx_config *c = r->cfg;
    double least = INFINITY;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        size_t row = (size_t)l * r->room + pos;
        struct routing w;
        bool taken[64] = { false };
        if (!r->routed[row])
            continue;
        expected_routing(c, r->steer, l, r->logit + row * c->n_experts, &w);
        for (uint32_t j = 0; j < w.k; j++)
            taken[w.expert[j]] = true;
        for (uint32_t a = 0; a < c->n_experts; a++)
            for (uint32_t b = 0; b < c->n_experts; b++)
                if (taken[a] && !taken[b] && w.prob[a] > w.prob[b])
                    least = fmin(least, w.prob[a] - w.prob[b]);
    }
    return least;
}

int routes_as_documented(const struct rec *r, uint32_t n)
{
    const struct dbrx_config *c = r->cfg;
    uint32_t compared = 0;
    NEED(!r->broken[0], "%s", r->broken);
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (uint32_t p = 0; p < n; p++) {
            size_t at = ((size_t)l * r->room + p) * c->n_experts;
            struct routing w;
            expected_routing(c, r->steer, l, r->logit + at, &w);
            for (uint32_t j = 0; j < w.k; j++) {               /* however close it was */
                uint32_t e = r->expert[at + j];
                const struct dbrx_steer *s = r->steer;
                size_t i = (size_t)l * c->n_experts + e;
                NEED(e < c->n_experts, "layer %u, position %u: expert %u", l, p, e);
                NEED(!(s && s->bias && s->bias[i] == -INFINITY) &&
                     !(s && s->mark && s->mark[i] & DBRX_STEER_SKIP),
                     "layer %u, position %u: expert %u is banned or skipped, but chosen", l, p, e);
            }
            for (uint32_t e = 0; e < c->n_experts; e++)
                NEED(fabs(r->prob[at + e] - w.prob[e]) <= 1e-5,
                     "layer %u, position %u, expert %u: probability %g, not %g", l, p, e,
                     r->prob[at + e], w.prob[e]);
            for (uint32_t j = 0; j < w.k && !w.close; j++) {
                uint32_t i = 0;
                while (i < w.k && r->expert[at + i] != w.expert[j])
                    i++;
                NEED(i < w.k, "layer %u, position %u: expert %u is missing", l, p, w.expert[j]);
                NEED(fabs(r->weight[at + i] - w.weight[j]) <= 1e-5 * (1 + fabs(w.weight[j])),
                     "layer %u, position %u, expert %u: weight %g, not %g", l, p, w.expert[j],
                     r->weight[at + i], w.weight[j]);
                compared++;
            }
        }
    NEED(compared, "every decision was too close to call, nothing compared");
    return PASS;
}
