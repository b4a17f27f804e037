/* backends/cuda/session.h -- one timeline on the devices: its KV cache, the buffers of a pass, and what
 * a pass leaves for the host to read. */
#ifndef DBRX_CUDA_SESSION_H
#define DBRX_CUDA_SESSION_H

#include "backends/cuda/model.h"

enum { FEW = 4,                            /* up to so many tokens go one by one through matvec */
       BESIDE = 8,                         /* blocks of a matvec on a processor, at most     */
       HEAD_ROWS = 64 };                   /* rows of logits computed together               */

/* What routers decided in a pass, one allocation on the device and one pinned on the host:
 * [layers of the part][n][...], n and slots those of the pass. */
struct trace {
    uint16_t *expert;                      /* [layers][n][slots]                             */
    float *weight, *prob, *logit;          /* [layers][n][slots], [layers][n][n_experts] twice */
    size_t bytes;
};

/* A session's share of one device */
struct part {
    struct device *dev;
    uint32_t first, end;                   /* layers                                         */
    struct gpu_stream *stream;
    struct step *step;
    int32_t *token;                        /* [chunk]                                        */
    uint8_t *want;                         /* [n_layers + 1] as a tap's                      */
    struct steering steer;
    unsigned char *k, *v;                  /* [layers][max_pos][kv_heads][head]              */
    size_t kv_layer;                       /* bytes of a layer of each                       */
    float *x, *h, *qkv;                    /* [chunk][ld] twice, [chunk][qkv]                */
    float *act, *y;                        /* [chunk * slots][ffn_ld], [ld]                  */
    float *split;                          /* of attention, FEW tokens                       */
    uint32_t *order, *start;               /* slots by expert                                */
    uint32_t *count;                       /* zeros: of blocks that wait for one another     */
    void *trace, *trace_host;
    uint32_t *bad;                         /* pinned: step->bad after a pass                 */
    float *tap_x, *tap_part;               /* [layers + 1][tap_chunk][ld], [layers][tap_chunk][n_experts][ld] */
    struct gpu_graph *graph[2];            /* a token, without and with its logits           */
};

struct dbrx_session {
    dbrx_model *m;
    uint32_t pos, max_pos, chunk, splits;
    int lost;
    struct part *part;                     /* [plan.n_shares]                                */
    float *logits, *logits_host;           /* [HEAD_ROWS][n_vocab], on the last device and pinned */
    struct pinned *pinned;                 /* what each pass begins with                     */
    unsigned char *stage;                  /* pinned, for what goes to the host in pieces    */
    size_t stage_bytes;
    float *tap_host;                       /* pinned [tap_chunk][n_experts][ld]              */
    uint32_t tap_chunk;
    dbrx_input_watch *watch;
    void *watch_ctx;
    float *watched;                        /* host memory, once somebody does                */
    struct held *held;
};

/* Pinned host memory that is copied to every device before a pass */
struct pinned {
    struct step step;
    int32_t *token;
    uint8_t *want;
    struct steering steer;
};

struct trace trace_at(void *base, uint32_t layers, uint32_t n, uint32_t slots, uint32_t n_experts);

/* Buffers for taps, on the first that is asked for */
dbrx_status session_taps(dbrx_session *, struct dbrx_error *);
void session_drop_graphs(dbrx_session *);
/* A status of the devices: a lost one ends the session */
dbrx_status session_done(dbrx_session *, dbrx_status);

dbrx_status cuda_session_open(dbrx_model *, uint32_t max_pos, dbrx_session **, struct dbrx_error *);
void        cuda_session_close(dbrx_session *);
uint32_t    cuda_position(const dbrx_session *);
dbrx_status cuda_truncate(dbrx_session *, uint32_t n_keep, struct dbrx_error *);

/* forward.c */
dbrx_status cuda_eval(dbrx_session *, const struct dbrx_batch *, struct dbrx_error *);

extern const struct dbrx_kv     cuda_kv;   /* kv.c      */
extern const struct dbrx_head   cuda_head; /* forward.c */
extern const struct dbrx_resume cuda_resume;
extern const struct dbrx_inputs cuda_inputs;

#endif
