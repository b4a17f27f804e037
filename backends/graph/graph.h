/* backends/graph/graph.h -- DBRX's forward pass over an ops table, and the whole
 * of "dbrx.backend/1" but for model_open and probe.
 *
 * A CPU backend is: an ops table, a context for it, and these functions in its
 * vtable.  Linked into backends, never seen by the host. */
#ifndef DBRX_GRAPH_GRAPH_H
#define DBRX_GRAPH_GRAPH_H

#include "backends/graph/check.h"
#include "backends/graph/ops.h"

struct dbrx_model {
    const struct dbrx_host *host;
    struct dbrx_config cfg;
    struct dbrx_tensor embed, lm_head;
    uint32_t w2_layout;
    const struct dbrx_layer **layer;       /* [n_layers]                                   */
    float *norm_1, *norm_2, *norm_f;       /* [n_layers][d_model] twice, [d_model]: as float32 */
    uint32_t kv_dtype;                     /* F32, or F16, BF16, Q8_0 if the backend says so
                                              before it opens sessions                     */
    struct ops ops;
    void  *ctx;                            /* given to every op                            */
    void (*ctx_close)(void *ctx);          /* may be NULL                                  */
    uint32_t repro;                        /* DBRX_REPRO_*, set by the backend: what it promises */
};

struct dbrx_session {
    dbrx_model *model;
    uint32_t pos, max_pos;
    char *k, *v;                           /* [n_layers] slices of [max_pos][n_kv_heads][head_dim] of
                                              model->kv_dtype; k after RoPE */
    size_t kv_row, kv_slice;               /* bytes of a position, of a slice              */
    uint32_t coming;                       /* positions that an import is seen to bring    */

    /* one chunk of up to GRAPH_CHUNK tokens, [chunk] at a time */
    float *x;                              /* [chunk][d_model] the residual stream         */
    float *h;                              /* [chunk][d_model] normalised, or attention's output */
    float *qkv;                            /* [chunk][n_heads + 2*n_kv_heads][head_dim]    */
    float (*cs)[2];                        /* [chunk][head_dim/2] cos, sin                 */
    float *logit, *prob, *weight;          /* [chunk][n_experts]; weight: [chunk][top_k]   */
    uint16_t *expert;                      /* [chunk][top_k]                               */
    float *part;                           /* [chunk][n_experts][d_model], once a tap asks */
    dbrx_input_watch *watch;               /* dbrx.inputs/1: who gets them, or NULL        */
    void  *watch_ctx;
    float *watched;                        /* [chunk][d_model + 2*d_ffn], once somebody does */
    struct work work;
};

/* Checks the desc and prepares a model.  Takes ctx over also when it fails. */
dbrx_status graph_model_open(const struct dbrx_host *, const struct dbrx_model_desc *,
                             const struct ops *, void *ctx, void (*ctx_close)(void *),
                             dbrx_model **, struct dbrx_error *);

/* A layer's slices are going to hold positions pos .. end: large pages where these will fill them. */
void graph_kv_grow(dbrx_session *, uint32_t layer, uint32_t pos, uint32_t end);

/* Entries for the vtable; contracts in backend.h. */
void        graph_model_close(dbrx_model *);
dbrx_status graph_session_open(dbrx_model *, uint32_t max_pos, dbrx_session **, struct dbrx_error *);
void        graph_session_close(dbrx_session *);
dbrx_status graph_eval(dbrx_session *, const struct dbrx_batch *, struct dbrx_error *);
uint32_t    graph_position(const dbrx_session *);
dbrx_status graph_truncate(dbrx_session *, uint32_t n_keep, struct dbrx_error *);

extern const struct dbrx_head   graph_head;    /* the optional tables */
extern const struct dbrx_resume graph_resume;
extern const struct dbrx_kv   graph_kv;

/* All of a backend's table but options, probe and model_open: .struct_size first, then this. */
#define GRAPH_BACKEND \
    .model_close = graph_model_close, .session_open = graph_session_open, \
    .session_close = graph_session_close, .eval = graph_eval, .position = graph_position, \
    .truncate = graph_truncate
/* A module's get(): its backend table, and the optional ones. */
const void *graph_get(const char *id, const struct dbrx_backend *);

#endif
