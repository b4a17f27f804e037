/* backends/backend.h -- "dbrx.backend/1": run DBRX's forward pass.
 *
 * Three objects.  The host owns the checkpoint (mapped once, read-only).
 * A model is a backend's prepared view of it.  A session is one timeline of
 * positions: its KV cache.  Token ids are the truth; a KV cache can always be
 * rebuilt from them, which is how sessions move between backends.
 *
 * The model is Databricks' (databricks/dbrx, model/modeling_dbrx.py).  Arrays
 * are row-major and dense; [a][b] below means element (i,j) at i*b + j. */
#ifndef DBRX_BACKEND_H
#define DBRX_BACKEND_H

#include "plugins/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the checkpoint, as the host hands it over -------------------------- */

enum { DBRX_SILU, DBRX_GELU /* exact, erf */ };

/* Element types, numbered as ggml_type in the GGUF specification, so that a
 * reader needs no translation.  Quantised rows are GGUF's blocks. */
enum { DBRX_F32 = 0, DBRX_F16 = 1, DBRX_Q4_0 = 2, DBRX_Q4_1 = 3, DBRX_Q5_0 = 6,
       DBRX_Q5_1 = 7, DBRX_Q8_0 = 8, DBRX_Q2_K = 10, DBRX_Q3_K = 11,
       DBRX_Q4_K = 12, DBRX_Q5_K = 13, DBRX_Q6_K = 14, DBRX_IQ4_NL = 20,
       DBRX_IQ4_XS = 23, DBRX_BF16 = 30 };

struct dbrx_config {                       /* DBRX Instruct          */
    uint32_t struct_size;
    uint32_t n_layers, d_model;            /* 40, 6144               */
    uint32_t n_heads, n_kv_heads;          /* 48, 8; head_dim = d_model / n_heads */
    uint32_t d_ffn, n_experts, top_k;      /* 10752, 16, 4           */
    uint32_t n_vocab, max_seq;             /* 100352, 32768          */
    float    clip_qkv;                     /* 8; 0: no clamp         */
    float    rope_theta, ln_eps;           /* 5e5, 1e-5              */
    float    moe_norm_p;                   /* 1: weights sum to one; 0: not normalised; 2: L2 */
    uint32_t act_fn;                       /* DBRX_SILU, DBRX_GELU   */
    uint32_t reserved[16];                 /* 0; new fields come out of here, and 0 means
                                              what it meant before them (the struct is embedded) */
};

/* `data` points into the mapping; `fd`/`offset` say where it came from, so a
 * backend may read() straight to the device instead of faulting pages in.
 * fd is -1 when the data has no file. */
struct dbrx_tensor {
    const void *data;
    uint64_t    bytes, offset;
    int32_t     fd;
    uint32_t    dtype, rank;
    uint64_t    dim[4];                    /* outermost first; the last is contiguous */
    uint64_t    reserved[2];               /* 0; as in dbrx_config */
};

struct dbrx_layer {
    struct dbrx_tensor norm_1;             /* [d_model]                        */
    struct dbrx_tensor wqkv;               /* [(n_heads + 2*n_kv_heads)*head_dim][d_model]: q, k, v */
    struct dbrx_tensor wo;                 /* [d_model][d_model]               */
    struct dbrx_tensor norm_2;             /* [d_model]                        */
    struct dbrx_tensor router;             /* [n_experts][d_model]             */
    struct dbrx_tensor w1, v1;             /* [n_experts*d_ffn][d_model]       */
    struct dbrx_tensor w2;                 /* see w2_layout                    */
};

enum { DBRX_W2_FFN_ROWS,                   /* [n_experts*d_ffn][d_model], Hugging Face's: y = h W2 */
       DBRX_W2_MODEL_ROWS };               /* [n_experts*d_model][d_ffn], GGUF's: y = W2 h         */

struct dbrx_model_desc {
    uint32_t struct_size;
    struct dbrx_config config;
    struct dbrx_tensor embed;              /* [n_vocab][d_model]               */
    struct dbrx_tensor norm_f;             /* [d_model]                        */
    struct dbrx_tensor lm_head;            /* [n_vocab][d_model]               */
    const struct dbrx_layer *layer;        /* [n_layers]                       */
    uint32_t layer_size;                   /* sizeof(struct dbrx_layer) of the host: the stride */
    uint32_t w2_layout;                    /* DBRX_W2_*                        */
    uint8_t  fingerprint[32];              /* of config, tensor table and samples of the weights;
                                              tells checkpoints apart, proves nothing */
};

/* ---- what a backend says of itself -------------------------------------- */

/* What "/backend cuda k=v" takes; an array ends at name == NULL. */
struct dbrx_option {
    const char *name, *fallback, *help;    /* fallback: in words, what holds without it */
};

