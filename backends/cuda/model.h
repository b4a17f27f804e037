/* backends/cuda/model.h -- a model on its devices, as plan.c lays it out and model.c loads it. */
#ifndef DBRX_CUDA_MODEL_H
#define DBRX_CUDA_MODEL_H

#include "backends/cuda/args.h"
#include "backends/cuda/gpu.h"

enum { MAX_DEVICES = 16 };

enum offload { OFFLOAD_EXPERTS, OFFLOAD_LAYERS, OFFLOAD_NONE };

struct settings {                          /* the options, in the order of cuda.c's list     */
    int      gpu[MAX_DEVICES], n_gpus;     /* 0: all there are                               */
    uint32_t kv_type;                      /* DBRX_F32, F16, BF16, KV_FP8                    */
    int      offload;
    uint32_t context;                      /* positions to leave room for                    */
    int      deterministic;
    int      fast;                         /* prompts by tensor cores, rounded to bfloat16   */
};

/* Which layers a device runs, and what of them lies on it. */
struct share {
    int      device;
    uint64_t total, free;                  /* bytes, before anything is loaded               */
    uint32_t first, end;                   /* layers                                         */
    uint64_t weights, kv, scratch;         /* bytes that it will hold                        */
};
struct plan {
    struct share share[MAX_DEVICES];
    uint32_t n_shares;
    uint16_t *resident;                    /* [n_layers] experts on the device; the others are
                                              read from pinned host memory                   */
    uint8_t  *away;                        /* [n_layers] attention, too, is read from the host */
    uint64_t host;                         /* bytes of pinned host memory                    */
};

/* How many bytes a stored matrix takes on the device */
uint64_t mat_bytes(uint32_t type, uint64_t rows, uint64_t padded);
static inline uint32_t padded(uint32_t n) { return (n + GROUP - 1) / GROUP * GROUP; }

/* Decides where everything goes.  DBRX_E_NOMEM and a sentence with figures when it cannot. */
dbrx_status plan_make(const struct dbrx_model_desc *, const struct settings *, struct plan *, struct dbrx_error *);
void plan_free(struct plan *);
/* Tokens of one pass at most, and bytes of a session beside its KV cache */
uint32_t plan_chunk(const struct dbrx_config *, uint32_t max_pos);
uint64_t plan_scratch(const struct dbrx_config *, uint32_t max_pos, uint32_t layers);
uint64_t plan_kv(const struct dbrx_config *, uint32_t kv_type, uint32_t max_pos);      /* of one layer */
size_t plan_piece(const struct dbrx_model_desc *, uint64_t *total);    /* bytes read at a time; of all weights */
uint32_t plan_splits(uint32_t max_pos);    /* parts that a single token's attention is cut into */
uint32_t kv_bytes(uint32_t kv_type);       /* of one element */

struct device {
    struct gpu *gpu;
    struct gpu_info info;
    float *inv_freq;                       /* [head / 2]                                     */
};

struct block {                             /* one layer                                      */
    struct device *dev;
    float *norm_1, *norm_2, *router;       /* [ld], [ld], [n_experts][ld]                    */
    struct mat wqkv, wo;
    struct wt *w1, *v1, *w2;               /* on the device: [n_experts]                     */
    uint32_t type1, type3, type2;          /* of w1, v1, w2                                  */
};

struct dbrx_model {
    const struct dbrx_host *host;
    struct dbrx_config cfg;
    struct settings set;
    struct plan plan;
    uint32_t ld, ffn_ld, head, qkv;        /* padded d_model and d_ffn; head_dim; rows of Wqkv */
    struct device *dev;                    /* [plan.n_shares]                                */
    struct block *layer;                   /* [n_layers]                                     */
    struct mat embed, lm_head;             /* on the first device, on the last               */
    float *norm_f;
    struct held *held;                     /* all memory                                     */
};

/* Device or pinned host memory of a model or a session, freed with it.  *out (a pointer of any
 * type) is set on DBRX_OK only, and h NULL is no memory. */
struct held { struct held *next; struct gpu *gpu; void *p; int host; };
dbrx_status held_alloc(struct held **list, struct gpu *, int host, size_t bytes, void *out, struct dbrx_error *);
void held_free(struct held *h);

dbrx_status cuda_model_open(const struct dbrx_host *, const struct dbrx_model_desc *, const struct settings *,
                            dbrx_model **, struct dbrx_error *);
void cuda_model_close(dbrx_model *);

#endif
