/* backends/graph/ops.c -- the operations in plain C: DBRX's specification, to be
 * read beside the model's reference code.  Sums are taken in double.  See ops.h. */
#include "backends/graph/ops.h"

#include "backends/graph/dequant.h"
#include "backends/graph/kv.h"

#include <math.h>

static double dot(const float *a, const float *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)a[i] * b[i];
    return s;
}

static void linear(struct work *wk, float *y, const float *x, const struct dbrx_tensor *w,
                   uint32_t n, uint32_t rows, uint32_t cols)
{
    for (uint32_t r = 0; r < rows; r++) {
        dequant(wk->row, w->data, w->dtype, (size_t)r * cols, cols);
        for (uint32_t t = 0; t < n; t++)
            y[(size_t)t * rows + r] = (float)dot(wk->row, x + (size_t)t * cols, cols);
    }
}

static void layernorm(struct work *wk, float *y, const float *x, const float *w,
                      uint32_t n, uint32_t d, float eps)
{
    (void)wk;
    for (uint32_t t = 0; t < n; t++, x += d, y += d) {
        double mean = 0, var = 0;
        for (uint32_t i = 0; i < d; i++)
            mean += x[i];
        mean /= d;
        for (uint32_t i = 0; i < d; i++)
            var += (x[i] - mean) * (x[i] - mean);
        double scale = 1 / sqrt(var / d + eps);
        for (uint32_t i = 0; i < d; i++)
            y[i] = (float)((x[i] - mean) * scale * w[i]);
    }
}

static void clip_rope(struct work *wk, float *x, uint32_t n, uint32_t stride, float clip,
                      uint32_t n_rot, uint32_t head_dim, const float (*cs)[2])
{
    (void)wk;
    uint32_t half = head_dim / 2;
    for (uint32_t t = 0; t < n; t++, x += stride, cs += half) {
        if (clip > 0)                      /* q, k and v alike, before RoPE */
            for (uint32_t i = 0; i < stride; i++)
                x[i] = x[i] > clip ? clip : x[i] < -clip ? -clip : x[i];
        for (uint32_t h = 0; h < n_rot; h++) {
            float *a = x + (size_t)h * head_dim, *b = a + half;
            for (uint32_t i = 0; i < half; i++) {
                float u = a[i], v = b[i];
                a[i] = u * cs[i][0] - v * cs[i][1];
                b[i] = v * cs[i][0] + u * cs[i][1];
            }
        }
    }
}

static void store(struct work *wk, void *dst, uint32_t dtype, const float *x, size_t stride,
                  uint32_t n, uint32_t width)
{
    (void)wk;
    for (uint32_t t = 0; t < n; t++)
        kv_store((char *)dst + t * dtype_bytes(dtype, width), dtype, x + t * stride, width);
}

static void add(struct work *wk, float *x, const float *y, uint32_t n, uint32_t d)
{
    (void)wk;
    for (size_t i = 0; i < (size_t)n * d; i++)
        x[i] += y[i];
}

static void attention(struct work *wk, const struct attn *a)
{
    uint32_t hd = a->head_dim, group = a->n_heads / a->n_kv_heads;
    size_t kv_stride = (size_t)a->n_kv_heads * hd;
    float *p = wk->row, *row = p + a->pos + a->n;
    for (uint32_t t = 0; t < a->n; t++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            const float *q = a->q + t * a->q_stride + (size_t)h * hd;
            size_t at = (size_t)(h / group) * hd;
            float *out = a->out + ((size_t)t * a->n_heads + h) * hd;
            uint32_t len = a->pos + t + 1;
            float max = -INFINITY;
            for (uint32_t j = 0; j < len; j++) {
                dequant(row, a->k, a->kv_dtype, at + j * kv_stride, hd);
                p[j] = (float)(dot(q, row, hd) / sqrt(hd));
                max = p[j] > max ? p[j] : max;
            }
            double sum = 0, *s = (double *)wk->scratch;
            for (uint32_t i = 0; i < hd; i++)
                s[i] = 0;
            for (uint32_t j = 0; j < len; j++) {
                sum += p[j] = expf(p[j] - max);
                dequant(row, a->v, a->kv_dtype, at + j * kv_stride, hd);
                for (uint32_t i = 0; i < hd; i++)
                    s[i] += (double)p[j] * row[i];
            }
            for (uint32_t i = 0; i < hd; i++)
                out[i] = (float)(s[i] / sum);
        }
}

float act_plain(uint32_t act_fn, float x)
{
    return act_fn == DBRX_GELU ? 0.5f * x * (1 + erff(x * 0.70710678f)) : x / (1 + expf(-x));
}

static size_t experts_scratch(void *ctx, const struct dbrx_config *c)
{
    (void)ctx;
    return 2 * (size_t)c->d_model * sizeof(double) + c->d_ffn * sizeof(float);
}

/* out[d_model] = expert e of h[d_model].  w1, v1 are [n_experts*d_ffn][d_model]; expert e owns
 * rows e*d_ffn .. (e+1)*d_ffn.  w2 has the same rows (row r of it is what intermediate element
 * r adds to the output), or a row for each of d_model outputs. */
static void expert(const struct moe *m, size_t e, const float *h, double *out, float *act,
                   float *row)
{
    const struct dbrx_layer *l = m->layer;
    uint32_t d = m->d_model, ffn = m->d_ffn;
    for (uint32_t r = 0; r < ffn; r++) {
        size_t at = (e * ffn + r) * d;
        dequant(row, l->w1.data, l->w1.dtype, at, d);
        act[r] = act_plain(m->act_fn, (float)dot(row, h, d));
        dequant(row, l->v1.data, l->v1.dtype, at, d);
        act[r] *= (float)dot(row, h, d);
    }
    if (m->w2_layout == DBRX_W2_MODEL_ROWS) {
        for (uint32_t i = 0; i < d; i++) {
            dequant(row, l->w2.data, l->w2.dtype, (e * d + i) * ffn, ffn);
            out[i] = dot(row, act, ffn);
        }
        return;
    }
    for (uint32_t r = 0; r < ffn; r++) {
        size_t at = (e * ffn + r) * d;
        dequant(row, l->w2.data, l->w2.dtype, at, d);
        for (uint32_t i = 0; i < d; i++)
            out[i] += (double)act[r] * row[i];
    }
}

static void experts(struct work *wk, const struct moe *m)
{
    uint32_t d = m->d_model;
    double *out = wk->scratch, *sum = out + d;
    float *act = (float *)(sum + d);
    for (uint32_t t = 0; t < m->n; t++) {
        float *x = m->x + (size_t)t * d;
        for (uint32_t i = 0; i < d; i++)
            sum[i] = 0;
        for (uint32_t j = 0; j < m->k; j++) {
            float weight = m->weight[t * m->k + j];
            for (uint32_t i = 0; i < d; i++)
                out[i] = 0;
            if (weight != 0)
                expert(m, m->expert[t * m->k + j], m->h + (size_t)t * d, out, act, wk->row);
            for (uint32_t i = 0; i < d; i++)
                sum[i] += weight * out[i];
            if (m->part)
                for (uint32_t i = 0; i < d; i++)
                    m->part[((size_t)t * m->k + j) * d + i] = (float)(weight * out[i]);
        }
        for (uint32_t i = 0; i < d; i++)
            x[i] += (float)sum[i];
    }
}

const struct ops ops_plain = {
    .linear = linear, .layernorm = layernorm, .clip_rope = clip_rope,
    .store = store, .attention = attention, .add = add, .experts = experts,
    .scratch = experts_scratch,
};