struct dbrx_probe {                        /* in: struct_size                  */
    uint32_t struct_size;
    int32_t  score;                        /* 0 cannot run here; higher wins   */
    uint64_t mem_total, mem_free;          /* bytes where the weights would live; 0 unknown */
    char     device[128];                  /* "2 threads, AVX-512"             */
    char     reason[128];                  /* a sentence, when score is 0      */
};

/* ---- routing sink: what the router decided ------------------------------ */

/* One layer's routing for a run of consecutive positions. */
struct dbrx_route {
    uint32_t struct_size;
    uint32_t layer, pos, n_tokens, top_k, n_experts;
    const uint16_t *expert;                /* [n_tokens][top_k], by weight as applied, heaviest
                                              first; ties: lower expert id first */
    const float    *weight;                /* [n_tokens][top_k], as applied: normalised, scaled,
                                              0 where steering omitted the expert */
    const float    *prob;                  /* [n_tokens][n_experts] softmax over all experts, or NULL */
    const float    *logit;                 /* [n_tokens][n_experts] before any steering bias, or NULL */
};

enum { DBRX_ROUTE_PROB = 1, DBRX_ROUTE_LOGIT = 2 };
struct dbrx_route_sink {
    uint32_t struct_size;
    uint32_t want;                         /* DBRX_ROUTE_*: fill prob, logit   */
    void    *ctx;
    /* On the thread that called eval(), before eval() returns; positions
     * ascending within a layer, layers ascending for any one token.  Arrays are
     * valid during the call only.  After a return other than DBRX_OK some of
     * what was emitted may lie at or beyond position(): the host forgets it. */
    void (*emit)(void *ctx, const struct dbrx_route *);
};

/* ---- steering: change the router's choice ------------------------------- */
/* Order of effects, for one token at one layer:
 *   z[e] = router logit[source[e]] + bias[e]     (bias = -INFINITY: banned before the softmax;
 *                                        source: experts that change places under the router)
 *   p = softmax(z)
 *   chosen = FORCE experts, then the largest p not marked SKIP, until top_k
 *            (SKIP: not selectable, probabilities untouched; a banned expert is
 *            not selectable either; ties: the lower id)
 *   drop chosen experts marked OMIT     (selected, then removed before normalising;
 *                                        with all dropped the layer's experts add nothing)
 *   w = p[chosen] / p-norm;  w *= scale (scale = 0: contribution removed, nothing re-routed)
 * DBRX_E_INVALID, before anything is computed: fewer selectable experts than
 * top_k, more forced than top_k, an expert forced and skipped or banned, a
 * top_k above n_experts, a NaN or +INFINITY, a source that is no permutation. */
enum { DBRX_STEER_FORCE = 1, DBRX_STEER_SKIP = 2, DBRX_STEER_OMIT = 4 };
struct dbrx_steer {                        /* any array may be NULL            */
    uint32_t struct_size;
    const uint16_t *top_k;                 /* [n_layers], 0 = the model's      */
    const float    *bias;                  /* [n_layers][n_experts]            */
    const uint8_t  *mark;                  /* [n_layers][n_experts], DBRX_STEER_* */
    const float    *scale;                 /* [n_layers][n_experts]            */
    const uint16_t *source;                /* [n_layers][n_experts] a permutation of each
                                              layer's experts; modules of abi_minor 0 know
                                              nothing of it */
};

/* ---- taps: look at the residual stream ---------------------------------- */

enum { DBRX_TAP_RESIDUAL,                  /* x after block `layer`; layer -1: the embedding */
       DBRX_TAP_EXPERT };                  /* w_e * out_e of each chosen expert, in route order */
struct dbrx_tap {
    uint32_t struct_size;
    void *ctx;
    const uint8_t *want;                   /* [n_layers + 1] bits 1 << DBRX_TAP_*; entry 0 is the
                                              embedding, entry l + 1 is block l */
    /* As for the routing sink.  x: [n_tokens][d_model], or
     * [n_tokens][top_k][d_model] for EXPERT.  Valid during the call only. */
    void (*emit)(void *ctx, int kind, int32_t layer, uint32_t pos, uint32_t n_tokens,
                 const float *x);
};

/* ---- the backend table --------------------------------------------------- */

enum { DBRX_LOGITS_NONE, DBRX_LOGITS_LAST, DBRX_LOGITS_ALL };

