/* tests/unit/plain_forward.h -- DBRX's forward pass once more, in double and as plainly as it
 * can be written, with the three meanings of "without this expert" and what else steers, each
 * spelled out for itself.  Shares nothing with backends/graph; for small models. */
#ifndef TESTS_UNIT_PLAIN_FORWARD_H
#define TESTS_UNIT_PLAIN_FORWARD_H

#include "backends/backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is done about one layer's experts; [e] flags */
struct pf_rule {
    uint8_t ban[64], skip[64], omit[64], zero[64], force[64];
    double  bias[64], scale[64];
    uint32_t k, swap[2];                   /* k 0: the model's; swap equal: none */
};

/* [n_layers] rules that change nothing; free() them */
__attribute__((unused))
static struct pf_rule *pf_rules(const struct dbrx_config *c)
{
    struct pf_rule *r = calloc(c->n_layers, sizeof *r);
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (uint32_t e = 0; e < c->n_experts; e++)
            r[l].scale[e] = 1;
    return r;
}

static double pf_at(const struct dbrx_tensor *t, size_t i)
{
    if (t->dtype == DBRX_F32)
        return (double)((const float *)t->data)[i];
    uint32_t u = (uint32_t)((const uint16_t *)t->data)[i] << 16;       /* BF16 */
    float f;
    memcpy(&f, &u, 4);
    return (double)f;
}

static void pf_norm(double *y, const double *x, const struct dbrx_tensor *w, uint32_t d, double eps)
{
    double mean = 0, var = 0;
    for (uint32_t i = 0; i < d; i++)
        mean += x[i] / d;
    for (uint32_t i = 0; i < d; i++)
        var += (x[i] - mean) * (x[i] - mean) / d;
    for (uint32_t i = 0; i < d; i++)
        y[i] = (x[i] - mean) / sqrt(var + eps) * pf_at(w, i);
}

static void pf_matrix(double *y, const double *x, const struct dbrx_tensor *w, size_t first, uint32_t rows, uint32_t d)
{
    for (uint32_t r = 0; r < rows; r++) {
        y[r] = 0;
        for (uint32_t i = 0; i < d; i++)
            y[r] += pf_at(w, (first + r) * d + i) * x[i];
    }
}

/* The weight of every expert of a token, 0 for those that are not used; chosen[e] says which were */
static void pf_route(const struct dbrx_config *c, const struct pf_rule *r, const double *logit, double *weight,
                     uint8_t *chosen)
{
    uint32_t n = c->n_experts, k = r->k ? r->k : c->top_k, used = 0;
    double z[64], p[64], sum = 0, norm = 0;
    for (uint32_t e = 0; e < n; e++)
        z[e] = logit[e];
    z[r->swap[0]] = logit[r->swap[1]];
    z[r->swap[1]] = logit[r->swap[0]];
    for (uint32_t e = 0; e < n; e++)
        sum += p[e] = r->ban[e] ? 0 : exp(z[e] + r->bias[e]);  /* banned: not there for the softmax */
    for (uint32_t e = 0; e < n; e++) {
        p[e] /= sum;
        chosen[e] = r->force[e];
        used += r->force[e];
        weight[e] = 0;
    }
    for (; used < k; used++) {
        int best = -1;
        for (uint32_t e = 0; e < n; e++)
            if (!chosen[e] && !r->ban[e] && !r->skip[e] && (best < 0 || p[e] > p[best]))
                best = (int)e;
        chosen[best] = 1;
    }
    for (uint32_t e = 0; e < n; e++)       /* omitted: gone before the weights are normalised */
        if (chosen[e] && !r->omit[e]) {
            weight[e] = p[e];
            norm += c->moe_norm_p > 0 ? pow(p[e], c->moe_norm_p) : 0;
        }
    for (uint32_t e = 0; e < n; e++) {
        if (c->moe_norm_p > 0 && norm > 0)
            weight[e] /= pow(norm, 1 / (double)c->moe_norm_p);
        weight[e] *= r->zero[e] ? 0 : r->scale[e];     /* zeroed: gone after it */
    }
}

static double pf_act(uint32_t act, double x)
{
    return act == DBRX_GELU ? 0.5 * x * (1 + erf(x / sqrt(2))) : x / (1 + exp(-x));
}

