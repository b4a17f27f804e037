/* backends/model/checkpoint.h -- a DBRX checkpoint directory, mapped read-only.
 *
 * Reads the Hugging Face layout (config.json, generation_config.json, one
 * model.safetensors or shards with an index), checks everything against the
 * config before use, and hands out a dbrx_model_desc that points into the
 * mappings.  Knows no backend, no tokenizer, no terminal. */
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
};

/* [any] Opens the directory.  On failure *out is NULL and err says in one
 * sentence which file and tensor is wrong, and how.  Close with ckpt_close.
 * Costs milliseconds: maps every shard, touches headers and a few sample pages. */
dbrx_status ckpt_open(const char *dir, struct ckpt **out, struct dbrx_error *err);
void ckpt_close(struct ckpt *);            /* NULL is fine; all backends closed first */

/* Parameters: all; and all but the (n_experts - top_k) experts per layer that one token
 * does not visit (the whole embedding counts).  DBRX: 132 and 36 billion. */
uint64_t ckpt_params_total(const struct ckpt *);
uint64_t ckpt_params_active(const struct ckpt *);

#endif