struct dbrx_batch {
    uint32_t       struct_size;
    uint32_t       n_tokens;               /* 1 = decode, more = prefill; 0 is DBRX_E_INVALID */
    const int32_t *token;                  /* [n_tokens], 0 <= id < n_vocab, appended at position() */
    uint32_t       want_logits;            /* DBRX_LOGITS_*                    */
    float         *logits;                 /* caller's: [1 or n_tokens][n_vocab]; defined on DBRX_OK */
    size_t         logits_len;             /* in floats; room for fewer rows is DBRX_E_INVALID */
    const struct dbrx_route_sink *route;   /* NULL = tracing off, no cost      */
    const struct dbrx_steer      *steer;   /* NULL = the model's own routing   */
    const struct dbrx_tap        *tap;     /* NULL = none                      */
};

typedef struct dbrx_model   dbrx_model;    /* each backend defines its own     */
typedef struct dbrx_session dbrx_session;

#define DBRX_BACKEND "dbrx.backend/1"
struct dbrx_backend {
    uint32_t struct_size;
    const struct dbrx_option *options;     /* ends at name == NULL             */

    /* [any] Cheap; may initialise a driver, must not allocate weights.  OK with
     * score 0 and a reason when the backend cannot run here. */
    dbrx_status (*probe)(const struct dbrx_host *, struct dbrx_probe *,
                         struct dbrx_error *);

    /* [one/module] The desc (and what it points to) outlives the model.  `opt`
     * is a NULL-ended list of "name=value", or NULL; an unknown name or a value
     * out of range is DBRX_E_INVALID. */
    dbrx_status (*model_open)(const struct dbrx_host *,
                              const struct dbrx_model_desc *,
                              const char *const *opt,
                              dbrx_model **, struct dbrx_error *);
    /* [one/model] All its sessions are closed first. */
    void        (*model_close)(dbrx_model *);

    /* [one/model] Reserves room for `max_pos` > 0 positions, or fails now. */
    dbrx_status (*session_open)(dbrx_model *, uint32_t max_pos,
                                dbrx_session **, struct dbrx_error *);
    /* [one/session] */
    void        (*session_close)(dbrx_session *);

    /* [one/session] Append and run.  On any return but DBRX_E_LOST the session
     * holds exactly position() valid positions, the old ones plus a whole
     * prefix of the batch (none of it on an error). */
    dbrx_status (*eval)(dbrx_session *, const struct dbrx_batch *,
                        struct dbrx_error *);
    /* [one/session] */
    uint32_t    (*position)(const dbrx_session *);
    /* [one/session] Forget positions >= n_keep; n_keep > position() is
     * DBRX_E_INVALID, nothing else fails. */
    dbrx_status (*truncate)(dbrx_session *, uint32_t n_keep,
                            struct dbrx_error *);
};

/* ---- optional tables, each its own id ------------------------------------
 * Reserved ids:
 * "dbrx.batch/1"   several sessions in one pass: scoring, alternatives      */

/* A hidden vector's logits: lm_head(LayerNorm(x) * norm_f).  The logit lens. */
#define DBRX_HEAD "dbrx.head/1"
struct dbrx_head {
    uint32_t struct_size;
    /* [one/session] x: [n][d_model], the residual stream; logits: [n][n_vocab]. */
    dbrx_status (*head)(dbrx_session *, const float *x, uint32_t n, float *logits,
                        struct dbrx_error *);
};

/* Positions that the session holds, once more from an inner block on: what changes at layer L
 * leaves everything before L as it was, so an ablation need not recompute it. */
#define DBRX_RESUME "dbrx.resume/1"
struct dbrx_resume {
    uint32_t struct_size;
    /* [one/session] Runs blocks `layer`.. for the b->n_tokens positions from `pos` on, all of them
     * below position(), on x [n_tokens][d_model], the rows that enter block `layer` (the tap
     * RESIDUAL of layer - 1).  Their KV in those blocks is written anew, that of earlier blocks
     * and of other positions stays, position() does not move.  Of the batch b->token is not
     * looked at; routes and taps come from `layer` on.  b->steer may differ from eval's: the
     * caller sees to it that what later positions attend to is what it wants there.
     * On a return other than DBRX_OK the KV of these positions in these blocks is whatever it
     * is: resume them again, or truncate to `pos`.  DBRX_E_INVALID changes nothing. */
    dbrx_status (*resume)(dbrx_session *, uint32_t layer, uint32_t pos, const float *x,
                          const struct dbrx_batch *b, struct dbrx_error *);
};

/* What the weights are multiplied with, for importance matrices and statistics. */
#define DBRX_INPUTS "dbrx.inputs/1"
enum { DBRX_INPUT_QKV, DBRX_INPUT_WO, DBRX_INPUT_ROUTER,       /* [n][d_model] */
       DBRX_INPUT_EXPERT,                  /* of w1 and v1: the rows that chose the expert */
       DBRX_INPUT_W2,                      /* [n][d_ffn] of the same rows, in the same order */
       DBRX_INPUT_HEAD };                  /* where logits are wanted; layer 0 */