/* logits[T][n_vocab] of the tokens; rule[n_layers]; weight [n_layers][T][n_experts], or NULL */
__attribute__((unused))
static void pf_forward(const struct dbrx_model_desc *m, const struct pf_rule *rule, const int32_t *token, uint32_t T,
                       double *logits, double *used)
{
    const struct dbrx_config *c = &m->config;
    uint32_t d = c->d_model, hd = d / c->n_heads, kvd = c->n_kv_heads * hd, w = d + 2 * kvd, n = c->n_experts;
    double *x = calloc((size_t)T * d, 8), *qkv = calloc((size_t)T * w, 8), *h = calloc(d, 8), *y = calloc(d, 8);
    double *a = calloc(c->d_ffn, 8), *b = calloc(c->d_ffn, 8), *score = calloc(T, 8);
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t i = 0; i < d; i++)
            x[t * d + i] = pf_at(&m->embed, (size_t)token[t] * d + i);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct dbrx_layer *y_l = (const void *)((const char *)m->layer + (size_t)l * m->layer_size);
        for (uint32_t t = 0; t < T; t++) {
            double *q = qkv + (size_t)t * w;
            pf_norm(h, x + (size_t)t * d, &y_l->norm_1, d, (double)c->ln_eps);
            pf_matrix(q, h, &y_l->wqkv, 0, w, d);
            for (uint32_t i = 0; c->clip_qkv > 0 && i < w; i++)
                q[i] = fmax(-(double)c->clip_qkv, fmin((double)c->clip_qkv, q[i]));
            for (uint32_t head = 0; head < c->n_heads + c->n_kv_heads; head++)
                for (uint32_t i = 0; i < hd / 2; i++) {
                    double angle = t * pow((double)c->rope_theta, -2.0 * i / hd), *v = q + head * hd + i;
                    double re = v[0], im = v[hd / 2];
                    v[0] = re * cos(angle) - im * sin(angle);
                    v[hd / 2] = im * cos(angle) + re * sin(angle);
                }
        }
        for (uint32_t t = 0; t < T; t++) {
            for (uint32_t head = 0; head < c->n_heads; head++) {
                uint32_t kv = head / (c->n_heads / c->n_kv_heads);
                double sum = 0, max = -INFINITY;
                for (uint32_t s = 0; s <= t; s++) {
                    score[s] = 0;
                    for (uint32_t i = 0; i < hd; i++)
                        score[s] += qkv[(size_t)t * w + head * hd + i] * qkv[(size_t)s * w + d + kv * hd + i] / sqrt(hd);
                    max = fmax(max, score[s]);
                }
                for (uint32_t s = 0; s <= t; s++)
                    sum += score[s] = exp(score[s] - max);
                for (uint32_t i = 0; i < hd; i++) {
                    h[head * hd + i] = 0;
                    for (uint32_t s = 0; s <= t; s++)
                        h[head * hd + i] += score[s] / sum * qkv[(size_t)s * w + d + kvd + kv * hd + i];
                }
            }
            pf_matrix(y, h, &y_l->wo, 0, d, d);
            for (uint32_t i = 0; i < d; i++)
                x[(size_t)t * d + i] += y[i];
        }
        for (uint32_t t = 0; t < T; t++) {
            double router[64], weight[64];
            uint8_t chosen[64];
            pf_norm(h, x + (size_t)t * d, &y_l->norm_2, d, (double)c->ln_eps);
            pf_matrix(router, h, &y_l->router, 0, n, d);
            pf_route(c, &rule[l], router, weight, chosen);
            for (uint32_t e = 0; e < n; e++) {
                size_t first = (size_t)e * c->d_ffn;
                if (used)
                    used[((size_t)l * T + t) * n + e] = weight[e];
                if (weight[e] == 0)
                    continue;
                pf_matrix(a, h, &y_l->w1, first, c->d_ffn, d);
                pf_matrix(b, h, &y_l->v1, first, c->d_ffn, d);
                for (uint32_t j = 0; j < c->d_ffn; j++)
                    for (uint32_t i = 0; i < d; i++)
                        x[(size_t)t * d + i] += weight[e] * pf_act(c->act_fn, a[j]) * b[j] * pf_at(&y_l->w2, (first + j) * d + i);
            }
        }
    }
    for (uint32_t t = 0; t < T; t++) {
        pf_norm(h, x + (size_t)t * d, &m->norm_f, d, (double)c->ln_eps);
        pf_matrix(logits + (size_t)t * c->n_vocab, h, &m->lm_head, 0, c->n_vocab, d);
    }
    free(x), free(qkv), free(h), free(y), free(a), free(b), free(score);
}

#endif
