/* backends/model/checkpoint.h -- a DBRX checkpoint, mapped read-only.
 *
 * Reads the Hugging Face layout (a directory of config.json, generation_config.json, one
 * model.safetensors or shards with an index) and GGUF (one file or a split set), checks
 * everything against the config before use, and hands out a dbrx_model_desc that points
 * into the mappings.  Knows no backend, no tokenizer, no terminal. */
#ifndef DBRX_MODEL_CHECKPOINT_H
#define DBRX_MODEL_CHECKPOINT_H

#include "backends/backend.h"
#include "backends/graph/dtype.h"

enum { CKPT_MAX_EOS = 8 };

struct ckpt {
    struct dbrx_model_desc desc;           /* what backends get                 */
    char    *dir;                          /* as opened                         */
    uint32_t n_shards, n_tensors;
    uint64_t file_bytes;                   /* of all shards                     */
    uint32_t dtype;                        /* of the experts (tensors may differ), DBRX_* */
    int32_t  eos[CKPT_MAX_EOS];            /* from generation_config.json, else config.json */
    uint32_t n_eos;

    /* what only a GGUF file has */
    int      gguf;                         /* it is one                         */
    uint32_t n_words, n_merges;            /* of the vocabulary inside; 0: none */
    char     no_words[160];                /* ... because, a sentence           */
    char    *chat_template;                /* or NULL                           */
};

/* [any] Opens a directory, or a GGUF file (any part of a split one); a directory without
 * safetensors may hold one GGUF.  On failure *out is NULL and err says in one
 * sentence which file and tensor is wrong, and how.  Close with ckpt_close.
 * Costs milliseconds: maps every shard, touches headers and a few sample pages. */
dbrx_status ckpt_open(const char *dir, struct ckpt **out, struct dbrx_error *err);
void ckpt_close(struct ckpt *);            /* NULL is fine; all backends closed first */

/* The vocabulary inside a GGUF file: the token of an id < n_words, written in GPT-2's byte
 * alphabet unless it is a control or user-defined one, and merge i < n_merges, "left right".
 * Bytes in the checkpoint's memory, *len of them, not terminated. */
enum { CKPT_WORD_NORMAL = 1, CKPT_WORD_UNKNOWN, CKPT_WORD_CONTROL, CKPT_WORD_USER, CKPT_WORD_UNUSED,
       CKPT_WORD_BYTE };                   /* as tokenizer.ggml.token_type has them */
const char *ckpt_word(const struct ckpt *, uint32_t id, size_t *len, int *type);
const char *ckpt_merge(const struct ckpt *, uint32_t i, size_t *len);

/* The tensors of a model: the one table of names, shapes and places. */
struct ckpt_slot {
    char     name[96], gguf[64];           /* in either layout                 */
    uint32_t rank, gguf_rank;
    uint64_t want[2], gguf_want[3];        /* the shapes the config asks for, outermost first */
    struct dbrx_tensor *t;                 /* its place in the desc            */
    int      sampled;                      /* is part of the fingerprint's sample */
};
/* Visits every tensor of a model of desc's config, in a fixed order, until a visit
 * returns non-zero; returns that.  desc->layer may be NULL when no visit looks at `t`. */
typedef dbrx_status ckpt_visit(void *ctx, const struct ckpt_slot *);
dbrx_status ckpt_each(struct dbrx_model_desc *, ckpt_visit *, void *ctx);

/* [any] Of file i < n_shards: its name, where all of it is mapped, and its descriptor. */
const char *ckpt_file(const struct ckpt *, uint32_t i, char **map, size_t *size, int *fd);

/* Parameters: all; and all but the (n_experts - top_k) experts per layer that one token
 * does not visit (the whole embedding counts).  DBRX: 132 and 36 billion. */
uint64_t ckpt_params_total(const struct ckpt *);
uint64_t ckpt_params_active(const struct ckpt *);

#endif