typedef void dbrx_input_watch(void *ctx, int kind, uint32_t layer, uint32_t expert, uint32_t n,
                              uint32_t cols, const float *x);
struct dbrx_inputs {
    uint32_t struct_size;
    /* [one/session] From now on, until it is NULL, every eval calls it on its own thread before
     * it returns, also for rows that an error or a stop takes back.  x is valid during the
     * call.  An eval may take twice as long. */
    dbrx_status (*watch)(dbrx_session *, dbrx_input_watch *, void *ctx, struct dbrx_error *);
};

/* Move a KV cache without recomputing it. */
#define DBRX_KV "dbrx.kv/1"

struct dbrx_kv_block {                     /* `n` positions of one layer       */
    uint32_t struct_size;
    uint32_t layer, pos, n;
    uint32_t dtype;                        /* the exporter's own, one of F32, F16, BF16;
                                              every importer accepts all three */
    const void *k, *v;                     /* [n][n_kv_heads][head_dim]; k after
                                              clip and RoPE at its true position */
};

struct dbrx_kv {
    uint32_t struct_size;
    /* [one/session] Calls emit for every layer in blocks of <= max_n positions
     * (0 = any) covering 0..position(); stops at and returns emit's first
     * non-zero status. */
    dbrx_status (*export_kv)(dbrx_session *, uint32_t max_n,
                             dbrx_status (*emit)(void *ctx,
                                                 const struct dbrx_kv_block *),
                             void *ctx, struct dbrx_error *);
    /* [one/session] On a session whose position() is 0, and stays 0 until
     * commit.  DBRX_E_FULL beyond max_pos.  (With `extend`, also below.) */
    dbrx_status (*import_kv)(dbrx_session *, const struct dbrx_kv_block *,
                             struct dbrx_error *);
    /* [one/session] Now position() == n_pos; DBRX_E_INVALID beyond max_pos.  The
     * caller vouches that every layer of every position below n_pos was imported. */
    dbrx_status (*commit)(dbrx_session *, uint32_t n_pos, struct dbrx_error *);
    /* Since ABI 1.1, each may be NULL.
     * [one/session] As export_kv, but only positions from..position(). */
    dbrx_status (*export_from)(dbrx_session *, uint32_t from, uint32_t max_n,
                               dbrx_status (*emit)(void *ctx,
                                                   const struct dbrx_kv_block *),
                               void *ctx, struct dbrx_error *);
    /* [one/session] As commit, on a session that holds something.  A backend that
     * has it takes import_kv of blocks with pos >= position() at any time; position()
     * stays until extend makes it n_pos >= position().  An eval or truncate in
     * between forgets what was imported. */
    dbrx_status (*extend)(dbrx_session *, uint32_t n_pos, struct dbrx_error *);
};

/* What is promised about the bits of results (docs/determinism.md).  Every backend, with
 * or without this table, gives the same bits for the same calls with the same options. */
#define DBRX_REPRO "dbrx.repro/1"
enum { DBRX_REPRO_CHUNKS  = 1,             /* however the tokens are cut into eval() calls */
       DBRX_REPRO_THREADS = 2,             /* whatever its option "threads" says           */
       DBRX_REPRO_BATCH   = 4 };           /* whatever follows a token in its eval(), and
                                              whatever other sessions do                   */
struct dbrx_repro {
    uint32_t struct_size;
    /* [any] Which of DBRX_REPRO_* hold for logits, routes, taps and KV of this model, as
     * it was opened. */
    uint32_t (*promises)(const dbrx_model *);
};

/* Where a model would lie, without loading it. */
#define DBRX_PLAN "dbrx.plan/1"
struct dbrx_place {
    uint32_t struct_size;
    const char *name;                      /* of a device, or of what else holds weights     */
    uint32_t first, end;                   /* layers that run there; end == first: none      */
    uint64_t weights, kv, scratch;         /* bytes that it will hold                        */
    uint64_t free;                         /* bytes free now; 0 unknown                      */
};
struct dbrx_plan {
    uint32_t struct_size;
    /* [one/module] Options as for model_open; the refusals are model_open's, too, and
     * DBRX_E_NOMEM says what does not fit. */
    dbrx_status (*plan)(const struct dbrx_host *, const struct dbrx_model_desc *, const char *const *opt,
                        void (*emit)(void *ctx, const struct dbrx_place *), void *ctx,
                        struct dbrx_error *);
};

/* What an option can be set to, for completion and lists. */
#define DBRX_CHOICES "dbrx.choices/1"
struct dbrx_choices {
    uint32_t struct_size;
    /* [any] The values that the option of this name takes here, NULL-ended; NULL: a number
     * or anything else that is not a list, and for a name that is no option. */
    const char *const *(*values)(const char *option);
};

#ifdef __cplusplus
}
#endif
#endif
