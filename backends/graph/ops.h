/* backends/graph/ops.h -- the operations a forward pass is made of.
 *
 * The table starts as plain C (ops_plain, the specification); a backend
 * overrides the entries it does better and is tested against the plain ones.
 * Activations are float32, row-major; weights are as stored.  Every op is
 * [one/session]: its scratch belongs to the session it runs for. */
#ifndef DBRX_GRAPH_OPS_H
#define DBRX_GRAPH_OPS_H

#include "backends/backend.h"

enum { GRAPH_CHUNK = 512 };                /* tokens an op gets at most */

/* What an op gets besides its operands. */
struct work {
    void  *ctx;                            /* the backend's own, from graph_model_open     */
    float *row;                            /* [max(d_model, d_ffn, max_pos)], for any op   */
    void  *scratch;                        /* what scratch() asked for, 64-byte aligned    */
};

/* Grouped-query causal attention of n new tokens at one layer.  Row t of q is at
 * position pos + t and sees cache rows 0 .. pos + t.  Query head j reads KV head
 * j / (n_heads / n_kv_heads). */
struct attn {
    const float *q;                        /* [n][q_stride]: n_heads * head_dim used       */
    const void  *k, *v;                    /* [pos + n][n_kv_heads][head_dim] of kv_dtype  */
    float       *out;                      /* [n][n_heads][head_dim]                       */
    size_t   q_stride;
    uint32_t n, pos, n_heads, n_kv_heads, head_dim, kv_dtype;
};

/* The chosen experts of one layer: x[t] += sum_j weight[t][j] * expert[t][j](h[t]). */
struct moe {
    const struct dbrx_layer *layer;
    const float    *h;                     /* [n][d_model], after norm_2                   */
    float          *x;                     /* [n][d_model], the residual stream            */
    const uint16_t *expert;                /* [n][k]                                       */
    const float    *weight;                /* [n][k]; an expert of weight 0 does not run   */
    float          *part;                  /* [n][k][d_model]: each term of the sum, or NULL */
    uint32_t n, k, d_model, d_ffn, n_experts, act_fn, w2_layout;
};

struct ops {
    /* y[n][rows] = x[n][cols] w[rows][cols]^T */
    void (*linear)(struct work *, float *y, const float *x, const struct dbrx_tensor *w,
                   uint32_t n, uint32_t rows, uint32_t cols);
    /* y[n][d] = (x - mean(x)) / sqrt(var(x) + eps) * w[d]; LayerNorm without bias */
    void (*layernorm)(struct work *, float *y, const float *x, const float *w,
                      uint32_t n, uint32_t d, float eps);
    /* In place: clamp every x[n][stride] element to +-clip (0: no clamp), then rotate
     * the first n_rot heads: pair (i, i + hd/2) by the angle of cs[n][hd/2] = {cos, sin}. */
    void (*clip_rope)(struct work *, float *x, uint32_t n, uint32_t stride, float clip,
                      uint32_t n_rot, uint32_t head_dim, const float (*cs)[2]);
    /* dst[n][width] as a KV cache's dtype = x[n][stride], width of them */
    void (*store)(struct work *, void *dst, uint32_t dtype, const float *x, size_t stride,
                  uint32_t n, uint32_t width);
    void (*attention)(struct work *, const struct attn *);
    /* x[n][d] += y[n][d] */
    void (*add)(struct work *, float *x, const float *y, uint32_t n, uint32_t d);
    void (*experts)(struct work *, const struct moe *);
    /* Bytes of work.scratch for up to GRAPH_CHUNK tokens, or NULL for none. */
    size_t (*scratch)(void *ctx, const struct dbrx_config *);
};

extern const struct ops ops_plain;

/* silu(x) = x / (1 + e^-x), or gelu by erf */
float act_plain(uint32_t act_fn, float x);

#endif
